"""A desk worked by a person: the upstream of last resort. Nothing is called: all of it is rows of the house's database.

Its ways:

* an order is given a number that lies ready, or opens a task and waits, as long as an order can, for one to be typed;
* nobody typed one: the order is sold out and costs nothing, while the task stays on the list for `wanted_seconds`; a
  number typed for it late lies ready for `ready_seconds`, for the same order asked again;
* of orders that give up and come back, each new one takes up the task of one that gave up, so the list grows and the
  people on duty are told only when more orders wait at the same time than before;
* where the person said that there is no such number, orders are sold out at once until `wanted_seconds` have passed;
* a lease lives for `life_seconds`. A task that the person fails is a cancelled lease, and nobody pays for it.
"""

from __future__ import annotations

import asyncio
import hmac
import time
import unicodedata
from collections import Counter
from collections.abc import Awaitable, Mapping, Sequence
from typing import Annotated, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from adapters._values import Unreadable, digits, micros
from gateway.errors import InDoubt, NotReached, Refused, SoldOut, Unavailable, UnknownLease, Unwell
from gateway.inhouse import Desk, DeskOrder, DeskState, DeskTask, Mistyped
from gateway.model import BuyOrder, Found, Lease, LeaseState, Outcome, Progress, Watched
from gateway.money import MICROS, Money
from gateway.upstream import Context, OfferTable

T = TypeVar("T")

LOOK_SECONDS = 0.25
"""Pause between two looks for a number: it is typed in another process as often as in this one."""

MARGIN_SECONDS = 0.5
"""Of an order's time, what is kept for its last look and for the answer."""

ENDED_SECONDS = 600.0
"""How long what has ended is still part of the list of all leases."""

DAY_SECONDS = 86_400.0
BALANCE_MICROS = 1_000 * MICROS
CODE_LENGTH_MAX = 32
TEXT_LENGTH_MAX = 2_000

Service = Annotated[str, Field(pattern=r"^[a-z0-9]{1,5}$")]
Country = Annotated[int, Field(ge=0, lt=1_000_000, strict=True)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]


class Options(BaseModel):
    """What the desk sells, and how long things wait there. `services` and `countries` are our own codes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    services: Annotated[tuple[Service, ...], Field(min_length=1)]
    countries: tuple[Country, ...] = ()
    """Empty: every country of the catalogue."""

    price: Annotated[int, BeforeValidator(micros), Field(gt=0)]
    """What a number costs, in the stanza's currency; kept in micro-units."""

    on_call: bool = True
    """Somebody answers while an order waits. Otherwise only numbers that lie ready are sold."""

    wanted_seconds: Seconds = 600.0
    ready_seconds: Seconds = 900.0
    life_seconds: Seconds = 1200.0
    kept_days: Annotated[float, Field(ge=1, le=3650)] = 30.0
    """How long what is over is kept, and with it the memory of which number was used for which service."""


def build(context: Context, options: Options) -> ManualEntry:
    return ManualEntry(context, options)


