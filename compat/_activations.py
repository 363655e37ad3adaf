"""An activation in the `handler_api.php` dialects: bought, read, changed."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from decimal import ROUND_FLOOR
from typing import ClassVar, TypeVar

from compat._core import Core
from compat._reply import Call, Reply, amount, as_json, currency_number, date, dumps, is_true, text, whole
from compat._shelves import is_elsewhere, is_other_price, is_unwanted, names_a_price, require_minimum
from compat._wire import JSON, TEXT, first, gone
from gateway import history
from gateway.accounts import Caller
from gateway.errors import (
    BadPhoneException,
    NoActivations,
    NoNumbers,
    NotAllowedNow,
)
from gateway.live import Live
from gateway.model import Order, Status
from gateway.money import Money, MoneyError, plain, round_down_to_step, to_micros

WAIT_CODE = text("STATUS_WAIT_CODE")
CANCEL = text("STATUS_CANCEL")

MOVES = {
    "1": ("ready", "ACCESS_READY"),
    "3": ("again", "ACCESS_RETRY_GET"),
    "6": ("finish", "ACCESS_ACTIVATION"),
    "8": ("cancel", "ACCESS_CANCEL"),
    "-1": ("cancel", "ACCESS_CANCEL"),
}
"""What a number of setStatus asks for, and the word for having it."""

T = TypeVar("T")

_EXCEPTION = re.compile(r"[0-9]{4,9}")


class Activations(Core):
    """The actions on one activation, and the list of open ones."""

    moves: ClassVar[Mapping[str, tuple[str, str]]] = MOVES
    cap_names: ClassVar[tuple[str, ...]] = ("maxPrice", "max_price")
    waiting: ClassVar[Reply] = WAIT_CODE
    over: ClassVar[Reply] = CANCEL

    life_seconds: ClassVar[float | None] = None
    """Numbers bought in this dialect live so long at most; None for the deployment's own setting."""

    open_max: ClassVar[int | None] = None
    """An account with so many open gets no more in this dialect; None for the deployment's own setting."""

    active_statuses: ClassVar[Mapping[Status, str]] = {
        Status.WAITING: "4",
        Status.RECEIVED: "2",
        Status.RETRYING: "3",
    }
    rows_show_all: ClassVar[bool] = True
    """Whether a row of getActiveActivations has the code of every message, or that of the newest only."""

    active_page: ClassVar[tuple[int, int] | None] = None
    """Rows of getActiveActivations by default, and at most; None for all of them."""

    # Buying

    async def get_number(self, call: Call) -> Reply:
        """getNumber, and getNumberV2, which says the same as JSON."""
        await self.count_change(call)
        front = self.front
        front.purchases.require_free(call.caller)
        order = self.order(call)
        live, was_gone = await while_there(call, lambda is_gone: front.purchases.open(call.caller, order, is_gone))
        if call.action == "getNumberV2":
            return self.handed_over(order, live, dumps(self.bought(live)), JSON, was_gone=was_gone)
        said = f"ACCESS_NUMBER:{live.id}:{self.number(live)}"
        return self.handed_over(order, live, said.encode(), TEXT, was_gone=was_gone)

    def handed_over(self, order: Order, live: Live, body: bytes, content_type: bytes, *, was_gone: bool) -> Reply:
        """A purchase's answer with its price."""
        price = (b"x-price", plain(live.price_micros).encode())
        return Reply(body, content_type, (price,), self.when_sent(order, live, was_gone=was_gone))

    def when_sent(self, order: Order, live: Live, *, was_gone: bool) -> Callable[[bool], None]:
        """What nobody gets to hear of is kept for the repeated request."""
        handovers = self.front.handovers

        def on_sent(was_there: bool) -> None:
            if was_gone or not was_there:
                handovers.abandon(live, order.fingerprint)
            else:
                handovers.answered(live)

        return on_sent

    def order(self, call: Call) -> Order:
        """The order in the parameters. Raises BadService, BadCountry, BadPhoneException, NoNumbers in that order."""
        values = call.values
        operator = values.get("operator", "")
        order = Order(
            service=self.service(values),
            country=self.country_to_buy(call),
            operator="" if operator == "any" else operator[:100],
            phone_exceptions=exceptions(values.get("phoneException", "")),
            reference=self.own_reference(call),
            fingerprint=self.fingerprint(call),
            life_seconds=self.life_seconds,
            open_max=self.open_max,
        )
        self.require_kind(call)
        given = first(values, *self.cap_names)
        cap = self.cap(given, call.caller.currency) if given else None
        self.require_terms(call, order, cap)
        return order if cap is None else replace(order, price_max=cap)

    def country_to_buy(self, call: Call) -> int:
        """Where the number shall be from. Raises BadCountry."""
        return self.country(call.values)

    def cap(self, given: str, currency: str) -> Money:
        """The caller's highest price in whole price steps; what is no amount is nought, so below every price."""
        try:
            micros = round_down_to_step(to_micros(given, rounding=ROUND_FLOOR))
        except MoneyError:
            micros = 0
        return Money(max(micros, 0), currency)

    def require_kind(self, call: Call) -> None:
        """Refuses what is no number for SMS: a call's number or a voice has another meaning. Raises NoNumbers.

        0 is an SMS; `verification` is the retired way to ask for a voice.
        """
        if call.values.get("activationType", "0") != "0" or is_true(call.values.get("verification")):
            raise NoNumbers

    def require_terms(self, call: Call, order: Order, cap: Money | None) -> None:
        """Refuses conditions that can't be kept to. Raises NoNumbers, or what the dialect has for it."""
        self.require_seller(call)
        if names_a_price(call.values):
            self.require_price(call, self.listed_price(call.caller, order), cap)

    def require_seller(self, call: Call) -> None:
        """Refuses who wants another provider's number. Raises NoNumbers, or what the dialect has for it."""
        if is_elsewhere(call.values) or is_unwanted(call.values):
            raise NoNumbers

    def require_price(self, call: Call, listed: Money | None, cap: Money | None) -> None:
        """Refuses conditions that the listed price (None where there is none) does not meet. Raises likewise."""
        require_minimum(call.values, listed)
        if is_other_price(call.values, listed, cap):
            raise NoNumbers

    def listed_price(self, caller: Caller, order: Order) -> Money | None:
        row = next(self.front.house.market.listing_now(caller, order.service, order.country), None)
        return row.price if row else None

    def own_reference(self, call: Call) -> str:
        """The caller's own order id as a digest, since it can be of any length; empty where there is none."""
        given = call.values.get("orderId")
        return self.reference(given) if given else ""

    def reference(self, given: str) -> str:
        return self.front.house.vault.index_digest("order", given)

    def fingerprint(self, call: Call) -> str:
        """The same for two identical requests of one key."""
        pairs = sorted((name, value) for name, value in call.values.items() if name != "api_key")
        return self.front.house.vault.index_digest("request", f"{call.caller.key_id}:{self.name}:{json.dumps(pairs)}")

    def number(self, live: Live) -> str:
        """A phone number as this dialect prints it."""
        return live.number

    def bought(self, live: Live) -> dict[str, object]:
        """getNumberV2's answer with SMS-Activate's own types."""
        return {
            "activationId": live.id,
            "phoneNumber": self.number(live),
            "activationCost": amount(live.price_micros),
            "currency": currency_number(live.currency),
            "countryCode": self.country_number(live.country),
            "canGetAnotherSms": "1",
            "activationTime": date(live.opened_at),
            "activationOperator": live.operator or "any",
        }

    # Reading

    async def get_status(self, call: Call) -> Reply:
        live = await self.find(call)
        return self.told(call, live, self.status(live))

    def told(self, call: Call, live: Live, reply: Reply) -> Reply:
        """The reply; that the caller saw the newest message is noted, unless it says there is none."""
        if reply is not self.waiting and reply is not self.over:
            self.front.readers.saw(call.caller, live, only_newest=True)
        return reply

    def status(self, live: Live) -> Reply:
        """What a poll gets."""
        if live.status is Status.WAITING:
            return self.waiting
        if live.status is Status.RECEIVED or self.is_in_grace(live):
            return text(f"STATUS_OK:{live.code}")
        if live.status is Status.RETRYING:
            return text(f"STATUS_WAIT_RETRY:{live.code}")
        return self.over

    def is_in_grace(self, live: Live) -> bool:
        """Ended by time with a code: it may not have been read yet, and "cancelled" would look like a refund."""
        if live.status is not Status.FINISHED or live.ended_at is None or live.ended_at < live.expires_at:
            return False
        house = self.front.house
        return house.clock() - live.ended_at <= house.settings.gateway.activations.code_grace_seconds

    async def get_status_v2(self, call: Call) -> Reply:
        live = await self.find(call)
        if not live.status.is_open and not self.is_in_grace(live):
            return self.over
        return self.told(call, live, as_json(self.status_v2(live)))

    def status_v2(self, live: Live) -> dict[str, object]:
        return {"verificationType": 0, "sms": newest_sms(live), "call": None}

    async def get_full_sms(self, call: Call) -> Reply:
        live = await self.find(call)
        if live.messages:
            return self.told(call, live, text(f"FULL_SMS:{live.messages[-1].text}"))
        return self.waiting if live.status.is_open else self.over

    async def get_active_activations(self, call: Call) -> Reply:
        lives = await self._asked_for(call)
        start, limit = self._page(call.values, len(lives))
        rows = self.active_rows(call, lives[start : start + limit])
        return self.active_list(rows, is_any=bool(lives))

    async def _asked_for(self, call: Call) -> list[Live]:
        """Open activations, oldest first; the one of an `orderId`, where that is named."""
        lives = [live for live in self.front.activations.open_of(call.caller) if live.status in self.active_statuses]
        given = call.values.get("orderId")
        if not given:
            return lives
        self.count_look(call)
        read = self.front.house.store.read
        activation_id = await read(history.id_of_order, call.caller.account_id, self.reference(given))
        return [live for live in lives if live.id == activation_id]

    def _page(self, values: Mapping[str, str], count: int) -> tuple[int, int]:
        default, most = self.active_page or (count, count)
        return whole(values.get("start"), 0), min(whole(values.get("limit"), default), most)

    def active_list(self, rows: list[dict[str, object]], *, is_any: bool) -> Reply:
        if not is_any:
            raise NoActivations
        return as_json({"status": "success", "activeActivations": rows})

    def active_rows(self, call: Call, lives: Sequence[Live]) -> list[dict[str, object]]:
        """A row for each; that the caller saw what is in them is noted."""
        for live in lives:
            self.front.readers.saw(call.caller, live, only_newest=not self.rows_show_all)
        return [self.active_row(live) for live in lives]

    def active_row(self, live: Live) -> dict[str, object]:
        country = self.known_country(live.country)
        return {
            "activationId": str(live.id),
            "serviceCode": live.service,
            "phoneNumber": self.number(live),
            "activationCost": amount(live.price_micros),
            "activationStatus": self.active_statuses[live.status],
            "smsCode": [message.code for message in live.messages] or None,
            "smsText": live.messages[-1].text if live.messages else None,
            "activationTime": date(live.opened_at),
            "discount": "0.00",
            "repeated": "0",
            "countryCode": self.country_number(live.country),
            "countryName": country.eng if country else "",
            "canGetAnotherSms": "1",
            "currency": currency_number(live.currency),
        }

    # Changing

    async def set_status(self, call: Call) -> Reply:
        live = await self.find(call)
        await self.count_change(call)
        move, word = self.moves.get(call.values.get("status", ""), ("", ""))
        await self.move(call.caller, live.id, move)
        return text(word)

    async def move(self, caller: Caller, activation_id: int, move: str) -> None:
        """Raises UnknownActivation, NotAllowedNow, CancelTooEarly, Unavailable."""
        activations = self.front.activations
        if move == "ready":
            await activations.ready(caller, activation_id)
        elif move == "again":
            await activations.ask_again(caller, activation_id)
        elif move == "finish":
            await activations.finish(caller, activation_id)
        elif move == "cancel":
            await activations.cancel(caller, activation_id)
        else:
            raise NotAllowedNow


async def while_there(call: Call, ask: Callable[[Callable[[], bool]], Awaitable[T]]) -> tuple[T, bool]:
    """What is asked for, and whether the client has hung up meanwhile. What is asked is told so, too."""
    hung_up = asyncio.ensure_future(gone(call.receive))
    try:
        found = await ask(hung_up.done)
        return found, hung_up.done()
    finally:
        hung_up.cancel()


def newest_sms(live: Live) -> dict[str, object] | None:
    """The newest message, None before the first."""
    if not live.messages:
        return None
    newest = live.messages[-1]
    return {"dateTime": date(newest.received_at), "code": newest.code, "text": newest.text}


def exceptions(value: str) -> tuple[str, ...]:
    """Prefixes not wanted: country code and three to six digits. Raises BadPhoneException on any other form."""
    if not value:
        return ()
    prefixes = tuple(part.strip() for part in value.split(","))
    if not all(_EXCEPTION.fullmatch(prefix) for prefix in prefixes):
        raise BadPhoneException
    return prefixes
