"""Buying a number: the dangerous verb, and what is left of it when a reply is lost or the process dies.

One order runs straight down: write the intent and hold the money, ask one upstream once, write what came of it; on a
refusal the next quote under the same ceiling. The row that says what is about to be asked is always committed before
the asking, so that whatever happens in between can be found again (`docs/decisions.md`).

    attempt:  pending ─► leased                              the activation's own
                 ├─────► refused                             nothing was taken
                 └─────► in_doubt ─► orphan ─► cancelled     found upstream, given back
                              └────► gone                    nothing was there, or its time is over
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import structlog

from gateway import ledger
from gateway.accounts import Caller
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
    NothingTaken,
    NotReached,
    OrderExists,
    PriceTooLow,
    Refused,
    Unavailable,
    UnknownLease,
    UpstreamError,
)
from gateway.house import House
from gateway.live import Live
from gateway.model import BuyOrder, Found, Lease, Order, Outcome, Quote, Status
from gateway.money import MICROS, Money
from gateway.records import load
from gateway.routing import Ranked
from gateway.store import Conflict, Row, Tx
from gateway.upstream import Finds, Upstream

ATTEMPT_SECONDS_MAX = 6.0
"""Of the order's nine, what one upstream gets while there is another one to turn to."""

FIND_SECONDS = 1.0
"""Of the order's nine, what is kept for looking up a purchase whose reply was lost."""

FAIL_FAST_SECONDS = 3.0
"""What an upstream in trouble gets when it is the last one standing."""

CLOCK_SKEW_SECONDS = 5.0
"""How far an upstream's clock may be behind ours when its list is searched for a lost purchase."""

SURELY_LATE_SECONDS = 120.0
"""A purchase that an upstream's own list does not show after this long never happened."""

NEVER_LISTED_SECONDS = 1500.0
"""Where an upstream has no list, a lost purchase is over when its own life (twenty minutes and some) is."""

STRANGER_SECONDS_MAX = 1800.0
"""How old an unknown open number may be to be looked for: beyond an upstream's own life there are none."""

LEFT_BEHIND_SECONDS = 30.0
"""An order still `opening` after this long was left behind by a process that died."""

EXCEPTIONS_MAX = 20

log = structlog.get_logger()


@dataclass(slots=True)
class _Pending:
    """An order under way. `is_gone` is that of the client it is for now: another one may have taken over."""

    is_gone: Callable[[], bool]
    done: asyncio.Future[Live]


@dataclass(slots=True)
class _Intent:
    activation_id: int
    attempt_id: int
    held: Money
    quotes: Sequence[Ranked]
    opened_at: float


class _Settled(NothingTaken):
    """Nothing came of the attempt, and its row says so already."""


@dataclass(slots=True)
class _Failure:
    """What the upstreams said, kept for the word the caller gets when none had a number."""

    reasons: list[UpstreamError] = field(default_factory=list)

    def told(self) -> CallerError:
        if self.reasons and all(isinstance(reason, CallerBarred) for reason in self.reasons):
            return Barred(max(reason.until for reason in self.reasons if isinstance(reason, CallerBarred)))
        return NoNumbers()


