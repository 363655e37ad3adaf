"""Inbound SMS of Telnyx: Ed25519 over time stamp and body, and receipts at the same address."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from adapters._inbound.telnyx import parse
from gateway.errors import PushRefused, PushUnreadable
from tests.adapters._push import NOW, is_genuine, post, pushed, secrets_of

BODY = '{"data":{"event_type":"message.received"}}'
SIGNATURE = "ZaXV7VsBRHAUNlgc8A7mf9MSU4VqqF9LIgZhuKHRUXhXNYRn3S1mGn72q/OgUi9yVGV6wzB/NB/j1XyfKbM8Cg=="
HEADERS = {"telnyx-timestamp": "1790000000", "telnyx-signature-ed25519": SIGNATURE}
SECRETS = {"telnyx_public_key": "A6EHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg="}


def changed(**changes: Any) -> dict[str, Any]:
    """A genuine event with changes to its payload."""
    event: dict[str, Any] = json.loads(pushed("telnyx").body)
    event["data"]["payload"] |= changes
    return event


def test_published_vector() -> None:
    assert is_genuine("telnyx", post(BODY, HEADERS), SECRETS)
    assert not is_genuine("telnyx", post(BODY + " ", HEADERS), SECRETS)
    assert not is_genuine("telnyx", post(BODY, HEADERS | {"telnyx-timestamp": "1790000001"}), SECRETS)


@pytest.mark.parametrize("key", ["no base64!", "AAAA", "A" * 43 + "=", "ключ"])
def test_a_public_key_that_is_none_verifies_nothing(key: str) -> None:
    assert not is_genuine("telnyx", post(BODY, HEADERS), {"telnyx_public_key": key})


def test_a_stranger_may_not_choose_how_a_signature_is_written() -> None:
    spaced = HEADERS["telnyx-signature-ed25519"].replace("Z", "Z ", 1)
    assert not is_genuine("telnyx", post(BODY, HEADERS | {"telnyx-signature-ed25519": spaced}), SECRETS)
    short = base64.b64encode(b"0" * 63).decode()
    assert not is_genuine("telnyx", post(BODY, HEADERS | {"telnyx-signature-ed25519": short}), SECRETS)


def test_bytes_that_are_no_text_are_verified_as_they_came() -> None:
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    signature = base64.b64encode(key.sign(b"1790000000|\xff\xfe")).decode()
    request = post(b"\xff\xfe", HEADERS | {"telnyx-signature-ed25519": signature})
    assert is_genuine("telnyx", request, SECRETS)
    with pytest.raises(PushUnreadable):
        parse(request)


def test_the_time_stamp_is_whole_seconds() -> None:
    for stamp in ("1790000000.0", "+1790000000", " 1790000000", "1_790_000_000", "١٧٩٠٠٠٠٠٠٠", "9" * 40):
        assert not is_genuine(
            "telnyx", replace(pushed("telnyx"), headers=HEADERS | {"telnyx-timestamp": stamp}), SECRETS
        )
    assert is_genuine("telnyx", pushed("telnyx"), secrets_of("telnyx"), NOW)


def test_receipts_and_what_was_sent_are_ignored() -> None:
    for kind in ("message.sent", "message.finalized", "something.new"):
        event = changed()
        event["data"]["event_type"] = kind
        assert parse(post(json.dumps(event))) == ()
    assert parse(post(json.dumps(changed(direction="outbound")))) == ()


def test_of_several_recipients_ours_is_the_one_it_was_delivered_for() -> None:
    others = [{"phone_number": "+12025550155"}, {"phone_number": "+12025550100", "status": "webhook_delivered"}]
    assert parse(post(json.dumps(changed(to=others))))[0].to == "12025550100"
    assert parse(post(json.dumps(changed(to=others[:1]))))[0].to == "12025550155"


def test_a_picture_without_words_has_an_empty_text() -> None:
    assert parse(post(json.dumps(changed(type="MMS", text=None))))[0].text == ""


@pytest.mark.parametrize("changes", [{"to": []}, {"to": "+12025550100"}, {"id": None}, {"from": "x"}, {"text": 1}])
def test_a_message_without_its_parts_makes_no_sense(changes: dict[str, Any]) -> None:
    with pytest.raises(PushUnreadable):
        parse(post(json.dumps(changed(**changes))))


def test_refusals_say_nothing_of_the_key() -> None:
    from adapters._inbound import load

    with pytest.raises(PushRefused) as refused:
        load("telnyx").verify(post(BODY, HEADERS), {"telnyx_public_key": "no-base64!"}, NOW)
    assert "no-base64" not in str(refused.value)
