"""GrizzlySMS: SMS-Activate, where the country may be `any` and the list of open activations is bare.

Facts: `protocol/handler_api.md` §4.2, §4.3, §5.6, §6.1, §14.1; `upstreams/handler_api_family.md` §2, §6. Of renting its
page shows how messages are read and errors are said; the rest is SMS-Activate's, and getRentPrices is our reading.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from compat._core import WORDS, Handler
from compat._dialect import NEWER, SMS_ACTIVATE_ONLY, Dialect
from compat._rentals import RENT_ACTIONS
from compat._reply import Call, Reply, amount, as_json, date, dumps
from compat._wire import JSON
from gateway.errors import NoNumbers
from gateway.live import Live


class GrizzlySms(Dialect):
    """As it was in 2026."""

    name = "grizzly"
    words = WORDS
    no_key = "NO_KEY"
    rent_actions = RENT_ACTIONS | {"getRentPrices"}
    rent_error = "error"
    lacks = (SMS_ACTIVATE_ONLY - RENT_ACTIONS) | (NEWER - {"getPricesV2", "getPricesV3"}) | {"getCurrentActivations"}
    own_countries: ClassVar[Mapping[str, str]] = {
        "10016": "IR", "10227": "TO", "10231": "WS", "10348": "LI", "10349": "SX", "10350": "KR", "10351": "SG",
    }  # fmt: skip

    def own_actions(self) -> dict[str, Handler]:
        return {"getRentPrices": self.get_rent_prices}

    def country_to_buy(self, call: Call) -> int:
        """`any` is wherever it is cheapest now, the largest stock first among equals. Raises BadCountry, NoNumbers."""
        if call.values.get("country") != "any":
            return super().country_to_buy(call)
        rows = self.front.house.market.listing_now(call.caller, self.service(call.values))
        best = min(rows, key=lambda row: (row.price.micros, -row.count, row.country), default=None)
        if best is None:
            raise NoNumbers
        return best.country

    def bought(self, live: Live) -> dict[str, object]:
        early = self.front.house.settings.gateway.activations.early_cancel_seconds
        times = {
            "activationCancel": date(live.opened_at + early),
            "activationEnd": date(live.expires_at),
        }
        return {**super().bought(live), **times}

    def active_list(self, rows: list[dict[str, object]], *, is_any: bool) -> Reply:
        return as_json(rows)

    rows_show_all = False

    def active_row(self, live: Live) -> dict[str, object]:
        """The code is text here, not a list."""
        return {**super().active_row(live), "smsCode": live.code or None}

    # Rentals

    async def get_rent_prices(self, call: Call) -> Reply:
        """What can be rented in one country for the time asked, in the form of getPrices."""
        self.count_look(call)
        hours, country = self.hours(call.values, "rent_time", "time"), self.country(call.values)
        service = self.service(call.values) if "service" in call.values else ""
        operator = self.rent_operator(call.values)

        async def make() -> bytes:
            rows = await self.front.rentals.offers(call.caller, country, hours, operator, service=service)
            leaves = {row.service: {"cost": amount(row.price.micros), "count": row.count} for row in rows}
            return dumps({self.country_number(country): leaves} if leaves else {})

        return Reply(await self.listed_rentals(call, make, hours, country, operator, service), JSON)

    def no_rent_messages(self, live: Live) -> Reply:
        """Nothing yet is an empty list here."""
        return as_json({"status": "success", "values": {}}) if live.status.is_open else super().no_rent_messages(live)
