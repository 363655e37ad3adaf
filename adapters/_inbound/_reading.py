"""What parsing takes: fields, numbers and texts of a request. Readers raise Unreadable, whose message holds no data."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qsl

from adapters._values import Unreadable, load_json, mapping, storable
from gateway.errors import PushUnreadable
from gateway.upstream import PushRequest

_ID = re.compile(r"[\x21-\x7e]{1,128}")
_SEPARATORS = re.compile(r"[\s+().-]")
_LIKE_A_NUMBER = re.compile(r"\+?[0-9][0-9\s().-]*")


@contextmanager
def parsing() -> Iterator[None]:
    """For parsing: what the readers refuse is a push that makes no sense."""
    try:
        yield
    except Unreadable as error:
        reason = str(error)
    else:
        return
    raise PushUnreadable(reason)


def is_json(request: PushRequest) -> bool:
    return "json" in request.headers.get("content-type", "").lower() or request.body.lstrip()[:1] in (b"{", b"[")


def json_object(request: PushRequest) -> dict[str, Any]:
    return mapping(load_json(request.body))


def query(url: str) -> list[tuple[str, str]]:
    """The parameters behind the question mark, in order, repeated ones too."""
    return _pairs(url.partition("?")[2].partition("#")[0])


def form(request: PushRequest) -> list[tuple[str, str]]:
    """The fields of a form: of the query for a GET, of the body for any other method, never of both."""
    return query(request.url) if request.method == "GET" else _pairs(request.body.decode("utf-8", "replace"))


def _pairs(encoded: str) -> list[tuple[str, str]]:
    # As they came: some senders sign them.
    return parse_qsl(encoded, keep_blank_values=True, errors="replace")


def lists(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Every value of every name, in order."""
    found: dict[str, list[str]] = {}
    for name, value in pairs:
        found.setdefault(name, []).append(value)
    return found


def single(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Fields of which each comes once: two values of one name are two readings of one message."""
    found: dict[str, str] = {}
    for name, value in pairs:
        if found.setdefault(name, value) != value:
            raise Unreadable("a field comes twice")
    return {storable(name): storable(value) for name, value in found.items()}


def identity(value: object, pattern: re.Pattern[str] = _ID) -> str:
    """The sender's id of a message."""
    text = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
    if not pattern.fullmatch(text):
        raise Unreadable("no sensible id")
    return text


def number(value: object) -> str:
    """Digits of one of our numbers; short codes have as few as three."""
    text = _SEPARATORS.sub("", value) if isinstance(value, str) else str(value) if type(value) is int else ""
    if not (text.isascii() and text.isdigit() and 3 <= len(text) <= 20):
        raise Unreadable("not a phone number")
    return text


def number_or_nothing(value: object) -> str:
    """For senders who do not always know the number: what can't be read is looked up by the device."""
    try:
        return number(value)
    except Unreadable:
        return ""


def sender(value: object) -> str:
    """Who wrote: digits where it is a number, else the name as it came; nothing where it is withheld."""
    if value is None:
        return ""
    if type(value) is int:
        return str(value)
    if not isinstance(value, str):
        raise Unreadable("no sensible sender")
    name = storable(value).strip()
    return _SEPARATORS.sub("", name) if _LIKE_A_NUMBER.fullmatch(name) and name.isascii() else name


def text(value: object) -> str:
    if not isinstance(value, str):
        raise Unreadable("no text")
    return storable(value)


def word(fields: Mapping[str, Any], name: str) -> str:
    """A field that has to hold a word, such as the kind of an event."""
    value = fields.get(name)
    if not isinstance(value, str) or not value:
        raise Unreadable(f"no {name}")
    return value
