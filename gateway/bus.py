"""Hints between the processes of one deployment, through Redis: what changed, what is asked for, what was delivered.
Two questions, too: whose client has hung up (`handovers`), and whether all have looked at the database (`feed`).

Everything said here may be lost, and nothing secret is said: ids and names, never a number, a code or a key. What has
changed is always read from the database (`feed`), which is looked at anyway; a hint only makes that happen at once.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import structlog
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeout

from gateway.redis_client import redis_client

GATHER_SECONDS = 0.005
"""What is said within this time is said together."""

REST_SECONDS = 1.0
"""How long Redis is left alone after it failed."""

SILENCE_SECONDS = 5.0
"""How often the other end is tried while nothing is heard."""

UNSAID_MAX = 10_000

SAID_AT_ONCE_MAX = 20
"""Each question and answer takes a connection for a moment."""

ASK_SECONDS = 0.3
"""How long the answer to a question is waited for."""

_NOTHING: dict[str, Any] = {"changed": False, "asked": [], "delivered": [], "turned": {}}
"""What every message says, so that programs that know of no questions can read it."""

Place = tuple[str, int, str]
"""Upstream, country, service."""

log = structlog.get_logger()


class Tells(Protocol):
    """What the use-cases say to the other processes. Never waits (but for an answer), never raises."""

    @property
    def me(self) -> str:
        """This process's name among those that share the database; empty where it is alone."""
        ...

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

    async def ask_who_left(self, processes: Collection[str], ids: Sequence[int]) -> bool:
        """Whether one of these processes says that a client of these orders, which waited there, has hung up.

        False where none of them answers in time.
        """
        ...

    async def ask_to_look(self, processes: int, seconds: float) -> bool:
        """Asks all to look at the database; whether so many processes have, this one included, and all that listen.

        False where one does not say so within that time.
        """
        ...


class Silence:
    """For a process that is alone."""

    me = ""

    async def ask_who_left(self, processes: Collection[str], ids: Sequence[int]) -> bool:
        return False

    async def ask_to_look(self, processes: int, seconds: float) -> bool:
        return True

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


@dataclass(slots=True)
class _Question:
    """`unheard` are the processes that have not answered yet."""

    unheard: set[str]
    answer: asyncio.Future[bool]


@dataclass(slots=True)
class _Look:
    """Who has looked of those that were asked to; `wanted` is how many have to, once that is known."""

    looked: set[str] = field(default_factory=set)
    wanted: int | None = None
    is_over: asyncio.Event = field(default_factory=asyncio.Event)

    def note(self) -> None:
        if self.wanted is not None and len(self.looked) >= self.wanted:
            self.is_over.set()


