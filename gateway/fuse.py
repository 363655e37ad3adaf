"""The fuse of a key that buys and never receives: its purchases are slowed, then there is nothing for it for a while.

A miss is a purchase that ended without a code since the key's last one, or one that still waits for its first. Those
that ended are counted in the transaction that ends them, those that wait are looked up in the transaction of the next
hold, after the account's balance is locked: so no number of purchases at once, through whatever processes, gets past
`stop_after`. A code makes it nought again, and ends a stop. Keys that replaced each other have one fuse.

A rental that is kept without a message has missed, too; more time for a rental counts for nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gateway import tree
from gateway.errors import NoNumbers
from gateway.settings import FuseSettings
from gateway.store import Row, Tx

OWN = ("slow_after", "slow_seconds", "stop_after", "cooldown_seconds", "window_seconds")
"""The settings a key can have of its own."""

STOPS_SHOWN = 20

_OF_KEY = (
    "select coalesce(k.origin_id, k.id) as origin, k.account_id, coalesce(f.missed, 0) as missed,"
    " coalesce(f.missed_at, 0) as missed_at, f.stopped_until, f.slowed_at, f.slow_after, f.slow_seconds, f.stop_after,"
    " f.cooldown_seconds, f.window_seconds"
    " from api_keys k left join fuses f on f.key_id = coalesce(k.origin_id, k.id) where k.id = :key"
)
_IS_WAITING = (
    "ended_at is null and status in ('opening', 'waiting') and product <> 'extension'"
    " and (refundable_until is null or refundable_until <> 0)"
)
"""Purchases that may get their first code yet. A rental that is kept has missed already."""

_WAITING = (
    " from activations where key_id in (select id from api_keys where id = :origin or origin_id = :origin)"  # noqa: S608 — constant text
    " and " + _IS_WAITING
)
_COLUMNS = (
    "o.id as origin, coalesce(f.missed, 0) as missed, coalesce(f.missed_at, 0) as missed_at, f.stopped_until,"
    " (select max(s.at) from fuse_stops s where s.account_id = a.id and s.key_id = o.id and s.until = f.stopped_until)"
    " as stopped_at, f.slowed_at, f.slow_after, f.slow_seconds, f.stop_after, f.cooldown_seconds, f.window_seconds"
)
_FUSES = " join accounts a on a.id = o.account_id left join fuses f on f.key_id = o.id"
_SHOWN = (
    f"select {_COLUMNS} from api_keys k join api_keys o on o.id = coalesce(k.origin_id, k.id){_FUSES}"  # noqa: S608 — constant text
    " where k.id = :key"
)
_HURT = (
    "with waiting as (select coalesce(k.origin_id, k.id) as origin, count(*) as n from activations v"  # noqa: S608 — constant text
    f" join api_keys k on k.id = v.key_id where {_IS_WAITING} and {{below}} group by coalesce(k.origin_id, k.id))"
    f" select {_COLUMNS}, o.name, a.name as account, coalesce(w.n, 0) as waiting from api_keys o{_FUSES}"
    " left join waiting w on w.origin = o.id"
    " where o.origin_id is null and (f.missed > 0 or f.stopped_until > :at or w.n > 0) and {o_below} order by o.id"
)
_BELOW = "{}.account_id in (select account_id from account_tree where ancestor_id = :within)"


class Blown(NoNumbers):
    """The key's fuse stops it."""


class Slowed(Exception):
    """A purchase of the key has to wait first, and has not."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


@dataclass(frozen=True, slots=True)
class Pace:
    """How long a purchase has to have waited, and how long the key's next one waits."""

    due_seconds: float = 0.0
    next_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class State:
    """A key's fuse as it stands. `missed` is of purchases that are over, `waiting` of those that are not."""

    missed: int
    waiting: int
    stopped_until: float | None
    settings: FuseSettings
    own: Mapping[str, Any]
    """The settings that are the key's own, by name."""

    since: float | None = None
    """Since when it is stopped or slowed, as far as that is known."""

    anew_at: float | None = None
    """When what is over counts no more, unless there is a further miss."""

    @property
    def misses(self) -> int:
        return self.missed + self.waiting

    @property
    def pause_seconds(self) -> float:
        return pause_seconds(self.settings, self.misses)

    @property
    def word(self) -> Literal["stopped", "slowed", "free"]:
        if self.stopped_until is not None:
            return "stopped"
        return "slowed" if self.pause_seconds else "free"

    @property
    def until(self) -> float | None:
        """Until when it is stopped, or slowed if nothing more happens; None where that is for what waits to say."""
        if self.stopped_until is not None:
            return self.stopped_until
        return None if pause_seconds(self.settings, self.waiting) else self.anew_at


