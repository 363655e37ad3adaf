"""Numbers of one's own: SIM cards in phones and modems, numbers rented from a carrier's API.

Nothing is called. The numbers, their leases and their messages are rows of the house's database (`context.pool`;
`simroute numbers` fills it), and messages are pushed to `/webhooks/sms/<name>/<source>`, where `source` is a module of
`adapters/_inbound` and says how the request is proven and read. Whose message it is, is in `_receive_sms_rules.py`.

Its ways:

* a number is leased for one service at a time (`shared` for more), the one used longest ago first, never twice for one
  service within its cool-down. The short cool-down after a lease without a message keeps what its caller asked for,
  and came late, from the next one who wants the same service;
* what came before the lease is not its own, nor is what was sent more than `clock_skew_seconds` before it;
* a message that is nobody's is kept, and can be seen with `simroute numbers messages --unmatched`;
* a message is durable, and its lease's, before its sender is thanked: a process that dies in between loses nothing,
  since the next reading of the lease shows it;
* a purchase whose commit was not confirmed is in doubt, and `find` tells what came of it;
* a rented number has one tenant. `full` is rented of numbers that may serve anything and that no service's cool-down
  keeps: the tenant sees every message, so nobody's account may hang on that number.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from adapters import _inbound
from adapters._receive_sms_rules import Rule, Rules
from adapters._values import micros
from gateway.errors import (
    InDoubt,
    NotAllowed,
    NotReached,
    PushRefused,
    Refused,
    SoldOut,
    Unavailable,
    UnknownLease,
    Unwell,
)
from gateway.inhouse import FreeNumbers, NumberPool, PoolMessage, PoolTerms, Recorded
from gateway.model import BuyOrder, Found, Lease, LeaseState, Outcome, Progress, RentOffer, Watched
from gateway.money import MICROS, Money
from gateway.upstream import Context, OfferTable, Pushed, PushRequest, PushTaken

T = TypeVar("T")

NEEDS_SECRET = False
SECRETS = {
    "generic_secret": False,
    "httpsms_signing_key": False,
    "plivo_auth_token": False,
    "smsgate_signing_key": False,
    "telnyx_public_key": False,
    "textbee_signing_secret": False,
    "twilio_auth_token": False,
    "twilio_shared_keys": False,
    "vonage_signature_method": False,
    "vonage_signature_secret": False,
}
"""Of every source; those of sources that are not used are left unset, and whatever poses as them is refused."""

BALANCE_MICROS = 1_000 * MICROS
RENT_HOURS_MIN = 2
WHOLE = "full"
"""The service that is all of them, for whoever rents a number."""

SANDBOX_NAME = "Sandbox:"
"""How the catalogue calls the scenarios of the sandbox, which nobody else sells."""

Service = Annotated[str, Field(pattern=r"^[a-z0-9]{1,5}$")]
Seconds = Annotated[float, Field(ge=0, le=366 * 86_400, allow_inf_nan=False)]


class Options(BaseModel):
    """On which terms the pool's numbers are leased, and how messages are told apart."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    price: Annotated[int, BeforeValidator(micros), Field(ge=0)] = 0
    """What a lease counts as cost, in the stanza's currency; kept in micro-units."""

    services: tuple[Service, ...] = ()
    """What is sold; empty: every service of the catalogue that the numbers allow."""

    lease_seconds: Annotated[float, Field(ge=60, le=7 * 86_400)] = 1200.0
    cooldown_hours: Annotated[float, Field(ge=0, le=10 * 8760)] = 720.0
    """After a lease that had its message, before its number is leased for the same service again."""

    cancelled_cooldown_seconds: Seconds = 1800.0
    """The same after a lease without a message."""

    quarantine_seconds: Seconds = 60.0
    """After any lease, before its number is leased for anything."""

    daily_cap: Annotated[int, Field(ge=1, le=100_000)] = 20
    """Leases of one number in 24 hours, given back or not, unless the number has a cap of its own."""

    shared: Annotated[int, Field(ge=1, le=100)] = 1
    """Services one number may be leased for at the same time."""

    rent_price_hour: Annotated[int, BeforeValidator(micros), Field(ge=0)] | None = None
    """What an hour of a rental counts as cost; unset, only the services of `rent_prices` are rented out."""

    rent_prices: Mapping[Service, Annotated[int, BeforeValidator(micros), Field(ge=0)]] = {}
    """The same for single services, `full` among them: every message that comes."""

    rent_hours_max: Annotated[int, Field(ge=RENT_HOURS_MIN, le=24 * 366)] = 1344
    """The longest a rental may last, extensions included."""

    rules: Mapping[Service, Rule] = {}
    """What tells the messages of a service; in place of what is known of it."""

    ignore: Rule = Rule()
    """Messages that are nobody's, such as a carrier's own."""

    strict: bool = False
    """Give a lease only messages that name its service."""

    clock_skew_seconds: Annotated[float, Field(ge=0, le=86_400)] = 2.0
    """How much a source's clock may be behind ours."""

    parts_seconds: Annotated[float, Field(ge=1, le=3600)] = 60.0
    """How long the first part of a message waits for the others."""

    kept_days: Annotated[float, Field(ge=1, le=3650)] = 30.0
    """How long messages are kept here, nobody's and those of leases that are over."""

    strangers_daily_max: Annotated[int, Field(ge=0, le=1_000_000)] = 1000
    """Messages for numbers that are not in the pool, kept in 24 hours; more are thanked for and dropped."""


