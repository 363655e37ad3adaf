"""SMSPVA (api.smspva.com), version 2 of its activation protocol. Facts: `protocol/upstreams/others.md` §5.

Its ways:

* every answer is `{"statusCode": …, "data": …}` or `{"statusCode": …, "error": …}`; the code is HTTP's as well, with
  meanings of its own: 406 no such order, 407 no funds, 410 the order is over, 411 low karma or too many requests,
  and, when a number is asked for, 501 and 502 none there;
* no cap on the price: the price is asked for right before the number, which may have become dearer in between, and
  whose reply names no price;
* numbers come without the country's prefix, the United Kingdom is `UK`;
* `sms/{id}` may be what an SMS is paid by, so whether the list of orders shows one that was never read is a setting;
* an order shows one SMS; `clearsms` makes room for another and starts its life anew;
* nothing has to finish an order, and one without an SMS is cancelled instead; what `stopsms` does is not described,
  so it is called only if the stanza says so;
* orders carry no time: when one was made is told from what is left of its life, by the server's clock;
* 4 to 5 s are asked for between queries: `poll_seconds = 5` or more in the stanza.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from typing import Annotated, Any, Literal, TypeVar, cast
from urllib.parse import quote

from cachetools import LRUCache
from pydantic import BaseModel, ConfigDict, Field

from adapters._http import ASK_SECONDS, BODY_BYTES, LIST_BYTES, LIST_SECONDS, Http, Reply
from adapters._smspva_words import SERVICES, country_words, iso_letters, plain
from adapters._values import Address, Codes, CodeTable, Unreadable, digits, load_json, mapping, micros, reference
from gateway.errors import HasSms, InDoubt, NotAllowed, Refused, SoldOut, UnknownLease, Unwell, UpstreamError
from gateway.model import BuyOrder, Found, Lease, LeaseState, Outcome, Progress, Sms, Watched
from gateway.money import Money
from gateway.upstream import Context, Names, Observe, OfferTable

T = TypeVar("T")

MADE_SLACK_SECONDS = 20.0
"""How far off an order's time may be that is told from what is left of its life."""

ASKED_AGAIN_MAX = 10_000

_DONE = 200
_WAITING = 202
_NO_SMS = 404
_NO_ORDER = 406
_NO_FUNDS = 407
_OVER = 410
_LIMITED = 411
_SOLD_OUT = frozenset({501, 502})
_FAULTS = frozenset({401, 403, 429, _NO_FUNDS, _LIMITED})
_UNTOLD = frozenset({408, 500, 503})
_TYPE = re.compile(r"[A-Z][A-Z_]{2,39}")


