"""Numbers for a time, and what builds on a number one has: more time, another code, another service.

Everything is bought by `purchases` under the same rules as an activation; what is here is which upstream is asked, and
what a caller may do with a rental while it lasts. Every method names the caller it is for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from cachetools import TTLCache

from gateway.accounts import Caller
from gateway.activations import Activations
from gateway.errors import (
    BadCountry,
    CallerError,
    NoBalance,
    NoNumbers,
    NotAllowed,
    NotAllowedNow,
    NothingTaken,
    PriceTooLow,
    TooManyOpen,
    Unavailable,
    UnknownActivation,
    UnknownLease,
    UpstreamError,
)
from gateway.handovers import Handovers
from gateway.house import House
from gateway.ladders import quote
from gateway.live import Live
from gateway.model import Offer, Order, Product, Status
from gateway.money import Money
from gateway.purchases import Basis, Purchases
from gateway.rent_market import RentMarket
from gateway.routing import Because, Ranked, Shortlist
from gateway.store import Row, Tx
from gateway.upstream import AddsServices, Rents, Reuses, Upstream
from gateway.webhook_addresses import check_url

COSTS_REMEMBERED = 10_000
OWN_UPSTREAM = Because("the upstream that has the number")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RentRow:
    """One line of a rental price list: `count` numbers for `hours` hours at `price` or below, the whole time."""

    service: str
    country: int
    hours: int
    price: Money
    count: int
    operators: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Extension:
    """More time a rental was given."""

    bought_at: float
    hours: int
    price: Money


@dataclass(frozen=True, slots=True)
class ExtraOffer:
    """What the number of an activation that is over would cost again."""

    price: Money
    service: str
    country: int
    number: str = field(repr=False)


class Rentals:
    """One per process."""

    def __init__(self, house: House, activations: Activations, purchases: Purchases, handovers: Handovers) -> None:
        self._house = house
        self._activations = activations
        self._purchases = purchases
        self._handovers = handovers
        self._market = RentMarket(house)
        seconds = house.settings.gateway.rentals.remembered_seconds
        self._costs: TTLCache[Hashable, Offer] = TTLCache(COSTS_REMEMBERED, ttl=seconds, timer=house.clock)

    # Renting

    async def countries(self, caller: Caller) -> Collection[int]:
        """Where this caller can rent anything now. Raises Unavailable."""
        found = (await self._market.countries(caller)) & self._house.settings.catalog.countries.keys()
        return found if caller.allowed.countries is None else found & caller.allowed.countries

    async def offers(
        self, caller: Caller, country: int, hours: int, operator: str = "", *, service: str = ""
    ) -> Sequence[RentRow]:
        """What this caller can rent there for at least `hours` hours: one row a service, the listed price.

        Of one service alone, where that is named. With an operator, only numbers of that one where there are any.
        Raises BadCountry, Unavailable.
        """
        if country not in self._house.settings.catalog.countries:
            raise BadCountry
        found = await self._market.listing(caller, country, hours, operator, service)
        return [row for service, shortlist in found if (row := _row(service, country, shortlist)) is not None]

    async def open(self, caller: Caller, order: Order, is_gone: Callable[[], bool]) -> Live:
        """Rents a number for at least `order.hours` hours (`order.product` is RENTAL). `Live.expires_at` is its end.

        Raises as `Purchases.open`, and BadWebhookUrl, WebhookNotHttps, WebhookUrlTooLong.
        """
        if order.webhook_url:
            check_url(order.webhook_url, self._house.settings.gateway.webhooks)

        async def basis() -> Basis:
            shortlist = await self._market.shortlist(caller, order)
            return Basis(shortlist.ranked, shortlist.minimum)

        return await self._purchases.open(caller, order, is_gone, basis)

    # A rental

    async def get(self, caller: Caller, rental_id: int) -> Live:
        """The caller's rental with all its messages. Raises UnknownActivation (of anything else too), Unavailable."""
        return await self._activations.get(caller, rental_id, is_rental=True)

    async def rentals_of(self, caller: Caller, *, before: int, limit: int) -> list[Live]:
        """The caller's open rentals with ids below `before`, newest first. Raises Unavailable."""
        rentals = self._activations.open_of(caller, is_rental=True)
        below = (live for live in rentals if live.id < before)
        return sorted(below, key=lambda live: -live.id)[:limit]

    async def finish(self, caller: Caller, rental_id: int) -> Live:
        """Ends it; what was paid stays paid. Safe to repeat. Raises UnknownActivation, NotAllowedNow, Unavailable."""
        live = await self.get(caller, rental_id)
        if live.status.is_open:
            await self._activations.finish_rental(live)
        if live.status is not Status.FINISHED:
            raise NotAllowedNow
        return live

    async def cancel(self, caller: Caller, rental_id: int) -> Live:
        """Gives it back while its money can still be had back: no message yet, and within the time for it.

        Safe to repeat. Raises UnknownActivation, NotAllowedNow, CancelTooEarly, Unavailable.
        """
        live = await self._activations.current(caller, rental_id, is_rental=True)
        if live.status not in (Status.CANCELLED, Status.EXPIRED):
            await self._activations.give_back(live)
        return live

    # More time

    async def extension_price(self, caller: Caller, rental_id: int, hours: int) -> tuple[Money, int]:
        """What at least `hours` hours more cost, and how many they are.

        Raises UnknownActivation, NotAllowedNow (over, or not extensible by that), Unavailable.
        """
        rental = await self.get(caller, rental_id)
        ranked = await self._extension(caller, rental, hours)
        return ranked.quote.price, ranked.quote.offer.hours

    async def extend(self, caller: Caller, order: Order, is_gone: Callable[[], bool]) -> Live:
        """Prolongs the rental `order.parent_id` by at least `order.hours`; the rental as it is then.

        Raises UnknownActivation, NotAllowedNow, NoBalance, PriceTooLow, OrderExists, Barred, Unavailable
        (also while an earlier extension of it is under way or in doubt, or it is being given back).
        """
        rental = await self.get(caller, _parent_id(order))
        whole = replace(order, service=rental.service, country=rental.country, product=Product.EXTENSION)

        async def basis() -> Basis:
            ranked = await self._extension(caller, rental, order.hours)
            return _capped(order, ranked, rental)

        return await self._purchases.open(caller, whole, is_gone, basis)

    async def extensions(self, caller: Caller, rental_id: int) -> Sequence[Extension]:
        """What it was prolonged by, oldest first. Raises UnknownActivation, Unavailable."""
        await self.get(caller, rental_id)
        rows = await self._house.store.read(_extensions, caller.account_id, rental_id)
        return [Extension(row["opened_at"], row["hours"], Money(row["price"], row["currency"])) for row in rows]

    async def _extension(self, caller: Caller, rental: Live, hours: int) -> Ranked:
        """More time as its upstream sells it now, priced for this caller. Raises NotAllowedNow, Unavailable."""
        upstream = self._house.upstreams.get(rental.upstream)
        if not rental.status.is_open or not isinstance(upstream, Rents):
            raise NotAllowedNow
        key = ("extension", rental.id, hours)
        offer = self._costs.get(key)
        if offer is None:
            cost, real_hours = await self._asked(upstream.extension_cost(rental.reference, hours))
            offer = Offer(rental.upstream, rental.service, rental.country, cost, 1, rental.operator, None, real_hours)
            self._costs[key] = offer
        return self._ranked(caller, offer, Product.EXTENSION)

    # The number again

    async def extra_offer(self, caller: Caller, activation_id: int) -> ExtraOffer:
        """What another code on the number of an activation that is over would cost.

        Raises UnknownActivation, NotAllowedNow (not this number, not any more), Unavailable.
        """
        live = await self._activations.current(caller, activation_id)
        ranked = await self._extra(caller, live)
        return ExtraOffer(ranked.quote.price, live.service, live.country, live.number)

    async def open_extra(self, caller: Caller, order: Order, is_gone: Callable[[], bool]) -> Live:
        """The number of `order.parent_id` again, for its service (`order.product` is AGAIN).

        Raises UnknownActivation, NotAllowedNow, and as `Purchases.open`.
        """
        live = await self._activations.current(caller, _parent_id(order))
        whole = replace(order, service=live.service, country=live.country, product=Product.AGAIN)

        async def basis() -> Basis:
            return _capped(order, await self._extra(caller, live), live)

        return await self._purchases.open(caller, whole, is_gone, basis)

    async def _extra(self, caller: Caller, live: Live) -> Ranked:
        """The number as its upstream would sell it again now. Raises NotAllowedNow, Unavailable."""
        upstream = self._serving(caller, live.upstream)
        if live.status is not Status.FINISHED or not live.number or not isinstance(upstream, Reuses):
            raise NotAllowedNow
        key = ("extra", live.id)
        offer = self._costs.get(key)
        if offer is None:
            asked = upstream.reuse_cost(live.reference, live.number, live.service, live.country)
            cost = await self._asked(asked)
            offer = Offer(live.upstream, live.service, live.country, cost, 1, live.operator)
            self._costs[key] = offer
        return self._ranked(caller, offer, Product.AGAIN)

    # Several services on one number

    async def add_service(self, caller: Caller, order: Order, is_gone: Callable[[], bool]) -> Live:
        """`order.service` on the number of the open activation `order.parent_id` (`order.product` is BESIDE).

        Raises UnknownActivation, NotAllowedNow (the upstream can't, or it has this service already), and as
        `Purchases.open`.
        """
        live = await self._activations.get(caller, _parent_id(order))
        return await self._add_beside(caller, order, live, is_gone)

    async def _add_beside(self, caller: Caller, order: Order, live: Live, is_gone: Callable[[], bool]) -> Live:
        whole = replace(order, country=live.country, operator=live.operator, product=Product.BESIDE, parent_id=live.id)

        async def basis() -> Basis:
            upstream = self._serving(caller, live.upstream)
            if not live.status.is_open or not isinstance(upstream, AddsServices) or self._has(caller, live, whole):
                raise NotAllowedNow
            shortlist = self._shortlist(caller, whole, {live.upstream})
            return Basis(shortlist.ranked, shortlist.minimum, live)

        return await self._purchases.open(caller, whole, is_gone, basis)

    def _has(self, caller: Caller, live: Live, order: Order) -> bool:
        """Whether the caller has this service on that number already."""
        return any(
            one.service == order.service and one.number == live.number and one.upstream == live.upstream
            for one in self._activations.open_of(caller)
        )

    async def open_many(self, caller: Caller, orders: Sequence[Order], is_gone: Callable[[], bool]) -> list[Live]:
        """One number for several services, all or none: where one can't be had, the others are given back.

        `orders` differ in their service, and each has a fingerprint of its own, by which a client that hung up gets
        the same numbers; only the first needs a reference. Raises as `Purchases.open`, and NoNumbers where no upstream
        has them all.
        """
        first, *rest = _told_apart(orders)

        async def basis() -> Basis:
            able = {
                facts.name
                for facts in self._house.market.open_to(caller)
                if isinstance(self._house.upstreams.get(facts.name), AddsServices)
            }
            for order in rest:
                able = {name for name in able if self._shortlist(caller, order, {name}).ranked}
            shortlist = self._shortlist(caller, first, able)
            return Basis(shortlist.ranked, shortlist.minimum)

        lives = [await self._purchases.open(caller, first, is_gone, basis)]
        try:
            for order in rest:
                # All or none: a client that hangs up here leaves all of them together.
                lives.append(await self._add_beside(caller, order, lives[0], lambda: False))
        except CallerError as error:
            await self._give_back(lives)
            raise error if isinstance(error, NoBalance | TooManyOpen) else NoNumbers from error
        return lives

    async def _give_back(self, lives: Sequence[Live]) -> None:
        for live in lives:
            try:
                await self._activations.give_back(live)
            except NotAllowedNow:
                pass  # its code is there: it was paid for, and is the caller's
            except CallerError:
                self._handovers.abandon(live, "")

    def _shortlist(self, caller: Caller, order: Order, only: Collection[str]) -> Shortlist:
        """What these upstreams have, at no more than the price that is listed for all."""
        market = self._house.market
        if order.price_max is None:
            order = replace(order, price_max=market.shortlist(caller, order).ceiling)
        return market.shortlist(caller, order, only)

    # Costs

    def _serving(self, caller: Caller, upstream: str) -> Upstream | None:
        """The upstream, if it may take new orders of this caller."""
        is_open = any(facts.name == upstream for facts in self._house.market.open_to(caller))
        return self._house.upstreams.get(upstream) if is_open else None

    async def _asked(self, answer: Awaitable[T]) -> T:
        """What an upstream says, in time. Raises NotAllowedNow where it says no, Unavailable where nothing."""
        try:
            async with asyncio.timeout(self._house.settings.gateway.rentals.quote_seconds):
                return await answer
        except (NotAllowed, UnknownLease, NothingTaken):
            raise NotAllowedNow from None
        except (UpstreamError, TimeoutError):
            raise Unavailable from None

    def _ranked(self, caller: Caller, offer: Offer, product: Product) -> Ranked:
        """Raises NotAllowedNow where the caller may not buy it (any more), Unavailable without an exchange rate."""
        if not caller.allowed.sells(offer.service, offer.country):
            raise NotAllowedNow
        quoted = quote(self._house.market.view.pricing.of(product), offer, caller)
        if quoted is None:
            raise Unavailable
        limit = caller.allowed.price_max
        if limit is not None and quoted.price.micros > limit:
            raise NotAllowedNow
        return Ranked(quoted, OWN_UPSTREAM)