def build(context: Context, options: Options) -> ReceiveSms:
    return ReceiveSms(context, options)


class ReceiveSms:
    """The upstream. It reads many, asks again, finds, takes pushes, and tidies."""

    def __init__(self, context: Context, options: Options) -> None:
        self.name = context.name
        self._context = context
        self._options = options
        self._cost = Money(options.price, context.currency)
        names = context.names.service_names
        sold = options.services or tuple(code for code, name in names.items() if not name.startswith(SANDBOX_NAME))
        self._services = tuple(dict.fromkeys(code for code in sold if code in names))
        self._rented = _rented(options, names, self._services)
        self._secrets = {**({"generic_secret": context.secret} if context.secret else {}), **context.secrets}
        self._terms = PoolTerms(
            price=self._cost,
            choose=Rules(names, options.rules, options.ignore, strict=options.strict),
            lease_seconds=options.lease_seconds,
            cooldown_seconds=options.cooldown_hours * 3600,
            cancelled_cooldown_seconds=options.cancelled_cooldown_seconds,
            quarantine_seconds=options.quarantine_seconds,
            daily_cap=options.daily_cap,
            shared=options.shared,
            parts_seconds=options.parts_seconds,
            skew_seconds=options.clock_skew_seconds,
            keep_seconds=options.kept_days * 86_400,
            strangers_daily_max=options.strangers_daily_max,
        )

    @property
    def _pool(self) -> NumberPool:
        if self._context.pool is None:
            raise Unwell("this upstream was given no pool of numbers")
        return self._context.pool

    # --- what it sells ---

    async def offers(self) -> OfferTable:
        """One row for each service and kind of number. Built on a thread: many countries make many rows."""
        kinds = await _asked(self._pool.free(self._terms))
        return await asyncio.to_thread(self._table, kinds)

    def _table(self, kinds: Sequence[FreeNumbers]) -> OfferTable:
        counts: dict[tuple[str, int, str], int] = {}
        for kind in kinds:
            for service, count in _countable(kind, self._services):
                place = (service, kind.country, kind.carrier)
                counts[place] = counts.get(place, 0) + count
        rows = (
            (service, country, self._cost.micros, count, carrier, None)
            for (service, country, carrier), count in counts.items()
        )
        return OfferTable(self.name, self._cost.currency, rows)

    async def balance(self) -> Money:
        """There is no account that could run dry."""
        return Money(BALANCE_MICROS, self._cost.currency)

    # --- renting ---

    async def rent_countries(self) -> Collection[int]:
        if not self._rented:
            return ()
        return {kind.country for kind in await _asked(self._pool.free(self._terms))}

    async def rent_offers(self, country: int, hours: int) -> Sequence[RentOffer]:
        hours = max(hours, RENT_HOURS_MIN)
        if not self._rented or hours > self._options.rent_hours_max:
            return ()
        counts: Counter[tuple[str, str]] = Counter()
        for kind in await _asked(self._pool.rentable(country, self._terms)):
            for service, count in _countable(kind, self._rented):
                if not (service == WHOLE and kind.is_except):
                    counts[service, kind.carrier] += count
        return [
            RentOffer(self.name, service, country, hours, self._rent_cost(service, hours), count, carrier)
            for (service, carrier), count in counts.items()
            if count > 0
        ]

    async def rent(self, order: BuyOrder) -> Lease:
        if order.service not in self._rented or not RENT_HOURS_MIN <= order.hours <= self._options.rent_hours_max:
            raise Refused("this is not rented out")
        cost = self._rent_cost(order.service, order.hours)
        self._require_paid(order, cost)
        return await self._taken(order, lambda pool: pool.rent(order, self._terms, cost))

    async def extension_cost(self, reference: str, hours: int) -> tuple[Money, int]:
        hours = max(hours, RENT_HOURS_MIN)
        times = await _asked(self._pool.rental_times(reference))
        if times.expires_at + hours * 3600 > times.opened_at + self._options.rent_hours_max * 3600:
            raise NotAllowed(f"a rental lasts {self._options.rent_hours_max} hours at most")
        if times.service not in self._rented:
            raise NotAllowed("this is not rented out any more")
        return self._rent_cost(times.service, hours), hours

    async def extend(self, order: BuyOrder) -> float:
        if order.service not in self._rented:
            raise Refused("this is not rented out any more")
        self._require_paid(order, self._rent_cost(order.service, order.hours))
        prolonged = self._pool.prolong(order.lease_reference, order.hours, self._options.rent_hours_max)
        try:
            async with asyncio.timeout(order.timeout_seconds):
                return await prolonged
        except (NotAllowed, UnknownLease) as error:
            raise Refused(str(error)) from None
        except (Unavailable, TimeoutError):
            raise InDoubt("the database did not say whether a rental was prolonged") from None

    def _rent_cost(self, service: str, hours: int) -> Money:
        return Money(self._rented[service] * hours, self._cost.currency)

    # --- the same number for more ---

    async def reuse_cost(self, reference: str, number: str, service: str, country: int) -> Money:
        if not await _asked(self._pool.is_reusable(reference, service, self._terms)):
            raise NotAllowed("this number can't be had again now")
        return self._cost

    async def reuse(self, order: BuyOrder) -> Lease:
        self._require_sold(order)
        return await self._taken(order, lambda pool: pool.reuse(order, self._terms))

    async def add_service(self, order: BuyOrder) -> Lease:
        self._require_sold(order)
        return await self._taken(order, lambda pool: pool.add_service(order, self._terms))

    # --- buying ---

    async def buy(self, order: BuyOrder) -> Lease:
        self._require_sold(order)
        return await self._taken(order, lambda pool: pool.lease(order, self._terms))

    def _require_sold(self, order: BuyOrder) -> None:
        if order.service not in self._services:
            raise Refused("this service is not sold")
        self._require_paid(order, self._cost)

    def _require_paid(self, order: BuyOrder, cost: Money) -> None:
        if order.cost_max.currency != cost.currency or order.cost_max.micros < cost.micros:
            raise SoldOut("nothing at this price")

    async def _taken(self, order: BuyOrder, ask: Callable[[NumberPool], Awaitable[Lease | None]]) -> Lease:
        if self._context.pool is None:
            raise NotReached("this upstream was given no pool of numbers")
        try:
            async with asyncio.timeout(order.timeout_seconds):
                lease = await ask(self._context.pool)
        except (Unavailable, TimeoutError):
            raise InDoubt("the database did not say whether a number was leased") from None
        if lease is None:
            raise SoldOut("no number is free for this service")
        return lease

    # --- reading ---

    async def read(self, watched: Watched) -> Progress:
        found = await self.read_many((watched,))
        return found.get(watched.reference, Progress(LeaseState.UNKNOWN))

    async def read_many(self, watched: Sequence[Watched]) -> Mapping[str, Progress]:
        return await _asked(self._pool.progress([one.reference for one in watched], self._terms))

    async def find(self, since: float) -> Sequence[Found]:
        return await _asked(self._pool.find(since))

    async def ask_again(self, reference: str) -> None:
        """Messages come whether or not they are asked for; of several leases on a number, this one waits again."""
        await _asked(self._pool.ask_again(reference))

    # --- closing ---

    async def close(self, reference: str, outcome: Outcome) -> None:
        await _asked(self._pool.close(reference, outcome, self._terms))

    async def tidy(self) -> None:
        await _asked(self._pool.tidy(self._terms))

    async def aclose(self) -> None:
        """Nothing is held open."""

    # --- what comes in ---

    async def take_push(self, request: PushRequest) -> PushTaken:
        """Proven, written down, given to its lease; then the sender is thanked, whether or not it was anybody's."""
        source = self._source(request.source)
        source.verify(request, self._secrets, self._context.clock())
        messages = source.parse(request)
        if isinstance(source, _inbound.TellsDevices):
            devices = source.devices(request)
            if devices:
                await _asked(self._pool.place(devices, request.source))
        pushed = []
        for message in messages:
            recorded = await _asked(self._pool.record(_pool_message(request.source, message), self._terms))
            pushed += [_pushed(one) for one in recorded if one.reference]
        body, media_type = source.ANSWER
        return PushTaken(tuple(pushed), body, media_type)

    @property
    def push_sources(self) -> Sequence[str]:
        """Sources that could be verified with the secrets there are."""
        loaded = {name: _inbound.load(name).SECRETS for name in _inbound.known()} if self._secrets else {}
        return [
            name for name, wanted in loaded.items() if {key for key in wanted if wanted[key]} <= self._secrets.keys()
        ]

    def _source(self, name: str) -> _inbound.Source:
        """Raises PushRefused. While no secret is set at all, a stranger can't even make us import anything."""
        if name not in _inbound.known():
            raise PushRefused("no such source of messages")
        if not self._secrets:
            raise PushRefused("no secret of any source is set")
        source = _inbound.load(name)
        missing = [secret for secret, is_needed in source.SECRETS.items() if is_needed and secret not in self._secrets]
        if missing:
            raise PushRefused(f"no {missing[0]} is set")
        return source