class Options(BaseModel):
    """`services` and `countries` map our codes to SMSPVA's words, over the tables and the names in its price list.

    `list_shows_sms` says that the list of orders shows an SMS that was never read singly. `life_seconds` is an order's
    whole life. `national_numbers` says that numbers come without the country's prefix. `open_statuses` are the words
    in the list for an order that is open; one in another state is read singly.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    base_url: Address = "https://api.smspva.com/activation"
    services: Annotated[Mapping[str, str], CodeTable] = {}
    countries: Annotated[Mapping[int, str], CodeTable] = {}
    finish: Literal["none", "stopsms"] = "none"
    list_shows_sms: bool = True
    life_seconds: Annotated[float, Field(gt=0)] = 600.0
    national_numbers: bool = True
    open_statuses: frozenset[str] = frozenset({"active", "open", "pending", "received", "waiting"})


def build(context: Context, options: Options) -> SmsPva:
    return SmsPva(context, options)


class SmsPva:
    """The upstream."""

    def __init__(self, context: Context, options: Options) -> None:
        self.name = context.name
        self.unmapped: Counter[str] = Counter()
        """Numbers in stock in the last price list under an unknown country or service."""
        self._names = context.names
        self._clock = context.clock
        self._currency = context.currency
        self._offload = context.offload
        self._options = options
        headers = {"apikey": context.secret, "accept": "application/json"}
        self._http = Http(context, headers)
        self._prices = Http(replace(context, observe=_as_price(context.observe)), headers)
        self._services = Codes.of(SERVICES, options.services)
        self._countries = Codes.of(country_words(context.names.country_iso2), options.countries)
        self._prefixes = _prefixes(context.names)
        self._asked_again: LRUCache[str, bool] = LRUCache(ASKED_AGAIN_MAX)
        """Leases that have had an SMS, though they show none while they wait for another."""

    # --- what it sells ---

    async def offers(self) -> OfferTable:
        """Prices and counts are two lists. Services without a word in the tables are learnt by their names."""
        prices = await self._ask("offers", "/servicesprices", _body, seconds=LIST_SECONDS, body_bytes=LIST_BYTES)
        counts = await self._ask("offers", "/countnumbers", _body, seconds=LIST_SECONDS, body_bytes=LIST_BYTES)
        sheet = Sheet(
            self.name,
            self._currency,
            self._services.incoming,
            self._countries.incoming,
            _codes_by_name(self._names.service_names, self._services.outgoing),
        )
        price_list = cast("PriceList", await self._offload(parse_prices, prices, counts, sheet))
        self.unmapped = price_list.unmapped
        self._services = Codes.of({**self._services.outgoing, **price_list.learnt}, self._options.services)
        return price_list.table

    async def balance(self) -> Money:
        return Money(await self._ask("balance", "/balance", _balance), self._currency)

    # --- buying ---

    async def buy(self, order: BuyOrder) -> Lease:
        country, service = self._countries.outgoing.get(order.country), self._services.outgoing.get(order.service)
        if country is None or service is None:
            raise Refused("no word for this service or country there")
        ends_at = time.monotonic() + order.timeout_seconds
        await self._require_price(country, service, order)
        words = (country, service, order.operator) if order.operator else (country, service)
        seconds = ends_at - time.monotonic()
        if seconds <= 0:
            raise Refused("the price took all the time there was", is_fault=True)
        return await self._http.buy(self._url("number", *words), self._lease(order.country), seconds=seconds)

    async def _require_price(self, country: str, service: str, order: BuyOrder) -> None:
        """Raises SoldOut above the order's cap; Refused or NotReached where the price is not told.

        Asked with a purchase's care, which tells what was not sent at all from what was lost. Nothing is taken by
        asking, so nothing is in doubt.
        """
        try:
            price = await self._prices.buy(
                self._url("serviceprice", country, service), _price(order.operator), seconds=order.timeout_seconds / 2
            )
        except InDoubt as error:
            untold = str(error)
        else:
            if price > order.cost_max.micros:
                raise SoldOut("dearer than the cap")
            return
        raise Refused(f"the price is not told ({untold})", is_fault=True)

    def _lease(self, country: int) -> Callable[[Reply], Lease]:
        prefix = self._names.country_prefix.get(country, "")

        def read(reply: Reply) -> Lease:
            data = _purchase_data(reply)
            number = self._number(data, prefix)
            left = _seconds(data.get("orderExpireIn"))
            expires_at = None if left is None else self._now(reply) + left
            return Lease(reference(data.get("orderId")), number, expires_at=expires_at)

        return read

    def _number(self, data: Mapping[str, Any], prefix: str) -> str:
        """The whole number. `countryCode` has been seen as ISO letters, and as the prefix itself."""
        given = str(data.get("countryCode") or "").lstrip("+")
        known = given if given.isascii() and given.isdigit() else prefix
        return digits(f"{known if self._options.national_numbers else ''}{data.get('phoneNumber')}")

    # --- reading ---

    async def read(self, watched: Watched) -> Progress:
        return await self._check("read", watched.reference, watched.round)

    async def _check(self, verb: str, lease: str, round_: int = 1) -> Progress:
        """How the order stands. Raises Unwell."""
        return await self._ask(verb, _path("sms", lease), lambda reply: _progress(reply, round_))

    async def read_many(self, watched: Sequence[Watched]) -> Mapping[str, Progress]:
        if not watched:
            return {}
        rows = {row.reference: row for row in (await self._orders("read_many"))[0]}
        found: dict[str, Progress] = {}
        for lease in watched:
            row = rows.get(lease.reference)
            if row is None or not self._is_open(row) or not (row.sms or self._options.list_shows_sms):
                continue
            found[lease.reference] = _open(row.sms, lease.round)
        return found

    async def find(self, since: float) -> Sequence[Found]:
        """Orders made at or after `since`, as far as what is left of their lives tells."""
        rows, now = await self._orders("find")
        found = [self._found(row, now) for row in rows]
        return [one for one in found if one.created_at is None or one.created_at >= since - MADE_SLACK_SECONDS]

    def _found(self, row: _Row, now: float) -> Found:
        """A service or country without a code of ours is given as it is, or as -1: the lease must not be hidden."""
        number = self._number(row.fields, self._prefixes.get(iso_letters(row.country), ""))
        ends_at = None if row.left is None else now + row.left
        return Found(
            Lease(row.reference, number, expires_at=ends_at),
            self._services.incoming.get(row.service, row.service),
            self._countries.incoming.get(row.country, -1),
            None if ends_at is None else ends_at - self._options.life_seconds,
        )

    def _is_open(self, row: _Row) -> bool:
        return row.status in ("", *self._options.open_statuses)

    async def _orders(self, verb: str) -> tuple[list[_Row], float]:
        """The current orders, and what time it is there."""
        return await self._ask(verb, "/orders", lambda reply: (_rows(reply), self._now(reply)), body_bytes=LIST_BYTES)

    def _now(self, reply: Reply) -> float:
        """The server's time where it tells: what is left of a life is counted by its clock."""
        try:
            return parsedate_to_datetime(reply.headers.get("date", "")).timestamp()
        except (ValueError, TypeError):
            return self._clock()

    # --- another SMS ---

    async def ask_again(self, reference: str) -> None:
        code = await self._put("ask_again", "clearsms", reference)
        if code == _DONE:
            self._asked_again[reference] = True
        if code in (_DONE, _NO_SMS):
            return
        progress = await self._check("ask_again", reference)
        if progress.state is LeaseState.UNKNOWN:
            raise UnknownLease("order not found")
        if progress.state is not LeaseState.OPEN:
            raise NotAllowed("the order is over")
        if progress.messages:
            raise Unwell(f"status {code}")

    # --- closing ---

    async def close(self, reference: str, outcome: Outcome) -> None:
        if outcome is Outcome.CANCELLED:
            await self._cancel(reference)
            return
        progress = await self._check("close", reference)
        if progress.state is LeaseState.UNKNOWN:
            raise UnknownLease("order not found")
        if progress.state is not LeaseState.OPEN:
            return
        if not progress.messages and reference not in self._asked_again:
            await self._cancel_unused(reference)
        elif self._options.finish == "stopsms":
            await self._stop(reference)

    async def _cancel_unused(self, lease: str) -> None:
        """A message that came between the two calls makes the next attempt to finish succeed."""
        try:
            await self._cancel(lease)
        except HasSms:
            raise Unwell("a message came while finishing") from None

    async def _stop(self, lease: str) -> None:
        code = await self._put("close", "stopsms", lease)
        if code not in (_DONE, _NO_ORDER, _OVER):
            raise Unwell(f"status {code}")

    async def _cancel(self, lease: str) -> None:
        """Whatever stands in the way, the order itself tells."""
        code = await self._put("close", "cancelorder", lease)
        if code == _DONE:
            return
        progress = await self._check("close", lease)
        if progress.messages:
            raise HasSms
        if progress.state is LeaseState.UNKNOWN:
            raise UnknownLease("order not found")
        if progress.state is LeaseState.OPEN:
            raise Unwell(f"not cancelled, status {code}")

    async def _put(self, verb: str, action: str, lease: str) -> int:
        """What an order's call was answered with. Raises Unwell where it was not the order's fault."""
        return await self._ask(verb, _path(action, lease), _order_code, method="PUT")

    async def aclose(self) -> None:
        await self._http.aclose()
        await self._prices.aclose()

    async def _ask(
        self,
        verb: str,
        path: str,
        read: Callable[[Reply], T],
        *,
        method: str = "GET",
        seconds: float = ASK_SECONDS,
        body_bytes: int = BODY_BYTES,
    ) -> T:
        url = self._options.base_url + path
        return await self._http.ask(verb, url, read, method=method, seconds=seconds, body_bytes=body_bytes)

    def _url(self, *parts: str) -> str:
        return self._options.base_url + _path(*parts)


