"""Clients that hang up before their answer: whoever repeats their request gets what it ordered, here or elsewhere.

A purchase goes on when its client hangs up. Repeated meanwhile, the request waits for that purchase; repeated later, it
gets the number that nobody was told of, within `claim_seconds`. What nobody asks for in time is given back.

With several processes only the one that a client waits at knows whether it is still there. So what nobody was told of
is put up in the database, where any process takes it, and processes that have the same request under way are asked
first (`repeats`, `docs/decisions.md`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import structlog
from cachetools import LRUCache, TTLCache

from gateway import attempts, repeats
from gateway.accounts import Caller
from gateway.attempts import Intent
from gateway.errors import CallerError, Unavailable
from gateway.house import House
from gateway.live import Live
from gateway.model import Order, Product, Status
from gateway.records import load
from gateway.repeats import Elsewhere, Taken
from gateway.store import Row, Tx

LEFT_BEHIND_SECONDS = 30.0
"""An order still `opening` after this long was left behind by a process that died."""

ANSWER_NOTED_SECONDS = 2.0
"""Beyond an order's deadline, how long it takes at most to write down that its client has the answer."""

NOTICE_SECONDS = 0.002
"""A client that hangs up and repeats its request at once may be asked for here before its hanging up is noticed."""

TAKEN_LOOK_SECONDS = 0.5
"""How often an order that another process is at is looked at, where no hint comes."""

EXTENSIONS_REMEMBERED = 10_000
HANDED_OVER_REMEMBERED = 10_000

R = TypeVar("R")

_Request = tuple[str, int | None]
"""What makes two requests the same one: their fingerprint, and what they build upon."""

log = structlog.get_logger()


class Runs(Protocol):
    """Runs a unit of work, and returns what it returned once that is durable."""

    def __call__(self, unit: Callable[[Tx], R], /) -> Awaitable[R]: ...


@dataclass(slots=True)
class Pending:
    """An order under way. `is_gone` is that of the client it is for now: another one may have taken over."""

    is_gone: Callable[[], bool]
    done: asyncio.Future[Live]
    activation_id: int = 0
    is_put_up: bool = False
    """Its client had hung up, and since then any process may have taken it."""

    is_written: bool = False
    """That it is put up stands in the database, as far as is known here."""


