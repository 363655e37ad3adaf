"""Measures the gateway against floors: `python -m bench [--quick]`, or `--usage` for reports of ten million rows.

Prints a table for people, writes `var/bench.json` for programs, and exits with status 1 where a floor is missed.

Speeds are ratios to a bare server of the same parts on the same machine, since absolute figures say more about the
machine than about the gateway. The two take turns, and the median of the rounds' ratios counts: whatever else the
machine is doing then meets both alike.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import signal
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import httpx

from bench import crowd, stage, usage
from bench.load import ROOT, Hammer, Polling, percentile, submit

OUTPUT = ROOT / "var" / "bench.json"
USAGE_ROWS = 10_000_000
CONNECTIONS = 16
POLLED = 100
"""Waiting activations the polls of `get_status_ratio` go round."""

OPEN = 500
POLL_CONNECTIONS = 50
PUSH_PATIENCE_SECONDS = 10.0

FAIR_OPEN = 300
"""What a client polls once a second each, while another one floods."""

FLOOD_CONNECTIONS = 64
FLOOD_LEAD_SECONDS = 0.5


@dataclass(frozen=True)
class Plan:
    """How long everything takes."""

    rounds: int
    status_requests: int
    number_requests: int
    bare_number_requests: int
    round_seconds: float
    """A round ends then at the latest."""

    polling_seconds: float
    delivery_seconds: float
    deliveries: int
    pushes: int
    fair_rounds: int
    fair_seconds: float
    crowd_seconds: float
    crowd_processes: int = 1


FULL = Plan(7, 20_000, 600, 2_000, 3.0, 40.0, 30.0, 60, 200, 5, 6.0, 30.0)
QUICK = Plan(3, 5_000, 200, 600, 1.5, 12.5, 10.0, 30, 50, 3, 3.0, 10.0)


@dataclass(frozen=True)
class Figure:
    """One measured number beside its floor. `is_at_most`: the smaller the better."""

    name: str
    value: float
    floor: float
    is_at_most: bool = False

    @property
    def is_met(self) -> bool:
        return self.value <= self.floor if self.is_at_most else self.value >= self.floor


@dataclass(frozen=True)
class Part:
    """What one phase found: its figures and everything beside them."""

    figures: Sequence[Figure]
    details: Mapping[str, Any]


def median_of(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median of each thing a load generator measured."""
    return {name: statistics.median(seen[name] for seen in rounds) for name in ("per_second", "p50_ms", "p99_ms")}


def take_turns(ours: Hammer, bare: Hammer, rounds: int) -> dict[str, Any]:
    """Both jobs in turn, after one uncounted turn each: medians of both, and of the rounds' ratios."""
    for job in (ours, bare):
        submit(job)
    pairs = [(submit(ours), submit(bare)) for _ in range(rounds)]
    ratios = [one["per_second"] / other["per_second"] for one, other in pairs]
    return {
        "gateway": median_of([one for one, _ in pairs]),
        "bare": median_of([other for _, other in pairs]),
        "ratios": ratios,
        "ratio": statistics.median(ratios),
    }


def buy(server: stage.Gateway, count: int) -> list[tuple[str, str]]:
    """Opens so many activations; the id and the number of each."""
    job = Hammer(server.port, [server.purchase], count, CONNECTIONS, "ACCESS_NUMBER:", keeps=True)
    answers = (answer.split(":") for answer in submit(job)["answers"])
    return [(activation_id, number) for _, activation_id, number in answers]


def status_paths(server: stage.Gateway, bought: Sequence[tuple[str, str]]) -> list[str]:
    return [server.path("getStatus", id=activation_id) for activation_id, _ in bought]


def measure_status(plan: Plan, directory: Path) -> Part:
    """getStatus of waiting activations, by the side of a server that says the same to everybody."""
    with (
        stage.upstream(directory) as behind,
        stage.gateway(directory, behind) as server,
        stage.bare(directory, "plain") as bare,
    ):
        paths = status_paths(server, buy(server, POLLED))
        ours, theirs = (
            Hammer(process.port, paths, plan.status_requests, CONNECTIONS, "STATUS_WAIT_CODE", plan.round_seconds)
            for process in (server, bare)
        )
        seen = take_turns(ours, theirs, plan.rounds)
    return Part([Figure("get_status_ratio", seen["ratio"], 0.5)], {"get_status": seen})


