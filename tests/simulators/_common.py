"""What every simulator shares: time, scheduled events, faults to show, counters and the `/_sim/` control routes.

Sources of the faults: the simulator checklists of the protocol notes (lost answers after a committed purchase, HTML
from an edge, truncated JSON, late answers, limits). Nothing in this package may import the gateway: a parser and its
fake must not be able to agree on the same mistake.
"""

import asyncio
import heapq
import itertools
import json
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

Clock = Callable[[], float]
"""Unix seconds, as `time.time` gives them."""

Amount = Decimal | str | int | float
"""What callers may write for money; floats go through their shortest text, so 0.1 stays 0.1."""

TARGETS = (
    "any", "buy", "status", "list", "close", "prices", "balance",
    "rent", "extend", "reuse", "beside",
)  # fmt: skip
"""Kinds of requests that faults are named after: the last four are a rental, more time for one, a number used again
and a service beside another."""
EFFECTS = (
    "drop", "error", "bad_gateway", "html", "truncated", "wrong_types", "slow", "hang", "rate_limit",
    "cesu8", "nul", "not_utf8",
)  # fmt: skip
"""The last three leave an answer as it is but for its texts and names: see `oddly_written`."""

LIES = frozenset({"denied", "called_finished", "called_cancelled"})
"""Behaviours of those that can lie about the state of an order which is open: that there is none, or that it is over.
Whoever wants to end it is told the truth."""

SLOW_SECONDS = 30.0
HANG_SECONDS = 3600.0

BAD_GATEWAY_PAGE = (
    "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n"
    "<center><h1>502 Bad Gateway</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
)
MAINTENANCE_PAGE = (
    "<!DOCTYPE html><html><head><title>Just a moment...</title></head>"
    "<body><p>We are checking your connection. This may take a few seconds.</p></body></html>"
)


def money(amount: Amount) -> Decimal:
    """The exact decimal a person means by `amount`."""
    return amount if isinstance(amount, Decimal) else Decimal(str(amount))


def compact_json(value: Any) -> str:
    """JSON as these servers print it: no blanks, non-ASCII escaped."""
    return json.dumps(value, separators=(",", ":"))


def json_reply(value: Any, status: int = 200) -> Response:
    return Response(compact_json(value), status, media_type="application/json")


def national_number(serial: int) -> int:
    """Ten digits. The factor shares no divisor with 9 000 000 000, so they repeat only after as many purchases."""
    return 1_000_000_000 + serial * 7_919_000_009 % 9_000_000_000


def find_code(text: str) -> str:
    """The first run of four to eight digits, or an empty string, as providers do for texts they cannot read."""
    found = re.search(r"(?<!\d)\d{4,8}(?!\d)", text)
    return found.group() if found else ""


def wrongly_typed(body: bytes) -> bytes:
    """The answer with nothing in it of the type it should be: objects keep their names, text becomes `null`."""
    try:
        data = json.loads(body)
    except ValueError:
        data = None
    return compact_json(_other_type(data)).encode()


ODDITIES = {
    "cesu8": b"\xed\xa0\xbd\xed\xb8\x80\xed\xa0\xbd",
    "nul": b"\\u0000",
    "not_utf8": b"\xff\xfe\xe9",
}
"""An emoji as some Java programs write it, each half of the pair apart, and a half that lacks the other; what
PostgreSQL's texts can't hold; what is no UTF-8 at all."""

_WORDS = re.compile(rb'("(?:text|smsText|activationOperator|operator|sender|name|countryName)":"|^FULL_SMS:)')


def oddly_written(body: bytes, how: str) -> bytes:
    """The answer with odd bytes before each text of a message, and each name of an operator, service or country."""
    odd = ODDITIES[how]
    return _WORDS.sub(lambda found: found[0] + (b"\0" if how == "nul" and found[0][:1] == b"F" else odd), body)


