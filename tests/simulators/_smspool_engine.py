"""The engine behind the SMSPool simulator: stock, money and the life of an order (others §1)."""

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from starlette.responses import Response

from tests.simulators._common import (
    Amount,
    Clock,
    NotOpen,
    Shelf,
    Simulator,
    find_code,
    json_reply,
    money,
)

PENDING, EXPIRED, RECEIVED, RESENT, REFUNDED = 1, 2, 3, 4, 6
STATUS_WORDS = {
    PENDING: "pending",
    EXPIRED: "expired",
    RECEIVED: "completed",
    RESENT: "pending",
    REFUNDED: "refunded",
}
WAITING = frozenset({PENDING, RESENT})
LISTED = frozenset({PENDING, RESENT, RECEIVED})

BEHAVIOURS = frozenset(
    {"bad_key", "no_balance", "sold_out", "overpriced", "sms_on_cancel", "repeat_sms", "no_sms", "no_resend"}
)


# --- what it sells ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Country:
    short_name: str
    name: str
    prefix: str
    region: str


COUNTRIES = {
    "1": Country("US", "United States", "1", "North America"),
    "2": Country("GB", "United Kingdom", "44", "Europe"),
    "3": Country("NL", "Netherlands", "31", "Europe"),
    "4": Country("RU", "Russia", "7", "Europe"),
    "9": Country("ID", "Indonesia", "62", "Asia"),
    "24": Country("DE", "Germany", "49", "Europe"),
    "160": Country("US_V", "United States (Virtual)", "1", "North America"),
}

SERVICES = {
    "907": ("Telegram", "0.42"),
    "1012": ("WhatsApp", "0.55"),
    "395": ("Google/Gmail", "0.33"),
    "39": ("Amazon / Amazon Web Services", "0.19"),
    "329": ("Facebook", "0.16"),
    "457": ("Instagram", "0.13"),
    "948": ("Twitter / X", "0.09"),
    "817": ("Not Listed", "0.26"),
}
"""Id to name and the cheapest price."""

POOLS = {"3": "Charlie", "7": "Foxtrot"}


@dataclass(slots=True)
class Order:
    id: str
    service: str
    country: str
    pool: str
    phone: str
    price: Decimal
    bought_at: float
    ends_at: float
    status: int = PENDING
    code: str = ""
    text: str = ""
    resends: int = 2
    replaces: str = ""
    """The order this one goes on with, where asking again made a new one."""


class Refusal(Exception):
    """A refusal: its words, the HTTP status that newer endpoints give it, and a type where there is one."""

    def __init__(self, words: str, status: int = 400, kind: str = "") -> None:
        super().__init__(words)
        self.words = words
        self.status = status
        self.kind = kind

    def body(self) -> dict[str, Any]:
        plain: dict[str, Any] = {"success": 0, "message": self.words}
        return {**plain, "type": self.kind} if self.kind else plain


def no_such_order() -> Refusal:
    return Refusal("We could not find this order.", 404)


# --- the account ------------------------------------------------------------------------------------------------------


