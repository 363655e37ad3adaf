"""What every call has in common: which method, whose key, what query and body; and how its answer leaves.

Raw ASGI, as the reference dialect: a poll builds no request and no response object on its way.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

import structlog
from prometheus_client import Counter
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.types import Receive, Scope, Send

from compat._admission import require_way_in
from compat._rest_access import Access, require
from compat._rest_models import ACTIVATION_ID, Model, NoQuery
from compat._rest_problems import KINDS, MEDIA_TYPE, Refused, problem, wrong_members, wrong_parameters
from compat._wire import JSON, answer, gone, header
from gateway.accounts import Caller
from gateway.errors import CallerError, Internal, TooManyRequests
from gateway.front import Front
from gateway.limits import hold_back
from gateway.sessions import BadSession, Session

PREFIX = "/api/v1"
BODY_BYTES_MAX = 16 * 1024
PARAMETERS_MAX = 20
PREFLIGHT_SECONDS = 600

Headers = Iterable[tuple[bytes, bytes]]

PRIVATE = ((b"cache-control", b"no-store"),)
"""Numbers and messages are in it: no cache on the way may keep it."""

REVALIDATED = ((b"cache-control", b"private, no-cache"),)
"""May be kept by whoever asked, and used again where the ETag is still good."""

_ALWAYS = ((b"x-content-type-options", b"nosniff"),)
_EXPOSED = b"ETag, Location, Retry-After"
_ALLOWED_HEADERS = b"Authorization, Content-Type, Idempotency-Key, If-Match, If-None-Match, Last-Event-ID, X-Api-Key"

_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,253}[\x21-\x7e])?")

log = structlog.get_logger()


class Hungup(Exception):
    """The client went away in the middle of its request."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer. `on_sent` is told whether the client was still there to get it."""

    body: bytes = b""
    status: int = 200
    content_type: bytes = JSON
    headers: Headers = PRIVATE
    on_sent: Callable[[bool], None] | None = None


@dataclass(frozen=True, slots=True)
class Stream:
    """An answer that goes on. `close` is called once, however it ends, begun or not."""

    chunks: AsyncIterator[bytes]
    content_type: bytes
    close: Callable[[], None]


@dataclass(slots=True)
class Call:
    """One request: who, with which query and body, as checked values. `is_within`: its limit of requests.

    Whoever is let in has a key or a session; only an operator's session has no `caller_or_none`.
    """

    scope: Scope
    receive: Receive
    caller_or_none: Caller | None = None
    session_or_none: Session | None = None
    query: Any = None
    body: Any = None
    has_waited: bool = False
    is_within: bool = True
    _hung_up: asyncio.Future[None] | None = field(default=None, repr=False)

    @property
    def caller(self) -> Caller:
        """Whose account it is. Only operations that need an account ask."""
        assert self.caller_or_none is not None  # noqa: S101 — `require` has seen to it
        return self.caller_or_none

    @property
    def session(self) -> Session:
        """Whose session it is. Only operations that need a session ask."""
        assert self.session_or_none is not None  # noqa: S101 — likewise
        return self.session_or_none

    @property
    def is_head(self) -> bool:
        return bool(self.scope["method"] == "HEAD")

    @property
    def path_id(self) -> str:
        """The `{id}` of the path, as it came."""
        return str(self.scope["path_params"]["id"])

    def header(self, name: bytes) -> str:
        return header(self.scope, name).decode("latin-1").strip()

    def hung_up(self) -> asyncio.Future[None]:
        """Done when the client has gone. Asked for once the body is read."""
        if self._hung_up is None:
            self._hung_up = asyncio.ensure_future(gone(self.receive))
        return self._hung_up

    def close(self) -> None:
        if self._hung_up is not None:
            self._hung_up.cancel()


Handler = Callable[[Call], Awaitable[Reply | Stream]]


@dataclass(frozen=True)
class Operation:
    """One method on one or more paths: what runs it, and all that the document says of it.

    `problems` are the codes it may answer with, beyond those that its key, query and body imply.
    """

    name: str
    method: str
    paths: Sequence[str]
    run: Handler
    summary: str
    answer: type[BaseModel]
    status: int = 200
    query: type[Model] = NoQuery
    body: type[Model] | None = None
    problems: tuple[str, ...] = ()
    description: str = ""
    media_type: str = "application/json"
    is_public: bool = False
    access: Access = Access.ACCOUNT
    has_etag: bool = False
    takes_idempotency_key: bool = False
    needs_idempotency_key: bool = False
    takes_if_match: bool = False
    has_tag: bool = False
    """Whether the answer has an ETag for `If-Match`."""

    takes_last_event_id: bool = False
    id_pattern: str = ACTIVATION_ID
    id_example: str = "ver_123456"

    @property
    def codes(self) -> tuple[str, ...]:
        """Every problem it may answer with."""
        known = ("bad_key", "bad_session", self.access.value, "malformed", "invalid", "unavailable", "internal")
        implied = () if self.is_public else tuple(code for code in known if code)
        of_body = () if self.body is None else ("too_large", "not_json", "too_many_requests")
        return tuple(dict.fromkeys((*implied, *of_body, *self.problems)))


