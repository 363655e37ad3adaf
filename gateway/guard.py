"""Whether there is room to buy: space beside an SQLite file, file descriptors in this process.

What a purchase begins has to be ended later: its code written down, its money captured, its lease closed upstream. So
purchases stop while there is room left for the rest, and polls, cancels and codes go on.

`look` costs some system calls, one of which may wait for a disk: it runs on a thread, once a second, never for a
request. What a request asks is one dictionary.
"""

from __future__ import annotations

import math
import os
import resource
import time
from collections.abc import Mapping
from pathlib import Path

from gateway.errors import Unavailable
from gateway.metrics import Metrics
from gateway.settings import GuardSettings

LOOK_SECONDS = 1.0

FULL_SECONDS = 5.0
"""After a write that failed for want of space nothing is bought for so long; then one purchase finds out."""

WELL_AGAIN = 1.25
"""So many times the limit has to be free before purchases go on: an alert is not to flutter."""

DESCRIPTORS_ENOUGH = 65_536
PROC, DEV = "/proc/self/fd", "/dev/fd"

SUBJECTS = {"disk_low": "disk", "disk_full": "database", "descriptors_low": "process"}
"""What each kind of trouble is with, as alerts name it behind the host."""


class Guard:
    """The room of one process. `trouble` says what is short, by name, in a sentence for the operator."""

    def __init__(self, directory: Path | None = None) -> None:
        """`directory` is that of the SQLite file; None where the database is elsewhere."""
        self.trouble: Mapping[str, str] = {}
        self._directory = directory
        self._last_descriptor = math.inf

    def require_room(self) -> None:
        """Raises Unavailable where nothing may be bought now."""
        if self.trouble:
            raise Unavailable

    def is_too_many(self, descriptor: int) -> bool:
        """Whether a new connection takes one of the descriptors that are kept for what is under way.

        A system hands out the lowest one that is free: those below are all in use.
        """
        return descriptor >= self._last_descriptor

    @property
    def is_short_of_descriptors(self) -> bool:
        return "descriptors_low" in self.trouble

    def look(self, settings: GuardSettings, full_at: float, metrics: Metrics) -> None:
        """Looks again. `full_at` is when a write last failed for want of space (see `Store`)."""
        found = {
            "disk_low": self._disk(round(settings.disk_free_megabytes * 1_000_000), metrics),
            "disk_full": _full(full_at, time.monotonic()),
            "descriptors_low": self._descriptors(settings.descriptors_free, metrics),
        }
        self.trouble = {name: sentence for name, sentence in found.items() if sentence}

    def _disk(self, least_bytes: int, metrics: Metrics) -> str:
        if self._directory is None:
            return ""
        try:
            seen = os.statvfs(self._directory)
        except OSError:
            return ""  # gone: the database says so itself
        free_bytes = seen.f_bavail * seen.f_frsize
        metrics.disk_free.set(free_bytes)
        if free_bytes >= self._least("disk_low", least_bytes):
            return ""
        return (
            f"{free_bytes / 1e6:.0f} MB are free beside the database, less than guard.disk_free_megabytes:"
            " nothing is bought until there is more"
        )

    def _descriptors(self, least: int, metrics: Metrics) -> str:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft == resource.RLIM_INFINITY:
            self._last_descriptor = math.inf
            return ""
        # Of a small limit not more than a quarter is kept back: something has to be left to serve with.
        least = min(least, soft // 4)
        self._last_descriptor = soft - least // 2 if least else math.inf
        used = open_descriptors(soft)
        if used is None:
            return ""
        metrics.descriptors_free.set(soft - used)
        if soft - used >= self._least("descriptors_low", least):
            return ""
        return (
            f"{soft - used} of {soft} file descriptors are free, fewer than guard.descriptors_free: nothing is bought"
            " until there are more. Raise the limit (ulimit -n, LimitNOFILE), or see who keeps connections open"
        )

    def _least(self, name: str, limit: float) -> float:
        return limit * WELL_AGAIN if name in self.trouble else limit


def _full(full_at: float, now: float) -> str:
    if now - full_at > FULL_SECONDS:
        return ""
    return "the database could not be written for want of space: nothing is bought until there is more"


def open_descriptors(limit: int) -> int | None:
    """How many descriptors this process has open; `limit` where there is not even one to look with, None if unknown."""
    try:
        if os.path.exists(PROC):
            # Linux since 6.2 counts them, at no cost; else they are listed, the one of the listing included.
            return os.stat(PROC).st_size or len(os.listdir(PROC)) - 1
        return len(os.listdir(DEV)) - 1
    except FileNotFoundError:
        return None
    except OSError:
        return limit


def raise_limit() -> None:
    """Lets this process open as many files as it may, within reason: the usual limit is from times of fewer clients."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS_ENOUGH if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS_ENOUGH)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):
        return  # some systems name a limit that they do not grant
