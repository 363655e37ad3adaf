"""The seam between the house and its upstreams: five verbs, optional abilities, and the columnar price list."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

import httpx

from gateway.model import BuyOrder, Clock, Found, Lease, Offer, Outcome, Progress, Sms, Watched
from gateway.money import Money


class Upstream(Protocol):
    """One provider. Every verb raises only `gateway.errors.UpstreamError`."""

    name: str

    async def offers(self) -> OfferTable:
        """Everything it sells now; fetched in the background, never while a caller waits."""
        ...

    async def buy(self, order: BuyOrder) -> Lease:
        """One attempt, one request. Raises NothingTaken when no number was taken, InDoubt when perhaps one was."""
        ...

    async def read(self, watched: Watched) -> Progress:
        """State and every SMS so far. Raises Unwell; an unknown reference is a state, not an error."""
        ...

    async def close(self, reference: str, outcome: Outcome) -> None:
        """Tell the upstream how the lease ends. Safe to repeat: done already is done.

        Raises TooEarly, HasSms, NotAllowed, UnknownLease, Unwell.
        """
        ...

    async def balance(self) -> Money:
        """What the account there can spend. Raises Refused (bad key) or Unwell."""
        ...

    async def aclose(self) -> None:
        """Give connections back."""
        ...


@runtime_checkable
class ReadsMany(Protocol):
    """Reads all open leases in few calls. A lease missing from the answer has to be asked for singly."""

    async def read_many(self, watched: Sequence[Watched]) -> Mapping[str, Progress]: ...


@runtime_checkable
class AsksAgain(Protocol):
    """Has to be told that another SMS is wanted. Raises NotAllowed, UnknownLease, Unwell. Safe to repeat."""

    async def ask_again(self, reference: str) -> None: ...


@runtime_checkable
class Finds(Protocol):
    """Can list its open orders, so that a purchase whose reply was lost can be found. Raises Unwell."""

    async def find(self, since: float) -> Sequence[Found]: ...


@dataclass(frozen=True, slots=True)
class PushRequest:
    """An HTTP request an upstream (or whoever poses as one) sent us.

    `url` is the public one, as the upstream was told it, with the query; header names are lower case; `body` is what
    came, untouched. `peer` is the sender's address, as far as trusted proxies tell. `source` is what follows the
    upstream's name in the path, without slashes around it. `has_secret` says that the path carried the upstream's
    secret part, which proves as much as a bearer token does.
    """

    method: str
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    peer: str = ""
    source: str = ""
    has_secret: bool = False


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a push tells of one lease. Without messages it is a hint: the lease is read before anything is done.

    With an empty `reference` it hints that a purchase whose reply was lost may have become visible.
    """

    reference: str
    messages: tuple[Sms, ...] = ()


@dataclass(frozen=True, slots=True)
class PushTaken:
    """What a push told, and the answer its sender wants to see (always with status 200)."""

    pushed: tuple[Pushed, ...] = ()
    body: bytes = b""
    media_type: str = "text/plain"


@runtime_checkable
class Pushes(Protocol):
    """Is told of messages by the upstream itself. Safe to repeat: senders do.

    Raises PushRefused (not proven genuine), PushUnreadable, Unwell (keep it and send it again).
    """

    async def take_push(self, request: PushRequest) -> PushTaken: ...


@runtime_checkable
class HasUnmapped(Protocol):
    """Tells what its last price list had for sale under words we have no code for."""

    @property
    def unmapped(self) -> Mapping[str, int]:
        """`service <word>` or `country <word>` to the numbers in stock under it."""
        ...


@runtime_checkable
class SellsByRule(Protocol):
    """Sells by a rule instead of a list; `offers()` is then empty."""

    def offers_for(self, service: str, country: int) -> Sequence[Offer]: ...


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


class NumberPool(Protocol):
    """Numbers of our own: rows of the house's database, seen by all its processes.

    Everything raises `gateway.errors.Unavailable` when the database does not answer.
    """

    async def lease(self, order: BuyOrder, terms: PoolTerms) -> Lease | None:
        """The number used longest ago of those that may be leased, or None. No number is leased twice."""
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


@runtime_checkable
class Tidies(Protocol):
    """Keeps rows that have to be looked after whether or not anybody buys: called once a minute. Raises Unwell."""

    async def tidy(self) -> None: ...


class Names(Protocol):
    """What an adapter needs of the catalogue."""

    @property
    def service_names(self) -> Mapping[str, str]:
        """Canonical code to English name."""
        ...

    @property
    def country_iso2(self) -> Mapping[int, str]:
        """Canonical id to ISO 3166 letters, upper case."""
        ...

    @property
    def country_prefix(self) -> Mapping[int, str]:
        """Canonical id to dialling digits, without a plus sign."""
        ...


