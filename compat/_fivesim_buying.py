"""Buying in 5sim's words: a country, an operator and a product, of which the first two may be any."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from compat import _fivesim_render as render
from compat._fivesim_catalogue import Catalogue
from compat._fivesim_hosting import Hosting
from compat._fivesim_http import Call, Common, Reply, Said, cap_micros, is_on
from compat._fivesim_words import ANY
from compat._wire import gone
from gateway.accounts import Caller
from gateway.errors import BadCountry, BadService, NoNumbers, NotAllowedNow, PriceTooLow, UnknownActivation
from gateway.live import Live
from gateway.model import Order
from gateway.money import MAX_MICROS, Money
from gateway.offers import Buyer

COUNTRIES_TRIED_MAX = 3
"""Of those that `any` may mean, the cheapest first."""


class Buying:
    """The verbs that want a number."""

    def __init__(self, common: Common, catalogue: Catalogue, hosting: Hosting) -> None:
        self._common = common
        self._catalogue = catalogue
        self._hosting = hosting

    async def buy(self, call: Call, caller: Caller) -> Reply:
        await self._admit(caller)
        order = self._wanted(call, caller)
        return await self._bought(call, caller, order, lambda gone: self._open(caller, order, call.parts[0], gone))

    async def hosting(self, call: Call, caller: Caller) -> Reply:
        await self._admit(caller)
        order = self._hosting.order(call, caller, *self._place(call.parts))
        return await self._bought(call, caller, order, lambda gone: self._hosting.open(caller, order, gone))

    async def reuse(self, call: Call, caller: Caller) -> Reply:
        """Another code on a number whose order is over."""
        await self._admit(caller)
        order = await self._hosting.reused(call, caller)
        rentals = self._common.front.rentals
        try:
            return await self._bought(call, caller, order, lambda gone: rentals.open_extra(caller, order, gone))
        except (NotAllowedNow, NoNumbers, UnknownActivation):
            raise Said("reuse not possible") from None

    async def _admit(self, caller: Caller) -> None:
        await self._common.front.count_change(caller)
        self._common.front.purchases.require_free(caller)

    async def _bought(
        self, call: Call, caller: Caller, order: Order, opened: Callable[[Callable[[], bool]], Awaitable[Live]]
    ) -> Reply:
        """The order's answer. A number that nobody gets to hear of is kept for the repeated request."""
        handovers = self._common.front.handovers
        hung_up = asyncio.ensure_future(gone(call.receive))
        try:
            live = await opened(hung_up.done)
        finally:
            was_gone = hung_up.done()
            hung_up.cancel()

        def on_sent(was_there: bool) -> None:
            if was_gone or not was_there:
                handovers.abandon(live, order.fingerprint)
            else:
                handovers.answered(live)

        sms = render.sms_list(live.messages) if live.messages else "null"
        self._common.front.readers.saw(caller, live)
        if live.is_rental:
            return replace(self._hosting.shown(live, sms=sms), on_sent=on_sent)
        status = render.STATUSES[live.status]
        return Reply(render.order(live, self._common.words, status, sms=sms).encode(), on_sent=on_sent)

    def _wanted(self, call: Call, caller: Caller) -> Order:
        """The order as the path and its parameters tell it; the country is still to be filled in where any will do.

        Raises BadCountry, BadService, NoNumbers, Said.
        """
        country, operator, product = self._place(call.parts)
        service = self._common.words.service_of.get(product)
        if service is None:
            raise BadService
        values = call.values
        if is_on(values, "reuse"):
            raise Said("reuse not possible")
        if is_on(values, "forwarding"):
            raise NoNumbers  # none that forwards
        cap = values.get("maxPrice")
        # Other countries may follow, and all of them share the one deadline.
        now = self._common.house.clock()
        pairs = [country, operator, product, *sorted(values.items())]
        return Order(
            service=service,
            country=-1 if country == ANY else self._common.words.number_of[country],
            operator="" if operator == ANY else operator,
            price_max=Money(cap_micros(cap), caller.currency) if cap else None,
            fingerprint=self._common.house.vault.index_digest("request", f"{caller.key_id}:5sim:{json.dumps(pairs)}"),
            started_at=now,
        )

    def _place(self, parts: Sequence[str]) -> tuple[str, str, str]:
        """Country, operator and product of a purchase; the first two are checked as far as they can be by themselves.

        Raises BadCountry, Said.
        """
        country, operator, product = parts
        if not country or not operator:
            raise Said("select operator" if country else "select country")
        if country != ANY and country not in self._common.words.number_of:
            raise BadCountry
        return country, operator.lower(), product

    async def _open(self, caller: Caller, order: Order, country: str, is_gone: Callable[[], bool]) -> Live:
        """Buys in the country, or in the cheapest ones that have it. Raises as `Purchases.open`, and Said."""
        purchases, clock = self._common.front.purchases, self._common.house.clock
        if country != ANY:
            if order.operator and order.operator not in self._catalogue.operators(order.country, caller):
                raise Said("bad operator")
            return await purchases.open(caller, self._at_operator(caller, order), is_gone)
        patience = self._common.house.settings.gateway.activations.order_deadline_seconds / 2
        until = (order.started_at or clock()) + patience
        for place in (await self._places(caller, order))[:COUNTRIES_TRIED_MAX]:
            try:
                return await purchases.open(caller, self._at_operator(caller, place), is_gone)
            except (NoNumbers, PriceTooLow):
                if is_gone() or clock() >= until:
                    break
        raise NoNumbers

    async def _places(self, caller: Caller, order: Order) -> list[Order]:
        """The order in every country that sells it within its cap and knows its operator, the cheapest first."""
        rows = [row async for row in self._common.house.market.listing(caller, order.service)]
        cap = MAX_MICROS if order.price_max is None else order.price_max.micros
        return [
            replace(order, country=row.country)
            for row in sorted(rows, key=lambda row: (row.price.micros, row.country))
            if row.price.micros <= cap
            and (not order.operator or order.operator in self._catalogue.operators(row.country, caller))
        ]

    def _at_operator(self, buyer: Buyer, order: Order) -> Order:
        """Capped at what the named operator costs: for the house it is a wish, for this protocol the article.

        Raises NoNumbers where that operator has none within the caller's own cap.
        """
        if not order.operator:
            return order
        found = self._catalogue.shelf(buyer, order)
        if found is None or (order.price_max is not None and found.price.micros > order.price_max.micros):
            raise NoNumbers
        return replace(order, price_max=found.price)
