"""The HTTP seam of every adapter: `ask` for harmless calls, `buy` for purchases.

A purchase on these wires is a GET, so the HTTP method says nothing about what is safe to repeat; the verb does. Nothing
in here ever sends a request twice: no redirects, no retries, and aiohttp's own repeat of idempotent methods (sent when
a server drops a connection without an answer) is switched off.

Purchases have a pool of their own, so polls that hang can't starve them, and its idle connections are kept for two
seconds only: long enough to be reused under load, shorter than the idle time-out of any server met (PHP and Apache 5 s,
nginx 75 s). A connection that the server is about to close would make a purchase look in doubt.

Failures are translated once, here. Messages hold class names and HTTP status, never a URL, key, number or text; and the
foreign exception is not chained, since aiohttp prints the whole URL, key included, in some of its own.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

from adapters._values import Unreadable, decoded, load_json
from gateway.errors import InDoubt, NotReached, Unwell, UpstreamError
from gateway.upstream import Context

CONNECTIONS = 100
BUY_IDLE_SECONDS = 2.0
ASK_IDLE_SECONDS = 15.0
CONNECT_SECONDS = 4.0
ASK_SECONDS = 10.0
LIST_SECONDS = 60.0
BODY_BYTES = 1 << 20
LIST_BYTES = 64 << 20
HEADERS = {"user-agent": "simroute", "accept": "*/*", "accept-encoding": "gzip, deflate"}

T = TypeVar("T")

_FOREIGN = (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL, aiohttp.ClientError, OSError, ValueError, LookupError)
"""Whatever a lost or senseless answer can raise; TimeoutError is an OSError, Unreadable a ValueError."""

_NOTHING_SENT = (
    # aiohttp: no address, no route, refused, TLS, certificate; a proxy not reached or one that would not connect us;
    # no connection (or no free place in the pool) in time
    aiohttp.ClientConnectorError,
    aiohttp.ServerFingerprintMismatch,
    aiohttp.ClientHttpProxyError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.InvalidURL,
    # stock httpx, and transports that stand in for it
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
    httpx.InvalidURL,
)

_LOCAL = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, socket.EAI_MEMORY})
"""No descriptor, no memory, no buffer left: whoever was to be connected to has no part in it.

EADDRNOTAVAIL, which stands for no local port, too, is also what an address says that can't be reached from here.
"""


class TooLarge(Unreadable):
    """The body outgrew its cap; reading stopped there."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer that arrived whole."""

    status: int
    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(repr=False, default_factory=dict)

    @property
    def text(self) -> str:
        """The body as `decoded` text, without surrounding white space."""
        return decoded(self.body).strip()

    def json(self) -> Any:
        """The body as JSON, decimals as text. Raises Unreadable."""
        return load_json(self.body)


