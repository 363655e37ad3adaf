"""What a storm is made of, set up and running: gateways, their database, upstreams, a receiver, and the crowd."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from gateway import accounts, ledger
from gateway.database import Database, open_database
from gateway.money import parse
from gateway.store import Tx
from tests.chaos import upstreams
from tests.chaos.clients import Client, HandlerClient, Journal, Lost, RestClient, ask
from tests.chaos.machines import Clock, Postgres, Process, Redis, Wire, free_port, postgres, wire
from tests.chaos.plan import Blow, kinds, plan
from tests.chaos.published import AioSmsActivateClient, SmsActivateClient, SmsHubClient
from tests.chaos.receiver import Receiver, receiver
from tests.chaos.upstreams import Upstreams
from tests.harness import PATH, config_directory, environment, postgres_database
from tests.journeys.cut_wire import Proxy, proxy

Kind = Literal["sqlite", "postgresql"]

DEPOSIT = "1000.00"
CLIENTS_PER_ACCOUNT = 2
CROWD: tuple[type[Client], ...] = (
    RestClient, HandlerClient, SmsActivateClient, HandlerClient,
    RestClient, AioSmsActivateClient, HandlerClient, SmsHubClient,
)  # fmt: skip
"""Who they are, in turns."""

LIFE_SECONDS = 20.0
ORDER_SECONDS = 5.0
READY_SECONDS = 120.0
TRIES_MAX = 3
QUIET_SECONDS = 60.0
"""How long a phase after the storm may take by the clock on the wall."""

GATEWAY = f"""
[server]
log_level = "info"
log_format = "json"

[limits]
changes_per_minute = 100000
polls_per_minute = 100000

[fuse]
slow_after = 0
stop_after = 0

[activations]
life_seconds = {LIFE_SECONDS}
order_deadline_seconds = {ORDER_SECONDS}
cancel_deadline_seconds = 2.0
claim_seconds = 3.0
cancel_exposure = "1000"
in_doubt_exposure = "10000"

[health]
faults_to_open = 5
cooldown_seconds = 2.0

[webhooks]
timeout_seconds = 2.0
retry_seconds = [0.3, 0.6, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2]
allow_http = true
allow_private_addresses = true

