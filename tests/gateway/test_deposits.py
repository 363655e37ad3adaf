"""Payments by reference: booked once, kept where they can't be booked, and what `verify` says of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway import accounts, audit, deposits, ledger
from gateway.database import open_database
from gateway.deposits import DepositError, Outcome, ReferenceUsed, Told
from gateway.money import MAX_MICROS, Money
from gateway.store import Row, Tx
from tests.gateway.branches import AT, Branches, usd
from tests.harness import environment

FIVE = usd(5_000_000)


@pytest.fixture
async def branches(database_url: str) -> AsyncIterator[Branches]:
    """Two accounts without money."""
    found = Branches(open_database(environment(database_url)))
    for name in ("alice", "bob"):
        await found.grow(name, micros=0)
    yield found
    await found.store.close()


async def pay(branches: Branches, name: str, money: Money = FIVE, reference: str = "r-1", source: str = "bank") -> bool:
    done = await branches.run(deposits.pay_in, branches.ids[name], money, reference, source, AT, "test", "")
    return bool(done)


async def told(branches: Branches, account: str, money: Money = FIVE, **more: Any) -> Outcome:
    payment = Told("stripe", more.pop("reference", "p-1"), account, money, **more)
    return Outcome(await branches.run(deposits.receive, payment, AT))


async def available(branches: Branches, name: str) -> int:
    return (await branches.balance(name))[0]


async def rows(branches: Branches, **how: Any) -> list[Row]:
    return list(await branches.store.read(deposits.payments, **how))


async def test_a_deposit_repeated_by_reference_moves_nothing(branches: Branches) -> None:
    assert [await pay(branches, "alice") for _ in range(3)] == [True, False, False]
    assert await available(branches, "alice") == 5_000_000
    assert await branches.problems() == []


@pytest.mark.parametrize(("name", "money"), [("bob", FIVE), ("alice", usd(5_000_001))])
async def test_a_reference_used_for_another_deposit_is_an_error(branches: Branches, name: str, money: Money) -> None:
    await pay(branches, "alice")
    with pytest.raises(ReferenceUsed):
        await pay(branches, name, money)
    assert await available(branches, "alice") == 5_000_000
    assert await available(branches, "bob") == 0


async def test_references_belong_to_their_source(branches: Branches) -> None:
    assert await pay(branches, "alice", source="bank")
    assert await pay(branches, "bob", source="cash")
    assert (await available(branches, "alice"), await available(branches, "bob")) == (5_000_000, 5_000_000)


@pytest.mark.parametrize(
    ("money", "reference"),
    [
        (usd(0), "r"),
        (usd(-1), "r"),
        (usd(MAX_MICROS + 1), "r"),
        (Money(1, "EUR"), "r"),
        (FIVE, ""),
        (FIVE, "x" * 256),
        (FIVE, "a\nb"),
    ],
)
async def test_bad_deposits_move_nothing(branches: Branches, money: Money, reference: str) -> None:
    with pytest.raises(DepositError):
        await pay(branches, "alice", money, reference)
    assert await available(branches, "alice") == 0
    assert await rows(branches) == []


async def test_a_hundred_at_once_book_one(branches: Branches) -> None:
    done = await asyncio.gather(*(pay(branches, "alice") for _ in range(100)))
    assert sum(done) == 1
    assert await available(branches, "alice") == 5_000_000


async def test_a_deposit_is_in_the_audit_log(branches: Branches) -> None:
    await pay(branches, "alice")
    entries = [audit.as_fields(row) for row in await branches.store.read(audit.page)]
    entry = next(entry for entry in entries if entry["action"] == "deposit")
    assert entry["subject"] == f"account:{branches.ids['alice']}"
    assert entry["detail"] == {"amount": "5.00 USD", "source": "bank", "reference": "r-1"}


# Told by a source


async def test_what_is_told_is_booked_once(branches: Branches) -> None:
    assert [await told(branches, "alice") for _ in range(2)] == [Outcome.BOOKED, Outcome.REPEATED]
    assert await available(branches, "alice") == 5_000_000


@pytest.mark.parametrize(
    ("account", "money", "is_test", "reason"),
    [
        ("nobody", FIVE, None, "no account"),
        ("", FIVE, None, "no account"),
        ("alice", Money(5_000_000, "EUR"), None, "kept in USD"),
        ("alice", FIVE, True, "for demo accounts"),
    ],
)
async def test_what_cant_be_booked_is_kept(
    branches: Branches, account: str, money: Money, is_test: bool | None, reason: str
) -> None:
    for _ in range(2):
        assert await told(branches, account, money, is_test=is_test) is Outcome.UNBOOKED
    (row,) = await rows(branches, is_open=True)
    assert reason in row["reason"]
    assert (row["amount"], row["currency"], row["told_account"]) == (money.micros, money.currency, account)
    assert await available(branches, "alice") == 0
    assert await branches.problems() == []


async def test_real_money_does_not_go_to_a_demo_account(branches: Branches) -> None:
    await branches.run(accounts.create, "toy", "USD", AT, is_demo=True)
    assert await told(branches, "toy", is_test=False) is Outcome.UNBOOKED
    assert await told(branches, "toy", is_test=True, reference="p-2") is Outcome.BOOKED


async def test_a_kept_payment_is_booked_when_it_can_be(branches: Branches) -> None:
    assert await told(branches, "carol") is Outcome.UNBOOKED
    await branches.grow("carol", micros=0)
    assert await told(branches, "carol") is Outcome.BOOKED
    assert await available(branches, "carol") == 5_000_000
    assert await rows(branches, is_open=True) == []
    assert await branches.problems() == []


async def test_a_second_event_of_one_payment_need_not_name_the_account(branches: Branches) -> None:
    await told(branches, "alice")
    assert await told(branches, "") is Outcome.REPEATED
    with pytest.raises(ReferenceUsed):
        await told(branches, "", usd(1))


async def test_a_kept_payment_is_assigned_once(branches: Branches) -> None:
    await told(branches, "alcie")
    (row,) = await rows(branches, is_open=True)
    assert await branches.run(deposits.assign, row["id"], branches.ids["alice"], AT, "cli") == FIVE
    with pytest.raises(DepositError, match="booked already"):
        await branches.run(deposits.assign, row["id"], branches.ids["bob"], AT, "cli")
    assert await available(branches, "alice") == 5_000_000
    assert await told(branches, "alcie") is Outcome.REPEATED
    assert await branches.problems() == []


async def test_a_payment_in_another_currency_is_not_assigned(branches: Branches) -> None:
    await told(branches, "alice", Money(1_000_000, "EUR"))
    (row,) = await rows(branches, is_open=True)
    with pytest.raises(DepositError, match="kept in USD"):
        await branches.run(deposits.assign, row["id"], branches.ids["alice"], AT, "cli")
    await branches.run(deposits.dismiss, row["id"], AT, "cli", "sent back")
    assert await told(branches, "alice", Money(1_000_000, "EUR")) is Outcome.REPEATED
    assert await available(branches, "alice") == 0


async def test_a_refund_waits_for_a_person_and_books_nothing(branches: Branches) -> None:
    await told(branches, "alice")
    for is_new in (True, False):
        assert await branches.run(deposits.reverse, "stripe", "refund:1", FIVE, "refund", "p-1", AT) is is_new
    (row,) = await rows(branches, is_open=True)
    assert "refund of 5.00 USD" in deposits.sentence(row)
    with pytest.raises(DepositError, match="only be dismissed"):
        await branches.run(deposits.assign, row["id"], branches.ids["alice"], AT, "cli")
    await branches.run(deposits.dismiss, row["id"], AT, "cli")
    assert await rows(branches, is_open=True) == []
    assert await available(branches, "alice") == 5_000_000
    assert await branches.problems() == []


@pytest.mark.parametrize("payment_id", [4711, 2**70])
async def test_a_payment_that_is_not_there_is_said_so(branches: Branches, payment_id: int) -> None:
    with pytest.raises(DepositError, match="there is no payment"):
        await branches.run(deposits.dismiss, payment_id, AT, "cli")


@pytest.mark.parametrize(
    "edit",
    [
        "update payments set amount = amount + 1",
        "update payments set ledger_id = null",
        "update payments set state = 'dismissed'",
        "update payments set account_id = account_id + 1",
        "update ledger set kind = 'gift'",
    ],
)
async def test_verify_names_a_payment_that_was_edited(branches: Branches, edit: str) -> None:
    await pay(branches, "alice")
    assert await branches.store.run(lambda tx: tx.execute(edit)) >= 1
    assert any(problem.startswith("payments: ") for problem in await branches.problems())


def _deposit_by_hand(tx: Tx, account_id: int) -> None:
    ledger.deposit(tx, account_id, FIVE, AT, actor="test")


async def test_a_deposit_without_a_reference_is_as_before(branches: Branches) -> None:
    await branches.run(_deposit_by_hand, branches.ids["alice"])
    assert await branches.problems() == []
