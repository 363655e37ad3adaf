"""5sim.net, its own protocol ("5sim protocol" key). Facts: `protocol/upstreams/fivesim.md`.

Its ways:

* every call is a GET, purchases too; the key is a bearer token; errors are bare lower-case sentences;
* `no free phones` comes with status 200; a word that can't be routed answers 302, which is not followed;
* `maxPrice` is honoured only with the operator `any`, so that is what is bought unless the order names an operator;
  with a named one the real price is in the lease, and the gateway compares;
* PENDING and RECEIVED say nothing about messages: `sms[]` does, and further messages simply append to it;
* a repeated end of an order answers `order not found` or `order expired`: `/user/check` then tells the truth;
* an order without a message can't be finished, so it is cancelled instead: time-outs cost rating (§10).
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from adapters._http import Http, Reply, path
from adapters._prices import Listed, Sheet, tabulate
from adapters._seller import Seller
from adapters._values import (
    Address,
    Digits,
    Reference,
    Unreadable,
    cost,
    load_json,
    mapping,
    micros,
    moment,
    readable,
)
from adapters._words import WordOptions, Words, one_usa
from gateway.errors import HasSms, InDoubt, NotAllowed, Refused, SoldOut, TooEarly, UnknownLease, Unwell, UpstreamError
from gateway.fivesim_words import COUNTRIES, PRODUCTS
from gateway.model import BuyOrder, Found, Lease, LeaseState, Outcome, Progress, Sms, Watched
from gateway.money import Money, plain
from gateway.upstream import Context, OfferTable

PAGE = 100
PAGES_MAX = 50
WAIT_SECONDS = 5.0
"""After `you need to wait time`, which does not say how long; §9 advises steps of 5 to 10 s."""

ORDERS_BYTES = 8 << 20

_OPEN = frozenset({"PENDING", "RECEIVED"})
_STATES = {
    "PENDING": LeaseState.OPEN,
    "RECEIVED": LeaseState.OPEN,
    "FINISHED": LeaseState.FINISHED,
    "CANCELED": LeaseState.CANCELLED,
    "BANNED": LeaseState.CANCELLED,
    "TIMEOUT": LeaseState.CANCELLED,
}
_FAULTS = frozenset({"not enough user balance", "not enough rating", "unauthorized", "token expired", "token invalid"})
_ENDED = frozenset({"order not found", "order expired"})
_LIMIT = re.compile(r"(api|ip address) limit is \d+ requests per second")
_SENTENCE = re.compile(r"[a-z]+([ _][a-z]+){1,9}")
"""Two words at least: `null` and the like are JSON."""


class Options(WordOptions):
    """`services` and `countries` map our codes to 5sim's words, over the tables below."""

    base_url: Address = "https://5sim.net/v1"


def build(context: Context, options: Options) -> FiveSim:
    return FiveSim(context, options)


