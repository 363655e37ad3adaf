"""The processes a measurement needs: a gateway, simulated upstreams, bare servers. All end with the bench."""

from __future__ import annotations

import json
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

import httpx

from gateway.inbox import push_secret
from gateway.settings import LimitsSettings
from gateway.vault import Vault, read_secrets
from tests import harness
from tests.simulators.handler_api import DEFAULT_KEY

START_SECONDS = 20.0
STOP_SECONDS = 10.0
PLENTY = 1_000_000_000
BALANCE = "1000000000"
ACCOUNT = "bench"
SERVICE, COUNTRY = "tg", 6

GATEWAY = f"""
[limits]
changes_per_minute = {PLENTY}
polls_per_minute = {PLENTY}
open_activations = {PLENTY}

[fuse]
slow_after = 0
stop_after = 0

[activations]
life_seconds = 1200
"""
"""Limits are counted as always, but nothing in a bench reaches them."""


@dataclass(frozen=True)
class Process:
    """A server on this machine."""

    base: str

    @property
    def port(self) -> int:
        found = urlsplit(self.base).port
        assert found is not None
        return found

    @property
    def url(self) -> str:
        """Where it speaks handler_api.php."""
        return self.base + harness.PATH


@dataclass(frozen=True)
class Gateway(Process):
    """`simroute serve` with a funded account. `push_path` is where its upstream pushes to."""

    key: str
    push_path: str
    flood_key: str
    """Another account's, limited as a deployment is unless told otherwise."""

    def path(self, action: str, key: str = "", **values: object) -> str:
        """A request line's target, with the key of the well-behaved account unless another is given."""
        query = {"api_key": key or self.key, "action": action, **values}
        return f"{harness.PATH}?" + "&".join(f"{name}={value}" for name, value in query.items())

    @property
    def purchase(self) -> str:
        """The getNumber all phases buy with."""
        return self.path("getNumber", service=SERVICE, country=COUNTRY)


@contextmanager
def module(arguments: Sequence[str], log: Path) -> Iterator[Process]:
    """A module of ours that says where it listens, as a process; killed by its id at the end."""
    with log.open("a") as trouble:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments], cwd=harness.ROOT, stdout=subprocess.PIPE, stderr=trouble, text=True
        )
    try:
        assert process.stdout is not None
        yield Process(_address(process.stdout, arguments[0], log))
    finally:
        _end(process)


def _address(output: IO[str], name: str, log: Path) -> str:
    ready, _, _ = select.select([output], [], [], START_SECONDS)
    found = re.search(r"http://\S+:\d+", output.readline()) if ready else None
    if found is None:
        raise RuntimeError(f"{name} did not start: {log.read_text()[-1000:]}")
    return found.group(0)


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


@contextmanager
def upstream(directory: Path, *, sms_delay_seconds: float = -1) -> Iterator[Process]:
    """A simulated HeroSMS that never runs out and delivers only what it is told to, or everything after a while."""
    flags = ["--balance", BALANCE, "--stock", str(PLENTY), "--sms-delay-seconds", str(sms_delay_seconds)]
    flags += ["--life-seconds", "3600"]
    arguments = ["tests.simulators.handler_api", "--brand", "herosms", *flags]
    with module(arguments, directory / "upstream.log") as process:
        yield process


@contextmanager
def bare(directory: Path, *arguments: str) -> Iterator[Process]:
    """A server of `bench.bare`."""
    with module(["bench.bare", *arguments], directory / "bare.log") as process:
        yield process


def direct_purchase(process: Process) -> str:
    """The address that buys from a simulated upstream with nothing in between."""
    return f"{process.url}?api_key={DEFAULT_KEY}&action=getNumberV2&service={SERVICE}&country={COUNTRY}"


@contextmanager
def gateway(directory: Path, behind: Process, *, poll_seconds: float = 1.0) -> Iterator[Gateway]:
    """A gateway on an SQLite file of its own, buying from one simulated upstream, with its price list read."""
    config = configuration(directory, behind, poll_seconds=poll_seconds)
    database = directory / f"{config.name}.db"
    values = harness.environment(f"sqlite:///{database}", BENCH_API_KEY=DEFAULT_KEY)
    key = _funded(values, config, ACCOUNT)
    usual = LimitsSettings()
    flags = ("--changes-per-minute", usual.changes_per_minute, "--polls-per-minute", usual.polls_per_minute)
    flood_key = _funded(values, config, "flood", *map(str, flags))
    with harness.server(config, values, directory / "gateway.log") as server:
        secret = push_secret(Vault(read_secrets(values)), "bench")
        ready = Gateway(server.base, key, f"/webhooks/sms/bench/{secret}", flood_key)
        wait_for_prices(ready)
        yield ready


def configuration(directory: Path, behind: Process, *, poll_seconds: float = 1.0) -> Path:
    """Of a gateway that buys from one simulated upstream."""
    stanza = f'[bench]\nadapter = "herosms"\nbase_url = "{behind.url}"\npoll_seconds = {poll_seconds}\n'
    stanza += "push_addresses = []\n"
    return harness.config_directory(directory, upstreams=stanza, gateway=GATEWAY)


def _funded(values: Mapping[str, str], config: Path, account: str, *flags: str) -> str:
    _cli(values, config, "account", "create", account, "--balance", BALANCE, "--no-demo")
    issued = json.loads(_cli(values, config, "--json", "key", "issue", account, *flags))
    return str(issued["key"])


def _cli(values: Mapping[str, str], config: Path, *arguments: str) -> str:
    done = harness.run_cli(values, config, *arguments)
    if done.returncode:
        raise RuntimeError(f"simroute {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def wait_for_prices(server: Gateway) -> None:
    path = server.path("getPrices", service=SERVICE, country=COUNTRY)
    deadline = time.monotonic() + START_SECONDS
    while not httpx.get(server.base + path, trust_env=False).json():
        if time.monotonic() > deadline:
            raise RuntimeError("the gateway has no prices")
        time.sleep(0.1)


def orders_by_number(behind: Process) -> dict[str, str]:
    """Every order of a simulated upstream by its phone number."""
    state = httpx.get(f"{behind.base}/_sim/state", trust_env=False).json()
    return {order["phone"]: order["id"] for order in state["orders"]}
