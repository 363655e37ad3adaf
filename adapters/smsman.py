"""sms-man (sms-man.com), its own protocol under `/control`. Facts: `protocol/upstreams/others.md` §3.

Its ways:

* refusals are `error_code` in JSON, with status 200 or 400; words other than those noted exist, so what ends a request
  is a setting (`cancelled_words`, `finished_words`, `unknown_words`: UNCERTAIN);
* countries and services are numbers that `countries` and `applications` explain: they are read once in six hours and
  matched by name, then by code; a stanza may name them instead;
* `maxPrice` caps a purchase, in the account's currency unless `sends_currency`; what was paid is not told;
* `get-sms` tells the code alone, without its text, and shows one at a time;
* it has no list of requests, so a purchase whose reply was lost can't be found;
* the price list comes whole where no country is named (`prices_at_once`), else one by one; its counts are those of
  `limits`.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field

from adapters._http import ASK_SECONDS, BODY_BYTES, LIST_BYTES, LIST_SECONDS, Http, Reply
from adapters._price_first import Countdown, before_buying
from adapters._smsman_words import COUNTRIES, SERVICES
from adapters._stock import in_stock
from adapters._values import (
    Address,
    Codes,
    CodeTable,
    Unreadable,
    cost,
    digits,
    load_json,
    mapping,
    micros,
    reference,
)
from gateway.errors import (
    HasSms,
    InDoubt,
    NotAllowed,
    NotReached,
    Refused,
    SoldOut,
    UnknownLease,
    Unwell,
    UpstreamError,
)
from gateway.model import BuyOrder, Lease, LeaseState, Outcome, Progress, Sms, Watched
from gateway.money import Money, plain
from gateway.upstream import Context, OfferTable

T = TypeVar("T")

LEARNT_SECONDS = 6 * 3600.0

_SOLD_OUT = frozenset({"no_numbers"})
_FAULTS = frozenset({"wrong_token", "balance", "no_balance", "low_balance", "banned", "too_many_requests"})
_DECLINED = frozenset({"wrong_application_id", "wrong_country_id"})
_STATUSES = {429: "too_many_requests", 401: "wrong_token", 402: "balance"}
"""What a status means where the body names no code."""

_CODE = re.compile(r"[a-z_]{2,40}")
_BESIDES_LETTERS = re.compile(r"[^a-z0-9]+")

Words = tuple[str, ...]
Table = dict[Any, str]
Fetch = Callable[[str, Callable[[Any], Table]], Awaitable[Table]]
"""Asks for one of the lists that explain its numbers, and parses it."""


class Options(BaseModel):
    """`services` and `countries` map our codes to sms-man's ids, over what its lists say."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base_url: Address = "https://api.sms-man.com/control"
    services: Annotated[Mapping[str, str], CodeTable] = {}
    countries: Annotated[Mapping[int, str], CodeTable] = {}
    sends_currency: bool = False
    multiple_sms: bool = False
    """Asks for numbers that can take more than one message (`hasMultipleSms`)."""
    prices_at_once: bool = True
    life_seconds: Annotated[float, Field(gt=0)] = 1200.0
    cancelled_words: Words = ("canceled", "cancelled", "rejected", "expired", "timeout")
    finished_words: Words = ("closed", "finished", "used")
    unknown_words: Words = ("wrong_request_id", "request_not_found", "no_request")


def build(context: Context, options: Options) -> SmsMan:
    return SmsMan(context, options)