@dataclass(frozen=True, slots=True)
class Hurt:
    """A key that is slowed or stopped."""

    key_id: int
    name: str
    account: str
    state: State


def pause_seconds(settings: FuseSettings, misses: int) -> float:
    """How long a key with so many misses waits before its next purchase."""
    if not settings.slow_after or misses < settings.slow_after:
        return 0.0
    return min(settings.slow_seconds_max, (misses - settings.slow_after + 1) * settings.slow_seconds)


def take(tx: Tx, key_id: int, settings: FuseSettings, at: float) -> Pace:
    """Lets a purchase through that has just been held, if it has waited. Raises Blown."""
    row = _row(tx, key_id)
    if row is None:
        return Pace()
    own = _effective(settings, row)
    if not own.stop_after and not own.slow_after:
        return Pace()
    if own.stop_after and _is_stopped(row, at):
        raise Blown
    if row["missed"] and _is_long_ago(row, own, at):
        tx.execute("update fuses set missed = 0 where key_id = :key", key=row["origin"])
    misses = _missed(row, own, at) + _waiting(tx, row["origin"])  # this purchase is one of those that wait
    if own.stop_after and misses > own.stop_after:
        raise Blown
    pause = pause_seconds(own, misses)
    if bool(pause) is (row["slowed_at"] is None):
        _set_slowed(tx, row["origin"], at if pause else None)
    return Pace(pause_seconds(own, misses - 1), pause)


def _set_slowed(tx: Tx, origin_id: int, at: float | None) -> None:
    tx.execute(
        "insert into fuses (key_id, slowed_at) values (:key, :at) on conflict (key_id) do update set slowed_at = :at",
        key=origin_id,
        at=at,
    )


def blow(tx: Tx, key_id: int, settings: FuseSettings, at: float) -> float | None:
    """Stops a key whose purchase was refused by `take`, and counts anew from here; until when.

    None where it is stopped already, or had a code meanwhile. What waits still is not counted again when it ends.
    """
    row = _row(tx, key_id)
    if row is None:
        return None
    tree.lock(tx, [row["account_id"]])
    row = _row(tx, key_id) or row
    own = _effective(settings, row)
    misses = _missed(row, own, at) + _waiting(tx, row["origin"])
    if not own.stop_after or _is_stopped(row, at) or misses < own.stop_after:
        return None
    until = at + own.cooldown_seconds
    newest = tx.one("select coalesce(max(id), 0) as id" + _WAITING, origin=row["origin"])
    tx.execute(
        "insert into fuses (key_id, after_id, stopped_until) values (:key, :after, :until)"
        " on conflict (key_id) do update set missed = 0, slowed_at = null, stopped_until = :until,"
        " after_id = case when fuses.after_id > :after then fuses.after_id else :after end",
        key=row["origin"],
        after=newest["id"] if newest else 0,
        until=until,
    )
    tx.execute(
        "insert into fuse_stops (key_id, account_id, misses, at, until) values (:key, :account, :misses, :at, :until)",
        key=row["origin"],
        account=row["account_id"],
        misses=misses,
        at=at,
        until=until,
    )
    return until


def missed(tx: Tx, activation_id: int, at: float) -> None:
    """A purchase is over, and no code came. After its account's balance is locked; called once for each."""
    tx.execute(
        "insert into fuses (key_id, missed, missed_at) select coalesce(k.origin_id, k.id), 1, :at"
        " from activations v join api_keys k on k.id = v.key_id where v.id = :id and v.product <> 'extension'"
        " on conflict (key_id) do update set missed = fuses.missed + 1, missed_at = :at where fuses.after_id < :id",
        id=activation_id,
        at=at,
    )


