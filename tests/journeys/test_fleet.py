"""Several `simroute serve` and `simroute worker` processes on one PostgreSQL and one Redis."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from starlette.applications import Starlette

from gateway.migrations import upgrade
from tests.harness import PATH, Server, config_directory, environment, run_cli, server
from tests.journeys.cut_wire import Proxy
from tests.simulators import handler_api, smspool
from tests.simulators._common import Simulator
from tests.simulators._serve import serve

pytestmark = [pytest.mark.xdist_group("fleet"), pytest.mark.timeout(180)]

UPSTREAMS = """
[one]
adapter = "herosms"
base_url = "{base}/stubs/handler_api.php"
poll_seconds = 0.2
status_calls_per_second = 50.0
"""
NOWHERE = "redis://127.0.0.1:9/0"
PATIENCE_SECONDS = 60.0


@dataclass
class Fleet:
    """One deployment. `members` are its processes, by the names that the test gave them."""

    values: dict[str, str]
    directory: Path
    key: str
    upstream: Simulator
    log: Path
    stack: ExitStack
    members: dict[str, Server] = field(default_factory=dict)
    clients: dict[str, httpx.Client] = field(default_factory=dict)

    def start(self, name: str, *arguments: str, verb: str = "serve", **values: str) -> Server:
        """`values` is what its environment has other than the rest's."""
        log = self.log.with_name(f"log-{name}")
        process = server(self.directory, {**self.values, **values}, log, *arguments, verb=verb)
        self.members[name] = self.stack.enter_context(process)
        return self.members[name]

    def serve(self, *names: str) -> None:
        """Starts processes that serve and work, and waits until each has the price list."""
        for name in names:
            self.start(name)
        for name in names:
            until(lambda name=name: '"tg"' in self.call(name, "getPrices", country=6))  # type: ignore[misc]

    def call(self, name: str, action: str, **more: object) -> str:
        query = {"api_key": self.key, "action": action, **{key: str(value) for key, value in more.items()}}
        with ExitStack() as stack:
            client = self.clients.get(name) or stack.enter_context(httpx.Client(trust_env=False))
            return client.get(self.members[name].base + PATH, params=query, timeout=20).text

    def stay_connected(self) -> None:
        """For what has to be asked at once: a connection takes longer to be made than a poll to be answered."""
        for name in self.members:
            self.clients[name] = self.stack.enter_context(httpx.Client(trust_env=False))

    def buy(self, name: str) -> str:
        answer = self.call(name, "getNumber", service="tg", country=6)
        assert answer.startswith("ACCESS_NUMBER:"), answer
        return answer.split(":")[1]

    def hang_up(self, name: str) -> None:
        """Asks for a number and is not patient enough."""
        query = {"api_key": self.key, "action": "getNumber", "service": "tg", "country": "6"}
        with pytest.raises(httpx.ReadTimeout):
            httpx.get(self.members[name].base + PATH, params=query, timeout=0.7, trust_env=False)

    def status(self, name: str, activation_id: str) -> str:
        return self.call(name, "getStatus", id=activation_id)

    def work(self, name: str) -> set[str]:
        """The leases that a process holds."""
        with psycopg.connect(self.values["DATABASE_URL"]) as connection:
            rows = connection.execute(
                "select name from leases where split_part(holder, '/', 2) = %s"
                " and until > extract(epoch from clock_timestamp())",
                (str(self.members[name].process.pid),),
            )
            return {str(row[0]) for row in rows}

    def order_of(self, activation_id: str) -> str:
        """The reference of the upstream's order behind an activation."""
        with psycopg.connect(self.values["DATABASE_URL"]) as connection:
            row = connection.execute("select reference from activations where id = %s", (activation_id,)).fetchone()
        assert row is not None
        return str(row[0])

    def first_to_show(self, activation_id: str, status: str) -> str:
        """The process that shows it first. Asked there no more, and at the other one not since."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            for name in self.members:
                if self.status(name, activation_id) == status:
                    return name
        raise AssertionError("no process shows it")

    def text(self, activation_id: str, text: str) -> None:
        self.upstream.deliver(self.order_of(activation_id), text)

    def verified(self) -> None:
        outcome = run_cli(self.values, self.directory, "ledger", "verify")
        assert outcome.returncode == 0, outcome.stdout + outcome.stderr


def until(is_so: Callable[[], object], seconds: float = PATIENCE_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)


@contextmanager
def wire(url: str) -> Iterator[tuple[Proxy, Callable[[Coroutine[Any, Any, None]], None]]]:
    """A proxy in front of a database, in a thread of its own, and what runs its coroutines there."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def run(work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, loop).result(PATIENCE_SECONDS)

    proxy = Proxy(url)
    try:
        run(proxy.mend())
        yield proxy, run
        run(proxy.cut())
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextmanager
def deployment(
    directory: Path,
    url: str,
    redis_url: str,
    gateway: str = "",
    app: Starlette | None = None,
    upstreams: str = UPSTREAMS,
) -> Iterator[Fleet]:
    """Its one upstream is HeroSMS, or else the simulator given, which knows it by the same key."""
    with ExitStack() as stack:
        app = app or handler_api.build(brand="herosms", sms_delay_seconds=3600, early_cancel_seconds=0)
        base = stack.enter_context(serve(app))
        settings = config_directory(directory, upstreams.format(base=base), gateway)
        values = environment(url, REDIS_URL=redis_url, ONE_API_KEY=handler_api.DEFAULT_KEY)
        upgrade(url)
        run_cli(values, settings, "account", "create", "alice", "--balance", "100.00")
        key = run_cli(values, settings, "key", "issue", "alice").stdout.strip()
        yield Fleet(values, settings, key, app.state.sim, directory / "log", stack)


