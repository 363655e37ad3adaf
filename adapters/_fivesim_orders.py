"""5sim's answers, read: orders, lists of them, and its bare sentences. Facts: `protocol/upstreams/fivesim.md` §4 to §9.

Rentals ("hosting") are orders too. Nothing of them can be given back, so one whose time is over has been used,
whichever word says so.
"""

from __future__ import annotations

import hashlib
import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from adapters._http import Reply
from adapters._refusals import RefusedForGood
from adapters._rentals import rental_reference
from adapters._values import Digits, Reference, Unreadable, cost, mapping, micros, moment, readable
from gateway.errors import HasSms, InDoubt, NotAllowed, Refused, SoldOut, TooEarly, UnknownLease, Unwell, UpstreamError
from gateway.model import Lease, LeaseState, Outcome, Progress, Sms

WAIT_SECONDS = 5.0
"""After `you need to wait time`, which does not say how long; §9 advises steps of 5 to 10 s."""

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
_NO_REUSE = frozenset({"reuse not possible", "reuse false", "reuse expired"})
ENDED = frozenset({"order not found", "order expired"})
_LIMIT = re.compile(r"(api|ip address) limit is \d+ requests per second")
_SENTENCE = re.compile(r"[a-z]+([ _][a-z]+){1,9}")
"""Two words at least: `null` and the like are JSON."""


class Message(BaseModel):
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


class Order(BaseModel):
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
    sms: Annotated[tuple[Message, ...], BeforeValidator(_as_list)] = ()

    @property
    def is_known(self) -> bool:
        return self.status in _STATES

    @property
    def is_open(self) -> bool:
        return self.status in _OPEN

    def is_before(self, since: float) -> bool:
        created = moment(self.created_at)
        return created is not None and created < since

    def lease(self, currency: str, *, is_rental: bool = False) -> Lease:
        reference = rental_reference(self.id) if is_rental else self.id
        return Lease(reference, self.phone, cost(self.price, currency), self.operator, moment(self.expires))

    def progress(self) -> Progress:
        """Raises Unreadable where the state is a word never seen."""
        if not self.is_known:
            raise Unreadable("an unknown state")
        return Progress(_STATES[self.status], once(self.sms))

    def rental_progress(self, messages: tuple[Message, ...]) -> Progress:
        """As `progress`, with these messages. A time-out gives no money back: the time was used."""
        state = self.progress().state
        is_used = self.status == "TIMEOUT"
        received = sorted(once(messages), key=lambda sms: sms.received_at or 0.0)
        return Progress(LeaseState.FINISHED if is_used else state, tuple(received), moment(self.expires))


def once(messages: tuple[Message, ...]) -> tuple[Sms, ...]:
    """Each message once."""
    return tuple({sms.identity: sms for sms in (message.sms() for message in messages)}.values())


def read_order(data: Any) -> Order:
    """Raises Unreadable."""
    try:
        return Order.model_validate(data)
    except ValidationError:
        pass
    raise Unreadable("not an order")


def read_orders(reply: Reply) -> tuple[list[Order], int]:
    """Readable orders of one page, and how many there were in all. Raises Unreadable, Unwell."""
    raw = _rows(reply)
    return list(readable(raw, read_order)), len(raw)


def read_rentals(reply: Reply) -> tuple[list[Order], int]:
    """As `read_orders`, for rentals. Where there is no such list there are none: they may be switched off."""
    return ([], 0) if reply.status == 400 and sentence(reply.text) else read_orders(reply)


def read_inbox(reply: Reply) -> tuple[Message, ...] | None:
    """The messages of a rental, None where it has no inbox. Raises Unreadable where one makes no sense, Unwell."""
    if sentence(reply.text) == "hosting order not found":
        return None
    return tuple(_message(row) for row in _rows(reply))


def _message(data: Any) -> Message:
    try:
        return Message.model_validate(data)
    except ValidationError:
        pass
    raise Unreadable("not a message")


def _rows(reply: Reply) -> list[Any]:
    if reply.status != 200:
        raise call_error(reply)
    rows = mapping(reply.json()).get("Data") or []
    if not isinstance(rows, list):
        raise Unreadable("not a list")
    return rows


# --- answers ---


def sentence(text: str) -> str:
    """The bare error sentence, or empty where the body is none: a page, JSON, nothing."""
    text = text.lower()
    return text if _SENTENCE.fullmatch(text) or _LIMIT.fullmatch(text) else ""


def purchase_error(status: int, text: str) -> UpstreamError:
    """What a purchase raises that was not answered with an order."""
    said = sentence(text)
    if _LIMIT.fullmatch(said) or status == 429:
        return Refused("too many requests", is_fault=True)  # 503 for an address, 429 for a key (§10)
    if status >= 500 or status == 408 or said == "internal error" or (status < 300 and not said):
        return InDoubt(f"status {status}, {said or 'an answer that makes no sense'}")
    if said == "no free phones":
        return SoldOut("no free phones")
    if said in _NO_REUSE:
        return RefusedForGood(said)
    return Refused(_quotable(said, status), is_fault=status in (401, 403) or said in _FAULTS)


def _quotable(said: str, status: int) -> str:
    """Sentences hold letters only, so no number or code can be in one."""
    return said if _SENTENCE.fullmatch(said) else f"status {status}"


def call_error(reply: Reply) -> Unwell:
    """What any other call raises that was not answered as it should be."""
    return Unwell(_quotable(sentence(reply.text), reply.status))


def seen(reply: Reply) -> Order | None:
    """The order, or None where there is none. Raises Unreadable, Unwell."""
    if reply.status == 200:
        order = read_order(reply.json())
        if order.is_known:
            return order
        raise Unwell("an unknown state")
    if sentence(reply.text) == "order not found":
        return None
    raise call_error(reply)


def told(reply: Reply) -> str:
    """Empty where the answer is the order that ended, or the sentence of a 400 or 404. Raises Unwell otherwise."""
    if reply.status == 200:
        read_order(reply.json())
        return ""
    said = sentence(reply.text)
    if reply.status in (400, 404) and said:
        return said
    raise call_error(reply)


def close_error(said: str) -> UpstreamError:
    """What was said against the end of an order."""
    match said:
        case "you need to wait time":
            return TooEarly(WAIT_SECONDS)
        case "order has sms":
            return HasSms()
        case "hosting order":
            return NotAllowed(said)
    return Unwell(said)


def accept_end(order: Order | None, outcome: Outcome) -> None:
    """Return where the order has ended, raise what its state says against it otherwise."""
    if order is None:
        raise UnknownLease("order not found")
    if order.is_open:
        raise Unwell("the order is open all the same")
    if outcome is Outcome.CANCELLED and order.status == "FINISHED":
        raise HasSms if order.sms else NotAllowed("finished")


def read_balance(reply: Reply) -> int:
    """Micro-units. Raises Refused where the key is not accepted, Unreadable, Unwell."""
    if reply.status in (401, 403):
        raise Refused("the key is not accepted", is_fault=True)
    if reply.status != 200:
        raise call_error(reply)
    return micros(mapping(reply.json()).get("balance"))
