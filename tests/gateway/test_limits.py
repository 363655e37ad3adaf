"""How much a key may ask for, with and without a real Redis."""

from __future__ import annotations

from gateway.limits import Limits


async def test_changes_above_the_limit_are_refused() -> None:
    limits = Limits()
    assert [await limits.change(1, 3) for _ in range(5)] == [True, True, True, False, False]
    await limits.aclose()


async def test_each_key_has_a_window_of_its_own() -> None:
    limits = Limits()
    assert [await limits.change(key, 1) for key in (1, 2, 1, 2)] == [True, True, False, False]
    await limits.aclose()


async def test_polls_and_changes_are_counted_apart() -> None:
    limits = Limits()
    assert limits.poll(1, 1)
    assert not limits.poll(1, 1)
    assert await limits.change(1, 1)
    await limits.aclose()


async def test_two_processes_share_one_window_through_redis(redis_url: str) -> None:
    first, second = Limits(redis_url), Limits(redis_url)
    key = id(first)
    assert [await one.change(key, 3) for one in (first, second, first, second)] == [True, True, True, False]
    await first.aclose()
    await second.aclose()


async def test_without_an_answer_from_redis_the_process_counts_by_itself() -> None:
    limits = Limits("redis://127.0.0.1:1/0")
    assert [await limits.change(1, 2) for _ in range(3)] == [True, True, False]
    assert limits.is_redis_away
    await limits.aclose()