@pytest.fixture
def fleet(tmp_path: Path, postgres_url: str, redis_url: str) -> Iterator[Fleet]:
    with deployment(tmp_path, postgres_url, redis_url, "[activations]\nclaim_seconds = 3\n") as found:
        yield found


def test_a_client_may_ask_any_process_about_what_another_one_did(fleet: Fleet) -> None:
    fleet.serve("a", "b")
    bought = fleet.buy("a")
    assert fleet.status("b", bought) == "STATUS_WAIT_CODE"
    fleet.text(bought, "Your code is 13579")
    for name in ("a", "b"):
        until(lambda name=name: fleet.status(name, bought) == "STATUS_OK:13579")  # type: ignore[misc]
    assert fleet.call("b", "setStatus", id=bought, status=3) == "ACCESS_RETRY_GET"
    assert fleet.status("a", bought) == "STATUS_WAIT_RETRY:13579"
    fleet.text(bought, "Your code is 24680")
    for name in ("a", "b"):
        until(lambda name=name: fleet.status(name, bought) == "STATUS_OK:24680")  # type: ignore[misc]
    assert fleet.call("a", "setStatus", id=bought, status=6) == "ACCESS_ACTIVATION"
    until(lambda: fleet.call("b", "getActiveActivations").find(bought) == -1)
    other = fleet.buy("b")
    assert fleet.call("a", "setStatus", id=other, status=8) == "ACCESS_CANCEL"
    until(lambda: fleet.status("b", other) == "STATUS_CANCEL")
    fleet.verified()


@pytest.mark.parametrize("has_redis", [True, False])
def test_what_a_client_was_told_at_one_process_counts_at_every_other_at_once(
    tmp_path: Path, postgres_url: str, redis_url: str, *, has_redis: bool
) -> None:
    with deployment(tmp_path, postgres_url, redis_url if has_redis else NOWHERE) as fleet:
        fleet.serve("a", "b")
        fleet.stay_connected()
        bought, beside = fleet.buy("a"), fleet.buy("b")
        for code in ("11111", "22222"):  # the second where it is not known yet that there was another round
            fleet.text(bought, f"Your code is {code}")
            first = fleet.first_to_show(bought, f"STATUS_OK:{code}")
            other = "b" if first == "a" else "a"
            assert fleet.call(other, "setStatus", id=bought, status=3) == "ACCESS_RETRY_GET"
            assert fleet.status(first, bought) == f"STATUS_WAIT_RETRY:{code}"
        assert fleet.call(first, "setStatus", id=bought, status=6) == "ACCESS_ACTIVATION"

        fleet.text(beside, "Your code is 33333")
        first = fleet.first_to_show(beside, "STATUS_OK:33333")
        other = "b" if first == "a" else "a"
        assert fleet.call(other, "setStatus", id=beside, status=8) == "BAD_STATUS"
        assert fleet.call(other, "setStatus", id=beside, status=6) == "ACCESS_ACTIVATION"
        fleet.verified()


