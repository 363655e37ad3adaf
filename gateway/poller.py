"""Reads all open leases of one upstream, so that no client's poll ever has to."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Protocol, cast

import structlog

from gateway.activations import Activations, watched
from gateway.apart import apart, named
from gateway.errors import UpstreamError
from gateway.house import House
from gateway.live import Live
from gateway.model import Progress, Status, Watched
from gateway.upstream import ReadsMany, Upstream

CALLS_PER_SECOND = 10.0
"""Default of `status_calls_per_second`."""

PAGES_PAUSE_SECONDS = 2.4
"""Least time between two readings of a list that has several pages: it grows with what is open, the wait need not."""

PACED_SECONDS_MAX = 10.0
READ_SECONDS = 10.0
RENTAL_YOUNG_SECONDS = 1200.0
RENTAL_YOUNG_PAUSE_SECONDS = 5.0
RENTAL_OLD_PAUSE_SECONDS = 30.0
YOUNG_SECONDS = 120.0
YOUNG_PAUSE_SECONDS = 2.0
OLD_PAUSE_SECONDS = 6.0
ABANDONED_SECONDS = 60.0
ABANDONED_FACTOR = 4.0
SINGLES_AFTER_BULK = 10
"""Leases missing from a list are asked for one by one, this many a round."""

log = structlog.get_logger()


class _Reads(ReadsMany, Upstream, Protocol):
    """An upstream that reads many: what the check for the ability leaves."""


class Poller:
    """One per upstream. `sweep` is one round; the pause after it keeps the rate of calls."""

    def __init__(self, house: House, activations: Activations, name: str) -> None:
        self._house = house
        self._activations = activations
        self._name = name
        self._trouble = ""
        self._list_trouble = ""

    async def sweep(self) -> float:
        """Reads what is due and brings it in; how many seconds to wait before the next round. Raises Unavailable."""
        house = self._house
        upstream, stanza = house.upstreams.get(self._name), house.stanza(self._name)
        if upstream is None or stanza is None:
            return 1.0
        started, calls_before = house.clock(), house.status_calls[self._name]
        is_bulk = isinstance(upstream, ReadsMany)
        rate = stanza.status_calls_per_second or CALLS_PER_SECOND
        # A rental may have hundreds of messages, and each reading brings them all: not more often than it is due.
        lives = [
            live
            for live in house.live.at_upstream(self._name).values()
            if not live.is_over_upstream and (not live.is_rental or _overdue(live, started) >= 1.0)
        ]
        try:
            if isinstance(upstream, ReadsMany):
                await self._read_list(cast(_Reads, upstream), lives)
            else:
                await self._read_each(upstream, self._due(lives, max(1, int(rate * stanza.poll_seconds))))
            self._well()
        except (UpstreamError, TimeoutError) as error:
            self._unwell(error)
        calls = house.status_calls[self._name] - calls_before
        least = PAGES_PAUSE_SECONDS if is_bulk and calls > 1 else 0.0
        # Looks that pushes caused count among the calls, and must not keep the poller away for long.
        paced = min(calls / rate, PACED_SECONDS_MAX)
        return max(0.05, max(stanza.poll_seconds, paced, least) - (house.clock() - started))

    async def _read_list(self, upstream: _Reads, lives: Sequence[Live]) -> None:
        if not lives:
            return
        rounds = {live.id: live.round for live in lives}
        asked = [watched(live) for live in lives]
        found = await self._listed(upstream, asked)
        for live in lives:
            progress = found.get(live.reference)
            if progress is not None:
                live.read_at = self._house.clock()
                with apart(live, "poll"):
                    await self._activations.take(live, rounds[live.id], progress)
        missing = [live for live in lives if live.reference not in found]
        await self._read_each(upstream, self._due(missing, SINGLES_AFTER_BULK))

    async def _listed(self, upstream: _Reads, asked: Sequence[Watched]) -> Mapping[str, Progress]:
        """What its list shows; nothing where one odd row made reading it fail, and so each is read singly.

        Raises UpstreamError, TimeoutError.
        """
        try:
            async with asyncio.timeout(READ_SECONDS * 3):
                found = await upstream.read_many(asked)
        except (UpstreamError, TimeoutError):
            raise
        except Exception as error:
            self._unexpected(error)
            return {}
        self._list_trouble = ""
        return found

    def _unexpected(self, error: Exception) -> None:
        kind, place = named(error)
        if self._list_trouble != place:
            log.error("poll.unexpected", upstream=self._name, error=kind, at=place)
            self._list_trouble = place

    def _due(self, lives: Sequence[Live], most: int) -> list[Live]:
        """Who waits for a message, the most overdue first: young and recently polled ones are due sooner.

        A rental waits as long as it lasts.
        """
        now = self._house.clock()
        waiting = [live for live in lives if live.is_rental or live.status in (Status.WAITING, Status.RETRYING)]
        scored = [(_overdue(live, now), live) for live in waiting]
        due = sorted((pair for pair in scored if pair[0] >= 1.0), key=lambda pair: -pair[0])
        return [live for _, live in due[:most]]

    async def _read_each(self, upstream: Upstream, lives: Sequence[Live]) -> None:
        results = await asyncio.gather(*(self._read_one(upstream, live) for live in lives), return_exceptions=True)
        errors = [result for result in results if isinstance(result, BaseException)]
        if errors:
            raise errors[0]

    async def _read_one(self, upstream: Upstream, live: Live) -> None:
        round_asked, live.read_at = live.round, self._house.clock()
        with apart(live, "poll", UpstreamError, TimeoutError):
            async with asyncio.timeout(READ_SECONDS):
                progress = await upstream.read(watched(live))
            await self._activations.take(live, round_asked, progress)

    def _well(self) -> None:
        if self._trouble:
            log.info("poll.well_again", upstream=self._name)
            self._trouble = ""

    def _unwell(self, error: Exception) -> None:
        """Counted every time, told once per change."""
        reason = f"{type(error).__name__}: {error}"
        if not (isinstance(error, UpstreamError) and error.is_local):
            self._house.health.fault(self._name, reason)
        if reason != self._trouble:
            log.warning("poll.unwell", upstream=self._name, reason=reason)
            self._trouble = reason


def _overdue(live: Live, now: float) -> float:
    """How long ago it was read, in pauses: from 1 on it is due."""
    return (now - live.read_at) / _pause(live, now)


def _pause(live: Live, now: float) -> float:
    if live.is_rental:
        asked_at = max(live.polled_at, live.asked_elsewhere_at)
        is_young = now - live.opened_at < RENTAL_YOUNG_SECONDS or now - asked_at <= ABANDONED_SECONDS
        return RENTAL_YOUNG_PAUSE_SECONDS if is_young else RENTAL_OLD_PAUSE_SECONDS
    pause = YOUNG_PAUSE_SECONDS if now - live.opened_at < YOUNG_SECONDS else OLD_PAUSE_SECONDS
    last_asked = max(live.polled_at, live.asked_elsewhere_at, live.opened_at)
    return pause * ABANDONED_FACTOR if now - last_asked > ABANDONED_SECONDS else pause
