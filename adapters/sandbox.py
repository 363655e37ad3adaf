"""An upstream that lives in the process: made-up numbers and codes for demo accounts (the gateway sees to "only").

A reference says everything about its lease (`tg-6-<milliseconds of purchase>-<random>`), so progress is a function of
the reference and the clock and survives a restart. Only what callers did since (asked again, finished, cancelled)
is kept in memory, bounded; once forgotten, a lease simply counts as open until its life ends.

The service code picks the outcome:

    xnone   stock is shown, but every purchase finds it sold out
    xmute   no code ever comes
    xtwo    a second code follows the first unasked
    xslow   the purchase answers slowly
    xban    the caller is barred for an hour
    xlock   no code comes, and an early cancel is refused
    other   a code within seconds, and another after each request for one

A rental's reference says for how many hours it is, too (`rent:tg-6-<milliseconds>-<random>-24`). Its messages come by
themselves: the first within seconds, the next ones 10 and 30 s later, then one an hour for a day; `xmute` and `xlock`
stay silent, `xtwo` gets two at a time. It ends when the house says so, which knows of extensions that a restart forgot.

A number can be used again once its activation was not cancelled, and take further services while it is open.

Numbers begin with 00 after the country's prefix. No numbering plan assigns those, so nobody is ever texted by mistake.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from cachetools import TTLCache
from pydantic import BaseModel, ConfigDict, Field

from gateway.errors import CallerBarred, HasSms, NotAllowed, NotReached, Refused, SoldOut, TooEarly, UnknownLease
from gateway.model import BuyOrder, Found, Lease, LeaseState, Offer, Outcome, Progress, RentOffer, Sms, Watched
from gateway.money import MICROS, Money
from gateway.upstream import Context, OfferTable, Upstream

NEEDS_SECRET = False
COST_MICROS = 50_000
BALANCE_MICROS = 1_000 * MICROS
STOCK = 1_000
FOLLOW_UP_SECONDS = 2.0
BAR_SECONDS = 3600.0
MEMORY_MAX = 100_000
HOUR_SECONDS: Final = 3600.0
RENT_HOURS_MIN, RENT_HOURS_MAX = 2, 1344
RENT_COST_MICROS = 10_000
"""For an hour."""

RENT_STOCK = 20
RENT_PAUSES_SECONDS = (0.0, 10.0, 30.0)
"""After the first message of a rental, when it and the next ones come; then one an hour, `RENT_HOURLY` of them."""

RENT_HOURLY = 24

RENT_SENDERS = ("Telegram", "WhatsApp", "Google", "Instagram")

_REFERENCE = re.compile(r"(?:rent:)?([a-z0-9]{1,5})-(\d{1,6})-(\d{1,15})-([0-9a-f]{8})(?:-(\d{1,4}))?")
_SCENARIOS = frozenset({"xnone", "xmute", "xtwo", "xslow", "xban", "xlock"})
_SILENT = frozenset({"xmute", "xlock"})
_NUMBERS = 10**8
_SCATTER = 48_271_117
"""Shares no factor with 10, so that multiplying by it maps distinct numbers below `_NUMBERS` to distinct ones."""


class Options(BaseModel):
    """Seconds of each kind of waiting."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    quick_seconds: float = Field(
        default=1.0, ge=0, le=600, description="Until a Telegram code arrives, after purchase."
    )
    usual_seconds_max: float = Field(default=8.0, ge=0, le=600, description="Until any other first code, at most.")
    slow_seconds: float = Field(default=4.0, ge=0, le=60, description="How long a purchase of `xslow` takes.")
    early_cancel_seconds: float = Field(
        default=120, ge=0, le=86400, description="Cancels of `xlock` are refused before."
    )
    life_seconds: float = Field(default=1200, gt=0, le=86400, description="Life of a number.")


class _Ticket(NamedTuple):
    """A reference taken apart. `created_at` is in epoch seconds, `hours` nought unless it is a rental's."""

    reference: str
    service: str
    country: int
    created_at: float
    hours: int = 0


