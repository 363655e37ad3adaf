"""What notices say: a body for each form, and the headers with their signatures."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata

from standardwebhooks.webhooks import Webhook

from gateway.catalog import Catalog
from gateway.ds_words import service_words
from gateway.inbox import native_signature
from gateway.model import Product
from gateway.store import Row
from gateway.vault import Vault

EXAMPLE_TEXT = "This is a test from simroute: 000000 is no code"


@dataclass(frozen=True, slots=True, repr=False)
class Told:
    """What a notice tells. `service_word` is DS SMS HUB's name for the service; `received_at` is in UTC.

    `sender` is empty where the upstream does not tell; `message_id` is ours. `is_test`: nothing was received.
    """

    activation_id: int
    number: str
    service: str
    service_word: str
    country: int
    text: str
    code: str
    received_at: datetime
    sender: str = ""
    message_id: int = 0
    is_rental: bool = False
    is_test: bool = False


def sms_activate_body(told: Told, _secret: bytes) -> Mapping[str, object]:
    """The original's push."""
    return {
        "activationId": told.activation_id,
        "service": told.service,
        "text": told.text,
        "code": told.code,
        "country": told.country,
        "receivedAt": told.received_at.strftime("%Y-%m-%d %H:%M:%S"),
    }


def ds_body(told: Told, _secret: bytes) -> Mapping[str, object]:
    """DS SMS HUB's."""
    return {
        "rental_id": str(told.activation_id),
        "number": f"+{told.number}",
        "service": told.service_word,
        "text": told.text,
        "received_at": told.received_at.strftime("%Y-%m-%d %H:%M:%S"),
    }


def hero_body(told: Told, _secret: bytes) -> Mapping[str, object]:
    """HeroSMS's: the id is text, the sender is told, the time has its zone."""
    return {
        "activationId": str(told.activation_id),
        "service": told.service,
        "phoneFrom": told.sender,
        "text": told.text,
        "code": told.code or None,
        "country": told.country,
        "receivedAt": told.received_at.strftime("%Y-%m-%dT%H:%M:%S+00:00"),
    }


def daisy_body(told: Told, secret: bytes) -> Mapping[str, object]:
    """DaisySMS's: the original's push, and which message it is."""
    original = sms_activate_body(told, secret)
    return {"activationId": told.activation_id, "messageId": told.message_id, **original}


def native_body(told: Told, secret: bytes) -> Mapping[str, object]:
    """The brief's own: signed inside, over its other members, beside the signatures of the whole in the headers."""
    content = {
        "event": "test" if told.is_test else "sms_received",
        "verification_id": f"ver_{told.activation_id}",
        "phone_number": f"+{told.number}",
        "message": told.text,
        "timestamp": told.received_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    return {**content, "signature": native_signature(content, secret)}


def standard_body(told: Told, _secret: bytes) -> Mapping[str, object]:
    """As standardwebhooks.com recommends: a type, when it happened, and what it is about."""
    return {
        "type": "webhook.test" if told.is_test else "sms.received",
        "timestamp": told.received_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "data": {
            "id": f"{'rent' if told.is_rental else 'ver'}_{told.activation_id}",
            "phone_number": f"+{told.number}",
            "service": told.service,
            "country": told.country,
            "sender": told.sender or None,
            "text": told.text,
            "code": told.code or None,
        },
    }


BODIES: Mapping[str, Callable[[Told, bytes], Mapping[str, object]]] = {
    "sms_activate": sms_activate_body,
    "ds": ds_body,
    "hero": hero_body,
    "daisy": daisy_body,
    "native": native_body,
    "standard": standard_body,
}
"""By an account's `webhook_format`, which follows from how its address was set, or is named with it."""

FORMATS = tuple(BODIES)

RENT = "rent"
"""The format of notices that go to a rental's own address, not to its account's."""


def body_of(vault: Vault, catalog: Catalog, row: Row, secret: bytes) -> str:
    """A notice's body: the members in the form's order, no spaces. Raises SecretsError."""
    if row["format"] == RENT:
        return _rent_body(vault, row)
    is_ds = row["format"] == "ds"
    told = Told(
        activation_id=row["activation_id"],
        number=vault.open(row["number_sealed"]) if row["number_sealed"] else "",
        service=row["service"],
        service_word=service_words(catalog).get(row["service"], row["service"]) if is_ds else "",
        country=row["country"],
        text=vault.open(row["text_sealed"]),
        code=vault.open(row["code_sealed"]),
        received_at=datetime.fromtimestamp(row["received_at"], UTC),
        sender=vault.open(row["sender_sealed"]) if row["sender_sealed"] else "",
        message_id=row["message_id"],
        is_rental=row["product"] == Product.RENTAL,
    )
    return _compact(BODIES[row["format"]](told, secret))


def example_body(body_format: str, secret: bytes, at: float) -> str:
    """What a test sends: of the same form, of an activation that nobody has."""
    told = Told(
        activation_id=0,
        number="10000000000",
        service="tg",
        service_word="telegram",
        country=0,
        text=EXAMPLE_TEXT,
        code="000000",
        received_at=datetime.fromtimestamp(at, UTC),
        sender="simroute",
        is_test=True,
    )
    return _compact(BODIES[body_format](told, secret))


def _rent_body(vault: Vault, row: Row) -> str:
    """The original's push for a rented number."""
    sms = {
        "phoneFrom": vault.open(row["sender_sealed"]) if row["sender_sealed"] else "",
        "text": vault.open(row["text_sealed"]),
        "date": datetime.fromtimestamp(row["received_at"], UTC).strftime("%Y-%m-%d %H:%M:%S"),
    }
    return _compact({"rentId": row["activation_id"], "sms": sms})


def _compact(content: Mapping[str, object]) -> str:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))


def signed_headers(secrets: Sequence[bytes], message_id: str, body: str, at: float) -> Mapping[str, str]:
    """Two signatures of the same body: a plain one, and that of standardwebhooks.com, which covers id and time too.

    The plain one is made with the first secret, the newest; the other has a value for each.
    """
    moment = datetime.fromtimestamp(int(at), UTC)
    plain = hmac.new(secrets[0], body.encode(), hashlib.sha256).hexdigest()
    return {
        "Content-Type": "application/json",
        "User-Agent": _USER_AGENT,
        "X-Signature": f"sha256={plain}",
        "webhook-id": message_id,
        "webhook-timestamp": str(int(at)),
        "webhook-signature": " ".join(Webhook(secret).sign(message_id, moment, body) for secret in secrets),
    }


def user_agent() -> str:
    try:
        return f"simroute/{metadata.version('simroute')}"
    except metadata.PackageNotFoundError:  # run from a checkout that was never installed
        return "simroute/dev"


_USER_AGENT = user_agent()
