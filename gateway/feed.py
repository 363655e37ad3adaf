"""What other processes changed, brought into this one's map of live activations, so that a poll needs no look-up.

The database stamps every change of an activation with its transaction (`activations.changed`). Whoever remembers below
which number every transaction was over has to read only what is stamped with that number or a later one: nothing is
missed, however long a commit takes. Hints of other processes (`bus`) make that happen at once; without them it happens
twice a second, for all activations in one query.

What a process knows is good for `FRESH_SECONDS` after it looked, and no code is shown from memory that is older. So
whoever waits that long after a commit, or until every other process says that it has looked, knows that what was
before is shown nowhere.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence

import structlog

from gateway.apart import log_unexpected
from gateway.bus import Bus
from gateway.database import serving_processes
from gateway.errors import Unavailable
from gateway.house import House
from gateway.live import Live
from gateway.records import load_many
from gateway.store import Row, Tx

LOOK_SECONDS = 0.5
FRESH_SECONDS = 0.75
"""How long after it looked a process shows codes from memory: the time between two looks, and what a slow one takes."""

PAUSE_SECONDS = 0.02
"""Between two looks: what changes meanwhile is read together."""

ASKED_SECONDS = 1.0
LOADED_TOGETHER = 200
HELD_UP_ROWS = 500

log = structlog.get_logger()

Offer = Callable[[Live, str, float | None], None]
"""Told of an open activation that waits for whoever repeats its request, with the request's fingerprint and until when;
of one that does no longer with None."""


class Feed:
    """Keeps one process's map up to date."""

    def __init__(self, house: House, bus: Bus, offer: Offer) -> None:
        self._house = house
        self._bus = bus
        self._offer = offer
        self._since = ""
        self._told_at = house.clock()
        self._is_held_up = False
        """Whether a long transaction, perhaps somebody else's, makes each look read the same again."""

        self._paused_seconds = 0.0
        self._turn = asyncio.Lock()
        self._next: asyncio.Task[None] | None = None
        house.live.catch_up = self.catch_up

    async def begin(self) -> None:
        """Before the map is filled: what changes from now on is followed. Raises Unavailable."""
        await self._house.store.run(_restamp)
        began = time.monotonic()
        self._since = await self._house.store.read(_horizon)
        self._house.live.fresh_until = began + FRESH_SECONDS

    async def round(self) -> float:
        """Waits for a hint, or a moment, and brings in what changed. Raises Unavailable."""
        try:
            async with asyncio.timeout(LOOK_SECONDS - self._paused_seconds):
                await self._bus.heard.wait()
        except TimeoutError:
            pass
        self._bus.heard.clear()
        await self.catch_up()
        self._paused_seconds = LOOK_SECONDS if self._is_held_up else PAUSE_SECONDS
        return self._paused_seconds

    async def catch_up(self) -> None:
        """Returns after a look that began no sooner than this was called. Raises Unavailable.

        However many wait for that, there is one look at a time.
        """
        if self._next is None:
            self._next = asyncio.create_task(self._look_next(), name="look")
            self._next.add_done_callback(lambda look: look.cancelled() or look.exception())
        await asyncio.shield(self._next)

    async def _look_next(self) -> None:
        async with self._turn:
            self._next = None  # for whoever comes from now on, this one begins too early
            began = time.monotonic()
            await self._look()
            self._house.live.fresh_until = began + FRESH_SECONDS

    async def _look(self) -> None:
        """Brings in what changed since the last look. Raises Unavailable."""
        house = self._house
        horizon, rows = await house.store.read(_changed, self._since)
        news = [row["id"] for row in rows if self._is_news(row)]
        for start in range(0, len(news), LOADED_TOGETHER):
            for known in await self._load(news[start : start + LOADED_TOGETHER]):
                self._bring_in(known)
        for row in rows:
            live = house.live.get(row["id"])
            if live is not None:
                is_up = row["claim_until"] is not None and row["answered"] == 0
                self._offer(live, row["fingerprint"], row["claim_until"] if is_up else None)
        self._is_held_up = horizon == self._since and len(rows) > HELD_UP_ROWS
        self._since = horizon

    async def _load(self, ids: Sequence[int]) -> Sequence[Live]:
        """Those of them that can be read: one that can't keeps no other from being known. Raises Unavailable."""
        house = self._house
        try:
            return await load_many(house.store, house.vault, ids)
        except Unavailable:
            raise
        except Exception as error:
            if len(ids) == 1:
                log_unexpected(ids[0], "", "follow", error)
                return []
        return [live for one in ids for live in await self._load([one])]

    def _is_news(self, row: Row) -> bool:
        live = self._house.live.get(row["id"])
        if live is None:
            return row["ended_at"] is None
        if (row["ended_at"] is not None, row["round"], row["messages"]) > _progress(live):
            return True
        is_kept = row["refundable_until"] == 0 and live.refundable_until != 0
        return is_kept or (row["expires_at"] or 0.0) > live.expires_at

    def _bring_in(self, known: Live) -> None:
        """What the database had may be older than what this process has done since: it only ever moves on."""
        lives = self._house.live
        live = lives.get(known.id)
        if live is None:
            if known.status.is_open:
                lives.place(known)
            return
        live.expires_at = max(live.expires_at, known.expires_at)
        if known.refundable_until == 0:
            live.refundable_until = known.refundable_until
        if _progress(known) <= _progress(live):
            return
        live.follow(known)
        lives.place(live)

    # What this process's clients ask for

    async def tell_asked(self) -> float:
        """Tells whoever reads the upstreams which activations clients wait for here: those are read first."""
        since, self._told_at = self._told_at, self._house.clock()
        asked = [live.id for live in self._house.live.all_open() if live.polled_at >= since]
        if asked:
            self._bus.asked(asked)
        return ASKED_SECONDS


