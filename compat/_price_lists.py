"""The price lists beside getPrices, in the forms SMS-Activate and its kin gave them.

Each is a rendering of the same listing. A price map has one rung: the listed price and what it buys. Seen from outside
everything comes from one provider, the house (`compat._shelves`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Sequence

from compat._catalogue import Catalogue, Printer
from compat._reply import Call, Reply, is_true
from compat._shelves import OUR_PROVIDER
from compat._wire import JSON
from gateway.accounts import Caller
from gateway.errors import BadCountry, BadService
from gateway.money import Money, plain
from gateway.offers import SLICE_SECONDS, Row


class PriceLists(Catalogue):
    """getPrices with more, or the other way round."""

    async def get_prices_extended(self, call: Call) -> Reply:
        """With `freePrice`, each price with its map."""
        is_free = is_true(call.values.get("freePrice"))
        return await self.listed(call, self.by_country, self._mapped if is_free else self.price_leaf, variant=is_free)

    def _mapped(self, row: Row) -> str:
        return f'{self.price_leaf(row)[:-1]},"freePriceMap":{self.price_map(row)}}}'

    def price_map(self, row: Row) -> str:
        """Price to quantity."""
        return f'{{"{self.map_price(row)}":{row.count}}}'

    def map_price(self, row: Row) -> str:
        """A price as the key of a map."""
        return plain(row.price.micros)

    async def get_prices_v2(self, call: Call) -> Reply:
        return await self.listed(call, self.by_country, self.price_map)

    async def get_prices_v3(self, call: Call) -> Reply:
        return await self.listed(call, self.by_country, self.providers)

    def providers(self, row: Row) -> str:
        price = row.price.micros / 1_000_000
        return f'{{"{OUR_PROVIDER}":{{"count":{row.count},"price":{price},"provider_id":{OUR_PROVIDER}}}}}'

    async def get_prices_verification(self, call: Call) -> Reply:
        return await self.listed(call, self.by_service, self.verification_leaf)

    def verification_leaf(self, row: Row) -> str:
        return f'{{"count":{row.count},"price":{row.price.micros / 1_000_000}}}'

    # The best countries of a service

    async def get_top_countries(self, call: Call) -> Reply:
        """getTopCountriesByService, and its Rank form: there are no ranks, so the prices are the same."""
        is_free = is_true(call.values.get("freePrice"))
        leaf = self._top_mapped if is_free else self.top_leaf
        try:
            service = self.service(call.values) if "service" in call.values else None
        except BadService as error:
            return self.no_top(error)
        return Reply(await self.rendered(call, service, None, self._by_rank, leaf, variant=is_free), JSON)

    def no_top(self, error: BadService | BadCountry) -> Reply:
        """What is said to a wrong service."""
        raise error

    def top_leaf(self, row: Row) -> str:
        price = row.price.micros / 1_000_000
        country = self.country_number(row.country)
        return f'{{"country":{country},"count":{row.count},"price":{price},"retail_price":{price}}}'

    def _top_mapped(self, row: Row) -> str:
        return f'{self.top_leaf(row)[:-1]},"freePriceMap":{self.price_map(row)}}}'

    async def _by_rank(self, caller: Caller, service: str | None, country: int | None, leaf: Printer) -> bytes:
        """`{"0": best, "1": …}`: the cheapest, then the larger stock. For all services, that by service."""
        # Plain numbers, not rows: the garbage collector lets them be, and there may be hundreds of thousands.
        services: dict[str, list[tuple[int, int, int]]] = {}
        async for row in self.front.house.market.listing(caller, service, country):
            services.setdefault(row.service, []).append((row.price.micros, -row.count, row.country))

        def ranked(code: str) -> str:
            found = sorted(services.pop(code, ()))
            rows = [Row(place, code, Money(micros, caller.currency), -count) for micros, count, place in found]
            return self.ranked(rows, leaf)

        if service is not None:
            return ranked(service).encode()
        members, pause_at = [], time.perf_counter() + SLICE_SECONDS
        for code in list(services):
            # Taken out as it goes: to forget all rows at once would take as long as many a slice.
            members.append(f'"{self.service_word(code)}":{ranked(code)}'.encode())
            if time.perf_counter() >= pause_at:
                await asyncio.sleep(0)
                pause_at = time.perf_counter() + SLICE_SECONDS
        return b"{%b}" % b",".join(members)

    def ranked(self, rows: Sequence[Row], leaf: Printer) -> str:
        """One service's countries, which come best first."""
        return f"{{{','.join(_placed(rows, leaf))}}}"


def _placed(rows: Iterable[Row], leaf: Printer) -> Iterator[str]:
    for place, row in enumerate(rows):
        yield f'"{place}":{leaf(row)}'
