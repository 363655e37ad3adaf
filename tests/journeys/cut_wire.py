"""A TCP proxy whose wire can be cut: connections refused, or accepted and never answered again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal

from psycopg import conninfo

Wire = Literal["whole", "cut", "dead"]


@dataclass
class Proxy:
    """In front of one PostgreSQL. `dead` is a machine that vanished: nothing is refused, nothing comes back."""

    behind: str
    port: int = 0
    wire: Wire = "whole"
    _server: asyncio.Server | None = None
    _pipes: set[asyncio.Task[None]] = field(default_factory=set)
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _flows: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        """The database's address by way of this proxy."""
        return conninfo.make_conninfo(self.behind, host="127.0.0.1", port=self.port)

    async def open(self) -> None:
        self._flows.set()
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def change(self, wire: Wire) -> None:
        """Cuts the wire, lets it go dead, or mends it."""
        self.wire = wire
        if wire == "dead":
            self._flows.clear()
        elif wire == "cut":
            await self.close()
        elif self._server is None:
            await self.open()
        else:
            self._flows.set()

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in self._writers:
            writer.close()
        for task in self._pipes:
            task.cancel()
        await asyncio.gather(*self._pipes, return_exceptions=True)
        self._writers.clear()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._pipes.add(task)
        self._writers.add(writer)
        try:
            there = conninfo.conninfo_to_dict(self.behind)
            host = str(there.get("host", "localhost"))
            port = int(there.get("port") or 5432)
            if host.startswith("/"):
                up, down = await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
            else:
                up, down = await asyncio.open_connection(host, port)
            self._writers.add(down)
            await asyncio.gather(self._pump(reader, down), self._pump(up, writer))
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._pipes.discard(task)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while chunk := await source.read(65536):
                await self._flows.wait()
                sink.write(chunk)
                await sink.drain()
            sink.close()


@asynccontextmanager
async def proxy(behind: str) -> AsyncIterator[Proxy]:
    """A proxy in front of a database."""
    found = Proxy(behind)
    await found.open()
    try:
        yield found
    finally:
        found._flows.set()
        await found.close()
