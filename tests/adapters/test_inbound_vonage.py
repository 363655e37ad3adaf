"""Inbound SMS of Vonage: four signatures of one API, the other one's token, and long messages in parts."""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

import pytest

from adapters._inbound import Inbound, Part
from adapters._inbound.vonage import parse
from gateway.errors import PushUnreadable
from tests.adapters._push import NOW, SECRET, URL, is_genuine, post, pushed, secrets_of
from tests.simulators.inbound import jwt

VECTOR = {
    "type": "text",
    "keyword": "CODE",
    "message-timestamp": "2026-11-01 10:00:00",
    "messageId": "0A00000012345678",
    "msisdn": "12025550111",
    "nonce": "n0nce",
    "text": "code 123456 & more=1",
    "timestamp": "1790000000",
    "to": "12025550100",
}
SIGNED = "".join(f"&{name}={VECTOR[name]}" for name in sorted(VECTOR)).replace("& more=1", "_ more_1")
SECRETS = {"vonage_signature_secret": "example-signature-secret"}
PLAIN = "6de1562b5604dd8be0f349069715437b"
SHA256 = "51144fc1009143a87b3beffc9edfa96c4162286f898ac27c7c820849a912c506"
READ = Inbound("0A00000012345678", "12025550100", "12025550111", "code 123456 & more=1", 1793527200.0)


def hmac_by(method: str) -> str:
    return hmac.new(b"example-signature-secret", SIGNED.encode(), method).hexdigest()


@pytest.mark.parametrize("signature", [PLAIN, SHA256, SHA256.upper()])
def test_published_vectors(signature: str) -> None:
    fields = VECTOR | {"sig": signature}
    for request in (
        post(urlencode(fields)),
        post(json.dumps(fields), {"content-type": "application/json"}),
        post(b"", url=f"{URL}?{urlencode(fields)}", method="GET"),
    ):
        assert is_genuine("vonage", request, SECRETS)
        assert parse(request) == (READ,)


@pytest.mark.parametrize("method", ["md5", "sha1", "sha256", "sha512"])
def test_every_method_of_the_account_settings(method: str) -> None:
    request = post(urlencode(VECTOR | {"sig": hmac_by(method)}))
    assert is_genuine("vonage", request, SECRETS)
    assert is_genuine("vonage", request, SECRETS | {"vonage_signature_method": method})


def test_with_the_method_told_no_other_will_do() -> None:
    only = SECRETS | {"vonage_signature_method": "sha256"}
    assert is_genuine("vonage", post(urlencode(VECTOR | {"sig": SHA256})), only)
    for signature in (PLAIN, hmac_by("md5"), hmac_by("sha1"), hmac_by("sha512")):
        assert not is_genuine("vonage", post(urlencode(VECTOR | {"sig": signature})), only)
    for method in ("md5hash", "sha-256", "none"):
        given = SECRETS | {"vonage_signature_method": method}
        assert not is_genuine("vonage", post(urlencode(VECTOR | {"sig": SHA256})), given)


def test_without_signature_or_time_stamp_it_is_refused() -> None:
    unstamped = {name: value for name, value in VECTOR.items() if name != "timestamp"}
    signed = "".join(f"&{name}={unstamped[name].translate({38: 95, 61: 95})}" for name in sorted(unstamped))
    signature = hmac.new(b"example-signature-secret", signed.encode(), "sha256").hexdigest()
    for fields in (VECTOR, VECTOR | {"sig": ""}, VECTOR | {"sig": "é" * 32}, unstamped | {"sig": signature}):
        assert not is_genuine("vonage", post(urlencode(fields)), SECRETS)


def test_names_can_not_swallow_their_neighbours() -> None:
    """`&nonce=n0nce&text=…` could be one parameter with a strange name: what is read must be what was signed."""
    fields = {name: value for name, value in VECTOR.items() if name not in ("nonce", "text")}
    fields |= {"nonce=n0nce&text": VECTOR["text"], "sig": SHA256}
    assert not is_genuine("vonage", post(urlencode(fields)), SECRETS)


def test_two_values_of_one_parameter_are_refused() -> None:
    body = urlencode({"text": "another"}) + "&" + urlencode(VECTOR | {"sig": SHA256})
    assert not is_genuine("vonage", post(body), SECRETS)
    with pytest.raises(PushUnreadable):
        parse(post(body))


def test_a_query_beside_a_body_is_not_read() -> None:
    request = post(urlencode(VECTOR | {"sig": SHA256}), url=f"{URL}?text=another&to=12025550199")
    assert is_genuine("vonage", request, SECRETS)
    assert parse(request) == (READ,)