def test_a_process_that_stood_still_shows_no_code_of_a_former_round(fleet: Fleet) -> None:
    """Nor is the client that wants another one kept until it moves."""
    fleet.serve("a", "b")
    bought = fleet.buy("a")
    fleet.text(bought, "Your code is 13579")
    for name in ("a", "b"):
        until(lambda name=name: fleet.status(name, bought) == "STATUS_OK:13579")  # type: ignore[misc]
    still = fleet.members["b"].process
    still.send_signal(signal.SIGSTOP)
    assert fleet.call("a", "setStatus", id=bought, status=3) == "ACCESS_RETRY_GET"
    with ThreadPoolExecutor(4) as threads:
        polls = [threads.submit(fleet.status, "b", bought) for _ in range(4)]
        time.sleep(0.3)
        still.send_signal(signal.SIGCONT)
        assert {poll.result() for poll in polls} == {"STATUS_WAIT_RETRY:13579"}


def test_a_process_that_is_cut_off_from_the_database_shows_no_code_of_a_former_round(fleet: Fleet) -> None:
    """It says "again", and what waits for a code still waits."""
    with wire(fleet.values["DATABASE_URL"]) as (proxy, run):
        database = fleet.values["DATABASE_URL"].partition("?")[0].rpartition("/")[2]
        fleet.serve("a")
        fleet.start("b", "--no-work", DATABASE_URL=f"postgresql://postgres@127.0.0.1:{proxy.port}/{database}")
        waiting, bought = fleet.buy("a"), fleet.buy("a")
        fleet.text(bought, "Your code is 13579")
        until(lambda: fleet.status("b", bought) == "STATUS_OK:13579")
        until(lambda: fleet.status("a", bought) == "STATUS_OK:13579")
        run(proxy.freeze())
        assert fleet.call("a", "setStatus", id=bought, status=3) == "ACCESS_RETRY_GET"
        assert fleet.status("b", bought) == "ERROR_SQL"
        assert fleet.status("b", waiting) == "STATUS_WAIT_CODE"
        run(proxy.mend())
        until(lambda: fleet.status("b", bought) == "STATUS_WAIT_RETRY:13579")


def test_each_piece_of_work_has_one_holder_and_is_taken_over_when_that_dies(fleet: Fleet) -> None:
    fleet.serve("a")
    fleet.start("b")
    until(lambda: "poll:one" in fleet.work("a") | fleet.work("b") and fleet.work("a") | fleet.work("b") > {"ends"})
    assert not fleet.work("a") & fleet.work("b")
    holder, other = ("a", "b") if "poll:one" in fleet.work("a") else ("b", "a")
    bought = fleet.buy(other)
    fleet.members[holder].kill()
    fleet.text(bought, "Your code is 11223")
    until(lambda: fleet.status(other, bought) == "STATUS_OK:11223")
    until(lambda: {"poll:one", "ends", "report"} <= fleet.work(other))
    fleet.verified()


def test_one_process_asks_for_the_prices_that_all_of_them_show(fleet: Fleet) -> None:
    fleet.serve("a", "b", "c")
    fleet.start("d", "--no-work")
    until(lambda: '"tg"' in fleet.call("d", "getPrices", country=6))
    assert len({fleet.call(name, "getPrices", country=6) for name in "abcd"}) == 1
    fleet.members["a"].stop()
    fleet.start("a")
    until(lambda: '"tg"' in fleet.call("a", "getPrices", country=6))
    shown = json.loads(
        run_cli(fleet.values, fleet.directory, "explain", "tg", "6", "--account", "alice", "--json").stdout
    )
    assert shown["tried"]
    # Once; on a machine so slow that a minute has passed, or that Redis seemed to be away, a few times. Not six times.
    assert fleet.upstream.requests["getPrices"] <= 3


