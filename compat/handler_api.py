"""The SMS-Activate text protocol, exact to the byte: the reference dialect.

Everything is HTTP 200; the body is the token and nothing else. Texts are `text/html; charset=UTF-8` as the original
sent them, and so is getNumbersStatus although it is JSON; the other JSON answers are `application/json`. Order of
checks: action, key, then what the use-case says. Facts: the vendor's API page and replies captured from it in 2025.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from decimal import ROUND_FLOOR

import structlog
from cachetools import LRUCache, TTLCache
from starlette.types import Receive, Scope, Send

from compat._wire import JSON, TEXT, answer, first, form_body, gone, parameters
from gateway import accounts, ledger
from gateway.accounts import Caller
from gateway.errors import (
    BadAction,
    BadActivationId,
    BadCountry,
    BadPhoneException,
    BadService,
    Barred,
    CallerError,
    Internal,
    NoActivations,
    NoOperators,
    NotAllowedNow,
    PriceTooLow,
    TooManyRequests,
    UnknownActivation,
)
from gateway.front import Front
from gateway.live import Live
from gateway.model import Order, Status
from gateway.money import Money, MoneyError, plain, round_down_to_step, to_micros
from gateway.webhooks import check_url

CURRENCY_NUMBERS = {"USD": 840, "RUB": 643, "EUR": 978, "GBP": 826, "NGN": 566, "CNY": 156, "UAH": 980, "KZT": 398}
"""ISO 4217 numbers, sent as JSON numbers; 840 for a currency not listed here, which is what clients assume."""

ID_MAX = 2**31 - 1
LISTS_BYTES_MAX = 96 * 2**20
LISTS_SECONDS = 10.0

WORDS = {
    "bad_key": "BAD_KEY",
    "bad_action": "BAD_ACTION",
    "barred": "BANNED",
    "bad_service": "BAD_SERVICE",
    "bad_country": "BAD_COUNTRY",
    "bad_phone_exception": "WRONG_EXCEPTION_PHONE",
    "price_too_low": "WRONG_MAX_PRICE",
    "too_many_open": "CHANNELS_LIMIT",
    "no_balance": "NO_BALANCE",
    "no_numbers": "NO_NUMBERS",
    "order_exists": "ORDER_ALREADY_EXISTS",
    "bad_activation_id": "WRONG_ACTIVATION_ID",
    "unknown_activation": "NO_ACTIVATION",
    "not_allowed_now": "BAD_STATUS",
    "cancel_too_early": "EARLY_CANCEL_DENIED",
    "no_operators": '{"status":"error","error":"OPERATORS_NOT_FOUND"}',
    "no_activations": '{"status":"error","error":"NO_ACTIVATIONS"}',
    "bad_webhook_url": "INVALID_WEBHOOK_URL",
    "webhook_not_https": "HTTPS_REQUIRED",
    "webhook_url_too_long": "WEBHOOK_URL_TOO_LONG",
    # No word for these in the dialect; this is the one token every client takes as "again, later".
    "too_many_requests": "ERROR_SQL",
    "unavailable": "ERROR_SQL",
    "internal": "ERROR_SQL",
}

_DIGITS = re.compile(r"[0-9]+")
_EXCEPTION = re.compile(r"[0-9]{4,9}")

ACTIVE_STATUS = {Status.WAITING: "4", Status.RECEIVED: "2", Status.RETRYING: "3"}

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Reply:
    """A body with its type. `on_sent` is told whether the client was still there to get it."""

    body: bytes
    content_type: bytes = TEXT
    headers: tuple[tuple[bytes, bytes], ...] = ()
    on_sent: Callable[[bool], None] | None = None


@dataclass(slots=True)
class Call:
    """One request: who, and with which parameters."""

    caller: Caller
    values: Mapping[str, str]
    action: str
    receive: Receive
    is_gone: Callable[[], bool] = field(default=lambda: False)


Handler = Callable[[Call], Awaitable[Reply]]


class HandlerApi:
    """The endpoint, an ASGI application of its own: a poll passes no middleware and builds no request object."""

    def __init__(self, front: Front) -> None:
        self._front = front
        self._lists: TTLCache[tuple[object, ...], bytes] = TTLCache(LISTS_BYTES_MAX, LISTS_SECONDS, getsizeof=len)
        self._building: dict[tuple[object, ...], asyncio.Task[bytes]] = {}
        self._catalogues: LRUCache[tuple[str, ...], bytes] = LRUCache(16)
        self._actions: dict[str, Handler] = {
            "getActiveActivations": self._get_active_activations,
            "getBalance": self._get_balance,
            "getCountries": self._get_countries,
            "getFullSms": self._get_full_sms,
            "getNumber": self._get_number,
            "getNumberV2": self._get_number,
            "getNumbersStatus": self._get_numbers_status,
            "getOperators": self._get_operators,
            "getPrices": self._get_prices,
            "getServicesList": self._get_services_list,
            "getStatus": self._get_status,
            "getStatusV2": self._get_status_v2,
            "getWebhook": self._get_webhook,
            "setStatus": self._set_status,
            "setWebhook": self._set_webhook,
        }
        metrics = front.house.metrics
        self._latency = {action: metrics.latency.labels(action) for action in (*self._actions, "other")}
        self._counts = {(action, "ok"): metrics.requests.labels(action, "ok") for action in self._actions}

    @property
    def actions(self) -> tuple[str, ...]:
        """Every action that is served."""
        return tuple(self._actions)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method = scope["method"]
        if method not in ("GET", "POST"):
            # A HEAD or OPTIONS must not buy a number.
            await answer(scope, send, b"", TEXT, headers=((b"allow", b"GET, POST"),))
            return
        started = time.perf_counter()
        body = await form_body(scope, receive) if method == "POST" else b""
        values = parameters(scope["query_string"], body) if body else parameters(scope["query_string"])
        action = values.get("action", "")
        reply, outcome = await self._reply(action, values, receive)
        await self._send(scope, send, reply)
        self._observe(action if action in self._actions else "other", outcome, time.perf_counter() - started)

    async def _reply(self, action: str, values: Mapping[str, str], receive: Receive) -> tuple[Reply, str]:
        try:
            handler = self._actions.get(action)
            if handler is None:
                raise BadAction
            caller = await self._front.callers.caller(values.get("api_key", ""))
            return await handler(Call(caller, values, action, receive)), "ok"
        except CallerError as error:
            return render_error(error), error.code
        except Exception:
            log.exception("request.failed", action=action if action in self._actions else "other")
            return render_error(Internal()), Internal.code

    async def _send(self, scope: Scope, send: Send, reply: Reply) -> None:
        was_there = True
        try:
            await answer(scope, send, reply.body, reply.content_type, headers=reply.headers)
        except OSError:
            was_there = False
        if reply.on_sent is not None:
            reply.on_sent(was_there)

    def _observe(self, action: str, outcome: str, seconds: float) -> None:
        key = (action, outcome)
        count = self._counts.get(key)
        if count is None:
            count = self._counts[key] = self._front.house.metrics.requests.labels(action, outcome)
        count.inc()
        self._latency[action].observe(seconds)

    async def _change(self, call: Call) -> None:
        per_minute = self._front.house.settings.gateway.limits.changes_per_minute
        if not await self._front.limits.change(call.caller.key_id, per_minute):
            raise TooManyRequests

    # Money

    async def _get_balance(self, call: Call) -> Reply:
        balance = await self._front.house.store.read(ledger.balance, call.caller.account_id)
        return text(f"ACCESS_BALANCE:{plain(balance.available.micros)}")

    # Buying

    async def _get_number(self, call: Call) -> Reply:
        await self._change(call)
        front = self._front
        front.purchases.require_free(call.caller)
        hung_up = asyncio.ensure_future(gone(call.receive))
        try:
            order = self._order(call)
            live = await front.purchases.open(call.caller, order, hung_up.done)
        finally:
            was_gone = hung_up.done()
            hung_up.cancel()

        def on_sent(was_there: bool) -> None:
            if was_gone or not was_there:
                front.purchases.abandon(live, order.fingerprint)
            else:
                front.purchases.answered(live)

        price = (b"x-price", plain(live.price_micros).encode())
        if call.action == "getNumber":
            return Reply(f"ACCESS_NUMBER:{live.id}:{live.number}".encode(), TEXT, (price,), on_sent)
        return Reply(dumps(_bought(live)), JSON, (price,), on_sent)

    def _order(self, call: Call) -> Order:
        """The order in the parameters. Raises BadService, BadCountry, BadPhoneException, PriceTooLow in that order."""
        values = call.values
        catalog = self._front.house.settings.catalog
        service = values.get("service", "")
        if service not in catalog.services:
            raise BadService
        country = self._country(values)
        operator = values.get("operator", "")
        order = Order(
            service=service,
            country=country,
            operator="" if operator == "any" else operator[:100],
            phone_exceptions=_exceptions(values.get("phoneException", "")),
            reference=self._reference(call),
            fingerprint=self._fingerprint(call),
        )
        cap = first(values, "maxPrice", "max_price")
        if not cap:
            return order
        return replace(order, price_max=_cap(cap, call.caller.currency))

    def _reference(self, call: Call) -> str:
        """The caller's own order id as a digest, since it can be of any length; getNumberV2 alone has one."""
        given = call.values.get("orderId") if call.action == "getNumberV2" else None
        return self._front.house.vault.index_digest("order", given) if given else ""

    def _country(self, values: Mapping[str, str]) -> int:
        settings = self._front.house.settings
        given = values.get("country")
        if given is None:
            return settings.gateway.server.default_country
        if not _DIGITS.fullmatch(given) or len(given) > 6 or int(given) not in settings.catalog.countries:
            raise BadCountry
        return int(given)

    def _fingerprint(self, call: Call) -> str:
        pairs = sorted((name, value) for name, value in call.values.items() if name != "api_key")
        return self._front.house.vault.index_digest("request", f"{call.caller.key_id}:{json.dumps(pairs)}")

    # Reading

    async def _find(self, call: Call) -> Live:
        """The activation the call names. Raises BadActivationId, UnknownActivation, TooManyRequests, Unavailable."""
        given = call.values.get("id", "")
        if not (given.isascii() and given.isdigit()):
            raise BadActivationId
        activation_id = int(given) if len(given) <= 20 else ID_MAX + 1
        if activation_id > ID_MAX:
            raise UnknownActivation
        front, caller = self._front, call.caller
        is_within = front.limits.poll(caller.key_id, front.house.settings.gateway.limits.polls_per_minute)
        live = front.activations.peek(caller.account_id, activation_id)
        if live is not None:
            return live
        # Over the limit a poll still gets what is known in memory, but costs no look-up.
        if not is_within:
            raise TooManyRequests
        return await front.activations.get(caller, activation_id)

    async def _get_status(self, call: Call) -> Reply:
        return self._status(await self._find(call))

    def _status(self, live: Live) -> Reply:
        if live.status is Status.WAITING:
            return WAIT_CODE
        if live.status is Status.RECEIVED or self._is_in_grace(live):
            return text(f"STATUS_OK:{live.code}")
        if live.status is Status.RETRYING:
            return text(f"STATUS_WAIT_RETRY:{live.code}")
        return CANCEL

    def _is_in_grace(self, live: Live) -> bool:
        """Ended by time with a code: it may not have been read yet, and "cancelled" would look like a refund."""
        if live.status is not Status.FINISHED or live.ended_at is None or live.ended_at < live.expires_at:
            return False
        house = self._front.house
        return house.clock() - live.ended_at <= house.settings.gateway.activations.code_grace_seconds

    async def _get_status_v2(self, call: Call) -> Reply:
        live = await self._find(call)
        if not live.status.is_open and not self._is_in_grace(live):
            return CANCEL
        sms = None
        if live.messages:
            newest = live.messages[-1]
            sms = {"dateTime": _date(newest.received_at), "code": newest.code, "text": newest.text}
        return Reply(dumps({"verificationType": 0, "sms": sms, "call": None}), JSON)

    async def _get_full_sms(self, call: Call) -> Reply:
        live = await self._find(call)
        if live.messages:
            return text(f"FULL_SMS:{live.messages[-1].text}")
        return WAIT_CODE if live.status.is_open else CANCEL

    async def _get_active_activations(self, call: Call) -> Reply:
        lives = [live for live in self._front.activations.open_of(call.caller) if live.status in ACTIVE_STATUS]
        if not lives:
            raise NoActivations
        start, limit = _whole(call.values.get("start"), 0), _whole(call.values.get("limit"), len(lives))
        countries = self._front.house.settings.catalog.countries
        shown = lives[start : start + limit]
        rows = [_active(live, countries[live.country].eng if live.country in countries else "") for live in shown]
        return Reply(dumps({"status": "success", "activeActivations": rows}), JSON)

    # Changing

    async def _set_status(self, call: Call) -> Reply:
        live = await self._find(call)
        await self._change(call)
        activations, status = self._front.activations, call.values.get("status")
        if status == "1":
            await activations.ready(call.caller, live.id)
            return text("ACCESS_READY")
        if status == "3":
            await activations.ask_again(call.caller, live.id)
            return text("ACCESS_RETRY_GET")
        if status == "6":
            await activations.finish(call.caller, live.id)
            return text("ACCESS_ACTIVATION")
        if status in ("8", "-1"):
            await activations.cancel(call.caller, live.id)
            return text("ACCESS_CANCEL")
        raise NotAllowedNow

    # Catalogue and prices

    async def _get_prices(self, call: Call) -> Reply:
        return Reply(await self._listing(call, "prices", _price_leaf), JSON)

    async def _get_numbers_status(self, call: Call) -> Reply:
        return Reply(await self._listing(call, "counts", None), TEXT)

    async def _listing(self, call: Call, kind: str, leaf: Callable[[int, int], str] | None) -> bytes:
        """A rendered list; made once for everybody who asks for the same one at the same time.

        Where there is no such service or country there is nothing to list: the original had no error word here, and
        clients read the answer as JSON.
        """
        try:
            service, country = self._narrowed(call.values, default_country=leaf is None)
        except (BadService, BadCountry):
            return b"{}"
        key = (kind, call.caller.account_name, service, country, self._front.house.market.generation)
        body = self._lists.get(key)
        if body is not None:
            return body
        task = self._building.get(key)
        if task is None:
            task = self._building[key] = asyncio.ensure_future(self._build(key, call.caller, service, country, leaf))
            task.add_done_callback(lambda _: self._building.pop(key, None))
        return await asyncio.shield(task)

    def _narrowed(self, values: Mapping[str, str], *, default_country: bool) -> tuple[str | None, int | None]:
        service = values.get("service")
        if service is not None and service not in self._front.house.settings.catalog.services:
            raise BadService
        country = self._country(values) if default_country or "country" in values else None
        return service, country

    async def _build(
        self,
        key: tuple[object, ...],
        caller: Caller,
        service: str | None,
        country: int | None,
        leaf: Callable[[int, int], str] | None,
    ) -> bytes:
        countries: dict[int, list[str]] = {}
        async for row in self._front.house.market.listing(caller, service, country):
            value = leaf(row.price.micros, row.count) if leaf else f'"{row.count}"'
            countries.setdefault(row.country, []).append(f'"{row.service}":{value}')
        if leaf is None:
            members = ",".join(row for rows in countries.values() for row in rows)
        else:
            members = ",".join(f'"{number}":{{{",".join(rows)}}}' for number, rows in countries.items())
        encoded = f"{{{members}}}".encode()
        if len(encoded) <= LISTS_BYTES_MAX // 2:
            self._lists[key] = encoded
        return encoded

    async def _get_countries(self, call: Call) -> Reply:
        settings = self._front.house.settings
        key = ("countries", settings.version)
        body = self._catalogues.get(key)
        if body is None:
            rows = {
                str(country.id): {
                    "id": country.id, "rus": country.rus, "eng": country.eng, "chn": country.chn,
                    "visible": 1, "retry": 1, "rent": 0, "multiService": 0,
                }
                for country in settings.catalog.countries.values()
            }  # fmt: skip
            body = self._catalogues[key] = dumps(rows)
        return Reply(body, JSON)

    async def _get_services_list(self, call: Call) -> Reply:
        settings = self._front.house.settings
        key = ("services", settings.version, str(call.caller.is_demo))
        body = self._catalogues.get(key)
        if body is None:
            hidden = frozenset[str]() if call.caller.is_demo else settings.catalog.sandbox_services
            rows = [
                {"code": code, "name": name} for code, name in settings.catalog.services.items() if code not in hidden
            ]
            body = self._catalogues[key] = dumps({"status": "success", "services": rows})
        return Reply(body, JSON)

    async def _get_operators(self, call: Call) -> Reply:
        market = self._front.house.market
        try:
            countries = (
                [self._country(call.values)]
                if "country" in call.values
                else self._front.house.settings.catalog.countries
            )
        except BadCountry:
            raise NoOperators from None  # the one error this action has: clients read its answer as JSON
        found = {str(country): market.operators(country, call.caller) for country in countries}
        found = {country: operators for country, operators in found.items() if operators}
        if not found:
            raise NoOperators
        return Reply(dumps({"status": "success", "countryOperators": found}), JSON)

    # Webhook

    async def _set_webhook(self, call: Call) -> Reply:
        await self._change(call)
        house = self._front.house
        url = first(call.values, "webhook_url", "url")
        check_url(url, house.settings.gateway.webhooks)
        await house.store.run(accounts.set_webhook, house.vault, call.caller.account_id, url)
        return text("ACCESS_WEBHOOK_SET")

    async def _get_webhook(self, call: Call) -> Reply:
        house = self._front.house
        url = await house.store.read(accounts.webhook, house.vault, call.caller.account_id)
        return text(f"ACCESS_WEBHOOK:{url}" if url else "NO_WEBHOOK_SET")