@dataclass(frozen=True, slots=True)
class _Memory:
    """What callers did with a lease. Times are epoch seconds; `ended_at` belongs to `outcome`."""

    asked_at: tuple[float, ...] = ()
    added_hours: int = 0
    outcome: Outcome | None = None
    ended_at: float | None = None


_UNTOUCHED = _Memory()


class Sandbox:
    """One sandbox. Nothing leaves the process."""

    def __init__(self, context: Context, options: Options) -> None:
        self.name = context.name
        self._context = context
        self._options = options
        self._last_millis = 0
        self._memories: TTLCache[str, _Memory] = TTLCache(MEMORY_MAX, ttl=options.life_seconds, timer=context.clock)
        self._rentals: TTLCache[str, _Memory] = TTLCache(
            MEMORY_MAX, ttl=RENT_HOURS_MAX * HOUR_SECONDS, timer=context.clock
        )

    async def offers(self) -> OfferTable:
        """Empty: it sells by rule."""
        return OfferTable(self.name, self._context.currency)

    def offers_for(self, service: str, country: int) -> Sequence[Offer]:
        """One offer for everything in the catalogue."""
        if not self._is_sold(service, country):
            return ()
        return (Offer(self.name, service, country, self._cost, STOCK),)

    async def buy(self, order: BuyOrder) -> Lease:
        """A number at the one price. Raises only NothingTaken: whatever goes wrong here, nothing was taken."""
        self._refuse(order)
        if order.service == "xslow":
            await self._dawdle(order.timeout_seconds)
        ticket = self._ticket(order.service, order.country)
        number = _number(ticket, self._context.names.country_prefix[order.country])
        if number.startswith(order.phone_exceptions):
            raise SoldOut("every number here begins with an excluded prefix")
        expires_at = ticket.created_at + self._options.life_seconds
        return Lease(ticket.reference, number, self._cost, order.operator, expires_at)

    async def rent_countries(self) -> Collection[int]:
        return self._context.names.country_iso2.keys()

    async def rent_offers(self, country: int, hours: int) -> Sequence[RentOffer]:
        """Everything in the catalogue, at one price an hour."""
        names, hours = self._context.names, max(hours, RENT_HOURS_MIN)
        if country not in names.country_iso2 or hours > RENT_HOURS_MAX:
            return ()
        cost = self._rent_cost(hours)
        return [RentOffer(self.name, code, country, hours, cost, RENT_STOCK) for code in names.service_names]

    async def rent(self, order: BuyOrder) -> Lease:
        """As `buy`, for the order's hours."""
        self._refuse(order, self._rent_cost(order.hours).micros)
        if order.service == "xslow":
            await self._dawdle(order.timeout_seconds)
        ticket = self._ticket(order.service, order.country, order.hours)
        number = _number(ticket, self._context.names.country_prefix[order.country])
        ends_at = ticket.created_at + order.hours * HOUR_SECONDS
        return Lease(ticket.reference, number, self._rent_cost(order.hours), order.operator, ends_at)

    async def extension_cost(self, reference: str, hours: int) -> tuple[Money, int]:
        ticket = self._known_ticket(reference)
        hours = max(hours, RENT_HOURS_MIN)
        if not ticket.hours or self._progress(ticket).state is not LeaseState.OPEN:
            raise NotAllowed("no open rental")
        if ticket.hours + self._memory(reference).added_hours + hours > RENT_HOURS_MAX:
            raise NotAllowed(f"a rental lasts {RENT_HOURS_MAX} hours at most")
        return self._rent_cost(hours), hours

    async def extend(self, order: BuyOrder) -> float:
        try:
            cost, hours = await self.extension_cost(order.lease_reference, order.hours)
        except (NotAllowed, UnknownLease) as error:
            raise Refused(str(error)) from None
        if order.cost_max.micros < cost.micros:
            raise SoldOut("nothing at this price")
        memory = self._memory(order.lease_reference)
        self._remember(order.lease_reference, replace(memory, added_hours=memory.added_hours + hours))
        ticket = self._known_ticket(order.lease_reference)
        return self._ends_at(ticket)

    async def reuse_cost(self, reference: str, number: str, service: str, country: int) -> Money:
        ticket = self._known_ticket(reference)
        if ticket.hours or self._memory(reference).outcome is Outcome.CANCELLED or ticket.service != service:
            raise NotAllowed("not a number that a code of this service came for")
        return self._cost

    async def reuse(self, order: BuyOrder) -> Lease:
        """The same number under a new reference."""
        self._refuse(order, COST_MICROS)
        try:
            await self.reuse_cost(order.lease_reference, order.lease_number, order.service, order.country)
        except (NotAllowed, UnknownLease) as error:
            raise Refused(str(error)) from None
        return self._lease_of(order)

    async def add_service(self, order: BuyOrder) -> Lease:
        """The same number under a new reference, while the first is open."""
        self._refuse(order, COST_MICROS)
        ticket = _parsed(order.lease_reference)
        if ticket is None or ticket.hours or self._progress(ticket).state is not LeaseState.OPEN:
            raise Refused("no open number")
        return self._lease_of(order)

    def _lease_of(self, order: BuyOrder) -> Lease:
        ticket = self._ticket(order.service, order.country)
        expires_at = ticket.created_at + self._options.life_seconds
        return Lease(ticket.reference, order.lease_number, self._cost, order.operator, expires_at)

    def _rent_cost(self, hours: int) -> Money:
        return Money(RENT_COST_MICROS * hours, self._context.currency)

    async def read(self, watched: Watched) -> Progress:
        ticket = _parsed(watched.reference)
        return self._progress(ticket, watched.round) if ticket else Progress(LeaseState.UNKNOWN)

    async def read_many(self, watched: Sequence[Watched]) -> Mapping[str, Progress]:
        return {one.reference: await self.read(one) for one in watched}

    async def find(self, since: float) -> Sequence[Found]:
        """Nothing: a number exists here only once its buyer has it, so a purchase whose reply was lost took none."""
        return ()

    async def ask_again(self, reference: str) -> None:
        """One more code. Asking while one is on its way changes nothing, so that repeating is safe."""
        ticket = self._known_ticket(reference)
        progress = self._progress(ticket)
        if progress.state is not LeaseState.OPEN or not progress.messages:
            raise NotAllowed("another code can be had only after the first, and before the end")
        memory = self._memory(reference)
        if not memory.asked_at or memory.asked_at[-1] + FOLLOW_UP_SECONDS <= self._context.clock():
            self._remember(reference, replace(memory, asked_at=(*memory.asked_at, self._context.clock())))

    async def close(self, reference: str, outcome: Outcome) -> None:
        ticket = self._known_ticket(reference)
        state = self._progress(ticket).state
        if _says_same(state, outcome):
            return
        if outcome is Outcome.CANCELLED:
            self._refuse_cancel(ticket)
        if state is not LeaseState.OPEN:
            raise NotAllowed(f"the lease is {state} already")
        self._remember(reference, replace(self._memory(reference), outcome=outcome, ended_at=self._context.clock()))

    async def balance(self) -> Money:
        return Money(BALANCE_MICROS, self._context.currency)

    async def aclose(self) -> None:
        """Nothing is held open."""

    @property
    def _cost(self) -> Money:
        return Money(COST_MICROS, self._context.currency)

    def _is_sold(self, service: str, country: int) -> bool:
        names = self._context.names
        return service in names.service_names and country in names.country_iso2

    def _refuse(self, order: BuyOrder, cost_micros: int = COST_MICROS) -> None:
        if not self._is_sold(order.service, order.country):
            raise Refused("not in the catalogue")
        if order.service == "xban":
            raise CallerBarred(self._context.clock() + BAR_SECONDS)
        if order.service == "xnone" or order.cost_max.micros < cost_micros:
            raise SoldOut("nothing at this price")

    async def _dawdle(self, timeout_seconds: float) -> None:
        """Takes its time, but never more than the order has."""
        await asyncio.sleep(min(self._options.slow_seconds, timeout_seconds))
        if self._options.slow_seconds > timeout_seconds:
            raise NotReached("too slow for this order")

    def _ticket(self, service: str, country: int, hours: int = 0) -> _Ticket:
        """A new reference. No two of one process share a millisecond, which is what keeps numbers apart."""
        self._last_millis = max(int(self._context.clock() * 1000), self._last_millis + 1)
        reference = f"{service}-{country}-{self._last_millis}-{secrets.token_hex(4)}"
        if hours:
            reference = f"rent:{reference}-{hours}"
        return _Ticket(reference, service, country, self._last_millis / 1000, hours)

    def _known_ticket(self, reference: str) -> _Ticket:
        ticket = _parsed(reference)
        if ticket is None:
            raise UnknownLease("no reference of the sandbox")
        return ticket

    def _memory(self, reference: str) -> _Memory:
        memories = self._rentals if reference.startswith("rent:") else self._memories
        return memories.get(reference, _UNTOUCHED)

    def _remember(self, reference: str, memory: _Memory) -> None:
        memories = self._rentals if reference.startswith("rent:") else self._memories
        memories[reference] = memory

    def _refuse_cancel(self, ticket: _Ticket) -> None:
        if self._progress(ticket).messages:
            raise HasSms
        seconds_left = ticket.created_at + self._options.early_cancel_seconds - self._context.clock()
        if ticket.service == "xlock" and seconds_left > 0:
            raise TooEarly(seconds_left)

    def _progress(self, ticket: _Ticket, wanted_round: int = 1) -> Progress:
        if ticket.hours:
            return self._rental_progress(ticket)
        self._recall(ticket, wanted_round)
        memory = self._memory(ticket.reference)
        now, expires_at = self._context.clock(), ticket.created_at + self._options.life_seconds
        until = min(now, expires_at, now if memory.ended_at is None else memory.ended_at)
        arrivals = sorted((*self._unasked(ticket), *_asked(memory)))
        messages = tuple(self._sms(ticket, label, at) for at, label in arrivals if at <= until)
        return Progress(_state(memory, is_over=now >= expires_at, has_sms=bool(messages)), messages)

    def _rental_progress(self, ticket: _Ticket) -> Progress:
        memory, now = self._memory(ticket.reference), self._context.clock()
        until = now if memory.ended_at is None else min(now, memory.ended_at)
        messages = tuple(self._rental_sms(ticket, label, at) for at, label in self._rental_arrivals(ticket, until))
        state = LeaseState(memory.outcome.value) if memory.outcome else LeaseState.OPEN
        return Progress(state, messages, self._ends_at(ticket))

    def _ends_at(self, ticket: _Ticket) -> float:
        return ticket.created_at + (ticket.hours + self._memory(ticket.reference).added_hours) * HOUR_SECONDS

    def _rental_arrivals(self, ticket: _Ticket, until: float) -> list[tuple[float, str]]:
        """When messages of a rental came, each with a label that stays the same."""
        if ticket.service in _SILENT:
            return []
        first_at = ticket.created_at + self._delay_seconds(ticket)
        pauses = (*RENT_PAUSES_SECONDS, *(hour * HOUR_SECONDS for hour in range(1, RENT_HOURLY + 1)))
        times = 2 if ticket.service == "xtwo" else 1
        arrivals = ((first_at + pause, f"{pause:.0f}-{turn}") for pause in pauses for turn in range(times))
        return [(at, label) for at, label in arrivals if at <= until]

    def _rental_sms(self, ticket: _Ticket, label: str, at: float) -> Sms:
        """A rental of everything gets everybody's messages, one after the other."""
        code, name = _code(ticket.reference, label), self._service_name(ticket)
        if ticket.service == "full":
            name = RENT_SENDERS[_digest(ticket.reference, label, "sender") % len(RENT_SENDERS)]
        return Sms(code, f"Your {name} code is {code}", name, at, identity=f"{ticket.reference}:{label}")

    def _service_name(self, ticket: _Ticket) -> str:
        if ticket.service in _SCENARIOS:
            return "sandbox"
        return self._context.names.service_names.get(ticket.service, ticket.service)

    def _recall(self, ticket: _Ticket, wanted_round: int) -> None:
        """After a restart the requests for further codes are forgotten: the caller's round brings them back as new."""
        memory = self._memory(ticket.reference)
        forgotten = min(wanted_round, 100) - 1 - len(memory.asked_at)
        if forgotten > 0 and ticket.service not in _SILENT:
            asked_at = (*memory.asked_at, *[self._context.clock()] * forgotten)
            self._remember(ticket.reference, replace(memory, asked_at=asked_at))

    def _unasked(self, ticket: _Ticket) -> tuple[tuple[float, str], ...]:
        """When messages arrive by themselves, each with a label that stays the same."""
        if ticket.service in _SILENT:
            return ()
        first_at = ticket.created_at + self._delay_seconds(ticket)
        second = ((first_at + FOLLOW_UP_SECONDS, "second"),) if ticket.service == "xtwo" else ()
        return ((first_at, "first"), *second)

    def _delay_seconds(self, ticket: _Ticket) -> float:
        quick, usual_max = self._options.quick_seconds, self._options.usual_seconds_max
        if ticket.service == "tg" or usual_max <= quick:
            return min(quick, usual_max)
        return quick + (usual_max - quick) * _digest(ticket.reference, "delay") % 1000 / 1000

    def _sms(self, ticket: _Ticket, label: str, at: float) -> Sms:
        code = _code(ticket.reference, label)
        text = f"Your {self._service_name(ticket)} code is {code}"
        return Sms(code, text, sender="Sandbox", received_at=at, identity=f"{ticket.reference}:{label}")


