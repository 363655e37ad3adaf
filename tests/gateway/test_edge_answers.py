"""An answer's head leaves with its body; every byte is what uvicorn by itself would have sent."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway import edge
from gateway.edge import Edge, bounded
from gateway.settings import ServerSettings
from tests.wire import served

App = Callable[[Scope, Receive, Send], Awaitable[None]]
OWN = bounded(Edge.of(ServerSettings()))
LARGE = b"x" * (3 * edge.JOINED_BYTES_MAX)
PATIENCE_SECONDS = 10.0


def head(status: int = 200, *fields: tuple[bytes, bytes]) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": list(fields)}


def body(data: bytes, *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


def saying(*messages: dict[str, Any]) -> App:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        for message in messages:
            await send(message)

    return app


async def failing_after_its_head(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send(head(200, (b"content-length", b"5")))
    raise RuntimeError


APPS: dict[str, App] = {
    "short": saying(head(200, (b"content-length", b"5")), body(b"hello")),
    "large": saying(head(200, (b"content-length", b"%d" % len(LARGE))), body(LARGE)),
    "in pieces": saying(head(), body(b"one", more=True), body(b"", more=True), body(b"two", more=True), body(b"")),
    "pieces of a known length": saying(head(200, (b"content-length", b"6")), body(b"one", more=True), body(b"two")),
    "nothing": saying(head(204), body(b"")),
    "an empty one": saying(head(200, (b"content-length", b"0")), body(b"")),
    "that hangs up": saying(head(200, (b"content-length", b"2"), (b"connection", b"close")), body(b"ok")),
    "that breaks off": failing_after_its_head,
    "that is forgotten": saying(head(200, (b"content-length", b"5"))),
}
GET = b"GET / HTTP/1.1\r\nHost: g\r\n\r\n"
LAST = b"GET / HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n"
REQUESTS = {
    "one": LAST,
    "pipelined": GET + GET + LAST,
    "without a body": b"HEAD / HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n",
    "without a body, and another one": b"HEAD / HTTP/1.1\r\nHost: g\r\n\r\n" + LAST,
    "of old": b"GET / HTTP/1.0\r\n\r\n",
    "that waits to be told to go on": b"POST / HTTP/1.1\r\nHost: g\r\nExpect: 100-continue\r\nContent-Length: 2\r\n"
    b"Connection: close\r\n\r\nok",
}


async def asked(port: int, request: bytes) -> bytes:
    """Everything that comes until the server hangs up, but for the time of day."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        found = await reader.read()
        writer.close()
    return re.sub(rb"date: [^\r]+", b"date: today", found)


@pytest.mark.parametrize("name", APPS)
async def test_every_byte_is_what_uvicorn_sends(name: str) -> None:
    async with served(APPS[name], OWN) as ours, served(APPS[name], HttpToolsProtocol) as plain:
        for request in REQUESTS.values():
            own = await asked(ours, request)
            assert own == await asked(plain, request)
            assert own.startswith(b"HTTP/1.1 ")


class Counting:
    """A connection's transport that keeps what is handed to it, call by call."""

    def __init__(self, transport: asyncio.Transport, handed_over: list[bytes]) -> None:
        self._transport = transport
        self._handed_over = handed_over

    def write(self, data: bytes) -> None:
        self._handed_over.append(data)
        self._transport.write(data)

    def writelines(self, pieces: tuple[bytes, ...]) -> None:
        self._handed_over.append(b"".join(pieces))
        self._transport.writelines(pieces)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


@pytest.mark.parametrize(("app_name", "count"), [("short", 1), ("large", 1), ("nothing", 1), ("in pieces", 4)])
async def test_the_head_leaves_with_the_first_piece_of_the_body(app_name: str, count: int) -> None:
    handed_over: list[bytes] = []

    class Counted(OWN):  # type: ignore[misc, valid-type]
        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(cast(asyncio.Transport, Counting(transport, handed_over)))

    async with served(APPS[app_name], Counted) as port:
        found = await asked(port, LAST)
    assert len(handed_over) == count
    assert handed_over[0].startswith(b"HTTP/1.1 20")
    assert len(b"".join(handed_over)) >= len(found)


async def test_whoever_waits_to_be_told_to_go_on_is_told() -> None:
    async with served(APPS["short"], OWN) as port, asyncio.timeout(PATIENCE_SECONDS):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(REQUESTS["that waits to be told to go on"].removesuffix(b"ok"))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"ok")
        assert (await reader.read()).endswith(b"hello")
        writer.close()


async def test_a_piece_is_there_before_the_next_one_is_made() -> None:
    goes_on = asyncio.Event()

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send(head())
        await send(body(b"one", more=True))
        await goes_on.wait()
        await send(body(b"two"))

    async with served(app, OWN) as port, asyncio.timeout(PATIENCE_SECONDS):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(LAST)
        assert (await reader.readuntil(b"one")).startswith(b"HTTP/1.1 200 OK")
        goes_on.set()
        assert b"two" in await reader.read()
        writer.close()