def _path(*parts: str) -> str:
    return "".join(f"/{quote(part, safe='')}" for part in parts)


def _as_price(observe: Observe) -> Observe:
    """Reports what is asked before a purchase under a name of its own."""
    return lambda _verb, outcome, seconds: observe("price", outcome, seconds)


def _prefixes(names: Names) -> dict[str, str]:
    """ISO letters to dialling digits."""
    return {letters: names.country_prefix.get(number, "") for number, letters in names.country_iso2.items()}


# --- answers ---


@dataclass(frozen=True)
class _Answer:
    code: int
    data: Any = field(repr=False)
    kind: str = ""

    @property
    def said(self) -> str:
        return self.kind or f"status {self.code}"


def _answer(reply: Reply) -> _Answer:
    """Raises Unreadable where the body is no answer of theirs, whatever the status."""
    fields = mapping(reply.json())
    code = fields.get("statusCode")
    if not isinstance(code, int) or isinstance(code, bool):
        raise Unreadable("no status")
    error = fields.get("error")
    kind = str(error.get("type")) if isinstance(error, dict) else ""
    if error and code == _DONE:
        raise Unreadable("done and not done")
    return _Answer(code, fields.get("data"), kind if _TYPE.fullmatch(kind) else "")


def _told(reply: Reply) -> _Answer:
    """The answer to an ordinary call. Raises Unwell where it tells nothing of what was asked."""
    if reply.status in (401, 403, 429):
        raise Unwell(f"status {reply.status}")
    answer = _answer(reply)
    if answer.code in _FAULTS or answer.code >= 500:
        raise Unwell(answer.said)
    return answer


