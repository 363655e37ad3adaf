"""Rentals in our own JSON API: what can be rented, renting, messages, ends and more time."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial

from compat._lists import MadeOnce
from compat._rest_http import PREFIX, Call, Operation, Reply, show
from compat._rest_models import NoBody
from compat._rest_once import Once
from compat._rest_rental_models import (
    RENTAL_ID,
    Extensions,
    ExtensionsQuery,
    MoreTime,
    Rental,
    RentalList,
    RentalListQuery,
    RentalOffers,
    RentalOffersQuery,
    RentalPurchase,
    RentalQuery,
    extension,
    extension_offer,
    rental,
    rental_as_bought,
    rental_name,
    rental_offers,
)
from compat._rest_shared import BUYING, Shared, before, cap, following, no_such, require_turn
from compat._rest_waiting import Waiting
from gateway import journal
from gateway.accounts import Caller
from gateway.errors import BadCountry, BadService
from gateway.front import RENTALS, Front
from gateway.live import Live
from gateway.model import Order, Product

OFFERS_BYTES_MAX = 16 * 2**20

_ID = re.compile(RENTAL_ID)


class _Rentals(Shared):
    """The operations."""

    def __init__(self, front: Front, once: Once, waiting: Waiting) -> None:
        super().__init__(front, once)
        self._waiting = waiting
        self._lists: MadeOnce[bytes] = MadeOnce(_as_it_is, len, bytes_max=OFFERS_BYTES_MAX)

    async def offers(self, call: Call) -> Reply:
        require_turn(call)
        query: RentalOffersQuery = call.query
        try:
            country = self.country(query.country)
        except BadCountry:
            raise no_such(BadCountry.code, "country") from None
        caller, operator = call.caller, query.operator or ""

        async def make() -> bytes:
            rows = await self.front.rentals.offers(caller, country, query.hours, operator)
            return rental_offers(caller.currency, rows).model_dump_json().encode()

        market = self.front.house.market
        key = (market.list_key(caller), country, query.hours, operator, market.generation)
        return Reply(await self._lists.get(key, make))

    # Renting

    async def rent(self, call: Call) -> Reply:
        await self.count_change(call)
        rentals = self.front.rentals
        order = self.named(call, self._order(call), call.body, "rent:")
        bought, was_gone = await self.buy(call, order, rentals.open, rentals.get)
        place = f"{PREFIX}/rentals/{rental_name(bought.live.id)}"
        return self.handed_over(order, bought, rental_as_bought(bought.live), place, was_gone=was_gone)

    def _order(self, call: Call) -> Order:
        """Raises BadService, BadCountry."""
        wanted: RentalPurchase = call.body
        if wanted.service not in self.front.house.settings.catalog.services:
            raise BadService
        return Order(
            service=wanted.service,
            country=self.country(wanted.country),
            operator="" if wanted.operator in (None, "any") else str(wanted.operator),
            price_max=cap(wanted.max_price, call.caller.currency),
            product=Product.RENTAL,
            hours=wanted.hours,
            webhook_url=wanted.webhook_url or "",
        )

    # Reading

    async def _find(self, call: Call) -> Live:
        """The rental of the path. Raises UnknownActivation, TooManyRequests, Unavailable."""
        rental_id = self.path_id(call, _ID, "rent_")
        return await self.front.find(call.caller, rental_id, may_look=call.is_within, kinds=RENTALS)

    async def show(self, call: Call) -> Reply:
        return self._shown(call, await self._awaited(call))

    def _shown(self, call: Call, live: Live) -> Reply:
        self.front.readers.saw(call.caller, live)
        return show(rental(live))

    async def _awaited(self, call: Call) -> Live:
        """The rental, once it has more messages than the client has seen, or has ended, or the time given is up."""
        is_awaited = partial(_is_awaited, seen=call.query.seen)
        return await self.awaited(call, self._waiting, await self._find(call), is_awaited)

    async def rentals(self, call: Call) -> Reply:
        require_turn(call)
        query: RentalListQuery = call.query
        below, limit, house = before(query.cursor), query.limit + 1, self.front.house
        if query.state == "open":
            found = await self.front.rentals.rentals_of(call.caller, before=below, limit=limit)
        else:
            found = await house.store.read(
                journal.page, house.vault, call.caller.account_id,
                before=below, limit=limit, only_ended=query.state == "past", of_rentals=True,
            )  # fmt: skip
        shown = found[: query.limit]
        self.front.readers.saw_each(call.caller, shown)
        rentals = [rental(live, journal.MESSAGES_MAX) for live in shown]
        return show(RentalList(rentals=rentals, next_cursor=following(shown, found)))

    # Ending

    async def finish(self, call: Call) -> Reply:
        live = await self._find(call)
        await self.count_change(call)
        return self._shown(call, await self.front.rentals.finish(call.caller, live.id))

    async def cancel(self, call: Call) -> Reply:
        live = await self._find(call)
        await self.count_change(call)
        return self._shown(call, await self.front.rentals.cancel(call.caller, live.id))

    # More time

    async def extend(self, call: Call) -> Reply:
        live = await self._find(call)
        await self.count_change(call)
        wanted: MoreTime = call.body
        order = Order(
            service=live.service,
            country=live.country,
            price_max=cap(wanted.max_price, call.caller.currency),
            product=Product.EXTENSION,
            hours=wanted.hours,
            parent_id=live.id,
        )
        order = self.named(call, order, wanted, f"extend:{live.id}:")
        bought, was_gone = await self.buy(call, order, self.front.rentals.extend, partial(self._prolonged, live.id))
        place = f"{PREFIX}/rentals/{rental_name(live.id)}"
        self.front.readers.saw(call.caller, bought.live)
        return self.handed_over(order, bought, rental(bought.live), place, was_gone=was_gone)

    async def _prolonged(self, rental_id: int, caller: Caller, _order_id: int) -> Live:
        return await self.front.rentals.get(caller, rental_id)

    async def extensions(self, call: Call) -> Reply:
        live = await self._find(call)
        require_turn(call)
        rentals, hours = self.front.rentals, call.query.hours
        offer = None
        if hours is not None:
            offer = extension_offer(*await rentals.extension_price(call.caller, live.id, hours))
        found = await rentals.extensions(call.caller, live.id)
        return show(Extensions(extensions=[extension(one) for one in found], offer=offer))


def rental_operations(front: Front, once: Once, waiting: Waiting) -> Sequence[Operation]:
    """Everything about rentals that is served with a key."""
    rest, all_of_them, one = _Rentals(front, once, waiting), PREFIX + "/rentals", PREFIX + "/rentals/{id}"
    find = ("unknown_activation", "too_many_requests")
    changes = (*find, "not_allowed_now")
    webhook = ("bad_webhook_url", "webhook_not_https", "webhook_url_too_long")
    return (
        Operation("rental_offers", "GET", (all_of_them + "/offers",), rest.offers, "What can be rented in a country",
                  RentalOffers, query=RentalOffersQuery, problems=("bad_country", "too_many_requests"),
                  description="For at least the hours asked for; `hours` of an offer are those it is really for."),
        Operation("rent", "POST", (all_of_them,), rest.rent, "Rent a number", Rental, 201, body=RentalPurchase,
                  takes_idempotency_key=True, description=_RENT,
                  problems=("bad_service", "bad_country", *webhook, *BUYING)),
        Operation("rentals", "GET", (all_of_them,), rest.rentals, "Rentals, newest first", RentalList,
                  query=RentalListQuery, problems=("too_many_requests",)),
        Operation("rental", "GET", (one,), rest.show, "A rental and its messages", Rental, query=RentalQuery,
                  problems=find, id_pattern=RENTAL_ID, id_example="rent_123456"),
        Operation("finish_rental", "POST", (one + "/finish",), rest.finish, "End a rental", Rental, body=NoBody,
                  problems=changes, description="What was paid stays paid. Safe to repeat.",
                  id_pattern=RENTAL_ID, id_example="rent_123456"),
        Operation("cancel_rental", "POST", (one + "/cancel",), rest.cancel, "Give a rental back", Rental, body=NoBody,
                  problems=(*changes, "cancel_too_early"), description=_CANCEL,
                  id_pattern=RENTAL_ID, id_example="rent_123456"),
        Operation("extend_rental", "POST", (one + "/extend",), rest.extend, "More time for a rental", Rental, 201,
                  body=MoreTime, takes_idempotency_key=True, description=_EXTEND,
                  problems=(*changes, *BUYING), id_pattern=RENTAL_ID, id_example="rent_123456"),
        Operation("rental_extensions", "GET", (one + "/extensions",), rest.extensions,
                  "What a rental was prolonged by", Extensions, query=ExtensionsQuery,
                  problems=changes, id_pattern=RENTAL_ID, id_example="rent_123456"),
    )  # fmt: skip


_RENT = (
    "Held is the price of the whole time; it is kept with the first message, or once the rental can't be given back any"
    " more. With an `Idempotency-Key` as a purchase has it."
)
_CANCEL = "While no message has come and the upstream takes it back: then nothing is charged. Safe to repeat."
_EXTEND = "Paid at once. Whoever prolongs a rental keeps it. With an `Idempotency-Key` as a purchase has it."


def _is_awaited(live: Live, seen: int) -> bool:
    return live.status.is_open and len(live.messages) <= seen


async def _as_it_is(body: bytes) -> bytes:
    return body
