"""A server on raw sockets that counts the requests which arrive, whatever a client library makes of its answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

Respond = Callable[[asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Raw:
    """`heads` are request heads as they came; `connections` counts accepted ones. `script` answers, one by one."""

    script: list[Respond]
    url: str = ""
    heads: list[str] = field(default_factory=list)
    connections: int = 0
    sent_bytes: int = 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                self.heads.append(head.decode())
                respond = self.script.pop(0) if len(self.script) > 1 else self.script[0]
                await respond(writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def raw_server(*script: Respond) -> AsyncIterator[Raw]:
    """The last step of the script answers everything that follows."""
    raw = Raw(list(script))
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        await raw.handle(reader, writer)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    raw.url = f"http://127.0.0.1:{port}/"
    try:
        yield raw
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def answer(body: bytes = b"OK", status: str = "200 OK", *headers: str) -> Respond:
    """A whole answer; the connection stays open."""

    async def respond(writer: asyncio.StreamWriter) -> None:
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        await writer.drain()

    return respond


async def drop(writer: asyncio.StreamWriter) -> None:
    """Close without a word."""
    writer.close()


async def reset(writer: asyncio.StreamWriter) -> None:
    """Break the connection off: the client's kernel is told RST, not FIN."""
    writer.transport.abort()


async def hang(writer: asyncio.StreamWriter) -> None:
    """Never answer."""
    await asyncio.sleep(3600)


async def half(writer: asyncio.StreamWriter) -> None:
    """Promise more than comes, then close."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nACCESS_NUMBER:1")
    await writer.drain()
    writer.close()


async def nonsense(writer: asyncio.StreamWriter) -> None:
    """Not HTTP."""
    writer.write(b"\x00\x01\x02 hello\r\n\r\n")
    await writer.drain()
    writer.close()


def endless(raw_bytes: Callable[[int], None]) -> Respond:
    """A body without an end; `raw_bytes` is told what was sent."""

    async def respond(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()
            raw_bytes(65536)

    return respond
