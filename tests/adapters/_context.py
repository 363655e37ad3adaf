"""What adapter tests share: a context without a network, a small catalogue, a transport that plays a script."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from gateway.model import BuyOrder, Watched
from gateway.money import Money
from gateway.upstream import Context

SECRET = "key-of-this-test"


@dataclass(frozen=True)
class SmallCatalog:
    service_names: Mapping[str, str] = field(
        default_factory=lambda: {"tg": "Telegram", "wa": "WhatsApp", "am": "Amazon", "xx": "Nobody's"}
    )
    country_iso2: Mapping[int, str] = field(
        default_factory=lambda: {0: "RU", 6: "ID", 12: "US", 16: "GB", 43: "DE", 182: "JP", 187: "US"}
    )
    country_prefix: Mapping[int, str] = field(
        default_factory=lambda: {0: "7", 6: "62", 12: "1", 16: "44", 43: "49", 182: "81", 187: "1"}
    )


@dataclass
class Observed:
    calls: list[tuple[str, str]] = field(default_factory=list)

    def __call__(self, verb: str, outcome: str, seconds: float) -> None:
        assert seconds >= 0
        self.calls.append((verb, outcome))


def context(transport: httpx.AsyncBaseTransport | None = None, **changes: Any) -> Context:
    given = {"name": "there", "currency": "USD", "names": SmallCatalog(), "clock": lambda: 0.0, "secret": SECRET}
    return Context(transport=transport, **{**given, **changes})


def order(service: str = "tg", country: int = 16, cost_max: int = 500_000, **changes: Any) -> BuyOrder:
    given = {"operator": "", "timeout_seconds": 5.0}
    return BuyOrder(service, country, cost_max=Money(cost_max, "USD"), **{**given, **changes})


def watched(reference: str = "77", round_: int = 1) -> Watched:
    return Watched(reference, round_)


class Script(httpx.MockTransport):
    """Answers by `reply(request)`; keeps every request."""

    def __init__(self, reply: Callable[[httpx.Request], httpx.Response]) -> None:
        self.requests: list[httpx.Request] = []

        def kept(request: httpx.Request) -> httpx.Response:
            self.requests.append(request)
            return reply(request)

        super().__init__(kept)
