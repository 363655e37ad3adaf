"""Family base for upstreams that speak the SMS-Activate protocol (`handler_api.php`). Brands are data: see `Brand`.

Facts: `protocol/handler_api.md` §2-§6 and `protocol/upstreams/handler_api_family.md`, whose §9 this module follows:

* a purchase always names the highest price; a number handed out above it is still ours, so it is returned at its real
  cost, for the gateway to account for and to cancel;
* unknown words are never success, and what can't be read after a purchase is in doubt;
* no member of the family has an idempotency key, so nothing here repeats a purchase, nor falls back from V2 to V1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, NoReturn, TypeVar, cast

from cachetools import TTLCache
from pydantic import BaseModel, ConfigDict, Field, field_validator

from adapters._handler_prices import Sheet, parse_prices
from adapters._handler_pushes import PushRules, take
from adapters._handler_rent_forms import RentRules, rent_list
from adapters._handler_rent_rows import PREFIX, rent_id
from adapters._handler_rows import Row, rows_of
from adapters._handler_states import accept_state, is_done, known_status, lease_error, progress_of, text_beside
from adapters._handler_words import Answer, balance_of, call_error, parse_answer, purchase_error
from adapters._http import ASK_SECONDS, LIST_BYTES, LIST_SECONDS, Http, Reply
from adapters._price_first import Countdown, before_buying
from adapters._values import Codes, CodeTable, cost, digits, moment, reference
from gateway.errors import HasSms, NotAllowed, Refused, SoldOut, TooEarly, UnknownLease, Unwell
from gateway.model import BuyOrder, Found, Lease, LeaseState, Outcome, Progress, Sms, Watched
from gateway.money import Money, plain
from gateway.upstream import Context, OfferTable, PushRequest, PushTaken

T = TypeVar("T")

TEXT_SECONDS = 4.0
PAGES_MAX = 100
RENT_PAGE = 100
RENTAL_SUBTYPE = "2"
TEXTS_KEPT = 4096
TEXTS_KEPT_SECONDS = 3600.0
CANCEL_WAIT_SECONDS_MAX = 3600.0
"""A cancel window said to open later than that is a clock set wrong."""

_SMALL_ANSWER = 4096
"""Every error fits in here; a price list of this size is read twice, which costs nothing."""

_TOO_EARLY = frozenset({"EARLY_CANCEL_DENIED", "TOO_EARLY"})
_SMS_IS_THERE = frozenset({"OTP_RECEIVED", "NEW_OTP_RECEIVED"})
_WRONG_STATE = frozenset({"BAD_STATUS", "ACTIVATION_NOT_ACTIVE", "FREE_CANCELLATION_EXPIRED", "ACCESS_READY"})
"""The state does not allow it, or (`ACCESS_READY`, DaisySMS) says it may have been done already: ask for the state."""

TextSource = Literal["getStatusV2", "getFullSms", "X-Text", "none"]
"""The action that tells the whole text of an SMS, or the header of getStatus that does."""

OpenList = Literal["getActiveActivations", "getCurrentActivations", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Brand:
    """In what one member of the family differs from the others."""

    base_url: str
    key_header: str = ""
    """Carries the key in place of the parameter `api_key`."""
    countries: Mapping[int, str] = field(default_factory=dict)
    """Its words for countries, where they are not our numbers."""
    only_country: int | None = None
    """The one country it sells; requests then name none."""

    max_price_parameter: str = "maxPrice"
    has_number_v2: bool = True
    operator_parameter: str = "operator"
    """Empty where operators are ignored."""
    takes_phone_exceptions: bool = True
    buy_parameters: Mapping[str, str] = field(default_factory=dict)
    """Sent with every purchase."""
    asks_price_first: bool = False
    """Purchases have no highest price there, so the price is asked for before each."""

    text_source: TextSource = "getStatusV2"
    vague_word: str = ""
    """What getStatus says of an unknown id and to a bad key alike."""
    has_another_sms: bool = True

    balance_parameters: Mapping[str, str] = field(default_factory=dict)
    price_action: str = "getPrices"
    is_services_first: bool = False
    is_cumulative: bool = False
    providers: frozenset[str] = frozenset()
    """Only these are bought from, and only their part of a list by provider counts; empty for all."""
    excluded_providers: frozenset[str] = frozenset()

    open_list: OpenList = "getActiveActivations"
    open_list_page: int | None = 100
    open_rows: frozenset[str] = frozenset({"1", "2", "3", "4"})
    """Statuses of rows that are open; others are read singly. 6 is "finished" on most, "code received" on Tiger."""

    early_cancel_seconds: float = 120.0
    pushes: PushRules | None = None

    rents: RentRules | None = None
    """How it rents out; goes with the ability `RentingHandlerApi`."""
    change_method: Literal["GET", "POST"] = "GET"
    """How a number is had again where that has a method of its own (`ReactivatingHandlerApi`)."""


class FamilyOptions(BaseModel):
    """Stanza keys of every member. `services` and `countries` map our codes to the upstream's where they differ."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    services: Annotated[Mapping[str, str], CodeTable] = {}
    countries: Annotated[Mapping[int, str], CodeTable] = {}
    utc_offset_minutes: int = Field(default=0, ge=-900, le=900)

    takes_any_country: ClassVar[bool] = False

    @field_validator("countries")
    @classmethod
    def _names_countries(cls, countries: Mapping[int, str]) -> Mapping[int, str]:
        if "any" in countries.values() and not cls.takes_any_country:
            raise ValueError("this upstream has no country 'any'")
        return countries


