"""The engine behind simulators that sell one number for one service: stock, money and the life of an order.

What a provider calls these things, and what it says of them, is told by its own module.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.simulators._common import (
    Amount,
    Clock,
    NotOpen,
    Shelf,
    Simulator,
    control_routes,
    find_code,
    money,
    national_number,
)

BEHAVIOURS = frozenset({"bad_key", "no_balance", "sold_out", "overpriced", "sms_on_cancel", "repeat_sms", "no_sms"})

State = Literal["waiting", "received", "finished", "cancelled", "expired"]
OPEN_STATES: frozenset[State] = frozenset({"waiting", "received"})


@dataclass(frozen=True, slots=True)
class Sms:
    text: str
    code: str
    at: float


@dataclass(slots=True)
class Order:
    id: str
    service: str
    country: str
    phone: str
    price: Decimal
    bought_at: float
    ends_at: float
    state: State = "waiting"
    sms: list[Sms] = field(default_factory=list)
    new_from: int = 0
    """Messages before this one were there when another was asked for."""

    @property
    def is_open(self) -> bool:
        return self.state in OPEN_STATES

    @property
    def new_sms(self) -> list[Sms]:
        return self.sms[self.new_from :]


class Refusal(Exception):
    """The provider's word for why not."""

    def __init__(self, word: str) -> None:
        super().__init__(word)
        self.word = word


class NoneLeft(Exception):
    """None in stock, at this price."""


class NoFunds(Exception):
    """The account can't pay for it."""


