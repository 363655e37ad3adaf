"""The seam between the house and its upstreams: five verbs, optional abilities, and the columnar price list."""

from __future__ import annotations

import time
from array import array
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import le
from typing import Any, NamedTuple, Protocol, runtime_checkable

import httpx

from gateway.inhouse import Desk, NumberPool
from gateway.model import BuyOrder, Clock, Found, Lease, Offer, Outcome, Progress, RentOffer, Sms, Watched
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

        A lease for codes that is finished has had an SMS, though perhaps under a former reference. Raises TooEarly,
        HasSms, NotAllowed, UnknownLease, Unwell.
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
    """Has to be told that another SMS is wanted. Safe to repeat, unless it `MovesLeases`."""

    async def ask_again(self, reference: str) -> str | None:
        """The reference under which the lease goes on, where that is another one from now on.

        Raises NotAllowed, UnknownLease (nothing was asked for), Unwell.
        """
        ...


@runtime_checkable
class MovesLeases(Protocol):
    """May answer `ask_again` by a new order, and a repeat under the former reference by a further one.

    What the new one is `find` tells, should the answer be lost: it has the same number and service. Closing the former
    reference is not needed.
    """

    moves_leases: bool


@runtime_checkable
class Finds(Protocol):
    """Can list its open orders, so that a purchase whose reply was lost can be found. Raises Unwell."""

    async def find(self, since: float) -> Sequence[Found]: ...


@runtime_checkable
class Rents(Protocol):
    """Rents numbers out for a time. `read`, `close` (finish or cancel) and `find` work on its rentals as on leases."""

    async def rent_countries(self) -> Collection[int]:
        """Where it rents out anything. Raises Refused, Unwell."""
        ...

    async def rent_offers(self, country: int, hours: int) -> Sequence[RentOffer]:
        """What can be rented there now for at least that long; each offer tells for how long it is really.

        Raises Refused, Unwell. Called while a caller waits, so it takes few calls; the house remembers the answer.
        """
        ...

    async def rent(self, order: BuyOrder) -> Lease:
        """One attempt, one request, as `buy`: for `order.hours` hours, ending at the lease's `expires_at`."""
        ...

    async def extension_cost(self, reference: str, hours: int) -> tuple[Money, int]:
        """What at least that many hours more would cost, and how many they would be.

        Raises NotAllowed (this rental can't be extended by that), UnknownLease, Unwell.
        """
        ...

    async def extend(self, order: BuyOrder) -> float:
        """One attempt, one request, for the rental `order.lease_reference`: when it ends now (epoch seconds).

        Raises NothingTaken where nothing was paid, InDoubt where perhaps it was: then `read` tells by `expires_at`;
        InDoubt with a reference where another rental was made instead.
        """
        ...


@runtime_checkable
class CountsExtensions(Protocol):
    """Does not tell when a rental ends, but by how much it has been extended so far.

    `read` with `Watched.extension` tells the end by that: so an extension whose answer was lost is settled.
    """

    async def extensions_made(self, reference: str, hours: int) -> int:
        """How often a rental has been extended by so many hours. Asked before it is again. Raises Refused, Unwell."""
        ...


@runtime_checkable
class Reuses(Protocol):
    """Can hand out a number again whose activation is over, for another code of the same service."""

    async def reuse_cost(self, reference: str, number: str, service: str, country: int) -> Money:
        """What it would cost now. Raises NotAllowed (not this one, or not any more), UnknownLease, Unwell."""
        ...

    async def reuse(self, order: BuyOrder) -> Lease:
        """One attempt, one request, as `buy`, for the number of `order.lease_reference`."""
        ...


@runtime_checkable
class AddsServices(Protocol):
    """Can lease a number that is in use for another service beside the first, at that service's own offer."""

    async def add_service(self, order: BuyOrder) -> Lease:
        """One attempt, one request, as `buy`: `order.service` on the number of `order.lease_reference`."""
        ...


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
class HasPushSources(Protocol):
    """Takes pushes of several kinds, each at an address of its own."""

    @property
    def push_sources(self) -> Sequence[str]:
        """What may stand behind the upstream's address, as far as it is set up."""
        ...


