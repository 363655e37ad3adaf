"""Where the processes of one deployment leave price lists for each other: Redis, which may lose all of it.

Bytes in, bytes out: what is found there was perhaps written by somebody else (`snapshots` tells).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from redis.exceptions import RedisError, ResponseError

from gateway.redis_client import ANSWER_SECONDS, redis_client
from gateway.snapshots import HEAD_BYTES, TROUBLE_BYTES_MAX

CARRY_SECONDS = 15.0
"""For a whole list, which may be several megabytes."""

REST_SECONDS = 5.0
"""How long Redis is left alone after it failed."""

TURN_SECONDS = 15.0
"""How long others wait for a process that died while it read a list."""


class Away(Exception):
    """Redis did not do it; the message is the class of what went wrong."""


class SharedLists:
    """`place` names an upstream with the settings a list is made under, `me` this process."""

    def __init__(self, url: str, prefix: str, me: str, ticks: Callable[[], float] = time.monotonic) -> None:
        """`prefix` tells this deployment from others on the same Redis."""
        self._redis = redis_client(url, CARRY_SECONDS)
        self._prefix = prefix
        self._me = me.encode()
        self._ticks = ticks
        self._rest_until = 0.0

    async def look(self, place: str) -> tuple[bytes, bytes]:
        """The head of the list and why there is no newer one; empty where there is none. Raises Away."""
        async with self._asked(ANSWER_SECONDS), self._redis.pipeline(transaction=False) as pipe:
            pipe.getrange(self._key("list", place), 0, HEAD_BYTES - 1)
            pipe.getrange(self._key("trouble", place), 0, TROUBLE_BYTES_MAX - 1)
            head, trouble = await pipe.execute(raise_on_error=False)
        return _bytes(head), _bytes(trouble)

    async def fetch(self, place: str, length: int) -> bytes:
        """The list with its head, `length` bytes of it at most. Raises Away."""
        async with self._asked(CARRY_SECONDS):
            return _bytes(await self._redis.getrange(self._key("list", place), 0, length - 1))

    async def put(self, place: str, data: bytes, seconds: float) -> None:
        """A newer list; for so long it may be taken. Raises Away."""
        async with self._asked(CARRY_SECONDS):
            await self._redis.set(self._key("list", place), data, px=_milliseconds(seconds))

    async def note(self, place: str, trouble: bytes, seconds: float) -> None:
        """Why there is no newer one. Raises Away."""
        async with self._asked(ANSWER_SECONDS):
            await self._redis.set(self._key("trouble", place), trouble, px=_milliseconds(seconds))

    @asynccontextmanager
    async def turn(self, place: str) -> AsyncIterator[bool]:
        """Whether it is this process's turn to read the upstream: then nobody else's for as long. Without Redis it is
        everybody's."""
        key = self._key("reader", place)
        try:
            async with self._asked(ANSWER_SECONDS):
                is_mine = bool(await self._redis.set(key, self._me, nx=True, px=_milliseconds(TURN_SECONDS)))
        except Away:
            is_mine, is_noted = True, False
        else:
            is_noted = is_mine
        renewing = asyncio.create_task(self._renew(key)) if is_noted else None
        try:
            yield is_mine
        finally:
            if renewing is not None:
                renewing.cancel()
                await asyncio.gather(renewing, return_exceptions=True)
                await self._end_turn(key)

    async def aclose(self) -> None:
        with suppress(RedisError, OSError, RuntimeError):
            await self._redis.aclose()

    async def _renew(self, key: str) -> None:
        while True:
            await asyncio.sleep(TURN_SECONDS / 3)
            with suppress(Away):
                async with self._asked(ANSWER_SECONDS):
                    await self._redis.pexpire(key, _milliseconds(TURN_SECONDS))

    async def _end_turn(self, key: str) -> None:
        """Unless it ran out meanwhile and is another's: at worst somebody reads once more than needed."""
        with suppress(Away):
            async with self._asked(ANSWER_SECONDS):
                if await self._redis.get(key) == self._me:
                    await self._redis.delete(key)

    def _key(self, kind: str, place: str) -> str:
        return f"{self._prefix}:offers:{kind}:{place}"

    @asynccontextmanager
    async def _asked(self, seconds: float) -> AsyncIterator[None]:
        """Raises Away, at once where Redis failed a moment ago."""
        if self._ticks() < self._rest_until:
            raise Away("left alone")
        try:
            async with asyncio.timeout(seconds):
                yield
        except ResponseError as error:  # it is there, and will not: out of memory, say
            raise Away(type(error).__name__) from None
        except (RedisError, OSError, RuntimeError) as error:
            self._rest_until = self._ticks() + REST_SECONDS
            raise Away(type(error).__name__) from None


def _bytes(value: object) -> bytes:
    """Nothing where the key holds something else than a string."""
    return value if isinstance(value, bytes) else b""


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))
