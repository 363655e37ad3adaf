"""The endpoint of the `handler_api.php` dialects: which dialect a request is in, who asks, what is answered.

By the path where that names a dialect, else by the key's setting, else by the deployment's. Never by parameters:
clients of several dialects send the same ones.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import structlog
from starlette.types import Receive, Scope, Send

from compat._admission import require_way_in
from compat._dialect import Dialect
from compat._reply import Call, Refusal, Reply
from compat._wire import TEXT, answer, form_body, header, parameters
from gateway.errors import BadAction, CallerError, Internal
from gateway.front import Front
from gateway.limits import hold_back
from gateway.settings import Settings

log = structlog.get_logger()


class Endpoint:
    """An ASGI application of its own: a poll passes no middleware and builds no request object."""

    def __init__(self, front: Front, dialects: Mapping[str, Dialect], fixed: str = "") -> None:
        """`fixed` names the dialect of this path; empty where the key or the deployment decides."""
        self._front = front
        self._dialects = dialects
        self._fixed = fixed
        self._settings: Settings | None = None
        self._default = dialects[fixed or "sms_activate"]
        spoken = [dialects[fixed]] if fixed else dialects.values()
        self._known = frozenset(action for dialect in spoken for action in dialect.actions)
        metrics = front.house.metrics
        self._latency = {action: metrics.latency.labels(action) for action in (*self._known, "other")}
        self._counts = {(action, "ok"): metrics.requests.labels(action, "ok") for action in self._known}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method = scope["method"]
        if method not in ("GET", "POST"):
            # A HEAD or OPTIONS must not buy a number.
            await answer(scope, send, b"", TEXT, headers=((b"allow", b"GET, POST"),))
            return
        started = time.perf_counter()
        body = await form_body(scope, receive) if method == "POST" else b""
        values = parameters(scope["query_string"], body) if body else parameters(scope["query_string"])
        action = values.get("action", "")
        reply, outcome, held_seconds = await self._reply(scope, action, values, receive)
        await self._send(scope, send, reply)
        seconds = time.perf_counter() - started - held_seconds
        self._observe(action if action in self._known else "other", outcome, seconds)

    async def _reply(
        self, scope: Scope, action: str, values: Mapping[str, str], receive: Receive
    ) -> tuple[Reply, str, float]:
        """The answer, what came of it, and how long the request was held back."""
        held_seconds = 0.0
        dialect = self._dialect()
        try:
            is_post = scope["method"] == "POST"
            if action not in self._known or (is_post and not dialect.takes_post):
                if not self._fixed:
                    dialect = await self._of_key(dialect, scope, values)
                if is_post and not dialect.takes_post:
                    return dialect.post_refused, "refused", 0.0
                if action not in self._known:
                    raise BadAction
            caller = await self._front.callers.caller(values.get("api_key") or _key_in_header(dialect, scope))
            if caller.dialect and not self._fixed:
                dialect = self._dialects.get(caller.dialect, dialect)
            require_way_in(self._front, caller, scope, dialect.name)
            if is_post and not dialect.takes_post:
                return dialect.post_refused, "refused", 0.0
            handler = dialect.actions.get(action)
            if handler is None:
                raise BadAction
            call = Call(caller, values, action, receive)
            late_seconds = self._front.late_seconds(caller)
            if late_seconds:
                asked_at = time.perf_counter()
                call.is_within = await hold_back(late_seconds)
                held_seconds = time.perf_counter() - asked_at
            return await handler(call), "ok", held_seconds
        except CallerError as error:
            return dialect.refusal(error, action, values), error.code, held_seconds
        except Refusal as refusal:
            return refusal.reply, "refused", held_seconds
        except Exception:
            log.exception("request.failed", action=action if action in self._known else "other")
            return dialect.refusal(Internal(), action, values), Internal.code, held_seconds

    def _dialect(self) -> Dialect:
        """That of the path, or of the deployment as it is now."""
        settings = self._front.house.settings
        if settings is not self._settings and not self._fixed:
            self._settings, self._default = settings, self._dialects[settings.gateway.server.dialect]
        return self._default

    async def _of_key(self, dialect: Dialect, scope: Scope, values: Mapping[str, str]) -> Dialect:
        """The dialect of the key a request has, the given one where no key decides: for what is refused unheard."""
        try:
            caller = await self._front.callers.caller(values.get("api_key") or _key_in_header(dialect, scope))
            found = self._dialects.get(caller.dialect, dialect)
            require_way_in(self._front, caller, scope, found.name)
        except CallerError:
            return dialect
        return found

    async def _send(self, scope: Scope, send: Send, reply: Reply) -> None:
        was_there = True
        try:
            if reply.status == 204:
                await _nothing(send)
            else:
                await answer(scope, send, reply.body, reply.content_type, status=reply.status, headers=reply.headers)
        except OSError:
            was_there = False
        if reply.on_sent is not None:
            reply.on_sent(was_there)

    def _observe(self, action: str, outcome: str, seconds: float) -> None:
        key = (action, outcome)
        count = self._counts.get(key)
        if count is None:
            count = self._counts[key] = self._front.house.metrics.requests.labels(action, outcome)
        count.inc()
        self._latency[action].observe(seconds)


async def _nothing(send: Send) -> None:
    """204: neither a length nor a type, for there is nothing."""
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def _key_in_header(dialect: Dialect, scope: Scope) -> str:
    return header(scope, dialect.key_header).decode("latin-1").strip() if dialect.key_header else ""
