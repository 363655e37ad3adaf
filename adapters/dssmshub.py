"""DS SMS HUB (dssmshub.com.ng): a `handler_api.php` dialect of its own, in naira (`currency = "NGN"`).

Facts: "The DS SMS HUB dialect" of `protocol/brief.md`, `handler_api.md` §12, `upstreams/handler_api_family.md` §2, §8.

Its ways:

* services are words (`google`), the only country is `US`, which is the canonical 187; `countries = { 12 = "US" }` sells
  the same numbers as 12 instead;
* `getNumber` takes `max_price` and tells the real price in the header `X-Price`; the phone has a plus sign;
* errors are words with a status: 400, 401, 404, or 500, the last of which leaves a purchase in doubt;
* waiting is `WAITING` on its page and begins with `STATUS_WAIT` in one of its own examples: both are understood;
* `ACCESS_SMS:` carries the whole text, colons and line breaks included, and `X-Text` says it once more, flattened;
* an order ends by itself after five minutes; it gives one SMS, lists no open orders, and has no word for "over":
  `cancelled_words` names what counts as one, and `NO_ACTIVATION` is an unknown lease;
* a newer page adds `getServer1Number` (one US back end) and `getServer2Number` (many countries, by ISO letters as far
  as is known): the setting `server`. It also adds a JSON API beside the handler, used for the balance where
  `json_api_url` is set;
* the webhook (told to `setWebhook` once, by hand) is unsigned: it is taken by the secret path only, and is a hint.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar
from urllib.parse import unquote_plus

from pydantic import Field, IPvAnyNetwork

from adapters._dssmshub_words import SERVICES
from adapters._http import Body, Http, Reply
from adapters._prices import Row, Sheet
from adapters._seller import Seller
from adapters._values import Address, Unreadable, cost, digits, load_json, mapping, micros, reference, storable
from adapters._words import WordOptions, Words
from gateway.errors import (
    HasSms,
    InDoubt,
    NotAllowed,
    PushRefused,
    PushUnreadable,
    Refused,
    SoldOut,
    UnknownLease,
    Unwell,
    UpstreamError,
)
from gateway.model import BuyOrder, Lease, LeaseState, Outcome, Progress, Sms, Watched
from gateway.money import Money, plain
from gateway.upstream import Context, OfferTable, Pushed, PushRequest, PushTaken

T = TypeVar("T")

USA = 187
HOME = "US"
UNKNOWN_COUNT = 1
"""The list names prices and no counts: what is listed is sold at least once."""

_BUY_ACTIONS = {"default": "getNumber", "1": "getServer1Number", "2": "getServer2Number"}

_TOKEN = re.compile(r"([A-Z][A-Z0-9_]+)(?::(.*))?", re.DOTALL)
_QUOTABLE = re.compile(r"[A-Z_]{2,40}")
_ESCAPE = re.compile(r"%[0-9A-Fa-f]{2}")
_DIGITS = re.compile(r"\d+", re.ASCII)

_SOLD_OUT = frozenset({"NO_NUMBERS", "MAX_PRICE_EXCEEDED"})
_FAULTS = frozenset(
    {"BAD_KEY", "NO_KEY", "USER_NOT_FOUND", "BAD_ACTION", "NO_MONEY", "NO_BALANCE", "TOO_MANY_ACTIVE_RENTALS"}
)
_BROKEN = frozenset({"INTERNAL_ERROR", "BACKEND_ERROR", "DATABASE_ERROR"})
"""Its own failure, which may have come after the number was taken: in doubt whatever the status."""

_REFUSING = ("BAD_", "NO_", "INVALID_", "WRONG_")
"""How error words begin; one that comes with status 200 is a refusal all the same."""

_FAULTY_STATUS = frozenset({401, 402, 403, 429})
_NO_LEASE = "NO_ACTIVATION"
_DONE = {
    Outcome.FINISHED: frozenset({"ACCESS_DONE", "ACCESS_ACTIVATION"}),
    Outcome.CANCELLED: frozenset({"ACCESS_CANCEL"}),
}
_WRONG_STATE = frozenset({_NO_LEASE, "BAD_STATUS", "ACCESS_READY"})
"""Says that it can't be done, perhaps since it is done already: ask for the state."""

_BAD_API_KEY = frozenset({"MISSING_KEY", "INVALID_KEY"})


