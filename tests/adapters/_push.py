"""What tests of pushes share: requests as the house hands them on, and what became of them."""

from __future__ import annotations

from collections.abc import Mapping

from adapters._inbound import load
from gateway.errors import PushRefused
from gateway.upstream import PushRequest
from tests.simulators import inbound

NOW = 1_790_000_000.0
URL = "https://gw.example.test/in/pool/source"
SECRET = "example-secret-of-this-test"
SHARED = "twilio_shared_keys"

VENDORS = sorted(inbound.VENDORS)


def module_of(vendor: str) -> str:
    """`vonage_get` is a way of the module `vonage`."""
    return vendor.partition("_")[0]


def secrets_of(vendor: str, secret: str = SECRET) -> Mapping[str, str]:
    """What the receiver is given, under the name its module asks for."""
    first = next(iter(load(module_of(vendor)).SECRETS))
    return {SHARED if vendor == "twilio_shared_key" else first: inbound.receiver_secret(vendor, secret)}


def pushed(vendor: str, text: str = "Your code is 123456", id_: str = "m-1", **changes: object) -> PushRequest:
    """A genuine request of a vendor."""
    given = {"url": URL, "secret": SECRET, "to": "12025550100", "sender": "12025550111", "now": NOW, **changes}
    return PushRequest(*inbound.build(vendor, text=text, id_=id_, **given))  # type: ignore[arg-type]


def post(
    body: bytes | str, headers: Mapping[str, str] | None = None, url: str = URL, method: str = "POST"
) -> PushRequest:
    """Any request."""
    return PushRequest(method, url, dict(headers or {}), body.encode() if isinstance(body, str) else body)


def is_genuine(module: str, request: PushRequest, secrets: Mapping[str, str], now: float = NOW) -> bool:
    try:
        load(module).verify(request, secrets, now)
    except PushRefused:
        return False
    return True