def test_parts_of_a_long_message_keep_their_numbers() -> None:
    concat = {"concat": "true", "concat-ref": "7", "concat-total": "3", "concat-part": "2"}
    request = pushed("vonage", extra=concat)
    assert is_genuine("vonage", request, secrets_of("vonage"))
    assert parse(request)[0].part == Part("7", 3, 2)


@pytest.mark.parametrize(
    "odd",
    [
        {"concat": "false"},
        {"concat-part": "4"},
        {"concat-part": "0"},
        {"concat-total": "x"},
        {"concat-total": "999"},
        {"concat-ref": ""},
        {"concat-part": "٢"},
    ],
)
def test_an_odd_numbering_does_not_lose_the_text(odd: dict[str, str]) -> None:
    concat = {"concat": "true", "concat-ref": "7", "concat-total": "3", "concat-part": "2"}
    (message,) = parse(pushed("vonage", extra=concat | odd))
    assert message.part is None
    assert message.text == "Your code is 123456"


def test_json_values_that_are_no_text_are_signed_as_written() -> None:
    fields: dict[str, Any] = VECTOR | {"timestamp": 1790000000, "msisdn": 12025550111}
    request = post(json.dumps(fields | {"sig": SHA256}), {"content-type": "application/json"})
    assert is_genuine("vonage", request, SECRETS)
    assert parse(request) == (READ,)


def test_a_boolean_is_signed_in_small_letters() -> None:
    concat = {"concat": "true", "concat-ref": "7", "concat-total": "3", "concat-part": "2"}
    request = pushed("vonage_json", extra=concat)
    request = replace(request, body=request.body.replace(b'"concat":"true"', b'"concat":true'))
    assert is_genuine("vonage", request, secrets_of("vonage"))
    assert parse(request)[0].part == ("7", 3, 2)


def test_values_that_are_not_flat_can_not_be_signed() -> None:
    for odd in ("[]", "{}", "null"):
        fields: dict[str, Any] = VECTOR | {"sig": SHA256, "keyword": json.loads(odd)}
        request = post(json.dumps(fields), {"content-type": "application/json"})
        assert not is_genuine("vonage", request, SECRETS)
        with pytest.raises(PushUnreadable):
            parse(request)


def test_receipts_and_binary_messages_are_ignored() -> None:
    assert parse(pushed("vonage", extra={"status": "delivered", "err-code": "0"})) == ()
    assert parse(post(urlencode({"type": "binary", "messageId": "0A1", "data": "00", "udh": "00"}))) == ()
    assert parse(pushed("vonage_messages", extra={"status": "delivered"})) == ()
    assert parse(pushed("vonage_messages", extra={"channel": "whatsapp"})) == ()
    assert parse(pushed("vonage_messages", extra={"message_type": "image"})) == ()


def bearing(token: str, body: bytes = b"") -> Any:
    request = pushed("vonage_messages")
    return replace(request, body=body or request.body, headers={"authorization": f"Bearer {token}"})


def claims(**changes: Any) -> dict[str, Any]:
    body = pushed("vonage_messages").body
    given = {"iat": int(NOW), "payload_hash": hashlib.sha256(body).hexdigest()} | changes
    return {name: value for name, value in given.items() if value is not None}


def test_a_token_needs_the_hash_of_the_body_and_its_time() -> None:
    secrets = secrets_of("vonage_messages")
    assert is_genuine("vonage", bearing(jwt(claims(), SECRET)), secrets)
    for odd in (
        {"payload_hash": None},
        {"payload_hash": "0" * 64},
        {"payload_hash": True},
        {"iat": None},
        {"iat": "soon"},
        {"iat": int(NOW) - 86_701},
        {"exp": int(NOW) - 301},
        {"nbf": int(NOW) + 301},
        {"exp": "late"},
        {"exp": float("nan")},
    ):
        assert not is_genuine("vonage", bearing(jwt(claims(**odd), SECRET)), secrets), odd


@pytest.mark.parametrize("algorithm", ["none", "HS512", "RS256", "hs256", None, ""])
def test_a_token_of_another_algorithm_is_refused(algorithm: str | None) -> None:
    token = jwt(claims(), SECRET, {"alg": algorithm, "typ": "JWT"})
    unsigned = token.rpartition(".")[0] + "."
    for shown in (token, unsigned):
        assert not is_genuine("vonage", bearing(shown), secrets_of("vonage_messages"))


def test_a_token_does_not_cover_a_query() -> None:
    empty = jwt(claims(payload_hash=hashlib.sha256(b"").hexdigest()), SECRET)
    request = post(b"", {"authorization": f"Bearer {empty}"}, url=f"{URL}?{urlencode(VECTOR)}", method="GET")
    assert not is_genuine("vonage", request, secrets_of("vonage_messages"))
