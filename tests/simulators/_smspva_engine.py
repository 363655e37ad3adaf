"""The engine behind the SMSPVA simulator: stock, money and the life of an order (others §5)."""

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from starlette.responses import Response

from tests.simulators._common import Amount, Clock, NotOpen, Shelf, Simulator, compact_json, find_code

FIRST_ID = 410_000

BEHAVIOURS = frozenset(
    {"bad_key", "no_balance", "low_karma", "sold_out", "overpriced", "sms_on_cancel", "repeat_sms", "no_sms", "unpaid"}
)

State = Literal["active", "cancelled", "blocked", "expired", "finished"]


# --- what it sells ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Country:
    name: str
    prefix: str
    operators: tuple[str, ...]


COUNTRIES = {
    "US": Country("United States", "1", ("tmobile",)),
    "UK": Country("Unt. Kingdom", "44", ("vodafone", "o2")),
    "DE": Country("Germany", "49", ("lycamobile", "o2")),
    "ID": Country("Indonesia", "62", ("axis",)),
    "RU": Country("Russian Federation", "7", ("mts",)),
    "KZ": Country("Kazakhstan", "7", ("beeline",)),
}

SERVICES = {
    "opt29": ("Telegram", "0.42"),
    "opt20": ("WhatsAPP", "0.55"),
    "opt1": ("Google (YouTube, Gmail)", "0.33"),
    "opt44": ("Amazon", "0.19"),
    "opt2": ("Facebook", "0.16"),
    "opt16": ("Instagram (+Threads)", "0.13"),
    "opt19": ("OTHER (no guarantee)", "0.26"),
}
"""Code to description and price."""


@dataclass(slots=True)
class Order:
    id: int
    service: str
    country: str
    operator: str
    national: str
    price: Decimal
    ends_at: float
    state: State = "active"
    code: str = ""
    text: str = ""
    is_read: bool = False
    """Its SMS has been fetched, which is what pays for it."""


class Refusal(Exception):
    """A status with its type and its sentence."""

    def __init__(self, status: int, kind: str, words: str) -> None:
        super().__init__(words)
        self.status = status
        self.kind = kind
        self.words = words


def envelope(data: Any) -> Response:
    return Response(compact_json({"statusCode": 200, "data": data}), media_type="application/json")


def refused(refusal: Refusal) -> Response:
    error = {"type": refusal.kind, "description": refusal.words}
    body = compact_json({"statusCode": refusal.status, "error": error})
    return Response(body, refusal.status, media_type="application/json")


NOT_YET = Refusal(202, "SMS_NOT_YET_RECEIVED", "SMS not yet received")
NO_NUMBER = Refusal(502, "NUMBER_NOT_FOUND", "Number not found.")
NO_FUNDS = Refusal(407, "BALANCE_TOO_LOW", "Your balance is too low to receive sms for selected country and service.")
LIMITED = Refusal(411, "ACCESS_LIMITED", "API access limited by low karma or ratelimits")
NO_ORDER = Refusal(406, "ORDER_NOT_FOUND", "Order ID format is invalid or not found")
CLOSED = Refusal(410, "ORDER_CLOSED", "This order is closed and unavailable")
NO_SMS = Refusal(404, "NO_SMS", "No SMS received, or there's unpaid SMS waiting.")
BAD_PARAMETERS = Refusal(405, "INVALID_PARAMETERS", "Invalid parameters")


# --- the account ------------------------------------------------------------------------------------------------------