def _other_type(value: Any) -> Any:
    if isinstance(value, dict) and value:
        return {name: _other_type(inner) for name, inner in value.items()}
    if isinstance(value, list) and value:
        return [_other_type(inner) for inner in value]
    return {"of": ["another", "type"]}


@dataclass(slots=True)
class Shelf:
    """Numbers of one kind, and what one of them costs."""

    price: Decimal
    count: int

    def restock(self, price: Amount | None, count: int | None) -> None:
        """What is None stays."""
        self.price = self.price if price is None else money(price)
        self.count = self.count if count is None else count


class NotOpen(Exception):
    """The order is unknown or has ended, so nothing can be delivered to it."""


class Timeline:
    """Events ordered by time. Running what is due costs nothing while nothing is due, whatever was scheduled."""

    def __init__(self) -> None:
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._serial = itertools.count()

    def at(self, when: float, event: Callable[[float], None]) -> None:
        heapq.heappush(self._events, (when, next(self._serial), event))

    def run(self, now: float) -> None:
        """Run everything due, oldest first; each event is told the time it was due, not the time it ran."""
        while self._events and self._events[0][0] <= now:
            when, _, event = heapq.heappop(self._events)
            event(when)


class RequestRate:
    """How many requests began in the current second; a limit of None counts nothing."""

    def __init__(self, per_second: int | None) -> None:
        self._limit = per_second
        self._second = 0
        self._count = 0

    def exceeded(self, now: float) -> bool:
        if self._limit is None:
            return False
        if int(now) != self._second:
            self._second, self._count = int(now), 0
        self._count += 1
        return self._count > self._limit


@dataclass(slots=True)
class Fault:
    """One fault switched on: for the next `remaining` occasions, or (None) until it is cleared."""

    remaining: int | None
    commit: bool = True
    seconds: float = SLOW_SECONDS
    price: Decimal | None = None

    def raised(self, price: Decimal) -> Decimal:
        """For `overpriced`: what is taken where `price` was asked for."""
        return self.price or price + Decimal("0.5")


class Faults:
    """Which faults are on. A name is either a behaviour (`sold_out`) or `target.effect` (`buy.drop`)."""

    def __init__(self, behaviours: frozenset[str]) -> None:
        self.names = behaviours | {f"{target}.{effect}" for target in TARGETS for effect in EFFECTS}
        self._on: dict[str, Fault] = {}

    def set(
        self,
        name: str,
        count: int | None = None,
        *,
        commit: bool | None = None,
        seconds: float | None = None,
        price: Amount | None = None,
    ) -> None:
        """Switch `name` on for the next `count` occasions (None: until cleared, 0: off).

        `commit` says whether the work is done before the answer is spoiled (default yes, but for `rate_limit`);
        `seconds` belongs to `slow` and `hang`, `price` to `overpriced`.
        """
        if name not in self.names:
            raise ValueError(f"no fault {name!r}; there are: {', '.join(sorted(self.names))}")
        if count is not None and count <= 0:
            self._on.pop(name, None)
            return
        self._on[name] = Fault(
            remaining=count,
            commit=not name.endswith(".rate_limit") if commit is None else commit,
            seconds=_default_seconds(name) if seconds is None else seconds,
            price=None if price is None else money(price),
        )

    def clear(self) -> None:
        self._on.clear()

    def take(self, name: str) -> Fault | None:
        """The fault if it is on, counted as shown once."""
        fault = self._on.get(name)
        if fault is None or fault.remaining is None:
            return fault
        fault.remaining -= 1
        if fault.remaining == 0:
            del self._on[name]
        return fault

    def effect_on(self, target: str) -> tuple[str, Fault] | None:
        """The first effect that is on for this kind of request, counted as shown once."""
        if not self._on:
            return None
        for effect in EFFECTS:
            fault = self.take(f"{target}.{effect}") or self.take(f"any.{effect}")
            if fault is not None:
                return effect, fault
        return None

    def active(self) -> dict[str, int | None]:
        """Names of the faults that are on, with the occasions left (None: until cleared)."""
        return {name: fault.remaining for name, fault in self._on.items()}