def test_prices_go_on_changing_for_all_when_their_reader_dies(
    tmp_path: Path, postgres_url: str, redis_url: str
) -> None:
    stanza = UPSTREAMS + "offers_seconds = 1.0\n"
    with deployment(tmp_path, postgres_url, redis_url, upstreams=stanza) as fleet:
        fleet.serve("a", "b")
        until(lambda: "poll:one" in fleet.work("a") | fleet.work("b"))
        holder, other = ("a", "b") if "poll:one" in fleet.work("a") else ("b", "a")
        before = fleet.call(holder, "getPrices", country=6)
        fleet.upstream.restock(service="tg", country="6", price="0.77")
        until(lambda: fleet.call(other, "getPrices", country=6) == fleet.call(holder, "getPrices", country=6) != before)
        fleet.members[holder].kill()
        before = fleet.call(other, "getPrices", country=6)
        fleet.upstream.restock(service="tg", country="6", price="0.88")
        until(lambda: fleet.call(other, "getPrices", country=6) != before)


def test_a_process_that_stops_gives_its_work_back_at_once(fleet: Fleet) -> None:
    fleet.serve("a")
    until(lambda: "poll:one" in fleet.work("a"))
    assert fleet.members["a"].stop() == 0
    with psycopg.connect(fleet.values["DATABASE_URL"]) as connection:
        assert connection.execute("select count(*) from leases").fetchone() == (0,)


def test_serving_without_work_leaves_it_to_a_worker(fleet: Fleet) -> None:
    fleet.start("a", "--no-work")
    fleet.start("w", verb="worker")
    until(lambda: '"tg"' in fleet.call("a", "getPrices", country=6))
    bought = fleet.buy("a")
    fleet.text(bought, "Your code is 99887")
    until(lambda: fleet.status("a", bought) == "STATUS_OK:99887")
    assert fleet.work("a") == set()
    assert httpx.get(fleet.members["w"].base + PATH, trust_env=False).status_code == 404
    assert httpx.get(fleet.members["w"].base + "/process", trust_env=False).json()["work"]
    assert httpx.get(fleet.members["a"].base + "/process", trust_env=False).status_code == 404
    listed = run_cli(fleet.values, fleet.directory, "processes")
    assert "poll:one" in listed.stdout
    assert "simroute_open_activations" in httpx.get(fleet.members["w"].base + "/metrics", trust_env=False).text


def test_the_process_that_reads_an_upstream_knows_what_a_lease_goes_on_under(
    tmp_path: Path, postgres_url: str, redis_url: str
) -> None:
    app = smspool.build(sms_delay_seconds=None, resend_renames=True)
    upstreams = UPSTREAMS.replace("herosms", "smspool").replace("/stubs/handler_api.php", "")
    with deployment(tmp_path, postgres_url, redis_url, app=app, upstreams=upstreams) as fleet:
        fleet.start("a", "--no-work")
        fleet.start("w", verb="worker")
        until(lambda: '"tg"' in fleet.call("a", "getPrices", country=6))
        bought = fleet.buy("a")
        fleet.text(bought, "Your code is 13579")
        until(lambda: fleet.status("a", bought) == "STATUS_OK:13579")
        first = fleet.order_of(bought)
        assert fleet.call("a", "setStatus", id=bought, status=3) == "ACCESS_RETRY_GET"
        assert fleet.order_of(bought) != first
        fleet.text(bought, "Your code is 24680")
        until(lambda: fleet.status("a", bought) == "STATUS_OK:24680")
        shown = run_cli(fleet.values, fleet.directory, "activation", "show", bought)
        assert re.search(rf"^former_references +{first}$", shown.stdout, re.MULTILINE), shown
        assert fleet.call("a", "setStatus", id=bought, status=6) == "ACCESS_ACTIVATION"
        fleet.verified()


