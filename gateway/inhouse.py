"""What the house hands to upstreams of its own: a pool of numbers, and a desk where a person types.

Their adapters stand on these as the others stand on a wire: rows of the house's database, seen by all its processes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, runtime_checkable

from gateway.model import BuyOrder, Found, Lease, Outcome, Progress, Sms
from gateway.money import Money


class DeskState(StrEnum):
    """Where a task of a desk stands: `wanted → ready → leased → finished`, or one of the ends without a code."""

    WANTED = "wanted"
    READY = "ready"
    LEASED = "leased"
    FINISHED = "finished"
    CANCELLED = "cancelled"
    FAILED = "failed"
    LAPSED = "lapsed"


@dataclass(frozen=True, slots=True)
class DeskTask:
    """One number that a person types, or has typed: `id` is the lease's reference once an order has it.

    `until` is when the present state ends by itself. `round` counts the codes asked for since the lease, from 1; with
    `is_code_awaited` the one of this round is still to be typed.
    """

    id: str
    state: DeskState
    service: str
    country: int
    operator: str
    cost: Money
    created_at: float
    until: float
    number: str = field(default="", repr=False)
    leased_at: float | None = None
    round: int = 1
    is_code_awaited: bool = False
    messages: tuple[Sms, ...] = ()

    @property
    def is_open(self) -> bool:
        return self.state in (DeskState.WANTED, DeskState.READY, DeskState.LEASED)

    @property
    def wants(self) -> str:
        """What the person can type next: `number`, `code`, or nothing."""
        if self.state is DeskState.WANTED:
            return "number"
        return "code" if self.is_code_awaited else ""


@dataclass(frozen=True, slots=True)
class DeskOrder:
    """A purchase as a desk sees it. It waits until `waits_until`; a lease it gets ends `life_seconds` later."""

    service: str
    country: int
    operator: str
    cost: Money
    waits_until: float
    life_seconds: float
    phone_exceptions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Shelves:
    """What a desk has: numbers ready by service and country, and where its person has said that there are none."""

    ready: Mapping[tuple[str, int], int]
    declined: frozenset[tuple[str, int]]


class Mistyped(ValueError):
    """What a person typed can't be taken; the message says why, and never repeats a number, a code or a text."""


class Desk(Protocol):
    """What an upstream worked by hand keeps, and where: rows of the house's database, seen by all its processes.

    Everything raises `gateway.errors.Unavailable` when the database does not answer; what is said of a task raises
    UnknownLease where there is none of that id at this desk, and NotAllowed where its state does not allow it.
    """

    def notify(self, title: str, body: str) -> None:
        """Tells the people on duty, without waiting."""
        ...

    async def take(self, order: DeskOrder, own: str = "") -> DeskTask | None:
        """Leases a ready number to the order, the one typed for its `own` task first; None where there is none.

        A number typed for another order is that one's for as long as it waits. No number is leased twice.
        """
        ...

    async def want(self, order: DeskOrder, wanted_until: float, declined_since: float) -> tuple[DeskTask | None, bool]:
        """A task for the order to wait for, and whether it is new: one that nobody waits for any more is taken up.

        None where the person has said since then that there is no such number, and where too many are wanted already.
        """
        ...

    async def has_news(self, order: DeskOrder, own: str) -> bool:
        """Whether `take` may have something, or the person has answered `own`: a look that changes nothing."""
        ...

    async def shelves(self, declined_since: float) -> Shelves: ...

    async def task(self, task: str) -> DeskTask: ...

    async def tasks(self, ended_since: float | None = None) -> Sequence[DeskTask]:
        """What is open, oldest first, and what ended since then."""
        ...

    async def type_number(self, task: str, number: str, ready_until: float) -> DeskTask: ...

    async def type_message(self, task: str, code: str, text: str) -> DeskTask: ...

    async def offer(self, service: str, country: int, cost: Money, number: str, ready_until: float) -> DeskTask: ...

    async def ask_again(self, task: str) -> DeskTask | None:
        """Another code is wanted. The task, or None where one is awaited as it is."""
        ...

    async def finish(self, task: str) -> None: ...

    async def cancel(self, task: str) -> None:
        """As `Upstream.close`: raises HasSms, too."""
        ...

    async def fail(self, task: str) -> DeskTask:
        """There is no such number, or it is of no use."""
        ...

    async def tidy(self, kept_since: float) -> None:
        """Ends what ran out, and drops what was over before then."""
        ...


@runtime_checkable
class TypedIn(Protocol):
    """Worked by a person, who lists what waits and types numbers and codes.

    Raises Mistyped, NotAllowed, UnknownLease, Unwell; their messages are fit for that person.
    """

    def admits(self, token: str) -> bool:
        """Whether it is this desk's key, compared in constant time."""
        ...

    async def waiting(self) -> Sequence[DeskTask]:
        """Everything open, oldest first."""
        ...

    async def supply(self, task: str, *, number: str = "", code: str = "", text: str = "") -> DeskTask:
        """The number of a task that wants one, or the message of one that has. The same again changes nothing."""
        ...

    async def fail(self, task: str) -> DeskTask:
        """Ends a task: no such number, or one of no use. Safe to repeat."""
        ...

    async def offer(self, service: str, country: int, number: str) -> DeskTask:
        """Puts a number on the desk before anybody asks for one."""
        ...