def received(tx: Tx, activation_id: int) -> None:
    """A code came. After its account's balance is locked."""
    tx.execute(
        "update fuses set missed = 0, stopped_until = null, slowed_at = null"
        " where (missed > 0 or stopped_until is not null or slowed_at is not null) and key_id ="
        " (select coalesce(k.origin_id, k.id) from activations v join api_keys k on k.id = v.key_id where v.id = :id)",
        id=activation_id,
    )


def _row(tx: Tx, key_id: int) -> Row | None:
    return tx.one(_OF_KEY, key=key_id)


def _own(row: Row) -> dict[str, Any]:
    return {name: row[name] for name in OWN if row[name] is not None}


def _effective(settings: FuseSettings, row: Row) -> FuseSettings:
    own = _own(row)
    return settings.model_copy(update=own) if own else settings


def _is_stopped(row: Row, at: float) -> bool:
    return row["stopped_until"] is not None and row["stopped_until"] > at


def _is_long_ago(row: Row, settings: FuseSettings, at: float) -> bool:
    return bool(at - row["missed_at"] > settings.window_seconds)


def _missed(row: Row, settings: FuseSettings, at: float) -> int:
    return 0 if _is_long_ago(row, settings, at) else int(row["missed"])


def _waiting(tx: Tx, origin_id: int) -> int:
    row = tx.one("select count(*) as n" + _WAITING, origin=origin_id)
    return 0 if row is None else int(row["n"])


# Proof

CLOCKS_APART_SECONDS = 60.0
"""How far the clocks of processes may differ that write one key's rows."""

_MISSES = (
    "select coalesce(k.origin_id, k.id) as origin, v.id,"
    " case when v.status in ('cancelled', 'expired') then v.ended_at end as ended_at from activations v"
    " join api_keys k on k.id = v.key_id where v.product <> 'extension' and (v.status in ('cancelled', 'expired')"
    " or (v.product = 'rental' and v.refundable_until = 0))"
)
"""When a rental was kept is not written down, so it has no time here: its end comes long after it has missed."""

_CODES = (
    "select coalesce(k.origin_id, k.id) as origin, max(l.at) as at from ledger l"
    " join activations v on v.id = l.activation_id join api_keys k on k.id = v.key_id"
    " where l.kind = 'capture' and l.actor = 'delivery' group by coalesce(k.origin_id, k.id)"
)
_COUNTED = (
    f"select f.key_id, f.missed, count(m.id) as possible,"  # noqa: S608 — constant text
    " sum(case when f.missed_at > 0 and m.ended_at > f.missed_at + :apart then 1 else 0 end) as late"
    f" from fuses f left join ({_CODES}) c on c.origin = f.key_id left join ({_MISSES}) m"
    " on m.origin = f.key_id and m.id > f.after_id and (m.ended_at is null or m.ended_at >= coalesce(c.at, 0) - :apart)"
    " group by f.key_id, f.missed order by f.key_id"
)
_STOPPED_BY_NOBODY = (
    "select f.key_id from fuses f where f.stopped_until is not null and not exists"
    " (select 1 from fuse_stops s where s.key_id = f.key_id and s.until = f.stopped_until) order by f.key_id"
)


def verify(tx: Tx) -> Iterable[str]:
    """A sentence for each key that is said to have missed more, or less, than its purchases since its last code can
    have, and for each stop that nobody wrote.

    When a key was last counted anew for want of misses is not kept, so these are bounds and no recount.
    """
    for row in tx.all(_COUNTED, apart=CLOCKS_APART_SECONDS):
        shown = f"fuses: key {row['key_id']} shows {row['missed']} missed, its purchases say"
        if row["missed"] > row["possible"]:
            yield f"{shown} {row['possible']} at most"
        if int(row["late"] or 0) > row["missed"]:
            yield f"{shown} {row['late']} at least"
    for row in tx.all(_STOPPED_BY_NOBODY):
        yield f"fuses: key {row['key_id']} is stopped, and there is no such stop"


