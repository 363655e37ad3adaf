"""HeroSMS, the successor of SMS-Activate: its actions, with errors as JSON envelopes under real HTTP statuses.

Not all of them: "none free", a missing key and a database that is away stay plain words with 200, and so does a wrong
service or country of getNumber. Facts: `protocol/upstreams/handler_api_family.md` §3, `handler_api.md` §4.3 to §6, §10.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import ClassVar

from compat._activations import MOVES, newest_sms
from compat._core import WORDS, Handler
from compat._dialect import SMS_ACTIVATE_ONLY, Dialect
from compat._envelope import STATUSES, envelope, titled
from compat._hero_rentals import RENTAL, RENTING, HeroRentals
from compat._reply import Call, Refusal, Reply, as_json, date, text, whole, zoned
from compat._wire import JSON
from gateway.accounts import Caller
from gateway.errors import BadCountry, BadService, CallerError, NoNumbers, NotAllowedNow
from gateway.live import Live
from gateway.model import Status
from gateway.offers import Row

EARLY_SECONDS = 120.0
"""What its clients are told to wait when an upstream refuses a cancel for now."""

ID_BEYOND = 2**63 - 1
RENTALS_MAX = 100
"""Of the open rentals, the newest, so many are among the open activations."""

NOTHING_ACTIVE = {"affected_rows": 0, "num_rows": 0, "row": [], "rows": []}
"""A driver's result, printed as it is when there is nothing."""


