"""Requests and answers as raw ASGI, for paths where every microsecond and every byte counts."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from urllib.parse import quote_from_bytes, unquote_plus

from starlette.types import Receive, Scope, Send

BODY_BYTES_MAX = 65_536
FORM = b"application/x-www-form-urlencoded"
MULTIPART = b"multipart/form-data"
FIELDS_MAX = 1000
"""As many as PHP takes."""
CRLF = b"\r\n"
TEXT = b"text/html; charset=UTF-8"
JSON = b"application/json"

NOT_A_PAGE = (
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"sandbox; default-src 'none'"),
)
"""For texts that might be taken for a page: senders of messages and owners of webhooks write what stands in them."""

ABSENT = frozenset({"", "undefined", "null", "None"})
"""What clients in four languages send for "no value"."""

_BOUNDARY = re.compile(rb'boundary="?([^\s",;]{1,70})', re.IGNORECASE)
_NAME = re.compile(rb'^content-disposition:[^\r\n]*;\s*name="([^"\r\n]*)"', re.IGNORECASE | re.MULTILINE)
_GZIP = re.compile(rb"(?:^|[,\s])(?:gzip|\*)\s*(?:;\s*q\s*=\s*(?:1(?:\.0*)?|0\.\d*[1-9]\d*)\s*)?(?:,|$)")


def parameters(*encoded: bytes) -> dict[str, str]:
    """URL-encoded pairs as PHP takes them: the last of a name wins, `+` is a space. Bad UTF-8 and NUL become U+FFFD.

    Of several strings the first has the last word. Names lose the spaces one client puts behind them. The values of
    an array, `operator[]=a&operator[]=b`, are one with commas, which is how this protocol writes lists.
    """
    found: dict[str, str] = {}
    for text in reversed(encoded):
        if b"]" in text or b"%5" in text:
            found.update(_with_arrays(text))
            continue
        plain = text.decode("utf-8", "replace")
        decoded = _decoded if "%" in plain or "+" in plain or "\0" in plain else str
        for pair in plain.split("&"):
            name, _, value = pair.partition("=")
            found[decoded(name).strip()] = decoded(value)
    return {name: value for name, value in found.items() if value not in ABSENT}


def _with_arrays(text: bytes) -> dict[str, str]:
    """An array and a scalar of one name take each other's place."""
    found: dict[str, str] = {}
    arrays: set[str] = set()
    for pair in text.decode("utf-8", "replace").split("&"):
        raw, _, rest = pair.partition("=")
        name, value = _decoded(raw).strip(), _decoded(rest)
        if name.endswith("]"):
            name = name.partition("[")[0]
            before = found[name] if name in arrays else ""
            found[name] = ",".join(filter(None, (before, value)))
            arrays.add(name)
        else:
            found[name] = value
            arrays.discard(name)
    return found


def _decoded(text: str) -> str:
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
    """The pairs of a form POST; empty for any other body, and for one larger than a form can sensibly be."""
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
    if size > BODY_BYTES_MAX:
        return b""
    content_type = header(scope, b"content-type")
    if content_type.lower().startswith(FORM):
        return b"".join(chunks)
    return _fields(content_type, b"".join(chunks)) if content_type.lower().startswith(MULTIPART) else b""


def _fields(content_type: bytes, body: bytes) -> bytes:
    """The fields of a multipart form, what PHP's curl makes of an array, as URL-encoded pairs; files say nothing."""
    boundary = _BOUNDARY.search(content_type)
    if boundary is None:
        return b""
    pairs = []
    for part in body.split(b"--" + boundary[1], FIELDS_MAX)[1:]:
        head, _, value = part.partition(b"\r\n\r\n")
        name = _NAME.search(head)
        if name is not None and b"filename=" not in head:
            pairs.append(f"{quote_from_bytes(name[1])}={quote_from_bytes(value.removesuffix(CRLF))}")
    return "&".join(pairs).encode()


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
    if content_type == TEXT and b"<" in body:
        fields += NOT_A_PAGE
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