# What people see and set


def state(tx: Tx, key_id: int, settings: FuseSettings, at: float) -> State:
    """A key's fuse. KeyError where there is no such key."""
    row = tx.one(_SHOWN, key=key_id)
    if row is None:
        raise KeyError(key_id)
    return _state(row, _waiting(tx, row["origin"]), settings, at)


def _state(row: Row, waiting: int, settings: FuseSettings, at: float) -> State:
    own = _effective(settings, row)
    is_stopped = bool(own.stop_after) and _is_stopped(row, at)
    missed = _missed(row, own, at)
    is_slowed = bool(pause_seconds(own, missed + waiting))
    slowed_since = (row["slowed_at"] or row["missed_at"] or None) if is_slowed else None
    return State(
        missed=missed,
        waiting=waiting,
        stopped_until=row["stopped_until"] if is_stopped else None,
        settings=own,
        own=_own(row),
        since=row["stopped_at"] if is_stopped else slowed_since,
        anew_at=row["missed_at"] + own.window_seconds if missed else None,
    )


def hurt(tx: Tx, account_id: int | None, settings: FuseSettings, at: float) -> list[Hurt]:
    """The keys of an account and of those below it, or all, that are slowed or stopped: the stopped ones first."""
    below = ("true", "true") if account_id is None else (_BELOW.format("k"), _BELOW.format("o"))
    given = {} if account_id is None else {"within": account_id}
    rows = tx.all(_HURT.format(below=below[0], o_below=below[1]), at=at, **given)
    found = [
        Hurt(row["origin"], row["name"], row["account"], _state(row, row["waiting"], settings, at)) for row in rows
    ]
    found = [one for one in found if one.state.word != "free"]
    return sorted(found, key=lambda one: (one.state.stopped_until is None, one.key_id))


def set_own(tx: Tx, key_id: int, changes: Mapping[str, float | None]) -> None:
    """Gives a key some settings of its own, by their names (`OWN`); None for the deployment's."""
    row = _row(tx, key_id)
    if row is None:
        raise KeyError(key_id)
    for name, value in changes.items():
        if name not in OWN:
            raise ValueError(f"a key has no {name} of its own")
        tx.execute(
            f"insert into fuses (key_id, {name}) values (:key, :value)"  # noqa: S608 — one of our own columns
            f" on conflict (key_id) do update set {name} = :value",
            key=row["origin"],
            value=value,
        )


def reset(tx: Tx, key_id: int) -> None:
    """Ends a stop and counts anew from here; what waits still is not counted when it ends."""
    row = _row(tx, key_id)
    if row is None:
        raise KeyError(key_id)
    tree.lock(tx, [row["account_id"]])
    newest = tx.one("select max(id) as id" + _WAITING, origin=row["origin"])
    tx.execute(
        "update fuses set missed = 0, stopped_until = null, slowed_at = null,"
        " after_id = coalesce(:after, after_id) where key_id = :key",
        after=newest["id"] if newest else None,
        key=row["origin"],
    )


def stops(tx: Tx, account_id: int | None, key_id: int | None = None) -> Sequence[Row]:
    """When keys of an account and of those below it, or any, were stopped, the newest first: as owners are told."""
    below = "true" if account_id is None else _BELOW.format("s")
    given = {} if account_id is None else {"within": account_id}
    return tx.all(
        "select s.id, s.key_id, a.name as account, s.misses, s.at, s.until from fuse_stops s"  # noqa: S608 — constant text
        " join accounts a on a.id = s.account_id"
        f" where {below} and (s.key_id = :key or :key = 0) order by s.id desc limit :most",
        key=key_id or 0,
        most=STOPS_SHOWN,
        **given,
    )


def stopped(tx: Tx, at: float) -> Sequence[Row]:
    """The keys that are stopped now."""
    return tx.all(
        "select f.key_id, f.stopped_until, a.name as account from fuses f join api_keys k on k.id = f.key_id"
        " join accounts a on a.id = k.account_id where f.stopped_until > :at order by f.key_id",
        at=at,
    )
