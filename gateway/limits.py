"""How much a key or an account may ask for. Requests are counted in this process, changes in Redis as well.

Redis may die: then changes are counted per process until it is back, and nothing else is different.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Any

import structlog
from limits import RateLimitItemPerMinute
from limits.aio.storage import RedisStorage
from limits.aio.strategies import FixedWindowRateLimiter as SharedLimiter
from limits.errors import StorageError
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

WINDOW_SECONDS = 60

REST_SECONDS = 5.0
"""How long Redis is left alone after it did not answer: nobody waits for it twice in a row."""

ANSWER_SECONDS = 0.25

HELD_SECONDS_MAX = 1.0
"""A request above the limit waits no longer than this: its client is to be slowed, not to time out."""

DEBT_SECONDS_MAX = 2.0
"""How far a key can run ahead of its pace: whoever stops flooding is served as ever this much later."""

AT_ONCE_MIN = 60
"""Of its minute a key may use a tenth at once; of a small limit so many, as far as it goes."""

PACED_MAX = 10_000
"""Keys whose pace is remembered before those at rest are forgotten."""

log = structlog.get_logger()


class Limits:
    """A pace for requests by key, and windows of a minute for changes by key or account."""

    def __init__(
        self,
        redis_url: str | None = None,
        clock: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        """`clock` says which minute it is, the same for all processes; `ticks` paces requests in this one."""
        self._clock = clock
        self._ticks = ticks
        self._own = FixedWindowRateLimiter(MemoryStorage())
        self._due: dict[int | str, float] = {}
        self._pool = _pool(redis_url) if redis_url else None
        self._shared = SharedLimiter(_storage(redis_url, self._pool)) if redis_url and self._pool else None
        self._rest_until = 0.0
        self._is_away = False
        self._items: dict[int, RateLimitItemPerMinute] = {}

    def turn_seconds(self, who: int | str, per_minute: int) -> float:
        """Counts a request; how long it would have to wait to keep to the pace of a key, 0 within the limit.

        `who` is the key's id, or the name of those who share a pace. One number for each: the moment up to which its
        requests so far would have lasted at that pace. Not the library that counts changes: its storage starts threads
        to forget, which costs 20 µs (docs/decisions.md).
        """
        now = self._ticks()
        pause = WINDOW_SECONDS / per_minute
        ahead = (min(per_minute, max(AT_ONCE_MIN, per_minute // 10)) - 1) * pause
        due = self._due.get(who)
        if due is None:
            self._make_room(now)
        if due is None or due < now:
            due = now
        self._due[who] = min(due + pause, now + ahead + pause + DEBT_SECONDS_MAX)
        # Sums of fractions: a request that is in time to a microsecond is in time.
        late = due - now - ahead
        return late if late > 1e-6 else 0.0

    async def change(self, who: int | str, per_minute: int, count: int = 1) -> bool:
        """Counts a purchase or a change, or several at once; whether they are within the limit.

        `who` names whose changes these are: the same name shares one limit.

        The window is part of the name that is counted under, so that every process and Redis begin the next one at
        the same moment. This process counts in any case: when Redis goes away, nobody starts afresh.
        """
        item, names = self._item(per_minute), ("change", str(who), str(int(self._clock() // WINDOW_SECONDS)))
        if not self._own.hit(item, *names, cost=count):
            return False
        if self._shared is None or time.monotonic() < self._rest_until:
            return True
        try:
            # Connecting, greeting and counting together: each of them has a limit of its own as well.
            async with asyncio.timeout(ANSWER_SECONDS):
                is_within = await self._shared.hit(item, *names, cost=count)
        except (RedisError, StorageError, OSError, RuntimeError) as error:
            # RuntimeError is what uvloop raises where a connection closes while it is written to.
            self._rest(error)
            return True
        self._is_away = False
        return is_within

    async def look(self) -> None:
        """Asks whether Redis answers, unless it is left alone for now; `is_redis_away` then says so."""
        if self._pool is None or time.monotonic() < self._rest_until:
            return
        client = Redis(connection_pool=self._pool)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await client.ping()
        except (RedisError, OSError, RuntimeError) as error:
            self._rest(error)
        else:
            self._is_away = False

    def _rest(self, error: Exception) -> None:
        self._rest_until = time.monotonic() + REST_SECONDS
        if not self._is_away:
            log.warning("limits.redis_away", error=type(error).__name__)
        self._is_away = True

    def window_seconds_left(self) -> float:
        """How long the present minute of changes lasts."""
        return WINDOW_SECONDS - self._clock() % WINDOW_SECONDS

    @property
    def is_redis_away(self) -> bool:
        """Whether Redis is configured and did not answer when last asked."""
        return self._is_away

    async def aclose(self) -> None:
        if self._pool is not None:
            await self._pool.aclose()

    def _item(self, per_minute: int) -> RateLimitItemPerMinute:
        item = self._items.get(per_minute)
        if item is None:
            item = self._items[per_minute] = RateLimitItemPerMinute(per_minute)
        return item

    def _make_room(self, now: float) -> None:
        if len(self._due) >= PACED_MAX:
            self._due = {who: due for who, due in self._due.items() if due > now}


async def hold_back(seconds: float) -> bool:
    """Waits for a request's turn, but not long; whether it has come.

    Those whose turn is too far away do not wait equally long: a thousand that came together would go on together.
    """
    if seconds <= HELD_SECONDS_MAX:
        await asyncio.sleep(seconds)
        return True
    await asyncio.sleep(HELD_SECONDS_MAX * random.uniform(0.5, 1.0))
    return False


def _pool(url: str) -> ConnectionPool:
    return ConnectionPool.from_url(
        url, socket_timeout=ANSWER_SECONDS, socket_connect_timeout=ANSWER_SECONDS, retry=Retry(NoBackoff(), 0)
    )


def _storage(url: str, pool: ConnectionPool) -> RedisStorage:
    given: Any = pool  # the library's own options are typed as plain values
    return RedisStorage(
        f"async+{url}", implementation="redispy", wrap_exceptions=True, key_prefix="simroute", connection_pool=given
    )
