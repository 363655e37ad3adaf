"""SMSHub: SMS-Activate as it was before second versions, priced by ladders, counted with the suffix `_0`.

Facts are its clients': `protocol/handler_api.md` §2.1, §4.1, §5, §6.2, §10; `upstreams/handler_api_family.md` §2, §7.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from compat._activations import MOVES
from compat._core import WORDS, Handler
from compat._dialect import NEWER, SMS_ACTIVATE_ONLY, Dialect
from compat._reply import Call, Refusal, Reply, currency_number, text
from compat._wire import JSON
from gateway.model import Order
from gateway.money import plain
from gateway.offers import Row

PURSES = frozenset({"643", "840"})


class SmsHub(Dialect):
    """As its clients of 2021 to 2025 know it."""

    name = "smshub"
    words: ClassVar[Mapping[str, str]] = {**WORDS, "bad_service": "WRONG_SERVICE"}
    no_key = "NO_KEY"
    no_action = "NO_ACTION"
    count_suffix = "_0"
    counts_are_text = False
    counts_type = JSON
    lacks = SMS_ACTIVATE_ONLY | NEWER | {"getActiveActivations", "getNumberV2", "getStatusV2"}
    moves: ClassVar[Mapping[str, tuple[str, str]]] = {number: MOVES[number] for number in ("1", "3", "6", "8")}

    def own_actions(self) -> dict[str, Handler]:
        return {"updateApiCurrency": self.update_api_currency}

    def price_leaf(self, row: Row) -> str:
        """A ladder, price to quantity. There is one rung: what the listed price buys."""
        return f'{{"{plain(row.price.micros)}":{row.count}}}'

    async def get_balance(self, call: Call) -> Reply:
        self._require_purse(call)
        return await super().get_balance(call)

    def order(self, call: Call) -> Order:
        self._require_purse(call)
        return super().order(call)

    def _require_purse(self, call: Call) -> None:
        """An account has one purse; a number of another currency would change what prices mean. Raises Refusal."""
        given = call.values.get("currency")
        if given is not None and given != str(currency_number(call.caller.currency)):
            raise Refusal(text("BAD_CURRENCY"))

    async def update_api_currency(self, call: Call) -> Reply:
        if call.values.get("currency") not in PURSES:
            raise Refusal(text("BAD_CURRENCY"))
        raise Refusal(text("CURRENCY_CHANGE_UNAVAILABLE"))
