"""The values that travel between modules: frozen, plain, without behaviour of their own.

Times are seconds since the epoch, UTC, as floats. Numbers are digits only, without a plus sign.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from gateway.money import Money

Clock = Callable[[], float]
"""Seconds since the epoch; passed in, so that tests own the time."""


class Status(StrEnum):
    """Where an activation stands: `opening → waiting → received ⇄ retrying → finished`, or an end without a code."""

    OPENING = "opening"
    WAITING = "waiting"
    RECEIVED = "received"
    RETRYING = "retrying"
    FINISHED = "finished"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    FAILED = "failed"

    @property
    def is_open(self) -> bool:
        return self in OPEN


OPEN = frozenset({Status.OPENING, Status.WAITING, Status.RECEIVED, Status.RETRYING})


class Product(StrEnum):
    """What an activation is of.

    `AGAIN` is a number whose activation is over, taken for another code of the same service; `BESIDE` another service
    on a number that is in use. Both live like `SMS` once the number is there. A `RENTAL` is a number for a time, with
    every message that comes; an `EXTENSION` is more time for one, paid for and over at once.
    """

    SMS = "sms"
    AGAIN = "again"
    BESIDE = "beside"
    RENTAL = "rental"
    EXTENSION = "extension"

    @property
    def is_for_codes(self) -> bool:
        """Whether it is an activation as callers know it: a number for one service, its codes asked for one by one."""
        return self in _FOR_CODES


_FOR_CODES = frozenset({Product.SMS, Product.AGAIN, Product.BESIDE})


class Outcome(StrEnum):
    """How a lease ends, told to the upstream."""

    FINISHED = "finished"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Offer:
    """What an upstream would sell now: `count` numbers at `cost` each.

    `operator` is the upstream's own word, empty where it does not tell. `success_rate` is the upstream's own claim
    (0 to 1), None where it makes none. `hours` is how long a rental lasts that is offered; nought for others.
    """

    upstream: str
    service: str
    country: int
    cost: Money
    count: int
    operator: str = ""
    success_rate: float | None = None
    hours: int = 0


@dataclass(frozen=True, slots=True)
class RentOffer:
    """What an upstream would rent out now: `count` numbers for `hours` hours at `cost` each, the whole time."""

    upstream: str
    service: str
    country: int
    hours: int
    cost: Money
    count: int
    operator: str = ""


@dataclass(frozen=True, slots=True)
class Quote:
    """An offer priced for one caller; `price` is what is held and, at most, charged.

    `shares` is what each account pays the one above it, from the top down to the caller, in micro-units of the price's
    currency; empty where nobody on the way adds anything.
    """

    offer: Offer
    price: Money
    shares: tuple[int, ...] = ()

    @property
    def top_micros(self) -> int:
        """The operator's price."""
        return self.shares[0] if self.shares else self.price.micros


@dataclass(frozen=True, slots=True)
class Order:
    """What a caller asked for. `price_max` is None where the listed price is the ceiling.

    `fingerprint` is the same for two identical requests of one key; `reference` is the caller's own order id.
    `life_seconds` and `open_max` are what the caller's dialect promises; None leaves both to the settings.
    `started_at` is when the caller began to wait: several orders in a row share one deadline by it. None is now.
    `hours` is how long a rental shall last, or by how much an extension prolongs it; `parent_id` is the activation an
    order builds upon (its number again, another service beside it, more time for it).
    """

    service: str
    country: int
    operator: str = ""
    price_max: Money | None = None
    phone_exceptions: tuple[str, ...] = ()
    reference: str = ""
    fingerprint: str = ""
    life_seconds: float | None = None
    open_max: int | None = None
    started_at: float | None = None
    product: Product = Product.SMS
    hours: int = 0
    parent_id: int | None = None
    webhook_url: str = field(default="", repr=False)
    """Where a rental's own messages are told, beside the account's address."""


@dataclass(frozen=True, slots=True)
class BuyOrder:
    """One purchase, as an adapter sees it: `cost_max` is the most we pay, in the upstream's currency.

    `hours` is a rental's or an extension's time. `lease_reference` and `lease_number` are those of the lease an order
    builds upon: the number used again, the one another service is added to, the rental extended. `lease_expires_at` is
    when that one ends, as far as we know.
    """

    service: str
    country: int
    operator: str
    cost_max: Money
    timeout_seconds: float
    phone_exceptions: tuple[str, ...] = ()
    hours: int = 0
    lease_reference: str = ""
    lease_number: str = field(default="", repr=False)
    lease_expires_at: float | None = None


@dataclass(frozen=True, slots=True)
class Lease:
    """A number handed over. `reference` is the upstream's id, kept as text; `cost` None where the reply names none.

    An adapter that also rents out words its rentals' references so that it knows them from others (`rent:17`).
    """

    reference: str
    number: str
    cost: Money | None = None
    operator: str = ""
    expires_at: float | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """A lease seen in an upstream's list of open orders, with what is needed to tell whose it is."""

    lease: Lease
    service: str
    country: int
    created_at: float | None
    is_rental: bool = False


@dataclass(frozen=True, slots=True)
class LostExtension:
    """More time for a rental, of which it is not known whether it was had.

    `ends_at` is when the rental ended before, `made_before` how many by as many hours its upstream told of until then.
    """

    hours: int
    ends_at: float
    made_before: int


@dataclass(frozen=True, slots=True)
class Watched:
    """A lease to be read: `round` counts the SMS asked for so far, from 1.

    With `extension`, a rental is read to learn whether it ends later by that: an upstream that does not tell ends may
    tell what extensions there were.
    """

    reference: str
    round: int
    service: str = ""
    opened_at: float = 0.0
    extension: LostExtension | None = None


@dataclass(frozen=True, slots=True)
class Sms:
    """One message. `identity` is the same however often it is read; empty where the upstream names none.

    `code` is the upstream's reading of the text, or empty; `text` may be empty where only the code is told.
    """

    code: str
    text: str
    sender: str = ""
    received_at: float | None = None
    identity: str = ""

    def __repr__(self) -> str:
        return "Sms(…)"


class LeaseState(StrEnum):
    """What the upstream says of a lease. `UNKNOWN`: it does not know the reference (any more)."""

    OPEN = "open"
    FINISHED = "finished"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Progress:
    """State of a lease and every SMS the upstream shows for it, oldest first.

    `expires_at` is when it ends, where the upstream tells: a rental that was extended ends later than it once did.
    Messages of a rental carry an `identity`, since two may read alike.
    """

    state: LeaseState
    messages: tuple[Sms, ...] = ()
    expires_at: float | None = None
