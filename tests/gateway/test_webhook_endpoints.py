"""How endpoints fare: pauses, an end to them, secrets and their rotation, the log, replays, tests, and alerts."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import structlog
from alembic import command
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from gateway import audit, migrations, webhook_endpoints, webhook_log
from gateway.accounts import ID_MAX, AccountError
from gateway.alerts import Alerts
from gateway.errors import NotAllowedNow, TooManyRequests
from gateway.house import House
from gateway.manage import COMMAND_LINE, Manager
from gateway.settings import Settings, WebhooksSettings
from gateway.store import Row, Tx, connect
from gateway.webhook_endpoints import Endpoint, Versions, pause_seconds, secret_text
from gateway.webhook_forms import EXAMPLE_TEXT, FORMATS
from gateway.webhook_watch import WebhookWatch
from gateway.webhook_wire import RESOLVER_THREADS
from gateway.webhooks import (
    IN_FLIGHT_MAX,
    IN_FLIGHT_SLOW_MAX,
    IN_FLIGHT_UNPROVEN_MAX,
    Courier,
    Trials,
    retry_after_seconds,
)
from tests.compat._rest_client import soon
from tests.gateway.noticing import (
    LOCAL,
    TEXT,
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
)

QUICK_TO_PAUSE = LOCAL.model_copy(
    update={"retry_seconds": (1.0,) * 50, "pause_after": 3, "pause_seconds": 5.0, "pause_seconds_max": 60.0}
)
DAY = 86_400.0


@dataclass
class Stage:
    """One house with an endpoint to send to, and couriers that are closed at the end."""

    house: House
    receiver: Receiver
    couriers: Callable[[], Courier]
    trials: Trials
    queue: Callable[..., Awaitable[int]]
    told: list[tuple[str, str]] = field(default_factory=list)
    alerts: Alerts | None = None

    async def endpoint(self, account_id: int = 1) -> Endpoint:
        house = self.house
        return await house.store.read(webhook_endpoints.shown, house.vault, account_id, house.clock())

    async def set_address(self, path: str, form: str = "sms_activate", account_id: int = 1) -> None:
        house, settings = self.house, self.house.settings.gateway.webhooks
        await house.store.run(
            webhook_endpoints.set_address, house.vault, settings, account_id, self.receiver.url(path), form,
            house.clock(), "key:1",
        )  # fmt: skip

    async def enable(self) -> None:
        house = self.house
        await house.store.run(
            webhook_endpoints.enable, house.settings.gateway.webhooks, 1, house.clock(), COMMAND_LINE.actor
        )

    async def rotate(self, grace_seconds: float = DAY) -> Versions:
        return await self.house.store.run(webhook_endpoints.rotate, COMMAND_LINE, 1, self.house.clock(), grace_seconds)

    async def log(self, account_id: int = 1, before: int = ID_MAX, limit: int = 100) -> list[Row]:
        return list(await self.house.store.read(webhook_log.attempts, account_id, before=before, limit=limit))

    async def watch(self) -> WebhookWatch:
        """One that has just been started, and knows what was told before."""
        house = self.house
        alerts = Alerts(house.store, house.metrics, house.clock, lambda title, words: self.told.append((title, words)))
        await alerts.restore()
        self.alerts = alerts
        return WebhookWatch(house, alerts)


@pytest.fixture
async def stage(store_url: str, settings: Settings) -> AsyncIterator[Stage]:
    async with AsyncExitStack() as stack:
        store = connect(store_url)
        stack.push_async_callback(store.close)
        house = house_on(store, settings)
        configure(house, QUICK_TO_PAUSE)
        receiver = await stack.enter_async_context(receiving())

        def courier() -> Courier:
            made = Courier(house)
            stack.push_async_callback(made.aclose)
            return made

        trials = Trials(house)
        stack.push_async_callback(trials.aclose)
        yield Stage(house, receiver, courier, trials, partial(queued, house))


# Pauses


@on_both_databases
async def test_an_endpoint_that_keeps_failing_is_paused_and_its_notices_wait(stage: Stage) -> None:
    courier, failing = stage.couriers(), [await stage.queue(stage.receiver.url("/500")) for _ in range(3)]
    well = await stage.queue(stage.receiver.url("/well"), account="other")
    await carried(courier)
    await carried(courier)
    assert len(stage.receiver.received) == 4
    assert (await notice(stage.house, well))["state"] == "sent"
    found = await stage.endpoint()
    assert (found.state, found.failures, found.last_failure) == ("paused", 3, "http 500")
    assert found.paused_until == stage.house.clock() + 5

    advance(stage.house, 4)
    await carried(courier)
    await carried(courier)
    assert len(stage.receiver.received) == 4
    rows = [await notice(stage.house, one) for one in failing]
    assert {(row["state"], row["tries"], row["next_at"]) for row in rows} == {("pending", 1, found.paused_until)}


async def test_after_a_pause_one_notice_is_risked_and_a_success_lets_all_go(stage: Stage) -> None:
    courier = stage.couriers()
    for _ in range(3):
        await stage.queue(stage.receiver.url("/500"))
    await carried(courier)
    await carried(courier)
    advance(stage.house, 5)
    await carried(courier)
    assert len(stage.receiver.received) == 4
    assert (await stage.endpoint()).paused_until == stage.house.clock() + 10

    await tell(stage.house, "update accounts set webhook_url_sealed = :url", url=stage.house.vault.seal(
        stage.receiver.url("/well")
    ))  # fmt: skip
    advance(stage.house, 10)
    while len(stage.receiver.received) < 7:
        await carried(courier)
    await carried(courier)
    assert (await stage.endpoint()).state == "active"
    assert stage.receiver.paths()[4:] == ["/well"] * 3


def test_pauses_double_up_to_a_most() -> None:
    found = [pause_seconds(failures, QUICK_TO_PAUSE) for failures in (0, 2, 3, 4, 5, 6, 7, 8, 1_000_000)]
    assert found == [0, 0, 5, 10, 20, 40, 60, 60, 60]


async def test_the_default_schedule_is_quick_while_a_code_lives_and_ends_after_a_day() -> None:
    pauses = WebhooksSettings().retry_seconds
    assert pauses[:7] == (1, 2, 4, 8, 15, 30, 60)
    assert list(pauses) == sorted(pauses)
    assert 0.9 * DAY < sum(pauses) < 1.1 * DAY


async def test_a_rental_s_own_address_that_fails_does_not_hold_up_its_account_s(stage: Stage) -> None:
    await stage.queue(stage.receiver.url("/well"))
    await tell(
        stage.house, "update activations set webhook_url_sealed = :url, product = 'rental'",
        url=stage.house.vault.seal(stage.receiver.url("/410")),
    )  # fmt: skip
    await tell(
        stage.house, "insert into notices (account_id, activation_id, message_id, format, state, next_at, created_at)"
        " select account_id, activation_id, message_id, 'rent', 'pending', next_at, created_at from notices",
    )  # fmt: skip
    await carried(stage.couriers())
    assert sorted(stage.receiver.paths()) == ["/410", "/well"]
    assert (await stage.endpoint()).state == "active"
    rows = await stage.house.store.read(webhook_endpoints.disabled, 10)
    assert [(row["name"], row["rental_id"]) for row in rows] == [("reseller", 100000001)]
    await tell(stage.house, "update activations set ended_at = 1")
    assert not await stage.house.store.read(webhook_endpoints.disabled, 10)
    await tell(stage.house, "update activations set ended_at = null")
    await stage.enable()
    assert not await stage.house.store.read(webhook_endpoints.disabled, 10)


# What a receiver asks for


@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_pauses_the_endpoint(stage: Stage, status: int) -> None:
    stage.receiver.headers = {"Retry-After": "120"}
    first = await stage.queue(stage.receiver.url(f"/{status}"))
    courier = stage.couriers()
    await carried(courier)
    later = await stage.queue(stage.receiver.url(f"/{status}"))
    advance(stage.house, 119)
    await carried(courier)
    assert len(stage.receiver.received) == 1
    assert (await notice(stage.house, first))["next_at"] == stage.house.clock() + 1
    advance(stage.house, 1)
    stage.receiver.headers = {}
    await stage.set_address("/well")
    await carried(courier)
    assert (await notice(stage.house, first))["state"] == (await notice(stage.house, later))["state"] == "sent"


async def test_retry_after_of_another_answer_means_nothing(stage: Stage) -> None:
    stage.receiver.headers = {"Retry-After": "120"}
    one = await stage.queue(stage.receiver.url("/500"))
    await carried(stage.couriers())
    assert (await notice(stage.house, one))["next_at"] == stage.house.clock() + 1


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0), ("17", 17), ("3600", 3600), ("99999999999999999999", 3600), ("", 0), ("soon", 0), ("-5", 0),
        ("1.5", 0), ("٣", 0), (formatdate(1_000_030, usegmt=True), 30), (formatdate(999_000, usegmt=True), 0),
        (formatdate(2_000_000_000, usegmt=True), 3600), ("Mon, 99 Foo 2026 00:00:00 GMT", 0),
    ],
)  # fmt: skip
def test_retry_after_is_seconds_or_a_date_and_bounded(text: str, seconds: float) -> None:
    assert retry_after_seconds(text, 1_000_000.0) == seconds


@pytest.mark.parametrize("zone", [" -0000", "", " GMT", " +0000"])
def test_a_retry_after_without_a_zone_is_not_in_the_time_of_this_machine(
    monkeypatch: pytest.MonkeyPatch, zone: str
) -> None:
    monkeypatch.setenv("TZ", "UTC+9")
    time.tzset()
    try:
        assert retry_after_seconds("Mon, 12 Jan 1970 13:47:10" + zone, 1_000_000.0) == 30
    finally:
        monkeypatch.undo()
        time.tzset()


@on_both_databases
async def test_gone_disables_at_once_and_what_comes_then_is_given_up_unsent(stage: Stage) -> None:
    courier, gone = stage.couriers(), await stage.queue(stage.receiver.url("/410"))
    await carried(courier)
    row = await notice(stage.house, gone)
    assert (row["state"], row["tries"], row["last_result"]) == ("dead", 1, "http 410")
    found = await stage.endpoint()
    assert (found.state, found.since, found.last_failure) == ("disabled", stage.house.clock(), "http 410")

    after = await stage.queue(stage.receiver.url("/410"), account="reseller")
    await carried(courier)
    row = await notice(stage.house, after)
    assert (row["state"], row["tries"], row["last_result"]) == ("dead", 0, "webhook disabled")
    assert len(stage.receiver.received) == 1
    assert len(await stage.log()) == 1


@on_both_databases
async def test_one_that_fails_for_long_is_disabled(stage: Stage) -> None:
    configure(stage.house, QUICK_TO_PAUSE.model_copy(update={"disable_after_hours": 0.5}))
    courier, _ = stage.couriers(), await stage.queue(stage.receiver.url("/500"))
    began = stage.house.clock()
    while stage.house.clock() < began + 1700:
        await carried(courier)
        advance(stage.house, 65)
    assert (await stage.endpoint()).state in ("active", "paused")
    advance(stage.house, 100)
    await carried(courier)
    assert (await stage.endpoint()).state == "disabled"


@pytest.mark.parametrize("how", ["set anew", "enabled"])
async def test_what_is_disabled_goes_on_when_it_is(stage: Stage, how: str) -> None:
    courier = stage.couriers()
    await stage.queue(stage.receiver.url("/410"))
    await carried(courier)
    waiting = await stage.queue(stage.receiver.url("/well"))
    await tell(stage.house, "update notices set next_at = :later where id = :id", later=stage.house.clock() + 900,
               id=waiting)  # fmt: skip
    await (stage.set_address("/well") if how == "set anew" else stage.enable())
    await carried(courier)

    found = await stage.endpoint()
    assert (found.state, found.failures, found.paused_until) == ("active", 0, None)
    assert (await notice(stage.house, waiting))["state"] == "sent"
    actions = [row["action"] for row in await stage.house.store.read(audit.page)]
    assert actions == ["webhook.set" if how == "set anew" else "webhook.enable"]


@pytest.mark.parametrize(("path", "tries"), [("/410-hang", 0), ("/500-hang", 0), ("/500-hang", 50)])
@on_both_databases
async def test_what_a_former_address_answers_says_nothing_of_the_one_set_meanwhile(
    stage: Stage, path: str, tries: int
) -> None:
    courier, one = stage.couriers(), await stage.queue(stage.receiver.url(path))
    await tell(stage.house, "update notices set tries = :tries", tries=tries)
    await courier.round()
    await soon(lambda: stage.receiver.hanging == 1)
    await stage.set_address("/well")
    stage.receiver.released.set()
    await asyncio.gather(*courier._in_flight)

    found = await stage.endpoint()
    assert (found.state, found.failures) == ("active", 0)
    row = await notice(stage.house, one)
    assert (row["state"], row["tries"], row["next_at"], row["ended_at"]) == (
        "pending", tries, stage.house.clock(), None,
    )  # fmt: skip
    assert (counted(stage.house, "dead"), counted(stage.house, "retry")) == (0, 1)
    await carried(courier)
    assert (await notice(stage.house, one))["state"] == "sent"
    assert stage.receiver.paths() == [path, "/well"]


@pytest.mark.parametrize("store_url", ["postgresql"], indirect=True)
async def test_an_address_set_while_a_failure_is_written_down_is_waited_for(stage: Stage) -> None:
    """Without that the notice ends by an address which, when both are committed, is no longer set."""
    house, is_set, may_end = stage.house, threading.Event(), threading.Event()
    courier, one = stage.couriers(), await stage.queue(stage.receiver.url("/410-hang"))

    def set_slowly(tx: Tx) -> None:
        webhook_endpoints.set_address(
            tx, house.vault, LOCAL, 1, stage.receiver.url("/well"), "native", house.clock(), "key:1"
        )
        is_set.set()
        may_end.wait(10)

    await courier.round()
    await soon(lambda: stage.receiver.hanging == 1)
    setting = asyncio.create_task(house.store.run(set_slowly))
    try:
        await soon(is_set.is_set)
        stage.receiver.released.set()
        async with asyncio.timeout(10):
            while courier._in_flight and not await house.store.read(_waits_for_a_lock):  # noqa: ASYNC110 — of another's lock there is no event
                await asyncio.sleep(0.01)
    finally:
        may_end.set()
        await setting
    await asyncio.gather(*courier._in_flight)
    assert (await notice(house, one))["state"] == "pending"
    assert (await stage.endpoint()).state == "active"


def _waits_for_a_lock(tx: Tx) -> bool:
    return bool(
        tx.all(
            "select 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
            " and query like 'update accounts%'"
        )
    )


async def test_what_is_our_own_fault_is_not_counted_against_the_endpoint(stage: Stage) -> None:
    await stage.queue(stage.receiver.url("/well"))
    await tell(stage.house, "update messages set text_sealed = 'nonsense'")
    await carried(stage.couriers())
    assert (await stage.endpoint()).failures == 0


async def test_a_message_deleted_meanwhile_ends_its_notice(stage: Stage) -> None:
    one = await stage.queue(stage.receiver.url("/well"))
    await tell(stage.house, "update messages set text_sealed = '', code_sealed = ''")
    await carried(stage.couriers())
    row = await notice(stage.house, one)
    assert (row["state"], row["last_result"], stage.receiver.received) == ("dead", "message deleted", [])
    assert (counted(stage.house, "dead"), counted(stage.house, "deleted")) == (0, 1)


# Operators are told


async def test_operators_are_told_once_when_one_is_disabled_and_once_when_it_is_over(stage: Stage) -> None:
    courier, watch = stage.couriers(), await stage.watch()
    await stage.queue(stage.receiver.url("/410"))
    await carried(courier)
    for _ in range(3):
        await watch.round()
    assert stage.alerts is not None
    await stage.alerts.write()
    again = await stage.watch()
    await again.round()
    (told,) = stage.told
    assert told[0] == "simroute: webhook disabled: webhook:reseller"
    assert "http 410" in told[1]
    assert "127.0.0.1" not in told[1]
    await stage.enable()
    await again.round()
    await again.round()
    assert [title for title, _ in stage.told[1:]] == ["simroute: webhook disabled: webhook:reseller is well again"]


async def test_gauges_tell_what_waits_what_is_dead_and_what_is_disabled(stage: Stage) -> None:
    watch, value = await stage.watch(), stage.house.metrics.registry.get_sample_value
    await watch.round()
    names = ("simroute_notices_oldest_pending_seconds", "simroute_notices_dead", "simroute_webhooks_disabled")
    assert [value(name) for name in names] == [0, 0, 0]
    await stage.queue(stage.receiver.url("/410"))
    await carried(stage.couriers())
    await stage.queue(stage.receiver.url("/410"), account="other")
    advance(stage.house, 30)
    await watch.round()
    assert [value(name) for name in names] == [30, 1, 1]


# Secrets


def test_secrets_differ_by_account_and_version_and_are_not_the_deployment_s(stage: Stage) -> None:
    vault = stage.house.vault
    found = {vault.account_webhook_secret(account, version) for account in (1, 2, 11) for version in (1, 2, 11)}
    assert len(found) == 9
    assert vault.account_webhook_secret(1, 1) == own_secret(1, 1)
    assert WEBHOOK_SECRET.encode() not in found
    assert vault.account_webhook_secret(7, 0) == WEBHOOK_SECRET.encode()
    assert secret_text(vault, 7, 0) is None
    assert secret_text(vault, 1, 1) == "whsec_" + b64encode(own_secret(1, 1)).decode()


@on_both_databases
async def test_one_account_s_secret_verifies_nothing_of_another_s(stage: Stage) -> None:
    await stage.queue(stage.receiver.url("/a"), account="a")
    await stage.queue(stage.receiver.url("/b"), account="b")
    await carried(stage.couriers())
    for one in stage.receiver.received:
        mine, other = (1, 2) if one.path == "/a" else (2, 1)
        Webhook(own_secret(mine)).verify(one.body, one.headers)
        for wrong in (own_secret(other), WEBHOOK_SECRET.encode()):
            assert one.headers["X-Signature"] != x_signature(wrong, one.body)
            with pytest.raises(WebhookVerificationError):
                Webhook(wrong).verify(one.body, one.headers)


@on_both_databases
async def test_two_secrets_sign_during_the_grace_and_one_after_it(stage: Stage) -> None:
    courier = stage.couriers()
    await stage.queue(stage.receiver.url("/hook"))
    assert await stage.rotate(60.0) == Versions(2, 1, stage.house.clock() + 60)
    await carried(courier)
    (during,) = stage.receiver.received
    assert len(during.headers["webhook-signature"].split(" ")) == 2
    for version in (1, 2):
        Webhook(own_secret(1, version)).verify(during.body, during.headers)
    assert during.headers["X-Signature"] == x_signature(own_secret(1, 2), during.body)

    # The time of the signature is the house's: a receiver that compares it with its own would refuse a later one.
    await tell(stage.house, "update webhook_secrets set former_until = :now", now=stage.house.clock())
    await stage.queue(stage.receiver.url("/hook"))
    await carried(courier)
    after = stage.receiver.received[1]
    Webhook(own_secret(1, 2)).verify(after.body, after.headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(own_secret(1, 1)).verify(after.body, after.headers)


async def test_a_second_rotation_leaves_no_third_secret_valid(stage: Stage) -> None:
    await stage.queue(stage.receiver.url("/hook"))
    await stage.rotate()
    assert (await stage.rotate()).signing == (3, 2)
    assert (await stage.rotate(0)).signing == (4,)
    for grace in (-1.0, 31 * DAY):
        with pytest.raises(AccountError, match="grace"):
            await stage.rotate(grace)
    rows = await stage.house.store.read(audit.page)
    assert [(row["action"], json.loads(row["detail"])["version"]) for row in rows] == [
        ("webhook.rotate", 2), ("webhook.rotate", 3), ("webhook.rotate", 4),
    ]  # fmt: skip


@on_both_databases
async def test_whoever_is_on_the_deployment_s_secret_stays_there_until_it_is_rotated(stage: Stage) -> None:
    courier = stage.couriers()
    await stage.queue(stage.receiver.url("/hook"))
    await tell(stage.house, "insert into webhook_secrets (account_id, version) values (1, 0)")
    await stage.set_address("/hook")
    await carried(courier)
    assert (await stage.endpoint()).versions == Versions(0)
    before = stage.receiver.received[0]
    Webhook(WEBHOOK_SECRET.encode()).verify(before.body, before.headers)

    await stage.rotate()
    await stage.queue(stage.receiver.url("/hook"))
    await carried(courier)
    after = stage.receiver.received[1]
    for secret in (WEBHOOK_SECRET.encode(), own_secret(1, 1)):
        Webhook(secret).verify(after.body, after.headers)


async def test_the_migration_leaves_those_who_had_an_address_on_the_deployment_s_secret(database_url: str) -> None:
    if database_url.startswith("sqlite"):
        migrations.create_sqlite(Path(database_url.removeprefix("sqlite:///")))
    command.upgrade(migrations.config(database_url), "0015")
    store = connect(database_url)
    try:
        await store.run(_accounts_before)
        migrations.upgrade(database_url)
        found = await store.read(
            lambda tx: [webhook_endpoints.versions(tx, account_id, 1.0).current for account_id in (1, 2, 3)]
        )
    finally:
        await store.close()
    assert found == [0, 1, 0]


def _accounts_before(tx: Tx) -> None:
    """One with an address, one without, one with a rental that has."""
    for name, url in (("addressed", "sealed"), ("none", None), ("renting", None)):
        tx.execute(
            "insert into accounts (name, currency, is_demo, created_at, webhook_url_sealed)"
            " values (:name, 'USD', 0, 1, :url)",
            name=name,
            url=url,
        )
        tx.execute(
            "insert into api_keys (account_id, digest, hint, created_at) select id, name, 'h', 1 from accounts"
            " where name = :name",
            name=name,
        )
    tx.execute(
        "insert into activations (account_id, key_id, service, country, operator, status, price, currency, opened_at,"
        " fingerprint, config_version, webhook_url_sealed)"
        " values (3, 3, 'tg', 6, '', 'waiting', 1, 'USD', 1, '', '', 'sealed')"
    )


# The log


@on_both_databases
async def test_every_attempt_is_logged_with_its_result_time_and_digest_and_nothing_secret(stage: Stage) -> None:
    courier, one = stage.couriers(), await stage.queue(stage.receiver.url("/500-token-4711"))
    await carried(courier)
    await stage.set_address("/well-token-4711")
    advance(stage.house, 1)
    await carried(courier)
    second, first = await stage.log()
    assert [(row["notice_id"], row["result"], row["status"]) for row in (first, second)] == [
        (one, "http 500", 500), (one, "http 200", 200),
    ]  # fmt: skip
    assert first["at"] + 1 == second["at"] == stage.house.clock()
    assert 0 < first["seconds"] < 2
    body = stage.receiver.received[0].body.decode()
    assert first["body_digest"] == second["body_digest"] == stage.house.vault.index_digest("notice", body)
    assert second["signature"] == stage.receiver.received[1].headers["X-Signature"]
    for secret in ("token-4711", "127.0.0.1", "12345", TEXT, "12025550123"):
        assert secret not in repr([dict(first), dict(second)]).replace(first["body_digest"], "").replace(
            first["signature"], ""
        )


async def test_the_log_is_paged_by_account(stage: Stage) -> None:
    courier = stage.couriers()
    for account in ("a", "b", "a", "a"):
        await stage.queue(stage.receiver.url("/hook"), account=account)
        await carried(courier)
    page = await stage.log(limit=2)
    rest = await stage.log(before=page[-1]["id"], limit=2)
    assert [[row["notice_id"] for row in part] for part in (page, rest)] == [[4, 3], [1]]
    assert [row["notice_id"] for row in await stage.log(2)] == [2]


async def test_the_log_is_pruned_by_age(stage: Stage) -> None:
    courier, watch = stage.couriers(), await stage.watch()
    await stage.queue(stage.receiver.url("/hook"))
    await carried(courier)
    advance(stage.house, 29 * DAY)
    await stage.queue(stage.receiver.url("/hook"))
    await carried(courier)
    await watch.round()
    assert len(await stage.log()) == 2
    advance(stage.house, 2 * DAY)
    await watch.round()
    (left,) = await stage.log()
    assert left["notice_id"] == 2


# Replays


async def dead(stage: Stage, account: str = "reseller") -> int:
    """A notice that was given up, at an endpoint that is well again."""
    one = await stage.queue(stage.receiver.url("/hook"), account=account)
    await tell(
        stage.house, "update notices set state = 'dead', tries = 17, ended_at = :now where id = :id",
        now=stage.house.clock(), id=one,
    )  # fmt: skip
    return one


@on_both_databases
async def test_a_replay_keeps_the_id_and_body_and_begins_anew(stage: Stage) -> None:
    one = await dead(stage)
    row = await stage.house.store.run(webhook_log.replay, 1, one, stage.house.clock(), "key:1")
    assert row is not None
    assert (row["state"], row["tries"], row["ended_at"]) == ("pending", 0, None)
    with pytest.raises(NotAllowedNow):
        await stage.house.store.run(webhook_log.replay, 1, one, stage.house.clock(), "key:1")
    courier = stage.couriers()
    await carried(courier)
    await stage.house.store.run(webhook_log.replay, 1, one, stage.house.clock(), "key:1")
    await carried(courier)
    first, second = stage.receiver.received
    assert first.headers["webhook-id"] == second.headers["webhook-id"] == f"msg_{one}"
    assert first.body == second.body
    entries = [row for row in await stage.house.store.read(audit.page) if row["action"] == "webhook.replay"]
    assert [json.loads(row["detail"]) for row in entries] == [{"notice": one}] * 2


@on_both_databases
async def test_what_was_given_up_since_a_time_is_replayed_and_nobody_else_s(stage: Stage) -> None:
    old = await dead(stage)
    advance(stage.house, 100)
    since = stage.house.clock()
    new, other = await dead(stage), await dead(stage, "other")
    replay = stage.house.store.run
    assert await replay(webhook_log.replay_dead, 1, since, stage.house.clock(), "key:1") == 1
    assert await replay(webhook_log.replay, 1, other, stage.house.clock(), "key:1") is None
    states = {one: (await notice(stage.house, one))["state"] for one in (old, new, other)}
    assert states == {old: "dead", new: "pending", other: "dead"}
    assert await replay(webhook_log.replay_dead, 1, 0.0, stage.house.clock(), "key:1") == 1
    assert await replay(webhook_log.replay_dead, 1, 0.0, stage.house.clock(), "key:1") == 0


@on_both_databases
async def test_nothing_is_replayed_of_a_message_that_is_deleted(stage: Stage) -> None:
    gone, told, kept = await dead(stage), await dead(stage), await dead(stage)
    await tell(stage.house, "update notices set state = 'sent' where id = :id", id=told)
    await tell(stage.house, "update messages set text_sealed = '', code_sealed = '' where id < :id", id=kept)
    run, now = stage.house.store.run, stage.house.clock()
    for one in (gone, told):
        with pytest.raises(NotAllowedNow):
            await run(webhook_log.replay, 1, one, now, "key:1")
    assert await run(webhook_log.replay_dead, 1, 0.0, now, "key:1") == 1
    assert await run(webhook_log.replay_dead, 1, 0.0, now, "key:1") == 0
    states = {one: (await notice(stage.house, one))["state"] for one in (gone, told, kept)}
    assert states == {gone: "dead", told: "sent", kept: "pending"}
    entries = [row for row in await stage.house.store.read(audit.page) if row["action"] == "webhook.replay"]
    assert [json.loads(row["detail"]) for row in entries] == [{"since": 0.0, "count": 1}]


async def test_nothing_is_replayed_to_nowhere(stage: Stage) -> None:
    one = await dead(stage)
    await tell(stage.house, "insert into webhook_endpoints (account_id, rental_id, disabled_at) values (1, 0, 1)")
    replays: list[Callable[[], Awaitable[Any]]] = [
        lambda: stage.house.store.run(webhook_log.replay, 1, one, 1.0, "cli"),
        lambda: stage.house.store.run(webhook_log.replay_dead, 1, 0.0, 1.0, "cli"),
    ]
    for replay in replays:
        with pytest.raises(NotAllowedNow):
            await replay()
    await stage.enable()
    await tell(stage.house, "update accounts set webhook_url_sealed = null")
    for replay in replays:
        with pytest.raises(NotAllowedNow):
            await replay()


# Tests


@pytest.mark.parametrize("form", FORMATS)
async def test_a_test_is_marked_signed_and_in_the_account_s_form(stage: Stage, form: str) -> None:
    await stage.queue(stage.receiver.url("/hook"), form=form)
    found = await stage.trials.send(1, "test_1")
    (one,) = stage.receiver.received
    assert (found.words, found.is_delivered, found.status, found.message_id) == ("http 200", True, 200, "test_1")
    assert one.headers["webhook-id"] == "test_1"
    Webhook(own_secret()).verify(one.body, one.headers)
    content = json.loads(one.body)
    text = content.get("message") or content.get("text") or content["data"]["text"]
    assert text == EXAMPLE_TEXT
    assert content.get("event", "test") == "test"
    assert content.get("type", "webhook.test") == "webhook.test"
    (logged,) = await stage.log()
    assert (logged["notice_id"], logged["result"], logged["format"]) == (None, "http 200", form)


async def test_a_test_tells_what_is_wrong_and_counts_for_nothing(stage: Stage) -> None:
    await stage.queue(stage.receiver.url("/503"))
    found = await stage.trials.send(1, "test_1")
    assert (found.words, found.is_delivered, found.status) == ("http 503", False, 503)
    assert (await stage.endpoint()).failures == 0
    configure(stage.house, QUICK_TO_PAUSE.model_copy(update={"allow_private_addresses": False}))
    refused = await stage.trials.send(1, "test_2")
    assert (refused.words, refused.status) == ("refused: private address", None)
    await tell(stage.house, "update accounts set webhook_url_sealed = null")
    with pytest.raises(NotAllowedNow):
        await stage.trials.send(1, "test_3")


async def test_an_account_has_one_test_under_way(stage: Stage) -> None:
    await stage.queue(stage.receiver.url("/hang"))
    first = asyncio.create_task(stage.trials.send(1, "test_1"))
    await soon(lambda: stage.receiver.hanging == 1)
    with pytest.raises(TooManyRequests):
        await stage.trials.send(1, "test_2")
    stage.receiver.released.set()
    assert (await first).is_delivered
    assert (await stage.trials.send(1, "test_3")).is_delivered


# Who waits for whom


@on_both_databases
async def test_many_endpoints_that_hang_leave_places_for_one_that_answers(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once known to be slow, they share half of the places, however many there are, and whoever came first."""
    monkeypatch.setattr("gateway.webhooks.IN_FLIGHT_MAX", 8)
    monkeypatch.setattr("gateway.webhooks.IN_FLIGHT_SLOW_MAX", 4)
    monkeypatch.setattr("gateway.webhooks.SLOW_SECONDS", 60.0)
    configure(stage.house, QUICK_TO_PAUSE.model_copy(update={"timeout_seconds": 60.0}))
    courier = stage.couriers()
    for number in range(1, 13):
        await stage.queue(stage.receiver.url("/hang"), account=f"slow-{number}")
        courier._slow[number, 0] = None
    for _ in range(3):
        await asyncio.wait_for(courier.round(), 10)
    await soon(lambda: stage.receiver.hanging == 4)
    quick = [await stage.queue(stage.receiver.url("/quick"), account=f"quick-{number}") for number in range(8)]
    for _ in range(100):
        await asyncio.wait_for(courier.round(), 10)
        if {(await notice(stage.house, one))["state"] for one in quick} == {"sent"}:
            break
    assert stage.receiver.paths().count("/quick") == 8
    assert stage.receiver.hanging == len(courier._in_flight) == 4