def render_error(error: CallerError) -> Reply:
    """The dialect's word for what went wrong."""
    word = WORDS[error.code]
    if isinstance(error, PriceTooLow):
        word = f"{word}:{plain(error.minimum.micros)}"
    elif isinstance(error, Barred):
        # The quotes are part of the bytes, and the time holds dashes: a colon would split it.
        word = f"{word}:'{time.strftime('%Y-%m-%d %H-%M-%S', time.gmtime(error.until))}'"
    return Reply(word.encode(), JSON if word.startswith("{") else TEXT)


def text(body: str) -> Reply:
    """A plain token."""
    return Reply(body.encode())


WAIT_CODE = text("STATUS_WAIT_CODE")
CANCEL = text("STATUS_CANCEL")


def dumps(value: object) -> bytes:
    """Compact JSON in UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _bought(live: Live) -> dict[str, object]:
    """getNumberV2's answer with SMS-Activate's own types."""
    return {
        "activationId": live.id,
        "phoneNumber": live.number,
        "activationCost": live.price_micros / 1_000_000,
        "currency": CURRENCY_NUMBERS.get(live.currency, 840),
        "countryCode": str(live.country),
        "canGetAnotherSms": "1",
        "activationTime": _date(live.opened_at),
        "activationOperator": live.operator or "any",
    }


def _active(live: Live, country_name: str) -> dict[str, object]:
    return {
        "activationId": str(live.id),
        "serviceCode": live.service,
        "phoneNumber": live.number,
        "activationCost": live.price_micros / 1_000_000,
        "activationStatus": ACTIVE_STATUS[live.status],
        "smsCode": [message.code for message in live.messages] or None,
        "smsText": live.messages[-1].text if live.messages else None,
        "activationTime": _date(live.opened_at),
        "discount": "0.00",
        "repeated": "0",
        "countryCode": str(live.country),
        "countryName": country_name,
        "canGetAnotherSms": "1",
        "currency": CURRENCY_NUMBERS.get(live.currency, 840),
    }


def _date(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(at))


def _price_leaf(micros: int, count: int) -> str:
    return f'{{"cost":{micros / 1_000_000},"count":{count},"physicalCount":{count}}}'


def _whole(value: str | None, default: int) -> int:
    """A small whole number, or the default."""
    return int(value) if value and _DIGITS.fullmatch(value) and len(value) < 10 else default


def _exceptions(value: str) -> tuple[str, ...]:
    """Prefixes not wanted: country code and three to six digits. Raises BadPhoneException on any other form."""
    if not value:
        return ()
    prefixes = tuple(part.strip() for part in value.split(","))
    if not all(_EXCEPTION.fullmatch(prefix) for prefix in prefixes):
        raise BadPhoneException
    return prefixes


def _cap(given: str, currency: str) -> Money:
    """The caller's highest price in whole price steps; what is no amount is nought, so below every price."""
    try:
        micros = round_down_to_step(to_micros(given, rounding=ROUND_FLOOR))
    except MoneyError:
        micros = 0
    return Money(max(micros, 0), currency)
