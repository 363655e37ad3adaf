"""Senders of inbound SMS: a signed request of every vendor, from the wire facts alone, with signatures made by hand.

`build` gives one that a genuine sender could have sent. Nothing here is a server; ids may be any text and are brought
into the vendor's shape.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode, urlsplit

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

Request = tuple[str, str, dict[str, str], bytes]
"""Method, URL, headers (names in lower case) and body."""

FORM = {"content-type": "application/x-www-form-urlencoded; charset=UTF-8"}
JSON = {"content-type": "application/json"}


def build(
    vendor: str,
    url: str,
    secret: str,
    to: str,
    sender: str,
    text: str,
    id_: str,
    *,
    now: float | None = None,
    device: str = "phone-1",
    extra: Mapping[str, str] | None = None,
) -> Request:
    """What `vendor` (one of VENDORS) sends to `url`. Numbers are digits; `extra` adds fields or replaces some.

    `secret` is what `receiver_secret` is made from; `device` is for those who do not tell the number.
    """
    message = Message(to, sender, text, id_, time.time() if now is None else now, device, dict(extra or {}))
    return VENDORS[vendor](url, secret, message)


def receiver_secret(vendor: str, secret: str) -> str:
    """What the receiver needs to know to verify what was signed with `secret`."""
    if vendor == "telnyx":
        public = _telnyx_key(secret).public_key().public_bytes_raw()
        return base64.b64encode(public).decode()
    return f"{KEY_ID}:{secret}" if vendor == "twilio_shared_key" else secret


KEY_ID = "webhooks_sharedkey_1"


@dataclass(frozen=True)
class Message:
    to: str
    sender: str
    text: str
    id: str
    now: float
    device: str
    extra: Mapping[str, str]

    @property
    def international_sender(self) -> str:
        """Numbers with their plus sign; names and short codes as they are."""
        return f"+{self.sender}" if self.sender.isdigit() and len(self.sender) > 6 else self.sender

    @property
    def iso(self) -> str:
        return datetime.fromtimestamp(self.now, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

    @property
    def stamp(self) -> str:
        return str(int(self.now))

    @property
    def uuid(self) -> str:
        return str(uuid.uuid5(uuid.NAMESPACE_URL, self.id))

    @property
    def hex(self) -> str:
        return hashlib.sha256(self.id.encode()).hexdigest()[:32]


def _base64_hmac(key: str, message: str, algorithm: str) -> str:
    return base64.b64encode(hmac.digest(key.encode(), message.encode(), algorithm)).decode()


def _hex_hmac(key: str, message: bytes) -> str:
    return hmac.digest(key.encode(), message, "sha256").hex()


def _json(data: Mapping[str, Any]) -> bytes:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()


def _url64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def jwt(claims: Mapping[str, Any], key: str, header: Mapping[str, Any] | None = None, algorithm: str = "sha256") -> str:
    """A token signed by an HMAC, whatever its header says."""
    signed = _url64(_json(header or {"alg": "HS256", "typ": "JWT"})) + "." + _url64(_json(claims))
    return signed + "." + _url64(hmac.digest(key.encode(), signed.encode(), algorithm))


def _twilio_fields(message: Message) -> dict[str, str]:
    return {
        "ToCountry": "US",
        "SmsMessageSid": "SM" + message.hex,
        "NumMedia": "0",
        "SmsSid": "SM" + message.hex,
        "SmsStatus": "received",
        "Body": message.text,
        "To": "+" + message.to,
        "NumSegments": "1",
        "MessageSid": "SM" + message.hex,
        "AccountSid": "AC" + "0" * 32,
        "From": message.international_sender,
        "ApiVersion": "2010-04-01",
        **message.extra,
    }


def _twilio(url: str, secret: str, message: Message) -> Request:
    fields = _twilio_fields(message)
    signed = url + "".join(name + fields[name] for name in sorted(fields))
    headers = FORM | {"x-twilio-signature": _base64_hmac(secret, signed, "sha1")}
    return "POST", url, headers, urlencode(fields).encode()


def _twilio_get(url: str, secret: str, message: Message) -> Request:
    whole = url + ("&" if "?" in url else "?") + urlencode(_twilio_fields(message))
    return "GET", whole, {"x-twilio-signature": _base64_hmac(secret, whole, "sha1")}, b""


def _twilio_shared_key(url: str, secret: str, message: Message) -> Request:
    method, url, headers, body = _twilio(url, secret, message)
    fields = _twilio_fields(message)
    signed = url + "".join(name + fields[name] for name in sorted(fields))
    headers |= {
        "x-twilio-signature": _base64_hmac(secret, signed, "sha256"),
        "x-twilio-webhooks-signature-settings": f"key={KEY_ID},algorithm=HMAC_SHA256",
    }
    return method, url, headers, body


def _twilio_json(url: str, secret: str, message: Message) -> Request:
    body = _json(_twilio_fields(message))
    whole = url + ("&" if "?" in url else "?") + "bodySHA256=" + hashlib.sha256(body).hexdigest()
    return "POST", whole, JSON | {"x-twilio-signature": _base64_hmac(secret, whole, "sha1")}, body


def _telnyx_key(secret: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(secret.encode()).digest())


def _telnyx(url: str, secret: str, message: Message) -> Request:
    payload = {
        "id": message.uuid,
        "direction": "inbound",
        "type": "SMS",
        "from": {"phone_number": message.international_sender, "carrier": "", "line_type": ""},
        "to": [{"phone_number": "+" + message.to, "status": "webhook_delivered"}],
        "text": message.text,
        "media": [],
        "encoding": "GSM-7",
        "parts": 1,
        "received_at": message.iso,
        "cost": None,
        "errors": [],
        **message.extra,
    }
    data = {
        "record_type": "event",
        "id": str(uuid.uuid4()),
        "event_type": "message.received",
        "occurred_at": message.iso,
        "payload": payload,
    }
    body = _json({"data": data, "meta": {"attempt": 1, "delivered_to": url}})
    signature = _telnyx_key(secret).sign(message.stamp.encode() + b"|" + body)
    headers = {"telnyx-timestamp": message.stamp, "telnyx-signature-ed25519": base64.b64encode(signature).decode()}
    return "POST", url, JSON | headers, body


def _vonage_fields(secret: str, message: Message) -> dict[str, str]:
    fields = {
        "msisdn": message.sender,
        "to": message.to,
        "messageId": message.hex[:16].upper(),
        "text": message.text,
        "type": "text" if message.text.isascii() else "unicode",
        "keyword": (message.text.split() or [""])[0].upper(),
        "api-key": "abcd1234",
        "message-timestamp": datetime.fromtimestamp(message.now, UTC).strftime("%Y-%m-%d %H:%M:%S"),
        "timestamp": message.stamp,
        "nonce": str(uuid.uuid4()),
        **message.extra,
    }
    cleaned = {name: value.replace("&", "_").replace("=", "_") for name, value in fields.items()}
    signed = "".join(f"&{name}={cleaned[name]}" for name in sorted(cleaned))
    return fields | {"sig": _hex_hmac(secret, signed.encode())}


def _vonage(url: str, secret: str, message: Message) -> Request:
    return "POST", url, dict(FORM), urlencode(_vonage_fields(secret, message)).encode()


def _vonage_get(url: str, secret: str, message: Message) -> Request:
    return "GET", url + "?" + urlencode(_vonage_fields(secret, message)), {}, b""


def _vonage_json(url: str, secret: str, message: Message) -> Request:
    return "POST", url, dict(JSON), _json(_vonage_fields(secret, message))


def _vonage_messages(url: str, secret: str, message: Message) -> Request:
    body = _json(
        {
            "to": message.to,
            "from": message.sender,
            "channel": "sms",
            "message_uuid": message.uuid,
            "timestamp": message.iso,
            "message_type": "text",
            "text": message.text,
            "sms": {"num_messages": "1"},
            **message.extra,
        }
    )
    claims = {
        "iat": int(message.now),
        "jti": str(uuid.uuid4()),
        "iss": "Vonage",
        "payload_hash": hashlib.sha256(body).hexdigest(),
        "api_key": "abcd1234",
    }
    return "POST", url, JSON | {"authorization": "Bearer " + jwt(claims, secret)}, body


def _plivo_fields(message: Message) -> dict[str, str]:
    return {
        "From": message.sender,
        "MessageUUID": message.uuid,
        "Text": message.text,
        "To": message.to,
        "TotalAmount": "0",
        "TotalRate": "0",
        "Type": "sms",
        "Units": "1",
        **message.extra,
    }


def _plivo(url: str, secret: str, message: Message) -> Request:
    parts, nonce = urlsplit(url), "12345678901234567890"
    signature = _base64_hmac(secret, f"{parts.scheme}://{parts.netloc}{parts.path}{nonce}", "sha256")
    headers = FORM | {"x-plivo-signature-v2": signature, "x-plivo-signature-v2-nonce": nonce}
    return "POST", url, headers, urlencode(_plivo_fields(message)).encode()


def _plivo_v3(url: str, secret: str, message: Message) -> Request:
    fields, nonce = _plivo_fields(message), "12345678901234567890"
    named = "".join(name + fields[name] for name in sorted(fields))
    joint = "." if "?" in url else "?"
    headers = FORM | {
        "x-plivo-signature-v3": "bm90IHRoaXMgb25l," + _base64_hmac(secret, f"{url}{joint}{named}.{nonce}", "sha256"),
        "x-plivo-signature-v3-nonce": nonce,
    }
    return "POST", url, headers, urlencode(fields).encode()


def _stamped(url: str, secret: str, message: Message, body: bytes) -> Request:
    signature = _hex_hmac(secret, body + message.stamp.encode())
    return "POST", url, JSON | {"x-timestamp": message.stamp, "x-signature": signature}, body


def _smsgate(url: str, secret: str, message: Message) -> Request:
    device, _, slot = message.device.partition(":")
    payload = {
        "messageId": "abc123",
        "message": message.text,
        "sender": message.international_sender,
        "recipient": f"+{message.to}" if message.to else None,
        "simNumber": int(slot) if slot else None,
        "receivedAt": message.iso,
        **message.extra,
    }
    event = {"id": message.id, "deviceId": device, "webhookId": "wh1", "event": "sms:received", "payload": payload}
    return _stamped(url, secret, message, _json(event))


def _generic(url: str, secret: str, message: Message) -> Request:
    where = {"to": "+" + message.to} if message.to else {"device": message.device}
    body = {"id": message.id, "from": message.sender, "text": message.text, "received_at": message.iso}
    return _stamped(url, secret, message, _json({**body, **where, **message.extra}))


def _textbee(url: str, secret: str, message: Message) -> Request:
    body = _json(
        {
            "smsId": message.hex[:24],
            "sender": message.international_sender,
            "message": message.text,
            "receivedAt": message.iso,
            "deviceId": message.device,
            "webhookSubscriptionId": "0" * 24,
            "webhookEvent": "sms.received",
            **message.extra,
        }
    )
    return "POST", url, JSON | {"x-signature": "sha256=" + _hex_hmac(secret, body)}, body


def _httpsms(url: str, secret: str, message: Message) -> Request:
    data = {
        "message_id": message.uuid,
        "user_id": "user-1",
        "owner": "+" + message.to,
        "contact": message.international_sender,
        "encrypted": False,
        "timestamp": message.iso,
        "content": message.text,
        "sim": "SIM1",
        **message.extra,
    }
    event = {
        "specversion": "1.0",
        "id": str(uuid.uuid4()),
        "source": "/v1/messages/receive",
        "type": "message.phone.received",
        "datacontenttype": "application/json",
        "time": message.iso,
        "data": data,
    }
    now = int(message.now)
    claims = {"aud": url, "exp": now + 600, "iat": now, "iss": "api.httpsms.com", "nbf": now - 600, "sub": "user-1"}
    headers = {"authorization": "Bearer " + jwt(claims, secret), "x-event-type": "message.phone.received"}
    return "POST", url, JSON | headers, _json(event)


VENDORS: Mapping[str, Callable[[str, str, Message], Request]] = {
    "twilio": _twilio,
    "twilio_get": _twilio_get,
    "twilio_json": _twilio_json,
    "twilio_shared_key": _twilio_shared_key,
    "telnyx": _telnyx,
    "vonage": _vonage,
    "vonage_get": _vonage_get,
    "vonage_json": _vonage_json,
    "vonage_messages": _vonage_messages,
    "plivo": _plivo,
    "plivo_v3": _plivo_v3,
    "smsgate": _smsgate,
    "textbee": _textbee,
    "httpsms": _httpsms,
    "generic": _generic,
}
"""Each vendor's usual way under its name, other ways with a suffix."""
