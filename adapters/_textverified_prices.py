"""TextVerified's prices, asked for one service at a time: no list of them exists (§3 of its notes).

What was told is kept, and what has grown old is asked for again, the oldest first, at a steady pace and for a limited
time in each round. A round that runs out of time leaves the rest to the next one.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from zlib import crc32

from adapters._prices import Row
from adapters._textverified_words import ALL_SERVICES, NOT_LISTED
from adapters._values import Unreadable, load_json, mapping
from gateway.errors import Unwell
from gateway.model import Clock

WORKERS = 4
TROUBLES_MAX = 3
"""After so many failures in a row a round ends: the upstream is not well."""

UNKNOWN_STOCK = 1
"""Where stock is not told: sold as one number at a time."""

_CAPABILITIES = frozenset({"sms", "smsandvoicecombo"})
_SPECIAL = frozenset({NOT_LISTED, "servicenotlistedvoice", ALL_SERVICES})


def parse_services(body: bytes, known: frozenset[str]) -> tuple[tuple[str, ...], Counter[str]]:
    """Which of the `known` names are sold by SMS, and the others that are; their stock is not told, so each counts one.

    Pure and importable by name: runs in another process. Raises Unwell where the body is no list of services.
    """
    try:
        rows = load_json(body)
        named = {str(mapping(row).get("serviceName") or "") for row in rows if _is_by_sms(mapping(row))}
    except (Unreadable, TypeError):
        named = None
    if named is None:
        raise Unwell("the list of services is unreadable")
    strange = named - known - _SPECIAL - {""}
    return tuple(sorted(named & known)), Counter({f"service {name}": 1 for name in strange})


def _is_by_sms(row: Mapping[str, object]) -> bool:
    capability = row.get("capability") or "sms"
    if not isinstance(capability, str):
        raise Unreadable("not a capability")
    return capability.lower() in _CAPABILITIES


@dataclass(slots=True)
class Entry:
    """What is known of one service. `price` None: not sold. `carrier_price` is that with a choice of carrier."""

    price: int | None = None
    carrier_price: int | None = None
    stock: int = 0
    price_due_at: float = -math.inf
    stock_due_at: float = -math.inf

    def is_due(self, now: float) -> bool:
        """Prices of what is not in stock are not asked for."""
        return now >= self.stock_due_at or (self.stock > 0 and now >= self.price_due_at)


AskPrice = Callable[[str, bool], Awaitable[int | None]]
"""Micro-units of a service's price, with or without a choice of carrier; None where it is not sold so."""

AskStock = Callable[[str], Awaitable[int | None]]
"""How many numbers there are for a service; None where this is not told."""


@dataclass
class _Round:
    """One round: what is left to ask for, and how it went."""

    due: deque[tuple[str, Entry]]
    ends_at: float
    done: int = 0
    troubles: list[Unwell] = field(default_factory=list)
    in_a_row: int = 0

    @property
    def is_over(self) -> bool:
        now = asyncio.get_running_loop().time()
        return not self.due or now >= self.ends_at or self.in_a_row >= TROUBLES_MAX


class PriceBook:
    """Prices and stock of services, as far as known."""

    def __init__(
        self,
        ask_price: AskPrice,
        ask_stock: AskStock,
        *,
        with_carriers: bool,
        price_seconds: float,
        stock_seconds: float,
        clock: Clock,
    ) -> None:
        self._ask_price = ask_price
        self._ask_stock = ask_stock
        self._with_carriers = with_carriers
        self._price_seconds = price_seconds
        self._stock_seconds = stock_seconds
        self._clock = clock
        self._entries: dict[str, Entry] = {}

    async def refresh(self, words: Sequence[str], seconds: float) -> None:
        """Ask for what is due, for so many seconds at most. Raises Unwell where nothing at all was told."""
        self._entries = {word: self._entries.get(word, Entry()) for word in words}
        now = self._clock()
        due = [(word, entry) for word, entry in self._entries.items() if entry.is_due(now)]
        due.sort(key=lambda pair: pair[1].stock_due_at)
        round_ = _Round(deque(due), asyncio.get_running_loop().time() + seconds)
        await asyncio.gather(*(self._work(round_) for _ in range(min(WORKERS, len(due)))))
        if round_.troubles and not round_.done:
            raise round_.troubles[-1]

    async def _work(self, round_: _Round) -> None:
        while not round_.is_over:
            word, entry = round_.due.popleft()
            try:
                await self._renew(word, entry)
            except Unwell as trouble:
                round_.troubles.append(trouble)
                round_.in_a_row += 1
            else:
                round_.done += 1
                round_.in_a_row = 0

    async def _renew(self, word: str, entry: Entry) -> None:
        now = self._clock()
        if now >= entry.stock_due_at:
            told = await self._ask_stock(word)
            entry.stock = UNKNOWN_STOCK if told is None else told
            entry.stock_due_at = now + self._stock_seconds * _spread(word)
        if entry.stock > 0 and now >= entry.price_due_at:
            entry.price = await self._ask_price(word, False)
            if self._with_carriers:
                entry.carrier_price = await self._ask_price(word, True)
            entry.price_due_at = now + self._price_seconds * _spread(word)

    def entries(self) -> Mapping[str, Sequence[int | float | None]]:
        """What is known of each service, as JSON can say it: prices, stock, and until when they are good."""
        return {
            word: (
                entry.price,
                entry.carrier_price,
                entry.stock,
                max(0.0, entry.price_due_at),
                max(0.0, entry.stock_due_at),
            )
            for word, entry in self._entries.items()
        }

    def take(self, entries: object) -> None:
        """What `entries` said in another process. Raises ValueError or TypeError, and takes nothing."""
        now = self._clock()
        self._entries = {word: self._told(row, now) for word, row in mapping(entries).items()}

    def _told(self, row: object, now: float) -> Entry:
        if not isinstance(row, list) or len(row) != 5:
            raise Unreadable("not an entry")
        price, carrier_price, stock, price_due_at, stock_due_at = row
        whole = (stock, *(one for one in (price, carrier_price) if one is not None))
        if not all(isinstance(one, int) and one >= 0 for one in whole):
            raise Unreadable("not an entry")
        return Entry(
            price,
            carrier_price,
            stock,
            min(float(price_due_at), now + self._price_seconds),
            min(float(stock_due_at), now + self._stock_seconds),
        )

    def rows(self, codes: Mapping[str, str], country: int, carriers: Iterable[str]) -> Iterator[Row]:
        """Rows of a price list. Stock is told for a service as a whole, so of one carrier's share only that it is."""
        for word, entry in self._entries.items():
            code = codes[word]
            if entry.price is not None:
                yield code, country, entry.price, entry.stock, "", None
            if entry.carrier_price is not None:
                for carrier in carriers:
                    yield code, country, entry.carrier_price, min(entry.stock, UNKNOWN_STOCK), carrier, None


def _spread(word: str) -> float:
    """0.75 to 1, always the same for a word: what was learned in one round does not fall due in one round."""
    return 0.75 + crc32(word.encode()) % 1000 / 4000
