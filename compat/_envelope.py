"""The error envelope of the newer dialects: `{"title": WORD, "details": …, "info": {…}}` with a real HTTP status.

Facts: `protocol/upstreams/handler_api_family.md` §3.1 (HeroSMS), §4 (Tiger SMS).
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import replace

from compat._reply import Reply, amount, as_json
from gateway.errors import Barred, CallerError, PriceTooLow, TooManyRequests

STATUSES = {
    "WRONG_MAX_PRICE": 400,
    "BAD_STATUS": 400,
    "BAD_DURATION": 400,
    "MAX_HOURS_EXCEED": 400,
    "ACTION_NOT_AVAILABLE": 400,
    "WRONG_SERVICE": 400,
    "WRONG_COUNTRY": 400,
    "WRONG_CURRENCY": 400,
    "BAD_KEY": 401,
    "NO_BALANCE": 402,
    "BANNED": 403,
    "ACCOUNT_INACTIVE": 403,
    "CHANNELS_LIMIT": 403,
    "SERVICE_NOT_AVAILABLE": 403,
    "SIM_OFFLINE": 403,
    "NOT_FOUND": 404,
    "BAD_ACTION": 404,
    "EARLY_CANCEL_DENIED": 409,
    "ORDER_ALREADY_EXISTS": 409,
    "OTP_RECEIVED": 409,
    "FREE_CANCELLATION_EXPIRED": 409,
    "ACTIVATION_NOT_ACTIVE": 409,
    "UNPROCESSABLE_ENTITY": 422,
    "RATE_LIMIT": 429,
    "SERVER_ERROR": 500,
}
"""HTTP status by title. A word without one is no title, and is sent as plain text."""

DETAILS = {
    "WRONG_MAX_PRICE": "The price limit is below the lowest price.",
    "BAD_STATUS": "Not possible in the present state of the activation.",
    "BAD_DURATION": "Not to be had for that time.",
    "MAX_HOURS_EXCEED": "Longer than a rental may last.",
    "ACTION_NOT_AVAILABLE": "Only a rental can be prolonged.",
    "WRONG_SERVICE": "There is no such service.",
    "WRONG_COUNTRY": "There is no such country.",
    "WRONG_CURRENCY": "The account is kept in another currency.",
    "BAD_KEY": "The API key is not valid.",
    "NO_BALANCE": "The balance does not reach.",
    "BANNED": "The account may not buy for a while.",
    "ACCOUNT_INACTIVE": "The account may not buy.",
    "CHANNELS_LIMIT": "Too many activations are open.",
    "SERVICE_NOT_AVAILABLE": "This number cannot be had again.",
    "SIM_OFFLINE": "This number cannot be had now.",
    "NO_NUMBERS": "No numbers for rent.",
    "NOT_FOUND": "There is no such activation.",
    "BAD_ACTION": "There is no such action.",
    "EARLY_CANCEL_DENIED": "The activation cannot be cancelled yet.",
    "ORDER_ALREADY_EXISTS": "There is an order with this id.",
    "OTP_RECEIVED": "A code has been received already.",
    "FREE_CANCELLATION_EXPIRED": "The time in which it could be cancelled is over.",
    "ACTIVATION_NOT_ACTIVE": "The activation is over.",
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


def envelope(title: str, error: CallerError, *, early_seconds: float, now: float, open_max: int) -> Reply:
    """The title with its status, and whatever the error tells beyond its name."""
    return after(error, titled(title, _info(title, error, early_seconds, now, open_max)))


def after(error: CallerError, reply: Reply) -> Reply:
    """The refusal with when to ask again, where it is for asking too often."""
    if not isinstance(error, TooManyRequests):
        return reply
    return replace(reply, headers=(*reply.headers, (b"retry-after", b"%d" % math.ceil(error.retry_seconds))))


def titled(title: str, info: Mapping[str, object] | None = None, *, status: int | None = None) -> Reply:
    """An envelope of what no error of ours stands for. `status` where the title has another one elsewhere."""
    body: dict[str, object] = {"title": title, "details": DETAILS[title]}
    if info:
        body["info"] = info
    return as_json(body, status or STATUSES[title])


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
