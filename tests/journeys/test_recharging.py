"""Recharges from end to end: an order that would have failed goes through, and a hook on a real socket pays."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from gateway import accounts, deposits, recharges
from gateway.money import Money
from gateway.store import Tx
from tests.harness import House, config_directory, environment, house

SECRET = "not-a-real-secret-payments-00000000"
LOCAL = "[webhooks]\nallow_http = true\nallow_private_addresses = true\ntimeout_seconds = 2.0\n"


def usd(micros: int) -> Money:
    return Money(micros, "USD")


class Payer:
    """A payment hook on loopback. It answers `status`; where that is 200, what it was asked."""

    def __init__(self) -> None:
        self.status = 200
        self.port = 0
        self.asked: list[dict[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.bodies: list[bytes] = []

    async def answer(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.bodies.append(body)
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        self.asked.append(json.loads(body))
        return web.Response(status=self.status)


@pytest.fixture
async def payer() -> AsyncIterator[Payer]:
    found = Payer()
    app = web.Application()
    app.router.add_post("/pay", found.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    found.port = runner.addresses[0][1]
    yield found
    await runner.cleanup()


async def family(made: House) -> int:
    """A child of alice without money, and its key as `child`; its id."""

    def create(tx: Tx) -> tuple[int, str]:
        now = time.time()
        account_id = accounts.create(tx, "child", "USD", now, is_demo=True, parent="alice")
        return account_id, accounts.issue_key(tx, made.database.vault, "child", now)

    account_id, made.keys["child"] = await made.database.store.run(create)
    return account_id


async def rule(made: House, account_id: int, source: str, **more: Money) -> None:
    given = {"threshold": usd(10_000), "amount": usd(1_000_000), "month_max": usd(3_000_000), **more}
    await made.database.store.run(
        recharges.set_rule, account_id, source=source, at=time.time(), actor="test", cool_down_seconds=60.0, **given
    )


async def until(condition: object, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


async def test_orders_that_lack_money_are_recharged_from_the_parent(database_url: str, tmp_path: Path) -> None:
    async with house(config_directory(tmp_path), environment(database_url)) as made:
        account_id = await family(made)
        assert await made.call("getNumber", "child", service="tg", country=6) == "NO_BALANCE"
        # So low a threshold that the loop alone would not see to it: a balance of 0.02 is no reason.
        await made.database.store.run(deposits.pay_in, account_id, usd(20_000), "r", "bank", time.time(), "test")
        await rule(made, account_id, "parent")
        answers = await asyncio.gather(
            *(made.call("getNumber", "child", service="tg", country=6, n=number) for number in range(5))
        )
        assert [answer.partition(":")[0] for answer in answers] == ["ACCESS_NUMBER"] * 5
        assert sum(await made.balance("child")) == 1_020_000
        assert await made.balance() == (9_000_000, 0)
        assert await made.problems() == []


async def test_the_worker_recharges_without_an_order(sqlite_url: str, tmp_path: Path) -> None:
    async with house(config_directory(tmp_path), environment(sqlite_url)) as made:
        account_id = await family(made)
        await rule(made, account_id, "parent")
        deadline = time.monotonic() + 10
        while (await made.balance("child"))[0] == 0:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)
        await asyncio.sleep(2.2)
        assert await made.balance("child") == (1_000_000, 0)


def is_signed(headers: dict[str, str], body: bytes) -> bool:
    content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    proof = base64.b64encode(hmac.new(SECRET.encode(), content, hashlib.sha256).digest()).decode()
    return headers["webhook-signature"] == f"v1,{proof}"


async def pay(made: House, reference: str, amount: str) -> int:
    body = json.dumps({"reference": reference, "account": "child", "amount": amount, "currency": "USD"}).encode()
    moment = str(int(time.time()))
    proof = hmac.new(SECRET.encode(), f"{moment}.".encode() + body, hashlib.sha256).hexdigest()
    headers = {"X-Payment-Timestamp": moment, "X-Payment-Signature": f"sha256={proof}"}
    answer = await made.client.post("/webhooks/payments/generic", content=body, headers=headers)
    return answer.status_code


async def test_the_hook_is_asked_until_it_takes_it_and_pays_once(
    database_url: str, tmp_path: Path, payer: Payer
) -> None:
    hook = {"PAYMENT_SECRET": SECRET, "PAYMENT_HOOK_URL": f"http://127.0.0.1:{payer.port}/pay"}
    async with house(config_directory(tmp_path, gateway=LOCAL), environment(database_url, **hook)) as made:
        account_id = await family(made)
        payer.status = 500
        await rule(made, account_id, "hook")
        await until(lambda: payer.asked)
        payer.status = 200
        await until(lambda: len(payer.asked) == 2)
        assert payer.asked[0] == payer.asked[1]
        asked = payer.asked[0]
        assert {**asked, "reference": ""} == {
            "type": "recharge", "reference": "", "account": "child", "amount": "1.00", "currency": "USD",
        }  # fmt: skip
        assert all(is_signed(headers, body) for headers, body in zip(payer.headers, payer.bodies, strict=True))
        assert payer.headers[0]["webhook-id"] == asked["reference"]
        # What we sent, sent back to us, is no payment: it is signed over something else.
        echoed = {
            "X-Payment-Timestamp": payer.headers[0]["webhook-timestamp"],
            "X-Payment-Signature": payer.headers[0]["webhook-signature"],
        }
        answer = await made.client.post("/webhooks/payments/generic", content=payer.bodies[0], headers=echoed)
        assert answer.status_code == 401
        assert [await pay(made, asked["reference"], "1.00") for _ in range(2)] == [200, 200]
        assert await made.balance("child") == (1_000_000, 0)
        (shown,) = await made.database.store.read(recharges.rules, time.time())
        assert (shown.is_pending, shown.problem, shown.month_spent) == (False, "", usd(1_000_000))
        await asyncio.sleep(1.5)
        assert len(payer.asked) == 2
        assert await made.problems() == []


async def test_a_hook_at_a_private_address_is_not_called(sqlite_url: str, tmp_path: Path, payer: Payer) -> None:
    hook = {"PAYMENT_SECRET": SECRET, "PAYMENT_HOOK_URL": f"http://127.0.0.1:{payer.port}/pay"}
    directory = config_directory(tmp_path, gateway="[webhooks]\nallow_http = true\n")
    async with house(directory, environment(sqlite_url, **hook)) as made:
        await rule(made, await family(made), "hook")
        deadline = time.monotonic() + 10
        while not (await made.database.store.read(recharges.rules, time.time()))[0].problem:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)
        (shown,) = await made.database.store.read(recharges.rules, time.time())
        assert shown.problem == "the payment hook: refused: bad_webhook_url"
        assert payer.asked == []
        await made.gateway._recharger.round()
        assert ("recharge_failed", "account:child") in made.gateway._overseer._alerts._on
