"""Dialects: one module per wire format, parse and render over the same use-cases. Quirks never leave their file."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from compat.handler_api import HandlerApi
from gateway.front import Front

PATHS = ("/stubs/handler_api.php", "/stubs/handler_api")
"""Both were served by shops, with and without a slash behind."""


class Dialects:
    """Hands a dialect's paths to it directly, and everything else to the application behind.

    A poll passes no router and no middleware on its way: together they cost it a fifth of its time.
    """

    def __init__(self, front: Front, otherwise: ASGIApp) -> None:
        endpoint = HandlerApi(front)
        self._endpoints: dict[str, ASGIApp] = {path + slash: endpoint for path in PATHS for slash in ("", "/")}
        self._otherwise = otherwise

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._endpoints.get(scope["path"], self._otherwise) if scope["type"] == "http" else self._otherwise
        await app(scope, receive, send)
