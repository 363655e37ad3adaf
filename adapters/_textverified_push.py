"""TextVerified's webhooks: is it theirs, and what does it tell? Facts: `protocol/upstreams/textverified.md` §9.

The event of a received SMS holds the reservation and the text, but not the id that the SMS has in every list. Making an
identity of what it holds would count a message twice whenever the two sources write a time or a text differently, so
an event is a hint: the lease is read at once, and the message has the identity that reading gives. Repeats of an event
(`attempt` grows, and the signature covers no time) are then harmless without remembering any.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from typing import Any

from adapters._rentals import rental_reference
from adapters._values import Unreadable, load_json, mapping, reference
from gateway.errors import PushRefused, PushUnreadable
from gateway.upstream import Pushed, PushRequest, PushTaken

SIGNATURE = "x-webhook-signature"
_SCHEME = "hmac-sha512"
_KINDS = frozenset({"verification", "rental", "nonrenewable"})


def check_signature(request: PushRequest, secret: str) -> None:
    """Raises PushRefused unless the raw body carries a signature made with the secret."""
    if not secret:
        raise PushRefused("no webhook secret is configured")
    scheme, _, value = request.headers.get(SIGNATURE, "").strip().partition("=")
    try:
        given = base64.b64decode(value, validate=True)
    except (ValueError, binascii.Error):
        given = b""
    expected = hmac.new(secret.encode(), request.body, hashlib.sha512).digest()
    if not hmac.compare_digest(given, expected) or scheme.lower() != _SCHEME:
        raise PushRefused("the signature is missing or wrong")


def read_push(body: bytes) -> PushTaken:
    """What an event tells. Raises PushUnreadable."""
    try:
        return PushTaken(_pushed(_small_keys(load_json(body))))
    except Unreadable as error:
        reason = str(error)
    raise PushUnreadable(reason)


def _pushed(envelope: dict[str, Any]) -> tuple[Pushed, ...]:
    event = envelope.get("event")
    if not isinstance(event, str):
        raise Unreadable("no event")
    match event.lower():
        case "v2.sms.received":
            return _received(_small_keys(envelope.get("data")))
        case "v2.reservation.created":
            return _created(_small_keys(envelope.get("data")))
    return ()


def _received(data: dict[str, Any]) -> tuple[Pushed, ...]:
    """`reservationId` may be null: such a message is left to polling. It does not tell what is reserved."""
    named = data.get("reservationid")
    if not named:
        return ()
    ident = reference(named)
    return (Pushed(ident), Pushed(rental_reference(ident)))


def _created(data: dict[str, Any]) -> tuple[Pushed, ...]:
    """The event comes for every purchase. Whose it is can't be told here, so it says only that the list has grown."""
    kind = data.get("type")
    if not isinstance(kind, str):
        raise Unreadable("no type of reservation")
    return (Pushed(""),) if kind.lower() in _KINDS else ()


def _small_keys(data: Any) -> dict[str, Any]:
    """Keys in small letters: some receivers saw `Data.ReservationId`, the documentation says `data.reservationId`."""
    return {key.lower(): value for key, value in mapping(data).items()}
