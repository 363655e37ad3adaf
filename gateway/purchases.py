"""Buying a number: the dangerous verb.

One order runs straight down: write the intent and hold the money, ask one upstream once, write what came of it; on a
refusal the next quote under the same ceiling. The row that says what is about to be asked is always committed before
the asking, so that whatever happens in between can be found again (`settling`, `docs/decisions.md`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import structlog
from cachetools import LRUCache

from gateway import attempts, fuse, ladders, recharges, repeats
from gateway.accounts import Caller
from gateway.adoption import Adoption, AttemptEnded, least
from gateway.attempts import Intent
from gateway.errors import (
    BadCountry,
    BadPhoneException,
    BadService,
    Barred,
    CallerBarred,
    CallerError,
    InDoubt,
    NoBalance,
    NoNumbers,
    NotAllowedNow,
    NothingTaken,
    NotReached,
    PriceTooLow,
    Refused,
    Suspended,
    Unavailable,
    UpstreamError,
)
from gateway.handovers import Handovers, Pending
from gateway.house import House
from gateway.live import Live
from gateway.model import BuyOrder, Lease, LostExtension, Order, Product, Quote, Status
from gateway.money import Money
from gateway.routing import Ranked
from gateway.settling import Settling
from gateway.store import Conflict, Tx
from gateway.upstream import (
    AddsServices,
    CountsExtensions,
    Rents,
    Reuses,
    Upstream,
)

ATTEMPT_SECONDS_MAX = 6.0
"""Of the order's nine, what one upstream gets while there is another one to turn to."""

FIND_SECONDS = 1.0
"""Of the order's nine, what is kept for looking up a purchase whose reply was lost."""

FAIL_FAST_SECONDS = 3.0
"""What an upstream in trouble gets when it is the last one standing."""

HISTORY_SECONDS = 3.0
"""Of an extension's time, what an upstream gets to tell which there were before."""

EXCEPTIONS_MAX = 20
KEYS_REMEMBERED = 10_000

R = TypeVar("R")

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Basis:
    """What an order is bought from: quotes in order, and the activation it builds upon, where it does.

    `minimum` is the lowest price with stock behind it, for the word a caller gets whose cap is below.
    """

    quotes: Sequence[Ranked]
    minimum: Money | None = None
    parent: Live | None = None


@dataclass(slots=True)
class _Failure:
    """What the upstreams said, kept for the word the caller gets when none had a number."""

    reasons: list[UpstreamError] = field(default_factory=list)

    def told(self, product: Product) -> CallerError:
        if product is Product.EXTENSION:
            is_doubtful = any(isinstance(reason, InDoubt | NotReached) for reason in self.reasons)
            return Unavailable() if is_doubtful or not self.reasons else NotAllowedNow()
        if self.reasons and all(isinstance(reason, CallerBarred) for reason in self.reasons):
            return Barred(max(reason.until for reason in self.reasons if isinstance(reason, CallerBarred)))
        return NoNumbers()


