"""Buying a number: the dangerous verb, and what is left of it when a reply is lost or the process dies.

One order runs straight down: write the intent and hold the money, ask one upstream once, write what came of it; on a
refusal the next quote under the same ceiling. The row that says what is about to be asked is always committed before
the asking, so that whatever happens in between can be found again (`docs/decisions.md`).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn, TypeVar

import structlog
from cachetools import LRUCache, TTLCache

from gateway import attempts, fuse, handed, ladders, moves, recharges, refunds, repeats
from gateway.accounts import Caller
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
    UnknownLease,
    Unwell,
    UpstreamError,
)
from gateway.house import House
from gateway.live import Live
from gateway.model import BuyOrder, Found, Lease, LostExtension, Order, Outcome, Product, Quote, Status, Watched
from gateway.money import MICROS, Money
from gateway.records import load
from gateway.repeats import Elsewhere, Taken
from gateway.routing import Ranked
from gateway.store import Conflict, Row, Tx
from gateway.upstream import (
    AddsServices,
    CountsExtensions,
    Finds,
    KeptByUs,
    MovesLeases,
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

STRANGER_SECONDS_MAX = 1800.0
"""How old an unknown open number may be to be looked for: beyond an upstream's own life there are none."""

STRANGER_SECONDS_MIN = 150.0
"""How old it has to be: a younger one may be the answer to a purchase under way, and clocks differ."""

LEFT_BEHIND_SECONDS = 30.0
"""An order still `opening` after this long was left behind by a process that died."""

ANSWER_NOTED_SECONDS = 2.0
"""Beyond an order's deadline, how long it takes at most to write down that its client has the answer."""

NOTICE_SECONDS = 0.002
"""A client that hangs up and repeats its request at once may be asked for here before its hanging up is noticed."""

TAKEN_LOOK_SECONDS = 0.5
"""How often an order that another process is at is looked at, where no hint comes."""

EXCEPTIONS_MAX = 20
EXTENSIONS_REMEMBERED = 10_000
KEYS_REMEMBERED = 10_000
DAY_SECONDS = 86_400.0

T = TypeVar("T", int, float)
R = TypeVar("R")

_Request = tuple[str, int | None]
"""What makes two requests the same one: their fingerprint, and what they build upon."""

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
class _Pending:
    """An order under way. `is_gone` is that of the client it is for now: another one may have taken over."""

    is_gone: Callable[[], bool]
    done: asyncio.Future[Live]
    activation_id: int = 0
    is_put_up: bool = False
    """Its client had hung up, and since then any process may have taken it."""

    is_written: bool = False
    """That it is put up stands in the database, as far as is known here."""


