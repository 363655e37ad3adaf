"""Numbers and messages are gone when their time is over: from what clients read, from memory, from the files."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from alembic import command

from gateway import accounts, migrations, retention, roster
from gateway.alerts import Alerts, standing
from gateway.database import open_database
from gateway.errors import Unavailable
from gateway.inbox import native_signature
from gateway.numbers import number_digest
from gateway.retention import Keeper, RetentionError
from gateway.store import Store, Tx, connect
from gateway.upstream import PushRequest
from gateway.webhook_log import Attempt, note_attempt
from tests.canaries import dumped, hashes_of, sealed_values
from tests.harness import PATH, config_directory, environment
from tests.shell import Shell
from tests.wire import NOON, StillHouse, still_house

DAY = 86_400.0


@pytest.fixture
async def house(database_url: str, tmp_path: Path) -> AsyncIterator[StillHouse]:
    async with still_house(config_directory(tmp_path), environment(database_url)) as made:
        await made.open_account("alice", "100.00")
        yield made


@pytest.fixture
async def light(sqlite_url: str, tmp_path: Path) -> AsyncIterator[StillHouse]:
    """As `house`, where one kind of database tells enough."""
    async with still_house(config_directory(tmp_path), environment(sqlite_url)) as made:
        await made.open_account("alice", "10.00")
        yield made


def keeper(house: StillHouse, told: list[str] | None = None) -> Keeper:
    alerts = Alerts(
        house.database.store,
        house.gateway.house.metrics,
        house.clock,
        lambda title, _words: (told if told is not None else []).append(title),
    )
    return Keeper(house.gateway.house, alerts)


async def ask(house: StillHouse, path: str = PATH, key: str = "alice", **parameters: object) -> httpx.Response:
    transport = httpx.ASGITransport(app=house.gateway.app)
    headers = {"authorization": f"Bearer {house.keys[key]}"}
    query = {"api_key": house.keys[key], **{name: str(value) for name, value in parameters.items()}}
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        return await client.get(path, params=query if path.endswith("handler_api.php") else parameters, headers=headers)  # type: ignore[arg-type]


async def call(house: StillHouse, action: str, key: str = "alice", **parameters: object) -> str:
    return (await ask(house, PATH, key, action=action, **parameters)).text


async def received(house: StillHouse, key: str = "alice", *, finish: bool = True) -> tuple[str, str]:
    """A number with its code, finished; its id and itself."""
    _, activation, number = (await call(house, "getNumber", key, service="tg", country=6)).split(":")
    await house.passes(5)
    assert (await call(house, "getStatus", key, id=activation)).startswith("STATUS_OK:")
    if finish:
        assert await call(house, "setStatus", key, id=activation, status=6) == "ACCESS_ACTIVATION"
    return activation, number


async def rows(store: Store, sql: str) -> list[dict[str, Any]]:
    def read(tx: Tx) -> list[dict[str, Any]]:
        return [dict(row) for row in tx.all(sql)]

    return await store.read(read)


async def test_what_is_past_its_time_goes_and_the_rest_stays(house: StillHouse) -> None:
    old, _ = await received(house)
    house.clock.now += 15 * DAY
    young, _ = await received(house)
    open_still, _ = await received(house, finish=False)
    house.clock.now = NOON + 30 * DAY + 60
    await keeper(house).round()
    found = await rows(house.database.store, "select id, number_sealed is not null as has from activations order by id")
    assert [(str(row["id"]), bool(row["has"])) for row in found] == [(old, False), (young, True), (open_still, True)]
    texts = await rows(house.database.store, "select activation_id, text_sealed <> '' as has, is_shown from messages")
    assert [row["activation_id"] for row in texts if not row["has"]] == [int(old)]
    assert {row["is_shown"] for row in texts if not row["has"]} == {0}
    assert (await call(house, "getStatus", id=open_still)).startswith("STATUS_OK:")
    assert await house.problems() == []


async def test_who_bought_what_and_the_money_stay(house: StillHouse) -> None:
    await received(house)
    facts = "select service, country, status, price, upstream, opened_at, ended_at from activations"
    money = "select * from ledger order by id"
    before = await rows(house.database.store, facts), await rows(house.database.store, money)
    house.clock.now += 31 * DAY
    await keeper(house).round()
    assert (await rows(house.database.store, facts), await rows(house.database.store, money)) == before
    assert len(await rows(house.database.store, "select received_at from messages")) == 1


READS: dict[str, tuple[str, dict[str, object]]] = {
    "history": (PATH, {"action": "getHistory", "start": int(NOON) - 60, "end": int(NOON) + 3600}),
    "hero history": ("/hero" + PATH, {"action": "getHistory", "start": int(NOON) - 60, "end": int(NOON) + 3600}),
    "status": (PATH, {"action": "getStatus", "id": "{id}"}),
    "status v2": (PATH, {"action": "getStatusV2", "id": "{id}"}),
    "full text": (PATH, {"action": "getFullSms", "id": "{id}"}),
    "all texts": ("/hero" + PATH, {"action": "getAllSms", "id": "{id}"}),
    "rest list": ("/api/v1/activations", {}),
    "rest": ("/api/v1/activations/{id}", {}),
    "5sim orders": ("/v1/user/orders", {"category": "activation"}),
    "5sim": ("/v1/user/check/{id}", {}),
    "again": (PATH, {"action": "getExtraActivation", "activationId": "{id}"}),
    "5sim again": ("/v1/user/reuse/telegram/{number}", {}),
}
"""Every way of reading what is over."""

LISTS = ("history", "hero history", "rest list", "5sim orders")


async def read(house: StillHouse, name: str, activation: str, number: str) -> httpx.Response:
    path, parameters = READS[name]
    told = {key: str(value).format(id=activation) for key, value in parameters.items()}
    return await ask(house, path.format(id=activation, number=number), **told)


async def test_what_is_over_is_read_without_number_and_code(house: StillHouse) -> None:
    activation, number = await received(house)
    sealed = (await rows(house.database.store, "select code_sealed from messages"))[0]["code_sealed"]
    code = house.database.vault.open(sealed)
    for name in LISTS:
        before = await read(house, name, activation, number)
        assert number in before.text, name
    house.clock.now += 31 * DAY
    await keeper(house).round()
    for name in READS:
        answer = await read(house, name, activation, number)
        assert answer.status_code < 500, (name, answer.text)
        assert number not in answer.text, name
        assert code not in answer.text.replace(activation, ""), name
        assert "ERROR_SQL" not in answer.text, name
        assert name not in LISTS or activation in answer.text, (name, answer.text)


async def test_a_rental_keeps_its_messages_while_it_is_open_and_loses_them_after(house: StillHouse) -> None:
    rent = (await ask(house, PATH, action="getRentNumber", service="tg", rent_time=1344, country=6)).json()
    rental, number = rent["phone"]["id"], rent["phone"]["number"]
    await house.passes(30)
    assert (await ask(house, PATH, action="getRentStatus", id=rental)).json()["status"] == "success"
    house.clock.now += 40 * DAY
    await keeper(house).round()
    assert (await ask(house, PATH, action="getRentStatus", id=rental)).json()["status"] == "success"
    await house.passes(17 * DAY)
    house.clock.now += 31 * DAY
    await keeper(house).round()
    assert await rows(house.database.store, "select id from activations where number_sealed is not null") == []
    assert number not in (await ask(house, "/api/v1/rentals")).text
    assert (await ask(house, f"/api/v1/rentals/{rental}")).status_code == 200


async def test_nothing_of_it_is_left_in_the_files(house: StillHouse) -> None:
    for _ in range(3):
        await received(house)
    sealed = await asyncio.to_thread(sealed_values, house.database.url)
    assert len(sealed) >= 9
    found = await asyncio.to_thread(dumped, house.database.url)
    assert all(value in found for value in sealed)
    house.clock.now += 31 * DAY
    await keeper(house).round()
    left = await asyncio.to_thread(dumped, house.database.url)
    assert [value for value in sealed if value in left] == []


async def test_an_account_may_want_less_for_itself_and_all_below_it(house: StillHouse) -> None:
    def make(tx: Tx) -> None:
        accounts.create(tx, "child", "USD", NOON, is_demo=True, parent="alice")
        retention.set_days(tx, accounts.find(tx, "alice")["id"], 2, 30, NOON, actor="test")

    await house.open_account("bob", "10.00")
    await house.database.store.run(make)
    await house.database.store.run(_fund, house, "child")
    mine, _ = await received(house)
    childs, _ = await received(house, "child")
    bobs, _ = await received(house, "bob")
    house.clock.now += 3 * DAY
    await keeper(house).round()
    found = await rows(house.database.store, "select id from activations where number_sealed is not null")
    assert [str(row["id"]) for row in found] == [bobs]
    assert mine != childs


def _fund(tx: Tx, house: StillHouse, name: str) -> None:
    from gateway import ledger
    from gateway.money import parse

    account_id = accounts.find(tx, name)["id"]
    ledger.deposit(tx, account_id, parse("5.00", "USD"), NOON, actor="test")
    house.keys[name] = accounts.issue_key(tx, house.database.vault, name, NOON)


async def test_nobody_may_keep_for_longer_than_the_deployment(light: StillHouse) -> None:
    def wish(tx: Tx, days: int) -> None:
        retention.set_days(tx, accounts.find(tx, "alice")["id"], days, 30, NOON, actor="test")

    for days in (31, 0, -1):
        with pytest.raises(RetentionError):
            await light.database.store.run(wish, days)
    await light.database.store.run(wish, 30)

    # A deployment that keeps less since then has the last word.
    assert await light.database.store.read(lambda tx: retention.days_of(tx, accounts.find(tx, "alice")["id"], 7)) == 7


async def test_a_deployment_that_keeps_everything_deletes_only_for_those_who_want_it(
    database_url: str, tmp_path: Path
) -> None:
    directory = config_directory(tmp_path, gateway="[retention]\ndays = 0\n")
    async with still_house(directory, environment(database_url)) as house:
        await house.open_account("alice", "10.00")
        await received(house)
        house.clock.now += 3000 * DAY
        await keeper(house).round()
        assert len(await rows(house.database.store, "select id from activations where number_sealed is not null")) == 1


async def test_what_was_to_be_told_of_it_is_given_up(light: StillHouse) -> None:
    def address(tx: Tx) -> None:
        accounts.set_webhook(tx, light.database.vault, accounts.find(tx, "alice")["id"], "https://hook.example/x")

    await light.database.store.run(address)
    await received(light)
    assert [row["state"] for row in await rows(light.database.store, "select state from notices")] == ["pending"]
    light.clock.now += 31 * DAY
    await keeper(light).round()
    assert await rows(light.database.store, "select state, last_result from notices") == [
        {"state": "dead", "last_result": "deleted"}
    ]


async def test_a_message_that_comes_after_the_deletion_goes_in_its_turn(light: StillHouse) -> None:
    activation, _ = await received(light)
    light.clock.now += 31 * DAY
    await keeper(light).round()

    def late(tx: Tx) -> None:
        sealed = light.database.vault.seal("late")
        tx.execute(
            "insert into messages (activation_id, identity, round, code_sealed, text_sealed, received_at, is_shown)"
            " values (:id, 'late', 1, :sealed, :sealed, :at, 0)",
            id=int(activation),
            sealed=sealed,
            at=light.clock.now,
        )

    await light.database.store.run(late)
    await keeper(light).round()
    assert len(await rows(light.database.store, "select id from messages where text_sealed <> ''")) == 1
    light.clock.now += 31 * DAY
    await keeper(light).round()
    assert await rows(light.database.store, "select id from messages where text_sealed <> ''") == []


def short_terms(tx: Tx, name: str, days: int) -> None:
    retention.set_days(tx, accounts.find(tx, name)["id"], days, 30, NOON, actor="test")


def attempted(tx: Tx, house: StillHouse) -> None:
    """Each notice there is was tried once."""
    for row in tx.all("select id, account_id from notices"):
        note_attempt(tx, row["account_id"], row["id"], attempt(house))
    tx.execute("update notices set body_digest = :digest", digest=attempt(house).digest)


def attempt(house: StillHouse) -> Attempt:
    return Attempt(NOON, "sms_activate", "http 500", 500, 0.1, house.database.vault.index_digest("notice", "b"), "sig")


LOGGED = "select body_digest, signature from webhook_attempts order by id"


async def told(house: StillHouse, *names: str) -> None:
    """For each of these a message that came, whose notice was tried in vain."""

    def address(tx: Tx, name: str) -> None:
        accounts.set_webhook(tx, house.database.vault, accounts.find(tx, name)["id"], "https://hook.example/x")

    for name in names:
        await house.database.store.run(address, name)
        await received(house, name)
    await house.database.store.run(attempted, house)


async def test_no_digest_of_what_was_told_outlives_the_message(house: StillHouse) -> None:
    await house.open_account("bob", "10.00")
    await told(house, "alice", "bob")
    kept = attempt(house)
    before = [{"body_digest": kept.digest, "signature": kept.signature}] * 2
    assert await rows(house.database.store, LOGGED) == before
    await house.database.store.run(short_terms, "alice", 2)
    house.clock.now += 3 * DAY
    await keeper(house).round()
    blank = {"body_digest": "", "signature": ""}
    assert await rows(house.database.store, LOGGED) == [blank, before[1]]
    assert await rows(house.database.store, "select body_digest as digest from notices order by id") == [
        {"digest": ""},
        {"digest": kept.digest},
    ]
    log = (await ask(house, "/api/v1/webhook/attempts")).json()["attempts"]
    assert [(one["payload_digest"], one["signature"], one["result"]) for one in log] == [(None, None, "http 500")]
    bobs = (await ask(house, "/api/v1/webhook/attempts", "bob")).json()["attempts"]
    assert [(one["payload_digest"], one["signature"]) for one in bobs] == [(kept.digest, kept.signature)]
    house.clock.now += 28 * DAY
    await keeper(house).round()
    left = await asyncio.to_thread(dumped, house.database.url)
    assert kept.digest.encode() not in left


async def test_an_attempt_that_ends_after_the_deletion_leaves_no_digest(house: StillHouse) -> None:
    await told(house, "alice")
    house.clock.now += 31 * DAY
    await keeper(house).round()
    await house.database.store.run(attempted, house)  # the notice's own is written first, as couriers do
    await house.database.store.run(
        lambda tx: note_attempt(tx, 1, tx.all("select id from notices")[0]["id"], attempt(house))
    )
    assert await rows(house.database.store, LOGGED) == [{"body_digest": "", "signature": ""}] * 3
    assert await rows(house.database.store, "select body_digest as digest from notices") == [{"digest": ""}]


@pytest.mark.parametrize("is_noted_first", [True, False])
async def test_an_attempt_that_is_noted_during_the_deletion_leaves_no_digest(
    house: StillHouse, is_noted_first: bool
) -> None:
    store = house.database.store
    await told(house, "alice")
    (notice,) = await rows(store, "select id, account_id, activation_id from notices")
    house.clock.now += 31 * DAY
    is_under_way, may_commit = threading.Event(), threading.Event()

    def note(tx: Tx) -> None:
        note_attempt(tx, notice["account_id"], notice["id"], attempt(house))

    def delete(tx: Tx) -> None:
        retention._empty_activations(tx, [notice["activation_id"]], house.clock.now)

    def slowly(tx: Tx) -> None:
        (note if is_noted_first else delete)(tx)
        is_under_way.set()
        may_commit.wait(4)

    first = asyncio.ensure_future(store.run(slowly))
    assert await asyncio.to_thread(is_under_way.wait, 10)
    second = asyncio.ensure_future(store.run(delete if is_noted_first else note))
    await asyncio.wait({second}, timeout=0.3)
    may_commit.set()
    await asyncio.gather(first, second)
    assert await rows(store, LOGGED) == [{"body_digest": "", "signature": ""}] * 2
    assert await rows(store, "select body_digest as digest from notices") == [{"digest": ""}]


async def pushed(house: StillHouse, key: str = "alice", text: str = "Your code is 31415") -> str:
    """A message by the brief's own push, for a number that is finished then; the activation's id."""
    _, activation, number = (await call(house, "getNumber", key, service="tg", country=6)).split(":")
    await push(house, activation, number, text)
    assert await call(house, "setStatus", key, id=activation, status=6) == "ACCESS_ACTIVATION"
    return activation


async def push(house: StillHouse, activation: str, number: str, text: str) -> None:
    told = {"event": "sms_received", "verification_id": activation, "phone_number": number, "message": text}
    body = {**told, "timestamp": "2025-06-01T12:00:00Z"}
    body["signature"] = native_signature(body, house.database.vault.webhook_secret)
    request = PushRequest("POST", "https://gw.example.test/webhooks/sms", {}, json.dumps(body).encode())
    await house.gateway.inbox.take_native(request)


async def test_a_push_goes_with_the_message_it_told_of(house: StillHouse) -> None:
    await house.open_account("bob", "10.00")
    alices, bobs = await pushed(house), await pushed(house, "bob")
    found = "select activation_id as id from pushes order by id"
    assert await rows(house.database.store, found) == [{"id": int(alices)}, {"id": int(bobs)}]
    await house.database.store.run(short_terms, "alice", 2)
    house.clock.now += 3 * DAY
    await keeper(house).round()
    assert await rows(house.database.store, found) == [{"id": int(bobs)}]
    house.clock.now += 28 * DAY
    await keeper(house).round()
    assert await rows(house.database.store, found) == []


async def test_a_push_that_goes_with_nothing_goes_by_its_age(house: StillHouse) -> None:
    """What came for an activation that had been emptied, for several, or for one nobody knows."""

    def plant(tx: Tx) -> None:
        for account_id in (accounts.find(tx, "alice")["id"], accounts.find(tx, "bob")["id"], None):
            tx.execute(
                "insert into pushes (upstream, source, body_digest, signature, digest, leases, account_id,"
                " processed_at) values ('one', '', '', '', 'd', 2, :account, :at)",
                account=account_id, at=NOON,
            )  # fmt: skip

    await house.open_account("bob", "10.00")
    await house.database.store.run(plant)
    left = "select coalesce(name, '') as name from pushes p left join accounts a on a.id = p.account_id order by p.id"
    house.clock.now += 6 * DAY
    await keeper(house).round()
    assert len(await rows(house.database.store, left)) == 3

    await house.database.store.run(short_terms, "bob", 5)
    await keeper(house).round()
    assert await rows(house.database.store, left) == [{"name": "alice"}]  # anybody's may be among those of nobody
    house.clock.now += 25 * DAY
    assert (await house.database.store.read(retention.overdue, house.clock.now, 30)).counts["pushes"] == 1
    await keeper(house).round()
    assert await rows(house.database.store, left) == []


async def test_what_an_older_program_writes_of_pushes_is_blanked_as_it_comes(house: StillHouse) -> None:
    def as_before(tx: Tx) -> None:
        tx.execute(
            "insert into pushes (upstream, source, body_digest, signature, leases, processed_at)"
            " values ('one', '', :digest, 'sig', 1, :at)",
            digest=hashes_of(b"body")[0].hex(), at=NOON,
        )  # fmt: skip

    await house.database.store.run(as_before)
    await keeper(house).round()
    assert await rows(house.database.store, "select body_digest, signature, leases from pushes") == [
        {"body_digest": "", "signature": "", "leases": 1}
    ]


async def test_the_update_leaves_no_digest_of_pushes_and_none_of_what_was_deleted_before(database_url: str) -> None:
    if database_url.startswith("sqlite"):
        migrations.create_sqlite(Path(database_url.removeprefix("sqlite:///")))
    command.upgrade(migrations.config(database_url), "0022")
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("push", "deleted", "kept")}
    store = connect(database_url)
    try:
        await store.run(_as_before, digests)
        migrations.upgrade(database_url)
        assert await rows(store, "select leases, body_digest, signature from pushes") == [
            {"leases": 1, "body_digest": "", "signature": ""}
        ]
        kept = {"body_digest": digests["kept"], "signature": "of kept"}
        assert await rows(store, LOGGED) == [{"body_digest": "", "signature": ""}, kept, kept]
        assert await rows(store, "select body_digest as digest from notices order by id") == [
            {"digest": ""},
            {"digest": digests["kept"]},
        ]
    finally:
        await store.close()
    left = await asyncio.to_thread(dumped, database_url)
    assert [name for name, digest in digests.items() if digest.encode() in left] == ["kept"]
    assert b"of deleted" not in left


def _as_before(tx: Tx, digests: dict[str, str]) -> None:
    """A push, two messages of which one was deleted, and attempts to tell of each, and of a test."""
    tx.execute("insert into accounts (name, currency, is_demo, created_at) values ('alice', 'USD', 0, 1)")
    tx.execute("insert into api_keys (account_id, digest, hint, created_at) select id, 'd', 'h', 1 from accounts")
    tx.execute(
        "insert into pushes (upstream, source, body_digest, signature, leases, processed_at)"
        " values ('one', '', :digest, :signature, 1, 1)",
        digest=digests["push"], signature="of deleted",
    )  # fmt: skip
    activation = tx.insert(
        "insert into activations (account_id, key_id, service, country, operator, status, price, currency, opened_at,"
        " fingerprint, config_version) select account_id, id, 'tg', 6, '', 'finished', 1, 'USD', 1, '', ''"
        " from api_keys returning id"
    )
    for name in ("deleted", "kept"):
        message = tx.insert(
            "insert into messages (activation_id, identity, round, code_sealed, text_sealed, received_at, is_shown)"
            " values (:activation, :name, 1, '', :text, 1, 0) returning id",
            activation=activation, name=name, text="" if name == "deleted" else "sealed",
        )  # fmt: skip
        notice = tx.insert(
            "insert into notices (account_id, activation_id, message_id, format, state, next_at, created_at,"
            " body_digest) select account_id, id, :message, 'rent', 'sent', 1, 1, :digest from activations"
            " returning id",
            message=message, digest=digests[name],
        )  # fmt: skip
        _attempted_before(tx, notice, digests[name], f"of {name}")
    _attempted_before(tx, None, digests["kept"], "of kept")


def _attempted_before(tx: Tx, notice: int | None, digest: str, signature: str) -> None:
    tx.execute(
        "insert into webhook_attempts (account_id, notice_id, at, format, result, seconds, body_digest, signature)"
        " select id, :notice, 1, 'rent', 'http 200', 0.1, :digest, :signature from accounts",
        notice=notice, digest=digest, signature=signature,
    )  # fmt: skip


async def test_it_takes_as_many_batches_as_it_needs(house: StillHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "BATCH", 2)
    for _ in range(5):
        await received(house)
    house.clock.now += 31 * DAY
    left = await house.database.store.read(retention.overdue, house.clock.now, 30)
    assert left.total == 5
    assert await retention.delete_overdue(house.database.store, house.clock.now, 30) == 5
    assert (await house.database.store.read(retention.overdue, house.clock.now, 30)).total == 0
    assert await retention.delete_overdue(house.database.store, house.clock.now, 30) == 0


async def test_what_is_overdue_for_a_day_is_an_alert_and_a_metric(
    light: StillHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    one = keeper(light, told)
    await received(light)
    await one.round()

    async def stuck(*_args: object) -> int:
        return 0

    monkeypatch.setattr(retention, "delete_overdue", stuck)
    light.clock.now += 30.5 * DAY
    # The last look at which nothing was overdue is a fortnight younger than the rows: no alarm yet.
    await light.database.store.run(retention._note_clean, light.clock.now)
    await one.round()
    assert told == []
    light.clock.now += 1.1 * DAY
    await one.round()
    await one.round()
    assert told == ["simroute: retention overdue: retention:data"]
    assert b"simroute_retention_overdue 1.0" in light.gateway.house.metrics.render()
    monkeypatch.undo()
    await one.round()
    await one.round()
    assert told[1:] == ["simroute: retention overdue: retention:data is well again"]
    await one._alerts.write()
    assert await light.database.store.read(standing) == []


async def test_a_database_that_goes_away_in_the_middle_costs_nothing(
    light: StillHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "BATCH", 1)
    for _ in range(3):
        await received(light)
    light.clock.now += 31 * DAY
    real, calls = light.database.store.run, 0

    async def sometimes(unit: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise Unavailable
        return await real(unit, *args, **kwargs)

    monkeypatch.setattr(light.database.store, "run", sometimes)
    with pytest.raises(Unavailable):
        await keeper(light).round()
    await keeper(light).round()
    assert await rows(light.database.store, "select id from activations where number_sealed is not null") == []


async def test_the_command_line_says_what_is_kept_and_deletes_now(tmp_path: Path, database_url: str) -> None:
    values, directory = environment(database_url), config_directory(tmp_path)
    async with still_house(directory, values) as house:
        await house.open_account("alice", "10.00")
        await told(house, "alice")  # at a time that is long ago for the command line
        shell = Shell(directory, values)
        before = await asyncio.to_thread(shell.json, "retention", "status")
        assert (before["days"], before["overdue"]) == (30, 1)
        assert "alice: kept for 7 days" in await asyncio.to_thread(shell.ok, "retention", "set", "alice", "7")
        assert "30" in await asyncio.to_thread(shell.refused, "retention", "set", "alice", "31")
        done = await asyncio.to_thread(shell.json, "retention", "run")
        assert done == {"deleted": 1, "is_settled": True}
        (logged,) = await asyncio.to_thread(shell.json, "webhook", "log", "alice")
        assert (logged["result"], logged["digest"]) == ("http 500", None)
        after = await asyncio.to_thread(shell.json, "retention", "status")
        assert (after["overdue"], [row["days"] for row in after["accounts"]]) == (0, [7])
        assert "30 days" in await asyncio.to_thread(shell.ok, "retention", "set", "alice", "default")
        noted = await rows(house.database.store, "select action from audit where action = 'account.retention'")
        assert len(noted) == 2


async def test_a_reseller_says_for_its_own_branch_how_long_and_never_longer(light: StillHouse) -> None:
    await light.open_account("bob", "1.00")

    def child(tx: Tx) -> None:
        accounts.create(tx, "child", "USD", NOON, is_demo=True, parent="alice")

    await light.database.store.run(child)
    headers = {"authorization": f"Bearer {light.keys['alice']}"}
    transport = httpx.ASGITransport(app=light.gateway.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway/api/v1", headers=headers) as client:
        at = "/accounts/{}/retention".format
        shown = (await client.get(at("child"))).json()
        assert shown == {"account": "child", "days": 30, "own_days": None, "house_days": 30}
        assert (await client.put(at("alice"), json={"days": 7})).json()["days"] == 7
        assert (await client.put(at("child"), json={"days": 9})).json() == {
            "account": "child",
            "days": 7,
            "own_days": 9,
            "house_days": 30,
        }
        for days in (31, 0, -1, 1.5, "7", None):
            assert (await client.put(at("child"), json={"days": days})).status_code in (400, 422)
        assert (await client.put(at("bob"), json={"days": 3})).status_code == 404
        assert (await client.delete(at("alice"))).status_code == 204
        assert (await client.get(at("child"))).json()["days"] == 9
    noted = await rows(light.database.store, "select actor from audit where action = 'account.retention'")
    assert len(noted) == 3
    assert all(row["actor"].startswith("key:") for row in noted)


async def test_pools_and_desks_keep_nothing_either(database_url: str) -> None:
    """What came in for numbers of one's own, what was typed at a desk, and numbers taken out of their pool."""
    database = open_database(environment(database_url))
    store, seal = database.store, database.vault.seal
    number, now = "628000111222", 100 * DAY

    def plant(tx: Tx, removed_at: float | None, at: float) -> None:
        number_id = tx.insert(
            "insert into numbers (upstream, digest, number_sealed, country, carrier, source, services, is_enabled,"
            " quarantined_until, used_at, version, created_at, removed_at) values ('own', :digest, :sealed, 6, '', '',"
            " '', 1, 0, 0, 0, 1, :removed) returning id",
            digest=number_digest(database.vault, f"{number}{at:.0f}"), sealed=seal(number), removed=removed_at,
        )  # fmt: skip
        lease = tx.insert(
            "insert into number_leases (upstream, number_id, service, price, currency, state, messages, is_waiting,"
            " opened_at, expires_at, ended_at, cool_until) values ('own', :number, 'tg', 1, 'USD', 'finished', 1, 0,"
            " :at, :at, :at, 0) returning id",
            number=number_id, at=at,
        )  # fmt: skip
        for lease_id, identity in ((lease, "a"), (None, "b")):
            message = tx.insert(
                "insert into number_messages (upstream, source, identity, number_id, lease_id, to_sealed, device,"
                " sender_sealed, text_sealed, reason, received_at, recorded_at) values ('own', '', :identity, :number,"
                " :lease, :sealed, '', :sealed, :sealed, '', :at, :at) returning id",
                identity=f"{identity}{at}", number=number_id, lease=lease_id, sealed=seal("text"), at=at,
            )  # fmt: skip
            for place, whole in ((1, message), (2, None)):
                tx.execute(
                    "insert into number_parts (upstream, source, identity, whole, place, total, number_id, message_id,"
                    " to_sealed, device, sender_sealed, text_sealed, received_at, recorded_at) values ('own', '',"
                    " :identity, 'w', :place, 2, :number, :message, :sealed, '', :sealed, :sealed, :at, :at)",
                    identity=f"{identity}{place}{at}", place=place, number=number_id, message=whole,
                    sealed=seal("part"), at=at,
                )  # fmt: skip
        task = tx.insert(
            "insert into desk_tasks (upstream, service, country, operator, cost, currency, state, number_sealed,"
            " created_at, waits_until, until_at, round) values ('desk', 'tg', 6, '', 1, 'USD', 'leased', :sealed, 1, 1,"
            " :at, 1) returning id",
            sealed=seal(number), at=at,
        )  # fmt: skip
        tx.execute(
            "insert into desk_messages (task_id, round, code_sealed, text_sealed, received_at) values (:task, 1,"
            " :sealed, :sealed, :at)",
            task=task, sealed=seal("code"), at=at,
        )  # fmt: skip

    async def left() -> dict[str, int]:
        tables = {
            "numbers": "number_sealed <> ''", "number_messages": "1 = 1", "number_parts": "1 = 1",
            "desk_tasks": "number_sealed is not null", "desk_messages": "1 = 1",
        }  # fmt: skip
        found = {}
        for table, kept in tables.items():
            row = (await rows(store, f"select count(*) as n from {table} where {kept}"))[0]  # noqa: S608 — constant text
            found[table] = int(row["n"])
        return found

    await store.run(plant, now - 31 * DAY, now - 31 * DAY)
    await store.run(plant, None, now - 29 * DAY)
    each = {"numbers": 1, "number_messages": 2, "number_parts": 4, "desk_tasks": 1, "desk_messages": 1}
    assert await left() == {table: 2 * count for table, count in each.items()}
    await retention.delete_overdue(store, now, 30)
    assert await left() == each
    await retention.delete_overdue(store, now + 2 * DAY, 30)
    assert await left() == {**dict.fromkeys(each, 0), "numbers": 1}  # it stands in its pool still

    # A number that comes back into its pool can be leased again.
    spec = roster.specify(database.vault, f"{number}{now - 31 * DAY:.0f}", "line 1", {"country": 6})
    assert (await store.run(roster.put, "own", [spec], now)).added == 1
    sealed = [row["number_sealed"] for row in await rows(store, "select number_sealed from numbers order by id")]
    assert database.vault.open(sealed[0]) == f"{number}{now - 31 * DAY:.0f}"
    await store.close()


async def test_what_a_desk_of_ours_keeps_goes_with_the_activation_of_a_shorter_term(light: StillHouse) -> None:
    activation, _ = await received(light)
    database = light.database

    def at_the_desk(tx: Tx) -> None:
        task = tx.insert(
            "insert into desk_tasks (upstream, service, country, operator, cost, currency, state, number_sealed,"
            " created_at, waits_until, until_at, ended_at, round) values ('desk', 'tg', 6, '', 1, 'USD', 'finished',"
            " :sealed, 1, 1, :at, :at, 1) returning id",
            sealed=database.vault.seal("62800"), at=light.clock.now,
        )  # fmt: skip
        tx.execute(
            "update activations set upstream = 'desk', reference = :task where id = :id",
            task=str(task), id=int(activation),
        )  # fmt: skip
        retention.set_days(tx, accounts.find(tx, "alice")["id"], 2, 30, NOON, actor="test")

    await database.store.run(at_the_desk)
    light.clock.now += 3 * DAY
    await keeper(light).round()
    assert await rows(database.store, "select number_sealed from desk_tasks") == [{"number_sealed": None}]
