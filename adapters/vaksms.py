"""vak-sms (vak-sms.com), its own protocol under `/api`. Facts: `protocol/upstreams/others.md` §4. Money is roubles.

Its ways:

* refusals are `{"error": word}`; countries are ISO letters in lower case, services codes of its own (`_vaksms_words`);
* there is no price cap: `getCountNumber` is asked first, and a number that became dearer in between costs more, which
  the purchase does not tell in every version of it;
* `getSmsCode` tells codes without texts, all of them with `all`, and no state. An order that is over is not found, as
  one that never was, so what was closed here is remembered: not found means over then;
* `setStatus` `end` gives a number back, or ends it where a message is there: a cancel looks first, and `smsReceived`
  tells of a message that came in between. `waitSMS` is a cancel refused for now; when it will not be is a setting;
* the price list is one call for each country (no key, not in its documentation); `countries_listed` narrows it;
* it has no list of orders, so a purchase whose reply was lost can't be found.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from cachetools import TTLCache
from pydantic import Field

from adapters._http import Http, Reply, list_body
from adapters._price_first import Countdown, require_price
from adapters._prices import Listed, Sheet, tabulate
from adapters._refusals import Answer, Refusals, read_answer
from adapters._rounds import KEPT_SECONDS, LEASES_KEPT, Rounds
from adapters._seller import Seller
from adapters._vaksms_words import SERVICES
from adapters._values import Address, Unreadable, cost, digits, in_stock, load_json, mapping, micros, reference
from adapters._words import WordOptions, Words, one_usa
from gateway.errors import HasSms, NotAllowed, SoldOut, TooEarly, UnknownLease, Unwell, UpstreamError
from gateway.model import BuyOrder, Lease, LeaseState, Outcome, Progress, Sms, Watched
from gateway.money import Money
from gateway.upstream import Context, OfferTable

NO_SUCH_ORDER = "idNumNotFound"

_STATUSES = {429: "tooManyRequests", 401: "apiKeyNotFound"}
"""What a status means where the body names no error."""

_DONE = frozenset({"update", "ready", "end"})
_SMS_IS_THERE = frozenset({"smsReceived", "received"})
_WAITS = "waitSMS"
_WORD = re.compile(r"[A-Za-z]{2,24}")


def _quotable(word: str) -> str:
    """Words of letters only, so no number, code or key can be in one."""
    return word if _WORD.fullmatch(word) else "an answer that makes no sense"


_REFUSALS = Refusals(
    sold_out=frozenset({"noNumber"}),
    faults=frozenset({"apiKeyNotFound", "noMoney", "tooManyRequests"}),
    declined=frozenset({"noService", "noCountry", "noOperator", "badService", "badData"}),
    quotable=_quotable,
)


class Options(WordOptions):
    """`services` and `countries` map our codes to vak-sms' codes and letters, over the tables."""

    base_url: Address = "https://vak-sms.com/api"
    countries_listed: tuple[str, ...] = ()
    """The countries whose prices are read, by its letters; empty for all that it names."""
    life_seconds: Annotated[float, Field(gt=0)] = 1200.0
    cancel_wait_seconds: Annotated[float, Field(gt=0)] = 300.0
    """After `waitSMS`: the age at which a number can be given back, which the answer does not tell."""


def build(context: Context, options: Options) -> VakSms:
    return VakSms(context, options)


