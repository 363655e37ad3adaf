"""OnlineSim (onlinesim.io), its own protocol. Facts: `protocol/upstreams/others.md` §2.

Its ways:

* every answer has status 200; `response` is `1` or a word. Lists come bare, without `response`;
* a country is a dialling prefix (`_onlinesim_words.SOLE_OWNERS` says whose a shared one is);
* there is no price cap: the price is asked first, and a number that became dearer in between costs more, which the
  purchase does not tell (`tells_cost` is false); the operations list does, as `sum`;
* operations carry the seconds left, not the time they began: `life_seconds` minus these is their age;
* texts or codes, never both: texts are read, and the codes asked for once when a new text is there;
* messages have no ids and may be listed twice (`_rounds`);
* there is no cancel: an operation closed without a code gives its money back (UNCERTAIN, else `cancel = "expiry"`), but
  not in its first two minutes; closed with a code it is paid for. So a cancel looks before and after;
* calls in quick succession end in dropped connections: `pause_seconds` between them, purchases first.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

from cachetools import TTLCache
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from adapters._closing import accept_cancelled
from adapters._http import BODY_BYTES, LIST_BYTES, Http, Reply, list_body
from adapters._onlinesim_words import SERVICES, SOLE_OWNERS
from adapters._pace import Pace, Urgency
from adapters._price_first import Countdown, require_price
from adapters._prices import Listed, Sheet, tabulate
from adapters._refusals import Refusals
from adapters._rounds import KEPT_SECONDS, LEASES_KEPT, Rounds
from adapters._seller import Seller
from adapters._values import (
    Address,
    Digits,
    Reference,
    Unreadable,
    cost,
    digits,
    in_stock,
    load_json,
    mapping,
    micros,
    readable,
    reference,
)
from adapters._words import WordOptions, Words
from gateway.errors import HasSms, NotAllowed, NotReached, Refused, SoldOut, TooEarly, UnknownLease, Unwell
from gateway.model import BuyOrder, Found, Lease, LeaseState, Outcome, Progress, Sms, Watched
from gateway.money import Money
from gateway.upstream import Context, OfferTable

T = TypeVar("T")

GRAIN_SECONDS = 1.0
"""The seconds left are whole ones, so an operation may be so much younger than they say."""

OK = "1"
NOT_YET = "NO_COMPLETE_TZID"

_STATES = {
    "TZ_INPOOL": LeaseState.OPEN,
    "TZ_POOL": LeaseState.OPEN,
    "TZ_NUM_PREPARE": LeaseState.OPEN,
    "TZ_NUM_WAIT": LeaseState.OPEN,
    "TZ_NUM_ANSWER": LeaseState.OPEN,
    "TZ_OVER_OK": LeaseState.FINISHED,
    "TZ_OVER_EMPTY": LeaseState.CANCELLED,
}
_SOLD_OUT = frozenset({"NO_NUMBER", "WARNING_NO_NUMS"})
_FAULTS = frozenset(
    {
        "ERROR_WRONG_KEY",
        "ERROR_NO_KEY",
        "WARNING_LOW_BALANCE",
        "ACCOUNT_BLOCKED",
        "ACCOUNT_IDENTIFICATION_REQUIRED",
        "API_ACCESS_DISABLED",
        "API_ACCESS_IP",
        "EXCEEDED_CONCURRENT_OPERATIONS",
        "INTERVAL_CONCURRENT_REQUESTS_ERROR",
        "TRY_AGAIN_LATER",
    }
)
_DECLINED = frozenset(
    {
        "DUPLICATE_OPERATION",
        "ERROR_NO_SERVICE",
        "ERROR_PARAMS",
        "NO_COUNTRY",
        "TIME_INTERVAL_ERROR",
        "UNDEFINED_COUNTRY",
    }
)
_NO_SUCH_OPERATION = frozenset({"ERROR_NO_OPERATIONS", "ERROR_NO_TZID", "ERROR_WRONG_TZID"})
_KNOWN_WORDS = _SOLD_OUT | _FAULTS | _DECLINED | _NO_SUCH_OPERATION | {OK, NOT_YET, "REQUEST_NOT_FOUND"}


def _quotable(said: str) -> str:
    """Words are quoted where they are known, so nothing foreign gets into a message."""
    return said if said in _KNOWN_WORDS else "an unknown answer"


_REFUSALS = Refusals(_SOLD_OUT, _FAULTS, _DECLINED, _quotable)


class Options(WordOptions):
    """`services` and `countries` map our codes to OnlineSim's slugs and prefixes, over the tables."""

    base_url: Address = "https://onlinesim.io/api"
    key_in: Literal["header", "query"] = "header"
    """In the query the key stands in addresses, where proxies may log it; the header is documented, too."""
    pause_seconds: Annotated[float, Field(ge=0, le=10)] = 1.0
    life_seconds: Annotated[float, Field(gt=0)] = 900.0
    cancel_wait_seconds: Annotated[float, Field(ge=0)] = 120.0
    """An operation without a code can't be closed before it is so old."""
    cancel: Literal["close", "expiry"] = "close"
    """Whether closing an operation without a code gives the money back, or only its expiry does."""


