"""Vonage: the SMS API (by GET, as a form or as JSON, as the account is set up) and the Messages API.

Its ways:

* the SMS API signs its parameters (`sig`), by plain MD5 or by an HMAC, as the account is set up. The optional
  `vonage_signature_method` beside the secret says which one (`md5hash`, `md5`, `sha1`, `sha256`, `sha512`); without it
  the length of `sig` does, so that a stranger chooses. The vendor's package has no plain MD5;
* it repeats for a day until it is answered, and does not say whether a repeat is signed anew: time stamps are good for
  a day, and a repeat is known by its id;
* a long SMS comes in parts, one call each, with an id each; they are joined by whoever keeps the pool;
* the Messages API signs with a JWT that holds the body's hash, under the same secret; the query is not covered;
* receipts (`status`) and other channels may share the address.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from vonage_http_client.auth import Auth

from adapters._inbound import NOTHING, Inbound, Part
from adapters._inbound._checks import (
    REPEATS_SECONDS,
    TOLERANCE_SECONDS,
    bearer_claims,
    equal,
    keys,
    refusing,
    require,
    require_recent,
)
from adapters._inbound._reading import form, identity, is_json, json_object, number, parsing, sender, single, text
from adapters._values import Unreadable, moment
from gateway.errors import PushRefused
from gateway.upstream import PushRequest

SECRETS = {"vonage_signature_secret": True, "vonage_signature_method": False}
ANSWER = NOTHING

PLAIN_MD5 = "md5hash"
METHODS = {PLAIN_MD5: 32, "md5": 32, "sha1": 40, "sha256": 64, "sha512": 128}
"""Signature methods and the length of what they make."""

_ID = re.compile(r"[0-9A-Za-z-]{1,64}")
_SIGNATURE = re.compile(r"[0-9a-f]{32,128}")
_AMBIGUOUS = str.maketrans("&=", "__")


@refusing()
def verify(request: PushRequest, secrets: Mapping[str, str], now: float) -> None:
    """Raises PushRefused."""
    candidates = keys(secrets, "vonage_signature_secret")
    if "authorization" in request.headers:
        _verify_token(request, candidates, now)
    else:
        _verify_parameters(_parameters(request), candidates, secrets.get("vonage_signature_method", ""), now)


def _verify_token(request: PushRequest, candidates: Sequence[str], now: float) -> None:
    if request.method == "GET":
        raise PushRefused("nothing covers the query")
    claims = bearer_claims(request, candidates, now)
    require_recent(str(claims.get("iat")), now, REPEATS_SECONDS)
    require(equal(str(claims.get("payload_hash")).lower(), hashlib.sha256(request.body).hexdigest()))


def _verify_parameters(parameters: dict[str, str], candidates: Sequence[str], method: str, now: float) -> None:
    signature = parameters.pop("sig", "").lower()
    if not _SIGNATURE.fullmatch(signature) or any("&" in name or "=" in name for name in parameters):
        raise PushRefused("no sensible signature")
    require_recent(parameters.get("timestamp", ""), now, REPEATS_SECONDS, TOLERANCE_SECONDS)
    if method and method not in METHODS:
        raise PushRefused("vonage_signature_method is none of " + ", ".join(METHODS))
    allowed = [method] if method else list(METHODS)
    possible = [one for one in allowed if METHODS.get(one) == len(signature)]
    require(any(equal(_sign(parameters, key, one), signature) for key in candidates for one in possible))


def _sign(parameters: Mapping[str, str], key: str, method: str) -> str:
    if method != PLAIN_MD5:
        # It wants an API key beside the secret, and does nothing with it here
        vendor = Auth(api_key="unused", signature_secret=key, signature_method=method)
        return str(vendor.sign_params(dict(parameters)))
    signed = "".join(f"&{name}={parameters[name].translate(_AMBIGUOUS)}" for name in sorted(parameters))
    return hashlib.md5((signed + key).encode(), usedforsecurity=False).hexdigest()  # the sender's choice, not ours


def _parameters(request: PushRequest) -> dict[str, str]:
    """The parameters as they are signed: flat, each once."""
    if request.method == "GET" or not is_json(request):
        return single(form(request))
    return {name: _flat(value) for name, value in json_object(request).items()}


def _flat(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int):
        return str(value)
    raise Unreadable("not a flat value")


@parsing()
def parse(request: PushRequest) -> Sequence[Inbound]:
    """Raises PushUnreadable."""
    if request.method != "GET" and is_json(request):
        fields = json_object(request)
        if "message_uuid" in fields:
            return _of_messages_api(fields)
    return _of_sms_api(_parameters(request))


def _of_messages_api(fields: Mapping[str, Any]) -> Sequence[Inbound]:
    if "status" in fields or fields.get("channel") != "sms" or fields.get("message_type", "text") != "text":
        return ()
    return (
        Inbound(
            id=identity(fields["message_uuid"], _ID),
            to=number(fields.get("to")),
            sender=sender(fields.get("from")),
            text=text(fields.get("text")),
            received_at=moment(fields.get("timestamp")),
        ),
    )


def _of_sms_api(fields: Mapping[str, str]) -> Sequence[Inbound]:
    if "status" in fields or fields.get("type") == "binary":
        return ()
    return (
        Inbound(
            id=identity(fields.get("messageId"), _ID),
            to=number(fields.get("to")),
            sender=sender(fields.get("msisdn")),
            text=text(fields.get("text")),
            received_at=moment(fields.get("message-timestamp")),
            part=_part(fields),
        ),
    )


def _part(fields: Mapping[str, str]) -> Part | None:
    """None for a whole message, and where the numbering makes no sense: a code must not be lost over that."""
    reference, total, index = (fields.get(f"concat-{name}", "") for name in ("ref", "total", "part"))
    is_numbered = all(re.fullmatch(r"[0-9]{1,3}", count) for count in (total, index))
    if fields.get("concat", "").lower() != "true" or not reference or not is_numbered:
        return None
    return Part(reference, int(total), int(index)) if 1 <= int(index) <= int(total) <= 255 else None
