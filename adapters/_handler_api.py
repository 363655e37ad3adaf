"""Family base for upstreams that speak the SMS-Activate protocol (`handler_api.php`). Brands are data: see `Brand`.

Facts: `protocol/handler_api.md` §2-§6 and `protocol/upstreams/handler_api_family.md`, whose §9 this module follows:

* a purchase always names the highest price; a number handed out above it is still ours, so it is returned at its real
  cost, for the gateway to account for and to cancel;
* unknown words are never success, and what can't be read after a purchase is in doubt;
* no member of the family has an idempotency key, so nothing here repeats a purchase, nor falls back from V2 to V1.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypeVar, cast

from cachetools import TTLCache
from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from adapters._handler_prices import Sheet, parse_prices
from adapters._handler_words import (
    UNKNOWN_LEASE,
    Answer,
    balance_of,
    call_error,
    parse_answer,
    purchase_error,
)
from adapters._http import ASK_SECONDS, LIST_BYTES, LIST_SECONDS, Http, Reply
from adapters._values import Codes, CodeTable, Digits, Reference, Unreadable, cost, digits, moment, reference
from gateway.errors import HasSms, NotAllowed, Refused, TooEarly, UnknownLease, Unwell, UpstreamError
from gateway.model import BuyOrder, Found, Lease, LeaseState, Outcome, Progress, Sms, Watched
from gateway.money import Money, plain
from gateway.upstream import Context, OfferTable

T = TypeVar("T")

TEXT_SECONDS = 4.0
PAGES_MAX = 100
TEXTS_KEPT = 4096
TEXTS_KEPT_SECONDS = 3600.0

NO_CODE_FOUND = "Нет кода"
"""`STATUS_OK:` carries these words, in Russian, for a message without a code (one old branch, handler_api.md §3.1)."""

_SMALL_ANSWER = 4096
"""Every error fits in here; a price list of this size is read twice, which costs nothing."""

_WAITING = frozenset({"STATUS_WAIT_CODE", "STATUS_WAIT_RETRY", "STATUS_WAIT_RESEND"})
_CANCELLED = frozenset({"STATUS_CANCEL", "ACCESS_CANCEL"})
_WITH_SMS = frozenset({"STATUS_OK", "STATUS_WAIT_RETRY", "FULL_SMS"})
_TOO_EARLY = frozenset({"EARLY_CANCEL_DENIED", "TOO_EARLY"})
_SMS_IS_THERE = frozenset({"OTP_RECEIVED", "NEW_OTP_RECEIVED"})
_WRONG_STATE = frozenset({"BAD_STATUS", "ACTIVATION_NOT_ACTIVE", "FREE_CANCELLATION_EXPIRED", "ACCESS_READY"})
"""The state does not allow it, or (`ACCESS_READY`, DaisySMS) says it may have been done already: ask for the state."""

_OPEN_ROW = frozenset({"1", "2", "3", "4"})
"""All brands call these open. 6 is "finished" on some, "code received" on Tiger: such rows are read singly."""

TextSource = Literal["getStatusV2", "getFullSms", "none"]
OpenList = Literal["getActiveActivations", "getCurrentActivations", "none"]


@dataclass(frozen=True, slots=True)
class Brand:
    """In what one member of the family differs from the others."""

    base_url: str
    max_price_parameter: str = "maxPrice"
    has_number_v2: bool = True
    text_source: TextSource = "getStatusV2"
    price_action: str = "getPrices"
    is_services_first: bool = False
    is_cumulative: bool = False
    open_list: OpenList = "getActiveActivations"
    open_list_page: int | None = 100
    early_cancel_seconds: float = 120.0


class FamilyOptions(BaseModel):
    """Stanza keys of every member. `services` and `countries` map our codes to the upstream's where they differ."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    services: Annotated[Mapping[str, str], CodeTable] = {}
    countries: Annotated[Mapping[int, str], CodeTable] = {}
    utc_offset_minutes: int = Field(default=0, ge=-900, le=900)


