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
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from adapters._http import Http, Reply, list_body
from adapters._price_first import Countdown, before_buying
from adapters._prices import Listed, Sheet, tabulate
from adapters._refusals import Answer, Refusals, read_answer
from adapters._seller import Seller
from adapters._smsman_words import COUNTRIES, SERVICES
from adapters._values import Address, Codes, Unreadable, cost, digits, load_json, mapping, reference
from adapters._words import Learnt, WordOptions, Words, one_usa, told_words
from gateway.errors import HasSms, NotAllowed, NotReached, UnknownLease, Unwell, UpstreamError
from gateway.model import BuyOrder, Lease, LeaseState, Outcome, Progress, Sms, Watched
from gateway.money import Money, plain
from gateway.upstream import Context, OfferTable

_STATUSES = {429: "too_many_requests", 401: "wrong_token", 402: "balance"}
"""What a status means where the body names no code."""

_CODE = re.compile(r"[a-z_]{2,40}")
_BESIDES_LETTERS = re.compile(r"[^a-z0-9]+")

Table = dict[Any, str]
Fetch = Callable[[str, Callable[[Any], Table]], Awaitable[Table]]
"""Asks for one of the lists that explain its numbers, and parses it."""


def _quotable(word: str) -> str:
    """Words of letters only, so no number, code or key can be in one."""
    return word if _CODE.fullmatch(word) else "an answer that makes no sense"


_REFUSALS = Refusals(
    sold_out=frozenset({"no_numbers"}),
    faults=frozenset({"wrong_token", "balance", "no_balance", "low_balance", "banned", "too_many_requests"}),
    declined=frozenset({"wrong_application_id", "wrong_country_id"}),
    quotable=_quotable,
)


class Options(WordOptions):
    """`services` and `countries` map our codes to sms-man's ids, over what its lists say."""

    base_url: Address = "https://api.sms-man.com/control"
    sends_currency: bool = False
    multiple_sms: bool = False
    """Asks for numbers that can take more than one message (`hasMultipleSms`)."""
    prices_at_once: bool = True
    life_seconds: Annotated[float, Field(gt=0)] = 1200.0
    cancelled_words: tuple[str, ...] = ("canceled", "cancelled", "rejected", "expired", "timeout")
    finished_words: tuple[str, ...] = ("closed", "finished", "used")
    unknown_words: tuple[str, ...] = ("wrong_request_id", "request_not_found", "no_request")


def build(context: Context, options: Options) -> SmsMan:
    return SmsMan(context, options)


