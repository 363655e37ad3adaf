"""Lists of an account's activations: those before, those open now in older forms, and where they were bought."""

from __future__ import annotations

from typing import ClassVar

from compat._activations import Activations
from compat._reply import Call, Refusal, Reply, amount, as_json, currency_number, date, text, whole
from compat._wire import first
from gateway import history
from gateway.history import Past
from gateway.live import Live
from gateway.model import Status

SPAN_SECONDS = 30 * 86_400
ROWS_DEFAULT = 50
ROWS_MAX = 100
OLD_LIST_MAX = 10
TOP_DEFAULT = 10
TOP_MAX = 250

PAST_STATUSES = {
    Status.WAITING: "4",
    Status.RECEIVED: "2",
    Status.RETRYING: "3",
    Status.FINISHED: "6",
    Status.CANCELLED: "8",
    Status.EXPIRED: "10",
}
"""An activation that expired without an SMS was refunded."""


class PastActivations(Activations):
    """What an account did, and in which state it is."""

    page_names: ClassVar[tuple[str, ...]] = ("limit",)
    """How getHistory's number of rows is called."""

    async def get_history(self, call: Call) -> Reply:
        self.count_look(call)
        house, values = self.front.house, call.values
        end = self.moment(values["end"]) if "end" in values else house.clock()
        start = self.moment(values["start"]) if "start" in values else end - SPAN_SECONDS
        if not 0 <= end - start <= SPAN_SECONDS:
            raise Refusal(text("WRONG_DATE"))
        given = values.get("orderId")
        rows = await house.store.read(
            history.page,
            call.caller.account_id,
            start,
            end,
            limit=min(whole(first(values, *self.page_names), ROWS_DEFAULT), ROWS_MAX),
            offset=whole(values.get("offset"), 0),
            reference=self.reference(given) if given else "",
        )
        found = history.opened(house.vault, rows)
        self.front.readers.saw_past(call.caller, found)
        return as_json([self.past_row(past) for past in found])

    def moment(self, value: str) -> float:
        """Seconds since the epoch. Raises Refusal."""
        if not (value.isascii() and value.isdigit() and len(value) <= 12):
            raise Refusal(text("WRONG_DATE"))
        return float(value)

    def past_row(self, past: Past) -> dict[str, object]:
        """The cost is nought while it is open."""
        return {
            "id": str(past.id),
            "date": date(past.opened_at),
            "phone": past.number,
            "sms": past.text,
            "cost": 0 if past.status.is_open else amount(past.paid_micros),
            "status": PAST_STATUSES[past.status],
            "currency": currency_number(past.currency),
        }

    async def get_top_by_share(self, call: Call) -> Reply:
        """getListOfTopCountriesByService: of the account's own activations, for nobody sees those of others."""
        service = call.values.get("service", "")
        if service not in self.catalog.services:
            raise Refusal(text("WRONG_SERVICE"))
        self.count_look(call)
        rows = await self.front.house.store.read(history.countries_of, call.caller.account_id, service)
        total = sum(row["bought"] for row in rows)
        length = min(whole(call.values.get("length"), TOP_DEFAULT), TOP_MAX)
        start = length * max(whole(call.values.get("page"), 1) - 1, 0)
        return as_json(
            [
                {
                    "country": int(self.country_number(row["country"])),
                    "share": round(100 * row["bought"] / total),
                    "rate": round(100 * row["received"] / row["bought"]),
                }
                for row in rows[start : start + length]
            ]
        )

    # Open ones, in older forms

    async def get_list_of_active(self, call: Call) -> Reply:
        """getListOfActiveActivations: the older name, ten at a time."""
        lives = await self._asked_for(call)
        if call.values.get("order", "").lower() == "desc":
            lives.reverse()
        start = whole(call.values.get("start"), 0)
        length = min(whole(call.values.get("length"), OLD_LIST_MAX), OLD_LIST_MAX)
        return self.active_list(self.active_rows(call, lives[start : start + length]), is_any=bool(lives))

    async def get_current(self, call: Call) -> Reply:
        """getCurrentActivations, as SMSHub has it."""
        lives = await self._asked_for(call)
        if not lives:
            return as_json({"status": "fail", "msg": "no_activations"})
        self.front.readers.saw_each(call.caller, lives)
        rows = [self._current_row(live, call.caller.key_id) for live in lives]
        return as_json({"status": "success", "array": rows, "time": int(self.front.house.clock())})

    def _current_row(self, live: Live, key_id: int) -> dict[str, object]:
        country = self.known_country(live.country)
        return {
            "id": str(live.id),
            "activationId": str(live.id),
            "apiKeyId": str(key_id),
            "phone": self.number(live),
            "status": self.active_statuses[live.status],
            "moreCodes": ",".join(message.code for message in live.messages[:-1]),
            "createDate": int(live.opened_at),
            "receiveSmsDate": int(live.messages[-1].received_at) if live.messages else 0,
            "finishDate": 0,
            "activation": live.service,
            "code": live.code,
            "countryCode": self.country_number(live.country),
            "countryName": country.eng if country else "",
            "timer": round(live.expires_at - live.opened_at),
        }
