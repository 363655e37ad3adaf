"""What the gateway is measured against: the least a server made of the same parts can do.

`python -m bench.bare plain` answers every poll alike; `python -m bench.bare pass URL` buys upstream and passes the
answer on, with no price, no money and no memory. Both run uvicorn on uvloop and httptools without an access log.
"""

from __future__ import annotations

import argparse
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import uvicorn
from httpx_aiohttp import AiohttpTransport
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

PATH = "/stubs/handler_api.php"
BACKLOG = 2048


def plain() -> Starlette:
    """The answer of a waiting activation, whatever is asked."""

    async def answer(_request: Request) -> Response:
        return PlainTextResponse("STATUS_WAIT_CODE")

    return Starlette(routes=[Route(PATH, answer)])


def pass_through(url: str) -> Starlette:
    """Asks `url` once per request and passes the body on."""
    client = httpx.AsyncClient(transport=AiohttpTransport())

    async def answer(_request: Request) -> Response:
        found = await client.get(url)
        return Response(found.content, found.status_code, media_type=found.headers.get("content-type"))

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        async with client:
            yield

    return Starlette(routes=[Route(PATH, answer)], lifespan=lifespan)


def main() -> None:
    flags = argparse.ArgumentParser()
    flags.add_argument("kind", choices=("plain", "pass"))
    flags.add_argument("url", nargs="?", default="")
    given = flags.parse_args()
    app = plain() if given.kind == "plain" else pass_through(given.url)
    config = uvicorn.Config(
        app, loop="uvloop", http="httptools", access_log=False, server_header=False, log_level="warning"
    )
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(BACKLOG)
        print(f"listening on http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
        uvicorn.Server(config).run([listener])


if __name__ == "__main__":
    main()
