"""Recipes of `docs/operations.md` for incidents, walked through with the commands they name."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.harness import PATH, Server, config_directory, environment, run_cli, server
from tests.simulators import handler_api
from tests.simulators._handler_engine import HandlerApi
from tests.simulators._serve import serve

STANZA = '[herosms]\nbase_url = "{base}/stubs/handler_api.php"\npoll_seconds = 0.1\nstatus_calls_per_second = 50.0\n'
GATEWAY = "[activations]\nlife_seconds = {life}\n[health]\ncooldown_seconds = 1.0\n"
LIFE_SECONDS = 60.0
PATIENCE_SECONDS = 20.0


@dataclass
class Place:
    """A gateway that can be started again, the upstream it buys from, and one client."""

    values: dict[str, str]
    directory: Path
    log: Path
    sim: HandlerApi
    key: str = ""

    @contextmanager
    def running(self) -> Iterator[Server]:
        with server(self.directory, self.values, self.log) as found:
            until(lambda: '"' in ask(found, self.key, "getPrices", country=6))
            yield found

    def cli(self, *arguments: str) -> str:
        result = run_cli(self.values, self.directory, *arguments)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    def shown(self, activation_id: str) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads(self.cli("activation", "show", activation_id, "--json"))
        return facts

    def events(self, name: str) -> list[str]:
        return [line for line in self.log.read_text().splitlines() if f'"{name}"' in line]


@contextmanager
def place(tmp_path: Path, life_seconds: float = LIFE_SECONDS) -> Iterator[Place]:
    app = handler_api.build(brand="herosms", early_cancel_seconds=0, sms_delay_seconds=None)
    with ExitStack() as stack:
        base = stack.enter_context(serve(app))
        directory = config_directory(tmp_path, STANZA.format(base=base), GATEWAY.format(life=life_seconds))
        values = environment(f"sqlite:///{tmp_path}/simroute.db", HEROSMS_API_KEY=handler_api.DEFAULT_KEY)
        found = Place(values, directory, tmp_path / "log", app.state.sim)
        found.cli("account", "create", "alice", "--balance", "10.00")
        found.key = found.cli("key", "issue", "alice").strip()
        yield found
        assert found.cli("ledger", "verify").startswith("ok\n")


def ask(running: Server, key: str, action: str, **more: object) -> str:
    query = {"api_key": key, "action": action, **{name: str(value) for name, value in more.items()}}
    return httpx.get(running.base + PATH, params=query, timeout=15).text


def buy(running: Server, key: str) -> str:
    answer = ask(running, key, "getNumber", service="tg", country=6)
    assert answer.startswith("ACCESS_NUMBER:"), answer
    return answer.split(":")[1]


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_code_that_the_provider_has_and_does_not_tell(tmp_path: Path) -> None:
    with place(tmp_path) as found, found.running() as running:
        bought = buy(running, found.key)
        for fault in ("list.error", "status.error", "balance.error"):
            found.sim.fault(fault)
        (order,) = found.sim.open
        found.sim.deliver(order, "Your code is 24680")
        until(lambda: bool(found.events("poll.unwell")))
        facts = found.shown(bought)
        assert (facts["status"], facts["messages"], facts["hold"][:4]) == ("waiting", 0, "open")
        doctor = run_cli(found.values, found.directory, "doctor")
        assert doctor.returncode == 1
        assert "herosms" in doctor.stdout
        found.sim.clear_faults()
        until(lambda: ask(running, found.key, "getStatus", id=bought) == "STATUS_OK:24680")
        assert found.events("poll.well_again")


def test_an_activation_whose_life_ended_while_nothing_ran(tmp_path: Path) -> None:
    with place(tmp_path, life_seconds=3.0) as found:
        with found.running() as running:
            bought = buy(running, found.key)
            until(lambda: found.shown(bought)["told_client"])
            running.kill()
        time.sleep(3.0)
        facts = found.shown(bought)
        assert (facts["status"], facts["hold"][:4], facts["ended"]) == ("waiting", "open", None)
        with found.running() as running:
            until(lambda: ask(running, found.key, "getStatus", id=bought) == "STATUS_CANCEL")
            assert ask(running, found.key, "getBalance") == "ACCESS_BALANCE:10.00"
            until(lambda: found.shown(bought)["to_tell_upstream"] is None)
            assert not found.sim.open


def test_an_order_whose_process_died(tmp_path: Path) -> None:
    with place(tmp_path) as found:
        with found.running() as running:
            found.sim.fault("buy.hang")
            client = threading.Thread(target=_asks_in_vain, args=(running, found.key))
            client.start()
            until(lambda: found.sim.purchases == 1)
            running.kill()
            client.join(PATIENCE_SECONDS)
        found.sim.clear_faults()
        (row,) = json.loads(found.cli("activation", "unsettled", "--json"))
        bought = str(row["activation"])
        assert found.shown(bought)["status"] == "opening"
        _age(tmp_path / "simroute.db", 31.0)
        with found.running() as running:
            until(lambda: found.shown(bought)["status"] == "failed")
            assert found.shown(bought)["hold"].startswith("released, ")
            assert ask(running, found.key, "getBalance") == "ACCESS_BALANCE:10.00"
            until(lambda: json.loads(found.cli("activation", "unsettled", "--json")) == [])
        assert found.events("order.left_behind")
        assert [order.state for order in found.sim.orders.values()] == ["cancelled"]


def _asks_in_vain(running: Server, key: str) -> None:
    with suppress(httpx.TransportError):
        ask(running, key, "getNumber", service="tg", country=6)


def _age(file: Path, seconds: float) -> None:
    """As if that long had passed since the order was opened."""
    with sqlite3.connect(file) as connection:
        connection.execute("update activations set opened_at = opened_at - ?", (seconds,))
        connection.execute("update attempts set started_at = started_at - ?", (seconds,))
    connection.close()


def test_a_cancel_that_its_provider_does_not_take(tmp_path: Path) -> None:
    with place(tmp_path) as found, found.running() as running:
        bought = buy(running, found.key)
        found.sim.fault("close.error", commit=False)
        assert ask(running, found.key, "setStatus", id=bought, status=8) == "ACCESS_CANCEL"
        facts = found.shown(bought)
        assert facts["ended"] is not None
        assert facts["hold"].startswith("released, ")
        assert facts["to_tell_upstream"].startswith("cancelled, next at ")
        found.sim.clear_faults()
        until(lambda: found.shown(bought)["to_tell_upstream"] is None)
        assert not found.sim.open


def test_a_provider_that_vanished_and_came_back(tmp_path: Path) -> None:
    with place(tmp_path) as found, found.running() as running:
        bought = buy(running, found.key)
        found.cli("upstreams", "drain", "herosms")
        until(lambda: '"' not in ask(running, found.key, "getPrices", country=6))
        found.sim.fault("any.bad_gateway", commit=False)
        assert ask(running, found.key, "getNumber", service="tg", country=6) == "NO_NUMBERS"
        assert ask(running, found.key, "setStatus", id=bought, status=8) == "ACCESS_CANCEL"
        assert ask(running, found.key, "getBalance") == "ACCESS_BALANCE:10.00"
        assert found.shown(bought)["to_tell_upstream"].startswith("cancelled, next at ")
        found.sim.clear_faults()
        until(lambda: found.shown(bought)["to_tell_upstream"] is None)
        found.cli("upstreams", "resume", "herosms")
        until(lambda: ask(running, found.key, "getNumber", service="tg", country=6).startswith("ACCESS_NUMBER:"))