class Resource:
    """One path with its methods: an ASGI application of its own."""

    def __init__(self, front: Front, operations: Iterable[Operation], origins: Collection[str]) -> None:
        self._front = front
        self._operations = {operation.method: operation for operation in operations}
        has_get = "GET" in self._operations
        self.methods = sorted({*self._operations, "OPTIONS", *(("HEAD",) if has_get else ())})
        self._allow = (b"allow", ", ".join(self.methods).encode())
        self._origins = frozenset(origin.encode("latin-1") for origin in origins)
        self._counts: dict[tuple[str, str], Counter] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method = scope["method"]
        operation = self._operations.get("GET" if method == "HEAD" else method)
        call = Call(scope, receive)
        started = time.perf_counter()
        try:
            reply, outcome = await self._reply(call, operation)
            await self._send(call, send, reply)
        finally:
            call.close()
        if operation is not None:
            self._observe(call, operation, outcome, time.perf_counter() - started)

    async def _reply(self, call: Call, operation: Operation | None) -> tuple[Reply | Stream, str]:
        try:
            if operation is None:
                return self._without_operation(call), "ok"
            await self._admit(call, operation)
            return await operation.run(call), "ok"
        except (CallerError, Refused) as error:
            return refusal(error), error.code
        except Hungup:
            return refusal(Refused("malformed")), "malformed"
        except Exception:
            log.exception("request.failed", action=operation.name if operation else "other")
            return refusal(Internal()), Internal.code

    def _without_operation(self, call: Call) -> Reply:
        if call.scope["method"] != "OPTIONS":
            raise Refused("method_not_allowed")
        if not header(call.scope, b"access-control-request-method"):
            return Reply(status=204, headers=(self._allow,))
        preflight = (
            (b"access-control-allow-methods", self._allow[1]),
            (b"access-control-allow-headers", _ALLOWED_HEADERS),
            (b"access-control-max-age", b"%d" % PREFLIGHT_SECONDS),
        )
        return Reply(status=204, headers=(self._allow, *(preflight if self._is_known_origin(call) else ())))

    async def _admit(self, call: Call, operation: Operation) -> None:
        """Key first, so that nobody without one learns what a request has to look like. Raises CallerError, Refused."""
        pairs = _pairs(call.scope)
        if not operation.is_public:
            await self._recognise(call, [value for name, value in pairs if name == "api_key"])
            require(operation.access, call.caller_or_none, call.session_or_none)
            if call.caller_or_none is not None:
                require_way_in(self._front, call.caller_or_none, call.scope, "rest")
            late_seconds = self._late_seconds(call)
            if late_seconds:
                call.has_waited = True
                call.is_within = await hold_back(late_seconds)
        if operation.is_public and operation.body is None:
            return  # documents: whatever else a link to them says has no effect
        call.query = _query(operation.query, [pair for pair in pairs if pair[0] != "api_key"])
        if operation.body is not None:
            call.body = _body(operation.body, await _read(call), call.header(b"content-type"))

    def _late_seconds(self, call: Call) -> float:
        if call.caller_or_none is not None:
            return self._front.late_seconds(call.caller_or_none)
        return self._front.operator_late_seconds(call.session.person.id)

    async def _recognise(self, call: Call, keys: Sequence[str]) -> None:
        """By session or key. Raises CallerError, Refused."""
        token = _bearer(call)
        if "." not in token:
            call.caller_or_none = await self._front.callers.caller(token or _key(call, keys))
            return
        try:
            call.session_or_none = await self._front.sessions.admit(token)
        except BadSession:
            raise Refused("bad_session") from None
        call.caller_or_none = call.session_or_none.caller

    async def _send(self, call: Call, send: Send, reply: Reply | Stream) -> None:
        extra = (*_ALWAYS, *self._cors(call))
        if isinstance(reply, Stream):
            await _send_stream(call, send, reply, extra)
            return
        headers = [*reply.headers, *extra]
        if reply.status == 405:
            headers.append(self._allow)
        was_there = True
        try:
            await _send_whole(call.scope, send, reply, headers)
        except OSError:
            was_there = False
        if reply.on_sent is not None:
            reply.on_sent(was_there)

    def _is_known_origin(self, call: Call) -> bool:
        return header(call.scope, b"origin") in self._origins or (
            b"*" in self._origins and bool(header(call.scope, b"origin"))
        )

    def _cors(self, call: Call) -> Headers:
        """Nothing where no origin is configured: then browsers keep other sites out."""
        if not self._origins:
            return ()
        vary = (b"vary", b"Origin")
        if not self._is_known_origin(call):
            return (vary,)
        allowed = (b"access-control-allow-origin", header(call.scope, b"origin"))
        return (vary, allowed, (b"access-control-expose-headers", _EXPOSED))

    def _observe(self, call: Call, operation: Operation, outcome: str, seconds: float) -> None:
        metrics, name = self._front.house.metrics, f"rest_{operation.name}"
        count = self._counts.get((name, outcome))
        if count is None:
            count = self._counts[(name, outcome)] = metrics.requests.labels(name, outcome)
        count.inc()
        if not call.has_waited:
            metrics.latency.labels(name).observe(seconds)


