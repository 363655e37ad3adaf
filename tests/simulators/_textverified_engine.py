"""The engine behind the TextVerified simulator: stock, money, and the life of a verification (its notes §3 to §8)."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal

from starlette.responses import Response

from tests.simulators._common import EFFECTS, Amount, Clock, NotOpen, Simulator, find_code, money
from tests.simulators._textverified_rentals import BEHAVIOURS as RENTAL_BEHAVIOURS
from tests.simulators._textverified_rentals import Rentals
from tests.simulators._textverified_webhooks import Webhooks

SERVICES = {
    "telegram": "0.75",
    "whatsapp": "1.00",
    "gmail": "0.50",
    "discord": "0.40",
    "facebook": "0.60",
    "instagram": "0.45",
    "yahoo": "0.30",
    "tinder": "0.85",
    "venmo": "1.25",
    "plentyofberries": "0.20",
    "servicenotlisted": "1.50",
}
"""`plentyofberries` is nobody: every gateway meets services it has no word for."""

AREA_CODES = {
    "202": "District of Columbia",
    "213": "California",
    "305": "Florida",
    "415": "California",
    "646": "New York",
}
CARRIERS = ("vz", "tmo", "att")
AREA_CODE_SURCHARGE = Decimal("0.25")
CARRIER_SURCHARGE = Decimal("0.10")
STOCK_TOLD_MAX = 9000
SENDER = "22395"

BEHAVIOURS = frozenset(
    {
        "bad_key",
        "auth_limit",
        "bad_token",
        "no_balance",
        "sold_out",
        "too_many",
        "overpriced",
        "refuse_cancel",
        "sms_on_cancel",
        "repeat_sms",
        "no_sms",
        *RENTAL_BEHAVIOURS,
        *(f"auth.{effect}" for effect in EFFECTS),
    }
)

State = Literal["Pending", "Completed", "Canceled", "TimedOut", "Reported", "Refunded", "Reused", "Reactivated"]

MOCK_STATES: dict[str, State] = {
    "test_success": "Pending",
    "test_delayed_success": "Pending",
    "test_pending": "Pending",
    "test_timeout": "TimedOut",
    "test_reactivatable": "TimedOut",
}
"""Names that never charge, and how such a verification begins; `test_success` has its SMS at once (§8)."""

MOCK_ERRORS = {
    "test_insufficient_balance": "InsufficientBalance",
    "test_no_numbers": "Unavailable",
    "test_too_many_unfinished_verifications": "TooManyUnfinishedVerifications",
}
MOCK_RENTALS = frozenset({"test_renewable_expired", "test_nonrenewable_expired", "test_backorder"})
MOCK_NAMES = frozenset({*MOCK_STATES, *MOCK_ERRORS, *MOCK_RENTALS})
MOCK_PRICE = Decimal("0.50")


class Refusal(Exception):
    """400 with an error object."""

    def __init__(self, code: str, description: str = "") -> None:
        super().__init__(code)
        self.code = code
        self.description = description or code


class Missing(Exception):
    """404."""


@dataclass(slots=True)
class Shelf:
    """One service."""

    price: Decimal
    count: int


@dataclass(frozen=True, slots=True)
class Sms:
    id: str
    reservation: str
    to: str
    text: str
    code: str
    at: float
    kind: Literal["verification", "nonrenewable"] = "verification"


@dataclass(frozen=True, slots=True)
class Wish:
    """What a purchase asks for."""

    service: str
    area_codes: Sequence[str] = ()
    carriers: Sequence[str] = ()
    price_max: Decimal | None = None


@dataclass(slots=True)
class Verification:
    id: str
    service: str
    number: str
    cost: Decimal
    created_at: float
    ends_at: float
    state: State = "Pending"
    is_mock: bool = False
    can_reactivate: bool = False
    is_refunded: bool = False
    sms: list[Sms] = field(default_factory=list)


def serial_id(kind: str, serial: int) -> str:
    """`lr_` and the like, with what looks like a ULID."""
    return f"{kind}_01J0SIMULATED{serial:013d}"


class TextVerified(Simulator):
    """The account: tokens, stock, balance, verifications, messages."""

    def __init__(
        self,
        *,
        keys: Iterable[str],
        username: str,
        balance: Amount,
        stock: int,
        sms_delay_seconds: float | None,
        mock_delay_seconds: float,
        life_seconds: float,
        cancel_seconds: float | None,
        token_life_seconds: float,
        refunds_on_timeout: bool,
        rental_stock: int,
        refund_seconds: float,
        sale_seconds: float,
        wake_seconds: float,
        price_code: str,
        requests_per_second: int | None,
        webhooks: Webhooks,
        clock: Clock,
    ) -> None:
        super().__init__(clock=clock, behaviours=BEHAVIOURS, requests_per_second=requests_per_second, balance=balance)
        self.keys = frozenset(keys)
        self.username = username
        self.sms_delay_seconds = sms_delay_seconds
        self.mock_delay_seconds = mock_delay_seconds
        self.life_seconds = life_seconds
        self.cancel_seconds = cancel_seconds
        self.token_life_seconds = token_life_seconds
        self.refunds_on_timeout = refunds_on_timeout
        self.price_code = price_code
        self.webhooks = webhooks
        self.shelves = {name: Shelf(Decimal(price), stock) for name, price in SERVICES.items()}
        self.verifications: dict[str, Verification] = {}
        self.messages: list[Sms] = []
        self.rentals = Rentals(
            self,
            SERVICES,
            refusal=Refusal,
            missing=Missing,
            stock=rental_stock,
            refund_seconds=refund_seconds,
            sale_seconds=sale_seconds,
            wake_seconds=wake_seconds,
        )
        self._tokens: dict[str, float] = {}
        self._serials = itertools.count(1)

    # tokens

    def sign_in(self, key: str, username: str) -> str | None:
        """A new token, or None for a bad pair."""
        if self.faults.take("bad_key") or key not in self.keys or username != self.username:
            return None
        now = self.now()
        self._tokens = {token: ends_at for token, ends_at in self._tokens.items() if ends_at > now}
        token = f"aaa.{next(self._serials):06d}.ccc"
        self._tokens[token] = now + self.token_life_seconds
        return token

    def knows(self, token: str) -> bool:
        return not self.faults.take("bad_token") and self._tokens.get(token, 0.0) > self.now()

    def forget_tokens(self) -> None:
        """Every token given out so far is refused from now on."""
        self._tokens.clear()

    # prices

    def price(self, service: str, *, area_code: bool, carrier: bool) -> Decimal:
        if service in MOCK_NAMES:
            return MOCK_PRICE
        price = self._shelf(service).price
        return price + AREA_CODE_SURCHARGE * area_code + CARRIER_SURCHARGE * carrier

    def stock(self, service: str) -> int:
        if service in MOCK_NAMES:
            return 0 if service == "test_no_numbers" else 100
        return min(self._shelf(service).count, STOCK_TOLD_MAX)

    def _shelf(self, service: str) -> Shelf:
        shelf = self.shelves.get(service)
        if shelf is None:
            raise Refusal("InvalidService", "The service is not supported.")
        return shelf

    # the life of a verification

    def create(self, wish: Wish) -> Verification:
        if wish.service in MOCK_NAMES:
            return self._create_mock(wish.service)
        unknown = {*wish.area_codes} - {*AREA_CODES} or {*wish.carriers} - {*CARRIERS}
        if unknown:
            raise Refusal("InvalidSelection", "An area code or carrier is not supported.")
        shelf = self._shelf(wish.service)
        price = self.price(wish.service, area_code=bool(wish.area_codes), carrier=bool(wish.carriers))
        overpriced = self.faults.take("overpriced")
        if overpriced:
            price = overpriced.price or price + Decimal("0.5")
        elif wish.price_max is not None and price > wish.price_max:
            raise Refusal(self.price_code, "The price is above the maximum.")
        self.check_account(price)
        if shelf.count <= 0 or self.faults.take("sold_out"):
            raise Refusal("Unavailable", "No numbers are available.")
        shelf.count -= 1
        return self._open(wish.service, price, self.new_number(wish.area_codes))

    def check_account(self, price: Decimal) -> None:
        """Refuses what this account may or can not pay."""
        if self.faults.take("too_many"):
            raise Refusal("TooManyUnfinishedVerifications", "Too many pending verifications.")
        if self.faults.take("no_balance") or self.balance < price:
            raise Refusal("InsufficientBalance", "The balance is too low.")

    def new_number(self, area_codes: Sequence[str]) -> str:
        """The factor shares no divisor with 7 000 000, so numbers repeat only after as many purchases."""
        area_code = area_codes[0] if area_codes else list(AREA_CODES)[self.purchases % len(AREA_CODES)]
        return f"{area_code}{2_000_000 + self.purchases * 7919 % 7_000_000}"

    def _open(self, service: str, price: Decimal, number: str) -> Verification:
        self.purchases += 1
        self.balance -= price
        made = self._add(service, price, number)
        if self.sms_delay_seconds is not None and self.sms_delay_seconds >= 0:
            self.timeline.at(made.created_at + self.sms_delay_seconds, lambda when: self._auto_deliver(made, when))
        self.webhooks.send("v2.reservation.created", {"id": made.id, "type": "verification"}, self.now())
        return made

    def _add(self, service: str, price: Decimal, number: str) -> Verification:
        now = self.now()
        ident = serial_id("lr", next(self._serials))
        made = Verification(ident, service, number, price, now, now + self.life_seconds)
        self.verifications[made.id] = made
        self.timeline.at(made.ends_at, lambda when: self._time_out(made))
        return made

    def _create_mock(self, name: str) -> Verification:
        """Nothing is charged, taken from stock or counted as a purchase; webhooks are not told."""
        if name in MOCK_RENTALS:
            raise Refusal("Unsupported", "This scenario is one of rentals.")
        if name in MOCK_ERRORS:
            raise Refusal(MOCK_ERRORS[name])
        made = self._add(name, MOCK_PRICE, f"2025550{len(self.verifications) % 1000:03d}")
        made.is_mock, made.is_refunded, made.state = True, True, MOCK_STATES[name]
        made.can_reactivate = name == "test_reactivatable"
        if name == "test_success":
            self._auto_deliver(made, made.created_at)
        elif name == "test_delayed_success":
            due = made.created_at + self.mock_delay_seconds
            self.timeline.at(due, lambda when: self._auto_deliver(made, when))
        return made

    def _auto_deliver(self, made: Verification, when: float) -> None:
        if made.state == "Pending" and not self.faults.take("no_sms"):
            code = str(100_000 + int(made.id[-9:]) * 31_337 % 900_000)
            self._receive(made, f"Your code is {code}", code, when)

    def _receive(self, made: Verification, text: str, code: str, when: float) -> None:
        sms = Sms(self.serial("sm"), made.id, made.number, text, code, when)
        made.state = "Completed"
        for _ in range(2 if self.faults.take("repeat_sms") else 1):
            made.sms.append(sms)
            self.messages.append(sms)
        if not made.is_mock:
            self.webhooks.send("v2.sms.received", self._event(sms), self.now())

    def receive(self, reservation: str, number: str, text: str, code: str, *, kind: Literal["nonrenewable"]) -> Sms:
        """A message of a rental comes now."""
        sms = Sms(self.serial("sm"), reservation, number, text, code, self.now(), kind)
        self.messages.append(sms)
        self.webhooks.send("v2.sms.received", self._event(sms), self.now())
        return sms

    def serial(self, kind: str) -> str:
        """The next id of a kind."""
        return serial_id(kind, next(self._serials))

    def _event(self, sms: Sms) -> dict[str, Any]:
        """The event names the reservation and not the SMS, unlike the lists (§9)."""
        return {
            "from": SENDER,
            "to": sms.to,
            "createdAt": self.webhooks.time(sms.at),
            "smsContent": sms.text,
            "parsedCode": sms.code or None,
            "encrypted": False,
            "reservationId": sms.reservation,
        }

    def deliver(self, order_id: str, text: str, code: str | None = None) -> None:
        self.advance()
        made = self.verifications.get(order_id)
        if made is None or made.state != "Pending":
            raise NotOpen(order_id)
        self._receive(made, text, find_code(text) if code is None else code, self.now())

    def _time_out(self, made: Verification) -> None:
        if made.state == "Pending":
            made.state = "TimedOut"
            if self.refunds_on_timeout:
                self._refund(made)

    def _refund(self, made: Verification) -> None:
        if not made.is_refunded:
            made.is_refunded = True
            self.balance += made.cost

    def find(self, ident: str) -> Verification:
        made = self.verifications.get(ident)
        if made is None:
            raise Missing(ident)
        return made

    def can_cancel(self, made: Verification) -> bool:
        in_time = self.cancel_seconds is None or self.now() < made.created_at + self.cancel_seconds
        return made.state == "Pending" and in_time

    def can_report(self, made: Verification) -> bool:
        """What can no longer be cancelled and brought nothing."""
        if made.is_refunded or made.sms:
            return False
        return made.state in ("TimedOut", "Completed") or (made.state == "Pending" and not self.can_cancel(made))

    def can_reuse(self, made: Verification) -> bool:
        return made.state == "Completed" and self.now() < made.ends_at

    def cancel(self, ident: str) -> None:
        made = self.find(ident)
        if made.state == "Pending" and self.faults.take("sms_on_cancel"):
            self.deliver(ident, "Your code is 24680")
        if not self.can_cancel(made) or self.faults.take("refuse_cancel"):
            raise Refusal("CannotCancel", "The verification cannot be canceled.")
        made.state = "Canceled"
        self._refund(made)

    def report(self, ident: str) -> None:
        """Reported now, refunded with the next thing that happens."""
        made = self.find(ident)
        if not self.can_report(made):
            raise Refusal("CannotReport", "The verification cannot be reported.")
        made.state = "Reported"
        self.timeline.at(self.now(), lambda when: self._refund_reported(made))

    def _refund_reported(self, made: Verification) -> None:
        made.state = "Refunded"
        self._refund(made)

    def again(self, ident: str, state: Literal["Reused", "Reactivated"]) -> Verification:
        """The same number once more: a new verification, charged, and the old one is superseded."""
        made = self.find(ident)
        if not (self.can_reuse(made) if state == "Reused" else made.can_reactivate):
            raise Refusal("Unavailable", "The number is not available any more.")
        if made.is_mock:
            renewed = self._add(made.service, made.cost, made.number)
            renewed.is_mock = renewed.is_refunded = True
        else:
            self.check_account(made.cost)
            renewed = self._open(made.service, made.cost, made.number)
        made.state = state
        made.can_reactivate = False
        return renewed

    # what tests and people do to it

    def restock(self, **change: Any) -> None:
        """`service`, and any of `price`, `count`."""
        self.set_stock(**change)

    def set_rent_stock(
        self, service: str, duration: str, *, price: Amount | None = None, count: int | None = None
    ) -> None:
        """As `set_stock`, for a rental of that duration."""
        self.rentals.restock(service, duration, price, count)

    def deliver_rental(self, rental_id: str, text: str) -> None:
        """As `deliver`, to a rental. One that sleeps does not receive it."""
        self.advance()
        self.rentals.deliver(rental_id, text)

    def rental_views(self) -> list[dict[str, Any]]:
        """As `order_views`: rentals, oldest first."""
        return self.rentals.views()

    def set_stock(self, service: str, *, price: Amount | None = None, count: int | None = None) -> None:
        if service not in self.shelves:
            raise ValueError(f"this provider sells no {service!r}")
        shelf = self.shelves[service]
        shelf.price = shelf.price if price is None else money(price)
        shelf.count = shelf.count if count is None else count

    def counters(self) -> dict[str, Any]:
        return {**super().counters(), "webhooks": self.webhooks.attempts_view()}

    def order_views(self) -> list[dict[str, Any]]:
        return [
            {
                "id": made.id,
                "service": made.service,
                "phone": f"+1{made.number}",
                "price": str(made.cost),
                "state": made.state.lower(),
                "sms": [{"text": sms.text, "code": sms.code} for sms in made.sms],
            }
            for made in self.verifications.values()
        ]

    def server_error(self) -> Response:
        return Response(status_code=500)

    def rate_limited(self) -> Response:
        return Response(status_code=429)