class SmsMan(Seller):
    """The upstream."""

    def __init__(self, context: Context, options: Options) -> None:
        headers, params = {"accept": "application/json"}, {"token": context.secret}
        super().__init__(context, Http(context, headers, base_url=options.base_url, params=params))
        self._names = context.names
        self._options = options
        self._words = Learnt(Words(Codes({}, {}), Codes({}, {})), context.clock)
        self._learning = asyncio.Lock()
        self._states = {
            **dict.fromkeys(options.cancelled_words, LeaseState.CANCELLED),
            **dict.fromkeys(options.finished_words, LeaseState.FINISHED),
            **dict.fromkeys(options.unknown_words, LeaseState.UNKNOWN),
        }

    # --- its words ---

    async def _learn(self, fetch: Fetch) -> Words:
        """What its numbers mean, asked for where that is not known, or was learnt long ago."""

        async def ask() -> Words:
            countries = await fetch("/countries", lambda data: _countries(data, self._names.country_iso2))
            services = await fetch("/applications", lambda data: _services(data, self._names.service_names))
            return Words.of(services, countries, self._options)

        async with self._learning:
            return await self._words.fresh(ask)

    async def _known(self, left: Countdown) -> Words:
        """As `_learn`, for a purchase: what was learnt once is good enough. Raises NothingTaken."""
        if self._words.is_known:
            return self._words.now

        async def fetch(call: str, parse: Callable[[Any], Table]) -> Table:
            return await before_buying(
                self._http.buy(call, lambda reply: parse(_bought(reply)), seconds=left.left_seconds(), verb="words")
            )

        try:
            async with asyncio.timeout(left.left_seconds()):
                return await self._learn(fetch)
        except TimeoutError:
            raise NotReached("its words were not learnt in time") from None

    # --- what it sells ---

    async def offers(self) -> OfferTable:
        words = await self._learn(
            lambda call, parse: self._http.ask("offers", call, lambda reply: parse(_REFUSALS.told(_answer(reply))))
        )
        limits = await self._http.ask_list("offers", "/limits", list_body)
        return await self._table(parse_prices, await self._prices(words), limits, words=words)

    def knowledge(self) -> Mapping[str, Any]:
        words = self._words.now
        countries = {str(number): word for number, word in words.countries.outgoing.items()}
        return {
            "services": words.services.outgoing,
            "countries": countries,
            "good_until": self._words.good_until,
        }

    def learn(self, knowledge: Mapping[str, Any]) -> None:
        countries = {int(number): word for number, word in told_words(knowledge, "countries").items()}
        words = Words.of(told_words(knowledge, "services"), countries, self._options)
        self._words.told(words, float(knowledge["good_until"]))

    async def _prices(self, words: Words) -> list[tuple[str, bytes]]:
        """(country, list) of each country we know, or the whole list under an empty one."""
        if self._options.prices_at_once:
            return [("", await self._http.ask_list("offers", "/get-prices", list_body))]
        return [(country, await self._prices_in(country)) for country in words.countries.incoming]

    async def _prices_in(self, country: str) -> bytes:
        return await self._http.ask_list("offers", "/get-prices", list_body, params={"country_id": country})

    async def balance(self) -> Money:
        return Money(await self._http.ask("balance", "/get-balance", _balance), self._currency)

    # --- buying ---

    async def buy(self, order: BuyOrder) -> Lease:
        left = Countdown(order.timeout_seconds)
        country, service = (await self._known(left)).wanted(order)
        params = {"country_id": country, "application_id": service, "maxPrice": plain(order.cost_max.micros)}
        if self._options.sends_currency:
            params["currency"] = self._currency
        if self._options.multiple_sms:
            params["hasMultipleSms"] = "true"
        return await self._http.buy("/get-number", self._lease, params=params, seconds=left.left_seconds())

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
        return await self._http.ask(verb, "/get-sms", self._looked, params={"request_id": lease})

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
        return await self._http.ask(verb, "/set-status", _done, params={"request_id": lease, "status": status})


# --- answers ---


def _answer(reply: Reply) -> Answer:
    return read_answer(reply, _STATUSES, _word_of)


def _word_of(data: Any) -> str:
    return str(data.get("error_code")).lower() if _is_refusal(data) else ""


def _is_refusal(data: Any) -> bool:
    return isinstance(data, dict) and ("error_code" in data or data.get("success") is False)


def _bought(reply: Reply) -> Any:
    return _REFUSALS.bought(_answer(reply))


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
    return _REFUSALS.balance(_answer(reply))


# --- what its numbers mean ---


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
    numbers = {letters.lower(): number for number, letters in one_usa(country_iso2).items()}
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


def parse_prices(prices: Sequence[tuple[str, bytes]], limits: bytes, sheet: Sheet) -> tuple[OfferTable, Counter[str]]:
    """The price lists in columns, and how many numbers of each unknown id were left out.

    `prices` are lists with the country each was asked for, empty for one of all. Pure and importable by name: runs in
    another process. Raises Unwell where a body is no list.
    """
    return tabulate(_rows(prices, limits), sheet)


def _rows(prices: Sequence[tuple[str, bytes]], limits: bytes) -> Iterator[Listed]:
    counts = dict(_counts(_listed(limits)))
    for asked_for, body in prices:
        for country, service, leaf in _leaves(_listed(body), asked_for):
            stock = counts.get((country, service), leaf.get("count"))
            yield Listed(country, service, leaf.get("cost"), stock)


def _listed(body: bytes) -> Any:
    data = load_json(body)
    if _is_refusal(data):
        raise Unreadable("a refusal")
    return data


def _counts(data: Any) -> Iterator[tuple[tuple[str, str], object]]:
    """((country, service), numbers) of `limits`."""
    for row in data if isinstance(data, list) else mapping(data).values():
        fields = mapping(row)
        yield (str(fields.get("country_id")), str(fields.get("application_id"))), fields.get("numbers")


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
