"""What a browser is told of every page and answer that is not a wire format's: its headers are part of the wire.

Wire formats say the least of it, and only where their text could be taken for a page (`_wire.NOT_A_PAGE`).
"""

from __future__ import annotations

from collections.abc import Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS: Sequence[tuple[bytes, bytes]] = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),  # addresses may hold keys
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"),
    (b"cache-control", b"no-store"),
)


class Secured:
    """An application whose answers carry these headers, but for those it sets itself."""

    def __init__(self, app: ASGIApp, hsts_seconds: int) -> None:
        """`hsts_seconds` is for how long browsers shall come by HTTPS only; nought says nothing of it."""
        self._app = app
        hsts = (b"strict-transport-security", b"max-age=%d" % hsts_seconds)
        self._headers = (*HEADERS, hsts) if hsts_seconds else HEADERS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = list(message.get("headers", ()))
                names = {name.lower() for name, _ in given}
                message["headers"] = [*given, *(header for header in self._headers if header[0] not in names)]
            await send(message)

        await self._app(scope, receive, secured)