def _default_seconds(name: str) -> float:
    return HANG_SECONDS if name.endswith(".hang") else SLOW_SECONDS


class Dropped(Response):
    """No answer at all: the connection is closed with nothing written to it.

    `_serve` puts `drop_connection` into the request's state. Without a connection (an in-process transport) the caller
    gets a ConnectionResetError instead.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        drop = scope.get("state", {}).get("drop_connection")
        if drop is None:
            raise ConnectionResetError("the simulator dropped the connection")
        drop()
        while (await receive())["type"] != "http.disconnect":
            pass


async def left_within(request: Request, seconds: float) -> bool:
    """Wait `seconds`, or until the client hangs up; true if it hung up."""
    try:
        async with asyncio.timeout(seconds):
            while (await request.receive())["type"] != "http.disconnect":
                pass
    except TimeoutError:
        return False
    return True


class Simulator(ABC):
    """State and controls common to all simulators. Time only ever comes from `clock` (plus what was skipped).

    Served from a thread, a simulator may be steered from another between requests; it holds no locks.
    """

    def __init__(
        self, *, clock: Clock, behaviours: frozenset[str], requests_per_second: int | None, balance: Amount
    ) -> None:
        self._clock = clock
        self._skipped = 0.0
        self._rate = RequestRate(requests_per_second)
        self.timeline = Timeline()
        self.faults = Faults(behaviours)
        self.requests: Counter[str] = Counter()
        self.balance = money(balance)
        self.purchases = 0
        self.called_over: set[str] = set()
        """Open orders that were told of in the words for one whose money was given back."""

    def now(self) -> float:
        return self._clock() + self._skipped

    def skip(self, seconds: float) -> None:
        """Let `seconds` pass at once: deliveries and expiries due by then happen."""
        self._skipped += seconds
        self.advance()

    def advance(self) -> None:
        """Run what has become due; every request does this first."""
        self.timeline.run(self.now())

    def after(self, seconds: float | None, event: Callable[[float], None]) -> None:
        """Let something happen in so many seconds; never for None, or less than none."""
        if seconds is not None and seconds >= 0:
            self.timeline.at(self.now() + seconds, event)

    def over_limit(self) -> bool:
        return self._rate.exceeded(self.now())

    def fault(
        self,
        name: str,
        count: int | None = None,
        *,
        commit: bool | None = None,
        seconds: float | None = None,
        price: Amount | None = None,
    ) -> None:
        """See `Faults.set`."""
        self.faults.set(name, count, commit=commit, seconds=seconds, price=price)

    def clear_faults(self) -> None:
        self.faults.clear()

    @abstractmethod
    def deliver(self, order_id: str, text: str, code: str | None = None) -> None:
        """An SMS arrives now; without `code` the provider finds it in the text. NotOpen if the order has ended."""

    @abstractmethod
    def restock(self, **change: Any) -> None:
        """Set stock or price; the members are those of `POST /_sim/stock`."""

    @abstractmethod
    def order_views(self) -> list[dict[str, Any]]:
        """Every order ever made, oldest first."""

    @abstractmethod
    def server_error(self) -> Response:
        """This provider's answer when it breaks."""

    @abstractmethod
    def rate_limited(self) -> Response:
        """This provider's answer above its request limit."""

    def counters(self) -> dict[str, Any]:
        """Everything that is counted, without the orders."""
        return {
            "balance": str(self.balance),
            "purchases": self.purchases,
            "requests": dict(self.requests),
            "faults": self.faults.active(),
        }

    def state(self) -> dict[str, Any]:
        self.advance()
        return {**self.counters(), "orders": self.order_views()}

    async def answer(self, request: Request, target: str, respond: Callable[[], Response]) -> Response:
        """What the client sees: `respond()`, or what a fault that is on for `target` makes of it."""
        shown = self.faults.effect_on(target)
        if shown is None:
            return respond()
        effect, fault = shown
        if effect in ("slow", "hang"):
            return await _late(request, fault, respond)
        response = respond() if fault.commit or effect == "truncated" else Response()
        return self._spoiled(effect, response)

    def _spoiled(self, effect: str, response: Response) -> Response:
        match effect:
            case "drop":
                return Dropped()
            case "error":
                return self.server_error()
            case "bad_gateway":
                return HTMLResponse(BAD_GATEWAY_PAGE, status_code=502)
            case "html":
                return HTMLResponse(MAINTENANCE_PAGE)
            case "truncated":
                half = bytes(response.body)[: len(response.body) // 2]
                return Response(half, response.status_code, media_type=response.headers.get("content-type"))
            case "wrong_types":
                body = wrongly_typed(bytes(response.body))
                return Response(body, response.status_code, media_type=response.headers.get("content-type"))
            case "rate_limit":
                return self.rate_limited()
            case "cesu8" | "nul" | "not_utf8":
                body = oddly_written(bytes(response.body), effect)
                return Response(body, response.status_code, headers=_but_length(response))
        raise AssertionError(effect)


def _but_length(response: Response) -> dict[str, str]:
    return {name: value for name, value in response.headers.items() if name != "content-length"}


async def _late(request: Request, fault: Fault, respond: Callable[[], Response]) -> Response:
    """Answer after `fault.seconds`; uncommitted work is done only for a client that is still there."""
    if fault.commit:
        response = respond()
        await left_within(request, fault.seconds)
        return response
    return Response() if await left_within(request, fault.seconds) else respond()


# --- control routes ---------------------------------------------------------------------------------------------------


def control_routes(sim: Simulator) -> list[Route]:
    """`/_sim/…`: for tests and people; no provider has these. A mistake answers 400 with `{"error": …}`."""

    async def faults(request: Request) -> Response:
        if request.method == "DELETE":
            sim.clear_faults()
            return _json(sim.faults.active())
        return await _apply(request, lambda body: _set_faults(sim, body), lambda: sim.faults.active())

    async def state(request: Request) -> Response:
        sim.advance()
        return _json(sim.counters() if request.query_params.get("orders") == "none" else sim.state())

    async def sms(request: Request) -> Response:
        return await _apply(request, lambda body: _deliver(sim, body), sim.counters)

    async def stock(request: Request) -> Response:
        return await _apply(request, lambda body: sim.restock(**body), sim.counters)

    async def skip(request: Request) -> Response:
        return await _apply(request, lambda body: sim.skip(float(body["seconds"])), sim.counters)

    return [
        Route("/_sim/faults", faults, methods=["POST", "DELETE"]),
        Route("/_sim/state", state),
        Route("/_sim/sms", sms, methods=["POST"]),
        Route("/_sim/stock", stock, methods=["POST"]),
        Route("/_sim/skip", skip, methods=["POST"]),
    ]


def _json(value: Any, status: int = 200) -> Response:
    return Response(json.dumps(value), status, media_type="application/json")


async def _apply(request: Request, change: Callable[[Any], None], view: Callable[[], Any]) -> Response:
    try:
        change(await request.json())
    except (ValueError, TypeError, KeyError, ArithmeticError, NotOpen) as mistake:
        return _json({"error": f"{type(mistake).__name__}: {mistake}"}, 400)
    return _json(view())


def _set_faults(sim: Simulator, body: dict[str, Any]) -> None:
    """`{name: true | false | n | {"count": n, "commit": …, "seconds": …, "price": …}}`."""
    for name, setting in body.items():
        if isinstance(setting, dict):
            sim.fault(name, **setting)
        elif isinstance(setting, bool):
            sim.fault(name, None if setting else 0)
        else:
            sim.fault(name, int(setting))


def _deliver(sim: Simulator, body: dict[str, Any]) -> None:
    sim.deliver(str(body["id"]), body["text"], body.get("code"))
