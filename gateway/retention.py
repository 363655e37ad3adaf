"""How long numbers and messages are kept: what is over for longer is deleted, in small batches.

What money did, who bought what, when a message came and who has been shown it stays; the number, the codes, the texts,
the senders and a rental's own webhook address go, and what could be used to guess them: digests and signatures of
notices and pushes. An activation that is open keeps everything, however old it is.

The deployment says how long (`retention.days`); an account may want less for itself and all below it, never more.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import structlog

from gateway import accounts, audit, manage, tree
from gateway.alerts import Alerts
from gateway.errors import Unavailable
from gateway.house import House
from gateway.manage import Manager
from gateway.store import Row, SqliteStore, Store, Tx

BATCH = 100
"""Rows deleted in one unit of work: whoever buys meanwhile waits for so many at most."""

PAUSE_SECONDS = 0.02
"""Between two batches, so that others get their turn."""

ROUND_SECONDS = 60.0
OVERDUE_COUNTED_MAX = 100_000
OVERDUE_SECONDS = 86_400.0
"""Something has been overdue for so long before it is an alert."""

DAY_SECONDS = 86_400.0
CLEAN = "retention_clean_at"
"""The name under which `revisions` keeps when nothing was overdue, in whole seconds."""

CLEAN_NOTED_SECONDS = 600
ALERT = "retention_overdue"
SUBJECT = "retention:data"

log = structlog.get_logger()


class RetentionError(ValueError):
    """A term that can't be set; the message says why."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Something with an end: how rows past their time are found, as `id`s, and how some of them are emptied."""

    name: str
    overdue: str
    empty: Callable[[Tx, Sequence[int], float], None]


@dataclass(frozen=True, slots=True)
class Overdue:
    """How many rows are past their time, by place; none is counted beyond `OVERDUE_COUNTED_MAX`."""

    counts: Mapping[str, int]

    @property
    def total(self) -> int:
        return sum(self.counts.values())


# Terms


def days_of(tx: Tx, account_id: int, deployment_days: int) -> int:
    """For how many days an account's numbers and messages are kept; nought for ever."""
    row = tx.one(
        "select min(r.days) as days from account_tree t join retention_terms r on r.account_id = t.ancestor_id"
        " where t.account_id = :id",
        id=account_id,
    )
    own = row["days"] if row else None
    return min((days for days in (own, deployment_days) if days), default=0)


def set_days(tx: Tx, account_id: int, days: int | None, deployment_days: int, at: float, *, actor: str) -> None:
    """What an account wants for itself and all below it; None leaves it to those above. Raises RetentionError."""
    if days is None:
        tx.execute("delete from retention_terms where account_id = :id", id=account_id)
        return
    if days < 1:
        raise RetentionError("an account's numbers and messages are kept for a day at least")
    if deployment_days and days > deployment_days:
        raise RetentionError(f"nothing is kept for longer than retention.days, which is {deployment_days}")
    tree.place(tx, account_id)
    tx.execute(
        "insert into retention_terms (account_id, days, changed_at, actor) values (:id, :days, :at, :actor)"
        " on conflict (account_id) do update set days = :days, changed_at = :at, actor = :actor",
        id=account_id,
        days=days,
        at=at,
        actor=actor,
    )


@dataclass(frozen=True, slots=True)
class Term:
    """For how many days: what holds for an account, what it was told itself, what holds for everybody. None for ever,
    and for nothing told."""

    days: int | None
    own_days: int | None
    house_days: int | None


def term(tx: Tx, manager: Manager, name: str, deployment_days: int) -> Term:
    """An account's, as far as `manager` sees it. Raises UnknownAccount."""
    return _term(tx, accounts.find(tx, name, manager.account_id)["id"], deployment_days)


def set_term(tx: Tx, manager: Manager, name: str, days: int | None, deployment_days: int, at: float) -> Term:
    """As `set_days`, by name, within what the manager may change; in the audit log.

    Raises RetentionError, and as `manage.require` and `accounts.find`.
    """
    manage.require(tx, manager, at)
    account_id = int(accounts.find(tx, name, manager.account_id)["id"])
    set_days(tx, account_id, days, deployment_days, at, actor=manager.actor)
    audit.note(tx, at, manager.actor, "account.retention", f"account:{account_id}", account_id=account_id, days=days)
    return _term(tx, account_id, deployment_days)


def _term(tx: Tx, account_id: int, deployment_days: int) -> Term:
    own = tx.one("select days from retention_terms where account_id = :id", id=account_id)
    days = days_of(tx, account_id, deployment_days)
    return Term(days or None, own["days"] if own else None, deployment_days or None)


