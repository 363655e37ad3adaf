"""The format for scripts: gammu-smsd, SMS Server Tools, a modem of one's own.

A POST of `{"id", "to", "from", "text", "received_at"}`, signed by `X-Timestamp` (epoch seconds) and `X-Signature`: the
hex HMAC-SHA256, under the shared secret, of the body followed by the time stamp. A script that does not know the number
written to sends `device` in place of `to`: gammu's PhoneID, the Tools' modem. `received_at` may be missing; else it is
RFC 3339 or epoch seconds. The id has to be the same whenever the script repeats a message.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from adapters._inbound import NOTHING, Inbound
from adapters._inbound._checks import keys, refusing, require_stamped_hmac
from adapters._inbound._reading import identity, json_object, number, parsing, sender, text
from adapters._values import moment
from gateway.upstream import PushRequest

SECRETS = {"generic_secret": True}
ANSWER = NOTHING


@refusing()
def verify(request: PushRequest, secrets: Mapping[str, str], now: float) -> None:
    """Raises PushRefused."""
    require_stamped_hmac(request, keys(secrets, "generic_secret"), now)


@parsing()
def parse(request: PushRequest) -> Sequence[Inbound]:
    """Raises PushUnreadable."""
    message = json_object(request)
    is_known_by_device = not message.get("to") and "device" in message
    return (
        Inbound(
            id=identity(message.get("id")),
            to="" if is_known_by_device else number(message.get("to")),
            sender=sender(message.get("from")),
            text=text(message.get("text")),
            received_at=moment(message.get("received_at")),
            device=identity(message["device"]) if "device" in message else "",
        ),
    )
