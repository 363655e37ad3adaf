"""vak-sms (vak-sms.com), its own protocol under `/api`. Facts: `protocol/upstreams/others.md` §4. Money is roubles.

Its ways:

* refusals are `{"error": word}`; countries are ISO letters in lower case, services codes of its own (`_vaksms_words`);
* there is no price cap: `getCountNumber` is asked first, and a number that became dearer in between costs more, which
  the purchase does not tell in every version of it;
* `getSmsCode` tells codes without texts, all of them with `all`, and no state. An order that is over is not found, as
  one that never was, so what was bought and closed here is remembered: not found means over;
* `setStatus` `end` gives a number back, or ends it where a message is there: a cancel looks first, and `smsReceived`
  tells of a message that came in between. `waitSMS` is a cancel refused for now; when it will not be is a setting;
* the price list is one call for each country (no key, not in its documentation); `countries_listed` narrows it;
* it has no list of orders, so a purchase whose reply was lost can't be found.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, cast

from cachetools import TTLCache
from pydantic import BaseModel, ConfigDict, Field

from adapters._http import ASK_SECONDS, BODY_BYTES, LIST_BYTES, LIST_SECONDS, Http, Reply
from adapters._price_first import Countdown, before_buying
from adapters._rounds import KEPT_SECONDS, LEASES_KEPT, Rounds
from adapters._stock import in_stock
from adapters._vaksms_words import SERVICES
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
from gateway.errors import HasSms, InDoubt, NotAllowed, Refused, SoldOut, TooEarly, UnknownLease, Unwell, UpstreamError
from gateway.model import BuyOrder, Lease, LeaseState, Outcome, Progress, Sms, Watched
from gateway.money import Money
from gateway.upstream import Context, OfferTable

T = TypeVar("T")

NO_SUCH_ORDER = "idNumNotFound"

_SOLD_OUT = frozenset({"noNumber"})
_FAULTS = frozenset({"apiKeyNotFound", "noMoney", "tooManyRequests"})
_DECLINED = frozenset({"noService", "noCountry", "noOperator", "badService", "badData"})
_STATUSES = {429: "tooManyRequests", 401: "apiKeyNotFound"}
"""What a status means where the body names no error."""

_DONE = frozenset({"update", "ready", "end"})
_SMS_IS_THERE = frozenset({"smsReceived", "received"})
_WAITS = "waitSMS"
_WORD = re.compile(r"[A-Za-z]{2,24}")


class Options(BaseModel):
    """`services` and `countries` map our codes to vak-sms' codes and letters, over the tables."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base_url: Address = "https://vak-sms.com/api"
    services: Annotated[Mapping[str, str], CodeTable] = {}
    countries: Annotated[Mapping[int, str], CodeTable] = {}
    countries_listed: tuple[str, ...] = ()
    """The countries whose prices are read, by its letters; empty for all that it names."""
    life_seconds: Annotated[float, Field(gt=0)] = 1200.0
    cancel_wait_seconds: Annotated[float, Field(gt=0)] = 300.0
    """After `waitSMS`: the age at which a number can be given back, which the answer does not tell."""


def build(context: Context, options: Options) -> VakSms:
    return VakSms(context, options)


