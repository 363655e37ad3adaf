"""Rendered price lists, kept for a few seconds: made once for everybody who asks for the same one at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from cachetools import TTLCache

BYTES_MAX = 96 * 2**20
SECONDS = 10.0
"""A list may differ without the market's generation having moved (a price list grown stale), so it has an age."""

MAKING_MAX = 4
"""Lists made at once: each takes a few milliseconds of every turn of the loop."""

T = TypeVar("T")


class MadeOnce(Generic[T]):
    """Lists by key. `finish` turns a body just made into what is kept, and is not waited for by other lists."""

    def __init__(
        self,
        finish: Callable[[bytes], Awaitable[T]],
        size: Callable[[T], int],
        *,
        bytes_max: int = BYTES_MAX,
        making_max: int = MAKING_MAX,
    ) -> None:
        self._finish = finish
        self._size = size
        self._bytes_max = bytes_max
        self._kept: TTLCache[Hashable, T] = TTLCache(bytes_max, SECONDS, getsizeof=size)
        self._making: dict[Hashable, asyncio.Task[T]] = {}
        self._turn = asyncio.Semaphore(making_max)

    def kept(self, key: Hashable) -> T | None:
        """The list of that key, where there is one."""
        return self._kept.get(key)

    async def get(self, key: Hashable, make: Callable[[], Awaitable[bytes]]) -> T:
        """The list of that key, from `make` if there is none. `key` has to name everything the list depends on."""
        kept = self._kept.get(key)
        if kept is not None:
            return kept
        task = self._making.get(key)
        if task is None:
            task = self._making[key] = asyncio.ensure_future(self._make(key, make))
            task.add_done_callback(lambda _: self._making.pop(key, None))
        # A client that hangs up must not take the list away from the others who wait for it.
        return await asyncio.shield(task)

    async def _make(self, key: Hashable, make: Callable[[], Awaitable[bytes]]) -> T:
        async with self._turn:
            body = await make()
        finished = await self._finish(body)
        if self._size(finished) <= self._bytes_max // 2:
            self._kept[key] = finished
        return finished


class Lists(MadeOnce[bytes]):
    """One for all dialects of a gateway, so that together they stay within the bytes."""

    def __init__(self) -> None:
        super().__init__(_as_it_is, len)


async def _as_it_is(body: bytes) -> bytes:
    return body
