"""Notices over real sockets: what arrives, what is tried again, what is refused, and what never shows."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import json
import socket
import ssl
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from standardwebhooks.webhooks import Webhook

from gateway import accounts
from gateway.activations import _queue_notice
from gateway.errors import BadWebhookUrl, CallerError, WebhookNotHttps, WebhookUrlTooLong
from gateway.house import House
from gateway.settings import Settings, WebhooksSettings
from gateway.store import Store, connect
from gateway.webhook_addresses import check_destination, check_url, is_public
from gateway.webhooks import IN_FLIGHT_PER_ENDPOINT_MAX, Courier
from tests.gateway.noticing import (
    BODY,
    LOCAL,
    PUBLIC_ONLY,
    WEBHOOK_SECRET,
    Receiver,
    advance,
    carried,
    configure,
    counted,
    house_on,
    notice,
    on_both_databases,
    own_secret,
    queued,
    receiving,
    tell,
    x_signature,
)  # fmt: skip


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as made:
        yield made


@pytest.fixture
async def store(store_url: str) -> AsyncIterator[Store]:
    made = connect(store_url)
    yield made
    await made.close()


@pytest.fixture
def house(store: Store, settings: Settings) -> House:
    return house_on(store, settings)


@pytest.fixture
async def couriers(house: House) -> AsyncIterator[Callable[[], Courier]]:
    async with AsyncExitStack() as stack:

        def new() -> Courier:
            made = Courier(house)
            stack.push_async_callback(made.aclose)
            return made

        yield new


@pytest.fixture
def courier(couriers: Callable[[], Courier]) -> Courier:
    return couriers()


@pytest.fixture
def queue(house: House) -> Callable[..., Awaitable[int]]:
    """Queues a notice as a delivery would; its id."""
    return partial(queued, house)


# What arrives


@on_both_databases
async def test_a_rental_tells_its_own_address_in_its_own_words(
    house: House, courier: Courier, receiver: Receiver, queue: Callable[..., Awaitable[int]]
) -> None:
    first = await queue(receiver.url("/account"))
    await tell(
        house,
        "update activations set webhook_url_sealed = :url, product = 'rental'",
        url=house.vault.seal(receiver.url("/rental")),
    )
    await tell(house, "update messages set sender_sealed = :sender", sender=house.vault.seal("79180230628"))
    row = await notice(house, first)
    await house.store.run(lambda tx: _queue_notice(tx, -1, row["activation_id"], row["message_id"], house.clock()))
    await courier.round()
    by_path = {one.path: one.body for one in receiver.received}
    assert by_path == {
        "/account": BODY.encode(),
        "/rental": b'{"rentId":100000001,"sms":{"phoneFrom":"79180230628","text":"Your code is 12345",'
        b'"date":"2023-01-01 12:00:00"}}',
    }
    assert len({one.headers["webhook-id"] for one in receiver.received}) == 2


async def test_the_body_is_the_reference_body(
    house: House, courier: Courier, receiver: Receiver, queue: Callable[..., Awaitable[int]]
) -> None:
    notice_id = await queue(receiver.url("/hook"))
    await courier.round()

    assert [one.body for one in receiver.received] == [BODY.encode()]
    row = await notice(house, notice_id)
    assert (row["state"], row["tries"], row["last_result"]) == ("sent", 1, "http 200")
    assert row["ended_at"] == house.clock()
    assert counted(house, "sent") == 1


DS_BODY = (
    '{"rental_id":"100000001","number":"+12025550123","service":"google",'
    '"text":"Your code is 12345","received_at":"2023-01-01 12:00:00"}'
)
HERO_BODY = (
    b'{"activationId":"100000001","service":"go","phoneFrom":"Google","text":"Your code is 12345","code":"12345",'
    b'"country":2,"receivedAt":"2023-01-01T12:00:00+00:00"}'
)
DAISY_BODY = (
    b'{"activationId":100000001,"messageId":1,"service":"go","text":"Your code is 12345","code":"12345","country":2,'
    b'"receivedAt":"2023-01-01 12:00:00"}'
)
SIGNED = (
    '{"event":"sms_received","verification_id":"ver_100000001","phone_number":"+12025550123",'
    '"message":"Your code is 12345","timestamp":"2023-01-01T12:00:00Z"'
)


def native_notice() -> bytes:
    """The brief's payload: the member signs everything before it."""
    return f'{SIGNED},"signature":"{x_signature(own_secret(), (SIGNED + "}").encode())}"}}'.encode()