class ProviderOptions(FamilyOptions):
    """For members that let a buyer choose among the providers behind them."""

    provider_ids: tuple[int, ...] = ()
    except_provider_ids: tuple[int, ...] = ()

    def buy_parameters(self) -> dict[str, str]:
        chosen = {"providerIds": self.provider_ids, "exceptProviderIds": self.except_provider_ids}
        return {name: ",".join(map(str, ids)) for name, ids in chosen.items() if ids}

    @property
    def has_choice(self) -> bool:
        return bool(self.provider_ids or self.except_provider_ids)


def build_handler_api(
    context: Context, brand: Brand, options: FamilyOptions, *abilities: type[HandlerApi]
) -> HandlerApi:
    """The upstream, with the abilities its brand has: those named, and what a list of open orders and pushes allow.

    An ability is found by the methods there are, so the class is composed of those that have them.
    """
    kinds = list(abilities)
    if brand.pushes is not None:
        kinds.append(PushedHandlerApi)
    if brand.open_list != "none":
        kinds.append(ListingHandlerApi)
    kind = cast("type[HandlerApi]", type("HandlerApi", tuple(kinds), {})) if kinds else HandlerApi
    return kind(context, brand, options)


def _country_words(context: Context, brand: Brand, options: FamilyOptions) -> Codes[int]:
    ours = context.names.country_iso2 if brand.only_country is None else (brand.only_country,)
    words = {number: brand.countries.get(number, str(number)) for number in ours}
    return Codes.of(words, options.countries)


