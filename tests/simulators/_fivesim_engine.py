"""The engine behind the 5sim simulator: stock, money and the life of an order (5sim notes §4 to §6, §9, §10)."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, Literal

from starlette.responses import Response

from tests.simulators._common import LIES, Amount, Clock, NotOpen, Simulator, find_code, money, national_number

ANY = "any"
RATING_MAX = 96.0
FIRST_ID = 11_630_000

BEHAVIOURS = frozenset(
    {
        "bad_key",
        "no_balance",
        "no_rating",
        "sold_out",
        "server_offline",
        "overpriced",
        "sms_on_cancel",
        "repeat_sms",
        "keep_pending",
        "no_sms",
        "ip_limit",
        "no_reuse",
        *LIES,
    }
)

Category = Literal["activation", "hosting"]
Status = Literal["PENDING", "RECEIVED", "CANCELED", "TIMEOUT", "FINISHED", "BANNED"]
OPEN_STATUSES: frozenset[Status] = frozenset({"PENDING", "RECEIVED"})


# --- what it sells ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Country:
    iso: str
    prefix: str
    text_en: str
    text_ru: str
    operators: tuple[str, ...]


COUNTRIES = {
    "england": Country("gb", "+44", "England", "Англия", ("vodafone", "o2", "virtual21")),
    "usa": Country("us", "+1", "USA", "США", ("virtual4", "virtual8", "tmobile")),
    "indonesia": Country("id", "+62", "Indonesia", "Индонезия", ("telkomsel", "axis", "virtual7")),
    "kazakhstan": Country("kz", "+7", "Kazakhstan", "Казахстан", ("beeline", "altel", "virtual4")),
    "germany": Country("de", "+49", "Germany", "Германия", ("lycamobile", "o2", "virtual21")),
    "netherlands": Country("nl", "+31", "Netherlands", "Нидерланды", ("lebara", "vodafone", "virtual4")),
    "france": Country("fr", "+33", "France", "Франция", ("orange", "sfr", "virtual21")),
    "india": Country("in", "+91", "India", "Индия", ("airtel", "virtual21")),
    "brazil": Country("br", "+55", "Brazil", "Бразилия", ("claro", "tim", "virtual4")),
    "canada": Country("ca", "+1", "Canada", "Канада", ("rogers", "virtual4")),
}

PRODUCTS = {
    "telegram": "0.42",
    "whatsapp": "0.55",
    "viber": "0.21",
    "google": "0.33",
    "facebook": "0.16",
    "instagram": "0.13",
    "discord": "0.11",
    "twitter": "0.09",
    "amazon": "0.19",
    "openai": "0.15",
    "microsoft": "0.10",
    "other": "0.26",
}

HOSTING = {"3hours": ("0.80", 3), "1day": ("1.90", 24), "10days": ("6.40", 240), "1month": ("14.00", 720)}
"""Rentals: the price, and the hours one lasts."""

SENDERS = {"telegram": "Telegram", "whatsapp": "WhatsApp", "google": "Google"}


@dataclass(slots=True)
class Shelf:
    """One product of one operator in one country."""

    cost: Decimal
    count: int
    rate: float | None = 87.5


@dataclass(frozen=True, slots=True)
class Sms:
    id: int
    text: str
    code: str
    sender: str
    at: float


@dataclass(slots=True)
class Order:
    id: int
    country: str
    operator: str
    product: str
    phone: str
    price: Decimal
    bought_at: float
    ends_at: float
    received_at: float
    """When PENDING turns to RECEIVED; infinite under `keep_pending`."""
    category: Category = "activation"
    is_reusable: bool = False
    shows_sms: bool = True
    """Whether `check` and the list show its messages, as those of a rental may be in its inbox alone."""
    ended_at: float = 0.0
    status: Status = "PENDING"
    sms: list[Sms] = field(default_factory=list)
    row: str | None = None
    """The order as JSON, kept until it changes."""


class Refusal(Exception):
    """A bare text with its HTTP status."""

    def __init__(self, words: str, status: int = 400) -> None:
        super().__init__(words)
        self.words = words
        self.status = status


def bare_text(words: str, status: int = 200) -> Response:
    return Response(words, status, media_type="text/plain; charset=utf-8")


class Unroutable(Exception):
    """A path segment the provider does not know: it redirects to its 404 page."""


# --- the account ------------------------------------------------------------------------------------------------------


class FiveSim(Simulator):
    """Stock, balance and orders of one account. A purchase moves its price from `balance` to `frozen`."""

    def __init__(
        self,
        *,
        keys: Iterable[str],
        balance: Amount,
        stock: int,
        sms_delay_seconds: float | None,
        pending_seconds: float,
        cancel_wait_seconds: float,
        life_seconds: float,
        reuse_seconds: float,
        reuses_any: bool,
        rental_stock: int | None,
        rental_sms_in: Literal["inbox", "order", "both"],
        requests_per_second: int | None,
        clock: Clock,
    ) -> None:
        super().__init__(clock=clock, behaviours=BEHAVIOURS, requests_per_second=requests_per_second, balance=balance)
        self.keys = frozenset(keys)
        self.frozen = Decimal(0)
        self.rating = RATING_MAX
        self.sms_delay_seconds = sms_delay_seconds
        self.pending_seconds = pending_seconds
        self.cancel_wait_seconds = cancel_wait_seconds
        self.life_seconds = life_seconds
        self.reuse_seconds = reuse_seconds
        self.reuses_any = reuses_any
        self.rental_sms_in = rental_sms_in
        self.shelves = _shelves(stock, stock if rental_stock is None else rental_stock)
        self.orders: list[Order] = []
        self.listed: dict[Category, list[Order]] = {"activation": [], "hosting": []}
        self.open_count = 0

    # what happens to an order

    def buy(
        self,
        country: str,
        operator: str,
        product: str,
        price_max: Decimal | None = None,
        *,
        category: Category = "activation",
        is_reusable: bool = False,
    ) -> Order:
        """The cheapest number that fits, paid for. `price_max` counts only with operator `any`, as documented."""
        self._check_names(country, operator, product, category)
        self._check_account()
        cap = price_max if operator == ANY else None
        overpriced = self.faults.take("overpriced")
        offers = self.offers(country, operator, product, None if overpriced else cap)
        if not offers or self.faults.take("sold_out"):
            raise Refusal("no free phones", 200)
        (place, name), shelf = min(offers.items(), key=lambda offer: offer[1].cost)
        price = overpriced.raised(max(shelf.cost, cap or shelf.cost)) if overpriced else shelf.cost
        if self.balance < price:
            raise Refusal("not enough user balance")
        shelf.count -= 1
        order = self._open(place, name, product, price, category=category)
        order.is_reusable = is_reusable
        return order

    def reuse(self, product: str, number: str) -> Order:
        """Another order on the number of one that brought a message, at what its operator costs now."""
        self._check_account()
        before = next((old for old in reversed(self.listed["activation"]) if old.phone == f"+{number}"), None)
        if before is None or before.product != product or before.status in ("CANCELED", "BANNED", "TIMEOUT"):
            raise Refusal("reuse not possible")
        if before.status in OPEN_STATUSES or not (self.reuses_any or before.is_reusable):
            raise Refusal("reuse false")
        if self.now() > before.ended_at + self.reuse_seconds:
            raise Refusal("reuse expired")
        if self.faults.take("no_reuse"):
            raise Refusal("reuse not possible")
        price = self.shelves[product][before.country][before.operator].cost
        overpriced = self.faults.take("overpriced")
        price = overpriced.raised(price) if overpriced else price
        if self.balance < price:
            raise Refusal("not enough user balance")
        again = self._open(before.country, before.operator, product, price, phone=before.phone)
        again.is_reusable = before.is_reusable
        return again

    def _check_names(self, country: str, operator: str, product: str, category: Category) -> None:
        if product not in (HOSTING if category == "hosting" else PRODUCTS):
            raise Unroutable(product)
        if country not in (ANY, *COUNTRIES):
            raise Refusal("bad country")
        if operator != ANY and country != ANY and operator not in COUNTRIES[country].operators:
            raise Refusal("bad operator")
        if country != ANY and not self.shelves[product].get(country):
            raise Refusal("no product")

    def _check_account(self) -> None:
        if self.faults.take("server_offline"):
            raise Refusal("server offline")
        if self.faults.take("no_balance"):
            raise Refusal("not enough user balance")
        if self.faults.take("no_rating") or self.rating <= 0:
            raise Refusal("not enough rating")

    def offers(
        self, country: str, operator: str, product: str, price_max: Decimal | None
    ) -> dict[tuple[str, str], Shelf]:
        places = self.shelves[product]
        return {
            (place, name): shelf
            for place in (places if country == ANY else [country])
            for name, shelf in places.get(place, {}).items()
            if operator in (ANY, name) and shelf.count > 0 and (price_max is None or shelf.cost <= price_max)
        }

    def _open(
        self,
        country: str,
        operator: str,
        product: str,
        price: Decimal,
        *,
        category: Category = "activation",
        phone: str = "",
    ) -> Order:
        now = self.now()
        self.purchases += 1
        self.open_count += 1
        is_rental = category == "hosting"
        order = Order(
            id=FIRST_ID + self.purchases,
            country=country,
            operator=operator,
            product=product,
            phone=phone or f"{COUNTRIES[country].prefix}{national_number(self.purchases)}",
            price=price,
            bought_at=now,
            ends_at=now + (HOSTING[product][1] * 3600.0 if is_rental else self.life_seconds),
            received_at=float("inf") if self.faults.take("keep_pending") else now + self.pending_seconds,
            category=category,
            shows_sms=not is_rental or self.rental_sms_in != "inbox",
        )
        self.balance -= price
        self.frozen += price
        self.orders.append(order)
        self.listed[category].append(order)
        self._schedule(order)
        return order

    def _schedule(self, order: Order) -> None:
        self.timeline.at(order.ends_at, lambda when: self._expire(order))
        self.after(self.sms_delay_seconds, lambda when: self._auto_deliver(order, when))

    def _auto_deliver(self, order: Order, when: float) -> None:
        if order.status in OPEN_STATUSES and not self.faults.take("no_sms"):
            code = str(10_000 + order.id * 31 % 90_000)
            self._receive(order, f"Your code is {code}", code, when)

    def _receive(self, order: Order, text: str, code: str, when: float) -> None:
        sender = SENDERS.get(order.product, order.product)
        sms = Sms(order.id * 10 + len(order.sms), text, code, sender, when)
        order.sms.extend([sms, sms] if self.faults.take("repeat_sms") else [sms])
        if order.received_at != float("inf"):
            order.status = "RECEIVED"
        order.row = None

    def deliver(self, order_id: str, text: str, code: str | None = None) -> None:
        self.advance()
        order = self._known(order_id)
        if order is None or order.status not in OPEN_STATUSES:
            raise NotOpen(order_id)
        self._receive(order, text, find_code(text) if code is None else code, self.now())

    def _expire(self, order: Order) -> None:
        """The end of an order's life: FINISHED with an SMS, else TIMEOUT and the money back; a rental was used."""
        if order.status not in OPEN_STATUSES:
            return
        if order.sms or order.category == "hosting":
            self._end(order, "FINISHED", rating=0.4, refund=False)
        else:
            self._end(order, "TIMEOUT", rating=-0.15, refund=True)

    def _end(self, order: Order, status: Status, *, rating: float, refund: bool) -> None:
        order.status = status
        order.ended_at = min(self.now(), order.ends_at)
        order.row = None
        self.open_count -= 1
        self.frozen -= order.price
        self.rating = min(RATING_MAX, round(self.rating + rating, 2))
        if refund:
            self.balance += order.price

    def check(self, order_id: str) -> Order:
        order = self._known(order_id)
        if order is None:
            raise Refusal("order not found", 404)
        if order.status == "PENDING" and self.now() >= order.received_at:
            order.status = "RECEIVED"
            order.row = None
        return order

    def told(self, order: Order) -> Order | None:
        """The order as it is told of, None where it is denied: of one that is open, in lies."""
        if order.status not in OPEN_STATUSES:
            return order
        if not order.sms and self.faults.take("called_cancelled"):
            self.called_over.add(str(order.id))
            return replace(order, status="CANCELED", row=None)
        if not order.sms and self.faults.take("called_finished"):
            return replace(order, status="FINISHED", row=None)
        return None if self.faults.take("denied") else order

    def finish(self, order_id: str) -> Order:
        order = self._require_open(order_id)
        if not order.sms:
            raise Refusal("order no sms")
        self._end(order, "FINISHED", rating=0.5, refund=False)
        return order

    def cancel(self, order_id: str) -> Order:
        order = self._require_open(order_id)
        if self.faults.take("sms_on_cancel"):
            self.deliver(order_id, "Your code is 24680")
        return self._give_back(order, "CANCELED")

    def ban(self, order_id: str) -> Order:
        return self._give_back(self._require_open(order_id), "BANNED")

    def inbox(self, order_id: str) -> Order:
        """A rental, for its messages. An activation's id can't be routed, as a probe saw."""
        order = self._known(order_id)
        if order is None:
            raise Refusal("hosting order not found")
        if order.category != "hosting":
            raise Unroutable(order_id)
        return order

    def _give_back(self, order: Order, status: Status) -> Order:
        if order.category == "hosting":
            raise Refusal("hosting order")
        if order.sms:
            raise Refusal("order has sms")
        if self.now() - order.bought_at < self.cancel_wait_seconds:
            raise Refusal("you need to wait time")
        self._end(order, status, rating=-0.1, refund=True)
        return order

    def _require_open(self, order_id: str) -> Order:
        order = self._known(order_id)
        if order is None:
            raise Refusal("order not found")
        if order.status not in OPEN_STATUSES:
            raise Refusal("order expired" if order.status == "TIMEOUT" else "order not found")
        return order

    def _known(self, order_id: str) -> Order | None:
        """Ids count up from the first, so the list is its own index."""
        place = int(order_id) - FIRST_ID - 1 if order_id.isdigit() else -1
        return self.orders[place] if 0 <= place < len(self.orders) else None

    # what tests and people do to it

    def restock(self, **change: Any) -> None:
        """`product`, `country`, `operator`, and any of `price`, `count`, `rate`."""
        self.set_stock(**change)

    def set_stock(
        self,
        product: str,
        country: str,
        operator: str,
        *,
        price: Amount | None = None,
        count: int | None = None,
        rate: float | None = None,
    ) -> None:
        if product not in self.shelves or country not in COUNTRIES or operator not in COUNTRIES[country].operators:
            raise ValueError(f"this provider sells no {product!r} of {operator!r} in {country!r}")
        shelf = self.shelves[product].setdefault(country, {}).setdefault(operator, Shelf(Decimal("0.1"), 0))
        shelf.cost = shelf.cost if price is None else money(price)
        shelf.count = shelf.count if count is None else count
        shelf.rate = shelf.rate if rate is None else rate

    def set_rent_stock(self, *, price: Amount | None = None, count: int | None = None, **shelf: Any) -> None:
        """As `set_stock`, for a rental."""
        if shelf.get("product") not in HOSTING:
            raise ValueError("this provider rents out nothing of that kind")
        self.set_stock(**shelf, price=price, count=count)

    def deliver_rental(self, rental_id: str, text: str) -> None:
        """As `deliver`."""
        self.deliver(rental_id, text)

    def rental_views(self) -> list[dict[str, Any]]:
        """As `order_views`: rentals, oldest first. None is ever extended."""
        return [{**view, "extensions": 0} for view in self.order_views() if view["category"] == "hosting"]

    def drop_product(self, product: str, country: str) -> None:
        """The country no longer sells it: `null` in the price list, not a count of 0."""
        self.shelves[product].pop(country, None)

    def counters(self) -> dict[str, Any]:
        own = {"frozen_balance": str(self.frozen), "rating": self.rating, "open": self.open_count}
        return {**super().counters(), **own}

    def order_views(self) -> list[dict[str, Any]]:
        return [
            {
                "id": str(order.id),
                "category": order.category,
                "product": order.product,
                "country": order.country,
                "operator": order.operator,
                "phone": order.phone,
                "price": str(order.price),
                "state": order.status,
                "sms": [{"text": sms.text, "code": sms.code} for sms in order.sms],
            }
            for order in self.orders
        ]

    def server_error(self) -> Response:
        return bare_text("internal error", 500)

    def rate_limited(self) -> Response:
        return bare_text("api limit is 100 requests per second", 429)


def _shelves(stock: int, rental_stock: int) -> dict[str, dict[str, dict[str, Shelf]]]:
    """Product -> country -> operator; no two operators of a country cost the same."""
    bases = {product: (base, stock) for product, base in PRODUCTS.items()}
    bases |= {product: (base, rental_stock) for product, (base, _) in HOSTING.items()}
    return {
        product: {
            slug: {
                operator: Shelf(Decimal(base) + Decimal(place) / 1000 + Decimal(step) / 100, count)
                for step, operator in enumerate(country.operators)
            }
            for place, (slug, country) in enumerate(COUNTRIES.items())
        }
        for product, (base, count) in bases.items()
    }