class Http:
    """The connections of one upstream.

    `base_url` goes before the address of every call, `params` before its own.
    """

    def __init__(
        self,
        context: Context,
        headers: Mapping[str, str] | None = None,
        *,
        base_url: str = "",
        params: Mapping[str, str] | None = None,
    ) -> None:
        self._observe = context.observe
        self._base_url = base_url
        self._params = params or {}
        fields = {**HEADERS, **(headers or {})}
        self._asks = _Line(context.transport or _network(context.proxy, ASK_IDLE_SECONDS), fields)
        self._buys = _Line(context.transport or _network(context.proxy, BUY_IDLE_SECONDS), fields)

    async def ask(
        self,
        verb: str,
        url: str,
        read: Callable[[Reply], T],
        *,
        params: Mapping[str, str] | None = None,
        seconds: float = ASK_SECONDS,
        body_bytes: int = BODY_BYTES,
        method: str = "GET",
        body: Body | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> T:
        """One harmless call: what `read` makes of the reply.

        `seconds` bounds the whole call, `headers` are added to those of every request. Raises Unwell when no sensible
        answer came, and any UpstreamError of `read`.
        """
        call = self._call(url, params, seconds, body_bytes, method, body, headers)
        with self._observed(verb):
            return await _exchange(self._asks, call, read, _unwell)

    async def ask_list(
        self,
        verb: str,
        url: str,
        read: Callable[[Reply], T],
        *,
        params: Mapping[str, str] | None = None,
        method: str = "GET",
        body: Body | None = None,
    ) -> T:
        """As `ask`, for a price list: long, and long in coming."""
        return await self.ask(
            verb, url, read, params=params, seconds=LIST_SECONDS, body_bytes=LIST_BYTES, method=method, body=body
        )

    async def buy(
        self,
        url: str,
        read: Callable[[Reply], T],
        *,
        params: Mapping[str, str] | None = None,
        seconds: float,
        method: str = "GET",
        body: Body | None = None,
        headers: Mapping[str, str] | None = None,
        verb: str = "buy",
    ) -> T:
        """One purchase, one request: what `read` makes of the reply.

        A question that a purchase waits for has another `verb` (`_price_first`). Raises NotReached when surely nothing
        was sent, InDoubt when the reply was lost or makes no sense, and any UpstreamError of `read`.
        """
        call = self._call(url, params, seconds, BODY_BYTES, method, body, headers)
        with self._observed(verb):
            return await _exchange(self._buys, call, read, _lost)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._asks.transport.aclose()
        await self._buys.transport.aclose()

    def _call(self, url: str, params: Mapping[str, str] | None, *rest: Any) -> _Call:
        return _Call(self._base_url + url, {**self._params, **(params or {})}, *rest)

    @contextmanager
    def _observed(self, verb: str) -> Iterator[None]:
        started = time.monotonic()
        outcome = "ok"
        try:
            yield
        except BaseException as error:
            outcome = type(error).__name__
            raise
        finally:
            self._observe(verb, outcome, time.monotonic() - started)


@dataclass(frozen=True, slots=True)
class Body:
    """What a request carries, with its media type."""

    content: bytes = field(repr=False)
    media_type: str

    @classmethod
    def json(cls, data: object) -> Body:
        """`data` as compact JSON."""
        return cls(json.dumps(data, separators=(",", ":")).encode(), "application/json")

    @classmethod
    def form(cls, fields: Mapping[str, str]) -> Body:
        """`fields` as an HTML form posts them."""
        return cls(urlencode(fields).encode(), "application/x-www-form-urlencoded")


def path(*parts: str) -> str:
    """The parts as a path, whatever is in them."""
    return "".join(f"/{quote(part, safe='')}" for part in parts)


def list_body(reply: Reply) -> bytes:
    """A price list, unread. Raises Unwell where the reply is none."""
    if reply.status != 200 or reply.body.lstrip()[:1] not in (b"{", b"["):
        raise Unwell(f"status {reply.status}, or no list")
    return reply.body


@dataclass(frozen=True, slots=True)
class _Call:
    url: str = field(repr=False)
    params: Mapping[str, str] = field(repr=False)
    seconds: float
    body_bytes: int
    method: str = "GET"
    body: Body | None = None
    headers: Mapping[str, str] | None = field(repr=False, default=None)

    def request(self, headers: Mapping[str, str]) -> httpx.Request:
        """The request to send.

        Waiting for a connection ends well before the call does, so that "not reached" can be told from "lost";
        httpx-aiohttp makes `pool` the limit on a place in the pool and the connection together.
        """
        connect = min(CONNECT_SECONDS, self.seconds / 2)
        timeout = {"connect": connect, "pool": connect, "read": self.seconds, "write": self.seconds}
        url = f"{self.url}?{urlencode(self.params)}" if self.params else self.url
        fields = {**headers, **(self.headers or {})}
        if self.body is not None:
            fields["content-type"] = self.body.media_type
        content = self.body.content if self.body is not None else None
        return httpx.Request(self.method, url, headers=fields, content=content, extensions={"timeout": timeout})


@dataclass(frozen=True, slots=True)
class _Line:
    """A transport with the headers every request on it carries.

    Not an `httpx.AsyncClient`: what that adds (redirects, cookies, authentication, logging of addresses) is what must
    not happen here, and it costs a purchase a tenth of a millisecond.
    """

    transport: httpx.AsyncBaseTransport
    headers: Mapping[str, str] = field(repr=False)


async def _exchange(
    line: _Line, call: _Call, read: Callable[[Reply], T], failure: Callable[[Exception], UpstreamError]
) -> T:
    try:
        async with asyncio.timeout(call.seconds):
            reply = await _fetch(line, call)
        return read(reply)
    except _FOREIGN as error:
        translated = failure(error)
        translated.is_local = _is_local(_cause(error))
    raise translated  # outside the handler, so that nothing foreign is chained to it


async def _fetch(line: _Line, call: _Call) -> Reply:
    response = await line.transport.handle_async_request(call.request(line.headers))
    try:
        body = await _read_capped(response, call.body_bytes)
    finally:
        await response.aclose()
    return Reply(response.status_code, body, response.headers)


async def _read_capped(response: httpx.Response, body_bytes: int) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > body_bytes:
            raise TooLarge("body too large")
    return bytes(body)


def _unwell(error: Exception) -> UpstreamError:
    return Unwell(f"no sensible answer ({_cause_name(error)})")


def _lost(error: Exception) -> UpstreamError:
    if isinstance(_cause(error), _NOTHING_SENT):
        return NotReached(f"not connected ({_cause_name(error)})")
    return InDoubt(f"answer lost or senseless ({_cause_name(error)})")


def _cause(error: Exception) -> BaseException:
    """What aiohttp said, where it spoke: httpx-aiohttp calls a dropped reply `ConnectTimeout`."""
    return error.__cause__ if isinstance(error.__cause__, aiohttp.ClientError) else error


def _is_local(cause: BaseException) -> bool:
    if isinstance(cause, aiohttp.ClientConnectorDNSError) and not _has_descriptor():
        return True  # the resolver does not say why it could not ask
    return isinstance(cause, OSError) and cause.errno in _LOCAL


def _has_descriptor() -> bool:
    """Whether one more file can be opened."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        return False
    return True


def _cause_name(error: Exception) -> str:
    return type(_cause(error)).__name__


def _network(proxy: str | None, idle_seconds: float) -> AiohttpTransport:
    return AiohttpTransport(
        verify=_tls(),
        trust_env=False,
        proxy=_proxy(proxy) if proxy else None,
        client=lambda: _session(idle_seconds),  # called by the first request, inside the running loop
    )


def _proxy(address: str) -> httpx.Proxy:
    """Raises ValueError, without the address (it may hold a password)."""
    try:
        proxy = httpx.Proxy(address)
    except (ValueError, httpx.InvalidURL):
        proxy = None
    if proxy is None or proxy.url.scheme not in ("http", "https"):
        raise ValueError("the outgoing proxy must be an http:// or https:// address")
    return proxy


@cache
def _tls() -> ssl.SSLContext:
    return httpx.create_ssl_context(trust_env=False)


def _session(idle_seconds: float) -> aiohttp.ClientSession:
    return without_retry(
        aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=CONNECTIONS, keepalive_timeout=idle_seconds, ssl=_tls()),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
        )
    )


def without_retry(session: aiohttp.ClientSession) -> aiohttp.ClientSession:
    """Switch off aiohttp's repeat of a GET on a dropped connection: it would buy twice.

    Raises RuntimeError where aiohttp no longer has the switch, since going on would be unsafe.
    """
    if not hasattr(session, "_retry_connection"):
        raise RuntimeError("this aiohttp has no `_retry_connection` switch: purchases could be sent twice")
    session._retry_connection = False
    return session
