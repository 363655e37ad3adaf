"""Rentals at a `handler_api.php` provider: stock, money and lives. The actions are in `_handler_rent_actions.py`.

Wire facts: the protocol reference §8. SMS-Activate counts its rentals apart from its activations, so an id may name one
of each; at HeroSMS a rental is an activation of another subtype, and ids are shared.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal

from tests.simulators._common import Amount, NotOpen, compact_json, find_code, money
from tests.simulators._handler_brands import SERVICES, Refusal

if TYPE_CHECKING:
    from tests.simulators._handler_engine import HandlerApi

CANCEL_SECONDS = 1200.0
HOURS_MAX = 1344
LISTED_COUNTRIES = ("2", "6", "16", "187")
WHOLE_NUMBER = "full"
"""The service whose rentals get the messages of every service."""
RENTED_SERVICES = (WHOLE_NUMBER, "tg", "wa", "vi", "ot")
RENAMED_HOURS = (24, 72, 168, 336, 720, 1440, 2160, 4320)
"""What HeroSMS rents for."""

State = Literal["open", "finished", "cancelled", "revoked"]


@dataclass(slots=True)
class RentShelf:
    per_hour: Decimal
    count: int

    def price(self, hours: int) -> Decimal:
        return self.per_hour * hours


@dataclass(frozen=True, slots=True)
class RentSms:
    id: str
    sender: str
    text: str
    code: str
    service: str
    at: float


@dataclass(frozen=True, slots=True)
class Extension:
    at: float
    price: Decimal
    hours: int


@dataclass(slots=True)
class Rental:
    id: str
    service: str
    country: str
    operator: str
    phone: str
    price: Decimal
    rented_at: float
    ends_at: float
    state: State = "open"
    sms: list[RentSms] = field(default_factory=list)
    extensions: list[Extension] = field(default_factory=list)


class Rents:
    """The rentals of one account, and what there is to rent. Money is that of the simulator it belongs to."""

    def __init__(self, sim: HandlerApi, stock: int) -> None:
        self._sim = sim
        self._serial = itertools.count(1)
        self.countries = [country for country in LISTED_COUNTRIES if country in sim.countries]
        self.shelves = {
            (service, country): RentShelf(Decimal(SERVICES.get(service, ("", "2.00"))[1]) / 4, stock)
            for service in RENTED_SERVICES
            for country in self.countries
        }
        self.rentals: dict[str, Rental] = {}

    @property
    def is_renamed(self) -> bool:
        return self._sim.brand.rents == "renamed"

    def open(self) -> list[Rental]:
        return [rental for rental in self.rentals.values() if rental.state == "open"]

    def on_sale(self, country: str) -> dict[str, RentShelf]:
        """What there is in a country, by service."""
        shelves = {service: shelf for (service, sold), shelf in self.shelves.items() if sold == country}
        return {service: shelf for service, shelf in shelves.items() if shelf.count > 0}

    def check_hours(self, hours: int) -> None:
        """Raises the Refusal for a time it does not rent for: from a day on, whole days (SMS-Activate)."""
        if self.is_renamed:
            if hours not in RENAMED_HOURS:
                info = {"min": RENAMED_HOURS[0], "max": RENAMED_HOURS[-1], "available_durations": list(RENAMED_HOURS)}
                raise Refusal("BAD_DURATION", info)
        elif not 2 <= hours <= HOURS_MAX or (hours > 24 and hours % 24):
            raise Refusal("INVALID_TIME")

    def rent(self, service: str, country: str, operator: str | None, hours: int) -> Rental:
        if service not in RENTED_SERVICES:
            raise Refusal("BAD_SERVICE")
        self.check_hours(hours)
        shelf = self.on_sale(country).get(service)
        sim = self._sim
        if shelf is None or sim.faults.take("sold_out"):
            raise Refusal("NO_NUMBERS")
        fault = sim.faults.take("overpriced")
        price = fault.raised(shelf.price(hours)) if fault else shelf.price(hours)
        sim.check_account(price)
        phone = sim.new_phone(country)
        shelf.count -= 1
        return self._open(service, country, sim.operator_of(country, operator), phone, price, hours)

    def _open(self, service: str, country: str, operator: str, phone: str, price: Decimal, hours: int) -> Rental:
        sim, now = self._sim, self._sim.now()
        sim.purchases += 1
        sim.balance -= price
        rental = Rental(
            self._new_id(), service, country, operator, phone, price, rented_at=now, ends_at=now + hours * 3600
        )
        self.rentals[rental.id] = rental
        self._end_in_time(rental)
        return rental

    def _new_id(self) -> str:
        serial = self._sim.purchases if self.is_renamed else next(self._serial)
        return str(10 ** (self._sim.brand.id_digits - 1) + serial)

    def _end_in_time(self, rental: Rental) -> None:
        self._sim.timeline.at(rental.ends_at, lambda when: self._expire(rental, when))

    def _expire(self, rental: Rental, when: float) -> None:
        if rental.state == "open" and when >= rental.ends_at:
            rental.state = "finished"

    def rental(self, id_: str) -> Rental:
        rental = self.rentals.get(id_)
        if rental is None:
            raise Refusal("NOT_FOUND" if self.is_renamed else "INVALID_PHONE")
        return rental

    # more time

    def extension_price(self, rental: Rental, hours: int) -> Decimal:
        """Raises the Refusal where it can't be had: SMS-Activate rents a finished one anew, HeroSMS does not."""
        self.check_hours(hours)
        over = rental.state != "open" if self.is_renamed else rental.state in ("cancelled", "revoked")
        if over:
            raise Refusal("ACTION_NOT_AVAILABLE" if self.is_renamed else "RENT_DIE")
        left = max(0.0, rental.ends_at - self._sim.now()) / 3600
        if not self.is_renamed and left + hours > HOURS_MAX:
            raise Refusal("MAX_HOURS_EXCEED", {"max": int(HOURS_MAX - left)})
        return self.shelves[rental.service, rental.country].price(hours)

    def extend(self, rental: Rental, hours: int) -> Rental:
        price = self.extension_price(rental, hours)
        self._sim.check_account(price)
        if rental.state == "finished":
            return self._open(rental.service, rental.country, rental.operator, rental.phone, price, hours)
        self._sim.balance -= price
        rental.extensions.append(Extension(self._sim.now(), price, hours))
        rental.ends_at += hours * 3600
        self._end_in_time(rental)
        return rental

    # the end

    def finish(self, rental: Rental) -> None:
        self._require_open(rental, "ALREADY_FINISH" if rental.state == "finished" else "ALREADY_CANCEL")
        rental.state = "finished"

    def cancel(self, rental: Rental) -> None:
        """Back with its money: in the first twenty minutes, and without a message."""
        sim = self._sim
        self._require_open(rental, "ALREADY_FINISH" if rental.state == "finished" else "ALREADY_CANCEL")
        if rental.sms:
            raise Refusal("OTP_RECEIVED" if self.is_renamed else "CANT_CANCEL")
        age = sim.now() - rental.rented_at
        if self.is_renamed and age < sim.brand.early_cancel_seconds:
            raise Refusal("EARLY_CANCEL_DENIED", {"minActivationTime": int(sim.brand.early_cancel_seconds)})
        if age > CANCEL_SECONDS:
            raise Refusal("FREE_CANCELLATION_EXPIRED" if self.is_renamed else "CANT_CANCEL")
        rental.state = "cancelled"
        sim.balance += rental.price

    def _require_open(self, rental: Rental, refusal: str) -> None:
        if rental.state != "open":
            raise Refusal("ACTIVATION_NOT_ACTIVE" if self.is_renamed else refusal)

    def revoke(self, id_: str) -> None:
        """The provider takes it back, and gives the money back."""
        rental = self.rentals[id_]
        rental.state = "revoked"
        self._sim.balance += rental.price

    # messages

    def deliver(self, id_: str, text: str, sender: str) -> None:
        sim = self._sim
        sim.advance()
        rental = self.rentals.get(id_)
        if rental is None or rental.state != "open":
            raise NotOpen(id_)
        serial = sum(len(other.sms) for other in self.rentals.values()) + 1
        sms = RentSms(str(3_416_000_000 + serial), sender, text, find_code(text), rental.service, sim.now())
        rental.sms.append(sms)
        if sim.webhooks is not None and sim.webhooks.url is not None:
            sim.webhooks.put(self._notice(rental, sms))

    def _notice(self, rental: Rental, sms: RentSms) -> str:
        at = datetime.fromtimestamp(sms.at, UTC)
        if self.is_renamed:
            told = {"service": sms.service, "text": sms.text, "code": sms.code, "country": int(rental.country)}
            hero = {
                "activationId": rental.id,
                "phoneFrom": sms.sender,
                **told,
                "receivedAt": f"{at:%Y-%m-%dT%H:%M:%SZ}",
            }
            return compact_json(hero)
        inner = {"phoneFrom": sms.sender, "text": sms.text, "date": f"{at:%Y-%m-%d %H:%M:%S}"}
        return compact_json({"rentId": int(rental.id), "sms": inner})

    # what tests and people do to it

    def set_stock(
        self,
        service: str,
        country: str | int,
        *,
        price: Amount | None = None,
        count: int | None = None,
        hours: int = 24,
    ) -> None:
        """`price` is for so many hours; other times cost in proportion."""
        shelf = self.shelves.setdefault((service, str(country)), RentShelf(Decimal("0.1"), 0))
        shelf.per_hour = shelf.per_hour if price is None else money(price) / hours
        shelf.count = shelf.count if count is None else count

    def views(self) -> list[dict[str, Any]]:
        return [
            {
                "id": rental.id,
                "service": rental.service,
                "country": rental.country,
                "phone": rental.phone,
                "price": str(rental.price),
                "state": rental.state,
                "extensions": len(rental.extensions),
                "sms": [{"text": sms.text, "code": sms.code} for sms in rental.sms],
            }
            for rental in self.rentals.values()
        ]
