"""Pushes of the `handler_api.php` family: who may send them, and what they say.

Bodies met, JSON in a POST (`protocol/handler_api.md` §9, `upstreams/handler_api_family.md` §3.4, §5, §8):

    {"activationId": 123, "service", "text", "code", …}                   SMS-Activate, SMSBower; HeroSMS: id as text
    {"rentId": 1, "sms": {…}}                                             SMS-Activate's rentals
    {"event", "verification_id", "phone_number", "message", "timestamp", "signature"}              the brief's, signed

None but the last is signed, so they are hints: they name the lease to be read. The last stays a hint too, signature or
not: messages are told apart by the code and the round they were asked for in, and it tells neither.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Annotated, Any, Literal

from pydantic import AfterValidator

from adapters._handler_rent_rows import PREFIX
from adapters._values import Unreadable, load_json, reference
from gateway.errors import PushRefused, PushUnreadable
from gateway.upstream import Pushed, PushRequest, PushTaken

SIGNED_MEMBERS = ("event", "verification_id", "phone_number", "message", "timestamp")
"""In the order they are signed in."""

VERIFICATION_PREFIX = "ver_"
"""Ids on the brief's REST side wear it; the same order has a bare number on the side we buy on."""


def _networks(given: tuple[str, ...]) -> tuple[str, ...]:
    for address in given:
        ip_network(address)
    return given


PushAddresses = Annotated[tuple[str, ...], AfterValidator(_networks)]
"""IP addresses or networks, in Options."""


@dataclass(frozen=True, slots=True)
class PushRules:
    """Who may push. `addresses` empty: from anywhere. `secret` set: signed pushes only.

    `rentals`: whether there are any, with ids of their `own` in pushes of their own, or with ids `shared` with
    activations in the same pushes, so that either may be meant.
    """

    addresses: tuple[str, ...] = ()
    secret: str = field(default="", repr=False)
    rentals: Literal["none", "own", "shared"] = "none"


def take(request: PushRequest, rules: PushRules) -> PushTaken:
    """What a push tells: the lease to read. Raises PushRefused, PushUnreadable."""
    data = _members(request.body)
    is_proven = _is_signed(request, data, rules.secret.encode()) if rules.secret else request.has_secret
    if not is_proven or not _is_among(request.peer, rules.addresses):
        raise PushRefused("not proven to come from the upstream")
    return PushTaken(_told(data, rules.rentals))


def _members(body: bytes) -> dict[str, Any] | None:
    try:
        data = load_json(body)
    except Unreadable:
        return None
    return data if isinstance(data, dict) else None


def _told(data: dict[str, Any] | None, rentals: str) -> tuple[Pushed, ...]:
    if data is None:
        raise PushUnreadable("no JSON object")
    is_rental = "rentId" in data and "activationId" not in data
    name = "rentId" if is_rental else "verification_id" if "verification_id" in data else "activationId"
    try:
        lease = reference(data.get(name)).removeprefix(VERIFICATION_PREFIX)
    except Unreadable:
        lease = ""
    if not lease:
        raise PushUnreadable("no activation named")
    if is_rental:
        return (Pushed(PREFIX + lease),) if rentals == "own" else ()
    return (Pushed(lease), Pushed(PREFIX + lease)) if rentals == "shared" else (Pushed(lease),)


def _is_among(peer: str, addresses: tuple[str, ...]) -> bool:
    if not addresses:
        return True
    sender = _address(peer)
    return sender is not None and any(sender in ip_network(network) for network in addresses)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """A socket that listens on IPv6 shows IPv4 peers as `::ffff:192.0.2.1`."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def _is_signed(request: PushRequest, data: dict[str, Any] | None, secret: bytes) -> bool:
    """By the header `X-Signature` over the body as sent, or by the member `signature`."""
    by_header = _is_signature(request.headers.get("x-signature", ""), request.body, secret)
    if data is None or "verification_id" not in data:
        return by_header
    inner = [_is_signature(str(data.get("signature", "")), content, secret) for content in _canonical(data)]
    return by_header or any(inner)


def _canonical(data: Mapping[str, Any]) -> Iterator[bytes]:
    """The signed members as JSON without spaces; letters beyond ASCII escaped or not: the brief does not say which."""
    members = {name: data[name] for name in SIGNED_MEMBERS if name in data}
    for escaped in (True, False):
        yield json.dumps(members, ensure_ascii=escaped, separators=(",", ":")).encode()


def _is_signature(given: str, content: bytes, secret: bytes) -> bool:
    wanted = "sha256=" + hmac.digest(secret, content, "sha256").hex()
    return hmac.compare_digest(wanted.encode(), given.encode("utf-8", "replace"))