Observe = Callable[[str, str, float], None]
"""Called once per upstream request with verb, outcome (`ok` or the error's class name) and seconds."""

Offload = Callable[..., Awaitable[Any]]
"""`await offload(function, *args)` runs a module-level pure function outside the event loop's process."""


def no_observer(_verb: str, _outcome: str, _seconds: float) -> None:
    """Observes nothing."""


async def run_inline(function: Callable[..., Any], *args: Any) -> Any:
    """The Offload for tests and small bodies: runs right here."""
    return function(*args)


@dataclass(frozen=True)
class Context:
    """What the wiring hands an adapter beside its own options. Secrets never appear in a repr.

    `secret` is our key there; `secrets` holds what else the module's `SECRETS` names, without those left unset.
    """

    name: str
    currency: str
    names: Names
    clock: Clock
    secret: str = field(default="", repr=False)
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    proxy: str | None = None
    observe: Observe = no_observer
    offload: Offload = run_inline
    transport: httpx.AsyncBaseTransport | None = None
    """Replaces the network in an adapter's own tests."""
    pool: NumberPool | None = None
    desk: Desk | None = None


def _key(service: str, country: int) -> int:
    """Service (at most five ASCII letters or digits) and country packed into one sortable integer."""
    return (country << 40) | int.from_bytes(service.encode("ascii").rjust(5, b"\0"), "big")


def _unpack(key: int) -> tuple[str, int]:
    return (key & 0xFFFFFFFFFF).to_bytes(5, "big").lstrip(b"\0").decode("ascii"), key >> 40


class OfferTable:
    """A price list in columns, sorted by country, service and cost: about 30 bytes a row, cheap to pickle.

    Built once (often in another process), then only read. Counts are per row: a cumulative ladder has to be made plain
    by the adapter before it gets here.
    """

    __slots__ = ("_costs", "_counts", "_keys", "_operators", "_rates", "_words", "currency", "upstream")

    def __init__(self, upstream: str, currency: str, rows: Iterable[tuple[str, int, int, int, str, float | None]] = ()):
        """`rows` are (service, country, cost in micro-units, count, operator, success rate 0..1 or None).

        Rows with no stock, a negative cost, or a service code that cannot be packed are left out.
        """
        self.upstream = upstream
        self.currency = currency
        words: dict[str, int] = {"": 0}
        kept = []
        for service, country, cost, count, operator, rate in rows:
            if (
                count <= 0
                or cost < 0
                or not 0 < len(service) <= 5
                or not service.isascii()
                or not 0 <= country < 1 << 20
            ):
                continue
            word = words.setdefault(operator, len(words))
            kept.append((_key(service, country), cost, min(count, 2**31 - 1), word, -1.0 if rate is None else rate))
        kept.sort()
        self._keys = array("Q", (row[0] for row in kept))
        self._costs = array("q", (row[1] for row in kept))
        self._counts = array("l", (row[2] for row in kept))
        self._operators = array("L", (row[3] for row in kept))
        self._rates = array("f", (row[4] for row in kept))
        self._words = tuple(words)

    def __len__(self) -> int:
        return len(self._keys)

    def _offer(self, index: int) -> Offer:
        service, country = _unpack(self._keys[index])
        rate = self._rates[index]
        return Offer(
            upstream=self.upstream,
            service=service,
            country=country,
            cost=Money(self._costs[index], self.currency),
            count=self._counts[index],
            operator=self._words[self._operators[index]],
            success_rate=None if rate < 0 else rate,
        )

    def at(self, service: str, country: int) -> tuple[Offer, ...]:
        """Offers for one service and country, cheapest first."""
        if not 0 < len(service) <= 5 or not service.isascii():
            return ()
        key = _key(service, country)
        index = bisect_left(self._keys, key)
        found = []
        while index < len(self._keys) and self._keys[index] == key:
            found.append(self._offer(index))
            index += 1
        return tuple(found)

    def pairs(self) -> Iterator[tuple[str, int]]:
        """Each (service, country) that is on sale, once, in order of country."""
        previous = None
        for key in self._keys:
            if key != previous:
                previous = key
                yield _unpack(key)

    def operators(self, country: int) -> set[str]:
        """The upstream's words for operators it sells in one country."""
        low = bisect_left(self._keys, country << 40)
        high = bisect_left(self._keys, (country + 1) << 40)
        return {self._words[word] for word in set(self._operators[low:high])} - {""}
