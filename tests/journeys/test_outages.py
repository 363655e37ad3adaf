"""PostgreSQL and Redis stop, freeze and come back beside a running server, as their machines would."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path

import httpx
import pytest

from gateway.limits import ANSWER_SECONDS, REST_SECONDS, Limits
from tests.harness import config_directory, environment, house, postgres_database, run_cli, server
from tests.journeys.outages import Postgres, private_postgres, private_redis
from tests.journeys.real_upstreams import Shop, shop

OUTAGE_SECONDS = float(os.environ.get("OUTAGE_SECONDS", "2"))
"""Thirty is what is promised, and takes a minute: by hand."""

WORD_SECONDS = 2.0
SLACK_SECONDS = 0.7
"""Of a machine that has other things to do."""

RESUME_SECONDS = 10.0


class Client:
    """As a program that polls: one connection, one key."""

    def __init__(self, found: Shop) -> None:
        self._shop = found
        self._http = httpx.Client(trust_env=False, timeout=30, limits=httpx.Limits(max_connections=200))

    def call(self, action: str, **parameters: object) -> tuple[str, float]:
        """The answer and how long it took."""
        query = {
            "api_key": self._shop.key,
            "action": action,
            **{name: str(value) for name, value in parameters.items()},
        }
        started = time.monotonic()
        answer = self._http.get(self._shop.url, params=query)
        assert answer.status_code == 200
        return answer.text, time.monotonic() - started

    def buy(self, service: str) -> str:
        answer, _ = self.call("getNumber", service=service, country=6)
        assert answer.startswith("ACCESS_NUMBER:"), answer
        return answer.split(":")[1]

    def until(self, wanted: str, action: str, seconds: float = 15.0, **parameters: object) -> str:
        deadline = time.monotonic() + seconds
        while not (answer := self.call(action, **parameters)[0]).startswith(wanted):
            assert time.monotonic() < deadline, answer
            time.sleep(0.1)
        return answer

    def close(self) -> None:
        self._http.close()

    def health(self) -> int:
        return self._http.get(f"{self._shop.server.base}/health").status_code


def word(client: Client, action: str, **parameters: object) -> None:
    answer, seconds = client.call(action, **parameters)
    assert answer == "ERROR_SQL", f"{action}: {answer}"
    assert seconds < WORD_SECONDS + SLACK_SECONDS, f"{action} took {seconds:.1f} s"


def actions(found: Shop) -> list[str]:
    """Every action of every dialect, as the metrics name them."""
    text = httpx.get(found.server.base + "/metrics", trust_env=False).text
    names = set(re.findall(r'simroute_request_seconds_count\{action="(\w+)"', text)) - {"other"}
    assert len(names) > 40
    return sorted(names)


def in_time(client: Client, action: str, **parameters: object) -> None:
    """Whatever it answers, nobody waits long for it."""
    answer, seconds = client.call(action, service="tg", country=6, **parameters)
    assert seconds < WORD_SECONDS + 2 * SLACK_SECONDS, f"{action} took {seconds:.1f} s to say {answer[:50]}"


def together(client: Client, checks: Sequence[Callable[[Client], None]]) -> None:
    """All at once, each on a connection of its own."""
    with ThreadPoolExecutor(len(checks)) as threads:
        for done in [threads.submit(check, client) for check in checks]:
            done.result()


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Postgres, Shop]]:
    """A server that buys at simulators, on a PostgreSQL that only it uses."""
    with (
        private_postgres() as postgres,
        postgres_database(postgres.url) as url,
        shop(tmp_path_factory.mktemp("outage"), url) as found,
    ):
        found.cli("key", "limits", "1", "--changes-per-minute", "100000")
        yield postgres, found


@pytest.mark.timeout(240)  # servers of its own, and as long an outage as is asked for
@pytest.mark.parametrize("how", ["stopped", "frozen"])
def test_postgresql_is_gone_for_a_while(fragile: tuple[Postgres, Shop], how: str) -> None:
    postgres, found = fragile
    with closing(Client(found)) as client:
        received = client.buy("tg")
        code = client.until("STATUS_OK:", "getStatus", id=received)
        waiting = client.buy("wa")
        client.until("STATUS_OK:", "getStatus", id=waiting)
        before = client.call("getBalance")[0]
        bought = sum(found.bought().values())

        (postgres.stop if how == "stopped" else postgres.freeze)()
        ends_at = time.monotonic() + OUTAGE_SECONDS
        word(client, "getNumber", service="vi", country=6)
        together(client, [partial(word, action="getNumber", service="wa", country=6)] * 20)
        together(client, [partial(in_time, action=name, id=received, status=6) for name in actions(found)])
        while time.monotonic() < ends_at:
            word(client, "getNumberV2", service="tg", country=6)
            word(client, "setStatus", id=received, status=6)
            word(client, "getHistory")
            for _ in range(10):
                answer, seconds = client.call("getStatus", id=received)
                assert answer == code
                assert seconds < 0.5, f"a poll took {seconds:.1f} s"
                assert client.call("getStatus", id=waiting)[0].startswith("STATUS_")
            assert client.health() == 503
        assert sum(found.bought().values()) == bought, "nothing is bought that can't be written down"

        (postgres.start if how == "stopped" else postgres.thaw)()
        client.until("ACCESS_ACTIVATION", "setStatus", RESUME_SECONDS, id=received, status=6)
        client.until("STATUS_OK:", "getStatus", id=waiting)
        client.until("ACCESS_ACTIVATION", "setStatus", RESUME_SECONDS, id=waiting, status=6)
        assert before == client.call("getBalance")[0], "each number was paid for once"
        last = client.until("ACCESS_NUMBER:", "getNumber", RESUME_SECONDS, service="tg", country=6).split(":")[1]
        client.until("STATUS_OK:", "getStatus", id=last)
        time.sleep(1.1)
        assert client.health() == 200
        checked = run_cli(found.server.values, found.server.directory, "ledger", "verify")
        assert checked.returncode == 0, checked.stdout


@pytest.mark.timeout(120)
def test_a_server_that_starts_before_its_postgresql_waits_for_it(
    fragile: tuple[Postgres, Shop], tmp_path: Path
) -> None:
    postgres, log = fragile[0], tmp_path / "log"

    def start_when_missed() -> None:
        deadline = time.monotonic() + 30
        while "does not answer" not in log.read_text() and time.monotonic() < deadline:
            time.sleep(0.05)
        postgres.start()

    log.touch()
    with postgres_database(postgres.url) as url, ThreadPoolExecutor(1) as threads:
        values, directory = environment(url), config_directory(tmp_path)
        assert run_cli(values, directory, "db", "upgrade").returncode == 0
        postgres.stop()
        starting = threads.submit(start_when_missed)
        with server(directory, values, log) as running:
            starting.result()
            assert httpx.get(running.base + "/health", trust_env=False).status_code == 200
            running.stop()


# Redis


async def test_a_frozen_redis_costs_a_purchase_a_quarter_of_a_second_once_in_five(
    tmp_path: Path, sqlite_url: str
) -> None:
    with private_redis() as redis:
        async with house(config_directory(tmp_path), environment(sqlite_url, REDIS_URL=redis.url)) as running:
            await running.buy("xmute", 6)
            redis.freeze()
            seconds = []
            for _ in range(4):
                started = time.monotonic()
                await running.buy("xmute", 6)
                seconds.append(time.monotonic() - started)
            assert ANSWER_SECONDS <= max(seconds) < ANSWER_SECONDS + 0.5
            assert sorted(seconds)[-2] < ANSWER_SECONDS, "once, and then not for five seconds"
            answer = await running.client.get("/health")
            assert (answer.status_code, answer.json()["redis"]) == (200, "unavailable")

            redis.thaw()
            running.gateway.limits._rest_until = 0.0  # as when its five seconds are over
            await asyncio.sleep(1.1)
            assert (await running.client.get("/health")).json()["redis"] == "ok"
            await running.buy("xmute", 6)
            assert await running.problems() == []


async def test_limits_hold_per_process_while_redis_is_gone_flushed_or_back() -> None:
    """Nobody starts afresh in a process that knows them, and what it says is no different once Redis is back."""
    assert REST_SECONDS > 1
    with private_redis() as redis:
        limits = Limits(redis.url, lambda: 1_000_000.0)
        assert await limits.change("a", 4)
        await limits.look()
        assert not limits.is_redis_away
        redis.stop()
        assert await limits.change("a", 4)
        assert limits.is_redis_away
        redis.start()
        assert limits.is_redis_away, "not asked again yet"
        limits._rest_until = 0.0
        await limits.look()
        assert not limits.is_redis_away
        assert [await limits.change("a", 4) for _ in range(3)] == [True, True, False], (
            "its memory is empty, ours is not"
        )
        assert not limits.is_redis_away
        redis.freeze()
        started = time.monotonic()
        await limits.look()
        assert time.monotonic() - started < ANSWER_SECONDS + 0.4
        assert limits.is_redis_away
        assert not await limits.change("a", 4)
        assert await limits.change("b", 4)
        redis.thaw()
        await limits.aclose()