def _row(service: str, country: int, shortlist: Shortlist) -> RentRow | None:
    """What the list says of a service: the price of the first choice, and how many there are at that or below."""
    if shortlist.listed is None or not shortlist.ranked:
        return None
    operators = {ranked.quote.offer.operator for ranked in shortlist.ranked} - {""}
    hours = shortlist.ranked[0].quote.offer.hours
    return RentRow(service, country, hours, shortlist.listed.price, shortlist.listed.count, tuple(sorted(operators)))


def _parent_id(order: Order) -> int:
    if order.parent_id is None:
        raise UnknownActivation
    return order.parent_id


def _capped(order: Order, ranked: Ranked, parent: Live) -> Basis:
    """The one thing to be had, if the caller pays as much. Raises PriceTooLow."""
    price = ranked.quote.price
    if order.price_max is not None and order.price_max.micros < price.micros:
        raise PriceTooLow(price)
    return Basis((ranked,), price, parent)


def _told_apart(orders: Sequence[Order]) -> Sequence[Order]:
    """Orders that share a fingerprint would be taken for repeats of each other."""
    if len({order.fingerprint for order in orders}) == len(orders):
        return orders
    return [replace(order, fingerprint=f"{order.fingerprint}:{order.service}") for order in orders]


def _extensions(tx: Tx, account_id: int, rental_id: int) -> Sequence[Row]:
    return tx.all(
        "select opened_at, hours, price, currency from activations where parent_id = :rental"
        " and account_id = :account and product = 'extension' and status = 'finished' order by id",
        rental=rental_id,
        account=account_id,
    )