def build(context: Context, options: Options) -> Upstream:
    """The sandbox of one stanza."""
    return Sandbox(context, options)


def _parsed(reference: str) -> _Ticket | None:
    found = _REFERENCE.fullmatch(reference)
    if found is None or reference.startswith("rent:") is not (found[5] is not None):
        return None
    return _Ticket(reference, found[1], int(found[2]), int(found[3]) / 1000, int(found[5] or 0))


def _digest(*parts: str) -> int:
    return int.from_bytes(hashlib.sha256("|".join(parts).encode()).digest()[:8], "big")


def _code(reference: str, label: str) -> str:
    """Five digits for Telegram and half of the rest, else six; never a leading nought, which some clients drop."""
    digest = _digest(reference, label, "code")
    digits = 5 if reference.startswith("tg-") or digest & 1 else 6
    return str(10 ** (digits - 1) + (digest >> 1) % (9 * 10 ** (digits - 1)))


def _number(ticket: _Ticket, prefix: str) -> str:
    return f"{prefix}00{round(ticket.created_at * 1000) * _SCATTER % _NUMBERS:08d}"


def _asked(memory: _Memory) -> tuple[tuple[float, str], ...]:
    return tuple((at + FOLLOW_UP_SECONDS, f"asked-{index}") for index, at in enumerate(memory.asked_at, start=1))


def _state(memory: _Memory, *, is_over: bool, has_sms: bool) -> LeaseState:
    if memory.outcome:
        return LeaseState(memory.outcome.value)
    if is_over:
        return LeaseState.FINISHED if has_sms else LeaseState.CANCELLED
    return LeaseState.OPEN


def _says_same(state: LeaseState, outcome: Outcome) -> bool:
    return state.value == outcome.value
