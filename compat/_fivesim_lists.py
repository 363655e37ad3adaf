"""Lists rendered and packed once for all who ask for the same one: without a key, so at next to no cost."""

from __future__ import annotations

import asyncio
import gzip
from dataclasses import dataclass

from compat._lists import MadeOnce

PACKED_FROM_BYTES = 1024
PACKED_SMALL_BYTES_MAX = 100_000

MAKING_MAX = 2
"""Fewer at once than elsewhere: guests need no key to ask."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """A body, and the same gzipped; empty where that is not worth it."""

    body: bytes
    packed: bytes = b""


class Lists(MadeOnce[Rendered]):
    """Rendered lists by key."""

    def __init__(self) -> None:
        super().__init__(_packed, lambda one: len(one.body) + len(one.packed), making_max=MAKING_MAX)


async def _packed(body: bytes) -> Rendered:
    if len(body) < PACKED_FROM_BYTES:
        return Rendered(body)
    level = 3 if len(body) < PACKED_SMALL_BYTES_MAX else 1
    return Rendered(body, await asyncio.to_thread(gzip.compress, body, level))
