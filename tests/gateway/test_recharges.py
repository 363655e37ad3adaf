"""Accounts that recharge themselves: when, from where, how often, and what is said where it fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway import deposits, levels, recharges
from gateway.database import open_database
from gateway.errors import CallerError
from gateway.money import MAX_MICROS, Money
from gateway.recharges import Recharge, RechargeError
from gateway.store import Row
from tests.gateway.branches import AT, Branches, usd
from tests.harness import environment

HOUR, DAY = 3600.0, 86_400.0
COOL_DOWN = 600.0
RULE = {"threshold": usd(1_000_000), "amount": usd(2_000_000), "source": "parent", "month_max": usd(5_000_000)}


@pytest.fixture
async def branches(database_url: str) -> AsyncIterator[Branches]:
    """A reseller with ten dollars and a customer with none; an account on its own."""
    found = Branches(open_database(environment(database_url)))
    await found.grow("top", micros=10_000_000)
    await found.grow("left", "top", micros=0)
    await found.grow("lone", micros=0)
    yield found
    await found.store.close()


async def rule(branches: Branches, name: str = "left", **more: Any) -> None:
    given = {"cool_down_seconds": COOL_DOWN, "at": AT, "actor": "test", **RULE, **more}
    await branches.run(recharges.set_rule, branches.ids[name], **given)


async def attempt(branches: Branches, at: float = AT, name: str = "left", **more: Any) -> bool:
    return bool(await branches.run(recharges.attempt, branches.ids[name], at, **more))


async def shown(branches: Branches, at: float = AT, name: str = "left") -> Recharge:
    (found,) = await branches.store.read(recharges.rules, at, [branches.ids[name]])
    return found


async def available(branches: Branches, name: str = "left") -> int:
    return (await branches.balance(name))[0]


async def due(branches: Branches, at: float = AT) -> list[int]:
    return await branches.store.read(recharges.due, at)


# From the parent


async def test_recharged_once_below_the_threshold(branches: Branches) -> None:
    await rule(branches)
    assert await due(branches) == [branches.ids["left"]]
    assert [await attempt(branches) for _ in range(3)] == [True, False, False]
    assert (await available(branches), await available(branches, "top")) == (2_000_000, 8_000_000)
    assert await due(branches) == []
    assert (await shown(branches)).month_spent == usd(2_000_000)
    assert await branches.problems() == []


async def test_not_above_the_threshold_unless_an_order_needs_more(branches: Branches) -> None:
    await rule(branches)
    await attempt(branches)
    later = AT + COOL_DOWN
    assert not await attempt(branches, later)
    assert not await attempt(branches, later, needed_micros=2_000_000)
    assert await attempt(branches, later, needed_micros=2_000_001)
    assert await available(branches) == 4_000_000


async def test_it_cools_down(branches: Branches) -> None:
    await rule(branches, threshold=usd(9_000_000))
    assert await attempt(branches)
    assert not await attempt(branches, AT + COOL_DOWN - 1)
    assert await attempt(branches, AT + COOL_DOWN)


async def test_a_hundred_at_once_recharge_one(branches: Branches) -> None:
    await rule(branches, threshold=usd(9_000_000))
    found = await asyncio.gather(*(attempt(branches, AT + number % 7) for number in range(100)))
    assert found.count(True) == 1
    assert await available(branches) == 2_000_000


async def test_orders_that_fail_together_all_go_on_with_one_recharge(branches: Branches) -> None:
    await rule(branches)
    found = await asyncio.gather(
        *(branches.run(recharges.help_order, branches.ids["left"], AT, 80_000) for _ in range(20))
    )
    assert found == [True] * 20
    assert await available(branches) == 2_000_000
    assert await branches.store.read(recharges.may_help, branches.ids["left"], AT, 80_000)
    assert not await branches.store.read(recharges.may_help, branches.ids["left"], AT, 3_000_000)
    assert not await branches.store.read(recharges.may_help, branches.ids["lone"], AT, 0)


async def test_the_months_ceiling_holds_until_the_next(branches: Branches) -> None:
    await rule(branches, threshold=usd(9_000_000))
    assert [await attempt(branches, AT + number * COOL_DOWN) for number in range(4)] == [True, True, False, False]
    assert "ceiling of 5.00 USD" in (await shown(branches)).problem
    month_end = 1_751_328_000.0  # 2025-07-01 00:00:00 UTC
    assert not await attempt(branches, month_end - 1)
    assert await attempt(branches, month_end - 1 + recharges.FULL_MONTH_SECONDS)
    assert (await shown(branches, month_end)).month_spent == usd(2_000_000)
    assert (await shown(branches, month_end)).problem == ""
    # The clock is back in June, which is full.
    assert not await attempt(branches, AT + DAY)
    assert await available(branches) == 6_000_000


async def test_a_clock_that_went_back_by_a_year_does_not_stop_recharges(branches: Branches) -> None:
    await rule(branches, threshold=usd(9_000_000))
    assert await attempt(branches, AT + 365 * DAY)
    assert not await attempt(branches, AT + 365 * DAY - 10)
    assert await attempt(branches, AT)
    assert not await attempt(branches, AT + 1)


async def test_a_parent_without_money_is_asked_again_later_and_later(branches: Branches) -> None:
    await rule(branches, amount=usd(11_000_000), month_max=usd(50_000_000))
    at, pauses = AT, []
    for _ in range(12):
        assert not await attempt(branches, at)
        pauses.append((await branches.store.read(_pause_seconds))["pause_seconds"])
        at += pauses[-1]
    assert pauses == sorted(pauses)
    assert pauses[0] == COOL_DOWN
    assert pauses[-1] == recharges.BACK_OFF_SECONDS_MAX
    assert "too little available" in (await shown(branches)).problem
    assert [row["name"] for row in await branches.store.read(recharges.troubled)] == ["left"]
    assert (await shown(branches)).month_spent == usd(0)
    await branches.run(deposits.pay_in, branches.ids["top"], usd(5_000_000), "r", "bank", at, "test", "")
    assert await attempt(branches, at)
    assert await branches.store.read(recharges.troubled) == []
    assert await branches.problems() == []


def _pause_seconds(tx: Any) -> Row:
    row: Row = tx.one("select pause_seconds from recharges")
    return row


async def test_a_suspended_branch_is_not_recharged(branches: Branches) -> None:
    await rule(branches)
    await branches.rules("top", suspended_at=AT - 1)
    assert levels.stopped_at(await branches.store.read(levels.of_key, branches.ids["left"], 0)) is not None
    assert not await attempt(branches)
    assert await available(branches, "top") == 10_000_000


async def test_switched_off_it_does_nothing(branches: Branches) -> None:
    await rule(branches)
    switch_off = (recharges.switch_off, branches.ids["left"], AT, "test")
    assert [await branches.run(*switch_off) for _ in range(2)] == [True, False]
    assert await due(branches) == []
    assert not await attempt(branches)
    assert not (await shown(branches)).is_on


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("left", {"threshold": usd(0)}, "above zero"),
        ("left", {"amount": usd(-1)}, "above zero"),
        ("left", {"month_max": usd(MAX_MICROS + 1)}, "too large"),
        ("left", {"amount": Money(1, "EUR")}, "kept in USD"),
        ("left", {"amount": usd(6_000_000)}, "ceiling"),
        ("left", {"source": "card"}, "parent, hook"),
        ("left", {"cool_down_seconds": 0.0}, "cool-down"),
        ("left", {"cool_down_seconds": float("nan")}, "cool-down"),
        ("lone", {}, "no parent"),
    ],
)
async def test_bad_rules_are_not_set(branches: Branches, name: str, change: dict[str, Any], words: str) -> None:
    with pytest.raises(RechargeError, match=words):
        await rule(branches, name, **change)
    assert await branches.store.read(recharges.rules, AT) == []


# By the hook


async def claimed(branches: Branches, at: float = AT) -> list[Row]:
    return list(await branches.run(recharges.claim, at, at + 10, 10))


async def test_the_hook_is_asked_once_and_the_payment_ends_it(branches: Branches) -> None:
    await rule(branches, "lone", source="hook")
    assert [await attempt(branches, name="lone") for _ in range(2)] == [False, False]
    assert (await shown(branches, name="lone")).is_pending
    (run,) = await claimed(branches)
    assert await claimed(branches) == []
    await branches.run(recharges.note_post, run, "", AT)
    assert not await attempt(branches, AT + COOL_DOWN, "lone")
    pay = (deposits.pay_in, branches.ids["lone"], usd(2_000_000), run["reference"], "generic", AT, "generic")
    assert [await branches.run(*pay) for _ in range(2)] == [True, False]
    assert await available(branches, "lone") == 2_000_000
    found = await shown(branches, name="lone")
    assert (found.is_pending, found.month_spent) == (False, usd(2_000_000))
    assert await branches.problems() == []


async def test_a_hundred_at_once_ask_once(branches: Branches) -> None:
    await rule(branches, "lone", source="hook")
    await asyncio.gather(*(attempt(branches, AT + number * 10, "lone") for number in range(100)))
    assert len(await claimed(branches, AT + 1000)) == 1


async def test_a_call_that_failed_is_made_again_under_the_same_reference(branches: Branches) -> None:
    await rule(branches, "lone", source="hook")
    await attempt(branches, name="lone")
    at, references = AT, set()
    for pause in (5.0, 30.0, 120.0, 600.0, 600.0):
        (run,) = await claimed(branches, at)
        references.add(run["reference"])
        await branches.run(recharges.note_post, run, "http 500", at)
        assert (await shown(branches, name="lone")).problem == "http 500"
        assert await claimed(branches, at + pause - 1) == []
        at += pause
    assert len(references) == 1


async def test_a_crash_between_claim_and_call_leaves_it_due_again(branches: Branches) -> None:
    await rule(branches, "lone", source="hook")
    await attempt(branches, name="lone")
    (first,) = await claimed(branches)
    (again,) = await claimed(branches, AT + 10)
    assert first["reference"] == again["reference"]
    # The one thought dead comes back: its claim is over.
    await branches.run(recharges.note_post, first, "", AT + 11)
    assert await branches.store.read(recharges.has_calls, AT + 20)


async def test_what_nobody_pays_lapses_and_is_booked_all_the_same_when_it_comes(branches: Branches) -> None:
    await rule(branches, "lone", source="hook")
    await attempt(branches, name="lone")
    (run,) = await claimed(branches)
    end = AT + recharges.LAPSE_SECONDS
    assert not await branches.store.read(recharges.has_lapsed, end - 1)
    assert await branches.store.read(recharges.has_lapsed, end)
    assert [await branches.run(recharges.lapse, end) for _ in range(2)] == [1, 0]
    found = await shown(branches, end, "lone")
    assert "no payment came within 60 minutes" in found.problem
    assert found.month_spent == usd(0)
    assert not await attempt(branches, end, "lone")
    await branches.run(deposits.pay_in, branches.ids["lone"], usd(2_000_000), run["reference"], "generic", end, "x")
    found = await shown(branches, end, "lone")
    assert (found.problem, found.month_spent) == ("", usd(2_000_000))
    assert await available(branches, "lone") == 2_000_000


async def test_anothers_payment_does_not_end_it(branches: Branches) -> None:
    await rule(branches, "lone", source="hook")
    await attempt(branches, name="lone")
    (run,) = await claimed(branches)
    await branches.run(deposits.pay_in, branches.ids["left"], usd(2_000_000), run["reference"], "generic", AT, "x")
    assert (await shown(branches, name="lone")).is_pending


async def test_an_order_without_a_rule_fails_as_before(branches: Branches) -> None:
    with pytest.raises(CallerError):
        await branches.buy("lone")
    assert await due(branches) == []