class _Settled(NothingTaken):
    """Nothing came of the attempt, and its row says so already."""


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

    def __init__(self, house: House) -> None:
        self._house = house
        self._pending: dict[_Request, list[_Pending]] = {}
        self._unclaimed: dict[int, tuple[str, Live, float]] = {}
        self._put_up: dict[int, float] = {}
        self._putting_up = asyncio.Lock()
        self._handed_over: LRUCache[int, bool] = LRUCache(KEYS_REMEMBERED)
        self._answered: set[int] = set()
        self._own: set[int] = set()
        self._under_way: dict[int, _Pending] = {}
        """Orders that clients of this process wait for, by the activation, whichever process is at them."""

        self._letting_go = asyncio.Lock()
        self._awaited: dict[int, asyncio.Event] = {}
        self._tasks: set[asyncio.Task[Live]] = set()
        self._chores: set[asyncio.Task[None]] = set()
        self._unwritten: list[tuple[int, int, str]] = []
        self._settling = asyncio.Lock()
        self._pauses: LRUCache[int, float] = LRUCache(KEYS_REMEMBERED)
        self.pause: Callable[[float], Awaitable[None]] = asyncio.sleep
        """How a key that is slowed waits; tests own the time."""

        self._prolonged: TTLCache[str, int] = TTLCache(EXTENSIONS_REMEMBERED, ttl=3600.0, timer=house.clock)

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
        claimed = await self._claim(order, is_gone)
        return claimed if claimed is not None else await self._open_new(caller, order, is_gone, basis)

    def require_free(self, caller: Caller) -> None:
        """Asked before an order is even read: a barred caller hears nothing else.

        Raises Suspended, Barred, and Unavailable where there is no room to buy.
        """
        if caller.suspended_at is not None and caller.suspended_at <= self._house.clock():
            raise Suspended
        if caller.barred_until is not None and caller.barred_until > self._house.clock():
            raise Barred(caller.barred_until)
        self._house.guard.require_room()

    async def _open_new(
        self,
        caller: Caller,
        order: Order,
        is_gone: Callable[[], bool],
        basis: Callable[[], Awaitable[Basis]] | None,
    ) -> Live:
        pending = _Pending(is_gone, asyncio.get_running_loop().create_future())
        request = _request(order)
        self._pending.setdefault(request, []).append(pending)
        # The purchase goes on when its client hangs up: cancelling it halfway is how numbers get lost.
        task = asyncio.ensure_future(self._buy(caller, order, pending, basis))
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._finish(request, pending, done))
        return await self._waited_for(pending, is_gone)

    async def _waited_for(self, pending: _Pending, is_gone: Callable[[], bool]) -> Live:
        """What an order bought, for the client that waits for it. Raises Unavailable where it is another one's."""
        live = await asyncio.shield(pending.done)
        if pending.is_gone is not is_gone or not await self._is_still_ours(pending):
            raise Unavailable  # the repeated request has the number; whoever waited here is not there any more
        return live

    async def _is_still_ours(self, pending: _Pending) -> bool:
        """Whether what an order bought is its client's. Raises Unavailable."""
        if not pending.is_put_up:
            return True
        # Several clients may wait for one purchase: one of them can have come after all the others had hung up.
        return not pending.is_gone() and await self._claimed(pending.activation_id)

    def _finish(self, request: _Request, pending: _Pending, task: asyncio.Task[Live]) -> None:
        self._tasks.discard(task)
        if self._under_way.get(pending.activation_id) is pending:
            del self._under_way[pending.activation_id]
        rows = self._pending[request]
        rows.remove(pending)
        if not rows:
            del self._pending[request]
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

    async def _claim(self, order: Order, is_gone: Callable[[], bool]) -> Live | None:
        for activation_id, (known, live, until) in self._unclaimed.items():
            is_unknown = not _is_known(live) or activation_id != live.id
            is_same = known == order.fingerprint and _is_beside_its_own(order, live)
            if is_same and is_unknown and until > self._house.clock() and live.status.is_open:
                del self._unclaimed[activation_id]
                if await self._is_ours_to_hand_over(activation_id, live):
                    return live
                return await self._claim(order, is_gone)
        for pending in tuple(self._pending.get(_request(order), ())):
            # What is put up is taken in the database, here as elsewhere.
            if pending.is_gone() and not pending.is_put_up:
                pending.is_gone = is_gone
                return await self._waited_for(pending, is_gone)
            if pending.is_put_up and not pending.is_written:
                await self._let_go([pending.activation_id])
        return None

    async def _is_ours_to_hand_over(self, activation_id: int, live: Live) -> bool:
        """Of several processes that know of an unclaimed activation one hands it over. Raises Unavailable."""
        if not self._house.is_shared:
            return True
        async with self._putting_up:
            if self._put_up.pop(activation_id, None) is not None:
                return True  # nobody else has heard of it
            return await self._claimed(activation_id)

    async def _claimed(self, activation_id: int) -> bool:
        """Takes what is put up in the database. Raises Unavailable."""
        is_ours = await self._house.store.run(attempts.claim, activation_id, self._house.bus.me)
        if is_ours:
            self._handed_over[activation_id] = True
        return is_ours

    async def _prolonged_elsewhere(self, rental_id: int, extension_id: int, fingerprint: str) -> Live:
        """The rental with the time it has since an extension that another process made. Raises Unavailable."""
        house = self._house
        known = await load(house.store, house.vault, rental_id)
        if known is None:
            raise Unavailable
        live = house.live.get(rental_id) or known
        live.expires_at = max(live.expires_at, known.expires_at)
        if known.is_kept:
            live.refundable_until = known.refundable_until
        self._prolonged[fingerprint] = extension_id
        return live

    def offer(self, live: Live, fingerprint: str, until: float | None) -> None:
        """What another process has put up for claim, or, with None, what is not any more."""
        if live.id in self._awaited:
            self._awaited[live.id].set()
        if until is not None and live.status is Status.WAITING:
            self._unclaimed.setdefault(live.id, (fingerprint, live, until))
        elif live.id not in self._put_up:
            self._unclaimed.pop(live.id, None)

    def abandon(self, live: Live, fingerprint: str) -> None:
        """Nobody was told of this activation: the identical request gets it for a while, then it is given back."""
        until = self._claimable_until()
        extension_id = self._prolonged.get(fingerprint)
        if extension_id is not None:
            # The time that was bought can't be given back, and its rental is known to its owner.
            self._unclaimed[extension_id] = (fingerprint, live, until)
            if self._house.is_shared:
                self._put_up[extension_id] = until
            return
        self._answered.discard(live.id)
        self._unclaimed[live.id] = (fingerprint, live, until)
        if self._house.is_shared:
            self._put_up[live.id] = until

    def _claimable_until(self) -> float:
        return self._house.clock() + self._house.settings.gateway.activations.claim_seconds

    def answered(self, live: Live) -> None:
        """The client has its answer; written down with the next batch."""
        self._answered.add(live.id)

    async def overdue(self) -> list[Live]:
        """Activations that nobody asked for again in time; each is named once. Who polls it knows of it after all."""
        ripe, now, me = self._ripe(), self._house.clock(), self._house.bus.me
        if not self._house.is_shared:
            return ripe
        ours, until = [], now + LEFT_BEHIND_SECONDS
        for live in ripe:
            try:
                if await self._house.store.run(attempts.claim_to_give_back, live.id, now, until, me):
                    ours.append(live)
            except Unavailable:
                continue  # `settle` finds it again, as after a crash
        return ours

    def _ripe(self) -> list[Live]:
        now = self._house.clock()
        due = {key: live for key, (_, live, until) in self._unclaimed.items() if until <= now}
        for key in due:
            del self._unclaimed[key]
        ripe = [live for key, live in due.items() if key == live.id]
        self._answered.update(live.id for live in ripe if _is_known(live))
        return [live for live in ripe if not _is_known(live)]

    async def note_answered(self) -> None:
        """Writes down which activations their clients know of, and which they do not. Raises Unavailable."""
        if self._house.is_shared:
            # A rental is known to its owner in any case: that says nothing of whether more time for it was told.
            known = [key for key, (_, live, _) in self._unclaimed.items() if key == live.id and live.polled_at]
            for activation_id in known:
                del self._unclaimed[activation_id]
                self._answered.add(activation_id)
            await self._tell_put_up()
            await self._let_go(list(self._under_way))
        batch, self._answered = self._answered, set()
        if not batch:
            return
        try:
            await self._house.store.run(attempts.mark_answered, sorted(batch))
        except CallerError:
            self._answered |= batch
            raise

    async def _tell_put_up(self) -> None:
        """Lets the other processes hand over what nobody was told of here."""
        if not self._put_up:
            return
        async with self._putting_up:
            batch = dict(self._put_up)
            handed_over = {key for key in batch if key in self._handed_over}
            await self._house.store.run(attempts.put_up, batch, handed_over, self._house.bus.me)
            for activation_id in batch:
                self._put_up.pop(activation_id, None)
        self._house.bus.changed()

    # The client that hung up here and repeats its request elsewhere, or the reverse

    async def has_left(self, ids: Sequence[int]) -> bool:
        """Whether a client of these orders, which waited here, has hung up; then that order is put up. Never raises."""
        if not self._left(ids):
            await asyncio.sleep(NOTICE_SECONDS)
        return await self._let_go(ids)

    async def _let_go(self, ids: Sequence[int]) -> bool:
        """Puts up those of these orders whose clients have hung up; whether there are any.

        What can't be written down is tried again, or put up by `settle` as after a crash.
        """
        async with self._letting_go:
            left = self._left(ids)
            try:
                await self._put_up_under_way([pending for pending in left if not pending.is_written])
                if not self._put_up.keys().isdisjoint(ids):
                    await self._tell_put_up()
                    return True
            except CallerError:
                return False
            return bool(left)

    def _left(self, ids: Sequence[int]) -> list[_Pending]:
        found = (self._under_way.get(activation_id) for activation_id in ids)
        # Whoever waits for what is done has its answer any moment, or has it put up.
        return [pending for pending in found if pending is not None and not pending.done.done() and pending.is_gone()]

    async def _put_up_under_way(self, left: Sequence[_Pending]) -> None:
        """Raises Unavailable."""
        if not left:
            return
        house = self._house
        for pending in left:
            pending.is_put_up = True
        # When it gets its number, the time for that is counted anew.
        until = house.clock() + self._order_seconds() + house.settings.gateway.activations.claim_seconds
        ids = [pending.activation_id for pending in left]
        await house.store.run(repeats.put_up, ids, house.bus.me, until)
        for pending in left:
            pending.is_written = True
        log.info("order.put_up", activations=ids)

    def _order_seconds(self) -> float:
        """How long an order is under way at most, until its end is written down."""
        return self._house.settings.gateway.activations.order_deadline_seconds + ANSWER_NOTED_SECONDS

    async def _go_on_with(self, order: Order, pending: _Pending, taken: Taken) -> Live:
        """As `_taken_over`, for the client that waits for it here."""
        pending.activation_id = taken.activation_id
        if not taken.is_over:
            self._under_way[taken.activation_id] = pending
        return await self._taken_over(order, taken)

    async def _taken_over(self, order: Order, taken: Taken) -> Live:
        """What became of an order whose client has hung up; raises what that one would have been told.

        Raises Unavailable where nothing became of it in its time.
        """
        log.info("order.taken_over", activation=taken.activation_id)
        if not taken.is_over:
            return await self._become(order, taken)
        self._handed_over[taken.activation_id] = True
        try:
            return await self._become(order, taken)
        except CallerError:
            # It counts as told already: unless it is put up again, nobody would ever be told of it.
            self._put_up[taken.activation_id] = self._claimable_until()
            raise

    async def _become(self, order: Order, taken: Taken) -> Live:
        row = await self._outcome(taken)
        if row is None or row["status"] == Status.FAILED:
            raise repeats.failure(row["failure"] if row is not None else None)
        if row["product"] == Product.EXTENSION:
            return await self._prolonged_elsewhere(row["parent_id"], taken.activation_id, order.fingerprint)
        return await self._brought_in(taken.activation_id)

    async def _outcome(self, taken: Taken) -> Row | None:
        """The order's row once it is over; None where its time is before that."""
        house = self._house
        until = taken.opened_at + self._order_seconds()
        has_moved = self._awaited.setdefault(taken.activation_id, asyncio.Event())
        try:
            while True:
                has_moved.clear()
                row = await self._looked_up(taken.activation_id)
                if row is not None and row["status"] != Status.OPENING:
                    return row
                if house.clock() >= until:
                    return None
                with suppress(TimeoutError):
                    async with asyncio.timeout(TAKEN_LOOK_SECONDS):
                        await has_moved.wait()
        finally:
            self._awaited.pop(taken.activation_id, None)

    async def _looked_up(self, activation_id: int) -> Row | None:
        try:
            return await self._house.store.read(repeats.outcome, activation_id)
        except Unavailable:
            return None  # it may be there again within the order's time

    async def _brought_in(self, activation_id: int) -> Live:
        """An activation that another process has opened. Raises Unavailable."""
        house = self._house
        known = house.live.get(activation_id) or await load(house.store, house.vault, activation_id)
        if known is None:
            raise Unavailable
        if house.live.get(activation_id) is None:
            house.live.place(known)
        return house.live.get(activation_id) or known

    # One order

    async def _buy(
        self, caller: Caller, order: Order, pending: _Pending, find: Callable[[], Awaitable[Basis]] | None
    ) -> Live:
        house = self._house
        # Without a connection: whoever is slowed takes nobody else's place at the database.
        pause_seconds = self._pauses.get(caller.key_id, 0.0)
        if pause_seconds and order.product is not Product.EXTENSION:
            await self.pause(pause_seconds)
        started = house.clock()
        if order.product is Product.EXTENSION:
            # Its price is the upstream's to tell: nobody is asked for what was made already.
            left = await self._left_elsewhere(caller, order)
            if left is not None:
                return await self._go_on_with(order, pending, left)
        try:
            basis = self._from_market(caller, order) if find is None else await find()
            if not basis.quotes:
                raise _nothing_for(order, basis.minimum)
        except CallerError:
            # Perhaps since the same request, whose client has hung up, got what there was.
            left = await self._left_elsewhere(caller, order)
            if left is None:
                raise
            return await self._go_on_with(order, pending, left)
        number_of_open = _least(house.settings.gateway.limits.open_activations, order.open_max)
        version = house.settings.version
        unit = attempts.intend_extension if order.product is Product.EXTENSION else attempts.intend
        limits = house.settings.gateway.fuse

        def intend(tx: Tx) -> Intent:
            made = unit(tx, caller, order, basis.quotes, started, number_of_open, version, limits, house.bus.me)
            if made.pace.due_seconds and not pause_seconds:
                raise fuse.Slowed(made.pace.due_seconds)  # undone: nothing is held, and no connection, while it waits
            return made

        try:
            intent = await self._intended_once(intend, caller, order, basis.quotes)
        except fuse.Slowed as slowed:
            # What other processes have seen of the key, or this one before it was started anew.
            self._pauses[caller.key_id] = slowed.seconds
            return await self._buy(caller, order, pending, find)
        except fuse.Blown:
            until = await house.store.run(fuse.blow, caller.key_id, limits, started)
            if until is not None:
                log.warning("fuse.blown", key=caller.key_id, account=caller.account_name)
            raise
        if isinstance(intent, Taken):
            return await self._go_on_with(order, pending, intent)
        pending.activation_id = intent.activation_id
        self._under_way[intent.activation_id] = pending
        if order.product is not Product.EXTENSION:
            self._pauses[caller.key_id] = intent.pace.next_seconds
        self._own.add(intent.activation_id)
        try:
            return await self._try_each(caller, order, intent, started, basis.parent)
        finally:
            self._own.discard(intent.activation_id)

    async def _intended_once(
        self, intend: Callable[[Tx], Intent], caller: Caller, order: Order, quotes: Sequence[Ranked]
    ) -> Intent | Taken:
        """The order with its money held, or the one that the same request has begun. Raises as `attempts.intend`.

        Two parallel orders may be the same request, too, so where another process has such ones it is asked first
        whether their clients are still there.
        """
        house = self._house
        if not house.is_shared:
            return await self._intended(intend, caller, quotes)
        await self._tell_put_up()  # what is put up is looked for in the database alone

        def first(tx: Tx) -> Intent | Taken | Elsewhere:
            return self._look(tx, caller, order) or intend(tx)

        def second(tx: Tx) -> Intent | Taken:
            found = self._look(tx, caller, order)
            return found if isinstance(found, Taken) else intend(tx)

        found = await self._intended(first, caller, quotes)
        if not isinstance(found, Elsewhere):
            return found
        await house.bus.ask_who_left(found.processes, found.ids)
        return await self._intended(second, caller, quotes)

    async def _left_elsewhere(self, caller: Caller, order: Order) -> Taken | None:
        """The order that the same request has begun at another process, and whose client has hung up.

        Raises Unavailable.
        """
        house = self._house
        if not house.is_shared:
            return None
        await self._tell_put_up()
        found = await house.store.run(self._look, caller, order)
        if isinstance(found, Elsewhere) and await house.bus.ask_who_left(found.processes, found.ids):
            found = await house.store.run(self._look, caller, order)
        return found if isinstance(found, Taken) else None

    def _look(self, tx: Tx, caller: Caller, order: Order) -> Taken | Elsewhere | None:
        now, me = self._house.clock(), self._house.bus.me
        since = now - self._order_seconds()
        return repeats.look(tx, caller.account_id, order.fingerprint, order.parent_id, me, since=since, at=now)

    async def _intended(self, intend: Callable[[Tx], R], caller: Caller, quotes: Sequence[Ranked]) -> R:
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
            except _Settled as error:
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
        return await self._adopt(caller, order, intent, ranked.quote, lease, cost_max)

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
                await self._turn_back(intent, upstream.name, error)
            await house.store.run(attempts.end, intent.attempt_id, "in_doubt", str(error), house.clock())
            lost = None if made_before is None else LostExtension(wanted.hours, had_until, made_before)
            seen = await self._end_now(upstream, rental, lost, deadline - house.clock())
            if seen is None or not attempts.has_moved(had_until, seen, wanted.hours):
                raise
            ends_at = seen
        house.health.success(upstream.name)
        try:
            # Should the commit be lost, the end that the upstream tells from now on settles what came of it.
            is_longer = await house.store.run(attempts.prolong, intent, rental.id, quote, ends_at, house.clock())
        except Conflict:
            raise _Settled("the extension was given up meanwhile") from None
        if not is_longer:
            log.warning("extension.lost", activation=intent.activation_id, upstream=upstream.name)
            raise _Settled("its rental ended meanwhile")
        rental.expires_at = max(rental.expires_at, ends_at)
        if rental.status is Status.WAITING:
            rental.refundable_until = 0.0
        house.live.put(rental)
        house.metrics.count(Product.EXTENSION, upstream.name, "finished")
        self._prolonged[fingerprint] = intent.activation_id
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

    async def _turn_back(self, intent: Intent, upstream: str, error: InDoubt) -> NoReturn:
        """Gives back a lease that was had in place of what was asked for. Raises NothingTaken."""
        house = self._house
        await house.store.run(
            attempts.end_unattached, intent.attempt_id, upstream, error.reference, house.clock(), str(error)
        )
        self._soon(self._give_back_orphans())
        raise _Settled(str(error))

    async def _end_now(
        self, upstream: Upstream, rental: Live, lost: LostExtension | None, seconds: float
    ) -> float | None:
        """When a rental ends, as its upstream has it; None where it does not say."""
        if seconds <= 0:
            return None
        try:
            async with asyncio.timeout(seconds):
                progress = await upstream.read(
                    Watched(rental.reference, 1, rental.service, rental.opened_at, extension=lost)
                )
        except (UpstreamError, TimeoutError):
            return None
        return progress.expires_at

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
        found = await self._found_now(upstream, asked_at, deadline - house.clock())
        sole = await house.store.run(
            attempts.sole_unknown, upstream.name, intent.attempt_id, found, wanted, asked_at, is_rental=is_rental
        )
        if sole is None:
            raise error
        house.health.unblock(upstream.name, wanted.service, wanted.country, is_rental=is_rental)
        log.info("attempt.found", attempt=intent.attempt_id, upstream=upstream.name)
        return sole.lease

    async def _found_now(self, upstream: Upstream, asked_at: float, seconds: float) -> Sequence[Found]:
        if not isinstance(upstream, Finds) or seconds <= 0:
            return ()
        try:
            async with asyncio.timeout(seconds):
                return await self._listed(upstream.name, upstream, asked_at - attempts.CLOCK_SKEW_SECONDS)
        except (UpstreamError, TimeoutError):
            return ()

    async def _listed(self, name: str, upstream: Finds, since: float, *, has_ended: bool = True) -> Sequence[Found]:
        """Its open orders, but for those made for another SMS whose reference is not known here yet.

        With `has_ended` also where the activation it was asked for has ended: what is left of that is nobody's new
        number, though a stranger. Raises Unwell, Unavailable.
        """
        found = await upstream.find(since)
        if not isinstance(upstream, MovesLeases):
            return found
        ended_since = self._house.clock() - STRANGER_SECONDS_MAX if has_ended else None
        resent = await self._house.store.read(moves.under_way, self._house.vault, name, ended_since)
        return [one for one in found if (one.service, one.lease.number) not in resent]

    async def _adopt(
        self, caller: Caller, order: Order, intent: Intent, quote: Quote, lease: Lease, cost_max: Money
    ) -> Live:
        """Makes the lease the caller's. One that costs more than allowed is given back. Raises NothingTaken."""
        house, now = self._house, self._house.clock()
        cost = lease.cost or quote.offer.cost
        if cost.currency != cost_max.currency or cost.micros > cost_max.micros:
            raise await self._turned_down(intent, lease, "the number handed over costs more than allowed")
        is_chosen = order.product not in (Product.AGAIN, Product.BESIDE)
        if is_chosen and order.phone_exceptions and lease.number.startswith(order.phone_exceptions):
            raise await self._turned_down(intent, lease, "the number handed over begins as the caller wants none to")
        # Numbers kept by us cool down for a service by rules of their own.
        is_pool = isinstance(house.upstreams.get(quote.offer.upstream), KeptByUs)
        charged = self._charged(caller, order, quote, cost)
        expires_at, refundable_until = self._life(order, quote, lease, intent.opened_at, now)
        webhook_sealed = house.vault.seal(order.webhook_url) if order.webhook_url else None
        sealed = house.vault.seal(lease.number)
        operator = lease.operator or quote.offer.operator
        try:
            await house.store.run(
                attempts.attach,
                intent,
                quote.offer.upstream,
                lease,
                sealed,
                operator=operator,
                price=charged.price,
                shares=charged.shares,
                cost=cost,
                expires_at=expires_at,
                at=now,
                hours=quote.offer.hours,
                refundable_until=refundable_until,
                webhook_sealed=webhook_sealed,
                number_digest=self._number_digest(caller, order, lease),
                known_since=now - self._memory_seconds() if is_chosen and not is_pool else float("inf"),
                claim_until=now + house.settings.gateway.activations.claim_seconds,
            )
        except handed.Repeated:
            raise await self._turned_down(intent, lease, "the account was handed this number before") from None
        except Conflict:
            raise await self._unattached(intent, quote.offer.upstream, lease) from None
        except Unavailable:
            # The number is ours and the database is away: `settle` writes it down as soon as it can.
            self._unwritten.append((intent.activation_id, intent.attempt_id, lease.reference))
            raise
        live = Live(
            id=intent.activation_id, account_id=caller.account_id, service=order.service, country=order.country,
            operator=operator, status=Status.WAITING, price_micros=charged.price.micros,
            currency=charged.price.currency, opened_at=intent.opened_at, number=lease.number,
            upstream=quote.offer.upstream, reference=lease.reference, expires_at=expires_at, product=order.product,
            hours=quote.offer.hours, parent_id=order.parent_id, refundable_until=refundable_until,
        )  # fmt: skip
        house.live.put(live)
        house.metrics.count(live.product, live.upstream, "opened")
        return live

    async def _unattached(self, intent: Intent, upstream: str, lease: Lease) -> _Settled:
        """A lease for an order that is over, or one that we have; what to raise. Raises Unavailable."""
        store, now = self._house.store, self._house.clock()
        try:
            is_ours = await store.run(attempts.end_unattached, intent.attempt_id, upstream, lease.reference, now)
        except Unavailable:
            self._unwritten.append((intent.activation_id, intent.attempt_id, lease.reference))
            raise
        return _Settled("the order was given up meanwhile" if is_ours else "handed out a lease we have")

    async def _turned_down(self, intent: Intent, lease: Lease, reason: str) -> _Settled:
        """A number nobody here wants goes back; what to raise. Raises Unavailable."""
        house = self._house
        try:
            await house.store.run(attempts.end, intent.attempt_id, "orphan", reason, house.clock(), lease.reference)
        except Unavailable:
            self._unwritten.append((intent.activation_id, intent.attempt_id, lease.reference))
            raise
        self._soon(self._give_back_orphans())
        return _Settled(reason)

    def _memory_seconds(self) -> float:
        return self._house.settings.gateway.limits.number_memory_days * DAY_SECONDS

    def _number_digest(self, caller: Caller, order: Order, lease: Lease) -> str:
        """What the number is remembered by; empty where it is not to be."""
        if not self._memory_seconds():
            return ""
        return self._house.vault.index_digest(f"handed:{caller.account_id}", f"{order.service}:{lease.number}")

    def _life(
        self, order: Order, quote: Quote, lease: Lease, opened_at: float, now: float
    ) -> tuple[float, float | None]:
        """When it ends and, of a rental, until when it can be given back."""
        settings = self._house.settings.gateway
        if order.product is Product.RENTAL:
            ends_at = lease.expires_at or opened_at + quote.offer.hours * 3600.0
            # Never nought, which says that it is kept.
            return ends_at, max(1.0, min(now + settings.rentals.refund_seconds, ends_at))
        ends_at = now + _least(settings.activations.life_seconds, order.life_seconds)
        ends_at = ends_at if lease.expires_at is None else min(ends_at, lease.expires_at)
        return refunds.life_ends_at(self._house.stanza(quote.offer.upstream), opened_at, ends_at), None

    def _charged(self, caller: Caller, order: Order, quote: Quote, cost: Money) -> Quote:
        """The lower of what was quoted and what the number really cost, priced the same way: so at every level."""
        pricing = self._house.market.view.pricing.of(order.product)
        real = ladders.quote(pricing, replace(quote.offer, cost=cost), caller)
        return quote if real is None or real.top_micros > quote.top_micros else real

    # What a crash or a lost reply left behind

    async def recover(self) -> None:
        """At start: puts up for claim what nobody was told of, and settles the rest. Raises Unavailable."""
        house = self._house
        if not house.is_shared:
            for row in await house.store.read(attempts.unanswered, house.clock(), house.clock()):
                live = house.live.get(row["id"])
                if live is not None and live.status is Status.WAITING:
                    self.abandon(live, row["fingerprint"])
            # The upstreams are asked by the first round of `settle`, beside the first clients.
            await self._give_up_left_behind(house.clock())
        forgotten = await house.store.run(
            attempts.doubt_forgotten, house.clock() - 2 * LEFT_BEHIND_SECONDS, house.clock()
        )
        if forgotten:
            log.warning("attempts.forgotten", attempts=forgotten)
        await self.block_doubtful()
        await self._show_exposure()  # the cap holds from the first order on

    async def _put_up_left_behind(self) -> None:
        """What a process that died had bought and told nobody of is put up for claim, and later given back."""
        house = self._house
        now = house.clock()
        before = now - self._order_seconds()
        rows = await house.store.read(attempts.unanswered, before, now - LEFT_BEHIND_SECONDS)
        if rows:
            until = now + house.settings.gateway.activations.claim_seconds
            await house.store.run(attempts.put_up, {row["id"]: until for row in rows})
            log.warning("order.unanswered", activations=[row["id"] for row in rows])
            house.bus.changed()

    async def settle(self, *, at_start: bool = False) -> None:
        """One round over what is unsettled: orders left behind, purchases in doubt, orphans. Raises Unavailable."""
        async with self._settling:
            await self._settle_all(at_start=at_start)

    async def _settle_all(self, *, at_start: bool) -> None:
        now = self._house.clock()
        await self._write_down(now)
        is_alone = at_start and not self._house.is_shared
        await self._give_up_left_behind(now if is_alone else now - LEFT_BEHIND_SECONDS)
        if self._house.is_shared:
            await self._put_up_left_behind()
        rows = await self.block_doubtful()
        mine: dict[str, list[Row]] = {}
        for row in rows:
            mine.setdefault(row["upstream"], []).append(row)
        # At once: one that hangs is not to keep the others' in doubt.
        await asyncio.gather(*(self._settle_upstream(upstream, found) for upstream, found in mine.items()))
        if rows:
            await self.block_doubtful()
        await self._give_back_orphans()
        await self._show_exposure()

    async def _give_up_left_behind(self, before: float) -> None:
        """Ends orders opened before then that nobody is at work on: their process died, or could not write."""
        house = self._house
        for row in await house.store.read(attempts.left_behind, before):
            if row["id"] not in self._own and await house.store.run(attempts.give_up_order, row["id"], house.clock()):
                log.warning("order.left_behind", activation=row["id"])

    async def watch(self) -> None:
        """What every process has to know of what is unsettled, whoever settles it. Raises Unavailable."""
        async with self._settling:
            await self._write_down(self._house.clock())
        await self.block_doubtful()
        await self._show_exposure()

    async def block_doubtful(self) -> Sequence[Row]:
        """Takes what is in doubt out of routing, and only that; the attempts. Raises Unavailable."""
        rows = await self._house.store.read(attempts.unsettled)
        self._house.health.set_blocks(
            (row["upstream"], row["service"], row["country"], row["product"] == Product.RENTAL)
            for row in rows
            if row["product"] != Product.EXTENSION
        )
        return rows

    async def _write_down(self, now: float) -> None:
        """Leases whose row could not be written when they came: given back, or found written after all."""
        while self._unwritten:
            activation_id, attempt_id, reference = self._unwritten[0]
            fingerprint = await self._house.store.run(
                attempts.orphan_unless_leased, activation_id, attempt_id, reference, now
            )
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
        since = [row["started_at"] for row in rows if row["product"] != Product.EXTENSION]
        if isinstance(upstream, Finds) and since:
            try:
                found = await self._listed(name, upstream, min(since) - attempts.CLOCK_SKEW_SECONDS)
            except UpstreamError as error:
                log.info("settle.unwell", upstream=name, error=type(error).__name__)
        for row in rows:
            # An order that is still under way asks for its own lost number, and may be about to adopt it.
            if row["activation_id"] in self._own or self._is_under_way_elsewhere(row):
                continue
            if row["product"] == Product.EXTENSION:
                await self._settle_extension(upstream, row)
            else:
                await self._settle_attempt(row, found)

    def _is_under_way_elsewhere(self, row: Row) -> bool:
        """Whether another process may be at work on the order that an attempt in doubt is of."""
        age_seconds = self._house.clock() - row["opened_at"]
        return self._house.is_shared and row["status"] == Status.OPENING and age_seconds < LEFT_BEHIND_SECONDS

    async def _settle_extension(self, upstream: Upstream | None, row: Row) -> None:
        """By the end its rental has upstream now: a later one says that the extension was made."""
        house, rental_id = self._house, row["parent_id"]
        rental = house.live.get(rental_id) or await load(house.store, house.vault, rental_id)
        ends_at = None
        if upstream is not None and rental is not None:
            told = row["made_before"]
            lost = None if told is None else LostExtension(row["hours"], row["had_until"], told)
            seconds = house.settings.gateway.activations.order_deadline_seconds
            ends_at = await self._end_now(upstream, rental, lost, seconds)
        if not await house.store.run(attempts.settle_extension, row, ends_at, house.clock()):
            return
        log.info("attempt.settled", attempt=row["id"], upstream=row["upstream"])
        if rental is not None and ends_at is not None:
            rental.expires_at = max(rental.expires_at, ends_at)

    async def _settle_attempt(self, row: Row, found: Sequence[Found] | None) -> None:
        house = self._house
        stanza = house.stanza(row["upstream"])
        is_ours_alone = stanza is not None and stanza.exclusive
        state = await house.store.run(attempts.settle_doubt, row, found, house.clock(), is_ours_alone=is_ours_alone)
        if state == "lost":
            log.warning("rental.lost", attempt=row["id"], upstream=row["upstream"])
        elif state:
            log.info("attempt.settled", attempt=row["id"], upstream=row["upstream"])

    def _soon(self, work: Coroutine[Any, Any, None]) -> None:
        """Does something beside the order, which does not wait for it; `settle` repeats what fails."""
        task = asyncio.ensure_future(work)
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def _give_back_orphans(self) -> None:
        mine: dict[str, list[Row]] = {}
        for row in await self._house.store.read(attempts.orphans):
            mine.setdefault(row["upstream"], []).append(row)
        await asyncio.gather(*(self._give_back_each(rows) for rows in mine.values()))

    async def _give_back_each(self, rows: Sequence[Row]) -> None:
        for row in rows:
            await self._give_back(row)

    async def _give_back(self, row: Row) -> None:
        """Cancels a lease that belongs to nobody; what it cost where that fails for good is the operator's loss."""
        house = self._house
        upstream = house.upstreams.get(row["upstream"])
        try:
            if upstream is None:
                raise Unwell("taken out of the configuration")
            await upstream.close(row["reference"], Outcome.CANCELLED)
        except UnknownLease:
            pass
        except UpstreamError as error:
            if house.clock() - row["started_at"] < attempts.doubt_seconds(row):
                return
            log.warning("orphan.lost", upstream=row["upstream"], error=type(error).__name__)
            cost = Money(row["cost_max"], row["currency"])
            if await house.store.run(attempts.lose, row["id"], cost, row["upstream"], house.clock()):
                house.losses.note(row["upstream"], cost, house.clock())
            return
        await house.store.run(attempts.end, row["id"], "cancelled", "given back", house.clock(), row["reference"])

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
                found = await self._listed(name, upstream, now - STRANGER_SECONDS_MAX, has_ended=False)
            except UpstreamError:
                continue
            before = now - STRANGER_SECONDS_MIN
            old = [one for one in found if one.created_at is not None and one.created_at < before]
            strangers = await house.store.read(attempts.unknown_among, name, old)
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
        for row in await self._house.store.read(attempts.exposures):
            amount = Money(int(row["amount"]), row["currency"])
            gauges.in_doubt.labels(row["upstream"]).set(row["attempts"])
            gauges.exposure.labels(row["upstream"], row["currency"]).set(amount.micros / 1e6)
            totals[row["upstream"]] += round(self._house.market.view.pricing.house_micros(amount) or amount.micros)
        self._rest_overexposed(totals)

    def _rest_overexposed(self, totals: Counter[str]) -> None:
        """An upstream whose purchases in doubt may have cost too much takes no orders until some are settled."""
        cap = round(self._house.settings.gateway.activations.in_doubt_exposure * MICROS)
        over = {upstream for upstream, micros in totals.items() if micros > cap}
        for upstream in over ^ self._house.market.overexposed:
            log.warning("upstream.exposure", upstream=upstream, is_over=upstream in over)
        if over != self._house.market.overexposed:
            self._house.market.rest(over)


def _request(order: Order) -> _Request:
    return order.fingerprint, order.parent_id


def _is_beside_its_own(order: Order, live: Live) -> bool:
    """A further service on a number is what was asked for only on that number."""
    return order.product is not Product.BESIDE or live.parent_id == order.parent_id


def _is_known(live: Live) -> bool:
    """Whether its client has asked for it, here or elsewhere."""
    return bool(live.polled_at or live.asked_elsewhere_at)


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


def _least(setting: T, promised: T | None) -> T:
    return setting if promised is None else min(setting, promised)


def _seconds_for(ranked: Ranked, left: float, *, is_last: bool) -> float:
    if ranked.fail_fast:
        return min(left, FAIL_FAST_SECONDS)
    return left if is_last else min(left, ATTEMPT_SECONDS_MAX)
