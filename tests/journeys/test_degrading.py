"""What goes on while something is missing: room, a server beside us, an upstream. Polls first, purchases last."""

from __future__ import annotations

import json
import re
import resource
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

import httpx
import pytest

from gateway.cli import DEMO_KEY_FILE
from gateway.errors import NotReached, Unwell, UpstreamError
from gateway.guard import Guard
from gateway.poller import Poller
from tests.harness import PATH, Server, config_directory, environment, house, run_cli, server
from tests.scripted import worlds

pytestmark = pytest.mark.timeout(180)  # a server of its own each, which takes its time on a busy machine

PATIENCE_SECONDS = 20.0
MEGABYTE = 1_000_000
UNLIMITED = "[limits]\nchanges_per_minute = 100000\n"


def eventually(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.1)


@dataclass
class Demo:
    """`simroute serve` on an SQLite file with the sandbox, and a client that keeps its one connection."""

    server: Server
    client: httpx.Client
    key: str

    @property
    def pid(self) -> int:
        return self.server.process.pid

    def call(self, action: str, **parameters: object) -> str:
        query = {"api_key": self.key, "action": action, **{name: str(value) for name, value in parameters.items()}}
        return self.client.get(PATH, params=query).text

    def buy(self, service: str = "xmute") -> str:
        answer = self.call("getNumber", service=service, country=6)
        assert answer.startswith("ACCESS_NUMBER:"), answer
        return answer.split(":")[1]

    def sells(self) -> bool:
        return self.call("getNumber", service="xmute", country=6).startswith("ACCESS_NUMBER:")

    def is_closed(self) -> bool:
        return self.call("getNumber", service="xmute", country=6) == "ERROR_SQL"

    def ready(self) -> tuple[int, str]:
        """The status of /health/ready, and what it says of buying."""
        answer = self.client.get("/health/ready")
        return answer.status_code, str(answer.json().get("buying", ""))

    def metric(self, name: str) -> float:
        found = re.search(rf"^{re.escape(name)} (\S+)$", self.client.get("/metrics").text, re.MULTILINE)
        assert found is not None, name
        return float(found.group(1))

    def cpu_seconds(self) -> float:
        usage = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(usage[11]) + int(usage[12])) / 100

    def alerts(self, name: str) -> list[str]:
        """The changes of an alert, in order."""
        lines = [json.loads(line) for line in self.server.log.read_text().splitlines() if line.startswith("{")]
        return [line["event"] for line in lines if line.get("alert") == name]

    def verify(self) -> None:
        done = run_cli(self.server.values, self.server.directory, "ledger", "verify")
        assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def demo(tmp_path: Path) -> Iterator[Demo]:
    values = environment(f"sqlite:///{tmp_path}/simroute.db")
    config = config_directory(tmp_path, gateway=UNLIMITED)
    with (
        server(config, values, tmp_path / "log") as running,
        httpx.Client(base_url=running.base, trust_env=False, timeout=15) as client,
    ):
        found = Demo(running, client, "")
        found.key = (tmp_path / DEMO_KEY_FILE).read_text().strip()
        yield found


def limit(process: Demo, what: int, soft: int) -> None:
    """As `prlimit` does to a running process."""
    _, hard = resource.prlimit(process.pid, what)
    resource.prlimit(process.pid, what, (soft, hard))


@contextmanager
def many(process: Demo, *, ask: bool) -> Iterator[list[socket.socket]]:
    connections: list[socket.socket] = []
    try:
        connections += (connect(process, asks=ask) for _ in range(200))
        yield connections
    finally:
        for connection in connections:
            connection.close()


def connect(process: Demo, *, asks: bool) -> socket.socket:
    """A client's connection, of one that has asked for something already or of one that never does."""
    connection = socket.create_connection(("127.0.0.1", urlsplit(process.server.base).port or 0), 5)
    connection.settimeout(5)
    if asks:
        with suppress(OSError):
            connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: here\r\n\r\n")
            connection.recv(1000)
    return connection


def is_open(connection: socket.socket) -> bool:
    connection.settimeout(0.01)
    try:
        return connection.recv(1, socket.MSG_PEEK) != b""
    except TimeoutError:
        return True
    except OSError:
        return False


# Room


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks at and limits another process as Linux does")
def test_file_descriptors_run_out(tmp_path: Path) -> None:
    """Idle clients take nearly all of them: purchases stop, who polls is served, and none of it costs the processor."""
    with demo(tmp_path) as running:
        waiting, received = running.buy("xmute"), running.buy("tg")
        eventually(lambda: running.call("getStatus", id=received).startswith("STATUS_OK:"), "a code")
        limit(running, resource.RLIMIT_NOFILE, 160)
        time.sleep(1.5)  # a look of the guard's: the limit is news to it
        assert running.sells()

        with many(running, ask=True) as idle:
            eventually(running.is_closed, "purchases are stopped")
            assert running.ready() == (503, "stopped: descriptors_low")
            assert running.client.get("/health/live").status_code == 200
            assert 10 <= running.metric("simroute_descriptors_free") <= 40
            subject = f"host:{socket.gethostname()}:process"
            assert running.metric(f'simroute_alert{{alert="descriptors_low",subject="{subject}"}}') == 1
            assert running.call("getStatus", id=waiting) == "STATUS_WAIT_CODE"
            assert running.call("getStatus", id=received).startswith("STATUS_OK:")
            assert running.call("setStatus", id=received, status=6) == "ACCESS_ACTIVATION"
            assert running.call("setStatus", id=waiting, status=8) == "ACCESS_CANCEL"
            assert 60 <= sum(map(is_open, idle)) <= 150, "some were served, those beyond were turned away"
            before = running.cpu_seconds()
            time.sleep(1.0)
            assert running.cpu_seconds() - before < 0.6
        eventually(running.sells, "purchases go on")
        assert running.ready() == (200, "")
        eventually(lambda: running.alerts("descriptors_low") == ["alert.on", "alert.off"], "it was told, and its end")

        with many(running, ask=False) as silent:
            eventually(running.is_closed, "purchases are stopped")
            eventually(running.sells, "those who never asked for anything were shown out")
            assert not any(map(is_open, silent))
        running.verify()