@dataclass(frozen=True, slots=True)
class PoolMessage:
    """A message that came in for a number of our own, or one part of it.

    `identity` is what its source calls it: the same however often it is sent, and never that of another. `to` is
    digits, empty where only the `device` tells which number was written to. `part` is what the parts of one message
    share, how many there are, and which one this is, from 1.
    """

    source: str
    identity: str
    to: str
    sender: str
    text: str
    received_at: float | None = None
    device: str = ""
    part: tuple[str, int, int] | None = None

    def __repr__(self) -> str:
        return "PoolMessage(…)"


@dataclass(frozen=True, slots=True)
class PoolLease:
    """An open lease that a message may be for. It `is_waiting` until its message is there, and when asked again."""

    id: int
    service: str
    opened_at: float
    is_waiting: bool


Choose = Callable[[Sequence[PoolLease], PoolMessage], "PoolLease | str"]
"""Whose of these leases, oldest first and at least one, a message is; or one word why it is nobody's.

Called within a transaction: pure, and quick.
"""


@dataclass(frozen=True, slots=True)
class PoolTerms:
    """On which terms a pool leases its numbers.

    A lease that ended is followed by a cool-down of its number for its service (the short one where it was given back
    without a message) and by a quarantine of its number for everything. `daily_cap` bounds the leases of one number in
    24 hours unless it has a cap of its own, `shared` those open at once. Parts of a message that are not complete after
    `parts_seconds` are taken as they are; a message sent more than `skew_seconds` before a lease was opened is not its.
    """

    price: Money
    choose: Choose
    lease_seconds: float
    cooldown_seconds: float
    cancelled_cooldown_seconds: float
    quarantine_seconds: float
    daily_cap: int
    shared: int
    parts_seconds: float
    skew_seconds: float
    keep_seconds: float
    strangers_daily_max: int


@dataclass(frozen=True, slots=True)
class FreeNumbers:
    """How many numbers of one kind can be leased now: those that have the same country, carrier and services.

    `services` holds the allowed ones, or with `is_except` the others; empty for any. `taken` says for how many of them
    each service is out for now: leased to it, or in its cool-down.
    """

    country: int
    carrier: str
    services: frozenset[str]
    is_except: bool
    count: int
    taken: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Recorded:
    """A message as it was written down: whose it is, or in one word why it is nobody's.

    `is_kept` is False only for what was left out because too much of the kind came.
    """

    sms: Sms
    reference: str = ""
    reason: str = ""
    is_kept: bool = True


@dataclass(frozen=True, slots=True)
class RentalTimes:
    """From when to when a rental of a pool lasts, as far as it has been prolonged, and for what."""

    service: str
    opened_at: float
    expires_at: float


class NumberPool(Protocol):
    """Numbers of our own: rows of the house's database, seen by all its processes.

    Everything raises `gateway.errors.Unavailable` when the database does not answer.
    """

    async def lease(self, order: BuyOrder, terms: PoolTerms) -> Lease | None:
        """The number used longest ago of those that may be leased, or None. No number is leased twice."""
        ...

    async def rent(self, order: BuyOrder, terms: PoolTerms, price: Money) -> Lease | None:
        """As `lease`, for `order.hours` hours and of a number that has no other lease, nor gets one meanwhile.

        Where the service is `full`, the number is one that may be leased for anything, and that nobody has used of
        late: its messages are all the tenant's.
        """
        ...

    async def rentable(self, country: int, terms: PoolTerms) -> Sequence[FreeNumbers]:
        """What can be rented in a country. `taken` also says, for `full`, how many are in any cool-down."""
        ...

    async def rental_times(self, reference: str) -> RentalTimes:
        """Raises NotAllowed (no rental, or over), UnknownLease."""
        ...

    async def prolong(self, reference: str, hours: int, hours_max: int) -> float:
        """When the rental ends now. Raises NotAllowed (as above, or longer than so many hours), UnknownLease."""
        ...

    async def is_reusable(self, reference: str, service: str, terms: PoolTerms) -> bool:
        """Whether the number of that lease, which had its message, can be leased for its service again: it is free,
        and nobody has had it since."""
        ...

    async def reuse(self, order: BuyOrder, terms: PoolTerms) -> Lease | None:
        """The number of `order.lease_reference` again, or None; its own cool-down and quarantine do not matter."""
        ...

    async def add_service(self, order: BuyOrder, terms: PoolTerms) -> Lease | None:
        """The number of the open lease `order.lease_reference` for a further service, or None."""
        ...

    async def progress(self, references: Sequence[str], terms: PoolTerms) -> Mapping[str, Progress]:
        """State and messages of every lease asked for."""
        ...

    async def close(self, reference: str, outcome: Outcome, terms: PoolTerms) -> None:
        """As `Upstream.close`. Raises HasSms, NotAllowed, UnknownLease."""
        ...

    async def ask_again(self, reference: str) -> None:
        """Another message is waited for. Raises NotAllowed, UnknownLease."""
        ...

    async def find(self, since: float) -> Sequence[Found]:
        """Open leases opened since then."""
        ...

    async def free(self, terms: PoolTerms) -> Sequence[FreeNumbers]: ...

    async def record(self, message: PoolMessage, terms: PoolTerms) -> Sequence[Recorded]:
        """Writes a message down and gives it to the lease it is for. A repeat is told what the first one was.

        Nothing is returned for a part while others are missing.
        """
        ...

    async def place(self, devices: Mapping[str, str], source: str) -> int:
        """Notes which number is in which device, for numbers of ours from that source; how many that changed."""
        ...

    async def tidy(self, terms: PoolTerms) -> None:
        """Ends leases that ran out, joins parts nobody waits for any longer, drops what is older than it is kept."""
        ...
