"""Where notices go: a receiver on a real socket that fails as it is told to, and keeps what it said yes to."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

SECRET = "hook0123456789abcdefghijklmnopqr"
"""Part of the address, as such addresses tend to have one."""

FAIL_SHARE = 0.25
HANG_SECONDS = 4.0


@dataclass
class Receiver:
    """`accepted` are the notices answered with success, by their id; `refused` counts those that were not."""

    chance: random.Random
    port: int = 0
    is_down: bool = False
    is_well: bool = False
    accepted: dict[str, dict[str, Any]] = field(default_factory=dict)
    refused: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/{SECRET}"

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            headers = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
            body = await reader.readexactly(int(headers["content-length"]))
            await self._answer(headers["webhook-id"], body, writer)
        writer.close()

    async def _answer(self, notice: str, body: bytes, writer: asyncio.StreamWriter) -> None:
        is_failing = self.is_down or (not self.is_well and self.chance.random() < FAIL_SHARE)
        if not is_failing:
            self.accepted[notice] = json.loads(body)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            await writer.drain()
            return
        self.refused += 1
        how = self.chance.choice(("error", "close", "hang"))
        if how == "error":
            writer.write(b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n")
        elif how == "hang":
            await asyncio.sleep(HANG_SECONDS)


@asynccontextmanager
async def receiver(seed: int) -> AsyncIterator[Receiver]:
    found = Receiver(random.Random(f"receiver:{seed}"))
    server = await asyncio.start_server(found.take, "127.0.0.1", 0)
    found.port = server.sockets[0].getsockname()[1]
    try:
        yield found
    finally:
        server.close()
