"""The upstreams of the storm: simulators on real sockets, told to fail, and what they sold as they have it."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tests.chaos.machines import Clock
from tests.simulators import fivesim, handler_api, vaksms
from tests.simulators._common import Simulator
from tests.simulators._serve import serve

NAMES = ("herosms", "fivesim", "vaksms")
KEYS = {name: f"{name}Key0123456789abcdefghij{name}" for name in NAMES}
"""Long enough to be known again in a log."""

LIAR = "herosms"
"""Whose account is ours alone, so that what it hides is found there."""

LISTLESS = "vaksms"
"""Cannot be asked what it sold."""

UNTOLD = ("overpriced", LISTLESS)
"""It does not tell what a number cost, so nobody could book another price than the one listed (`docs/upstreams.md`)."""

BALANCE = "100000"
SMS_SECONDS = (0.5, 1.0, 2.0, 4.0, 8.0, None)
"""After how long a message comes; None for never. Clients that wait give up in between."""

EARLY_CANCEL_SECONDS = 2.0
LIFE_SECONDS = 1200.0
REFUNDED = frozenset({"cancelled", "CANCELED", "BANNED", "TIMEOUT"})

ROUTING = """
policy = "priority"

[[rule]]
services = ["tg", "wa"]
upstreams = ["herosms", "fivesim", "vaksms"]

[[rule]]
services = ["fb", "ds"]
upstreams = ["fivesim", "vaksms", "herosms"]

[[rule]]
services = ["am"]
upstreams = ["vaksms", "herosms", "fivesim"]
"""
"""Each is turned to first for something."""

STANZAS = """
[herosms]
base_url = "{herosms}/stubs/handler_api.php"
poll_seconds = 0.2
status_calls_per_second = 50.0
offers_seconds = 2.0
balance_seconds = 2.0
exclusive = true

[fivesim]
base_url = "{fivesim}/v1"
poll_seconds = 0.2
status_calls_per_second = 50.0
offers_seconds = 2.0
balance_seconds = 2.0

[vaksms]
base_url = "{vaksms}/api"
currency = "RUB"
poll_seconds = 0.2
status_calls_per_second = 50.0
offers_seconds = 2.0
balance_seconds = 2.0
cancel_wait_seconds = 2.0
"""


@dataclass(frozen=True, slots=True)
class Sold:
    """An order as its seller has it. Money in micro-units of its currency; times by the seller's clock."""

    upstream: str
    reference: str
    number: str
    cost: int
    bought_at: float
    state: str
    is_paid: bool
    """Not given back: also while it is open."""

    codes: tuple[str, ...]
    """Everything that came for it, the oldest first."""


class Liar:
    """In front of a simulator: sells, and says that there was nothing."""

    def __init__(self, app: ASGIApp, sim: Simulator) -> None:
        self._app, self._sim = app, sim
        self.is_lying = False
        self.hidden: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not (self.is_lying and scope["type"] == "http" and b"action=getNumber" in scope["query_string"]):
            await self._app(scope, receive, send)
            return
        before = self._sim.purchases
        answer: list[Message] = []

        async def keep(message: Message) -> None:
            answer.append(message)

        await self._app(scope, receive, keep)
        bought = self._sim.order_views()[before:]
        if bought:
            self.hidden += [view["id"] for view in bought]
            self._sim.fault("sold_out", 1)
            await self._app(scope, receive, send)
            return
        for message in answer:
            await send(message)


