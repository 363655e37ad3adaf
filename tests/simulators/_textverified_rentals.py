"""Rentals of the TextVerified simulator, of the kind not renewed: sales, refunds, extensions, sleep (its notes §6)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal

from tests.simulators._common import Amount, NotOpen, Shelf, find_code

if TYPE_CHECKING:
    from tests.simulators._textverified_engine import Sms, TextVerified

WHOLE_NUMBER = "allservices"
DURATIONS = {
    "oneDay": (24, 1),
    "threeDay": (72, 2),
    "sevenDay": (168, 4),
    "fourteenDay": (336, 7),
    "thirtyDay": (720, 12),
    "ninetyDay": (2160, 30),
    "oneYear": (8760, 100),
}
"""Hours, and how many times the price of one day."""

AREA_CODE_SURCHARGE = Decimal("0.25")
WINDOW_SECONDS = 600.0

BEHAVIOURS = frozenset({"sale_fails", "no_always_on", "refuse_refund", "refuse_wake"})

ExtensionAnswer = Literal["extension", "link", "empty"]


@dataclass(frozen=True, slots=True)
class RentWish:
    """What a rental is asked for with."""

    service: str
    duration: str
    always_on: bool
    area_codes: tuple[str, ...] = ()
    takes_back_order: bool = False


@dataclass(slots=True)
class Rental:
    id: str
    sale_id: str
    service: str
    number: str
    cost: Decimal
    always_on: bool
    created_at: float
    ends_at: float
    state: Literal["Active", "Expired", "Refunded"] = "Active"
    extensions: int = 0
    sms: "list[Sms]" = field(default_factory=list)


@dataclass(slots=True)
class Sale:
    """What a purchase makes; the rental can be seen once it has succeeded."""

    id: str
    service: str
    total: Decimal
    created_at: float
    ready_at: float
    rental: Rental | None = None
    back_order: str = ""


@dataclass(frozen=True, slots=True)
class Wake:
    id: str
    rental_id: str
    is_scheduled: bool
    starts_at: float
    ends_at: float


@dataclass(frozen=True, slots=True)
class Extension:
    id: str
    rental: Rental
    duration: str
    cost: Decimal
    at: float
    ended_at: float
    ends_at: float


class Rentals:
    """The rentals of one account; its money and numbers are those of the `TextVerified` it belongs to."""

    def __init__(
        self,
        sim: "TextVerified",
        prices: dict[str, str],
        *,
        refusal: Callable[..., Exception],
        missing: Callable[[str], Exception],
        stock: int,
        refund_seconds: float,
        sale_seconds: float,
        wake_seconds: float,
    ) -> None:
        self._sim = sim
        self._refusal = refusal
        self._missing = missing
        self.refund_seconds = refund_seconds
        self.sale_seconds = sale_seconds
        self.wake_seconds = wake_seconds
        self.shelves = {
            (service, duration): Shelf(Decimal(price) * 2 * factor, stock)
            for service, price in {**prices, WHOLE_NUMBER: "1.20"}.items()
            for duration, (_, factor) in DURATIONS.items()
        }
        self.rentals: dict[str, Rental] = {}
        self.sales: dict[str, Sale] = {}
        self.wakes: dict[str, Wake] = {}

    def shelf(self, service: str, duration: str) -> Shelf:
        shelf = self.shelves.get((service, duration))
        if shelf is None:
            raise self._refusal("InvalidService", "The service or the duration is not supported.")
        return shelf

    def price(self, service: str, duration: str, *, area_code: bool) -> Decimal:
        return self.shelf(service, duration).price + AREA_CODE_SURCHARGE * area_code

    # the life of a rental

    def create(self, wish: RentWish) -> Sale:
        sim, shelf = self._sim, self.shelf(wish.service, wish.duration)
        price = self.price(wish.service, wish.duration, area_code=bool(wish.area_codes))
        overpriced = sim.faults.take("overpriced")
        price = overpriced.raised(price) if overpriced else price
        sim.check_account(price)
        is_out = shelf.count <= 0 or sim.faults.take("sold_out") is not None
        if is_out and not wish.takes_back_order:
            raise self._refusal("Unavailable", "No numbers are available.")
        number = sim.new_number(wish.area_codes)
        sale = self._sell(wish, price)
        if is_out:
            sale.back_order = sim.serial("bo")
        elif not sim.faults.take("sale_fails"):
            shelf.count -= 1
            sale.rental = self._open(wish, sale, number)
        if sale.rental is None and not sale.back_order:
            sim.balance += price
        return sale

    def _sell(self, wish: RentWish, price: Decimal) -> Sale:
        sim, now = self._sim, self._sim.now()
        sim.purchases += 1
        sim.balance -= price
        sale = Sale(sim.serial("sa"), wish.service, price, now, now + self.sale_seconds)
        self.sales[sale.id] = sale
        return sale

    def _open(self, wish: RentWish, sale: Sale, number: str) -> Rental:
        sim, now = self._sim, self._sim.now()
        is_always_on = wish.always_on and not sim.faults.take("no_always_on")
        ends_at = now + DURATIONS[wish.duration][0] * 3600.0
        made = Rental(sim.serial("lr"), sale.id, wish.service, number, sale.total, is_always_on, now, ends_at)
        self.rentals[made.id] = made
        self._end_later(made)
        sim.webhooks.send("v2.reservation.created", {"id": made.id, "type": "rental"}, now)
        return made

    def _end_later(self, made: Rental) -> None:
        def end(when: float) -> None:
            if made.state == "Active" and when >= made.ends_at:
                made.state = "Expired"

        self._sim.timeline.at(made.ends_at, end)

    def sale_state(self, sale: Sale) -> str:
        if self._sim.now() < sale.ready_at:
            return "processing"
        return "succeeded" if sale.rental is not None or sale.back_order else "failed"

    def find(self, ident: str) -> Rental:
        made = self.rentals.get(ident)
        if made is None:
            raise self._missing(ident)
        return made

    def deliver(self, ident: str, text: str) -> bool:
        """Whether it was received: a sleeping number receives nothing."""
        made = self.rentals.get(ident)
        if made is None or made.state != "Active":
            raise NotOpen(ident)
        if not made.always_on and not self._is_awake(made):
            return False
        made.sms.append(self._sim.receive(made.id, made.number, text, find_code(text), kind="nonrenewable"))
        return True

    def refundable_until(self, made: Rental) -> float:
        return made.created_at + self.refund_seconds

    def can_refund(self, made: Rental) -> bool:
        return made.state == "Active" and not made.sms and self._sim.now() < self.refundable_until(made)

    def refund(self, ident: str) -> None:
        made = self.find(ident)
        if made.state == "Active" and self._sim.faults.take("sms_on_cancel"):
            self.deliver(ident, "Your code is 24680")
        if not self.can_refund(made) or self._sim.faults.take("refuse_refund"):
            raise self._refusal("CannotRefund", "The rental cannot be refunded.")
        made.state = "Refunded"
        self._sim.balance += made.cost

    def extend(self, ident: str, duration: str) -> Extension:
        """Charged at once; unknown rentals are refused, not missing, as they are named in the body."""
        sim, made = self._sim, self.rentals.get(ident)
        if made is None or made.state != "Active":
            raise self._refusal("InvalidReservation", "There is no such rental to extend.")
        price = self.price(made.service, duration, area_code=False)
        sim.check_account(price)
        sim.balance -= price
        ended_at = made.ends_at
        made.ends_at += DURATIONS[duration][0] * 3600.0
        made.extensions += 1
        self._end_later(made)
        return Extension(sim.serial("ex"), made, duration, price, sim.now(), ended_at, made.ends_at)

    def wake(self, ident: str) -> Wake:
        made, sim = self.rentals.get(ident), self._sim
        if made is None or made.state != "Active":
            raise self._refusal("InvalidReservation", "There is no such rental to wake.")
        starts_at = sim.now() + self.wake_seconds
        is_scheduled = not sim.faults.take("refuse_wake")
        wake = Wake(sim.serial("wr"), ident, is_scheduled, starts_at, starts_at + WINDOW_SECONDS)
        self.wakes[wake.id] = wake
        return wake

    def find_wake(self, ident: str) -> Wake:
        if ident not in self.wakes:
            raise self._missing(ident)
        return self.wakes[ident]

    def _is_awake(self, made: Rental) -> bool:
        now = self._sim.now()
        mine = (wake for wake in self.wakes.values() if wake.rental_id == made.id and wake.is_scheduled)
        return any(wake.starts_at <= now < wake.ends_at for wake in mine)

    def restock(self, service: str, duration: str, price: Amount | None, count: int | None) -> None:
        if (service, duration) not in self.shelves:
            raise ValueError(f"this provider rents out no {service!r} for {duration!r}")
        self.shelves[service, duration].restock(price, count)

    def views(self) -> list[dict[str, Any]]:
        return [
            {
                "id": made.id,
                "service": made.service,
                "phone": f"+1{made.number}",
                "price": str(made.cost),
                "state": made.state.lower(),
                "always_on": made.always_on,
                "extensions": made.extensions,
                "sms": [{"text": sms.text, "code": sms.code} for sms in made.sms],
            }
            for made in self.rentals.values()
        ]