def terms(tx: Tx) -> Sequence[Row]:
    """The accounts with a term of their own: `name`, `days`, `changed_at`, `actor`."""
    return tx.all(
        "select a.name, r.days, r.changed_at, r.actor from retention_terms r join accounts a on a.id = r.account_id"
        " order by a.name"
    )


_SHORTER = (
    "(select t.account_id, min(r.days) as days from retention_terms r"
    " join account_tree t on t.ancestor_id = r.account_id group by t.account_id)"
)
"""Every account that keeps things for less than others, with what holds for it."""


def _shorter(tx: Tx) -> dict[int, int]:
    return {row["account_id"]: row["days"] for row in tx.all(f"select account_id, days from {_SHORTER} s")}  # noqa: S608 — constant text


# What is emptied


def _among(tx: Tx, sql: str, ids: Sequence[int], **values: object) -> int:
    """Runs a statement whose `(:ids)` stands for all of these."""
    names = {f"id_{place}": one for place, one in enumerate(ids)}
    return tx.execute(sql.replace(":ids", ", ".join(f":{name}" for name in names)), **names, **values)


def _empty_activations(tx: Tx, ids: Sequence[int], at: float) -> None:
    for one in ids:
        _empty_lease(tx, one, at)
    messages = "select id from messages where activation_id in (:ids)"
    # Whatever is still to be sent would have nothing to say.
    _among(
        tx,
        "update notices set state = 'dead', ended_at = :at, last_result = 'deleted'"  # noqa: S608 — constant text
        f" where state not in ('sent', 'dead') and message_id in ({messages})",
        ids,
        at=at,
    )
    _forget_notices(tx, messages, ids)
    _among(tx, f"{_EMPTY_MESSAGES} where activation_id in (:ids)", ids)
    _forget_attempts(tx, messages, ids)
    _among(tx, "delete from pushes where activation_id in (:ids)", ids)
    _among(tx, "update activations set number_sealed = null, webhook_url_sealed = null where id in (:ids)", ids)


_EMPTY_MESSAGES = (
    "update messages set code_sealed = '', text_sealed = '', sender_sealed = null, is_shown = 0,"
    # An identity is a digest of what may be a six-digit code: whoever has INDEX_KEY could guess it.
    " identity = 'deleted:' || id"
)


def _forget_notices(tx: Tx, messages: str, ids: Sequence[int]) -> None:
    """Blanks the digests of what was told of these messages, by which their codes could be guessed with our keys.

    Before the messages are emptied, and their attempts after it: see `webhook_log.note_attempt`.
    """
    _among(tx, f"update notices set body_digest = '' where message_id in ({messages})", ids)  # noqa: S608 — constant text


def _forget_attempts(tx: Tx, messages: str, ids: Sequence[int]) -> None:
    notices = f"select id from notices where message_id in ({messages})"  # noqa: S608 — constant text
    _among(tx, f"update webhook_attempts set body_digest = '', signature = '' where notice_id in ({notices})", ids)  # noqa: S608 — constant text


def _empty_lease(tx: Tx, activation_id: int, at: float) -> None:
    """What a pool or a desk of ours keeps of an activation's number goes with the activation's own."""
    row = tx.one("select upstream, reference from activations where id = :id", id=activation_id)
    reference = (row["reference"] if row else None) or ""
    if row is None or not (reference.isascii() and reference.isdigit() and len(reference) <= 18):
        return
    lease = {"upstream": row["upstream"], "lease": int(reference)}
    # By the lease alone, which has an index: by its upstream SQLite would look through all of that.
    found = tx.all(
        "select id from number_messages where lease_id = :lease"
        " and exists (select 1 from number_leases l where l.id = :lease and l.upstream = :upstream)",
        **lease,
    )
    _drop_number_messages(tx, [one["id"] for one in found], at)
    tasks = tx.all("select id from desk_tasks where upstream = :upstream and id = :lease", **lease)
    _empty_tasks(tx, [one["id"] for one in tasks], at)


def _empty_messages(tx: Tx, ids: Sequence[int], _at: float) -> None:
    _forget_notices(tx, ":ids", ids)
    _among(tx, f"{_EMPTY_MESSAGES} where id in (:ids)", ids)
    _forget_attempts(tx, ":ids", ids)


def _empty_tasks(tx: Tx, ids: Sequence[int], _at: float) -> None:
    if ids:
        _among(tx, "delete from desk_messages where task_id in (:ids)", ids)
        _among(tx, "update desk_tasks set number_sealed = null where id in (:ids)", ids)