class SmsPva(Simulator):
    """Stock, balance and orders of one account. A purchase holds its price."""

    def __init__(
        self,
        *,
        keys: Iterable[str],
        balance: Amount,
        stock: int,
        sms_delay_seconds: float | None,
        life_seconds: float,
        list_shows_unread: bool,
        requests_per_second: int | None,
        clock: Clock,
    ) -> None:
        super().__init__(clock=clock, behaviours=BEHAVIOURS, requests_per_second=requests_per_second, balance=balance)
        self.keys = frozenset(keys)
        self.sms_delay_seconds = sms_delay_seconds
        self.life_seconds = life_seconds
        self.list_shows_unread = list_shows_unread
        self.shelves = _shelves(stock)
        self.orders: list[Order] = []

    # what happens to an order

    def shelf(self, country: str, service: str) -> Shelf:
        if country not in COUNTRIES or service not in SERVICES:
            raise BAD_PARAMETERS
        return self.shelves[service, country]

    def buy(self, country: str, service: str, operator: str) -> Order:
        shelf = self.shelf(country, service)
        if operator and operator not in COUNTRIES[country].operators:
            raise BAD_PARAMETERS
        if self.faults.take("low_karma"):
            raise LIMITED
        if shelf.count <= 0 or self.faults.take("sold_out"):
            raise NO_NUMBER
        overpriced = self.faults.take("overpriced")
        price = overpriced.raised(shelf.price) if overpriced else shelf.price
        if self.balance < price or self.faults.take("no_balance"):
            raise NO_FUNDS
        shelf.count -= 1
        return self._open(country, service, operator or COUNTRIES[country].operators[0], price)

    def _open(self, country: str, service: str, operator: str, price: Decimal) -> Order:
        self.purchases += 1
        self.balance -= price
        national = str(7_700_900_000 + self.purchases)
        number = FIRST_ID + self.purchases
        order = Order(number, service, country, operator, national, price, self.now() + self.life_seconds)
        self.orders.append(order)
        self._schedule(order)
        return order

    def _schedule(self, order: Order) -> None:
        self.timeline.at(order.ends_at, lambda when: self._expire(order, when))
        self.after(self.sms_delay_seconds, lambda when: self._auto_deliver(order))

    def _auto_deliver(self, order: Order) -> None:
        if order.state == "active" and not order.text and not self.faults.take("no_sms"):
            code = str(10_000 + int(order.ends_at * 1000) * 31 % 90_000)
            self._receive(order, f"Your code is {code}", code)

    def _receive(self, order: Order, text: str, code: str) -> None:
        """An order shows one SMS, so one that is sent twice looks like one."""
        self.faults.take("repeat_sms")
        order.text, order.code, order.is_read = text, code, False

    def deliver(self, order_id: str, text: str, code: str | None = None) -> None:
        self.advance()
        order = self._find(order_id)
        if order is None or order.state != "active":
            raise NotOpen(order_id)
        self._receive(order, text, find_code(text) if code is None else code)

    def _expire(self, order: Order, when: float) -> None:
        """A life that was begun anew ends later; an order with an SMS is paid for."""
        if order.state == "active" and when >= order.ends_at:
            self._end(order, "expired", refund=not order.text)

    def _end(self, order: Order, state: State, *, refund: bool) -> Order:
        order.state = state
        if refund:
            self.balance += order.price
        return order

    def _find(self, order_id: str) -> Order | None:
        """Ids count up from the first, so the list is its own index."""
        place = int(order_id) - FIRST_ID - 1 if order_id.isdigit() else -1
        return self.orders[place] if 0 <= place < len(self.orders) else None

    def active(self, order_id: str) -> Order:
        order = self._find(order_id)
        if order is None:
            raise NO_ORDER
        if order.state != "active":
            raise CLOSED
        return order

    def receive(self, order_id: str) -> Order:
        order = self.active(order_id)
        if not order.text:
            raise NOT_YET
        if self.faults.take("unpaid"):
            raise Refusal(407, "BALANCE_TOO_LOW", "We received SMS but your balance is not enough to pay it.")
        order.is_read = True
        return order

    def clear(self, order_id: str) -> Order:
        order = self.active(order_id)
        if not order.text:
            raise NO_SMS
        order.text, order.code, order.ends_at = "", "", self.now() + self.life_seconds
        self._schedule(order)
        return order

    def stop(self, order_id: str) -> Order:
        return self._end(self.active(order_id), "finished", refund=False)

    def cancel(self, order_id: str) -> Order:
        order = self.active(order_id)
        if self.faults.take("sms_on_cancel"):
            self.deliver(order_id, "Your code is 24680")
        if order.text:
            raise BAD_PARAMETERS
        return self._end(order, "cancelled", refund=True)

    def block(self, order_id: str) -> Order:
        order = self.active(order_id)
        if order.text:
            raise BAD_PARAMETERS
        return self._end(order, "blocked", refund=True)

    # what tests and people do to it

    def restock(self, **change: Any) -> None:
        """`service` and `country`, and any of `price` and `count`."""
        self.set_stock(**change)

    def set_stock(self, service: str, country: str, *, price: Amount | None = None, count: int | None = None) -> None:
        if service not in SERVICES or country not in COUNTRIES:
            raise ValueError(f"this provider sells no {service!r} in {country!r}")
        shelf = self.shelves[service, country]
        shelf.restock(price, count)

    def order_views(self) -> list[dict[str, Any]]:
        return [
            {
                "id": str(order.id),
                "service": order.service,
                "country": order.country,
                "operator": order.operator,
                "phone": COUNTRIES[order.country].prefix + order.national,
                "price": str(order.price),
                "state": order.state,
                "sms": [{"text": order.text, "code": order.code}] if order.text else [],
            }
            for order in self.orders
        ]

    def server_error(self) -> Response:
        return refused(Refusal(500, "INTERNAL_ERROR", "Failed to fetch number"))

    def rate_limited(self) -> Response:
        return refused(LIMITED)


def _shelves(stock: int) -> dict[tuple[str, str], Shelf]:
    """(service, country) to what is on sale; no two countries cost the same."""
    return {
        (service, country): Shelf(Decimal(price) + Decimal(place) / 100, stock)
        for service, (_, price) in SERVICES.items()
        for place, country in enumerate(COUNTRIES)
    }
