"""What processes ask each other through a real Redis, and that silence is no end."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import pytest
from redis.asyncio import Redis
from redis.exceptions import TimeoutError as RedisTimeout

from gateway import bus
from gateway.bus import Bus

NOWHERE = "redis://127.0.0.1:9/0"
LONG_SECONDS = 30.0


def _take_nothing(*_said: object) -> None:
    """A hint that is of no interest."""


async def _nobody_left(_ids: Sequence[int]) -> bool:
    return False


async def _look_at_once() -> bool:
    return True


@asynccontextmanager
async def member(
    url: str,
    name: str,
    on_question: Callable[[Sequence[int]], Awaitable[bool]] = _nobody_left,
    on_look: Callable[[], Awaitable[bool]] = _look_at_once,
) -> AsyncIterator[Bus]:
    made = Bus(url, "test", name, _take_nothing, _take_nothing, _take_nothing, _take_nothing, on_question, on_look)
    made.start()
    try:
        if url != NOWHERE:
            async with asyncio.timeout(LONG_SECONDS):
                await made.heard.wait()
        yield made
    finally:
        await made.aclose()


def saying(has_left: bool, heard: list[int]) -> Callable[[Sequence[int]], Awaitable[bool]]:
    async def answer(ids: Sequence[int]) -> bool:
        heard.extend(ids)
        return has_left

    return answer


async def test_whoever_is_asked_answers_and_nobody_else(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bus, "ASK_SECONDS", LONG_SECONDS)
    heard: dict[str, list[int]] = {"b": [], "c": []}
    async with (
        member(redis_url, "a") as a,
        member(redis_url, "b", saying(False, heard["b"])),
        member(redis_url, "c", saying(True, heard["c"])),
    ):
        assert not await a.ask_who_left({"b"}, [1, 2])
        assert (heard["b"], heard["c"]) == ([1, 2], [])
        assert await a.ask_who_left({"b", "c"}, [3])
        assert heard["c"] == [3]
        assert await asyncio.gather(*(a.ask_who_left({name}, [4]) for name in ("b", "c"))) == [False, True]


async def test_where_nobody_answers_nobody_is_waited_for_long(redis_url: str) -> None:
    async with member(redis_url, "a") as a, asyncio.timeout(LONG_SECONDS):
        assert not await a.ask_who_left({"gone"}, [1])
        assert not a._questions
    async with member(NOWHERE, "a") as a, asyncio.timeout(LONG_SECONDS):
        assert not await a.ask_who_left({"gone"}, [1])


async def test_all_that_listen_have_to_look_and_say_so(redis_url: str) -> None:
    turn = asyncio.Event()

    async def look_when_let() -> bool:
        await turn.wait()
        return True

    async with member(redis_url, "a") as a:
        assert await a.ask_to_look(1, LONG_SECONDS)
        async with member(redis_url, "b"), member(redis_url, "c", on_look=look_when_let):
            asked = asyncio.ensure_future(a.ask_to_look(3, LONG_SECONDS))
            assert not (await asyncio.wait({asked}, timeout=0.2))[0]
            turn.set()
            assert await asked
            assert not await a.ask_to_look(4, 0.2)  # one is there that does not listen
        assert not a._looks


async def test_who_could_not_look_or_knows_of_no_looks_is_not_counted(redis_url: str) -> None:
    async def fail() -> bool:
        return False

    async with member(redis_url, "a") as a:
        async with member(redis_url, "b", on_look=fail):
            assert not await a.ask_to_look(1, 0.2)
        async with Redis.from_url(redis_url, protocol=2) as redis, redis.pubsub() as older:
            await older.subscribe("test")
            assert not await a.ask_to_look(1, 0.2)
    async with member(NOWHERE, "a") as a, asyncio.timeout(LONG_SECONDS):
        assert not await a.ask_to_look(1, LONG_SECONDS)


async def test_a_question_is_no_riddle_to_a_program_that_knows_of_none(redis_url: str) -> None:
    async with Redis.from_url(redis_url, protocol=2) as redis, redis.pubsub() as older, member(redis_url, "a") as a:
        await older.subscribe("test")
        await a.ask_who_left({"older"}, [1])
        while (message := await older.get_message(timeout=LONG_SECONDS)) is None or message["type"] != "message":
            pass
        said = json.loads(message["data"])
        assert {"from": "a", "changed": False, "asked": [], "delivered": [], "turned": {}}.items() <= said.items()


async def test_silence_is_no_end(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other end is asked whether it is there, and says so."""
    monkeypatch.setattr(bus, "SILENCE_SECONDS", 0.5)
    async with member(redis_url, "a") as a:
        for _ in range(8):
            await asyncio.sleep(0.2)
            assert not a.is_away


async def test_what_could_not_be_said_once_is_said_again(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hearing goes on by a connection of its own, so nothing but saying shows that saying works again."""
    monkeypatch.setattr(bus, "REST_SECONDS", 0.1)
    async with member(redis_url, "a") as a, member(redis_url, "b") as b:
        b.heard.clear()
        publish = a._redis.publish

        async def fail(*_said: object) -> int:
            raise RedisTimeout("no answer")

        monkeypatch.setattr(a._redis, "publish", fail)
        a.changed()
        await until(lambda: a.is_away)
        monkeypatch.setattr(a._redis, "publish", publish)
        async with asyncio.timeout(LONG_SECONDS):
            await b.heard.wait()
        await until(lambda: not a.is_away)


@pytest.mark.parametrize(
    "words",
    [
        json.dumps({"from": "x", "changed": False, "asked": [float("inf")], "delivered": [], "turned": {}}).encode(),
        b'{"from": "\xff\xfe"}',
        b"[" * 100_000,
    ],
)
async def test_words_that_nobody_can_read_do_not_end_the_hearing(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, words: bytes
) -> None:
    monkeypatch.setattr(bus, "REST_SECONDS", 0.1)
    async with member(redis_url, "a") as a, member(redis_url, "b") as b, Redis.from_url(redis_url) as stranger:
        a.heard.clear()
        await stranger.publish("test", words)
        b.changed()
        async with asyncio.timeout(LONG_SECONDS):
            await a.heard.wait()
        a.heard.clear()
        b.changed()
        async with asyncio.timeout(LONG_SECONDS):
            await a.heard.wait()
        await until(lambda: not a.is_away)


async def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LONG_SECONDS
    while not is_so():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
