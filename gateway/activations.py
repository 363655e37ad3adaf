"""What happens to an activation once it has a number: read, deliver, ask again, finish, cancel, expire.

Every change is one conditional update on the row as it stands, together with its money; the map in memory follows after
the commit. A call to an upstream is never made inside a transaction.

A rental lives by the same rules but for its money: that is kept with its first message, or once the time has passed in
which it can be given back, and then it may wait for messages still.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import structlog

from gateway import attempts, fuse, ledger, moves, refunds
from gateway.accounts import Caller
from gateway.apart import apart, foreseen
from gateway.codes import clean_code
from gateway.errors import (
    CancelTooEarly,
    HasSms,
    NotAllowed,
    NotAllowedNow,
    TooEarly,
    Unavailable,
    UnknownActivation,
    UnknownLease,
    Unwell,
    UpstreamError,
)
from gateway.feed import shown_everywhere
from gateway.house import House
from gateway.live import Live, Shown
from gateway.model import LeaseState, Outcome, Product, Progress, Sms, Status, Watched
from gateway.money import MICROS, Money
from gateway.records import load, load_open
from gateway.store import Conflict, Row, Tx
from gateway.upstream import AsksAgain, Finds, MovesLeases, Upstream
from gateway.vault import Vault

UNKNOWN_TIMES_MAX = 3
RENTAL_UNKNOWN_TIMES_MAX = 20
"""How often an upstream may say it does not know a lease before we believe it; of a rental, more is lost by that."""

END_MOVED_SECONDS = 1.0
"""A rental's end that is later by less is the same end."""

JUDGED_AFTER_SECONDS = 60.0
"""A caller who gives up sooner says nothing about whether a code would have come."""

EXPIRED_TOGETHER = 25
CANCELLING_EXTRA_SECONDS = 10.0
"""Beyond the time an upstream has to answer a cancel, how long it may take to write down what came of it."""

RESENDING_EXTRA_SECONDS = 5.0
"""As much for another SMS that was asked for: whoever repeats that waits so long after a crash."""


log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _New:
    """A message about to be written down."""

    identity: str
    round: int
    code: str
    text: str
    received_at: float
    sender: str


class _OtherRound(Unavailable):
    """Another process has asked for another message meanwhile, and this one has not heard of it yet."""


class _Prolonging(Unavailable):
    """A rental can't end while an extension of it is under way or in doubt: whoever wants that asks again."""


class _Withheld(Unwell):
    """An upstream takes a number back no more because of a message, and does not show that message."""


