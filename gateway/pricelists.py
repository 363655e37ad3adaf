"""Keeps the market's price lists new. Where several processes share the work, one of them reads a list for all.

That one is who holds the upstream's lease (`poll:NAME`, as for its messages). It leaves each list in Redis for the
others, with proof of where it comes from, under the settings it was made under: who runs with others does not find it.
All this only saves calls. A process whose list gets older than it should reads the upstream itself, whatever the
reason: Redis away or emptied, a holder that is gone, a list it can't trust. Nothing is ever sold from a list that is
too old, and what counts is when the upstream was read.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import structlog

from gateway import snapshots
from gateway.catalog import Catalog
from gateway.errors import UpstreamError
from gateway.house import House
from gateway.settings import Stanza
from gateway.shared_lists import Away, SharedLists
from gateway.snapshots import HEAD_BYTES, Head, Unusable
from gateway.upstream import KeptByUs, Learns, OfferTable, SellsByRule, Upstream

RETRY_SECONDS = 10.0
DEADLINE_SECONDS = 120.0
LOOK_SECONDS = 2.0
"""How often a process looks for a newer list without being told of one."""

BUSY_SECONDS = 0.5
"""How often, while another process reads the list that is missing here."""

PATIENCE_SECONDS = 120.0
"""How long another process's turn is respected: it saves calls, and must not leave anybody without a list."""

SKEW_SECONDS = 10.0
"""How far the clocks of two machines may differ before one does not believe the other's times."""

log = structlog.get_logger()


class Holds(Protocol):
    """Who does what: `leases.Leases`."""

    def holds(self, name: str, /) -> bool: ...


@dataclass(slots=True)
class _Slot:
    """What this process knows of the list of one `upstream`, as it is configured now, and of what lies at `place`."""

    upstream: Upstream
    place: str
    hint: asyncio.Event
    spread: float = field(default_factory=lambda: random.uniform(0.75, 1.0))
    """Drawn once: not every process finds at the same moment that a list is late."""

    fetched_at: float | None = None
    head: bytes = b""
    """Of the list in use."""

    refused: bytes = b""
    """Head of one that is not taken, so that it is not carried again and again."""

    retry_at: float = float("-inf")
    waits_since: float | None = None
    """Since when it would read, were it not another's turn."""

    is_unshared: bool = False


@dataclass(frozen=True, slots=True)
class _Subject:
    """An upstream as it is configured now, with what is known of its list."""

    name: str
    stanza: Stanza
    slot: _Slot

    @property
    def upstream(self) -> Upstream:
        return self.slot.upstream

    @property
    def place(self) -> str:
        return self.slot.place


