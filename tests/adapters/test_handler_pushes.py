"""Pushes of the `handler_api.php` family: who is believed, what is read out of them, and what is not."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from adapters import handler_api, herosms, load, secrets, smsbower
from gateway.errors import PushRefused, PushUnreadable, UpstreamError
from gateway.upstream import Pushed, Pushes, PushRequest, PushTaken
from tests.adapters._context import context, order
from tests.simulators import handler_api as simulator
from tests.simulators._serve import serve

BASE_URL = "https://upstream.test/stubs/handler_api.php"
PUSH_SECRET = "push-secret-of-this-test-0123456789"
HERO = {
    "activationId": "123",
    "phoneFrom": "Telegram",
    "service": "tg",
    "text": "Your code is 12345",
    "code": "12345",
    "country": 16,
    "receivedAt": "2026-11-01T10:01:00Z",
}
REFERENCE = {**HERO, "activationId": 123, "receivedAt": "2026-11-01 10:01:00"}
SIGNED = {
    "event": "sms_received",
    "verification_id": "ver_123",
    "phone_number": "+447700900123",
    "message": "Ваш код 12345",
    "timestamp": "2026-11-01T10:01:00Z",
}


def generic(secret: str = "", **options: Any) -> Any:
    given = {"webhook_secret": secret} if secret else {}
    options = {"base_url": BASE_URL, "pushes": True, **options}
    return handler_api.build(context(secrets=given), handler_api.Options(**options))


def push(body: Any, *, has_secret: bool = True, peer: str = "", **headers: str) -> PushRequest:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return PushRequest("POST", "https://gw.test/webhooks/x", given, content, peer, has_secret=has_secret)


def signature(content: bytes, secret: str = PUSH_SECRET) -> str:
    return "sha256=" + hmac.new(secret.encode(), content, hashlib.sha256).hexdigest()


def signed(members: dict[str, Any], *, escaped: bool = True, secret: str = PUSH_SECRET) -> dict[str, Any]:
    canonical = json.dumps(members, separators=(",", ":"), ensure_ascii=escaped).encode()
    return {**members, "signature": signature(canonical, secret)}


async def told(there: Any, request: PushRequest) -> PushTaken:
    assert isinstance(there, Pushes)
    try:
        return await there.take_push(request)
    finally:
        await there.aclose()  # type: ignore[attr-defined]


def hints(name: str, lease: str) -> tuple[Pushed, ...]:
    """HeroSMS counts rentals among its activations, so a push may be of either."""
    return (Pushed(lease), Pushed(f"rent:{lease}")) if name == "herosms" else (Pushed(lease),)


# --- who is believed ---


@pytest.mark.parametrize(
    ("name", "peer"), [("herosms", "84.32.223.53"), ("herosms", "185.138.88.87"), ("smsbower", "167.235.198.205")]
)
async def test_a_push_from_the_brands_own_address_is_a_hint(name: str, peer: str) -> None:
    module = load(name)
    there = module.build(context(), module.Options())
    assert await told(there, push(HERO, peer=peer)) == PushTaken(hints(name, "123"))


@pytest.mark.parametrize("peer", ["203.0.113.9", "", "unknown", "84.32.223.53, 203.0.113.9", "84.32.223.530"])
async def test_a_push_from_elsewhere_is_refused(peer: str) -> None:
    with pytest.raises(PushRefused):
        await told(herosms.build(context(), herosms.Options()), push(HERO, peer=peer))


async def test_a_push_without_the_secret_path_is_refused_wherever_it_comes_from() -> None:
    for body in (HERO, b"no json"):
        request = push(body, has_secret=False, peer="84.32.223.53")
        with pytest.raises(PushRefused):
            await told(herosms.build(context(), herosms.Options()), request)
        with pytest.raises(PushRefused):
            await told(generic(), request)


@pytest.mark.parametrize(
    ("addresses", "peer", "is_taken"),
    [
        ([], "203.0.113.9", True),
        ([], "", True),
        (["203.0.113.0/24"], "203.0.113.9", True),
        (["203.0.113.0/24"], "::ffff:203.0.113.9", True),
        (["2001:db8::/32"], "2001:db8::7", True),
        (["2001:db8::/32"], "203.0.113.9", False),
        (["203.0.113.8"], "203.0.113.9", False),
    ],
)
async def test_addresses_are_a_setting(addresses: list[str], peer: str, is_taken: bool) -> None:
    options = smsbower.Options(push_addresses=tuple(addresses))
    there = smsbower.build(context(), options)
    if is_taken:
        assert (await told(there, push(REFERENCE, peer=peer))).pushed == (Pushed("123"),)
        return
    with pytest.raises(PushRefused):
        await told(there, push(REFERENCE, peer=peer))


@pytest.mark.parametrize("address", ["hero-sms.com", "203.0.113.9/24", "203.0.113", ""])
def test_an_address_that_is_none_is_no_option(address: str) -> None:
    with pytest.raises(ValidationError):
        herosms.Options(push_addresses=(address,))


async def test_pushes_are_off_for_any_other_upstream_unless_asked_for() -> None:
    there = handler_api.build(context(), handler_api.Options(base_url=BASE_URL))
    assert not isinstance(there, Pushes)
    await there.aclose()
    assert secrets(handler_api) == {"api_key": True, "webhook_secret": False}


# --- what is read ---


@pytest.mark.parametrize(
    ("body", "reference"),
    [
        (HERO, "123"),
        (REFERENCE, "123"),
        ({"activationId": 9223372036854775801}, "9223372036854775801"),
        ({**HERO, "text": None, "code": None}, "123"),
        (SIGNED, "123"),
        ({**SIGNED, "verification_id": "456"}, "456"),
    ],
)
async def test_the_lease_named_is_to_be_read_and_nothing_is_taken_on_trust(body: Any, reference: str) -> None:
    assert await told(generic(), push(body)) == PushTaken((Pushed(reference),))


async def test_a_rental_is_a_hint_where_there_are_any_and_none_of_ours_elsewhere() -> None:
    rent = {"rentId": 1, "sms": {"phoneFrom": "Telegram", "text": "12345", "date": "2026-11-01 10:01:00"}}
    assert await told(generic(), push(rent)) == PushTaken()
    assert await told(generic(rents=True), push(rent)) == PushTaken((Pushed("rent:1"),))
    with pytest.raises(PushUnreadable):
        await told(generic(rents=True), push({"rentId": [1]}))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"activationId=123",
        b"[" * 100_000,
        [],
        "123",
        {},
        {"activationId": None},
        {"activationId": True},
        {"activationId": 1.5},
        {"activationId": "1 OR 1=1"},
        {"activationId": ["1"]},
        {"verification_id": ""},
        {"verification_id": {}},
    ],
)
async def test_a_push_that_makes_no_sense_is_unreadable(body: Any) -> None:
    with pytest.raises(PushUnreadable) as caught:
        await told(generic(), push(body))
    assert "123" not in str(caught.value)


# --- signed ones ---


@pytest.mark.parametrize("escaped", [True, False])
async def test_a_signature_inside_stands_for_the_secret_path(escaped: bool) -> None:
    request = push(signed(SIGNED, escaped=escaped), has_secret=False)
    assert (await told(generic(PUSH_SECRET), request)).pushed == (Pushed("123"),)


async def test_members_are_signed_in_their_own_order_however_they_are_sent() -> None:
    shuffled = dict(sorted(signed(SIGNED).items()))
    assert list(shuffled) != list(SIGNED)
    assert (await told(generic(PUSH_SECRET), push(shuffled))).pushed == (Pushed("123"),)


@pytest.mark.parametrize("body", [SIGNED, REFERENCE])
async def test_a_signature_in_the_header_covers_the_body_as_sent(body: dict[str, Any]) -> None:
    content = json.dumps(body, indent=1).encode()
    request = push(content, has_secret=False, x_signature=signature(content))
    assert (await told(generic(PUSH_SECRET), request)).pushed == (Pushed("123"),)


@pytest.mark.parametrize(
    "request_",
    [
        push(SIGNED),
        push(REFERENCE),
        push({**signed(SIGNED), "verification_id": "ver_456"}),
        push(signed(SIGNED, secret="another")),
        push({**SIGNED, "signature": None}),
        push({**SIGNED, "signature": "sha256="}),
        push({**SIGNED, "signature": "sha256=é"}),
        push({**SIGNED, "signature": signed(SIGNED)["signature"].removeprefix("sha256=")}),
        push({**REFERENCE, "signature": signed(SIGNED)["signature"]}),
        push(SIGNED, x_signature=signature(b"another body")),
        push(SIGNED, x_signature="é"),
        push(b"", x_signature=""),
    ],
)
async def test_with_a_secret_set_everything_has_to_be_signed(request_: PushRequest) -> None:
    with pytest.raises(PushRefused):
        await told(generic(PUSH_SECRET), request_)


async def test_a_signature_does_not_stand_for_the_address() -> None:
    there = generic(PUSH_SECRET, push_addresses=("203.0.113.9",))
    with pytest.raises(PushRefused):
        await told(there, push(signed(SIGNED), peer="203.0.113.10"))


async def test_a_signed_push_can_still_make_no_sense() -> None:
    with pytest.raises(PushUnreadable):
        await told(generic(PUSH_SECRET), push(b"[]", x_signature=signature(b"[]")))


def test_what_a_push_says_shows_in_no_repr() -> None:
    assert PUSH_SECRET not in repr(generic(PUSH_SECRET)._brand)


@pytest.mark.parametrize("name", ["herosms", "smsbower"])
async def test_what_the_simulator_pushes_names_the_lease_that_was_bought(name: str) -> None:
    came: asyncio.Queue[bytes] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    async def receive(request: Request) -> Response:
        loop.call_soon_threadsafe(came.put_nowait, await request.body())
        return Response()

    with serve(Starlette(routes=[Route("/", receive, methods=["POST"])])) as receiver:
        app = simulator.build(brand=name, sms_delay_seconds=None, webhook_url=receiver)
        with serve(app) as address:
            module = load(name)
            options = module.Options(base_url=address + simulator.PATH, push_addresses=())
            there: Any = module.build(context(secret=simulator.DEFAULT_KEY), options)
            lease = await there.buy(order())
            app.state.sim.deliver(lease.reference, "Your code is 12345")
            body = await asyncio.wait_for(came.get(), 5)
    assert await told(there, push(body)) == PushTaken(hints(name, lease.reference))


@hypothesis.settings(max_examples=150, deadline=None)
@hypothesis.given(
    body=st.binary() | st.dictionaries(st.sampled_from([*HERO, *SIGNED, "signature", "rentId"]), st.text()),
    header=st.text(),
    secret=st.sampled_from(["", PUSH_SECRET]),
)
async def test_no_push_breaks_the_reader(body: Any, header: str, secret: str) -> None:
    try:
        taken = await told(generic(secret), push(body, x_signature=header))
    except UpstreamError:
        return
    assert not secret
    assert not any(one.messages for one in taken.pushed)