def build_handler_api(context: Context, brand: Brand, options: FamilyOptions) -> HandlerApi:
    """The upstream; it can read many and find only where the brand has a list of open orders."""
    kind = HandlerApi if brand.open_list == "none" else ListingHandlerApi
    return kind(context, brand, options)


class HandlerApi:
    """The verbs every member has."""

    def __init__(self, context: Context, brand: Brand, options: FamilyOptions) -> None:
        self.name = context.name
        self.unmapped: Counter[str] = Counter()
        """Rows of the last price list that were left out, by unknown country or service."""
        self._brand = brand
        self._currency = context.currency
        self._offload = context.offload
        self._secret = context.secret
        self._utc_offset_minutes = options.utc_offset_minutes
        self._http = Http(context)
        self._services = Codes.of({code: code for code in context.names.service_names}, options.services)
        self._countries = Codes.of({number: str(number) for number in context.names.country_iso2}, options.countries)
        self._texts: TTLCache[tuple[str, str], str] = TTLCache(TEXTS_KEPT, TEXTS_KEPT_SECONDS)

    # --- what it sells ---

    async def offers(self) -> OfferTable:
        body = await self._http.ask(
            "offers",
            self._brand.base_url,
            _price_body,
            params=self._params(self._brand.price_action),
            seconds=LIST_SECONDS,
            body_bytes=LIST_BYTES,
        )
        parsed = await self._offload(parse_prices, body, self._sheet())
        table, self.unmapped = cast("tuple[OfferTable, Counter[str]]", parsed)
        return table

    def _sheet(self) -> Sheet:
        return Sheet(
            upstream=self.name,
            currency=self._currency,
            services=self._services.incoming,
            countries=self._countries.incoming,
            services_first=self._brand.is_services_first,
            is_cumulative=self._brand.is_cumulative,
        )

    async def balance(self) -> Money:
        micros = await self._call("balance", "getBalance", balance_of)
        return Money(micros, self._currency)

    # --- buying ---

    async def buy(self, order: BuyOrder) -> Lease:
        return await self._http.buy(
            self._brand.base_url, self._lease, params=self._buy_params(order), seconds=order.timeout_seconds
        )

    def _buy_params(self, order: BuyOrder) -> dict[str, str]:
        service, country = self._services.outgoing.get(order.service), self._countries.outgoing.get(order.country)
        if service is None or country is None:
            raise Refused("no word for this service or country there")
        optional = {
            "operator": "" if order.operator == "any" else order.operator,
            "phoneException": ",".join(order.phone_exceptions),
        }
        return self._params(
            "getNumberV2" if self._brand.has_number_v2 else "getNumber",
            service=service,
            country=country,
            **{self._brand.max_price_parameter: plain(order.cost_max.micros)},
            **{name: value for name, value in optional.items() if value},
        )

    def _lease(self, reply: Reply) -> Lease:
        answer = parse_answer(reply)
        if answer.word == "ACCESS_NUMBER":
            return self._lease_from_text(answer)
        if isinstance(answer.data, dict) and "activationId" in answer.data:
            return self._lease_from_json(answer.data)
        raise purchase_error(answer)

    def _lease_from_text(self, answer: Answer) -> Lease:
        """`ACCESS_NUMBER:id:phone`; DaisySMS and DS SMS HUB tell the price in the header `X-Price`."""
        identity, _, phone = answer.rest.partition(":")
        price = cost(answer.headers.get("x-price"), self._currency)
        return Lease(reference(identity), digits(phone), price)

    def _lease_from_json(self, data: Mapping[str, Any]) -> Lease:
        """getNumberV2; `activationEndTime` is HeroSMS's, `activationEnd` Grizzly's."""
        return Lease(
            reference=reference(data["activationId"]),
            number=digits(data.get("phoneNumber")),
            cost=cost(data.get("activationCost"), self._currency),
            operator=str(data.get("activationOperator") or ""),
            expires_at=self._moment(data.get("activationEndTime") or data.get("activationEnd")),
        )

    # --- reading ---

    async def read(self, watched: Watched) -> Progress:
        answer = await self._status("read", watched.reference)
        progress = _progress(answer, watched.round)
        return await self._with_texts(watched.reference, progress)

    async def _status(self, verb: str, lease: str) -> Answer:
        return await self._call(verb, "getStatus", _known_status, {"id": lease})

    async def _with_texts(self, lease: str, progress: Progress) -> Progress:
        """The whole text of a code just seen, asked for once: polls that follow find it in the cache."""
        if self._brand.text_source == "none" or not any(not sms.text for sms in progress.messages):
            return progress
        messages = [await self._with_text(lease, sms) for sms in progress.messages]
        return Progress(progress.state, tuple(messages))

    async def _with_text(self, lease: str, sms: Sms) -> Sms:
        key = (lease, sms.identity)
        if key not in self._texts:
            self._texts[key] = await self._text(lease, sms.code)
        return Sms(sms.code, self._texts[key], sms.sender, sms.received_at, sms.identity)

    async def _text(self, lease: str, code: str) -> str:
        """Best effort: a code without its text is delivered all the same, and not asked about again."""
        try:
            answer = await self._call("read_text", self._brand.text_source, _as_it_is, {"id": lease}, TEXT_SECONDS)
        except Unwell:
            return ""
        return answer.rest if answer.word == "FULL_SMS" else _text_beside(answer.data, code)

    # --- closing ---

    async def close(self, reference: str, outcome: Outcome) -> None:
        answer = await self._set_status("close", reference, "6" if outcome is Outcome.FINISHED else "8")
        done = "ACCESS_ACTIVATION" if outcome is Outcome.FINISHED else "ACCESS_CANCEL"
        if _is_done(answer, done):
            return
        if answer.word in _TOO_EARLY:
            raise TooEarly(self._retry_seconds(answer.info))
        if answer.word in _SMS_IS_THERE:
            raise HasSms
        if answer.word not in _WRONG_STATE:
            raise _lease_error(answer)
        _accept_state(await self._status("close", reference), outcome)

    async def ask_again(self, reference: str) -> None:
        answer = await self._set_status("ask_again", reference, "3")
        if _is_done(answer, "ACCESS_RETRY_GET"):
            return
        if answer.word not in _WRONG_STATE:
            raise _lease_error(answer)
        if (await self._status("ask_again", reference)).word != "STATUS_WAIT_RETRY":
            raise NotAllowed("no code yet, or over")

    async def aclose(self) -> None:
        await self._http.aclose()

    async def _set_status(self, verb: str, lease: str, status: str) -> Answer:
        return await self._call(verb, "setStatus", _as_it_is, {"id": lease, "status": status})

    def _retry_seconds(self, info: Mapping[str, Any]) -> float:
        """`minActivationTime` is the age at which the window opens, so waiting that long is surely enough."""
        told = info.get("minActivationTime")
        return float(told) if isinstance(told, int) and 0 < told <= 86_400 else self._brand.early_cancel_seconds

    # --- the wire ---

    async def _call(
        self,
        verb: str,
        action: str,
        read: Callable[[Answer], T],
        params: Mapping[str, str] = MappingProxyType({}),
        seconds: float = ASK_SECONDS,
    ) -> T:
        return await self._http.ask(
            verb,
            self._brand.base_url,
            lambda reply: read(parse_answer(reply)),
            params=self._params(action, **params),
            seconds=seconds,
        )

    def _params(self, action: str, **params: str) -> dict[str, str]:
        return {"api_key": self._secret, "action": action, **params}

    def _moment(self, value: object) -> float | None:
        return moment(value, self._utc_offset_minutes)