class SmsMan:
    """The upstream."""

    def __init__(self, context: Context, options: Options) -> None:
        self.name = context.name
        self.unmapped: Counter[str] = Counter()
        """Numbers of the last price list that were left out, by unknown country or service."""
        self._currency = context.currency
        self._clock = context.clock
        self._offload = context.offload
        self._names = context.names
        self._options = options
        self._params = {"token": context.secret}
        self._http = Http(context, {"accept": "application/json"})
        self._dictionary = Dictionary(Codes({}, {}), Codes({}, {}))
        self._learnt_until = 0.0
        self._learning = asyncio.Lock()
        self._states = {
            **dict.fromkeys(options.cancelled_words, LeaseState.CANCELLED),
            **dict.fromkeys(options.finished_words, LeaseState.FINISHED),
            **dict.fromkeys(options.unknown_words, LeaseState.UNKNOWN),
        }

    # --- its words ---

    async def _learn(self, fetch: Fetch) -> Dictionary:
        """What its numbers mean, asked for where that is not known, or was learnt long ago."""
        async with self._learning:
            if time.monotonic() >= self._learnt_until:
                names = self._names
                countries = await fetch("countries", lambda data: _countries(data, names.country_iso2))
                services = await fetch("applications", lambda data: _services(data, names.service_names))
                self._dictionary = Dictionary(
                    Codes.of(services, self._options.services), Codes.of(countries, self._options.countries)
                )
                self._learnt_until = time.monotonic() + LEARNT_SECONDS
            return self._dictionary

    async def _known(self, left: Countdown) -> Dictionary:
        """As `_learn`, for a purchase: what was learnt once is good enough. Raises NothingTaken."""
        if self._learnt_until:
            return self._dictionary
        try:
            async with asyncio.timeout(left.left_seconds()):
                return await self._learn(
                    lambda call, parse: before_buying(self._buy(call, lambda reply: parse(_bought(reply)), {}, left))
                )
        except TimeoutError:
            raise NotReached("its words were not learnt in time") from None

    # --- what it sells ---

    async def offers(self) -> OfferTable:
        dictionary = await self._learn(
            lambda call, parse: self._ask("offers", call, lambda reply: parse(_data(reply)), {})
        )
        limits = await self._list("limits", {})
        prices = await self._prices(dictionary)
        sheet = Sheet(self.name, self._currency, dictionary.services.incoming, dictionary.countries.incoming)
        parsed = await self._offload(parse_prices, prices, limits, sheet)
        table, self.unmapped = cast("tuple[OfferTable, Counter[str]]", parsed)
        return table

    async def _prices(self, dictionary: Dictionary) -> list[tuple[str, bytes]]:
        """(country, list) of each country we know, or the whole list under an empty one."""
        if self._options.prices_at_once:
            return [("", await self._list("get-prices", {}))]
        countries = dictionary.countries.incoming
        return [(country, await self._list("get-prices", {"country_id": country})) for country in countries]

    async def _list(self, call: str, params: Mapping[str, str]) -> bytes:
        return await self._ask("offers", call, _list_body, params, seconds=LIST_SECONDS, body_bytes=LIST_BYTES)

    async def balance(self) -> Money:
        return Money(await self._ask("balance", "get-balance", _balance, {}), self._currency)

    # --- buying ---

    async def buy(self, order: BuyOrder) -> Lease:
        left = Countdown(order.timeout_seconds)
        dictionary = await self._known(left)
        country, service = (
            dictionary.countries.outgoing.get(order.country),
            dictionary.services.outgoing.get(order.service),
        )
        if country is None or service is None:
            raise Refused("no word for this service or country there")
        params = {"country_id": country, "application_id": service, "maxPrice": plain(order.cost_max.micros)}
        if self._options.sends_currency:
            params["currency"] = self._currency
        if self._options.multiple_sms:
            params["hasMultipleSms"] = "true"
        return await self._buy("get-number", self._lease, params, left)

    async def _buy(self, call: str, read: Callable[[Reply], T], params: Mapping[str, str], left: Countdown) -> T:
        return await self._http.buy(
            self._url(call), read, params={**self._params, **params}, seconds=left.left_seconds()
        )

    def _lease(self, reply: Reply) -> Lease:
        fields = mapping(_bought(reply))
        return Lease(
            reference(fields.get("request_id")),
            digits(fields.get("number")),
            cost(fields.get("cost", fields.get("price")), self._currency),
            expires_at=self._clock() + self._options.life_seconds,
        )

    # --- reading ---

    async def read(self, watched: Watched) -> Progress:
        word, code = await self._look("read", watched.reference)
        if word:
            return Progress(self._states[word])
        return Progress(LeaseState.OPEN, _messages(code, watched.round))

    async def _look(self, verb: str, lease: str) -> tuple[str, str]:
        """The word for a request that is over or unknown, else an empty one and the code, if there is one."""
        return await self._ask(verb, "get-sms", self._looked, {"request_id": lease})

    def _looked(self, reply: Reply) -> tuple[str, str]:
        answer = _answer(reply)
        if answer.word == "wait_sms":
            return "", ""
        if answer.word in self._states:
            return answer.word, ""
        code = None if answer.word else mapping(answer.data).get("sms_code")
        if code:
            return "", str(code)
        raise Unwell(_quotable(answer.word))

    # --- asking again, closing ---

    async def ask_again(self, reference: str) -> None:
        word = await self._set_status(reference, "ready", "ask_again")
        if word:
            raise self._close_error(word)

    async def close(self, reference: str, outcome: Outcome) -> None:
        if outcome is Outcome.CANCELLED:
            return await self._cancel(reference)
        word = await self._set_status(reference, "close")
        if word:
            state, _ = await self._look("close", reference)
            if not state or self._states[state] is LeaseState.UNKNOWN:
                raise self._close_error(state or word)
        return None

    async def _cancel(self, lease: str) -> None:
        """Looks first: nothing says that a request with a code is refused, and not paid for."""
        if await self._is_over(lease):
            return
        word = await self._set_status(lease, "reject")
        if word and not await self._is_over(lease):
            raise self._close_error(word)

    async def _is_over(self, lease: str) -> bool:
        """Whether the request has ended without a code. Raises HasSms, NotAllowed, UnknownLease, Unwell."""
        state, code = await self._look("close", lease)
        if code:
            raise HasSms
        if state and self._states[state] is not LeaseState.CANCELLED:
            raise self._close_error(state)
        return bool(state)

    def _close_error(self, word: str) -> UpstreamError:
        match self._states.get(word):
            case None:
                return Unwell(_quotable(word))
            case LeaseState.UNKNOWN:
                return UnknownLease(_quotable(word))
        return NotAllowed(_quotable(word))

    async def _set_status(self, lease: str, status: str, verb: str = "close") -> str:
        """Empty where it was done, else the word of the refusal."""
        return await self._ask(verb, "set-status", _done, {"request_id": lease, "status": status})

    async def aclose(self) -> None:
        await self._http.aclose()

    def _url(self, call: str) -> str:
        return f"{self._options.base_url}/{call}"

    async def _ask(
        self,
        verb: str,
        call: str,
        read: Callable[[Reply], T],
        params: Mapping[str, str],
        *,
        seconds: float = ASK_SECONDS,
        body_bytes: int = BODY_BYTES,
    ) -> T:
        given = {**self._params, **params}
        return await self._http.ask(verb, self._url(call), read, params=given, seconds=seconds, body_bytes=body_bytes)


