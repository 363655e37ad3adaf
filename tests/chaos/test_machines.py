"""What is broken breaks as it is said to."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from tests.chaos.machines import wire

PATIENCE_SECONDS = 10.0


async def test_a_silent_cut_is_noticed_by_the_server_alone_and_new_connections_work() -> None:
    over: list[bytes] = []
    is_over = asyncio.Event()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard = b""
        while chunk := await reader.read(100):
            heard += chunk
            writer.write(chunk)
        over.append(heard)
        is_over.set()
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with asyncio.timeout(PATIENCE_SECONDS), wire(f"host=127.0.0.1 port={port}") as found:
        reader, writer = await _said(found.port, b"before")
        found.swallow()
        writer.write(b"after")
        _, other = await _said(found.port, b"new")
        assert not over
        found.end_swallowed()
        await is_over.wait()
        assert over == [b"before"]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.05)
        for one in (writer, other):
            one.close()
            with suppress(OSError):
                await one.wait_closed()
    server.close()


async def _said(port: int, words: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection over which these words came back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(words)
    assert await reader.readexactly(len(words)) == words
    return reader, writer
