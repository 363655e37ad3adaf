"""Every format of inbound SMS against a sender that shares no code with it: what holds for all of them."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from urllib.parse import urlencode

import hypothesis
import pytest
from hypothesis import strategies as st

from adapters._inbound import TellsDevices, UnknownSource, known, load
from gateway.errors import PushRefused, PushUnreadable
from gateway.upstream import PushRequest
from tests.adapters._push import NOW, SECRET, URL, VENDORS, is_genuine, module_of, pushed, secrets_of

COVERS_BODY = [vendor for vendor in VENDORS if vendor not in ("plivo", "httpsms")]
"""The other two sign less than the whole request, as their docstrings say."""

TELLS_TIME = [vendor for vendor in VENDORS if not vendor.startswith(("twilio", "plivo", "textbee"))]

TEXT = "Код 123456 & = + ✓\n😀 _x"


def test_formats_are_found_by_the_names_of_their_modules() -> None:
    names = known()
    assert names == ["generic", "httpsms", "plivo", "smsgate", "telnyx", "textbee", "twilio", "vonage"]
    assert not set(names) ^ {module_of(vendor) for vendor in VENDORS}, "a format without a sender to test it by"


@pytest.mark.parametrize("name", ["_checks", "", "os", "twili0", "adapters._inbound.twilio"])
def test_what_is_no_format_is_not_loaded(name: str) -> None:
    with pytest.raises(UnknownSource, match="known: generic"):
        load(name)


def test_an_unknown_format_names_the_nearest() -> None:
    with pytest.raises(UnknownSource, match="did you mean 'twilio'"):
        load("twili0")


def test_nobody_pays_for_formats_that_are_not_used() -> None:
    script = (
        "import sys, adapters._inbound as i; i.known(); i.load('generic'); "
        "print([name for name in ('twilio', 'plivo', 'telnyx', 'vonage_http_client', 'jwt') if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert shown.stdout == "[]\n"


@pytest.mark.parametrize("name", known())
def test_a_format_names_its_secrets_and_its_answer(name: str) -> None:
    source = load(name)
    assert all(secret.startswith(f"{name}_") for secret in source.SECRETS)
    assert next(iter(source.SECRETS.values())) is True
    answer = source.ANSWER
    assert answer == ((b"<Response/>", "text/xml") if name == "twilio" else (b"", "text/plain"))
    assert isinstance(source, TellsDevices) == (name == "smsgate")


@pytest.mark.parametrize("vendor", VENDORS)
def test_a_genuine_message_is_verified_and_read(vendor: str) -> None:
    source, request = load(module_of(vendor)), pushed(vendor, TEXT)
    source.verify(request, secrets_of(vendor), NOW)
    (message,) = source.parse(request)
    assert message.to == ("" if vendor == "textbee" else "12025550100")
    assert message.sender == "12025550111"
    assert message.text == TEXT
    assert message.id
    assert message.received_at == (None if vendor.startswith(("twilio", "plivo")) else NOW)
    assert message.part is None


@pytest.mark.parametrize("vendor", VENDORS)
def test_a_name_for_a_sender_stays_a_name(vendor: str) -> None:
    (message,) = load(module_of(vendor)).parse(pushed(vendor, sender="Google"))
    assert message.sender == "Google"


@pytest.mark.parametrize("vendor", VENDORS)
def test_a_repeat_has_the_same_id_and_another_message_another(vendor: str) -> None:
    source = load(module_of(vendor))
    first, repeat, other = (
        source.parse(pushed(vendor, id_=id_, now=at))[0].id for id_, at in (("a", NOW), ("a", NOW + 60), ("b", NOW))
    )
    assert first == repeat
    assert first != other


@pytest.mark.parametrize("vendor", VENDORS)
def test_another_secret_is_refused(vendor: str) -> None:
    assert is_genuine(module_of(vendor), pushed(vendor), secrets_of(vendor))
    assert not is_genuine(module_of(vendor), pushed(vendor), secrets_of(vendor, "another-secret"))


@pytest.mark.parametrize("vendor", VENDORS)
def test_without_a_secret_nothing_is_genuine(vendor: str) -> None:
    (name,) = secrets_of(vendor)
    for secrets in ({}, {name: ""}, {name: " "}):
        assert not is_genuine(module_of(vendor), pushed(vendor, secret="x"), secrets)


@pytest.mark.parametrize("vendor", VENDORS)
def test_any_of_several_secrets_will_do(vendor: str) -> None:
    (name,) = secrets_of(vendor)
    both = {name: f"{secrets_of(vendor, 'an-older-one')[name]} {secrets_of(vendor)[name]}"}
    assert is_genuine(module_of(vendor), pushed(vendor), both)
    assert is_genuine(module_of(vendor), pushed(vendor, secret="an-older-one"), both)
    assert not is_genuine(module_of(vendor), pushed(vendor, secret="a-third"), both)


@pytest.mark.parametrize("vendor", COVERS_BODY)
def test_a_changed_text_is_refused(vendor: str) -> None:
    request = pushed(vendor, "Your code is 123456")
    changed = replace(
        request, body=request.body.replace(b"123456", b"654321"), url=request.url.replace("123456", "654321")
    )
    assert changed != request
    assert not is_genuine(module_of(vendor), changed, secrets_of(vendor))


@pytest.mark.parametrize("vendor", VENDORS)
def test_each_header_of_the_signature_is_needed(vendor: str) -> None:
    request = pushed(vendor)
    needed = set(request.headers) - {"content-type", "x-event-type"}
    for name in needed:
        for value in (None, "", "x", "ключ", "é\n", "\udcff"):
            headers = {key: shown for key, shown in request.headers.items() if key != name}
            headers |= {} if value is None else {name: value}
            assert not is_genuine(module_of(vendor), replace(request, headers=headers), secrets_of(vendor)), name
    assert needed or vendor.startswith("vonage")


@pytest.mark.parametrize("vendor", TELLS_TIME)
def test_a_recording_is_refused_once_it_is_old(vendor: str) -> None:
    module, request, secrets = module_of(vendor), pushed(vendor), secrets_of(vendor)
    good_for = {"vonage": 86_700, "httpsms": 900}.get(module, 300)
    assert is_genuine(module, request, secrets, NOW + good_for)
    assert not is_genuine(module, request, secrets, NOW + good_for + 1)


@pytest.mark.parametrize("vendor", TELLS_TIME)
def test_a_request_from_the_future_is_refused(vendor: str) -> None:
    module, request, secrets = module_of(vendor), pushed(vendor), secrets_of(vendor)
    ahead = 900 if module == "httpsms" else 300
    assert is_genuine(module, request, secrets, NOW - ahead)
    assert not is_genuine(module, request, secrets, NOW - ahead - 1)


@pytest.mark.parametrize("name", known())
@pytest.mark.parametrize(
    "body", [b"", b"\xff\xfe", b"hello", b"{", b"[]", b"{}", b"null", b'"x"', b"[" * 5000, b"=&=&==", b"{" + b" " * 99]
)
@pytest.mark.parametrize("method", ["POST", "GET", "PUT"])
def test_garbage_makes_no_sense(name: str, body: bytes, method: str) -> None:
    with pytest.raises(PushUnreadable):
        load(name).parse(PushRequest(method, URL, {}, body))


@pytest.mark.parametrize("name", known())
def test_messages_and_errors_show_nothing_of_what_came(name: str) -> None:
    (message,) = load(name).parse(pushed(name))
    assert repr(message) == "Inbound(…)"
    for text in ("12025550100", "123456"):
        with pytest.raises(PushUnreadable) as unreadable:
            load(name).parse(replace(pushed(name), method="POST", body=f'{{"event": 1, "x": "{text}"'.encode()))
        assert text not in str(unreadable.value)
    with pytest.raises(PushRefused) as refused:
        load(name).verify(pushed(name), secrets_of(name, "another-secret"), NOW)
    assert "secret" not in str(refused.value)


def _headers() -> st.SearchStrategy[dict[str, str]]:
    names = sorted({name for vendor in VENDORS for name in pushed(vendor).headers})
    values = st.one_of(
        st.text(st.characters(exclude_categories=())),
        st.sampled_from(
            [
                "application/json",
                "1790000000",
                "0" * 64,
                "Bearer e30.e30.e30",
                "Bearer eyJhbGciOiJub25lIn0.e30.",
                "key=webhooks_sharedkey_1,algorithm=HMAC_SHA256",
                "MTIzNA==",
            ]
        ),
    )
    return st.dictionaries(st.sampled_from(names), values)


FIELDS = [
    *(
        "To",
        "From",
        "Body",
        "MessageSid",
        "SmsStatus",
        "AccountSid",
        "EventType",
        "MessageUUID",
        "Text",
        "Type",
        "Status",
    ),
    *("msisdn", "to", "from", "text", "messageId", "message_uuid", "channel", "message-timestamp", "timestamp", "sig"),
    *("concat", "concat-ref", "concat-total", "concat-part", "data", "payload", "event", "type", "webhookEvent", "id"),
    *("deviceId", "simNumber", "simCards", "messages", "received_at", "receivedAt", "event_type", "status", "device"),
]
WORDS = [
    *(
        "received",
        "sms",
        "true",
        "message.received",
        "sms:received",
        "sms:batch:received",
        "app:started",
        "sms.received",
    ),
    *("message.phone.received", "1790000000", "12025550100", "SM" + "0" * 32, "9" * 400, "0001-01-01", "inf", "\ud800"),
]

VALUES = st.recursive(
    st.one_of(
        st.sampled_from(WORDS),
        st.text(st.characters(exclude_categories=()), max_size=8),
        st.none() | st.booleans() | st.integers() | st.floats(),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(FIELDS), inner, max_size=5)),
    max_leaves=12,
)

BODIES = st.one_of(
    st.binary(max_size=60),
    st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=12).map(lambda data: json.dumps(data).encode()),
    st.lists(st.tuples(st.sampled_from(FIELDS), st.sampled_from(WORDS[:-1]) | st.text(max_size=5)), max_size=12).map(
        lambda pairs: urlencode(pairs).encode()
    ),
)

URLS = st.one_of(
    st.just(URL),
    BODIES.map(lambda body: f"{URL}?{body.decode('latin-1')}"),
    st.sampled_from(
        ["https://[::1", "http://x:port/", "https://gw.example.test:99999/?bodySHA256=" + "0" * 64, "", "?"]
    ),
    st.text(st.characters(exclude_categories=())).map(lambda text: f"{URL}?bodySHA256={text}"),
)

REQUESTS = st.builds(PushRequest, st.sampled_from(["GET", "POST", "PUT"]), URLS, _headers(), BODIES)


@pytest.mark.parametrize("name", known())
@hypothesis.settings(deadline=None, max_examples=100)
@hypothesis.given(request=REQUESTS)
def test_whatever_comes_is_refused_and_nothing_else_is_raised(name: str, request: PushRequest) -> None:
    secrets = {**secrets_of(name), "twilio_shared_keys": f"webhooks_sharedkey_1:{SECRET}"}
    with pytest.raises(PushRefused):
        load(name).verify(request, secrets, NOW)


@pytest.mark.parametrize("name", known())
@hypothesis.settings(deadline=None, max_examples=150)
@hypothesis.given(request=REQUESTS)
def test_whatever_comes_is_read_or_makes_no_sense(name: str, request: PushRequest) -> None:
    source = load(name)
    with suppress(PushUnreadable):
        for message in source.parse(request):
            assert message.id
            assert not message.to or message.to.isdigit()
            assert message.to or message.device
            message.text.encode()
            message.sender.encode()
    if isinstance(source, TellsDevices):
        with suppress(PushUnreadable):
            assert all(number.isdigit() for number in source.devices(request).values())


@pytest.mark.parametrize("vendor", VENDORS)
@hypothesis.settings(deadline=None, max_examples=40)
@hypothesis.given(data=st.data())
def test_a_damaged_message_is_read_or_makes_no_sense(vendor: str, data: st.DataObject) -> None:
    request = pushed(vendor)
    whole = request.body or request.url.encode()
    place = data.draw(st.integers(0, len(whole) - 1))
    damaged = whole[:place] + data.draw(st.binary(max_size=3)) + whole[place + data.draw(st.integers(0, 9)) :]
    changed = replace(request, body=damaged) if request.body else replace(request, url=damaged.decode("latin-1"))
    with suppress(PushUnreadable):
        load(module_of(vendor)).parse(changed)
    if vendor in COVERS_BODY and damaged != whole:
        with suppress(PushRefused):  # a form has more than one way to write a character
            load(module_of(vendor)).verify(changed, secrets_of(vendor), NOW)
