"""Bytes on a wire: a gateway whose time stands still, served on a real socket, and requests spelt out to the byte."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from email.parser import BytesParser
from pathlib import Path
from typing import Any
from unittest.mock import patch

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway import accounts, ledger
from gateway.app import Gateway
from gateway.database import Database, open_database
from gateway.edge import Edge, bounded
from gateway.errors import Unavailable
from gateway.poller import Poller
from gateway.store import Tx
from tests.harness import add_account

NOON = 1_748_779_200.0
"""2025-06-01 12:00:00 UTC."""


@dataclass
class StillClock:
    """Time that passes when it is told to."""

    now: float = NOON

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class Answer:
    """One answer, as it came over the wire. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass
class StillHouse:
    """A gateway without its loops: what they do happens in `passes`, so that every answer is foreseeable."""

    gateway: Gateway
    database: Database
    clock: StillClock
    keys: dict[str, str] = field(default_factory=dict)

    async def open_account(self, name: str, balance: str) -> None:
        self.keys[name] = await add_account(self.database, name, balance)

    async def passes(self, seconds: float) -> None:
        """Moves the clock on, and does everything that falls due until then."""
        self.clock.now += seconds
        await self.gateway.callers.refresh()
        await self.gateway.sessions.refresh()
        for name in self.gateway.house.upstreams:
            await Poller(self.gateway.house, self.gateway.activations, name).sweep()
        await self.gateway.activations.expire()
        await self.gateway.activations.keep_rentals()
        await self.gateway.activations.close_upstream()

    @contextmanager
    def database_away(self) -> Iterator[None]:
        """Nothing can be read or written."""

        async def away(*_args: object, **_more: object) -> None:
            raise Unavailable

        with patch.multiple(self.database.store, run=away, read=away):
            yield

    async def balance(self, name: str) -> tuple[int, int, int]:
        """Available and held micro-units, and how many activations are open."""

        def read(tx: Tx) -> tuple[int, int, int]:
            found = ledger.balance(tx, accounts.find(tx, name)["id"])
            return found.available.micros, found.held.micros, found.open_count

        return await self.database.store.read(read)

    async def problems(self) -> list[str]:
        return await self.database.store.read(ledger.verify)


@asynccontextmanager
async def still_house(directory: Path, values: Mapping[str, str]) -> AsyncIterator[StillHouse]:
    """A gateway at noon on the first of June 2025, with no account yet."""
    clock = StillClock()
    database = await asyncio.to_thread(open_database, values)
    house = StillHouse(Gateway(directory, values, database, clock), database, clock)
    try:
        yield house
    finally:
        await house.gateway.stop()


@asynccontextmanager
async def on_a_socket(gateway: Gateway) -> AsyncIterator[int]:
    """Serves a gateway the way `simroute serve` does; the port."""
    async with served(gateway.app, bounded(Edge.of(gateway.house.settings.gateway.server))) as port:
        yield port


@asynccontextmanager
async def served(app: Any, protocol: type[HttpToolsProtocol]) -> AsyncIterator[int]:
    """Serves an application on a loopback socket; the port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            http=protocol,
            ws="none",
            lifespan="off",
        )
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve([listener]))
        while not server.started:  # noqa: ASYNC110 — uvicorn has no event for it
            await asyncio.sleep(0.005)
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            await serving


async def exchange(port: int, request: bytes) -> Answer:
    """Sends the bytes on a connection of their own and reads until the server closes it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        async with asyncio.timeout(20):
            return parse_answer(await reader.read())
    finally:
        writer.close()
        await writer.wait_closed()


def parse_answer(raw: bytes) -> Answer:
    """One whole answer taken apart."""
    head, _, body = raw.partition(b"\r\n\r\n")
    first, _, fields = head.partition(b"\r\n")
    parsed = BytesParser().parsebytes(fields + b"\r\n\r\n", headersonly=True)
    return Answer(int(first.split()[1]), {name.lower(): value for name, value in parsed.items()}, body)


def get(port: int, target: str, *lines: str) -> bytes:
    """One blocking request to a server process, read until it closes; the raw answer."""
    request = "\r\n".join([f"GET {target} HTTP/1.1", "Host: gateway", "Connection: close", *lines, "", ""])
    return raw(port, request.encode("latin-1"))


def raw(port: int, request: bytes, seconds: float = 10.0) -> bytes:
    """Sends bytes and reads until the server closes the connection, or until time is up."""
    found = b""
    with socket.create_connection(("127.0.0.1", port), seconds) as connection:
        connection.sendall(request)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and (chunk := connection.recv(65536)):
            found += chunk
    return found