class PriceLists:
    """One process's price lists. `on_read` is told of each that was read here, `shared` is None for who is alone."""

    def __init__(
        self,
        house: House,
        leases: Holds,
        on_read: Callable[[str, Upstream], None],
        shared: SharedLists | None = None,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self._house = house
        self._leases = leases
        self._on_read = on_read
        self._shared = shared
        self._ticks = ticks
        self._slots: dict[str, _Slot] = {}
        self._places: dict[str, tuple[Stanza, Catalog, str]] = {}

    def heard(self, name: str) -> None:
        """Another process says that there is something new of this upstream."""
        if name in self._slots:
            self._slots[name].hint.set()

    async def aclose(self) -> None:
        if self._shared is not None:
            await self._shared.aclose()

    async def round(self, name: str) -> float:
        """Brings in a newer list, then waits until there may be one again; seconds to the next round."""
        seconds = await self.refresh(name)
        if name not in self._slots:
            return seconds
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._slots[name].hint.wait()
        return 0.0

    async def refresh(self, name: str) -> float:
        """Brings in a newer list where there is one or it is time for one; seconds until it may be again."""
        house = self._house
        upstream, stanza = house.upstreams.get(name), house.stanza(name)
        if upstream is None or stanza is None:
            self._slots.pop(name, None)
            return RETRY_SECONDS
        if self._shared is None or not _is_sharable(upstream):
            self._slots.pop(name, None)
            return await self._alone(name, upstream, stanza)
        subject = _Subject(name, stanza, self._slot(name, upstream, stanza))
        subject.slot.hint.clear()
        await self._together(subject, self._shared)
        return self._pause_seconds(subject)

    async def take(self, name: str) -> bool:
        """Brings in the list the servers share, for a command; whether there was one."""
        upstream, stanza = self._house.upstreams[name], self._house.stanza(name)
        if self._shared is None or stanza is None or not _is_sharable(upstream):
            return False
        subject = _Subject(name, stanza, self._slot(name, upstream, stanza))
        await self._take(subject, self._shared)
        return subject.slot.fetched_at is not None

    # By itself

    async def _alone(self, name: str, upstream: Upstream, stanza: Stanza) -> float:
        table = await self._read(name, upstream)
        if table is None:
            return min(RETRY_SECONDS, stanza.offers_seconds)
        self._put(name, table, self._house.clock())
        self._on_read(name, upstream)
        return stanza.offers_seconds

    async def _read(self, name: str, upstream: Upstream) -> OfferTable | None:
        """The upstream's list; None where it could not be had, which is noted."""
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                table = await upstream.offers()
        except (UpstreamError, TimeoutError) as error:
            reason = str(error) or type(error).__name__
            self._house.market.failed(name, reason)
            log.warning("offers.failed", upstream=name, reason=reason)
            return None
        log.debug("offers.refreshed", upstream=name, rows=len(table))
        return table

    def _put(self, name: str, table: OfferTable, fetched_at: float) -> None:
        self._house.market.put(name, table, fetched_at)
        self._house.metrics.offers_at.labels(name).set(fetched_at)

    # Together

    async def _together(self, subject: _Subject, shared: SharedLists) -> None:
        slot = subject.slot
        await self._take(subject, shared)
        if self._due_seconds(subject) > 0:
            slot.waits_since = None
            return
        async with shared.turn(slot.place) as is_mine:
            if not is_mine and not self._is_out_of_patience(subject):
                return
            slot.waits_since = None
            await self._take(subject, shared)  # perhaps somebody has read it just before
            if self._due_seconds(subject) <= 0:
                await self._read_for_all(subject, shared)

    async def _read_for_all(self, subject: _Subject, shared: SharedLists) -> None:
        name, stanza, slot = subject.name, subject.stanza, subject.slot
        table = await self._read(name, subject.upstream)
        if not self._is_current(subject):
            return  # made under settings that are no longer in force
        if table is None:
            slot.retry_at = self._ticks() + self._retry_seconds(subject)
            await self._tell_trouble(subject, shared)
            return
        slot.fetched_at = self._house.clock()
        self._put(name, table, slot.fetched_at)
        self._on_read(name, subject.upstream)
        knowledge = subject.upstream.knowledge() if isinstance(subject.upstream, Learns) else {}
        data = await asyncio.to_thread(
            snapshots.seal, table, knowledge, slot.fetched_at, lambda head: self._proof(slot.place, head)
        )
        slot.head = data[:HEAD_BYTES]
        try:
            await shared.put(slot.place, data, stanza.offers_max_age_seconds)
        except Away as error:
            self._note_sharing(subject, str(error))
        else:
            self._note_sharing(subject, "")
            self._house.bus.listed(name)

    async def _tell_trouble(self, subject: _Subject, shared: SharedLists) -> None:
        _, _, reason = self._house.market.list_of(subject.name)
        said = snapshots.seal_trouble(reason, self._house.clock(), lambda words: self._proof(subject.place, words))
        try:
            await shared.note(subject.place, said, subject.stanza.offers_max_age_seconds)
        except Away as error:
            self._note_sharing(subject, str(error))
        else:
            self._house.bus.listed(subject.name)

    def _note_sharing(self, subject: _Subject, trouble: str) -> None:
        """Says once that what is read here does not get to the others, or does again."""
        if bool(trouble) is not subject.slot.is_unshared:
            subject.slot.is_unshared = bool(trouble)
            if trouble:
                log.warning("offers.not_shared", upstream=subject.name, error=trouble)
            else:
                log.info("offers.shared_again", upstream=subject.name)

    async def _take(self, subject: _Subject, shared: SharedLists) -> None:
        """Brings in what another process has read, where that is newer."""
        try:
            raw, trouble = await shared.look(subject.place)
            head = self._wanted(subject, raw)
            data = await shared.fetch(subject.place, head.total_bytes) if head is not None else b""
        except Away:
            return
        if head is not None and data[:HEAD_BYTES] != head.raw:
            subject.slot.hint.set()  # replaced in between
        elif head is not None:
            await self._unpack(subject, head, data[HEAD_BYTES:])
        self._hear_trouble(subject, trouble)

    def _wanted(self, subject: _Subject, raw: bytes) -> Head | None:
        """The head of a list that is newer than the one in use, and may be sold from."""
        slot = subject.slot
        if not raw or raw in (slot.head, slot.refused):
            return None
        try:
            head = snapshots.read_head(raw, lambda words: self._proof(slot.place, words))
        except Unusable as error:
            self._refuse(subject, raw, error)
            return None
        age, mine = self._house.clock() - head.fetched_at, self._age_seconds(slot)
        is_newer = mine is None or age < mine
        return head if is_newer and -SKEW_SECONDS <= age <= subject.stanza.offers_max_age_seconds else None

    async def _unpack(self, subject: _Subject, head: Head, body: bytes) -> None:
        name, slot = subject.name, subject.slot
        try:
            table, knowledge = await asyncio.to_thread(snapshots.unpack, head, body, name, subject.stanza.currency)
            if not self._is_current(subject):
                return
            _teach(subject.upstream, knowledge)
        except Unusable as error:
            self._refuse(subject, head.raw, error)
            return
        slot.head = head.raw
        slot.fetched_at = min(head.fetched_at, self._house.clock())
        self._put(name, table, slot.fetched_at)
        log.debug("offers.taken", upstream=name, rows=len(table))

    def _refuse(self, subject: _Subject, raw: bytes, error: Unusable) -> None:
        subject.slot.refused = raw
        log.warning("offers.refused", upstream=subject.name, reason=str(error))

    def _hear_trouble(self, subject: _Subject, said: bytes) -> None:
        """Why the one who reads for all has no newer list."""
        if not said:
            return
        try:
            reason, at = snapshots.read_trouble(said, lambda words: self._proof(subject.place, words))
        except Unusable:
            return
        market = self._house.market
        if at > (subject.slot.fetched_at or 0.0) and reason != market.list_of(subject.name)[2]:
            market.failed(subject.name, reason)

    # When

    def _pause_seconds(self, subject: _Subject) -> float:
        return min(max(self._due_seconds(subject), BUSY_SECONDS), LOOK_SECONDS)

    def _due_seconds(self, subject: _Subject) -> float:
        """How long until this process has to read the upstream itself; not above 0 where it has to now."""
        slot, stanza = subject.slot, subject.stanza
        retry_seconds, age = slot.retry_at - self._ticks(), self._age_seconds(slot)
        if age is None:
            return retry_seconds
        limit = stanza.offers_seconds if self._reads(subject.name) else _late_seconds(stanza, slot.spread)
        return max(limit - age, retry_seconds)

    def _age_seconds(self, slot: _Slot) -> float | None:
        """Of the list in use; None where there is none, or the clock was set back and nobody knows."""
        age = None if slot.fetched_at is None else self._house.clock() - slot.fetched_at
        return None if age is None or age < -SKEW_SECONDS else age

    def _retry_seconds(self, subject: _Subject) -> float:
        """Whoever has something to sell and is only late leaves the trying to the one who reads for all."""
        is_pressed = subject.slot.fetched_at is None or self._reads(subject.name)
        return min(RETRY_SECONDS, subject.stanza.offers_seconds) if is_pressed else subject.stanza.offers_seconds

    def _reads(self, name: str) -> bool:
        return self._leases.holds(f"poll:{name}")

    def _is_out_of_patience(self, subject: _Subject) -> bool:
        now, slot = self._ticks(), subject.slot
        if slot.waits_since is None:
            slot.waits_since = now
        return now - slot.waits_since >= min(PATIENCE_SECONDS, subject.stanza.offers_max_age_seconds / 4)

    # Under which settings

    def _slot(self, name: str, upstream: Upstream, stanza: Stanza) -> _Slot:
        """Begun anew where the settings have changed: what was known says nothing then, and an adapter that was built
        anew has to be taught anew."""
        place, slot = self._place(name, stanza), self._slots.get(name)
        if slot is None or slot.place != place or slot.upstream is not upstream:
            slot = _Slot(upstream, place, slot.hint if slot is not None else asyncio.Event())
            self._slots[name] = slot
        return slot

    def _is_current(self, subject: _Subject) -> bool:
        stanza = self._house.stanza(subject.name)
        is_same = self._house.upstreams.get(subject.name) is subject.upstream
        return is_same and stanza is not None and self._place(subject.name, stanza) == subject.place

    def _place(self, name: str, stanza: Stanza) -> str:
        """The upstream's name, and a digest of everything its list depends on; our account there is part of that."""
        catalog = self._house.settings.catalog
        known = self._places.get(name)
        if known is None or known[0] is not stanza or known[1] is not catalog:
            digest = self._house.vault.index_digest("price list", _made_under(name, stanza, catalog))
            known = self._places[name] = (stanza, catalog, f"{name}:{digest.rpartition(':')[2][:32]}")
        return known[2]

    def _proof(self, place: str, words: bytes) -> bytes:
        digest = self._house.vault.index_digest("proof of a price list", f"{place}:{words.hex()}")
        return bytes.fromhex(digest.rpartition(":")[2])


def _is_sharable(upstream: Upstream) -> bool:
    """What is made up or read from our own database costs nobody anything."""
    return not isinstance(upstream, SellsByRule | KeptByUs)


def _late_seconds(stanza: Stanza, spread: float) -> float:
    """The age at which a list is read by whoever notices: about twice the usual, and well before it is too old."""
    usual = stanza.offers_seconds
    slack = min(usual, max(0.0, stanza.offers_max_age_seconds - usual) / 2)
    return usual + slack * spread


def _teach(upstream: Upstream, knowledge: Mapping[str, Any]) -> None:
    """Raises Unusable."""
    if not isinstance(upstream, Learns):
        return
    try:
        upstream.learn(knowledge)
        return
    except (ValueError, TypeError, KeyError):
        pass
    raise Unusable("knowledge of another kind")


def _made_under(name: str, stanza: Stanza, catalog: Catalog) -> str:
    names = (dict(catalog.service_names), dict(catalog.country_iso2), dict(catalog.country_prefix))
    keys = (stanza.adapter, stanza.currency, dict(stanza.options), stanza.secret, dict(stanza.secrets))
    return json.dumps([snapshots.FORMAT, sys.byteorder, name, *keys, *names], sort_keys=True, default=str)
