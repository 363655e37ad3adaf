"""Vouchers: codes, what lies aside for them, one redemption each, and whom they are for."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway import accounts, vouchers
from gateway.database import open_database
from gateway.errors import NoBalance
from gateway.money import MAX_MICROS, Money
from gateway.vouchers import ALPHABET, Batch, VoucherError
from tests.gateway.branches import AT, Branches, usd
from tests.harness import environment

HOUR = 3600.0
TWO = usd(2_000_000)


@pytest.fixture
async def branches(database_url: str) -> AsyncIterator[Branches]:
    """A reseller with ten dollars, a customer and the customer's customer; a stranger."""
    found = Branches(open_database(environment(database_url)))
    await found.grow("top", micros=10_000_000)
    await found.grow("left", "top", micros=0)
    await found.grow("twig", "left", micros=0)
    await found.grow("other", micros=0)
    yield found
    await found.store.close()


async def issue(
    branches: Branches, issuer: str | None = "top", count: int = 3, amount: Money = TWO, **more: Any
) -> Batch:
    issuer_id = branches.ids[issuer] if issuer else None
    batch = await branches.run(
        vouchers.issue, branches.database.vault, issuer_id, count, amount, more.pop("at", AT), "test", **more
    )
    assert isinstance(batch, Batch)
    return batch


async def redeem(branches: Branches, name: str, code: str, at: float = AT) -> str:
    """`ok`, or the code of the refusal."""
    try:
        await vouchers.redeem(branches.store, branches.database.vault, branches.ids[name], code, at, actor="test")
    except VoucherError as error:
        return error.code
    return "ok"


async def available(branches: Branches, name: str) -> int:
    return (await branches.balance(name))[0]


# Codes


def test_every_wrong_character_and_every_swap_is_seen() -> None:
    dice = random.Random(7)
    for _ in range(30):
        code = vouchers.normal(vouchers.new_code())
        for place in range(len(code)):
            wrong = dice.choice(ALPHABET.replace(code[place], ""))
            with pytest.raises(vouchers.Mistyped):
                vouchers.normal(code[:place] + wrong + code[place + 1 :])
        for place in range(len(code) - 1):
            one, other = code[place], code[place + 1]
            if one != other:
                with pytest.raises(vouchers.Mistyped):
                    vouchers.normal(code[:place] + other + one + code[place + 2 :])


def test_a_code_is_read_whatever_its_case_and_spaces() -> None:
    code = vouchers.new_code()
    assert len(code.replace("-", "")) == 18
    assert len({vouchers.normal(text) for text in (code, code.lower(), f" {code.replace('-', ' ')} ")}) == 1


@pytest.mark.parametrize("text", ["", "ABC", "O" * 18, "é" * 18, "0" * 100_000, "A" * 19, "\x00" * 18])
def test_what_can_be_no_code_is_a_typo(text: str) -> None:
    with pytest.raises(vouchers.Mistyped):
        vouchers.normal(text)


def test_codes_are_in_no_repr() -> None:
    code = vouchers.new_code()
    assert code not in repr(Batch(1, TWO, None, (code,)))


# Issue, redeem, revoke


async def test_a_batch_is_paid_for_when_it_is_issued(branches: Branches) -> None:
    batch = await issue(branches)
    assert await available(branches, "top") == 4_000_000
    assert len(set(batch.codes)) == 3
    assert await branches.problems() == []
    stored = await branches.store.read(lambda tx: [dict(row) for row in tx.all("select * from vouchers")])
    assert not [code for code in batch.codes if code in str(stored) or code.replace("-", "") in str(stored)]


async def test_a_batch_beyond_the_balance_is_not_issued(branches: Branches) -> None:
    with pytest.raises(NoBalance):
        await issue(branches, count=6)
    assert await available(branches, "top") == 10_000_000
    assert await branches.store.read(vouchers.batches) == []


async def test_redeemed_once_by_whoever_is_below(branches: Branches) -> None:
    first, second, _ = (await issue(branches)).codes
    assert await redeem(branches, "twig", first.lower()) == "ok"
    assert await redeem(branches, "left", first) == "voucher_spent"
    assert await redeem(branches, "twig", first) == "voucher_spent"
    assert await redeem(branches, "top", second) == "ok"
    assert await available(branches, "twig") == 2_000_000
    assert await available(branches, "top") == 6_000_000
    assert await branches.problems() == []