async def shown_everywhere(house: House) -> None:
    """Returns once no process shows a code any more that was the newest before what is committed by now.

    Each other process is asked to look, and says when it has. One that can't be asked, or does not answer, is waited
    for until it shows nothing from memory without having looked by itself.
    """
    if not house.is_shared:
        return
    until = time.monotonic() + FRESH_SECONDS
    try:
        processes = await house.store.read(serving_processes)
        if await house.bus.ask_to_look(processes, until - time.monotonic()):
            return
    except Unavailable:
        pass  # it is not known whom to ask
    await asyncio.sleep(until - time.monotonic())


async def has_looked(house: House) -> bool:
    """Another process wants this one to know what is committed by now; whether it does."""
    try:
        await house.live.catch_up()
    except Unavailable:
        return False
    except Exception:
        log.exception("feed.failed")
        return False
    return True


def take_asked(house: House, ids: Iterable[int]) -> None:
    """Clients of another process have asked for these."""
    now = house.clock()
    for activation_id in ids:
        live = house.live.get(activation_id)
        if live is not None:
            live.asked_elsewhere_at = now


def _progress(live: Live) -> tuple[bool, int, int]:
    """Grows with everything that happens to an activation: it ends once, its rounds and its messages add up."""
    return not live.status.is_open, live.round, len(live.messages)


# Units of work, on PostgreSQL


def _horizon(tx: Tx) -> str:
    """The first transaction that may not be over yet."""
    row = tx.one("select pg_snapshot_xmin(pg_current_snapshot())::text as horizon")
    return str(row["horizon"]) if row is not None else "0"


def _restamp(tx: Tx) -> None:
    """After a restore into another cluster, whose transactions count from lower numbers: nothing is of the future."""
    tx.execute("update activations set round = round where changed >= pg_current_xact_id()")


def _changed(tx: Tx, since: str) -> tuple[str, Sequence[Row]]:
    """Activations changed by transactions from `since` on, and where to begin the next time."""
    return _horizon(tx), tx.all(
        "select a.id, a.round, a.ended_at, a.expires_at, a.refundable_until, a.claim_until, a.answered, a.fingerprint,"
        " (select count(*) from messages m where m.activation_id = a.id and m.is_shown = 1) as messages"
        " from activations a where a.changed >= :since::xid8 and a.status <> 'opening' and a.product <> 'extension'",
        since=since,
    )