class VakSms:
    """The upstream."""

    def __init__(self, context: Context, options: Options) -> None:
        self.name = context.name
        self.unmapped: Counter[str] = Counter()
        """Numbers of the last price list that were left out, by unknown country or service."""
        self._currency = context.currency
        self._clock = context.clock
        self._offload = context.offload
        self._options = options
        self._params = {"apiKey": context.secret}
        self._http = Http(context, {"accept": "application/json"})
        self._services = Codes.of(SERVICES, options.services)
        self._countries = Codes.of(_letters(context.names.country_iso2), options.countries)
        self._rounds = Rounds()
        self._known: TTLCache[str, LeaseState] = TTLCache(LEASES_KEPT, KEPT_SECONDS)
        """How far leases have come that were bought or closed here."""

    # --- what it sells ---

    async def offers(self) -> OfferTable:
        countries = self._options.countries_listed or await self._ask("offers", "getCountryList", _country_words, {})
        lists = [(country, await self._list(country)) for country in countries]
        sheet = Sheet(self.name, self._currency, self._services.incoming, self._countries.incoming)
        table, self.unmapped = cast("tuple[OfferTable, Counter[str]]", await self._offload(parse_prices, lists, sheet))
        return table

    async def _list(self, country: str) -> bytes:
        params = {"country": country, "rent": "false"}
        return await self._ask(
            "offers", "getCountNumbersList", _list_body, params, seconds=LIST_SECONDS, body_bytes=LIST_BYTES
        )

    async def balance(self) -> Money:
        return Money(await self._ask("balance", "getBalance", _balance, {}), self._currency)

    # --- buying ---

    async def buy(self, order: BuyOrder) -> Lease:
        country, service = self._countries.outgoing.get(order.country), self._services.outgoing.get(order.service)
        if country is None or service is None:
            raise Refused("no word for this service or country there")
        left = Countdown(order.timeout_seconds)
        params = {"service": service, "country": country}
        if order.operator:
            params["operator"] = order.operator
        question = self._buy("getCountNumber", lambda reply: _price(reply, service), {**params, "price": "1"}, left)
        if await before_buying(question) > order.cost_max.micros:
            raise SoldOut("dearer than allowed")
        lease = await self._buy("getNumber", self._lease, params, left)
        self._known[lease.reference] = LeaseState.OPEN
        return lease

    async def _buy(self, call: str, read: Callable[[Reply], T], params: Mapping[str, str], left: Countdown) -> T:
        return await self._http.buy(
            self._url(call), read, params={**self._params, **params}, seconds=left.left_seconds()
        )

    def _lease(self, reply: Reply) -> Lease:
        fields = mapping(_bought(reply))
        return Lease(
            reference(fields.get("idNum")),
            digits(fields.get("tel")),
            cost(fields.get("price"), self._currency),
            expires_at=self._clock() + self._options.life_seconds,
        )

    # --- reading ---

    async def read(self, watched: Watched) -> Progress:
        lease = watched.reference
        codes = await self._codes("read", lease)
        state = self._known.get(lease, LeaseState.UNKNOWN if codes is None else LeaseState.OPEN)
        if codes is None:
            return Progress(LeaseState.CANCELLED if state is LeaseState.OPEN else state)
        identities = self._rounds.identities(lease, watched.round, codes)
        messages = {
            identity: Sms(code, "", identity=identity) for identity, code in zip(identities, codes, strict=True)
        }
        return Progress(state, tuple(messages.values()))

    async def _codes(self, verb: str, lease: str) -> list[str] | None:
        """Every code so far, oldest first, or None where there is no such order (any more)."""
        return await self._ask(verb, "getSmsCode", _codes, {"idNum": lease, "all": "1"})

    # --- asking again, closing ---

    async def ask_again(self, reference: str) -> None:
        """`waitSMS` says that one is awaited as it is."""
        word = await self._set_status("ask_again", reference, "send")
        if word not in _DONE and word != _WAITS:
            raise _close_error(word)

    async def close(self, reference: str, outcome: Outcome) -> None:
        if outcome is Outcome.CANCELLED:
            await self._cancel(reference)
            self._known[reference] = LeaseState.CANCELLED
            return
        word = await self._set_status("close", reference, "end")
        if not self._is_over(reference, word) and word not in _DONE | _SMS_IS_THERE:
            raise self._end_error(word)
        self._known[reference] = LeaseState.FINISHED

    async def _cancel(self, lease: str) -> None:
        codes = await self._codes("close", lease)
        if codes:
            raise HasSms
        if codes is None:
            if not self._is_over(lease, NO_SUCH_ORDER):
                raise UnknownLease(NO_SUCH_ORDER)
            return
        word = await self._set_status("close", lease, "end")
        if word in _SMS_IS_THERE:
            raise HasSms
        if not self._is_over(lease, word) and word not in _DONE:
            raise self._end_error(word)

    def _is_over(self, lease: str, word: str) -> bool:
        """Whether an order that is not found was one of ours."""
        return word == NO_SUCH_ORDER and lease in self._known

    def _end_error(self, word: str) -> UpstreamError:
        return TooEarly(self._options.cancel_wait_seconds) if word == _WAITS else _close_error(word)

    async def _set_status(self, verb: str, lease: str, status: str) -> str:
        """The word of the answer, done or refused."""
        return await self._ask(verb, "setStatus", _status, {"idNum": lease, "status": status})

    async def aclose(self) -> None:
        await self._http.aclose()

    def _url(self, call: str) -> str:
        return f"{self._options.base_url}/{call}/"

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


def _letters(iso2: Mapping[int, str]) -> dict[int, str]:
    """It sells one kind of United States, so the physical ones (187) stand for it."""
    return {number: letters.lower() for number, letters in iso2.items() if number != 12}


# --- answers ---


def _answer(reply: Reply) -> tuple[str, Any]:
    """The word of a refusal (empty where there is none) and the parsed body. Raises Unreadable."""
    if reply.status in _STATUSES:
        return _STATUSES[reply.status], None
    if reply.status >= 500 or reply.status == 408:
        raise Unreadable("the server broke")
    data = reply.json()
    word = data.get("error") if isinstance(data, dict) else None
    if not word and reply.status != 200:
        raise Unreadable("a status without a word")
    return str(word or ""), data