@runtime_checkable
class HasUnmapped(Protocol):
    """Tells what its last price list had for sale under words we have no code for."""

    @property
    def unmapped(self) -> Mapping[str, int]:
        """`service <word>` or `country <word>` to the numbers in stock under it."""
        ...


@runtime_checkable
class Learns(Protocol):
    """Learns from reading its price list what it needs for buying, or for reading on. Where several processes share a
    list, this goes with it to those who did not read."""

    def knowledge(self) -> Mapping[str, Any]:
        """What has been learnt, as JSON can say it."""
        ...

    def learn(self, knowledge: Mapping[str, Any]) -> None:
        """Takes what another process has learnt under the same settings. Raises ValueError, TypeError or KeyError where
        that makes no sense, and takes nothing."""
        ...


@runtime_checkable
class SellsByRule(Protocol):
    """Sells by a rule instead of a list; `offers()` is then empty."""

    def offers_for(self, service: str, country: int) -> Sequence[Offer]: ...


@runtime_checkable
class Tidies(Protocol):
    """Keeps rows that have to be looked after whether or not anybody buys: called once a minute. Raises Unwell."""

    async def tidy(self) -> None: ...


@runtime_checkable
class KeptByUs(Protocol):
    """Has no account elsewhere, so its balance is a word, not money to be reconciled."""

    is_kept_by_us: bool


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


CHECKED_TOGETHER = 4096
"""Rows looked at in one go: a millisecond in which no other thread runs."""

BREATH_SECONDS = 0.00002
"""Lets the interpreter go between two steps. A thread that has to ask for it gets it after five milliseconds only."""


class Columns(NamedTuple):
    """What an OfferTable is made of: for each row 8 bytes of key and of cost, 4 of count, of the operator's place in
    `words` and of the success rate (below 0: not known), in this machine's order."""

    words: tuple[str, ...]
    keys: bytes
    costs: bytes
    counts: bytes
    operators: bytes
    rates: bytes


class OfferTable:
    """A price list in columns, sorted by country, service and cost: 28 bytes a row, cheap to pickle.

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
        self._counts = array("i", (row[2] for row in kept))
        self._operators = array("I", (row[3] for row in kept))
        self._rates = array("f", (row[4] for row in kept))
        self._words = tuple(words)

    @classmethod
    def of_columns(cls, upstream: str, currency: str, columns: Columns) -> OfferTable:
        """The table that told these `columns`. Raises ValueError where no table would have. For a thread: it sleeps."""
        table = cls(upstream, currency)
        table._words = columns.words
        table._keys = array("Q", columns.keys)
        table._costs = array("q", columns.costs)
        table._counts = array("i", columns.counts)
        table._operators = array("I", columns.operators)
        table._rates = array("f", columns.rates)
        letters = [columns.keys[place::8] for place in range(5)]  # the last one first, as `_key` packs them
        if b"\0" in letters[0] or not all(map(bytes.isascii, letters)):
            raise ValueError("a service that is none")
        table._check()
        return table

    def columns(self) -> Columns:
        """Everything in it but whose it is, for a process elsewhere."""
        columns = (self._keys, self._costs, self._counts, self._operators, self._rates)
        return Columns(self._words, *(column.tobytes() for column in columns))

    def _check(self) -> None:
        """Raises ValueError where a row is none that a table has. In steps, between which other threads run."""
        rows = len(self._keys)
        if any(len(column) != rows for column in (self._costs, self._counts, self._operators, self._rates)):
            raise ValueError("columns that do not fit")
        if rows and self._keys[-1] >= 1 << 60:
            raise ValueError("a country that is none")
        for start in range(0, rows, CHECKED_TOGETHER):
            some, longer = slice(start, start + CHECKED_TOGETHER), slice(start, start + CHECKED_TOGETHER + 1)
            order = list(zip(self._keys[longer], self._costs[longer], strict=True))
            is_fit = (
                all(map(le, order, order[1:]))
                and min(self._costs[some]) >= 0
                and min(self._counts[some]) > 0
                and max(self._operators[some]) < len(self._words)
                and all(rate <= 1.0 for rate in self._rates[some])
            )
            time.sleep(BREATH_SECONDS)
            if not is_fit:
                raise ValueError("rows that no price list has")

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