class Shop(Simulator):
    """Stock, balance and orders of one account. A purchase moves its price from `balance` to `held`."""

    first_id = 100_000
    behaviours = BEHAVIOURS

    def __init__(
        self,
        *,
        keys: Iterable[str],
        balance: Amount,
        goods: Mapping[str, Amount],
        countries: Mapping[str, str],
        stock: int,
        sms_delay_seconds: float | None,
        cancel_wait_seconds: float,
        life_seconds: float,
        requests_per_second: int | None,
        clock: Clock,
    ) -> None:
        """`goods` are prices by service, `countries` dialling prefixes by country."""
        super().__init__(
            clock=clock, behaviours=self.behaviours, requests_per_second=requests_per_second, balance=balance
        )
        self.keys = frozenset(keys)
        self.held = Decimal(0)
        self.prefixes = countries
        self.sms_delay_seconds = sms_delay_seconds
        self.cancel_wait_seconds = cancel_wait_seconds
        self.life_seconds = life_seconds
        self.shelves = {
            (service, country): Shelf(money(price) + Decimal(place) / 100, stock)
            for service, price in goods.items()
            for place, country in enumerate(countries)
        }
        self.orders: dict[str, Order] = {}

    # what happens to an order

    def buy(self, service: str, country: str, price_max: Decimal | None = None) -> Order:
        """A number that fits, paid for. Raises NoneLeft or NoFunds."""
        shelf = self.shelves[service, country]
        overpriced = self.faults.take("overpriced")
        if shelf.count <= 0 or self.faults.take("sold_out"):
            raise NoneLeft
        if price_max is not None and shelf.price > price_max and overpriced is None:
            raise NoneLeft
        price = overpriced.raised(shelf.price) if overpriced else shelf.price
        if self.faults.take("no_balance") or self.balance < price:
            raise NoFunds
        shelf.count -= 1
        self.balance -= price
        self.held += price
        return self._open(service, country, price)

    def _open(self, service: str, country: str, price: Decimal) -> Order:
        now = self.now()
        self.purchases += 1
        order = Order(
            id=self.order_id(self.purchases),
            service=service,
            country=country,
            phone=f"{self.prefixes[country]}{national_number(self.purchases)}",
            price=price,
            bought_at=now,
            ends_at=now + self.life_seconds,
        )
        self.orders[order.id] = order
        self.timeline.at(order.ends_at, lambda when: self._expire(order))
        self._expect_sms(order)
        return order

    def order_id(self, serial: int) -> str:
        return str(self.first_id + serial)

    def _expect_sms(self, order: Order) -> None:
        self.after(self.sms_delay_seconds, lambda when: self._auto_deliver(order, when))

    def _auto_deliver(self, order: Order, when: float) -> None:
        if order.is_open and not self.faults.take("no_sms"):
            code = str(10_000 + (self.purchases * 31 + len(order.sms) * 7) % 90_000)
            self._receive(order, Sms(f"Your code is {code}", code, when))

    def _receive(self, order: Order, sms: Sms) -> None:
        order.sms.extend([sms, sms] if self.faults.take("repeat_sms") else [sms])
        order.state = "received"

    def deliver(self, order_id: str, text: str, code: str | None = None) -> None:
        self.advance()
        order = self.orders.get(order_id)
        if order is None or not order.is_open:
            raise NotOpen(order_id)
        self._receive(order, Sms(text, find_code(text) if code is None else code, self.now()))

    def ask_again(self, order: Order) -> None:
        """Wait for another message; asking while one is awaited changes nothing."""
        if order.new_sms:
            order.new_from = len(order.sms)
            order.state = "waiting"
            self._expect_sms(order)

    def finish(self, order: Order) -> None:
        self._end(order, "finished", refund=False)

    def give_back(self, order: Order) -> None:
        self._end(order, "cancelled", refund=True)

    def is_early(self, order: Order) -> bool:
        return self.now() - order.bought_at < self.cancel_wait_seconds

    def met_by_sms(self, order: Order) -> bool:
        """Whether a message came together with a cancel."""
        if self.faults.take("sms_on_cancel"):
            self.deliver(order.id, "Your code is 24680")
            return True
        return False

    def _expire(self, order: Order) -> None:
        if order.is_open:
            self._end(order, "finished" if order.sms else "expired", refund=not order.sms)

    def _end(self, order: Order, state: State, *, refund: bool) -> None:
        order.state = state
        self.held -= order.price
        if refund:
            self.balance += order.price

    # what tests and people do to it

    def restock(self, **change: Any) -> None:
        """`service`, `country`, and any of `price` and `count`."""
        self.set_stock(**change)

    def set_stock(self, service: str, country: str, *, price: Amount | None = None, count: int | None = None) -> None:
        if (service, country) not in self.shelves:
            raise ValueError(f"this provider sells no {service!r} in {country!r}")
        shelf = self.shelves[service, country]
        shelf.restock(price, count)

    def counters(self) -> dict[str, Any]:
        return {**super().counters(), "held": str(self.held)}

    def order_views(self) -> list[dict[str, Any]]:
        return [
            {
                "id": order.id,
                "service": order.service,
                "country": order.country,
                "phone": order.phone,
                "price": str(order.price),
                "state": order.state,
                "sms": [{"text": sms.text, "code": sms.code} for sms in order.sms],
            }
            for order in self.orders.values()
        ]

    # what it says

    @abstractmethod
    def answer_to(self, name: str, params: Mapping[str, str], headers: Mapping[str, str]) -> Response:
        """The answer of one call. Raises nothing."""

    def over_the_limit(self) -> Response:
        """The answer above its request limit."""
        return self.rate_limited()


async def _parameters(request: Request) -> dict[str, str]:
    """Query, and the members of a JSON or form body over it. JSON's `true` is `true`, its null is absent."""
    params = dict(request.query_params)
    body = await request.body()
    if request.headers.get("content-type", "").startswith("application/json") and body:
        members = await request.json()
        texts = {name: _text(value) for name, value in members.items() if value is not None}
        return {**params, **texts}
    if body:
        return {**params, **dict(parse_qsl(body.decode(), keep_blank_values=True))}
    return params


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def application(sim: Shop, calls: Mapping[str, str], path: Callable[[str], tuple[str, ...]]) -> Starlette:
    """`calls` are the targets their faults are named after; `path` makes the addresses of a call."""

    def route(name: str, target: str, address: str) -> Route:
        async def endpoint(request: Request) -> Response:
            sim.advance()
            sim.requests[name] += 1
            if sim.over_limit():
                return sim.over_the_limit()
            params = await _parameters(request)
            return await sim.answer(request, target, lambda: sim.answer_to(name, params, request.headers))

        return Route(address, endpoint, methods=["GET", "POST"])

    routes = [route(name, target, address) for name, target in calls.items() for address in path(name)]
    app = Starlette(routes=[*routes, *control_routes(sim)])
    app.state.sim = sim
    return app
