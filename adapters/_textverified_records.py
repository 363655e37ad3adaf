"""TextVerified's answers, read: verifications, messages, pages and errors. Facts: §2, §4, §5 and §7 of its notes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

from adapters._http import Reply
from adapters._values import Digits, Reference, Unreadable, cost, mapping, micros, moment, reference
from gateway.errors import InDoubt, Refused, SoldOut, UnknownLease, Unwell, UpstreamError
from gateway.model import Lease, LeaseState, Sms

R = TypeVar("R", bound="Record")

PREFIX = "1"

_STATES = {
    "verificationpending": LeaseState.OPEN,
    "verificationcompleted": LeaseState.OPEN,
    "verificationcanceled": LeaseState.CANCELLED,
    "verificationtimedout": LeaseState.CANCELLED,
    "verificationreported": LeaseState.CANCELLED,
    "verificationrefunded": LeaseState.CANCELLED,
    "verificationreused": LeaseState.FINISHED,
    "verificationreactivated": LeaseState.FINISHED,
}
"""§4, in small letters. States of rentals are left out: nothing we buy can be in one.

A completed verification is open to us: its message is there to be read, and nothing else ends it.
"""

_HAD_SMS = frozenset({"verificationcompleted", "verificationreused", "verificationreactivated"})
_ERROR_CODE = re.compile(r"[A-Za-z]{1,60}")


def _or_empty(value: object) -> object:
    return "" if value is None else value


Text = Annotated[str, BeforeValidator(_or_empty)]
Flag = Annotated[bool, BeforeValidator(bool)]


class Record(BaseModel):
    """What every record of theirs is: members in camel case, further ones ignored."""

    model_config = ConfigDict(alias_generator=to_camel, frozen=True, extra="ignore", coerce_numbers_to_str=True)


class _Link(Record):
    href: Text = ""


class _Cancel(Record):
    can_cancel: Flag = False


class _Report(Record):
    can_report: Flag = False


class _Reuse(Record):
    link: _Link | None = None
    reusable_until: Text = ""


class Verification(Record):
    """A verification as its own address and, with fewer members, the list show it (§4)."""

    id: Reference
    number: Digits
    state: str
    service_name: Text = ""
    total_cost: str | None = None
    created_at: Text = ""
    ends_at: Text = ""
    sms: _Link | None = None
    cancel: _Cancel | None = None
    report: _Report | None = None
    reuse: _Reuse | None = None

    @property
    def lease_state(self) -> LeaseState | None:
        """None where the state is a word never seen."""
        return _STATES.get(self.state.lower())

    @property
    def is_pending(self) -> bool:
        return self.state.lower() == "verificationpending"

    @property
    def had_sms(self) -> bool:
        return self.state.lower() in _HAD_SMS

    @property
    def can_cancel(self) -> bool:
        return self.cancel is not None and self.cancel.can_cancel

    @property
    def can_report(self) -> bool:
        return self.report is not None and self.report.can_report

    def can_reuse(self, now: float) -> bool:
        """Whether its number can be had again: either of the two members says so."""
        if self.reuse is None:
            return False
        until = moment(self.reuse.reusable_until)
        return until > now if until is not None else self.reuse.link is not None

    @property
    def sms_href(self) -> str:
        return self.sms.href if self.sms is not None else ""

    def lease(self, currency: str) -> Lease:
        """Numbers are national, ten digits; ours start with the country's."""
        number = PREFIX + self.number if len(self.number) == 10 else self.number
        return Lease(self.id, number, cost(self.total_cost, currency), expires_at=moment(self.ends_at))


class Message(Record):
    """An SMS of the account (§5)."""

    id: Reference
    to: Text = ""
    created_at: Text = ""
    sender: Text = ""
    sms_content: Text = ""
    parsed_code: Text = ""

    def sms(self) -> Sms:
        return Sms(self.parsed_code, self.sms_content, self.sender, moment(self.created_at), self.id)


@dataclass(frozen=True, slots=True)
class Page:
    """Rows of a list, and the address of those that follow (empty at the end)."""

    rows: tuple[dict[str, Any], ...]
    next_href: str

    def is_past(self, since: float) -> bool:
        """Whether neither this page nor a later one can have anything as young as `since`.

        Lists are newest first as far as seen, which nobody promises: a page that does not run backwards tells nothing.
        """
        times = [moment(row.get("createdAt")) for row in self.rows]
        known = [time for time in times if time is not None]
        return len(known) > 1 and known[0] > known[-1] and max(known) < since


def verification(data: Any) -> Verification:
    """Raises Unreadable."""
    return parse(Verification, data)


def parse(kind: type[R], data: Any) -> R:
    """Raises Unreadable."""
    try:
        return kind.model_validate(data)
    except ValidationError:
        pass
    raise Unreadable("a record without its members")


