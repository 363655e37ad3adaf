"""Where upstreams push to: `/webhooks/sms/<upstream>/<secret>`, and `/webhooks/sms` for the brief's own payload.

The secret part of the path stands in for the signature of upstreams that do not sign. Whatever follows the upstream's
name (and the secret) names the source, for upstreams that have several. What the sender wants to see is the adapter's
word; a refusal is 401 whether or not there is such an upstream.
"""

from __future__ import annotations

import hmac

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from compat._admission import peer
from gateway.errors import CallerError, PushRefused, PushUnreadable, UpstreamError
from gateway.front import Front
from gateway.upstream import PushRequest

PATH = "/webhooks/sms"
BODY_BYTES_MAX = 262_144
RETRY_HEADERS = {"retry-after": "5"}

log = structlog.get_logger()


class TooLarge(Exception):
    """The body outgrew its cap."""


def routes(front: Front) -> list[Route]:
    """For the application that serves what is no dialect's."""

    async def push(request: Request) -> Response:
        try:
            return await _answer(front, request)
        except (CallerError, UpstreamError) as error:
            return _refusal(error)
        except TooLarge:
            return Response("too large", 413)
        except ClientDisconnect:
            return Response(status_code=400)

    return [
        Route(PATH, push, methods=["POST"]),
        Route(PATH + "/{rest:path}", push, methods=["GET", "POST"]),
    ]


async def _answer(front: Front, request: Request) -> Response:
    upstream, *parts = [part for part in request.path_params.get("rest", "").split("/") if part] or [""]
    has_secret = bool(parts) and _equal(parts[0], front.inbox.secret(upstream))
    told = PushRequest(
        method=request.method,
        url=_public_url(front, request),
        headers={name.lower(): value for name, value in request.headers.items()},
        body=await _body(request),
        peer=peer(request.scope, front.house.settings.gateway.server.trusted_proxies),
        source="/".join(parts[1:] if has_secret else parts),
        has_secret=has_secret,
    )
    if not upstream:
        await front.inbox.take_native(told)
        return Response(b"", 200)
    taken = await front.inbox.take(upstream, told)
    return Response(taken.body, 200, media_type=taken.media_type)


def _refusal(error: Exception) -> Response:
    if isinstance(error, PushRefused):
        log.warning("push.refused", reason=str(error))
        return Response("not proven to come from whom it says", 401)
    if isinstance(error, PushUnreadable):
        log.warning("push.unreadable", reason=str(error))
        return Response("makes no sense", 400)
    return Response("not now", 503, headers=RETRY_HEADERS)


def _equal(told: str, right: str) -> bool:
    return hmac.compare_digest(told.encode(), right.encode())


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_BYTES_MAX:
            raise TooLarge
    return bytes(body)


def _public_url(front: Front, request: Request) -> str:
    """The address as the sender was told it, which is what it signed; never made of what it says in `Host`."""
    base = (front.house.settings.environment.webhook_url or "http://localhost" + PATH).rstrip("/")
    raw = bytes(request.scope.get("raw_path") or request.scope["path"].encode()).partition(b"?")[0]
    behind = raw.decode("latin-1").removeprefix(PATH)
    query = request.scope["query_string"].decode("latin-1")
    return f"{base}{behind}?{query}" if query else f"{base}{behind}"
