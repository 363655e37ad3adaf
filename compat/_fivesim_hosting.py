"""5sim's hosting: a number for a time and for any service, with an inbox in place of codes; and numbers used again.

Hosting is a rental of the service `full` here; a rental bought for one service through another protocol is shown by the
hosting product nearest to its time.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace

from compat import _fivesim_render as render
from compat._fivesim_http import Call, Common, Reply, Said, cap_micros, named_order, page
from compat._fivesim_words import ANY, HOSTING
from gateway import history, journal
from gateway.accounts import Caller
from gateway.errors import NoNumbers, NotAllowedNow, PriceTooLow, UnknownActivation
from gateway.front import RENTALS
from gateway.live import Live
from gateway.model import Order, Product, Status
from gateway.money import MAX_MICROS, Money
from gateway.rentals import RentRow

FULL = "full"
"""The service of a number that takes messages of all of them."""

COUNTRIES_ASKED_MAX = 10
"""Of those that rent, the first, where any country will do: each has a list of its own to be asked for."""

COUNTRIES_TRIED_MAX = 3
RENTALS_MAX = 1000


class Hosting:
    """The verbs of rented numbers."""

    def __init__(self, common: Common) -> None:
        self._common = common

    # Buying

    def order(self, call: Call, caller: Caller, country: str, operator: str, product: str) -> Order:
        """The order in a path; the country is still to be filled in where any will do. Raises NoNumbers."""
        hours = HOSTING.get(product)
        if hours is None or FULL not in self._common.house.settings.catalog.services:
            raise NoNumbers
        cap = call.values.get("maxPrice")
        pairs = ["hosting", country, operator, product, *sorted(call.values.items())]
        return Order(
            service=FULL,
            country=-1 if country == ANY else self._common.words.number_of[country],
            operator="" if operator == ANY else operator,
            price_max=Money(cap_micros(cap), caller.currency) if cap else None,
            fingerprint=self._common.house.vault.index_digest("request", f"{caller.key_id}:5sim:{json.dumps(pairs)}"),
            product=Product.RENTAL,
            hours=hours,
        )

    async def open(self, caller: Caller, order: Order, is_gone: Callable[[], bool]) -> Live:
        """Rents in the country named, or in the cheapest ones of those that rent. Raises as `Rentals.open`, Said."""
        rentals = self._common.front.rentals
        if order.country >= 0:
            return await rentals.open(caller, await self._at_operator(caller, order), is_gone)
        for place in (await self._places(caller, order))[:COUNTRIES_TRIED_MAX]:
            try:
                return await rentals.open(caller, place, is_gone)
            except (NoNumbers, PriceTooLow):
                if is_gone():
                    break
        raise NoNumbers

    async def row(self, caller: Caller, country: int, hours: int, operator: str) -> RentRow | None:
        """What such a number costs there, None where there is none to be had."""
        rows = await self._common.front.rentals.offers(caller, country, hours, operator, service=FULL)
        return rows[0] if rows else None

    async def _at_operator(self, caller: Caller, order: Order) -> Order:
        """Capped at what the named operator costs: for the house it is a wish, for this protocol the article.

        Raises Said where nobody there has that operator, NoNumbers where it has none within the caller's cap.
        """
        if not order.operator:
            return order
        row = await self.row(caller, order.country, order.hours, order.operator)
        if row is None or not _has(row, order.operator):
            raise Said("bad operator")
        if order.price_max is not None and row.price.micros > order.price_max.micros:
            raise NoNumbers
        return replace(order, price_max=row.price)

    async def _places(self, caller: Caller, order: Order) -> list[Order]:
        """The order in every country asked that has it within its cap, the cheapest first."""
        cap = MAX_MICROS if order.price_max is None else order.price_max.micros
        countries = sorted(await self._common.front.rentals.countries(caller))[:COUNTRIES_ASKED_MAX]
        rows = await asyncio.gather(*(self.row(caller, one, order.hours, order.operator) for one in countries))
        found = [row for row in rows if row is not None and _has(row, order.operator) and row.price.micros <= cap]
        found.sort(key=lambda row: (row.price.micros, row.country))
        return [
            replace(order, country=row.country, price_max=row.price if order.operator else order.price_max)
            for row in found
        ]

    # Afterwards

    async def find(self, call: Call, caller: Caller) -> Live:
        """The rental the path names. Raises BadAction, UnknownActivation, TooManyRequests, Unavailable."""
        front = self._common.front
        live = await front.find(caller, named_order(call), may_look=call.is_within, kinds=RENTALS)
        if live.status is Status.FAILED:
            raise UnknownActivation  # it never got a number, and its client was told so
        return live

    async def inbox(self, call: Call, caller: Caller) -> Reply:
        """Every message, oldest first."""
        try:
            live = await self.find(call, caller)
        except UnknownActivation:
            raise Said("hosting order not found") from None
        offset, limit, newest_first = page(call.values)
        places = range(len(live.messages))[:: -1 if newest_first else 1][offset : offset + limit]
        self._common.front.readers.saw_some(caller, live, places)
        shown = render.sms_list([live.messages[place] for place in places])
        return Reply(f'{{"Data":{shown},"Total":{len(live.messages)}}}'.encode())

    def shown(self, live: Live, *, sms: str | None = None) -> Reply:
        """A rental as an order."""
        product = next(
            (word for word, hours in sorted(HOSTING.items(), key=lambda one: -one[1]) if hours <= live.hours), "3hours"
        )
        status, told = render.STATUSES[live.status], render.sms_list(live.messages) if sms is None else sms
        return Reply(render.order(live, self._common.words, status, sms=told, product=product).encode())

    async def finish(self, caller: Caller, live: Live) -> Reply:
        try:
            ended = await self._common.front.rentals.finish(caller, live.id)
        except NotAllowedNow:
            raise Said("order not found") from None
        self._common.front.readers.saw(caller, ended)
        return self.shown(ended)

    async def orders(self, call: Call, caller: Caller) -> Reply:
        """Of the newest `RENTALS_MAX`, those that got a number."""
        offset, limit, newest_first = page(call.values)
        house = self._common.house
        found = await house.store.read(journal.page, house.vault, caller.account_id, limit=RENTALS_MAX, of_rentals=True)
        lives = [live for live in found if live.status is not Status.FAILED]
        ordered = lives if newest_first else lives[::-1]
        told = ordered[offset : offset + limit]
        self._common.front.readers.saw_each(caller, told)
        rows = [self.shown(live).body.decode() for live in told]
        return Reply(render.orders(rows, len(lives)).encode())

    # A number again

    async def reused(self, call: Call, caller: Caller) -> Order:
        """The order for another code on a number that was had before. Raises Said."""
        product, number = call.parts
        service = self._common.words.service_of.get(product)
        house = self._common.house
        found = None
        if service is not None and number.isascii() and number.isdigit():
            found = await house.store.read(history.with_number, house.vault, caller.account_id, service, number)
        if found is None or service is None:
            raise Said("reuse not possible")
        pairs = ["reuse", str(found.id)]
        return Order(
            service=service,
            country=found.country,
            fingerprint=house.vault.index_digest("request", f"{caller.key_id}:5sim:{json.dumps(pairs)}"),
            product=Product.AGAIN,
            parent_id=found.id,
        )


def _has(row: RentRow, operator: str) -> bool:
    """Whether an operator, in lower case, is among those of the row; any is."""
    return not operator or operator in {name.lower() for name in row.operators}