def _drop_number_messages(tx: Tx, ids: Sequence[int], _at: float) -> None:
    if ids:
        _among(tx, "delete from number_parts where message_id in (:ids)", ids)
        _among(tx, "delete from number_messages where id in (:ids)", ids)


def _drop_parts(tx: Tx, ids: Sequence[int], _at: float) -> None:
    _among(tx, "delete from number_parts where id in (:ids)", ids)


def _empty_numbers(tx: Tx, ids: Sequence[int], _at: float) -> None:
    _among(tx, "update numbers set number_sealed = '' where id in (:ids) and removed_at is not null", ids)


def _drop_pushes(tx: Tx, ids: Sequence[int], _at: float) -> None:
    _among(tx, "delete from pushes where id in (:ids)", ids)


def _blank_pushes(tx: Tx, ids: Sequence[int], _at: float) -> None:
    _among(tx, "update pushes set body_digest = '', signature = '' where id in (:ids)", ids)


_PLACES = (
    _Place(
        "activations",
        "select id from activations where number_sealed is not null and ended_at < :cutoff",
        _empty_activations,
    ),
    _Place(
        "activations of accounts with shorter terms",
        f"select a.id from {_SHORTER} s join activations a on a.account_id = s.account_id"  # noqa: S608 — constant text
        " where a.number_sealed is not null and a.ended_at < :now - s.days * 86400.0",
        _empty_activations,
    ),
    # Messages that came when their activation had been emptied already.
    _Place(
        "late messages",
        "select m.id from messages m join activations a on a.id = m.activation_id where m.text_sealed <> ''"
        " and m.received_at < :cutoff and a.number_sealed is null and a.ended_at < :cutoff",
        _empty_messages,
    ),
    # A task that nobody ended, since its upstream is gone, was over when its time was.
    _Place(
        "desk tasks",
        "select id from desk_tasks where coalesce(ended_at, until_at) < :cutoff and (number_sealed is not null"
        " or exists (select 1 from desk_messages m where m.task_id = desk_tasks.id))",
        _empty_tasks,
    ),
    _Place(
        "messages of own numbers",
        "select m.id from number_messages m left join number_leases l on l.id = m.lease_id"
        " where m.recorded_at < :cutoff and (l.id is null or l.ended_at is not null or l.expires_at < :cutoff)",
        _drop_number_messages,
    ),
    _Place(
        "parts of messages",
        "select id from number_parts where recorded_at < :cutoff and message_id is null",
        _drop_parts,
    ),
    _Place(
        "removed numbers",
        "select n.id from numbers n where n.removed_at < :cutoff and n.number_sealed <> ''"
        " and not exists (select 1 from number_leases l where l.number_id = n.id and l.ended_at is null)",
        _empty_numbers,
    ),
    _Place("pushes", "select id from pushes where processed_at < :cutoff", _drop_pushes),
    _Place(
        "pushes to accounts with shorter terms",
        f"select p.id from {_SHORTER} s join pushes p on p.account_id = s.account_id"  # noqa: S608 — constant text
        " where p.processed_at < :now - s.days * 86400.0",
        _drop_pushes,
    ),
    # Of several accounts, or of nobody known: anybody's may be among them.
    _Place(
        "pushes to nobody alone",
        "select id from pushes where account_id is null"
        " and processed_at < :now - (select min(days) from retention_terms) * 86400.0",
        _drop_pushes,
    ),
    # A process of before the update may go on beside us for a while.
    _Place("plain hashes of pushes", "select id from pushes where body_digest <> ''", _blank_pushes),
)  # fmt: skip


# Units of work


def _cutoff(now: float, days: int) -> float:
    """What ended before is overdue; nothing ended before the epoch."""
    return now - days * DAY_SECONDS if days else 0.0


def overdue(tx: Tx, now: float, days: int) -> Overdue:
    """What should have been deleted by now."""
    values = {"now": now, "cutoff": _cutoff(now, days), "most": OVERDUE_COUNTED_MAX}
    counts = {}
    for place in _PLACES:
        sql = place.overdue.replace(":now", "cast(:now as double precision)")
        used = {name: value for name, value in values.items() if f":{name}" in sql or name == "most"}
        row = tx.one(f"select count(*) as n from ({sql} limit :most) found", **used)  # noqa: S608 — constant text
        counts[place.name] = int(row["n"]) if row else 0
    return Overdue(counts)


