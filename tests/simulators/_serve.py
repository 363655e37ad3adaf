"""Serving an ASGI application on a real socket: in a thread for tests, or as a process of its own."""

import argparse
import asyncio
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import uvicorn
from starlette.types import ASGIApp

try:
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol as _HttpProtocol
except ImportError:  # httptools is a wheel, h11 comes with uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol as _HttpProtocol  # type: ignore[assignment]

START_SECONDS = 10.0
DRAIN_SECONDS = 1
TICK_SECONDS = 0.1


class _DroppableProtocol(_HttpProtocol):
    """uvicorn's protocol, whose requests can close their connection unanswered: `scope["state"]["drop_connection"]`.

    uvicorn answers 500 for an application that raises or stays silent, so only the transport itself can do this.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.app_state = {**self.app_state, "drop_connection": transport.close}


class _Server(uvicorn.Server):
    """A server that says where it listens, once it does, and ends as soon as `stop` is called from another thread.

    uvicorn itself looks every tenth of a second whether it shall end, and then waits another: a thousand tests long.
    """

    announce = False
    _loop: asyncio.AbstractEventLoop
    _stopping: asyncio.Event

    def stop(self) -> None:
        self.should_exit = True
        self._loop.call_soon_threadsafe(self._stopping.set)

    async def main_loop(self) -> None:
        ticks = 0
        while not await self.on_tick(ticks):
            ticks += 1
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), TICK_SECONDS)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if not self._stopping.is_set():
            await super().shutdown(sockets)
            return
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        running = list(self.server_state.tasks)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await self.lifespan.shutdown()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        await super().startup(sockets=sockets)
        if self.announce and sockets:
            host, port = sockets[0].getsockname()[:2]
            sys.stdout.write(f"listening on http://{host}:{port}\n")
            sys.stdout.flush()


def _server(app: ASGIApp, log_level: str) -> _Server:
    config = uvicorn.Config(
        app,
        http=_DroppableProtocol,
        ws="none",
        lifespan="auto",
        log_config=None,
        log_level=log_level,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=DRAIN_SECONDS,
    )
    return _Server(config)


def _listen(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    return listener


@contextmanager
def serve(app: ASGIApp, *, host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
    """Serve `app` from a thread and yield its base URL (no trailing slash).

    Leaving the block stops the server; requests still running then are cut off.
    """
    with _listen(host, port) as listener:
        server = _server(app, "critical")
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            _wait_for_start(server, thread)
            yield f"http://{host}:{listener.getsockname()[1]}"
        finally:
            server.stop()
            thread.join(START_SECONDS)


def _wait_for_start(server: uvicorn.Server, thread: threading.Thread) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not server.started:
        if not thread.is_alive() or time.monotonic() > deadline:
            raise RuntimeError("the server did not start")
        time.sleep(0.005)


def run(app: ASGIApp, *, host: str, port: int) -> None:
    """Serve `app` until a signal, after printing `listening on http://HOST:PORT`; port 0 picks a free one."""
    with _listen(host, port) as listener:
        server = _server(app, "warning")
        server.announce = True
        server.run(sockets=[listener])


def parser(description: str) -> argparse.ArgumentParser:
    """The flags every simulator has."""
    flags = argparse.ArgumentParser(description=description, allow_abbrev=False)
    flags.add_argument("--host", default="127.0.0.1")
    flags.add_argument("--port", type=int, default=0, help="0 picks a free port")
    flags.add_argument("--key", action="append", dest="keys", metavar="KEY", help="an accepted key; may be repeated")
    flags.add_argument("--balance", help="money on the account")
    flags.add_argument("--stock", type=int, help="numbers in stock of everything sold")
    flags.add_argument("--sms-delay-seconds", type=float, help="an SMS comes so long after a purchase; negative: never")
    flags.add_argument("--life-seconds", type=float, help="an order ends after so long")
    flags.add_argument("--requests-per-second", type=int, help="more than these are refused as the provider does")
    return flags


def options(flags: argparse.Namespace) -> dict[str, Any]:
    """The flags that were given, as options of `build`."""
    return {name: value for name, value in vars(flags).items() if value is not None and name not in ("host", "port")}
