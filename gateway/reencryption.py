"""Sealing anew: after DATA_ENCRYPTION_KEYS got a new first key, everything older is brought under it, bit by bit.

Every place (a column of a table) is gone through once, by id; how far it has come is written with each batch, so that
a crash costs nothing. A value is only replaced where it is still the one that was read. Once all places are through,
the older keys are struck out and may be taken off the ring.

It begins when nobody has sealed under an older key for two minutes: what such a process writes would be missed.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from gateway import keyring
from gateway.keyring import PLACES
from gateway.metrics import Metrics
from gateway.model import Clock
from gateway.store import Row, Store, Tx
from gateway.vault import SecretsError, Vault

BATCH = 200
SPAN = 20_000
"""Rows looked through by one statement."""

PAUSE_SECONDS = 0.05
"""Between two batches: whoever buys meanwhile does not wait behind all of them."""

IDLE_SECONDS = 30.0

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Batch:
    """Values of one place, as they are and as they shall be. `after` is where it began, `last` where it ended."""

    after: int
    last: int
    changes: Sequence[tuple[int, str, str]]
    unreadable: int
    is_last: bool


def name_of(table: str, column: str) -> str:
    return f"{table}.{column}"


class Resealer:
    """One per process that works; several at once do each other no harm."""

    def __init__(self, store: Store, vault: Vault, clock: Clock, metrics: Metrics | None = None) -> None:
        self._store = store
        self._vault = vault
        self._clock = clock
        self._metrics = metrics
        self._noted_at = float("-inf")

    async def round(self) -> float:
        """One batch, if there is something to do; seconds until the next. Raises Unavailable."""
        newest, now = self._vault.fingerprints[0], self._clock()
        if now - self._noted_at >= keyring.NOTE_SECONDS:
            await self._store.run(keyring.note_use, newest, now)
            self._noted_at = now
        keys = await self._store.read(keyring.in_use)
        if self._metrics is not None:
            self._metrics.sealing_keys.set(len(keys))
        if len(keys) < 2:
            self._show_left(0)
            return IDLE_SECONDS
        if now < await self.busy_until():
            self._show_left(len(PLACES))
            return IDLE_SECONDS
        return PAUSE_SECONDS if await self.step() else 0.0

    async def busy_until(self) -> float:
        """From when on sealing anew can begin. Raises Unavailable."""
        return await self._store.read(keyring.busy_until, self._vault.fingerprints[0])

    async def step(self) -> bool:
        """Seals one batch anew; False once there is nothing left, and older keys were struck out."""
        newest, now = self._vault.fingerprints[0], self._clock()
        place = await self._store.run(_current, newest, now)
        left = await self._store.read(_left, newest)
        self._show_left(left)
        if place is None:
            await self._store.run(_finish, newest)
            log.info("secrets.resealed", newest=newest)
            return False
        rows, after = await self._store.read(_values, place, newest)
        batch = await asyncio.to_thread(_resealed, self._vault, rows, after)
        await self._store.run(_write, place, newest, batch, now)
        if self._metrics is not None:
            self._metrics.resealed.inc(len(batch.changes))
        if batch.unreadable:
            log.error("secrets.unreadable", place=name_of(*place), values=batch.unreadable)
        return True

    def _show_left(self, places: int) -> None:
        if self._metrics is not None:
            self._metrics.resealing_places.set(places)


async def census(store: Store, vault: Vault) -> Counter[str]:
    """How many values are sealed under which key, by fingerprint; empty for those that none of the ring opens.

    Reads everything there is, batch by batch. Raises Unavailable.
    """
    found: Counter[str] = Counter()
    for place in PLACES:
        after = 0
        while rows := await store.read(_after, place, after):
            found.update(await asyncio.to_thread(_owners, vault, rows))
            after = rows[-1]["id"]
    return found


def _owners(vault: Vault, rows: Sequence[Row]) -> list[str]:
    return [vault.fingerprint_of(row["value"]) or "" for row in rows]


def _resealed(vault: Vault, rows: Sequence[Row], after: int) -> _Batch:
    changes, unreadable = [], 0
    for row in rows:
        try:
            new = vault.reseal(row["value"])
        except SecretsError:
            unreadable += 1
        else:
            if new is not None:
                changes.append((row["id"], row["value"], new))
    last = rows[-1]["id"] if rows else after
    return _Batch(after, last, changes, unreadable, not rows)


# Units of work


def _after(tx: Tx, place: tuple[str, str], after: int) -> Sequence[Row]:
    """The next values; none at the end. Where they are few among many rows, it goes on by spans of rows."""
    table, column = place
    row = tx.one(f"select max(id) as id from {table}")  # noqa: S608 — constant text
    last = int(row["id"] or 0) if row is not None else 0
    while after < last:
        found = tx.all(
            f"select id, {column} as value from {table} where id > :after and id <= :until and {column} <> ''"  # noqa: S608 — constant text
            " order by id limit :most",
            after=after,
            until=after + SPAN,
            most=BATCH,
        )
        if found:
            return found
        after += SPAN
    return ()


def _values(tx: Tx, place: tuple[str, str], newest: str) -> tuple[Sequence[Row], int]:
    row = tx.one(
        "select after_id from resealings where place = :place and fingerprint = :key",
        place=name_of(*place),
        key=newest,
    )
    after = int(row["after_id"]) if row else 0
    return _after(tx, place, after), after


def _left(tx: Tx, newest: str) -> int:
    state = keyring.state(tx)
    return sum(not _is_through(state.get(name_of(*place)), newest, tx) for place in PLACES)


def _is_through(row: Row | None, newest: str, tx: Tx) -> bool:
    """Whether a place was gone through for this key, from a time on when nobody sealed under another."""
    if row is None or row["fingerprint"] != newest or row["ended_at"] is None:
        return False
    return bool(row["started_at"] >= keyring.busy_until(tx, newest))


def _current(tx: Tx, newest: str, at: float) -> tuple[str, str] | None:
    """The place to go on with, begun if it has to be; None where all are through."""
    state = keyring.state(tx)
    for place in PLACES:
        row = state.get(name_of(*place))
        if _is_through(row, newest, tx):
            continue
        is_under_way = row is not None and row["fingerprint"] == newest and row["ended_at"] is None
        if not (is_under_way and row is not None and row["started_at"] >= keyring.busy_until(tx, newest)):
            _begin(tx, name_of(*place), newest, at)
        return place
    return None


def _begin(tx: Tx, place: str, newest: str, at: float) -> None:
    tx.execute(
        "insert into resealings (place, fingerprint, after_id, unreadable, started_at) values (:place, :key, 0, 0, :at)"
        " on conflict (place) do update set fingerprint = :key, after_id = 0, unreadable = 0, started_at = :at,"
        " ended_at = null",
        place=place,
        key=newest,
        at=at,
    )


def _write(tx: Tx, place: tuple[str, str], newest: str, batch: _Batch, at: float) -> None:
    """Only where the value is still the one that was read, and only if nobody else went on from there meanwhile."""
    is_ours = tx.execute(
        "update resealings set after_id = :last, unreadable = unreadable + :unreadable,"
        " ended_at = case when :is_last = 1 then cast(:at as double precision) end"
        " where place = :place and fingerprint = :key and after_id = :after and ended_at is null",
        last=batch.last,
        unreadable=batch.unreadable,
        is_last=int(batch.is_last),
        at=at,
        place=name_of(*place),
        key=newest,
        after=batch.after,
    )
    if not is_ours:
        return
    table, column = place
    for row_id, old, new in batch.changes:
        tx.execute(
            f"update {table} set {column} = :new where id = :id and {column} = :old",  # noqa: S608 — constant text
            new=new,
            id=row_id,
            old=old,
        )


def _finish(tx: Tx, newest: str) -> None:
    row = tx.one("select min(started_at) as at from resealings where fingerprint = :key", key=newest)
    if row is not None and row["at"] is not None:
        keyring.strike_out(tx, newest, float(row["at"]))
