"""Inbound SMS of Plivo: two versions of the signature, the main account's beside it."""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import urlencode

import pytest
from plivo.utils import validate_signature
from plivo.utils.signature_v3 import validate_v3_signature

from adapters._inbound import Inbound
from adapters._inbound.plivo import parse
from gateway.errors import PushUnreadable
from gateway.upstream import PushRequest
from tests.adapters._push import SECRET, URL, is_genuine, post, pushed, secrets_of

VECTOR_URL = "https://gw.example.test/in/plivo?pool=1"
NONCE = "12345678901234567890"
V2 = "Rljlr9EhlDTzTiw5F1MEfvjNePeB3MZl/uW7jaQP88Q="
V3 = "ElgSUitNe/oHWpH/rEUZH8OYy2+b/gX9Z0DHgTldzSQ="
TOKEN = {"plivo_auth_token": "example-auth-token"}
FIELDS = {
    "From": "12025550111",
    "MessageUUID": "11111111-1111-1111-1111-111111111111",
    "Text": "Your code is 123456",
    "To": "12025550100",
    "Type": "sms",
}


def request(version: int, signature: str, prefix: str = "", url: str = VECTOR_URL) -> PushRequest:
    name = f"x-plivo-signature-{prefix}v{version}"
    return post(urlencode(FIELDS), {name: signature, f"x-plivo-signature-v{version}-nonce": NONCE}, url)


@pytest.mark.parametrize(("version", "signature"), [(2, V2), (3, V3), (3, f"bm9uZQ==,{V3}"), (3, f"{V3}, bm9uZQ==")])
@pytest.mark.parametrize("prefix", ["", "ma-"])
def test_published_vectors(version: int, signature: str, prefix: str) -> None:
    shown = request(version, signature, prefix)
    assert is_genuine("plivo", shown, TOKEN)
    assert parse(shown) == (Inbound(FIELDS["MessageUUID"], "12025550100", "12025550111", "Your code is 123456"),)


def test_the_vendors_package_takes_what_we_take() -> None:
    v2, v3 = pushed("plivo").headers, pushed("plivo_v3").headers
    fields = dict(pair.split("=") for pair in pushed("plivo_v3", "code").body.decode().split("&"))
    assert validate_signature(URL, NONCE, v2["x-plivo-signature-v2"], SECRET)
    signature = pushed("plivo_v3", "code").headers["x-plivo-signature-v3"]
    assert validate_v3_signature("POST", URL, NONCE, SECRET, signature, fields)
    assert v3["x-plivo-signature-v3-nonce"] == NONCE


def test_version_2_leaves_the_query_out_and_version_3_does_not() -> None:
    assert is_genuine("plivo", request(2, V2, url="https://gw.example.test/in/plivo"), TOKEN)
    assert not is_genuine("plivo", request(3, V3, url="https://gw.example.test/in/plivo"), TOKEN)
    assert not is_genuine("plivo", request(2, V2, url="https://gw.example.test/in/other"), TOKEN)


def test_version_3_covers_the_fields() -> None:
    shown = request(3, V3)
    assert not is_genuine("plivo", replace(shown, body=shown.body.replace(b"123456", b"654321")), TOKEN)


def test_one_good_signature_of_several_will_do() -> None:
    both = {**request(2, V2).headers, **request(3, "bm9uZQ==").headers}
    assert is_genuine("plivo", replace(request(2, V2), headers=both), TOKEN)
    assert not is_genuine("plivo", replace(request(2, V2), headers=request(3, "bm9uZQ==").headers), TOKEN)
    assert not is_genuine("plivo", request(2, V3), TOKEN)


def test_a_get_of_version_3_is_covered_with_its_query() -> None:
    import base64
    import hmac

    url = f"{URL}?" + "&".join(f"{name}={FIELDS[name]}" for name in sorted(FIELDS))
    signature = base64.b64encode(hmac.digest(SECRET.encode(), f"{url}.{NONCE}".encode(), "sha256")).decode()
    headers = {"x-plivo-signature-v3": signature, "x-plivo-signature-v3-nonce": NONCE}
    shown = post(b"", headers, url.replace(" ", "+"), "GET")
    assert is_genuine("plivo", shown, secrets_of("plivo"))
    assert parse(shown)[0].text == "Your code is 123456"
    assert not is_genuine("plivo", replace(shown, url=shown.url.replace("123456", "654321")), secrets_of("plivo"))


def test_receipts_and_calls_are_ignored() -> None:
    receipt = {name: value for name, value in FIELDS.items() if name != "Text"} | {"Status": "delivered"}
    assert parse(post(urlencode(receipt))) == ()
    assert parse(post(urlencode({"CallUUID": "1", "From": "12025550111"}))) == ()
    assert parse(post(urlencode(FIELDS | {"Type": "whatsapp"}))) == ()


@pytest.mark.parametrize("changes", [{"MessageUUID": "1"}, {"To": "x"}, {"MessageUUID": FIELDS["MessageUUID"] + "To1"}])
def test_a_message_without_its_parts_makes_no_sense(changes: dict[str, str]) -> None:
    with pytest.raises(PushUnreadable):
        parse(post(urlencode(FIELDS | changes)))


def test_a_picture_without_words_has_an_empty_text() -> None:
    fields = {name: value for name, value in FIELDS.items() if name != "Text"} | {"Type": "mms"}
    assert parse(post(urlencode(fields)))[0].text == ""
    with pytest.raises(PushUnreadable):
        parse(post(urlencode(fields | {"Type": "sms"})))
