"""What an operator has to know: each alert is on or off, and told once per change, restarts included."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog

from gateway.errors import Unavailable
from gateway.metrics import Metrics
from gateway.model import Clock
from gateway.store import Row, Store, Tx

Tell = Callable[[str, str], None]
"""Sends a title and a sentence to the notification list; returns at once and never raises."""

OF_HOST = "host:"
"""How the subjects of alerts begin that are about one process's own machine."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Alert:
    """Something that is wrong now: `name` says what, `subject` with what, `sentence` what to do."""

    name: str
    subject: str
    sentence: str
    since: float


class Alerts:
    """The alerts of one gateway. `show` is cheap and may be called as often as one looks."""

    def __init__(self, store: Store, metrics: Metrics, clock: Clock, tell: Tell) -> None:
        self._store = store
        self._metrics = metrics
        self._clock = clock
        self._tell = tell
        self._on: dict[tuple[str, str], Alert] = {}
        self._unwritten: set[tuple[str, str]] = set()

    async def restore(self) -> None:
        """Recalls what was told before the start, so that it is not told again. Raises Unavailable."""
        rows = await self._store.read(standing)
        self.let_go()
        for row in rows:
            if row["subject"].startswith(OF_HOST):
                self._unwritten.add((row["name"], row["subject"]))  # of a process that is gone
                continue
            alert = Alert(row["name"], row["subject"], row["sentence"], row["since"])
            self._on[alert.name, alert.subject] = alert
            self._metrics.alerts.labels(alert.name, alert.subject).set(1)

    def let_go(self) -> None:
        """Forgets what is wrong, but for this host's own troubles; nobody is told."""
        for name, subject in [key for key in self._on if not key[1].startswith(OF_HOST)]:
            self._metrics.alerts.labels(name, subject).set(0)
            del self._on[name, subject]
        self._unwritten = {key for key in self._unwritten if key in self._on}

    def show(self, name: str, subject: str, sentence: str) -> None:
        """Something is wrong (`sentence` says what, and what to do), or, with an empty sentence, no longer."""
        key = (name, subject)
        if bool(sentence) is (key in self._on):
            return
        if sentence:
            self._on[key] = Alert(name, subject, sentence, self._clock())
            log.warning("alert.on", alert=name, subject=subject, sentence=sentence)
            self._tell(f"simroute: {name.replace('_', ' ')}: {subject}", sentence)
        else:
            del self._on[key]
            log.info("alert.off", alert=name, subject=subject)
            self._tell(f"simroute: {name.replace('_', ' ')}: {subject} is well again", f"{subject}: over.")
        self._metrics.alerts.labels(name, subject).set(int(bool(sentence)))
        self._unwritten.add(key)

    def forget(self, subjects: set[str]) -> None:
        """Ends the alerts about whatever is no longer there; `subjects` are those that are.

        A subject with a colon, such as `payment:17`, is looked after by whoever shows it (see `replace`).
        """
        for name, subject in [key for key in self._on if key[1] not in subjects and ":" not in key[1]]:
            self.show(name, subject, "")

    def replace(self, name: str, sentences: Mapping[str, str]) -> None:
        """Shows all that is wrong by one name, by subject, and ends whatever of that name is not among it."""
        for subject in [subject for other, subject in self._on if other == name and subject not in sentences]:
            self.show(name, subject, "")
        for subject, sentence in sentences.items():
            self.show(name, subject, sentence)

    async def write(self) -> None:
        """Writes down what changed. Raises Unavailable; it is then written with the next call."""
        changed, self._unwritten = self._unwritten, set()
        if not changed:
            return
        try:
            await self._store.run(_write, [(key, self._on.get(key)) for key in sorted(changed)])
        except Unavailable:
            self._unwritten |= changed
            raise


def standing(tx: Tx) -> list[Row]:
    """What is wrong now, the oldest first."""
    return list(tx.all("select name, subject, sentence, since from alerts order by since, name, subject"))


def _write(tx: Tx, changes: list[tuple[tuple[str, str], Alert | None]]) -> None:
    for (name, subject), alert in changes:
        tx.execute("delete from alerts where name = :name and subject = :subject", name=name, subject=subject)
        if alert is not None:
            tx.execute(
                "insert into alerts (name, subject, sentence, since) values (:name, :subject, :sentence, :since)",
                name=name,
                subject=subject,
                sentence=alert.sentence,
                since=alert.since,
            )
