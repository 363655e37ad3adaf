"""The engine behind the DS SMS HUB simulator: stock, money, rentals, webhook (brief, "The DS SMS HUB dialect")."""

import itertools
import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx
from starlette.responses import Response

from tests.simulators._common import Amount, Clock, NotOpen, Shelf, Simulator, money

HOME = "US"
FIRST_ID = 12_345
WEBHOOK_URL_MAX = 255
WEBHOOK_SECONDS = 3.0
WEBHOOK_THREADS = 4

BEHAVIOURS = frozenset(
    {
        "bad_key",
        "user_not_found",
        "no_balance",
        "sold_out",
        "too_many",
        "backend_error",
        "database_error",
        "overpriced",
        "sms_on_cancel",
        "repeat_sms",
        "no_sms",
    }
)

State = Literal["waiting", "received", "finished", "cancelled", "expired"]
OPEN_STATES: frozenset[State] = frozenset({"waiting", "received"})

SERVICES = {
    "google": "50.00",
    "facebook": "60.00",
    "whatsapp": "120.00",
    "telegram": "150.00",
    "instagram": "40.00",
    "discord": "35.00",
    "amazon": "45.00",
    "tinder": "90.00",
    "paypal": "80.00",
    "craigslist": "55.00",
}
"""Word -> price in NGN. The page names google (50.00) and facebook; the others are made up after them."""

COUNTRIES = {"US": "1", "GB": "44", "NG": "234", "ID": "62", "DE": "49", "BR": "55"}
"""Letters -> dialling digits. All but the first are sold by the second server only."""


class Refusal(Exception):
    """A word with its status."""

    def __init__(self, word: str, status: int = 400) -> None:
        super().__init__(word)
        self.word = word
        self.status = status


def text(body: str, status: int = 200) -> Response:
    return Response(body, status, media_type="text/plain")


@dataclass(frozen=True, slots=True)
class Sms:
    text: str
    at: float


@dataclass(slots=True)
class Order:
    id: str
    service: str
    country: str
    phone: str
    price: Decimal
    bought_at: float
    state: State = "waiting"
    sms: list[Sms] = field(default_factory=list)

    @property
    def is_open(self) -> bool:
        return self.state in OPEN_STATES