STANDARD_BODY = (
    b'{"type":"sms.received","timestamp":"2023-01-01T12:00:00Z","data":{"id":"ver_100000001",'
    b'"phone_number":"+12025550123","service":"go","country":2,"sender":"Google","text":"Your code is 12345",'
    b'"code":"12345"}}'
)


@on_both_databases
@pytest.mark.parametrize(
    ("form", "body"),
    [
        ("sms_activate", BODY.encode()),
        ("ds", DS_BODY.encode()),
        ("hero", HERO_BODY),
        ("daisy", DAISY_BODY),
        ("native", native_notice()),
        ("standard", STANDARD_BODY),
    ],
)
async def test_the_body_has_the_form_the_address_was_set_in(
    house: House, courier: Courier, receiver: Receiver, queue: Callable[..., Awaitable[int]], form: str, body: bytes
) -> None:
    notice_id = await queue(receiver.url("/hook"), form=form)
    await courier.round()

    (one,) = receiver.received
    assert one.body == body
    assert one.headers["X-Signature"] == x_signature(own_secret(), body)
    assert (await notice(house, notice_id))["format"] == form


async def test_a_notice_that_waits_takes_the_form_of_the_address_set_meanwhile(
    house: House, courier: Courier, receiver: Receiver, queue: Callable[..., Awaitable[int]]
) -> None:
    await queue(receiver.url("/500"))
    await courier.round()
    await house.store.run(accounts.set_webhook, house.vault, 1, receiver.url("/new"), "ds")
    advance(house, 10)
    await courier.round()

    assert receiver.received[-1].path == "/new"
    assert receiver.received[-1].body == DS_BODY.encode()


async def test_an_address_set_before_there_were_forms_gets_the_original_s(
    house: House, courier: Courier, receiver: Receiver, queue: Callable[..., Awaitable[int]]
) -> None:
    await queue(receiver.url("/hook"), form="ds")
    await tell(house, "update accounts set webhook_format = null")
    await courier.round()

    assert receiver.received[0].body == BODY.encode()


async def test_other_scripts_and_awkward_characters_arrive_as_they_were(
    courier: Courier, receiver: Receiver, queue: Callable[..., Awaitable[int]]
) -> None:
    text = 'Код: 123-45 "сегодня"\nпожалуйста 验证码 🔑'
    await queue(receiver.url("/hook"), text=text, code="123-45")
    await courier.round()

    body = receiver.received[0].body
    assert "Код".encode() in body
    assert json.loads(body)["text"] == text


async def test_both_signatures_verify(
    courier: Courier, receiver: Receiver, queue: Callable[..., Awaitable[int]]
) -> None:
    notice_id = await queue(receiver.url("/hook"), text="Код 12345")
    await courier.round()

    (one,) = receiver.received
    assert one.headers["X-Signature"] == x_signature(own_secret(), one.body)
    assert Webhook("whsec_" + b64encode(own_secret()).decode()).verify(one.body, one.headers) == json.loads(one.body)
    assert one.headers["webhook-id"] == f"msg_{notice_id}"
    assert one.headers["Content-Type"] == "application/json"
    assert one.headers["User-Agent"].startswith("simroute/")


async def test_the_digest_kept_is_not_one_a_thief_could_guess_the_code_from(
    house: House, courier: Courier, receiver: Receiver, queue: Callable[..., Awaitable[int]]
) -> None:
    row = await notice(house, await queue(receiver.url("/hook")))
    await courier.round()

    digest = (await notice(house, row["id"]))["body_digest"]
    assert digest == house.vault.index_digest("notice", BODY)
    assert hashlib.sha256(BODY.encode()).hexdigest() not in digest


