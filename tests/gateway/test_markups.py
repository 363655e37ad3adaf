"""Markups as rows, and the money of a hold split between the levels: whatever happens, the books add up."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Sequence
from pathlib import Path

import pytest

from gateway import accounts, attempts, ledger, markups, statements
from gateway.accounts import Callers
from gateway.database import open_database
from gateway.errors import NoBalance
from gateway.ladders import FLAT, Ladder, Markup
from gateway.markups import MarkupError
from gateway.model import Lease, Offer, Order, Quote
from gateway.money import MAX_MICROS
from gateway.routing import Because, Ranked
from gateway.settings import FuseSettings
from gateway.store import PostgresStore, Tx
from tests.gateway.branches import AT, COST, OPEN_MAX, Branches, order, usd
from tests.harness import environment

TEN, TWENTY, CENT = (Markup(percent_millionths=100_000), Markup(percent_millionths=200_000), Markup(add_micros=10_000))


@pytest.fixture
async def branches(database_url: str) -> AsyncIterator[Branches]:
    """top, mid below it, leaf below that: ten dollars and a key each."""
    found = Branches(await asyncio.to_thread(open_database, environment(database_url)))
    await found.grow("top")
    await found.grow("mid", "top")
    await found.grow("leaf", "mid")
    yield found
    assert await found.problems() == []
    await found.store.close()


async def put(branches: Branches, name: str, markup: Markup, child: str = "", place: int | None = None) -> int:
    child_id = branches.ids[child] if child else None
    made: int = await branches.run(markups.put, branches.ids[name], markup, child_id, place)
    return made


async def ladder(branches: Branches, name: str) -> Ladder:
    found: Ladder = await branches.store.read(markups.ladder, branches.ids[name])
    return found


async def shown(branches: Branches, name: str) -> list[Markup]:
    return [rule.markup for rule in await branches.store.read(markups.of, branches.ids[name])]


# Rules


async def test_a_ladder_has_the_rules_of_everybody_above_and_for_this_child(branches: Branches) -> None:
    await branches.grow("other", "top")
    await put(branches, "top", TEN)
    await put(branches, "top", TWENTY, "other")
    await put(branches, "mid", CENT)
    await put(branches, "leaf", TWENTY)
    assert await ladder(branches, "leaf") == Ladder(("top", "mid"), ((TEN,), (CENT,)))
    assert await ladder(branches, "other") == Ladder(("top",), ((TWENTY, TEN),))
    assert await ladder(branches, "top") == FLAT
    with pytest.raises(KeyError):
        await branches.store.read(markups.ladder, 99)


async def test_a_changed_markup_reaches_running_servers(branches: Branches) -> None:
    callers = Callers(branches.store, branches.database.vault, lambda: AT)
    await callers.refresh()
    assert (await callers.caller(branches.plain["leaf"])).ladder == Ladder(("top", "mid"), ((), ()))
    rule_id = await put(branches, "top", TEN)
    await callers.refresh()
    assert (await callers.caller(branches.plain["leaf"])).ladder.steps == ((TEN,),)
    await branches.run(markups.remove, branches.ids["top"], rule_id)
    await callers.refresh()
    assert (await callers.caller(branches.plain["leaf"])).ladder.steps == ()


async def test_a_rule_for_the_same_is_replaced_and_a_narrower_one_comes_before_what_would_hide_it(
    branches: Branches,
) -> None:
    tg = Markup(services=frozenset({"tg"}), add_micros=1)
    both = Markup(services=frozenset({"tg", "wa"}), add_micros=2)
    here = Markup(countries=frozenset({6}), add_micros=3)
    first = await put(branches, "top", TEN)
    await put(branches, "top", both)
    await put(branches, "top", tg)
    await put(branches, "top", here)
    assert await shown(branches, "top") == [tg, both, here, TEN]
    assert await put(branches, "top", TWENTY) == first
    assert await shown(branches, "top") == [tg, both, here, TWENTY]
    assert await put(branches, "top", TEN, place=1) == first
    await put(branches, "top", CENT, "mid", place=99)
    assert await shown(branches, "top") == [TEN, tg, both, here, CENT]


@pytest.mark.parametrize(
    ("markup", "words"),
    [
        (Markup(percent_millionths=-1), "percent is from 0 to 100000"),
        (Markup(percent_millionths=10**9 + 1), "percent is from 0 to 100000"),
        (Markup(add_micros=-1), "an amount added is from 0 to 1000000.00"),
        (Markup(add_micros=MAX_MICROS), "an amount added is from 0 to 1000000.00"),
        (Markup(step_micros=0), "a rounding step is a multiple of 0.0001 up to 1000.00"),
        (Markup(step_micros=150), "a rounding step is a multiple of 0.0001 up to 1000.00"),
    ],
)
async def test_what_is_no_markup_is_refused(branches: Branches, markup: Markup, words: str) -> None:
    with pytest.raises(MarkupError, match=words):
        await put(branches, "top", markup)
    assert await shown(branches, "top") == []


async def test_a_rule_is_for_a_child_and_an_account_has_so_many(
    branches: Branches, monkeypatch: pytest.MonkeyPatch
) -> None:
    for child in ("leaf", "top"):
        with pytest.raises(MarkupError, match="directly below"):
            await put(branches, "top", TEN, child)
    monkeypatch.setattr(markups, "RULES_MAX", 1)
    rule_id = await put(branches, "top", TEN)
    await put(branches, "top", TWENTY)
    with pytest.raises(MarkupError, match="1 markups at most"):
        await put(branches, "top", TEN, "mid")
    for account, number in (("mid", rule_id), ("top", 99), ("top", 2**70)):
        with pytest.raises(MarkupError, match="there is no markup"):
            await branches.run(markups.remove, branches.ids[account], number)


@pytest.mark.parametrize("text", ["nan", "inf", "-1", "1e999999", "0.00001", "100001", "ten", "", "1" * 40])
def test_what_is_no_percentage(text: str) -> None:
    with pytest.raises(MarkupError, match="is no percentage"):
        markups.percent_of(text)


def test_percentages_have_four_decimals() -> None:
    assert markups.percent_of("12.3456") == 123_456
    assert [markups.percent_text(number) for number in (123_456, 200_000, 0)] == ["12.3456", "20", "0"]


# Money


async def hold(branches: Branches, name: str, *shares: int, at: float = AT) -> int:
    """An activation `opening` with its hold, split so."""

    def unit(tx: Tx) -> int:
        fingerprint = str(next(branches._fingerprints))
        activation_id, account_id = order(tx, branches.keys[name], shares[-1], at, "tg", fingerprint)
        money = usd(shares[-1])
        ledger.hold(tx, account_id, activation_id, money, at, open_max=OPEN_MAX, actor="test", shares=shares)
        return activation_id

    made: int = await branches.run(unit)
    return made


async def shrink(branches: Branches, activation_id: int, *shares: int) -> None:
    def unit(tx: Tx) -> None:
        ledger.shrink(tx, activation_id, usd(shares[-1]), AT, actor="test", shares=shares)
        tx.execute("update activations set price = :price where id = :id", price=shares[-1], id=activation_id)

    await branches.run(unit)


async def entries(branches: Branches, activation_id: int) -> list[tuple[str, str, str, int]]:
    rows = await branches.store.read(
        lambda tx: tx.all(
            "select kind, debit, credit, amount from ledger where activation_id = :id order by id", id=activation_id
        )
    )
    return [(row["kind"], row["debit"], row["credit"], row["amount"]) for row in rows]


async def test_a_capture_pays_every_level_its_margin_and_the_operator_its_price(branches: Branches) -> None:
    activation = await hold(branches, "leaf", 80_000, 100_000, 150_000)
    assert await branches.balance("leaf") == (9_850_000, 150_000, 1)
    await branches.capture(activation)
    held = ledger.held(3)
    assert await entries(branches, activation) == [
        ("hold", ledger.available(3), held, 150_000),
        ("capture", held, "house:sales", 80_000),
        ("margin", held, ledger.available(1), 20_000),
        ("margin", held, ledger.available(2), 50_000),
        ("cost", "upstream:one:float", "upstream:one:cost", 60_000),
    ]
    assert await branches.balance("top") == (10_020_000, 0, 0)
    assert await branches.balance("mid") == (10_050_000, 0, 0)
    assert await branches.balance("leaf") == (9_850_000, 0, 1)
    shown = await branches.store.read(statements.statement, 2, 0.0, AT + 1)
    assert [(one.kind, one.amount, one.activation_id) for one in shown.movements][-1] == ("margin", 50_000, activation)
    await branches.run(ledger.capture, activation, COST, "one", AT, actor="again")
    assert len(await entries(branches, activation)) == 5


async def test_on_release_nobody_keeps_anything(branches: Branches) -> None:
    activation = await hold(branches, "leaf", 80_000, 100_000, 150_000)
    await branches.end(activation)
    for name in ("top", "mid", "leaf"):
        assert await branches.balance(name) == (10_000_000, 0, 0)


async def test_a_cheaper_lease_is_split_anew_also_where_rounding_keeps_the_price(branches: Branches) -> None:
    activation = await hold(branches, "leaf", 80_000, 100_000, 150_000)
    await shrink(branches, activation, 60_000, 90_000, 150_000)
    await shrink(branches, activation, 60_000, 80_000, 100_000)
    assert await branches.balance("leaf") == (9_900_000, 100_000, 1)
    for worse in ((60_000, 80_001, 100_000), (50_000, 40_000, 90_000), (90_000,)):
        with pytest.raises(ValueError, match=r"a level would pay|zip\(\)"):
            await shrink(branches, activation, *worse)
    await branches.capture(activation)
    assert [(kind, amount) for kind, _, _, amount in await entries(branches, activation)] == [
        ("hold", 150_000), ("shrink", 50_000), ("capture", 60_000), ("margin", 20_000), ("margin", 20_000),
        ("cost", 60_000),
    ]  # fmt: skip


async def test_what_costs_the_top_nothing_is_captured_all_the_same(branches: Branches) -> None:
    activation = await hold(branches, "leaf", 0, 0, 10_000)
    await branches.capture(activation)
    assert await branches.balance("mid") == (10_010_000, 0, 0)
    await branches.end(activation)


@pytest.mark.parametrize("shares", [(1, 2), (3, 2, 2), (1, 2, 3, 3)])
async def test_shares_that_are_not_the_accounts_are_refused(branches: Branches, shares: Sequence[int]) -> None:
    with pytest.raises(ValueError, match="not those of the account"):
        await hold(branches, "leaf", *shares)
    assert await branches.balance("leaf") == (10_000_000, 0, 0)


async def test_caps_count_at_each_level_what_that_level_pays(branches: Branches) -> None:
    await branches.rules("top", spend_day=200_000)
    await branches.rules("mid", spend_day=210_000)
    await branches.key_rules("leaf", spend_total=310_000)
    first = await hold(branches, "leaf", 80_000, 100_000, 150_000)
    await hold(branches, "leaf", 80_000, 100_000, 150_000)
    assert await branches.counters() == {
        ("account:1", "day", 1_749_945_600): 160_000,
        ("account:2", "day", 1_749_945_600): 200_000,
        ("key:3", "total", 0): 300_000,
    }
    with pytest.raises(NoBalance):
        await hold(branches, "leaf", 1_000, 10_100, 10_000 + 100)
    await shrink(branches, first, 70_000, 80_000, 100_000)
    assert list((await branches.counters()).values()) == [150_000, 180_000, 250_000]
    assert await branches.problems() == []
    await branches.end(first)
    assert list((await branches.counters()).values()) == [80_000, 100_000, 150_000]
    await branches.rules("top", spend_total=100_000)
    assert await branches.counter("account:1", "total") == 80_000


async def test_an_order_holds_what_every_levels_cap_reaches_for_and_asks_no_dearer_upstream(branches: Branches) -> None:
    """Two offers cost the leaf the same by rounding, and the one above it more or less."""
    await put(branches, "top", Markup(step_micros=100_000))
    await branches.rules("top", spend_day=45_000)
    caller = await Callers(branches.store, branches.database.vault, lambda: AT).caller(branches.plain["leaf"])
    quotes = [
        Ranked(Quote(Offer(name, "tg", 6, COST, 5), usd(100_000), caller.ladder.shares("tg", 6, top)), Because("x"))
        for name, top in (("dear", 50_000), ("cheap", 40_000))
    ]
    wanted = Order("tg", 6, fingerprint="1")
    intent = await branches.run(attempts.intend, caller, wanted, quotes, AT, OPEN_MAX, "1", FuseSettings())
    assert (intent.held, intent.shares) == (usd(100_000), (40_000, 100_000, 100_000))
    assert [ranked.quote.offer.upstream for ranked in intent.quotes] == ["cheap"]
    await branches.run(
        attempts.attach, intent, "cheap", Lease("r", "628"), "sealed",
        operator="", price=usd(100_000), shares=(30_000, 100_000, 100_000), cost=COST, expires_at=AT + 60, at=AT,
    )  # fmt: skip
    assert await branches.counter("account:1", "day") == 30_000


# Together


async def test_captures_beside_purchases_and_transfers_in_one_branch(
    branches: Branches, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Margins go up the tree while money goes down it and others buy: nothing waits in a circle, nothing is lost."""
    monkeypatch.setattr(PostgresStore, "TRIES", 1)  # so that a deadlock is an error, not a second attempt
    await branches.grow("twig", "leaf")
    await branches.rules("top", spend_day=50_000_000)
    await branches.rules("mid", open_max=1000)
    shares = {"twig": (10_000, 20_000, 30_000, 40_000), "leaf": (10_000, 20_000, 30_000), "mid": (10_000, 20_000)}
    names = list(shares)
    opened = {name: [await hold(branches, name, *shares[name]) for _ in range(20)] for name in names}

    async def pay(number: int) -> None:
        upper, lower = (("top", "twig"), ("mid", "leaf"))[number % 2]
        pair = (upper, lower) if number % 3 else (lower, upper)
        await branches.run(
            ledger.transfer, branches.ids[pair[0]], branches.ids[pair[1]], usd(1_000 + number), AT, actor="test"
        )

    work: list[Awaitable[object]] = [branches.capture(one) for name in names for one in opened[name]]
    work += [hold(branches, names[number % 3], *shares[names[number % 3]]) for number in range(40)]
    work += [pay(number) for number in range(40)]
    random.Random(5).shuffle(work)
    await asyncio.gather(*work)
    assert await branches.problems() == []
    sales = 60 * 10_000
    found = [await branches.balance(name) for name in ("top", "mid", "leaf", "twig")]
    assert sum(available + held for available, held, _ in found) == 40_000_000 - sales


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("update hold_shares set price = price - 1 where level = 0", "hold_shares: the margins of {id} are not"),
        ("update hold_shares set price = price + 1 where level = 2", "hold_shares: {id} is shared as [80000, 100000"),
        ("update hold_shares set account_id = 4 where level = 1", "hold_shares: {id} is not shared by account 3"),
        ("delete from hold_shares", "ledger: {id} has margins, and nobody shares it"),
        ("delete from ledger where kind = 'margin' and amount = 20000", "hold_shares: the margins of {id} are not"),
        ("update ledger set kind = 'capture' where kind = 'margin'", "holds: {id} is captured and was closed 3 times"),
        (
            "update ledger set credit = 'account:3:available' where kind = 'margin' and amount = 50000",
            "the margins of {id}",
        ),
    ],
)
async def test_verify_names_what_was_tampered_with(tmp_path: Path, sql: str, words: str) -> None:
    branches = Branches(await asyncio.to_thread(open_database, environment(f"sqlite:///{tmp_path}/simroute.db")))
    for name, parent in (("top", None), ("mid", "top"), ("leaf", "mid"), ("other", None)):
        await branches.grow(name, parent)
    activation = await hold(branches, "leaf", 80_000, 100_000, 150_000)
    await branches.capture(activation)
    assert await branches.problems() == []
    await branches.run(lambda tx: tx.execute(sql))
    assert any(words.format(id=activation) in problem for problem in await branches.problems())
    await branches.store.close()


async def test_a_buyer_on_the_command_line_has_its_ladder(branches: Branches) -> None:
    await put(branches, "top", TEN)
    assert (await branches.store.read(accounts.buyer, "leaf")).ladder.steps == ((TEN,),)