class Purchases:
    """Opens activations. One per process."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._pending: dict[str, list[_Pending]] = {}
        self._unclaimed: dict[int, tuple[str, Live, float]] = {}
        self._answered: set[int] = set()
        self._own: set[int] = set()
        self._overexposed: set[str] = set()
        self._tasks: set[asyncio.Task[Live]] = set()
        self._chores: set[asyncio.Task[None]] = set()
        self._unwritten: list[tuple[int, int, str]] = []
        self._settling = asyncio.Lock()

    async def open(self, caller: Caller, order: Order, is_gone: Callable[[], bool]) -> Live:
        """Buys one number for the caller, or hands over the one its lost identical request bought.

        `is_gone` tells whether the client has hung up. Raises Barred, BadService, BadCountry, BadPhoneException,
        PriceTooLow, TooManyOpen, NoBalance, NoNumbers, OrderExists, Unavailable.
        """
        house = self._house
        self.require_free(caller)
        if order.service not in house.settings.catalog.services:
            raise BadService
        if order.country not in house.settings.catalog.countries:
            raise BadCountry
        if len(order.phone_exceptions) > EXCEPTIONS_MAX:
            raise BadPhoneException
        claimed = await self._claim(order.fingerprint, is_gone)
        return claimed if claimed is not None else await self._open_new(caller, order, is_gone)

    def require_free(self, caller: Caller) -> None:
        """Asked before an order is even read: a barred caller hears nothing else. Raises Barred."""
        if caller.barred_until is not None and caller.barred_until > self._house.clock():
            raise Barred(caller.barred_until)

    async def _open_new(self, caller: Caller, order: Order, is_gone: Callable[[], bool]) -> Live:
        pending = _Pending(is_gone, asyncio.get_running_loop().create_future())
        self._pending.setdefault(order.fingerprint, []).append(pending)
        # The purchase goes on when its client hangs up: cancelling it halfway is how numbers get lost.
        task = asyncio.ensure_future(self._buy(caller, order))
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._finish(order.fingerprint, pending, done))
        live = await asyncio.shield(pending.done)
        if pending.is_gone is not is_gone:
            raise Unavailable  # the repeated request has the number; whoever waited here is not there any more
        return live

    def _finish(self, fingerprint: str, pending: _Pending, task: asyncio.Task[Live]) -> None:
        self._tasks.discard(task)
        rows = self._pending[fingerprint]
        rows.remove(pending)
        if not rows:
            del self._pending[fingerprint]
        if pending.done.done():
            return
        error = task.exception()
        if error is None:
            pending.done.set_result(task.result())
        else:
            pending.done.set_exception(error)
            pending.done.exception()  # marked as seen: the client may be gone, and then nobody else looks

    async def drain(self) -> None:
        """Waits for the orders under way; their deadline bounds it."""
        while self._tasks or self._chores:
            await asyncio.wait({*self._tasks, *self._chores})

    # The client that hung up

    async def _claim(self, fingerprint: str, is_gone: Callable[[], bool]) -> Live | None:
        for activation_id, (known, live, until) in self._unclaimed.items():
            if known == fingerprint and not live.polled_at and until > self._house.clock() and live.status.is_open:
                del self._unclaimed[activation_id]
                return live
        for pending in self._pending.get(fingerprint, ()):
            if pending.is_gone():
                pending.is_gone = is_gone
                return await asyncio.shield(pending.done)
        return None

    def abandon(self, live: Live, fingerprint: str) -> None:
        """Nobody was told of this activation: the identical request gets it for a while, then it is given back."""
        until = self._house.clock() + self._house.settings.gateway.activations.claim_seconds
        self._answered.discard(live.id)
        self._unclaimed[live.id] = (fingerprint, live, until)

    def answered(self, live: Live) -> None:
        """The client has its answer; written down with the next batch."""
        self._answered.add(live.id)

    def overdue(self) -> list[Live]:
        """Activations that nobody asked for again in time; each is named once. Who polls it knows of it after all."""
        now = self._house.clock()
        ripe = [live for _, live, until in self._unclaimed.values() if until <= now]
        for live in ripe:
            del self._unclaimed[live.id]
            if live.polled_at:
                self._answered.add(live.id)
        return [live for live in ripe if not live.polled_at]

    async def note_answered(self) -> None:
        """Writes down which activations their clients know of, all in one transaction. Raises Unavailable."""
        batch, self._answered = self._answered, set()
        if not batch:
            return
        try:
            await self._house.store.run(_mark_answered, sorted(batch))
        except CallerError:
            self._answered |= batch
            raise

    # One order

    async def _buy(self, caller: Caller, order: Order) -> Live:
        house = self._house
        started = house.clock()
        shortlist = house.market.shortlist(caller, order)
        if not shortlist.ranked:
            raise _nothing_for(order, shortlist.minimum)
        quotes = shortlist.ranked
        number_of_open = house.settings.gateway.limits.open_activations
        version = house.settings.version
        intent = await house.store.run(_intend, caller, order, quotes, started, number_of_open, version)
        self._own.add(intent.activation_id)
        try:
            return await self._try_each(caller, order, intent, started)
        finally:
            self._own.discard(intent.activation_id)

    async def _try_each(self, caller: Caller, order: Order, intent: _Intent, started: float) -> Live:
        house = self._house
        deadline = started + house.settings.gateway.activations.order_deadline_seconds
        failure = _Failure()
        for place, ranked in enumerate(intent.quotes):
            left = deadline - house.clock() - FIND_SECONDS
            seconds = _seconds_for(ranked, left, is_last=place + 1 == len(intent.quotes))
            if seconds <= 0:
                break
            if place:
                cost_max = self._cost_max(ranked, caller, intent)
                intent.attempt_id = await house.store.run(
                    _attempt, intent.activation_id, ranked.quote, cost_max, house.clock()
                )
            try:
                return await self._try_one(caller, order, intent, ranked, seconds, deadline)
            except _Settled as error:
                failure.reasons.append(error)
            except NothingTaken as error:
                failure.reasons.append(error)
                await house.store.run(_end_attempt, intent.attempt_id, "refused", str(error), house.clock())
            except InDoubt as error:
                failure.reasons.append(error)
        await house.store.run(_fail, intent.activation_id, house.clock())
        house.metrics.activations.labels("", "failed").inc()
        raise failure.told()

    def _cost_max(self, ranked: Ranked, caller: Caller, intent: _Intent) -> Money:
        offer = ranked.quote.offer
        return self._house.market.view.pricing.cost_ceiling(offer, intent.held, caller.account_name) or offer.cost

    async def _try_one(
        self, caller: Caller, order: Order, intent: _Intent, ranked: Ranked, seconds: float, deadline: float
    ) -> Live:
        """One request to one upstream. Raises NothingTaken, or InDoubt with the attempt left for `settle`."""
        house, offer = self._house, ranked.quote.offer
        upstream = house.upstreams[offer.upstream]
        if not house.health.try_trial(offer.upstream) and not ranked.fail_fast:
            raise Refused("resting after faults")
        cost_max = self._cost_max(ranked, caller, intent)
        wanted = BuyOrder(order.service, order.country, offer.operator, cost_max, seconds, order.phone_exceptions)
        asked_at = house.clock()
        try:
            lease = await upstream.buy(wanted)
        except UpstreamError as error:
            self._judge(offer.upstream, error)
            if not isinstance(error, InDoubt):
                raise
            lease = await self._in_doubt(upstream, intent, wanted, asked_at, deadline, error)
        house.health.success(offer.upstream)
        return await self._adopt(caller, order, intent, ranked.quote, lease, cost_max)

    def _judge(self, upstream: str, error: UpstreamError) -> None:
        is_fault = isinstance(error, NotReached | InDoubt) or (isinstance(error, Refused) and error.is_fault)
        if is_fault:
            self._house.health.fault(upstream, str(error))
            log.warning("upstream.fault", upstream=upstream, error=type(error).__name__, reason=str(error))
        else:
            self._house.health.success(upstream)

    async def _in_doubt(
        self, upstream: Upstream, intent: _Intent, wanted: BuyOrder, asked_at: float, deadline: float, error: InDoubt
    ) -> Lease:
        """The lease of a purchase whose reply was lost, if the upstream can tell at once; else raises the error."""
        house = self._house
        await house.store.run(_end_attempt, intent.attempt_id, "in_doubt", str(error), house.clock())
        house.health.block(upstream.name, wanted.service, wanted.country)
        found = await self._found_now(upstream, wanted, asked_at, deadline - house.clock())
        sole = await house.store.run(_sole_unknown, upstream.name, intent.attempt_id, found, wanted, asked_at)
        if sole is None:
            raise error
        house.health.unblock(upstream.name, wanted.service, wanted.country)
        log.info("attempt.found", attempt=intent.attempt_id, upstream=upstream.name)
        return sole.lease

    async def _found_now(
        self, upstream: Upstream, wanted: BuyOrder, asked_at: float, seconds: float
    ) -> Sequence[Found]:
        if not isinstance(upstream, Finds) or seconds <= 0:
            return ()
        try:
            async with asyncio.timeout(seconds):
                return await upstream.find(asked_at - CLOCK_SKEW_SECONDS)
        except (UpstreamError, TimeoutError):
            return ()

    async def _adopt(
        self, caller: Caller, order: Order, intent: _Intent, quote: Quote, lease: Lease, cost_max: Money
    ) -> Live:
        """Makes the lease the caller's. One that costs more than allowed is given back. Raises NothingTaken."""
        house, now = self._house, self._house.clock()
        cost = lease.cost or quote.offer.cost
        if cost.currency != cost_max.currency or cost.micros > cost_max.micros:
            reason = "the number handed over costs more than allowed"
            try:
                await house.store.run(_end_attempt, intent.attempt_id, "orphan", reason, now, lease.reference)
            except Unavailable:
                self._unwritten.append((intent.activation_id, intent.attempt_id, lease.reference))
                raise
            self._soon(self._give_back_orphans())
            raise _Settled(reason)
        price = self._charged(caller, quote, cost)
        expires_at = now + house.settings.gateway.activations.life_seconds
        if lease.expires_at is not None:
            expires_at = min(expires_at, lease.expires_at)
        sealed = house.vault.seal(lease.number)
        try:
            await house.store.run(
                _lease,
                intent,
                quote.offer.upstream,
                lease,
                sealed,
                price=price,
                cost=cost,
                expires_at=expires_at,
                at=now,
            )
        except Conflict:
            is_ours = await house.store.run(_not_leased, intent.attempt_id, quote.offer.upstream, lease.reference, now)
            raise _Settled("the order was given up meanwhile" if is_ours else "handed out a lease we have") from None
        except Unavailable:
            # The number is ours and the database is away: `settle` writes it down as soon as it can.
            self._unwritten.append((intent.activation_id, intent.attempt_id, lease.reference))
            raise
        live = Live(
            id=intent.activation_id, account_id=caller.account_id, service=order.service, country=order.country,
            operator=lease.operator or quote.offer.operator, status=Status.WAITING, price_micros=price.micros,
            currency=price.currency, opened_at=intent.opened_at, number=lease.number, upstream=quote.offer.upstream,
            reference=lease.reference, expires_at=expires_at,
        )  # fmt: skip
        house.live.put(live)
        house.metrics.activations.labels(live.upstream, "opened").inc()
        return live

    def _charged(self, caller: Caller, quote: Quote, cost: Money) -> Money:
        """The lower of what was quoted and what the number really cost, priced the same way."""
        price = self._house.market.view.pricing.price(
            replace(quote.offer, cost=cost), caller.account_name, caller.currency
        )
        return quote.price if price is None or price.micros > quote.price.micros else price

    # What a crash or a lost reply left behind

    async def recover(self) -> None:
        """At start: puts up for claim what nobody was told of, and settles the rest. Raises Unavailable."""
        house = self._house
        for row in await house.store.read(_unanswered):
            live = house.live.get(row["id"])
            if live is not None and live.status is Status.WAITING:
                self.abandon(live, row["fingerprint"])
        await self.settle(at_start=True)

    async def settle(self, *, at_start: bool = False) -> None:
        """One round over what is unsettled: orders left behind, purchases in doubt, orphans. Raises Unavailable."""
        async with self._settling:
            await self._settle_all(at_start=at_start)

    async def _settle_all(self, *, at_start: bool) -> None:
        house, now = self._house, self._house.clock()
        await self._write_down(now)
        patience = 0.0 if at_start else LEFT_BEHIND_SECONDS
        for row in await house.store.read(_left_behind, now - patience):
            if row["id"] not in self._own and await house.store.run(_give_up_order, row["id"], now):
                log.warning("order.left_behind", activation=row["id"])
        rows = await house.store.read(_unsettled)
        house.health.set_blocks((row["upstream"], row["service"], row["country"]) for row in rows)
        for upstream in {row["upstream"] for row in rows}:
            mine = [row for row in rows if row["upstream"] == upstream]
            await self._settle_upstream(upstream, [row for row in mine if row["state"] == "in_doubt"])
        await self._give_back_orphans()
        await self._show_exposure()

    async def _write_down(self, now: float) -> None:
        """Leases whose row could not be written when they came: given back, or found written after all."""
        while self._unwritten:
            activation_id, attempt_id, reference = self._unwritten[0]
            fingerprint = await self._house.store.run(_orphan_unless_leased, activation_id, attempt_id, reference, now)
            self._unwritten.pop(0)
            live = await load(self._house.store, self._house.vault, activation_id) if fingerprint else None
            if live is not None:
                self._house.live.put(live)
                self.abandon(live, fingerprint)

    async def _settle_upstream(self, name: str, rows: Sequence[Row]) -> None:
        upstream = self._house.upstreams.get(name)
        if not rows:
            return
        found: Sequence[Found] | None = None
        if isinstance(upstream, Finds):
            try:
                found = await upstream.find(min(row["started_at"] for row in rows) - CLOCK_SKEW_SECONDS)
            except UpstreamError:
                return
        for row in rows:
            # An order that is still under way asks for its own lost number, and may be about to adopt it.
            if row["activation_id"] not in self._own:
                await self._settle_attempt(row, found)

    async def _settle_attempt(self, row: Row, found: Sequence[Found] | None) -> None:
        house = self._house
        stanza = house.stanza(row["upstream"])
        is_ours_alone = stanza is not None and stanza.exclusive
        if await house.store.run(_settle_doubt, row, found, house.clock(), is_ours_alone=is_ours_alone):
            log.info("attempt.settled", attempt=row["id"], upstream=row["upstream"])

    def _soon(self, work: Coroutine[Any, Any, None]) -> None:
        """Does something beside the order, which does not wait for it; `settle` repeats what fails."""
        task = asyncio.ensure_future(work)
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def _give_back_orphans(self) -> None:
        for row in await self._house.store.read(_orphans):
            await self._give_back(row)

    async def _give_back(self, row: Row) -> None:
        """Cancels a lease that belongs to nobody; what it cost where that fails for good is the operator's loss."""
        house = self._house
        upstream = house.upstreams.get(row["upstream"])
        if upstream is None:
            return
        try:
            await upstream.close(row["reference"], Outcome.CANCELLED)
        except UnknownLease:
            pass
        except UpstreamError as error:
            if house.clock() - row["started_at"] < NEVER_LISTED_SECONDS:
                return
            log.warning("orphan.lost", upstream=row["upstream"], error=type(error).__name__)
            cost = Money(row["cost_max"], row["currency"])
            await house.store.run(_lose, row["id"], cost, row["upstream"], house.clock())
            return
        await house.store.run(_end_attempt, row["id"], "cancelled", "given back", house.clock(), row["reference"])

    async def sweep_strangers(self) -> None:
        """Numbers open upstream that we know nothing of: cancelled where the account is ours alone, else counted.

        Raises Unavailable.
        """
        house, now = self._house, self._house.clock()
        for name, upstream in list(house.upstreams.items()):
            stanza = house.stanza(name)
            if not isinstance(upstream, Finds) or stanza is None:
                continue
            try:
                found = await upstream.find(now - STRANGER_SECONDS_MAX)
            except UpstreamError:
                continue
            # A young one may be the answer to a purchase under way.
            old = [one for one in found if one.created_at is not None and one.created_at < now - LEFT_BEHIND_SECONDS]
            strangers = await house.store.read(_unknown_among, name, old)
            house.metrics.strangers.labels(name).set(len(strangers))
            if stanza.exclusive:
                for stranger in strangers:
                    await self._turn_away(name, upstream, stranger)

    async def _turn_away(self, name: str, upstream: Upstream, stranger: Found) -> None:
        try:
            await upstream.close(stranger.lease.reference, Outcome.CANCELLED)
        except UpstreamError as error:
            log.warning("stranger.kept", upstream=name, error=type(error).__name__)
        else:
            log.warning("stranger.cancelled", upstream=name)

    async def _show_exposure(self) -> None:
        gauges = self._house.metrics
        gauges.in_doubt.clear()
        gauges.exposure.clear()
        totals: Counter[str] = Counter()
        for row in await self._house.store.read(_exposures):
            amount = Money(int(row["amount"]), row["currency"])
            gauges.in_doubt.labels(row["upstream"]).set(row["attempts"])
            gauges.exposure.labels(row["upstream"], row["currency"]).set(amount.micros / 1e6)
            totals[row["upstream"]] += round(self._house.market.view.pricing.house_micros(amount) or amount.micros)
        self._rest_overexposed(totals)

    def _rest_overexposed(self, totals: Counter[str]) -> None:
        """An upstream whose purchases in doubt may have cost too much takes no orders until some are settled."""
        cap = round(self._house.settings.gateway.activations.in_doubt_exposure * MICROS)
        over = {upstream for upstream, micros in totals.items() if micros > cap}
        for upstream in over ^ self._overexposed:
            self._house.market.drain(upstream, upstream in over)
            log.warning("upstream.exposure", upstream=upstream, is_over=upstream in over)
        self._overexposed = over


