"""What the `handler_api.php` dialects answer with: replies, refusals of their own, and how values are printed."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from starlette.types import Receive

from compat._wire import JSON, TEXT
from gateway.accounts import Caller

CURRENCY_NUMBERS = {"USD": 840, "RUB": 643, "EUR": 978, "GBP": 826, "NGN": 566, "CNY": 156, "UAH": 980, "KZT": 398}
"""ISO 4217 numbers, sent as JSON numbers; 840 for a currency not listed here, which is what clients assume."""

_DIGITS = re.compile(r"[0-9]+")
_TRUE = frozenset({"1", "true", "True", "TRUE", "yes", "on"})


@dataclass(frozen=True, slots=True)
class Reply:
    """A body with its type. `on_sent` is told whether the client was still there to get it."""

    body: bytes
    content_type: bytes = TEXT
    headers: tuple[tuple[bytes, bytes], ...] = ()
    on_sent: Callable[[bool], None] | None = None
    status: int = 200


class Refusal(Exception):
    """A refusal only this dialect knows, in its own bytes."""

    def __init__(self, reply: Reply) -> None:
        super().__init__()
        self.reply = reply


@dataclass(slots=True)
class Call:
    """One request: who, and with which parameters. One that is not `is_within` the limit gets what memory knows."""

    caller: Caller
    values: Mapping[str, str]
    action: str
    receive: Receive
    is_within: bool = True


def text(body: str, status: int = 200) -> Reply:
    """A plain token."""
    return Reply(body.encode(), status=status)


def as_json(value: object, status: int = 200) -> Reply:
    return Reply(dumps(value), JSON, status=status)


def dumps(value: object) -> bytes:
    """Compact JSON in UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def date(at: float) -> str:
    """The original's form, without a zone; ours is UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(at))


def zoned(at: float) -> str:
    """RFC 3339 in UTC, as the newer dialects print it."""
    return time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(at))


def amount(micros: int) -> float:
    """Money as the JSON number clients know. Four decimals at most, so a float prints it exactly."""
    return micros / 1_000_000


def currency_number(currency: str) -> int:
    return CURRENCY_NUMBERS.get(currency, 840)


def whole(value: str | None, default: int) -> int:
    """A small whole number, or the default."""
    return int(value) if value and _DIGITS.fullmatch(value) and len(value) < 10 else default


def is_true(value: str | None) -> bool:
    """Whether a switch is on, in the spellings of four languages."""
    return value in _TRUE


def in_header(said: str) -> bytes:
    """A text as a header can hold it: on one line; percent-encoded UTF-8 where it is more than plain ASCII."""
    flat = " ".join(said.split())[:HEADER_TEXT_MAX]
    if flat.isascii() and flat.isprintable():
        return flat.encode()
    return "".join(character if _is_safe(character) else _escaped(character) for character in flat).encode()


HEADER_TEXT_MAX = 1000
"""Characters; a longer line, once encoded, is more than clients take in one header."""


def _is_safe(character: str) -> bool:
    return character.isascii() and character.isprintable() and character != "%"


def _escaped(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "replace"))
