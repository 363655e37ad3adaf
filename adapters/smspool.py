"""SMSPool (api.smspool.net), its own protocol. Facts: `protocol/upstreams/others.md` §1.

Its ways:

* forms are posted, the key is a bearer token; a refusal is `{"success": 0}` with status 200 (older) or 4xx (newer) and
  a reason in `type`, or else only in words, which may hold HTML;
* services and countries are numeric ids of its public lists, found by name and by ISO letters; until the lists have
  been read, the names themselves are sent, which it takes as well;
* one SMS an order. Another one is asked for with `/sms/resend`, which may cost money and may answer with another order
  id: the lease then goes on under that id, until this process ends;
* statuses 1, 3, 5 and 6 are documented; what 2, 4, 7 and 8 mean is a setting. An order that waits shows no message, as
  it may be the one of the time before;
* the list of open orders has everything, with a time stamp in an unnamed zone;
* a cancel is refused for about two minutes after the purchase (130 s were seen), without saying for how long;
* nothing finishes an order. One without an SMS is cancelled instead.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar, cast

from cachetools import LRUCache
from pydantic import BaseModel, ConfigDict, Field, model_validator

from adapters._http import ASK_SECONDS, BODY_BYTES, LIST_BYTES, LIST_SECONDS, Body, Http, Reply
from adapters._smspool_words import codes_by_name, country_words, plain, service_words
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
    moment,
    reference,
)
from gateway.errors import HasSms, InDoubt, NotAllowed, Refused, SoldOut, TooEarly, UnknownLease, Unwell, UpstreamError
from gateway.model import BuyOrder, Found, Lease, LeaseState, Outcome, Progress, Sms, Watched
from gateway.money import Money
from gateway.money import plain as plain_amount
from gateway.upstream import Context, OfferTable

T = TypeVar("T")

CANCEL_STEP_SECONDS = 15.0
"""After a cancel that came too early: SMSPool does not say for how long."""

LISTS_SECONDS = 6 * 3600.0
RESENT_MAX = 10_000
STAMP_SLACK_SECONDS = 300.0
HOUR_SECONDS = 3600

_RECEIVED = 3
_ROW_STATES = {
    "pending": LeaseState.OPEN,
    "completed": LeaseState.OPEN,
    "expired": LeaseState.CANCELLED,
    "cancelled": LeaseState.CANCELLED,
    "refunded": LeaseState.CANCELLED,
}
_NO_CODE = ("", "0")

_TYPES = {"OUT_OF_STOCK": "sold out", "PRICE_NOT_FOUND": "sold out", "BALANCE_ERROR": "no funds"}
_WORDS = (
    ("bad key", re.compile(r"\bapi key\b")),
    ("too many requests", re.compile(r"too many|rate limit")),
    ("no funds", re.compile(r"(insufficient|not enough) (balance|funds)")),
    ("barred", re.compile(r"account.*(banned|suspended|blocked|disabled|restricted)")),
    ("sold out", re.compile(r"out of stock|available phone ?number|suitable pool")),
    ("unknown order", re.compile(r"find this order|order (could not be|was not|not) found")),
    ("too early", re.compile(r"cancelled yet")),
    ("later", re.compile(r"at the moment|try again later")),
)
_FAULTS = frozenset({"bad key", "too many requests", "no funds", "barred"})
_TAG = re.compile(r"<[^>]*>")
_TYPE = re.compile(r"[A-Z][A-Z_]{2,39}")


class Options(BaseModel):
    """`services` and `countries` map our codes to SMSPool's numeric ids, over what is found by name.

    `pool` buys from that pool only. `resend` says whether another SMS may be asked for: free of charge, or at a price
    too, which nobody is charged for. `price_list = "pricing"` takes the list without stock, in which each row counts
    as one number. `utc_offset_minutes` is the zone of time stamps; without it the list's own clock tells the hours.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    base_url: Address = "https://api.smspool.net"
    services: Annotated[Mapping[str, str], CodeTable] = {}
    countries: Annotated[Mapping[int, str], CodeTable] = {}
    pool: Annotated[str, Field(pattern=r"^\d*$")] = ""
    prefer: Literal["cheapest", "best_rate"] = "cheapest"
    resend: Literal["free_only", "paid", "never"] = "free_only"
    price_list: Literal["all_stock", "pricing"] = "all_stock"
    open_statuses: frozenset[int] = frozenset({1, 4, 7, 8})
    ended_statuses: frozenset[int] = frozenset({2, 5, 6})
    utc_offset_minutes: int | None = None

    @model_validator(mode="after")
    def _statuses_apart(self) -> Options:
        if self.open_statuses & self.ended_statuses or _RECEIVED in self.open_statuses | self.ended_statuses:
            raise ValueError(f"a status is either open or ended, and {_RECEIVED} is neither")
        return self