def _nothing_for(order: Order, minimum: Money | None) -> CallerError:
    """The caller's cap is to blame only where there is stock above it."""
    if order.price_max is not None and minimum is not None and order.price_max.micros < minimum.micros:
        return PriceTooLow(minimum)
    return NoNumbers()


def _seconds_for(ranked: Ranked, left: float, *, is_last: bool) -> float:
    if ranked.fail_fast:
        return min(left, FAIL_FAST_SECONDS)
    return left if is_last else min(left, ATTEMPT_SECONDS_MAX)


def _fitting(found: Iterable[Found], row: Row) -> list[Found]:
    """Those that can be the attempt's: same service and country, made after it was asked for."""
    return [
        one
        for one in found
        if one.service == row["service"]
        and one.country == row["country"]
        and (one.created_at is None or one.created_at >= row["started_at"] - CLOCK_SKEW_SECONDS)
    ]


# Units of work


def _intend(
    tx: Tx, caller: Caller, order: Order, quotes: Sequence[Ranked], at: float, open_max: int, version: str
) -> _Intent:
    """The activation, its first attempt and its hold, committed before anybody is asked.

    Where the balance does not reach for the dearest quote, the order is for those it reaches for.
    """
    ceiling = max(ranked.quote.price.micros for ranked in quotes)
    try:
        activation_id = tx.insert(
            "insert into activations (account_id, key_id, service, country, operator, status, price, currency,"
            " opened_at, fingerprint, order_reference, config_version)"
            " values (:account, :key, :service, :country, :operator, 'opening', :price, :currency,"
            " :at, :fingerprint, :reference, :version) returning id",
            account=caller.account_id, key=caller.key_id, service=order.service, country=order.country,
            operator=order.operator, price=ceiling, currency=caller.currency, at=at, fingerprint=order.fingerprint,
            reference=order.reference or None, version=version,
        )  # fmt: skip
    except Conflict:
        raise OrderExists from None
    try:
        _hold(tx, caller, activation_id, ceiling, at, open_max)
    except NoBalance:
        available = ledger.balance(tx, caller.account_id).available.micros
        quotes = [ranked for ranked in quotes if ranked.quote.price.micros <= available]
        if not quotes:
            raise
        ceiling = max(ranked.quote.price.micros for ranked in quotes)
        _hold(tx, caller, activation_id, ceiling, at, open_max)
        tx.execute("update activations set price = :price where id = :id", price=ceiling, id=activation_id)
    first = quotes[0].quote
    attempt_id = _attempt(tx, activation_id, first, first.offer.cost, at)
    return _Intent(activation_id, attempt_id, Money(ceiling, caller.currency), quotes, at)