class FiveSim(Seller):
    """The upstream. It needs no "another SMS" call, so it is no AsksAgain."""

    def __init__(self, context: Context, options: Options) -> None:
        headers = {"authorization": f"Bearer {context.secret}", "accept": "application/json"}
        super().__init__(context, Http(context, headers, base_url=options.base_url))
        self._words = Words.of(PRODUCTS, _country_slugs(context.names.country_iso2), options)

    # --- what it sells ---

    async def offers(self) -> OfferTable:
        body = await self._http.ask_list("offers", "/guest/prices", _price_body)
        return await self._table(parse_prices, body, words=self._words)

    async def balance(self) -> Money:
        """Net of what open orders hold, as the upstream reports it."""
        return Money(await self._http.ask("balance", "/user/profile", _balance), self._currency)

    # --- buying ---

    async def buy(self, order: BuyOrder) -> Lease:
        country, product = self._words.wanted(order)
        operator = order.operator or "any"
        return await self._http.buy(
            path("user", "buy", "activation", country, operator, product),
            self._lease,
            params={"maxPrice": plain(order.cost_max.micros)} if operator == "any" else None,
            seconds=order.timeout_seconds,
        )

    def _lease(self, reply: Reply) -> Lease:
        text = reply.text
        if reply.status == 200 and text.startswith("{"):
            return _order(reply.json()).lease(self._currency)
        raise _purchase_error(reply.status, text)

    # --- reading ---

    async def read(self, watched: Watched) -> Progress:
        order = await self._check("read", watched.reference)
        return Progress(LeaseState.UNKNOWN) if order is None else order.progress()

    async def _check(self, verb: str, lease: str) -> _Order | None:
        """The order, or None where there is none. Raises Unwell."""
        return await self._http.ask(verb, path("user", "check", lease), _checked)

    async def read_many(self, watched: Sequence[Watched]) -> Mapping[str, Progress]:
        """Pages of the newest orders, down to the oldest that is watched."""
        wanted = {lease.reference for lease in watched}
        oldest = min((int(lease) for lease in wanted if lease.isdigit()), default=0)
        found: dict[str, Progress] = {}
        if not wanted:
            return found
        async with aclosing(self._pages("read_many")) as pages:
            async for page in pages:
                found |= {order.id: order.progress() for order in page if order.id in wanted and order.is_known}
                if len(found) == len(wanted) or any(int(order.id) < oldest for order in page):
                    break
        return found

    async def find(self, since: float) -> Sequence[Found]:
        """Open orders created at or after `since`; the list is newest first."""
        found: list[Found] = []
        async with aclosing(self._pages("find")) as pages:
            async for page in pages:
                found += [self._found(order) for order in page if order.is_open and not order.is_before(since)]
                if any(order.is_before(since) for order in page):
                    break
        return found

    def _found(self, order: _Order) -> Found:
        return Found(
            lease=order.lease(self._currency),
            service=self._words.service(order.product),
            country=self._words.country(order.country),
            created_at=moment(order.created_at),
        )

    async def _pages(self, verb: str) -> AsyncGenerator[list[_Order], None]:
        for page in range(PAGES_MAX):
            params = {"category": "activation", "limit": str(PAGE), "offset": str(page * PAGE)}
            params |= {"order": "id", "reverse": "true"}
            orders, count = await self._http.ask(verb, "/user/orders", _orders, params=params, body_bytes=ORDERS_BYTES)
            if verb == "find" and len(orders) < count:
                raise Unwell("an order in the list is unreadable")
            yield orders
            if count < PAGE:
                return

    # --- closing ---

    async def close(self, reference: str, outcome: Outcome) -> None:
        if outcome is Outcome.CANCELLED:
            return await self._cancel(reference)
        said = await self._end("finish", reference)
        if said == "order no sms":
            return await self._cancel_instead(reference)
        return await self._settle(said, reference, outcome)

    async def _cancel(self, lease: str) -> None:
        await self._settle(await self._end("cancel", lease), lease, Outcome.CANCELLED)

    async def _cancel_instead(self, lease: str) -> None:
        """A message that came between the two calls makes the next attempt to finish succeed."""
        try:
            await self._cancel(lease)
        except HasSms:
            raise Unwell("a message came while finishing") from None

    async def _end(self, action: str, lease: str) -> str:
        """What was said to `finish` or `cancel`: empty where it was done."""
        return await self._http.ask("close", path("user", action, lease), _said)

    async def _settle(self, said: str, lease: str, outcome: Outcome) -> None:
        """Return where the order has ended as wished, raise why not otherwise."""
        if not said:
            return None
        if said in _ENDED:
            return _accept_end(await self._check("close", lease), outcome)
        raise _close_error(said)


def _country_slugs(iso2: Mapping[int, str]) -> dict[int, str]:
    """5sim sells one kind of United States (handler_api.md §14.1)."""
    return {number: COUNTRIES[letters] for number, letters in one_usa(iso2).items() if letters in COUNTRIES}


# --- orders ---


class _Sms(BaseModel):
    """One message of an order. `code` is empty where 5sim recognised none."""

    model_config = ConfigDict(frozen=True, extra="ignore", coerce_numbers_to_str=True)

    id: str | None = None
    created_at: str = ""
    sender: str | None = None
    text: str | None = None
    code: str | None = None

    def sms(self) -> Sms:
        return Sms(self.code or "", self.text or "", self.sender or "", moment(self.created_at), self._identity())

    def _identity(self) -> str:
        """Creation time and code: both are in every answer, while `id` is in some only."""
        text = hashlib.blake2b((self.text or "").encode(), digest_size=8).hexdigest()
        return f"{self.created_at or self.id or ''}:{self.code or text}"


def _as_list(value: object) -> object:
    return value or []


class _Order(BaseModel):
    """An order as `buy`, `check` and the list give it (§4)."""

    model_config = ConfigDict(frozen=True, extra="ignore", coerce_numbers_to_str=True)

    id: Annotated[Reference, Field(pattern=r"^\d+$")]
    phone: Digits
    status: str = ""
    product: str = ""
    operator: str = ""
    country: str = ""
    price: str | None = None
    created_at: str = ""
    expires: str = ""
    sms: Annotated[tuple[_Sms, ...], BeforeValidator(_as_list)] = ()

    @property
    def is_known(self) -> bool:
        return self.status in _STATES

    @property
    def is_open(self) -> bool:
        return self.status in _OPEN

    def is_before(self, since: float) -> bool:
        created = moment(self.created_at)
        return created is not None and created < since

    def lease(self, currency: str) -> Lease:
        return Lease(self.id, self.phone, cost(self.price, currency), self.operator, moment(self.expires))

    def progress(self) -> Progress:
        """Raises Unreadable where the state is a word never seen."""
        if not self.is_known:
            raise Unreadable("an unknown state")
        messages = {sms.identity: sms for sms in (message.sms() for message in self.sms)}
        return Progress(_STATES[self.status], tuple(messages.values()))


