"""HeroSMS's names for renting and for a number used again, and its envelopes for what can't be.

A rental is an activation there: it is bought as one, read with getStatus and getAllSms, ended with finishActivation or
cancelActivation, and told apart by `subtype`. Facts: `protocol/handler_api.md` §8 and the vendor's OpenAPI file of
2026; what reactivationPrice looks like, its clients tell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from compat._core import Handler, named_id
from compat._envelope import titled
from compat._extras import Extras
from compat._rentals import HOURS_MAX, HOURS_MIN, Rentals
from compat._reply import Call, Refusal, Reply, amount, as_json, currency_number, dumps, whole, zoned
from compat._wire import JSON
from gateway.accounts import Caller
from gateway.errors import NotAllowedNow, UnknownActivation
from gateway.front import EITHER
from gateway.live import Live
from gateway.rentals import RentRow

HOURS_ASKED = (2, 4, 12, 24, 72, 168, 336, 720)
"""What is asked for where no time is named."""

RENTAL = 2
"""The `subtype` of a rental; an activation's is 1."""

RENTING = frozenset({"getRentNumber", "getRentServicesAndCountries", "prolong", "prolongOptions", "serviceCountRent"})
REACTIVATING = frozenset({"reactivate", "reactivateOptions", "reactivationPrice"})

TITLES: Mapping[tuple[str, str], str] = {
    **{(action, "bad_service"): "WRONG_SERVICE" for action in RENTING},
    **{(action, "bad_country"): "WRONG_COUNTRY" for action in RENTING},
    **{(action, "not_allowed_now"): "SERVICE_NOT_AVAILABLE" for action in REACTIVATING},
    **{(action, "no_numbers"): "SIM_OFFLINE" for action in REACTIVATING},
}