class HeroSms(HeroRentals, Dialect):
    """As it was in autumn 2026."""

    name = "hero"
    webhook_format = "hero"
    words: ClassVar[Mapping[str, str]] = {
        **WORDS,
        "unknown_activation": "NOT_FOUND",
        "bad_activation_id": "UNPROCESSABLE_ENTITY",
        "bad_service": "UNPROCESSABLE_ENTITY",
        "bad_country": "UNPROCESSABLE_ENTITY",
        "bad_phone_exception": "UNPROCESSABLE_ENTITY",
        "bad_webhook_url": "UNPROCESSABLE_ENTITY",
        "webhook_not_https": "UNPROCESSABLE_ENTITY",
        "webhook_url_too_long": "UNPROCESSABLE_ENTITY",
        "no_operators": "OPERATORS_NOT_FOUND",
        "no_activations": "NO_ACTIVATIONS",
        "too_many_requests": "RATE_LIMIT",
        "internal": "SERVER_ERROR",
    }
    no_key = "NO_KEY"
    needs_country = True
    counts_are_text = False
    counts_type = JSON
    lacks = (SMS_ACTIVATE_ONLY - RENTING) | {"getCurrentActivations", "getFullSms", "getPricesV2", "getPricesV3"}
    moves: ClassVar[Mapping[str, tuple[str, str]]] = {number: MOVES[number] for number in ("3", "6", "8")}
    active_statuses: ClassVar[Mapping[Status, str]] = {Status.WAITING: "4", Status.RECEIVED: "4", Status.RETRYING: "4"}
    active_page = (100, 100)
    page_names = ("size", "limit")

    def own_actions(self) -> dict[str, Handler]:
        return {
            "cancelActivation": self.cancel_activation,
            "finishActivation": self.finish_activation,
            "getAllSms": self.get_all_sms,
            **self.rent_handlers(),
        }

    # Refusing

    def refusal(self, error: CallerError, action: str, values: Mapping[str, str]) -> Reply:
        if action == "getNumber" and isinstance(error, BadService | BadCountry):
            return text(f"UNPROCESSABLE_ENTITY:{'service' if isinstance(error, BadService) else 'country'}:INVALID")
        if action == "getRentNumber" and isinstance(error, NoNumbers):
            return titled("NO_NUMBERS", status=404)
        word = self.word(error, action, values)
        return self.enveloped(word, error) if word in STATUSES else super().refusal(error, action, values)

    def enveloped(self, title: str, error: CallerError) -> Reply:
        settings, now = self.front.house.settings.gateway, self.front.house.clock()
        early = settings.activations.early_cancel_seconds or EARLY_SECONDS
        return envelope(
            title, error, early_seconds=early, now=now, open_max=self.open_max or settings.limits.open_activations
        )

    def nothing_listed(self, error: BadService | BadCountry, call: Call) -> Reply:
        if call.action != "getPrices":
            raise error
        which = "service" if isinstance(error, BadService) else "country"
        return as_json({"status": "false", "msg": f"{which} is incorrect"})

    # Buying

    def bought(self, live: Live) -> dict[str, object]:
        country = self.known_country(live.country)
        return {
            **super().bought(live),
            "countryCode": live.country,
            "countryPhoneCode": country.prefix if country else "",
            "canGetAnotherSms": True,
            "activationTime": zoned(live.opened_at),
            "activationEndTime": zoned(live.expires_at),
            "operator": live.operator or "any",
            "verificationType": "sms",
            "serviceCode": live.service,
            "status": "4",
        }

    # Reading

    def status_v2(self, live: Live) -> dict[str, object]:
        """Two documents, two shapes: both are there. The number is what its published client reads."""
        rows = _messages(live)
        return {"verificationType": 0, "data": rows[-1] if rows else None, "sms": newest_sms(live), "call": None}

    async def get_status(self, call: Call) -> Reply:
        live = await self.find_either(call)
        self.front.readers.saw(call.caller, live, only_newest=True)
        return self.status(live)

    async def get_status_v2(self, call: Call) -> Reply:
        live = await self.find_either(call)
        if not live.status.is_open and not self.is_in_grace(live):
            return self.over
        self.front.readers.saw(call.caller, live, only_newest=True)
        return as_json(self.status_v2(live))

    async def get_all_sms(self, call: Call) -> Reply:
        live = await self.find_either(call)
        rows = _messages(live)
        size = whole(call.values.get("size"), len(rows))
        start = size * max(whole(call.values.get("page"), 1) - 1, 0)
        shown = rows[start : start + size]
        self.front.readers.saw_some(call.caller, live, range(start, start + len(shown)))
        return as_json({"data": shown, "meta": {"total": len(rows), "service": live.service}})

    def moment(self, value: str) -> float:
        """ISO 8601, too, as its client's documentation has it; UTC where no zone is named."""
        if value.isdigit():
            return super().moment(value)
        try:
            found = datetime.fromisoformat(value)
        except ValueError:
            return super().moment(value)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()

    def map_price(self, row: Row) -> str:
        return f"{row.price.micros / 1_000_000:.4f}"

    def active_list(self, rows: list[dict[str, object]], *, is_any: bool) -> Reply:
        found = NOTHING_ACTIVE
        if rows:
            found = {"affected_rows": len(rows), "num_rows": len(rows), "row": [rows[0]], "rows": list(rows)}
        return as_json({"status": "success", "data": rows, "activeActivations": found})

    rows_show_all = False

    def active_row(self, live: Live) -> dict[str, object]:
        """The code is text, as its published client reads it; replies with a list were seen as well."""
        row = {**super().active_row(live), "smsCode": live.code or None}
        return {**row, "subtype": RENTAL} if live.is_rental else row

    async def get_operators(self, call: Call) -> Reply:
        """No operators are an empty list here, and an unknown country is refused."""
        if "country" not in call.values:
            return await super().get_operators(call)
        country = self.country(call.values)
        found = self.front.house.market.operators(country, call.caller)
        return as_json({"status": "success", "countryOperators": {self.country_number(country): found}})

    async def _asked_for(self, call: Call) -> list[Live]:
        """Rentals are among the open ones here, after the others."""
        lives = await super()._asked_for(call)
        if call.values.get("orderId"):
            return lives
        rented = await self.front.rentals.rentals_of(call.caller, before=ID_BEYOND, limit=RENTALS_MAX)
        return [*lives, *reversed(rented)]

    # Changing

    async def set_status(self, call: Call) -> Reply:
        live = await self.find_either(call)
        await self.count_change(call)
        move, word = self.moves.get(call.values.get("status", ""), ("", ""))
        await self._move(call.caller, live, move)
        return text(word)

    async def _move(self, caller: Caller, live: Live, move: str) -> None:
        if live.is_rental:
            await self.move_rental(caller, live, move)
        else:
            await self.move(caller, live.id, move)

    async def move(self, caller: Caller, activation_id: int, move: str) -> None:
        """A cancel after a code is told apart from other moves that are not possible now."""
        try:
            await super().move(caller, activation_id, move)
        except NotAllowedNow as error:
            live = await self.front.activations.get(caller, activation_id)
            if move == "cancel" and live.messages and live.status.is_open:
                raise Refusal(self.enveloped("OTP_RECEIVED", error)) from None
            raise

    async def finish_activation(self, call: Call) -> Reply:
        return await self._moved(call, "finish")

    async def cancel_activation(self, call: Call) -> Reply:
        return await self._moved(call, "cancel")

    async def _moved(self, call: Call, move: str) -> Reply:
        """As setStatus, but says nothing: 204."""
        live = await self.find_either(call)
        await self.count_change(call)
        await self._move(call.caller, live, move)
        return Reply(b"", status=204)


def _messages(live: Live) -> list[dict[str, object]]:
    """Every SMS, oldest first."""
    return [
        {
            "id": str(place), "phoneFrom": message.sender, "code": message.code, "text": message.text,
            "service": live.service, "date": date(message.received_at), "type": "sms",
        }
        for place, message in enumerate(live.messages, start=1)
    ]  # fmt: skip
