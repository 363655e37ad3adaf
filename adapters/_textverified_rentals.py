"""TextVerified's rentals, of the kind that is not renewed by itself. Facts: `protocol/upstreams/textverified.md` §6.

Their ways:

* a purchase carries no highest price, so the price is asked first. It answers with a link to a sale, and the rental is
  seen through that once it has succeeded; back orders are never taken;
* prices are asked for each service and duration singly, and kept (`_textverified_prices`), so few services are offered;
* a rental can be refunded for a while, which is a cancel; nothing ends it early otherwise;
* an extension is taken to cost what a rental of its length does, since nothing tells its price;
* a number that is not "always on" sleeps, and receives nothing until it is woken: reading wakes it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from cachetools import TTLCache

from adapters._pace import Pace, Urgency
from adapters._price_first import require_cap, within
from adapters._rentals import long_enough, rental_id
from adapters._textverified_prices import PriceBook
from adapters._textverified_records import Message, created, in_order, is_done, messages, read_price, read_stock
from adapters._textverified_rental_records import (
    DURATIONS,
    Rental,
    Sale,
    awake_until,
    every_rental,
    extended,
    read_sale,
    seen_rental,
    wake_href,
)
from adapters._textverified_session import Session, own_path, seen_by
from adapters._values import moment
from gateway.errors import HasSms, InDoubt, NotAllowed, Refused, SoldOut, UnknownLease, Unwell
from gateway.model import BuyOrder, Found, Lease, LeaseState, Outcome, Progress, RentOffer, Sms
from gateway.money import Money
from gateway.upstream import Context

FIND_PAGES_MAX = 100
SMS_PAGES_MAX = 200
OFFER_SECONDS = 3.0
"""For asking prices while a caller waits; what is not told by then is asked for the next time."""

WAKE_PAUSE_SECONDS = 60.0
"""Between two attempts to wake one number: too many are held against the account."""

WAKES_KEPT = 10_000
WAKES_KEPT_SECONDS = 24 * 3600.0


@dataclass(frozen=True)
class Terms:
    """What is rented, and how. `words` are the upstream's for the services offered, by our codes."""

    words: Mapping[str, str]
    services: tuple[str, ...]
    country: int
    number_type: str
    area_codes: tuple[str, ...]
    always_on: bool
    wakes: bool
    sold_out: frozenset[str]
    price_seconds: float
    stock_seconds: float


