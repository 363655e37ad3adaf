"""The outermost layer of serving HTTP: what a connection may cost before anybody knows whose it is.

uvicorn reads heads of any size, bodies of any size, waits for a request for ever and takes any number of connections.
Here each of these has an end. What is refused is told so in plain text, and the connection stays for a moment, or the
answer would be lost with what the client is still sending.
"""

from __future__ import annotations

import asyncio
import resource
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, ClassVar, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from gateway.settings import ServerSettings

LINGER_SECONDS = 1.0
"""How long a refused connection may read its answer; what it sends meanwhile is thrown away."""

LINGERING_MAX = 200
"""Of those at a time; any further one is cut off without an answer."""

STALLED_SECONDS = 30.0
"""How long an answer may wait for a client that reads nothing of it."""

JOINED_BYTES_MAX = 65_536
"""Up to here a copy costs less than handing over two pieces."""

SPARE_DESCRIPTORS = 256
"""File descriptors kept for the database, upstreams and receivers."""


@dataclass
class Edge:
    """The limits of one server, and how many refused connections linger."""

    connections_max: int
    head_bytes_max: int
    body_bytes_max: int
    request_seconds: float
    lingering: int = 0

    @classmethod
    def of(cls, settings: ServerSettings) -> Edge:
        """As the settings say; no more connections than the process has descriptors for."""
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        room = max(soft - SPARE_DESCRIPTORS, soft // 2) if soft != resource.RLIM_INFINITY else settings.connections_max
        return cls(
            min(settings.connections_max, room),
            settings.head_bytes_max,
            settings.body_bytes_max,
            settings.request_seconds,
        )


class _TooLarge(Exception):
    """Ends the parsing of a request that is answered already."""


class _Joined:
    """What one answer is written to: its head goes out with the first piece of its body, as ASGI has it.

    One system call and one packet instead of two, which is a tenth of what a poll costs.
    """

    __slots__ = ("_cycle", "_has_begun", "_head", "_transport")

    def __init__(self, transport: asyncio.Transport, cycle: RequestResponseCycle) -> None:
        self._transport = transport
        self._cycle = cycle
        self._head: bytes | None = None
        self._has_begun = False

    def write(self, data: bytes) -> None:
        if self._head is not None:
            head, self._head = self._head, None
            if len(data) <= JOINED_BYTES_MAX:
                self._transport.write(head + data)
            else:
                self._transport.writelines((head, data))
        elif self._has_begun or not self._cycle.response_started:  # the latter is the word to go on with a body
            self._transport.write(data)
        else:
            self._has_begun = True
            self._head = data

    def close(self) -> None:
        if self._head is not None:
            self.write(b"")
        self._transport.close()

    def is_closing(self) -> bool:
        return self._transport.is_closing()


class Bounded(HttpToolsProtocol):
    """One connection within the limits. `bounded` makes the class that a server is given."""

    edge: ClassVar[Edge]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deadline: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None
        self._linger: asyncio.TimerHandle | None = None
        self._in_head = False
        self._in_message = False
        self._has_begun = False
        """Whether these bytes began a request: empty lines before one begin none."""
        self._unaccounted = 0
        """Bytes of a body in chunks that are neither head nor content: their sizes, extensions, trailers."""
        self._unread = 0
        """How much of the answers waited for the client at the last look."""
        self._is_short = False
        """Whether a head that ends in these bytes can't be too large: nearly every poll's, which is not measured."""
        self._bytes = 0
        """Of the head, as long as it is not whole; of the body after that."""

    # The connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        if len(self.connections) >= self.edge.connections_max:
            self.transport = transport
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "too many connections", b"retry-after: 1\r\n")
            return
        super().connection_made(transport)
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        self._no_longer_expect()
        for timer in (self._stall, self._linger):
            if timer is not None:
                timer.cancel()
        if self._linger is not None:
            self._linger = None
            self.edge.lingering -= 1
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._linger is not None or self.transport.is_closing():
            return
        was_in_head = self._in_head
        self._is_short = not was_in_head and len(data) <= self.edge.head_bytes_max
        self._has_begun = False
        self._unaccounted += len(data)
        super().data_received(data)
        if self._linger is not None or self.transport.is_closing():
            return
        if not self._in_message:
            is_waiting = self.cycle is None or self.cycle.response_complete
            if self._has_begun or not is_waiting:
                self._no_longer_expect()
            else:
                self._expect()
            return
        if not self._in_head and self._unaccounted > self.edge.head_bytes_max:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the body's trailers are too large")
            return
        if was_in_head and self._in_head:
            self._bytes += len(data)
            if self._bytes > self.edge.head_bytes_max:
                self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the request's head is too large")
                return
        self._expect()

    # The client's pace

    def _expect(self) -> None:
        """The rest of the request has to come in time."""
        if self._deadline is None:
            self._deadline = self.loop.call_later(self.edge.request_seconds, self._too_slow)

    def _no_longer_expect(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        self._deadline = None
        if self._in_message:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, "the request took too long to come")
        else:
            self.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stall is None:
            self._look_again()

    def resume_writing(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
        super().resume_writing()

    def _look_again(self) -> None:
        self._unread = self.transport.get_write_buffer_size()
        self._stall = self.loop.call_later(STALLED_SECONDS, self._stalled)

    def _stalled(self) -> None:
        """A client that reads, however slowly, is given the time."""
        self._stall = None
        if self.transport.get_write_buffer_size() < self._unread:
            self._look_again()
        else:
            self.transport.abort()

    def timeout_keep_alive_handler(self) -> None:
        if not self.transport.get_write_buffer_size():
            super().timeout_keep_alive_handler()
        elif self._stall is None:
            self._look_again()  # it has not even read its last answer

    # The request's size

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._no_longer_expect()
        self._in_head = self._in_message = self._has_begun = True
        self._bytes = 0

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._unaccounted = 0
        self._bytes = 0
        if not self._is_short or self.parser.get_method() != b"GET":
            self._measure()
        super().on_headers_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        if cycle.scope["method"] != "HEAD":  # which has a head alone
            cycle.transport = cast(asyncio.Transport, _Joined(cycle.transport, cycle))
        super()._start_asgi_task(cycle, app)

    def _measure(self) -> None:
        if len(self.url) > self.edge.head_bytes_max:
            self._too_large(HTTPStatus.REQUEST_URI_TOO_LONG, "the address is too long")
        size = len(self.url)
        for name, value in self.headers:
            size += len(name) + len(value) + 4
            if name == b"content-length" and value.isdigit() and int(value) > self.edge.body_bytes_max:
                self._too_large(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the body is too large")
        if size > self.edge.head_bytes_max:
            self._too_large(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the request's head is too large")

    def on_body(self, body: bytes) -> None:
        self._unaccounted = 0
        self._bytes += len(body)
        if self._bytes > self.edge.body_bytes_max:
            self._too_large(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the body is too large")
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_message = False
        super().on_message_complete()

    def _too_large(self, status: HTTPStatus, words: str) -> None:
        self._refuse(status, words)
        raise _TooLarge

    def send_400_response(self, msg: str) -> None:
        if self._linger is None and not self.transport.is_closing():  # else it has had its answer
            super().send_400_response(msg)

    def _refuse(self, status: HTTPStatus, words: str, headers: bytes = b"") -> None:
        """Answers, unless an answer has begun, and hangs up once that can have been read."""
        self._no_longer_expect()
        has_begun = self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if has_begun or self.edge.lingering >= LINGERING_MAX:
            self.transport.abort()
            return
        body = words.encode()
        self.transport.write(
            b"HTTP/1.1 %d %s\r\n" % (status.value, status.phrase.encode())
            + b"content-type: text/plain; charset=utf-8\r\n"
            + headers
            + b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body)
            + body
        )
        self.edge.lingering += 1
        self._linger = self.loop.call_later(LINGER_SECONDS, self.transport.abort)
        if self.transport.can_write_eof():
            self.transport.write_eof()


def bounded(edge: Edge) -> type[Bounded]:
    """The protocol of a server with these limits."""
    return type("Bounded", (Bounded,), {"edge": edge})
