"""What adapters of a protocol of their own keep, whatever the protocol."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, cast

from adapters._http import Http
from adapters._prices import Sheet
from adapters._words import Words
from gateway.upstream import Context, OfferTable

Parse = Callable[..., tuple[OfferTable, Counter[str]]]
"""`parse(*lists, sheet)`: a module-level pure function, see `_prices.tabulate`."""


class Seller:
    """An upstream's name, connections and last price list."""

    def __init__(self, context: Context, http: Http) -> None:
        self.name = context.name
        self.unmapped: Counter[str] = Counter()
        """Numbers of the last price list that were left out, by unknown country or service."""
        self._currency = context.currency
        self._clock = context.clock
        self._offload = context.offload
        self._http = http

    def _sheet(self, words: Words) -> Sheet:
        return Sheet(self.name, self._currency, words.services.incoming, words.countries.incoming)

    async def _table(self, parse: Parse, *lists: Any, words: Words) -> OfferTable:
        """What the lists offer; notes which words in them are unknown. Raises Unwell."""
        parsed = await self._offload(parse, *lists, self._sheet(words))
        table, self.unmapped = cast("tuple[OfferTable, Counter[str]]", parsed)
        return table

    async def aclose(self) -> None:
        await self._http.aclose()
