"""textbee.dev: a phone behind a service, its own or one's own.

Its ways:

* the signature covers the body. The documentation writes `sha256=` before it, the service's source does not; the event
  is `sms.received` in the one and `MESSAGE_RECEIVED` in the other. Both are taken;
* nothing tells the time of the request: a recording is known by its id alone;
* the number written to is not told, only the device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from adapters._inbound import NOTHING, Inbound
from adapters._inbound._checks import equal, header, hex_hmac, keys, refusing, require
from adapters._inbound._reading import identity, json_object, parsing, sender, text, word
from adapters._values import moment
from gateway.upstream import PushRequest

SECRETS = {"textbee_signing_secret": True}
ANSWER = NOTHING

_RECEIVED = frozenset({"sms.received", "MESSAGE_RECEIVED"})


@refusing()
def verify(request: PushRequest, secrets: Mapping[str, str], _now: float) -> None:
    """Raises PushRefused."""
    candidates = keys(secrets, "textbee_signing_secret")
    signature = header(request, "x-signature").lower().removeprefix("sha256=")
    require(any(equal(hex_hmac(key, request.body), signature) for key in candidates))


@parsing()
def parse(request: PushRequest) -> Sequence[Inbound]:
    """Raises PushUnreadable."""
    event = json_object(request)
    if word(event, "webhookEvent") not in _RECEIVED:
        return ()
    return (
        Inbound(
            id=identity(event.get("smsId")),
            to="",
            sender=sender(event.get("sender")),
            text=text(event.get("message")),
            received_at=moment(event.get("receivedAt")),
            device=identity(event.get("deviceId")),
        ),
    )
