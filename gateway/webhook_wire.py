"""How notices leave: an HTTP client that connects to public addresses only."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from gateway.errors import CallerError
from gateway.house import House
from gateway.webhook_addresses import is_public

CONNECTIONS_MAX = 256
RESOLVER_THREADS = CONNECTIONS_MAX
"""One for each request, so that none waits for another's dead name servers. A look-up holds its thread for as long as
the system tries, which a time-out does not end: whoever sends that many at once counts a request until `looked_up`."""

RESPONSE_BUFFER_BYTES = 1024

_look_ups: ContextVar[list[Future[Sequence[aiohttp.AddrInfoType]]]] = ContextVar("look_ups")
"""Of the request under way in this context. The connector resolves in tasks of its own, which inherit it."""


class PrivateAddress(OSError):
    """A connection was about to be made to an address that no notice may go to."""


class _Names(AbstractResolver):
    """Resolves on threads of its own: a client's name server that never answers must not hold up upstreams' names."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(RESOLVER_THREADS, "webhook-names")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        look_up = self._threads.submit(_look_up, host, port, family)
        _look_ups.get().append(look_up)
        found = await asyncio.wrap_future(look_up)
        return [_resolved(host, port, info[0], info[2], info[4][0]) for info in found]

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def _look_up(host: str, port: int, family: socket.AddressFamily) -> Sequence[aiohttp.AddrInfoType]:
    return socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)


def _resolved(host: str, port: int, family: int, protocol: int, address: object) -> ResolveResult:
    flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    return ResolveResult(hostname=host, host=str(address), port=port, family=family, proto=protocol, flags=flags)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a receiver said: a status, and when it asks to be tried again, as the header came (empty without one)."""

    status: int
    retry_after: str = ""

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300


class Wire:
    """The HTTP client of notices and of the payment hook.

    No proxy, no cookies, no redirects, no reuse; nothing of an answer but its status and headers.
    """

    def __init__(self, house: House) -> None:
        self._house = house
        self._session: aiohttp.ClientSession | None = None

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """What was answered. Raises ClientError (PrivateAddress as its `os_error`), TimeoutError, ValueError."""
        _look_ups.set([])
        timeout = aiohttp.ClientTimeout(total=self._house.settings.gateway.webhooks.timeout_seconds)
        async with self._opened().post(
            url, data=body, headers=headers, timeout=timeout, allow_redirects=False
        ) as response:
            return Answer(response.status, response.headers.get("Retry-After", ""))

    async def looked_up(self) -> None:
        """Waits until the task's last `post` holds no thread any more: where a name hangs, past its time-out."""
        left = [asyncio.wrap_future(look_up) for look_up in _look_ups.get([]) if not look_up.done()]
        await asyncio.gather(*left, return_exceptions=True)

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    resolver=_Names(), socket_factory=self._socket, force_close=True, limit=CONNECTIONS_MAX
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                read_bufsize=RESPONSE_BUFFER_BYTES,
                trust_env=False,
            )
        return self._session

    def _socket(self, info: aiohttp.AddrInfoType) -> socket.socket:
        """The one door to the network: what it is given is what gets connected to, whatever a name said before."""
        family, kind, protocol, _, address = info
        if not self._house.settings.gateway.webhooks.allow_private_addresses and not is_public(str(address[0])):
            raise PrivateAddress("not a public address")
        return socket.socket(family, kind, protocol)


_FAILURES: Sequence[tuple[type[Exception], str]] = (
    (TimeoutError, "timed out"),
    (aiohttp.ClientConnectorDNSError, "name not found"),
    (aiohttp.ClientSSLError, "tls failed"),
    (aiohttp.ClientConnectorCertificateError, "tls failed"),
    (aiohttp.ClientConnectorError, "not reached"),
    (aiohttp.InvalidURL, "bad address"),
    (aiohttp.ClientResponseError, "unreadable answer"),
    (aiohttp.ClientError, "connection lost"),
)


def failure(error: Exception) -> str:
    """A failure in words; only ever the class of an error, as messages tend to quote the URL."""
    if isinstance(error, CallerError):
        return f"refused: {error.code}"
    if is_refused(error):
        return "refused: private address"
    return next((words for kind, words in _FAILURES if isinstance(error, kind)), f"failed: {type(error).__name__}")


def is_refused(error: Exception) -> bool:
    """Whether it was we who would not send it."""
    is_private = isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, PrivateAddress)
    return is_private or isinstance(error, CallerError)
