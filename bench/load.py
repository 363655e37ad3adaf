"""The load generator, a process of its own so that the server has a core to itself.

`python -m bench.load` reads one job as JSON from standard input, does it and prints what it saw as JSON. `submit` is
the other end. Jobs are bounded in time: a slow server gets fewer requests, and one that stops answering ends the job
with an error.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import uvloop

from bench import wire

ROOT = Path(__file__).resolve().parent.parent
WATCH_SECONDS = 0.05
"""How often a delivered SMS is looked for."""

MISSING_AFTER_SECONDS = 30.0
START_SECONDS = 10.0
STUCK_SECONDS = 15.0
"""An answer that takes longer never comes."""

STATUS_ACTIONS_EXCLUDED = frozenset({"getNumber", "getNumberV2", "getPrices", "getBalance", "setStatus"})
"""Whatever else is asked of an upstream is asked to learn how activations stand."""


@dataclass(frozen=True)
class Hammer:
    """So many GETs of these paths in turn, as fast as so many connections can; every answer must begin as expected
    (where that is nothing, it need only come).

    After `seconds` no more are sent, however many are left.
    """

    port: int
    paths: Sequence[str]
    requests: int
    connections: int
    expects: str
    seconds: float = 60.0
    keeps: bool = False
    """Whether the answers are wanted."""

    @property
    def seconds_max(self) -> float:
        return self.seconds + STUCK_SECONDS


@dataclass(frozen=True)
class Polling:
    """Every path once a second for so long, spread evenly. `simulator` is where upstream calls are counted."""

    port: int
    simulator: int
    paths: Sequence[str]
    seconds: float
    connections: int
    deliveries: Sequence[tuple[int, str]] = ()
    """SMS that arrive meanwhile, at random times: a path's place, and its order upstream."""

    @property
    def seconds_max(self) -> float:
        return self.seconds + MISSING_AFTER_SECONDS + 10.0


@dataclass(frozen=True)
class Crowd:
    """A client per key: buys, polls once a second until its code comes, finishes, buys again.

    `buys` is what a purchase names; where that is nothing, there is only polling. The clients share `ports` evenly.
    Meanwhile one buys once a second at `direct`, on the `simulator`: the upstream's own time.
    """

    ports: Sequence[int]
    path: str
    keys: Sequence[str]
    seconds: float
    buys: str
    simulator: int
    direct: str

    @property
    def seconds_max(self) -> float:
        return self.seconds + MISSING_AFTER_SECONDS + STUCK_SECONDS


def submit(job: Hammer | Polling | Crowd) -> dict[str, Any]:
    """Has a fresh process do the job; what it saw. Raises RuntimeError where it failed."""
    asked = json.dumps({"kind": type(job).__name__, "job": asdict(job)})
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.load"],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        output, trouble = process.communicate(asked, timeout=job.seconds_max + START_SECONDS)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    if process.returncode:
        raise RuntimeError(f"the load generator failed: {trouble.strip().splitlines()[-1:]}")
    seen: dict[str, Any] = json.loads(output)
    return seen


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of them do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _latency(seconds: Sequence[float]) -> dict[str, float]:
    return {"p50_ms": percentile(seconds, 0.5) * 1e3, "p99_ms": percentile(seconds, 0.99) * 1e3}


# As fast as it goes


class _Lane:
    """One connection of a hammer: asks, and on each answer asks again until the hammer has enough."""

    def __init__(self, run: _HammerRun) -> None:
        self._run = run
        self._connection: wire.Connection | None = None
        self._asked_at = 0.0

    async def open(self, port: int) -> None:
        self._connection = await wire.connect(port, lambda: self._run.fail("the server hung up"))

    def ask(self) -> None:
        self._asked_at = time.perf_counter()
        request = self._run.next_request(self._asked_at)
        if request is None or self._connection is None:
            self._run.lane_finished()
        else:
            self._connection.send(request, self._answered)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def _answered(self, status: bytes, body: bytes) -> None:
        self._run.answered(time.perf_counter() - self._asked_at, status, body)
        self.ask()


