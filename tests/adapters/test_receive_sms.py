"""Numbers of one's own as an upstream: whole lives with pushes, whose a message is, and what goes wrong on the way."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any
from urllib.parse import urlencode

import pytest
from pydantic import ValidationError

import adapters
from adapters import _inbound, receive_sms
from adapters._receive_sms_rules import AMBIGUOUS, IGNORED, NO_CODE, NOT_NAMED, OTHER_SERVICE, Rule, Rules
from adapters.receive_sms import Options, ReceiveSms
from gateway import roster
from gateway.catalog import load_catalog
from gateway.database import Database, open_database
from gateway.errors import (
    HasSms,
    InDoubt,
    NotReached,
    PushRefused,
    PushUnreadable,
    Refused,
    SoldOut,
    Unavailable,
    UnknownLease,
    Unwell,
)
from gateway.inhouse import PoolLease, PoolMessage
from gateway.model import Lease, LeaseState, Outcome, Watched
from gateway.money import Money
from gateway.numbers import Numbers
from gateway.upstream import AsksAgain, Finds, Pushed, Pushes, PushRequest, PushTaken, ReadsMany, Tidies
from tests.adapters._context import SECRET, context, order
from tests.harness import ROOT, environment

NOW = 1_790_000_000.0
NUMBER, OTHER = "447700900101", "447700900102"
TWILIO_TOKEN, VONAGE_SECRET, PHONE_KEY = "example-auth-token", "example-signature-secret", "example-signing-key"
SECRETS = {
    "twilio_auth_token": TWILIO_TOKEN,
    "vonage_signature_secret": VONAGE_SECRET,
    "smsgate_signing_key": PHONE_KEY,
}
CATALOG = load_catalog(ROOT / "config" / "catalog")


@dataclass
class Bench:
    """The upstream over a pool with a clock of its own."""

    database: Database
    now: float = NOW
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.pool = Numbers(self.database.store, self.database.vault, lambda: self.now, "there")
        self.there = self.build()

    def build(self, **changes: Any) -> ReceiveSms:
        given = {"price": "0.05", **self.options, **changes}
        there = context(pool=self.pool, clock=lambda: self.now, secrets=SECRETS)
        return receive_sms.build(there, Options.model_validate(given))

    async def add(self, *numbers: str, **values: Any) -> None:
        specs = [roster.specify(self.database.vault, number, number, {"country": 16, **values}) for number in numbers]
        await self.database.store.run(roster.put, "there", specs, self.now)

    async def read(self, lease: Lease) -> tuple[LeaseState, list[str]]:
        progress = await self.there.read(Watched(lease.reference, 1))
        return progress.state, [sms.text for sms in progress.messages]

    async def push(self, text: str, **changes: Any) -> PushTaken:
        return await self.there.take_push(self.generic(text, **changes))

    def generic(self, text: str, *, key: str = SECRET, **changes: Any) -> PushRequest:
        body = {
            "id": hashlib.sha256(text.encode()).hexdigest(),
            "to": f"+{NUMBER}",
            "from": "Example",
            "text": text,
            **changes,
        }
        return signed("generic", body, key, self.now)


def signed(source: str, message: Mapping[str, Any], key: str, now: float) -> PushRequest:
    """As `X-Timestamp` and `X-Signature` have it."""
    body, stamp = json.dumps(message).encode(), str(int(now))
    signature = hmac.new(key.encode(), body + stamp.encode(), "sha256").hexdigest()
    headers = {"content-type": "application/json", "x-timestamp": stamp, "x-signature": signature}
    return PushRequest("POST", f"https://gw.example.test/in/{source}", headers, body, source=source)


@pytest.fixture
async def bench(sqlite_url: str) -> AsyncIterator[Bench]:
    database = open_database(environment(sqlite_url))
    bench = Bench(database)
    await bench.add(NUMBER)
    yield bench
    await database.store.close()


# The module


def test_every_secret_of_every_source_is_named_and_none_is_needed() -> None:
    wanted = {name for source in _inbound.known() for name in _inbound.load(source).SECRETS}
    told = adapters.secrets(adapters.load("receive_sms"))
    assert told == dict.fromkeys(["api_key", *wanted], False)


def test_it_has_every_ability(sqlite_url: str) -> None:
    there = receive_sms.build(context(), Options())
    assert all(isinstance(there, ability) for ability in (ReadsMany, AsksAgain, Finds, Pushes, Tidies))


@pytest.mark.parametrize(
    "wrong", [{"price": "-1"}, {"price": "x"}, {"shared": 0}, {"rules": {"tg": {"sender": ["x"]}}}]
)
def test_options_that_make_no_sense_are_refused(wrong: Mapping[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Options.model_validate(wrong)


# Whole lives


async def test_number_is_bought_its_code_pushed_and_the_lease_finished(bench: Bench) -> None:
    lease = await bench.there.buy(order())
    assert (lease.number, lease.cost, lease.expires_at) == (NUMBER, Money(50_000, "USD"), NOW + 1200)
    assert await bench.read(lease) == (LeaseState.OPEN, [])
    taken = await bench.push("Telegram code 12345")
    (pushed,) = taken.pushed
    assert pushed.reference == lease.reference
    assert pushed.messages == (await bench.there.read(Watched(lease.reference, 1))).messages
    with pytest.raises(HasSms):
        await bench.there.close(lease.reference, Outcome.CANCELLED)
    for _ in range(2):
        await bench.there.close(lease.reference, Outcome.FINISHED)
    assert (await bench.read(lease))[0] is LeaseState.FINISHED
    bench.now += 3600
    with pytest.raises(SoldOut):
        await bench.there.buy(order("tg"))
    await bench.there.buy(order("wa"))


async def test_second_message_follows_the_first(bench: Bench) -> None:
    lease = await bench.there.buy(order())
    await bench.push("Telegram code 1")
    await bench.there.ask_again(lease.reference)
    await bench.push("Telegram code 2")
    assert await bench.read(lease) == (LeaseState.OPEN, ["Telegram code 1", "Telegram code 2"])


async def test_cancelled_number_is_free_for_another_service_after_its_rest(bench: Bench) -> None:
    lease = await bench.there.buy(order())
    for _ in range(2):
        await bench.there.close(lease.reference, Outcome.CANCELLED)
    assert await bench.read(lease) == (LeaseState.CANCELLED, [])
    with pytest.raises(SoldOut):
        await bench.there.buy(order("wa"))
    bench.now += 60
    await bench.there.buy(order("wa"))


async def test_unknown_reference_is_a_state_to_read_and_an_error_to_close(bench: Bench) -> None:
    assert await bench.read(Lease("777", NUMBER)) == (LeaseState.UNKNOWN, [])
    with pytest.raises(UnknownLease):
        await bench.there.close("777", Outcome.CANCELLED)


async def test_repeated_push_is_told_the_same(bench: Bench) -> None:
    lease = await bench.there.buy(order())
    assert await bench.push("Telegram 1") == await bench.push("Telegram 1")
    assert await bench.read(lease) == (LeaseState.OPEN, ["Telegram 1"])


async def test_message_of_nobody_is_thanked_for_and_kept(bench: Bench) -> None:
    assert await bench.push("Telegram 1") == PushTaken()
    lease = await bench.there.buy(order())
    assert await bench.push("Your WhatsApp code is 123-456") == PushTaken()
    assert await bench.push("code 1", to=f"+{OTHER}") == PushTaken()
    assert await bench.read(lease) == (LeaseState.OPEN, [])
    rows = await bench.database.store.read(lambda tx: roster.messages(tx, "there", 10, only_unmatched=True))
    assert [row["reason"] for row in rows] == ["not ours", "other service", "no lease"]


async def test_prices_and_counts_are_those_of_the_pool(bench: Bench) -> None:
    await bench.add(OTHER, carrier="cell", services=roster.services_column(["am"], is_except=True))
    await bench.there.buy(order("wa"))
    table = await bench.there.offers()
    assert {(offer.operator, offer.count, str(offer.cost)) for offer in table.at("tg", 16)} == {("cell", 1, "0.05 USD")}
    assert table.at("am", 16) == ()
    assert table.at("tg", 6) == ()
    sold = {service for service, _ in table.pairs()}
    assert sold == {"tg", "wa", "xx"}
    assert {service for service, _ in (await bench.build(services=["tg", "zz"]).offers()).pairs()} == {"tg"}


async def test_scenarios_of_the_sandbox_are_not_sold(bench: Bench) -> None:
    there = receive_sms.build(context(pool=bench.pool, names=CATALOG, clock=lambda: NOW), Options())
    table = await there.offers()
    assert len(table) == len(CATALOG.services) - len(CATALOG.sandbox_services)
    with pytest.raises(Refused):
        await there.buy(order("xnone"))


async def test_what_is_not_sold_or_too_dear_is_refused(bench: Bench) -> None:
    with pytest.raises(Refused):
        await bench.there.buy(order("zz"))
    for wrong in (order(cost_max=49_999), order(country=6), order(operator="cell"), order(phone_exceptions=("4477",))):
        with pytest.raises(SoldOut):
            await bench.there.buy(wrong)


# What goes wrong


async def test_purchase_whose_commit_was_not_confirmed_is_in_doubt_and_found(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = bench.database.store.run

    async def loses_the_answer(*args: Any, **kwargs: Any) -> Any:
        await run(*args, **kwargs)
        raise Unavailable

    monkeypatch.setattr(bench.database.store, "run", loses_the_answer)
    with pytest.raises(InDoubt):
        await bench.there.buy(order())
    monkeypatch.undo()
    (found,) = await bench.there.find(NOW - 5)
    assert (found.service, found.country, found.lease.number, found.created_at) == ("tg", 16, NUMBER, NOW)
    assert await bench.there.find(NOW + 1) == []


async def test_message_survives_a_process_that_dies_before_it_delivers(bench: Bench) -> None:
    lease = await bench.there.buy(order())
    await bench.push("Telegram 1")  # what it returned is lost
    again = Bench(bench.database)
    assert await again.read(lease) == (LeaseState.OPEN, ["Telegram 1"])


async def test_database_that_is_away_is_an_error_of_the_upstream(bench: Bench) -> None:
    await bench.database.store.close()
    with pytest.raises(InDoubt):
        await bench.there.buy(order())
    for work in (
        bench.there.offers(),
        bench.read(Lease("1", NUMBER)),
        bench.there.find(0),
        bench.there.close("1", Outcome.FINISHED),
        bench.there.ask_again("1"),
        bench.there.tidy(),
        bench.push("Telegram 1"),
    ):
        with pytest.raises(Unwell):
            await work


async def test_upstream_without_a_pool_says_so() -> None:
    there = receive_sms.build(context(), Options())
    with pytest.raises(NotReached):
        await there.buy(order())
    with pytest.raises(Unwell):
        await there.offers()


# Sources


@pytest.mark.parametrize("source", ["", "nothing", "../twilio", "_checks", "telnyx", "twilio", "smsgate"])
async def test_source_that_is_unknown_unproven_or_without_a_secret_is_refused(bench: Bench, source: str) -> None:
    request = PushRequest("POST", "https://gw.example.test/x", {}, b"{}", source=source)
    with pytest.raises(PushRefused):
        await bench.there.take_push(request)


async def test_nothing_is_taken_while_no_secret_is_set(bench: Bench) -> None:
    there = receive_sms.build(context(pool=bench.pool, secret="", clock=lambda: NOW), Options())
    with pytest.raises(PushRefused):
        await there.take_push(bench.generic("Telegram 1", key=""))


async def test_generic_form_is_signed_with_the_upstreams_key_unless_it_has_a_secret_of_its_own(bench: Bench) -> None:
    with pytest.raises(PushRefused):
        await bench.push("Telegram 1", key="another key")
    own = context(pool=bench.pool, secrets={"generic_secret": "its-own"}, clock=lambda: NOW)
    there = receive_sms.build(own, Options())
    with pytest.raises(PushRefused):
        await there.take_push(bench.generic("Telegram 1"))
    await there.take_push(bench.generic("Telegram 1", key="its-own"))


async def test_push_that_makes_no_sense_is_unreadable(bench: Bench) -> None:
    with pytest.raises(PushUnreadable):
        await bench.push("Telegram 1", to="nowhere")


async def test_sender_is_answered_as_it_wants(bench: Bench) -> None:
    lease = await bench.there.buy(order())
    url = "https://gw.example.test/in/twilio"
    fields = {"Body": "Telegram 1", "From": "+12025550111", "MessageSid": "SM" + "0" * 32, "To": f"+{NUMBER}"}
    fields["NumMedia"] = "0"
    plain = url + "".join(name + fields[name] for name in sorted(fields))
    digest = hmac.new(TWILIO_TOKEN.encode(), plain.encode(), hashlib.sha1).digest()
    headers = {"x-twilio-signature": _base64(digest), "content-type": "application/x-www-form-urlencoded"}
    taken = await bench.there.take_push(PushRequest("POST", url, headers, urlencode(fields).encode(), source="twilio"))
    assert (taken.body, taken.media_type) == (b"<Response/>", "text/xml")
    assert [pushed.reference for pushed in taken.pushed] == [lease.reference]


def _base64(data: bytes) -> str:
    import base64

    return base64.b64encode(data).decode()


def vonage_part(place: int, total: int) -> PushRequest:
    fields = {
        "msisdn": "12025550111", "to": NUMBER, "messageId": f"0A0000000000000{place}", "text": f"Telegram <{place}>",
        "type": "text", "timestamp": str(int(NOW)), "concat": "true", "concat-ref": "7",
        "concat-total": str(total), "concat-part": str(place),
    }  # fmt: skip
    line = "".join(f"&{name}={fields[name]}" for name in sorted(fields)) + VONAGE_SECRET
    signature = hashlib.md5(line.encode(), usedforsecurity=False).hexdigest()
    body = urlencode({**fields, "sig": signature}).encode()
    headers = {"content-type": "application/x-www-form-urlencoded"}
    return PushRequest("POST", "https://gw.example.test/in/vonage", headers, body, source="vonage")


async def test_parts_of_a_message_are_pushed_as_one(bench: Bench) -> None:
    lease = await bench.there.buy(order())
    assert (await bench.there.take_push(vonage_part(2, 2))).pushed == ()
    taken = await bench.there.take_push(vonage_part(1, 2))
    assert [sms.text for pushed in taken.pushed for sms in pushed.messages] == ["Telegram <1>Telegram <2>"]
    assert await bench.read(lease) == (LeaseState.OPEN, ["Telegram <1>Telegram <2>"])


async def test_phone_tells_which_number_it_has_and_its_messages_find_it(bench: Bench) -> None:
    cards = [{"slotIndex": 0, "simNumber": 1, "phoneNumber": f"+{NUMBER}"}]
    started = {"id": "e1", "deviceId": "dev1", "event": "app:started", "payload": {"simCards": cards}}
    assert await bench.there.take_push(signed("smsgate", started, PHONE_KEY, NOW)) == PushTaken()
    lease = await bench.there.buy(order())
    message = {"message": "Telegram 1", "sender": "22000", "recipient": None, "simNumber": 1}
    event = {"id": "e2", "deviceId": "dev1", "event": "sms:received", "payload": message}
    taken = await bench.there.take_push(signed("smsgate", event, PHONE_KEY, NOW))
    assert taken.pushed == (Pushed(lease.reference, taken.pushed[0].messages),)


# Whose message it is


def leased(*services: str, waiting: bool = True) -> list[PoolLease]:
    return [PoolLease(number, service, NOW + number, waiting) for number, service in enumerate(services, 1)]


def rules(**changes: Any) -> Rules:
    given: dict[str, Any] = {"rules": {}, "ignored": Rule(), "strict": False, **changes}
    return Rules(CATALOG.services, **given)


def chosen(leases: Sequence[PoolLease], text: str, sender: str = "", **changes: Any) -> str:
    found = rules(**changes)(leases, PoolMessage("generic", "1", NUMBER, sender, text))
    return found if isinstance(found, str) else found.service


@pytest.mark.parametrize(
    ("service", "text", "sender"),
    [
        ("tg", "Telegram code 12345", ""),
        ("tg", "12345", "TELEGRAM"),
        ("go", "G-123456 is your Google verification code.", "22000"),
        ("go", "123456 is your YouTube code", ""),
        ("wa", "<#> Your WhatsApp code: 123-456", ""),
        ("ig", "123 456 is your Instagram code.", ""),
        ("vk", "VK: 12345 - use this code", ""),
        ("vk", "code 12345", "VKcom"),
        ("ok", "12345 is the code", "ok.ru"),
        ("me", "Enter 123456 in LINE", ""),
        ("gf", "123456 is your Google Voice verification code", ""),
        ("bye", "Your WhatsApp code: 123-456", ""),
        ("eh", "Telegram code 12345", ""),
        ("tw", "Your X confirmation code is 123456", ""),
        ("ot", "Your code is 123456", ""),
        ("full", "Telegram code 12345", ""),
        ("mm", "Use 123456 as your security code", ""),
    ],
)
def test_message_goes_to_the_lease_it_is_for(service: str, text: str, sender: str) -> None:
    assert chosen(leased(service), text, sender) == service


@pytest.mark.parametrize(
    ("service", "text", "sender"),
    [
        ("wa", "Telegram code 12345", ""),
        ("wa", "your telegram code: 12345", ""),
        ("wa", "Login code: 12345. Do not give this code to anyone, even if they say they are from Telegram!", ""),
        ("wa", "12345", "Telegram"),
        ("tg", "Your Uber code is 1234", ""),
        ("tg", "Your WeChat verification code (1234)", ""),
        ("ot", "Telegram code 12345", ""),
        ("tg", "12345", "LINE"),
    ],
)
def test_message_that_names_another_service_is_nobodys(service: str, text: str, sender: str) -> None:
    assert chosen(leased(service), text, sender) == OTHER_SERVICE


@pytest.mark.parametrize(
    "text",
    [
        "Next, use 123456 to sign in. This link will match your account.",
        "Hanya gunakan kode 123456. Jangan berikan kepada siapa pun, hanya untuk Anda.",
        "Il tuo codice è 123456. Voi non condividere",
        "Stone, paper: 4711",
    ],
)
def test_words_of_every_day_name_no_service(text: str) -> None:
    assert chosen(leased("mm"), text) == "mm"


def test_of_several_leases_the_one_named_gets_the_message() -> None:
    several = leased("wa", "tg", "go")
    assert chosen(several, "Telegram code 1") == "tg"
    assert chosen(several, "Never tell Telegram: 12345", "WhatsApp") == "wa"
    assert chosen(leased("go", "ccu"), "Your Google Chat code: 1") == "ccu"


def test_message_without_a_name_goes_to_the_only_one_that_waits_and_to_nobody_by_guess() -> None:
    several = leased("wa", "tg")
    assert chosen(several, "Your code is 12345") == AMBIGUOUS
    assert chosen(leased("fb", "ig"), "12345 is your Meta code") == AMBIGUOUS
    done = PoolLease(1, "wa", NOW + 1, is_waiting=False)
    assert chosen([done, several[1]], "Your code is 12345") == "tg"
    assert chosen(leased("wa", "tg", waiting=False), "Your code is 12345") == AMBIGUOUS
    assert chosen(leased("wa", waiting=False), "Your code is 12345") == "wa"


def test_message_without_a_name_and_a_digit_is_an_advertisement() -> None:
    assert chosen(leased("wa"), "Get more data now!") == NO_CODE
    assert chosen(leased("wa"), "") == NO_CODE
    assert chosen(leased("wa"), "Open WhatsApp to go on") == "wa"


def test_rules_of_the_settings_take_the_place_of_what_is_known() -> None:
    own = {"tg": Rule(senders=("TG*", "Paper Plane"), texts=("plane code",))}
    assert chosen(leased("wa", "tg"), "1", "tg-login", rules=own) == "tg"
    assert chosen(leased("wa", "tg"), "1", "PAPER PLANE", rules=own) == "tg"
    assert chosen(leased("wa", "tg"), "Your plane code: 1", rules=own) == "tg"
    assert chosen(leased("tg"), "Telegram 1", rules=own) == OTHER_SERVICE


def test_ignored_messages_are_nobodys() -> None:
    ignored = Rule(senders=("ExampleCell",), texts=("top up",))
    assert chosen(leased("tg"), "Telegram 1", "ExampleCell", ignored=ignored) == IGNORED
    assert chosen(leased("full"), "Top up 5 EUR", ignored=ignored) == IGNORED


def test_strict_rules_give_only_what_is_named() -> None:
    assert chosen(leased("tg"), "code 12345", strict=True) == NOT_NAMED
    assert chosen(leased("tg"), "Telegram 12345", strict=True) == "tg"


async def test_options_reach_the_rules(bench: Bench) -> None:
    there = bench.build(rules=MappingProxyType({"tg": {"texts": ["plane"]}}), strict=True, shared=2)
    lease = await there.buy(order("tg"))
    await there.buy(order("wa"))
    taken = await there.take_push(bench.generic("plane 1"))
    assert [pushed.reference for pushed in taken.pushed] == [lease.reference]
    assert (await there.take_push(bench.generic("code 2"))).pushed == ()
