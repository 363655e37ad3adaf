"""Takes the day's backup, prunes the older ones, and raises the alert when the last good one is too old.

Of several processes on one database one does it: whoever claims the row. A claim is short; what keeps a second backup
from being taken beside one that takes longer is the lock of the backup itself, which ends with its process.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog

from gateway import backups
from gateway.alerts import Alerts
from gateway.backups import BackupError, Busy
from gateway.errors import Unavailable
from gateway.house import House
from gateway.settings import BackupSettings
from gateway.store import Row, Tx

ROUND_SECONDS = 20.0
CLAIM_SECONDS = 60.0
"""How soon somebody looks whether the one who claimed it is still at it."""

RETRY_SECONDS = 1800.0
NAME = "daily"
SUBJECT = f"backup:{NAME}"

log = structlog.get_logger()


class Archivist:
    """One per process that works."""

    def __init__(self, house: House, url: str, alerts: Alerts) -> None:
        self._house = house
        self._url = url
        self._alerts = alerts
        self._is_stopping = threading.Event()

    async def round(self) -> float:
        """Takes a backup where it is time to; seconds until the next look. Raises Unavailable."""
        house, settings = self._house, self._house.settings.gateway.backup
        directory = backups.place(settings, self._url)
        if directory is None or not settings.keep_daily:
            self._alerts.replace("backup_old", {})
            return ROUND_SECONDS
        now = house.clock()
        state = await self._state(now)
        self._show(state, settings, now)  # a backup may take hours, or hang
        if is_due(state, settings.hour, now) and await house.store.run(claim, state, now + CLAIM_SECONDS):
            await self._back_up(directory, settings, now)
            state = await self._state(now)
        self._show(state, settings, house.clock())
        return ROUND_SECONDS

    async def _state(self, now: float) -> Row:
        row = await self._house.store.read(current, NAME)
        return row if row is not None else await self._house.store.run(begin, NAME, now)

    async def _back_up(self, directory: Path, settings: BackupSettings, now: float) -> None:
        house = self._house
        work = asyncio.ensure_future(asyncio.to_thread(self._take, directory, settings, now))
        try:
            file = await asyncio.shield(work)
        except asyncio.CancelledError:
            # The thread can't be cancelled; it looks at this between two pieces, and removes what it wrote.
            self._is_stopping.set()
            await asyncio.gather(work, return_exceptions=True)
            with suppress(Unavailable):
                await house.store.run(note_failed, NAME, "the process was stopped", 0.0)
            raise
        except Busy:
            log.info("backup.busy")  # what becomes of it is noted by whoever takes it
        except BackupError as error:
            log.warning("backup.failed", reason=str(error))
            await house.store.run(note_failed, NAME, str(error), now + RETRY_SECONDS)
        except Exception as error:
            log.exception("backup.failed")
            await house.store.run(note_failed, NAME, f"failed: {type(error).__name__}", now + RETRY_SECONDS)
        else:
            await house.store.run(note_good, NAME, file, now)
            await asyncio.to_thread(self._prune, directory, settings)

    def _take(self, directory: Path, settings: BackupSettings, now: float) -> str:
        vault, tools = self._house.vault, settings.postgresql_tools
        taken = backups.take(self._url, vault, directory, now, tools=tools, should_stop=self._is_stopping.is_set)
        log.info("backup.taken", file=taken.path.name, bytes=taken.size)
        return taken.path.name

    def _prune(self, directory: Path, settings: BackupSettings) -> None:
        vault = self._house.vault
        try:
            gone = backups.prune(directory, vault, settings.keep_daily, settings.keep_weekly)
        except OSError as error:  # the backup is good all the same
            log.warning("backup.not_pruned", reason=error.strerror)
        else:
            log.info("backup.pruned", files=len(gone))

    def _show(self, state: Row, settings: BackupSettings, now: float) -> None:
        if state["good_at"]:
            self._house.metrics.backup_at.set(state["good_at"])
        hours = (now - (state["good_at"] or state["since"])) / 3600
        sentence = f"there has been no good backup for {hours:.0f} h: {state['problem'] or 'none was finished'}"
        self._alerts.replace("backup_old", {SUBJECT: sentence} if hours > settings.alert_hours else {})


def is_due(state: Row, hour: int, now: float) -> bool:
    """Whether the hour has come since the last good backup, or since they began to be looked after."""
    latest = datetime.fromtimestamp(now, UTC).replace(hour=hour, minute=0, second=0, microsecond=0)
    if latest.timestamp() > now:
        latest -= timedelta(days=1)
    return bool(max(state["good_at"], state["since"]) < latest.timestamp() and state["claimed_until"] <= now)


# Units of work


def current(tx: Tx, name: str) -> Row | None:
    return tx.one("select * from backup_state where name = :name", name=name)


def begin(tx: Tx, name: str, at: float) -> Row:
    """The row, made where there is none."""
    tx.execute(
        "insert into backup_state (name, since) values (:name, :at) on conflict (name) do nothing", name=name, at=at
    )
    row = current(tx, name)
    assert row is not None  # noqa: S101 — it was made a moment ago
    return row


def claim(tx: Tx, seen: Row, until: float) -> bool:
    """Whether the backup is ours to take: nobody else claimed it since the row was read."""
    return bool(
        tx.execute(
            "update backup_state set claimed_until = :until"
            " where name = :name and claimed_until = :claimed and good_at = :good",
            until=until,
            name=seen["name"],
            claimed=seen["claimed_until"],
            good=seen["good_at"],
        )
    )


def note_good(tx: Tx, name: str, file: str, at: float) -> None:
    tx.execute(
        "update backup_state set good_at = :at, file = :file, problem = '', claimed_until = 0 where name = :name",
        at=at,
        file=file,
        name=name,
    )


def note_failed(tx: Tx, name: str, problem: str, retry_at: float) -> None:
    tx.execute(
        "update backup_state set problem = :problem, claimed_until = :at where name = :name",
        problem=problem,
        at=retry_at,
        name=name,
    )