class Rentals:
    """The rentals of one account."""

    def __init__(self, context: Context, session: Session, pace: Pace, terms: Terms) -> None:
        self._name = context.name
        self._currency = context.currency
        self._clock = context.clock
        self._session = session
        self._pace = pace
        self._terms = terms
        self._codes = {word: code for code, word in terms.words.items()}
        self._offered = tuple(terms.words[code] for code in terms.services if code in terms.words)
        self._books: dict[str, PriceBook] = {}
        self._wake_at: TTLCache[str, float] = TTLCache(WAKES_KEPT, WAKES_KEPT_SECONDS)

    # --- what is offered ---

    async def offers(self, country: int, hours: int) -> Sequence[RentOffer]:
        """Of the shortest duration that is long enough. Raises Unwell."""
        duration, length = _duration(hours)
        if country != self._terms.country or not duration:
            return ()
        book = self._books.setdefault(duration, self._book(duration))
        await book.refresh(self._offered, OFFER_SECONDS)
        rows = book.rows(self._codes, country, ())
        return tuple(
            RentOffer(self._name, service, country, length, Money(price, self._currency), count)
            for service, _, price, count, _, _ in rows
            if count > 0
        )

    def _book(self, duration: str) -> PriceBook:
        async def price(word: str, _with_carrier: bool) -> int | None:
            return await self._price(word, duration)

        async def stock(word: str) -> int | None:
            await self._pace.turn(Urgency.BUY)
            data = self._goods(word, duration)
            return await self._session.ask(
                "rent_offers", own_path("inventory", "rentals"), read_stock, method="POST", data=data
            )

        return PriceBook(
            price,
            stock,
            with_carriers=False,
            price_seconds=self._terms.price_seconds,
            stock_seconds=self._terms.stock_seconds,
            clock=self._clock,
        )

    async def _price(self, word: str, duration: str, *, always_on: bool | None = None) -> int | None:
        """Micro-units, None where it is not rented out so. Raises Unwell."""
        await self._pace.turn(Urgency.BUY)
        data = self._goods(word, duration) | {
            "areaCode": bool(self._terms.area_codes),
            "alwaysOn": self._terms.always_on if always_on is None else always_on,
            "callForwarding": False,
            "billingCycleIdToAssignTo": None,
            "isRenewable": False,
        }
        return await self._session.ask(
            "rent_offers", own_path("pricing", "rentals"), read_price, method="POST", data=data
        )

    def _goods(self, word: str, duration: str) -> dict[str, Any]:
        number_type = self._terms.number_type
        return {"serviceName": word, "numberType": number_type, "capability": "sms", "duration": duration}

    # --- renting ---

    async def rent(self, order: BuyOrder) -> Lease:
        """As `Rents.rent`."""
        word, (duration, _) = self._terms.words.get(order.service), _duration(order.hours)
        if word is None or order.country != self._terms.country:
            raise Refused("no word for this service or country there")
        if order.operator:
            raise Refused("rentals have no choice of carrier")
        if not duration:
            raise SoldOut("no rental lasts so long")
        deadline = asyncio.get_running_loop().time() + order.timeout_seconds
        price = await within(self._price(word, duration), order.timeout_seconds / 2)
        if price is None:
            raise SoldOut("not rented out")
        require_cap(price, order)
        sale = await self._session.buy(
            own_path("reservations", "rental"),
            self._request(word, duration),
            lambda reply: created(reply, self._terms.sold_out, "sales"),
            deadline,
        )
        return await self._sold(sale, deadline)

    def _request(self, word: str, duration: str) -> dict[str, Any]:
        return self._goods(word, duration) | {
            "isRenewable": False,
            "alwaysOn": self._terms.always_on,
            "allowBackOrderReservations": False,
            "areaCodeSelectOption": list(self._terms.area_codes) or None,
            "billingCycleIdToAssignTo": None,
        }

    async def _sold(self, ident: str, deadline: float) -> Lease:
        """The rental of a sale, looked at until it is seen. Raises Refused where the sale failed, InDoubt."""

        async def look() -> Lease | None:
            sale = await self._sale("read", ident)
            if sale.has_failed:
                raise Refused("the sale failed")
            rental = await self._look("read", sale.rental_id) if sale.rental_id else None
            return rental.lease(self._currency, sale.total) if rental is not None else None

        lease = await seen_by(deadline, look)
        if lease is None:
            raise InDoubt("sold, but the number could not be read in time")
        return lease

    async def _sale(self, verb: str, ident: str) -> Sale:
        return await self._session.ask(verb, own_path("sales", ident), read_sale)

    # --- more time ---

    async def extension_cost(self, reference: str, hours: int) -> tuple[Money, int]:
        """As `Rents.extension_cost`."""
        _, duration, price = await self._extension(reference, hours)
        return Money(price, self._currency), DURATIONS[duration]

    async def _extension(self, reference: str, hours: int) -> tuple[Rental, str, int]:
        """The rental as it is, and the duration that prolongs it enough with its price. Raises as `extension_cost`."""
        ident, (duration, _) = rental_id(reference), _duration(hours)
        if not ident:
            raise NotAllowed("no rental")
        rental = await self._known("extension_cost", ident)
        if not rental.is_open or not duration:
            raise NotAllowed("the rental is over, or can't be prolonged by so much")
        price = await self._price(rental.service_name, duration, always_on=rental.always_on)
        if price is None:
            raise NotAllowed("no extension is sold")
        return rental, duration, price

    async def extend(self, order: BuyOrder) -> float:
        """As `Rents.extend`."""
        deadline = asyncio.get_running_loop().time() + order.timeout_seconds
        question = self._extension(order.lease_reference, order.hours)
        rental, duration, price = await within(question, order.timeout_seconds / 2)
        ended_at = moment(rental.ends_at)
        if ended_at is None:
            raise Refused("the rental's end is not told")
        require_cap(price, order)
        end = await self._session.buy(
            own_path("reservations", "rentals", "extensions"),
            {"rentalId": rental.id, "extensionDuration": duration},
            extended(self._terms.sold_out),
            deadline,
        )
        return await self._later_end(rental.id, ended_at, deadline) if end is None else end

    async def _later_end(self, ident: str, ended_at: float, deadline: float) -> float:
        """The end of a rental that was prolonged, looked at until it is seen. Raises InDoubt."""

        async def look() -> float | None:
            rental = await self._look("read", ident)
            end = moment(rental.ends_at) if rental is not None else None
            return end if end is not None and end > ended_at else None

        end = await seen_by(deadline, look)
        if end is None:
            raise InDoubt("prolonged, but its end could not be read in time")
        return end

    # --- reading ---

    async def read(self, ident: str) -> Progress:
        """As `Upstream.read`; wakes a number that sleeps."""
        rental = await self._look("read", ident)
        if rental is None:
            return Progress(LeaseState.UNKNOWN)
        if rental.is_open and not rental.always_on and self._terms.wakes:
            await self._wake(ident)
        state = rental.lease_state or LeaseState.UNKNOWN
        return Progress(state, await self._messages("read", ident), moment(rental.ends_at))

    async def _look(self, verb: str, ident: str) -> Rental | None:
        return await self._session.ask(verb, own_path("reservations", "rental", "nonrenewable", ident), seen_rental)

    async def _messages(self, verb: str, ident: str) -> tuple[Sms, ...]:
        found: list[Message] = []
        async with aclosing(
            self._session.pages(verb, f"{own_path('sms')}?reservationId={ident}", SMS_PAGES_MAX)
        ) as pages:
            async for page in pages:
                found += messages(page.rows)
        return in_order(found)

    async def _wake(self, ident: str) -> None:
        """Asks for a number to be woken where it is not known to be awake. What it had received can be read anyway."""
        now = self._clock()
        if now < self._wake_at.get(ident, now):
            return
        self._wake_at[ident] = now + WAKE_PAUSE_SECONDS
        try:
            data = {"reservationId": ident}
            href = await self._session.ask("wake", own_path("wake-requests"), wake_href, method="POST", data=data)
            until = await self._session.ask("wake", href, awake_until)
        except Unwell:
            return
        if until is not None:
            self._wake_at[ident] = max(until, now + WAKE_PAUSE_SECONDS)

    async def find(self, since: float) -> list[Found]:
        """Open rentals created at or after `since`. Raises Unwell."""
        young: dict[str, Rental] = {}
        start = own_path("reservations", "rental", "nonrenewable")
        async with aclosing(self._session.pages("find", start, FIND_PAGES_MAX)) as pages:
            async for page in pages:
                young |= {one.id: one for one in every_rental(page.rows) if _is_open_since(one, since)}
                if not page.next_href or page.is_past(since):
                    return [await self._found(one) for one in young.values()]
        raise Unwell("the list is too long to be searched")

    async def _found(self, row: Rental) -> Found:
        """With its end and its cost, which the list leaves out."""
        rental = await self._look("find", row.id) or row
        total = (await self._sale("find", rental.sale_id)).total if rental.sale_id else None
        return Found(
            lease=rental.lease(self._currency, total),
            service=self._codes.get(rental.service_name, rental.service_name),
            country=self._terms.country,
            created_at=moment(rental.created_at),
            is_rental=True,
        )

    # --- closing ---

    async def close(self, ident: str, outcome: Outcome) -> None:
        """As `Upstream.close`: a finished rental needs no call, its time runs out by itself."""
        rental = await self._known("close", ident)
        if outcome is Outcome.FINISHED or await self._is_given_back(rental):
            return
        target = own_path("reservations", "rental", "nonrenewable", ident, "refund")
        if await self._session.ask("close", target, is_done, method="POST"):
            return
        if not await self._is_given_back(await self._known("close", ident)):
            raise Unwell("the refund was refused")

    async def _is_given_back(self, rental: Rental) -> bool:
        """Whether its money is back already. Raises HasSms, or NotAllowed where it can't be had back."""
        if rental.lease_state is LeaseState.CANCELLED:
            return True
        if await self._messages("close", rental.id):
            raise HasSms
        if not rental.is_open or not rental.can_refund:
            raise NotAllowed("not refundable any more")
        return False

    async def _known(self, verb: str, ident: str) -> Rental:
        """Raises UnknownLease, Unwell."""
        rental = await self._look(verb, ident)
        if rental is None:
            raise UnknownLease("no such rental")
        return rental


def _duration(hours: int) -> tuple[str, int]:
    """The shortest that is long enough and its hours, or ("", 0)."""
    return next(long_enough(DURATIONS, hours), ("", 0))


def _is_open_since(one: Rental, since: float) -> bool:
    created_at = moment(one.created_at)
    return one.is_open and (created_at is None or created_at >= since)