def test_little_space_left_stops_purchases_only(tmp_path: Path) -> None:
    with demo(tmp_path) as running:
        waiting, received = running.buy("xmute"), running.buy("tg")
        free = running.metric("simroute_disk_free_bytes")
        settings = running.server.directory / "gateway.toml"
        settings.write_text(f"{UNLIMITED}[guard]\ndisk_free_megabytes = {free / MEGABYTE + 100_000}\n")
        eventually(running.is_closed, "purchases are stopped")
        assert running.ready() == (503, "stopped: disk_low")
        eventually(lambda: running.call("getStatus", id=received).startswith("STATUS_OK:"), "a code comes all the same")
        assert running.call("setStatus", id=waiting, status=8) == "ACCESS_CANCEL"
        settings.write_text(f"{UNLIMITED}[guard]\ndisk_free_megabytes = 0\n")
        eventually(running.sells, "purchases go on")
        eventually(lambda: running.alerts("disk_low") == ["alert.on", "alert.off"], "it was told, and its end")
        running.verify()


def test_a_disk_that_is_really_full_loses_nothing(tmp_path: Path) -> None:
    """No file may grow any more, not even the log: what is known is told, nothing is sold, and it goes on by itself."""
    with demo(tmp_path) as running:
        waiting, received = running.buy("xmute"), running.buy("tg")
        eventually(lambda: running.call("getStatus", id=received).startswith("STATUS_OK:"), "a code")
        balance = running.call("getBalance")
        limit(running, resource.RLIMIT_FSIZE, 1)
        assert running.is_closed()
        assert running.call("setStatus", id=waiting, status=8) == "ERROR_SQL"
        assert running.call("getStatus", id=waiting) == "STATUS_WAIT_CODE"
        assert running.call("getStatus", id=received).startswith("STATUS_OK:")
        assert running.call("getBalance") == balance
        eventually(lambda: "disk_full" in running.ready()[1], "the health says so")
        assert running.ready()[0] == 503
        assert running.is_closed()

        limit(running, resource.RLIMIT_FSIZE, resource.RLIM_INFINITY)
        assert running.call("setStatus", id=waiting, status=8) == "ACCESS_CANCEL"
        eventually(running.sells, "purchases go on")
        assert running.metric("simroute_open_activations") <= 3
        assert running.server.stop() == 0
        running.verify()


async def test_every_way_to_buy_is_closed_where_there_is_no_room(
    tmp_path: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Guard, "look", lambda *_: None)
    async with house(config_directory(tmp_path), environment(sqlite_url)) as running:
        waiting = await running.buy("xmute", 6)
        before = await running.balance()
        running.gateway.house.guard.trouble = {"disk_low": "little is left"}
        for action in ("getNumber", "getNumberV2"):
            assert await running.call(action, service="tg", country=6) == "ERROR_SQL"
        assert "SERVER_ERROR" in await running.call("getRentNumber", service="tg", country=6, rent_time=4)
        bearer = {"authorization": f"Bearer {running.keys['alice']}"}
        client = running.client
        answer = await client.post("/api/v1/purchase", json={"service": "tg", "country": 6}, headers=bearer)
        assert answer.status_code == 503, answer.text
        answer = await client.get("/v1/user/buy/activation/indonesia/any/telegram", headers=bearer)
        assert "phone" not in answer.text, answer.text
        assert await running.balance() == before
        assert await running.call("getStatus", id=waiting) == "STATUS_WAIT_CODE"
        assert await running.call("setStatus", id=waiting, status=8) != "ERROR_SQL"
        running.gateway.house.guard.trouble = {}
        await running.buy("tg", 6)


def failing(error: UpstreamError, *, is_local: bool) -> Callable[..., Awaitable[NoReturn]]:
    async def fail(*_: object) -> NoReturn:
        raise error

    error.is_local = is_local
    return fail


@pytest.mark.parametrize("verb", ["buy", "read"])
async def test_what_this_machine_lacks_is_not_held_against_an_upstream(
    tmp_path: Path, sqlite_url: str, verb: str
) -> None:
    world = worlds(sqlite_url, tmp_path)()
    await world.begin()
    house = world.gateway.house
    poller = Poller(house, world.gateway.activations, "one")
    assert (await world.buy()).upstream == "one"

    async def go_on(*, is_local: bool) -> None:
        """For as long as it takes to leave an upstream out."""
        error = NotReached("no files left") if verb == "buy" else Unwell("no files left")
        setattr(world.one, verb, failing(error, is_local=is_local))
        for _ in range(house.health.settings.faults_to_open):
            if verb == "buy":
                assert (await world.buy(world.order(price_max="1.00"))).upstream == "two"
            else:
                await poller.sweep()
            world.watch.now += 5

    await go_on(is_local=True)
    assert house.health.state("one").faults == 0
    await go_on(is_local=False)
    assert house.health.is_open("one")
    await world.end()