def _rented(options: Options, names: Mapping[str, str], sold: Sequence[str]) -> Mapping[str, int]:
    """What is rented out, and for how many micro-units an hour."""
    everything = dict.fromkeys((*sold, WHOLE), options.rent_price_hour) if options.rent_price_hour is not None else {}
    prices = {**everything, **options.rent_prices}
    return {code: price for code, price in prices.items() if code in names and price is not None}


def _countable(kind: FreeNumbers, services: Iterable[str]) -> Iterator[tuple[str, int]]:
    for service in services:
        if not kind.services or (service in kind.services) is not kind.is_except:
            yield service, kind.count - kind.taken.get(service, 0)


def _pool_message(source: str, message: _inbound.Inbound) -> PoolMessage:
    part = message.part
    return PoolMessage(
        source=source,
        identity=message.id,
        to=message.to,
        sender=message.sender,
        text=message.text,
        received_at=message.received_at,
        device=message.device,
        part=(part.reference, part.total, part.number) if part is not None else None,
    )


def _pushed(recorded: Recorded) -> Pushed:
    return Pushed(recorded.reference, (recorded.sms,))


async def _asked(answer: Awaitable[T]) -> T:
    """An answer of the pool's for any verb but `buy`. Raises Unwell where the database gives none."""
    try:
        return await answer
    except Unavailable:
        raise Unwell("the database does not answer") from None