class ListingHandlerApi(HandlerApi):
    """A member with a list of its open orders: reads many in one call, and finds a purchase whose reply was lost."""

    async def read_many(self, watched: Sequence[Watched]) -> Mapping[str, Progress]:
        """Leases in a later round are left out: a row does not tell an old code from the one now awaited."""
        wanted = {lease.reference for lease in watched if lease.round == 1}
        found: dict[str, Progress] = {}
        if not wanted:
            return found
        async with aclosing(self._pages("read_many")) as pages:
            async for page in pages:
                found |= {row.id: row.progress() for row in page if row.id in wanted and row.is_plain}
                wanted -= {row.id for row in page}
                if not wanted:
                    break
        return found

    async def find(self, since: float) -> Sequence[Found]:
        """Open orders made at or after `since`, or at an unknown time. The wire tells time in whole seconds."""
        found = [self._found(row) async for page in self._pages("find") for row in page if row.is_open]
        return [order for order in found if order.created_at is None or order.created_at >= int(since)]

    def _found(self, row: _Row) -> Found:
        """A service or country without a code of ours is given as it is, or as -1: the lease must not be hidden."""
        return Found(
            lease=Lease(row.id, row.phone, cost(row.cost, self._currency)),
            service=self._services.incoming.get(row.service, row.service),
            country=self._countries.incoming.get(row.country, -1),
            created_at=self._moment(row.created),
        )

    async def _pages(self, verb: str) -> AsyncGenerator[list[_Row], None]:
        """Pages of the list until it ends, or until a page brings nothing new: some brands ignore `start`."""
        seen: set[str] = set()
        size = self._brand.open_list_page
        for page in range(PAGES_MAX):
            span: dict[str, str] = {} if size is None else {"start": str(page * size), "limit": str(size)}
            rows, count = await self._call(verb, self._brand.open_list, _rows, span)
            yield rows
            ids = {row.id for row in rows}
            if size is None or count < size or ids <= seen:
                return
            seen |= ids