class Purchases:
    """Opens activations. One per process."""

    def __init__(self, house: House, handovers: Handovers, settling: Settling) -> None:
        self._house = house
        self._handovers = handovers
        self._settling = settling
        self._adoption = Adoption(house, settling)
        self._pauses: LRUCache[int, float] = LRUCache(KEYS_REMEMBERED)
        self.pause: Callable[[float], Awaitable[None]] = asyncio.sleep
        """How a key that is slowed waits; tests own the time."""

    async def open(
        self,
        caller: Caller,
        order: Order,
        is_gone: Callable[[], bool],
        basis: Callable[[], Awaitable[Basis]] | None = None,
    ) -> Live:
        """Buys one number for the caller, or hands over the one its lost identical request bought, or still buys.

        `is_gone` tells whether the client has hung up. `basis` tells what to buy from, and may raise; None stands for
        the market's short-list. An extension's result is its rental. Raises Barred, Suspended, BadService, BadCountry,
        BadPhoneException, PriceTooLow, TooManyOpen, NoBalance, NoNumbers, OrderExists, Unavailable, and BadKey where
        the key has ended a moment ago.
        """
        house = self._house
        self.require_free(caller)
        if order.service not in house.settings.catalog.services:
            raise BadService
        if order.country not in house.settings.catalog.countries:
            raise BadCountry
        if len(order.phone_exceptions) > EXCEPTIONS_MAX:
            raise BadPhoneException
        return await self._handovers.serve(order, is_gone, lambda pending: self._buy(caller, order, pending, basis))

    def require_free(self, caller: Caller) -> None:
        """Asked before an order is even read: a barred caller hears nothing else.

        Raises Suspended, Barred, and Unavailable where there is no room to buy.
        """
        if caller.suspended_at is not None and caller.suspended_at <= self._house.clock():
            raise Suspended
        if caller.barred_until is not None and caller.barred_until > self._house.clock():
            raise Barred(caller.barred_until)
        self._house.guard.require_room()

    async def drain(self) -> None:
        """Waits for the orders under way, bounded by their deadline, and a moment for what goes back upstream."""
        while self._handovers.tasks:
            await asyncio.wait(set(self._handovers.tasks))
        await self._settling.drain()

    async def _buy(
        self, caller: Caller, order: Order, pending: Pending, find: Callable[[], Awaitable[Basis]] | None
    ) -> Live:
        house = self._house
        # Without a connection: whoever is slowed takes nobody else's place at the database.
        pause_seconds = self._pauses.get(caller.key_id, 0.0)
        if pause_seconds and order.product is not Product.EXTENSION:
            await self.pause(pause_seconds)
        started = house.clock()
        if order.product is Product.EXTENSION:
            # Its price is the upstream's to tell: nobody is asked for what was made already.
            had = await self._handovers.had_elsewhere(caller, order, pending)
            if had is not None:
                return had
        try:
            basis = self._from_market(caller, order) if find is None else await find()
            if not basis.quotes:
                raise _nothing_for(order, basis.minimum)
        except CallerError:
            # Perhaps since the same request, whose client has hung up, got what there was.
            had = await self._handovers.had_elsewhere(caller, order, pending)
            if had is None:
                raise
            return had
        number_of_open = least(house.settings.gateway.limits.open_activations, order.open_max)
        version = house.settings.version
        unit = attempts.intend_extension if order.product is Product.EXTENSION else attempts.intend
        limits = house.settings.gateway.fuse

        def intend(tx: Tx) -> Intent:
            made = unit(tx, caller, order, basis.quotes, started, number_of_open, version, limits, house.bus.me)
            if made.pace.due_seconds and not pause_seconds:
                raise fuse.Slowed(made.pace.due_seconds)  # undone: nothing is held, and no connection, while it waits
            return made

        async def held(work: Callable[[Tx], R]) -> R:
            return await self._held(work, caller, basis.quotes)

        try:
            intent = await self._handovers.once(caller, order, pending, intend, held)
        except fuse.Slowed as slowed:
            # What other processes have seen of the key, or this one before it was started anew.
            self._pauses[caller.key_id] = slowed.seconds
            return await self._buy(caller, order, pending, find)
        except fuse.Blown:
            until = await house.store.run(fuse.blow, caller.key_id, limits, started)
            if until is not None:
                log.warning("fuse.blown", key=caller.key_id, account=caller.account_name)
            raise
        if isinstance(intent, Live):
            return intent
        if order.product is not Product.EXTENSION:
            self._pauses[caller.key_id] = intent.pace.next_seconds
        with self._settling.at_work(intent.activation_id):
            return await self._try_each(caller, order, intent, started, basis.parent)

    async def _held(self, intend: Callable[[Tx], R], caller: Caller, quotes: Sequence[Ranked]) -> R:
        """The order with its money held; where that is short, after a recharge. Raises as `attempts.intend`."""
        try:
            return await self._house.store.run(intend)
        except NoBalance:
            if not await self._recharged(caller, quotes):
                raise
            return await self._house.store.run(intend)

    async def _recharged(self, caller: Caller, quotes: Sequence[Ranked]) -> bool:
        """Whether a recharge made it worth asking again."""
        store, now = self._house.store, self._house.clock()
        needed = min(ranked.quote.price.micros for ranked in quotes)
        if not await store.read(recharges.may_help, caller.account_id, now, needed):
            return False
        return await store.run(recharges.help_order, caller.account_id, now, needed)

    def _from_market(self, caller: Caller, order: Order) -> Basis:
        shortlist = self._house.market.shortlist(caller, order)
        return Basis(shortlist.ranked, shortlist.minimum)

    async def _try_each(
        self, caller: Caller, order: Order, intent: Intent, started: float, parent: Live | None
    ) -> Live:
        house = self._house
        began = started if order.started_at is None else order.started_at
        deadline = began + house.settings.gateway.activations.order_deadline_seconds
        failure = _Failure()
        for place, ranked in enumerate(intent.quotes):
            left = deadline - house.clock() - FIND_SECONDS
            is_last = place + 1 == len(intent.quotes)
            seconds = _seconds_for(ranked, left, is_last=is_last)
            if seconds <= 0:
                if not place:
                    # Its row is there already: left pending, it would keep what is in doubt in its place unsettled.
                    await house.store.run(
                        attempts.end, intent.attempt_id, "refused", "no time was left to ask", house.clock()
                    )
                break
            # An upstream that hangs hangs when it is asked for its list, too: the next one needs time as well.
            find_until = deadline if is_last else min(deadline, house.clock() + seconds + FIND_SECONDS)
            if place:
                cost_max = self._cost_max(ranked, caller, order, intent)
                intent.attempt_id = await house.store.run(
                    attempts.begin, intent.activation_id, ranked.quote, cost_max, house.clock(), order.product
                )
            try:
                return await self._try_one(caller, order, intent, ranked, parent, seconds, find_until)
            except AttemptEnded as error:
                failure.reasons.append(error)
            except NothingTaken as error:
                failure.reasons.append(error)
                await house.store.run(attempts.end, intent.attempt_id, "refused", str(error), house.clock())
            except InDoubt as error:
                failure.reasons.append(error)
        told = failure.told(order.product)
        await house.store.run(attempts.fail_order, intent.activation_id, house.clock(), repeats.word(told))
        house.metrics.count(order.product, "", "failed")
        raise told

    def _cost_max(self, ranked: Ranked, caller: Caller, order: Order, intent: Intent) -> Money:
        pricing = self._house.market.view.pricing.of(order.product)
        return ladders.cost_ceiling(pricing, ranked.quote.offer, intent.held, intent.shares, caller)

    async def _try_one(
        self,
        caller: Caller,
        order: Order,
        intent: Intent,
        ranked: Ranked,
        parent: Live | None,
        seconds: float,
        deadline: float,
    ) -> Live:
        """One request to one upstream. Raises NothingTaken, or InDoubt with the attempt left for `settle`."""
        house, offer = self._house, ranked.quote.offer
        upstream = house.upstreams[offer.upstream]
        if not house.health.try_trial(offer.upstream) and not ranked.fail_fast:
            raise Refused("resting after faults")
        cost_max = self._cost_max(ranked, caller, order, intent)
        wanted = BuyOrder(
            order.service, order.country, offer.operator, cost_max, seconds, order.phone_exceptions, offer.hours,
            parent.reference if parent else "", parent.number if parent else "",
            parent.expires_at if parent else None,
        )  # fmt: skip
        if order.product is Product.EXTENSION and parent is not None:
            return await self._prolong(upstream, intent, ranked.quote, wanted, parent, deadline, order.fingerprint)
        asked_at = house.clock()
        try:
            lease = await _ask(upstream, order.product, wanted)
        except UpstreamError as error:
            self._judge(offer.upstream, error)
            if not isinstance(error, InDoubt):
                raise
            is_rental = order.product is Product.RENTAL
            lease = await self._in_doubt(upstream, intent, wanted, asked_at, deadline, error, is_rental=is_rental)
        house.health.success(offer.upstream)
        return await self._adoption.adopt(caller, order, intent, ranked.quote, lease, cost_max)

    async def _prolong(
        self,
        upstream: Upstream,
        intent: Intent,
        quote: Quote,
        wanted: BuyOrder,
        rental: Live,
        deadline: float,
        fingerprint: str,
    ) -> Live:
        """More time for a rental: as `_try_one`, but what is had is a later end, and no number."""
        house = self._house
        if not isinstance(upstream, Rents):
            raise Refused("rents nothing out")
        if rental.cancels_under_way:
            # Asked after the intent is written, as a cancel looks for intents after it has said so: one sees the other.
            raise NotReached("its rental is being given back")
        had_until, asked_at = rental.expires_at, house.clock()
        made_before = await self._made_before(upstream, intent, wanted)
        wanted = replace(wanted, timeout_seconds=wanted.timeout_seconds - (house.clock() - asked_at))
        try:
            ends_at = await upstream.extend(wanted)
        except UpstreamError as error:
            self._judge(upstream.name, error)
            if not isinstance(error, InDoubt):
                raise
            if error.reference:
                await self._adoption.turn_back(intent, upstream.name, error)
            await house.store.run(attempts.end, intent.attempt_id, "in_doubt", str(error), house.clock())
            lost = None if made_before is None else LostExtension(wanted.hours, had_until, made_before)
            seen = await self._settling.end_now(upstream, rental, lost, deadline - house.clock())
            if seen is None or not attempts.has_moved(had_until, seen, wanted.hours):
                raise
            ends_at = seen
        house.health.success(upstream.name)
        try:
            # Should the commit be lost, the end that the upstream tells from now on settles what came of it.
            is_longer = await house.store.run(attempts.prolong, intent, rental.id, quote, ends_at, house.clock())
        except Conflict:
            raise AttemptEnded("the extension was given up meanwhile") from None
        if not is_longer:
            log.warning("extension.lost", activation=intent.activation_id, upstream=upstream.name)
            raise AttemptEnded("its rental ended meanwhile")
        rental.expires_at = max(rental.expires_at, ends_at)
        if rental.status is Status.WAITING:
            rental.refundable_until = 0.0
        house.live.put(rental)
        house.metrics.count(Product.EXTENSION, upstream.name, "finished")
        self._handovers.note_extension(fingerprint, intent.activation_id)
        return rental

    async def _made_before(self, upstream: Rents, intent: Intent, wanted: BuyOrder) -> int | None:
        """What is to be known of a rental's extensions, should the answer to this one be lost, written down.

        None where it is not told: the extension is made all the same. Raises Unavailable.
        """
        if not isinstance(upstream, CountsExtensions):
            return None
        try:
            async with asyncio.timeout(min(HISTORY_SECONDS, wanted.timeout_seconds / 2)):
                made = await upstream.extensions_made(wanted.lease_reference, wanted.hours)
        except (UpstreamError, TimeoutError):
            return None
        await self._house.store.run(attempts.note_made_before, intent.attempt_id, made)
        return made

    def _judge(self, upstream: str, error: UpstreamError) -> None:
        if error.is_local:  # which says nothing of the upstream, good or bad
            log.warning("upstream.local_fault", upstream=upstream, error=type(error).__name__, reason=str(error))
            return
        is_fault = isinstance(error, NotReached | InDoubt) or (isinstance(error, Refused) and error.is_fault)
        if is_fault:
            self._house.health.fault(upstream, str(error))
            log.warning("upstream.fault", upstream=upstream, error=type(error).__name__, reason=str(error))
        else:
            self._house.health.success(upstream)

    async def _in_doubt(
        self,
        upstream: Upstream,
        intent: Intent,
        wanted: BuyOrder,
        asked_at: float,
        deadline: float,
        error: InDoubt,
        *,
        is_rental: bool,
    ) -> Lease:
        """The lease of a purchase whose reply was lost, if the upstream can tell at once; else raises the error."""
        house = self._house
        await house.store.run(attempts.end, intent.attempt_id, "in_doubt", str(error), house.clock())
        house.health.block(upstream.name, wanted.service, wanted.country, is_rental=is_rental)
        found = await self._settling.found_now(upstream, asked_at, deadline - house.clock())
        sole = await house.store.run(
            attempts.sole_unknown, upstream.name, intent.attempt_id, found, wanted, asked_at, is_rental=is_rental
        )
        if sole is None:
            raise error
        house.health.unblock(upstream.name, wanted.service, wanted.country, is_rental=is_rental)
        log.info("attempt.found", attempt=intent.attempt_id, upstream=upstream.name)
        return sole.lease


async def _ask(upstream: Upstream, product: Product, wanted: BuyOrder) -> Lease:
    """The one request of an attempt, by the verb that this product is had by."""
    if product is Product.SMS:
        return await upstream.buy(wanted)
    if product is Product.RENTAL and isinstance(upstream, Rents):
        return await upstream.rent(wanted)
    if product is Product.AGAIN and isinstance(upstream, Reuses):
        return await upstream.reuse(wanted)
    if product is Product.BESIDE and isinstance(upstream, AddsServices):
        return await upstream.add_service(wanted)
    raise Refused("this is not to be had there")


def _nothing_for(order: Order, minimum: Money | None) -> CallerError:
    """The caller's cap is to blame only where there is stock above it."""
    if order.price_max is not None and minimum is not None and order.price_max.micros < minimum.micros:
        return PriceTooLow(minimum)
    return NoNumbers()


def _seconds_for(ranked: Ranked, left: float, *, is_last: bool) -> float:
    if ranked.fail_fast:
        return min(left, FAIL_FAST_SECONDS)
    return left if is_last else min(left, ATTEMPT_SECONDS_MAX)