def test_what_a_killed_process_bought_and_told_nobody_of_goes_back(fleet: Fleet) -> None:
    """Or to whoever repeats the request, at whichever process."""
    fleet.serve("a", "b")
    before = fleet.call("b", "getBalance")
    bought = fleet.buy("a")
    with psycopg.connect(fleet.values["DATABASE_URL"], autocommit=True) as connection:
        # As if it had been killed after the purchase and before its answer left.
        fleet.members["a"].kill()
        connection.execute("update activations set answered = 0, opened_at = opened_at - 15 where id = %s", (bought,))
        until(
            lambda: (
                connection.execute("select claim_until from activations where id = %s", (bought,)).fetchone() != (None,)
            )
        )
    until(lambda: fleet.call("b", "getBalance") == before)
    assert fleet.upstream.order_views()[-1]["state"] in ("cancelled", "canceled")
    fleet.verified()


def test_a_repeated_request_gets_at_another_process_what_nobody_was_told_of(fleet: Fleet) -> None:
    fleet.serve("a", "b")
    bought = fleet.buy("a")
    fleet.members["a"].kill()
    with psycopg.connect(fleet.values["DATABASE_URL"], autocommit=True) as connection:
        connection.execute(
            "update activations set answered = 0, claim_until = %s where id = %s", (time.time() + 20, bought)
        )
    time.sleep(1.0)
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda _: fleet.buy("b"), range(4)))
    assert answers.count(bought) == 1
    assert len(set(answers)) == 4


def test_a_client_that_hung_up_gets_its_purchase_elsewhere_or_hears_that_it_is_to_ask_again(
    tmp_path: Path, postgres_url: str, redis_url: str
) -> None:
    settings = "[activations]\norder_deadline_seconds = 4\n"
    with deployment(tmp_path, postgres_url, redis_url, settings) as fleet:
        fleet.serve("a", "b")
        fleet.upstream.fault("buy.slow", 1, seconds=1.5)
        fleet.hang_up("a")
        first = fleet.buy("b")
        assert fleet.upstream.purchases == 1
        assert fleet.order_of(first) == fleet.upstream.order_views()[0]["id"]

        fleet.upstream.fault("buy.slow", 1, seconds=60)
        fleet.hang_up("a")
        waits = "select 1 from activations where status = 'opening' and split_part(served_by, '/', 2) = %s"
        pid = str(fleet.members["b"].process.pid)
        with ThreadPoolExecutor(1) as threads, psycopg.connect(postgres_url, autocommit=True) as connection:
            repeat = threads.submit(fleet.call, "b", "getNumber", service="tg", country=6)
            until(lambda: connection.execute(waits, (pid,)).fetchone())
            fleet.members["a"].kill()
            assert repeat.result() == "ERROR_SQL"
        assert fleet.buy("b") != first
        fleet.verified()


def test_many_clients_at_many_processes_lose_nothing(fleet: Fleet) -> None:
    fleet.serve("a", "b", "c")
    names = ["a", "b", "c"]

    def live(number: int) -> str:
        bought = fleet.buy(names[number % 3])
        fleet.text(bought, f"Your code is {10000 + number}")
        until(lambda: fleet.status(names[(number + 1) % 3], bought) == f"STATUS_OK:{10000 + number}")
        assert fleet.call(names[(number + 2) % 3], "setStatus", id=bought, status=6) == "ACCESS_ACTIVATION"
        return bought

    with ThreadPoolExecutor(12) as threads:
        bought = list(threads.map(live, range(36)))
    assert len(set(bought)) == 36
    assert fleet.upstream.purchases == 36
    with psycopg.connect(fleet.values["DATABASE_URL"]) as connection:
        assert connection.execute("select count(*) from messages").fetchone() == (36,)
        assert connection.execute("select count(*) from holds where state = 'open'").fetchone() == (0,)
    fleet.verified()


def test_without_redis_every_process_hears_a_little_later(tmp_path: Path, postgres_url: str) -> None:
    with deployment(tmp_path, postgres_url, NOWHERE) as fleet:
        fleet.serve("a", "b")
        bought = fleet.buy("a")
        fleet.text(bought, "Your code is 55443")
        for name in ("a", "b"):
            until(lambda name=name: fleet.status(name, bought) == "STATUS_OK:55443")  # type: ignore[misc]
        facts = httpx.get(fleet.members["a"].base + "/health", trust_env=False).json()
        assert (facts["status"], facts["redis"]) == ("ok", "unavailable")


