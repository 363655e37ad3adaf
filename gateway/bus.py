"""Hints between the processes of one deployment, through Redis: what changed, what is asked for, what was delivered.

Everything said here may be lost, and nothing secret is said: ids and names, never a number, a code or a key. What has
changed is always read from the database (`feed`), which is looked at anyway; a hint only makes that happen at once.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeout

GATHER_SECONDS = 0.005
"""What is said within this time is said together."""

ANSWER_SECONDS = 1.0
REST_SECONDS = 1.0
"""How long Redis is left alone after it failed."""

SILENCE_SECONDS = 5.0
"""How often the other end is tried while nothing is heard."""

UNSAID_MAX = 10_000

Place = tuple[str, int, str]
"""Upstream, country, service."""

log = structlog.get_logger()


class Tells(Protocol):
    """What the use-cases say to the other processes. Never waits, never raises."""

    def changed(self) -> None:
        """Something that clients see is different in the database from now on."""
        ...

    def asked(self, ids: Sequence[int]) -> None:
        """Activations whose clients have asked for them just now."""
        ...

    def delivered(self, place: Place, is_delivered: bool) -> None:
        """An activation from there got its first message, or ended without any."""
        ...

    def turned(self, upstream: str, reason: str) -> None:
        """An upstream's circuit has opened here, for that reason, or closed: then without one."""
        ...

    def listed(self, upstream: str) -> None:
        """There is a newer price list of that upstream for all, or a word on why there is none."""
        ...


class Silence:
    """For a process that is alone."""

    def turned(self, upstream: str, reason: str) -> None:
        pass

    def changed(self) -> None:
        pass

    def asked(self, ids: Sequence[int]) -> None:
        pass

    def delivered(self, place: Place, is_delivered: bool) -> None:
        pass

    def listed(self, upstream: str) -> None:
        pass


class Bus:
    """Says and hears. `on_asked`, `on_delivered`, `on_turned` and `on_listed` are called with what others said."""

    def __init__(
        self,
        url: str,
        channel: str,
        me: str,
        on_asked: Callable[[Sequence[int]], None],
        on_delivered: Callable[[Place, bool], None],
        on_turned: Callable[[str, str], None],
        on_listed: Callable[[str], None],
    ) -> None:
        """`channel` tells this deployment from others on the same Redis, `me` this process from the others."""
        self._redis = Redis.from_url(
            url,
            socket_timeout=ANSWER_SECONDS,
            socket_connect_timeout=ANSWER_SECONDS,
            retry=Retry(NoBackoff(), 0),
            decode_responses=True,
        )
        self._channel = channel
        self._me = me
        self._on_asked = on_asked
        self._on_delivered = on_delivered
        self._on_turned = on_turned
        self._on_listed = on_listed
        self._is_changed = False
        self._asked: list[int] = []
        self._delivered: list[tuple[Place, bool]] = []
        self._turned: dict[str, str] = {}
        self._listed: set[str] = set()
        self._unsaid = asyncio.Event()
        self.heard = asyncio.Event()
        """Set when another process has changed something, or when something may have been missed."""
        self.is_away = False
        self._tasks: list[asyncio.Task[None]] = []

    # Saying

    def changed(self) -> None:
        self._is_changed = True
        self._unsaid.set()

    def asked(self, ids: Sequence[int]) -> None:
        self._asked = [*self._asked, *ids][-UNSAID_MAX:]
        self._unsaid.set()

    def delivered(self, place: Place, is_delivered: bool) -> None:
        self._delivered = [*self._delivered, (place, is_delivered)][-UNSAID_MAX:]
        self._unsaid.set()

    def turned(self, upstream: str, reason: str) -> None:
        self._turned[upstream] = reason
        self._unsaid.set()

    def listed(self, upstream: str) -> None:
        self._listed.add(upstream)
        self._unsaid.set()

    # Running

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._say(), name="say"), asyncio.create_task(self._hear(), name="hear")]

    async def aclose(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with suppress(RedisError, OSError, RuntimeError):
            await self._redis.aclose()

    async def _say(self) -> None:
        while True:
            await self._unsaid.wait()
            await asyncio.sleep(GATHER_SECONDS)
            self._unsaid.clear()
            words = self._words()
            try:
                await self._redis.publish(self._channel, words)
            except (RedisError, OSError, RuntimeError) as error:
                self._gone(error)
                await asyncio.sleep(REST_SECONDS)

    def _words(self) -> str:
        said = {
            "from": self._me,
            "changed": self._is_changed,
            "asked": self._asked,
            "delivered": self._delivered,
            "turned": self._turned,
            "listed": sorted(self._listed),
        }
        self._listed = set()
        self._is_changed, self._asked, self._delivered, self._turned = False, [], [], {}
        return json.dumps(said)

    async def _hear(self) -> None:
        while True:
            try:
                async with self._redis.pubsub(ignore_subscribe_messages=True) as pubsub:
                    await pubsub.subscribe(self._channel)
                    self._back()
                    await self._listen(pubsub)
            except (RedisError, OSError, RuntimeError) as error:
                self._gone(error)
                await asyncio.sleep(REST_SECONDS)

    async def _listen(self, pubsub: Any) -> None:
        """A connection that is gone without a word looks like silence, so it is asked, itself. Raises RedisError."""
        quiet_since, is_asked = time.monotonic(), False
        while True:
            message = await pubsub.get_message(timeout=SILENCE_SECONDS)
            now = time.monotonic()
            if message is not None:
                quiet_since, is_asked = now, False
                if message["type"] == "message":
                    self._take(message["data"])
            elif now - quiet_since >= 2 * SILENCE_SECONDS and is_asked:
                raise RedisTimeout("nothing comes")
            elif now - quiet_since >= SILENCE_SECONDS and not is_asked:
                is_asked = True
                await pubsub.ping()

    def _take(self, words: str) -> None:
        try:
            said = json.loads(words)
            if said["from"] == self._me:
                return
            if said["changed"]:
                self.heard.set()
            self._on_asked([int(one) for one in said["asked"]])
            for (upstream, country, service), is_delivered in said["delivered"]:
                self._on_delivered((str(upstream), int(country), str(service)), bool(is_delivered))
            for upstream, reason in said["turned"].items():
                self._on_turned(str(upstream), str(reason))
            for upstream in said.get("listed", ()):  # programs of before do not say it
                self._on_listed(str(upstream))
        except (ValueError, KeyError, TypeError, AttributeError):
            log.warning("bus.unreadable")  # another version's, or a stranger's: hints may be lost

    def _gone(self, error: Exception) -> None:
        if not self.is_away:
            self.is_away = True
            log.warning("bus.away", error=type(error).__name__)

    def _back(self) -> None:
        self.heard.set()  # whatever was said meanwhile was missed
        if self.is_away:
            self.is_away = False
            log.info("bus.back")
