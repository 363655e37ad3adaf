"""What a crash or a lost reply left behind: orders nobody is at work on, purchases in doubt, numbers that are nobody's.

Each is settled by its row and by what its upstream tells, in rounds, for as long as that takes. Until then what is in
doubt is out of routing, and what it may cost is shown and capped (`docs/decisions.md`).
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import structlog

from gateway import attempts, moves
from gateway.apart import foreseen, log_unexpected
from gateway.attempts import Intent
from gateway.errands import Errands
from gateway.errors import Unavailable, UnknownLease, Unwell, UpstreamError
from gateway.handovers import LEFT_BEHIND_SECONDS, Handovers
from gateway.house import House
from gateway.live import Live
from gateway.model import Found, LostExtension, Outcome, Product, Status, Watched
from gateway.money import MICROS, Money
from gateway.records import load
from gateway.refunds import DENIED_SECONDS
from gateway.store import Row
from gateway.upstream import Finds, MovesLeases, Upstream

STRANGER_SECONDS_MAX = 1800.0
"""How old an unknown open number may be to be looked for: beyond an upstream's own life there are none."""

STRANGER_SECONDS_MIN = 150.0
"""How old it has to be: a younger one may be the answer to a purchase under way, and clocks differ."""

ERRAND_SECONDS = 3.0
"""How long a round waits for what is to be done upstream; what takes longer goes on by itself."""

GIVEN_BACK_TOGETHER = 5
"""Orphans that one upstream is asked to take back at once."""

LAST_TRIES_SECONDS = 3.0
LAST_TRY_PAUSE_SECONDS = 0.25

DOUBTS, GIVE_BACK, STRANGERS = "doubts", "give_back", "strangers"
"""The kinds of errands."""

log = structlog.get_logger()


@dataclass(slots=True, eq=False)
class _Unwritten:
    """A lease in hand that no row names yet; `is_told` when the log has said that it can't be written."""

    activation_id: int
    attempt_id: int
    reference: str
    is_told: bool = False