def two_free_ports() -> int:
    """The first of two in a row, from where the system does not hand any out by itself."""
    while True:
        first = random.randrange(20_000, 32_000, 2)
        with suppress(OSError), socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", first))
            other.bind(("127.0.0.1", first + 1))
            return first


def test_several_workers_behind_one_port_survive_a_death_and_are_replaced_one_by_one(fleet: Fleet) -> None:
    first_port = two_free_ports()
    one = fleet.start("all", "--workers", "2", "--status-port", str(first_port))
    until(lambda: '"tg"' in fleet.call("all", "getPrices", country=6))

    def processes() -> set[str]:
        found = set()
        for number in range(2):
            with suppress(httpx.TransportError):
                answer = httpx.get(f"http://127.0.0.1:{first_port + number}/process", trust_env=False)
                found.add(answer.json()["process"])
        return found

    until(lambda: len(processes()) == 2)
    before = processes()
    os.kill(int(min(before).split("/")[1]), signal.SIGKILL)
    until(lambda: len(processes()) == 2 and processes() != before)
    before = processes()
    one.process.send_signal(signal.SIGHUP)
    bought = fleet.buy("all")
    until(lambda: fleet.status("all", bought) == "STATUS_WAIT_CODE" and not processes() & before)
    one.process.send_signal(signal.SIGTERM)
    assert one.process.wait(30) == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(one.base + "/health", trust_env=False)


@pytest.mark.parametrize(
    ("arguments", "values"),
    [
        (["serve", "--workers", "2"], {"DATABASE_URL": "sqlite:///x.db", "REDIS_URL": "redis://127.0.0.1:9/0"}),
        (["serve", "--workers", "2"], {"DATABASE_URL": "postgresql://u@127.0.0.1:9/x"}),
        (["worker"], {"DATABASE_URL": "sqlite:///x.db"}),
    ],
)
def test_more_than_one_process_without_postgresql_and_redis_is_refused(
    arguments: list[str], values: dict[str, str], tmp_path: Path
) -> None:
    outcome = run_cli(environment("", **values), config_directory(tmp_path), *arguments, "--port", "0")
    assert outcome.returncode == 1
    assert "PostgreSQL and Redis: set DATABASE_URL=postgresql://" in outcome.stderr


def test_a_database_restored_into_another_cluster_is_followed(fleet: Fleet) -> None:
    """There transactions count from lower numbers, and the stamps in the copy are of the future."""
    fleet.serve("a")
    former = fleet.buy("a")
    fleet.members["a"].stop()
    with psycopg.connect(fleet.values["DATABASE_URL"]) as connection:
        connection.execute("alter table activations disable trigger note_changed")
        connection.execute("update activations set changed = '900000000000'")
        connection.execute("alter table activations enable trigger note_changed")
    fleet.serve("a", "b")
    with psycopg.connect(fleet.values["DATABASE_URL"]) as connection:
        row = connection.execute("select count(*) from activations where changed >= pg_current_xact_id()").fetchone()
    assert row == (0,)
    fleet.text(former, "Your code is 77553")
    for name in ("a", "b"):
        until(lambda name=name: fleet.status(name, former) == "STATUS_OK:77553")  # type: ignore[misc]


def test_one_that_serves_alone_and_one_that_shares_refuse_each_other(fleet: Fleet) -> None:
    fleet.start("a")
    alone = {name: value for name, value in fleet.values.items() if name != "REDIS_URL"}
    outcome = run_cli(alone, fleet.directory, "serve", "--port", "0")
    assert outcome.returncode == 1
    assert "REDIS_URL" in outcome.stderr


def test_a_program_of_before_goes_on_beside_a_schema_of_a_later_one(fleet: Fleet) -> None:
    with psycopg.connect(fleet.values["DATABASE_URL"]) as connection:
        connection.execute("update alembic_version set version_num = '9999'")
        connection.execute("alter table activations add column of_tomorrow text")
    fleet.serve("a")
    assert fleet.buy("a")