class Activations:
    """The use-cases of one gateway. Every method that names a caller touches only that caller's activations."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._closing: dict[str, asyncio.Future[None]] = {}

    async def restore(self) -> None:
        """Fills the map at start. Raises Unavailable."""
        for live in await load_open(self._house.store, self._house.vault):
            self._house.live.place(live)

    # Reading

    def peek(self, account_id: int, activation_id: int, *, is_rental: bool = False) -> Live | None:
        """The caller's activation if it is in memory: what nearly every poll needs.

        Not one with a code to show, where this process has not followed the others for a while. (A rental has no
        rounds: what it showed once is never wrong.)
        """
        live = self._known(account_id, activation_id, is_rental=is_rental)
        if live is None:
            return None
        if live.status is Status.RECEIVED and not live.is_rental and not self._house.live.is_fresh():
            return None
        live.polled_at = self._house.clock()
        return live

    def _known(self, account_id: int, activation_id: int, *, is_rental: bool) -> Live | None:
        live = self._house.live.get(activation_id)
        is_it = live is not None and live.account_id == account_id and live.is_rental is is_rental
        return live if is_it else None

    async def get(self, caller: Caller, activation_id: int, *, is_rental: bool = False) -> Live:
        """The caller's activation, or its rental: neither is known as the other.

        Raises UnknownActivation (also where it is somebody else's), Unavailable.
        """
        live = self.peek(caller.account_id, activation_id, is_rental=is_rental)
        if live is not None:
            return live
        if not self._house.live.is_fresh():
            await self._house.live.catch_up()
            live = self._known(caller.account_id, activation_id, is_rental=is_rental)
            if live is not None:
                live.polled_at = self._house.clock()
                return live
        # Somebody else's, in memory or not, is looked up like one that nobody has: the same answer at the same price.
        found = await load(self._house.store, self._house.vault, activation_id)
        is_this_kind = found is not None and (found.is_rental if is_rental else found.product.is_for_codes)
        if found is None or found.account_id != caller.account_id or not is_this_kind:
            raise UnknownActivation
        live = self._house.live.get(activation_id)
        if live is None:
            live = found
            self._house.live.place(live)
        live.polled_at = self._house.clock()
        return live

    async def current(self, caller: Caller, activation_id: int, *, is_rental: bool = False) -> Live:
        """As `get`, but as the database has it: for what is decided by the state."""
        live = await self.get(caller, activation_id, is_rental=is_rental)
        await self._hear_of(live)
        return live

    async def _hear_of(self, live: Live) -> None:
        """Another process may have changed it just now. An end is final. Raises Unavailable."""
        if self._house.is_shared and live.status.is_open:
            await self._refresh(live)

    def open_of(self, caller: Caller, *, is_rental: bool = False) -> list[Live]:
        """The caller's open activations, or its rentals, oldest first."""
        lives = self._house.live.of_account(caller.account_id)
        return [live for live in lives if live.is_rental is is_rental]

    # Delivering

    async def take(self, live: Live, round_asked: int, progress: Progress) -> bool:
        """Brings in what an upstream showed when asked in a given round; whether a message came. Raises Unavailable."""
        live.unknown_times = live.unknown_times + 1 if progress.state is LeaseState.UNKNOWN else 0
        try:
            is_new = await self._deliver(live, round_asked, progress.messages)
        except _OtherRound:
            await self._refresh(live)
            return False  # what was read may belong to either round: the next reading tells
        if live.is_rental:
            await self._take_end(live, progress.expires_at)
        unknown_max = RENTAL_UNKNOWN_TIMES_MAX if live.is_rental else UNKNOWN_TIMES_MAX
        is_over = progress.state in (LeaseState.CANCELLED, LeaseState.FINISHED) or live.unknown_times >= unknown_max
        # Of a round that is over since it was asked about, the lease there may be another one than this one's.
        if is_over and not live.is_over_upstream and round_asked == live.round:
            if live.is_rental:
                await self._end_rental_over_upstream(live, progress.state)
            elif live.status is Status.WAITING:
                await self._end_without_code(live, self._close_at(live, progress.state))
            live.is_over_upstream = True
        return is_new

    def _close_at(self, live: Live, state: LeaseState) -> float | None:
        """When to have a number without a code taken back that its upstream says is over; None where it has been.

        It may be wrong, and the number be paid for and open. One that it says is finished it refuses to take back if
        so, and then that is our loss.
        """
        now = self._house.clock()
        if state is not LeaseState.UNKNOWN:
            return None if state is LeaseState.CANCELLED else now
        at = refunds.life_ends_at(self._house.stanza(live.upstream), live.opened_at, now + refunds.DENIED_SECONDS)
        return at if live.refundable_until is None else min(at, live.refundable_until - refunds.MARGIN_SECONDS)

    async def _take_end(self, live: Live, ends_at: float | None) -> None:
        """A rental ends when its upstream says so, once that is later than was known."""
        if ends_at is None or ends_at < live.expires_at + END_MOVED_SECONDS or not live.status.is_open:
            return
        await self._house.store.run(attempts.move_end, live.id, ends_at)
        live.expires_at = max(live.expires_at, ends_at)

    async def deliver(self, live: Live, round_asked: int, messages: Sequence[Sms]) -> bool:
        """Writes new messages down, captures the hold with the first, queues the notice: one transaction.

        Repeats are harmless. A message for an activation that is over is kept, not shown, and is the operator's loss
        where nobody paid. Raises Unavailable.
        """
        try:
            return await self._deliver(live, round_asked, messages)
        except _OtherRound:
            await self._refresh(live)
            return await self._deliver(live, live.round, messages)

    async def _deliver(self, live: Live, round_asked: int, messages: Sequence[Sms]) -> bool:
        """As `deliver`. Raises _OtherRound where the activation is in another round than this process knows."""
        fresh = self._fresh(live, round_asked, messages)
        if not fresh:
            return False
        now = self._house.clock()
        shown = await self._house.store.run(_deliver, self._house.vault, live.id, live.round, fresh, now)
        if not shown:
            await self._refresh(live)
        if shown is None:
            live.identities.update(new.identity for new in fresh)
            self._house.metrics.late_messages.labels(live.upstream).inc()
            log.warning("message.late", activation=live.id, upstream=live.upstream)
            return False
        self._show(live, fresh, shown)
        return bool(shown)

    def _fresh(self, live: Live, round_asked: int, messages: Sequence[Sms]) -> list[_New]:
        now = self._house.clock()
        found: dict[str, _New] = {}
        for sms in messages:
            plain = sms.identity or f"{round_asked}:{sms.code or sms.text}"
            identity = self._house.vault.index_digest(f"message:{live.id}", plain)
            if identity not in live.identities:
                code = clean_code(sms.code, sms.text)
                received_at = sms.received_at if sms.received_at is not None else now
                found[identity] = _New(identity, round_asked, code, sms.text or sms.code, received_at, sms.sender)
        return list(found.values())

    def _show(self, live: Live, fresh: Sequence[_New], shown: set[str]) -> None:
        is_first = not live.messages
        added = tuple(
            Shown(new.code, new.text, new.received_at, new.round, new.sender)
            for new in fresh
            if new.identity in shown and new.identity not in live.identities
        )
        live.identities.update(new.identity for new in fresh)
        if not added:
            return
        live.messages += added
        if live.status.is_open:
            live.status = Status.RECEIVED
        self._house.live.put(live)
        if is_first and not live.is_rental:
            self._house.health.delivered(live.upstream, live.country, live.service)
            self._house.bus.delivered((live.upstream, live.country, live.service), True)
        if is_first:
            self._house.metrics.count(live.product, live.upstream, "received")
        log.info("message.delivered", activation=live.id, upstream=live.upstream, is_first=is_first)

    async def _refresh(self, live: Live) -> Status:
        """Brings memory to what the database says: a commit whose answer was lost has changed it unnoticed."""
        before = (live.status, live.round, live.messages)
        known = await load(self._house.store, self._house.vault, live.id)
        if known is None or not live.status.is_open or (live.status, live.round, live.messages) != before:
            return live.status
        live.follow(known)
        live.expires_at, live.refundable_until = known.expires_at, known.refundable_until
        self._house.live.put(live)
        return live.status

    # What a caller asks for

    async def ready(self, caller: Caller, activation_id: int) -> Live:
        """ "I have triggered the SMS": nothing changes. Raises UnknownActivation, NotAllowedNow after the end."""
        live = await self.get(caller, activation_id)
        if not live.status.is_open:
            raise NotAllowedNow
        return live

    async def ask_again(self, caller: Caller, activation_id: int) -> Live:
        """Wants another SMS, free. Safe to repeat. Raises UnknownActivation, NotAllowedNow, Unavailable.

        From then on no process shows the code that was the newest before as if it were the new one.
        """
        live = await self.current(caller, activation_id)
        if live.status is not Status.RETRYING:
            await self._begin_round(live)
        await shown_everywhere(self._house)
        return live

    async def _begin_round(self, live: Live) -> None:
        """Raises NotAllowedNow, Unavailable."""
        if live.status is not Status.RECEIVED or live.is_over_upstream:
            raise NotAllowedNow
        reference = await self._ask_upstream_again(live)
        started_round = await self._start_round(live, reference)
        if started_round is not None:
            live.round = started_round
            live.status = Status.RETRYING
            live.go_on_under(reference or live.reference)
            self._house.live.put(live)
        # Somebody else's change came first: the same one is as good, any other is not.
        elif await self._refresh(live) is not Status.RETRYING:
            raise NotAllowedNow

    async def _ask_upstream_again(self, live: Live) -> str | None:
        """The reference under which the lease goes on, where that is another one. Raises NotAllowedNow, Unavailable."""
        upstream = self._house.upstreams.get(live.upstream)
        if not isinstance(upstream, AsksAgain):
            return None
        if isinstance(upstream, MovesLeases):
            return await self._ask_mover_again(upstream, live)
        try:
            return await self._asked_again(upstream, live)
        except (NotAllowed, UnknownLease):
            raise NotAllowedNow from None
        except (UpstreamError, TimeoutError):
            raise Unavailable from None

    async def _ask_mover_again(self, upstream: AsksAgain, live: Live) -> str | None:
        """As `_ask_upstream_again`, one process at a time, and not before what an earlier try made was looked for."""
        house, now = self._house, self._house.clock()
        until = now + 2 * house.settings.gateway.activations.cancel_deadline_seconds + RESENDING_EXTRA_SECONDS
        is_in_doubt = await house.store.run(moves.begin, live.id, until, now)
        if is_in_doubt is None:
            return None  # nor does the state allow a round
        try:
            made = await self._resent_before(upstream, live) if is_in_doubt else None
            return made or await self._asked_again(upstream, live)
        except (NotAllowed, UnknownLease):
            if is_in_doubt:
                # Perhaps because the earlier try came to something, which is not listed yet.
                await house.store.run(moves.leave_in_doubt, live.id, house.clock())
            else:
                await house.store.run(moves.refused, live.id)
            raise NotAllowedNow from None
        except (UpstreamError, TimeoutError):
            await house.store.run(moves.leave_in_doubt, live.id, house.clock())
            raise Unavailable from None

    async def _resent_before(self, upstream: AsksAgain, live: Live) -> str | None:
        """The order that a request for another SMS has made whose answer was lost, as far as it is listed."""
        if not isinstance(upstream, Finds):
            return None
        async with asyncio.timeout(self._house.settings.gateway.activations.cancel_deadline_seconds):
            found = await upstream.find(live.opened_at)
        same = [one for one in found if (one.service, one.lease.number) == (live.service, live.number)]
        unknown = await self._house.store.read(attempts.unknown_among, live.upstream, same)
        newest = max(unknown, key=lambda one: one.created_at or 0.0, default=None)
        return None if newest is None else newest.lease.reference

    async def _asked_again(self, upstream: AsksAgain, live: Live) -> str | None:
        async with asyncio.timeout(self._house.settings.gateway.activations.cancel_deadline_seconds):
            return await upstream.ask_again(live.reference)

    async def _start_round(self, live: Live, reference: str | None) -> int | None:
        """As `_retry`. Raises NotAllowedNow, Unavailable."""
        try:
            started_round = await self._house.store.run(_retry, live.id, reference, self._house.clock())
        except Conflict:
            log.warning("lease.not_moved", activation=live.id, upstream=live.upstream)
            await self._house.store.run(moves.refused, live.id)
            raise NotAllowedNow from None
        if reference is not None:
            log.info("lease.moved", activation=live.id, upstream=live.upstream)
        return started_round

    async def finish(self, caller: Caller, activation_id: int) -> Live:
        """Done with it; the upstream is told in the background. Safe to repeat. Raises as `ask_again`."""
        live = await self.get(caller, activation_id)
        if live.status is Status.WAITING:
            await self._hear_of(live)
        if live.status is Status.FINISHED:
            return live
        if live.status not in (Status.RECEIVED, Status.RETRYING):
            raise NotAllowedNow
        await self._finish(live)
        return live

    async def finish_rental(self, live: Live) -> None:
        """Ends an open rental, which is kept. Raises Unavailable, also while an extension is under way or in doubt."""
        await self._finish(live)

    async def _finish(self, live: Live, *, close: bool = True) -> None:
        now = self._house.clock()
        unit = _end
        if live.is_rental:
            unit = _finish_rental if close else _finish_rental_over_upstream
        outcome = Outcome.FINISHED if close else None
        if await self._house.store.run(unit, live.id, Status.FINISHED, outcome, now, now):
            self._ended(live, Status.FINISHED, now)
        else:
            await self._refresh(live)

    async def cancel(self, caller: Caller, activation_id: int, *, is_ban: bool = False) -> Live:
        """Gives the number back and releases the money. Safe to repeat.

        `is_ban` says that the number is of no use, which is remembered. Raises UnknownActivation, NotAllowedNow (a code
        is there), CancelTooEarly, Unavailable.
        """
        live = await self.current(caller, activation_id)
        if live.status in (Status.CANCELLED, Status.EXPIRED):
            return live
        if live.status is not Status.WAITING:
            raise NotAllowedNow
        if self._house.clock() - live.opened_at < self._house.settings.gateway.activations.early_cancel_seconds:
            raise CancelTooEarly
        await self.give_back(live, is_ban=is_ban)
        return live

    async def give_back(self, live: Live, *, is_ban: bool = False) -> None:
        """Cancels a waiting activation, whoever wants it. Raises NotAllowedNow, CancelTooEarly, Unavailable.

        A rental is given back only as long as its money can be had back, and Unavailable while an extension of it is
        under way or in doubt.
        """
        if live.status is not Status.WAITING or not _is_refundable(live, self._house.clock()):
            raise NotAllowedNow
        live.cancels_under_way += 1
        try:
            if live.is_rental:
                await self._give_back_rental(live)
            else:
                await self._give_back(live, is_ban=is_ban)
        finally:
            live.cancels_under_way -= 1

    async def _give_back_rental(self, live: Live) -> None:
        """As `_give_back`, while no process prolongs it, nor keeps it because its time to be given back is over."""
        house = self._house
        until = house.clock() + house.settings.gateway.activations.cancel_deadline_seconds + CANCELLING_EXTRA_SECONDS
        if not await house.store.run(attempts.begin_cancel, live.id, until):
            raise _Prolonging
        try:
            await self._give_back(live)
        finally:
            if live.status.is_open:
                with contextlib.suppress(Unavailable):
                    await house.store.run(attempts.end_cancel, live.id)

    async def _give_back(self, live: Live, *, is_ban: bool = False) -> None:
        house = self._house
        close_at = await self._ask_to_cancel(live)
        now = house.clock()
        cap = round(house.settings.gateway.activations.cancel_exposure * MICROS)
        outcome = Outcome.CANCELLED if close_at is not None else None
        if not await house.store.run(_cancel, live.id, outcome, close_at, now, cap, is_ban=is_ban):
            await self._refresh(live)
            if live.status in (Status.CANCELLED, Status.EXPIRED):
                return
            raise NotAllowedNow
        live.is_banned = is_ban
        self._ended(live, Status.CANCELLED, now)

    async def _ask_to_cancel(self, live: Live) -> float | None:
        """When to ask the upstream again; None where it has taken the number back.

        Raises NotAllowedNow, CancelTooEarly.
        """
        house = self._house
        upstream = house.upstreams.get(live.upstream)
        now = house.clock()
        if upstream is None:
            return now + refunds.PAUSE_SECONDS_MAX
        try:
            async with asyncio.timeout(house.settings.gateway.activations.cancel_deadline_seconds):
                await upstream.close(live.reference, Outcome.CANCELLED)
        except HasSms:
            await self.look(live)
            raise NotAllowedNow from None
        except TooEarly as error:
            stanza = house.stanza(live.upstream)
            if stanza is not None and stanza.early_cancel == "deny":
                raise CancelTooEarly from None
            # Upstreams tell the least age a lease has to have, so its age counts already.
            age = now - live.opened_at
            return now + max(2.0, (error.retry_seconds or 5.0) - age)
        except UnknownLease:
            return self._close_at(live, LeaseState.UNKNOWN)
        except NotAllowed:
            if live.is_rental:
                # There it is paid for, or over. What it says of itself decides.
                await self.look(live)
                raise NotAllowedNow from None
            return now  # asked again at once, and then whether it costs us
        except (UpstreamError, TimeoutError):
            return now + 2.0
        return None

    async def look(self, live: Live) -> bool:
        """Reads a lease now and brings in what is there; whether the upstream answered. Raises Unavailable."""
        round_asked, progress = live.round, await self._read(live)
        if progress is None:
            return False
        await self.take(live, round_asked, progress)
        return True

    async def _read(self, live: Live) -> Progress | None:
        """What the upstream says of a lease now; None where it does not answer."""
        upstream = self._house.upstreams.get(live.upstream)
        if upstream is None:
            return None
        try:
            async with asyncio.timeout(self._house.settings.gateway.activations.cancel_deadline_seconds):
                return await upstream.read(watched(live))
        except (UpstreamError, TimeoutError):
            return None

    # What time does

    async def expire(self, upstream: str | None = None) -> None:
        """Ends what is past its life, after one last look for a code: at one upstream, or at each. Raises Unavailable.

        Those of one that hangs keep no other's waiting.
        """
        now = self._house.clock()
        overdue = [live for live in self._open_at(upstream) if live.expires_at <= now]
        await self._do_each(overdue, "expire", self._expire_one)

    async def keep_rentals(self, upstream: str | None = None) -> None:
        """Keeps the money of rentals that can't be given back any more, after a look whether they are there still.

        As `expire`. Raises Unavailable.
        """
        now = self._house.clock()
        waiting = [live for live in self._open_at(upstream) if live.is_rental and live.status is Status.WAITING]
        due = [live for live in waiting if not live.is_kept and not _is_refundable(live, now)]
        await self._do_each(due, "keep", self._keep_one)

    def _open_at(self, upstream: str | None) -> Iterable[Live]:
        lives = self._house.live
        return lives.all_open() if upstream is None else lives.at_upstream(upstream).values()

    async def _do_each(self, lives: Sequence[Live], name: str, work: Callable[[Live], Awaitable[None]]) -> None:
        by_upstream = defaultdict[str, list[Live]](list)
        for live in lives:
            by_upstream[live.upstream].append(live)
        await asyncio.gather(*(_do_in_turn(some, name, work) for some in by_upstream.values()))

    async def _look_last(self, live: Live) -> None:
        """As `look`: an answer that nobody expected must not put off the end that comes next."""
        with apart(live, "last look"):
            await self.look(live)

    async def _keep_one(self, live: Live) -> None:
        if live.cancels_under_way:
            return  # one that is being given back right now was asked for in time
        if not live.is_over_upstream:
            await self._look_last(live)
        if live.status is Status.WAITING:
            await self._keep(live)

    async def _keep(self, live: Live) -> None:
        if live.is_kept or live.cancels_under_way:
            return
        if await self._house.store.run(attempts.keep, live.id, self._house.clock(), actor="time"):
            self._house.metrics.count(live.product, live.upstream, "kept")
            log.info("rental.kept", activation=live.id, upstream=live.upstream)
            live.refundable_until = 0.0
        else:
            await self._refresh(live)

    async def _end_rental_over_upstream(self, live: Live, state: LeaseState) -> None:
        """The upstream has ended it. What was not kept by then is given back, unless its time was used up there."""
        now = self._house.clock()
        is_used = state is LeaseState.FINISHED or now >= live.expires_at
        if live.status is Status.WAITING and is_used and not _is_refundable(live, now):
            await self._keep(live)
        if live.status is not Status.WAITING or live.is_kept:
            if live.status.is_open:
                await self._finish(live, close=False)
        elif is_used:
            await self._lapse_used(live, now)
        else:
            await self._end_without_code(live, self._close_at(live, state))

    async def _lapse_used(self, live: Live, now: float) -> None:
        if await self._house.store.run(_lose_waiting_rental, live.id, Status.EXPIRED, None, None, now):
            self._ended(live, Status.EXPIRED, now)
        else:
            await self._refresh(live)

    async def _expire_rental(self, live: Live) -> None:
        """At its end, unless that has moved, or is about to; what came last is looked for first."""
        if await self._house.store.read(attempts.is_prolonging, live.id):
            return  # settled before long, one way or the other
        if not live.is_over_upstream:
            await self._look_last(live)
        # An extension whose commit was lost may have moved the end, and only the database knows.
        await self._refresh(live)
        if live.status.is_open and live.expires_at <= self._house.clock():
            with contextlib.suppress(_Prolonging):
                await self._finish(live)

    async def _expire_one(self, live: Live) -> None:
        if live.is_rental:
            await self._expire_rental(live)
            return
        # Of an upstream that is left out the answer would be waited for in vain, and everybody else's end with it.
        if (
            live.status is Status.WAITING
            and not live.is_over_upstream
            and not self._house.health.is_open(live.upstream)
        ):
            await self._look_last(live)
        if live.status is Status.WAITING:
            await self._end_without_code(live, self._house.clock())
        elif live.status.is_open:
            await self._finish(live)

    async def _end_without_code(self, live: Live, close_at: float | None) -> None:
        """`close_at` is when the upstream is to take it back, None where it has."""
        now = self._house.clock()
        outcome = Outcome.CANCELLED if close_at is not None else None
        if await self._house.store.run(_end, live.id, Status.EXPIRED, outcome, close_at, now):
            self._ended(live, Status.EXPIRED, now)
        else:
            await self._refresh(live)

    def _ended(self, live: Live, status: Status, at: float) -> None:
        is_judged = status is not Status.FINISHED and at - live.opened_at >= JUDGED_AFTER_SECONDS
        if is_judged and not live.is_rental:
            self._house.health.undelivered(live.upstream, live.country, live.service)
            self._house.bus.delivered((live.upstream, live.country, live.service), False)
        live.status, live.ended_at = status, at
        self._house.live.put(live)
        self._house.metrics.count(live.product, live.upstream, status.value)
        log.info("activation.ended", activation=live.id, upstream=live.upstream, status=status.value)

    async def close_upstream(self, *, waits: bool = True) -> None:
        """Tells upstreams how leases ended, as far as it is time to. Raises Unavailable.

        Not waiting, it leaves an upstream that is still being told to it: one that hangs keeps nobody.
        """
        rows = await self._house.store.read(refunds.due, self._house.clock())
        stanzas = {row["upstream"]: self._house.stanza(row["upstream"]) for row in rows}
        for name, share in refunds.share(rows, stanzas).items():
            if name not in self._closing:
                self._closing[name] = task = asyncio.ensure_future(self._close_each(share))
                task.add_done_callback(partial(self._closed_each, name))
        if waits:
            await asyncio.gather(*self._closing.values())

    async def leave_upstreams(self, seconds: float) -> None:
        """At the stop: what is being told may take so long; the rest is told again by whoever comes next."""
        tasks = list(self._closing.values())
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _close_each(self, rows: Sequence[Row]) -> None:
        await asyncio.gather(*(self._close_one(row) for row in rows))

    def _closed_each(self, name: str, task: asyncio.Future[None]) -> None:
        self._closing.pop(name, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.info("close.failed", upstream=name, error=type(error).__name__)  # the next round tells it again

    async def _close_one(self, row: Row) -> None:
        house = self._house
        upstream, stanza = house.upstreams.get(row["upstream"]), house.stanza(row["upstream"])
        now = house.clock()
        window_end = refunds.window_ends_at(stanza, row)
        try:
            if upstream is None:
                raise Unwell("taken out of the configuration")
            with foreseen(row["id"], row["upstream"], "close"):
                await self._tell_end(upstream, row)
        except UpstreamError as error:
            now = house.clock()
            may_return = upstream is None and window_end is None and now - row["opened_at"] < refunds.GONE_SECONDS
            if may_return or not refunds.is_over(row, window_end, now):
                at = refunds.next_try_at(row, error, window_end, now)
                await house.store.run(_close_later, row["id"], row["reference"], at)
                return
            log.warning("close.given_up", activation=row["id"], upstream=row["upstream"], error=type(error).__name__)
            if row["product"] == Product.RENTAL or window_end is not None or isinstance(error, _Withheld):
                await self._lose(row, now)
        await house.store.run(_closed, row["id"], row["reference"])

    async def _lose(self, row: Row, now: float) -> None:
        """What was given back to its caller, and not to us, is the operator's loss, and said."""
        if await self._house.store.run(_lose_released, row["id"], now):
            self._house.losses.note(row["upstream"], Money(row["cost"], row["cost_currency"]), now)

    async def _tell_end(self, upstream: Upstream, row: Row) -> None:
        """As `Upstream.close`, or it is known what stands against that.

        Raises UpstreamError where it is to be told again, Unavailable.
        """
        try:
            await upstream.close(row["reference"], Outcome(row["close_outcome"]))
        except HasSms:
            await self._take_late(row)
        except (UnknownLease, NotAllowed) as error:
            log.info("close.refused", activation=row["id"], upstream=row["upstream"])
            if isinstance(error, NotAllowed) and await self._is_lost(upstream, row):
                await self._lose(row, self._house.clock())

    async def _take_late(self, row: Row) -> None:
        """A message that came after the caller was released is written down, not shown. Raises _Withheld."""
        live = self._house.live.get(row["id"]) or await load(self._house.store, self._house.vault, row["id"])
        if live is None:
            return
        is_read = False
        with apart(live, "late message", UpstreamError):
            round_asked, progress = live.round, await self._read(live)
            if progress is None or not progress.messages:
                # Also where it is denied or called finished just now: there is one, or it would have been taken back.
                raise _Withheld("the message that came late could not be read")
            await self.take(live, round_asked, progress)
            is_read = True
        if not is_read:
            await self._lose(row, self._house.clock())  # it is paid for, whatever it says

    async def _is_lost(self, upstream: Upstream, row: Row) -> bool:
        """Whether a lease whose caller was released is paid for all the same, and so is the operator's loss.

        Where the money of what has no code comes back by itself, only what the upstream says was used is.
        Raises Unwell where it says nothing, or denies what it has just refused to take back.
        """
        if row["close_outcome"] != Outcome.CANCELLED:
            return False
        window_end = refunds.window_ends_at(self._house.stanza(row["upstream"]), row)
        is_kept = row["product"] == Product.RENTAL or window_end is not None
        try:
            progress = await upstream.read(Watched(row["reference"], 1, row["service"], row["opened_at"]))
        except UpstreamError:
            if is_kept:
                return True
            raise Unwell("a cancel was refused, and why could not be read") from None
        if is_kept:
            return progress.state is not LeaseState.CANCELLED
        if progress.state is LeaseState.UNKNOWN:
            raise Unwell("a cancel was refused, and the number is unknown")
        return progress.state is LeaseState.FINISHED or bool(progress.messages)


def watched(live: Live) -> Watched:
    """What an adapter is told of a lease it shall read."""
    return Watched(live.reference, live.round, live.service, live.opened_at)


def _is_refundable(live: Live, now: float) -> bool:
    """Whether a waiting activation's money can be given back: a rental's only for a time."""
    return live.refundable_until is None or now < live.refundable_until


async def _do_in_turn(lives: Sequence[Live], name: str, work: Callable[[Live], Awaitable[None]]) -> None:
    async def do(live: Live) -> None:
        with apart(live, name):
            await work(live)

    for start in range(0, len(lives), EXPIRED_TOGETHER):
        await asyncio.gather(*map(do, lives[start : start + EXPIRED_TOGETHER]))


# Units of work


def _deliver(
    tx: Tx, vault: Vault, activation_id: int, known_round: int, fresh: Sequence[_New], at: float
) -> set[str] | None:
    """The identities that were new and are shown to the caller; None where the activation was over.

    Raises _OtherRound where an open one is in another round than is known.
    """
    # An update that changes nothing takes the row's lock: a cancel waits until this message is in, or is over already.
    row = tx.one(
        "update activations set round = round where id = :id"
        " returning account_id, status, round, upstream, cost, cost_currency",
        id=activation_id,
    )
    if row is None:
        return set()
    is_open = Status(row["status"]).is_open
    if is_open and row["round"] != known_round:
        raise _OtherRound
    written = {new.identity: _insert(tx, vault, activation_id, new, is_shown=is_open) for new in fresh}
    new_ids = {identity: message_id for identity, message_id in written.items() if message_id is not None}
    if not is_open:
        if new_ids and row["status"] != Status.FINISHED:
            _book_loss(tx, activation_id, row, at)
        return None if new_ids else set()
    if not new_ids:
        return set()
    tx.execute("update activations set status = 'received' where id = :id", id=activation_id)
    cost = Money(row["cost"], row["cost_currency"])
    ledger.capture(tx, activation_id, cost, row["upstream"], at, actor="delivery")
    fuse.received(tx, activation_id)
    for message_id in new_ids.values():
        _queue_notice(tx, row["account_id"], activation_id, message_id, at)
    return set(new_ids)


def _insert(tx: Tx, vault: Vault, activation_id: int, new: _New, *, is_shown: bool) -> int | None:
    row = tx.one(
        "insert into messages (activation_id, identity, round, code_sealed, text_sealed, sender_sealed, received_at,"
        " is_shown) values (:activation, :identity, :round, :code, :text, :sender, :at, :shown)"
        " on conflict (activation_id, identity) do nothing returning id",
        activation=activation_id, identity=new.identity, round=new.round, code=vault.seal(new.code),
        text=vault.seal(new.text), sender=vault.seal(new.sender) if new.sender else None, at=new.received_at,
        shown=int(is_shown),
    )  # fmt: skip
    return row["id"] if row is not None else None


def _queue_notice(tx: Tx, account_id: int, activation_id: int, message_id: int, at: float) -> None:
    """The outgoing notices, in the transaction of the delivery they tell of; none where no webhook is set.

    The account's form goes with its address, so what is written here holds only until it is sent.
    """
    tx.execute(
        "insert into notices (account_id, activation_id, message_id, format, state, next_at, created_at)"
        " select id, :activation, :message, coalesce(webhook_format, 'sms_activate'), 'pending', :at, :at from accounts"
        " where id = :account and webhook_url_sealed is not null",
        activation=activation_id,
        message=message_id,
        at=at,
        account=account_id,
    )
    # A rental may have an address of its own.
    tx.execute(
        "insert into notices (account_id, activation_id, message_id, format, state, next_at, created_at)"
        " select account_id, id, :message, 'rent', 'pending', :at, :at from activations"
        " where id = :activation and webhook_url_sealed is not null",
        activation=activation_id,
        message=message_id,
        at=at,
    )


def _lose_released(tx: Tx, activation_id: int, at: float) -> bool:
    """Books what was given back to its caller, and not to us; whether it was not booked before."""
    row = tx.one("select upstream, cost, cost_currency from activations where id = :id", id=activation_id)
    return row is not None and _book_loss(tx, activation_id, row, at)


def _lose_waiting_rental(
    tx: Tx, activation_id: int, status: Status, outcome: Outcome | None, close_at: float | None, at: float
) -> bool:
    """As `_end`, where the upstream takes its price all the same."""
    if not _end(tx, activation_id, status, outcome, close_at, at):
        return False
    _lose_released(tx, activation_id, at)
    return True


def _book_loss(tx: Tx, activation_id: int, row: Row, at: float) -> bool:
    # Its lock, so that two that find the loss at once book it once.
    tx.execute("update activations set round = round where id = :id", id=activation_id)
    booked = tx.one(
        "select 1 as x from ledger where activation_id = :id and kind in ('cost', 'loss')", id=activation_id
    )
    if booked is None:
        cost = Money(row["cost"], row["cost_currency"])
        ledger.spend(tx, "loss", cost, row["upstream"], at, activation=activation_id, actor="delivery")
    return booked is None


def _retry(tx: Tx, activation_id: int, reference: str | None, at: float) -> int | None:
    """The round that begins, its lease under another reference if need be; None where the state does not allow one.

    Raises Conflict where the reference is another activation's.
    """
    if reference is not None:
        moves.move(tx, activation_id, reference, at)
    row = tx.one(
        "update activations set status = 'retrying', round = round + 1, resend_until = null"
        " where id = :id and status = 'received' returning round",
        id=activation_id,
    )
    return None if row is None else int(row["round"])


def _finish_rental(
    tx: Tx, activation_id: int, status: Status, outcome: Outcome | None, close_at: float | None, at: float
) -> bool:
    """As `_end`: a rental can be finished while it waits, too, and is kept by that.

    Raises _Prolonging: more time that is being bought, or perhaps was, is not to be lost with it.
    """
    if attempts.lock_open_rental(tx, activation_id) is not None and attempts.is_prolonging(tx, activation_id):
        raise _Prolonging
    return _finish_rental_over_upstream(tx, activation_id, status, outcome, close_at, at)


def _finish_rental_over_upstream(
    tx: Tx, activation_id: int, status: Status, outcome: Outcome | None, close_at: float | None, at: float
) -> bool:
    """As `_finish_rental`, where there is nothing left to wait for."""
    attempts.keep(tx, activation_id, at, actor="finish")
    tx.execute(
        "update activations set status = 'received' where id = :id and product = 'rental' and status = 'waiting'",
        id=activation_id,
    )
    return _end(tx, activation_id, status, outcome, close_at, at)


_FROM = {
    Status.FINISHED: (Status.RECEIVED, Status.RETRYING),
    Status.EXPIRED: (Status.WAITING, Status.WAITING),
    Status.CANCELLED: (Status.WAITING, Status.WAITING),
}
"""Which states lead to an end."""


def _end(
    tx: Tx, activation_id: int, status: Status, outcome: Outcome | None, close_at: float | None, at: float
) -> bool:
    """Ends an activation, gives back its place and, without a code, its money; whether this call did it."""
    row = tx.one(
        "update activations set status = :status, ended_at = :at, close_outcome = :outcome, close_at = :close_at"
        " where id = :id and status in (:first, :second)"
        " and (:keeps = 1 or refundable_until is null or refundable_until <> 0) returning account_id",
        first=_FROM[status][0].value,
        second=_FROM[status][1].value,
        status=status.value,
        at=at,
        outcome=outcome.value if outcome else None,
        close_at=close_at if outcome else None,
        keeps=int(status is Status.FINISHED),
        id=activation_id,
    )
    if row is None:
        return False
    if status is not Status.FINISHED:
        ledger.release(tx, activation_id, at, actor="activation")
    ledger.leave(tx, row["account_id"], activation_id)
    if status is not Status.FINISHED:
        fuse.missed(tx, activation_id, at)
    return True


def _cancel(
    tx: Tx,
    activation_id: int,
    outcome: Outcome | None,
    close_at: float | None,
    at: float,
    exposure_max: int,
    *,
    is_ban: bool,
) -> bool:
    """As `_end`. Raises CancelTooEarly where the account's cancels not yet accepted upstream may cost too much."""
    ended = _end(tx, activation_id, Status.CANCELLED, outcome, close_at, at)
    if ended and is_ban:
        tx.execute("update activations set is_banned = 1 where id = :id", id=activation_id)
    if ended and outcome is not None:
        # Asked after the ending has locked the account's balance, so that parallel cancels are all counted.
        row = tx.one(
            "select coalesce(sum(price), 0) as exposed from activations where close_outcome = 'cancelled'"
            " and account_id = (select account_id from activations where id = :id)",
            id=activation_id,
        )
        if row is not None and int(row["exposed"]) > exposure_max:
            raise CancelTooEarly
    return ended


# A lease that moved while its former reference was being closed is yet to be closed under the new one.


def _close_later(tx: Tx, activation_id: int, reference: str, at: float) -> None:
    tx.execute(
        "update activations set close_at = :at, close_tries = close_tries + 1"
        " where id = :id and reference = :reference",
        at=at,
        id=activation_id,
        reference=reference,
    )


def _closed(tx: Tx, activation_id: int, reference: str) -> None:
    tx.execute(
        "update activations set close_outcome = null, close_at = null where id = :id and reference = :reference",
        id=activation_id,
        reference=reference,
    )