[lawful]
denied_services = []
"""
PRICING = "[default]\npercent = 25\n"
RATES = 'as_of = {now}\n[rates]\nRUB = "0.01"\n'


@dataclass(frozen=True, slots=True)
class Settings:
    """What a storm is made of; with the same ones the same things break, and the same clients want the same."""

    seed: int
    seconds: float
    database: Kind = "sqlite"
    processes: int = 1
    workers: int = 0
    clients: int = 24
    has_redis: bool = True

    @property
    def command(self) -> str:
        """What a person types to have it again."""
        words = [
            f"make chaos ARGS='--seed {self.seed} --seconds {self.seconds:g} --processes {self.processes}",
            f"--database {self.database} --clients {self.clients}",
        ]
        words += [f"--workers {self.workers}"] if self.workers else []
        words += [] if self.has_redis else ["--no-redis"]
        return " ".join(words) + "'"

    @property
    def plan(self) -> tuple[Blow, ...]:
        return plan(
            self.seed,
            self.seconds,
            kinds(self.database, has_redis=self.has_redis),
            processes=self.processes + self.workers,
            upstreams=len(upstreams.NAMES),
        )


@dataclass
class Stage:
    """Everything that runs, and the wires between."""

    settings: Settings
    directory: Path
    config: Path
    values: Mapping[str, str]
    clock: Clock
    database: Database
    market: Upstreams
    receiver: Receiver
    processes: Sequence[Process]
    wires: Sequence[Proxy]
    """In front of each serving process."""

    postgres: Postgres | None = None
    postgres_wire: Wire | None = None
    redis: Redis | None = None
    clients: list[Client] = field(default_factory=list)
    is_closed: bool = False
    late: list[str] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)

    async def rows(self, sql: str, **values: Any) -> list[dict[str, Any]]:
        def read(tx: Tx) -> list[dict[str, Any]]:
            return [dict(row) for row in tx.all(sql, **values)]

        return await self.database.store.read(read)

    async def until(self, what: str, is_so: Callable[[], Awaitable[bool]], seconds: float = QUIET_SECONDS) -> None:
        """Waits for something; where it does not come, that is a finding."""
        deadline = time.monotonic() + seconds
        while not await is_so():
            if time.monotonic() > deadline:
                self.late.append(f"within {seconds:g} s it did not come to it that {what}")
                return
            await asyncio.sleep(0.1)

    async def none(self, sql: str, **values: Any) -> bool:
        return not await self.rows(sql, **values)


@asynccontextmanager
async def stage(settings: Settings, directory: Path) -> AsyncIterator[Stage]:
    """Everything, running and well."""
    clock = Clock()
    async with AsyncExitStack() as stack:
        found_postgres = postgres_wire = None
        if settings.database == "postgresql":
            found_postgres = await stack.enter_async_context(postgres())
            url = stack.enter_context(postgres_database(found_postgres.url))
            postgres_wire = await stack.enter_async_context(wire(url))
        else:
            url = f"sqlite:///{directory}/simroute.db"
        served = url
        if postgres_wire is not None:
            served = f"postgresql://postgres@127.0.0.1:{postgres_wire.port}/{_database_name(url)}"
        redis = _redis(stack) if settings.has_redis else None
        market = stack.enter_context(upstreams.upstreams(clock))
        told = await stack.enter_async_context(receiver(settings.seed))
        secrets = {f"{name.upper()}_API_KEY": key for name, key in upstreams.KEYS.items()}
        values = {**environment(served, **secrets), **({} if redis is None else {"REDIS_URL": redis.url})}
        rates = RATES.format(now=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
        config = config_directory(directory, market.stanzas, GATEWAY, PRICING, upstreams.ROUTING, rates)
        database = await asyncio.to_thread(open_database, {**values, "DATABASE_URL": url})
        stack.push_async_callback(database.store.close)
        processes = _processes(settings, config, values, directory, clock)
        wires = [
            await stack.enter_async_context(proxy(f"host=127.0.0.1 port={process.port}"))
            for process in processes
            if process.port
        ]
        found = Stage(
            settings, directory, config, values, clock, database, market, told, processes, wires,
            found_postgres, postgres_wire, redis,
        )  # fmt: skip
        await _open_accounts(found)
        stack.push_async_callback(_stop, found)
        for process in processes:
            process.start()
            await ready(found, process, tries_max=TRIES_MAX)
        yield found


def _database_name(url: str) -> str:
    return url.partition("?")[0].rpartition("/")[2]


def _redis(stack: AsyncExitStack) -> Redis:
    redis = Redis()
    redis.begin()
    stack.callback(redis.end)
    return redis


def _processes(
    settings: Settings, config: Path, values: Mapping[str, str], directory: Path, clock: Clock
) -> list[Process]:
    found = []
    for number in range(settings.processes):
        port = free_port()
        arguments = ["serve", "--config", str(config), "--port", str(port)]
        found.append(Process(f"serve-{number}", arguments, values, directory, clock, port))
    for number in range(settings.workers):
        arguments = ["worker", "--config", str(config)]
        found.append(Process(f"worker-{number}", arguments, values, directory, clock))
    return found


async def _open_accounts(found: Stage) -> None:
    """Accounts with money; two of three have a receiver. Their clients stand ready."""
    ports = [wire.port for wire in found.wires]
    vault = found.database.vault
    for place in range(0, found.settings.clients, CLIENTS_PER_ACCOUNT):
        name = f"account-{place // CLIENTS_PER_ACCOUNT}"

        def create(tx: Tx, name: str = name, place: int = place) -> list[str]:
            now = time.time()
            account_id = accounts.create(tx, name, "USD", now, is_demo=False)
            ledger.deposit(tx, account_id, parse(DEPOSIT, "USD"), now, actor="chaos")
            if place // CLIENTS_PER_ACCOUNT % 3:
                accounts.set_webhook(tx, vault, account_id, found.receiver.url)
            return [accounts.issue_key(tx, vault, name, now) for _ in range(CLIENTS_PER_ACCOUNT)]

        for number, key in enumerate(await found.database.store.run(create), place):
            kind = CROWD[number % len(CROWD)]
            chance = random.Random(f"client:{found.settings.seed}:{number}")
            found.clients.append(kind(key, Journal(name), chance, ports, lambda: found.is_closed))


async def ready(found: Stage, process: Process, tries_max: int | None = None) -> None:
    """Waits until it serves, and knows all prices. RuntimeError where it ended so often before it did."""
    key = found.clients[0].key

    async def is_ready() -> bool:
        if tries_max is not None and len(process.ends) >= tries_max:
            raise RuntimeError(f"{process.name} does not start: {process.ends[-1]}")
        if not process.port:
            return True
        with suppress(Lost):
            answer = await ask(process.port, "GET", "/health/ready", (), "", 5.0)
            prices = await ask(process.port, "GET", f"{PATH}?api_key={key}&action=getPrices&country=43", (), "", 5.0)
            return answer.status == 200 and '"am"' in prices.body
        return False

    await found.until(f"{process.name} is ready", is_ready, READY_SECONDS)


async def _stop(found: Stage) -> None:
    for process in found.processes:
        await process.stop()
