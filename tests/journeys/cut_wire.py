"""A TCP proxy whose wire can be cut, frozen or reset: until it is mended nothing connects, or nothing moves."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from psycopg import conninfo


@dataclass
class Proxy:
    """In front of one server, on a port that stays the same. `behind` is where it is, as libpq writes it."""

    behind: str
    port: int = 0
    _server: asyncio.Server | None = None
    _pipes: set[asyncio.Task[None]] = field(default_factory=set)
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _moves: asyncio.Event = field(default_factory=asyncio.Event)
    _generation: int = 0

    async def mend(self) -> None:
        """Takes connections, from now on or still, and lets everything move."""
        self._moves.set()
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    async def freeze(self) -> None:
        """Takes connections and bytes, and passes nothing on."""
        self._moves.clear()

    def swallow(self) -> None:
        """Passes nothing more on over the connections there are, and tells neither end. New ones work at once."""
        self._generation += 1

    def reset(self) -> None:
        """Breaks every connection in the middle of whatever it says; new ones are taken."""
        for writer in list(self._writers):
            found = writer.get_extra_info("socket")
            if found is not None and found.family != socket.AF_UNIX:
                # Without lingering a close is a reset: what was on its way is lost.
                with suppress(OSError):  # closed already
                    found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    async def cut(self) -> None:
        """Closes every connection and takes no new ones."""
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
        ends = [writer]
        with suppress(OSError, asyncio.CancelledError):
            up, down = await self._connect()
            ends.append(down)
            self._writers.add(down)
            await asyncio.gather(*(self._pump(*way, self._generation) for way in ((reader, down), (up, writer))))
        for end in ends:
            end.close()  # also where nobody listens behind: whoever connected must not wait for ever
        self._writers.difference_update(ends)
        self._pipes.discard(task)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, generation: int) -> None:
        while chunk := await source.read(65536):
            await self._moves.wait()
            if generation == self._generation:
                sink.write(chunk)
                await sink.drain()
        if generation == self._generation:
            sink.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        there = conninfo.conninfo_to_dict(self.behind)
        host, port = str(there.get("host", "localhost")), int(there.get("port") or 5432)
        if host.startswith("/"):
            return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        return await asyncio.open_connection(host, port)


@asynccontextmanager
async def proxy(behind: str) -> AsyncIterator[Proxy]:
    """A proxy in front of a database, or of whatever else listens there."""
    found = Proxy(behind)
    await found.mend()
    try:
        yield found
    finally:
        await found.cut()
