"""Inbound SMS of phone apps and scripts: SMS Gateway for Android, textbee, httpSMS and the generic format."""

from __future__ import annotations

import base64
import hmac
import json
from dataclasses import replace
from typing import Any

import pytest

from adapters._inbound import Inbound, generic, httpsms, smsgate, textbee
from gateway.errors import PushUnreadable
from gateway.upstream import PushRequest
from tests.adapters._push import NOW, SECRET, URL, is_genuine, post, pushed, secrets_of
from tests.simulators.inbound import jwt


def event(kind: str, payload: Any, **changes: Any) -> PushRequest:
    whole = {"id": "evt_1", "deviceId": "dev1", "webhookId": "wh1", "event": kind, "payload": payload}
    return post(json.dumps(whole | changes))


RECEIVED = {
    "messageId": "abc123",
    "message": "Code 123456",
    "sender": "12345",
    "recipient": "+12025550100",
    "simNumber": 1,
    "receivedAt": "2026-11-01T10:00:00.000+07:00",
}
CARD = {"slotIndex": 0, "simNumber": 1, "phoneNumber": "+12025550100", "carrierName": None, "iccid": None}


class TestSmsGate:
    def test_published_vector(self) -> None:
        headers = {
            "x-timestamp": "1790000000",
            "x-signature": "d1f9abc64ff766ea27643aa560fb2549804c0d08e478dfb94853b3af54b14a89",
        }
        request = post('{"event":"sms:received","id":"evt_1"}', headers)
        secrets = {"smsgate_signing_key": "example-signing-key"}
        assert is_genuine("smsgate", request, secrets)
        assert is_genuine("generic", request, {"generic_secret": "example-signing-key"})
        assert is_genuine(
            "smsgate", replace(request, headers=headers | {"x-signature": headers["x-signature"].upper()}), secrets
        )

    def test_digits_can_not_move_between_body_and_time_stamp(self) -> None:
        request = pushed("smsgate")
        moved = {**request.headers, "x-timestamp": request.headers["x-timestamp"][1:]}
        assert not is_genuine(
            "smsgate", replace(request, body=request.body + b"1", headers=moved), secrets_of("smsgate")
        )

    @pytest.mark.parametrize(
        "stamp", ["+1790000000", " 1790000000", "1790000000 ", "1790000000.0", "1_790_000_000", "0x1"]
    )
    def test_a_time_stamp_is_whole_seconds_however_well_signed(self, stamp: str) -> None:
        body = pushed("smsgate").body
        signature = hmac.new(SECRET.encode(), body + stamp.encode(), "sha256").hexdigest()
        request = post(body, {"x-timestamp": stamp, "x-signature": signature})
        assert not is_genuine("smsgate", request, secrets_of("smsgate"))

    def test_published_message(self) -> None:
        assert smsgate.parse(event("sms:received", RECEIVED)) == (
            Inbound("evt_1", "12025550100", "12345", "Code 123456", 1793502000.0, "dev1:1"),
        )

    def test_the_same_content_twice_is_two_messages(self) -> None:
        first, second = (smsgate.parse(event("sms:received", RECEIVED, id=id_))[0] for id_ in ("evt_1", "evt_2"))
        assert first.id != second.id

    def test_older_versions_name_the_sender_otherwise_and_no_recipient(self) -> None:
        payload = {"message": "x", "phoneNumber": "+12025550111", "simNumber": 2, "receivedAt": None}
        assert smsgate.parse(event("sms:received", payload)) == (
            Inbound("evt_1", "", "12025550111", "x", None, "dev1:2"),
        )

    @pytest.mark.parametrize("recipient", [None, "", "unknown", 0])
    def test_without_a_recipient_the_device_says_where_to_look(self, recipient: object) -> None:
        payload = RECEIVED | {"recipient": recipient}
        (message,) = smsgate.parse(event("sms:received", payload))
        assert (message.to, message.device) == ("", "dev1:1")
        (message,) = smsgate.parse(event("sms:received", payload | {"simNumber": None}))
        assert (message.to, message.device) == ("", "dev1")

    def test_a_batch_has_an_id_for_each_message(self) -> None:
        batch = {"messages": [RECEIVED, RECEIVED | {"message": "Code 2"}]}
        messages = smsgate.parse(event("sms:batch:received", batch))
        assert [(message.id, message.text) for message in messages] == [
            ("evt_1:0", "Code 123456"),
            ("evt_1:1", "Code 2"),
        ]

    @pytest.mark.parametrize(
        "kind",
        ["sms:sent", "sms:delivered", "sms:failed", "sms:data-received", "mms:received", "system:ping", "new:one"],
    )
    def test_other_events_are_ignored(self, kind: str) -> None:
        assert smsgate.parse(event(kind, RECEIVED)) == ()
        assert smsgate.devices(event(kind, {"simCards": [CARD]})) == {}

    def test_a_start_tells_the_numbers_of_the_cards(self) -> None:
        started = event("app:started", {"simCards": [CARD, CARD | {"simNumber": 2, "phoneNumber": "+12025550101"}]})
        assert smsgate.parse(started) == ()
        assert smsgate.devices(started) == {"dev1:1": "12025550100", "dev1:2": "12025550101"}

    def test_cards_that_do_not_know_their_number_are_left_out(self) -> None:
        cards = [CARD | {"phoneNumber": None}, CARD | {"simNumber": 2, "phoneNumber": ""}]
        assert smsgate.devices(event("app:started", {"simCards": cards})) == {}
        assert smsgate.devices(event("app:started", {"simCards": cards[:1]})) == {}
        assert smsgate.devices(event("app:started", {"simCards": []})) == {}

    @pytest.mark.parametrize(
        "payload", [None, {"simCards": None}, {"simCards": [1]}, {"simCards": [{"simNumber": {}}]}]
    )
    def test_a_start_without_sense_is_unreadable(self, payload: object) -> None:
        with pytest.raises(PushUnreadable):
            smsgate.devices(event("app:started", payload))


