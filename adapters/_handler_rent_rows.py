"""What rentals look like on the wire of the `handler_api.php` family, and what its words mean for one. Pure.

Facts: `protocol/handler_api.md` §8. SMS-Activate's rent family refuses with `{"status": "error", "message": WORD}` and
200, HeroSMS with its envelopes; `_handler_words` reads both.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from adapters._handler_words import FAULTS, UNKNOWN_LEASE, Answer, call_error
from adapters._values import Unreadable, in_stock, mapping, micros, reference, whole
from gateway.errors import NotAllowed, Refused, UnknownLease, UpstreamError
from gateway.model import LeaseState, Sms

PREFIX = "rent:"
"""Rentals may be counted apart from activations, so that one id stands for one of each."""

STATES = {
    "STATUS_WAIT_CODE": LeaseState.OPEN,
    "STATUS_FINISH": LeaseState.FINISHED,
    "STATUS_CANCEL": LeaseState.CANCELLED,
    "STATUS_REVOKE": LeaseState.CANCELLED,  # the number was blocked there, the money is back
    "ACTIVATION_NOT_ACTIVE": LeaseState.CANCELLED,  # HeroSMS: cancelled or refunded; a finished one can be read still
}
UNKNOWN = UNKNOWN_LEASE | {"NO_ID_RENT", "INVALID_PHONE"}
NOTHING_TO_RENT = frozenset({"OUT_OF_STOCK", "NO_NUMBERS"})
NOT_EXTENSIBLE = frozenset(
    {
        "ACTION_NOT_AVAILABLE",
        "ACTIVATION_NOT_ACTIVE",
        "ALREADY_CANCEL",
        "ALREADY_FINISH",
        "BAD_DURATION",
        "FREEZE_PERIOD_NOT_REACHED",
        "INVALID_TIME",
        "MAX_HOURS_EXCEED",
        "RENT_DIE",
        "SIM_OFFLINE",
        "SIM_TEMPORARY_OFFLINE",
        "STATUS_CANCEL",
        "STATUS_FINISH",
        "STATUS_REVOKE",
        "TOO_EARLY",
        "WRONG_OPERATOR",
    }
)

Moment = Callable[[object], float | None]


@dataclass(frozen=True, slots=True)
class Goods:
    """A line of a list: what a rental of one service costs for the time asked for, and how many there are."""

    service: str
    cost_micros: int
    count: int


@dataclass(frozen=True, slots=True)
class Shown:
    """A message as its row has it. `date` is the upstream's word for when, `id` empty where it gives none."""

    text: str = field(repr=False)
    code: str = field(repr=False)
    sender: str = field(repr=False)
    date: str
    id: str


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a rental's messages and how many there are in all, or the state that is told instead of them."""

    rows: tuple[Shown, ...] = ()
    total: int = 0
    state: LeaseState = LeaseState.OPEN


def rent_id(lease: str) -> str | None:
    """The upstream's own id of a rental; None where the reference is another lease's."""
    return lease[len(PREFIX) :] if lease.startswith(PREFIX) else None


def data_of(answer: Answer) -> Any:
    """The JSON of an answer that is no refusal. Raises Refused where the account is at fault, Unwell."""
    if answer.word in FAULTS:
        raise Refused(answer.quotable, is_fault=True)
    if answer.word or answer.status != 200:
        raise call_error(answer)
    return answer.data


def values(member: object) -> list[Any]:
    """The rows of a PHP list: an array, or an object whose names are numbers."""
    return member if isinstance(member, list) else list(mapping(member).values())


def goods(answer: Answer) -> tuple[list[Goods], str]:
    """What a country has, with the number of the currency where it is told. Raises Refused, Unwell, Unreadable."""
    if answer.word in NOTHING_TO_RENT:
        return [], ""
    data = mapping(data_of(answer))
    listed = mapping(data.get("services"))
    return [_goods(service, mapping(leaf)) for service, leaf in listed.items()], str(data.get("currency") or "")


def _goods(service: str, row: dict[str, Any]) -> Goods:
    """`cost` and `quant` at SMS-Activate, `price` and `quantity` at HeroSMS."""
    count = in_stock(row["quant"] if "quant" in row else row.get("quantity"))
    return Goods(service, micros(row["cost"] if "cost" in row else row.get("price")), count)


def renting_countries(answer: Answer) -> list[str]:
    """Of getCountries: those with `rent`. Raises Refused, Unwell, Unreadable."""
    rows = [mapping(row) for row in values(data_of(answer))]
    flags = {reference(row.get("id")): whole(row.get("rent")) for row in rows if row.get("id") not in (None, "")}
    if all(flag is None for flag in flags.values()):
        raise Unreadable("no country says whether it rents out")
    return [word for word, flag in flags.items() if flag == 1]


def state_page(answer: Answer) -> Page | None:
    """What a refusal to show messages says of the rental; None where there is no refusal. Raises Unwell."""
    if answer.word in UNKNOWN:
        return Page(state=LeaseState.UNKNOWN)
    if answer.word in STATES:
        return Page(state=STATES[answer.word])
    if answer.word or answer.status != 200:
        raise call_error(answer)
    return None


def shown(row: object) -> Shown:
    """Raises Unreadable: a message that is left out would never be read."""
    told = mapping(row)
    parts = [told.get(name) for name in ("text", "code", "phoneFrom", "date", "id")]
    if not all(part is None or isinstance(part, str | int) for part in parts) or parts[0] is parts[1] is None:
        raise Unreadable("not a message")
    text, code, sender, date, id_ = ("" if part is None else str(part) for part in parts)
    return Shown(text, code, sender, date, id_)


def messages(rows: Iterable[Shown], moment: Moment) -> tuple[Sms, ...]:
    """Oldest first; rows of one second stay in the order they have here.

    Where a message has no id its content stands for it. Those that are equal are numbered: it does not matter which of
    them is which.
    """
    seen: Counter[str] = Counter()
    made = [Sms(row.code, row.text, row.sender, moment(row.date), row.id or _numbered(row, seen)) for row in rows]
    return tuple(sorted(made, key=lambda sms: sms.received_at or 0.0))


def _numbered(row: Shown, seen: Counter[str]) -> str:
    content = "\0".join((row.sender, row.text, row.date)).encode("utf-8", "replace")
    digest = hashlib.blake2b(content, digest_size=12).hexdigest()
    seen[digest] += 1
    return digest if seen[digest] == 1 else f"{digest}:{seen[digest]}"


def extension_error(answer: Answer) -> UpstreamError:
    """Why the price of more time is not told."""
    if answer.word in UNKNOWN:
        return UnknownLease(answer.quotable)
    return NotAllowed(answer.quotable) if answer.word in NOT_EXTENSIBLE else call_error(answer)


def history(rows: Iterable[object]) -> list[int]:
    """How many hours each extension gave: `hours` in both forms. Raises Unreadable."""
    return [_hours(mapping(row).get("hours")) for row in rows]


def _hours(value: object) -> int:
    hours = whole(value)
    if hours is None:
        raise Unreadable("not a time")
    return hours