def measure_number(plan: Plan, directory: Path) -> Part:
    """getNumber end to end, by the side of a server that only asks upstream.

    Each has a simulated upstream of its own, or the gateway's poller would page through purchases that are not its own.
    """
    with (
        stage.upstream(directory) as behind,
        stage.upstream(directory) as other,
        stage.gateway(directory, behind) as server,
        stage.bare(directory, "pass", stage.direct_purchase(other)) as bare,
    ):
        path = server.purchase
        seconds = plan.round_seconds
        ours = Hammer(server.port, [path], plan.number_requests, CONNECTIONS, "ACCESS_NUMBER:", seconds)
        theirs = Hammer(bare.port, [path], plan.bare_number_requests, CONNECTIONS, '{"activationId"', seconds)
        seen = take_turns(ours, theirs, plan.rounds)
    return Part([Figure("get_number_ratio", seen["ratio"], 0.15)], {"get_number": seen})


def measure_polling(plan: Plan, directory: Path) -> Part:
    """Clients that poll as clients do: what their polls cost upstream; then, how late they see a code."""
    with stage.upstream(directory) as behind, stage.gateway(directory, behind) as server:
        bought = buy(server, OPEN)
        paths = status_paths(server, bought)
        polling = submit(Polling(server.port, behind.port, paths, plan.polling_seconds, POLL_CONNECTIONS))
        orders = stage.orders_by_number(behind)
        chosen = random.sample(range(OPEN), plan.deliveries)
        deliveries = [(place, orders[bought[place][1]]) for place in chosen]
        job = Polling(server.port, behind.port, paths, plan.delivery_seconds, POLL_CONNECTIONS, deliveries)
        delivering = submit(job)
    delays = delivering["delays_seconds"]
    figures = [
        Figure("upstream_calls_per_1000_polls", polling["upstream_calls"] * 1000 / polling["polls"], 5, True),
        Figure("sms_delay_median_seconds", statistics.median(delays), 2, True),
    ]
    sms = {"count": len(delays), "p90_seconds": percentile(delays, 0.9), "max_seconds": max(delays)}
    return Part(figures, {"polling": polling, "sms_delay": sms})


def measure_push(plan: Plan, directory: Path) -> Part:
    """How soon a client reads a code that the upstream pushes, unsigned: the lease is read before it is believed.

    The gateway's own polls are half a minute apart, so that they can't be what brought it.
    """
    with (
        stage.upstream(directory) as behind,
        stage.gateway(directory, behind, poll_seconds=30.0) as server,
        httpx.Client(base_url=server.base, trust_env=False) as client,
        httpx.Client(base_url=behind.base, trust_env=False) as control,
    ):
        bought = buy(server, plan.pushes)
        orders = stage.orders_by_number(behind)
        delays = [
            push_delay(server, client, control, activation_id, orders[number]) for activation_id, number in bought
        ]
    figures = [Figure("push_delay_p90_seconds", percentile(delays, 0.9), 0.1, True)]
    pushed = {"count": len(delays), "median_seconds": statistics.median(delays), "max_seconds": max(delays)}
    return Part(figures, {"push": pushed})


def push_delay(
    server: stage.Gateway, client: httpx.Client, control: httpx.Client, activation_id: str, order_id: str
) -> float:
    """Seconds from sending the push to the answer that has the code."""
    control.post("/_sim/sms", json={"id": order_id, "text": "Your code is 12345"}).raise_for_status()
    path = server.path("getStatus", id=activation_id)
    started = time.monotonic()
    client.post(server.push_path, json={"activationId": order_id, "service": stage.SERVICE}).raise_for_status()
    while client.get(path).text != "STATUS_OK:12345":
        if time.monotonic() - started > PUSH_PATIENCE_SECONDS:
            raise RuntimeError("a pushed code never came")
    return time.monotonic() - started


