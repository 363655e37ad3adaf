"""What an operator has to know: each alert is on or off, and told once per change, restarts included.

These are one deployment's, shown by one process at a time; what is wrong with a machine is in `host_alerts`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog

from gateway.metrics import Metrics
from gateway.model import Clock
from gateway.store import Row, Store, Tx

Tell = Callable[[str, str], None]
"""Sends a title and a sentence to the notification list; returns at once and never raises."""

OF_HOST = "host:"
"""How the subjects of alerts begin that are about one machine: its own processes look after those."""

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
        self._writing = asyncio.Lock()
        """Of two changes of one alert the later one is written last."""

        self._is_let_go = False

    async def restore(self) -> None:
        """Recalls what was told before the start, so that it is not told again. Raises Unavailable."""
        rows = await self._store.read(standing)
        self.let_go()
        self._is_let_go = False
        for row in rows:
            if row["subject"].startswith(OF_HOST):
                continue
            alert = Alert(row["name"], row["subject"], row["sentence"], row["since"])
            self._on[alert.name, alert.subject] = alert
            self._metrics.alerts.labels(alert.name, alert.subject).set(1)

    def let_go(self) -> None:
        """Forgets what is wrong; nobody is told. Whatever is shown before the next `restore` is another's to show."""
        for key in self._on:
            self._metrics.alerts.labels(*key).set(0)
        self._on, self._unwritten, self._is_let_go = {}, set(), True

    def since(self, name: str, subject: str) -> float | None:
        """When it went wrong, be it before the start; None where nothing is."""
        alert = self._on.get((name, subject))
        return None if alert is None else alert.since

    def sentences(self, name: str, since: float) -> dict[str, str]:
        """What has gone wrong by one name from then on, and still is, by subject."""
        return {
            alert.subject: alert.sentence for alert in self._on.values() if alert.name == name and alert.since >= since
        }

    def show(self, name: str, subject: str, sentence: str) -> None:
        """Something is wrong (`sentence` says what, and what to do), or, with an empty sentence, is known to be well.

        Who does not know yet calls nothing: what was told before the start then stands.
        """
        key = (name, subject)
        if self._is_let_go or bool(sentence) is (key in self._on):
            return
        if sentence:
            self._on[key] = Alert(name, subject, sentence, self._clock())
            say_on(self._tell, name, subject, sentence)
        else:
            del self._on[key]
            say_off(self._tell, name, subject)
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
        async with self._writing:
            changed, self._unwritten = self._unwritten, set()
            if not changed:
                return
            try:
                await self._store.run(_write, [(key, self._on.get(key)) for key in sorted(changed)])
            except BaseException:
                self._unwritten |= changed
                raise


def say_on(tell: Tell, name: str, subject: str, sentence: str) -> None:
    """To the log and to people."""
    log.warning("alert.on", alert=name, subject=subject, sentence=sentence)
    tell(f"simroute: {name.replace('_', ' ')}: {subject}", sentence)


def say_off(tell: Tell, name: str, subject: str, reason: str = "over") -> None:
    log.info("alert.off", alert=name, subject=subject, reason=reason)
    tell(f"simroute: {name.replace('_', ' ')}: {subject} is well again", f"{subject}: {reason}.")


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