# --- answers ---


@dataclass(frozen=True, slots=True)
class _Answer:
    """`word` is the code of a refusal, in lower case, or empty where `data` is what was asked for."""

    word: str
    data: Any


def _answer(reply: Reply) -> _Answer:
    """Raises Unreadable where it is no answer of this protocol."""
    if reply.status in _STATUSES:
        return _Answer(_STATUSES[reply.status], None)
    if reply.status >= 500 or reply.status == 408:
        raise Unreadable("the server broke")
    data = reply.json()
    if isinstance(data, dict) and ("error_code" in data or data.get("success") is False):
        return _Answer(str(data.get("error_code")).lower(), data)
    if reply.status != 200:
        raise Unreadable("a status without a word")
    return _Answer("", data)


def _quotable(word: str) -> str:
    """Words of letters only, so no number, code or key can be in one."""
    return word if _CODE.fullmatch(word) else "an answer that makes no sense"


def _purchase_error(word: str) -> UpstreamError:
    if word in _SOLD_OUT:
        return SoldOut(word)
    if word in _FAULTS or word in _DECLINED:
        return Refused(word, is_fault=word in _FAULTS)
    return InDoubt(_quotable(word))


def _bought(reply: Reply) -> Any:
    """What a purchase, or a question before it, was answered with. Raises as `_purchase_error`."""
    answer = _answer(reply)
    if answer.word:
        raise _purchase_error(answer.word)
    return answer.data


def _data(reply: Reply) -> Any:
    answer = _answer(reply)
    if answer.word:
        raise Unwell(_quotable(answer.word))
    return answer.data


def _done(reply: Reply) -> str:
    """Empty for `"success": true`, else the word of the refusal."""
    answer = _answer(reply)
    if answer.word or mapping(answer.data).get("success") is True:
        return answer.word
    raise Unreadable("neither done nor refused")


def _messages(code: str, round_: int) -> tuple[Sms, ...]:
    """The wire has no message ids: the code within its round is all there is to tell messages apart."""
    return (Sms(code, "", identity=f"{round_}:{code}"),) if code else ()


def _balance(reply: Reply) -> int:
    answer = _answer(reply)
    if answer.word in _FAULTS:
        raise Refused(answer.word, is_fault=True)
    if answer.word:
        raise Unwell(_quotable(answer.word))
    return micros(mapping(answer.data).get("balance"))


# --- what its numbers mean ---


@dataclass(frozen=True)
class Dictionary:
    """sms-man's ids for services and countries."""

    services: Codes[str]
    countries: Codes[int]