def verifications(rows: Sequence[dict[str, Any]]) -> Iterator[Verification]:
    """Those that can be read: one that can't is then missing from the list, and asked for singly."""
    for row in rows:
        try:
            yield verification(row)
        except Unreadable:
            continue


def every_verification(rows: Sequence[dict[str, Any]]) -> list[Verification]:
    """As `verifications`. Raises Unwell where one can't be read: it may be the one that is looked for."""
    found = list(verifications(rows))
    if len(found) < len(rows):
        raise Unwell("a verification in the list is unreadable")
    return found


def messages(rows: Sequence[dict[str, Any]]) -> Iterator[Message]:
    """Those that can be read and say something: text and code may both be null for a while."""
    for row in rows:
        try:
            message = parse(Message, {**row, "sender": row.get("from")})
        except Unreadable:
            continue
        if message.sms_content or message.parsed_code:
            yield message


def in_order(found: Sequence[Message]) -> tuple[Sms, ...]:
    """Each message once, oldest first."""
    once = {message.id: message.sms() for message in found}
    return tuple(sorted(once.values(), key=lambda sms: (sms.received_at or 0.0, sms.identity)))


# --- answers ---


def read_page(reply: Reply) -> Page:
    """A page of any list (§4). Raises Unwell, Unreadable."""
    data = mapping(readable(reply))
    rows = data.get("data")
    if not isinstance(rows, list):
        raise Unreadable("a page without rows")
    return Page(tuple(mapping(row) for row in rows), _next_href(data))


def _next_href(data: dict[str, Any]) -> str:
    link = mapping(data.get("links") or {}).get("next") if data.get("hasNext") else None
    href = mapping(link or {}).get("href")
    return href if isinstance(href, str) else ""


def readable(reply: Reply) -> Any:
    """The JSON of a 200. Raises Unwell otherwise."""
    if reply.status != 200:
        raise Unwell(f"status {reply.status}")
    return reply.json()


def seen(reply: Reply) -> Verification | None:
    """A verification, or None where there is none (any more). Raises Unwell."""
    return None if reply.status == 404 else verification(readable(reply))


def created(reply: Reply, sold_out: frozenset[str], kind: str = "verifications") -> str:
    """The id that a purchase made: the last part of the link it answers. Raises the error of a purchase."""
    if reply.status not in (200, 201):
        raise purchase_error(reply, sold_out)
    try:
        href = mapping(reply.json()).get("href")
    except Unreadable:
        href = reply.headers.get("location")  # says the same
    parts = urlsplit(str(href or "")).path.rsplit("/", 2)
    if len(parts) != 3 or parts[1] != kind:
        raise Unreadable("no link to what was bought")
    return reference(parts[2])


def purchase_error(reply: Reply, sold_out: frozenset[str]) -> UpstreamError:
    """What a purchase raises that was not answered with a link.

    Raises Unreadable where a 400 is none of theirs: it is then in doubt.
    """
    if reply.status == 400:
        code = error_code(reply)
        return SoldOut(code) if _is_sold_out(code, sold_out) else Refused(code, is_fault=True)
    if reply.status == 429:
        return Refused("too many requests", is_fault=True)
    if 300 <= reply.status < 500 and reply.status != 408:
        return Refused(f"status {reply.status}", is_fault=True)
    return InDoubt(f"status {reply.status}")


def _is_sold_out(code: str, sold_out: frozenset[str]) -> bool:
    """The word for a price above `maxPrice` is not known for certain, but will have a price in it (§7)."""
    return code.lower() in sold_out or "price" in code.lower()


def error_code(reply: Reply) -> str:
    """`errorCode` of an error object, fit for a log. Raises Unreadable where the body is no such object."""
    data = mapping(reply.json())
    if "errorCode" not in data:
        raise Unreadable("no error object")
    code = data["errorCode"]
    return code if isinstance(code, str) and _ERROR_CODE.fullmatch(code) else "an error without a known code"


def read_price(reply: Reply) -> int | None:
    """Micro-units, or None where it is not sold so: 400 with an error object."""
    if reply.status == 400:
        error_code(reply)
        return None
    return micros(mapping(readable(reply)).get("price"))


def read_stock(reply: Reply) -> int | None:
    """The count (9000 stands for "or more"), None where an older version has no such call."""
    if reply.status in (404, 405):
        return None
    if reply.status == 400:
        error_code(reply)
        return 0
    count = mapping(readable(reply)).get("availableQuantity")
    if not isinstance(count, int):
        raise Unreadable("no count")
    return count


def is_done(reply: Reply) -> bool:
    """Whether an action was done; a refusal says nothing of the state. Raises UnknownLease, Unwell."""
    if reply.status in (200, 204):
        return True
    if reply.status == 400:
        return False
    if reply.status == 404:
        raise UnknownLease("nothing of that id")
    raise Unwell(f"status {reply.status}")
