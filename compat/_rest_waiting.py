"""Clients that wait for a code: one timer looks at what all of them wait for, in memory, ten times a second.

However many wait, there is one wake-up a tick; each of them is woken only when something has changed. Nothing here
touches the database or an upstream.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Protocol

from compat._rest_problems import Refused
from gateway.accounts import Caller
from gateway.live import Live
from gateway.model import Status

LOOK_SECONDS = 0.1
WAITERS_PER_KEY = 200
WAITERS_MAX = 5_000


class Peek(Protocol):
    """`Activations.peek`: what an account has, from memory. It notes that somebody asked, so it is polled sooner."""

    def __call__(self, account_id: int, activation_id: int, *, is_rental: bool = False) -> Live | None: ...


def is_awaited(live: Live) -> bool:
    """Whether there is something to wait for: a first message, or another."""
    return live.status in (Status.WAITING, Status.RETRYING)


class Place:
    """One client's place. `live` is what it waits for, as last seen."""

    def __init__(self, waiting: Waiting, key_id: int, live: Live) -> None:
        self._waiting = waiting
        self.key_id = key_id
        self.live = live
        self._seen = _state(live)
        self._told: asyncio.Future[None] | None = None

    async def change(self, seconds: float, hung_up: asyncio.Future[None]) -> bool:
        """Whether anything has changed since it was last called; returns early when the client is gone or all stops."""
        if self._seen == _state(self.live) and not self._waiting.is_stopping():
            self._told = asyncio.get_running_loop().create_future()
            await asyncio.wait({self._told, hung_up}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            self._told = None
        seen, self._seen = self._seen, _state(self.live)
        return seen != self._seen

    def look(self, peek: Peek, *, is_stopping: bool) -> None:
        """Called by the timer."""
        self.live = peek(self.live.account_id, self.live.id, is_rental=self.live.is_rental) or self.live
        if self._told is not None and not self._told.done() and (is_stopping or _state(self.live) != self._seen):
            self._told.set_result(None)

    def leave(self) -> None:
        """Gives the place free. Safe to repeat."""
        self._waiting.leave(self)


class Waiting:
    """Everybody who waits in this process."""

    def __init__(self, peek: Peek, is_stopping: Callable[[], bool]) -> None:
        self.is_stopping = is_stopping
        self._peek = peek
        self._places: set[Place] = set()
        self._by_key: Counter[int] = Counter()
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._places)

    def enter(self, caller: Caller, live: Live) -> Place:
        """A place to wait at, to be left again. Raises Refused where there are too many."""
        if self._by_key[caller.key_id] >= WAITERS_PER_KEY or len(self._places) >= WAITERS_MAX:
            raise Refused("too_many_waiting")
        place = Place(self, caller.key_id, live)
        self._places.add(place)
        self._by_key[caller.key_id] += 1
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)
        return place

    def leave(self, place: Place) -> None:
        if place not in self._places:
            return
        self._places.remove(place)
        self._by_key[place.key_id] -= 1
        if not self._by_key[place.key_id]:
            del self._by_key[place.key_id]
        if not self._places and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)
        is_stopping = self.is_stopping()
        for place in self._places:
            place.look(self._peek, is_stopping=is_stopping)


def _state(live: Live) -> tuple[Status, int, int]:
    return live.status, live.round, len(live.messages)