class HandlerApi:
    """The verbs every member has."""

    def __init__(self, context: Context, brand: Brand, options: FamilyOptions) -> None:
        self.name = context.name
        self.unmapped: Counter[str] = Counter()
        """Numbers in stock that the last price list had under an unknown country or service."""
        self._brand = brand
        self._clock = context.clock
        self._currency = context.currency
        self._offload = context.offload
        self._utc_offset_minutes = options.utc_offset_minutes
        self._key = {} if brand.key_header else {"api_key": context.secret}
        self._http = Http(context, {brand.key_header: context.secret} if brand.key_header else None)
        self._services = Codes.of({code: code for code in context.names.service_names}, options.services)
        self._countries = _country_words(context, brand, options)
        self._texts: TTLCache[tuple[str, str], str] = TTLCache(TEXTS_KEPT, TEXTS_KEPT_SECONDS)
        self._cancel_opens_at: TTLCache[str, float] = TTLCache(TEXTS_KEPT, CANCEL_WAIT_SECONDS_MAX)

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
            providers=self._brand.providers,
            excluded_providers=self._brand.excluded_providers,
        )

    async def balance(self) -> Money:
        micros = await self._call("balance", "getBalance", balance_of, self._brand.balance_parameters)
        return Money(micros, self._currency)

    # --- buying ---

    async def buy(self, order: BuyOrder) -> Lease:
        goods, time_left = self._goods(order), Countdown(order.timeout_seconds)
        if self._brand.asks_price_first:
            await self._check_price(order, goods, time_left)
        action = "getNumberV2" if self._brand.has_number_v2 else "getNumber"
        params = self._params(action, **goods, **self._terms(order))
        return await self._http.buy(self._brand.base_url, self._lease, params=params, seconds=time_left.left_seconds())

    def _goods(self, order: BuyOrder) -> dict[str, str]:
        service, country = self._services.outgoing.get(order.service), self._countries.outgoing.get(order.country)
        if service is None or country is None:
            raise Refused("no word for this service or country there")
        return {"service": service, **({} if self._brand.only_country is not None else {"country": country})}

    def _terms(self, order: BuyOrder) -> dict[str, str]:
        brand = self._brand
        terms = dict(brand.buy_parameters)
        if brand.max_price_parameter:
            terms[brand.max_price_parameter] = plain(order.cost_max.micros)
        if brand.operator_parameter and order.operator not in ("", "any"):
            terms[brand.operator_parameter] = order.operator
        if brand.takes_phone_exceptions and order.phone_exceptions:
            terms["phoneException"] = ",".join(order.phone_exceptions)
        return terms

    async def _check_price(self, order: BuyOrder, goods: Mapping[str, str], time_left: Countdown) -> None:
        """Raises SoldOut where the cheapest costs more than allowed, NothingTaken where the price is not told."""
        params, seconds = self._params(self._brand.price_action, **goods), time_left.left_seconds()
        question = self._http.buy(self._brand.base_url, self._price_table, params=params, seconds=seconds, verb="price")
        offers = (await before_buying(question)).at(order.service, order.country)
        if not offers or offers[0].cost.micros > order.cost_max.micros:
            raise SoldOut("none at this price")

    def _price_table(self, reply: Reply) -> OfferTable:
        try:
            return parse_prices(_price_body(reply), self._sheet())[0]
        except Unwell as error:
            reason = str(error)
        raise Refused(f"the price was not told: {reason}", is_fault=True)

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
        """getNumberV2; `activationEndTime` is HeroSMS's, `activationEnd` and `activationCancel` Grizzly's."""
        lease = Lease(
            reference=reference(data["activationId"]),
            number=digits(data.get("phoneNumber")),
            cost=cost(data.get("activationCost"), self._currency),
            operator=str(data.get("activationOperator") or ""),
            expires_at=self._moment(data.get("activationEndTime") or data.get("activationEnd")),
        )
        opens_at = self._moment(data.get("activationCancel"))
        if opens_at is not None:
            self._cancel_opens_at[lease.reference] = opens_at
        return lease

    # --- reading ---

    async def read(self, watched: Watched) -> Progress:
        answer = await self._status("read", watched.reference)
        return await self._with_texts(watched.reference, progress_of(answer, watched.round))

    async def _status(self, verb: str, lease: str) -> Answer:
        brand = self._brand
        with_text = {"text": "1"} if brand.text_source == "X-Text" else {}
        answer = await self._call(verb, "getStatus", self._known_status, {"id": lease, **with_text})
        if answer.word != brand.vague_word or not brand.vague_word:
            return answer
        try:
            await self.balance()
        except Refused as error:
            refusal = str(error)
        else:
            return Answer(answer.status, "NO_ACTIVATION")
        raise Unwell(refusal)

    def _known_status(self, answer: Answer) -> Answer:
        vague = self._brand.vague_word
        return answer if vague and answer.word == vague else known_status(answer)

    async def _with_texts(self, lease: str, progress: Progress) -> Progress:
        """The whole text of a code just seen, asked for once: polls that follow find it in the cache."""
        if self._brand.text_source in ("none", "X-Text") or not any(not sms.text for sms in progress.messages):
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
        return answer.rest if answer.word == "FULL_SMS" else text_beside(answer.data, code)

    # --- closing ---

    async def close(self, reference: str, outcome: Outcome) -> None:
        answer = await self._set_status("close", reference, "6" if outcome is Outcome.FINISHED else "8")
        done = "ACCESS_ACTIVATION" if outcome is Outcome.FINISHED else "ACCESS_CANCEL"
        if is_done(answer, done):
            return
        if answer.word in _TOO_EARLY:
            raise TooEarly(self._retry_seconds(reference, answer.info))
        if answer.word in _SMS_IS_THERE:
            raise HasSms
        if answer.word not in _WRONG_STATE:
            raise lease_error(answer)
        accept_state(await self._status("close", reference), outcome)

    async def ask_again(self, reference: str) -> None:
        if not self._brand.has_another_sms:
            await self._refuse_another(reference)
        answer = await self._set_status("ask_again", reference, "3")
        if is_done(answer, "ACCESS_RETRY_GET"):
            return
        if answer.word not in _WRONG_STATE:
            raise lease_error(answer)
        if (await self._status("ask_again", reference)).word != "STATUS_WAIT_RETRY":
            raise NotAllowed("no code yet, or over")

    async def _refuse_another(self, reference: str) -> NoReturn:
        answer = await self._status("ask_again", reference)
        if progress_of(answer, 1).state is LeaseState.UNKNOWN:
            raise UnknownLease(answer.quotable)
        raise NotAllowed("one SMS a number")

    async def aclose(self) -> None:
        await self._http.aclose()

    async def _set_status(self, verb: str, lease: str, status: str) -> Answer:
        return await self._call(verb, "setStatus", _as_it_is, {"id": lease, "status": status})

    def _retry_seconds(self, lease: str, info: Mapping[str, Any]) -> float:
        """`minActivationTime` is the age at which the window opens, so waiting that long is surely enough."""
        told = info.get("minActivationTime")
        if isinstance(told, int) and 0 < told <= CANCEL_WAIT_SECONDS_MAX:
            return float(told)
        left = self._cancel_opens_at.get(lease, 0.0) - self._clock()
        return left if 0 < left <= CANCEL_WAIT_SECONDS_MAX else self._brand.early_cancel_seconds

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
        return {**self._key, "action": action, **params}

    def _moment(self, value: object) -> float | None:
        return moment(value, self._utc_offset_minutes)