def build(context: Context, options: Options) -> SmsPool:
    return SmsPool(context, options)


class SmsPool:
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
        headers = {"authorization": f"Bearer {context.secret}", "accept": "application/json"}
        self._http = Http(context, headers)
        self._lists = _lists_unread(context, options)
        self._resent: LRUCache[str, str] = LRUCache(RESENT_MAX)
        """Leases that another SMS was asked for, and the order id they go on under."""

    # --- what it sells ---

    async def offers(self) -> OfferTable:
        lists = await self._fresh_lists("offers")
        path = "/sms/all_stock" if self._options.price_list == "all_stock" else "/request/pricing"
        fields = {"pool": self._options.pool} if self._options.pool else {}
        body = await self._ask("offers", path, _list_body, fields, seconds=LIST_SECONDS, body_bytes=LIST_BYTES)
        sheet = Sheet(self.name, self._currency, lists.services.incoming, lists.countries.incoming, self._options.pool)
        table, self.unmapped = cast("tuple[OfferTable, Counter[str]]", await self._offload(parse_prices, body, sheet))
        return table

    async def _fresh_lists(self, verb: str) -> _Lists:
        """The lists of services and countries, read again every few hours. Raises Unwell."""
        read_at = self._lists.read_at
        if read_at is None or self._clock() - read_at >= LISTS_SECONDS:
            services = await self._http.ask(verb, self._options.base_url + "/service/retrieve_all", _named_ids)
            countries = await self._http.ask(verb, self._options.base_url + "/country/retrieve_all", _short_ids)
            self._lists = _lists_read(services, countries, self._names, self._options, self._clock())
        return self._lists

    async def balance(self) -> Money:
        return Money(await self._ask("balance", "/request/balance", _balance), self._currency)

    # --- buying ---

    async def buy(self, order: BuyOrder) -> Lease:
        service = self._lists.services.outgoing.get(order.service)
        country = self._lists.countries.outgoing.get(order.country)
        if service is None or country is None:
            raise Refused("no word for this service or country there")
        fields = {
            "country": country,
            "service": service,
            "max_price": plain_amount(order.cost_max.micros),
            "pricing_option": "1" if self._options.prefer == "best_rate" else "0",
            "quantity": "1",
        }
        pool = order.operator or self._options.pool
        return await self._http.buy(
            self._options.base_url + "/purchase/sms",
            self._lease,
            method="POST",
            body=Body.form({**fields, "pool": pool} if pool else fields),
            seconds=order.timeout_seconds,
        )

    def _lease(self, reply: Reply) -> Lease:
        answer = _purchase_answer(reply)
        data = answer.data
        return Lease(
            reference(data.get("order_id")),
            digits(data.get("number")),
            cost(data.get("cost"), self._currency),
            str(data.get("pool") or ""),
            self._expiry(data),
        )

    def _expiry(self, data: Mapping[str, Any]) -> float | None:
        left = _whole(data.get("expires_in"))
        return moment(data.get("expiration")) or (None if left is None else self._clock() + left)

    # --- reading ---

    async def read(self, watched: Watched) -> Progress:
        seen = await self._check("read", watched.reference)
        return seen.progress(watched.round)

    async def _check(self, verb: str, lease: str) -> _Seen:
        """How the lease stands. Raises Unwell."""
        return await self._ask(verb, "/sms/check", self._seen, {"orderid": self._resent.get(lease, lease)})

    def _seen(self, reply: Reply) -> _Seen:
        answer = _answer(reply)
        status = _whole(answer.data.get("status"))
        if status is None:
            if answer.reason == "unknown order":
                return _Seen(LeaseState.UNKNOWN)
            raise Unwell(answer.said)
        code, text = _text(answer.data.get("sms")), _text(answer.data.get("full_sms"))
        if status in self._options.open_statuses:
            return _Seen(LeaseState.OPEN, was_used=bool(code or text))
        if status == _RECEIVED:
            return _Seen(LeaseState.OPEN, code, text)
        if status in self._options.ended_statuses:
            return _Seen(LeaseState.CANCELLED, code, text)
        raise Unwell("an unknown state")

    async def read_many(self, watched: Sequence[Watched]) -> Mapping[str, Progress]:
        """One list of open orders; a row in a state without a name of ours is left to be read singly."""
        if not watched:
            return {}
        rows = {row.reference: row for row in await self._active("read_many")}
        found: dict[str, Progress] = {}
        for lease in watched:
            row = rows.get(self._resent.get(lease.reference, lease.reference))
            if row is not None and row.seen is not None:
                found[lease.reference] = row.seen.progress(lease.round)
        return found

    async def find(self, since: float) -> Sequence[Found]:
        """Open orders made in the second of `since` or later, and those that do not tell."""
        lists = await self._fresh_lists("find")
        origins = {current: lease for lease, current in self._resent.items()}
        found = []
        for row in await self._active("find"):
            made_at = _made_at(row, self._options.utc_offset_minutes, self._clock)
            if row.is_over or (made_at is not None and made_at < math.floor(since)):
                continue
            lease = Lease(
                origins.get(row.reference, row.reference),
                row.number,
                cost(row.cost, self._currency),
                expires_at=moment(row.expiry),
            )
            found.append(Found(lease, lists.service_of(row.service), lists.country_of(row.country), made_at))
        return found

    async def _active(self, verb: str) -> list[_Row]:
        return await self._ask(verb, "/request/active", _rows, body_bytes=LIST_BYTES)

    # --- another SMS ---

    async def ask_again(self, reference: str) -> None:
        """Nothing is asked while the order waits anyway, so a repeat does no harm."""
        seen = await self._check("ask_again", reference)
        if seen.state is LeaseState.UNKNOWN:
            raise UnknownLease("order not found")
        if seen.state is not LeaseState.OPEN:
            raise NotAllowed("the order is over")
        if seen.has_sms:
            await self._resend(reference)

    async def _resend(self, lease: str) -> None:
        if self._options.resend == "never":
            raise NotAllowed("the stanza says never to ask for another SMS")
        fields = {"orderid": self._resent.get(lease, lease)}
        price = await self._ask("ask_again", "/sms/check_resend", _resend_price, fields)
        if price > 0 and self._options.resend == "free_only":
            raise NotAllowed("another SMS costs money there")
        current = await self._ask("ask_again", "/sms/resend", _resent_id, fields)
        self._resent[lease] = current or fields["orderid"]

    # --- closing ---

    async def close(self, reference: str, outcome: Outcome) -> None:
        if outcome is Outcome.CANCELLED:
            await self._cancel(reference)
            return
        seen = await self._check("close", reference)
        if seen.state is LeaseState.UNKNOWN:
            raise UnknownLease("order not found")
        is_used = seen.has_sms or seen.was_used or reference in self._resent
        if seen.state is LeaseState.OPEN and not is_used:
            await self._cancel_unused(reference)

    async def _cancel_unused(self, lease: str) -> None:
        """A message that came between the two calls leaves nothing to do."""
        try:
            await self._cancel(lease)
        except HasSms:
            return

    async def _cancel(self, lease: str) -> None:
        answer = await self._ask("close", "/sms/cancel", _answer, {"orderid": self._resent.get(lease, lease)})
        if answer.is_done:
            return
        if answer.reason == "too early":
            raise TooEarly(CANCEL_STEP_SECONDS)
        seen = await self._check("close", lease)
        if seen.has_sms:
            raise HasSms
        if seen.state is LeaseState.UNKNOWN:
            raise UnknownLease("order not found")
        if seen.state is LeaseState.OPEN:
            raise Unwell(answer.said)

    async def aclose(self) -> None:
        await self._http.aclose()

    async def _ask(
        self,
        verb: str,
        path: str,
        read: Callable[[Reply], T],
        fields: Mapping[str, str] | None = None,
        *,
        seconds: float = ASK_SECONDS,
        body_bytes: int = BODY_BYTES,
    ) -> T:
        url, body = self._options.base_url + path, Body.form(fields or {})
        return await self._http.ask(verb, url, read, method="POST", body=body, seconds=seconds, body_bytes=body_bytes)