def _data(reply: Reply) -> Any:
    answer = _told(reply)
    if answer.code != _DONE:
        raise Unwell(answer.said)
    return answer.data


def _order_code(reply: Reply) -> int:
    """The code of a call about one order. 503 is also said where the order has no SMS, so it is handed on."""
    answer = _answer(reply) if reply.status == 503 else _told(reply)
    return answer.code


def _progress(reply: Reply, round_: int) -> Progress:
    answer = _told(reply)
    if answer.code == _DONE:
        return _open(_sms_of(mapping(answer.data)), round_)
    if answer.code == _WAITING:
        return Progress(LeaseState.OPEN)
    if answer.code == _NO_ORDER:
        return Progress(LeaseState.UNKNOWN)
    if answer.code == _OVER:
        return Progress(LeaseState.CANCELLED)
    raise Unwell(answer.said)


def _sms_of(fields: Mapping[str, Any]) -> tuple[str, str] | None:
    """Code and text, or None where there is no SMS."""
    sms = fields.get("sms")
    if not isinstance(sms, dict):
        return None
    code, text = (str(sms.get(name) or "").strip() for name in ("code", "fullText"))
    return (code, text) if code or text else None


def _open(sms: tuple[str, str] | None, round_: int) -> Progress:
    """An order shows one SMS, so what tells two equal ones apart is the round they came in."""
    if sms is None:
        return Progress(LeaseState.OPEN)
    code, text = sms
    digest = hashlib.blake2b(f"{code}\0{text}".encode(), digest_size=12).hexdigest()
    return Progress(LeaseState.OPEN, (Sms(code, text, identity=f"{round_}:{digest}"),))


def _purchase_data(reply: Reply) -> dict[str, Any]:
    """What a purchase handed over. Raises what the reply means otherwise."""
    if reply.status in (401, 403, 429):
        raise Refused(f"status {reply.status}", is_fault=True)
    try:
        answer = _answer(reply)
    except Unreadable:
        if 300 <= reply.status < 500 and reply.status != 408:
            raise Refused(f"status {reply.status}") from None
        raise
    if answer.code == _DONE:
        return mapping(answer.data)
    raise _purchase_error(answer)


def _purchase_error(answer: _Answer) -> UpstreamError:
    if answer.code in _SOLD_OUT:
        return SoldOut(answer.said)
    if answer.code in _UNTOLD or not 400 <= answer.code < 500:
        return InDoubt(answer.said)
    return Refused(answer.said, is_fault=answer.code in _FAULTS)


def _price(operator: str) -> Callable[[Reply], int]:
    """Reads the price of an operator's numbers, or else of any."""

    def read(reply: Reply) -> int:
        data = _purchase_data(reply)
        by_operator = data.get("priceByOperators")
        price = by_operator.get(operator) if operator and isinstance(by_operator, dict) else None
        return micros(data.get("price") if price is None else price)

    return read


def _balance(reply: Reply) -> int:
    code = reply.status if reply.status in (401, 403) else _answer(reply).code
    if code in (401, 403):
        raise Refused("the key is not accepted", is_fault=True)
    return micros(mapping(_data(reply)).get("balance"))


# --- the list of orders ---


@dataclass(frozen=True)
class _Row:
    reference: str
    service: str
    country: str
    status: str
    left: float | None
    sms: tuple[str, str] | None = field(repr=False)
    fields: Mapping[str, Any] = field(repr=False)


def _rows(reply: Reply) -> list[_Row]:
    """Unreadable rows are left out: their leases are then missing, and read singly."""
    data = mapping(_data(reply)).get("orders") or []
    if not isinstance(data, list):
        raise Unreadable("no list of orders")
    return list(_readable(data))


