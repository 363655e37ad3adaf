"""SMSBower: SMS-Activate over GET only, with JSON for a wrong key and for wrong names in price lists.

Facts: `protocol/handler_api.md` §2.1, §5, §10, §14.1; `upstreams/handler_api_family.md` §2, §5.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import ClassVar

from compat._activations import MOVES
from compat._catalogue import Printer
from compat._core import WORDS
from compat._dialect import NEWER, SMS_ACTIVATE_ONLY, Dialect
from compat._reply import Call, Reply, as_json
from compat._shelves import OUR_PROVIDER
from gateway.catalog import Country
from gateway.errors import BadCountry, BadService
from gateway.offers import Row

WRONG_NAMES = {"bad_service": "Bad service", "bad_country": "Bad country"}


class SmsBower(Dialect):
    """As it was in summer 2026."""

    name = "bower"
    words: ClassVar[Mapping[str, str]] = {**WORDS, "bad_key": '{"status":0,"message":"No access","data":[]}'}
    action_words: ClassVar[Mapping[tuple[str, str], str]] = {
        ("getNumber", "bad_service"): "WRONG_SERVICE",
        ("getNumberV2", "bad_service"): "WRONG_SERVICE",
    }
    statuses: ClassVar[Mapping[str, int]] = {"bad_key": 401}
    takes_post = False
    post_refused = as_json({"status": 0, "message": "Method not allowed", "data": []}, 405)
    needs_country = True
    lacks = (
        SMS_ACTIVATE_ONLY
        | (NEWER - {"getPricesV2", "getPricesV3", "getTopCountriesByService"})
        | {"getActiveActivations", "getCurrentActivations", "getFullSms", "getNumbersStatus"}
    )
    moves: ClassVar[Mapping[str, tuple[str, str]]] = {number: MOVES[number] for number in ("1", "3", "6", "8")}
    own_countries: ClassVar[Mapping[str, str]] = {
        "1001": "JP", "1002": "KR", "1003": "BM", "1004": "XK", "1005": "LI", "1006": "SX", "1007": "VU", "1008": "GL",
        "1010": "SD", "1011": "MQ", "1333": "SY",
    }  # fmt: skip

    def nothing_listed(self, error: BadService | BadCountry, call: Call) -> Reply:
        if call.action.endswith("V3"):
            raise error
        return as_json({"error": WRONG_NAMES[error.code]})

    def no_top(self, error: BadService | BadCountry) -> Reply:
        return as_json({"error": WORDS[error.code]})

    def ranked(self, rows: Sequence[Row], leaf: Printer) -> str:
        """By the country's name, then by provider."""
        named = ((self.known_country(row.country), row) for row in rows)
        members = (f'{_quoted(country)}:{{"{OUR_PROVIDER}":{leaf(row)}}}' for country, row in named if country)
        return f"{{{','.join(members)}}}"

    def country_row(self, country: Country, *, rents: bool) -> dict[str, object]:
        return {**super().country_row(country, rents=rents), "id": self.country_number(country.id)}

    async def get_operators(self, call: Call) -> Reply:
        """Where there are none, an empty list."""
        market = self.front.house.market
        try:
            countries = [self.country(call.values)] if "country" in call.values else list(self.catalog.countries)
        except BadCountry:
            countries = []
        found = {self.country_number(country): market.operators(country, call.caller) for country in countries}
        return as_json({"status": "success", "countryOperators": {k: v for k, v in found.items() if v} or []})


def _quoted(country: Country) -> str:
    return json.dumps(country.eng, ensure_ascii=False)