# --- answers ---


@dataclass(frozen=True)
class _Answer:
    """A JSON object; `reason` is why it refuses, empty where it doesn't and `refused` where it says nothing known."""

    data: Mapping[str, Any] = field(repr=False)
    reason: str = ""

    @property
    def is_done(self) -> bool:
        return not self.reason and str(self.data.get("success")) in ("1", "True")

    @property
    def said(self) -> str:
        """For errors: a word of ours or the refusal's type, never its text."""
        kind = str(self.data.get("type") or "")
        return kind if self.reason == "refused" and _TYPE.fullmatch(kind) else self.reason or "an unknown answer"


def _answer_of(data: object) -> _Answer:
    fields = mapping(data)
    refuses = str(fields.get("success")) in ("0", "False")
    return _Answer(fields, _reason(fields) if refuses else "")


def _reason(fields: Mapping[str, Any]) -> str:
    known = _TYPES.get(str(fields.get("type")))
    if known:
        return known
    errors = fields.get("errors")
    details = [error.get("message") for error in errors if isinstance(error, dict)] if isinstance(errors, list) else []
    said = _TAG.sub(" ", " ".join(str(part) for part in [fields.get("message"), *details]))
    words = " ".join(said.lower().split())
    return next((reason for reason, pattern in _WORDS if pattern.search(words)), "refused")


