"""Renting in the `handler_api.php` family, whatever the form (`_handler_rent_forms`).

Facts: `protocol/handler_api.md` §8.

* A rental has no price cap on the wire, so the price is asked first, within the order's time; one that became dearer
  all the same is returned, at its cost where that is told.
* What can't be read after a request that rents or extends is in doubt, and it is sent once.
* Nothing tells when a rental ends but the answers to these requests. The end of before is told with the order of an
  extension; and the rental's history is asked before one and after one in doubt, which tells whether it took place,
  whatever the clocks say.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from adapters._handler_api import PAGES_MAX, Brand, FamilyOptions, HandlerApi
from adapters._handler_rent_forms import RentRules
from adapters._handler_rent_rows import UNKNOWN, Goods, Page, Shown, goods, messages, rent_id, renting_countries
from adapters._handler_states import is_done
from adapters._handler_words import CURRENCY_NUMBERS, Answer, call_error, parse_answer, purchase_error
from adapters._http import Reply
from adapters._price_first import Countdown, before_buying, require_price
from gateway.errors import HasSms, InDoubt, NotAllowed, Refused, TooEarly, UnknownLease, Unwell
from gateway.model import BuyOrder, Lease, LeaseState, LostExtension, Outcome, Progress, RentOffer, Watched
from gateway.money import Money
from gateway.upstream import Context

PAGE = 100

_TOO_EARLY = frozenset({"EARLY_CANCEL_DENIED", "TOO_EARLY"})
_SMS_IS_THERE = frozenset({"OTP_RECEIVED", "NEW_OTP_RECEIVED"})
_FINISHED_ALREADY = frozenset({"ALREADY_FINISH", "ALREADY_CANCEL", "ACTIVATION_NOT_ACTIVE"})
_NOT_NOW = frozenset({"CANT_CANCEL", "BAD_STATUS", "ACTIVATION_NOT_ACTIVE", "FREE_CANCELLATION_EXPIRED"})


class RentingHandlerApi(HandlerApi):
    """A member that rents out. Its brand has `rents`."""

    def __init__(self, context: Context, brand: Brand, options: FamilyOptions) -> None:
        super().__init__(context, brand, options)
        if brand.rents is None:
            raise ValueError("this brand has no form of renting")
        self._rules: RentRules = brand.rents
        self._form = brand.rents.form

    # --- what it rents out ---

    async def rent_countries(self) -> Collection[int]:
        action, params = self._form.countries_question()
        words = await self._call("rent_countries", action, self._form.countries, params)
        if words is None:
            words = await self._call("rent_countries", "getCountries", renting_countries)
        known = self._countries.incoming
        return {known[word] for word in words if word in known}

    async def rent_offers(self, country: int, hours: int) -> Sequence[RentOffer]:
        word, length = self._countries.outgoing.get(country), self._rules.at_least(hours)
        if word is None or length is None:
            return []
        terms, known = self._form.list_terms(word, length), self._services.incoming
        listed = await self._call("rent_offers", "getRentServicesAndCountries", self._goods_listed, terms)
        return [
            RentOffer(self.name, known[row.service], country, length, Money(row.cost_micros, self._currency), row.count)
            for row in listed
            if row.service in known and row.count > 0
        ]

    def _goods_listed(self, answer: Answer) -> list[Goods]:
        """Raises Unwell where prices come in another currency than the stanza's."""
        rows, number = goods(answer)
        if number and number != CURRENCY_NUMBERS.get(self._currency, number):
            raise Unwell("prices in another currency")
        return rows

    # --- renting ---

    async def rent(self, order: BuyOrder) -> Lease:
        wanted, time_left = self._goods(order), Countdown(order.timeout_seconds)
        hours = self._hours_of(order)
        operator = {"operator": order.operator} if order.operator not in ("", "any") else {}
        listed = {**self._form.list_terms(wanted["country"], hours), **operator}
        question = self._ask_price("getRentServicesAndCountries", listed, self._price_of(wanted["service"]), time_left)
        await require_price(question, order)
        lease = await self._http.buy(
            self._brand.base_url,
            self._rented,
            params=self._params("getRentNumber", **wanted, **self._form.rent_terms(hours), **operator),
            seconds=time_left.left_seconds(),
            verb="rent",
        )
        end = self._clock() + hours * 3600 if lease.expires_at is None else lease.expires_at
        return replace(lease, expires_at=end)

    def _hours_of(self, order: BuyOrder) -> int:
        hours = self._rules.at_least(order.hours)
        if hours is None:
            raise Refused("not rented out for so long")
        return hours

    def _price_of(self, service: str) -> Callable[[Answer], int]:
        def cheapest(answer: Answer) -> int:
            prices = [row.cost_micros for row in self._goods_listed(answer) if row.service == service and row.count > 0]
            if not prices:
                raise purchase_error(Answer(200, "NO_NUMBERS"))
            return min(prices)

        return cheapest

    async def _ask_price(
        self, action: str, params: Mapping[str, str], price: Callable[[Answer], int], time_left: Countdown
    ) -> int:
        """A question that a purchase waits for. Raises NothingTaken, whatever the answer."""
        return await before_buying(
            self._http.buy(
                self._brand.base_url,
                lambda reply: _price_told(reply, price),
                params=self._params(action, **params),
                seconds=time_left.left_seconds(),
                verb="price",
            )
        )

    def _rented(self, reply: Reply) -> Lease:
        return self._form.rented(parse_answer(reply), self._moment, self._currency)

    # --- more time ---

    async def extension_cost(self, reference: str, hours: int) -> tuple[Money, int]:
        rental, wanted = rent_id(reference), self._rules.extension_at_least(hours)
        if rental is None or wanted is None:
            raise NotAllowed("no rental, or not extended by so much")
        action, params = self._form.cost_question(rental, wanted)
        price, told = await self._call(
            "extension_cost", action, lambda answer: self._form.extension_cost(answer, wanted), params
        )
        return Money(price, self._currency), told

    async def extend(self, order: BuyOrder) -> float:
        time_left = Countdown(order.timeout_seconds)
        rental, hours = rent_id(order.lease_reference), order.hours
        if rental is None:
            raise Refused("no rental")
        action, params = self._form.cost_question(rental, hours)
        await require_price(self._ask_price(action, params, self._extension_price(hours), time_left), order)
        told = await self._prolong(rental, hours, time_left)
        if told is not None:
            return told
        if order.lease_expires_at is None:
            raise InDoubt("extended, but it was not told until when")
        return order.lease_expires_at + hours * 3600

    def _extension_price(self, hours: int) -> Callable[[Answer], int]:
        def price(answer: Answer) -> int:
            micros, told = self._form.extension_cost(answer, hours)
            if told != hours:
                raise NotAllowed("not extended by that")
            return micros

        return price

    async def _prolong(self, rental: str, hours: int, time_left: Countdown) -> float | None:
        method, action, params = self._form.extension(rental, hours)
        return await self._http.buy(
            self._brand.base_url,
            lambda reply: self._form.extended(parse_answer(reply), rental, self._moment),
            params=self._params(action, **params),
            seconds=time_left.left_seconds(),
            method=method,
            verb="extend",
        )

    # --- reading ---

    async def read(self, watched: Watched) -> Progress:
        rental = rent_id(watched.reference)
        if rental is None:
            return await super().read(watched)
        state, rows = await self._all_messages("read", rental)
        lost = watched.extension if state is LeaseState.OPEN else None
        return Progress(state, messages(rows, self._moment), None if lost is None else await self._end(rental, lost))

    async def _all_messages(self, verb: str, rental: str) -> tuple[LeaseState, list[Shown]]:
        """Raises Unwell also where one came while pages were read: another would then be read twice, or not at all."""
        rows: list[Shown] = []
        first: Page | None = None
        for number in range(1, PAGES_MAX + 1):
            span = {"id": rental, "page": str(number), "size": str(PAGE)}
            page = await self._call(verb, self._form.messages_action, self._form.page, span)
            if page.state is not LeaseState.OPEN:
                return page.state, []
            first = first or page
            rows += page.rows
            if page.total != first.total or (not page.rows and len(rows) < page.total):
                raise Unwell("its messages changed while they were read")
            if len(rows) >= page.total:
                break
        if first is None or len(rows) != first.total:
            raise Unwell("not the messages that were counted")
        return LeaseState.OPEN, self._form.oldest_first(rows)

    async def extensions_made(self, reference: str, hours: int) -> int:
        rental = rent_id(reference)
        if rental is None:
            raise Refused("no rental")
        return await self._made("extend_history", rental, hours)

    async def _end(self, rental: str, lost: LostExtension) -> float | None:
        """When it ends, as its history tells: nothing else on this wire does. None where that can't be read."""
        try:
            made = await self._made("read", rental, lost.hours)
        except (Unwell, Refused):
            return None
        return lost.ends_at + (lost.hours * 3600 if made > lost.made_before else 0)

    async def _made(self, verb: str, rental: str, hours: int) -> int:
        """How many extensions by so many hours its history has."""
        action, params = self._form.history_question(rental, hours)
        made = await self._call(verb, action, self._form.history, params)
        return made.count(hours)

    # --- closing ---

    async def close(self, reference: str, outcome: Outcome) -> None:
        rental = rent_id(reference)
        if rental is None:
            await super().close(reference, outcome)
            return
        action, params = self._form.closing(rental, outcome)
        answer = await self._call("close", action, _as_it_is, params)
        if is_done(answer, "ACCESS_ACTIVATION" if outcome is Outcome.FINISHED else "ACCESS_CANCEL"):
            return
        if answer.word in _TOO_EARLY:
            raise TooEarly(self._retry_seconds(reference, answer.info))
        if answer.word in _SMS_IS_THERE:
            raise HasSms
        if answer.word in UNKNOWN:
            raise UnknownLease(answer.quotable)
        await self._accept_refused(rental, answer, outcome)

    async def _accept_refused(self, rental: str, answer: Answer, outcome: Outcome) -> None:
        """Return where it is over as it should be; what was finished is paid for, so it never counts as cancelled."""
        if answer.word == "ALREADY_CANCEL" or (outcome is Outcome.FINISHED and answer.word in _FINISHED_ALREADY):
            return
        if answer.word == "ALREADY_FINISH":
            raise NotAllowed(answer.quotable)
        if answer.word not in _NOT_NOW:
            raise call_error(answer)
        state, rows = await self._all_messages("close", rental)
        if state is LeaseState.CANCELLED:
            return
        if state is LeaseState.UNKNOWN:
            raise UnknownLease(answer.quotable)
        if outcome is Outcome.CANCELLED and rows:
            raise HasSms
        raise NotAllowed(answer.quotable)

    async def ask_again(self, reference: str) -> None:
        """Messages of a rental come without being asked for."""
        if rent_id(reference) is None:
            await super().ask_again(reference)


def _price_told(reply: Reply, price: Callable[[Answer], int]) -> int:
    """Raises NothingTaken, or Unreadable."""
    is_fault = True
    try:
        return price(parse_answer(reply))
    except (NotAllowed, UnknownLease) as error:
        reason, is_fault = str(error), False
    except Unwell as error:
        reason = str(error)
    raise Refused(f"the price was not told: {reason}", is_fault=is_fault)


def _as_it_is(answer: Answer) -> Answer:
    return answer