def _hold(tx: Tx, caller: Caller, activation_id: int, micros: int, at: float, open_max: int) -> None:
    money = Money(micros, caller.currency)
    ledger.hold(tx, caller.account_id, activation_id, money, at, open_max=open_max, actor=f"key:{caller.key_id}")


def _attempt(tx: Tx, activation_id: int, quote: Quote, cost_max: Money, at: float) -> int:
    return tx.insert(
        "insert into attempts (activation_id, upstream, service, country, cost_max, currency, state, started_at)"
        " values (:activation, :upstream, :service, :country, :cost, :currency, 'pending', :at) returning id",
        activation=activation_id, upstream=quote.offer.upstream, service=quote.offer.service,
        country=quote.offer.country, cost=cost_max.micros, currency=cost_max.currency, at=at,
    )  # fmt: skip


def _end_attempt(tx: Tx, attempt_id: int, state: str, reason: str, at: float, reference: str | None = None) -> None:
    tx.execute(
        "update attempts set state = :state, reason = :reason, ended_at = :at,"
        " reference = coalesce(:reference, reference) where id = :id",
        state=state,
        reason=reason[:200],
        at=at,
        reference=reference,
        id=attempt_id,
    )


def _lease(
    tx: Tx,
    intent: _Intent,
    upstream: str,
    lease: Lease,
    sealed: str,
    *,
    price: Money,
    cost: Money,
    expires_at: float,
    at: float,
) -> None:
    """Opening to waiting, the hold down to the price. Raises Conflict on a lease we have or an order given up."""
    if price.micros < intent.held.micros:
        ledger.shrink(tx, intent.activation_id, price, at, actor="purchase")
    # Raises Conflict where there is no such row: the order was given up meanwhile.
    tx.insert(
        "update activations set status = 'waiting', upstream = :upstream, reference = :reference,"
        " number_sealed = :sealed, price = :price, cost = :cost, cost_currency = :currency, expires_at = :expires_at"
        " where id = :id and status = 'opening' returning id",
        upstream=upstream, reference=lease.reference, sealed=sealed, price=price.micros, cost=cost.micros,
        currency=cost.currency, expires_at=expires_at, id=intent.activation_id,
    )  # fmt: skip
    _end_attempt(tx, intent.attempt_id, "leased", "", at, lease.reference)


