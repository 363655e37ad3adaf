"""The engine behind every `handler_api.php` brand: stock, money and the life of an order (protocol reference §3)."""

import itertools
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal

from starlette.responses import Response

from tests.simulators._common import Amount, Clock, NotOpen, Simulator, compact_json, find_code, money
from tests.simulators._handler_brands import COUNTRIES, SERVICES, Brand, Refusal, refused, unprocessable
from tests.simulators._handler_rents import Rents
from tests.simulators._handler_webhooks import Webhooks

FREE_CANCELLATION_SECONDS = 1200.0
FIRST_PROVIDER = 1011
BEHAVIOURS = frozenset(
    {
        "bad_key",
        "no_balance",
        "sold_out",
        "banned",
        "channels_limit",
        "overpriced",
        "sms_on_cancel",
        "repeat_sms",
        "no_sms",
        "denied",
        "called_cancelled",
    }
)

State = Literal["waiting", "received", "retry", "finished", "cancelled", "expired"]
OPEN_STATES: frozenset[State] = frozenset({"waiting", "received", "retry"})


@dataclass(frozen=True, slots=True)
class Step:
    """Numbers at one price, all from one provider."""

    price: Decimal
    count: int
    provider: int


@dataclass(slots=True)
class Shelf:
    """One service in one country. `virtual` numbers are counted in the list but nobody can buy them (HeroSMS)."""

    price: Decimal
    physical: int
    virtual: int = 0
    dearer: dict[Decimal, int] = field(default_factory=dict)
    """Price to count of what is sold when the rest is gone, or where its provider is asked for."""

    def steps(self) -> list[Step]:
        """Cheapest first, without those sold out. Providers are numbered by price."""
        counts = [(self.price, self.physical), *sorted(self.dearer.items())]
        steps = [Step(price, count, FIRST_PROVIDER + place) for place, (price, count) in enumerate(counts)]
        return sorted((step for step in steps if step.count > 0), key=lambda step: step.price)

    def take(self, step: Step) -> None:
        if step.provider == FIRST_PROVIDER:
            self.physical -= 1
        else:
            self.dearer[step.price] -= 1


@dataclass(frozen=True, slots=True)
class Wish:
    """What a purchase asks for beside service and country."""

    operator: str | None = None
    price_max: Decimal | None = None
    fixed_price: bool = False
    phone_exceptions: tuple[str, ...] = ()
    areas: tuple[str, ...] = ()
    providers: frozenset[int] = frozenset()
    excluded_providers: frozenset[int] = frozenset()

    def takes(self, step: Step) -> bool:
        return step.provider not in self.excluded_providers and (not self.providers or step.provider in self.providers)


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
    operator: str
    phone: str
    price: Decimal
    bought_at: float
    ends_at: float
    state: State = "waiting"
    is_ready: bool = False
    sms: list[Sms] = field(default_factory=list)
    row: str | None = None
    """Its entry in the list of active orders, kept until the order changes."""


# --- the engine: stock, money, states ---------------------------------------------------------------------------------


