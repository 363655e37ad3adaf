"""An upstream that takes connections and gives no answer: its orders go elsewhere, and nobody else's wait for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from gateway import purchases
from gateway.upstream import OfferTable
from tests.harness import House, config_directory, environment, house
from tests.simulators import handler_api
from tests.simulators._serve import serve

STANZAS = """
[steady]
adapter = "herosms"
base_url = "{steady}/stubs/handler_api.php"
priority = 2
poll_seconds = 0.1

[hanging]
adapter = "handler_api"
base_url = "http://127.0.0.1:{port}/"
priority = 1
offers_seconds = 3600.0
offers_max_age_seconds = 3600.0
"""
SETTINGS = """
[health]
faults_to_open = 3
cooldown_seconds = 600

[activations]
order_deadline_seconds = {deadline}
"""
ATTEMPT_SECONDS, FIND_SECONDS = 1.0, 0.3
SERVICES = ("tg", "wa", "vi", "ig")
SOON_SECONDS = 0.9
"""Less than an attempt at the upstream that hangs."""


@asynccontextmanager
async def listener(*, drips: bool) -> AsyncIterator[int]:
    """A server that reads and says nothing, or a byte at a time of an answer that never ends; its port."""

    tasks: set[asyncio.Task[None]] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            if drips:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 100000\r\n\r\n")
            while drips:
                writer.write(b"A")
                await writer.drain()
                await asyncio.sleep(0.02)
            await reader.read()
        except (OSError, EOFError):
            pass
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.ensure_future(answer(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def shop(
    tmp_path: Path, url: str, *, drips: bool, deadline: float, with_steady: bool = True
) -> AsyncIterator[House]:
    app = handler_api.build(brand="herosms", sms_delay_seconds=0.2, early_cancel_seconds=0)
    with serve(app) as steady:
        async with listener(drips=drips) as port:
            stanzas = STANZAS.format(steady=steady, port=port)
            if not with_steady:
                stanzas = "[hanging]" + stanzas.partition("[hanging]")[2]
            config = config_directory(
                tmp_path, stanzas, SETTINGS.format(deadline=deadline), routing='policy = "priority"\n'
            )
            values = environment(url, STEADY_API_KEY=handler_api.DEFAULT_KEY, HANGING_API_KEY="k" * 32)
            async with house(config, values, is_demo=False) as running:
                market = running.gateway.house.market
                rows = [(service, 6, 10_000, 1000, "", None) for service in SERVICES]
                market.put("hanging", OfferTable("hanging", "USD", rows))
                while with_steady and not market.list_of("steady")[0]:
                    await running.call("getBalance")
                yield running


async def timed(running: House, service: str) -> tuple[str, float]:
    started = time.monotonic()
    answer = await running.call("getNumber", service=service, country=6, maxPrice="5")
    return answer, time.monotonic() - started


@pytest.mark.parametrize("drips", [False, True], ids=["silent", "drips"])
async def test_an_upstream_that_hangs_is_left_out_within_one_breaker_period(
    tmp_path: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch, drips: bool
) -> None:
    monkeypatch.setattr(purchases, "ATTEMPT_SECONDS_MAX", ATTEMPT_SECONDS)
    monkeypatch.setattr(purchases, "FIND_SECONDS", FIND_SECONDS)
    async with shop(tmp_path, sqlite_url, drips=drips, deadline=9.0) as running:
        waves = await asyncio.gather(*(timed(running, service) for service in SERVICES))
        for answer, seconds in waves:
            assert answer.startswith("ACCESS_NUMBER:"), answer
            assert seconds > ATTEMPT_SECONDS, "the one that hangs was asked first"
        assert running.gateway.house.health.is_open("hanging")
        waves = await asyncio.gather(*(timed(running, service) for service in SERVICES))
        for answer, seconds in waves:
            assert answer.startswith("ACCESS_NUMBER:"), answer
            assert seconds < SOON_SECONDS
        await asyncio.gather(*(running.until(answer.split(":")[1], "STATUS_OK:") for answer, _ in waves))
        assert (
            running.gateway.house.metrics.render().decode().count('simroute_attempts_in_doubt{upstream="steady"}') == 0
        )
        assert await running.problems() == []


async def test_nobody_is_held_longer_than_an_orders_deadline(tmp_path: Path, sqlite_url: str) -> None:
    async with shop(tmp_path, sqlite_url, drips=True, deadline=2.0, with_steady=False) as running:
        for answer, seconds in await asyncio.gather(*(timed(running, service) for service in SERVICES)):
            assert answer == "NO_NUMBERS"
            assert seconds < 2.0 + 1.0
        assert (await running.balance())[1] == 0, "the caller never pays for a purchase in doubt"
        assert await running.problems() == []
