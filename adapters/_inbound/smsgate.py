"""SMS Gateway for Android (docs.sms-gate.app): a phone that posts what its SIM cards receive.

Its ways:

* each phone has its own signing key; the signature covers the body followed by the time stamp and is made anew for each
  of its tries, fourteen over two days;
* `payload.messageId` comes from the content, so one code sent twice would be one: the event's id counts;
* which number was written to is often not known to the phone. `device` is `deviceId:simNumber`, or the `deviceId` where
  the SIM card is not known either, and `app:started` tells the numbers, as far as the phone knows them;
* older versions call the sender `phoneNumber`. Newer ones can send several messages at once (`sms:batch:received`, of
  which only the app's source tells) to those who subscribe to that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from adapters._inbound import NOTHING, Inbound
from adapters._inbound._checks import keys, refusing, require_stamped_hmac
from adapters._inbound._reading import identity, json_object, number_or_nothing, parsing, sender, text, word
from adapters._values import Unreadable, mapping, moment
from gateway.upstream import PushRequest

SECRETS = {"smsgate_signing_key": True}
ANSWER = NOTHING


@refusing()
def verify(request: PushRequest, secrets: Mapping[str, str], now: float) -> None:
    """Raises PushRefused."""
    require_stamped_hmac(request, keys(secrets, "smsgate_signing_key"), now)


@parsing()
def parse(request: PushRequest) -> Sequence[Inbound]:
    """Raises PushUnreadable."""
    event = json_object(request)
    kind = word(event, "event")
    if kind == "sms:received":
        return (_message(event, mapping(event.get("payload")), ""),)
    if kind == "sms:batch:received":
        messages = _objects(mapping(event.get("payload")).get("messages"))
        return tuple(_message(event, message, f":{place}") for place, message in enumerate(messages))
    return ()


@parsing()
def devices(request: PushRequest) -> Mapping[str, str]:
    """The numbers a phone says its SIM cards have, when it says so. Raises PushUnreadable."""
    event = json_object(request)
    if word(event, "event") != "app:started":
        return {}
    cards = _objects(mapping(event.get("payload")).get("simCards"))
    named = {_device(event, card): number_or_nothing(card.get("phoneNumber")) for card in cards}
    return {device: own for device, own in named.items() if own}


def _message(event: Mapping[str, Any], payload: Mapping[str, Any], suffix: str) -> Inbound:
    to, device = number_or_nothing(payload.get("recipient")), _device(event, payload)
    return Inbound(
        id=identity(event.get("id")) + suffix,
        to=to,
        sender=sender(payload["sender"] if "sender" in payload else payload.get("phoneNumber")),
        text=text(payload.get("message")),
        received_at=moment(payload.get("receivedAt")),
        device=device,
    )


def _device(event: Mapping[str, Any], card: Mapping[str, Any]) -> str:
    device, slot = identity(event.get("deviceId")), card.get("simNumber")
    return device if slot is None else f"{device}:{identity(slot)}"


def _objects(value: object) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        raise Unreadable("not a list")
    return [mapping(one) for one in value]
