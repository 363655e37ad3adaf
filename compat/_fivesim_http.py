"""Requests and answers of the 5sim dialect: what a path and its parameters say, and how a reply goes out."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import ROUND_FLOOR

from starlette.types import Receive, Scope, Send

from compat._fivesim_words import Words, words_of
from compat._wire import BODY_BYTES_MAX, JSON, answer, header, parameters
from gateway.accounts import Caller
from gateway.catalog import Catalog
from gateway.errors import TooManyRequests
from gateway.front import Front
from gateway.money import MoneyError, round_down_to_step, to_micros

PAGE_MAX = 100
WAY_IN = "5sim"
"""What a key that is kept to some dialects calls this one."""

_DIGITS = re.compile(r"[0-9]+")
_GZIP = re.compile(rb"\bgzip\b(?!\s*;\s*q\s*=\s*0(?:\.0*)?\s*(?:,|$))")
_OFF = frozenset({"0", "false"})


class Said(Exception):
    """A sentence of 5sim's that no error of ours stands for, with status 400."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.sentence = sentence

    @property
    def code(self) -> str:
        """For the counters: there are only so many sentences."""
        return self.sentence.replace(" ", "_")


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer. `packed` is the body gzipped beforehand; `on_sent` is told whether the client was there."""

    body: bytes
    content_type: bytes = JSON
    status: int = 200
    headers: tuple[tuple[bytes, bytes], ...] = ()
    packed: bytes = b""
    on_sent: Callable[[bool], None] | None = None


@dataclass(slots=True)
class Call:
    """One request. `parts` is what the path has behind the verb."""

    scope: Scope
    receive: Receive
    verb: str
    parts: tuple[str, ...]
    _values: Mapping[str, str] | None = None

    @property
    def values(self) -> Mapping[str, str]:
        if self._values is None:
            self._values = parameters(self.scope["query_string"])
        return self._values


class Common:
    """What the parts of the dialect share: the use-cases, the words of the catalogue in force, and the limits."""

    def __init__(self, front: Front) -> None:
        self.front = front
        self.house = front.house
        self._catalog: Catalog | None = None
        self._words: Words | None = None

    @property
    def words(self) -> Words:
        """A reload may bring another catalogue."""
        catalog = self.house.settings.catalog
        if self._words is None or catalog is not self._catalog:
            self._catalog, self._words = catalog, words_of(catalog)
        return self._words

    async def change(self, caller: Caller) -> None:
        """Counts a purchase or a change. Raises TooManyRequests."""
        per_minute = self.house.settings.gateway.limits.changes_per_minute
        if not await self.front.limits.change(caller.key_id, per_minute):
            raise TooManyRequests

    def poll(self, caller: Caller) -> bool:
        """Counts a read; whether it is within the limit."""
        return self.front.limits.poll(caller.key_id, self.house.settings.gateway.limits.polls_per_minute)


async def send_reply(scope: Scope, send: Send, reply: Reply) -> None:
    body, headers = reply.body, reply.headers
    if reply.packed and _GZIP.search(header(scope, b"accept-encoding")):
        # Packed already, so it is sent as to a client that knows no packing.
        scope = {**scope, "headers": ()}
        body, headers = reply.packed, (*headers, (b"content-encoding", b"gzip"))
    was_there = True
    try:
        await answer(scope, send, body, reply.content_type, status=reply.status, headers=headers)
    except OSError:
        was_there = False
    if reply.on_sent is not None:
        reply.on_sent(was_there)


def bearer(scope: Scope) -> str:
    """The key, empty where there is none."""
    scheme, _, key = header(scope, b"authorization").decode("latin-1").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def is_on(values: Mapping[str, str], name: str) -> bool:
    """Whether a flag is set; a value nobody has seen yet counts as set, since it was sent for a reason."""
    return values.get(name, "0").strip().lower() not in _OFF


def cap_micros(given: str) -> int:
    """The caller's highest price in whole price steps; what is no amount is nought, so below every price."""
    try:
        return max(round_down_to_step(to_micros(given, rounding=ROUND_FLOOR)), 0)
    except MoneyError:
        return 0


def page(values: Mapping[str, str]) -> tuple[int, int, bool]:
    """Offset, limit, and whether the newest come first."""
    limit = min(_whole(values.get("limit"), PAGE_MAX), PAGE_MAX)
    return _whole(values.get("offset"), 0), limit, values.get("reverse", "").lower() in ("true", "1")


def _whole(value: str | None, default: int) -> int:
    """A small whole number, or the default."""
    return int(value) if value and _DIGITS.fullmatch(value) and len(value) < 10 else default


async def product_name(receive: Receive) -> str:
    """`product_name` of a JSON body; empty where there is none, or where the body is none."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            return ""
        body += message.get("body", b"")[: BODY_BYTES_MAX + 1 - len(body)]
        more = message.get("more_body", False)
    try:
        data = json.loads(body) if len(body) <= BODY_BYTES_MAX else None
    except (ValueError, RecursionError):
        return ""
    name = data.get("product_name") if isinstance(data, dict) else None
    return name if isinstance(name, str) else ""
