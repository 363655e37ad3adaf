"""Clients' connections where file descriptors run short: those who talk are served, those who only hold a place go."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.guard import LOOK_SECONDS, Guard

SILENT_SECONDS = 3.0
"""A connection on which nothing was asked for so long can be closed: no client connects that long beforehand."""


class Guarded(HttpToolsProtocol):
    """A connection that would take one of the last descriptors is closed at once."""

    guard: ClassVar[Guard]
    made_at = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.made_at = self.loop.time()
        descriptor = transport.get_extra_info("socket").fileno()
        if self.guard.is_too_many(descriptor):
            transport.abort()


def protocol(guard: Guard, base: type[HttpToolsProtocol]) -> type[HttpToolsProtocol]:
    """The protocol of a server with this guard, which does besides what `base` does."""
    return type("Guarded", (Guarded, base), {"guard": guard})


async def keep_room(server: uvicorn.Server, guard: Guard) -> None:
    """While descriptors are short, closes connections on which nobody ever asked for anything."""
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        if not guard.is_short_of_descriptors:
            continue
        before = asyncio.get_running_loop().time() - SILENT_SECONDS
        for connection in [one for one in server.server_state.connections if _is_silent(one, before)]:
            connection.transport.abort()


def _is_silent(connection: Any, before: float) -> bool:
    return connection.cycle is None and getattr(connection, "made_at", before) < before