async def test_a_stranger_is_told_what_he_would_be_of_an_unknown_code(branches: Branches) -> None:
    code = (await issue(branches)).codes[0]
    assert await redeem(branches, "other", code) == "voucher_unknown"
    below = (await issue(branches, "top", 1)).codes[0]
    await redeem(branches, "left", below)
    assert await redeem(branches, "other", below) == "voucher_unknown"
    assert await redeem(branches, "other", vouchers.new_code()) == "voucher_unknown"


async def test_the_operators_are_for_everybody_of_that_kind(branches: Branches) -> None:
    batch = await issue(branches, None, 2)
    await branches.run(accounts.create, "toy", "USD", AT, is_demo=True)
    branches.ids["toy"] = (await branches.store.read(accounts.find, "toy"))["id"]
    assert await redeem(branches, "toy", batch.codes[0]) == "voucher_unknown"
    assert await redeem(branches, "other", batch.codes[0]) == "ok"
    play = await issue(branches, None, 1, is_demo=True)
    assert await redeem(branches, "other", play.codes[0]) == "voucher_unknown"
    assert await redeem(branches, "toy", play.codes[0]) == "ok"
    assert await branches.problems() == []


async def test_the_currency_must_be_the_accounts(branches: Branches) -> None:
    code = (await issue(branches, None, 1, Money(1_000_000, "EUR"))).codes[0]
    assert await redeem(branches, "other", code) == "voucher_currency"
    with pytest.raises(VoucherError, match="kept in USD"):
        await issue(branches, "top", 1, Money(1_000_000, "EUR"))


async def test_what_is_revoked_goes_back(branches: Branches) -> None:
    batch = await issue(branches)
    await redeem(branches, "left", batch.codes[0])
    with pytest.raises(VoucherError, match="there is no batch"):
        await branches.run(vouchers.revoke, batch.id, AT, "test", issuer_id=branches.ids["left"])
    revoke = (vouchers.revoke, batch.id, AT, "test")
    assert [await branches.run(*revoke, issuer_id=branches.ids["top"]) for _ in range(2)] == [2, 0]
    assert await available(branches, "top") == 8_000_000
    assert await redeem(branches, "left", batch.codes[1]) == "voucher_ended"
    assert await branches.problems() == []


async def test_one_voucher_is_revoked(branches: Branches) -> None:
    batch = await issue(branches)
    listed = await branches.store.read(vouchers.of_batch, batch.id)
    assert [row["hint"] for row in listed] == [code[:4] for code in batch.codes]
    assert await branches.run(vouchers.revoke, batch.id, AT, "test", voucher_id=listed[1]["id"]) == 1
    found = [await redeem(branches, "left", code) for code in batch.codes]
    assert found == ["ok", "voucher_ended", "ok"]
    assert await available(branches, "top") == 6_000_000
    assert await branches.problems() == []


async def test_what_has_expired_goes_back_and_stays_expired(branches: Branches) -> None:
    batch = await issue(branches, expires_at=AT + HOUR)
    assert await redeem(branches, "left", batch.codes[0], AT + HOUR - 1) == "ok"
    assert await redeem(branches, "left", batch.codes[1], AT + HOUR) == "voucher_ended"
    assert await branches.store.read(vouchers.overdue, AT + HOUR - 1) == []
    assert await branches.run(vouchers.expire, batch.id, AT + HOUR - 1) == 0
    assert await branches.store.read(vouchers.overdue, AT + HOUR) == [batch.id]
    assert await branches.run(vouchers.expire, batch.id, AT + HOUR) == 2
    assert await branches.store.read(vouchers.overdue, AT + HOUR) == []
    # The clock has gone back: what was given back is not paid out as well.
    assert await redeem(branches, "left", batch.codes[1], AT) == "voucher_ended"
    assert await available(branches, "top") == 8_000_000
    assert await branches.problems() == []


