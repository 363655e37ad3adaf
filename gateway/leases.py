"""Who does what, where several processes work on one database: each piece of work has one holder at a time.

A holder that stops gives its work back; one that dies is succeeded as soon as its leases have run out. Times are the
database's, so that the clocks of the machines do not matter.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable

import structlog

from gateway.store import Row, Store, Tx

LEASE_SECONDS = 6.0
RENEW_SECONDS = 1.5
MARGIN_SECONDS = 1.0
"""How long before the database lets somebody else have it a holder stops by itself."""

TAKEN_AT_ONCE = 3
"""Pieces of work that a process takes up in one round: those that start together share them."""

log = structlog.get_logger()


class Leases:
    """What this process holds. `is_eager` is for a process that only works: the others let it go first."""

    def __init__(
        self, store: Store, holder: str, *, is_eager: bool, ticks: Callable[[], float] = time.monotonic
    ) -> None:
        """`holder` names this process among all others; `ticks` is a clock that is never set back."""
        self.holder = holder
        self._store = store
        self._is_eager = is_eager
        self._ticks = ticks
        self._held: dict[str, float] = {}
        self._seen_free: frozenset[str] = frozenset()

    def holds(self, name: str) -> bool:
        """Whether this process may do that now. Asked often: it looks at a clock only."""
        return self._held.get(name, 0.0) > self._ticks()

    def held(self) -> list[str]:
        """The names of what this process does."""
        return sorted(name for name in self._held if self.holds(name))

    async def round(self, wanted: Collection[str]) -> float:
        """Renews what is held of `wanted`, gives the rest back, takes up some of what is free.

        How many seconds to the next round. Raises Unavailable: then what is held runs out.
        """
        mine = {name for name in self._held if name in wanted}
        gone = set(self._held) - mine
        started = self._ticks()
        free = set(await self._store.read(_free, sorted(wanted), self.holder)) - mine
        taken_up = sorted(free if self._is_eager else free & self._seen_free)[:TAKEN_AT_ONCE]
        self._seen_free = frozenset(free)
        got = await self._store.run(_take, sorted(mine | set(taken_up)), self.holder)
        until = started + LEASE_SECONDS - MARGIN_SECONDS
        for name in sorted(set(got) ^ mine):
            log.info("lease.taken" if name in got else "lease.lost", lease=name)
        self._held = dict.fromkeys(got, until)
        if gone:
            await self._store.run(_give_back, sorted(gone), self.holder)
        return RENEW_SECONDS

    async def give_back(self) -> None:
        """Lets go of everything: the next process need not wait for it to run out. Raises Unavailable."""
        self._held.clear()
        await self._store.run(_give_back_all, self.holder)


class AllMine:
    """The leases of a process that is alone on its database: everything is its own."""

    holder = "sole"

    def holds(self, _name: str) -> bool:
        return True


# Units of work, on PostgreSQL

_NOW = "extract(epoch from clock_timestamp())::double precision"


def _free(tx: Tx, names: Iterable[str], holder: str) -> list[str]:
    """Those that nobody holds, nor this holder."""
    rows = tx.all(f"select name from leases where until > {_NOW} and holder <> :holder", holder=holder)  # noqa: S608 — constant text
    return sorted(set(names) - {row["name"] for row in rows})


def _take(tx: Tx, names: Iterable[str], holder: str) -> list[str]:
    """Those of the names that are the holder's from now on, in the order of names as everywhere."""
    return [name for name in names if _take_one(tx, name, holder)]


def _take_one(tx: Tx, name: str, holder: str) -> bool:
    row = tx.one(
        f"insert into leases (name, holder, until) values (:name, :holder, {_NOW} + :seconds)"  # noqa: S608 — constant text
        " on conflict (name) do update set holder = excluded.holder, until = excluded.until"
        f" where leases.holder = excluded.holder or leases.until <= {_NOW} returning name",
        name=name,
        holder=holder,
        seconds=LEASE_SECONDS,
    )
    return row is not None


def _give_back(tx: Tx, names: Iterable[str], holder: str) -> None:
    for name in names:
        tx.execute("delete from leases where name = :name and holder = :holder", name=name, holder=holder)


def _give_back_all(tx: Tx, holder: str) -> None:
    tx.execute("delete from leases where holder = :holder", holder=holder)


def overview(tx: Tx) -> list[Row]:
    """Every lease that has not run out: its name, its holder, for how many seconds yet."""
    return list(
        tx.all(f"select name, holder, until - {_NOW} as seconds from leases where until > {_NOW} order by name")  # noqa: S608 — constant text
    )