class Options(WordOptions):
    """`services` and `countries` map our codes to DS SMS HUB's words, over the defaults.

    `cancelled_words` are what getStatus says of an order that is over, `life_seconds` how long one lives.
    `push_addresses` are addresses or networks the webhook may come from; none named is any.
    """

    base_url: Address = "https://dssmshub.com.ng/stubs/handler_api.php"
    server: Literal["default", "1", "2"] = "default"
    price_action: Literal["getPrices", "getPricesVerification"] = "getPrices"
    cancelled_words: frozenset[str] = frozenset({"STATUS_CANCEL", "ACCESS_CANCEL"})
    life_seconds: float = Field(default=300.0, gt=0, le=86_400)
    json_api_url: Address | Literal[""] = ""
    json_api_key_in: Literal["body", "bearer"] = "body"
    push_addresses: tuple[IPvAnyNetwork, ...] = ()


def build(context: Context, options: Options) -> DsSmsHub:
    return DsSmsHub(context, options)


class DsSmsHub(Seller):
    """The upstream. One SMS a number and no list of orders: it neither asks again, nor reads many, nor finds."""

    def __init__(self, context: Context, options: Options) -> None:
        super().__init__(context, Http(context))
        self._options = options
        self._secret = context.secret
        self._words = Words.of(SERVICES, _countries_sold(options.server, context.names.country_iso2), options)

    # --- what it sells ---

    async def offers(self) -> OfferTable:
        params = self._params(self._options.price_action)
        body = await self._http.ask_list("offers", self._options.base_url, _price_body, params=params)
        return await self._table(parse_prices, body, words=self._words)

    async def balance(self) -> Money:
        if self._options.json_api_url:
            return await self._balance_by_json(self._options.json_api_url)
        return Money(await self._call("balance", "getBalance", _balance_of), self._currency)

    async def _balance_by_json(self, url: str) -> Money:
        is_bearer = self._options.json_api_key_in == "bearer"
        data = {"endpoint": "account/balance"}
        body = Body.json(data if is_bearer else {"key": self._secret, **data})
        headers = {"authorization": f"Bearer {self._secret}"} if is_bearer else {}
        return await self._http.ask("balance", url, self._wallet, method="POST", body=body, headers=headers)

    def _wallet(self, reply: Reply) -> Money:
        """Raises Refused, Unwell or Unreadable."""
        data = _json_object(reply)
        if data.get("status") != "success" or reply.status != 200:
            raise _api_error(reply.status, data.get("code"))
        if data.get("currency", self._currency) != self._currency:
            raise Unwell("the balance is in another currency than the stanza's")
        return Money(micros(data["wallet_balance"]), self._currency)

    # --- buying ---

    async def buy(self, order: BuyOrder) -> Lease:
        country, service = self._words.wanted(order)
        params = self._params(
            _BUY_ACTIONS[self._options.server],
            service=service,
            country=country,
            max_price=plain(order.cost_max.micros),
        )
        return await self._http.buy(self._options.base_url, self._lease, params=params, seconds=order.timeout_seconds)

    def _lease(self, reply: Reply) -> Lease:
        answer = _answer(reply)
        if answer.word != "ACCESS_NUMBER":
            raise _purchase_error(answer)
        identity, _, phone = answer.rest.partition(":")
        return Lease(
            reference=reference(identity),
            number=digits(phone),
            cost=cost(answer.headers.get("x-price"), self._currency),
            expires_at=self._clock() + self._options.life_seconds,
        )

    # --- reading ---

    async def read(self, watched: Watched) -> Progress:
        return await self._progress("read", watched.reference)

    async def _progress(self, verb: str, lease: str) -> Progress:
        return await self._call(verb, "getStatus", self._progress_of, id=lease, text="1")

    def _progress_of(self, answer: Answer) -> Progress:
        """Raises Unwell: words that are no state tell nothing about the lease."""
        if answer.status >= 500:
            raise _call_error(answer)
        if answer.word == "WAITING" or answer.word.startswith("STATUS_WAIT"):
            return Progress(LeaseState.OPEN)
        if answer.word in self._options.cancelled_words:
            return Progress(LeaseState.CANCELLED)
        if answer.word == _NO_LEASE:
            return Progress(LeaseState.UNKNOWN)
        if answer.word in ("ACCESS_SMS", "STATUS_OK"):
            return Progress(LeaseState.OPEN, (_sms(answer),))
        raise _call_error(answer)

    # --- closing ---

    async def close(self, reference: str, outcome: Outcome) -> None:
        status = "6" if outcome is Outcome.FINISHED else "8"
        answer = await self._call("close", "setStatus", _as_it_is, id=reference, status=status)
        if answer.word in _DONE[outcome] and answer.status < 400:
            return
        if answer.word not in _WRONG_STATE or answer.status >= 500:
            raise _call_error(answer)
        _accept_state(await self._progress("close", reference), outcome)

    # --- pushes ---

    async def take_push(self, request: PushRequest) -> PushTaken:
        """The webhook proves nothing by itself, so it only says which lease to read now."""
        if not request.has_secret:
            raise PushRefused("the path carries no secret")
        if not _is_from(self._options.push_addresses, request.peer):
            raise PushRefused("not an address of this upstream")
        return PushTaken((Pushed(_rental(request.body)),))

    # --- the wire ---

    async def _call(self, verb: str, action: str, read: Callable[[Answer], T], **params: str) -> T:
        return await self._http.ask(
            verb, self._options.base_url, lambda reply: read(_answer(reply)), params=self._params(action, **params)
        )

    def _params(self, action: str, **params: str) -> dict[str, str]:
        return {"api_key": self._secret, "action": action, **params}