class SmsPool(Simulator):
    """Stock, balance and orders of one account."""

    def __init__(
        self,
        *,
        keys: Iterable[str],
        balance: Amount,
        stock: int,
        sms_delay_seconds: float | None,
        cancel_lock_seconds: float,
        life_seconds: float,
        resend_price: Amount,
        resend_renames: bool,
        refusal_statuses: bool,
        requests_per_second: int | None,
        clock: Clock,
    ) -> None:
        super().__init__(clock=clock, behaviours=BEHAVIOURS, requests_per_second=requests_per_second, balance=balance)
        self.keys = frozenset(keys)
        self.sms_delay_seconds = sms_delay_seconds
        self.cancel_lock_seconds = cancel_lock_seconds
        self.life_seconds = life_seconds
        self.resend_price = money(resend_price)
        self.resend_renames = resend_renames
        self.refusal_statuses = refusal_statuses
        self.shelves = _shelves(stock)
        self.orders: dict[str, Order] = {}

    # what happens to an order

    def buy(self, service: str, country: str, pool: str, price_max: Decimal | None) -> Order:
        if service not in SERVICES or country not in COUNTRIES:
            raise Refusal("This service or country does not exist.", 422)
        overpriced = self.faults.take("overpriced")
        cap = None if overpriced else price_max
        on_sale = self._on_sale(service, country, pool)
        fitting = {name: shelf for name, shelf in on_sale.items() if cap is None or shelf.price <= cap}
        if on_sale and not fitting:
            raise Refusal(f"We could not find a suitable pool below the price of: {cap}", 422, "PRICE_NOT_FOUND")
        if not fitting or self.faults.take("sold_out"):
            raise _out_of_stock(POOLS.get(pool, "Foxtrot"))
        name, shelf = min(fitting.items(), key=lambda item: item[1].price)
        price = overpriced.raised(shelf.price) if overpriced else shelf.price
        if self.balance < price or self.faults.take("no_balance"):
            raise _no_balance(POOLS[name], price)
        shelf.count -= 1
        return self._open(service, country, name, price)

    def _on_sale(self, service: str, country: str, pool: str) -> dict[str, Shelf]:
        shelves = self.shelves.get((service, country), {})
        return {name: shelf for name, shelf in shelves.items() if shelf.count > 0 and pool in ("", name)}

    def _open(self, service: str, country: str, pool: str, price: Decimal) -> Order:
        self.purchases += 1
        self.balance -= price
        phone = f"{COUNTRIES[country].prefix}{7_700_900_000 + self.purchases}"
        return self._begin(service, country, pool, phone, price)

    def _begin(self, service: str, country: str, pool: str, phone: str, price: Decimal) -> Order:
        now = self.now()
        order = Order(order_id(len(self.orders)), service, country, pool, phone, price, now, now + self.life_seconds)
        self.orders[order.id] = order
        self.timeline.at(order.ends_at, lambda when: self._expire(order))
        self._schedule(order)
        return order

    def _schedule(self, order: Order) -> None:
        self.after(self.sms_delay_seconds, lambda when: self._auto_deliver(order))

    def _auto_deliver(self, order: Order) -> None:
        if order.status in WAITING and not self.faults.take("no_sms"):
            code = str(10_000 + len(self.orders) * 7919 * (3 - order.resends) % 90_000)
            self._receive(order, f"Your code is {code}", code)

    def _receive(self, order: Order, text: str, code: str) -> None:
        """This wire shows the newest SMS only, so one that is sent twice looks like one."""
        self.faults.take("repeat_sms")
        order.status, order.text, order.code = RECEIVED, text, code

    def deliver(self, order_id: str, text: str, code: str | None = None) -> None:
        self.advance()
        order = self._latest(order_id)
        if order is None or order.status not in WAITING:
            raise NotOpen(order_id)
        self._receive(order, text, find_code(text) if code is None else code)

    def _latest(self, order_id: str) -> Order | None:
        """The order, or the one that goes on with it."""
        newer = next((order for order in self.orders.values() if order.replaces == order_id), None)
        return self._latest(newer.id) if newer else self.orders.get(order_id)

    def _expire(self, order: Order) -> None:
        if order.status == PENDING:
            order.status = EXPIRED
            self.balance += order.price

    def known(self, order_id: str) -> Order:
        order = self.orders.get(order_id)
        if order is None:
            raise no_such_order()
        return order

    def cancel(self, order_id: str) -> Order:
        order = self.known(order_id)
        if self.faults.take("sms_on_cancel"):
            self.deliver(order_id, "Your code is 24680")
        if order.status != PENDING:
            raise Refusal("This order cannot be cancelled.")
        if self.now() - order.bought_at < self.cancel_lock_seconds:
            raise Refusal("This phone number cannot be cancelled yet, please try again later!")
        order.status = REFUNDED
        self.balance += order.price
        return order

    def check_resend(self, order_id: str) -> Order:
        order = self.known(order_id)
        if order.status != RECEIVED:
            raise Refusal("You can only re-send to a phonenumber that has received a SMS")
        if order.resends == 0 or self.faults.take("no_resend"):
            raise Refusal("This number cannot be resent at the moment, please try again later.")
        return order

    def resend(self, order_id: str) -> Order:
        """Wait for another SMS: the same order shows the old one meanwhile, or a new order takes its place."""
        order = self.check_resend(order_id)
        self.balance -= self.resend_price
        order.resends -= 1
        if not self.resend_renames:
            order.status = RESENT
            self._schedule(order)
            return order
        newer = self._begin(order.service, order.country, order.pool, order.phone, self.resend_price)
        newer.resends, newer.replaces = order.resends, order.id
        return newer

    # what tests and people do to it

    def restock(self, **change: Any) -> None:
        """`service`, `country`, `pool` (all ids), and any of `price` and `count`."""
        self.set_stock(**change)

    def set_stock(
        self, service: str, country: str, pool: str, *, price: Amount | None = None, count: int | None = None
    ) -> None:
        if service not in SERVICES or country not in COUNTRIES or pool not in POOLS:
            raise ValueError(f"this provider sells no {service!r} of pool {pool!r} in {country!r}")
        shelf = self.shelves.setdefault((service, country), {}).setdefault(pool, Shelf(Decimal("0.1"), 0))
        shelf.restock(price, count)

    def order_views(self) -> list[dict[str, Any]]:
        return [
            {
                "id": order.id,
                "service": order.service,
                "country": order.country,
                "phone": order.phone,
                "price": str(order.price),
                "state": STATUS_WORDS[order.status],
                "sms": [{"text": order.text, "code": order.code}] if order.text else [],
            }
            for order in self.orders.values()
        ]

    def server_error(self) -> Response:
        return json_reply({"success": 0, "message": "Something went wrong."}, 500)

    def rate_limited(self) -> Response:
        return json_reply({"success": 0, "message": "Too many requests, please slow down."}, 429)


def order_id(place: int) -> str:
    """Eight letters, like theirs."""
    letters = []
    number = 7_919 * (place + 1)
    for _ in range(8):
        number, digit = divmod(number, 26)
        letters.append(chr(ord("A") + digit))
    return "".join(letters)


def _out_of_stock(pool: str) -> Refusal:
    words = "We couldn't find an available phone number for you, please try again later!"
    return Refusal(f"<p>Pool <b>{pool}</b>: <p>{words}</p></p>", 422, "OUT_OF_STOCK")


def _no_balance(pool: str, price: Decimal) -> Refusal:
    words = f"Insufficient balance, the price is: {price} while you only have: 0.00"
    return Refusal(f"<p>Pool <b>{pool}</b>: {words}</p>", 422, "BALANCE_ERROR")


def _shelves(stock: int) -> dict[tuple[str, str], dict[str, Shelf]]:
    """(service, country) -> pool; the second pool of a place is dearer."""
    return {
        (service, country): {pool: Shelf(Decimal(price) + Decimal(step) / 20, stock) for step, pool in enumerate(POOLS)}
        for service, (_, price) in SERVICES.items()
        for country in COUNTRIES
    }