# What is tried again


@on_both_databases
async def test_failures_follow_the_schedule_and_end_dead(
    house: House, courier: Courier, receiver: Receiver, queue: Callable[..., Awaitable[int]]
) -> None:
    notice_id = await queue(receiver.url("/500"))
    for tries, pause in ((1, 1), (2, 10)):
        await courier.round()
        row = await notice(house, notice_id)
        assert (row["state"], row["tries"], row["last_result"]) == ("pending", tries, "http 500")
        assert row["next_at"] == house.clock() + pause
        advance(house, pause - 0.5)
        await courier.round()
        assert len(receiver.received) == tries
        advance(house, 0.5)
    await courier.round()

    row = await notice(house, notice_id)
    assert (row["state"], row["tries"], row["ended_at"]) == ("dead", 3, house.clock())
    assert (counted(house, "retry"), counted(house, "dead")) == (2, 1)
    advance(house, 1000)
    await courier.round()
    assert len(receiver.received) == 3


async def test_a_repeat_carries_the_same_id_and_body_and_a_new_time(
    house: House, courier: Courier, receiver: Receiver, queue: Callable[..., Awaitable[int]]
) -> None:
    await queue(receiver.url("/500"))
    await courier.round()
    advance(house, 5)
    await courier.round()

    first, second = receiver.received
    assert first.body == second.body
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert int(second.headers["webhook-timestamp"]) == int(first.headers["webhook-timestamp"]) + 5


async def test_a_notice_refused_once_arrives_at_the_address_set_meanwhile(
    house: House, courier: Courier, receiver: Receiver, queue: Callable[..., Awaitable[int]]
) -> None:
    notice_id = await queue(receiver.url("/500"))
    await courier.round()
    await house.store.run(accounts.set_webhook, house.vault, 1, receiver.url("/new"))
    advance(house, 1)
    await courier.round()

    assert receiver.paths() == ["/500", "/new"]
    assert (await notice(house, notice_id))["state"] == "sent"


async def test_a_cleared_address_ends_the_notice(
    house: House, courier: Courier, receiver: Receiver, queue: Callable[..., Awaitable[int]]
) -> None:
    notice_id = await queue(receiver.url("/hook"))
    await tell(house, "update accounts set webhook_url_sealed = null")
    await courier.round()

    row = await notice(house, notice_id)
    assert (row["state"], row["tries"], row["last_result"]) == ("dead", 0, "no webhook set")
    assert receiver.received == []
    assert counted(house, "dead") == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_a_failure_and_is_not_followed(
    house: House, courier: Courier, receiver: Receiver, queue: Callable[..., Awaitable[int]], status: int
) -> None:
    receiver.headers = {"Location": receiver.url("/elsewhere")}
    notice_id = await queue(receiver.url(f"/{status}"))
    await carried(courier)

    assert receiver.paths() == [f"/{status}"]
    row = await notice(house, notice_id)
    assert (row["state"], row["last_result"]) == ("pending", f"http {status}")


async def test_a_receiver_that_does_not_answer_is_timed_out(
    house: House, courier: Courier, receiver: Receiver, queue: Callable[..., Awaitable[int]]
) -> None:
    configure(house, LOCAL.model_copy(update={"timeout_seconds": 0.1}))
    notice_id = await queue(receiver.url("/hang"))
    await courier.round()

    row = await notice(house, notice_id)
    assert (row["state"], row["last_result"]) == ("pending", "timed out")


async def test_nobody_there_is_a_failure(
    house: House, courier: Courier, queue: Callable[..., Awaitable[int]], unused_tcp_port: int
) -> None:
    notice_id = await queue(f"http://127.0.0.1:{unused_tcp_port}/hook")
    await courier.round()
    assert (await notice(house, notice_id))["last_result"] == "not reached"


