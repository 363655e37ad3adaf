"""Dialects: one module per wire format, parse and render over the same use-cases. Quirks never leave their file."""

from __future__ import annotations

from starlette.routing import Route

from compat.handler_api import HandlerApi
from gateway.front import Front

PATHS = ("/stubs/handler_api.php", "/stubs/handler_api")
"""Both were served by shops, with and without a slash behind."""


def routes(front: Front) -> list[Route]:
    """The routes of every dialect."""
    endpoint = HandlerApi(front)
    return [Route(path + slash, endpoint, methods=None) for path in PATHS for slash in ("", "/")]
