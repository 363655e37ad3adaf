"""Lists rendered and packed once for all who ask for the same one: without a key, so at next to no cost."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass

from cachetools import TTLCache

BYTES_MAX = 96 * 2**20
SECONDS = 10.0
PACKED_FROM_BYTES = 1024
PACKED_SMALL_BYTES_MAX = 100_000


MAKING_MAX = 2
"""Lists made at once: each takes a few milliseconds of every turn of the loop, and guests need no key to ask."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """A body, and the same gzipped; empty where that is not worth it."""

    body: bytes
    packed: bytes = b""


class Lists:
    """Rendered lists by key, for `SECONDS` each: time alone can change a list, too."""

    def __init__(self) -> None:
        self._kept: TTLCache[Hashable, Rendered] = TTLCache(
            BYTES_MAX, SECONDS, getsizeof=lambda one: len(one.body) + len(one.packed)
        )
        self._making: dict[Hashable, asyncio.Task[Rendered]] = {}
        self._turn = asyncio.Semaphore(MAKING_MAX)

    async def get(self, key: Hashable, make: Callable[[], Awaitable[str]]) -> Rendered:
        """The list of that key, made if need be; whoever asks meanwhile waits for the same one."""
        kept = self._kept.get(key)
        if kept is not None:
            return kept
        task = self._making.get(key)
        if task is None:
            task = self._making[key] = asyncio.ensure_future(self._made(key, make))
            task.add_done_callback(lambda _: self._making.pop(key, None))
        # A client that hangs up must not take the list away from the others who wait for it.
        return await asyncio.shield(task)

    async def _made(self, key: Hashable, make: Callable[[], Awaitable[str]]) -> Rendered:
        async with self._turn:
            body = (await make()).encode()
        packed = b""
        if len(body) >= PACKED_FROM_BYTES:
            packed = await asyncio.to_thread(gzip.compress, body, 3 if len(body) < PACKED_SMALL_BYTES_MAX else 1)
        rendered = Rendered(body, packed)
        if len(body) + len(packed) <= BYTES_MAX // 2:
            self._kept[key] = rendered
        return rendered
