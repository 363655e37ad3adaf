"""What breaks: the database goes and comes back, files are edited badly and well, and no secret is said."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psycopg
import pytest
import structlog
from structlog.testing import capture_logs

from gateway import logs
from gateway.activations import Activations
from tests.harness import ROOT, SANDBOX, House, config_directory, environment, house, postgres_database
from tests.journeys.cut_wire import proxy
from tests.journeys.real_upstreams import Shop, shop, until

SOON_SECONDS = 2.5
"""A client that waits for the database is told to try again by then."""

Break = Callable[[], Awaitable[None]]


@dataclass
class Fragile:
    """A gateway with a live number, and its database, which can be broken and mended."""

    house: House
    activation_id: str
    down: Break
    up: Break

    async def timed(self, action: str, **parameters: object) -> tuple[str, float]:
        started = time.monotonic()
        answer = await self.house.call(action, "", **parameters)
        return answer, time.monotonic() - started

    async def health(self) -> tuple[int, int]:
        """Status of /health and of /health/live."""
        answers = [await self.house.client.get(path) for path in ("/health", "/health/live")]
        return answers[0].status_code, answers[1].status_code

    async def eventually(self, action: str, wanted: str, seconds: float = 10.0, **parameters: object) -> None:
        deadline = time.monotonic() + seconds
        while not (answer := await self.house.call(action, "", **parameters)).startswith(wanted):
            assert time.monotonic() < deadline, answer
            await asyncio.sleep(0.1)

    async def is_steady(self, seconds: float = 10.0) -> None:
        """Waits until the last of the connections that broke has been noticed and replaced."""
        deadline, in_a_row = time.monotonic() + seconds, 0
        while in_a_row < 10:
            assert time.monotonic() < deadline
            in_a_row = in_a_row + 1 if (await self.house.call("getBalance")).startswith("ACCESS_") else 0
            await asyncio.sleep(0.05)


async def nothing() -> None:
    pass


@asynccontextmanager
async def locked_sqlite(tmp_path: Path, how: str) -> AsyncIterator[Fragile]:
    path = tmp_path / "simroute.db"
    async with _fragile(tmp_path, f"sqlite:///{path}") as found:
        other = sqlite3.connect(path, isolation_level=None, timeout=5, check_same_thread=False)

        async def lock() -> None:
            await asyncio.to_thread(other.execute, f"begin {how}")

        async def unlock() -> None:
            other.execute("rollback")

        found.down, found.up = lock, unlock
        try:
            yield found
        finally:
            other.close()


@asynccontextmanager
async def moved_sqlite(tmp_path: Path, _how: str) -> AsyncIterator[Fragile]:
    path = tmp_path / "simroute.db"
    async with _fragile(tmp_path, f"sqlite:///{path}") as found:

        async def away() -> None:
            path.rename(path.with_suffix(".away"))

        async def back() -> None:
            path.with_suffix(".away").rename(path)

        found.down, found.up = away, back
        yield found


@asynccontextmanager
async def wired_postgres(tmp_path: Path, how: str, server_url: str = "") -> AsyncIterator[Fragile]:
    """On a database behind a wire that can be cut, or frozen where `how` says so."""
    async with AsyncExitStack() as stack:
        url = stack.enter_context(postgres_database(server_url or (tmp_path / "postgres-url").read_text()))
        wire = await stack.enter_async_context(proxy(url))
        proxied = re.sub(r"@[^/]*/", f"@127.0.0.1:{wire.port}/", url.partition("?")[0])
        found = await stack.enter_async_context(_fragile(tmp_path, proxied))
        found.down, found.up = wire.freeze if how == "frozen" else wire.cut, wire.mend
        try:
            yield found
        finally:
            await wire.mend()


@asynccontextmanager
async def _fragile(tmp_path: Path, url: str) -> AsyncIterator[Fragile]:
    async with house(config_directory(tmp_path), environment(url)) as running:
        activation_id = await running.buy("tg", 6)
        await running.until(activation_id, "STATUS_OK:")
        yield Fragile(running, activation_id, nothing, nothing)


KINDS = {
    "sqlite locked exclusively": (locked_sqlite, "exclusive"),
    "sqlite locked for writing": (locked_sqlite, "immediate"),
    "sqlite file moved away": (moved_sqlite, ""),
    "postgresql refuses connections": (wired_postgres, "cut"),
}


@pytest.fixture(params=KINDS)
async def fragile(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Fragile]:
    opened, how = KINDS[request.param]
    if opened is wired_postgres:
        (tmp_path / "postgres-url").write_text(request.getfixturevalue("postgres_server"))
    async with opened(tmp_path, how) as found:
        yield found


async def test_the_database_goes_and_comes_back(fragile: Fragile) -> None:
    running, activation_id = fragile.house, fragile.activation_id
    before, code = await running.balance(), await running.call("getStatus", id=activation_id)
    await fragile.down()

    changes = [("getNumber", {"service": "tg", "country": 6}), ("setStatus", {"id": activation_id, "status": 6})]
    for action, parameters in changes:
        answer, seconds = await fragile.timed(action, **parameters)
        assert answer == "ERROR_SQL"
        assert seconds < SOON_SECONDS, f"{action} took {seconds:.1f} s"
    answer, seconds = await fragile.timed("getStatus", id=activation_id)
    assert answer == code
    assert seconds < 0.2
    assert (await fragile.timed("getStatusV2", id=activation_id))[1] < 0.2
    assert await fragile.health() == (503, 200)

    together = [fragile.timed("getNumber", service="wa", country=6) for _ in range(20)]
    for answer, seconds in await asyncio.gather(*together):
        assert answer == "ERROR_SQL"
        assert seconds < 2 * SOON_SECONDS, f"of many at once one took {seconds:.1f} s"

    await fragile.up()
    await fragile.eventually("setStatus", "ACCESS_ACTIVATION", id=activation_id, status=6)
    await fragile.is_steady()
    assert await running.balance() == before
    await fragile.eventually("getNumber", "ACCESS_NUMBER:", service="xmute", country=6)
    await asyncio.sleep(1.1)
    assert await fragile.health() == (200, 200)
    assert (await running.balance())[1] == 80_000
    assert await running.problems() == []


async def test_a_postgres_that_says_nothing_keeps_nobody_waiting(tmp_path: Path, postgres_server: str) -> None:
    async with wired_postgres(tmp_path, "frozen", postgres_server) as found:
        running, before = found.house, await found.house.balance()
        await found.down()
        changes = [
            ("getNumber", {"service": "tg", "country": 6}),
            ("setStatus", {"id": found.activation_id, "status": 6}),
        ]
        for action, parameters in changes:
            answer, seconds = await found.timed(action, **parameters)
            assert answer == "ERROR_SQL"
            assert seconds < SOON_SECONDS, f"{action} took {seconds:.1f} s"
        answer, seconds = await found.timed("getStatus", id=found.activation_id)
        assert answer.startswith("STATUS_OK:")
        assert seconds < 0.2
        assert await found.health() == (503, 200)

        await found.up()
        # What was on its way may be committed now: the change is done then, and asking for it again says so.
        await found.eventually("setStatus", "ACCESS_ACTIVATION", id=found.activation_id, status=6)
        await found.is_steady()
        await running.gateway.settling.settle(at_start=True)
        assert await running.balance() == before
        assert await running.problems() == []


async def test_postgres_drops_its_connections(tmp_path: Path, postgres_url: str) -> None:
    """A restart there: those who are in the middle hear one word, and the next request goes through."""
    async with _fragile(tmp_path, postgres_url) as found:
        before = await found.house.balance()
        for _ in range(3):
            with psycopg.connect(postgres_url, autocommit=True) as other:
                other.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity"
                    " where datname = current_database() and pid <> pg_backend_pid()"
                )
            answer, seconds = await found.timed("getStatus", id=found.activation_id)
            assert answer.startswith("STATUS_OK:")
            answer, seconds = await found.timed("getBalance")
            assert answer in ("ERROR_SQL", "ACCESS_BALANCE:9.92")
            assert seconds < SOON_SECONDS
            await found.eventually("getBalance", "ACCESS_BALANCE:9.92")
        assert await found.house.balance() == before
        assert await found.house.problems() == []


async def test_polls_go_on_in_an_outage_longer_than_keys_are_remembered(tmp_path: Path) -> None:
    async with moved_sqlite(tmp_path, "") as found:
        await found.down()
        found.house.gateway.callers._known.clear()  # as when their half minute is over
        assert (await found.house.call("getStatus", id=found.activation_id)).startswith("STATUS_OK:")
        assert await found.house.call("getBalance") == "ERROR_SQL"
        assert await found.house.call("getBalance", "A" * 32) == "ERROR_SQL"
        await found.up()
        await found.eventually("getBalance", "ACCESS_BALANCE:")


# Files


async def test_a_bad_file_changes_nothing_and_the_log_says_why(tmp_path: Path, sqlite_url: str) -> None:
    directory = config_directory(tmp_path, pricing='[default]\nfixed = "0.20"\n')
    async with house(directory, environment(sqlite_url)) as running:
        prices = await running.call("getPrices", service="tg", country=6)
        assert '"cost":0.2,' in prices
        written = [
            ("pricing.toml", '[default]\nfixd = "0.30"\n', "fixd"),
            ("gateway.toml", "[limits\n", "gateway.toml"),
            ("upstreams.toml", '[nobody]\nadapter = "nobody"\n', "nobody"),
            ("routing.toml", '[[rule]]\nupstreams = ["sandbx"]\n', "sandbx"),
        ]
        for name, text, mentioned in written:
            before = (directory / name).read_text() if (directory / name).exists() else ""
            (directory / name).write_text(text)
            with capture_logs() as said:
                assert await running.gateway.reload() is False
            assert any(mentioned in str(line) for line in said if line["event"] == "settings.refused"), said
            assert await running.call("getPrices", service="tg", country=6) == prices
            await running.buy("xmute", 6)
            (directory / name).write_text(before)
            assert await running.gateway.reload() is True
        assert await running.problems() == []


async def test_a_good_edit_is_picked_up_while_running(tmp_path: Path, sqlite_url: str) -> None:
    directory = config_directory(tmp_path, pricing='[default]\nfixed = "0.20"\n')
    async with house(directory, environment(sqlite_url)) as running:
        open_id = await running.buy("xmute", 6)
        (directory / "pricing.toml").write_text('[default]\nfixed = "0.30"\n')
        deadline = time.monotonic() + 5
        while '"cost":0.3,' not in await running.call("getPrices", service="tg", country=6):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)
        assert await running.call("getNumber", service="xmute", country=6, maxPrice="0.25") == "WRONG_MAX_PRICE:0.30"
        assert (await running.balance())[1] == 200_000
        assert await running.call("setStatus", id=open_id, status=8) == "ACCESS_CANCEL"
        assert await running.balance() == (10_000_000, 0)


async def test_numbers_of_an_upstream_that_was_removed_are_seen_through(tmp_path: Path, sqlite_url: str) -> None:
    two = SANDBOX + '\n[second]\nadapter = "sandbox"\nquick_seconds = 3\n'
    routing = '[[rule]]\nservices = ["tg"]\nupstreams = ["second"]\n'
    directory = config_directory(tmp_path, two, routing=routing)
    async with house(directory, environment(sqlite_url)) as running:
        one, other = await running.buy("tg", 6), await running.buy("tg", 6)
        assert running.gateway.house.live.at_upstream("second")
        (directory / "routing.toml").unlink()
        (directory / "upstreams.toml").write_text(SANDBOX)
        assert await running.gateway.reload() is True
        assert await running.call("setStatus", id=other, status=8) == "ACCESS_CANCEL"
        third = await running.buy("tg", 6)
        assert str(third) in str(list(running.gateway.house.live.at_upstream("sandbox").values()))
        await running.until(one, "STATUS_OK:")
        assert await running.call("setStatus", id=one, status=3) == "ACCESS_RETRY_GET"
        await running.until(one, "STATUS_OK:")
        assert await running.call("setStatus", id=one, status=6) == "ACCESS_ACTIVATION"
        assert await running.problems() == []


# What is said


@pytest.fixture(scope="module")
def open_shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    directory = tmp_path_factory.mktemp("faults")
    with shop(directory, f"sqlite:///{directory}/simroute.db") as found:
        yield found


def ask(found: Shop, action: str, **parameters: object) -> str:
    query = {"api_key": found.key, "action": action, **{name: str(value) for name, value in parameters.items()}}
    return httpx.get(found.url, params=query, timeout=15).text


def life(found: Shop, service: str) -> list[str]:
    """A whole life; everything of it that must never be written down."""
    _, activation_id, number = ask(found, "getNumber", service=service, country=6).split(":")

    def code() -> str | None:
        answer = ask(found, "getStatus", id=activation_id)
        return answer.removeprefix("STATUS_OK:") if answer.startswith("STATUS_OK:") else None

    secret = [number, until(code), ask(found, "getFullSms", id=activation_id).removeprefix("FULL_SMS:")]
    assert ask(found, "setStatus", id=activation_id, status=6) == "ACCESS_ACTIVATION"
    return secret


def test_the_log_of_lives_good_and_bad_holds_no_secret(open_shop: Shop) -> None:
    secret = [open_shop.key, "simulator-key", *open_shop.server.values.values()]
    secret = [value for value in secret if not value.startswith("sqlite:")]
    ask(open_shop, "setWebhook", url="https://example.invalid/hook?token=a-webhook-token")
    for service in ("tg", "wa", "vi"):
        secret += life(open_shop, service)
    simulator = open_shop.simulators["generic"]
    faults = ("buy.drop", "buy.error", "buy.html", "buy.truncated", "status.html", "status.truncated", "close.error")
    # A purchase in doubt takes its own service and country out of sale, and no other.
    for fault, country in zip(faults, (6, 16, 22, 36, 43, 48, 73), strict=True):
        simulator.fault(fault, 1)
        ask(open_shop, "getNumber", service="wa", country=country)
    for simulator in open_shop.simulators.values():
        simulator.fault("status.html", 3)
        simulator.fault("balance.error", 1)
    secret += [str(order["phone"]) for each in open_shop.simulators.values() for order in each.order_views()]
    path = Path(open_shop.server.values["DATABASE_URL"].removeprefix("sqlite:///"))
    path.rename(path.with_suffix(".away"))
    assert ask(open_shop, "getNumber", service="tg", country=6) == "ERROR_SQL"
    assert ask(open_shop, "setStatus", id=100000001, status=6) in ("ERROR_SQL", "ACCESS_ACTIVATION")
    path.with_suffix(".away").rename(path)
    for rubbish in ("id=x", f"api_key={open_shop.key}&action=nonsense", f"action={open_shop.key}", "%00%ff"):
        httpx.get(f"{open_shop.url}?{rubbish}")
    until(lambda: True if ask(open_shop, "getBalance").startswith("ACCESS_BALANCE:") else None)
    time.sleep(1)
    log = open_shop.server.log.read_text()
    assert len(log.splitlines()) > 20, "so quiet a log proves nothing"
    assert "Traceback" not in log
    secret += ["a-webhook-token", "example.invalid", open_shop.key[:12], *(value.lstrip("+") for value in list(secret))]
    for value in {value for value in secret if len(value) >= 5}:
        found = [line for line in log.splitlines() if re.search(rf"(?<![0-9A-Za-z]){re.escape(value)}(?![0-9])", line)]
        assert not found, (value, found[:2])
    for line in log.splitlines():
        json.loads(line)


ENDINGS = ("opened", "received", "finished")


def test_the_metrics_have_every_promised_series_and_no_secret(open_shop: Shop) -> None:
    secret = [open_shop.key, *life(open_shop, "tg")]
    time.sleep(1.2)
    text = httpx.get(open_shop.server.base + "/metrics").text
    promised = set(re.findall(r"simroute_[a-z_]+", (ROOT / "docs" / "operations.md").read_text()))
    assert len(promised) > 10
    labelled = (
        'simroute_requests_total{action="getNumber",outcome="ok"}',
        'simroute_request_seconds_bucket{action="getStatus",le="0.005"}',
        'simroute_upstream_calls_total{outcome="ok",upstream="herosms",verb="buy"}',
        'simroute_upstream_seconds_bucket{le="0.1",upstream="herosms",verb="buy"}',
        *(f'simroute_activations_total{{status="{status}",upstream="herosms"}}' for status in ENDINGS),
    )
    for series in (*labelled, *sorted(promised)):
        assert series in text, series
    for value in secret:
        assert value not in text


@contextmanager
def logging_to(form: str) -> Iterator[io.StringIO]:
    """Logging as `simroute serve` sets it up, into memory."""
    kept = io.StringIO()
    before, handlers = structlog.get_config(), logging.getLogger().handlers[:]
    logs.configure("debug", form)
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(kept))
    try:
        yield kept
    finally:
        structlog.configure(**before)
        logging.getLogger().handlers[:] = handlers


@pytest.mark.parametrize("form", ["json", "console"])
async def test_an_exception_says_no_key_and_no_number(
    form: str, tmp_path: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A defect of ours, with everything it should not know in its message and in its frames."""
    async with house(config_directory(tmp_path), environment(sqlite_url)) as running:
        key, number = running.keys["alice"], "6281234567890"

        def broken(self: Activations, account_id: int, activation_id: int, *, is_rental: bool) -> None:
            raise RuntimeError(f"key {key} of {number}, +{number}; api_key={key}&x=1")

        monkeypatch.setattr(Activations, "peek", broken)
        with logging_to(form) as kept:
            assert await running.call("getStatus", id=1) == "ERROR_SQL"
        said = kept.getvalue()
    assert "request.failed" in said
    assert "RuntimeError" in said
    assert key not in said
    assert number not in said
