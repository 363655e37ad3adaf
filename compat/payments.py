"""Where payment providers call back: `POST /webhooks/payments/stripe` and `POST /webhooks/payments/generic`.

Each is there only where its secret is set. An answer says whether the payment was booked, and nothing of accounts:

    200  booked; booked before; or nothing to be booked
    400  proven, and makes no sense            401  not proven
    409  the reference stands for another payment
    413  too large                             422  kept for a person to book: no such account, or not in its currency
    503  the database is away: again later
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.deposits import Outcome
from gateway.errors import CallerError
from gateway.payments import CallbackContradicts, CallbackRefused, CallbackUnreadable, Payments

PATH = "/webhooks/payments"
BODY_BYTES_MAX = 262_144
RETRY_HEADERS = {"retry-after": "5"}

Take = Callable[[bytes, Request], Awaitable[Outcome | None]]

log = structlog.get_logger()


class _TooLarge(Exception):
    """The body outgrew its cap."""


def routes(payments: Payments) -> list[Route]:
    """For the application that serves what is no dialect's."""

    async def stripe(body: bytes, request: Request) -> Outcome | None:
        return await payments.take_stripe(body, request.headers.get("stripe-signature", ""))

    async def generic(body: bytes, request: Request) -> Outcome | None:
        told_at = request.headers.get("x-payment-timestamp", "")
        return await payments.take_generic(body, told_at, request.headers.get("x-payment-signature", ""))

    found = []
    if payments.takes_stripe:
        found.append(Route(f"{PATH}/stripe", _answering(stripe), methods=["POST"]))
    if payments.takes_generic:
        found.append(Route(f"{PATH}/generic", _answering(generic), methods=["POST"]))
    return found


def _answering(take: Take) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        try:
            return _said(await take(await _body(request), request))
        except CallbackRefused as error:
            log.warning("payment.refused", reason=str(error))
            return Response("not proven to come from whom it says", 401)
        except CallbackUnreadable as error:
            log.warning("payment.unreadable", reason=str(error))
            return Response(str(error), 400)
        except CallbackContradicts as error:
            return Response(str(error), 409)
        except _TooLarge:
            return Response("too large", 413)
        except ClientDisconnect:
            return Response(status_code=400)
        except CallerError:
            return Response("not now", 503, headers=RETRY_HEADERS)

    return answer


def _said(outcome: Outcome | None) -> Response:
    if outcome is Outcome.UNBOOKED:
        return Response("kept, not booked", 422)
    return Response("nothing to book" if outcome is None else outcome.value)


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_BYTES_MAX:
            raise _TooLarge
    return bytes(body)