class TestTextbee:
    def test_published_vector_with_and_without_its_prefix(self) -> None:
        signature = "sha256=fad0cb1382a7be8cfdbb1676531085032180f37e3b646bc0652616b00e1427ef"
        secrets = {"textbee_signing_secret": "example-secret"}
        for shown in (signature, signature.removeprefix("sha256="), signature.upper()):
            assert is_genuine("textbee", post('{"smsId":"1"}', {"x-signature": shown}), secrets)
        assert not is_genuine("textbee", post('{"smsId":"1"}', {"x-signature": "sha1=" + signature[7:]}), secrets)

    def test_the_device_says_where_to_look(self) -> None:
        (message,) = textbee.parse(pushed("textbee", device="dev-9"))
        assert (message.to, message.device) == ("", "dev-9")

    @pytest.mark.parametrize(("kind", "count"), [("MESSAGE_RECEIVED", 1), ("MESSAGE_SENT", 0), ("sms.delivered", 0)])
    def test_names_of_events(self, kind: str, count: int) -> None:
        assert len(textbee.parse(pushed("textbee", extra={"webhookEvent": kind}))) == count


class TestHttpSms:
    def claims(self, **changes: Any) -> dict[str, Any]:
        given = {"aud": URL, "exp": NOW + 600, "iat": NOW, "nbf": NOW - 600} | changes
        return {name: value for name, value in given.items() if value is not None}

    def bearing(self, token: str) -> PushRequest:
        return replace(pushed("httpsms"), headers={"authorization": token})

    @pytest.mark.parametrize("changes", [{}, {"aud": None}, {"aud": ["x", URL]}, {"nbf": None, "iat": None}])
    def test_tokens_that_are_good(self, changes: dict[str, Any]) -> None:
        for scheme in ("Bearer", "bearer"):
            request = self.bearing(f"{scheme} {jwt(self.claims(**changes), SECRET)}")
            assert is_genuine("httpsms", request, secrets_of("httpsms"))

    @pytest.mark.parametrize(
        "changes",
        [
            {"exp": None},
            {"exp": NOW - 301},
            {"exp": 10**400},
            {"exp": True},
            {"nbf": -1},
            {"nbf": NOW + 301},
            {"aud": "https://other.example.test"},
            {"aud": []},
        ],
    )
    def test_tokens_that_are_not(self, changes: dict[str, Any]) -> None:
        request = self.bearing(f"Bearer {jwt(self.claims(**changes), SECRET)}")
        assert not is_genuine("httpsms", request, secrets_of("httpsms"))

    @pytest.mark.parametrize("algorithm", ["none", "None", "HS384", "RS256", "ES256"])
    def test_a_token_of_another_algorithm_is_refused(self, algorithm: str) -> None:
        token = jwt(self.claims(), SECRET, {"alg": algorithm})
        for shown in (token, token.rpartition(".")[0] + ".", token.rpartition(".")[0]):
            assert not is_genuine("httpsms", self.bearing(f"Bearer {shown}"), secrets_of("httpsms"))

    @pytest.mark.parametrize("bits", [384, 512])
    def test_not_even_a_stronger_algorithm_will_do(self, bits: int) -> None:
        token = jwt(self.claims(), SECRET, {"alg": f"HS{bits}"}, f"sha{bits}")
        assert not is_genuine("httpsms", self.bearing(f"Bearer {token}"), secrets_of("httpsms"))

    @pytest.mark.parametrize("part", ["[" * 5000, '{"alg":"HS256","crit":["x"]}', '{"alg":{}}', "{", "null", "1e999"])
    def test_a_token_that_is_none_is_refused(self, part: str) -> None:
        encoded = base64.urlsafe_b64encode(part.encode()).rstrip(b"=").decode()
        for token in (f"{encoded}.e30.AAAA", f"eyJhbGciOiJIUzI1NiJ9.{encoded}.AAAA", "..", "a.b.c.d"):
            assert not is_genuine("httpsms", self.bearing(f"Bearer {token}"), secrets_of("httpsms"))

    def test_another_scheme_is_refused(self) -> None:
        token = jwt(self.claims(), SECRET)
        for shown in (token, f"Basic {token}", "Bearer", "Bearer  ", f"Bearer {token} x"):
            assert not is_genuine("httpsms", self.bearing(shown), secrets_of("httpsms"))

    def test_a_key_that_looks_like_a_public_one_verifies_nothing(self) -> None:
        request = self.bearing(f"Bearer {jwt(self.claims(), 'ssh-rsa')}")
        assert not is_genuine("httpsms", request, {"httpsms_signing_key": "ssh-rsa"})

    @pytest.mark.parametrize("kind", ["message.phone.sent", "message.call.missed", "phone.heartbeat.offline"])
    def test_other_events_are_ignored(self, kind: str) -> None:
        whole = json.loads(pushed("httpsms").body)
        assert httpsms.parse(post(json.dumps(whole | {"type": kind}))) == ()

    def test_an_encrypted_text_is_not_taken_for_a_message(self) -> None:
        with pytest.raises(PushUnreadable, match="encrypted"):
            httpsms.parse(pushed("httpsms", extra={"encrypted": "true"}))

    def test_older_versions_name_the_id_otherwise(self) -> None:
        whole = json.loads(pushed("httpsms").body)
        expected = whole["data"].pop("message_id")
        whole["data"]["id"] = expected
        assert httpsms.parse(post(json.dumps(whole)))[0].id == expected
        del whole["data"]["id"]
        assert httpsms.parse(post(json.dumps(whole)))[0].id == whole["id"]


