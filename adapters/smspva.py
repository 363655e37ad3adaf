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
* nothing has to finish an order; what `stopsms` does is not described, so it is called only if the stanza says so. One
  that is finished has had an SMS, whatever it shows since another was asked for, and is never cancelled;
* orders carry no time: when one was made is told from what is left of its life, by the server's clock;
* 4 to 5 s are asked for between queries: `poll_seconds = 5` or more in the stanza.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Annotated, Any, Literal, cast

from pydantic import Field

from adapters._closing import accept_cancelled
from adapters._http import LIST_BYTES, Http, Reply, list_body, path
from adapters._price_first import Countdown, require_price
from adapters._rounds import lone_sms
from adapters._seller import Seller
from adapters._smspva_prices import PriceList, Sheet, codes_by_name, parse_prices
from adapters._smspva_words import SERVICES, country_words, iso_letters
from adapters._values import (
    Address,
    Codes,
    Unreadable,
    all_readable,
    digits,
    mapping,
    micros,
    readable,
    reference,
    whole,
)
from adapters._words import WordOptions, Words, told_words
from gateway.errors import InDoubt, NotAllowed, Refused, SoldOut, UnknownLease, Unwell, UpstreamError
from gateway.model import BuyOrder, Found, Lease, LeaseState, Outcome, Progress, Watched
from gateway.money import Money
from gateway.upstream import Context, Names, OfferTable

MADE_SLACK_SECONDS = 20.0
"""How far off an order's time may be that is told from what is left of its life."""

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


class Options(WordOptions):
    """`services` and `countries` map our codes to SMSPVA's words, over the tables and the names in its price list.

    `list_shows_sms` says that the list of orders shows an SMS that was never read singly. `life_seconds` is an order's
    whole life. `national_numbers` says that numbers come without the country's prefix. `open_statuses` are the words
    in the list for an order that is open; one in another state is read singly.
    """

    base_url: Address = "https://api.smspva.com/activation"
    finish: Literal["none", "stopsms"] = "none"
    list_shows_sms: bool = True
    life_seconds: Annotated[float, Field(gt=0)] = 600.0
    national_numbers: bool = True
    open_statuses: frozenset[str] = frozenset({"active", "open", "pending", "received", "waiting"})


def build(context: Context, options: Options) -> SmsPva:
    return SmsPva(context, options)


class SmsPva(Seller):
    """The upstream."""

    def __init__(self, context: Context, options: Options) -> None:
        headers = {"apikey": context.secret, "accept": "application/json"}
        super().__init__(context, Http(context, headers, base_url=options.base_url))
        self._names = context.names
        self._options = options
        self._words = Words.of(SERVICES, country_words(context.names.country_iso2), options)
        self._prefixes = _prefixes(context.names)

    # --- what it sells ---

    async def offers(self) -> OfferTable:
        """Prices and counts are two lists. Services without a word in the tables are learnt by their names."""
        prices = await self._http.ask_list("offers", "/servicesprices", list_body)
        counts = await self._http.ask_list("offers", "/countnumbers", list_body)
        known = self._words.services
        sheet = Sheet(
            self.name,
            self._currency,
            known.incoming,
            self._words.countries.incoming,
            by_name=codes_by_name(self._names.service_names, known.outgoing),
        )
        price_list = cast("PriceList", await self._offload(parse_prices, prices, counts, sheet))
        self.unmapped = price_list.unmapped
        services = Codes.of({**known.outgoing, **price_list.learnt}, self._options.services)
        self._words = Words(services, self._words.countries)
        return price_list.table

    def knowledge(self) -> Mapping[str, Any]:
        return {"services": self._words.services.outgoing}

    def learn(self, knowledge: Mapping[str, Any]) -> None:
        known, told = self._words.services, told_words(knowledge, "services")
        learnt = {code: word for code, word in told.items() if not (code in known.outgoing or word in known.incoming)}
        services = Codes.of({**known.outgoing, **learnt}, self._options.services)
        self._words = Words(services, self._words.countries)

    async def balance(self) -> Money:
        return Money(await self._http.ask("balance", "/balance", _balance), self._currency)

    # --- buying ---

    async def buy(self, order: BuyOrder) -> Lease:
        country, service = self._words.wanted(order)
        left = Countdown(order.timeout_seconds)
        question = self._http.buy(
            path("serviceprice", country, service),
            _price(order.operator),
            seconds=left.left_seconds() / 2,
            verb="price",
        )
        await require_price(question, order)
        words = (country, service, order.operator) if order.operator else (country, service)
        return await self._http.buy(path("number", *words), self._lease(order.country), seconds=left.left_seconds())

    def _lease(self, country: int) -> Callable[[Reply], Lease]:
        prefix = self._names.country_prefix.get(country, "")

        def read(reply: Reply) -> Lease:
            data = _purchase_data(reply)
            number = self._number(data, prefix)
            left = whole(data.get("orderExpireIn"))
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
        return await self._http.ask(verb, path("sms", lease), lambda reply: _progress(reply, round_))

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
        number = self._number(row.fields, self._prefixes.get(iso_letters(row.country), ""))
        ends_at = None if row.left is None else now + row.left
        return Found(
            Lease(row.reference, number, expires_at=ends_at),
            self._words.service(row.service),
            self._words.country(row.country),
            None if ends_at is None else ends_at - self._options.life_seconds,
        )

    def _is_open(self, row: _Row) -> bool:
        return row.status in ("", *self._options.open_statuses)

    async def _orders(self, verb: str) -> tuple[list[_Row], float]:
        """The current orders, and what time it is there."""
        return await self._http.ask(
            verb,
            "/orders",
            lambda reply: (_rows(reply, is_strict=verb == "find"), self._now(reply)),
            body_bytes=LIST_BYTES,
        )

    def _now(self, reply: Reply) -> float:
        """The server's time where it tells: what is left of a life is counted by its clock."""
        try:
            return parsedate_to_datetime(reply.headers.get("date", "")).timestamp()
        except (ValueError, TypeError):
            return self._clock()

    # --- another SMS ---

    async def ask_again(self, reference: str) -> None:
        code = await self._put("ask_again", "clearsms", reference)
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
        if progress.state is LeaseState.OPEN and self._options.finish == "stopsms":
            await self._stop(reference)

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
        accept_cancelled(progress.state, bool(progress.messages), f"not cancelled, status {code}")

    async def _put(self, verb: str, action: str, lease: str) -> int:
        """What an order's call was answered with. Raises Unwell where it was not the order's fault."""
        return await self._http.ask(verb, path(action, lease), _order_code, method="PUT")


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
    return Progress(LeaseState.OPEN, () if sms is None else (lone_sms(*sms, round_),))


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


def _rows(reply: Reply, *, is_strict: bool) -> list[_Row]:
    """Every row, or (not strict) those that can be read."""
    data = mapping(_data(reply)).get("orders") or []
    if not isinstance(data, list):
        raise Unreadable("no list of orders")
    return all_readable(data, _row) if is_strict else list(readable(data, _row))


def _row(data: Any) -> _Row:
    fields = mapping(data)
    digits(fields.get("phoneNumber"))
    return _Row(
        reference(fields.get("orderId")),
        str(fields.get("service") or ""),
        str(fields.get("country") or fields.get("countryCode") or ""),
        str(fields.get("status") or "").lower(),
        whole(fields.get("orderExpireIn")),
        _sms_of(fields),
        fields,
    )