def _quotable(word: str) -> str:
    """Words of letters only, so no number, code or key can be in one."""
    return word if _WORD.fullmatch(word) else "an answer that makes no sense"


def _purchase_error(word: str) -> UpstreamError:
    if word in _SOLD_OUT:
        return SoldOut(word)
    if word in _FAULTS or word in _DECLINED:
        return Refused(word, is_fault=word in _FAULTS)
    return InDoubt(_quotable(word))


def _close_error(word: str) -> UpstreamError:
    if word == NO_SUCH_ORDER:
        return UnknownLease(word)
    return NotAllowed(word) if word == "badStatus" else Unwell(_quotable(word))


def _bought(reply: Reply) -> Any:
    word, data = _answer(reply)
    if word:
        raise _purchase_error(word)
    return data


def _data(reply: Reply) -> Any:
    word, data = _answer(reply)
    if word:
        raise Unwell(_quotable(word))
    return data


def _price(reply: Reply, service: str) -> int:
    """What `{"tg": 55, "price": 12.0}` costs. Raises SoldOut where there is none."""
    fields = mapping(_bought(reply))
    if in_stock(fields.get(service)) == 0:
        raise SoldOut("none listed")
    return micros(fields.get("price"))


def _codes(reply: Reply) -> list[str] | None:
    """`{"smsCode": null}`, one code, or a list of them."""
    word, data = _answer(reply)
    if word == NO_SUCH_ORDER:
        return None
    if word or "smsCode" not in mapping(data):
        raise Unwell(_quotable(word))
    codes = data["smsCode"]
    return [str(code) for code in (codes if isinstance(codes, list) else [codes]) if code]


def _status(reply: Reply) -> str:
    word, data = _answer(reply)
    if not word:
        word = str(mapping(data).get("status") or "")
    if not word:
        raise Unreadable("neither done nor refused")
    return word


def _balance(reply: Reply) -> int:
    word, data = _answer(reply)
    if word in _FAULTS:
        raise Refused(word, is_fault=True)
    if word:
        raise Unwell(_quotable(word))
    return micros(mapping(data).get("balance"))


# --- the price list ---


@dataclass(frozen=True)
class Sheet:
    """How to read the lists: vak-sms' codes to ours."""

    upstream: str
    currency: str
    services: Mapping[str, str]
    countries: Mapping[str, int]


def _country_words(reply: Reply) -> tuple[str, ...]:
    data = _data(reply)
    if not isinstance(data, list):
        raise Unreadable("no list of countries")
    return tuple(str(mapping(row).get("countryCode")).lower() for row in data)


def _list_body(reply: Reply) -> bytes:
    if reply.status != 200 or reply.body.lstrip()[:1] not in (b"{", b"["):
        raise Unwell(f"status {reply.status}, or no list")
    return reply.body


def parse_prices(lists: Sequence[tuple[str, bytes]], sheet: Sheet) -> tuple[OfferTable, Counter[str]]:
    """The price lists in columns, and how many numbers of each unknown word were left out.

    `lists` are answers with the country each is of. Pure and importable by name: runs in another process. Raises Unwell
    where a body is no list.
    """
    unmapped: Counter[str] = Counter()
    try:
        leaves = [leaf for country, body in lists for leaf in _leaves(country, load_json(body))]
        table = OfferTable(sheet.upstream, sheet.currency, _rows(leaves, sheet, unmapped))
    except Unreadable:
        table = None
    if table is None:
        raise Unwell("a price list is unreadable")
    return table, unmapped


def _leaves(country: str, data: Any) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(country, service, leaf). A country it no longer sells is a refusal, and has none."""
    services = mapping(data)
    if "error" in services:
        if services["error"] != "noCountry":
            raise Unreadable("a refusal")
        return
    for service, leaves in services.items():
        for leaf in leaves if isinstance(leaves, list) else [leaves]:
            yield country, service, mapping(leaf)


def _rows(
    leaves: Sequence[tuple[str, str, dict[str, Any]]], sheet: Sheet, unmapped: Counter[str]
) -> Iterator[tuple[str, int, int, int, str, float | None]]:
    """Published clients read `cost` and `quantity`, others were seen to read `price` and `count`."""
    for country, word, leaf in leaves:
        number, service = sheet.countries.get(country.lower()), sheet.services.get(word)
        count = in_stock(leaf.get("quantity", leaf.get("count")))
        if number is None or service is None:
            unmapped[f"country {country}" if number is None else f"service {word}"] += count
            continue
        try:
            yield service, number, micros(leaf.get("cost", leaf.get("price"))), count, "", None
        except Unreadable:  # one odd row must not hide the others
            unmapped["unreadable"] += 1
