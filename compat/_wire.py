"""Requests and answers as raw ASGI, for paths where every microsecond and every byte counts."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from urllib.parse import unquote_plus

from starlette.types import Receive, Scope, Send

BODY_BYTES_MAX = 65_536
FORM = b"application/x-www-form-urlencoded"
TEXT = b"text/html; charset=UTF-8"
JSON = b"application/json"

ABSENT = frozenset({"", "undefined", "null", "None"})
"""What clients in four languages send for "no value"."""

_GZIP = re.compile(rb"(?:^|[,\s])(?:gzip|\*)\s*(?:;\s*q\s*=\s*(?:1(?:\.0*)?|0\.\d*[1-9]\d*)\s*)?(?:,|$)")


def parameters(*encoded: bytes) -> dict[str, str]:
    """URL-encoded pairs as PHP takes them: the last of a name wins, `+` is a space. Bad UTF-8 and NUL become U+FFFD.

    Of several strings the first has the last word. Names lose the spaces one client puts behind them.
    """
    found: dict[str, str] = {}
    for text in reversed(encoded):
        for pair in text.split(b"&"):
            name, _, value = pair.partition(b"=")
            found[_decoded(name).strip()] = _decoded(value)
    return {name: value for name, value in found.items() if value not in ABSENT}


def _decoded(raw: bytes) -> str:
    text = raw.decode("utf-8", "replace")
    if "%" in text or "+" in text:
        text = unquote_plus(text, errors="replace")
    return text.replace("\0", "\ufffd") if "\0" in text else text  # PostgreSQL's text has no NUL


def header(scope: Scope, name: bytes) -> bytes:
    """A request header, empty where there is none; `name` in lower case."""
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value)
    return b""


async def form_body(scope: Scope, receive: Receive) -> bytes:
    """The body of a form POST; empty for any other body, and for one larger than a form can sensibly be."""
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return b""
        size += len(message.get("body", b""))
        if size <= BODY_BYTES_MAX:
            chunks.append(message.get("body", b""))
        if not message.get("more_body"):
            break
    is_form = header(scope, b"content-type").lower().startswith(FORM)
    return b"".join(chunks) if is_form and size <= BODY_BYTES_MAX else b""


async def gone(receive: Receive) -> None:
    """Returns when the client has hung up."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def answer(
    scope: Scope,
    send: Send,
    body: bytes,
    content_type: bytes,
    *,
    status: int = 200,
    headers: Iterable[tuple[bytes, bytes]] = (),
) -> None:
    """Sends a whole answer: never chunked, gzipped where the client asks for it, as the original did."""
    fields = [(b"content-type", content_type), (b"vary", b"Accept-Encoding"), *headers]
    if body and _GZIP.search(header(scope, b"accept-encoding")):
        body = _packed_small(body) if len(body) < 64 else gzip.compress(body, 3 if len(body) < 100_000 else 1)
        fields.append((b"content-encoding", b"gzip"))
    fields.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


@lru_cache(256)
def _packed_small(body: bytes) -> bytes:
    """The few short words that make up nearly all answers are packed once."""
    return gzip.compress(body, 1)


def first(values: Mapping[str, str], *names: str) -> str:
    """The first of the named parameters that is there, else empty."""
    for name in names:
        if name in values:
            return values[name]
    return ""