class _HammerRun:
    def __init__(self, job: Hammer) -> None:
        self.job = job
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.latencies: list[float] = []
        self.answers: list[str] = []
        self._requests = islice(cycle([wire.get(path) for path in job.paths]), job.requests)
        self._expects = job.expects.encode()
        self._running = job.connections
        self._stop_at = time.perf_counter() + job.seconds

    def next_request(self, now: float) -> bytes | None:
        return next(self._requests, None) if now < self._stop_at else None

    def lane_finished(self) -> None:
        self._running -= 1
        if not self._running and not self.done.done():
            self.done.set_result(None)

    def answered(self, seconds: float, status: bytes, body: bytes) -> None:
        if self._expects and (status != b"200" or not body.startswith(self._expects)):
            self.fail(f"wrong answer: {status.decode()} {body[:200]!r}")
            return
        self.latencies.append(seconds)
        if self.job.keeps:
            self.answers.append(body.decode())

    def fail(self, reason: str) -> None:
        if not self.done.done():
            self.done.set_exception(RuntimeError(reason))


async def hammer(job: Hammer) -> dict[str, Any]:
    """Does the job; requests per second and latencies. Raises RuntimeError on the first wrong answer."""
    run = _HammerRun(job)
    lanes = [_Lane(run) for _ in range(job.connections)]
    try:
        for lane in lanes:
            await lane.open(job.port)
        started = time.perf_counter()
        for lane in lanes:
            lane.ask()
        async with asyncio.timeout(job.seconds_max):
            await run.done
        seconds = time.perf_counter() - started
    finally:
        for lane in lanes:
            lane.close()
    return {
        "requests": len(run.latencies),
        "seconds": seconds,
        "per_second": len(run.latencies) / seconds,
        **_latency(run.latencies),
        "answers": run.answers,
    }


# At the pace of clients


async def poll(job: Polling) -> dict[str, Any]:
    """Does the job: polls, what they cost upstream, and how late each SMS was seen. Raises ConnectionError."""
    simulator = wire.Client(job.simulator)
    calls_before = await _status_calls(simulator)
    started = time.perf_counter()
    # A client polls its number every second, however many others a connection serves.
    groups = [job.paths[place :: job.connections] for place in range(job.connections)]
    clients = (_poll_in_turn(job.port, paths, started, place, job) for place, paths in enumerate(groups))
    watchers = (_deliver_and_watch(job, place, order) for place, order in job.deliveries)
    latencies, delays = await asyncio.gather(asyncio.gather(*clients), asyncio.gather(*watchers))
    seconds = time.perf_counter() - started
    calls = await _status_calls(simulator) - calls_before
    simulator.close()
    every = [latency for group in latencies for latency in group]
    return {
        "polls": len(every),
        "seconds": seconds,
        "per_second": len(every) / seconds,
        "upstream_calls": calls,
        "delays_seconds": list(delays),
        **_latency(every),
    }


async def _poll_in_turn(port: int, paths: Sequence[str], started: float, place: int, job: Polling) -> list[float]:
    """Each path once a second on one connection; the latencies."""
    client, latencies = wire.Client(port), []
    requests = [wire.get(path) for path in paths]
    pause = 1.0 / len(requests)
    due = started + pause * place / job.connections
    for request in cycle(requests):
        if due >= started + job.seconds:
            break
        await asyncio.sleep(due - time.perf_counter())
        asked_at = time.perf_counter()
        answer = await client.ask(request)
        latencies.append(time.perf_counter() - asked_at)
        if not answer.startswith((b"STATUS_WAIT_CODE", b"STATUS_OK:")):
            raise ConnectionError(f"wrong answer: {answer[:200]!r}")
        due += pause
    client.close()
    return latencies


async def _deliver_and_watch(job: Polling, place: int, order: str) -> float:
    """Has an SMS arrive upstream at a random time; how many seconds later a client could read it.

    Counted from before the simulator is told: what that takes is added to the delay, never taken from it.
    """
    await asyncio.sleep(random.uniform(0, job.seconds))
    simulator, client = wire.Client(job.simulator), wire.Client(job.port)
    code = f"{random.randrange(10_000, 100_000)}"
    body = json.dumps({"id": order, "text": f"Your code is {code}"}).encode()
    arrived_at = time.perf_counter()
    await simulator.ask(wire.post("/_sim/sms", body))
    request, wanted = wire.get(job.paths[place]), f"STATUS_OK:{code}".encode()
    while await client.ask(request) != wanted:
        if time.perf_counter() - arrived_at > MISSING_AFTER_SECONDS:
            raise ConnectionError(f"an SMS was not seen for {MISSING_AFTER_SECONDS:.0f} s")
        await asyncio.sleep(WATCH_SECONDS)
    seconds = time.perf_counter() - arrived_at
    simulator.close()
    client.close()
    return seconds