def _price_body(reply: Reply) -> bytes:
    """The list unread; a short answer is looked at for an error word first."""
    if reply.status != 200 or len(reply.body) <= _SMALL_ANSWER:
        answer = parse_answer(reply)
        if answer.word or answer.status != 200 or answer.data is None:
            raise call_error(answer)
    return reply.body


def _as_it_is(answer: Answer) -> Answer:
    return answer


def _known_status(answer: Answer) -> Answer:
    """A getStatus answer, or Unwell: words that are no state tell nothing about the lease."""
    if answer.word in _WAITING | _CANCELLED | UNKNOWN_LEASE:
        return answer
    if answer.word in ("STATUS_OK", "FULL_SMS") and answer.rest:
        return answer
    raise call_error(answer)


def _progress(answer: Answer, round_: int) -> Progress:
    if answer.word in UNKNOWN_LEASE:
        return Progress(LeaseState.UNKNOWN)
    if answer.word in _CANCELLED:
        return Progress(LeaseState.CANCELLED)
    if answer.word == "STATUS_OK":
        return Progress(LeaseState.OPEN, (_coded_sms(answer.rest, round_),))
    if answer.word == "FULL_SMS":
        return Progress(LeaseState.OPEN, (Sms("", answer.rest, identity=f"{round_}:{_digest(answer.rest)}"),))
    return Progress(LeaseState.OPEN)


def _coded_sms(code: str, round_: int, text: str = "") -> Sms:
    """The wire has no message ids: the code within its round is all there is to tell messages apart."""
    return Sms("" if code == NO_CODE_FOUND else code, text, identity=f"{round_}:{code}")


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def _text_beside(data: Any, code: str) -> str:
    """The text in a getStatusV2 answer, unless it belongs to another code.

    SMS-Activate and Tiger use `sms` and `call`, HeroSMS in 2026 `data` (handler_api.md §4.5).
    """
    members = [data.get(name) for name in ("sms", "data", "call")] if isinstance(data, dict) else []
    for member in members:
        if isinstance(member, dict) and str(member.get("code") or code) == code:
            return str(member.get("text") or "")
    return ""


def _is_done(answer: Answer, word: str) -> bool:
    """204 is HeroSMS's; one clone answers `{"status": "success"}`."""
    told = isinstance(answer.data, dict) and answer.data.get("status") == "success"
    return answer.word == word or answer.status == 204 or (told and answer.status == 200)