@pytest.mark.parametrize(
    ("answer", "words"),
    [(b"", "connection lost"), (b"what?\r\n\r\n", "unreadable answer")],
    ids=["nothing", "nonsense"],
)
async def test_a_broken_answer_is_a_failure(
    house: House, courier: Courier, queue: Callable[..., Awaitable[int]], answer: bytes, words: str
) -> None:
    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"}")
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(reply, "127.0.0.1", 0) as server:
        notice_id = await queue(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook")
        await courier.round()
    assert (await notice(house, notice_id))["last_result"] == words


@pytest.mark.parametrize(
    "beginning", [b"", b"HTTP/1.1 200 OK\r\n"], ids=["a status, byte by byte", "headers, one by one"]
)
async def test_an_answer_that_drips_is_cut_off_at_the_deadline(
    house: House, courier: Courier, queue: Callable[..., Awaitable[int]], beginning: bytes
) -> None:
    """The deadline is for all of it: each byte that comes does not begin it anew."""
    configure(house, LOCAL.model_copy(update={"timeout_seconds": 0.5}))
    is_over = asyncio.Event()

    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"}")
        writer.write(beginning)
        drops = itertools.repeat(b"X: y\r\n") if beginning else iter([b"%c" % byte for byte in b"HTTP/1.1 200 OK" * 50])
        with contextlib.suppress(ConnectionError):
            for drop in drops:
                writer.write(drop)
                await writer.drain()
                await asyncio.sleep(0.05)
        writer.close()
        is_over.set()

    async with await asyncio.start_server(reply, "127.0.0.1", 0) as server:
        notice_id = await queue(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook")
        await courier.round()
        await asyncio.wait_for(asyncio.gather(*courier._in_flight), 10)
        await asyncio.wait_for(is_over.wait(), 20)
    assert (await notice(house, notice_id))["last_result"] == "timed out"


async def test_headers_without_end_are_refused(
    house: House, courier: Courier, queue: Callable[..., Awaitable[int]]
) -> None:
    written, is_over = 0, asyncio.Event()

    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        await reader.readuntil(b"}")
        writer.write(b"HTTP/1.1 200 OK\r\nX: ")
        with contextlib.suppress(ConnectionError):
            while written < 50_000_000:
                writer.write(b"x" * 65536)
                await writer.drain()
                written += 65536
        writer.close()
        is_over.set()

    async with await asyncio.start_server(reply, "127.0.0.1", 0) as server:
        notice_id = await queue(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook")
        await courier.round()
        await asyncio.gather(*courier._in_flight)
        await asyncio.wait_for(is_over.wait(), 10)
    assert (await notice(house, notice_id))["state"] == "pending"
    assert written < 50_000_000


async def test_an_endless_answer_counts_by_its_status_alone(
    house: House, courier: Courier, queue: Callable[..., Awaitable[int]]
) -> None:
    written = 0

    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        await reader.readuntil(b"}")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        try:
            while True:
                writer.write(b"x" * 65536)
                await writer.drain()
                written += 65536
        except ConnectionError:
            writer.close()

    async with await asyncio.start_server(reply, "127.0.0.1", 0) as server:
        notice_id = await queue(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook")
        await courier.round()
    assert (await notice(house, notice_id))["state"] == "sent"
    assert written < 50_000_000


# Who waits for whom


async def test_a_slow_receiver_does_not_delay_another_accounts(
    house: House, courier: Courier, receiver: Receiver, queue: Callable[..., Awaitable[int]]
) -> None:
    for _ in range(100):
        await queue(receiver.url("/hang"), account="slow")
    quick = await queue(receiver.url("/quick"), account="quick")

    await asyncio.wait_for(courier.round(), 1.5)
    assert (await notice(house, quick))["state"] == "sent"
    assert receiver.hanging == IN_FLIGHT_PER_ENDPOINT_MAX

    later = await queue(receiver.url("/quick"), account="quick")
    await asyncio.wait_for(courier.round(), 1.5)
    assert (await notice(house, later))["state"] == "sent"
    assert receiver.hanging == IN_FLIGHT_PER_ENDPOINT_MAX


async def test_a_backlog_goes_out_without_pauses(
    courier: Courier, receiver: Receiver, queue: Callable[..., Awaitable[int]]
) -> None:
    for _ in range(20):
        await queue(receiver.url("/quick"))
    pauses = []
    while len(receiver.received) < 20:
        pauses.append(await courier.round())
    assert not any(pauses[:-1])
    assert await courier.round() == 0.25


@on_both_databases
async def test_two_couriers_on_one_store_send_each_notice_once(
    house: House, couriers: Callable[[], Courier], receiver: Receiver, queue: Callable[..., Awaitable[int]]
) -> None:
    for number in range(30):
        await queue(receiver.url("/quick"), account=f"account-{number % 5}")
    both = couriers(), couriers()
    while len(receiver.received) < 30:
        await asyncio.gather(*(one.round() for one in both))
    await asyncio.gather(*(one.round() for one in both))

    assert len({one.headers["webhook-id"] for one in receiver.received}) == len(receiver.received) == 30
    assert counted(house, "sent") == 30


@on_both_databases
async def test_what_a_crash_cut_off_is_sent_again_after_its_lease(
    house: House, couriers: Callable[[], Courier], receiver: Receiver, queue: Callable[..., Awaitable[int]]
) -> None:
    notice_id = await queue(receiver.url("/hang"))
    crashed, other = couriers(), couriers()
    await crashed.round()
    for task in list(crashed._in_flight):
        task.cancel()
    assert (await notice(house, notice_id))["state"] == "pending"

    receiver.released.set()
    await other.round()
    assert len(receiver.received) == 1
    advance(house, LOCAL.timeout_seconds + 5)
    await other.round()
    assert len(receiver.received) == 2
    row = await notice(house, notice_id)
    assert (row["state"], row["tries"]) == ("sent", 1)


@on_both_databases
async def test_a_failure_that_comes_after_its_lease_does_not_undo_what_another_did(
    house: House, couriers: Callable[[], Courier], receiver: Receiver, queue: Callable[..., Awaitable[int]]
) -> None:
    configure(house, LOCAL.model_copy(update={"timeout_seconds": 0.5}))
    notice_id = await queue(receiver.url("/hang"))
    late, other = couriers(), couriers()
    await late.round()
    advance(house, 5.5)
    await house.store.run(accounts.set_webhook, house.vault, 1, receiver.url("/500"))
    await other.round()
    before = dict(await notice(house, notice_id))
    await asyncio.gather(*late._in_flight)

    assert before["last_result"] == "http 500"
    assert dict(await notice(house, notice_id)) == before


async def test_one_that_cannot_be_opened_does_not_keep_the_others(
    house: House, courier: Courier, receiver: Receiver, queue: Callable[..., Awaitable[int]]
) -> None:
    broken = await queue(receiver.url("/hook"))
    await tell(house, "update messages set text_sealed = 'nonsense'")
    await queue(receiver.url("/hook"))
    await courier.round()

    assert len(receiver.received) == 1
    assert (await notice(house, broken))["last_result"] == "failed: SecretsError"


async def test_closing_lets_go_of_what_takes_too_long(
    house: House,
    courier: Courier,
    receiver: Receiver,
    queue: Callable[..., Awaitable[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gateway.webhooks.CLOSING_SECONDS", 0.05)
    notice_id = await queue(receiver.url("/hang"))
    await courier.round()
    await courier.aclose()

    assert not courier._in_flight
    assert (await notice(house, notice_id))["state"] == "pending"


async def test_a_database_that_goes_away_meanwhile_costs_a_repeat_and_no_more(
    house: House, courier: Courier, receiver: Receiver, queue: Callable[..., Awaitable[int]]
) -> None:
    await queue(receiver.url("/hang"))
    await courier.round()
    await house.store.close()
    receiver.released.set()
    with structlog.testing.capture_logs() as entries:
        await asyncio.gather(*courier._in_flight)

    assert [entry["event"] for entry in entries] == ["notice.unrecorded"]
    assert counted(house, "sent") == 0


# What is refused


async def test_a_certificate_nobody_vouches_for_is_refused(
    house: House, courier: Courier, queue: Callable[..., Awaitable[int]], tmp_path: Path
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(self_signed(tmp_path / "localhost.pem"))
    async with await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=context) as server:
        notice_id = await queue(f"https://localhost:{server.sockets[0].getsockname()[1]}/hook")
        await courier.round()
    assert (await notice(house, notice_id))["last_result"] == "tls failed"


def self_signed(path: Path) -> Path:
    """Writes a certificate for `localhost`, with its key."""
    key, name = (
        ec.generate_private_key(ec.SECP256R1()),
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")]),
    )
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    plain = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(certificate.public_bytes(Encoding.PEM) + plain)
    return path


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes every name resolve to the given addresses."""

    def answer(*addresses: str) -> None:
        def getaddrinfo(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    return answer


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]", "0x7f000001", "0x7f.1"]
)
async def test_loopback_is_refused_by_default_however_it_is_spelt(
    house: House, courier: Courier, receiver: Receiver, queue: Callable[..., Awaitable[int]], host: str
) -> None:
    configure(house, PUBLIC_ONLY)
    notice_id = await queue(f"http://{host}:{receiver.port}/hook")
    await courier.round()

    row = await notice(house, notice_id)
    assert (row["state"], row["tries"], row["last_result"]) == ("pending", 1, "refused: private address")
    assert receiver.received == []
    assert counted(house, "refused") == 1


@pytest.mark.parametrize("addresses", [("127.0.0.1",), ("127.0.0.1", "10.0.0.1"), ("169.254.169.254",)])
async def test_a_public_looking_name_that_leads_inside_is_refused(
    house: House,
    courier: Courier,
    receiver: Receiver,
    queue: Callable[..., Awaitable[int]],
    resolver: Callable[..., None],
    addresses: tuple[str, ...],
) -> None:
    configure(house, PUBLIC_ONLY)
    resolver(*addresses)
    notice_id = await queue(f"http://hooks.example.com:{receiver.port}/hook")
    await courier.round()

    assert (await notice(house, notice_id))["last_result"] == "refused: private address"
    assert receiver.received == []


@pytest.fixture
def one_public_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of loopback, 127.0.0.2 counts as an address of the internet."""
    monkeypatch.setattr("gateway.webhook_wire.is_public", lambda address: address == "127.0.0.2")


@pytest.mark.usefixtures("one_public_address")
async def test_a_name_that_leads_inside_the_second_time_is_refused_then(
    house: House,
    couriers: Callable[[], Courier],
    receiver: Receiver,
    queue: Callable[..., Awaitable[int]],
    resolver: Callable[..., None],
) -> None:
    """What was public when it was looked at says nothing: the address connected to is looked at each time."""
    configure(house, PUBLIC_ONLY)
    async with receiving("127.0.0.2") as public:
        await receiver.listen_beside(public)
        url = f"http://hooks.example.com:{public.port}/hook"
        resolver("127.0.0.2")
        first = await queue(url)
        await carried(couriers())
        resolver("127.0.0.1")
        second = await queue(url)
        await carried(couriers())
    assert (await notice(house, first))["state"] == "sent"
    assert (await notice(house, second))["last_result"] == "refused: private address"
    assert (len(public.received), receiver.received) == (1, [])


@pytest.mark.usefixtures("one_public_address")
@pytest.mark.parametrize("addresses", [("127.0.0.1", "127.0.0.2"), ("127.0.0.2", "127.0.0.1")])
async def test_of_several_addresses_of_a_name_only_a_public_one_is_connected_to(
    house: House,
    courier: Courier,
    receiver: Receiver,
    queue: Callable[..., Awaitable[int]],
    resolver: Callable[..., None],
    addresses: tuple[str, ...],
) -> None:
    configure(house, PUBLIC_ONLY)
    async with receiving("127.0.0.2") as public:
        await receiver.listen_beside(public)
        resolver(*addresses)
        for _ in range(2):
            await queue(f"http://hooks.example.com:{public.port}/hook")
        await carried(courier)
    assert receiver.received == []
    assert len(public.received) == 2


async def test_a_name_is_resolved_and_reached_where_private_addresses_are_allowed(
    courier: Courier,
    receiver: Receiver,
    queue: Callable[..., Awaitable[int]],
    resolver: Callable[..., None],
) -> None:
    resolver("127.0.0.1")
    await queue(f"http://hooks.example.com:{receiver.port}/hook")
    await courier.round()
    assert receiver.received[0].headers["Host"] == f"hooks.example.com:{receiver.port}"


async def test_a_proxy_of_the_environment_is_not_used(
    courier: Courier,
    receiver: Receiver,
    queue: Callable[..., Awaitable[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    await queue(receiver.url("/hook"))
    await courier.round()
    assert receiver.paths() == ["/hook"]


async def test_plain_http_set_behind_our_back_is_refused_when_sent(
    house: House, courier: Courier, receiver: Receiver, queue: Callable[..., Awaitable[int]]
) -> None:
    configure(house, LOCAL.model_copy(update={"allow_http": False}))
    notice_id = await queue(receiver.url("/hook"))
    await courier.round()

    assert (await notice(house, notice_id))["last_result"] == "refused: webhook_not_https"
    assert receiver.received == []


async def test_nothing_secret_is_logged(
    house: House, courier: Courier, receiver: Receiver, queue: Callable[..., Awaitable[int]]
) -> None:
    with structlog.testing.capture_logs() as entries:
        for path in ("/token-4711", "/500-token-4711", "/moved"):
            await queue(receiver.url(path), account=f"account{path[1:4]}", text="geheim 98765", code="98765")
        await queue("http://exa mple.com/token-4711", account="bad", text="geheim", code="98765")
        await queue("http://[token-4711/", account="worse", text="geheim", code="98765")
        await courier.round()

    assert len(entries) == 5
    assert all(set(entry) == {"event", "log_level", "notice", "result", "tries"} for entry in entries)
    for secret in ("token-4711", "98765", "geheim", "127.0.0.1", WEBHOOK_SECRET):
        assert secret not in repr(entries)


@pytest.mark.parametrize("path", ["/hook?token=<a>|{b}", '/hook/"^`'])
async def test_an_address_that_could_be_set_before_is_still_sent_to(
    house: House, courier: Courier, receiver: Receiver, queue: Callable[..., Awaitable[int]], path: str
) -> None:
    url = receiver.url(path)
    check_destination(url, LOCAL)
    with pytest.raises(BadWebhookUrl):
        check_url(url, LOCAL)
    notice_id = await queue(url)
    await carried(courier)
    assert (await notice(house, notice_id))["state"] == "sent"


# What may be set


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com",
        "https://example.com/hook?token=a%2Fb&c=d",
        "https://EXAMPLE.com:8443/hook",
        "https://hooks.example.com./",
        "https://xn--e1afmkfd.xn--p1ai/hook",
        "https://пример.рф/hook",
        "https://8.8.8.8/hook",
        "https://[2001:4860:4860::8888]/hook",
        "https://my_host.example.com/",
        "https://example.com/" + "x" * 235,
    ],
)
def test_a_public_https_address_may_be_set(url: str) -> None:
    check_url(url, WebhooksSettings())


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("", BadWebhookUrl),
        ("example.com/hook", BadWebhookUrl),
        ("https://", BadWebhookUrl),
        ("https:///hook", BadWebhookUrl),
        ("https://:443/hook", BadWebhookUrl),
        ("https://example.com:99999/", BadWebhookUrl),
        ("https://example.com:0/", BadWebhookUrl),
        ("https://exa mple.com/", BadWebhookUrl),
        ("https://example.com/\r\nHost: elsewhere", BadWebhookUrl),
        ("https://example.com/\x00", BadWebhookUrl),
        (" https://example.com/", BadWebhookUrl),
        ("https://user:password@example.com/", BadWebhookUrl),
        ("https://user@example.com/", BadWebhookUrl),
        ("https://example.com\\@10.0.0.1/", BadWebhookUrl),
        ("https://[::1/", BadWebhookUrl),
        ("https://[v1.fe80]/", BadWebhookUrl),
        ("https://[2001:4860:4860::8888%25eth0]/", BadWebhookUrl),
        ("https://[2001:4860:4860::8888%eth0]/", BadWebhookUrl),
        ("https://127.0.0.1%40example.com/", BadWebhookUrl),
        ("https://a..b/", BadWebhookUrl),
        ("https://%31%32%37.0.0.1/", BadWebhookUrl),
        ("javascript:alert(1)", BadWebhookUrl),
        *((f"https://example.com/{character}", BadWebhookUrl) for character in '<>"^`{|}\\ \x7f'),
        ("https://example.com/hook?next=<script>", BadWebhookUrl),
        ("http://example.com/", WebhookNotHttps),
        ("ftp://example.com/", WebhookNotHttps),
        ("https://example.com/" + "x" * 236, WebhookUrlTooLong),
    ],
)
def test_what_is_no_https_address_may_not_be_set(url: str, error: type[CallerError]) -> None:
    with pytest.raises(error):
        check_url(url, WebhooksSettings())


PRIVATE_HOSTS = [
    "localhost", "LocalHost.", "a.localhost",
    "127.0.0.1", "127.0.0.1.", "127.1", "2130706433", "017700000001", "0177.0.0.1", "0x7f000001", "0x7f.0.0.1",
    "0", "0.0.0.0", "10.1.2.3", "012.1.2.3", "172.16.0.1", "192.168.1.1", "3232235777", "169.254.169.254",
    "0xa9fea9fe", "100.100.100.200", "168.63.129.16", "224.0.0.1", "240.0.0.1", "255.255.255.255",
    "2130706433.", "127.1.", "0x7f.1", "127.0.1", "127.0x0.1", "00.0.0.0",
    "8.8", "134744072", "１２７.0.0.1", "127。0。0。1", "①②⑦.0.0.1",
    "[::1]", "[::]", "[fe80::1]", "[fd00:ec2::254]", "[ff02::1]", "[::ffff:10.0.0.1]", "[::ffff:7f00:1]",
    "[::127.0.0.1]", "[2002:7f00:1::]", "[64:ff9b::a9fe:a9fe]", "[64:ff9b:1::1]", "[2001:db8::1]",
]  # fmt: skip


@pytest.mark.parametrize("host", PRIVATE_HOSTS)
def test_an_address_inside_may_not_be_set_in_any_spelling(host: str) -> None:
    """Spellings that only a C library reads are refused whatever they stand for: they have no honest use."""
    with pytest.raises(BadWebhookUrl):
        check_url(f"https://{host}/hook", WebhooksSettings())
    check_url(f"http://{host}/hook", LOCAL)


@pytest.mark.parametrize(
    "address",
    [
        "8.8.8.8",
        "2001:4860:4860::8888",
        "::ffff:8.8.8.8",
        "64:ff9b::8.8.8.8",
        "2002:808:808::",
        "2607:f8b0::5efe:8.8.8.8",
    ],
)
def test_public_addresses(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.0.0.1", "100.64.0.1", "169.254.169.254", "192.0.0.8", "192.88.99.1", "198.18.0.1",
        "203.0.113.1", "224.0.0.1", "0.0.0.0", "255.255.255.255", "::", "::1", "fe80::1%eth0", "fec0::1", "fc00::1",
        "ff0e::1", "::ffff:192.168.0.1", "::ffff:0:7f00:1", "64:ff9b::10.0.0.1", "2002:a00:1::", "3fff::1",
        "::127.0.0.1", "64:ff9b:1::7f00:1", "2607:f8b0::5efe:10.0.0.1", "2607:f8b0::200:5efe:7f00:1", "fec0::1%1",
        "fe80::5efe:8.8.8.8", "fd00::200:5efe:808:808",
        "2001:0:808:808::80ff:fffe", "2001:0:7f00:1::f7f7:f7f7",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public(address: str) -> None:
    """The last two are Teredo: a loopback client behind a public server, and the other way round."""
    assert not is_public(address)