class Settling:
    """Settles what is left behind. One per process."""

    def __init__(self, house: House, handovers: Handovers) -> None:
        self._house = house
        self._handovers = handovers
        self._own: set[int] = set()
        self._unwritten: list[_Unwritten] = []
        self._errands = Errands()
        self._one_round = asyncio.Lock()
        self.chores: set[asyncio.Task[None]] = set()
        """Work begun beside orders, for whoever stops the process to wait for."""

    @contextmanager
    def at_work(self, activation_id: int) -> Iterator[None]:
        """Meanwhile this process is at work on the order: it is not settled beside that."""
        self._own.add(activation_id)
        try:
            yield
        finally:
            self._own.discard(activation_id)

    async def recover(self) -> None:
        """At start: puts up for claim what nobody was told of, ends what was left behind. Raises Unavailable."""
        house = self._house
        if not house.is_shared:
            for row in await house.store.read(attempts.unanswered, house.clock(), house.clock()):
                live = house.live.get(row["id"])
                if live is not None and live.status is Status.WAITING:
                    self._handovers.abandon(live, row["fingerprint"])
            # The upstreams are asked by the first round of `settle`, beside the first clients.
            await self._give_up_left_behind(house.clock())
        forgotten = await house.store.run(
            attempts.doubt_forgotten, house.clock() - 2 * LEFT_BEHIND_SECONDS, house.clock()
        )
        if forgotten:
            log.warning("attempts.forgotten", attempts=forgotten)
        await self._block_doubtful()
        await self._show_exposure()  # the cap holds from the first order on

    async def settle(self, *, at_start: bool = False) -> None:
        """One round over what is unsettled: orders left behind, purchases in doubt, orphans. Raises Unavailable."""
        async with self._one_round:
            settled = await self._settle_all(at_start=at_start)
        given_back = await self._errands.wait(ERRAND_SECONDS, GIVE_BACK)
        await self._show_exposure()
        _raise_failure((*settled, *given_back))  # last: what failed at one upstream is not to keep the others

    async def watch(self) -> None:
        """What every process has to know of what is unsettled, whoever settles it. Raises Unavailable."""
        async with self._one_round:
            await self._write_down()
        await self._block_doubtful()
        await self._show_exposure()

    async def sweep_strangers(self) -> None:
        """Numbers open upstream that we know nothing of: cancelled where the account is ours alone, else counted.

        Raises Unavailable.
        """
        for name, upstream in self._house.upstreams.items():
            self._errands.begin(STRANGERS, name, partial(self._sweep, name, upstream))
        _raise_failure(await self._errands.wait(ERRAND_SECONDS, STRANGERS))

    def note_unwritten(self, intent: Intent, reference: str) -> None:
        """The lease is ours and could not be written: the next `settle` or `watch` that can writes it down."""
        self._unwritten.append(_Unwritten(intent.activation_id, intent.attempt_id, reference))

    async def let_go(self) -> None:
        """At the stop: writes down what only this process knows, for some seconds at most, and leaves the upstreams.

        What was to be done there is found again by whoever settles next.
        """
        until = time.monotonic() + LAST_TRIES_SECONDS
        while not await self._has_written_down():
            if time.monotonic() >= until:
                log.warning("stop.leases_unwritten", attempts=[lease.attempt_id for lease in self._unwritten])
                break
            await asyncio.sleep(LAST_TRY_PAUSE_SECONDS)
        await self._errands.drop()

    async def drain(self) -> None:
        """Waits for what was begun beside orders; for what is done upstream a moment only."""
        while self.chores:
            await asyncio.wait(self.chores)
        await self._errands.wait(ERRAND_SECONDS)

    def give_back_soon(self) -> None:
        """Gives back what belongs to nobody, beside the order that found it; `settle` repeats what fails."""
        task = asyncio.ensure_future(self._begin_giving_back())
        self.chores.add(task)
        task.add_done_callback(self.chores.discard)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def found_now(self, upstream: Upstream, asked_at: float, seconds: float) -> Sequence[Found]:
        """What it has had open since then, of which one may be the answer that was lost; nothing where it is not told.

        Raises Unavailable.
        """
        if not isinstance(upstream, Finds) or seconds <= 0:
            return ()
        try:
            async with asyncio.timeout(seconds):
                return await self._listed(upstream.name, upstream, asked_at - attempts.CLOCK_SKEW_SECONDS)
        except (UpstreamError, TimeoutError):
            return ()

    async def end_now(
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

    async def _settle_all(self, *, at_start: bool) -> Iterable[asyncio.Task[None]]:
        now = self._house.clock()
        await self._write_down()
        is_alone = at_start and not self._house.is_shared
        await self._give_up_left_behind(now if is_alone else now - LEFT_BEHIND_SECONDS)
        if self._house.is_shared:
            await self._handovers.put_up_left_behind()
        rows = await self._block_doubtful()
        mine: dict[str, list[Row]] = {}
        for row in rows:
            mine.setdefault(row["upstream"], []).append(row)
        for upstream, found in mine.items():
            self._errands.begin(DOUBTS, upstream, partial(self._settle_upstream, upstream, found))
        settled = await self._errands.wait(ERRAND_SECONDS, DOUBTS)
        if rows:
            await self._block_doubtful()
        await self._begin_giving_back()
        return settled

    async def _give_up_left_behind(self, before: float) -> None:
        """Ends orders opened before then that nobody is at work on: their process died, or could not write."""
        house = self._house
        for row in await house.store.read(attempts.left_behind, before):
            if row["id"] not in self._own and await house.store.run(attempts.give_up_order, row["id"], house.clock()):
                log.warning("order.left_behind", activation=row["id"])

    async def _block_doubtful(self) -> Sequence[Row]:
        """Takes what is in doubt out of routing, and only that; the attempts. Raises Unavailable."""
        rows = await self._house.store.read(attempts.unsettled)
        self._house.health.set_blocks(
            (row["upstream"], row["service"], row["country"], row["product"] == Product.RENTAL)
            for row in rows
            if row["product"] != Product.EXTENSION
        )
        return rows

    async def _write_down(self) -> None:
        """Leases whose row could not be written when they came: given back, or found written after all.

        One that is refused even so is tried again, and keeps no other. Raises Unavailable.
        """
        for lease in list(self._unwritten):
            try:
                await self._write_one_down(lease)
            except Unavailable:
                raise
            except Exception as error:
                if not lease.is_told:
                    log.warning("lease.unwritten", attempt=lease.attempt_id, error=type(error).__name__)
                lease.is_told = True
            else:
                self._unwritten.remove(lease)

    async def _write_one_down(self, lease: _Unwritten) -> None:
        house, activation_id = self._house, lease.activation_id
        # Only what is certain: whatever else came with it may be what could not be written.
        fingerprint = await house.store.run(
            attempts.orphan_unless_leased, activation_id, lease.attempt_id, lease.reference, house.clock()
        )
        live = await load(house.store, house.vault, activation_id) if fingerprint else None
        if live is not None:
            house.live.put(live)
            self._handovers.abandon(live, fingerprint)

    async def _has_written_down(self) -> bool:
        """Whether nothing is left that only this process knows."""
        if self._unwritten:
            try:
                async with self._one_round:
                    await self._write_down()
            except Unavailable:
                return False
        return not self._unwritten

    async def _settle_upstream(self, name: str, rows: Sequence[Row]) -> None:
        upstream = self._house.upstreams.get(name)
        if not rows:
            return
        found: Sequence[Found] | None = None
        since = [row["started_at"] for row in rows if row["product"] != Product.EXTENSION]
        if isinstance(upstream, Finds) and since:
            try:
                found = await self._listed(name, upstream, min(since) - attempts.CLOCK_SKEW_SECONDS)
            except Unavailable:
                raise
            except Exception as error:  # a list that can't be read settles nothing, and keeps nothing from growing old
                log.info("settle.unwell", upstream=name, error=type(error).__name__)
        for row in rows:
            # An order that is still under way asks for its own lost number, and may be about to adopt it.
            if row["activation_id"] in self._own or self._is_under_way_elsewhere(row):
                continue
            try:
                await self._settle_one(upstream, row, found)
            except Unavailable:
                raise
            except Exception as error:
                log_unexpected(row["activation_id"], name, "settle", error)

    async def _settle_one(self, upstream: Upstream | None, row: Row, found: Sequence[Found] | None) -> None:
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
            ends_at = await self.end_now(upstream, rental, lost, seconds)
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

    async def _begin_giving_back(self) -> None:
        for name in await self._house.store.read(attempts.orphaned_at):
            self._errands.begin(GIVE_BACK, name, partial(self._give_back_each, name))

    async def _give_back_each(self, name: str) -> None:
        """One upstream's orphans, each tried once."""
        last = 0
        while rows := await self._house.store.read(attempts.orphans, name, last, GIVEN_BACK_TOGETHER):
            await asyncio.gather(*map(self._give_back, rows))
            last = rows[-1]["id"]

    async def _give_back(self, row: Row) -> None:
        """Cancels a lease that belongs to nobody; what it cost where that fails for good is the operator's loss."""
        house = self._house
        upstream = house.upstreams.get(row["upstream"])
        try:
            if upstream is None:
                raise Unwell("taken out of the configuration")
            with foreseen(row["activation_id"], row["upstream"], "give back"):
                await upstream.close(row["reference"], Outcome.CANCELLED)
        except UnknownLease:
            if house.clock() - row["started_at"] < DENIED_SECONDS:
                return  # it may only not know of it yet
        except UpstreamError as error:
            if house.clock() - row["started_at"] < attempts.doubt_seconds(row):
                return
            log.warning("orphan.lost", upstream=row["upstream"], error=type(error).__name__)
            cost = Money(row["cost_max"], row["currency"])
            if await house.store.run(attempts.lose, row["id"], cost, row["upstream"], house.clock()):
                house.losses.note(row["upstream"], cost, house.clock())
            return
        await house.store.run(attempts.end, row["id"], "cancelled", "given back", house.clock(), row["reference"])

    async def _sweep(self, name: str, upstream: Upstream) -> None:
        house, now, stanza = self._house, self._house.clock(), self._house.stanza(name)
        if not isinstance(upstream, Finds) or stanza is None:
            return
        try:
            found = await self._listed(name, upstream, now - STRANGER_SECONDS_MAX, has_ended=False)
        except UpstreamError:
            return
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
        except Exception as error:  # whatever it is, the other strangers have their turn
            log.warning("stranger.kept", upstream=name, error=type(error).__name__)
        else:
            log.warning("stranger.cancelled", upstream=name)

    async def _show_exposure(self) -> None:
        gauges, rows = self._house.metrics, await self._house.store.read(attempts.exposures)
        gauges.in_doubt.clear()
        gauges.exposure.clear()
        totals: Counter[str] = Counter()
        for row in rows:
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


def _raise_failure(ended: Iterable[asyncio.Task[None]]) -> None:
    """Raises Unavailable where one of them did; what else they raised has been logged, and is tried again."""
    for task in ended:
        if isinstance(error := task.exception(), Unavailable):
            raise error
