"""How much one key may ask for. Polls are counted in this process; changes in Redis where there is one.

Redis may die: then changes are counted per process until it is back, and nothing else is different.
"""

from __future__ import annotations

import time
from typing import Any

import structlog
from limits import RateLimitItemPerMinute
from limits.aio.storage import RedisStorage
from limits.aio.strategies import FixedWindowRateLimiter as SharedLimiter
from limits.errors import StorageError
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter
from redis.asyncio import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

REST_SECONDS = 5.0
"""How long Redis is left alone after it did not answer: nobody waits for it twice in a row."""

ANSWER_SECONDS = 0.25

log = structlog.get_logger()


class Limits:
    """Fixed windows of a minute, by kind and key."""

    def __init__(self, redis_url: str | None = None) -> None:
        self._own = FixedWindowRateLimiter(MemoryStorage())
        self._polls: dict[int, int] = {}
        self._polls_until = 0.0
        self._pool = _pool(redis_url) if redis_url else None
        self._shared = SharedLimiter(_storage(redis_url, self._pool)) if redis_url and self._pool else None
        self._rest_until = 0.0
        self._items: dict[int, RateLimitItemPerMinute] = {}

    def poll(self, key_id: int, per_minute: int) -> bool:
        """Counts a poll; whether it is within the limit. Never waits.

        A dictionary emptied every minute, not the library: its storage starts threads to forget old windows, which
        costs a poll 20 of its 75 µs (docs/decisions.md).
        """
        now = time.monotonic()
        if now >= self._polls_until:
            self._polls.clear()
            self._polls_until = now + 60.0
        count = self._polls[key_id] = self._polls.get(key_id, 0) + 1
        return count <= per_minute

    async def change(self, key_id: int, per_minute: int) -> bool:
        """Counts a purchase or a change; whether it is within the limit."""
        item = self._item(per_minute)
        if self._shared is not None and time.monotonic() >= self._rest_until:
            try:
                return await self._shared.hit(item, "change", str(key_id))
            except (RedisError, StorageError, OSError) as error:
                self._rest_until = time.monotonic() + REST_SECONDS
                log.warning("limits.redis_away", error=type(error).__name__)
        return self._own.hit(item, "change", str(key_id))

    @property
    def is_redis_away(self) -> bool:
        """Whether Redis is configured and did not answer when last asked."""
        return self._shared is not None and time.monotonic() < self._rest_until

    async def aclose(self) -> None:
        if self._pool is not None:
            await self._pool.aclose()

    def _item(self, per_minute: int) -> RateLimitItemPerMinute:
        item = self._items.get(per_minute)
        if item is None:
            item = self._items[per_minute] = RateLimitItemPerMinute(per_minute)
        return item


def _pool(url: str) -> ConnectionPool:
    return ConnectionPool.from_url(
        url, socket_timeout=ANSWER_SECONDS, socket_connect_timeout=ANSWER_SECONDS, retry=Retry(NoBackoff(), 0)
    )


def _storage(url: str, pool: ConnectionPool) -> RedisStorage:
    given: Any = pool  # the library's own options are typed as plain values
    return RedisStorage(
        f"async+{url}", implementation="redispy", wrap_exceptions=True, key_prefix="simroute", connection_pool=given
    )
