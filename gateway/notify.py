"""Tells the people who run the gateway that something waits for them, at the addresses they listed.

The addresses hold tokens and passwords, so they never reach a log or a repr; a notice passes through other people's
hands, so it never holds a number, a code or a text. What it takes to reach thirty kinds of messenger is Apprise's.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Sequence
from queue import Full, Queue
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from apprise import Apprise

QUEUE_MAX = 100
"""Notices kept while the addresses are slow; further ones are dropped, since by then they say the same."""

SEND_SECONDS = 20.0
"""How long one address may take."""

STOP_SECONDS = 3.0

log = structlog.get_logger()


def addresses(text: str) -> tuple[str, ...]:
    """What `NOTIFY_URLS` lists: Apprise addresses with white space or commas between them.

    A comma that no address follows belongs to the one before it, where it stands between recipients.
    """
    parts = (part.strip(",") for part in re.split(r"\s+|,(?=[a-z0-9]{1,20}://)", text))
    return tuple(part for part in parts if part)


def _ignore(_result: str) -> None:
    """Counts nothing."""


class Notifier:
    """Sends notices from a thread of its own. `send` never waits and never raises.

    `count` is called with `sent`, `failed` (once an address) or `dropped`, from any thread.
    """

    def __init__(self, urls: Sequence[str], count: Callable[[str], None] = _ignore) -> None:
        self._urls = tuple(urls)
        self._count = count
        self._queue: Queue[tuple[str, str] | None] = Queue(QUEUE_MAX)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def __repr__(self) -> str:
        return f"Notifier({len(self._urls)} addresses)"

    def start(self) -> None:
        """Reads the addresses now rather than with the first notice, so that the log tells of a bad one in time."""
        with self._lock:
            if self._thread is None and self._urls and not self._is_closed:
                self._thread = threading.Thread(target=self._work, name="notify", daemon=True)
                self._thread.start()

    def send(self, title: str, body: str) -> None:
        """Puts a notice on its way; nothing where no address is set."""
        if not self._urls or self._is_closed:
            return
        try:
            self._queue.put_nowait((title, body))
        except Full:
            self._count("dropped")
            log.warning("notify.dropped")
        self.start()

    def close(self, seconds: float = STOP_SECONDS) -> None:
        """Sends what is queued, as far as the time reaches, and ends. Blocks; safe to repeat."""
        with self._lock:
            self._is_closed = True
            thread = self._thread
        if thread is None:
            return
        deadline = time.monotonic() + seconds
        try:
            self._queue.put(None, timeout=seconds)
        except Full:
            return
        thread.join(max(0.0, deadline - time.monotonic()))

    def _work(self) -> None:
        targets: list[tuple[int, Apprise]] | None = None
        while True:
            if targets is None:
                targets = self._targets()
            notice = self._queue.get()
            if notice is None:
                return
            for place, target in targets:
                self._send(place, target, *notice)

    def _targets(self) -> list[tuple[int, Apprise]]:
        """One sender an address, so that each one's failure is known. Those that can't be read count as no address."""
        from apprise import Apprise, AppriseAsset  # a third of a second, so not at every start of a command
        from apprise.common import PersistentStoreMode

        # Its own log quotes addresses when it complains of them, and texts when it is told to debug.
        logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)
        asset = AppriseAsset(
            app_id="simroute",
            app_desc="simroute",
            async_mode=False,
            http_redirects=False,
            storage_mode=PersistentStoreMode.MEMORY,
            service_timeout=SEND_SECONDS,
        )
        found = []
        for place, url in enumerate(self._urls, start=1):
            target = Apprise(asset=asset)
            if _adds(target, url):
                found.append((place, target))
            else:
                self._count("failed")
                log.error("notify.bad_address", place=place, scheme=_scheme(url))
        return found

    def _send(self, place: int, target: Apprise, title: str, body: str) -> None:
        try:
            is_sent, error = bool(target.notify(body=body, title=title)), ""
        except Exception as raised:  # whatever one of a hundred plug-ins meets, the next notice must still go out
            is_sent, error = False, type(raised).__name__
        self._count("sent" if is_sent else "failed")
        if not is_sent:
            log.warning("notify.failed", place=place, scheme=_scheme(self._urls[place - 1]), error=error)


def _adds(target: Apprise, url: str) -> bool:
    try:
        return bool(target.add(url))
    except Exception:  # as above: an address is text that somebody typed
        return False


def _scheme(url: str) -> str:
    """`tgram` of `tgram://…`: which address failed, without what is secret in it."""
    scheme, colon, _ = url.partition("://")
    return scheme if colon and re.fullmatch(r"[a-z0-9]{1,20}", scheme) else ""