def _not_leased(tx: Tx, attempt_id: int, upstream: str, reference: str, at: float) -> bool:
    """Ends an attempt whose lease could not be attached; whether that lease is ours, to be given back."""
    known = tx.one("select 1 as x from activations where upstream = :u and reference = :r", u=upstream, r=reference)
    if known is not None:
        _end_attempt(tx, attempt_id, "refused", "handed out a lease we have", at)
        return False
    _end_attempt(tx, attempt_id, "orphan", "the order was given up meanwhile", at, reference)
    return True


def _fail(tx: Tx, activation_id: int, at: float) -> bool:
    """Ends an order that got no number; whether this call did it."""
    row = tx.one(
        "update activations set status = 'failed', ended_at = :at where id = :id and status = 'opening'"
        " returning account_id",
        at=at,
        id=activation_id,
    )
    if row is None:
        return False
    ledger.release(tx, activation_id, at, actor="purchase")
    ledger.leave(tx, row["account_id"])
    return True


def _give_up_order(tx: Tx, activation_id: int, at: float) -> bool:
    if not _fail(tx, activation_id, at):
        return False
    tx.execute(
        "update attempts set state = case when reference is null then 'in_doubt' else 'orphan' end,"
        " reason = 'left behind', ended_at = :at where activation_id = :id and state = 'pending'",
        at=at,
        id=activation_id,
    )
    return True