def _answer(reply: Reply) -> _Answer:
    """What an ordinary call was told, a refusal of the order included. Raises Unwell where nothing was said of it."""
    if reply.status >= 500 or reply.status in (401, 403, 408, 429):
        raise Unwell(f"status {reply.status}")
    answer = _answer_of(reply.json())
    if answer.reason in _FAULTS:
        raise Unwell(answer.reason)
    return answer


def _purchase_answer(reply: Reply) -> _Answer:
    """The answer of a purchase that was made. Raises what the reply means otherwise."""
    if reply.status >= 500 or reply.status == 408:
        raise InDoubt(f"status {reply.status}")
    if reply.status in (401, 403, 429):
        raise Refused(f"status {reply.status}", is_fault=True)
    if reply.status >= 300 and not reply.body.lstrip().startswith(b"{"):
        raise Refused(f"status {reply.status}")
    answer = _answer_of(reply.json())
    if answer.is_done:
        return answer
    raise _purchase_error(answer)


def _purchase_error(answer: _Answer) -> UpstreamError:
    if not answer.reason:
        return InDoubt(answer.said)
    if answer.reason == "sold out":
        return SoldOut(answer.said)
    return Refused(answer.said, is_fault=answer.reason in _FAULTS)


def _balance(reply: Reply) -> int:
    if reply.status in (401, 403):
        raise Refused("the key is not accepted", is_fault=True)
    if reply.status == 200 and _answer_of(reply.json()).reason == "bad key":
        raise Refused("the key is not accepted", is_fault=True)
    return micros(_answer(reply).data.get("balance"))


def _resend_price(reply: Reply) -> int:
    answer = _permitted(reply)
    return micros(answer.data.get("resendCost") or 0)


def _resent_id(reply: Reply) -> str:
    """The order id that the lease goes on under; empty where the answer names none."""
    given = _permitted(reply).data.get("order_id")
    return "" if given in (None, "") else reference(given)


