"""5sim's price lists and countries: for everybody, with a key or without."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from compat import _fivesim_render as render
from compat._admission import require_way_in
from compat._fivesim_hosting import Hosting
from compat._fivesim_http import WAY_IN, Call, Common, Reply, Said, bearer
from compat._fivesim_lists import Lists
from compat._fivesim_words import ANY, HOSTING
from gateway.accounts import Caller
from gateway.errors import BadAction, CallerError
from gateway.ladders import FLAT, Ladder
from gateway.model import Order
from gateway.money import MAX_MICROS, Money
from gateway.offers import Buyer, Row
from gateway.rentals import RentRow
from gateway.rules import EVERYTHING, Allowed, without

COUNTRIES_BETWEEN_PAUSES = 16


@dataclass(frozen=True, slots=True)
class Guest:
    """Whoever has no key: a customer of the default rules."""

    account_name: str
    currency: str
    is_demo: bool
    allowed: Allowed = EVERYTHING
    ladder: Ladder = FLAT


class Catalogue:
    """What is for sale, rendered."""

    def __init__(self, common: Common, hosting: Hosting) -> None:
        self._common = common
        self._hosting = hosting
        self._lists = Lists()

    async def countries(self, call: Call) -> Reply:
        async def make(buyer: Buyer) -> str:
            market, words = self._common.house.market, self._common.words
            countries = self._common.house.settings.catalog.countries.values()
            rows: list[tuple[str, str]] = []
            for country in countries:
                rows.append((words.country(country.id), render.country(country, market.operators(country.id, buyer))))
                if len(rows) % COUNTRIES_BETWEEN_PAUSES == 0:
                    await asyncio.sleep(0)
            return render.members(rows)

        return await self._listed(call, ("countries",), make)

    async def prices(self, call: Call) -> Reply:
        """By country and product; by product and country where only the product is named. `null`: not sold."""
        product, slug = call.values.get("product"), call.values.get("country")
        slug = None if slug == ANY else slug
        if product is not None and product in HOSTING:
            return await self._hosting_price(call, product, slug)
        service, country = self._narrowed(product, slug)

        async def make(buyer: Buyer) -> str:
            words = self._common.words
            # As text from the start, and joined with pauses: a whole list has rows enough to hold the loop up.
            rows: dict[int, list[str]] = {} if country is None else {country: []}
            async for row in self._common.house.market.listing(buyer, service, country):
                value = render.leaf(row.price.micros, row.count)
                rows.setdefault(row.country, []).append(value if product else f'"{words.product(row.service)}":{value}')
            if product is None:
                whole: list[tuple[str, str]] = []
                for number, found in rows.items():
                    whole.append((words.country(number), f"{{{','.join(found)}}}"))
                    await asyncio.sleep(0)
                return render.members(whole)
            leaves = [(words.country(number), found[0]) for number, found in rows.items() if found]
            if not leaves:
                return "null"
            if slug is None:
                return render.members([(product, render.members(leaves))])
            return render.members([(slug, render.members([(product, leaves[0][1])]))])

        return await self._listed(call, ("prices", product or "", slug or ""), make)

    async def _hosting_price(self, call: Call, product: str, slug: str | None) -> Reply:
        """Rentals have a list for each country, and an account's own prices. Raises Said."""
        if slug is None:
            raise Said("select country")
        _, country = self._narrowed(None, slug)

        async def make(buyer: Buyer) -> str:
            rows = {} if country is None else await self._hosting_rows(buyer, country, ANY)
            row = rows.get(product)
            if row is None:
                return "null"
            return render.members([(slug, render.members([(product, render.leaf(row.price.micros, row.count))]))])

        return await self._listed(call, ("prices", product, slug), make)

    async def _hosting_rows(self, buyer: Buyer, country: int, operator: str) -> dict[str, RentRow]:
        """What is rented out there, by product; nothing where nobody says who asks, or upstreams can't be asked."""
        if not isinstance(buyer, Caller):
            return {}
        found: dict[str, RentRow] = {}
        try:
            for product, hours in HOSTING.items():
                row = await self._hosting.row(buyer, country, hours, "" if operator == ANY else operator)
                if row is not None and operator in (ANY, *(name.lower() for name in row.operators)):
                    found[product] = row
        except CallerError:
            return {}
        return found

    def _narrowed(self, product: str | None, slug: str | None) -> tuple[str | None, int | None]:
        """Our codes for the words given. Raises Said."""
        words = self._common.words
        if slug is not None and slug not in words.number_of:
            raise Said("country is incorrect")
        if product is not None and product not in words.service_of:
            raise Said("product is incorrect")
        return (
            None if product is None else words.service_of[product],
            None if slug is None else words.number_of[slug],
        )

    async def products(self, call: Call) -> Reply:
        slug, operator = call.parts[0], call.parts[1].lower()
        if slug == ANY and operator != ANY:
            raise Said("select country")
        _, country = self._narrowed(None, None if slug == ANY else slug)
        if country is not None and operator != ANY and operator not in self.operators(country, await self._buyer(call)):
            raise Said("bad operator")

        async def make(buyer: Buyer) -> str:
            words, found = self._common.words, dict[str, tuple[int, int]]()
            async for row in self._common.house.market.listing(buyer, None, country):
                shelf = row if operator == ANY else self.shelf(buyer, Order(row.service, row.country, operator))
                if shelf is not None:
                    price, count = found.get(row.service, (shelf.price.micros, 0))
                    found[row.service] = min(price, shelf.price.micros), count + shelf.count
            rented = {} if country is None else await self._hosting_rows(buyer, country, operator)
            return render.members(
                [
                    *((words.product(service), render.product(*shelf)) for service, shelf in found.items()),
                    *((word, render.product(row.price.micros, row.count, "hosting")) for word, row in rented.items()),
                ]
            )

        return await self._listed(call, ("products", slug, operator), make)

    async def flash(self, call: Call) -> Reply:
        """The line of news; there is none."""
        if call.parts[0] not in ("en", "ru", "zh"):
            raise BadAction
        return Reply(b'{"text":""}')

    # What a purchase asks, too

    def operators(self, country: int, buyer: Buyer) -> set[str]:
        """Those that can be named there, in lower case."""
        return {operator.lower() for operator in self._common.house.market.operators(country, buyer)}

    def shelf(self, buyer: Buyer, order: Order) -> Row | None:
        """The lowest price of the operator that the order names, and how many there are at it."""
        unlimited = replace(order, price_max=Money(MAX_MICROS, buyer.currency))
        ranked = self._common.house.market.shortlist(buyer, unlimited).ranked
        quotes = [one.quote for one in ranked if one.quote.offer.operator.lower() == order.operator]
        if not quotes:
            return None
        price = min((quote.price for quote in quotes), key=lambda price: price.micros)
        count = sum(quote.offer.count for quote in quotes if quote.price.micros == price.micros)
        return Row(order.country, order.service, price, count)

    async def _buyer(self, call: Call) -> Buyer:
        """Whose prices are shown: the caller's where there is a good key, else those of the default rules."""
        try:
            caller = await self._common.front.callers.caller(bearer(call.scope))
            require_way_in(self._common.front, caller, call.scope, WAY_IN)
            return caller
        except CallerError:
            view = self._common.house.market.view
            is_demo = all(entry.serves_demo for entry in view.entries)
            allowed = without(EVERYTHING, self._common.house.settings.gateway.lawful.denied_services)
            return Guest("", view.pricing.house_currency, is_demo, allowed)

    async def _listed(self, call: Call, key: tuple[str, ...], make: Callable[[Buyer], Awaitable[str]]) -> Reply:
        buyer = await self._buyer(call)
        market = self._common.house.market
        # A guest is shown no rentals, though all else may be the same.
        whole_key = (*key, isinstance(buyer, Caller), market.list_key(buyer), market.generation)

        async def body() -> bytes:
            return (await make(buyer)).encode()

        rendered = await self._lists.get(whole_key, body)
        return Reply(rendered.body, packed=rendered.packed)