def _orphan_unless_leased(tx: Tx, activation_id: int, attempt_id: int, reference: str, at: float) -> str:
    """Marks the lease as nobody's, unless its activation was written after all: then the fingerprint of that."""
    row = tx.one("select fingerprint from activations where id = :id and status = 'waiting'", id=activation_id)
    if row is not None:
        return str(row["fingerprint"])
    _end_attempt(tx, attempt_id, "orphan", "could not be written down", at, reference)
    _fail(tx, activation_id, at)
    return ""


def _settle_doubt(tx: Tx, row: Row, found: Sequence[Found] | None, at: float, *, is_ours_alone: bool) -> bool:
    """Ends an attempt in doubt, if by now it can be told what came of it; whether this call did.

    While another order of ours is being bought in the same place, what the list shows may be that one's.
    """
    place = {"upstream": row["upstream"], "service": row["service"], "country": row["country"]}
    still = tx.one("select 1 as x from attempts where id = :id and state = 'in_doubt'", id=row["id"])
    busy = tx.one(
        "select 1 as x from attempts where upstream = :upstream and service = :service and country = :country"
        " and state = 'pending'",
        **place,
    )
    if still is None or busy is not None:
        return False
    candidates = _unknown_among(tx, row["upstream"], _fitting(found or (), row))
    if len(candidates) == 1 or (candidates and is_ours_alone):
        reference = candidates[0].lease.reference
        _end_attempt(tx, row["id"], "orphan", "found in the upstream's list", at, reference)
        return True
    if at - row["started_at"] > (SURELY_LATE_SECONDS if found is not None and not candidates else NEVER_LISTED_SECONDS):
        _end_attempt(tx, row["id"], "gone", "never seen upstream", at)
        return True
    return False


