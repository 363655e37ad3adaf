"""Work at one upstream each that nobody waits for long: one that hangs keeps nobody else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Set
from functools import partial
from typing import Any

import structlog

log = structlog.get_logger()


class Errands:
    """What is under way, by kind and upstream: one of each at a time."""

    def __init__(self) -> None:
        self._under_way: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._begun_at: dict[asyncio.Task[None], float] = {}

    def begin(self, kind: str, upstream: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Begins it, unless the last one of its kind is still under way there."""
        before = self._under_way.get((kind, upstream))
        if before is None or before.done():
            self._under_way[kind, upstream] = task = asyncio.create_task(work())
            self._begun_at[task] = time.monotonic()
            task.add_done_callback(partial(self._ended, kind, upstream))

    async def wait(self, seconds: float, kind: str = "") -> Set[asyncio.Task[None]]:
        """Those of a kind, or of all, that have ended by now or do so in this time.

        What has been under way for longer is not waited for: it had its time.
        """
        late = time.monotonic() - seconds
        tasks = [
            task
            for (of_kind, _), task in self._under_way.items()
            if kind in ("", of_kind) and self._begun_at[task] > late
        ]
        if not tasks:
            return frozenset()
        done, _ = await asyncio.wait(tasks, timeout=seconds)
        return done

    async def drop(self) -> None:
        """Ends what is under way, wherever it is."""
        tasks = list(self._begun_at)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, kind: str, upstream: str, task: asyncio.Task[None]) -> None:
        del self._begun_at[task]
        if self._under_way.get((kind, upstream)) is task:
            del self._under_way[kind, upstream]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.info("errand.failed", errand=kind, upstream=upstream, error=type(error).__name__)