def _some(tx: Tx, place: _Place, now: float, cutoff: float) -> list[int]:
    sql = place.overdue.replace(":now", "cast(:now as double precision)")
    values = {name: value for name, value in (("now", now), ("cutoff", cutoff)) if f":{name}" in sql}
    return [int(row["id"]) for row in tx.all(f"{sql} limit :most", most=BATCH, **values)]


def clean_at(tx: Tx) -> float | None:
    """When nothing was overdue, as far as a running server has noted; None before it has looked."""
    row = tx.one("select value from revisions where name = :name", name=CLEAN)
    return float(row["value"]) if row else None


def _note_clean(tx: Tx, at: float) -> None:
    tx.execute(
        "insert into revisions (name, value) values (:name, :at) on conflict (name) do update set value = :at",
        name=CLEAN,
        at=int(at),
    )


# Doing it


async def delete_overdue(store: Store, now: float, days: int) -> int:
    """Deletes whatever is overdue, batch by batch; how many rows that were. Raises Unavailable.

    Safe to be done by several processes at once, and to be stopped anywhere.
    """
    done, cutoff = 0, _cutoff(now, days)
    for place in _PLACES:
        while ids := await store.read(_some, place, now, cutoff):
            await store.run(place.empty, ids, now)
            done += len(ids)
            await asyncio.sleep(PAUSE_SECONDS)
    return done


async def settle_file(store: Store) -> bool:
    """SQLite: empties the write-ahead log into the file, so that no older copy of a page is left; whether it did.

    Readers that are under way keep it from that for now. PostgreSQL's files are its vacuum's business.
    """
    return await asyncio.to_thread(_checkpoint, store.path) if isinstance(store, SqliteStore) else True


async def compact(store: Store) -> None:
    """SQLite: writes the file anew, so that nothing is left in the slack of its pages either. Raises Unavailable.

    `secure_delete` overwrites what is deleted, but not the copies that rows leave behind when a full page is split.
    """
    if isinstance(store, SqliteStore):
        await asyncio.to_thread(_vacuum, store.path)


def _vacuum(path: Path) -> None:
    try:
        with closing(
            sqlite3.connect(f"file:{path}?mode=rw", uri=True, timeout=5.0, isolation_level=None)
        ) as connection:
            connection.execute("vacuum")
    except sqlite3.OperationalError as error:
        raise Unavailable from error


def _checkpoint(path: Path) -> bool:
    try:
        with closing(
            sqlite3.connect(f"file:{path}?mode=rw", uri=True, timeout=0.5, isolation_level=None)
        ) as connection:
            row = connection.execute("pragma wal_checkpoint(truncate)").fetchone()
    except sqlite3.OperationalError:
        return False
    return bool(row[0] == 0)


class Keeper:
    """Deletes what is overdue, in one process that works; forgets it in memory, too."""

    def __init__(self, house: House, alerts: Alerts) -> None:
        self._house = house
        self._alerts = alerts
        self._is_settled = False

    async def round(self) -> float:
        """Seconds until the next. Raises Unavailable."""
        house, now = self._house, self._house.clock()
        days = house.settings.gateway.retention.days
        done = await delete_overdue(house.store, now, days)
        if done:
            log.info("retention.deleted", rows=done)
        if done or not self._is_settled:
            self._is_settled = await settle_file(house.store)
        await self.forget()
        await self._report(now, days)
        return ROUND_SECONDS

    async def forget(self) -> float:
        """What is past its time in this process's memory goes, too; seconds to the next round. Raises Unavailable."""
        house, days = self._house, self._house.settings.gateway.retention.days
        now, shorter = house.clock(), await house.store.read(_shorter)
        house.live.forget_ended(lambda account_id: _cutoff(now, _least(shorter.get(account_id), days)))
        return ROUND_SECONDS

    async def _report(self, now: float, days: int) -> None:
        house = self._house
        left = await house.store.read(overdue, now, days)
        since = await house.store.read(clean_at)
        house.metrics.retention_overdue.set(left.total)
        if since is None or (not left.total and now - since >= CLEAN_NOTED_SECONDS):
            await house.store.run(_note_clean, now)
            since = now
        is_late = left.total > 0 and now - since >= OVERDUE_SECONDS
        sentence = f"{left.total} rows with numbers or messages should have been deleted for a day: see the log"
        self._alerts.show(ALERT, SUBJECT, sentence if is_late else "")


def _least(own: int | None, deployment_days: int) -> int:
    return min((days for days in (own, deployment_days) if days), default=0)