def build(context: Context, options: Options) -> OnlineSim:
    return OnlineSim(context, options)


class OnlineSim(Seller):
    """The upstream."""

    def __init__(self, context: Context, options: Options) -> None:
        in_header = options.key_in == "header"
        params = {"lang": "en"} if in_header else {"lang": "en", "apikey": context.secret}
        headers = {"authorization": f"Bearer {context.secret}"} if in_header else None
        super().__init__(context, Http(context, headers, base_url=options.base_url, params=params))
        self._options = options
        self._pace = Pace(options.pause_seconds)
        self._words = Words.of(SERVICES, _prefixes(context.names.country_prefix), options)
        self._rounds = Rounds()
        self._codes: TTLCache[tuple[str, str], str] = TTLCache(LEASES_KEPT, KEPT_SECONDS)

    # --- what it sells ---

    async def offers(self) -> OfferTable:
        await self._pace.turn(Urgency.LIST)
        body = await self._http.ask_list("offers", "/getNumbersStats.php", list_body, params={"country": "all"})
        return await self._table(parse_stats, body, words=self._words)

    async def balance(self) -> Money:
        """What can be spent: `zbalance`, beside it, is what open operations hold."""
        return Money(await self._ask("balance", "/getBalance.php", _balance, {}, Urgency.READ), self._currency)

    # --- buying ---

    async def buy(self, order: BuyOrder) -> Lease:
        country, service = self._words.wanted(order)
        left = Countdown(order.timeout_seconds)
        await require_price(
            self._in_time(
                "price", "/getNumbersStats.php", lambda reply: _price(reply, service), {"country": country}, left
            ),
            order,
        )
        params = {"service": service, "country": country, "number": "1"}
        return await self._in_time("buy", "/getNum.php", self._lease, params, left)

    async def _in_time(
        self, verb: str, call: str, read: Callable[[Reply], T], params: Mapping[str, str], left: Countdown
    ) -> T:
        try:
            async with asyncio.timeout(left.left_seconds()):
                await self._pace.turn(Urgency.BUY)
        except TimeoutError:
            raise NotReached("no turn in time") from None
        return await self._http.buy(call, read, params=params, seconds=left.left_seconds(), verb=verb)

    def _lease(self, reply: Reply) -> Lease:
        """An operation whose number is still to come is in doubt: it is found in the list, with its number."""
        said, data = _answer(reply)
        if said == OK:
            fields = mapping(data)
            expires_at = self._clock() + self._options.life_seconds
            return Lease(reference(fields.get("tzid")), digits(fields.get("number")), expires_at=expires_at)
        raise _REFUSALS.purchase_error(said)

    # --- reading ---

    async def read(self, watched: Watched) -> Progress:
        operation = await self._operation("read", watched.reference, Urgency.READ)
        if operation is None:
            return Progress(LeaseState.UNKNOWN)
        await self._learn_codes([operation], {"tzid": operation.tzid})
        return self._progress(operation, watched.round)

    async def read_many(self, watched: Sequence[Watched]) -> Mapping[str, Progress]:
        """All in one list, and their codes in another where a text is new."""
        rounds = {lease.reference: lease.round for lease in watched}
        if not rounds:
            return {}
        listed = await self._operations("read_many", {}, Urgency.READ)
        wanted = [operation for operation in listed if operation.tzid in rounds]
        await self._learn_codes(wanted, {})
        return {operation.tzid: self._progress(operation, rounds[operation.tzid]) for operation in wanted}

    async def find(self, since: float) -> Sequence[Found]:
        """Open operations that have a number and are not older than `since`."""
        listed = await self._operations("find", {}, Urgency.READ)
        found = [self._found(operation) for operation in listed if operation.is_open and operation.number]
        return [one for one in found if one.created_at is None or one.created_at >= since]

    def _found(self, operation: _Operation) -> Found:
        now, left = self._clock(), operation.time
        created_at = None if left is None else now - max(0.0, self._options.life_seconds - left - GRAIN_SECONDS)
        return Found(
            lease=Lease(
                operation.tzid,
                operation.number or "",
                cost(operation.sum, self._currency),
                expires_at=None if left is None else now + left,
            ),
            service=self._words.services.incoming.get(operation.service.lower(), operation.service),
            country=self._words.country(operation.country),
            created_at=created_at,
        )

    async def _operation(self, verb: str, tzid: str, urgency: Urgency) -> _Operation | None:
        """The operation, ended or not, or None where there is none. Raises Unwell, also where its state is unknown."""
        listed = await self._operations(verb, {"tzid": tzid}, urgency)
        return next((operation for operation in listed if operation.tzid == tzid), None)

    async def _operations(
        self, verb: str, params: Mapping[str, str], urgency: Urgency, *, as_codes: bool = False
    ) -> list[_Operation]:
        params = {**params, "msg_list": "1", "message_to_code": "1" if as_codes else "0"}
        read = _one if "tzid" in params or verb == "find" else _all
        return await self._ask(verb, "/getState.php", read, params, urgency, body_bytes=LIST_BYTES)

    async def _learn_codes(self, operations: Iterable[_Operation], params: Mapping[str, str]) -> None:
        """The service's own reading of texts just seen. Best effort: a text is delivered without it, too."""
        new = [one for one in operations if any((one.tzid, text) not in self._codes for text in one.messages)]
        if not new:
            return
        try:
            coded = await self._operations("read_codes", params, Urgency.READ, as_codes=True)
        except Unwell:
            return
        by_tzid = {operation.tzid: operation.messages for operation in coded}
        for operation in new:
            for text, code in zip(operation.messages, by_tzid.get(operation.tzid, ()), strict=False):
                self._codes[operation.tzid, text] = "" if code == text else code

    def _progress(self, operation: _Operation, round_: int) -> Progress:
        def sms(text: str, identity: str) -> Sms:
            return Sms(self._codes.get((operation.tzid, text), ""), text, identity=identity)

        messages = self._rounds.messages(operation.tzid, round_, operation.messages, sms)
        return Progress(operation.state, messages)

    # --- asking again, closing ---

    async def ask_again(self, reference: str) -> None:
        said = await self._ask("ask_again", "/setOperationRevise.php", _said, {"tzid": reference}, Urgency.CLOSE)
        if said == OK:
            return
        if said in _NO_SUCH_OPERATION:
            raise UnknownLease(said)
        raise NotAllowed(said) if said == NOT_YET else Unwell(_quotable(said))

    async def close(self, reference: str, outcome: Outcome) -> None:
        if outcome is Outcome.CANCELLED:
            return await self._cancel(reference)
        said = await self._end(reference)
        if said != OK:
            await self._accept_end(said, reference)
        return None

    async def _end(self, tzid: str) -> str:
        return await self._ask("close", "/setOperationOk.php", _said, {"tzid": tzid}, Urgency.CLOSE)

    async def _accept_end(self, said: str, tzid: str) -> None:
        """Return where the operation has ended all the same, raise why not otherwise."""
        if said != NOT_YET and said not in _NO_SUCH_OPERATION:
            raise Unwell(_quotable(said))
        operation = await self._operation("close", tzid, Urgency.CLOSE)
        if operation is None:
            raise UnknownLease(said)
        if operation.is_open:
            raise Unwell("not closed") if operation.messages else TooEarly(self._options.cancel_wait_seconds)

    async def _cancel(self, tzid: str) -> None:
        """Closing pays for a code that is there: one that came just before is met by the second look."""
        before = await self._operation("close", tzid, Urgency.CLOSE)
        if before is None:
            raise UnknownLease("no such operation")
        if not before.is_open:
            return accept_cancelled(before.state, bool(before.messages))
        if before.messages:
            raise HasSms
        if self._options.cancel == "expiry":
            raise TooEarly(self._options.life_seconds)
        said = await self._end(tzid)
        if said == NOT_YET:
            raise TooEarly(self._options.cancel_wait_seconds)
        after = await self._operation("close", tzid, Urgency.CLOSE)
        if after is not None:  # else it has ended, and ended ones are not shown
            accept_cancelled(after.state, bool(after.messages))
        return None

    async def _ask(
        self,
        verb: str,
        call: str,
        read: Callable[[Reply], T],
        params: Mapping[str, str],
        urgency: Urgency,
        *,
        body_bytes: int = BODY_BYTES,
    ) -> T:
        await self._pace.turn(urgency)
        return await self._http.ask(verb, call, read, params=params, body_bytes=body_bytes)