def _entries(data: Any) -> Iterator[tuple[str, str, str]]:
    """(id, plain name, code) of each row; the lists come as objects by id, and have come as arrays."""
    rows = data if isinstance(data, list) else list(mapping(data).values())
    for row in rows:
        fields = mapping(row)
        name = fields.get("title") or fields.get("name") or ""
        yield reference(fields.get("id")), _plain(name), str(fields.get("code") or "").lower()


def _plain(name: object) -> str:
    return _BESIDES_LETTERS.sub("", str(name).lower())


def _countries(data: Any, country_iso2: Mapping[int, str]) -> Table:
    """Country to id. It sells one kind of United States, so the physical ones (187) stand for it."""
    numbers = {letters.lower(): number for number, letters in country_iso2.items() if number != 12}
    found: Table = {}
    for identity, name, code in _entries(data):
        number = numbers.get(COUNTRIES.get(name, code))
        if number is not None:
            found.setdefault(number, identity)
    return _some(found)


def _services(data: Any, service_names: Mapping[str, str]) -> Table:
    """Service to id. A name decides before a code: codes of two providers may mean two services."""
    named = {_plain(name): code for code, name in reversed(list(service_names.items()))} | SERVICES
    found: Table = {}
    for identity, name, code in _entries(data):
        service = named.get(name, code)
        if service in service_names:
            found.setdefault(service, identity)
    return _some(found)


def _some(found: Table) -> Table:
    """A list that explains nothing would be believed for hours."""
    if not found:
        raise Unreadable("no name in it is known")
    return found


# --- the price list ---


@dataclass(frozen=True)
class Sheet:
    """How to read the lists: sms-man's ids to our codes."""

    upstream: str
    currency: str
    services: Mapping[str, str]
    countries: Mapping[str, int]


def _list_body(reply: Reply) -> bytes:
    if reply.status != 200 or reply.body.lstrip()[:1] not in (b"{", b"["):
        raise Unwell(f"status {reply.status}, or no list")
    return reply.body


def parse_prices(prices: Sequence[tuple[str, bytes]], limits: bytes, sheet: Sheet) -> tuple[OfferTable, Counter[str]]:
    """The price lists in columns, and how many numbers of each unknown id were left out.

    `prices` are lists with the country each was asked for, empty for one of all. Pure and importable by name: runs in
    another process. Raises Unwell where a body is no list.
    """
    unmapped: Counter[str] = Counter()
    try:
        counts = dict(_counts(_listed(limits)))
        leaves = [leaf for country, body in prices for leaf in _leaves(_listed(body), country)]
        table = OfferTable(sheet.upstream, sheet.currency, _rows(leaves, counts, sheet, unmapped))
    except Unreadable:
        table = None
    if table is None:
        raise Unwell("the price list is unreadable")
    return table, unmapped


def _listed(body: bytes) -> Any:
    data = load_json(body)
    if isinstance(data, dict) and ("error_code" in data or data.get("success") is False):
        raise Unreadable("a refusal")
    return data


def _counts(data: Any) -> Iterator[tuple[tuple[str, str], int]]:
    """((country, service), numbers) of `limits`."""
    for row in data if isinstance(data, list) else mapping(data).values():
        fields = mapping(row)
        yield (str(fields.get("country_id")), str(fields.get("application_id"))), in_stock(fields.get("numbers"))


def _leaves(data: Any, country: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(country, service, leaf). Leaves stand under country and service, or under the service alone (or in an array)
    where they name both themselves."""
    rows = enumerate(data) if isinstance(data, list) else mapping(data).items()
    for key, value in rows:
        cell = mapping(value)
        if "cost" in cell:
            yield str(cell.get("country_id", country)), str(cell.get("application_id", key)), cell
            continue
        for service, leaf in cell.items():
            yield str(key), service, mapping(leaf)


def _rows(
    leaves: Sequence[tuple[str, str, dict[str, Any]]],
    counts: Mapping[tuple[str, str], int],
    sheet: Sheet,
    unmapped: Counter[str],
) -> Iterator[tuple[str, int, int, int, str, float | None]]:
    for country_id, service_id, leaf in leaves:
        number, service = sheet.countries.get(country_id), sheet.services.get(service_id)
        count = counts.get((country_id, service_id), in_stock(leaf.get("count")))
        if number is None or service is None:
            unmapped[f"country {country_id}" if number is None else f"service {service_id}"] += count
            continue
        try:
            yield service, number, micros(leaf.get("cost")), count, "", None
        except Unreadable:  # one odd row must not hide the others
            unmapped["unreadable"] += 1
