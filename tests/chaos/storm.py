"""The storm: each blow of the plan, struck in its time, and mended when its time is over."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from tests.chaos.machines import Process
from tests.chaos.plan import Blow
from tests.chaos.stage import Stage

PATIENCE_SECONDS = 15.0
DISK_BYTES = 16384
"""What a file may have on a full disk: neither the journal of SQLite nor its pages can be written."""


async def strike(found: Stage, blow: Blow) -> None:
    """One thing breaks, and is mended when its time is over."""
    process = found.processes[blow.target] if blow.kind != "upstream" else found.processes[0]
    if blow.is_patient:
        await _served(process)
    match blow.kind:
        case "kill":
            process.kill(blow.seconds)
        case "stop":
            await process.end(blow.seconds)
        case "freeze":
            await _for(blow, process.freeze, process.thaw)
        case "skew":
            process.set_clock(blow.amount)
        case "reset_clients":
            found.wires[blow.target % len(found.wires)].reset()
        case "receiver":
            await _for(
                blow,
                lambda: setattr(found.receiver, "is_down", True),
                lambda: setattr(found.receiver, "is_down", False),
            )
        case "upstream":
            market = found.market
            await _for(
                blow,
                lambda: market.begin(blow.target, blow.fault, blow.commit, blow.seconds),
                lambda: market.end(blow.target, blow.fault),
            )
        case "fill_disk":
            await _for(blow, lambda: process.limit_files(DISK_BYTES), lambda: process.limit_files(-1))
        case "lock_sqlite":
            await _lock(found, blow)
        case "flush_redis" | "kill_redis" | "freeze_redis":
            await _break_redis(found, blow)
        case "restart_postgres" | "reset_postgres" | "freeze_postgres" | "swallow_postgres":
            await _break_postgres(found, blow)


async def _served(process: Process) -> None:
    """Waits until it serves, but not for ever. Of one without a port nobody knows."""
    with suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE_SECONDS if process.port else 0.0):
            while not process.is_serving:  # noqa: ASYNC110 — another process tells, by what it writes
                await asyncio.sleep(0.05)


async def _for(blow: Blow, begin: Callable[[], Any], end: Callable[[], Any]) -> None:
    begin()
    try:
        await asyncio.sleep(blow.seconds)
    finally:
        end()


async def _lock(found: Stage, blow: Blow) -> None:
    other = sqlite3.connect(found.directory / "simroute.db", isolation_level=None, timeout=5, check_same_thread=False)
    try:
        with suppress(sqlite3.OperationalError):  # somebody else has it for long
            await asyncio.to_thread(other.execute, "begin immediate")
            await asyncio.sleep(blow.seconds)
            other.execute("rollback")
    finally:
        other.close()


async def _break_redis(found: Stage, blow: Blow) -> None:
    redis = found.redis
    assert redis is not None
    if blow.kind == "flush_redis":
        await redis.flush()
    elif blow.kind == "kill_redis":
        await _for(blow, redis.end, redis.begin)
    else:
        await _for(blow, redis.freeze, redis.thaw)


async def _break_postgres(found: Stage, blow: Blow) -> None:
    server, wire = found.postgres, found.postgres_wire
    assert server is not None
    assert wire is not None
    if blow.kind == "reset_postgres":
        wire.reset()
    elif blow.kind == "freeze_postgres":
        await wire.freeze()
        await asyncio.sleep(blow.seconds)
        await wire.mend()
    elif blow.kind == "swallow_postgres":
        await _for(blow, wire.swallow, wire.end_swallowed)
    else:
        async with server.restarting:
            await asyncio.to_thread(server.end)
            await asyncio.sleep(blow.seconds)
            await asyncio.to_thread(server.begin)


async def storm(found: Stage) -> None:
    """The plan, to its end. What is still broken then is mended by whoever broke it."""
    began = time.monotonic()
    striking: list[asyncio.Task[None]] = []
    pace = random.Random(f"pace:{found.settings.seed}")
    for blow in found.settings.plan:
        await asyncio.sleep(max(0.0, began + blow.at - time.monotonic()))
        found.market.change_pace(pace)
        striking.append(asyncio.create_task(strike(found, blow), name=str(blow)))
    await asyncio.sleep(max(0.0, began + found.settings.seconds - time.monotonic()))
    await asyncio.gather(*striking)