def _prefixes(country_prefix: Mapping[int, str]) -> dict[int, str]:
    """Country to dialling prefix, where the prefix is its own or it stands for those that share it."""
    shared = Counter(country_prefix.values())
    return {
        number: prefix
        for number, prefix in country_prefix.items()
        if SOLE_OWNERS.get(prefix, number if shared[prefix] == 1 else None) == number
    }


# --- operations ---


class _Operation(BaseModel):
    """One row of `getState`. `time` is what is left of it, `sum` what it costs; `msg` is false, a text or a list."""

    model_config = ConfigDict(frozen=True, extra="ignore", coerce_numbers_to_str=True)

    tzid: Reference
    response: str
    service: str = ""
    country: str = ""
    number: Digits | None = None
    time: Annotated[float, Field(allow_inf_nan=False)] | None = None
    sum: str | None = None
    msg: Any = None

    @property
    def is_open(self) -> bool:
        return self.state is LeaseState.OPEN

    @property
    def state(self) -> LeaseState:
        return _STATES[self.response]

    @property
    def messages(self) -> tuple[str, ...]:
        """Oldest first."""
        listed = self.msg if isinstance(self.msg, list) else [self.msg]
        texts = (one.get("msg") if isinstance(one, dict) else one for one in listed)
        return tuple(str(text) for text in texts if text and not isinstance(text, bool))


