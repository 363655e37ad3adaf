"""Numbers for a time in the `handler_api.php` dialects: SMS-Activate's rent family.

Answers are JSON, refusals too: `{"status":"error","message":WORD}`; only a wrong key and an unknown action are bare
words. Ids of rentals and of activations are two worlds: the one is unknown where the other is asked for.
Facts: `protocol/handler_api.md` §8.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection, Hashable, Iterable, Mapping, Sequence
from typing import ClassVar

from compat._activations import Activations, exceptions, while_there
from compat._core import named_id
from compat._reply import Call, Refusal, Reply, amount, as_json, currency_number, date, dumps, is_true
from compat._shelves import names_a_price
from compat._wire import JSON, first
from gateway.accounts import Caller
from gateway.errors import CallerError, NoNumbers, NotAllowedNow, UnknownActivation
from gateway.front import RENTALS
from gateway.live import Live
from gateway.model import Order, Product, Status
from gateway.money import Money
from gateway.rentals import Extension, RentRow

HOURS_MIN = 2
HOURS_MAX = 1344
HOUR_SECONDS = 3600.0

LIST_DEFAULT = 10
LIST_MAX = 100
ID_BEYOND = 2**63 - 1

RENT_WORDS = {
    "bad_key": "BAD_KEY",
    "bad_action": "BAD_ACTION",
    "barred": "ACCOUNT_INACTIVE",
    "suspended": "ACCOUNT_INACTIVE",
    "bad_service": "BAD_SERVICE",
    "bad_country": "BAD_COUNTRY",
    "bad_phone_exception": "WRONG_EXCEPTION_PHONE",
    "price_too_low": "NO_NUMBERS",
    "too_many_open": "CHANNELS_LIMIT",
    "no_balance": "NO_BALANCE",
    "no_numbers": "NO_NUMBERS",
    "order_exists": "ORDER_ALREADY_EXISTS",
    "bad_activation_id": "NO_ID_RENT",
    "unknown_activation": "INVALID_PHONE",
    "not_allowed_now": "RENT_DIE",
    "cancel_too_early": "CANT_CANCEL",
    "no_operators": "OPERATORS_NOT_FOUND",
    "no_activations": "NO_NUMBERS",
    "bad_webhook_url": "INVALID_WEBHOOK_URL",
    "webhook_not_https": "HTTPS_REQUIRED",
    "webhook_url_too_long": "WEBHOOK_URL_TOO_LONG",
    "too_many_requests": "SERVER_ERROR",
    "unavailable": "SERVER_ERROR",
    "internal": "SERVER_ERROR",
}
"""The word for each kind of caller error where a rental is asked for."""

BARE = frozenset({"bad_key", "bad_action"})
"""Kinds that are said as everywhere else."""

RENT_ACTIONS = frozenset(
    {
        "continueRentInfo", "continueRentNumber", "getContinueRentPriceNumber", "getRentList", "getRentNumber",
        "getRentServicesAndCountries", "getRentStatus", "setRentStatus",
    }
)  # fmt: skip

ENDED = {
    Status.CANCELLED: ("STATUS_CANCEL", "ALREADY_CANCEL"),
    Status.EXPIRED: ("STATUS_REVOKE", "ALREADY_CANCEL"),
    Status.FINISHED: ("STATUS_FINISH", "ALREADY_FINISH"),
}
"""What getRentStatus says of a rental that is over, and what setRentStatus does. One that its upstream took away before
its money was kept expires."""


class Rentals(Activations):
    """The rent family."""

    rent_actions: ClassVar[frozenset[str]] = RENT_ACTIONS
    """Those that refuse in the family's own form and words."""

    rent_error: ClassVar[str] = "message"
    """The member of a refusal that has the word."""

    def refusal(self, error: CallerError, action: str, values: Mapping[str, str]) -> Reply:
        if action not in self.rent_actions or error.code in BARE:
            return super().refusal(error, action, values)
        return self.rent_refusal(RENT_WORDS[error.code]).reply

    def rent_refusal(self, word: str) -> Refusal:
        return Refusal(as_json({"status": "error", self.rent_error: word}))

    # What there is

    async def get_rent_offers(self, call: Call) -> Reply:
        """getRentServicesAndCountries: where anything can be rented, and what in one country for the time asked."""
        self.count_look(call)
        values, caller = call.values, call.caller
        hours = self.hours(values, "rent_time", "time")
        country = self.country(values)
        if is_true(values.get("incomingCall")):
            raise self.rent_refusal("OUT_OF_STOCK")  # no number here takes calls
        operator, is_named = self.rent_operator(values), "country" in values

        async def make() -> bytes:
            countries = await self.front.rentals.countries(caller)
            rows = await self.front.rentals.offers(caller, country, hours, operator)
            if not countries or (is_named and not rows):
                return b""
            return dumps(self.rent_offers(caller, countries, rows))

        body = await self.listed_rentals(call, make, hours, country, operator, is_named)
        if not body:
            raise self.rent_refusal("OUT_OF_STOCK")
        return Reply(body, JSON)

    def rent_offers(self, caller: Caller, countries: Collection[int], rows: Sequence[RentRow]) -> dict[str, object]:
        operators = sorted({name for row in rows for name in row.operators})
        return {
            "countries": _numbered(int(self.country_number(one)) for one in sorted(countries)),
            "operators": _numbered([*operators, "any"]),
            "services": {row.service: {"cost": amount(row.price.micros), "quant": row.count} for row in rows},
            "currency": currency_number(caller.currency),
        }

    async def listed_rentals(self, call: Call, make: Callable[[], Awaitable[bytes]], *terms: Hashable) -> bytes:
        """A list of what can be rented on such terms, made once for everybody who asks at the same time."""
        market = self.front.house.market
        key = (self.name, call.action, market.list_key(call.caller), market.generation, *terms)
        return await self.lists.get(key, make)

    def rent_operator(self, values: Mapping[str, str]) -> str:
        operator = values.get("operator", "")
        return "" if operator == "any" else operator[:100]

    def hours(self, values: Mapping[str, str], *names: str) -> int:
        """How long, in whole hours; the shortest time where none is named. Raises Refusal."""
        hours = _number(first(values, *names), -1) if any(name in values for name in names) else HOURS_MIN
        if not HOURS_MIN <= hours <= HOURS_MAX:
            raise self.bad_hours(hours)
        return hours

    def bad_hours(self, hours: int) -> Refusal:
        return self.rent_refusal("MAX_HOURS_EXCEED" if hours > HOURS_MAX else "INVALID_TIME")

    # Renting

    async def get_rent_number(self, call: Call) -> Reply:
        await self.count_change(call)
        self.front.purchases.require_free(call.caller)
        order = self.rent_order(call, self.hours(call.values, "rent_time", "time"))
        rentals = self.front.rentals
        if names_a_price(call.values):
            rows = await rentals.offers(call.caller, order.country, order.hours, order.operator, service=order.service)
            self.require_price(call, rows[0].price if rows else None, order.price_max)
        live, was_gone = await while_there(call, lambda is_gone: rentals.open(call.caller, order, is_gone))
        return self.handed_over(order, live, dumps(self.rented(live)), JSON, was_gone=was_gone)

    def rent_order(self, call: Call, hours: int) -> Order:
        """The rental in the parameters. Raises BadService, BadCountry, BadPhoneException, NoNumbers in that order."""
        values = call.values
        service, country = self.service(values), self.country(values)
        unwanted = exceptions(values.get("phoneException", ""))
        self.require_seller(call)
        if is_true(values.get("incomingCall")):
            raise NoNumbers
        return Order(
            service=service,
            country=country,
            operator=self.rent_operator(values),
            price_max=self._rent_cap(call),
            phone_exceptions=unwanted,
            reference=self.own_reference(call),
            fingerprint=self.fingerprint(call),
            open_max=self.open_max,
            product=Product.RENTAL,
            hours=hours,
            webhook_url=values.get("url", ""),
        )

    def _rent_cap(self, call: Call) -> Money | None:
        given = first(call.values, *self.cap_names)
        return self.cap(given, call.caller.currency) if given else None

    def rented(self, live: Live) -> dict[str, object]:
        ends_at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(live.expires_at))
        return {"status": "success", "phone": {"id": live.id, "endDate": ends_at, "number": self.number(live)}}

    # Reading

    async def find_rental(self, call: Call) -> Live:
        """The rental named. Raises BadActivationId, UnknownActivation, TooManyRequests, Unavailable."""
        live = await self.front.find(call.caller, named_id(call), may_look=call.is_within, kinds=RENTALS)
        if live.status is Status.FAILED:
            raise UnknownActivation  # it never got a number, and its client was told so
        return live

    async def get_rent_status(self, call: Call) -> Reply:
        """Its messages, the newest first."""
        live = await self.find_rental(call)
        if not live.status.is_open and not self.is_in_grace(live):
            raise self.rent_refusal(ENDED[live.status][0])
        if not live.messages:
            return self.no_rent_messages(live)
        start, size = _page(call.values, "size")
        shown = live.messages[::-1][start : start + size]
        last = len(live.messages) - 1 - start
        self.front.readers.saw_some(call.caller, live, range(last - len(shown) + 1, last + 1))
        rows = (
            {
                "phoneFrom": message.sender,
                "text": message.text,
                "service": live.service,
                "date": date(message.received_at),
            }
            for message in shown
        )
        return as_json({"status": "success", "quantity": str(len(live.messages)), "values": _numbered(rows)})

    def no_rent_messages(self, live: Live) -> Reply:
        """What a rental is answered with that has had no message. Raises Refusal."""
        raise self.rent_refusal("STATUS_WAIT_CODE" if live.status.is_open else ENDED[live.status][0])

    async def get_rent_list(self, call: Call) -> Reply:
        start, length = _page(call.values, "length")
        lives = await self.front.rentals.rentals_of(call.caller, before=ID_BEYOND, limit=start + length)
        rows = [{"id": str(live.id), "phone": self.number(live)} for live in lives[start : start + length]]
        if not lives:
            raise self.rent_refusal("NO_NUMBERS")
        return as_json({"status": "success", "values": _numbered(rows)})

    # Ending

    async def set_rent_status(self, call: Call) -> Reply:
        live = await self.find_rental(call)
        await self.count_change(call)
        rentals, status = self.front.rentals, call.values.get("status")
        if status not in ("1", "2"):
            raise self.rent_refusal("INCORECT_STATUS")
        if not live.status.is_open:
            raise self.rent_refusal(ENDED[live.status][1])
        try:
            await (rentals.finish if status == "1" else rentals.cancel)(call.caller, live.id)
        except NotAllowedNow:
            now = await rentals.get(call.caller, live.id)
            raise self.rent_refusal("CANT_CANCEL" if now.status.is_open else ENDED[now.status][1]) from None
        return as_json({"status": "success"})

    # More time

    async def continue_rent_number(self, call: Call) -> Reply:
        return await self.prolonged(call, self.hours(call.values, "rent_time", "time"))

    async def prolonged(self, call: Call, hours: int) -> Reply:
        """The rental named, with more time. Raises Refusal, and as `Rentals.extend`."""
        live = await self.find_rental(call)
        await self.count_change(call)
        self.front.purchases.require_free(call.caller)
        order = Order(
            service=live.service,
            country=live.country,
            fingerprint=self.fingerprint(call),
            product=Product.EXTENSION,
            hours=hours,
            parent_id=live.id,
        )
        rentals = self.front.rentals
        try:
            longer, was_gone = await while_there(call, lambda is_gone: rentals.extend(call.caller, order, is_gone))
        except NotAllowedNow:
            raise self.not_longer(live, hours) from None
        return Reply(dumps(self.rented(longer)), JSON, on_sent=self.when_sent(order, longer, was_gone=was_gone))

    def not_longer(self, live: Live, hours: int) -> Refusal:
        """Why a rental gets no more time."""
        if not live.status.is_open:
            return self.rent_refusal("RENT_DIE")
        left = (live.expires_at - self.front.house.clock()) / HOUR_SECONDS
        return self.rent_refusal("MAX_HOURS_EXCEED" if left + hours > HOURS_MAX else "INVALID_TIME")

    async def get_continue_price(self, call: Call) -> Reply:
        """getContinueRentPriceNumber."""
        price, _ = await self.price_of_more(call, self.hours(call.values, "rent_time", "time"))
        return as_json({"status": "success", **_told(price)})

    async def continue_rent_info(self, call: Call) -> Reply:
        """The same, with the hours it would really be, and what it was prolonged by before."""
        price, hours = await self.price_of_more(call, self.hours(call.values, "hours", "rent_time"))
        history: Sequence[Extension] = ()
        if is_true(call.values.get("needHistory")):
            history = await self.front.rentals.extensions(call.caller, named_id(call))
        rows = [
            {"createDate": date(one.bought_at), "price": amount(one.price.micros), "hours": one.hours}
            for one in history
        ]
        return as_json({"status": "success", **_told(price), "hours": hours, "history": rows})

    async def price_of_more(self, call: Call, hours: int) -> tuple[Money, int]:
        """What more time costs for the rental named, and how much it would be. Raises as `prolonged`."""
        live = await self.find_rental(call)
        self.count_look(call)
        try:
            return await self.front.rentals.extension_price(call.caller, live.id, hours)
        except NotAllowedNow:
            raise self.not_longer(live, hours) from None


def _numbered(values: Iterable[object]) -> dict[str, object]:
    """A list as PHP prints one it takes for a map: `{"0":…,"1":…}`."""
    return {str(place): value for place, value in enumerate(values)}


def _page(values: Mapping[str, str], size_name: str) -> tuple[int, int]:
    """Where a page starts, and how many it has."""
    size = min(_number(values.get(size_name), LIST_DEFAULT), LIST_MAX)
    page = max(_number(values.get("page"), 1), 1)
    return (page - 1) * size, size


def _number(value: str | None, default: int) -> int:
    """A whole number of any length, those beyond all counting alike; or the default."""
    if value is None or not (value.isascii() and value.isdigit()):
        return default
    return int(value) if len(value) < 19 else ID_BEYOND


def _told(price: Money) -> dict[str, object]:
    return {"price": amount(price.micros), "currency": currency_number(price.currency)}
