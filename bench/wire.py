"""A load generator's HTTP: one request at a time on a keep-alive connection, and no more parsing than that needs.

It understands answers with a Content-Length, which is all that the servers measured here send. What it costs is the
same for every server.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import cast

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)

OnAnswer = Callable[[bytes, bytes], None]
"""Told the status, three digits, and the body."""


def get(path: str) -> bytes:
    """The bytes of a GET. No Accept-Encoding: bodies come as they are."""
    return f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode()


def post(path: str, body: bytes) -> bytes:
    """The bytes of a POST of JSON."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Connection(asyncio.Protocol):
    """One connection. `send` and wait for `on_answer` before the next `send`: there is no pipelining."""

    def __init__(self, on_lost: Callable[[], None]) -> None:
        self._on_lost = on_lost
        self._on_answer: OnAnswer = _nobody
        self._transport: asyncio.Transport | None = None
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name

    def connection_lost(self, _error: Exception | None) -> None:
        self._on_lost()

    def close(self) -> None:
        """Hangs up; `on_lost` is not told."""
        self._on_lost = _nothing
        if self._transport is not None:
            self._transport.close()

    def send(self, request: bytes, on_answer: OnAnswer) -> None:
        """Sends one request; `on_answer` is called once its whole answer is here."""
        assert self._transport is not None
        self._on_answer = on_answer
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        head_ends = buffer.find(b"\r\n\r\n")
        if head_ends < 0:
            self._buffer = buffer
            return
        found = _LENGTH.search(buffer, 0, head_ends)
        end = head_ends + 4 + (int(found.group(1)) if found else 0)
        if len(buffer) < end:
            self._buffer = buffer
            return
        self._buffer = b""
        self._on_answer(buffer[9:12], buffer[head_ends + 4 : end])


def _nobody(_status: bytes, _body: bytes) -> None:
    raise ConnectionError("an answer to no question")


def _nothing() -> None:
    return


async def connect(port: int, on_lost: Callable[[], None]) -> Connection:
    """A connection to a server on this machine; `on_lost` is told when the server hangs up."""
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(lambda: Connection(on_lost), "127.0.0.1", port)
    return connection


class Client:
    """A connection for code that would rather wait: `ask` returns the body."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._connection: Connection | None = None
        self._answer: asyncio.Future[bytes] | None = None

    async def ask(self, request: bytes) -> bytes:
        """The body of a 200. Raises ConnectionError on any other answer, or none."""
        if self._connection is None:
            self._connection = await connect(self._port, self._lost)
        self._answer = asyncio.get_running_loop().create_future()
        self._connection.send(request, self._answered)
        return await self._answer

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def _answered(self, status: bytes, body: bytes) -> None:
        if self._answer is None or self._answer.done():
            return
        if status == b"200":
            self._answer.set_result(body)
        else:
            self._answer.set_exception(ConnectionError(f"status {status.decode()}: {body[:200]!r}"))

    def _lost(self) -> None:
        self._connection = None
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionError("the server hung up"))