@pytest.mark.parametrize(
    ("count", "amount", "more"),
    [
        (0, TWO, {}),
        (-1, TWO, {}),
        (vouchers.COUNT_MAX + 1, usd(1), {}),
        (1, usd(0), {}),
        (1, usd(-5), {}),
        (2, usd(MAX_MICROS), {}),
        (1, TWO, {"expires_at": AT}),
        (1, TWO, {"expires_at": float("nan")}),
        (1, TWO, {"expires_at": float("inf")}),
        (1, TWO, {"note": "x" * 300}),
        (1, TWO, {"note": "a\nb"}),
    ],
)
async def test_bad_batches_are_not_issued(branches: Branches, count: int, amount: Money, more: dict[str, Any]) -> None:
    with pytest.raises(VoucherError):
        await issue(branches, "top", count, amount, **more)
    assert await available(branches, "top") == 10_000_000


async def test_a_large_batch_is_issued_whole(branches: Branches) -> None:
    batch = await issue(branches, count=1234, amount=usd(1))
    assert len(set(batch.codes)) == 1234
    assert await redeem(branches, "left", batch.codes[-1]) == "ok"
    assert await branches.problems() == []


# Guessing, and many at once


async def test_guessing_is_ended_for_the_hour(branches: Branches) -> None:
    code = (await issue(branches)).codes[0]
    for _ in range(vouchers.TRIES_MAX):
        assert await redeem(branches, "left", vouchers.new_code()) == "voucher_unknown"
    assert await redeem(branches, "left", vouchers.new_code()) == "voucher_tries"
    assert await redeem(branches, "left", code) == "voucher_tries"
    assert await redeem(branches, "left", code, AT - HOUR) == "voucher_tries"
    assert await redeem(branches, "twig", code) == "ok"
    assert await redeem(branches, "left", code, AT + HOUR) == "voucher_spent"


async def test_guesses_made_together_count_together(branches: Branches) -> None:
    found = await asyncio.gather(*(redeem(branches, "left", vouchers.new_code()) for _ in range(60)))
    assert found.count("voucher_unknown") == vouchers.TRIES_MAX
    assert found.count("voucher_tries") == 50


async def test_typos_and_own_vouchers_are_no_guesses(branches: Branches) -> None:
    code = (await issue(branches)).codes[0]
    for _ in range(vouchers.TRIES_MAX + 5):
        assert await redeem(branches, "left", code[:-1]) == "voucher_mistyped"
    assert await redeem(branches, "left", code) == "ok"
    for _ in range(vouchers.TRIES_MAX + 5):
        assert await redeem(branches, "left", code) == "voucher_spent"


async def test_a_hundred_tries_at_once_redeem_one(branches: Branches) -> None:
    code = (await issue(branches)).codes[0]
    names = ("left", "twig", "top")
    found = await asyncio.gather(*(redeem(branches, names[number % 3], code) for number in range(99)))
    assert found.count("ok") == 1
    assert set(found) == {"ok", "voucher_spent"}
    assert sum([await available(branches, name) for name in names]) == 4_000_000 + 2_000_000
    assert await branches.problems() == []


async def test_redeeming_while_it_is_revoked_pays_once(branches: Branches) -> None:
    batch = await issue(branches, count=40, amount=usd(100_000))
    tries = [redeem(branches, "left", code) for code in batch.codes]
    ends = [branches.run(vouchers.revoke, batch.id, AT, "test") for _ in range(5)]
    await asyncio.gather(*tries[:20], *ends, *tries[20:])
    assert await available(branches, "left") + await available(branches, "top") == 10_000_000
    assert await branches.problems() == []


@pytest.mark.parametrize(
    ("edit", "table"),
    [
        ("update vouchers set state = 'revoked' where id = (select max(id) from vouchers)", "voucher_batches"),
        ("update voucher_batches set amount = amount + 1", "voucher_batches"),
        ("delete from vouchers where state = 'open'", "voucher_batches"),
        ("update vouchers set redeemed_by = redeemed_by + 1 where state = 'redeemed'", "vouchers"),
        ("update vouchers set ledger_id = null where state = 'redeemed'", "vouchers"),
    ],
)
async def test_verify_names_what_was_edited(branches: Branches, edit: str, table: str) -> None:
    await redeem(branches, "left", (await issue(branches)).codes[0])
    assert await branches.store.run(lambda tx: tx.execute(edit)) >= 1
    assert any(problem.startswith(f"{table}: ") for problem in await branches.problems())