def _permitted(reply: Reply) -> _Answer:
    """Raises why there is no other SMS."""
    answer = _answer(reply)
    if answer.is_done:
        return answer
    if answer.reason == "unknown order":
        raise UnknownLease("order not found")
    if answer.reason in ("refused", "sold out"):
        raise NotAllowed(answer.said)
    raise Unwell(answer.said)


# --- orders ---


@dataclass(frozen=True)
class _Seen:
    """How an order stands. `code` and `text` are those of its SMS, empty while it waits.

    `was_used` says that it shows an SMS of the time before while it waits for another.
    """

    state: LeaseState
    code: str = field(default="", repr=False)
    text: str = field(default="", repr=False)
    was_used: bool = False

    @property
    def has_sms(self) -> bool:
        return bool(self.code or self.text)

    def progress(self, round_: int) -> Progress:
        """An order shows one SMS, so what tells two equal ones apart is the round they came in."""
        if not self.has_sms:
            return Progress(self.state)
        digest = hashlib.blake2b(f"{self.code}\0{self.text}".encode(), digest_size=12).hexdigest()
        return Progress(self.state, (Sms(self.code, self.text, identity=f"{round_}:{digest}"),))


@dataclass(frozen=True)
class _Row:
    """An order in the list of open ones. `seen` is None where its state is a word never met."""

    reference: str
    number: str = field(repr=False)
    service: str
    country: str
    seen: _Seen | None
    cost: object
    stamp: object
    expiry: object
    time_left: object

    @property
    def is_over(self) -> bool:
        return self.seen is not None and self.seen.state is not LeaseState.OPEN


def _rows(reply: Reply) -> list[_Row]:
    """Unreadable rows are left out: their leases are then missing, and read singly."""
    if reply.status != 200:
        raise Unwell(f"status {reply.status}")
    data = reply.json()
    if not isinstance(data, list):
        raise Unwell(_answer_of(data).said)
    return list(_readable(data))


def _readable(data: list[Any]) -> Iterator[_Row]:
    for fields in data:
        try:
            yield _row(mapping(fields))
        except Unreadable:
            continue


def _row(fields: Mapping[str, Any]) -> _Row:
    word = str(fields.get("status")).lower()
    state = _ROW_STATES.get(word)
    code, text = ("", "") if word == "pending" else (_text(fields.get("code")), _text(fields.get("full_code")))
    return _Row(
        reference(fields.get("order_code")),
        digits(fields.get("phonenumber")),
        _text(fields.get("service")),
        _text(fields.get("short_name")),
        None if state is None else _Seen(state, code, text),
        fields.get("cost"),
        fields.get("timestamp"),
        fields.get("expiry"),
        fields.get("time_left"),
    )


def _made_at(row: _Row, utc_offset_minutes: int | None, clock: Callable[[], float]) -> float | None:
    """When an order was made. Its stamp names no zone (one hour ahead of UTC was seen).

    Where the setting does not say, whole hours are taken off until the order is younger than one: open orders are, and
    the list tells what time it is there, as what is left of an order's life.
    """
    stamp = moment(row.stamp, utc_offset_minutes or 0)
    if stamp is None or utc_offset_minutes is not None:
        return stamp
    ends_at, left = moment(row.expiry), _whole(row.time_left)
    now = clock() if ends_at is None or left is None else ends_at - left
    return stamp + math.floor((now - stamp + STAMP_SLACK_SECONDS) / HOUR_SECONDS) * HOUR_SECONDS


def _text(value: object) -> str:
    text = str(value).strip() if isinstance(value, str | int) else ""
    return "" if text in _NO_CODE else text


def _whole(value: object) -> int | None:
    text = str(value)
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 10 else None


# --- services and countries ---


@dataclass(frozen=True)
class _Lists:
    """Our codes and SMSPool's ids (or, before the lists were read, its names), and the words its rows have for them."""

    services: Codes[str]
    countries: Codes[int]
    service_ids: Mapping[str, str]
    country_ids: Mapping[str, str]
    read_at: float | None

    def service_of(self, name: str) -> str:
        """Our code, or the name as it is: the order must not be hidden."""
        return self.services.incoming.get(self.service_ids.get(plain(name), ""), name)

    def country_of(self, short_name: str) -> int:
        return self.countries.incoming.get(self.country_ids.get(short_name, ""), -1)


