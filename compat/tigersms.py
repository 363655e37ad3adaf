"""Tiger SMS: SMS-Activate's words in the first versions of actions, HeroSMS's envelope in the second ones.

Facts: `protocol/upstreams/handler_api_family.md` §2, §4; `handler_api.md` §4.4, §4.5, §5, §6.1, §10.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from compat._core import WORDS, Handler
from compat._dialect import NEWER, SMS_ACTIVATE_ONLY, Dialect
from compat._envelope import STATUSES, after, envelope
from compat._reply import Call, Refusal, Reply, as_json, currency_number, is_true, text
from compat._shelves import OUR_PROVIDER, is_elsewhere, is_other_price, is_unwanted, require_minimum
from gateway.errors import BadCountry, BadService, CallerError, NoNumbers
from gateway.live import Live
from gateway.model import Status
from gateway.money import Money, MoneyError, to_micros
from gateway.offers import Row

EARLY_SECONDS = 120.0


class TigerSms(Dialect):
    """As it was in autumn 2026."""

    name = "tiger"
    words: ClassVar[Mapping[str, str]] = {**WORDS, "too_many_requests": "Too Many Requests"}
    statuses: ClassVar[Mapping[str, int]] = {"bad_key": 401, "too_many_requests": 429}
    needs_country = True
    lacks = (
        SMS_ACTIVATE_ONLY
        | (NEWER - {"getPricesV2", "getPricesV3"})
        | {"getCurrentActivations", "getFullSms", "getNumbersStatus", "getOperators"}
    )
    active_statuses: ClassVar[Mapping[Status, str]] = {Status.WAITING: "1", Status.RECEIVED: "6", Status.RETRYING: "3"}
    active_page = (50, 100)

    def own_actions(self) -> dict[str, Handler]:
        return {"getFreePrices": self.get_prices_v2}

    # Refusing

    def refusal(self, error: CallerError, action: str, values: Mapping[str, str]) -> Reply:
        title = _title(error, action)
        if title is None:
            return after(error, super().refusal(error, action, values))
        settings, now = self.front.house.settings.gateway, self.front.house.clock()
        early = settings.activations.early_cancel_seconds or EARLY_SECONDS
        return envelope(title, error, early_seconds=early, now=now, open_max=settings.limits.open_activations)

    def nothing_listed(self, error: BadService | BadCountry, call: Call) -> Reply:
        raise error

    # Money

    async def get_balance(self, call: Call) -> Reply:
        if call.values.get("format") != "json":
            return await super().get_balance(call)
        balance = f"{await self.available(call) / 1_000_000:.4f}"
        return as_json({"balance": balance, "currency": currency_number(call.caller.currency)})

    # Buying

    def require_kind(self, call: Call) -> None:
        if call.values.get("activationType", "SMS") not in ("SMS", "0"):
            raise Refusal(text("BAD_ACTIVATION_TYPE"))

    def cap(self, given: str, currency: str) -> Money:
        try:
            to_micros(given)
        except MoneyError:
            raise Refusal(text("BAD_MAX_PRICE")) from None
        return super().cap(given, currency)

    def require_seller(self, call: Call) -> None:
        """Raises Refusal."""
        if is_elsewhere(call.values):
            raise Refusal(text("BAD_PROVIDER_IDS"))
        if is_unwanted(call.values):
            raise Refusal(text("NO_PROVIDERS"))

    def require_price(self, call: Call, listed: Money | None, cap: Money | None) -> None:
        """Raises Refusal, NoNumbers."""
        require_minimum(call.values, listed)
        if is_other_price(call.values, listed, cap):
            raise Refusal(text("BAD_FIXED_PRICE"))

    # Reading

    async def get_status(self, call: Call) -> Reply:
        live = await self.find(call)
        if live.status is Status.RECEIVED and is_true(call.values.get("full_text")):
            return self.told(call, live, text(f"STATUS_OK:{live.messages[-1].text}"))
        return self.told(call, live, self.status(live))

    def status_v2(self, live: Live) -> dict[str, object]:
        shown = super().status_v2(live)
        return {name: shown[name] for name in ("verificationType", "sms")}

    def active_list(self, rows: list[dict[str, object]], *, is_any: bool) -> Reply:
        return as_json({"status": "success", "data": rows})

    # Lists

    def price_leaf(self, row: Row) -> str:
        cost = f"{row.price.micros / 1_000_000:.4f}"
        return f'{{"cost":"{cost}","count":{row.count},"physicalCount":{row.count}}}'

    def price_map(self, row: Row) -> str:
        """A ladder with its summary: getPricesV2, which is also called getFreePrices."""
        price = f"{row.price.micros / 1_000_000:.4f}"
        return f'{{"prices":{{"{price}":{row.count}}},"has_multi":true,"saleAveragePrice":"{price}"}}'

    async def get_prices_v3(self, call: Call) -> Reply:
        """One service in one country at a time. Raises BadService, BadCountry."""
        service, country = self.service(call.values), self.country(call.values)
        row = next(self.front.house.market.listing_now(call.caller, service, country), None)
        if row is None:
            raise NoNumbers
        price, number = f"{row.price.micros / 1_000_000:.4f}", int(OUR_PROVIDER)
        provider = {"count": row.count, "price": [price], "provider_id": number}
        currency = currency_number(call.caller.currency)
        return as_json(
            {"price": price, "count": row.count, "currency": currency, "providers": {OUR_PROVIDER: provider}}
        )

    def countries(self, rows: list[dict[str, object]]) -> object:
        return rows


def _title(error: CallerError, action: str) -> str | None:
    """The envelope's title; None where this error of this action is a plain word."""
    if error.code == "cancel_too_early":
        return "EARLY_CANCEL_DENIED"
    if not action.endswith(("V2", "V3")) or error.code in ("bad_key", "too_many_requests"):
        return None
    title = _TITLES.get(error.code, WORDS[error.code])
    return title if title in STATUSES else None


_TITLES = {
    "unknown_activation": "NOT_FOUND",
    "bad_activation_id": "UNPROCESSABLE_ENTITY",
    "bad_service": "UNPROCESSABLE_ENTITY",
    "bad_country": "UNPROCESSABLE_ENTITY",
    "bad_phone_exception": "UNPROCESSABLE_ENTITY",
    "unavailable": "SERVER_ERROR",
    "internal": "SERVER_ERROR",
}
