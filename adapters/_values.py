"""Small readers of foreign values. Each returns a value of ours or raises Unreadable, whose message holds no data."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, Generic, TypeVar

from pydantic import AfterValidator, BeforeValidator

from gateway.money import Money, MoneyError, to_micros

Code = TypeVar("Code", str, int)
T = TypeVar("T")

_REFERENCE = re.compile(r"[A-Za-z0-9_-]{1,64}")
_ODD_ESCAPE = re.compile(r"\\u(?:[dD][89a-fA-F]|0000)")
_FRACTION = re.compile(r"\.(\d{1,6})\d*")


class Unreadable(ValueError):
    """An answer that makes no sense. The HTTP seam turns it into Unwell or InDoubt, as the verb demands."""


def decoded(body: bytes) -> str:
    """Bytes of a foreign hand as text that can be written down anywhere, without a byte order mark.

    Nothing in it makes it unreadable: an SMS cut in the middle of an emoji must not hide its code.
    """
    try:
        return _without_nul(body.decode("utf-8-sig"))
    except UnicodeDecodeError:
        pass
    try:  # CESU-8, as some Java programs write: a half of a character at a time
        return storable(body.decode("utf-8-sig", "surrogatepass"))
    except UnicodeDecodeError:
        return _without_nul(body.decode("utf-8-sig", "replace"))


def storable(text: str) -> str:
    """The text with halves of a character joined, and U+FFFD for each that lacks the other and for NUL.

    The halves can't be encoded, and PostgreSQL's text has no NUL. To leave one out would make one word of two.
    """
    return _without_nul(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))


def _without_nul(text: str) -> str:
    return text.replace("\0", "\ufffd")


def load_json(body: bytes) -> Any:
    """Parsed JSON, each text in it as `storable` has it.

    Numbers with a point stay text, so that money never passes through a binary float.
    """
    try:
        text = decoded(body)
        data = json.loads(text, parse_float=str, parse_constant=_refuse_constant)
        return _storable(data) if _ODD_ESCAPE.search(text) else data
    except (ValueError, RecursionError):
        pass
    raise Unreadable("not JSON")


def _storable(data: Any) -> Any:
    if isinstance(data, str):
        return storable(data)
    if isinstance(data, list):
        return [_storable(item) for item in data]
    return {storable(key): _storable(item) for key, item in data.items()} if isinstance(data, dict) else data


def _refuse_constant(_name: str) -> None:
    raise Unreadable("not a number")


def readable(rows: Iterable[Any], read: Callable[[Any], T]) -> Iterator[T]:
    """What `read` makes of each row that is readable. The lease of another is then missing, and read singly."""
    for row in rows:
        try:
            made = read(row)
        except Unreadable:
            continue
        yield made


def all_readable(rows: Sequence[Any], read: Callable[[Any], T]) -> list[T]:
    """What `read` makes of every row. Raises Unreadable where one is not: it may be the one that is looked for."""
    made = list(readable(rows, read))
    if len(made) < len(rows):
        raise Unreadable("a row in the list")
    return made


def mapping(value: object) -> dict[str, Any]:
    """A JSON object. An empty list counts as an empty object: that is how PHP serialises one."""
    if isinstance(value, dict):
        return value
    if value == []:
        return {}
    raise Unreadable("not an object")


def reference(value: object) -> str:
    """An upstream's id as text; up to 19 digits, so it never passes through a float."""
    text = str(value) if isinstance(value, int | str) and not isinstance(value, bool) else ""
    if not _REFERENCE.fullmatch(text):
        raise Unreadable("not an id")
    return text


def digits(value: object) -> str:
    """A phone number, digits only: some upstreams send a plus sign, some send the number as a JSON integer."""
    text = re.sub(r"[\s+()-]", "", str(value))
    if not (text.isascii() and text.isdigit() and 7 <= len(text) <= 20):
        raise Unreadable("not a phone number")
    return text


def micros(value: object) -> int:
    """Micro-units of a price in a number or in text."""
    if isinstance(value, str | int | Decimal) and not isinstance(value, bool):
        try:
            return to_micros(value)
        except MoneyError:
            pass
    raise Unreadable("not an amount")


def whole(value: object) -> int | None:
    """A whole number of at most ten digits, itself or in text; None where it is neither."""
    text = str(value)
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 10 else None


def in_stock(value: object) -> int:
    """Numbers in stock, as a price list tells them; none where it tells nothing. Raises Unreadable on a structure."""
    if isinstance(value, dict | list):
        raise Unreadable("not a count")
    return whole(value) or 0


def cost(value: object, currency: str) -> Money | None:
    """The cost named in a reply, or None: a number already ours must not be lost over an odd price."""
    try:
        return Money(micros(value), currency)
    except Unreadable:
        return None


def moment(value: object, utc_offset_minutes: int = 0) -> float | None:
    """Epoch seconds of a time stamp, or None.

    Reads RFC 3339 with any number of fraction digits, `YYYY-MM-DD HH:MM:SS` (which names no zone: it is taken to be
    `utc_offset_minutes` ahead of UTC), and whole epoch seconds.
    """
    text = str(value or "").strip()
    if text.isascii() and text.isdigit() and len(text) <= 11:
        return float(text)
    try:
        parsed = datetime.fromisoformat(_FRACTION.sub(_six_digits, text, count=1))
    except (ValueError, OverflowError):
        return None
    if parsed.tzinfo is not None:
        return parsed.timestamp()
    return parsed.replace(tzinfo=UTC).timestamp() - utc_offset_minutes * 60


def _six_digits(fraction: re.Match[str]) -> str:
    """Python reads at most six fraction digits; Go writes nine and drops trailing zeros."""
    return "." + fraction[1].ljust(6, "0")


@dataclass(frozen=True)
class Codes(Generic[Code]):
    """Our codes and the upstream's words for them, one to one."""

    outgoing: Mapping[Code, str]
    incoming: Mapping[str, Code]

    @classmethod
    def of(cls, defaults: Mapping[Code, str], overrides: Mapping[Code, str]) -> Codes[Code]:
        """Defaults with the configured overrides on top. A default whose word an override took is dropped."""
        taken = set(overrides.values())
        kept = {code: word for code, word in defaults.items() if code not in overrides and word not in taken}
        table = kept | dict(overrides)
        return cls(table, {word: code for code, word in table.items()})


def one_to_one(table: Mapping[Any, str]) -> Mapping[Any, str]:
    """For Options: refuses a table in which two of our codes share one word of the upstream's."""
    words = list(table.values())
    shared = sorted({word for word in words if words.count(word) > 1})
    if shared:
        raise ValueError(f"more than one of our codes is mapped to {', '.join(shared)}")
    return table


def _http_address(value: str) -> str:
    if not value.startswith(("http://", "https://")) or "?" in value or "#" in value:
        raise ValueError("must be an http:// or https:// address without a query")
    return value.rstrip("/")


Address = Annotated[str, AfterValidator(_http_address)]
"""A base URL in Options, without a slash at its end."""

Reference = Annotated[str, BeforeValidator(reference)]
Digits = Annotated[str, BeforeValidator(digits)]
CodeTable = AfterValidator(one_to_one)