def _lists_unread(context: Context, options: Options) -> _Lists:
    services = Codes.of(service_words(context.names.service_names), options.services)
    countries = Codes.of(country_words(context.names.country_iso2), options.countries)
    return _Lists(services, countries, {}, {}, None)


def _lists_read(
    services: Mapping[str, str], countries: Mapping[str, str], names: Any, options: Options, now: float
) -> _Lists:
    """`services` and `countries` are from SMSPool's name and short name to its id."""
    codes = codes_by_name(names.service_names)
    service_ids: dict[str, str] = {}
    for name, number in services.items():
        service_ids.setdefault(plain(name), number)
    found: dict[str, str] = {}
    for name, number in service_ids.items():
        if name in codes:
            found.setdefault(codes[name], number)
    known = {code: countries[word] for code, word in country_words(names.country_iso2).items() if word in countries}
    return _Lists(Codes.of(found, options.services), Codes.of(known, options.countries), service_ids, countries, now)


def _named_ids(reply: Reply) -> dict[str, str]:
    return _ids(reply, "name")


def _short_ids(reply: Reply) -> dict[str, str]:
    return _ids(reply, "short_name")


def _ids(reply: Reply, name: str) -> dict[str, str]:
    """Word to id. Raises Unwell, Unreadable."""
    data = load_json(_list_body(reply))
    rows = [row for row in data if isinstance(row, dict) and row.get("ID") is not None and row.get(name)]
    if not rows:
        raise Unreadable("an empty list")
    return {str(row[name]).strip(): reference(row["ID"]) for row in rows}


# --- the price list ---


@dataclass(frozen=True)
class Sheet:
    """How to read the list: SMSPool's ids to our codes. With a `pool`, rows of others are left out."""

    upstream: str
    currency: str
    services: Mapping[str, str]
    countries: Mapping[str, int]
    pool: str = ""


def _list_body(reply: Reply) -> bytes:
    """The body of a list, unread. Raises Unwell where it is none."""
    if reply.status != 200:
        raise Unwell(f"status {reply.status}")
    if reply.body.lstrip()[:1] != b"[":
        raise Unwell(_answer_of(reply.json()).said)
    return reply.body


def parse_prices(body: bytes, sheet: Sheet) -> tuple[OfferTable, Counter[str]]:
    """The price list in columns, and the numbers in stock under each word without a code of ours.

    Pure and importable by name: runs in another process. Raises Unwell where the body is no price list.
    """
    unmapped: Counter[str] = Counter()
    try:
        data = load_json(body)
    except Unreadable:
        data = None
    if not isinstance(data, list):
        raise Unwell("the price list is unreadable")
    table = OfferTable(sheet.upstream, sheet.currency, _price_rows(data, sheet, unmapped))
    return table, unmapped


def _price_rows(
    data: list[Any], sheet: Sheet, unmapped: Counter[str]
) -> Iterator[tuple[str, int, int, int, str, float | None]]:
    for row in _flat(data):
        count = 1 if "stock" not in row else _whole(row["stock"]) or 0
        pool = str(row.get("pool") or "")
        if not count or (sheet.pool and pool != sheet.pool):
            continue
        service, country = sheet.services.get(str(row.get("service"))), sheet.countries.get(str(row.get("country")))
        if service is None or country is None:
            unmapped[_unknown_word(row, "country" if country is None else "service")] += count
            continue
        try:
            yield service, country, micros(row.get("price")), count, pool, None
        except Unreadable:
            continue


def _flat(data: list[Any]) -> Iterator[Mapping[str, Any]]:
    """The rows, also of a list that holds lists of them: both have been seen."""
    for item in data:
        if isinstance(item, dict):
            yield item
        elif isinstance(item, list):
            yield from (row for row in item if isinstance(row, dict))


def _unknown_word(row: Mapping[str, Any], kind: str) -> str:
    return f"{kind} {row.get(kind)} ({str(row.get(f'{kind}_name') or '?')[:40]})"