class ListingHandlerApi(HandlerApi):
    """A member with a list of its open orders: reads many in one call, and finds a purchase whose reply was lost."""

    async def read_many(self, watched: Sequence[Watched]) -> Mapping[str, Progress]:
        """Leases in a later round are left out: a row does not tell an old code from the one now awaited.

        So are rentals: a row tells neither their messages apart, nor all of them.
        """
        wanted = {lease.reference for lease in watched if lease.round == 1 and rent_id(lease.reference) is None}
        found: dict[str, Progress] = {}
        if not wanted:
            return found
        async with aclosing(self._pages("read_many")) as pages:
            async for page in pages:
                found |= {
                    row.id: row.progress() for row in page if row.id in wanted and self._is_open(row) and row.is_plain
                }
                wanted -= {row.id for row in page}
                if not wanted:
                    break
        return found

    async def find(self, since: float) -> Sequence[Found]:
        """Open orders made at or after `since`, or at an unknown time. The wire tells time in whole seconds.

        Raises Unwell where a row is unreadable: it may be the one that is looked for.
        """
        found = [self._found(row) async for page in self._pages("find") for row in page if self._is_open(row)]
        if self._brand.rents is not None and self._brand.rents.form.lists_rentals:
            found += await self._rentals()
        return [order for order in found if order.created_at is None or order.created_at >= int(since)]

    async def _rentals(self) -> list[Found]:
        """All open rentals, where they have a list of their own."""
        found: dict[str, Found] = {}
        for page in range(1, PAGES_MAX + 1):
            rows = await self._call("find", "getRentList", rent_list, {"page": str(page), "length": str(RENT_PAGE)})
            fresh = {row.lease.reference: row for row in rows if row.lease.reference not in found}
            found |= fresh
            if not fresh:
                break
        return list(found.values())

    def _is_open(self, row: Row) -> bool:
        return row.status in self._brand.open_rows

    def _found(self, row: Row) -> Found:
        """A service or country without a code of ours is given as it is, or as -1: the lease must not be hidden."""
        is_rental = self._brand.rents is not None and row.subtype == RENTAL_SUBTYPE
        return Found(
            lease=Lease(PREFIX + row.id if is_rental else row.id, row.phone, cost(row.cost, self._currency)),
            service=self._services.incoming.get(row.service, row.service),
            country=self._countries.incoming.get(row.country, -1),
            created_at=self._moment(row.created),
            is_rental=is_rental,
        )

    async def _pages(self, verb: str) -> AsyncGenerator[list[Row], None]:
        """Pages of the list until it ends, or until a page brings nothing new: some brands ignore `start`."""
        seen: set[str] = set()
        size = self._brand.open_list_page
        for page in range(PAGES_MAX):
            span: dict[str, str] = {} if size is None else {"start": str(page * size), "limit": str(size)}
            rows, count = await self._call(verb, self._brand.open_list, rows_of, span)
            if verb == "find" and len(rows) < count:
                raise Unwell("an order in the list is unreadable")
            yield rows
            ids = {row.id for row in rows}
            if size is None or count < size or ids <= seen:
                return
            seen |= ids


class PushedHandlerApi(HandlerApi):
    """A member that tells of messages by itself."""

    async def take_push(self, request: PushRequest) -> PushTaken:
        return take(request, self._brand.pushes or PushRules())


def _price_body(reply: Reply) -> bytes:
    """The list unread; a short answer is looked at for an error word first."""
    if reply.status != 200 or len(reply.body) <= _SMALL_ANSWER:
        answer = parse_answer(reply)
        if answer.word or answer.status != 200 or answer.data is None:
            raise call_error(answer)
    return reply.body


def _as_it_is(answer: Answer) -> Answer:
    return answer
