"""An order after its purchase: read, ended, and asked for another message behind its client's back."""

from __future__ import annotations

import asyncio
import gzip
from dataclasses import dataclass

import structlog
from cachetools import LRUCache

from compat import _fivesim_render as render
from compat._fivesim_hosting import Hosting
from compat._fivesim_http import Call, Common, Reply, Said, named_order
from compat._fivesim_lists import Rendered
from compat._fivesim_words import Words
from gateway.accounts import Caller
from gateway.errors import CallerError, NotAllowedNow, Unavailable, UnknownActivation
from gateway.front import EITHER
from gateway.live import Live
from gateway.model import Status

ASKED_TOGETHER = 10
"""Upstreams asked for another SMS at once: a page of orders may be a hundred."""

AGAIN_SECONDS = 3.0
"""How long after it was shown its newest message a client that still reads is taken to wait for another."""

REMEMBERED = 50_000
RENDERED_MAX = 10_000

log = structlog.get_logger()


@dataclass(slots=True)
class _Seen:
    """How many messages of an order its client has been shown, since when, and whether we asked for another."""

    messages: int
    at: float
    is_asked: bool = False


class Orders:
    """The verbs that name an order."""

    def __init__(self, common: Common, hosting: Hosting) -> None:
        self._common = common
        self._hosting = hosting
        self._seen: LRUCache[int, _Seen] = LRUCache(REMEMBERED)
        self._rendered: LRUCache[int, tuple[tuple[str, int, Words], Rendered]] = LRUCache(RENDERED_MAX)
        self._asking: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Semaphore(ASKED_TOGETHER)

    async def check(self, call: Call, caller: Caller) -> Reply:
        live = await self.find(call, caller)
        if live.is_rental:
            self._common.front.readers.saw(caller, live)
            return self._hosting.shown(live)
        self.show(caller, live)
        return self._reply(caller, live)

    async def finish(self, call: Call, caller: Caller) -> Reply:
        live = await self.find(call, caller)
        await self._common.front.count_change(caller)
        if live.is_rental:
            return await self._hosting.finish(caller, live)
        if live.status is not Status.FINISHED:
            try:
                await self._common.front.activations.finish(caller, live.id)
            except NotAllowedNow:
                raise Said(_ended(live) or "order no sms") from None
        return self._reply(caller, live)

    async def give_back(self, call: Call, caller: Caller) -> Reply:
        """Cancel and ban are one to us: what is wrong with a number is its upstream's to find out."""
        live = await self.find(call, caller)
        await self._common.front.count_change(caller)
        if live.is_rental:
            raise Said("hosting order")
        is_ban = call.verb == "ban"
        if live.status is Status.CANCELLED and live.is_banned is is_ban:
            return self._reply(caller, live)
        if live.status.is_open:
            try:
                await self._common.front.activations.cancel(caller, live.id, is_ban=is_ban)
            except NotAllowedNow:
                raise Said(_ended(live) or "order has sms") from None
            if live.status is Status.CANCELLED:
                return self._reply(caller, live)
        raise Said(_ended(live) or "order has sms")

    # Another message

    def show(self, caller: Caller, live: Live) -> None:
        """Notes what the client sees now; where it saw that some while ago, it waits for another message."""
        if live.status is not Status.RECEIVED:
            return
        now, seen = self._common.house.clock(), self._seen.get(live.id)
        if seen is None or seen.messages != len(live.messages):
            self._seen[live.id] = _Seen(len(live.messages), now)
        elif not seen.is_asked and now - seen.at >= AGAIN_SECONDS:
            seen.is_asked = True
            task = asyncio.ensure_future(self._ask_again(caller, live, seen))
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)

    async def _ask_again(self, caller: Caller, live: Live, seen: _Seen) -> None:
        try:
            async with self._turn:
                await self._common.front.activations.ask_again(caller, live.id)
        except Unavailable:
            seen.at, seen.is_asked = self._common.house.clock(), False
        except CallerError:
            pass  # ended meanwhile, or nothing more can be had: then this was all
        except Exception:
            log.exception("ask_again.failed", activation=live.id)

    async def drain(self) -> None:
        """Waits for what is being asked."""
        while self._asking:
            await asyncio.wait(self._asking)

    # Finding and showing

    async def find(self, call: Call, caller: Caller) -> Live:
        """The order the path names. Raises BadAction, UnknownActivation, TooManyRequests, Unavailable."""
        front = self._common.front
        live = await front.find(caller, named_order(call), may_look=call.is_within, kinds=EITHER)
        if live.status is Status.FAILED:
            raise UnknownActivation  # it never got a number, and its client was told so
        return live

    def rendered(self, live: Live) -> Rendered:
        """The order as JSON, made anew only where it has changed since it was last shown."""
        status = "BANNED" if live.is_banned else render.STATUSES[live.status]
        state = (status, len(live.messages), self._common.words)
        known = self._rendered.get(live.id)
        if known is not None and known[0] == state:
            return known[1]
        body = render.order(live, self._common.words, status, sms=render.sms_list(live.messages)).encode()
        made = Rendered(body, gzip.compress(body, 1))
        self._rendered[live.id] = state, made
        return made

    def _reply(self, caller: Caller, live: Live) -> Reply:
        self._common.front.readers.saw(caller, live)
        made = self.rendered(live)
        return Reply(made.body, packed=made.packed)


def _ended(live: Live) -> str:
    """What is said to whoever wants to end an order that has ended; empty where it has not."""
    if live.status.is_open:
        return ""
    return "order expired" if live.status is Status.EXPIRED else "order not found"
