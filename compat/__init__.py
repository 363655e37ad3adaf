"""Dialects: one module per wire format, parse and render over the same use-cases. Quirks never leave their file."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.types import ASGIApp, Receive, Scope, Send

from compat._dialect import Dialect
from compat._endpoint import Endpoint
from compat._lists import Lists
from compat._secured import Secured
from compat.daisysms import DaisySms
from compat.dssmshub import DsSmsHub
from compat.fivesim_api1 import FiveSimApi1
from compat.grizzlysms import GrizzlySms
from compat.handler_api import SmsActivate
from compat.herosms import HeroSms
from compat.smsbower import SmsBower
from compat.smshub import SmsHub
from compat.tigersms import TigerSms
from gateway.front import Front

__all__ = ["DIALECTS", "PATHS", "Dialects", "Secured"]

PATHS = ("/stubs/handler_api.php", "/stubs/handler_api")
"""Both were served by shops, with and without a slash behind."""

DIALECTS: Mapping[str, type[Dialect]] = {
    dialect.name: dialect
    for dialect in (SmsActivate, HeroSms, SmsHub, DaisySms, TigerSms, SmsBower, GrizzlySms, DsSmsHub, FiveSimApi1)
}
"""By the name that paths (`/hero/stubs/handler_api.php`), keys and `server.dialect` use."""


class Dialects:
    """Hands a dialect's paths to it directly, and everything else to the application behind.

    A poll passes no router and no middleware on its way: together they cost it a fifth of its time.
    """

    def __init__(self, front: Front, otherwise: ASGIApp, prefixes: Mapping[str, ASGIApp] | None = None) -> None:
        """`prefixes` are further applications by how their paths begin; the longest that fits has the request."""
        lists = Lists()
        dialects = {name: dialect(front, lists) for name, dialect in DIALECTS.items()}
        self._endpoints = dict(_spelt("", Endpoint(front, dialects)))
        for name in dialects:
            self._endpoints.update(_spelt(f"/{name}", Endpoint(front, dialects, name)))
        self._prefixes = sorted((prefixes or {}).items(), key=lambda found: -len(found[0]))
        self._otherwise = otherwise

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._at(scope["path"]) if scope["type"] == "http" else self._otherwise
        await app(scope, receive, send)

    def _at(self, path: str) -> ASGIApp:
        endpoint = self._endpoints.get(path)
        if endpoint is not None:
            return endpoint
        return next((app for prefix, app in self._prefixes if path.startswith(prefix)), self._otherwise)


def _spelt(prefix: str, endpoint: Endpoint) -> Mapping[str, Endpoint]:
    """Every way an endpoint's path is written."""
    return {prefix + path + slash: endpoint for path in PATHS for slash in ("", "/")}
