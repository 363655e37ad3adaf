"""A courier, a client's endpoint on loopback, and notices for it."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp import web

from gateway import accounts, migrations
from gateway.activations import _queue_notice
from gateway.health import Health
from gateway.house import House
from gateway.metrics import Metrics
from gateway.offers import Market
from gateway.settings import GatewaySettings, Settings, WebhooksSettings, load_settings
from gateway.store import Row, Store, Tx
from gateway.vault import Secrets, Vault
from gateway.webhooks import Courier

SHIPPED_CATALOG = Path(__file__).parents[2] / "config" / "catalog"
WEBHOOK_SECRET = "not-a-real-secret-webhooks-00000000"
RECEIVED_AT = 1_672_574_400.0
TEXT = "Your code is 12345"
BODY = (
    '{"activationId":100000001,"service":"go","text":"Your code is 12345","code":"12345","country":2,'
    '"receivedAt":"2023-01-01 12:00:00"}'
)
LOCAL = WebhooksSettings(timeout_seconds=2.0, retry_seconds=(1, 10), allow_http=True, allow_private_addresses=True)
PUBLIC_ONLY = LOCAL.model_copy(update={"allow_private_addresses": False})


on_both_databases = pytest.mark.parametrize("store_url", ["sqlite", "postgresql"], indirect=True)


class Time:
    """Begins now, as a receiver compares signed times with its own; stands still otherwise."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class Received:
    path: str
    headers: dict[str, str]
    body: bytes


class Receiver:
    """A client's endpoint on loopback. `/<status>` answers that status, `/hang` nothing, `/moved` sends elsewhere."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.released = asyncio.Event()
        self.hanging = 0
        self.headers: dict[str, str] = {}
        self.port = 0
        self.runner: web.AppRunner | None = None

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def paths(self) -> list[str]:
        return [one.path for one in self.received]

    async def listen_beside(self, other: Receiver) -> None:
        """Listens on another one's port as well, at its own address."""
        assert self.runner is not None
        await web.TCPSite(self.runner, "127.0.0.1", other.port).start()

    async def answer(self, request: web.Request) -> web.Response:
        self.received.append(Received(request.path, dict(request.headers), await request.read()))
        if "hang" in request.path:
            self.hanging += 1
            await self.released.wait()
        if request.path == "/moved":
            return web.Response(status=307, headers={"Location": self.url("/elsewhere")})
        word = request.path[1:4]
        return web.Response(status=int(word) if word.isdigit() else 200, headers=self.headers)


@asynccontextmanager
async def receiving(host: str = "127.0.0.1") -> AsyncIterator[Receiver]:
    """An endpoint that listens."""
    made = Receiver()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, host, 0)
    await site.start()
    made.port, made.runner = runner.addresses[0][1], runner
    try:
        yield made
    finally:
        made.released.set()
        await runner.cleanup()


def empty_sqlite(directory: Path) -> Path:
    """A database file with the schema, to be copied."""
    path = directory / "empty.db"
    migrations.create_sqlite(path)
    migrations.upgrade(f"sqlite:///{path}")
    return path


def plain_settings(directory: Path) -> Settings:
    """Defaults, with the shipped catalogue."""
    shutil.copytree(SHIPPED_CATALOG, directory / "catalog")
    return load_settings(directory, {}, lambda _: WebhooksSettings, lambda _: {})


def house_on(store: Store, settings: Settings) -> House:
    """A house that sends to loopback."""
    made = House(
        store=store,
        vault=Vault(Secrets("s" * 32, "k" * 32, "i" * 32, "j" * 32, WEBHOOK_SECRET)),
        clock=Time(),
        settings=settings,
        upstreams={},
        market=cast(Market, None),
        health=cast(Health, None),
        metrics=Metrics(),
    )
    configure(made, LOCAL)
    return made


async def queued(
    house: House,
    url: str,
    *,
    account: str = "reseller",
    text: str = TEXT,
    code: str = "12345",
    form: str = "sms_activate",
) -> int:
    """Queues a notice as a delivery would; its id."""
    return await house.store.run(_delivered, house.vault, account, url, text, code, house.clock(), form)


def own_secret(account_id: int = 1, version: int = 1) -> bytes:
    """HKDF (RFC 5869) by hand, one block of it."""
    extracted = hmac.digest(bytes(32), WEBHOOK_SECRET.encode(), "sha256")
    purpose = f"webhooks of account {account_id}, version {version}".encode()
    return hmac.digest(extracted, purpose + b"\x01", "sha256")


def x_signature(secret: bytes, body: bytes) -> str:
    return "sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest()


def _delivered(tx: Tx, vault: Vault, account: str, url: str, text: str, code: str, at: float, form: str) -> int:
    account_id = _account(tx, vault, account, at)
    accounts.set_webhook(tx, vault, account_id, url, form)
    activation_id = tx.insert(
        "insert into activations (account_id, key_id, service, country, operator, status, price, currency, opened_at,"
        " fingerprint, config_version, number_sealed)"
        " values (:account, (select id from api_keys where account_id = :account), 'go', 2, 'any', 'received', 100000,"
        " 'USD', :at, '', '', :number) returning id",
        account=account_id,
        number=vault.seal("12025550123"),
        at=at,
    )
    message_id = tx.insert(
        "insert into messages (activation_id, identity, round, code_sealed, text_sealed, sender_sealed, received_at,"
        " is_shown) values (:activation, 'one', 1, :code, :text, :sender, :at, 1) returning id",
        activation=activation_id,
        sender=vault.seal("Google"),
        code=vault.seal(code),
        text=vault.seal(text),
        at=RECEIVED_AT,
    )
    _queue_notice(tx, account_id, activation_id, message_id, at)
    row = tx.one("select id from notices where message_id = :id", id=message_id)
    assert row is not None
    return int(row["id"])


def _account(tx: Tx, vault: Vault, name: str, at: float) -> int:
    known = tx.one("select id from accounts where name = :name", name=name)
    if known is not None:
        return int(known["id"])
    account_id = accounts.create(tx, name, "USD", at, is_demo=False)
    accounts.issue_key(tx, vault, name, at)
    return account_id


def configure(house: House, webhooks: WebhooksSettings) -> None:
    house.settings = replace(house.settings, gateway=GatewaySettings(webhooks=webhooks))


def advance(house: House, seconds: float) -> None:
    cast(Time, house.clock).now += seconds


async def notice(house: House, notice_id: int) -> Row:
    row = await house.store.read(lambda tx: tx.one("select * from notices where id = :id", id=notice_id))
    assert row is not None
    return row


async def tell(house: House, sql: str, **values: Any) -> None:
    await house.store.run(lambda tx: tx.execute(sql, **values))


def counted(house: House, result: str) -> float:
    return house.metrics.registry.get_sample_value("simroute_notices_total", {"result": result}) or 0.0


async def carried(courier: Courier) -> None:
    """One round, and all that it started, however long the machine takes for it."""
    await courier.round()
    await asyncio.gather(*courier._in_flight)