def _lease_error(answer: Answer) -> UpstreamError:
    return UnknownLease(answer.quotable) if answer.word in UNKNOWN_LEASE else call_error(answer)


def _accept_state(state: Answer, outcome: Outcome) -> None:
    """Return where the lease has ended already; raise what stands in the way otherwise.

    The reference dialect shows `STATUS_CANCEL` for finished orders too (handler_api.md §3.1).
    """
    if state.word in _CANCELLED:
        return
    if state.word in UNKNOWN_LEASE:
        raise UnknownLease(state.quotable)
    if outcome is Outcome.CANCELLED and state.word in _WITH_SMS:
        raise HasSms
    raise NotAllowed(state.quotable)


# --- rows of the list of open orders ---


def _texts(value: object) -> tuple[str, ...]:
    """`smsCode` and `smsText` come as null, text or a list."""
    values = value if isinstance(value, list) else [value]
    return tuple(str(item) for item in values if item not in (None, ""))


class _Row(BaseModel):
    """One order: names of SMS-Activate's getActiveActivations first, of SMSHub's getCurrentActivations second."""

    model_config = ConfigDict(frozen=True, extra="ignore", coerce_numbers_to_str=True)

    id: Reference = Field(validation_alias=AliasChoices("activationId", "id"))
    phone: Digits = Field(validation_alias=AliasChoices("phoneNumber", "phone"))
    status: str = Field(default="", validation_alias=AliasChoices("activationStatus", "status"))
    service: str = Field(default="", validation_alias=AliasChoices("serviceCode", "service"))
    country: str = Field(default="", validation_alias=AliasChoices("countryCode", "country"))
    cost: str | None = Field(default=None, validation_alias=AliasChoices("activationCost", "cost"))
    created: str = Field(default="", validation_alias=AliasChoices("activationTime", "createDate"))
    codes: Annotated[tuple[str, ...], BeforeValidator(_texts)] = Field(
        default=(), validation_alias=AliasChoices("smsCode", "code")
    )
    texts: Annotated[tuple[str, ...], BeforeValidator(_texts)] = Field(default=(), validation_alias="smsText")

    @property
    def is_open(self) -> bool:
        return self.status in _OPEN_ROW

    @property
    def is_plain(self) -> bool:
        """Whether the row says all that getStatus would; a text without a code has to be asked for."""
        return self.is_open and (bool(self.codes) or not self.texts)

    def progress(self) -> Progress:
        """In the first round. Texts are told apart only where there is one for each code."""
        matched = len(self.texts) == len(self.codes)
        texts = self.texts if matched else ("",) * max(0, len(self.codes) - 1) + (self.texts[-1:] or ("",))
        messages = {code: _coded_sms(code, 1, text) for code, text in zip(self.codes, texts, strict=False)}
        return Progress(LeaseState.OPEN, tuple(messages.values()))


def _rows(answer: Answer) -> tuple[list[_Row], int]:
    """Readable rows of one page, and how many there were in all. Raises Unwell, Unreadable."""
    if answer.word.startswith("NO_ACTIVATION"):
        return [], 0
    if answer.word or answer.status != 200:
        raise call_error(answer)
    raw = _raw_rows(answer.data)
    return [row for row in map(_row, raw) if row is not None], len(raw)


def _raw_rows(data: Any) -> list[Any]:
    """A bare array (Grizzly), `data` (HeroSMS, Tiger), `activeActivations` (SMS-Activate) or `array` (SMSHub)."""
    if isinstance(data, list):
        return data
    members = [data.get(name) for name in ("data", "activeActivations", "array")] if isinstance(data, dict) else []
    for member in members:
        if isinstance(member, list):
            return member
    raise Unreadable("no list of orders")


def _row(raw: Any) -> _Row | None:
    """None where the row is unreadable: its lease is then missing, and read singly."""
    try:
        return _Row.model_validate(raw)
    except ValidationError:
        return None
