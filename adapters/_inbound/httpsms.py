"""httpSMS: a phone behind a service.

Its ways (the token's claims are told by the service's source only):

* the request brings a JWT under the webhook's signing key, good for ten minutes and for one address (`aud`). **The body
  is not covered**: where a token could have been seen by others, let the path carry the secret part;
* it tries twice within seconds, so a late one is a recording;
* a phone may encrypt what it sends to the service: nothing can be read of that here;
* further events (`message.phone.sent`, calls, heartbeats) may share the address.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from adapters._inbound import NOTHING, Inbound
from adapters._inbound._checks import bearer_claims, keys, refusing
from adapters._inbound._reading import identity, json_object, number, parsing, sender, text, word
from adapters._values import Unreadable, mapping, moment
from gateway.errors import PushRefused
from gateway.upstream import PushRequest

SECRETS = {"httpsms_signing_key": True}
ANSWER = NOTHING


@refusing()
def verify(request: PushRequest, secrets: Mapping[str, str], now: float) -> None:
    """Raises PushRefused."""
    claims = bearer_claims(request, keys(secrets, "httpsms_signing_key"), now)
    if "exp" not in claims:
        raise PushRefused("a token for ever")
    audience = claims.get("aud", request.url)
    if request.url not in (audience if isinstance(audience, list) else [audience]):
        raise PushRefused("a token for another address")


@parsing()
def parse(request: PushRequest) -> Sequence[Inbound]:
    """Raises PushUnreadable."""
    event = json_object(request)
    if word(event, "type") != "message.phone.received":
        return ()
    data = mapping(event.get("data"))
    if data.get("encrypted"):
        raise Unreadable("the text is encrypted")
    return (
        Inbound(
            id=identity(next((data[name] for name in ("message_id", "id") if name in data), event.get("id"))),
            to=number(data.get("owner")),
            sender=sender(data.get("contact")),
            text=text(data.get("content")),
            received_at=moment(data.get("timestamp")) or moment(event.get("time")),
        ),
    )
