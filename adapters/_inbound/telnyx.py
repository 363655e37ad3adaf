"""Telnyx messaging (webhook of a messaging profile, API v2).

Its ways:

* `telnyx-signature-ed25519` covers the time stamp and the raw body, and is checked with the account's public key.
  The vendor's package checks it only with PyNaCl, against the machine's own clock, and takes two seconds and some
  thousand modules to import, so `cryptography` does it here;
* receipts (`message.sent`, `message.finalized`) come to the same address;
* of several recipients ours is the one the webhook was delivered for.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from adapters._inbound import NOTHING, Inbound
from adapters._inbound._checks import header, keys, refusing, require, require_recent
from adapters._inbound._reading import identity, json_object, number, parsing, sender, text, word
from adapters._values import Unreadable, mapping, moment
from gateway.upstream import PushRequest

SECRETS = {"telnyx_public_key": True}
"""Base64 of 32 bytes. Everybody may know it, but whoever may change it may sign."""

ANSWER = NOTHING


@refusing()
def verify(request: PushRequest, secrets: Mapping[str, str], now: float) -> None:
    """Raises PushRefused."""
    candidates = keys(secrets, "telnyx_public_key")
    stamp = header(request, "telnyx-timestamp")
    signature = base64.b64decode(header(request, "telnyx-signature-ed25519"), validate=True)
    require_recent(stamp, now)
    message = stamp.encode() + b"|" + request.body
    require(any(_fits(key, signature, message) for key in candidates))


def _fits(key: str, signature: bytes, message: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(base64.b64decode(key, validate=True)).verify(signature, message)
    except InvalidSignature:
        return False
    return True


@parsing()
def parse(request: PushRequest) -> Sequence[Inbound]:
    """Raises PushUnreadable."""
    data = mapping(json_object(request).get("data"))
    if word(data, "event_type") != "message.received":
        return ()
    payload = mapping(data.get("payload"))
    if payload.get("direction", "inbound") != "inbound":
        return ()
    return (
        Inbound(
            id=identity(payload.get("id")),
            to=number(_recipient(payload.get("to"))),
            sender=sender(mapping(payload.get("from")).get("phone_number")),
            text=text(payload.get("text") or ""),  # null for a picture without words
            received_at=moment(payload.get("received_at")) or moment(data.get("occurred_at")),
        ),
    )


def _recipient(value: Any) -> object:
    recipients = [mapping(one) for one in value] if isinstance(value, list) else []
    if not recipients:
        raise Unreadable("no recipient")
    ours = [one for one in recipients if one.get("status") == "webhook_delivered"]
    return (ours or recipients)[0].get("phone_number")