class ManualEntry:
    """The upstream. It reads many, asks again, finds, tidies, and is typed in."""

    is_kept_by_us = True

    def __init__(self, context: Context, options: Options) -> None:
        self.name = context.name
        self._context = context
        self._options = options
        self._secret = context.secret.encode()
        self._cost = Money(options.price, context.currency)

    @property
    def _desk(self) -> Desk:
        if self._context.desk is None:
            raise Unwell("this upstream was given no desk")
        return self._context.desk

    @property
    def unmapped(self) -> Mapping[str, int]:
        """Configured codes that the catalogue does not know; nothing is in stock under them."""
        names = self._context.names
        services = {f"service {code}": 0 for code in self._options.services if code not in names.service_names}
        countries = {f"country {code}": 0 for code in self._options.countries if code not in names.country_iso2}
        return Counter(services | countries)

    # --- what it sells ---

    async def offers(self) -> OfferTable:
        """The numbers that lie ready, and one more wherever somebody may type it while the order waits."""
        shelves = await _asked(self._desk.shelves(self._context.clock() - self._options.wanted_seconds))
        rows = []
        for service, country in self._places():
            can_type = self._options.on_call and (service, country) not in shelves.declined
            count = shelves.ready.get((service, country), 0) + int(can_type)
            rows.append((service, country, self._cost.micros, count, "", None))
        return OfferTable(self.name, self._cost.currency, rows)

    def _places(self) -> Sequence[tuple[str, int]]:
        names = self._context.names
        countries = self._options.countries or tuple(names.country_iso2)
        return [
            (service, country)
            for service in dict.fromkeys(self._options.services)
            if service in names.service_names
            for country in dict.fromkeys(countries)
            if country in names.country_iso2
        ]

    def _is_sold(self, service: str, country: int) -> bool:
        return service in self._options.services and country in (self._options.countries or (country,))

    async def balance(self) -> Money:
        """There is no account that could run dry."""
        return Money(BALANCE_MICROS, self._cost.currency)

    # --- buying ---

    async def buy(self, order: BuyOrder) -> Lease:
        if not self._is_sold(order.service, order.country):
            raise Refused("the desk does not sell this service or country")
        if order.cost_max.currency != self._cost.currency or order.cost_max.micros < self._cost.micros:
            raise SoldOut("nothing at this price")
        seconds = order.timeout_seconds - MARGIN_SECONDS
        wanted = DeskOrder(
            order.service,
            order.country,
            order.operator,
            self._cost,
            self._context.clock() + max(0.0, seconds),
            self._options.life_seconds,
            order.phone_exceptions,
        )
        if self._context.desk is None:
            raise NotReached("this upstream was given no desk")
        task = await self._take(wanted)
        if task is None and self._options.on_call:
            task = await self._wait(wanted, time.monotonic() + seconds)
        if task is None:
            raise SoldOut("nobody has typed a number")
        self._tell("code wanted", task, f"an order has its number and waits for the code until {_moment(task.until)}")
        return _lease(task)

    async def _take(self, wanted: DeskOrder, own: str = "") -> DeskTask | None:
        try:
            return await self._desk.take(wanted, own)
        except Unavailable:
            raise InDoubt("the database did not say whether a number was taken") from None

    async def _wait(self, wanted: DeskOrder, deadline: float) -> DeskTask | None:
        """The number typed while the order waits, leased; None where there is none.

        An order with no time left opens its task all the same, for the one that comes back.
        """
        desk, now, patience = self._desk, self._context.clock(), self._options.wanted_seconds
        own, is_new = await _reached(desk.want(wanted, now + patience, now - patience))
        if own is None:
            raise SoldOut("the person at the desk has said that there is none, or has too much to do")
        if is_new:
            operator = f" of {own.operator}" if own.operator else ""
            self._tell("number wanted", own, f"an order waits for a number{operator}, at {own.cost}")
        while time.monotonic() < deadline:
            if await _reached(desk.has_news(wanted, own.id)):
                leased = await self._take(wanted, own.id)
                if leased is not None or (await _reached(desk.task(own.id))).state is DeskState.FAILED:
                    return leased
            await asyncio.sleep(LOOK_SECONDS)
        return None

    def _tell(self, what: str, task: DeskTask, sentence: str) -> None:
        """A notice names no number, no code and no text: it passes through other people's hands."""
        names = self._context.names
        service = f"{names.service_names.get(task.service, task.service)} ({task.service})"
        country = f"{names.country_iso2.get(task.country, '')} ({task.country})".strip()
        self._desk.notify(f"{self.name}: {what}", f"Task {task.id}, {service}, {country}: {sentence}.")

    # --- reading ---

    async def read(self, watched: Watched) -> Progress:
        try:
            task = await _asked(self._desk.task(watched.reference))
        except UnknownLease:
            return Progress(LeaseState.UNKNOWN)
        return _progress(task, self._context.clock())

    async def read_many(self, watched: Sequence[Watched]) -> Mapping[str, Progress]:
        now = self._context.clock()
        wanted = {lease.reference for lease in watched}
        tasks = await _asked(self._desk.tasks(now - ENDED_SECONDS))
        return {task.id: _progress(task, now) for task in tasks if task.id in wanted and task.leased_at is not None}

    async def find(self, since: float) -> Sequence[Found]:
        """Leases made since then that are open: an order that never learnt of its number finds it here."""
        return [
            Found(_lease(task), task.service, task.country, task.leased_at)
            for task in await _asked(self._desk.tasks())
            if task.state is DeskState.LEASED and task.leased_at is not None and task.leased_at >= since
        ]

    async def ask_again(self, reference: str) -> None:
        task = await _asked(self._desk.ask_again(reference))
        if task is not None:
            self._tell("another code wanted", task, f"its order waits for one more code until {_moment(task.until)}")

    # --- closing ---

    async def close(self, reference: str, outcome: Outcome) -> None:
        desk = self._desk
        await _asked(desk.finish(reference) if outcome is Outcome.FINISHED else desk.cancel(reference))

    async def tidy(self) -> None:
        await _asked(self._desk.tidy(self._context.clock() - self._options.kept_days * DAY_SECONDS))

    async def aclose(self) -> None:
        """Nothing is held open."""

    # --- the person ---

    def admits(self, token: str) -> bool:
        """An upstream without a key admits nobody."""
        return bool(self._secret) and hmac.compare_digest(token.encode("utf-8", "replace"), self._secret)

    async def waiting(self) -> Sequence[DeskTask]:
        return await _asked(self._desk.tasks())

    async def supply(self, task: str, *, number: str = "", code: str = "", text: str = "") -> DeskTask:
        code, text = _line(code), text.strip()
        if len(code) > CODE_LENGTH_MAX or len(text) > TEXT_LENGTH_MAX or not _is_plain(code + text):
            raise Mistyped(
                f"a code has at most {CODE_LENGTH_MAX} characters, a text {TEXT_LENGTH_MAX}, and no control characters"
            )
        if number.strip() and (code or text):
            raise Mistyped("type the number first, and its code once an order has it")
        if code or text:
            return await _asked(self._desk.type_message(task, code, text))
        if not number.strip():
            raise Mistyped("type a number, a code or a text")
        known = await _asked(self._desk.task(task))
        plain = self._number(number, known.country)
        return await _asked(self._desk.type_number(task, plain, self._ready_until()))

    async def fail(self, task: str) -> DeskTask:
        return await _asked(self._desk.fail(task))

    async def offer(self, service: str, country: int, number: str) -> DeskTask:
        if not self._is_sold(service, country) or (service, country) not in self._places():
            raise Mistyped("the desk does not sell this service or country")
        plain = self._number(number, country)
        return await _asked(self._desk.offer(service, country, self._cost, plain, self._ready_until()))

    def _ready_until(self) -> float:
        return self._context.clock() + self._options.ready_seconds

    def _number(self, typed: str, country: int) -> str:
        """Digits only, with the country's prefix: a national number would be a stranger's somewhere else."""
        prefix = self._context.names.country_prefix.get(country, "")
        try:
            plain = digits(typed)
        except Unreadable:
            raise Mistyped("a number has 7 to 20 digits") from None
        if not plain.startswith(prefix):
            raise Mistyped(f"a number of this country begins with {prefix}")
        return plain