class HandlerApi(Simulator):
    """Stock, balance and orders of one account. Money is taken at the purchase and given back by cancel and expiry."""

    def __init__(
        self,
        *,
        brand: Brand,
        keys: Iterable[str],
        balance: Amount,
        stock: int,
        sms_delay_seconds: float | None,
        life_seconds: float,
        requests_per_second: int | None,
        clock: Clock,
        webhook_url: str | None = None,
    ) -> None:
        super().__init__(clock=clock, behaviours=BEHAVIOURS, requests_per_second=requests_per_second, balance=balance)
        self.brand = brand
        self.keys = frozenset(keys)
        self.sms_delay_seconds = sms_delay_seconds
        self.life_seconds = life_seconds
        self.countries = {id_: c for id_, c in COUNTRIES.items() if _is_sold(brand, id_)}
        self.shelves = _shelves(self.countries, stock)
        self.rents = Rents(self, stock)
        self.orders: dict[str, Order] = {}
        self.open: dict[str, Order] = {}
        self._serial = itertools.count(1)
        self._v3: dict[tuple[str, str], tuple[str, float]] = {}
        self._advancing = threading.RLock()
        self.webhooks = None if brand.webhook is None else Webhooks(brand.webhook, self._now_advanced)
        if webhook_url is not None:
            self.set_webhook(webhook_url)

    def advance(self) -> None:
        """Webhooks advance from the serving loop, whatever a test does meanwhile from its own thread."""
        with self._advancing:
            super().advance()

    def _now_advanced(self) -> float:
        self.advance()
        return self.now()

    def set_webhook(self, url: str | None) -> None:
        """Where each SMS is told from now on; None for nowhere."""
        if self.webhooks is None:
            raise ValueError(f"{self.brand.name} tells of nothing by itself")
        self.webhooks.url = url

    # what happens to an order

    def buy(self, service: str, country: str, wish: Wish) -> Order:
        """One number, paid for. Raises Refusal; checks names, stock, price cap, account and money, in this order."""
        if service not in SERVICES:
            raise unprocessable("BAD_SERVICE", "service")
        if country == "any" and self.brand.any_country:
            country = self._cheapest_country(service, wish)
        if country not in self.countries:
            raise unprocessable("BAD_COUNTRY", "country")
        shelf = self.shelves.get((service, country))
        steps = [step for step in shelf.steps() if wish.takes(step)] if shelf else []
        if shelf is None or not steps or self.faults.take("sold_out"):
            raise Refusal("NO_NUMBERS")
        price = self._price(steps[0].price, wish)
        self.check_account(price)
        phone = self._phone(country, wish)
        if phone is None:
            raise Refusal("NO_NUMBERS")
        shelf.take(steps[0])
        return self._open(service, country, self.operator_of(country, wish.operator), phone, price)

    def _cheapest_country(self, service: str, wish: Wish) -> str:
        prices = {
            country: next((step.price for step in shelf.steps() if wish.takes(step)), None)
            for (sold, country), shelf in self.shelves.items()
            if sold == service
        }
        known = {country: price for country, price in prices.items() if price is not None}
        return min(known, key=lambda country: known[country]) if known else next(iter(self.countries))

    def _price(self, listed: Decimal, wish: Wish) -> Decimal:
        fault = self.faults.take("overpriced")
        if fault:
            return fault.price or max(listed, wish.price_max or listed) + Decimal("0.5")
        if wish.price_max is None or not self.brand.caps_price:
            return listed
        if wish.price_max < listed:
            raise Refusal("WRONG_MAX_PRICE", {"min": float(listed)}, str(listed))
        return wish.price_max if wish.fixed_price else listed

    def check_account(self, price: Decimal) -> None:
        if self.faults.take("banned"):
            raise self._banned()
        is_full = self.brand.open_max is not None and len(self.open) >= self.brand.open_max
        if is_full or self.faults.take("channels_limit"):
            raise Refusal("CHANNELS_LIMIT", {"current_threads": len(self.open), "max_allowed": len(self.open)})
        if self.faults.take("no_balance") or self.balance < price:
            raise Refusal("NO_BALANCE")

    def _banned(self) -> Refusal:
        until = datetime.fromtimestamp(self.now() + 3600, UTC)
        info = {
            "scope": "global",
            "banned_until": int(until.timestamp()),
            "retry_after_seconds": 3600,
            "readable_date": f"{until:%Y-%m-%d %H:%M:%S}",
        }
        return Refusal("BANNED", info, f"'{until:%Y-%m-%d %H-%M-%S}'")

    def operator_of(self, country: str, wanted: str | None) -> str:
        """The first wanted operator the country has; else any, as the reference does for an unknown one."""
        offered = self.countries[country].operators
        return next((name for name in (wanted or "").split(",") if name in offered), offered[0])

    def _phone(self, country: str, wish: Wish) -> str | None:
        """A number never given before and without an excepted prefix; None when the prefixes leave nothing."""
        for _ in range(200):
            # The factor shares no divisor with 9 000 000 000, so numbers repeat only after as many purchases.
            national = str(1_000_000_000 + next(self._serial) * 7_919_000_009 % 9_000_000_000)
            area = wish.areas[int(national) % len(wish.areas)] if wish.areas else ""
            phone = f"{self.countries[country].dial}{area}{national[len(area) :]}"
            if not phone.startswith(wish.phone_exceptions):
                return phone
        return None

    def new_phone(self, country: str) -> str:
        """A number never given before."""
        return self._phone(country, Wish()) or ""

    def _open(self, service: str, country: str, operator: str, phone: str, price: Decimal) -> Order:
        now = self.now()
        self.purchases += 1
        order = Order(
            id=str(10 ** (self.brand.id_digits - 1) + self.purchases),
            service=service,
            country=country,
            operator=operator,
            phone=phone,
            price=price,
            bought_at=now,
            ends_at=now + self.life_seconds,
        )
        self.balance -= price
        self.orders[order.id] = self.open[order.id] = order
        self.timeline.at(order.ends_at, lambda when: self._expire(order))
        self._schedule_sms(order, now)
        return order

    # a number again, a service beside another

    def extra_price(self, parent: Order) -> Decimal:
        """What its number costs again. Raises Refusal where it had no code, or is in use."""
        if parent.state not in ("finished", "expired") or not parent.sms:
            raise Refusal("RENEW_ACTIVATION_NOT_AVAILABLE")
        if any(order.phone == parent.phone for order in self.open.values()):
            raise Refusal("NEW_ACTIVATION_IMPOSSIBLE")
        return self.shelves[parent.service, parent.country].price

    def buy_extra(self, parent: Order) -> Order:
        price = self.extra_price(parent)
        self.check_account(price)
        return self._open(parent.service, parent.country, parent.operator, parent.phone, price)

    def buy_beside(self, parent: Order, service: str) -> Order:
        """Another service on a number in use."""
        if parent.state not in OPEN_STATES:
            raise Refusal("WRONG_SECURITY")
        shelf = self.shelves.get((service, parent.country))
        steps = shelf.steps() if shelf else []
        if shelf is None or not steps:
            raise Refusal("WRONG_ADDITIONAL_SERVICE")
        if any(order.phone == parent.phone and order.service == service for order in self.open.values()):
            raise Refusal("REPEAT_ADDITIONAL_SERVICE")
        self.check_account(steps[0].price)
        shelf.take(steps[0])
        return self._open(service, parent.country, parent.operator, parent.phone, steps[0].price)

    def _schedule_sms(self, order: Order, now: float) -> None:
        if self.sms_delay_seconds is not None and self.sms_delay_seconds >= 0:
            self.timeline.at(now + self.sms_delay_seconds, lambda when: self._auto_deliver(order, when))

    def _auto_deliver(self, order: Order, when: float) -> None:
        if order.state in ("waiting", "retry") and not self.faults.take("no_sms"):
            code = str(10_000 + (int(order.id) * 31 + len(order.sms) * 7_877) % 90_000)
            self._receive(order, Sms(f"Your code is {code}", code, when))

    def _receive(self, order: Order, sms: Sms) -> None:
        messages = [sms, sms] if self.faults.take("repeat_sms") else [sms]
        order.sms.extend(messages)
        order.state = "received"
        order.row = None
        if self.webhooks is not None and self.webhooks.url is not None:
            for told in messages:
                self.webhooks.put(self._notice(order, told))

    def _notice(self, order: Order, sms: Sms) -> str:
        """The body of a webhook: SMS-Activate's, which SMSBower kept. HeroSMS adds the sender, and ids are text."""
        at = datetime.fromtimestamp(sms.at, UTC)
        told = {"service": order.service, "text": sms.text, "code": sms.code, "country": int(order.country)}
        if self.brand.webhook and self.brand.webhook.body == "hero":
            sender = SERVICES[order.service][0]
            hero = {"activationId": order.id, "phoneFrom": sender, **told, "receivedAt": f"{at:%Y-%m-%dT%H:%M:%SZ}"}
            return compact_json(hero)
        return compact_json({"activationId": int(order.id), **told, "receivedAt": f"{at:%Y-%m-%d %H:%M:%S}"})

    def deliver(self, order_id: str, text: str, code: str | None = None) -> None:
        self.advance()
        order = self.open.get(order_id)
        if order is None:
            raise NotOpen(order_id)
        self._receive(order, Sms(text, find_code(text) if code is None else code, self.now()))

    def _expire(self, order: Order) -> None:
        """The end of an order's life; the money comes back if no SMS came."""
        if order.state in OPEN_STATES:
            self._end(order, "expired", refund=not order.sms)

    def _end(self, order: Order, state: State, *, refund: bool) -> None:
        order.state = state
        order.row = None
        del self.open[order.id]
        if refund:
            self.balance += order.price

    def order(self, order_id: str) -> Order:
        if not order_id.isdigit():
            raise unprocessable("WRONG_ACTIVATION_ID", "id")
        order = self.orders.get(order_id)
        if order is None:
            raise Refusal("NO_ACTIVATION")
        return order

    def told(self, order: Order) -> Order | None:
        """The order as it is told of, None where it is denied: of one that waits, or has its first message, in lies."""
        if order.state == "waiting" and self.faults.take("called_cancelled"):
            return replace(order, state="cancelled")
        return None if order.state in ("waiting", "received") and self.faults.take("denied") else order

    def ready(self, order: Order) -> str:
        if order.state != "waiting" or (order.is_ready and self.brand.ready_once):
            raise Refusal("BAD_STATUS")
        order.is_ready = True
        return "ACCESS_READY"

    def ask_again(self, order: Order) -> str:
        if order.state != "received":
            raise Refusal("BAD_STATUS")
        order.state = "retry"
        order.row = None
        self._schedule_sms(order, self.now())
        return "ACCESS_RETRY_GET"

    def finish(self, order: Order) -> str:
        self._require_open(order)
        if order.state == "waiting":
            raise Refusal("BAD_STATUS")
        self._end(order, "finished", refund=False)
        return "ACCESS_ACTIVATION"

    def cancel(self, order: Order) -> str:
        if order.state == "waiting" and self.faults.take("sms_on_cancel"):
            self.deliver(order.id, "Your code is 24680")
        self._require_open(order)
        if order.sms:
            raise Refusal("OTP_RECEIVED")
        age = self.now() - order.bought_at
        if age < self.brand.early_cancel_seconds:
            raise Refusal("EARLY_CANCEL_DENIED", {"minActivationTime": int(self.brand.early_cancel_seconds)})
        if age > FREE_CANCELLATION_SECONDS:
            raise Refusal("FREE_CANCELLATION_EXPIRED")
        self._end(order, "cancelled", refund=True)
        return "ACCESS_CANCEL"

    def _require_open(self, order: Order) -> None:
        if order.state not in OPEN_STATES:
            raise Refusal("ACTIVATION_NOT_ACTIVE")

    def v3_text(self, key: tuple[str, str], made: Callable[[], str]) -> str:
        """A price list of the third version, as old as the brand lets it be."""
        text, made_at = self._v3.get(key, ("", float("-inf")))
        if self.now() - made_at >= self.brand.v3_stale_seconds:
            text, made_at = self._v3[key] = made(), self.now()
        return text

    # what tests and people do to it

    def restock(self, **change: Any) -> None:
        """`service`, `country`, and any of `price`, `count` (numbers that can be bought), `virtual`, `dearer`."""
        self.set_stock(**change)

    def set_stock(
        self,
        service: str,
        country: str | int,
        *,
        price: Amount | None = None,
        count: int | None = None,
        virtual: int | None = None,
        dearer: Mapping[str, int] | None = None,
    ) -> None:
        if service not in SERVICES or str(country) not in self.countries:
            raise ValueError(f"this provider sells no {service!r} in {country!r}")
        shelf = self.shelves.setdefault((service, str(country)), Shelf(Decimal("0.1"), 0))
        shelf.price = shelf.price if price is None else money(price)
        shelf.physical = shelf.physical if count is None else count
        shelf.virtual = shelf.virtual if virtual is None else virtual
        shelf.dearer = shelf.dearer if dearer is None else {money(step): left for step, left in dearer.items()}

    def set_rent_stock(self, service: str, country: str | int, **change: Any) -> None:
        """`price` for `hours` (24), `count`."""
        if service not in (*SERVICES, "full") or str(country) not in self.countries:
            raise ValueError(f"this provider rents out no {service!r} in {country!r}")
        self.rents.set_stock(service, country, **change)

    def deliver_rental(self, rental_id: str, text: str, sender: str = "Telegram") -> None:
        self.rents.deliver(rental_id, text, sender)

    def rental_views(self) -> list[dict[str, Any]]:
        """Every rental ever made, oldest first."""
        return self.rents.views()

    def counters(self) -> dict[str, Any]:
        counted = {**super().counters(), "open": len(self.open)}
        return counted if self.webhooks is None else {**counted, "webhooks": list(self.webhooks.answers)}

    def order_views(self) -> list[dict[str, Any]]:
        return [_order_view(order) for order in self.orders.values()]

    def server_error(self) -> Response:
        return refused(self.brand, Refusal("SERVER_ERROR"), status=500)

    def rate_limited(self) -> Response:
        answer = refused(self.brand, Refusal("RATE_LIMIT"), status=429)
        answer.headers["Retry-After"] = "1"
        return answer


def _is_sold(brand: Brand, country: str) -> bool:
    return country not in brand.absent_countries and brand.only_country in (None, country)


def _shelves(countries: Iterable[str], stock: int) -> dict[tuple[str, str], Shelf]:
    """Everything everywhere; prices differ by country so that no two countries cost the same."""
    return {
        (service, country): Shelf(Decimal(base) + Decimal(int(country)) / 1000, stock)
        for service, (_, base) in SERVICES.items()
        for country in countries
    }


def _order_view(order: Order) -> dict[str, Any]:
    return {
        "id": order.id,
        "service": order.service,
        "country": order.country,
        "phone": order.phone,
        "price": str(order.price),
        "state": order.state,
        "sms": [{"text": sms.text, "code": sms.code} for sms in order.sms],
    }