class DsSmsHub(Simulator):
    """Stock, balance and rentals of one account. Money is taken at the purchase and given back by cancel and expiry."""

    def __init__(
        self,
        *,
        keys: Iterable[str],
        balance: Amount,
        stock: int,
        sms_delay_seconds: float | None,
        life_seconds: float,
        open_max: int,
        requests_per_second: int | None,
        clock: Clock,
    ) -> None:
        super().__init__(clock=clock, behaviours=BEHAVIOURS, requests_per_second=requests_per_second, balance=balance)
        self.keys = frozenset(keys)
        self.sms_delay_seconds = sms_delay_seconds
        self.life_seconds = life_seconds
        self.open_max = open_max
        self.shelves = {
            (service, country): Shelf(money(price), stock)
            for country in COUNTRIES
            for service, price in SERVICES.items()
        }
        self.orders: dict[str, Order] = {}
        self.open_count = 0
        self.webhook_url = ""
        self.webhook_answers: list[str] = []
        """Status of each answer to the webhook, or the name of what went wrong; in the order they came."""
        self._posts: list[Future[None]] = []
        self._poster: ThreadPoolExecutor | None = None
        self._serial = itertools.count()

    # what happens to a rental

    def buy(self, service: str, country: str, price_max: Decimal | None, *, poor_word: str) -> Order:
        """One number, paid for. Raises Refusal; checks names, rentals, stock, price cap and money, in this order."""
        if service not in SERVICES:
            raise Refusal("BAD_SERVICE")
        if self.faults.take("backend_error"):
            raise Refusal("BACKEND_ERROR", 500)
        if self.faults.take("too_many") or self.open_count >= self.open_max:
            raise Refusal("TOO_MANY_ACTIVE_RENTALS")
        shelf = self.shelves.get((service, country))
        if shelf is None or shelf.count <= 0 or self.faults.take("sold_out"):
            raise Refusal("NO_NUMBERS")
        price = self._price(shelf, price_max)
        if self.faults.take("no_balance") or self.balance < price:
            raise Refusal(poor_word)
        shelf.count -= 1
        order = self._open(service, country, price)
        if self.faults.take("database_error"):
            raise Refusal("DATABASE_ERROR", 500)
        return order

    def _price(self, shelf: Shelf, price_max: Decimal | None) -> Decimal:
        fault = self.faults.take("overpriced")
        if fault:
            return fault.raised(max(shelf.price, price_max or shelf.price))
        if price_max is not None and price_max < shelf.price:
            raise Refusal("MAX_PRICE_EXCEEDED")
        return shelf.price

    def _open(self, service: str, country: str, price: Decimal) -> Order:
        now = self.now()
        phone = f"+{COUNTRIES[country]}555{next(self._serial) * 7_919 % 10_000_000:07d}"
        order = Order(str(FIRST_ID + self.purchases), service, country, phone, price, now)
        self.purchases += 1
        self.open_count += 1
        self.balance -= price
        self.orders[order.id] = order
        self.timeline.at(now + self.life_seconds, lambda when: self._expire(order))
        self.after(self.sms_delay_seconds, lambda when: self._auto_deliver(order, when))
        return order

    def _auto_deliver(self, order: Order, when: float) -> None:
        if order.state == "waiting" and not self.faults.take("no_sms"):
            self._receive(order, Sms(f"Your verification code is {100_000 + int(order.id) * 31 % 900_000}", when))

    def deliver(self, order_id: str, text: str, code: str | None = None) -> None:
        """`code` has no place in this protocol, which hands on texts only."""
        self.advance()
        order = self.orders.get(order_id)
        if order is None or not order.is_open:
            raise NotOpen(order_id)
        self._receive(order, Sms(text, self.now()))

    def _receive(self, order: Order, sms: Sms) -> None:
        arrived = [sms, sms] if self.faults.take("repeat_sms") else [sms]
        order.sms += arrived
        order.state = "received"
        for one in arrived:
            self._push(order, one)

    def _expire(self, order: Order) -> None:
        """The end of a rental's life; the money comes back if no SMS came."""
        if order.is_open:
            self._end(order, "expired", refund=not order.sms)

    def _end(self, order: Order, state: State, *, refund: bool) -> None:
        order.state = state
        self.open_count -= 1
        if refund:
            self.balance += order.price

    def order(self, order_id: str) -> Order:
        order = self.orders.get(order_id)
        if order is None:
            raise Refusal("NO_ACTIVATION")
        return order

    def finish(self, order: Order) -> None:
        self._require(order.is_open)
        self._end(order, "finished", refund=False)

    def cancel(self, order: Order) -> None:
        """The page has no word for "too late": what is no longer waiting is no activation to cancel."""
        if order.state == "waiting" and self.faults.take("sms_on_cancel"):
            self.deliver(order.id, "Your code is 24680")
        self._require(order.state == "waiting")
        self._end(order, "cancelled", refund=True)

    def _require(self, is_so: bool) -> None:
        if not is_so:
            raise Refusal("NO_ACTIVATION")

    # the webhook

    def set_webhook(self, url: str) -> None:
        """Raises Refusal with the words of `setWebhook`."""
        try:
            parts = urlsplit(url)
        except ValueError:
            raise Refusal("INVALID_WEBHOOK_URL") from None
        if not parts.scheme or not parts.hostname:
            raise Refusal("INVALID_WEBHOOK_URL")
        if parts.scheme != "https":
            raise Refusal("HTTPS_REQUIRED")
        if len(url) > WEBHOOK_URL_MAX:
            raise Refusal("WEBHOOK_URL_TOO_LONG")
        self.webhook_url = url

    def _push(self, order: Order, sms: Sms) -> None:
        """Posted from a thread of its own, once: nothing is known of retries."""
        if not self.webhook_url:
            return
        if self._poster is None:
            self._poster = ThreadPoolExecutor(WEBHOOK_THREADS, thread_name_prefix="webhook")
        self._posts = [post for post in self._posts if not post.done()]
        self._posts.append(self._poster.submit(self._post, self.webhook_url, webhook_body(order, sms)))

    def _post(self, url: str, body: dict[str, str]) -> None:
        try:
            with httpx.Client(timeout=WEBHOOK_SECONDS, trust_env=False) as client:
                self.webhook_answers.append(str(client.post(url, json=body).status_code))
        except httpx.HTTPError as error:
            self.webhook_answers.append(type(error).__name__)

    def wait_for_webhooks(self, seconds: float = WEBHOOK_SECONDS) -> None:
        """Until everything posted so far was answered, or `seconds` have passed."""
        deadline = time.monotonic() + seconds
        for post in self._posts:
            with suppress(TimeoutError):
                post.result(max(0.0, deadline - time.monotonic()))

    # what tests and people do to it

    def restock(self, **change: Any) -> None:
        """`service`, `country` (default US), and any of `price`, `count`."""
        self.set_stock(**change)

    def set_stock(
        self, service: str, country: str = HOME, *, price: Amount | None = None, count: int | None = None
    ) -> None:
        shelf = self.shelves.get((service, country))
        if shelf is None:
            raise ValueError(f"this provider sells no {service!r} in {country!r}")
        shelf.restock(price, count)

    def counters(self) -> dict[str, Any]:
        told = {"open": self.open_count, "webhook": self.webhook_url, "webhook_answers": list(self.webhook_answers)}
        return {**super().counters(), **told}

    def order_views(self) -> list[dict[str, Any]]:
        return [_order_view(order) for order in self.orders.values()]

    def server_error(self) -> Response:
        return text("INTERNAL_ERROR", 500)

    def rate_limited(self) -> Response:
        """Nothing is known of limits: what a front server says."""
        return text("Too Many Requests", 429)


def webhook_body(order: Order, sms: Sms) -> dict[str, str]:
    return {
        "rental_id": order.id,
        "number": order.phone,
        "service": order.service,
        "text": sms.text,
        "received_at": f"{datetime.fromtimestamp(sms.at, UTC):%Y-%m-%d %H:%M:%S}",
    }


def _order_view(order: Order) -> dict[str, Any]:
    return {
        "id": order.id,
        "service": order.service,
        "country": order.country,
        "phone": order.phone,
        "price": str(order.price),
        "state": order.state,
        "sms": [{"text": sms.text} for sms in order.sms],
    }