def _countries_sold(server: str, letters: Mapping[int, str]) -> dict[int, str]:
    """Of two of our countries with the same letters (12 and 187 are both US) the later is the physical one."""
    if server != "2":
        return {USA: HOME}
    return {number: word for word, number in {word: number for number, word in sorted(letters.items())}.items()}


# --- answers ---


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply, read: `WORD` or `WORD:rest`, split once. `word` is empty where the reply is something else."""

    status: int
    word: str
    rest: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)

    @property
    def quotable(self) -> str:
        """The word if it is safe to repeat in a message: no digits, so no number, key or code."""
        return self.word if _QUOTABLE.fullmatch(self.word) else f"status {self.status}"


def _answer(reply: Reply) -> Answer:
    token = _TOKEN.fullmatch(reply.text)
    word, rest = (token[1], token[2] or "") if token else ("", "")
    return Answer(reply.status, word, rest, reply.headers)


def _as_it_is(answer: Answer) -> Answer:
    return answer


def _purchase_error(answer: Answer) -> UpstreamError:
    """Why a purchase brought no number, and whether one may have been taken all the same."""
    if answer.status >= 500 or answer.status == 408 or answer.word in _BROKEN:
        return InDoubt(f"the upstream failed ({answer.quotable})")
    if answer.word in _SOLD_OUT:
        return SoldOut(answer.quotable)
    if answer.word in _FAULTS or answer.status in _FAULTY_STATUS:
        return Refused(answer.quotable, is_fault=True)
    if 300 <= answer.status < 500:  # HTTP says nothing was done; a page instead of a word says we are locked out
        return Refused(answer.quotable, is_fault=not answer.word)
    if answer.word.startswith(_REFUSING):
        return Refused(answer.quotable)
    return InDoubt("an answer that makes no sense")


def _call_error(answer: Answer) -> UpstreamError:
    """Why a harmless call brought nothing."""
    return Unwell(answer.quotable)


def _balance_of(answer: Answer) -> int:
    """Micro-units of `ACCESS_BALANCE:500.00`. Raises Refused, Unwell or Unreadable."""
    if answer.word == "ACCESS_BALANCE":
        return micros(answer.rest)
    if answer.word in _FAULTS:
        raise Refused(answer.quotable, is_fault=True)
    raise _call_error(answer)


def _api_error(status: int, code: object) -> UpstreamError:
    """Of the JSON API (§8): a code beside the status. Only a bad key can be told apart from "not now" by a balance."""
    said = str(code or "")
    quotable = said if _QUOTABLE.fullmatch(said) else f"status {status}"
    is_bad_key = said in _BAD_API_KEY or status == 401
    return Refused(quotable, is_fault=True) if is_bad_key else Unwell(quotable)


def _json_object(reply: Reply) -> Mapping[str, Any]:
    """An error status with a page instead of JSON is told by the status alone."""
    try:
        return mapping(reply.json())
    except Unreadable:
        if reply.status == 200:
            raise
        return {}


def _accept_state(state: Progress, outcome: Outcome) -> None:
    """Return where the lease has ended already; raise what stands in the way otherwise.

    With a message shown, a finish that is no longer possible has nothing left to do.
    """
    if state.state is LeaseState.UNKNOWN:
        raise UnknownLease(_NO_LEASE)
    if state.state is LeaseState.CANCELLED or (state.messages and outcome is Outcome.FINISHED):
        return
    if state.messages:
        raise HasSms
    raise NotAllowed("still waiting")


# --- messages ---


def _sms(answer: Answer) -> Sms:
    """The body is what tells messages apart: a header may be missing the next time. Raises Unreadable."""
    said, header = answer.rest.strip(), header_text(answer.headers.get("x-text", ""))
    if not said and not header:
        raise Unreadable("a message without a text")
    identity = hashlib.blake2b((said or header).encode(), digest_size=12).hexdigest()
    if answer.word == "STATUS_OK":  # what its ancestor sends: the code, and the text in the header only
        return Sms(said, header, identity=identity)
    text = header if len(_flat(header)) > len(_flat(said)) else said
    return Sms(_plain_code(text), text, identity=identity)


def _flat(text: str) -> str:
    return " ".join(text.split())


def _plain_code(text: str) -> str:
    """The digits where there is one run that can be a code; anything less plain is for the gateway to read."""
    runs = _DIGITS.findall(text)
    return runs[0] if len(runs) == 1 and 4 <= len(runs[0]) <= 8 else ""


def header_text(value: str) -> str:
    """A text that came in a header, where nothing says how it was put there.

    UTF-8 read as Latin-1 is set right; percent signs are decoded where there is no blank, which percent-encoding never
    leaves; `UTF-8''` before it is RFC 8187's.
    """
    text = value
    with suppress(UnicodeError):  # decoded already, or truly Latin-1
        text = value.encode("latin-1").decode("utf-8")
    text = text.removeprefix("UTF-8''").strip()
    if " " in text or not _ESCAPE.search(text):
        return text
    try:
        return storable(unquote_plus(text, errors="strict")).strip()
    except UnicodeDecodeError:
        return text


# --- the webhook ---


def _is_from(networks: tuple[Any, ...], peer: str) -> bool:
    if not networks:
        return True
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:
        return False
    plain_address = getattr(address, "ipv4_mapped", None) or address
    return any(plain_address in network for network in networks)


def _rental(body: bytes) -> str:
    try:
        return reference(mapping(load_json(body)).get("rental_id"))
    except Unreadable:
        pass
    raise PushUnreadable("no rental id in it")


# --- the price list ---


def _price_body(reply: Reply) -> bytes:
    """The list unread; what is no JSON is looked at for an error word."""
    if reply.status != 200 or not reply.body.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"{", b"[")):
        raise _call_error(_answer(reply))
    return reply.body


def parse_prices(body: bytes, sheet: Sheet) -> tuple[OfferTable, Counter[str]]:
    """The list in columns, and what was left out by unknown words, in numbers. Pure, for another process.

    Raises Unwell where the body is no price list.
    """
    unmapped: Counter[str] = Counter()
    try:
        rows = list(_rows(load_json(body), sheet, unmapped))
    except Unreadable:
        rows = None
    if rows is None or (not rows and unmapped["unreadable"]):
        raise Unwell("the price list is unreadable")
    return OfferTable(sheet.upstream, sheet.currency, rows), +unmapped


def _rows(data: Any, sheet: Sheet, unmapped: Counter[str]) -> Iterator[Row]:
    for service_word, by_country in mapping(data).items():
        for country_word, leaf in _by_country(by_country):
            price = _price(leaf)
            if price is None:  # one odd row must not hide the others
                unmapped["unreadable"] += 1
                continue
            service = sheet.services.get(service_word) or sheet.services.get(service_word.lower())
            country = sheet.countries.get(country_word)
            if service is None or country is None:
                unmapped[f"country {country_word}" if country is None else f"service {service_word}"] += price[1]
                continue
            yield service, country, price[0], price[1], "", None


def _by_country(value: Any) -> Iterator[tuple[str, Any]]:
    """`{"US": {"price": 50.00}}` in getPrices, `{"price": 50.00}` in getPricesVerification."""
    if isinstance(value, dict) and "price" not in value:
        yield from value.items()
    else:
        yield HOME, value


def _price(leaf: Any) -> tuple[int, int] | None:
    """Micro-units and count, or None where the leaf is unreadable."""
    if not isinstance(leaf, dict):
        return None
    count = leaf.get("count", UNKNOWN_COUNT)
    try:
        return micros(leaf.get("price")), count if isinstance(count, int) else UNKNOWN_COUNT
    except Unreadable:
        return None
