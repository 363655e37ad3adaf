"""The error envelope of the newer dialects: `{"title": WORD, "details": …, "info": {…}}` with a real HTTP status.

Facts: `protocol/upstreams/handler_api_family.md` §3.1 (HeroSMS), §4 (Tiger SMS).
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from compat._reply import Reply, amount, as_json
from gateway.errors import Barred, CallerError, PriceTooLow

STATUSES = {
    "WRONG_MAX_PRICE": 400,
    "BAD_STATUS": 400,
    "BAD_KEY": 401,
    "NO_BALANCE": 402,
    "BANNED": 403,
    "ACCOUNT_INACTIVE": 403,
    "CHANNELS_LIMIT": 403,
    "NOT_FOUND": 404,
    "BAD_ACTION": 404,
    "EARLY_CANCEL_DENIED": 409,
    "ORDER_ALREADY_EXISTS": 409,
    "OTP_RECEIVED": 409,
    "UNPROCESSABLE_ENTITY": 422,
    "RATE_LIMIT": 429,
    "SERVER_ERROR": 500,
}
"""HTTP status by title. A word without one is no title, and is sent as plain text."""

DETAILS = {
    "WRONG_MAX_PRICE": "The price limit is below the lowest price.",
    "BAD_STATUS": "Not possible in the present state of the activation.",
    "BAD_KEY": "The API key is not valid.",
    "NO_BALANCE": "The balance does not reach.",
    "BANNED": "The account may not buy for a while.",
    "ACCOUNT_INACTIVE": "The account may not buy.",
    "CHANNELS_LIMIT": "Too many activations are open.",
    "NOT_FOUND": "There is no such activation.",
    "BAD_ACTION": "There is no such action.",
    "EARLY_CANCEL_DENIED": "The activation cannot be cancelled yet.",
    "ORDER_ALREADY_EXISTS": "There is an order with this id.",
    "OTP_RECEIVED": "A code has been received already.",
    "UNPROCESSABLE_ENTITY": "A parameter is not valid.",
    "RATE_LIMIT": "Too many requests.",
    "SERVER_ERROR": "The request could not be carried out.",
}

FIELDS = {
    "bad_service": "service",
    "bad_country": "country",
    "bad_phone_exception": "phoneException",
    "bad_activation_id": "id",
    "bad_webhook_url": "url",
    "webhook_not_https": "url",
    "webhook_url_too_long": "url",
}
"""The parameter that is to blame."""

RETRY_SECONDS = 1


def envelope(title: str, error: CallerError, *, early_seconds: float, now: float, open_max: int) -> Reply:
    """The title with its status, and whatever the error tells beyond its name."""
    info = _info(title, error, early_seconds, now, open_max)
    body: dict[str, object] = {"title": title, "details": DETAILS[title]}
    if info:
        body["info"] = info
    reply = as_json(body, STATUSES[title])
    if title == "RATE_LIMIT":
        return Reply(reply.body, reply.content_type, ((b"retry-after", b"%d" % RETRY_SECONDS),), status=reply.status)
    return reply


def _info(title: str, error: CallerError, early_seconds: float, now: float, open_max: int) -> Mapping[str, object]:
    if isinstance(error, PriceTooLow):
        return {"min": amount(error.minimum.micros)}
    if isinstance(error, Barred):
        return {
            "scope": "global",
            "banned_until": round(error.until),
            "retry_after_seconds": max(0, round(error.until - now)),
            "readable_date": time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(error.until)),
        }
    if title == "EARLY_CANCEL_DENIED":
        return {"minActivationTime": round(early_seconds)}
    if title == "CHANNELS_LIMIT":
        return {"current_threads": open_max, "max_allowed": open_max}
    if title == "UNPROCESSABLE_ENTITY":
        name = FIELDS[error.code]
        return {"field": name, "code": "INVALID", "message": f"The {name} is invalid."}
    return {}