def _readable(data: list[Any]) -> Iterator[_Row]:
    for fields in data:
        try:
            digits(mapping(fields).get("phoneNumber"))
            yield _row(fields)
        except Unreadable:
            continue


def _row(fields: Mapping[str, Any]) -> _Row:
    return _Row(
        reference(fields.get("orderId")),
        str(fields.get("service") or ""),
        str(fields.get("country") or fields.get("countryCode") or ""),
        str(fields.get("status") or "").lower(),
        _seconds(fields.get("orderExpireIn")),
        _sms_of(fields),
        fields,
    )


def _seconds(value: object) -> float | None:
    text = str(value)
    return float(text) if text.isascii() and text.isdigit() and len(text) <= 9 else None


# --- the price list ---


@dataclass(frozen=True)
class Sheet:
    """How to read the lists: SMSPVA's words to our codes, and codes that have no word yet, by their plain names."""

    upstream: str
    currency: str
    services: Mapping[str, str]
    countries: Mapping[str, int]
    by_name: Mapping[str, str]


@dataclass(frozen=True)
class PriceList:
    """Offers, numbers in stock under each word without a code of ours, and words learnt by their names."""

    table: OfferTable
    unmapped: Counter[str]
    learnt: Mapping[str, str]


def _codes_by_name(names: Mapping[str, str], known: Mapping[str, str]) -> dict[str, str]:
    """Plain name to code, for codes without a word. A name that two of our services share is left out."""
    plain_names = Counter(plain(name) for name in names.values())
    return {plain(name): code for code, name in names.items() if code not in known and plain_names[plain(name)] == 1}


def _body(reply: Reply) -> bytes:
    """The body of a list, unread. Raises Unwell where it is none."""
    if reply.status != 200:
        raise Unwell(f"status {reply.status}")
    return reply.body


def parse_prices(prices: bytes, counts: bytes, sheet: Sheet) -> PriceList:
    """The two lists as one.

    Pure and importable by name: runs in another process. Raises Unwell where a body is no list.
    """
    price_rows, stock = _list_of(prices), _stock(_list_of(counts))
    learnt = dict(_learnt(price_rows, sheet))
    services = {**sheet.services, **{word: code for code, word in learnt.items()}}
    costs: dict[tuple[str, str], int] = {}
    unmapped: Counter[str] = Counter()
    for row in price_rows:
        key = str(row.get("service")), str(row.get("country"))
        count = stock.get(key, 0)
        if not count:
            continue
        if key[0] not in services or key[1] not in sheet.countries:
            unmapped[_unknown_word(row, sheet.countries)] += count
            continue
        try:
            costs[key] = min(micros(row.get("price")), costs.get(key, 1 << 62))
        except Unreadable:
            continue
    rows = (
        (services[service], sheet.countries[country], price, stock[service, country], "", None)
        for (service, country), price in costs.items()
    )
    return PriceList(OfferTable(sheet.upstream, sheet.currency, rows), unmapped, learnt)


def _list_of(body: bytes) -> list[Mapping[str, Any]]:
    try:
        fields = mapping(load_json(body))
        data = fields.get("data") if fields.get("statusCode") == _DONE else None
    except Unreadable:
        data = None
    if not isinstance(data, list):
        raise Unwell("the price list is unreadable")
    return [row for row in data if isinstance(row, dict)]


def _stock(rows: list[Mapping[str, Any]]) -> Counter[tuple[str, str]]:
    """Numbers of each service and country, all operators together: prices are not told by operator."""
    stock: Counter[tuple[str, str]] = Counter()
    for row in rows:
        services = row.get("services")
        for service in services if isinstance(services, list) else ():
            if isinstance(service, dict):
                stock[str(service.get("service")), str(row.get("country"))] += int(_seconds(service.get("total")) or 0)
    return stock


def _learnt(rows: list[Mapping[str, Any]], sheet: Sheet) -> Iterator[tuple[str, str]]:
    """Code and word of each service that has a name of ours and no word yet; of two such words the first."""
    seen: set[str] = set()
    for row in rows:
        word, code = str(row.get("service")), sheet.by_name.get(plain(str(row.get("serviceDescription") or "")))
        if code is not None and code not in seen and word not in sheet.services:
            seen.add(code)
            yield code, word


def _unknown_word(row: Mapping[str, Any], countries: Mapping[str, int]) -> str:
    if str(row.get("country")) not in countries:
        return f"country {str(row.get('country'))[:40]}"
    return f"service {str(row.get('service'))[:40]} ({str(row.get('serviceDescription') or '?')[:40]})"