async def test_one_that_took_long_is_known_to_be_slow_until_it_is_quick(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.webhooks.SLOW_SECONDS", 0.05)
    configure(stage.house, QUICK_TO_PAUSE.model_copy(update={"timeout_seconds": 0.2}))
    courier = stage.couriers()
    await stage.queue(stage.receiver.url("/hang"))
    await carried(courier)
    assert (1, 0) in courier._slow
    monkeypatch.setattr("gateway.webhooks.SLOW_SECONDS", 30.0)
    await stage.set_address("/quick")
    advance(stage.house, 1)
    await carried(courier)
    assert (1, 0) not in courier._slow
    assert (1, 0) in courier._quick


def test_the_slow_have_half_of_the_places_the_quick_some_to_themselves_and_each_a_thread() -> None:
    assert 0 < IN_FLIGHT_SLOW_MAX <= IN_FLIGHT_MAX // 2 < IN_FLIGHT_UNPROVEN_MAX < IN_FLIGHT_MAX <= RESOLVER_THREADS


async def test_many_that_hang_for_the_first_time_leave_places_for_one_that_was_quick(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.webhooks.IN_FLIGHT_MAX", 4)
    monkeypatch.setattr("gateway.webhooks.IN_FLIGHT_UNPROVEN_MAX", 3)
    configure(stage.house, QUICK_TO_PAUSE.model_copy(update={"timeout_seconds": 60.0}))
    courier = stage.couriers()
    await stage.queue(stage.receiver.url("/quick"), account="quick")
    await carried(courier)
    for number in range(6):
        await stage.queue(stage.receiver.url("/hang"), account=f"new-{number}")
    for _ in range(3):
        await asyncio.wait_for(courier.round(), 10)
    await soon(lambda: stage.receiver.hanging == 3)
    again = await stage.queue(stage.receiver.url("/quick"), account="quick")
    for _ in range(100):
        await asyncio.wait_for(courier.round(), 10)
        if (await notice(stage.house, again))["state"] == "sent":
            break
    assert stage.receiver.paths().count("/quick") == 2
    assert stage.receiver.hanging == 3
    stage.receiver.released.set()
    await asyncio.gather(*courier._in_flight)


@dataclass
class NameServers:
    """Those of names that begin with `dead` answer nothing until they are well."""

    are_well: threading.Event = field(default_factory=threading.Event)
    asked: list[str] = field(default_factory=list)
    waiting: int = 0

    def look_up(self, host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        if host.startswith("dead"):
            self.asked.append(host)
            self.waiting += 1
            self.are_well.wait(60)
            self.waiting -= 1
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]


@pytest.fixture
def name_servers(monkeypatch: pytest.MonkeyPatch, stage: Stage) -> Iterator[NameServers]:
    made = NameServers()
    monkeypatch.setattr(socket, "getaddrinfo", made.look_up)
    yield made
    made.are_well.set()


async def test_dead_name_servers_of_many_delay_nobody_else(stage: Stage, name_servers: NameServers) -> None:
    configure(stage.house, QUICK_TO_PAUSE.model_copy(update={"timeout_seconds": 10.0}))
    courier, port = stage.couriers(), stage.receiver.port
    for number in range(70):
        await stage.queue(f"http://dead-{number}.example.com:{port}/dead", account=f"dead-{number}")
    await courier.round()
    await soon(lambda: name_servers.waiting == 70, 20)
    healthy = [
        await stage.queue(f"http://healthy-{number}.example.com:{port}/well", account=f"healthy-{number}")
        for number in range(5)
    ]
    for _ in range(20):
        await asyncio.wait_for(courier.round(), 20)
        rows = [await notice(stage.house, one) for one in healthy]
        if {row["state"] for row in rows} == {"sent"}:
            break
    assert [(row["state"], row["tries"]) for row in rows] == [("sent", 1)] * 5
    assert name_servers.waiting == 70
    assert not [key for key in courier._slow if key[0] > 70]


async def test_a_place_is_taken_until_the_look_up_is_back_though_the_attempt_is_over(
    stage: Stage, name_servers: NameServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the threads run out, and whoever comes next waits for one and is taken for slow."""
    monkeypatch.setattr("gateway.webhooks.IN_FLIGHT_SLOW_MAX", 2)
    configure(stage.house, QUICK_TO_PAUSE.model_copy(update={"timeout_seconds": 0.1}))
    courier, port = stage.couriers(), stage.receiver.port
    notices = []
    for number in range(1, 4):
        notices.append(await stage.queue(f"http://dead-{number}.example.com:{port}/dead", account=f"dead-{number}"))
        courier._slow[number, 0] = None
    for _ in range(100):
        await asyncio.wait_for(courier.round(), 10)
        rows = [await notice(stage.house, one) for one in notices]
        if [row["tries"] for row in rows] == [1, 1, 0]:
            break
    assert [row["last_result"] for row in rows] == ["timed out", "timed out", ""]
    for _ in range(3):
        await asyncio.wait_for(courier.round(), 10)
    assert (len(courier._in_flight), name_servers.waiting, len(name_servers.asked)) == (2, 2, 2)
    configure(stage.house, QUICK_TO_PAUSE)
    name_servers.are_well.set()
    await asyncio.gather(*courier._in_flight)
    await carried(courier)
    assert (await notice(stage.house, notices[2]))["state"] == "sent"


@on_both_databases
async def test_two_couriers_share_failing_and_healthy_endpoints_without_repeats(stage: Stage) -> None:
    """Claims and pauses hold across processes: nothing is sent twice, and what is paused is left alone by both."""
    for number in range(24):
        path = "/500" if number % 4 == 0 else "/well"
        await stage.queue(stage.receiver.url(path), account=f"{path[1:]}-{number % 4}")
    both = stage.couriers(), stage.couriers()
    for _ in range(100):
        await asyncio.gather(*map(carried, both))
        if stage.receiver.paths().count("/well") == 18:
            break
    failed = stage.receiver.paths().count("/500")
    await stage.queue(stage.receiver.url("/500"), account="500-0")
    await asyncio.gather(*map(carried, both))
    assert stage.receiver.paths().count("/500") == failed
    ids = [one.headers["webhook-id"] for one in stage.receiver.received]
    assert len(ids) == len(set(ids))
    assert stage.receiver.paths().count("/well") == 18
    assert (await stage.endpoint(1)).state == "paused"


def test_nothing_secret_shows_in_a_repr(stage: Stage) -> None:
    attempt = webhook_log.Attempt(1.0, "native", "http 200", 200, 0.1, "digest-4711", "sha256=4711")
    assert "4711" not in repr(attempt)


async def test_managing_the_secret_takes_a_key_that_may(stage: Stage) -> None:
    await stage.queue(stage.receiver.url("/hook"))
    key = await stage.house.store.read(lambda tx: tx.one("select id from api_keys"))
    assert key is not None
    await tell(stage.house, "update api_keys set may_manage = 0")
    manager = Manager("key:1", 1, key["id"])
    with pytest.raises(AccountError, match="only buys"):
        await stage.house.store.run(webhook_endpoints.rotate, manager, 1, stage.house.clock())
    with pytest.raises(AccountError, match="only buys"):
        await stage.house.store.run(webhook_endpoints.reveal, manager, 1, stage.house.clock())


async def test_nothing_of_secrets_or_addresses_is_logged(stage: Stage) -> None:
    with structlog.testing.capture_logs() as entries:
        await stage.queue(stage.receiver.url("/410-token-4711"))
        courier = stage.couriers()
        await carried(courier)
        await stage.rotate()
        await stage.trials.send(1, "test_1")
        await (await stage.watch()).round()
    assert entries
    text = secret_text(stage.house.vault, 1, 2)
    assert text is not None
    for secret in ("token-4711", "127.0.0.1", text, b64decode(text.removeprefix("whsec_")).hex(), WEBHOOK_SECRET):
        assert secret not in repr(entries)
