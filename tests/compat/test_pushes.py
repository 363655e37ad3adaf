"""What an upstream may push, over the gateway's own application: proven or refused, at once, once."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from gateway.errors import PushRefused, PushUnreadable, Unwell
from gateway.inbox import native_signature
from gateway.model import Progress, Sms, Watched
from gateway.upstream import Pushed, PushRequest, PushTaken
from tests.canaries import dumped, hashes_of
from tests.harness import House, add_account, config_directory, environment, house
from tests.scripted import Scripted

STANZA = '[one]\nadapter = "handler_api"\nbase_url = "http://127.0.0.1:9/"\npoll_seconds = 3600.0\n'
GATEWAY = '[server]\ntrusted_proxies = ["127.0.0.1", "10.0.0.0/8"]\n'
PUBLIC = "https://gw.example.test/webhooks/sms"


class Pushing(Scripted):
    """An upstream whose pushes are JSON: `{"ref", "text"?, "also"?}`, where `also` lists further references that the
    same is told of; proven by the header `x-proof` or the secret path."""

    def __init__(self, name: str, clock: Any, cost_micros: int) -> None:
        super().__init__(name, clock, cost_micros)
        self.requests: list[PushRequest] = []
        self.reads = 0

    async def read(self, watched: Watched) -> Progress:
        self.reads += 1
        return await super().read(watched)

    async def take_push(self, request: PushRequest) -> PushTaken:
        self.requests.append(request)
        if request.headers.get("x-proof") != "good" and not request.has_secret:
            raise PushRefused("no proof")
        if request.headers.get("x-proof") == "later":
            raise Unwell("keep it")
        try:
            data = json.loads(request.body)
        except ValueError:
            raise PushUnreadable("not JSON") from None
        messages = (Sms("4711", data["text"], identity="pushed:1"),) if "text" in data else ()
        told = tuple(Pushed(reference, messages) for reference in (data["ref"], *data.get("also", ())))
        return PushTaken(told, b"<Response/>", "text/xml")


@asynccontextmanager
async def pushed_to(url: str, parent: Path, **more: str) -> AsyncIterator[tuple[House, Pushing]]:
    values = environment(url, ONE_API_KEY="k" * 32, WEBHOOK_URL=PUBLIC, **more)
    async with house(config_directory(parent, STANZA, GATEWAY), values, is_demo=False) as made:
        there = Pushing("one", made.gateway.house.clock, 100_000)
        made.gateway.house.upstreams = {"one": there}
        made.gateway.house.market.put("one", await there.offers())
        yield made, there


@pytest.fixture
async def world(database_url: str, tmp_path: Path) -> AsyncIterator[tuple[House, Pushing]]:
    async with pushed_to(database_url, tmp_path) as made:
        yield made


async def push(
    made: House, data: object, path: str = "one", headers: Mapping[str, str] | None = None
) -> httpx.Response:
    body = data if isinstance(data, bytes) else json.dumps(data).encode()
    given = {"x-proof": "good"} if headers is None else headers
    return await made.client.post(f"/webhooks/sms/{path}".rstrip("/"), content=body, headers=given)


def counted(made: House, outcome: str, upstream: str = "one") -> float:
    found = made.gateway.house.metrics.registry.get_sample_value(
        "simroute_pushes_total", {"upstream": upstream, "outcome": outcome}
    )
    return found or 0.0


async def test_a_proven_message_is_readable_when_its_sender_has_the_answer(world: tuple[House, Pushing]) -> None:
    made, there = world
    activation = await made.buy()
    answer = await push(made, {"ref": "one-1", "text": "Your code is 4711"})
    assert (answer.status_code, answer.content, answer.headers["content-type"]) == (
        200,
        b"<Response/>",
        "text/xml; charset=utf-8",
    )
    assert await made.call("getStatus", id=activation) == "STATUS_OK:4711"
    assert there.reads == 0


async def test_a_repeat_changes_nothing_and_every_push_is_on_record(world: tuple[House, Pushing]) -> None:
    made, _ = world
    await made.buy()
    for _ in range(3):
        await push(made, {"ref": "one-1", "text": "Your code is 4711"}, headers={"x-proof": "good", "x-signature": "s"})
    assert (await made.balance())[1] == 0
    assert await made.problems() == []
    rows = await noted(made)
    vault = made.database.vault
    digest = vault.index_digest("push", json.dumps({"ref": "one-1", "text": "Your code is 4711"}))
    assert [(row["upstream"], row["digest"], row["leases"]) for row in rows] == [("one", digest, 1)] * 3
    assert [vault.open(row["signature_sealed"]) for row in rows] == ["s"] * 3
    messages = await made.database.store.read(lambda tx: tx.one("select count(*) as n from messages"))
    assert messages is not None
    assert messages["n"] == 1


async def noted(made: House) -> list[dict[str, Any]]:
    return await made.database.store.read(lambda tx: [dict(row) for row in tx.all("select * from pushes order by id")])


async def test_a_push_is_kept_as_nothing_its_body_could_be_guessed_by_without_our_keys(
    world: tuple[House, Pushing],
) -> None:
    made, _ = world
    await made.buy()
    body = json.dumps({"ref": "one-1", "text": "Your code is 4711"}).encode()
    bare = hashlib.sha256(body).hexdigest()
    await push(made, body, headers={"x-proof": "good", "x-body-signature": bare})
    (row,) = await noted(made)
    assert (row["body_digest"], row["signature"]) == ("", "")
    kept = await asyncio.to_thread(dumped, made.database.url)
    assert row["digest"].encode() in kept
    assert [one for one in (body, b"4711", b"Your code is 4711") for found in hashes_of(one) if found in kept] == []


async def test_a_push_of_bytes_that_are_no_text_is_on_record_as_well(world: tuple[House, Pushing]) -> None:
    made, there = world

    async def take(request: PushRequest) -> PushTaken:
        return PushTaken((Pushed("nobody's"),))

    there.take_push = take  # type: ignore[method-assign]
    assert (await push(made, b"\xff\x00\xfe")).status_code == 200
    assert [row["digest"] for row in await noted(made)] == [made.database.vault.index_digest("push", b"\xff\x00\xfe")]


WHOSE: list[tuple[dict[str, Any], tuple[bool, bool]]] = [
    ({"ref": "one-1", "text": "4711"}, (True, True)),
    ({"ref": "one-1"}, (True, True)),
    ({"ref": "nobody's", "also": ["one-1"]}, (True, True)),  # a hint that may be of either
    ({"ref": "nobody's", "also": ["one-1"], "text": "4711"}, (False, False)),
    ({"ref": "one-1", "also": ["one-2"], "text": "4711"}, (True, False)),
    ({"ref": "one-1", "also": ["one-2", "one-3"], "text": "4711"}, (False, False)),
    ({"ref": "nobody's", "text": "4711"}, (False, False)),
]
"""What is told, where the first two leases are one account's and the third another's; whether it is noted which
account's and which activation's it is."""


async def test_a_push_is_noted_for_whom_it_told_of_and_for_nobody_where_there_are_several(
    world: tuple[House, Pushing],
) -> None:
    made, _ = world
    made.keys["bob"] = await add_account(made.database, "bob", is_demo=False)
    first = int(await made.buy())
    await made.buy()
    assert (await made.call("getNumber", "bob", service="tg", country=6)).startswith("ACCESS_NUMBER:")
    live = made.gateway.house.live.get(first)
    assert live is not None
    for told, _ in WHOSE:
        assert (await push(made, told)).status_code == 200
    await made.gateway.inbox.drain()
    found = [(row["account_id"], row["activation_id"]) for row in await noted(made)]
    wanted = [(live.account_id if knows[0] else None, first if knows[1] else None) for _, knows in WHOSE]
    assert found == wanted


async def test_a_hint_makes_the_gateway_read_before_it_believes(world: tuple[House, Pushing]) -> None:
    made, there = world
    activation = await made.buy()
    assert (await push(made, {"ref": "one-1"})).status_code == 200
    await made.gateway.inbox.drain()
    assert await made.call("getStatus", id=activation) == "STATUS_WAIT_CODE"
    there.sms("one-1")
    await push(made, {"ref": "one-1"})
    await made.until(activation, "STATUS_OK:1001", 2.0)


async def test_a_flood_of_hints_is_few_reads_and_the_last_one_is_heeded(world: tuple[House, Pushing]) -> None:
    made, there = world
    activation = await made.buy()
    there.is_readable = False
    await asyncio.gather(*(push(made, {"ref": "one-1"}) for _ in range(30)))
    there.is_readable = True
    there.sms("one-1")
    await push(made, {"ref": "one-1"})
    await made.until(activation, "STATUS_OK:", 2.0)
    assert there.reads <= 32


async def test_a_stranger_can_not_fill_the_log(world: tuple[House, Pushing]) -> None:
    """The first of a kind is logged at once, then one line a minute says how many there were; all are counted."""
    made, _ = world
    now = made.gateway.house.clock()
    with capture_logs() as logs:
        for seconds in (0.0, 0.0, 59.0, 60.0, 61.0, 119.0, 500.0):
            made.gateway.house.clock = lambda at=now + seconds: at  # type: ignore[misc]
            for path in ("one", "nobody", "somebody"):
                assert (await push(made, {"ref": "one-1"}, path, {})).status_code == 401
            assert (await push(made, b"{", "one")).status_code == 400
    told = [line for line in logs if line["event"].startswith("push.")]
    assert {line["log_level"] for line in told} == {"warning"}
    times = {
        (event, upstream): [line["times"] for line in told if (line["event"], line["upstream"]) == (event, upstream)]
        for event, upstream in (("push.refused", "one"), ("push.refused", ""), ("push.unreadable", "one"))
    }
    assert times == {
        ("push.refused", "one"): [1, 3, 3],
        ("push.refused", ""): [1, 6, 6],  # of any name that is not one of ours
        ("push.unreadable", "one"): [1, 3, 3],
    }
    assert len(told) == 9
    assert counted(made, "refused") == 7
    assert counted(made, "refused", "") == 14
    assert counted(made, "unreadable") == 7


@pytest.mark.parametrize(
    ("path", "headers"), [("one", {}), ("one/wrong", {}), ("nobody", {"x-proof": "good"}), ("one", {"x-proof": "bad"})]
)
async def test_what_is_not_proven_is_refused_and_counted_and_leaves_no_row(
    world: tuple[House, Pushing], path: str, headers: dict[str, str]
) -> None:
    made, _ = world
    activation = await made.buy()
    answer = await push(made, {"ref": "one-1", "text": "Your code is 4711"}, path, headers)
    assert answer.status_code == 401
    assert await made.call("getStatus", id=activation) == "STATUS_WAIT_CODE"
    assert counted(made, "refused", "" if path == "nobody" else "one") == 1
    assert await made.database.store.read(lambda tx: tx.one("select 1 as x from pushes")) is None


async def test_the_secret_path_proves_it_and_what_follows_is_the_source(world: tuple[House, Pushing]) -> None:
    made, there = world
    secret = made.gateway.inbox.secret("one")
    assert (await push(made, {"ref": "one-9"}, f"one/{secret}/twilio", {})).status_code == 200
    assert (there.requests[0].source, there.requests[0].has_secret) == ("twilio", True)
    assert (await push(made, {"ref": "one-9"}, f"one/{made.gateway.inbox.secret('two')}", {})).status_code == 401


async def test_the_url_is_the_public_one_whatever_host_is_claimed(world: tuple[House, Pushing]) -> None:
    made, there = world
    await push(made, {"ref": "x"}, "one/a%2Fb?pool=1&x=%20", {"x-proof": "good", "host": "evil.example"})
    assert there.requests[0].url == PUBLIC + "/one/a%2Fb?pool=1&x=%20"


@pytest.mark.parametrize(
    ("forwarded", "peer"),
    [
        (None, "127.0.0.1"),
        ("203.0.113.7", "203.0.113.7"),
        ("198.51.100.1, 203.0.113.7, 10.1.2.3", "203.0.113.7"),
        ("198.51.100.1, nonsense", "nonsense"),
        ("10.0.0.9", "10.0.0.9"),
    ],
)
async def test_the_sender_is_the_last_one_no_trusted_proxy_vouches_away(
    world: tuple[House, Pushing], forwarded: str | None, peer: str
) -> None:
    made, there = world
    headers = {"x-proof": "good"} | ({"x-forwarded-for": forwarded} if forwarded else {})
    await push(made, {"ref": "x"}, headers=headers)
    assert there.requests[0].peer == peer


@pytest.mark.parametrize(("body", "status"), [(b"{", 400), (b"x" * 300_000, 413)])
async def test_nonsense_gets_a_clear_answer(world: tuple[House, Pushing], body: bytes, status: int) -> None:
    assert (await push(world[0], body)).status_code == status


async def test_what_can_not_be_taken_now_is_to_be_sent_again(world: tuple[House, Pushing]) -> None:
    made, _ = world
    secret = made.gateway.inbox.secret("one")
    answer = await push(made, {"ref": "x"}, f"one/{secret}", {"x-proof": "later"})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")


async def test_an_sms_for_an_order_that_is_over_is_kept_and_not_shown(world: tuple[House, Pushing]) -> None:
    made, _ = world
    activation = await made.buy()
    assert await made.call("setStatus", id=activation, status=8) == "ACCESS_CANCEL"
    assert (await push(made, {"ref": "one-1", "text": "Your code is 4711"})).status_code == 200
    assert await made.call("getStatus", id=activation) == "STATUS_CANCEL"
    row = await made.database.store.read(lambda tx: tx.one("select is_shown from messages"))
    assert row is not None
    assert row["is_shown"] == 0
    assert await made.problems() == []


async def test_a_late_sms_that_is_pushed_again_is_one_late_sms(world: tuple[House, Pushing]) -> None:
    made, _ = world
    activation = await made.buy()
    await made.call("setStatus", id=activation, status=8)
    for _ in range(3):
        await push(made, {"ref": "one-1", "text": "Your code is 4711"})
    late = made.gateway.house.metrics.registry.get_sample_value("simroute_late_messages_total", {"upstream": "one"})
    assert late == 1
    assert await made.problems() == []


async def test_an_sms_for_an_unknown_order_is_harmless(world: tuple[House, Pushing]) -> None:
    assert (await push(world[0], {"ref": "nobody's", "text": "Your code is 4711"})).status_code == 200


# --- the brief's own payload ---


def native(made: House, activation: str, **changes: str) -> dict[str, str]:
    live = made.gateway.house.live.get(int(activation))
    assert live is not None
    payload = {
        "event": "sms_received",
        "verification_id": f"ver_{activation}",
        "phone_number": f"+{live.number}",
        "message": "Ваш код 123456",
        "timestamp": "2024-01-01T12:00:00Z",
        **changes,
    }
    return {**payload, "signature": native_signature(payload, made.gateway.house.vault.webhook_secret)}


async def test_native_payload_signed_in_its_body_is_delivered_once(world: tuple[House, Pushing]) -> None:
    made, _ = world
    activation = await made.buy()
    for _ in range(2):
        assert (await push(made, native(made, activation), "", {})).status_code == 200
    assert await made.call("getStatus", id=activation) == "STATUS_OK:123456"
    assert counted(made, "taken", "") == 2


async def test_native_payload_is_known_by_what_older_programs_knew_it_by(world: tuple[House, Pushing]) -> None:
    """So that one that was delivered before an update is no second message when it is repeated after it."""
    made, _ = world
    activation = await made.buy()
    payload = native(made, activation)
    assert (await push(made, payload, "", {})).status_code == 200
    row = await made.database.store.read(lambda tx: tx.one("select identity from messages"))
    told = hashlib.sha256(payload["message"].encode()).hexdigest()
    known = made.database.vault.index_digest(f"message:{activation}", f"native:{payload['timestamp']}:{told}")
    assert row is not None
    assert row["identity"] == known


async def test_native_payload_may_be_signed_by_a_header_over_the_raw_body(world: tuple[House, Pushing]) -> None:
    made, _ = world
    activation = await made.buy()
    body = json.dumps({**native(made, activation), "signature": ""}, indent=2).encode()
    secret = made.gateway.house.vault.webhook_secret
    header = "sha256=" + hmac.new(secret, body, "sha256").hexdigest()
    assert (await push(made, body, "", {"x-signature": header})).status_code == 200
    assert await made.call("getStatus", id=activation) == "STATUS_OK:123456"


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"message": "Your code is 999999"}, 401),
        ({"signature": "sha256=" + "0" * 64}, 401),
        ({"signature": ""}, 401),
    ],
)
async def test_native_payload_that_was_changed_is_refused(
    world: tuple[House, Pushing], changes: dict[str, str], status: int
) -> None:
    made, _ = world
    activation = await made.buy()
    assert (await push(made, {**native(made, activation), **changes}, "", {})).status_code == status
    assert await made.call("getStatus", id=activation) == "STATUS_WAIT_CODE"


@pytest.mark.parametrize(
    "changes",
    [{"phone_number": "+4915100000000"}, {"verification_id": "ver_1"}, {"verification_id": "x"}, {"event": "other"}],
)
async def test_native_payload_for_another_number_or_nobody_is_not_delivered(
    world: tuple[House, Pushing], changes: dict[str, str]
) -> None:
    made, _ = world
    activation = await made.buy()
    assert (await push(made, native(made, activation, **changes), "", {})).status_code == 400
    assert await made.call("getStatus", id=activation) == "STATUS_WAIT_CODE"


async def test_half_a_character_for_a_signature_is_a_wrong_one(world: tuple[House, Pushing]) -> None:
    made, _ = world
    payload = {**native(made, await made.buy()), "signature": "\ud800"}
    assert (await push(made, payload, "", {})).status_code == 401


async def test_native_body_that_is_none_is_unreadable(world: tuple[House, Pushing]) -> None:
    for body in (b"", b"[]", b"null", b'{"event": 1}', b"[" * 100_000, b'"\\ud800"'):
        assert (await push(world[0], body, "", {})).status_code == 400


def test_native_signature_is_what_the_brief_says() -> None:
    """Over the JSON without `signature`, its keys in the stated order, no spaces."""
    payload = {
        "event": "sms_received",
        "verification_id": "ver_123456",
        "phone_number": "+1234567890",
        "message": "Your code is 123456",
        "timestamp": "2024-01-01T12:00:00Z",
    }
    plain = (
        '{"event":"sms_received","verification_id":"ver_123456","phone_number":"+1234567890",'
        '"message":"Your code is 123456","timestamp":"2024-01-01T12:00:00Z"}'
    )
    right = "sha256=" + hmac.new(b"s" * 32, plain.encode(), "sha256").hexdigest()
    assert native_signature(payload, b"s" * 32) == right
