"""Inbound SMS of Twilio: what is signed, by which key, and what else comes to the same address."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from urllib.parse import urlencode

import pytest
from twilio.request_validator import RequestValidator

from adapters._inbound import Inbound
from adapters._inbound.twilio import parse
from gateway.errors import PushUnreadable
from gateway.upstream import PushRequest
from tests.adapters._push import SECRET, SHARED, URL, is_genuine, post, pushed, secrets_of
from tests.simulators.inbound import KEY_ID

VECTOR_URL = "https://gw.example.test/in/twilio?pool=1"
VECTOR = {
    "To": "+12025550100",
    "From": "+12025550111",
    "Body": "Your code is 123456",
    "MessageSid": "SM00000000000000000000000000000001",
    "NumMedia": "0",
}
TOKEN = {"twilio_auth_token": "example-auth-token"}
SID = "SM" + "0" * 31 + "1"


def signed(pairs: list[tuple[str, str]], url: str = URL, signed_url: str = "") -> PushRequest:
    """Signed by the vendor's package; repeated names keep all their values."""

    class Fields(dict[str, list[str]]):
        getlist = dict.__getitem__

    fields = Fields()
    for name, value in pairs:
        fields.setdefault(name, []).append(value)
    signature = RequestValidator(SECRET).compute_signature(signed_url or url, fields)
    return post(urlencode(pairs), {"x-twilio-signature": signature}, url)


def genuine(request: PushRequest) -> bool:
    return is_genuine("twilio", request, secrets_of("twilio"))


def test_published_vector_with_the_auth_token() -> None:
    request = post(urlencode(VECTOR), {"x-twilio-signature": "xMJARiu+FR8w85Z/lfHPmAgWDVU="}, VECTOR_URL)
    assert is_genuine("twilio", request, TOKEN)
    assert parse(request) == (Inbound(SID, "12025550100", "12025550111", "Your code is 123456"),)


def test_published_vector_with_a_shared_key() -> None:
    headers = {
        "x-twilio-signature": "odzrRzzmp9eSScmX4+djI96eT3x98U1mlIEr2g/oilA=",
        "x-twilio-webhooks-signature-settings": f"key={KEY_ID}, algorithm=HMAC_SHA256",
    }
    request = post(urlencode(VECTOR), headers, VECTOR_URL)
    assert is_genuine("twilio", request, {SHARED: f"another:x {KEY_ID}:example-auth-token"})
    assert not is_genuine("twilio", request, {SHARED: "another:example-auth-token"})
    assert not is_genuine("twilio", request, {SHARED: f"{KEY_ID}:"})
    assert not is_genuine("twilio", request, TOKEN)


def test_a_shared_key_never_signs_with_the_weaker_hash() -> None:
    headers = {
        "x-twilio-signature": "xMJARiu+FR8w85Z/lfHPmAgWDVU=",
        "x-twilio-webhooks-signature-settings": f"key={KEY_ID},algorithm=HMAC_SHA1",
    }
    assert not is_genuine(
        "twilio", post(urlencode(VECTOR), headers, VECTOR_URL), {SHARED: f"{KEY_ID}:example-auth-token"}
    )


@pytest.mark.parametrize("signed_for", ["https://gw.example.test:443/in", "https://gw.example.test/in"])
@pytest.mark.parametrize("known_as", ["https://gw.example.test:443/in", "https://gw.example.test/in"])
def test_the_port_may_be_told_or_not(signed_for: str, known_as: str) -> None:
    assert genuine(signed(list(VECTOR.items()), known_as, signed_for))


def test_another_address_is_refused() -> None:
    request = signed(list(VECTOR.items()))
    for url in (URL + "?pool=1", URL + "/", URL.replace("https", "http"), URL.replace("gw.", "")):
        assert not genuine(replace(request, url=url))


def test_repeated_names_and_new_fields_are_signed_with_the_rest() -> None:
    pairs = [*VECTOR.items(), ("Tag", "b"), ("Tag", "a"), ("Tag", "b"), ("Brand New", "é&=")]
    request = signed(pairs)
    assert genuine(request)
    assert parse(request)[0].id == SID
    assert not genuine(replace(request, body=request.body + b"&Tag=c"))
    assert not genuine(replace(request, body=request.body + b"&Newer=1"))


def test_a_text_with_a_nul_is_signed_as_it_came_and_read_without_it() -> None:
    request = signed([*{**VECTOR, "Body": "Your code\0 is 123456"}.items()])
    assert genuine(request)
    assert parse(request)[0].text == "Your code\ufffd is 123456"


def test_two_texts_make_no_sense() -> None:
    request = signed([*VECTOR.items(), ("Body", "another")])
    assert genuine(request)
    with pytest.raises(PushUnreadable):
        parse(request)


def test_a_moved_boundary_does_not_make_a_repeat_look_new() -> None:
    """Signed are names and values without anything between: `MessageSid…1` + `NumMedia0` reads both ways."""
    moved = {name: value for name, value in VECTOR.items() if name != "NumMedia"}
    moved["MessageSid"] += "NumMedia0"
    request = post(urlencode(moved), {"x-twilio-signature": "xMJARiu+FR8w85Z/lfHPmAgWDVU="}, VECTOR_URL)
    assert is_genuine("twilio", request, TOKEN)
    with pytest.raises(PushUnreadable):
        parse(request)


def test_json_is_covered_by_its_hash_only() -> None:
    request = pushed("twilio_json")
    assert genuine(request)
    assert not genuine(replace(request, body=request.body.replace(b"123456", b"654321")))
    bare = signed([], URL)
    assert not genuine(replace(bare, body=request.body, headers={**bare.headers, "content-type": "application/json"}))
    other = f"{URL}?bodySHA256={hashlib.sha256(b'{}').hexdigest()}"
    assert not genuine(replace(signed([], other), body=request.body))


def test_what_a_get_carries_in_its_body_is_not_read() -> None:
    request = replace(pushed("twilio_get", "code 1"), body=urlencode(VECTOR).encode())
    assert genuine(request)
    assert [message.text for message in parse(request)] == ["code 1"]


@pytest.mark.parametrize(
    "changes",
    [
        {"SmsStatus": "delivered", "MessageStatus": "delivered"},
        {"SmsStatus": "sent"},
        {"EventType": "onMessageAdded"},
        {"To": "whatsapp:+12025550100", "From": "whatsapp:+12025550111"},
    ],
)
def test_other_events_and_channels_are_ignored(changes: dict[str, str]) -> None:
    assert parse(post(urlencode(VECTOR | changes))) == ()


def test_a_call_is_ignored() -> None:
    assert (
        parse(post(urlencode({"AccountSid": "AC" + "0" * 32, "CallSid": "CA" + "0" * 32, "To": "+12025550100"}))) == ()
    )


@pytest.mark.parametrize("changes", [{"To": "nobody"}, {"MessageSid": "SM1"}, {"To": ""}])
def test_a_message_without_its_parts_makes_no_sense(changes: dict[str, str]) -> None:
    with pytest.raises(PushUnreadable):
        parse(post(urlencode(VECTOR | changes)))


def test_older_names_of_the_id_will_do_and_short_codes_too() -> None:
    fields = {"SmsSid": SID, "SmsStatus": "received", "To": "72345", "From": "32665", "Body": ""}
    assert parse(post(urlencode(fields))) == (Inbound(SID, "72345", "32665", ""),)