def measure_fairness(plan: Plan, directory: Path) -> Part:
    """One client's polls alone, beside another's that polls as fast as it can, and beside one that buys so.

    The floods have the limits every key has that was given none. They begin before the client is looked at and end
    after it: what is measured is neither the calm before nor after.
    """
    with stage.upstream(directory) as behind, stage.gateway(directory, behind) as server:
        paths = status_paths(server, buy(server, FAIR_OPEN))
        client = Polling(server.port, behind.port, paths, plan.fair_seconds, POLL_CONNECTIONS)
        flooded = submit(Hammer(server.port, [_of_flood(server, "getNumber")], 1, 1, "ACCESS_NUMBER:", keeps=True))
        activation_id = flooded["answers"][0].split(":")[1]
        floods = {
            "polls": _of_flood(server, "getStatus", id=activation_id),
            "purchases": _of_flood(server, "getNumber"),
        }
        submit(client)
        rounds = [
            {"alone": submit(client), **{name: beside(client, path, server) for name, path in floods.items()}}
            for _ in range(plan.fair_rounds)
        ]
    figures = [
        Figure(f"beside_{name}_{kind}_ratio", _ratio(rounds, name, f"{kind}_ms"), floor, True)
        for name in floods
        for kind, floor in (("p50", 2), ("p99", 3))
    ]
    details = {name: median_of([seen[name] for seen in rounds]) for name in ("alone", *floods)}
    for name in floods:
        details[name]["flood_per_second"] = statistics.median(seen[name]["flood"]["per_second"] for seen in rounds)
    return Part(figures, {"fairness": details})


def measure_crowd(plan: Plan, directory: Path) -> Part:
    """A hundred clients through whole lives, on PostgreSQL and Redis."""
    seen = crowd.measure(directory, plan.crowd_seconds, plan.crowd_processes)
    figures = [
        Figure("crowd_errors", len(seen["gateway"]["errors"]), 0, True),
        Figure("crowd_poll_p99_ms", seen["gateway"]["poll"]["p99_ms"], crowd.POLL_MILLISECONDS_MAX, True),
        Figure("crowd_buy_above_upstream_p99_ms", seen["buy_p99_above_upstream_ms"], crowd.BUY_MILLISECONDS_MAX, True),
    ]
    return Part(figures, {"crowd": seen})


def _of_flood(server: stage.Gateway, action: str, **values: object) -> str:
    place = {"service": stage.SERVICE, "country": stage.COUNTRY} if action == "getNumber" else {}
    return server.path(action, server.flood_key, **place, **values)


def beside(client: Polling, path: str, server: stage.Gateway) -> dict[str, Any]:
    """What the client sees while this path is asked for over many connections, and what the flood saw."""
    seconds = client.seconds + 2 * FLOOD_LEAD_SECONDS + 1.0  # a process takes a while to start
    flood = Hammer(server.port, [path], stage.PLENTY, FLOOD_CONNECTIONS, "", seconds)
    with ThreadPoolExecutor(1) as other:
        flooding = other.submit(submit, flood)
        time.sleep(FLOOD_LEAD_SECONDS)
        seen = submit(client)
        return {**seen, "flood": flooding.result()}


def _ratio(rounds: Sequence[Mapping[str, Any]], name: str, kind: str) -> float:
    """The median of how many times as long an answer took as alone, in the same round."""
    return float(statistics.median(seen[name][kind] / seen["alone"][kind] for seen in rounds))


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "system": platform.platform(),
    }


def table(report: Mapping[str, Any], figures: Sequence[Figure]) -> str:
    """What a person reads."""
    facts, details = report["machine"], report["details"]
    lines = [
        f"Python {facts['python']}, SQLite {facts['sqlite']}, {facts['cores']} cores,"
        f" load average {facts['load_average']:.1f} at the start, {report['seconds']:.0f} s",
        "",
        f"{'FIGURE':<31}{'MEASURED':>9}  {'FLOOR':>7}  MET",
        *(_figure_line(figure) for figure in figures),
        "",
        f"{'ABSOLUTE':<31}{'REQ/S':>9}{'P50 MS':>9}{'P99 MS':>9}",
        _speed_line("getStatus, gateway", details["get_status"]["gateway"]),
        _speed_line("getStatus, bare", details["get_status"]["bare"]),
        _speed_line("getNumber, gateway", details["get_number"]["gateway"]),
        _speed_line("getNumber, bare pass-through", details["get_number"]["bare"]),
        _speed_line(f"{OPEN} activations polled", details["polling"]),
        _speed_line(f"{FAIR_OPEN} polled, alone", details["fairness"]["alone"]),
        _speed_line(f"{FAIR_OPEN} polled, flood of polls", details["fairness"]["polls"]),
        _speed_line(f"{FAIR_OPEN} polled, of purchases", details["fairness"]["purchases"]),
        "",
        "{upstream_calls} upstream calls for {polls} polls;".format_map(details["polling"])
        + " {count} SMS, delay p90 {p90_seconds:.2f} s, max {max_seconds:.2f} s".format_map(details["sms_delay"]),
        "{count} pushes, readable after {median_seconds:.3f} s, max {max_seconds:.3f} s".format_map(details["push"]),
        *crowd.lines(details["crowd"]),
    ]
    return "\n".join(lines)