async def _status_calls(simulator: wire.Client) -> int:
    state = json.loads(await simulator.ask(wire.get("/_sim/state?orders=none")))
    return sum(count for action, count in state["requests"].items() if action not in STATUS_ACTIONS_EXCLUDED)


# Whole lives


class _CrowdRun:
    """What a crowd saw. An answer that is not the one of the protocol is an error; having no numbers is none."""

    def __init__(self, job: Crowd) -> None:
        self.job = job
        self.stop_at = time.perf_counter() + job.seconds
        self.polls: list[float] = []
        self.buys: list[float] = []
        self.direct: list[float] = []
        self.errors: list[str] = []
        self.lives = self.no_numbers = 0

    @property
    def is_over(self) -> bool:
        return time.perf_counter() >= self.stop_at

    async def client(self, place: int) -> None:
        """One client, from its turn within the first second on."""
        job = self.job
        connection = wire.Client(job.ports[place % len(job.ports)])
        base = f"{job.path}?api_key={job.keys[place]}&action="
        await asyncio.sleep(place / len(job.keys))
        while not self.is_over:
            try:
                await self._live(connection, base)
            except ConnectionError as error:
                self.errors.append(str(error))
                await asyncio.sleep(1.0)
        connection.close()

    async def _live(self, connection: wire.Client, base: str) -> None:
        if not self.job.buys:
            await _timed(connection, base + "getStatus&id=1", self.polls)
            await asyncio.sleep(1.0)
            return
        bought = await _timed(connection, f"{base}getNumber{self.job.buys}", self.buys)
        if bought == "NO_NUMBERS":
            self.no_numbers += 1
            await asyncio.sleep(1.0)
            return
        word, _, rest = bought.partition(":")
        if word != "ACCESS_NUMBER":
            raise ConnectionError(f"getNumber: {bought[:50]}")
        activation_id = rest.partition(":")[0]
        until = time.perf_counter() + MISSING_AFTER_SECONDS
        while not (state := await _timed(connection, f"{base}getStatus&id={activation_id}", self.polls)).startswith(
            "STATUS_OK:"
        ):
            if state != "STATUS_WAIT_CODE" or time.perf_counter() > until:
                raise ConnectionError(f"getStatus: {state[:50]}")
            await asyncio.sleep(1.0)
        done = (await connection.ask(wire.get(f"{base}setStatus&status=6&id={activation_id}"))).decode()
        if done != "ACCESS_ACTIVATION":
            raise ConnectionError(f"setStatus: {done[:50]}")
        self.lives += 1

    async def buy_directly(self) -> None:
        """What a purchase takes with nothing in between."""
        connection = wire.Client(self.job.simulator)
        while self.job.buys and not self.is_over:
            await _timed(connection, self.job.direct, self.direct)
            await asyncio.sleep(1.0)
        connection.close()


async def _timed(connection: wire.Client, path: str, seconds: list[float]) -> str:
    asked_at = time.perf_counter()
    answer = await connection.ask(wire.get(path))
    seconds.append(time.perf_counter() - asked_at)
    return answer.decode()


async def crowd(job: Crowd) -> dict[str, Any]:
    """Does the job: latencies of polls, purchases and direct purchases, and every error."""
    run = _CrowdRun(job)
    async with asyncio.timeout(job.seconds_max):
        await asyncio.gather(run.buy_directly(), *(run.client(place) for place in range(len(job.keys))))
    measured = {"poll": run.polls, "buy": run.buys, "direct": run.direct}
    return {
        "lives": run.lives,
        "no_numbers": run.no_numbers,
        "errors": run.errors,
        **{name: {"count": len(every), **_latency(every)} for name, every in measured.items() if every},
    }


async def _work(kind: str, job: dict[str, Any]) -> dict[str, Any]:
    if kind == Hammer.__name__:
        return await hammer(Hammer(**job))
    if kind == Crowd.__name__:
        return await crowd(Crowd(**job))
    polling = Polling(**job)
    async with asyncio.timeout(polling.seconds_max):
        return await poll(polling)


def main() -> None:
    asked = json.load(sys.stdin)
    json.dump(uvloop.run(_work(asked["kind"], asked["job"])), sys.stdout)


if __name__ == "__main__":
    main()
