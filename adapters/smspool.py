"""SMSPool (api.smspool.net), its own protocol. Facts: `protocol/upstreams/others.md` §1.

Its ways:

* forms are posted, the key is a bearer token; a refusal is `{"success": 0}` with status 200 (older) or 4xx (newer) and
  a reason in `type`, or else only in words, which may hold HTML;
* services and countries are numeric ids of its public lists, found by name and by ISO letters; until the lists have
  been read, the names themselves are sent, which it takes as well;
* one SMS an order. Another one is asked for with `/sms/resend`, which may cost money and may answer with another order
  id: the lease then goes on under that id, and the order before shows its SMS still;
* statuses 1, 3, 5 and 6 are documented; what 2, 4, 7 and 8 mean is a setting. An order that waits shows no message, as
  it may be the one of the time before;
* the list of open orders has everything, with a time stamp in an unnamed zone;
* a cancel is refused for about two minutes after the purchase (130 s were seen), without saying for how long;
* nothing finishes an order. One without an SMS is cancelled instead.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, model_validator

from adapters._closing import accept_cancelled
from adapters._http import LIST_BYTES, Body, Http, Reply
from adapters._prices import Listed, Sheet, tabulate
from adapters._rounds import lone_sms
from adapters._seller import Seller
from adapters._smspool_answers import FAULTS, Answer, read_answer
from adapters._smspool_words import Lists, read_lists, unread_lists
from adapters._values import (
    Address,
    Unreadable,
    all_readable,
    cost,
    digits,
    load_json,
    mapping,
    micros,
    moment,
    readable,
    reference,
    whole,
)
from adapters._words import Learnt, WordOptions, told_words
from gateway.errors import HasSms, InDoubt, NotAllowed, Refused, SoldOut, TooEarly, UnknownLease, Unwell, UpstreamError
from gateway.model import BuyOrder, Found, Lease, LeaseState, Outcome, Progress, Watched
from gateway.money import Money, plain
from gateway.upstream import Context, OfferTable

T = TypeVar("T")

CANCEL_STEP_SECONDS = 15.0
"""After a cancel that came too early: SMSPool does not say for how long."""

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


class Options(WordOptions):
    """`services` and `countries` map our codes to SMSPool's numeric ids, over what is found by name.

    `pool` buys from that pool only. `resend` says whether another SMS may be asked for: free of charge, or at a price
    too, which nobody is charged for. `price_list = "pricing"` takes the list without stock, in which each row counts
    as one number. `utc_offset_minutes` is the zone of time stamps; without it the list's own clock tells the hours.
    """

    base_url: Address = "https://api.smspool.net"
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


class SmsPool(Seller):
    """The upstream."""

    moves_leases = True

    def __init__(self, context: Context, options: Options) -> None:
        headers = {"authorization": f"Bearer {context.secret}", "accept": "application/json"}
        super().__init__(context, Http(context, headers, base_url=options.base_url))
        self._names = context.names
        self._options = options
        self._lists = Learnt(unread_lists(context.names, options), context.clock)

    # --- what it sells ---

    async def offers(self) -> OfferTable:
        lists = await self._fresh_lists("offers")
        path = "/sms/all_stock" if self._options.price_list == "all_stock" else "/request/pricing"
        pool = self._options.pool
        form = Body.form({"pool": pool} if pool else {})
        body = await self._http.ask_list("offers", path, _list_body, method="POST", body=form)
        return await self._table(parse_prices, body, pool, words=lists.words)

    def knowledge(self) -> Mapping[str, Any]:
        lists = self._lists.now
        return {
            "services": lists.service_ids,
            "countries": lists.country_ids,
            "good_until": self._lists.good_until,
        }

    def learn(self, knowledge: Mapping[str, Any]) -> None:
        services, countries = told_words(knowledge, "services"), told_words(knowledge, "countries")
        lists = read_lists(services, countries, self._names, self._options)
        self._lists.told(lists, float(knowledge["good_until"]))

    async def _fresh_lists(self, verb: str) -> Lists:
        """The lists of services and countries. Raises Unwell."""

        async def ask() -> Lists:
            services = await self._http.ask(verb, "/service/retrieve_all", lambda reply: _ids(reply, "name"))
            countries = await self._http.ask(verb, "/country/retrieve_all", lambda reply: _ids(reply, "short_name"))
            return read_lists(services, countries, self._names, self._options)

        return await self._lists.fresh(ask)

    async def balance(self) -> Money:
        return Money(await self._ask("balance", "/request/balance", _balance), self._currency)

    # --- buying ---

    async def buy(self, order: BuyOrder) -> Lease:
        country, service = self._lists.now.words.wanted(order)
        fields = {
            "country": country,
            "service": service,
            "max_price": plain(order.cost_max.micros),
            "pricing_option": "1" if self._options.prefer == "best_rate" else "0",
            "quantity": "1",
        }
        pool = order.operator or self._options.pool
        return await self._http.buy(
            "/purchase/sms",
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
        left = whole(data.get("expires_in"))
        return moment(data.get("expiration")) or (None if left is None else self._clock() + left)

    # --- reading ---

    async def read(self, watched: Watched) -> Progress:
        seen = await self._check("read", watched.reference)
        return seen.progress(watched.round)

    async def _check(self, verb: str, lease: str) -> _Seen:
        """How the lease stands. Raises Unwell."""
        return await self._ask(verb, "/sms/check", self._seen, {"orderid": lease})

    def _seen(self, reply: Reply) -> _Seen:
        answer = _answer(reply)
        status = whole(answer.data.get("status"))
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
            row = rows.get(lease.reference)
            if row is not None and row.seen is not None:
                found[lease.reference] = row.seen.progress(lease.round)
        return found

    async def find(self, since: float) -> Sequence[Found]:
        """Open orders made in the second of `since` or later, and those that do not tell."""
        lists = await self._fresh_lists("find")
        found = []
        for row in await self._active("find"):
            made_at = _made_at(row, self._options.utc_offset_minutes, self._clock)
            if row.is_over or (made_at is not None and made_at < math.floor(since)):
                continue
            lease = Lease(
                row.reference,
                row.number,
                cost(row.cost, self._currency),
                expires_at=moment(row.expiry),
            )
            found.append(Found(lease, lists.service_of(row.service), lists.country_of(row.country), made_at))
        return found

    async def _active(self, verb: str) -> list[_Row]:
        read = _every_row if verb == "find" else _rows
        return await self._http.ask(
            verb, "/request/active", read, method="POST", body=Body.form({}), body_bytes=LIST_BYTES
        )

    # --- another SMS ---

    async def ask_again(self, reference: str) -> str | None:
        """Nothing is asked while the order waits anyway, so a repeat does no harm where the order stayed the same."""
        seen = await self._check("ask_again", reference)
        if seen.state is LeaseState.UNKNOWN:
            raise UnknownLease("order not found")
        if seen.state is not LeaseState.OPEN:
            raise NotAllowed("the order is over")
        return await self._resend(reference) if seen.has_sms else None

    async def _resend(self, lease: str) -> str | None:
        if self._options.resend == "never":
            raise NotAllowed("the stanza says never to ask for another SMS")
        fields = {"orderid": lease}
        price = await self._ask("ask_again", "/sms/check_resend", _resend_price, fields)
        if price > 0 and self._options.resend == "free_only":
            raise NotAllowed("another SMS costs money there")
        current = await self._ask("ask_again", "/sms/resend", _resent_id, fields)
        return None if current in ("", lease) else current

    # --- closing ---

    async def close(self, reference: str, outcome: Outcome) -> None:
        if outcome is Outcome.CANCELLED:
            await self._cancel(reference)
            return
        seen = await self._check("close", reference)
        if seen.state is LeaseState.UNKNOWN:
            raise UnknownLease("order not found")
        if seen.state is LeaseState.OPEN and not (seen.has_sms or seen.was_used):
            await self._cancel_unused(reference)

    async def _cancel_unused(self, lease: str) -> None:
        """A message that came between the two calls leaves nothing to do."""
        try:
            await self._cancel(lease)
        except HasSms:
            return

    async def _cancel(self, lease: str) -> None:
        answer = await self._ask("close", "/sms/cancel", _answer, {"orderid": lease})
        if answer.is_done:
            return
        if answer.reason == "too early":
            raise TooEarly(CANCEL_STEP_SECONDS)
        seen = await self._check("close", lease)
        accept_cancelled(seen.state, seen.has_sms, answer.said)

    async def _ask(
        self, verb: str, path: str, read: Callable[[Reply], T], fields: Mapping[str, str] | None = None
    ) -> T:
        return await self._http.ask(verb, path, read, method="POST", body=Body.form(fields or {}))


# --- answers ---


def _answer(reply: Reply) -> Answer:
    """What an ordinary call was told, a refusal of the order included. Raises Unwell where nothing was said of it."""
    if reply.status >= 500 or reply.status in (401, 403, 408, 429):
        raise Unwell(f"status {reply.status}")
    answer = read_answer(reply.json())
    if answer.reason in FAULTS:
        raise Unwell(answer.reason)
    return answer


def _purchase_answer(reply: Reply) -> Answer:
    """The answer of a purchase that was made. Raises what the reply means otherwise."""
    if reply.status >= 500 or reply.status == 408:
        raise InDoubt(f"status {reply.status}")
    if reply.status in (401, 403, 429):
        raise Refused(f"status {reply.status}", is_fault=True)
    if reply.status >= 300 and not reply.body.lstrip().startswith(b"{"):
        raise Refused(f"status {reply.status}")
    answer = read_answer(reply.json())
    if answer.is_done:
        return answer
    raise _purchase_error(answer)


def _purchase_error(answer: Answer) -> UpstreamError:
    if not answer.reason:
        return InDoubt(answer.said)
    if answer.reason == "sold out":
        return SoldOut(answer.said)
    return Refused(answer.said, is_fault=answer.reason in FAULTS)


def _balance(reply: Reply) -> int:
    if reply.status in (401, 403):
        raise Refused("the key is not accepted", is_fault=True)
    if reply.status == 200 and read_answer(reply.json()).reason == "bad key":
        raise Refused("the key is not accepted", is_fault=True)
    return micros(_answer(reply).data.get("balance"))


def _resend_price(reply: Reply) -> int:
    answer = _permitted(reply)
    return micros(answer.data.get("resendCost") or 0)


def _resent_id(reply: Reply) -> str:
    """The order id that the lease goes on under; empty where the answer names none."""
    given = _permitted(reply).data.get("order_id")
    return "" if given in (None, "") else reference(given)


def _permitted(reply: Reply) -> Answer:
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
        if not self.has_sms:
            return Progress(self.state)
        return Progress(self.state, (lone_sms(self.code, self.text, round_),))


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
    return list(readable(_listed_rows(reply), _row))


def _every_row(reply: Reply) -> list[_Row]:
    return all_readable(_listed_rows(reply), _row)


def _listed_rows(reply: Reply) -> list[Any]:
    if reply.status != 200:
        raise Unwell(f"status {reply.status}")
    data = reply.json()
    if not isinstance(data, list):
        raise Unwell(read_answer(data).said)
    return data


def _row(data: Any) -> _Row:
    fields = mapping(data)
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
    ends_at, left = moment(row.expiry), whole(row.time_left)
    now = clock() if ends_at is None or left is None else ends_at - left
    return stamp + math.floor((now - stamp + STAMP_SLACK_SECONDS) / HOUR_SECONDS) * HOUR_SECONDS


def _text(value: object) -> str:
    text = str(value).strip() if isinstance(value, str | int) else ""
    return "" if text in _NO_CODE else text


# --- lists ---


def _ids(reply: Reply, name: str) -> dict[str, str]:
    """Word to id. Raises Unwell, Unreadable."""
    data = load_json(_list_body(reply))
    rows = [row for row in data if isinstance(row, dict) and row.get("ID") is not None and row.get(name)]
    if not rows:
        raise Unreadable("an empty list")
    return {str(row[name]).strip(): reference(row["ID"]) for row in rows}


def _list_body(reply: Reply) -> bytes:
    """The body of a list, unread. Raises Unwell where it is none."""
    if reply.status != 200:
        raise Unwell(f"status {reply.status}")
    if reply.body.lstrip()[:1] != b"[":
        raise Unwell(read_answer(reply.json()).said)
    return reply.body


def parse_prices(body: bytes, pool: str, sheet: Sheet) -> tuple[OfferTable, Counter[str]]:
    """The price list in columns, and the numbers in stock under each word without a code of ours.

    With a `pool`, rows of others are left out. Pure and importable by name: runs in another process. Raises Unwell
    where the body is no price list.
    """
    return tabulate(_listed(body, pool), sheet)


def _listed(body: bytes, pool: str) -> Iterator[Listed]:
    data = load_json(body)
    if not isinstance(data, list):
        raise Unreadable("no list")
    for row in _flat(data):
        stock, of = row.get("stock", 1), str(row.get("pool") or "")
        if row.get("price") is not None and pool in ("", of):
            names = _named(row, "country"), _named(row, "service")
            yield Listed(str(row.get("country")), str(row.get("service")), row["price"], stock, of, None, *names)


def _named(row: Mapping[str, Any], kind: str) -> str:
    return str(row.get(f"{kind}_name") or "?")[:40]


def _flat(data: list[Any]) -> Iterator[Mapping[str, Any]]:
    """The rows, also of a list that holds lists of them: both have been seen."""
    for item in data:
        yield from (row for row in (item if isinstance(item, list) else [item]) if isinstance(row, dict))
