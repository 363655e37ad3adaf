"""Caps: what a purchase may not pass, what gives it back, and that counters are always what the holds say."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import accounts, attempts, caps, ledger
from gateway.accounts import Callers
from gateway.database import open_database
from gateway.errors import NoBalance, TooManyOpen
from gateway.model import Offer, Order, Quote
from gateway.routing import Because, Ranked
from gateway.rules import RuleError
from gateway.settings import FuseSettings
from gateway.store import Tx
from tests.gateway.branches import AT, Branches, usd
from tests.harness import environment

HOUR, DAY = 3600.0, 86_400.0
ID = {"top": 1, "mid": 2, "leaf": 3}


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


# Windows


@pytest.mark.parametrize(
    ("period", "moment", "start", "end"),
    [
        ("hour", "2025-06-15T15:59:59.999", "2025-06-15T15:00", "2025-06-15T16:00"),
        ("day", "2025-06-15T00:00", "2025-06-15T00:00", "2025-06-16T00:00"),
        ("month", "2024-02-29T23:59", "2024-02-01T00:00", "2024-03-01T00:00"),
        ("month", "2025-01-31T00:00", "2025-01-01T00:00", "2025-02-01T00:00"),
        ("month", "2025-12-31T23:59", "2025-12-01T00:00", "2026-01-01T00:00"),
    ],
)
def test_windows_are_of_the_calendar_in_utc(period: str, moment: str, start: str, end: str) -> None:
    at, first, last = (datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() for text in (moment, start, end))
    assert caps.starts_at(period, at) == first
    assert caps.ends_at(period, int(first)) == last


# What may be spent


@pytest.mark.parametrize("period", ["hour", "day", "month", "total"])
@pytest.mark.parametrize("who", ["leaf's key", "leaf", "mid", "top"])
async def test_a_purchase_that_would_pass_a_cap_is_refused_and_moves_nothing(
    branches: Branches, who: str, period: str
) -> None:
    rule = {f"spend_{period}": 250_000}
    await (branches.key_rules("leaf", **rule) if who == "leaf's key" else branches.rules(who, **rule))
    assert [await branches.tries("leaf") for _ in range(4)] == ["ok", "ok", "no_balance", "no_balance"]
    assert await branches.tries("leaf", 50_000) == "ok"
    assert await branches.balance("leaf") == (9_750_000, 250_000, 3)
    assert list((await branches.counters()).values()) == [250_000]


async def test_what_is_bought_below_an_account_counts_for_it_and_not_beside_it(branches: Branches) -> None:
    await branches.grow("other")
    await branches.rules("top", spend_day=300_000)
    await branches.rules("mid", spend_day=200_000)
    assert await branches.tries("other") == "ok"
    assert [await branches.tries("leaf") for _ in range(3)] == ["ok", "ok", "no_balance"]
    assert [await branches.tries("top") for _ in range(2)] == ["ok", "no_balance"]
    assert await branches.counter("account:1", "day") == 300_000
    assert await branches.counter("account:2", "day") == 200_000


async def test_a_key_spends_from_its_account_within_a_cap_of_its_own(branches: Branches) -> None:
    await branches.key("top", "small", spend_total=100_000)
    assert await branches.tries("small") == "ok"
    assert await branches.tries("small", 1) == "no_balance"
    assert await branches.tries("top") == "ok"
    assert await branches.balance("top") == (9_800_000, 200_000, 2)


async def test_what_a_refused_level_stopped_is_counted_nowhere(branches: Branches) -> None:
    await branches.rules("top", spend_day=1_000_000, open_max=9)
    await branches.key_rules("leaf", spend_day=50_000, open_max=9)
    assert await branches.tries("leaf") == "no_balance"
    assert set((await branches.counters()).values()) == {0}
    assert await branches.balance("leaf") == (10_000_000, 0, 0)


async def test_a_release_gives_back_in_the_window_in_which_it_was_held(branches: Branches) -> None:
    await branches.rules("top", spend_hour=100_000, spend_total=1_000_000)
    first = await branches.buy("leaf")
    second = await branches.buy("leaf", at=AT + HOUR)
    await branches.end(first)
    found = {start: value for (_, period, start), value in (await branches.counters()).items() if period == "hour"}
    assert found == {caps.starts_at("hour", AT): 0, caps.starts_at("hour", AT + HOUR): 100_000}
    assert await branches.counter("account:1", "total") == 100_000
    assert await branches.tries("leaf", at=AT + HOUR + 1) == "no_balance"
    assert await branches.tries("leaf", at=AT + 1) == "ok"
    await branches.end(second)
    assert await branches.tries("leaf", at=AT + HOUR + 2) == "ok"


async def test_a_hold_that_comes_down_to_the_price_gives_back_the_difference(branches: Branches) -> None:
    await branches.rules("leaf", spend_day=150_000)
    order = await branches.buy("leaf")
    await branches.shrink(order, 40_000)
    assert await branches.counter("account:3", "day") == 40_000
    assert await branches.tries("leaf", 110_000) == "ok"


async def test_what_was_paid_stays_spent_when_its_number_is_finished(branches: Branches) -> None:
    await branches.rules("leaf", spend_day=100_000, open_max=1)
    order = await branches.buy("leaf")
    await branches.capture(order)
    assert await branches.tries("leaf", 0) == "too_many_open"
    await branches.end(order)
    assert await branches.tries("leaf", 1) == "no_balance"
    assert await branches.tries("leaf", 0) == "ok"


async def test_a_clock_that_goes_back_counts_in_the_window_it_shows(branches: Branches) -> None:
    early = await branches.buy("leaf", at=AT - HOUR)
    await branches.rules("top", spend_hour=150_000)
    assert await branches.tries("leaf") == "ok"
    # What was held in that hour before there was a cap counts as soon as somebody buys in it again.
    assert await branches.tries("leaf", at=AT - HOUR + 5) == "no_balance"
    assert await branches.tries("leaf", 50_000, at=AT - HOUR + 5) == "ok"
    await branches.end(early)
    assert await branches.tries("leaf", 100_000, at=AT - HOUR + 6) == "ok"


async def test_open_activations_are_capped_for_keys_and_for_whole_branches(branches: Branches) -> None:
    await branches.key("leaf", "narrow", open_max=1)
    await branches.rules("top", open_max=3)
    first = await branches.buy("narrow")
    assert await branches.tries("narrow") == "too_many_open"
    assert [await branches.tries(name) for name in ("leaf", "mid", "top")] == ["ok", "ok", "too_many_open"]
    await branches.end(first)
    assert await branches.tries("top") == "ok"
    assert await branches.tries("narrow") == "too_many_open"


# Orders


async def intend(branches: Branches, *prices: int, open_max: int = 99) -> attempts.Intent:
    """An order with quotes at these prices, best first, as `Purchases` writes it down."""
    callers = Callers(branches.store, branches.database.vault, lambda: AT)
    caller = await callers.caller(branches.plain["leaf"])
    quotes = [
        Ranked(Quote(Offer(f"upstream-{place}", "tg", 6, usd(50_000), 5), usd(price)), Because("as asked"))
        for place, price in enumerate(prices)
    ]
    order = Order("tg", 6, fingerprint=str(prices))
    return await branches.store.run(attempts.intend, caller, order, quotes, AT, open_max, "1", FuseSettings())


async def test_an_order_is_for_the_dearest_offer_that_fits_under_every_cap(branches: Branches) -> None:
    await branches.rules("top", spend_day=900_000)
    await branches.rules("leaf", spend_total=450_000)
    first = await intend(branches, 200_000, 500_000, 300_000, 100_000)
    assert first.held == usd(300_000)
    assert [ranked.quote.price.micros for ranked in first.quotes] == [200_000, 300_000, 100_000]
    second = await intend(branches, 200_000, 150_000)
    assert second.held == usd(150_000)
    with pytest.raises(NoBalance):
        await intend(branches, 200_000, 1)
    assert await branches.counter("account:1", "day") == 450_000
    assert await branches.counter("account:3", "total") == 450_000


async def test_balance_and_caps_bind_together(branches: Branches) -> None:
    await branches.grow("twig", "leaf", 250_000)
    branches.plain["leaf"] = branches.plain["twig"]
    await branches.rules("twig", spend_day=150_000)
    assert (await intend(branches, 300_000, 200_000, 100_000)).held == usd(100_000)
    with pytest.raises(NoBalance):
        await intend(branches, 300_000, 200_000, 149_000)


async def test_no_place_is_said_before_no_money(branches: Branches) -> None:
    await branches.rules("top", spend_day=100_000, open_max=1)
    await branches.buy("leaf")
    with pytest.raises(TooManyOpen):
        await intend(branches, 100_000, 50_000)


async def test_an_order_that_fails_gives_everything_back(branches: Branches) -> None:
    await branches.rules("top", spend_day=450_000, open_max=3)
    intent = await intend(branches, 300_000)
    assert await branches.run(attempts.fail_order, intent.activation_id, AT + HOUR)
    assert not await branches.run(attempts.fail_order, intent.activation_id, AT + HOUR)
    assert set((await branches.counters()).values()) == {0}
    left_behind = await intend(branches, 300_000, 200_000)
    assert await branches.run(attempts.give_up_order, left_behind.activation_id, AT + DAY)
    assert set((await branches.counters()).values()) == {0}


async def test_a_counter_that_somebody_edited_keeps_no_money_back(branches: Branches) -> None:
    await branches.rules("leaf", spend_day=200_000, open_max=5)
    order = await branches.buy("leaf")
    await branches.run(lambda tx: tx.execute("update counters set amount = 0"))
    assert len(await branches.problems()) == 2
    await branches.end(order)
    assert await branches.balance("leaf") == (10_000_000, 0, 0)


# Setting caps


async def test_a_new_cap_counts_what_is_held_and_captured_already(branches: Branches) -> None:
    held, captured, released = [await branches.buy("leaf") for _ in range(3)]
    await branches.capture(captured)
    await branches.end(released)
    await branches.buy("leaf", at=AT - DAY)
    ruled = await branches.rules("top", spend_day=500_000, spend_total=500_000, open_max=5)
    assert [(one.period, one.amount, one.cap) for one in ruled.counters] == [
        ("day", 200_000, 500_000),
        ("total", 300_000, 500_000),
        ("open", 3, 5),
    ]
    await branches.end(held)
    assert await branches.counter("account:1", "total") == 200_000


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"spend_day": 150_000}, "0.20 USD are spent this day already, more than 0.15"),
        ({"spend_total": 150_000}, "0.20 USD are spent in all already, more than 0.15: nothing could be bought any"),
        ({"open_max": 1}, "2 activations are open already, more than 1"),
    ],
)
async def test_a_cap_below_what_is_spent_is_refused_unless_it_is_meant(
    branches: Branches, changes: dict[str, int], words: str
) -> None:
    orders = [await branches.buy("leaf") for _ in range(2)]
    with pytest.raises(RuleError, match=words):
        await branches.rules("top", **changes)
    assert await branches.counters() == {}
    assert await branches.tries("leaf") == "ok"
    await branches.rules("top", force=True, **changes)
    assert await branches.tries("leaf") in ("no_balance", "too_many_open")
    for order in orders:
        await branches.end(order)
    assert await branches.problems() == []


async def test_a_cap_that_is_taken_away_and_set_again_misses_nothing(branches: Branches) -> None:
    await branches.rules("top", spend_day=100_000)
    await branches.buy("leaf")
    await branches.rules("top", spend_day=None)
    assert await branches.counters() == {}
    await branches.buy("leaf")
    await branches.rules("top", spend_day=300_000)
    assert await branches.counter("account:1", "day") == 200_000


async def test_two_changes_at_once_lose_neither(branches: Branches) -> None:
    wanted = {"spend_hour": 1, "spend_day": 2, "spend_month": 3, "spend_total": 4, "open_max": 5, "price_max": 6}
    await asyncio.gather(*(branches.rules("top", **{name: value}) for name, value in wanted.items()))
    found = (await branches.run(accounts.rules_of, "top", AT)).rules
    assert {name: getattr(found, name) for name in wanted} == wanted


async def test_counters_of_windows_long_over_are_forgotten_and_can_be_made_again(branches: Branches) -> None:
    await branches.rules("top", spend_hour=150_000, spend_day=1_000_000, spend_month=1_000_000)
    order = await branches.buy("leaf")
    await branches.run(caps.tidy, AT + 3 * DAY)
    assert {period for _, period, _ in await branches.counters()} == {"day", "month"}
    assert await branches.tries("leaf", at=AT + 1) == "no_balance"
    await branches.run(caps.tidy, AT + 90 * DAY)
    await branches.end(order)
    assert {period for _, period, _ in await branches.counters()} == {"month"}


# Many at once


async def test_a_cap_for_ten_and_forty_who_want_it_in_every_branch(branches: Branches) -> None:
    await branches.grow("twig", "mid")
    await branches.rules("top", spend_day=1_000_000, spend_hour=2_000_000)
    await branches.rules("mid", spend_day=5_000_000, open_max=30)
    names = ["leaf", "twig", "mid", "top"] * 10
    answers = Counter(await asyncio.gather(*(branches.tries(name) for name in names)))
    assert answers == {"ok": 10, "no_balance": 30}
    assert await branches.counter("account:1", "day") == 1_000_000


async def test_caps_set_while_purchases_and_releases_are_under_way_count_them_all(branches: Branches) -> None:
    orders = [await branches.buy("leaf") for _ in range(10)]

    async def change(step: int) -> None:
        await branches.rules("top", spend_day=None if step % 2 else 50_000_000, open_max=None if step % 3 else 500)

    work = [
        *(branches.tries(name) for name in ("leaf", "mid") * 15),
        *map(branches.end, orders),
        *map(change, range(9)),
        *(branches.key_rules("leaf", spend_total=cap) for cap in (None, 90_000_000)),
    ]
    await asyncio.gather(*work[::2], *work[1::2])
    assert await branches.problems() == []


async def test_a_cap_is_read_by_the_very_purchase_it_is_set_beside(branches: Branches) -> None:
    """However the two fall together, at most the cap is held once both are done, or the cap was refused."""
    for attempt in range(10):
        at = AT + attempt * DAY

        async def cap(at: float = at) -> str:
            try:
                await branches.rules("mid", at=at, spend_day=150_000)
            except RuleError:
                return "refused"
            return "set"

        done = await asyncio.gather(branches.tries("leaf", at=at), cap(), branches.tries("leaf", at=at))
        bought = done.count("ok")
        assert bought <= 1 if "set" in done else bought == 2
        await branches.rules("mid", at=at, spend_day=None)


# Whatever happens

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["buy", "buy", "buy", "end", "capture", "shrink", "cap", "uncap", "rotate", "tidy"]),
        st.integers(0, 5),
        st.integers(0, 3),
    ),
    max_size=40,
)


@pytest.mark.timeout(240)  # a database for every example
@given(steps=STEPS)
@settings(max_examples=40, deadline=None)
def test_counters_always_say_what_the_holds_say(steps: list[tuple[str, int, int]], tmp_path_factory: object) -> None:
    assert isinstance(tmp_path_factory, pytest.TempPathFactory)
    asyncio.run(_play(steps, tmp_path_factory.mktemp("caps")))


async def _play(steps: list[tuple[str, int, int]], directory: Path) -> None:
    branches = Branches(open_database(environment(f"sqlite:///{directory}/simroute.db")))
    for name, parent in (("top", None), ("mid", "top"), ("leaf", "mid")):
        await branches.grow(name, parent, 3_000_000)
    names, opened, captured = ["top", "mid", "leaf"], list[int](), list[int]()
    fields = ("spend_hour", "spend_day", "spend_month", "spend_total", "open_max", "spend_day")
    for verb, number, which in steps:
        name = names[which % 3]
        at = AT + (number - 2) * (HOUR if which else 20 * DAY)
        if verb == "buy":
            with suppress(NoBalance, TooManyOpen):
                opened.append(await branches.buy(name, 100_000 * number, at=at))
        elif verb == "end" and opened:
            await branches.end(opened.pop(number % len(opened)))
        elif verb == "end" and captured:
            await branches.end(captured.pop())
        elif verb == "capture" and opened:
            captured.append(opened.pop(number % len(opened)))
            await branches.capture(captured[-1])
        elif verb == "shrink" and opened:
            await branches.shrink(opened[number % len(opened)], 50_000)
        elif verb in ("cap", "uncap"):
            value = None if verb == "uncap" else 3 if number == 4 else 600_000
            change = branches.key_rules if which == 3 else branches.rules
            await change(name, at=at, force=True, **{fields[number]: value})
        elif verb == "rotate":
            made = await branches.run(accounts.rotate_key, branches.database.vault, branches.keys[name], AT, 30 * DAY)
            branches.keys[name] = made.id
        elif verb == "tidy":
            await branches.run(caps.tidy, at + number * DAY)
        assert await branches.problems() == []
    await branches.store.close()


# Tampering


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        (
            "update counters set amount = amount + 1 where period = 'day'",
            "counters: account:1 shows 100001 for day from 1749945600, its holds say 100000",
        ),
        (
            "update counters set amount = 0 where period = 'open'",
            "counters: account:1 shows 0 for open, its holds say 1",
        ),
        ("update rules set open_max = null", "counters: account:1 counts by open without a cap"),
        ("update account_tree set depth = 7 where depth = 2", "account_tree: account 3 is not where its parents are"),
        (
            "delete from account_tree where account_id = 2 and ancestor_id = 1",
            "account_tree: account 2 is not where its parents are",
        ),
        (
            "update ledger set amount = amount + 1 where kind = 'transfer'",
            "transfers: 1 is not what its ledger row says",
        ),
        ("delete from transfers", "ledger: row 5 is a transfer that nobody made"),
    ],
)
async def test_verify_names_what_was_tampered_with(tmp_path: Path, sql: str, words: str) -> None:
    branches = Branches(open_database(environment(f"sqlite:///{tmp_path}/simroute.db")))
    for name, parent in (("top", None), ("mid", "top"), ("leaf", "mid")):
        await branches.grow(name, parent)
    await branches.rules("top", spend_day=500_000, open_max=5)
    await branches.buy("leaf")
    await branches.run(_transfer, branches.ids)
    assert await branches.problems() == []
    assert await branches.run(lambda tx: tx.execute(sql)) >= 1
    assert words in await branches.problems()
    await branches.store.close()


def _transfer(tx: Tx, ids: dict[str, int]) -> None:
    ledger.transfer(tx, ids["top"], ids["leaf"], usd(5), AT, actor="test")