class Bus:
    """Says and hears. `on_asked`, `on_delivered`, `on_turned` and `on_listed` are called with what others said.

    `on_question` answers another process's `ask_who_left`; `on_look` looks at the database and answers whether it
    could. Neither raises.
    """

    def __init__(
        self,
        url: str,
        channel: str,
        me: str,
        on_asked: Callable[[Sequence[int]], None],
        on_delivered: Callable[[Place, bool], None],
        on_turned: Callable[[str, str], None],
        on_listed: Callable[[str], None],
        on_question: Callable[[Sequence[int]], Awaitable[bool]],
        on_look: Callable[[], Awaitable[bool]],
    ) -> None:
        """`channel` tells this deployment from others on the same Redis, `me` this process from the others."""
        # By the third protocol the client swallows the answer to a ping, and silence would look like an end.
        self._redis = redis_client(url, decode_responses=True, protocol=2)
        self._channel = channel
        self.me = me
        self._on_asked = on_asked
        self._on_delivered = on_delivered
        self._on_turned = on_turned
        self._on_listed = on_listed
        self._on_question = on_question
        self._on_look = on_look
        self._is_changed = False
        self._asked: list[int] = []
        self._delivered: list[tuple[Place, bool]] = []
        self._turned: dict[str, str] = {}
        self._listed: set[str] = set()
        self._unsaid = asyncio.Event()
        self.heard = asyncio.Event()
        """Set when another process has changed something, or when something may have been missed."""
        self._is_mute = False
        self._is_deaf = False
        self._saying = asyncio.Semaphore(SAID_AT_ONCE_MAX)
        self._tasks: list[asyncio.Task[None]] = []
        self._questions: dict[int, _Question] = {}
        self._looks: dict[int, _Look] = {}
        self._questions_asked = 0
        self._answering: set[asyncio.Task[None]] = set()

    @property
    def is_away(self) -> bool:
        """Whether nothing can be said, or nothing heard."""
        return self._is_mute or self._is_deaf

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

    # Asking

    async def ask_who_left(self, processes: Collection[str], ids: Sequence[int]) -> bool:
        if self.is_away:
            return False
        self._questions_asked += 1
        number = self._questions_asked
        question = _Question(set(processes), asyncio.get_running_loop().create_future())
        self._questions[number] = question
        try:
            async with asyncio.timeout(ASK_SECONDS):
                await self._say_at_once("question", [number, sorted(processes), list(ids)])
                return await question.answer
        except (RedisError, OSError, RuntimeError, TimeoutError):
            return False
        finally:
            del self._questions[number]

    async def ask_to_look(self, processes: int, seconds: float) -> bool:
        if self.is_away:
            return False
        self._questions_asked += 1
        number = self._questions_asked
        look = self._looks[number] = _Look()
        try:
            async with asyncio.timeout(seconds):
                look.wanted = max(processes, await self._say_to_all("look", number))
                look.note()
                await look.is_over.wait()
                return True
        except (RedisError, OSError, RuntimeError, TimeoutError):
            return False
        finally:
            del self._looks[number]

    async def _say_at_once(self, what: str, words: Any) -> None:
        """Raises RedisError, OSError, RuntimeError."""
        async with self._saying:
            await self._redis.publish(self._channel, self._sentence(what, words))

    async def _say_to_all(self, what: str, words: Any) -> int:
        """As `_say_at_once`; how many listened, this process included."""
        async with self._saying, self._redis.pipeline(transaction=False) as pipeline:
            # Of those that listen only since, the answer is waited for in vain: better than to miss one.
            pipeline.publish(self._channel, self._sentence(what, words))
            pipeline.pubsub_numsub(self._channel)
            _, ((_, listeners),) = await pipeline.execute()
            return int(listeners)

    def _sentence(self, what: str, words: Any) -> str:
        return json.dumps({"from": self.me, **_NOTHING, what: words})

    async def _answer(self, asker: str, number: int, ids: Sequence[int]) -> None:
        has_left = await self._on_question(ids)
        with suppress(RedisError, OSError, RuntimeError):  # whoever asked waits a moment and goes on
            await self._say_at_once("answer", [asker, number, has_left])

    def _take_question(self, asker: str, number: int, processes: Sequence[str], ids: Sequence[int]) -> None:
        if self.me in processes:
            self._see_to(self._answer(asker, int(number), [int(one) for one in ids]))

    def _see_to(self, answer: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(answer)
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _look(self, asker: str, number: int) -> None:
        if await self._on_look():
            with suppress(RedisError, OSError, RuntimeError):  # whoever asked waits until nothing counts on our memory
                await self._say_at_once("looked", [asker, number])

    def _take_looked(self, sender: str, asker: str, number: int) -> None:
        look = self._looks.get(number) if asker == self.me else None
        if look is not None:
            look.looked.add(sender)
            look.note()

    def _take_answer(self, sender: str, asker: str, number: int, has_left: bool) -> None:
        question = self._questions.get(number) if asker == self.me else None
        if question is None or question.answer.done():
            return
        question.unheard.discard(sender)
        if has_left or not question.unheard:
            question.answer.set_result(bool(has_left))

    # Running

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._say(), name="say"), asyncio.create_task(self._hear(), name="hear")]

    async def aclose(self) -> None:
        tasks = [*self._tasks, *self._answering]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
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
                self._note(is_mute=False)
            except Exception as error:
                _tell_of_unexpected(error)
                self._note(is_mute=True, error=error)
                self.changed()  # what was to be said is lost, but for that there was something
                await asyncio.sleep(REST_SECONDS)

    def _words(self) -> str:
        said = {
            "from": self.me,
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
                    self._note(is_deaf=False)
                    self.heard.set()  # whatever was said meanwhile was missed
                    await self._listen(pubsub)
            except Exception as error:
                _tell_of_unexpected(error)
                self._note(is_deaf=True, error=error)
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
            if said["from"] == self.me:
                if "look" in said:  # heard by ourselves, so what others say would be, too
                    self._take_looked(self.me, self.me, said["look"])
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
            if "question" in said:
                self._take_question(said["from"], *said["question"])
            if "answer" in said:
                self._take_answer(said["from"], *said["answer"])
            if "look" in said:
                self._see_to(self._look(said["from"], int(said["look"])))
            if "looked" in said:
                self._take_looked(said["from"], *said["looked"])
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            log.warning("bus.unreadable")  # another version's, or a stranger's: hints may be lost

    def _note(
        self, *, is_mute: bool | None = None, is_deaf: bool | None = None, error: Exception | None = None
    ) -> None:
        """Saying and hearing go by connections of their own: one may fail while the other goes on."""
        was_away = self.is_away
        self._is_mute = self._is_mute if is_mute is None else is_mute
        self._is_deaf = self._is_deaf if is_deaf is None else is_deaf
        if self.is_away and not was_away:
            log.warning("bus.away", error=type(error).__name__)
        elif was_away and not self.is_away:
            log.info("bus.back")


def _tell_of_unexpected(error: Exception) -> None:
    """What is no matter of Redis being away is a fault of ours, and ends nothing."""
    if not isinstance(error, RedisError | OSError | RuntimeError):
        log.error("bus.failed", error=type(error).__name__)