class Nowhere:
    """Every path of ours that is none."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reply = refusal(Refused("not_found"))
        await _send_whole(scope, send, reply, [*reply.headers, *_ALWAYS])


def show(model: BaseModel, status: int = 200, headers: Headers = PRIVATE) -> Reply:
    """A model as JSON."""
    return Reply(model.model_dump_json().encode(), status, headers=headers)


def refusal(error: CallerError | Refused) -> Reply:
    """The problem that an error is."""
    kind = KINDS[error.code]
    headers = list(PRIVATE)
    own_seconds = error.retry_seconds if isinstance(error, Refused | TooManyRequests) else None
    retry_seconds = kind.retry_seconds if own_seconds is None else own_seconds
    if retry_seconds is not None:
        headers.append((b"retry-after", b"%d" % math.ceil(retry_seconds)))
    if kind.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    return Reply(problem(error).model_dump_json(exclude_none=True).encode(), kind.status, MEDIA_TYPE, headers)


def idempotency_key(call: Call) -> str:
    """Empty where there is none. A string of structured fields (RFC 9651) is in quotes; most clients leave them out.

    Raises Refused.
    """
    if not any(name == b"idempotency-key" for name, _ in call.scope["headers"]):
        return ""
    key = call.header(b"idempotency-key")
    if len(key) > 1 and key[0] == key[-1] == '"':
        key = key[1:-1]
    if not _IDEMPOTENCY_KEY.fullmatch(key):
        raise Refused("bad_idempotency_key")
    return key


def unless_known(call: Call, etag: str, reply: Reply) -> Reply:
    """The reply with its ETag, or 304 where the client has it already."""
    headers = [*reply.headers, (b"etag", etag.encode())]
    known = [tag.strip().removeprefix("W/") for tag in call.header(b"if-none-match").split(",")]
    if "*" in known or etag.removeprefix("W/") in known:
        return Reply(status=304, headers=headers)
    return Reply(reply.body, reply.status, reply.content_type, headers)


# Requests


def _pairs(scope: Scope) -> list[tuple[str, str]]:
    try:
        return parse_qsl(
            scope["query_string"].decode("latin-1"), keep_blank_values=True, errors="replace",
            max_num_fields=PARAMETERS_MAX,
        )  # fmt: skip
    except ValueError:
        raise Refused("malformed", detail=f"{PARAMETERS_MAX} parameters at most") from None


def _bearer(call: Call) -> str:
    """A key, or a session's token, which has dots in it; empty where there is neither."""
    scheme, _, token = call.header(b"authorization").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _key(call: Call, given: Sequence[str]) -> str:
    return call.header(b"x-api-key") or (given[-1] if given else "")


def _query(model: type[Model], pairs: Sequence[tuple[str, str]]) -> Model:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise Refused("malformed", detail="a parameter is there more than once")
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise Refused("invalid", errors=wrong_parameters(error)) from None


async def _read(call: Call) -> bytes:
    """The whole body. Raises Refused where it is too large, Hungup where the rest of it never comes."""
    chunks, size = [], 0
    while True:
        message = await call.receive()
        if message["type"] != "http.request":
            raise Hungup
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > BODY_BYTES_MAX:
            raise Refused("too_large", detail=f"{BODY_BYTES_MAX} bytes at most")
        chunks.append(chunk)
        if not message.get("more_body"):
            return b"".join(chunks)


def _body(model: type[Model], raw: bytes, content_type: str) -> Model:
    if not raw and model.may_be_absent:
        return model()
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type and media_type != "application/json" and not media_type.endswith("+json"):
        raise Refused("not_json")
    try:
        # Not the standard library's: it takes NaN and half of a surrogate pair, which nobody can store.
        data = from_json(raw, allow_inf_nan=False)
    except ValueError:
        raise Refused("malformed", detail="the body is not JSON in UTF-8") from None
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise Refused("invalid", errors=wrong_members(error)) from None


# Answers


async def _send_whole(scope: Scope, send: Send, reply: Reply, headers: Headers) -> None:
    if reply.status not in (204, 304):
        await answer(scope, send, reply.body, reply.content_type, status=reply.status, headers=headers)
        return
    await send({"type": "http.response.start", "status": reply.status, "headers": list(headers)})
    await send({"type": "http.response.body", "body": b""})


async def _send_stream(call: Call, send: Send, stream: Stream, extra: Headers) -> None:
    # Proxies that collect answers before they pass them on are asked not to.
    headers = [(b"content-type", stream.content_type), (b"x-accel-buffering", b"no"), *PRIVATE, *extra]
    try:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if not call.is_head:
            async for chunk in stream.chunks:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    except OSError:
        pass
    finally:
        stream.close()
