"""How much a key may ask for, with and without a real Redis."""

from __future__ import annotations

import asyncio
import uuid

import pytest

from gateway.limits import DEBT_SECONDS_MAX, HELD_SECONDS_MAX, PACED_MAX, Limits, hold_back


class Clock:
    """Stands still until it is set."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


# Changes


async def test_changes_above_the_limit_are_refused() -> None:
    limits = Limits(clock=Clock())
    assert [await limits.change(1, 3) for _ in range(5)] == [True, True, True, False, False]
    await limits.aclose()


async def test_each_key_has_a_window_of_its_own() -> None:
    limits = Limits(clock=Clock())
    assert [await limits.change(key, 1) for key in (1, 2, 1, 2)] == [True, True, False, False]
    await limits.aclose()


async def test_two_processes_share_one_window_through_redis(redis_url: str) -> None:
    first, second = Limits(redis_url), Limits(redis_url)
    key = uuid.uuid4().int % 2**40
    assert [await one.change(key, 3) for one in (first, second, first, second)] == [True, True, True, False]
    await first.aclose()
    await second.aclose()


async def test_both_ways_of_counting_begin_the_next_minute_at_the_same_moment(redis_url: str) -> None:
    """The first change is late in its minute, so a window that began with it would still be open at the edge."""
    clock, key = Clock(), uuid.uuid4().int % 2**40
    alone, shared, beside = Limits(clock=clock), Limits(redis_url, clock), Limits(redis_url, clock)
    moments = (1_000_075.0, 1_000_079.0, 1_000_079.999, 1_000_080.0, 1_000_080.0, 1_000_139.999, 1_000_140.0)
    said: list[tuple[bool, bool]] = []
    for place, clock.now in enumerate(moments):
        said.append((await alone.change(key, 2), await (shared, beside)[place % 2].change(key, 2)))
    assert said == [(word, word) for word in (True, True, False, True, True, False, True)]
    for one in (alone, shared, beside):
        await one.aclose()


def test_the_rest_of_the_minute_is_told() -> None:
    assert Limits(clock=Clock(1_000_075.5)).window_seconds_left() == pytest.approx(4.5)


async def test_without_an_answer_from_redis_the_process_counts_by_itself() -> None:
    limits = Limits("redis://127.0.0.1:1/0", Clock())
    assert [await limits.change(1, 2) for _ in range(3)] == [True, True, False]
    assert limits.is_redis_away
    await limits.aclose()


@pytest.mark.parametrize("error", [OSError, RuntimeError])
async def test_when_redis_goes_away_nobody_starts_afresh(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    limits, key = Limits(redis_url, Clock()), uuid.uuid4().int % 2**40
    assert [await limits.change(key, 3) for _ in range(2)] == [True, True]

    async def gone(*_: object, **_more: object) -> bool:
        raise error

    monkeypatch.setattr(limits._shared, "hit", gone)
    assert [await limits.change(key, 3) for _ in range(2)] == [True, False]
    assert limits.is_redis_away
    await limits.aclose()


# The pace of requests


def turns(limits: Limits, count: int, per_minute: int, key: int = 1) -> list[float]:
    return [limits.turn_seconds(key, per_minute) for _ in range(count)]


def test_a_small_limit_can_be_used_at_once() -> None:
    assert [late > 0 for late in turns(Limits(ticks=Clock()), 4, 3)] == [False, False, False, True]


def test_of_a_large_limit_a_tenth_can_be_used_at_once_and_the_rest_at_its_pace() -> None:
    clock = Clock(50.0)
    limits, asked, at_once = Limits(ticks=clock), 0, 0
    while clock.now < 110.0:
        late = limits.turn_seconds(1, 6000)
        at_once += not late
        clock.now += late
        asked += 1
    assert at_once == 600
    assert asked == pytest.approx(6600, abs=2)


def test_whoever_keeps_the_pace_is_never_late() -> None:
    clock = Clock(50.0)
    limits = Limits(ticks=clock)
    for place in range(20_000):
        clock.now = 50.0 + place * 0.01
        assert limits.turn_seconds(1, 6000) == 0


def test_lateness_grows_with_the_excess_and_is_forgotten_soon_after_the_flood() -> None:
    clock = Clock(50.0)
    limits = Limits(ticks=clock)
    late = turns(limits, 100_000, 6000)[600:]
    assert late[:3] == pytest.approx([0.01, 0.02, 0.03])
    assert late == sorted(late)
    assert late[-1] == pytest.approx(DEBT_SECONDS_MAX + 0.01)
    clock.now += DEBT_SECONDS_MAX + 0.02
    assert limits.turn_seconds(1, 6000) == 0


def test_one_key_s_flood_is_not_another_s() -> None:
    limits = Limits(ticks=Clock())
    turns(limits, 1000, 60)
    assert turns(limits, 60, 60, key=2) == [0.0] * 60


async def test_requests_and_changes_are_counted_apart() -> None:
    limits = Limits(clock=Clock(), ticks=Clock())
    assert turns(limits, 2, 1)[1] > 0
    assert await limits.change(1, 1)
    await limits.aclose()


def test_keys_at_rest_are_forgotten() -> None:
    clock = Clock()
    limits = Limits(ticks=clock)
    for key in range(PACED_MAX):
        limits.turn_seconds(key, 6000)
    clock.now = 1.0
    turns(limits, 2, 60, key=-1)
    assert set(limits._due) == {-1}


async def test_a_late_request_is_held_back_but_not_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    assert await hold_back(0.25)
    assert await hold_back(HELD_SECONDS_MAX)
    assert slept == [0.25, HELD_SECONDS_MAX]
    assert not any([await hold_back(17.0) for _ in range(100)])
    spread = sorted(slept[2:])
    assert HELD_SECONDS_MAX / 2 <= spread[0] < spread[50] < spread[-1] <= HELD_SECONDS_MAX