async def _asked(answer: Awaitable[T]) -> T:
    """An answer of the desk's for any verb but `buy`. Raises Unwell where the database gives none."""
    try:
        return await answer
    except Unavailable:
        raise Unwell("the database does not answer") from None


async def _reached(answer: Awaitable[T]) -> T:
    """An answer of the desk's to an order that has no number yet."""
    try:
        return await answer
    except Unavailable:
        raise NotReached("the database does not answer") from None


def _lease(task: DeskTask) -> Lease:
    return Lease(task.id, task.number, task.cost, task.operator, task.until)


def _progress(task: DeskTask, now: float) -> Progress:
    if task.leased_at is None:
        return Progress(LeaseState.UNKNOWN)
    return Progress(_state(task, now), task.messages)


def _state(task: DeskTask, now: float) -> LeaseState:
    if task.state is DeskState.LEASED and now < task.until:
        return LeaseState.OPEN
    if task.state is DeskState.FINISHED or (task.state is DeskState.LEASED and task.messages):
        return LeaseState.FINISHED
    return LeaseState.CANCELLED


def _line(typed: str) -> str:
    return " ".join(typed.split())


def _is_plain(typed: str) -> bool:
    """No control characters but the white space of a text of several lines, and no half of a character."""
    return all(character in "\n\r\t" or unicodedata.category(character) not in ("Cc", "Cs") for character in typed)


def _moment(at: float) -> str:
    return time.strftime("%H:%M:%S UTC", time.gmtime(at))