class Upstreams:
    """All of them, by their places in `NAMES`."""

    def __init__(self, sims: Mapping[str, Any], liar: Liar, addresses: Mapping[str, str]) -> None:
        self._sims = sims
        self._liar = liar
        self.stanzas = STANZAS.format(**addresses)

    @property
    def hidden(self) -> frozenset[tuple[str, str]]:
        """What was sold and denied."""
        return frozenset((LIAR, reference) for reference in self._liar.hidden)

    @property
    def called_over(self) -> frozenset[tuple[str, str]]:
        """What was open, and told of in the words for what was given back."""
        return frozenset((name, reference) for name, sim in self._sims.items() for reference in sim.called_over)

    def begin(self, place: int, fault: str, commit: bool | None, seconds: float) -> None:
        """A fault, until it is ended. What hangs lets go a little later than the fault ends."""
        if fault == "buy.lie":
            self._liar.is_lying = True
        else:
            self._able(place, fault).fault(fault, commit=commit, seconds=seconds + 1.0)

    def end(self, place: int, fault: str) -> None:
        if fault == "buy.lie":
            self._liar.is_lying = False
        else:
            self._able(place, fault).fault(fault, 0)

    def _able(self, place: int, fault: str) -> Simulator:
        """The one in that place, or the next one that can show the fault."""
        names = NAMES[place:] + NAMES[:place]
        able = (name for name in names if fault in self._sims[name].faults.names and (fault, name) != UNTOLD)
        sim: Simulator = self._sims[next(able)]
        return sim

    def mend(self) -> None:
        self._liar.is_lying = False
        for sim in self._sims.values():
            sim.clear_faults()

    def change_pace(self, chance: random.Random) -> None:
        """Numbers sold from now on get their messages sooner, or later."""
        for sim in self._sims.values():
            sim.sms_delay_seconds = chance.choice(SMS_SECONDS)

    def advance(self) -> None:
        """Lets happen what is due, though nobody asks."""
        for sim in self._sims.values():
            sim.advance()

    def sold(self) -> list[Sold]:
        """Everything that was ever sold to us."""
        return [_sold(name, order) for name, sim in self._sims.items() for order in _orders(sim)]

    def spent(self) -> dict[str, int]:
        """What our accounts there have less by now, orders that are open included."""
        return {name: _micros(Decimal(BALANCE) - sim.balance) for name, sim in self._sims.items()}


def _orders(sim: Any) -> list[Any]:
    return list(sim.orders) if isinstance(sim.orders, list) else list(sim.orders.values())


def _sold(name: str, order: Any) -> Sold:
    state = str(getattr(order, "state", "") or order.status)
    return Sold(
        upstream=name,
        reference=str(order.id),
        number=str(order.phone).removeprefix("+"),
        cost=_micros(order.price),
        bought_at=order.bought_at,
        state=state,
        is_paid=state not in REFUNDED and not (state == "expired" and not order.sms),
        codes=tuple(sms.code for sms in order.sms),
    )


def _micros(amount: Decimal) -> int:
    return int(amount * 1_000_000)


@contextmanager
def upstreams(clock: Clock) -> Iterator[Upstreams]:
    """Serves them, well so far."""
    hero, five, vak = (
        handler_api.build(
            brand="herosms",
            keys=[KEYS["herosms"]],
            balance=BALANCE,
            early_cancel_seconds=EARLY_CANCEL_SECONDS,
            life_seconds=LIFE_SECONDS,
            clock=clock,
        ),
        fivesim.build(
            keys=[KEYS["fivesim"]],
            balance=BALANCE,
            life_seconds=LIFE_SECONDS,
            clock=clock,
        ),
        vaksms.build(
            keys=[KEYS["vaksms"]],
            balance=BALANCE,
            cancel_wait_seconds=EARLY_CANCEL_SECONDS,
            life_seconds=LIFE_SECONDS,
            clock=clock,
        ),
    )
    liar = Liar(hero, hero.state.sim)
    sims = {"herosms": hero.state.sim, "fivesim": five.state.sim, "vaksms": vak.state.sim}
    with ExitStack() as stack:
        apps: Mapping[str, ASGIApp] = {"herosms": liar, "fivesim": five, "vaksms": vak}
        yield Upstreams(sims, liar, {name: stack.enter_context(serve(app)) for name, app in apps.items()})
