"""Who does what, where several processes work on one database: each piece of work has one holder at a time.

A holder that stops gives its work back; one that dies is succeeded as soon as its leases have run out. Times are the
database's, so that the clocks of the machines do not matter.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping

import structlog

from gateway.store import Row, Store, Tx

LEASE_SECONDS = 6.0
RENEW_SECONDS = 1.5
MARGIN_SECONDS = 1.0
"""How long before the database lets somebody else have it a holder stops by itself."""

TAKEN_AT_ONCE = 3
"""Pieces of work that nobody did before and a process takes up in one round: those that start together share them."""

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
        self._rounds_free: Mapping[str, int] = {}
        self._seen_held: frozenset[str] = frozenset()

    def holds(self, name: str) -> bool:
        """Whether this process may do that now. Asked often: it looks at a clock only."""
        return self._held.get(name, 0.0) > self._ticks()

    def held(self) -> list[str]:
        """The names of what this process does."""
        return sorted(name for name in self._held if self.holds(name))

    async def round(self, wanted: Collection[str]) -> float:
        """Renews what is held of `wanted`, gives the rest back, takes up some of what is free.

        What another process held, and nobody has taken up since the last round, it takes as far as its share goes: one
        that dies is succeeded within seconds. How many seconds to the next round. Raises Unavailable: then what is held
        runs out.
        """
        mine = {name for name in self._held if name in wanted}
        gone = set(self._held) - mine
        started = self._ticks()
        others = await self._store.read(_others, self.holder)
        self._seen_held = (self._seen_held | others.keys()) & set(wanted)
        free = set(wanted) - others.keys() - mine
        self._rounds_free = {name: self._rounds_free.get(name, 0) + 1 for name in sorted(free)}
        # Of those alive: what the dead one held counts for nobody.
        share = math.ceil(len(wanted) / (1 + len(set(others.values()))))
        taken_up = self._to_take(share - len(mine))
        got = await self._store.run(_take, sorted(mine | set(taken_up)), self.holder)
        until = started + LEASE_SECONDS - MARGIN_SECONDS
        for name in sorted(set(got) ^ mine):
            log.info("lease.taken" if name in got else "lease.lost", lease=name)
        self._held = dict.fromkeys(got, until)
        if gone:
            await self._store.run(_give_back, sorted(gone), self.holder)
        return RENEW_SECONDS

    def _to_take(self, room: int) -> list[str]:
        patience = 1 if self._is_eager else 2
        ripe = [name for name, rounds in self._rounds_free.items() if rounds >= patience]
        inherited = [name for name in ripe if name in self._seen_held and self._rounds_free[name] > patience]
        chosen = inherited[: max(room, TAKEN_AT_ONCE)]
        return chosen + [name for name in ripe if name not in chosen][: max(0, TAKEN_AT_ONCE - len(chosen))]

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


def _others(tx: Tx, holder: str) -> dict[str, str]:
    """What others than this holder hold, and who."""
    rows = tx.all(f"select name, holder from leases where until > {_NOW} and holder <> :holder", holder=holder)  # noqa: S608 — constant text
    return {row["name"]: row["holder"] for row in rows}


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
