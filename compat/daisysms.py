"""DaisySMS: SMS-Activate's tokens for one country, with words, headers and limits of its own.

Facts: `protocol/handler_api.md` §3.2, §3.4, §4.2, §5.5, §5.6, §7, §12; `upstreams/handler_api_family.md` §8.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import ClassVar

from compat._core import WORDS, Handler
from compat._dialect import NEWER, SMS_ACTIVATE_ONLY, Dialect
from compat._reply import Call, Refusal, Reply, in_header, is_true, text
from gateway.errors import BadActivationId, NoNumbers, NotAllowedNow, UnknownActivation
from gateway.offers import Row

USA = 187
SHOWN_MAX = 100
"""More than a hundred in stock are shown as a hundred."""


class DaisySms(Dialect):
    """As its page had it in 2025."""

    name = "daisy"
    webhook_format = "daisy"
    words: ClassVar[Mapping[str, str]] = {
        **WORDS,
        "no_balance": "NO_MONEY",
        "too_many_open": "TOO_MANY_ACTIVE_RENTALS",
        "price_too_low": "MAX_PRICE_EXCEEDED",
        "bad_activation_id": "NO_ACTIVATION",
    }
    action_words: ClassVar[Mapping[tuple[str, str], str]] = {
        ("getExtraActivation", code): "BAD_ID"
        for code in ("bad_activation_id", "unknown_activation", "not_allowed_now")
    }
    key_header = b"x-api-key"
    sole_country = USA
    cap_names = ("max_price", "maxPrice")
    lacks = (SMS_ACTIVATE_ONLY | NEWER | {"getCurrentActivations"}) - {"getExtraActivation", "getPricesVerification"}
    life_seconds = 900.0
    open_max = 20

    def own_actions(self) -> dict[str, Handler]:
        return {
            "keep": self.no_rental,
            "setAutoRenew": self.no_rental,
        }

    def require_kind(self, call: Call) -> None:
        """What narrows the choice or makes it a rental can't be kept to. Raises Refusal, NoNumbers."""
        values = call.values
        if "number" in values:
            raise Refusal(text("NUMBER_NOT_AVAILABLE"))
        is_rental = any(is_true(values.get(name)) for name in ("ltr", "auto_renew", "renewable"))
        if is_rental or any(name in values for name in ("areas", "carriers", "duration")):
            raise NoNumbers
        super().require_kind(call)

    async def get_status(self, call: Call) -> Reply:
        live = await self.find(call)
        reply = self.told(call, live, self.status(live))
        if not live.messages or call.values.get("text") != "1" or reply is self.over:
            return reply
        return Reply(reply.body, reply.content_type, ((b"x-text", in_header(live.messages[-1].text)),))

    async def set_status(self, call: Call) -> Reply:
        """A cancel that comes too late, or of a number there is not, is `ACCESS_READY`: "missing or has the code"."""
        try:
            return await super().set_status(call)
        except (NotAllowedNow, UnknownActivation, BadActivationId):
            if call.values.get("status") not in ("8", "-1"):
                raise
            return text("ACCESS_READY")

    def price_leaf(self, row: Row) -> str:
        name = json.dumps(self.catalog.services.get(row.service, row.service), ensure_ascii=False)
        cost = row.price.micros / 1_000_000
        return f'{{"name":{name},"cost":{cost},"count":{min(row.count, SHOWN_MAX)},"repeatable":true}}'

    def verification_leaf(self, row: Row) -> str:
        return self.price_leaf(row)

    async def no_rental(self, call: Call) -> Reply:
        """No rental here renews itself, so no id is one's."""
        raise Refusal(text("BAD_ID"))