def _figure_line(figure: Figure) -> str:
    floor = f"{'≤' if figure.is_at_most else '≥'} {figure.floor:g}"
    return f"{figure.name:<31}{figure.value:>9.3f}  {floor:>7}  {'yes' if figure.is_met else 'NO'}"


def _speed_line(name: str, seen: Mapping[str, float]) -> str:
    return f"{name:<31}{seen['per_second']:>9,.0f}{seen['p50_ms']:>9.2f}{seen['p99_ms']:>9.2f}"


PHASES = (measure_status, measure_number, measure_polling, measure_push, measure_fairness, measure_crowd)


def run(plan: Plan, directory: Path) -> tuple[dict[str, Any], list[Figure]]:
    """Every phase; the report and its figures."""
    started, facts = time.monotonic(), machine()
    figures: list[Figure] = []
    details: dict[str, Any] = {}
    for measure in PHASES:
        print(f"… {measure.__name__.removeprefix('measure_')}", file=sys.stderr)
        part = measure(plan, directory)
        figures += part.figures
        details |= part.details
    report = {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "plan": asdict(plan),
        "machine": facts,
        "seconds": time.monotonic() - started,
        "is_met": all(figure.is_met for figure in figures),
        "figures": {figure.name: {**asdict(figure), "is_met": figure.is_met} for figure in figures},
        "details": details,
    }
    return report, figures


def only_crowd(plan: Plan, directory: Path) -> int:
    """That phase alone; the exit status."""
    facts, part = machine(), measure_crowd(plan, directory)
    print(f"{facts['cores']} cores, load average {facts['load_average']:.1f} at the start")
    print("\n".join([*map(_figure_line, part.figures), *crowd.lines(part.details["crowd"])]))
    return 0 if all(figure.is_met for figure in part.figures) else 1


def main() -> int:
    flags = argparse.ArgumentParser(prog="python -m bench", description="Measures the gateway against floors.")
    flags.add_argument("--quick", action="store_true", help="a minute or two, and less exact")
    flags.add_argument("--usage", action="store_true", help="only reports of usage, on PostgreSQL; takes minutes")
    flags.add_argument("--usage-rows", type=int, default=USAGE_ROWS, help="activations it generates")
    flags.add_argument("--crowd", action="store_true", help="only a hundred clients buying, polling and finishing")
    flags.add_argument("--crowd-seconds", type=float, help="for how long; 300 is what is promised")
    flags.add_argument("--crowd-processes", type=int, default=1, help="serving processes they share")
    given = flags.parse_args()
    if given.usage:
        return usage.main(given.usage_rows, OUTPUT.with_name("bench-usage.json"))
    plan = QUICK if given.quick else FULL
    crowd_seconds = given.crowd_seconds or plan.crowd_seconds
    plan = replace(plan, crowd_seconds=crowd_seconds, crowd_processes=given.crowd_processes)
    # A polite kill unwinds the stack as Ctrl-C does, so that no server outlives the bench.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    OUTPUT.parent.mkdir(exist_ok=True)
    # Beside the database a gateway would have: a temporary directory in memory would make commits free.
    with tempfile.TemporaryDirectory(prefix="bench-", dir=OUTPUT.parent) as directory:
        if given.crowd:
            return only_crowd(plan, Path(directory))
        report, figures = run(plan, Path(directory))
    OUTPUT.write_text(json.dumps(report, indent=2) + "\n")
    print(table(report, figures))
    return 0 if report["is_met"] else 1


if __name__ == "__main__":
    sys.exit(main())