def _order(data: Any) -> _Order:
    try:
        return _Order.model_validate(data)
    except ValidationError:
        pass
    raise Unreadable("not an order")


def _orders(reply: Reply) -> tuple[list[_Order], int]:
    """Readable orders of one page, and how many there were in all."""
    if reply.status != 200:
        raise _call_error(reply)
    raw = mapping(reply.json()).get("Data") or []
    if not isinstance(raw, list):
        raise Unreadable("no list of orders")
    return list(readable(raw, _order)), len(raw)


# --- answers ---


def _sentence(text: str) -> str:
    """The bare error sentence, or empty where the body is none: a page, JSON, nothing."""
    text = text.lower()
    return text if _SENTENCE.fullmatch(text) or _LIMIT.fullmatch(text) else ""


def _purchase_error(status: int, text: str) -> UpstreamError:
    said = _sentence(text)
    if _LIMIT.fullmatch(said) or status == 429:
        return Refused("too many requests", is_fault=True)  # 503 for an address, 429 for a key (§10)
    if status >= 500 or status == 408 or said == "internal error" or (status < 300 and not said):
        return InDoubt(f"status {status}, {said or 'an answer that makes no sense'}")
    if said == "no free phones":
        return SoldOut("no free phones")
    return Refused(_quotable(said, status), is_fault=status in (401, 403) or said in _FAULTS)


def _quotable(said: str, status: int) -> str:
    """Sentences hold letters only, so no number or code can be in one."""
    return said if _SENTENCE.fullmatch(said) else f"status {status}"


def _call_error(reply: Reply) -> Unwell:
    return Unwell(_quotable(_sentence(reply.text), reply.status))


def _checked(reply: Reply) -> _Order | None:
    if reply.status == 200:
        order = _order(reply.json())
        if order.is_known:
            return order
        raise Unwell("an unknown state")
    if _sentence(reply.text) == "order not found":
        return None
    raise _call_error(reply)


def _said(reply: Reply) -> str:
    """Empty where the answer is the order that ended, or the sentence of a 400 or 404. Raises Unwell otherwise."""
    if reply.status == 200:
        _order(reply.json())
        return ""
    said = _sentence(reply.text)
    if reply.status in (400, 404) and said:
        return said
    raise _call_error(reply)


def _close_error(said: str) -> UpstreamError:
    match said:
        case "you need to wait time":
            return TooEarly(WAIT_SECONDS)
        case "order has sms":
            return HasSms()
        case "hosting order":
            return NotAllowed(said)
    return Unwell(said)


def _accept_end(order: _Order | None, outcome: Outcome) -> None:
    """Return where the order has ended, raise what its state says against it otherwise."""
    if order is None:
        raise UnknownLease("order not found")
    if order.is_open:
        raise Unwell("the order is open all the same")
    if outcome is Outcome.CANCELLED and order.status == "FINISHED":
        raise HasSms if order.sms else NotAllowed("finished")


def _balance(reply: Reply) -> int:
    if reply.status in (401, 403):
        raise Refused("the key is not accepted", is_fault=True)
    if reply.status != 200:
        raise _call_error(reply)
    return micros(mapping(reply.json()).get("balance"))


# --- the price list ---


def _price_body(reply: Reply) -> bytes:
    if reply.status != 200 or not reply.body.lstrip()[:1] == b"{":
        raise _call_error(reply)
    return reply.body


def parse_prices(body: bytes, sheet: Sheet) -> tuple[OfferTable, Counter[str]]:
    """The price list in columns, one row for each operator, and how many numbers of each unknown word are in stock.

    Pure and importable by name: runs in another process. Raises Unwell where the body is no price list.
    """
    return tabulate(_listed(body, sheet), sheet)


def _listed(body: bytes, sheet: Sheet) -> Iterator[Listed]:
    """A leaf is `{"cost": 0.21, "count": 321, "rate": 87.5}`; further `rate…` columns of newer answers are ignored."""
    for country, product, operators in _cells(mapping(load_json(body)), sheet):
        for operator, leaf in operators.items():
            fields = leaf if isinstance(leaf, dict) else {}
            yield Listed(country, product, fields.get("cost"), fields.get("count"), operator, fields.get("rate"))


def _cells(data: Mapping[str, Any], sheet: Sheet) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(country, product, operators): the whole list is nested by country first, a product's own by product (§3)."""
    for outer, inner in data.items():
        by_product = outer in sheet.services and outer not in sheet.countries
        for word, cell in mapping(inner or []).items():
            operators = mapping(cell or [])  # `null`: the country does not sell it
            yield (word, outer, operators) if by_product else (outer, word, operators)
