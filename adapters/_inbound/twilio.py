"""Twilio programmable messaging (webhook "a message comes in").

Its ways:

* a form by POST, or a query by GET, as the number is set up; new fields come without notice and are signed, too;
* `X-Twilio-Signature` covers the URL as Twilio was told it, with or without the port, and the fields. It is made with
  the account's auth token and SHA-1, or, where `X-Twilio-Webhooks-Signature-Settings` names a shared key, with that
  one's secret and SHA-256 (`twilio_shared_keys` holds them as `id:secret`);
* JSON is covered by its hash in the URL (`bodySHA256`), and by nothing without that;
* names and values are signed without anything between them, so one who recorded a request could move a boundary and
  make the id longer by the next field. An id is therefore read in its exact shape only: a repeat stays a repeat;
* nothing tells the time: a recording is known by its id alone;
* receipts (`MessageStatus`), calls and other channels (`whatsapp:+…`) may share the address.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from twilio.request_validator import (
    HMAC_SHA1,
    HMAC_SHA256,
    SIGNATURE_HEADER,
    SIGNATURE_SETTINGS_HEADER,
    RequestValidator,
)

from adapters._inbound import Inbound
from adapters._inbound._checks import header, keys, refusing, require
from adapters._inbound._reading import (
    form,
    identity,
    is_json,
    json_object,
    lists,
    number,
    parsing,
    query,
    sender,
    single,
    text,
)
from adapters._values import Unreadable
from gateway.errors import PushRefused
from gateway.upstream import PushRequest

SECRETS = {"twilio_auth_token": True, "twilio_shared_keys": False}
ANSWER = (b"<Response/>", "text/xml")

_IDS = ("MessageSid", "SmsMessageSid", "SmsSid")
_ID = re.compile(r"(?:SM|MM)[0-9a-fA-F]{32}")
_HASH = re.compile(r"[0-9a-f]{64}")


class _Fields(dict[str, list[str]]):
    """Form fields the way the vendor's validator asks for repeated ones."""

    def getlist(self, name: str) -> list[str]:
        return self[name]


@refusing()
def verify(request: PushRequest, secrets: Mapping[str, str], _now: float) -> None:
    """Raises PushRefused."""
    signature = header(request, SIGNATURE_HEADER.lower())
    candidates, algorithm = _keys(request, secrets)
    signed = _signed(request)
    require(any(RequestValidator(key).validate(request.url, signed, signature, algorithm) for key in candidates))


def _keys(request: PushRequest, secrets: Mapping[str, str]) -> tuple[Sequence[str], str]:
    """Keys that may have signed, and how. The algorithm goes with the kind of key: a stranger has no say in it."""
    settings = dict(
        setting.strip().partition("=")[::2]
        for setting in request.headers.get(SIGNATURE_SETTINGS_HEADER.lower(), "").split(",")
    )
    if "key" not in settings:
        return keys(secrets, "twilio_auth_token"), HMAC_SHA1
    shared = [entry.partition(":") for entry in keys(secrets, "twilio_shared_keys")]
    return [secret for name, _, secret in shared if name == settings["key"] and secret], HMAC_SHA256


def _signed(request: PushRequest) -> _Fields | str:
    """What is signed beside the URL: the fields, or the JSON text that the URL's hash stands for."""
    if request.method == "GET":
        return _Fields()
    if not is_json(request):
        return _Fields(lists(form(request)))
    if not any(name == "bodySHA256" and _HASH.fullmatch(value) for name, value in query(request.url)):
        raise PushRefused("nothing covers the body")
    return request.body.decode()


@parsing()
def parse(request: PushRequest) -> Sequence[Inbound]:
    """Raises PushUnreadable."""
    fields = _fields(request)
    if _is_other_event(fields) or ":" in str(fields.get("To")):
        return ()
    return (
        Inbound(
            id=identity(next((fields[name] for name in _IDS if name in fields), None), _ID),
            to=number(fields.get("To")),
            sender=sender(fields.get("From")),
            text=text(fields.get("Body")),
        ),
    )


def _fields(request: PushRequest) -> Mapping[str, Any]:
    if request.method != "GET" and is_json(request):
        return json_object(request)
    every = lists(form(request))
    wanted = ("To", "From", "Body", *_IDS, "SmsStatus", "MessageStatus")
    return every | single((name, value) for name in wanted for value in every.get(name, ()))


def _is_other_event(fields: Mapping[str, Any]) -> bool:
    """Receipts tell another state; events of conversations and calls name themselves, or no message at all."""
    states = [fields[name] for name in ("SmsStatus", "MessageStatus") if name in fields]
    if any(state not in ("received", "receiving") for state in states) or "EventType" in fields:
        return True
    if any(name in fields for name in _IDS):
        return False
    if "AccountSid" in fields:
        return True
    raise Unreadable("nothing of Twilio's")