class HeroRentals(Rentals, Extras):
    """The actions, and how the others take a rental."""

    rent_actions = frozenset[str]()
    action_words: ClassVar[Mapping[tuple[str, str], str]] = TITLES

    def rent_handlers(self) -> dict[str, Handler]:
        return {
            "getRentNumber": self.get_rent_number,
            "getRentServicesAndCountries": self.get_rent_services,
            "prolong": self.prolong,
            "prolongHistory": self.prolong_history,
            "prolongOptions": self.prolong_options,
            "reactivate": self.reactivate,
            "reactivateOptions": self.reactivate_options,
            "reactivationPrice": self.reactivation_price,
            "serviceCountRent": self.service_count_rent,
        }

    # What there is

    async def service_count_rent(self, call: Call) -> Reply:
        """serviceCountRent: `{country: {hours: …}}` of one service. Upstreams are asked country by country, so one has
        to be named."""
        self.count_look(call)
        self._require_currency(call)
        service, operator = self.service(call.values), self.rent_operator(call.values)
        country = self.country(call.values)
        found: dict[str, dict[str, object]] = {}
        for hours in HOURS_ASKED:
            rows = await self.front.rentals.offers(call.caller, country, hours, operator, service=service)
            for row in rows:
                price = amount(row.price.micros)
                found[str(row.hours)] = {"count": row.count, "price": price, "retail_price": price}
        return as_json({self.country_number(country): found} if found else {})

    async def get_rent_services(self, call: Call) -> Reply:
        """getRentServicesAndCountries, where country and time have to be named."""
        self.count_look(call)
        self._require_currency(call)
        hours, country = self.hours(call.values, "duration"), self.country(call.values)
        operator = self.rent_operator(call.values)

        async def make() -> bytes:
            return dumps(_services(await self.front.rentals.offers(call.caller, country, hours, operator)))

        return Reply(await self.listed_rentals(call, make, hours, country, operator), JSON)

    def _require_currency(self, call: Call) -> None:
        """Prices are in the account's currency. Raises Refusal on another."""
        given = call.values.get("currency")
        if given is not None and given != str(currency_number(call.caller.currency)):
            raise Refusal(titled("WRONG_CURRENCY"))

    def hours(self, values: Mapping[str, str], *names: str) -> int:
        """They have to be named here."""
        hours = whole(values.get("duration"), 0)
        if not HOURS_MIN <= hours <= HOURS_MAX:
            raise self.bad_hours(hours)
        return hours

    def bad_hours(self, hours: int) -> Refusal:
        return Refusal(titled("BAD_DURATION", {"min": HOURS_MIN, "max": HOURS_MAX}))

    # Renting, and more time

    async def get_rent_number(self, call: Call) -> Reply:
        self._require_currency(call)
        return await super().get_rent_number(call)

    def rented(self, live: Live) -> dict[str, object]:
        return {**self.bought(live), "subtype": RENTAL}

    async def find_rental(self, call: Call) -> Live:
        """An activation is told apart from what does not exist."""
        try:
            return await super().find_rental(call)
        except UnknownActivation:
            await self.front.activations.get(call.caller, named_id(call))
            raise Refusal(titled("ACTION_NOT_AVAILABLE")) from None

    async def prolong(self, call: Call) -> Reply:
        return await self.prolonged(call, self.hours(call.values))

    def not_longer(self, live: Live, hours: int) -> Refusal:
        if not live.status.is_open:
            return Refusal(titled("ACTIVATION_NOT_ACTIVE"))
        left = (live.expires_at - self.front.house.clock()) / 3600
        return (
            Refusal(titled("MAX_HOURS_EXCEED", {"max": HOURS_MAX}))
            if left + hours > HOURS_MAX
            else self.bad_hours(hours)
        )

    async def prolong_options(self, call: Call) -> Reply:
        live = await self.find_rental(call)
        self.count_look(call)
        if not live.status.is_open:
            raise Refusal(titled("ACTIVATION_NOT_ACTIVE"))
        prices: dict[int, float] = {}
        for asked in HOURS_ASKED:
            try:
                price, hours = await self.front.rentals.extension_price(call.caller, live.id, asked)
            except NotAllowedNow:
                continue
            prices[hours] = amount(price.micros)
        return _options("hour", prices)

    async def prolong_history(self, call: Call) -> Reply:
        live = await self.find_rental(call)
        self.count_look(call)
        rows = [
            {
                "userPrice": amount(one.price.micros), "hours": one.hours, "createDate": zoned(one.bought_at),
                "payerType": "client",
            }
            for one in await self.front.rentals.extensions(call.caller, live.id)
        ]  # fmt: skip
        return as_json({"data": rows})

    # A number again

    async def reactivate(self, call: Call) -> Reply:
        if "duration" in call.values:
            raise Refusal(titled("SERVICE_NOT_AVAILABLE"))  # for an activation's time, not for hours
        order, live, was_gone = await self.again(call, "id")
        return self.handed_over(order, live, dumps(self.bought(live)), JSON, was_gone=was_gone)

    async def reactivate_options(self, call: Call) -> Reply:
        life = self.front.house.settings.gateway.activations.life_seconds
        return _options("minute", {round(life / 60): await self._price_again(call)})

    async def reactivation_price(self, call: Call) -> Reply:
        price = await self._price_again(call)
        return as_json({"data": {"price": price, "currency": currency_number(call.caller.currency)}})

    async def _price_again(self, call: Call) -> float:
        live = await self.find(call)
        self.count_look(call)
        return amount((await self.front.rentals.extra_offer(call.caller, live.id)).price.micros)

    # What activations have, too

    async def find_either(self, call: Call) -> Live:
        """The activation or rental named. Raises as `find`."""
        return await self.front.find(call.caller, named_id(call), may_look=call.is_within, kinds=EITHER)

    async def move_rental(self, caller: Caller, live: Live, move: str) -> None:
        """Finishes or cancels a rental. Raises Refusal, NotAllowedNow, and as those."""
        rentals = self.front.rentals
        if move not in ("finish", "cancel"):
            raise NotAllowedNow
        try:
            await (rentals.finish if move == "finish" else rentals.cancel)(caller, live.id)
        except NotAllowedNow:
            now = await rentals.get(caller, live.id)
            if not now.status.is_open:
                raise Refusal(titled("ACTIVATION_NOT_ACTIVE")) from None
            raise Refusal(titled("OTP_RECEIVED" if now.messages else "FREE_CANCELLATION_EXPIRED")) from None


def _services(rows: Sequence[RentRow]) -> dict[str, object]:
    operators = ["any", *sorted({name for row in rows for name in row.operators})]
    services: dict[str, object] = {}
    for row in rows:
        price = amount(row.price.micros)
        services[row.service] = {"quantity": row.count, "price": price, "retail_price": price}
    return {"operators": {str(place): name for place, name in enumerate(operators)}, "services": services}


def _options(unit: str, prices: Mapping[int, float]) -> Reply:
    options = [{"price": price, "duration": {"unit": unit, "value": value}} for value, price in prices.items()]
    return as_json({"data": {"options": options}})
