"""5sim.net, its own protocol ("5sim protocol" key). Facts: `protocol/upstreams/fivesim.md`.

Its ways:

* every call is a GET, purchases too; the key is a bearer token; errors are bare lower-case sentences;
* `no free phones` comes with status 200; a word that can't be routed answers 302, which is not followed;
* `maxPrice` is honoured only with the operator `any`, so that is what is bought unless the order names an operator;
  with a named one the real price is in the lease, and the gateway compares;
* PENDING and RECEIVED say nothing about messages: `sms[]` does, and further messages simply append to it;
* a repeated end of an order answers `order not found` or `order expired`: `/user/check` then tells the truth;
* an order without a message can't be finished, so it is cancelled instead: time-outs cost rating (§10);
* rentals ("hosting") are orders of a few products that name a length, not a service. They are bought without a cap, so
  the price is asked first; they can't be given back, nor extended. Their messages are in an inbox of their own;
* a number is used again by naming it and the product; what that will cost is not told anywhere.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Mapping, Sequence, Set
from contextlib import aclosing
from typing import Literal

from adapters._fivesim_orders import (
    ENDED,
    Message,
    Order,
    accept_end,
    close_error,
    purchase_error,
    read_balance,
    read_inbox,
    read_order,
    read_orders,
    read_rentals,
    seen,
    told,
)
from adapters._fivesim_prices import (
    HOSTING,
    cost_at,
    parse_prices,
    price_body,
    read_rents,
    rent_countries,
    shortest,
)
from adapters._http import LIST_BYTES, Http, Reply, path
from adapters._price_first import Countdown, before_buying, require_cap, within
from adapters._refusals import RefusedForGood
from adapters._rentals import WHOLE_NUMBER, rental_id, rental_reference
from adapters._seller import Seller
from adapters._values import Address, cost, moment
from adapters._words import WordOptions, Words, one_usa
from gateway.errors import HasSms, NotAllowed, Refused, SoldOut, UnknownLease, Unwell
from gateway.fivesim_words import COUNTRIES, PRODUCTS
from gateway.model import BuyOrder, Found, Lease, LeaseState, Outcome, Progress, RentOffer, Watched
from gateway.money import Money, plain
from gateway.upstream import Context, OfferTable

PAGE = 100
PAGES_MAX = 50
ORDERS_BYTES = 8 << 20
NO_EXTENSION = "rentals are not extended there"

Category = Literal["activation", "hosting"]


class Options(WordOptions):
    """`services` and `countries` map our codes to 5sim's words, over the tables below.

    `reusable` buys only numbers that can be used again. `rent_countries` are where it rents out, read from its prices
    where empty; `rent_messages` is where a rental's messages are.
    """

    base_url: Address = "https://5sim.net/v1"
    reusable: bool = False
    rent_countries: tuple[int, ...] = ()
    rent_messages: Literal["inbox", "order"] = "inbox"


def build(context: Context, options: Options) -> FiveSim:
    return FiveSim(context, options)


class FiveSim(Seller):
    """The upstream. It needs no "another SMS" call, so it is no AsksAgain."""

    def __init__(self, context: Context, options: Options) -> None:
        headers = {"authorization": f"Bearer {context.secret}", "accept": "application/json"}
        super().__init__(context, Http(context, headers, base_url=options.base_url))
        self._options = options
        self._words = Words.of(PRODUCTS, _country_slugs(context.names.country_iso2), options)

    # --- what it sells ---

    async def offers(self) -> OfferTable:
        body = await self._http.ask_list("offers", "/guest/prices", price_body)
        return await self._table(parse_prices, body, words=self._words)

    async def balance(self) -> Money:
        """Net of what open orders hold, as the upstream reports it."""
        return Money(await self._http.ask("balance", "/user/profile", read_balance), self._currency)

    # --- buying ---

    async def buy(self, order: BuyOrder) -> Lease:
        country, product = self._words.wanted(order)
        operator = order.operator or "any"
        params = {"maxPrice": plain(order.cost_max.micros)} if operator == "any" else {}
        return await self._http.buy(
            path("user", "buy", "activation", country, operator, product),
            self._lease,
            params=params | ({"reuse": "1"} if self._options.reusable else {}),
            seconds=order.timeout_seconds,
        )

    def _lease(self, reply: Reply) -> Lease:
        return _bought(reply).lease(self._currency)

    # --- renting ---

    async def rent_countries(self) -> Collection[int]:
        """Those of the stanza, or of the price lists of the rental products; whether these know any is not certain."""
        if self._options.rent_countries:
            return frozenset(self._options.rent_countries)
        known, slugs = self._words.countries.incoming, set()
        for product in HOSTING:
            slugs |= await self._rent_slugs(product)
        return frozenset(known[slug] for slug in slugs & known.keys())

    async def _rent_slugs(self, product: str) -> set[str]:
        return await self._http.ask(
            "rent_offers", "/guest/prices", rent_countries(product), params={"product": product}, body_bytes=LIST_BYTES
        )

    async def rent_offers(self, country: int, hours: int) -> Sequence[RentOffer]:
        """The shortest rental in stock that lasts so long; it receives for every service."""
        slug = self._words.countries.outgoing.get(country)
        if slug is None:
            return ()
        rents = await self._http.ask("rent_offers", path("guest", "products", slug, "any"), read_rents)
        rent = shortest(rents, hours)
        if rent is None:
            return ()
        return (RentOffer(self.name, WHOLE_NUMBER, country, rent.hours, Money(rent.cost, self._currency), rent.count),)

    async def rent(self, order: BuyOrder) -> Lease:
        slug = self._words.countries.outgoing.get(order.country)
        if slug is None:
            raise Refused("no word for this country there")
        operator, left = order.operator or "any", Countdown(order.timeout_seconds)
        question = self._http.buy(
            path("guest", "products", slug, operator), read_rents, seconds=left.left_seconds() / 2, verb="price"
        )
        rent = shortest(await before_buying(question), order.hours)
        if rent is None:
            raise SoldOut("no rental that lasts so long")
        require_cap(rent.cost, order)
        target = path("user", "buy", "hosting", slug, operator, rent.product)
        return await self._http.buy(target, self._rental, seconds=left.left_seconds())

    def _rental(self, reply: Reply) -> Lease:
        return _bought(reply).lease(self._currency, is_rental=True)

    async def extension_cost(self, reference: str, hours: int) -> tuple[Money, int]:
        raise NotAllowed(NO_EXTENSION)

    async def extend(self, order: BuyOrder) -> float:
        raise RefusedForGood(NO_EXTENSION)

    # --- using a number again ---

    async def reuse_cost(self, reference: str, number: str, service: str, country: int) -> Money:
        """The dearer of what the number cost and what its operator costs now: which of the two it is, is not told."""
        if rental_id(reference):
            raise NotAllowed("a rental is not used again")
        order = await self._check("reuse_cost", reference)
        if order is None:
            raise UnknownLease("order not found")
        if order.progress().state is LeaseState.CANCELLED:
            raise NotAllowed("given back")
        listed = await self._http.ask(
            "reuse_cost",
            "/guest/prices",
            cost_at(order.country, order.product, order.operator),
            params={"country": order.country, "product": order.product},
        )
        paid = cost(order.price, self._currency)
        known = [micros for micros in (listed, paid.micros if paid is not None else None) if micros is not None]
        if not known:
            raise Unwell("no price is told")
        return Money(max(known), self._currency)

    async def reuse(self, order: BuyOrder) -> Lease:
        _, product = self._words.wanted(order)
        left = Countdown(order.timeout_seconds)
        question = self.reuse_cost(order.lease_reference, order.lease_number, order.service, order.country)
        require_cap((await within(question, left.left_seconds() / 2)).micros, order)
        target = path("user", "reuse", product, order.lease_number)
        return await self._http.buy(target, self._lease, seconds=left.left_seconds())

    # --- reading ---

    async def read(self, watched: Watched) -> Progress:
        rental = rental_id(watched.reference)
        order = await self._check("read", rental or watched.reference)
        if order is None:
            return Progress(LeaseState.UNKNOWN)
        return order.rental_progress(await self._received(order)) if rental else order.progress()

    async def _received(self, rental: Order) -> tuple[Message, ...]:
        """A rental's messages, asked for after its state: none that came before its end is missed."""
        if self._options.rent_messages == "order":
            return rental.sms
        target = path("user", "sms", "inbox", rental.id)
        received = await self._http.ask("read", target, read_inbox, body_bytes=ORDERS_BYTES)
        if received is None and rental.is_open:
            raise Unwell("a rental without an inbox")
        return rental.sms if received is None else received

    async def _check(self, verb: str, ident: str) -> Order | None:
        """The order, or None where there is none. Raises Unwell."""
        return await self._http.ask(verb, path("user", "check", ident), seen)

    async def read_many(self, watched: Sequence[Watched]) -> Mapping[str, Progress]:
        """Pages of the newest orders, down to the oldest that is watched. Rentals with an inbox are read singly."""
        rentals = {lease.reference for lease in watched if rental_id(lease.reference)}
        found = await self._listed("activation", {lease.reference for lease in watched} - rentals)
        if self._options.rent_messages == "order":
            listed = await self._listed("hosting", {rental_id(reference) for reference in rentals})
            found |= {rental_reference(ident): order for ident, order in listed.items()}
        return {
            reference: order.rental_progress(order.sms) if rental_id(reference) else order.progress()
            for reference, order in found.items()
        }

    async def _listed(self, category: Category, wanted: Set[str]) -> dict[str, Order]:
        """The orders with these ids, as far as they are listed and their states known."""
        found: dict[str, Order] = {}
        if not wanted:
            return found
        oldest = min((int(ident) for ident in wanted if ident.isdigit()), default=0)
        async with aclosing(self._pages("read_many", category)) as pages:
            async for page in pages:
                found |= {order.id: order for order in page if order.id in wanted and order.is_known}
                if len(found) == len(wanted) or any(int(order.id) < oldest for order in page):
                    break
        return found

    async def find(self, since: float) -> Sequence[Found]:
        """Open orders created at or after `since`, rentals behind the others; each list is newest first."""
        return [*await self._open_since("activation", since), *await self._open_since("hosting", since)]

    async def _open_since(self, category: Category, since: float) -> list[Found]:
        found: list[Found] = []
        async with aclosing(self._pages("find", category)) as pages:
            async for page in pages:
                young = [order for order in page if order.is_open and not order.is_before(since)]
                found += [self._found(order, is_rental=category == "hosting") for order in young]
                if any(order.is_before(since) for order in page):
                    break
        return found

    def _found(self, order: Order, *, is_rental: bool) -> Found:
        return Found(
            lease=order.lease(self._currency, is_rental=is_rental),
            service=WHOLE_NUMBER if is_rental else self._words.service(order.product),
            country=self._words.country(order.country),
            created_at=moment(order.created_at),
            is_rental=is_rental,
        )

    async def _pages(self, verb: str, category: Category) -> AsyncGenerator[list[Order], None]:
        for page in range(PAGES_MAX):
            params = {"category": category, "limit": str(PAGE), "offset": str(page * PAGE)}
            params |= {"order": "id", "reverse": "true"}
            read = read_rentals if category == "hosting" else read_orders
            orders, count = await self._http.ask(verb, "/user/orders", read, params=params, body_bytes=ORDERS_BYTES)
            if verb == "find" and len(orders) < count:
                raise Unwell("an order in the list is unreadable")
            yield orders
            if count < PAGE:
                return

    # --- closing ---

    async def close(self, reference: str, outcome: Outcome) -> None:
        rental = rental_id(reference)
        if outcome is Outcome.CANCELLED:
            return await self._cancel(rental or reference)
        if rental:
            return await self._finish_rental(rental)
        said = await self._end("finish", reference)
        if said == "order no sms":
            return await self._cancel_instead(reference)
        return await self._settle(said, reference, outcome)

    async def _cancel(self, lease: str) -> None:
        await self._settle(await self._end("cancel", lease), lease, Outcome.CANCELLED)

    async def _cancel_instead(self, lease: str) -> None:
        """A message that came between the two calls makes the next attempt to finish succeed."""
        try:
            await self._cancel(lease)
        except HasSms:
            raise Unwell("a message came while finishing") from None

    async def _finish_rental(self, rental: str) -> None:
        """One without a message can't be finished, nor given back: its time runs out by itself."""
        said = await self._end("finish", rental)
        if said not in ("order no sms", "hosting order"):
            await self._settle(said, rental, Outcome.FINISHED)

    async def _end(self, action: str, lease: str) -> str:
        """What was said to `finish` or `cancel`: empty where it was done."""
        return await self._http.ask("close", path("user", action, lease), told)

    async def _settle(self, said: str, lease: str, outcome: Outcome) -> None:
        """Return where the order has ended as wished, raise why not otherwise."""
        if not said:
            return None
        if said in ENDED:
            return accept_end(await self._check("close", lease), outcome)
        raise close_error(said)


def _bought(reply: Reply) -> Order:
    """The order that a purchase made. Raises the error of a purchase."""
    text = reply.text
    if reply.status == 200 and text.startswith("{"):
        return read_order(reply.json())
    raise purchase_error(reply.status, text)


def _country_slugs(iso2: Mapping[int, str]) -> dict[int, str]:
    """5sim sells one kind of United States (handler_api.md §14.1)."""
    return {number: COUNTRIES[letters] for number, letters in one_usa(iso2).items() if letters in COUNTRIES}
