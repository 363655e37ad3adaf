"""A TCP relay in front of a simulator that can swallow the reply to a purchase, and counts the requests that arrive."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

_REQUEST = re.compile(rb"(?:GET|POST|PUT|DELETE|HEAD) \S+ HTTP/1\.1\r\n")


@dataclass
class Relay:
    """`purchases` tells how many the simulator has sold. `after_cut` are the requests that came once a reply was
    swallowed: whatever the client library made of it."""

    behind: str
    purchases: Callable[[], int]
    url: str = ""
    is_cutting: bool = False
    is_abrupt: bool = False
    requests: int = 0
    cuts: int = 0
    after_cut: list[bytes] = field(default_factory=list)
    _bought: int = 0

    def cut(self, *, is_abrupt: bool) -> None:
        """From now on the reply to the next purchase is lost: FIN, or RST where abrupt."""
        self.is_cutting, self.is_abrupt, self._bought = True, is_abrupt, self.purchases()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parts = urlsplit(self.behind)
        up, down = await asyncio.open_connection(parts.hostname, parts.port)
        try:
            await asyncio.gather(self._upwards(reader, down), self._downwards(up, writer))
        finally:
            writer.close()
            down.close()

    async def _upwards(self, reader: asyncio.StreamReader, down: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(65536):
            found = _REQUEST.findall(chunk)
            self.requests += len(found)
            if self.cuts:
                self.after_cut += found
            down.write(chunk)
            await down.drain()
        down.close()

    async def _downwards(self, up: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await up.read(65536):
            if self.is_cutting and self.purchases() > self._bought:
                self.is_cutting = False
                self.cuts += 1
                if self.is_abrupt:
                    writer.transport.abort()
                writer.close()
                return
            writer.write(chunk)
            await writer.drain()
        writer.close()


@asynccontextmanager
async def relayed(behind: str, purchases: Callable[[], int]) -> AsyncIterator[Relay]:
    """A relay on a port of its own, in front of the address given."""
    relay = Relay(behind, purchases)
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with suppress(ConnectionError, asyncio.CancelledError):
            await relay.handle(reader, writer)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    relay.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield relay
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