class VakSms(Seller):
    """The upstream."""

    def __init__(self, context: Context, options: Options) -> None:
        headers, params = {"accept": "application/json"}, {"apiKey": context.secret}
        super().__init__(context, Http(context, headers, base_url=options.base_url, params=params))
        self._options = options
        letters = {number: word.lower() for number, word in one_usa(context.names.country_iso2).items()}
        self._words = Words.of(SERVICES, letters, options)
        self._rounds = Rounds()
        self._known: TTLCache[str, LeaseState] = TTLCache(LEASES_KEPT, KEPT_SECONDS)
        """How far leases have come that were bought or closed here."""

    # --- what it sells ---

    async def offers(self) -> OfferTable:
        listed = self._options.countries_listed
        countries = listed or await self._http.ask("offers", "/getCountryList/", _country_words)
        lists = [(country, await self._list(country)) for country in countries]
        return await self._table(parse_prices, lists, words=self._words)

    async def _list(self, country: str) -> bytes:
        params = {"country": country, "rent": "false"}
        return await self._http.ask_list("offers", "/getCountNumbersList/", list_body, params=params)

    async def balance(self) -> Money:
        return Money(await self._http.ask("balance", "/getBalance/", _balance), self._currency)

    # --- buying ---

    async def buy(self, order: BuyOrder) -> Lease:
        country, service = self._words.wanted(order)
        left = Countdown(order.timeout_seconds)
        params = {"service": service, "country": country}
        if order.operator:
            params["operator"] = order.operator
        question = self._http.buy(
            "/getCountNumber/",
            lambda reply: _price(reply, service),
            params={**params, "price": "1"},
            seconds=left.left_seconds(),
            verb="price",
        )
        await require_price(question, order)
        lease = await self._http.buy("/getNumber/", self._lease, params=params, seconds=left.left_seconds())
        self._known[lease.reference] = LeaseState.OPEN
        return lease

    def _lease(self, reply: Reply) -> Lease:
        fields = mapping(_REFUSALS.bought(_answer(reply)))
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
            # Over, it seems; but one denial alone is not to end what is paid for.
            return Progress(LeaseState.UNKNOWN if state is LeaseState.OPEN else state)
        messages = self._rounds.messages(
            lease, watched.round, codes, lambda code, identity: Sms(code, "", identity=identity)
        )
        return Progress(state, messages)

    async def _codes(self, verb: str, lease: str) -> list[str] | None:
        """Every code so far, oldest first, or None where there is no such order (any more)."""
        return await self._http.ask(verb, "/getSmsCode/", _codes, params={"idNum": lease, "all": "1"})

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
        """Whether an order that is not found was closed here: else one denial may be a mistake."""
        return word == NO_SUCH_ORDER and self._known.get(lease, LeaseState.OPEN) is not LeaseState.OPEN

    def _end_error(self, word: str) -> UpstreamError:
        return TooEarly(self._options.cancel_wait_seconds) if word == _WAITS else _close_error(word)

    async def _set_status(self, verb: str, lease: str, status: str) -> str:
        """The word of the answer, done or refused."""
        return await self._http.ask(verb, "/setStatus/", _status, params={"idNum": lease, "status": status})


# --- answers ---


def _answer(reply: Reply) -> Answer:
    return read_answer(reply, _STATUSES, _word_of)


def _word_of(data: Any) -> str:
    return str(data.get("error") or "") if isinstance(data, dict) else ""


def _close_error(word: str) -> UpstreamError:
    if word == NO_SUCH_ORDER:
        return UnknownLease(word)
    return NotAllowed(word) if word == "badStatus" else Unwell(_quotable(word))


def _price(reply: Reply, service: str) -> int:
    """What `{"tg": 55, "price": 12.0}` costs. Raises SoldOut where there is none."""
    fields = mapping(_REFUSALS.bought(_answer(reply)))
    if in_stock(fields.get(service)) == 0:
        raise SoldOut("none listed")
    return micros(fields.get("price"))


def _codes(reply: Reply) -> list[str] | None:
    """`{"smsCode": null}`, one code, or a list of them."""
    answer = _answer(reply)
    if answer.word == NO_SUCH_ORDER:
        return None
    if answer.word or "smsCode" not in mapping(answer.data):
        raise Unwell(_quotable(answer.word))
    codes = answer.data["smsCode"]
    listed = [code for code in (codes if isinstance(codes, list) else [codes]) if code]
    if not all(isinstance(code, str | int) for code in listed):
        raise Unreadable("a code that is none")
    return [str(code) for code in listed]


def _status(reply: Reply) -> str:
    answer = _answer(reply)
    word = answer.word or str(mapping(answer.data).get("status") or "")
    if not word:
        raise Unreadable("neither done nor refused")
    return word


def _balance(reply: Reply) -> int:
    return _REFUSALS.balance(_answer(reply))


# --- the price list ---


def _country_words(reply: Reply) -> tuple[str, ...]:
    data = _REFUSALS.told(_answer(reply))
    if not isinstance(data, list):
        raise Unreadable("no list of countries")
    return tuple(str(mapping(row).get("countryCode")).lower() for row in data)


def parse_prices(lists: Sequence[tuple[str, bytes]], sheet: Sheet) -> tuple[OfferTable, Counter[str]]:
    """The price lists in columns, and how many numbers of each unknown word were left out.

    `lists` are answers with the country each is of. Pure and importable by name: runs in another process. Raises Unwell
    where a body is no list.
    """
    return tabulate((row for country, body in lists for row in _rows(country, load_json(body))), sheet)


def _rows(country: str, data: Any) -> Iterator[Listed]:
    """A country it no longer sells is a refusal, and has none.

    Published clients read `cost` and `quantity`, others were seen to read `price` and `count`.
    """
    services = mapping(data)
    if "error" in services:
        if services["error"] != "noCountry":
            raise Unreadable("a refusal")
        return
    for service, leaves in services.items():
        for leaf in map(mapping, leaves if isinstance(leaves, list) else [leaves]):
            stock = leaf.get("quantity", leaf.get("count"))
            yield Listed(country.lower(), service, leaf.get("cost", leaf.get("price")), stock)
