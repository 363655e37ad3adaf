"""The map of live activations: what a poll reads. Memory only; the database stands behind it."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from cachetools import Cache, LRUCache

from gateway.model import Product, Status

K = TypeVar("K")
L = TypeVar("L")

ENDED_KEPT = 50_000


@dataclass(frozen=True, slots=True)
class Shown:
    """A message as its owner sees it. `code` has neither colon nor white space."""

    code: str
    text: str
    received_at: float
    round: int
    sender: str = ""

    def __repr__(self) -> str:
        return "Shown(…)"


@dataclass(slots=True, eq=False)
class Live:
    """An activation in memory. Only the use-cases change it, after their commit."""

    id: int
    account_id: int
    service: str
    country: int
    operator: str
    status: Status
    price_micros: int
    currency: str
    opened_at: float
    number: str = field(default="", repr=False)
    upstream: str = ""
    reference: str = field(default="", repr=False)
    expires_at: float = 0.0
    ended_at: float | None = None
    round: int = 1
    messages: tuple[Shown, ...] = ()
    identities: set[str] = field(default_factory=set, repr=False)
    polled_at: float = 0.0
    asked_elsewhere_at: float = 0.0
    """When a client of another process asked for it, as far as that is known here."""
    read_at: float = 0.0
    unknown_times: int = 0
    is_over_upstream: bool = False
    cancels_under_way: int = 0
    """How many callers have asked to give it back and wait for the upstream's word."""
    product: Product = Product.SMS
    hours: int = 0
    parent_id: int | None = None
    refundable_until: float | None = None
    """Until when a rental without a message can be given back; nought once its money is kept, None for others."""
    is_banned: bool = False
    """Whether whoever cancelled it said that the number is of no use."""
    troubles: tuple[str, ...] = ()
    """What went wrong with it in ways nobody expected, as far as that is logged."""
    filed_under: str = field(default="", repr=False)
    """The reference that the map finds it by."""

    def follow(self, known: Live) -> None:
        """Becomes what the database knows of it: messages, round, reference, status. To file it anew is the map's."""
        self.identities |= known.identities
        self.messages, self.round = known.messages, known.round
        self.status, self.ended_at, self.is_banned = known.status, known.ended_at, known.is_banned
        self.go_on_under(known.reference)

    def go_on_under(self, reference: str) -> None:
        """Its lease has this reference now: what was seen of another one says nothing of it. Not filed anew by this."""
        if reference != self.reference:
            self.reference, self.unknown_times, self.is_over_upstream, self.read_at = reference, 0, False, 0.0

    @property
    def is_rental(self) -> bool:
        return self.product is Product.RENTAL

    @property
    def is_kept(self) -> bool:
        """Whether a rental that waits for its first message is paid for already."""
        return self.refundable_until == 0

    @property
    def code(self) -> str:
        """The newest code, empty before the first."""
        return self.messages[-1].code if self.messages else ""


async def _nothing_to_catch_up_with() -> None:
    """Of a process that is alone."""


class LiveMap:
    """Live activations by id, by account and by upstream; the most recently used ended ones too."""

    def __init__(self) -> None:
        self.on_put: Callable[[], None] = lambda: None
        """Called for every change that this process made."""

        self.catch_up: Callable[[], Awaitable[None]] = _nothing_to_catch_up_with
        """Brings in what other processes have changed by now. Raises Unavailable."""

        self.fresh_until = math.inf
        """Until when, by the clock that is never set back, what stands here is taken for what the database has."""

        self._open: dict[int, Live] = {}
        self._ended: LRUCache[int, Live] = LRUCache(ENDED_KEPT)
        self._by_account: dict[int, dict[int, Live]] = {}
        self._by_upstream: dict[str, dict[str, Live]] = {}

    def get(self, activation_id: int) -> Live | None:
        return self._open.get(activation_id) or self._ended.get(activation_id)

    def is_fresh(self) -> bool:
        """Whether a code may be shown from here: else another process may have begun a new round unheard."""
        return time.monotonic() <= self.fresh_until

    def put(self, live: Live) -> None:
        """Adds an activation, or files it anew after its status changed."""
        self.place(live)
        self.on_put()

    def place(self, live: Live) -> None:
        """As `put`, for what is in the database already and known to everybody who follows it."""
        if live.filed_under not in ("", live.reference):
            _drop(self._by_upstream, live.upstream, live.filed_under)
        live.filed_under = live.reference
        if live.status.is_open:
            self._open[live.id] = live
            self._by_account.setdefault(live.account_id, {})[live.id] = live
            self._by_upstream.setdefault(live.upstream, {})[live.reference] = live
        else:
            self._ended[live.id] = live
            if self._open.pop(live.id, None) is not None:
                _drop(self._by_account, live.account_id, live.id)
                _drop(self._by_upstream, live.upstream, live.reference)

    def forget_ended(self, cutoff: Callable[[int], float]) -> None:
        """Drops what ended before the time that `cutoff` says for its account."""
        for live in [Cache.__getitem__(self._ended, key) for key in self._ended]:  # looked at, not used
            if live.ended_at is not None and live.ended_at < cutoff(live.account_id):
                del self._ended[live.id]

    def at_upstream(self, upstream: str) -> Mapping[str, Live]:
        """Open activations leased from an upstream, by its reference."""
        return self._by_upstream.get(upstream, {})

    def upstreams(self) -> Collection[str]:
        """Who has leased open activations to us; some may be out of the configuration."""
        return list(self._by_upstream)

    def of_account(self, account_id: int) -> Collection[Live]:
        """An account's open activations, oldest first."""
        return self._by_account.get(account_id, {}).values()

    def all_open(self) -> Collection[Live]:
        return self._open.values()


def _drop(index: dict[K, dict[L, Live]], key: K, inner: L) -> None:
    rows = index.get(key)
    if rows is not None:
        rows.pop(inner, None)
        if not rows:
            del index[key]
