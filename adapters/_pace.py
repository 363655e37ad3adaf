"""A pause between the calls to an upstream that drops connections when it is asked too fast."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from enum import IntEnum


class Urgency(IntEnum):
    """Who goes first when several wait: somebody waits for a purchase, nobody for a price list."""

    BUY = 0
    CLOSE = 1
    READ = 2
    LIST = 3


class Pace:
    """Lets one call begin in `pause_seconds`, the most urgent first and equals in turn. 0 lets all through."""

    def __init__(self, pause_seconds: float) -> None:
        self._pause_seconds = pause_seconds
        self._waiting: list[tuple[Urgency, int, asyncio.Future[None]]] = []
        self._serial = itertools.count()
        self._next_at = 0.0
        self._is_armed = False

    async def turn(self, urgency: Urgency) -> None:
        """Returns when the call may begin. A caller that gives up waiting takes no turn."""
        if not self._pause_seconds:
            return
        turn = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (urgency, next(self._serial), turn))
        self._arm()
        await turn

    def _arm(self) -> None:
        if not self._is_armed and self._waiting:
            self._is_armed = True
            asyncio.get_running_loop().call_at(self._next_at, self._release)

    def _release(self) -> None:
        self._is_armed = False
        while self._waiting:
            turn = heapq.heappop(self._waiting)[2]
            if not turn.done():
                turn.set_result(None)
                self._next_at = asyncio.get_running_loop().time() + self._pause_seconds
                break
        self._arm()
