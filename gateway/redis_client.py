"""A Redis client as the processes of one deployment use it: what may be lost is tried once, and not for long."""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

ANSWER_SECONDS = 1.0


def redis_client(url: str, carry_seconds: float = ANSWER_SECONDS, **options: Any) -> Redis:
    """Connects when first used. An answer may take `carry_seconds`, a connection no longer than a short answer.

    `options` are the library's own.
    """
    return Redis.from_url(
        url,
        socket_timeout=carry_seconds,
        socket_connect_timeout=ANSWER_SECONDS,
        retry=Retry(NoBackoff(), 0),
        **options,
    )