class Handovers:
    """Knows whose client waits for which order, and what nobody was told of. One per process."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._pending: dict[_Request, list[Pending]] = {}
        self._unclaimed: dict[int, tuple[str, Live, float]] = {}
        self._put_up: dict[int, float] = {}
        self._putting_up = asyncio.Lock()
        self._handed_over: LRUCache[int, bool] = LRUCache(HANDED_OVER_REMEMBERED)
        self._answered: set[int] = set()
        self._under_way: dict[int, Pending] = {}
        """Orders that clients of this process wait for, by the activation, whichever process is at them."""

        self._letting_go = asyncio.Lock()
        self._awaited: dict[int, asyncio.Event] = {}
        self._prolonged: TTLCache[str, int] = TTLCache(EXTENSIONS_REMEMBERED, ttl=3600.0, timer=house.clock)
        self.tasks: set[asyncio.Task[Live]] = set()
        """Purchases under way, for whoever stops the process to wait for."""

    async def serve(
        self, order: Order, is_gone: Callable[[], bool], buy: Callable[[Pending], Coroutine[Any, Any, Live]]
    ) -> Live:
        """What the same request has bought and nobody was told of, or is buying for a client that has gone.

        Else what `buy` buys, which goes on when this client hangs up, too (`is_gone`). Raises as `buy`, and Unavailable
        where a repeated request has taken over meanwhile.
        """
        claimed = await self._claim(order, is_gone)
        return claimed if claimed is not None else await self._start(order, is_gone, buy)

    async def once(
        self, caller: Caller, order: Order, pending: Pending, intend: Callable[[Tx], Intent], run: Runs
    ) -> Intent | Live:
        """What `intend` makes of the order, in a unit of work that `run` runs; else what the same request has had.

        Two parallel orders may be the same request, too, so where another process has such ones it is asked first
        whether their clients are still there. Raises as `run`, and what the client that hung up would have been told.
        """
        made = await self._intended_once(caller, order, intend, run)
        if isinstance(made, Taken):
            return await self._go_on_with(order, pending, made)
        pending.activation_id = made.activation_id
        self._under_way[made.activation_id] = pending
        return made

    async def had_elsewhere(self, caller: Caller, order: Order, pending: Pending) -> Live | None:
        """What the same request has begun at another process, where its client has hung up; None without such.

        Raises what that client would have been told, and Unavailable.
        """
        left = await self._left_elsewhere(caller, order)
        return None if left is None else await self._go_on_with(order, pending, left)

    def note_extension(self, fingerprint: str, extension_id: int) -> None:
        """What that request has bought is an extension: it is what `abandon` puts up, in place of its rental."""
        self._prolonged[fingerprint] = extension_id

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

    async def put_up_left_behind(self) -> None:
        """What a process that died had bought and told nobody of is put up for claim, and later given back.

        Raises Unavailable.
        """
        house = self._house
        now = house.clock()
        before = now - self._order_seconds()
        rows = await house.store.read(attempts.unanswered, before, now - LEFT_BEHIND_SECONDS)
        if rows:
            until = now + house.settings.gateway.activations.claim_seconds
            await house.store.run(attempts.put_up, {row["id"]: until for row in rows}, (), attempts.ANYBODY)
            log.warning("order.unanswered", activations=[row["id"] for row in rows])
            house.bus.changed()

    async def has_left(self, ids: Sequence[int]) -> bool:
        """Whether a client of these orders, which waited here, has hung up; then that order is put up. Never raises."""
        if not self._left(ids):
            await asyncio.sleep(NOTICE_SECONDS)
        return await self._let_go(ids)

    async def _start(
        self, order: Order, is_gone: Callable[[], bool], buy: Callable[[Pending], Coroutine[Any, Any, Live]]
    ) -> Live:
        pending = Pending(is_gone, asyncio.get_running_loop().create_future())
        request = _request(order)
        self._pending.setdefault(request, []).append(pending)
        # The purchase goes on when its client hangs up: cancelling it halfway is how numbers get lost.
        task = asyncio.ensure_future(buy(pending))
        self.tasks.add(task)
        task.add_done_callback(lambda done: self._finish(request, pending, done))
        return await self._waited_for(pending, is_gone)

    async def _waited_for(self, pending: Pending, is_gone: Callable[[], bool]) -> Live:
        """What an order bought, for the client that waits for it. Raises Unavailable where it is another one's."""
        live = await asyncio.shield(pending.done)
        if pending.is_gone is not is_gone or not await self._is_still_ours(pending):
            raise Unavailable  # the repeated request has the number; whoever waited here is not there any more
        return live

    async def _is_still_ours(self, pending: Pending) -> bool:
        """Whether what an order bought is its client's. Raises Unavailable."""
        if not pending.is_put_up:
            return True
        # Several clients may wait for one purchase: one of them can have come after all the others had hung up.
        return not pending.is_gone() and await self._claimed(pending.activation_id)

    def _finish(self, request: _Request, pending: Pending, task: asyncio.Task[Live]) -> None:
        self.tasks.discard(task)
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

    def _claimable_until(self) -> float:
        return self._house.clock() + self._house.settings.gateway.activations.claim_seconds

    def _ripe(self) -> list[Live]:
        now = self._house.clock()
        due = {key: live for key, (_, live, until) in self._unclaimed.items() if until <= now}
        for key in due:
            del self._unclaimed[key]
        ripe = [live for key, live in due.items() if key == live.id]
        self._answered.update(live.id for live in ripe if _is_known(live))
        return [live for live in ripe if not _is_known(live)]

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

    def _left(self, ids: Sequence[int]) -> list[Pending]:
        found = (self._under_way.get(activation_id) for activation_id in ids)
        # Whoever waits for what is done has its answer any moment, or has it put up.
        return [pending for pending in found if pending is not None and not pending.done.done() and pending.is_gone()]

    async def _put_up_under_way(self, left: Sequence[Pending]) -> None:
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

    async def _intended_once(
        self, caller: Caller, order: Order, intend: Callable[[Tx], Intent], run: Runs
    ) -> Intent | Taken:
        """As `once`, with the order that the same request has begun, whatever became of it."""
        house = self._house
        if not house.is_shared:
            return await run(intend)
        await self._tell_put_up()  # what is put up is looked for in the database alone

        def first(tx: Tx) -> Intent | Taken | Elsewhere:
            return self._look(tx, caller, order) or intend(tx)

        def second(tx: Tx) -> Intent | Taken:
            found = self._look(tx, caller, order)
            return found if isinstance(found, Taken) else intend(tx)

        found = await run(first)
        if not isinstance(found, Elsewhere):
            return found
        await house.bus.ask_who_left(found.processes, found.ids)
        return await run(second)

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

    async def _go_on_with(self, order: Order, pending: Pending, taken: Taken) -> Live:
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


def _request(order: Order) -> _Request:
    return order.fingerprint, order.parent_id


def _is_beside_its_own(order: Order, live: Live) -> bool:
    """A further service on a number is what was asked for only on that number."""
    return order.product is not Product.BESIDE or live.parent_id == order.parent_id


def _is_known(live: Live) -> bool:
    """Whether its client has asked for it, here or elsewhere."""
    return bool(live.polled_at or live.asked_elsewhere_at)
