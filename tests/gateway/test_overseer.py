"""What an operator is told of the upstreams: alerts once per change, reports for the command line, switches obeyed."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import structlog

from gateway import accounts, alerts, attempts, switches
from gateway.accounts import Caller
from gateway.alerts import Alerts
from gateway.app import Gateway
from gateway.database import open_database
from gateway.errors import Refused, Unwell
from gateway.model import Clock, Order
from gateway.money import Money
from gateway.overseer import DEAD_SECONDS, LATE_SECONDS, NO_WEBHOOK, Overseer
from gateway.restoring import RESTORED
from gateway.store import Tx
from gateway.upstream import OfferTable
from gateway.webhook_log import MESSAGE_DELETED
from tests.harness import config_directory, environment, run_cli, server
from tests.scripted import Scripted, Watch

STANZAS = """
[one]
adapter = "handler_api"
base_url = "http://127.0.0.1:9/"
balance_low = "5"
offers_max_age_seconds = 900.0

[two]
adapter = "handler_api"
base_url = "http://127.0.0.1:9/"
currency = "EUR"
offers_max_age_seconds = 86400.0
"""
RATES = 'as_of = 2025-06-15T12:00:00Z\n[rates]\nEUR = "1.10"\n'
NOON = 1_749_988_800.0
"""2025-06-15T12:00:00Z."""


class Watched(Scripted):
    """An upstream whose account can be refused, and whose list has words nobody knows."""

    balance_micros = 10_000_000
    is_refused = False

    def __init__(self, name: str, clock: Clock, cost_micros: int) -> None:
        super().__init__(name, clock, cost_micros)
        self.unmapped: Counter[str] = Counter()

    async def balance(self) -> Money:
        if not self.is_well:
            raise Unwell("not now")
        if self.is_refused:
            raise Refused("BAD_KEY", is_fault=True)
        return Money(self.balance_micros, "USD")


@dataclass
class Seen:
    gateway: Gateway
    overseer: Overseer
    there: Watched
    watch: Watch
    told: list[tuple[str, str]]

    async def round(self) -> list[str]:
        """One look at everything; the alerts that stand then."""
        await self.overseer.look_at_balance("one")
        await self.overseer.report()
        return [f"{row['name']} {row['subject']}" for row in await self.gateway.house.store.read(alerts.standing)]


@asynccontextmanager
async def seen(url: str, parent: Path, told: list[tuple[str, str]], values: dict[str, str]) -> AsyncIterator[Seen]:
    watch = Watch()
    watch.now = NOON
    database = await asyncio.to_thread(open_database, values)
    gateway = Gateway(config_directory(parent, STANZAS, rates=RATES), values, database, watch)
    there = Watched("one", watch, 100_000)
    gateway.house.upstreams = {**gateway.house.upstreams, "one": there}
    gateway.house.market.put("one", await there.offers())
    book = Alerts(database.store, gateway.house.metrics, watch, lambda title, words: told.append((title, words)))
    overseer = Overseer(gateway.house, book)
    await overseer.restore()
    try:
        yield Seen(gateway, overseer, there, watch, told)
    finally:
        await gateway.stop()


@pytest.fixture
async def view(database_url: str, tmp_path: Path) -> AsyncIterator[Seen]:
    values = environment(database_url, ONE_API_KEY="k" * 32, TWO_API_KEY="k" * 32)
    async with seen(database_url, tmp_path, [], values) as made:
        yield made


async def test_a_low_balance_is_told_once_and_once_more_when_it_is_well(view: Seen) -> None:
    assert await view.round() == []
    view.there.balance_micros = 4_999_999
    for _ in range(3):
        assert await view.round() == ["balance_low one"]
    view.there.balance_micros = 5_000_000
    assert await view.round() == []
    assert [title for title, _ in view.told] == [
        "simroute: balance low: one",
        "simroute: balance low: one is well again",
    ]
    assert "top it up" in view.told[0][1]
    metrics = view.gateway.house.metrics.registry
    assert metrics.get_sample_value("simroute_alert", {"alert": "balance_low", "subject": "one"}) == 0
    assert metrics.get_sample_value("simroute_upstream_balance", {"upstream": "one", "currency": "USD"}) == 5


async def test_a_refused_account_names_the_variable_to_check(view: Seen) -> None:
    view.there.is_refused = True
    assert await view.round() == ["account_refused one"]
    assert "ONE_API_KEY" in view.told[0][1]
    view.there.is_refused, view.there.is_well = False, False
    assert await view.round() == ["account_refused one"], "an upstream that does not answer proves nothing"
    view.there.is_well = True
    assert await view.round() == []


async def test_an_upstream_in_trouble_and_a_list_too_old_are_alerts(view: Seen) -> None:
    for _ in range(5):
        view.gateway.house.health.fault("one", "timeout")
    view.watch.now += 901
    assert await view.round() == ["prices_stale one", "upstream_down one"]
    view.gateway.house.health.success("one")
    view.gateway.house.market.put("one", await view.there.offers())
    assert await view.round() == []


async def test_rates_alert_before_they_stop_sales(view: Seen) -> None:
    view.gateway.house.market.put("two", OfferTable("two", "EUR", [("tg", 6, 100_000, 5, "", None)]))
    view.watch.now = NOON + 37 * 3600
    assert await view.round() == ["prices_stale one", "prices_stale two", "rates_stale exchange rates"]
    assert "37 h old" in dict(view.told)["simroute: rates stale: exchange rates"]


async def test_rates_from_the_future_are_an_alert(view: Seen) -> None:
    view.watch.now = NOON - 3 * 86_400
    assert "rates_stale exchange rates" in await view.round()
    assert "in the future" in dict(view.told)["simroute: rates stale: exchange rates"]


async def test_what_was_told_is_not_told_again_after_a_restart(database_url: str, tmp_path: Path) -> None:
    values = environment(database_url, ONE_API_KEY="k" * 32, TWO_API_KEY="k" * 32)
    told: list[tuple[str, str]] = []
    for _ in range(2):
        async with seen(database_url, tmp_path, told, values) as made:
            made.there.balance_micros = 0
            assert await made.round() == ["balance_low one"]
    assert len(told) == 1


async def test_alerts_about_an_upstream_that_is_gone_end(view: Seen) -> None:
    view.there.balance_micros = 0
    await view.round()
    view.gateway.house.upstreams = {"two": view.gateway.house.upstreams["two"]}
    await view.overseer.report()
    assert await view.gateway.house.store.read(alerts.standing) == []


async def test_unnamed_words_are_told_once_per_change_with_what_to_do(view: Seen) -> None:
    with structlog.testing.capture_logs() as lines:
        view.there.unmapped = Counter({"service zz": 3, "country 999": 50})
        view.overseer.note_unmapped("one", view.there)
        view.overseer.note_unmapped("one", view.there)
        view.there.unmapped = Counter({"service zz": 3, "country 999": 70})
        view.overseer.note_unmapped("one", view.there)
        view.there.unmapped = Counter({"service zz": 3})
        view.overseer.note_unmapped("one", view.there)
    told = [line for line in lines if line["event"] == "offers.unmapped"]
    assert [line["most"] for line in told] == [["country 999", "service zz"], ["service zz"]]
    assert "catalog coverage" in told[0]["todo"]


async def test_a_drained_upstream_takes_no_orders_at_once_and_after_a_restart(view: Seen) -> None:
    house = view.gateway.house

    async def state() -> set[str]:
        await view.overseer.follow_switches()
        return set(house.market.drained)

    assert await house.store.run(switches.set_drained, "one", NOON, "test", is_drained=True)
    assert not await house.store.run(switches.set_drained, "one", NOON, "test", is_drained=True)
    assert await state() == {"one"}
    buyer = Caller(1, 1, "alice", "USD", False, None)
    assert {out.upstream: out.reason for out in house.market.shortlist(buyer, Order("tg", 6)).excluded}["one"] == (
        "drained: it takes no new orders"
    )
    later = Overseer(house, Alerts(house.store, house.metrics, view.watch, lambda _t, _s: None))
    house.market.drain([])
    await later.restore()
    assert set(house.market.drained) == {"one"}
    assert await house.store.run(switches.set_drained, "one", NOON, "test", is_drained=False)
    assert await state() == set()


async def test_reports_are_written_when_they_change_and_as_a_heartbeat(view: Seen) -> None:
    async def written() -> float:
        row = await view.gateway.house.store.read(
            lambda tx: tx.one("select report, reported_at from upstream_reports where upstream = 'one'")
        )
        assert row is not None
        assert json.loads(row["report"])["offers"] == 1
        return float(row["reported_at"])

    await view.round()
    first = await written()
    view.watch.now += 1
    await view.overseer.report()
    assert await written() == first
    view.watch.now += 60
    await view.overseer.report()
    assert await written() == view.watch.now


# --- the command line ---


async def test_upstreams_shows_what_a_server_sees_and_drains_it(sqlite_url: str, tmp_path: Path) -> None:
    values = environment(sqlite_url)
    directory = config_directory(tmp_path)

    def facts() -> dict[str, object]:
        told = run_cli(values, directory, "upstreams", "--json")
        assert told.returncode == 0, told.stderr
        (row,) = json.loads(told.stdout)
        return dict(row)

    def become(state: str) -> dict[str, object]:
        for _ in range(20):
            row = facts()
            if row["state"] == state and row["balance"] is not None:
                return row
        raise AssertionError(f"still {row['state']}")

    assert (await asyncio.to_thread(facts))["state"] == "no server"
    with server(directory, values, tmp_path / "log"):
        row = await asyncio.to_thread(become, "selling")
        assert (row["balance"], row["open"], row["in_doubt"]) == ("1000.00 USD", 0, 0)
        told = await asyncio.to_thread(run_cli, values, directory, "upstreams", "drain", "sandbox")
        assert told.stdout == "sandbox takes no new orders\n"
        assert (await asyncio.to_thread(facts))["state"] == "drained"
        told = await asyncio.to_thread(run_cli, values, directory, "upstreams", "resume", "sandbox")
        assert told.stdout == "sandbox takes orders\n"
    unknown = await asyncio.to_thread(run_cli, values, directory, "upstreams", "drain", "nobody")
    assert (unknown.returncode, unknown.stderr) == (1, "Error: there is no upstream nobody in upstreams.toml\n")


# --- what waits too long ---


async def test_a_purchase_in_doubt_for_too_long_is_told_once(view: Seen) -> None:
    house = view.gateway.house

    def doubt(tx: Tx) -> None:
        now = NOON
        account = accounts.create(tx, "alice", "USD", now, is_demo=False)
        accounts.issue_key(tx, house.vault, "alice", now)
        activation = tx.insert(
            "insert into activations (account_id, key_id, service, country, operator, status, price, currency,"
            " opened_at, fingerprint, config_version, ended_at) values (:account, 1, 'tg', 6, '', 'failed', 0, 'USD',"
            " :at, '', '', :at) returning id",
            account=account,
            at=now,
        )
        tx.execute(
            "insert into attempts (activation_id, upstream, service, country, cost_max, currency, state, started_at)"
            " values (:activation, 'one', 'tg', 6, 100, 'USD', 'in_doubt', :at)",
            activation=activation,
            at=now,
        )

    await house.store.run(doubt)
    view.watch.now += attempts.NEVER_LISTED_SECONDS
    await view.overseer.look_at_queues()
    assert view.told == []
    sample = house.metrics.registry.get_sample_value
    assert sample("simroute_in_doubt_oldest_timestamp_seconds", {"upstream": "one"}) == NOON
    view.watch.now += LATE_SECONDS + 1
    for _ in range(2):
        await view.overseer.look_at_queues()
        await view.overseer.report()
    assert [title for title, _ in view.told if "doubt" in title] == ["simroute: in doubt old: upstream:one"]
    await house.store.run(lambda tx: tx.execute("update attempts set state = 'gone'"))
    await view.overseer.look_at_queues()
    assert [title for title, _ in view.told if "doubt" in title][1:] == [
        "simroute: in doubt old: upstream:one is well again"
    ]
    assert sample("simroute_in_doubt_oldest_timestamp_seconds", {"upstream": "one"}) is None


async def test_webhooks_that_were_given_up_are_told_by_account_and_not_those_nobody_refused(view: Seen) -> None:
    store = view.gateway.house.store

    def dead(tx: Tx, name: str, result: str) -> None:
        account = accounts.create(tx, name, "USD", NOON, is_demo=False)
        accounts.issue_key(tx, view.gateway.house.vault, name, NOON)
        activation = tx.insert(
            "insert into activations (account_id, key_id, service, country, operator, status, price, currency,"
            " opened_at, fingerprint, config_version, ended_at) values (:account, 1, 'tg', 6, '', 'finished', 0, 'USD',"
            " :at, '', '', :at) returning id",
            account=account,
            at=NOON,
        )
        message = tx.insert(
            "insert into messages (activation_id, identity, round, code_sealed, text_sealed, received_at, is_shown)"
            " values (:id, 'x', 1, '', '', :at, 1) returning id",
            id=activation,
            at=NOON,
        )
        tx.execute(
            "insert into notices (account_id, activation_id, message_id, format, state, next_at, created_at, ended_at,"
            " last_result) values (:account, :activation, :message, 'native', 'dead', 0, :at, :at, :result)",
            account=account,
            activation=activation,
            message=message,
            at=NOON,
            result=result,
        )

    await store.run(dead, "bob", NO_WEBHOOK)
    await store.run(dead, "carol", RESTORED)
    await store.run(dead, "dave", "deleted")
    await store.run(dead, "erin", MESSAGE_DELETED)
    await view.overseer.look_at_queues()
    assert view.told == []
    await store.run(dead, "alice", "http 500")
    for _ in range(2):
        await view.overseer.look_at_queues()
    ((title, words),) = view.told
    assert title == "simroute: notices failing: webhooks:dead"
    assert words.startswith("webhooks given up within an hour: 1, of alice:")
    view.watch.now += DEAD_SECONDS + 1
    await view.overseer.look_at_queues()
    assert len(view.told) == 2


async def test_the_share_of_numbers_that_got_a_code_is_shown_by_upstream(view: Seen) -> None:
    store = view.gateway.house.store

    def ended(tx: Tx) -> None:
        account = accounts.create(tx, "dave", "USD", NOON, is_demo=False)
        accounts.issue_key(tx, view.gateway.house.vault, "dave", NOON)
        lives = [("one", "finished", 10), ("one", "expired", 10), ("one", "cancelled", 10), ("one", "finished", 3700)]
        for upstream, status, ago in [*lives, ("two", "finished", 10), ("two", "finished", 20)]:
            tx.execute(
                "insert into activations (account_id, key_id, service, country, operator, status, price, currency,"
                " opened_at, fingerprint, config_version, ended_at, upstream, number_sealed)"
                " values (:account, 1, 'tg', 6, '', :status, 0, 'USD', :at, '', '', :at, :upstream, 'x')",
                account=account,
                status=status,
                at=NOON - ago,
                upstream=upstream,
            )

    await store.run(ended)
    await view.overseer.measure_captures()
    sample = view.gateway.house.metrics.registry.get_sample_value
    assert sample("simroute_capture_rate", {"upstream": "one"}) == pytest.approx(1 / 3)
    assert sample("simroute_capture_rate", {"upstream": "two"}) == 1.0
    view.watch.now += 3600
    await view.overseer.measure_captures()
    assert sample("simroute_capture_rate", {"upstream": "two"}) is None


async def test_the_pulse_of_the_event_loop_is_measured(view: Seen) -> None:
    beat = asyncio.create_task(view.overseer.feel_pulse())
    await asyncio.sleep(0.4)
    time.sleep(0.4)  # noqa: ASYNC251 — the stall that is to be noticed
    await beat
    registry = view.gateway.house.metrics.registry
    assert registry.get_sample_value("simroute_loop_lag_seconds_count") == 1
    assert (registry.get_sample_value("simroute_loop_lag_seconds_sum") or 0) > 0.1