def _row(data: Any) -> _Operation:
    try:
        operation = _Operation.model_validate(data)
    except ValidationError:
        operation = None
    if operation is None or operation.response not in _STATES:
        raise Unreadable("not an operation, or in an unknown state")
    return operation


def _rows(reply: Reply) -> list[Any]:
    said, data = _answer(reply)
    if isinstance(data, list):
        return data
    if said in _NO_SUCH_OPERATION:
        return []
    raise Unwell(_quotable(said))


def _one(reply: Reply) -> list[_Operation]:
    """Every row has to be readable: it may be the one that is looked for."""
    return [_row(row) for row in _rows(reply)]


def _all(reply: Reply) -> list[_Operation]:
    """An unreadable row is left out: its lease is then missing, and read singly."""
    return list(readable(_rows(reply), _row))


# --- answers ---


def _answer(reply: Reply) -> tuple[str, Any]:
    """The word (empty for bare data) and the parsed body. Raises Unwell for another status, Unreadable for no JSON."""
    if reply.status != 200:
        raise Unreadable("not a status it answers with")
    data = reply.json()
    said = data.get("response") if isinstance(data, dict) else None
    return "" if said is None else str(said), data


def _said(reply: Reply) -> str:
    said, _ = _answer(reply)
    if not said:
        raise Unreadable("no word")
    return said


def _price(reply: Reply, slug: str) -> int:
    """What the service costs in the country asked for. Raises SoldOut where it has no number of it."""
    said, data = _answer(reply)
    if said and said != OK:
        raise _REFUSALS.purchase_error(said)
    for word, cell in _cells(mapping(data)):
        if word == slug and in_stock(cell.get("count")) > 0:
            return micros(cell.get("price"))
    raise SoldOut("none listed")


def _balance(reply: Reply) -> int:
    said, data = _answer(reply)
    if said == OK:
        return micros(mapping(data).get("balance"))
    if said in _FAULTS:
        raise Refused(said, is_fault=True)
    raise Unwell(_quotable(said))


# --- the price list ---


def parse_stats(body: bytes, sheet: Sheet) -> tuple[OfferTable, Counter[str]]:
    """The price list in columns, and how many numbers of each unknown word were left out.

    Pure and importable by name: runs in another process. Raises Unwell where the body is no price list.
    """
    return tabulate(_listed(body), sheet)


def _listed(body: bytes) -> Iterator[Listed]:
    data = mapping(load_json(body))
    said = str(data.pop("response", OK))
    if said != OK:
        raise Unwell(f"no statistics ({_quotable(said)})")
    for key, fields in data.items():
        country = mapping(fields)
        prefix = str(country.get("code", key.lstrip("_")))
        for slug, cell in _cells(country):
            yield Listed(prefix, slug, cell.get("price"), cell.get("count"))


def _cells(country: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(slug, cell) of one country; a cell without a slug is named by its key, `service_…`."""
    for key, cell in mapping(country.get("services") or []).items():
        cell = mapping(cell)
        slug = cell.get("slug") or key.removeprefix("service_")
        if not isinstance(slug, str):
            raise Unreadable("a service without a word")
        yield slug.lower(), cell
