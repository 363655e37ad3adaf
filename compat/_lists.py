"""Rendered price lists, kept for a few seconds: made once for everybody who asks for the same one at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from cachetools import TTLCache

BYTES_MAX = 96 * 2**20
SECONDS = 10.0
"""A list may differ without the market's generation having moved (a price list grown stale), so it has an age."""

Key = tuple[object, ...]


MAKING_MAX = 4
"""Lists made at once: each takes a few milliseconds of every turn of the loop."""


class Lists:
    """One for all dialects of a gateway, so that together they stay within the bytes."""

    def __init__(self) -> None:
        self._made: TTLCache[Key, bytes] = TTLCache(BYTES_MAX, SECONDS, getsizeof=len)
        self._making: dict[Key, asyncio.Task[bytes]] = {}
        self._turn = asyncio.Semaphore(MAKING_MAX)

    async def get(self, key: Key, make: Callable[[], Coroutine[Any, Any, bytes]]) -> bytes:
        """The list of that key, from `make` if there is none. `key` has to name everything the list depends on."""
        body = self._made.get(key)
        if body is not None:
            return body
        task = self._making.get(key)
        if task is None:
            task = self._making[key] = asyncio.ensure_future(self._make(key, make))
            task.add_done_callback(lambda _: self._making.pop(key, None))
        return await asyncio.shield(task)

    async def _make(self, key: Key, make: Callable[[], Awaitable[bytes]]) -> bytes:
        async with self._turn:
            body = await make()
        if len(body) <= BYTES_MAX // 2:
            self._made[key] = body
        return body