def _lose(tx: Tx, attempt_id: int, cost: Money, upstream: str, at: float) -> None:
    """Books a lease that nobody has and that can't be given back. It is no activation's: its order may have another."""
    if tx.execute("update attempts set state = 'gone' where id = :id and state = 'orphan'", id=attempt_id):
        _end_attempt(tx, attempt_id, "gone", "could not be given back", at)
        ledger.spend(tx, "loss", cost, upstream, at, activation=None, actor="settle", note=f"attempt {attempt_id}")


def _mark_answered(tx: Tx, ids: Sequence[int]) -> None:
    for activation_id in ids:
        tx.execute("update activations set answered = 1 where id = :id", id=activation_id)


def _known(tx: Tx, upstream: str, reference: str) -> bool:
    return (
        tx.one("select 1 as x from activations where upstream = :u and reference = :r", u=upstream, r=reference)
        is not None
        or tx.one("select 1 as x from attempts where upstream = :u and reference = :r", u=upstream, r=reference)
        is not None
    )


def _unknown_among(tx: Tx, upstream: str, found: Sequence[Found]) -> list[Found]:
    return [one for one in found if not _known(tx, upstream, one.lease.reference)]


def _sole_unknown(
    tx: Tx, upstream: str, attempt_id: int, found: Sequence[Found], wanted: BuyOrder, asked_at: float
) -> Found | None:
    """The one open order upstream that can only be this attempt's, claimed for it; else None."""
    row = {"service": wanted.service, "country": wanted.country, "started_at": asked_at}
    others = tx.one(
        "select count(*) as n from attempts where upstream = :u and service = :s and country = :c"
        " and state in ('pending', 'in_doubt') and id <> :id",
        u=upstream,
        s=wanted.service,
        c=wanted.country,
        id=attempt_id,
    )
    candidates = _unknown_among(tx, upstream, _fitting(found, row))
    if len(candidates) != 1 or (others and others["n"]):
        return None
    tx.execute(
        "update attempts set state = 'pending', reference = :r where id = :id",
        r=candidates[0].lease.reference,
        id=attempt_id,
    )
    return candidates[0]


def _unsettled(tx: Tx) -> Sequence[Row]:
    return tx.all(
        "select id, activation_id, upstream, service, country, cost_max, currency, state, started_at from attempts"
        " where state = 'in_doubt' order by id"
    )


def _orphans(tx: Tx) -> Sequence[Row]:
    return tx.all(
        "select id, activation_id, upstream, reference, cost_max, currency, started_at from attempts"
        " where state = 'orphan' order by id limit 100"
    )


def _left_behind(tx: Tx, before: float) -> Sequence[Row]:
    return tx.all(
        "select id from activations where status = 'opening' and ended_at is null and opened_at <= :before",
        before=before,
    )


def _unanswered(tx: Tx) -> Sequence[Row]:
    return tx.all(
        "select id, fingerprint from activations where ended_at is null and status = 'waiting' and answered = 0"
    )


def _exposures(tx: Tx) -> Sequence[Row]:
    return tx.all(
        "select upstream, currency, count(*) as attempts, sum(cost_max) as amount from attempts"
        " where state in ('in_doubt', 'orphan') group by upstream, currency"
    )
