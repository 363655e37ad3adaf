"""What is wrong with this machine (see `guard`), told once for all its processes, restarts included.

A row stands for a trouble of a host, and for as long as a process there renews it. So a process that is started again
and meets the same trouble tells nobody, and of several processes on a host none ends what another has. Hosts leave each
other's rows alone, but for those that nobody has renewed for a day: their host is gone for good.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from gateway.alerts import OF_HOST, Tell, say_off, say_on
from gateway.errors import Unavailable
from gateway.guard import SUBJECTS
from gateway.metrics import Metrics
from gateway.model import Clock
from gateway.store import Row, Store, Tx

RENEW_SECONDS = 15.0
QUIET_SECONDS = 45.0
"""What no process of a host has renewed for so long is over there."""

GONE_SECONDS = 86_400.0
GONE = "nothing was heard of that host for a day, it is taken for gone"

Key = tuple[str, str]
"""An alert's name and subject."""


class HostAlerts:
    """One process's part in them. `host` names the machine, the same after each start."""

    def __init__(self, store: Store, metrics: Metrics, clock: Clock, tell: Tell, host: str, *, is_shared: bool) -> None:
        """`is_shared` says whether other processes may use the database, perhaps on this host; one that is alone knows
        by itself what is over."""
        self._store = store
        self._metrics = metrics
        self._clock = clock
        self._tell = tell
        self._subjects = {name: f"{OF_HOST}{host}:{what}" for name, what in SUBJECTS.items()}
        self._quiet_seconds = QUIET_SECONDS if is_shared else 0.0
        self._found: dict[Key, str] = {}
        self._told: set[Key] = set()
        """What this process finds wrong, and somebody has told."""

        self._unwritten: dict[Key, str] = {}
        """Told by this process, and not written down yet."""

        self._renew_at = 0.0

    def notice(self, trouble: Mapping[str, str]) -> None:
        """What this process finds wrong now, by an alert's name; all else is well."""
        self._found = {(name, self._subjects[name]): sentence for name, sentence in trouble.items()}
        for key in self._subjects.items():
            self._metrics.alerts.labels(*key).set(int(key in self._found))

    async def round(self) -> None:
        """Tells what has begun and what is over, and writes it down; where it can't be the next round tries again.

        What has begun is told all the same. What is over is told once that is written: a disk is not known to be well
        before it has taken something.
        """
        now, found = self._clock(), self._found
        if found.keys() == self._told and not self._unwritten and now < self._renew_at:
            return
        wanted, seen = {**self._unwritten, **found}, dict[Key, Row]()
        try:
            seen = {(row["name"], row["subject"]): row for row in await self._store.read(_of_hosts)}
            begun, over, gone = await self._bring_up_to_date(wanted, seen, now)
        except Unavailable:
            # A full disk is still read from: what was told before the start is known.
            untold = {key: found[key] for key in sorted(found.keys() - self._told - seen.keys())}
            self._say_on(untold)
            self._unwritten |= untold
            self._told |= found.keys()
            return
        self._say_on({key: wanted[key] for key in begun if key not in self._unwritten})
        for key in over:
            say_off(self._tell, *key)
        for key in gone:
            say_off(self._tell, *key, GONE)
        self._told, self._unwritten, self._renew_at = set(wanted), {}, now + RENEW_SECONDS

    def _say_on(self, sentences: Mapping[Key, str]) -> None:
        for key, sentence in sentences.items():
            say_on(self._tell, *key, sentence)

    async def _bring_up_to_date(
        self, wanted: Mapping[Key, str], seen: Mapping[Key, Row], now: float
    ) -> tuple[Sequence[Key], Sequence[Key], Sequence[Key]]:
        """What was not written before, what is over here, and what was of hosts that are gone. Raises Unavailable."""
        mine = set(self._subjects.items())
        over = [
            key for key, row in seen.items()
            if key in mine and key not in wanted and not 0 <= now - _heard_at(row) < self._quiet_seconds
        ]  # fmt: skip
        gone = [key for key, row in seen.items() if key not in mine and now - _heard_at(row) >= GONE_SECONDS]
        if not (wanted or over or gone):
            return (), (), ()
        begun, ended = await self._store.run(_write, wanted, [seen[key] for key in (*over, *gone)], now)
        return begun, [key for key in over if key in ended], [key for key in gone if key in ended]


def _heard_at(row: Row) -> float:
    return max(float(row["since"]), float(row["seen_at"]))  # an older program's rows are never renewed


# Units of work


def _of_hosts(tx: Tx) -> list[Row]:
    return list(
        tx.all(
            "select name, subject, since, seen_at from alerts where subject like :pattern order by name, subject",
            pattern=f"{OF_HOST}%",
        )
    )


def _write(tx: Tx, wanted: Mapping[Key, str], quiet: Iterable[Row], at: float) -> tuple[Sequence[Key], Sequence[Key]]:
    """Renews what is wanted and deletes what is quiet; what was not there before, and what nobody has renewed since."""
    begun = [key for key in sorted(wanted) if _renew(tx, key, wanted[key], at)]
    ended = [
        (row["name"], row["subject"])
        for row in quiet
        if tx.execute(
            "delete from alerts where name = :name and subject = :subject and seen_at = :seen",
            name=row["name"],
            subject=row["subject"],
            seen=row["seen_at"],
        )
    ]
    return begun, ended


def _renew(tx: Tx, key: Key, sentence: str, at: float) -> bool:
    """Whether it was not there."""
    values = {"name": key[0], "subject": key[1], "sentence": sentence, "at": at}
    if tx.execute(
        "update alerts set sentence = :sentence, seen_at = :at where name = :name and subject = :subject", **values
    ):
        return False
    return bool(
        tx.execute(
            "insert into alerts (name, subject, sentence, since, seen_at) values (:name, :subject, :sentence, :at, :at)"
            " on conflict do nothing",
            **values,
        )
    )