class TestGeneric:
    def test_a_script_that_does_not_know_the_number_tells_the_device(self) -> None:
        request = pushed("generic", to="", device="modem1")
        assert is_genuine("generic", request, secrets_of("generic"))
        (message,) = generic.parse(request)
        assert (message.to, message.device) == ("", "modem1")

    @pytest.mark.parametrize(("stamp", "read"), [("1790000000", NOW), (1790000000, NOW), (None, None), ("soon", None)])
    def test_times(self, stamp: object, read: float | None) -> None:
        body = {"id": 1, "to": "+1 (202) 555-0100", "from": None, "text": "", "received_at": stamp}
        assert generic.parse(post(json.dumps(body))) == (Inbound("1", "12025550100", "", "", read),)

    @pytest.mark.parametrize(
        ("shown", "read"),
        [
            ("+1 (202) 555-0111", "12025550111"),
            (12025550111, "12025550111"),
            ("32665", "32665"),
            (" Google ", "Google"),
            ("DE-12", "DE-12"),
            ("+", "+"),
        ],
    )
    def test_senders_are_digits_or_names(self, shown: object, read: str) -> None:
        body = {"id": "1", "to": "12025550100", "from": shown, "text": "x"}
        assert generic.parse(post(json.dumps(body)))[0].sender == read

    @pytest.mark.parametrize(
        "changes",
        [
            {"from": ["x"]},
            {"from": True},
            {"id": None},
            {"id": ""},
            {"id": "a b"},
            {"to": None},
            {"to": "x", "device": "m"},
            {"text": None},
        ],
    )
    def test_a_message_without_its_parts_makes_no_sense(self, changes: dict[str, Any]) -> None:
        body = {"id": "1", "to": "12025550100", "from": "1", "text": "x"}
        with pytest.raises(PushUnreadable):
            generic.parse(post(json.dumps(body | changes)))
