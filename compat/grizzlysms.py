"""GrizzlySMS: SMS-Activate, where the country may be `any` and the list of open activations is bare.

Facts: `protocol/handler_api.md` §4.2, §4.3, §6.1, §14.1; `upstreams/handler_api_family.md` §2, §6.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from compat._core import WORDS
from compat._dialect import NEWER, SMS_ACTIVATE_ONLY, Dialect
from compat._reply import Call, Reply, as_json, date
from compat._shelves import require_seller
from gateway.errors import NoNumbers
from gateway.live import Live
from gateway.model import Order
from gateway.money import Money


class GrizzlySms(Dialect):
    """As it was in 2026."""

    name = "grizzly"
    words = WORDS
    no_key = "NO_KEY"
    lacks = SMS_ACTIVATE_ONLY | (NEWER - {"getPricesV2", "getPricesV3"}) | {"getCurrentActivations"}
    own_countries: ClassVar[Mapping[str, str]] = {
        "10016": "IR", "10227": "TO", "10231": "WS", "10348": "LI", "10349": "SX", "10350": "KR", "10351": "SG",
    }  # fmt: skip

    def country_to_buy(self, call: Call) -> int:
        """`any` is wherever it is cheapest now, the largest stock first among equals. Raises BadCountry, NoNumbers."""
        if call.values.get("country") != "any":
            return super().country_to_buy(call)
        rows = self.front.house.market.listing_now(call.caller, self.service(call.values))
        best = min(rows, key=lambda row: (row.price.micros, -row.count, row.country), default=None)
        if best is None:
            raise NoNumbers
        return best.country

    def require_terms(self, call: Call, order: Order, cap: Money | None) -> None:
        require_seller(self.front.house.market, call, order)

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
