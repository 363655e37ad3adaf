"""Every kind of alert is told once when it begins and once when it is over, whichever processes come and go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest
import structlog

from gateway import accounts, alerts, archivist, attempts, retention, switches
from gateway.app import Gateway
from gateway.database import open_database
from gateway.errors import Refused, Unavailable, Unwell
from gateway.guard import SUBJECTS, Guard
from gateway.host_alerts import GONE_SECONDS, QUIET_SECONDS, HostAlerts
from gateway.metrics import Metrics
from gateway.money import Money
from gateway.notify import Notifier
from gateway.offers import view_of
from gateway.overseer import LATE_SECONDS
from gateway.refunds import TOLD_SECONDS
from gateway.store import Store, Tx
from gateway.upstream import OfferTable
from gateway.vault import Vault
from tests.contract.test_prometheus_rules import raised, rules
from tests.harness import config_directory, environment
from tests.scripted import Scripted, Watch

NOON = 1_749_988_800.0
"""2025-06-15T12:00:00Z."""

DAY = 86_400.0
STANZA = """
[one]
adapter = "handler_api"
base_url = "http://127.0.0.1:9/"
balance_low = "5"
offers_max_age_seconds = 900.0
"""
RATES = 'as_of = {}\n[rates]\nEUR = "1.10"\n'
FRESH, OLD = "2025-06-15T12:00:00Z", "2025-06-13T23:00:00Z"


class Account(Scripted):
    """An upstream that may refuse us, run out of our money, or have no price list."""

    balance_micros = 10_000_000
    is_refused = False
    has_list = True

    async def balance(self) -> Money:
        if self.is_refused:
            raise Refused("BAD_KEY", is_fault=True)
        return Money(self.balance_micros, "USD")

    async def offers(self) -> OfferTable:
        if not self.has_list:
            raise Unwell("no list today")
        return await super().offers()


@dataclass
class Deployment:
    """Processes on one database, one after the other or side by side; their loops run when a test says so."""

    values: Mapping[str, str]
    directory: Path
    watch: Watch
    there: Account
    exits: AsyncExitStack
    told: list[str]
    trouble: dict[str, str] = field(default_factory=dict)
    """What their guards find."""

    is_kept: bool = False
    """Whether what is overdue is kept all the same."""

    processes: list[Gateway] = field(default_factory=list)

    @property
    def first(self) -> Gateway:
        return self.processes[0]

    async def boot(self) -> Gateway:
        """A new process that begins as `Gateway.start` does."""
        database = await asyncio.to_thread(open_database, self.values)
        gateway = Gateway(self.directory, self.values, database, self.watch)
        self.exits.push_async_callback(gateway.stop)
        gateway.house.upstreams = {"one": self.there}
        await gateway.activations.restore()
        await gateway.settling.recover()
        await gateway._overseer.restore()
        await gateway._look_for_room()
        self.processes.append(gateway)
        return gateway

    async def round(self, gateway: Gateway) -> None:
        """One round of what shows alerts; a report comes first, before anything else could be known."""
        worker = gateway.worker
        rounds: list[Callable[[], Awaitable[Any]]] = [
            gateway._overseer.report,
            lambda: gateway._overseer.look_at_balance("one"),
            gateway._overseer.look_at_queues,
            gateway.settling.watch,
            gateway._recharger.round,
            worker._webhook_watch.round,
            worker._keeper.round,
            worker._archivist.round,
            lambda: gateway.price_lists.refresh("one"),
            gateway._look_for_room,
            gateway._host_alerts.round,
            gateway._overseer.report,
        ]
        for one in rounds:
            await one()

    async def hand_over(self, former: Gateway, later: Gateway) -> None:
        """From now on the later process shows alerts."""
        former._overseer.let_go()
        await later.worker._take_over()

    async def sql(self, text: str, **values: Any) -> None:
        await self.first.house.store.run(lambda tx: tx.execute(text, **values))


@asynccontextmanager
async def deployed(url: str, parent: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Deployment]:
    watch, told = Watch(), list[str]()
    watch.now = NOON
    values = environment(url, ONE_API_KEY="k" * 32)
    gateway = f'[backup]\ndirectory = "{parent}/kept"\nkeep_daily = 2\n[retention]\ndays = 1\n'
    directory = config_directory(parent, STANZA, gateway=gateway, rates=RATES.format(FRESH))
    monkeypatch.setattr(Notifier, "send", lambda _self, title, _words: told.append(title))
    async with AsyncExitStack() as exits:
        made = Deployment(values, directory, watch, Account("one", watch, 100_000), exits, told)
        monkeypatch.setattr(Guard, "look", lambda guard, *_: setattr(guard, "trouble", dict(made.trouble)))
        delete_overdue = retention.delete_overdue

        async def delete(*given: Any) -> int:
            return 0 if made.is_kept else await delete_overdue(*given)

        monkeypatch.setattr(retention, "delete_overdue", delete)
        await made.boot()
        await made.first.house.store.run(begin, made.first.house.vault)
        yield made


def begin(tx: Tx, vault: Vault) -> None:
    accounts.create(tx, "alice", "USD", NOON, is_demo=False)
    accounts.issue_key(tx, vault, "alice", NOON)
    archivist.begin(tx, archivist.NAME, NOON)


@pytest.fixture
async def deployment(store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Deployment]:
    async with deployed(store_url, tmp_path, monkeypatch) as made:
        yield made


@pytest.fixture
async def on_each(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Deployment]:
    """As `deployment`, on both kinds of database."""
    async with deployed(database_url, tmp_path, monkeypatch) as made:
        yield made


# How each goes wrong, and is mended. `gateway` is the process that shows alerts.


async def activation(made: Deployment, **columns: Any) -> int:
    values = {
        "status": "failed", "opened_at": NOON, "ended_at": NOON, "number_sealed": None, "upstream": None, **columns
    }  # fmt: skip

    def insert(tx: Tx) -> int:
        return tx.insert(
            "insert into activations (account_id, key_id, service, country, operator, status, price, currency,"
            " opened_at, fingerprint, config_version, ended_at, number_sealed, upstream) values (1, 1, 'tg', 6, '',"
            " :status, 0, 'USD', :opened_at, '', '', :ended_at, :number_sealed, :upstream) returning id",
            **values,
        )

    return await made.first.house.store.run(insert)


async def doubt(made: Deployment, micros: int) -> None:
    await made.sql(
        "insert into attempts (activation_id, upstream, service, country, cost_max, currency, state, started_at)"
        " values (:activation, 'one', 'tg', 6, :cost, 'USD', 'in_doubt', :at)",
        activation=await activation(made),
        cost=micros,
        at=NOON,
    )


async def settle(made: Deployment, _: Gateway) -> None:
    await made.sql("update attempts set state = 'gone'")


async def be_refused(made: Deployment, _: Gateway) -> None:
    made.there.is_refused = True


async def be_accepted(made: Deployment, _: Gateway) -> None:
    made.there.is_refused = False


async def spend(made: Deployment, _: Gateway) -> None:
    made.there.balance_micros = 0


async def top_up(made: Deployment, _: Gateway) -> None:
    made.there.balance_micros = 10_000_000


async def fail(_: Deployment, gateway: Gateway) -> None:
    for _fault in range(5):
        gateway.house.health.fault("one", "timeout")


async def answer(made: Deployment, gateway: Gateway) -> None:
    made.watch.now += 1
    gateway.house.health.success("one")


async def lose_list(made: Deployment, _: Gateway) -> None:
    made.there.has_list = False
    made.watch.now += 901


async def list_again(made: Deployment, _: Gateway) -> None:
    made.there.has_list = True


async def set_rates(made: Deployment, as_of: str) -> None:
    (made.directory / "rates.toml").write_text(RATES.format(as_of))
    for process in made.processes:
        assert await process.reload()


async def blow(made: Deployment, _: Gateway) -> None:
    await made.sql("insert into fuses (key_id, stopped_until) values (1, :until)", until=NOON + DAY)


async def reset(made: Deployment, _: Gateway) -> None:
    await made.sql("delete from fuses")


async def expose(made: Deployment, _: Gateway) -> None:
    await doubt(made, 10**9)


async def doubt_long(made: Deployment, _: Gateway) -> None:
    await doubt(made, 100)
    made.watch.now += attempts.NEVER_LISTED_SECONDS + LATE_SECONDS + 1


async def lose_refund(made: Deployment, gateway: Gateway) -> None:
    gateway.house.losses.note("one", Money(100, "USD"), made.watch.now)


async def a_day_later(made: Deployment, _: Gateway) -> None:
    made.watch.now += TOLD_SECONDS + 1


async def keep(made: Deployment, gateway: Gateway) -> None:
    await gateway.worker._keeper.round()  # nothing is overdue yet
    await activation(made, status="finished", number_sealed="x")
    made.is_kept = True
    made.watch.now += 3 * DAY


async def delete(made: Deployment, _: Gateway) -> None:
    made.is_kept = False


async def give_up(made: Deployment, _: Gateway) -> None:
    activation_id = await activation(made)
    await made.sql(
        "insert into messages (activation_id, identity, round, code_sealed, text_sealed, received_at, is_shown)"
        " values (:id, 'x', 1, '', '', :at, 1)",
        id=activation_id,
        at=NOON,
    )
    await made.sql(
        "insert into notices (account_id, activation_id, message_id, format, state, next_at, created_at, ended_at,"
        " last_result) values (1, :id, 1, 'native', 'dead', 0, :at, :at, 'http 500')",
        id=activation_id,
        at=NOON,
    )


async def replay(made: Deployment, _: Gateway) -> None:
    await made.sql("update notices set state = 'sent'")


async def skip_backups(made: Deployment, _: Gateway) -> None:
    await made.sql("update backup_state set since = :at, claimed_until = :until", at=NOON - 3 * DAY, until=NOON + DAY)


async def back_up(made: Deployment, _: Gateway) -> None:
    await made.sql("update backup_state set good_at = :at", at=NOON)


def pay(state: str) -> Callable[[Deployment, Gateway], Awaitable[None]]:
    async def insert(made: Deployment, _: Gateway) -> None:
        await made.sql(
            "insert into payments (source, reference, state, amount, currency, actor, at)"
            " values ('somewhere', 'p1', :state, 100, 'USD', 'test', :at)",
            state=state,
            at=NOON,
        )

    return insert


async def dismiss(made: Deployment, _: Gateway) -> None:
    await made.sql("update payments set state = 'dismissed'")


async def recharge_in_vain(made: Deployment, _: Gateway) -> None:
    await made.sql(
        "insert into recharges (account_id, is_on, source, threshold, amount, month_max, cool_down_seconds, paused_at,"
        " pause_seconds, problem) values (1, 1, 'hook', 1, 100, 1000, 60, :at, :pause, 'http 500')",
        at=NOON,
        pause=DAY,
    )


async def recharge(made: Deployment, _: Gateway) -> None:
    await made.sql("update recharges set problem = ''")


async def disable(made: Deployment, _: Gateway) -> None:
    await made.sql(
        "insert into webhook_endpoints (account_id, rental_id, disabled_at, last_failure) values (1, 0, :at, 'x')",
        at=NOON,
    )


async def enable(made: Deployment, _: Gateway) -> None:
    await made.sql("update webhook_endpoints set disabled_at = null")


def short_of(name: str) -> Callable[[Deployment, Gateway], Awaitable[None]]:
    async def notice(made: Deployment, _: Gateway) -> None:
        made.trouble = {name: f"{name}: something is short"}

    return notice


async def make_room(made: Deployment, _: Gateway) -> None:
    made.trouble = {}


Step = Callable[[Deployment, Gateway], Awaitable[None]]

KINDS: dict[str, tuple[Step, Step]] = {
    "account_refused": (be_refused, be_accepted),
    "balance_low": (spend, top_up),
    "upstream_down": (fail, answer),
    "prices_stale": (lose_list, list_again),
    "rates_stale": (lambda made, _: set_rates(made, OLD), lambda made, _: set_rates(made, FRESH)),
    "fuse_blown": (blow, reset),
    "exposure": (expose, settle),
    "refund_lost": (lose_refund, a_day_later),
    "retention_overdue": (keep, delete),
    "in_doubt_old": (doubt_long, settle),
    "notices_failing": (give_up, replay),
    "backup_old": (skip_backups, back_up),
    "payment_unbooked": (pay("unbooked"), dismiss),
    "payment_reversed": (pay("reversal"), dismiss),
    "recharge_failed": (recharge_in_vain, recharge),
    "webhook_disabled": (disable, enable),
    **{name: (short_of(name), make_room) for name in SUBJECTS},
}


def test_every_kind_is_looked_at() -> None:
    assert set(KINDS) == raised() | set(SUBJECTS) | {retention.ALERT}


@pytest.mark.parametrize("way", ["restart", "hand-over"])
@pytest.mark.parametrize("kind", KINDS)
async def test_an_alert_is_told_once_per_change_whoever_comes_after(
    deployment: Deployment, kind: str, way: str
) -> None:
    await live_through(deployment, kind, way)


@pytest.mark.parametrize("kind", ["upstream_down", "exposure", "disk_low"])
async def test_so_it_is_on_each_kind_of_database(on_each: Deployment, kind: str) -> None:
    await live_through(on_each, kind, "restart")


async def live_through(deployment: Deployment, kind: str, way: str) -> None:
    go_wrong, mend = KINDS[kind]
    title = f"simroute: {kind.replace('_', ' ')}: "

    def told() -> list[bool]:
        """Of this kind, in order: whether it was told to be over."""
        return [one.endswith(" is well again") for one in deployment.told if one.startswith(title)]

    first = deployment.first
    later = await deployment.boot() if way == "hand-over" else None
    await deployment.round(first)
    assert deployment.told == []
    await go_wrong(deployment, first)
    for _ in range(2):
        await deployment.round(first)
    assert told() == [False]

    if later is None:
        later = await deployment.boot()
    else:
        await deployment.hand_over(first, later)
    for _ in range(2):
        await deployment.round(later)
        deployment.watch.now += 5
    assert kind in await standing(later)
    assert told() == [False]

    await mend(deployment, later)
    for _ in range(2):
        await deployment.round(later)
    assert kind not in await standing(later)
    assert told() == [False, True]


async def standing(gateway: Gateway) -> set[str]:
    """Alerts that this process shows, which have to be those written down."""
    shown = {
        sample.labels["alert"] for family in gateway.house.metrics.registry.collect()
        if family.name == "simroute_alert" for sample in family.samples if sample.value == 1
    }  # fmt: skip
    assert shown == {row["name"] for row in await gateway.house.store.read(alerts.standing)}
    return shown


# Not known yet


async def test_a_list_that_was_never_read_is_told_when_one_should_have_come(deployment: Deployment) -> None:
    deployment.there.has_list = False
    first = deployment.first
    await deployment.round(first)
    deployment.watch.now += 900
    await deployment.round(first)
    assert deployment.told == []
    deployment.watch.now += 1
    await deployment.round(first)
    assert deployment.told == ["simroute: prices stale: one"]
    (row,) = await first.house.store.read(alerts.standing)
    assert row["sentence"] == "no price list of one was read in 15 min (no list today): nothing is sold there"


async def test_a_list_that_is_still_to_come_counts_from_when_its_upstream_did(deployment: Deployment) -> None:
    first, there = deployment.first, deployment.there
    there.has_list = False
    deployment.watch.now += 600
    house = first.house
    house.market.apply(replace(house.market.view, entries=()))
    house.market.apply(view_of(house.settings, house.upstreams))
    deployment.watch.now += 600
    await deployment.round(first)
    assert deployment.told == []
    assert house.market.list_age_seconds("one") == 600


async def test_a_list_never_read_shows_as_nought_and_the_rule_takes_that_for_old(deployment: Deployment) -> None:
    first = deployment.first

    def shown() -> float | None:
        return first.house.metrics.registry.get_sample_value("simroute_offers_timestamp_seconds", {"upstream": "one"})

    assert shown() is None
    deployment.there.has_list = False
    first.worker.start(works=False)
    assert shown() == 0
    (rule,) = [rule for rule in rules() if rule.get("alert") == "SimroutePricesNotRead"]
    assert rule["expr"] == "time() - max by (upstream) (simroute_offers_timestamp_seconds) > 3600"
    deployment.there.has_list = True
    await first.price_lists.refresh("one")
    assert shown() == NOON
    first.house.upstreams = {}
    first.worker.follow_upstreams()
    assert shown() is None


async def test_a_sale_by_another_process_ends_what_was_told_of_a_circuit(on_each: Deployment) -> None:
    """Who shows alerts may not buy at all, and never hears of an answer that changed no circuit."""
    first = on_each.first
    await fail(on_each, first)
    await on_each.round(first)
    later = await on_each.boot()
    on_each.watch.now += 10
    await activation(on_each, upstream="one", opened_at=NOON - 1)
    await on_each.round(later)
    assert on_each.told == ["simroute: upstream down: one"]
    await activation(on_each, upstream="one", opened_at=on_each.watch.now)
    await on_each.round(later)
    assert on_each.told == ["simroute: upstream down: one", "simroute: upstream down: one is well again"]


async def test_faults_too_few_to_open_a_circuit_do_not_make_it_well(deployment: Deployment) -> None:
    await fail(deployment, deployment.first)
    await deployment.round(deployment.first)
    later = await deployment.boot()
    deployment.watch.now += 10
    for _ in range(5):
        later.house.health.fault("one", "timeout")
        await deployment.round(later)
    assert deployment.told == ["simroute: upstream down: one"]


async def test_another_processs_word_that_a_circuit_closed_is_enough(deployment: Deployment) -> None:
    await fail(deployment, deployment.first)
    await deployment.round(deployment.first)
    later = await deployment.boot()
    deployment.watch.now += 10
    later.house.health.turn("one", "")
    await deployment.round(later)
    assert deployment.told[1:] == ["simroute: upstream down: one is well again"]


async def test_the_cap_on_what_is_in_doubt_holds_from_the_first_order_on(deployment: Deployment) -> None:
    await expose(deployment, deployment.first)
    assert (await deployment.boot()).house.market.overexposed == {"one"}


async def test_what_a_process_still_finds_after_it_let_go_is_not_told(deployment: Deployment) -> None:
    """A question that was under way when another process took over."""
    deployment.there.balance_micros = 0
    deployment.first._overseer.let_go()
    await deployment.first._overseer.look_at_balance("one")
    assert deployment.told == []


async def test_what_was_told_last_is_written_down_when_a_process_stops(deployment: Deployment) -> None:
    first = deployment.first
    first.worker.start()
    deployment.there.balance_micros = 0
    await first._overseer.look_at_balance("one")
    await first.worker.stop()
    assert "balance_low" in {row["name"] for row in await first.house.store.read(alerts.standing)}


async def test_a_switch_is_logged_for_what_it_is(deployment: Deployment) -> None:
    first = deployment.first

    async def switched(*, is_drained: bool) -> list[tuple[str, list[str]]]:
        await first.house.store.run(switches.set_drained, "one", NOON, "test", is_drained=is_drained)
        with structlog.testing.capture_logs() as lines:
            await first._overseer.follow_switches()
            await first._overseer.follow_switches()
        return [(line["event"], line["upstreams"]) for line in lines]

    assert await switched(is_drained=True) == [("upstream.drained", ["one"])]
    assert await switched(is_drained=False) == [("upstream.resumed", ["one"])]


# Of hosts


@dataclass
class Hosts:
    """Processes on some machines that share a database."""

    store: Store
    watch: Watch
    told: list[str] = field(default_factory=list)

    def process(self, host: str, *, is_shared: bool = True) -> HostAlerts:
        def tell(title: str, words: str) -> None:
            self.told.append(f"{title.removeprefix('simroute: ')} ({words})")

        return HostAlerts(self.store, Metrics(), self.watch, tell, host, is_shared=is_shared)

    async def rounds(self, seconds: float, *processes: HostAlerts) -> list[str]:
        """What is told while they look once a second for so long."""
        before = len(self.told)
        for _ in range(int(seconds)):
            self.watch.now += 1
            for one in processes:
                await one.round()
        return self.told[before:]


LOW, WELL = {"descriptors_low": "few are left"}, dict[str, str]()


@pytest.fixture
async def hosts(on_each: Deployment) -> Hosts:
    return Hosts(on_each.first.house.store, on_each.watch)


async def test_hosts_do_not_end_each_others_alerts(hosts: Hosts) -> None:
    a, b = hosts.process("a"), hosts.process("b")
    a.notice(LOW)
    b.notice(LOW)
    assert await hosts.rounds(2, a, b) == [
        "descriptors low: host:a:process (few are left)", "descriptors low: host:b:process (few are left)",
    ]  # fmt: skip
    b.notice(WELL)
    assert await hosts.rounds(120, a, b) == ["descriptors low: host:b:process is well again (host:b:process: over.)"]
    assert [row["subject"] for row in await hosts.store.read(alerts.standing)] == ["host:a:process"]


async def test_processes_of_a_host_tell_once_and_it_is_over_with_the_last(hosts: Hosts) -> None:
    one, two = hosts.process("a"), hosts.process("a")
    one.notice(LOW)
    two.notice(LOW)
    assert len(await hosts.rounds(120, one, two)) == 1
    one.notice(WELL)
    assert await hosts.rounds(120, one, two, hosts.process("a")) == []
    two.notice(WELL)
    assert await hosts.rounds(QUIET_SECONDS - 16, one, two) == []
    (over,) = await hosts.rounds(40, one, two)
    assert "well again" in over


async def test_a_host_that_is_gone_for_good_does_not_alert_for_ever(hosts: Hosts) -> None:
    gone, other = hosts.process("gone"), hosts.process("b")
    gone.notice(LOW)
    await hosts.rounds(60, gone)
    hosts.watch.now += GONE_SECONDS - 60
    assert await hosts.rounds(30, other, hosts.process("c")) == []
    assert await hosts.rounds(60, other, hosts.process("c")) == [
        "descriptors low: host:gone:process is well again (host:gone:process: nothing was heard of that host for a"
        " day, it is taken for gone.)"
    ]
    assert await hosts.store.read(alerts.standing) == []


class Full:
    """A store that takes nothing while the disk is full."""

    def __init__(self, store: Store) -> None:
        self.is_full = True
        self.read, self._store = store.read, store

    async def run(self, unit: Callable[..., Any], *given: Any) -> Any:
        if self.is_full:
            raise Unavailable
        return await self._store.run(unit, *given)


async def test_a_disk_is_told_to_be_full_at_once_and_to_be_well_when_it_has_taken_something(hosts: Hosts) -> None:
    store = hosts.store
    hosts.store = full = cast("Any", Full(store))
    one = hosts.process("a", is_shared=False)
    one.notice({"disk_full": "nothing fits"})
    assert await hosts.rounds(20, one) == ["disk full: host:a:database (nothing fits)"]
    one.notice(WELL)
    assert await hosts.rounds(20, one) == [], "nothing has been written since"
    full.is_full = False
    assert await hosts.rounds(3, one) == ["disk full: host:a:database is well again (host:a:database: over.)"]
    assert await hosts.rounds(20, one) == []
    assert await store.read(alerts.standing) == []


async def test_a_start_on_a_disk_that_is_full_tells_nothing_anew(hosts: Hosts) -> None:
    trouble = {"disk_low": "little is left"}
    first = hosts.process("a", is_shared=False)
    first.notice(trouble)
    assert len(await hosts.rounds(2, first)) == 1
    hosts.store = full = cast("Any", Full(hosts.store))
    later = hosts.process("a", is_shared=False)
    later.notice(trouble)
    assert await hosts.rounds(20, later) == []
    full.is_full = False
    later.notice(WELL)
    assert len(await hosts.rounds(20, later)) == 1
