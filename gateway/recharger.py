"""Recharges accounts below their threshold, calls the payment hook, ends overdue vouchers, and raises the alerts about
money that waits for a person. One per process that works; several on one database do no harm."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime

import structlog
from standardwebhooks.webhooks import Webhook

from gateway import deposits, recharges, vouchers
from gateway.alerts import Alerts
from gateway.house import House
from gateway.money import plain
from gateway.settings import Environment
from gateway.store import Row
from gateway.webhook_addresses import check_destination
from gateway.webhook_endpoints import lease_seconds
from gateway.webhook_forms import user_agent
from gateway.webhook_wire import Wire, failure

ROUND_SECONDS = 1.0
CALLS_TOGETHER = 10
ALERTS_MAX = 20
"""Payments that alerts are shown for: the rest come forward as these are seen to."""

NO_HOOK = "no payment hook is configured: set PAYMENT_HOOK_URL and PAYMENT_SECRET"

log = structlog.get_logger()


class Recharger:
    """The loops behind `recharges`, `vouchers` and `deposits`."""

    def __init__(self, house: House, alerts: Alerts) -> None:
        self._house = house
        self._alerts = alerts
        self._wire = Wire(house)

    async def round(self) -> float:
        """Tries what is due and shows what is wrong; seconds until the next round. Raises Unavailable."""
        store, now = self._house.store, self._house.clock()
        if await store.read(recharges.has_lapsed, now):
            await store.run(recharges.lapse, now)
        for account_id in await store.read(recharges.due, now):
            if await store.run(recharges.attempt, account_id, now):
                log.info("account.recharged", account=account_id)
        for batch_id in await store.read(vouchers.overdue, now):
            await store.run(vouchers.expire, batch_id, now)
        await self._alert()
        return ROUND_SECONDS

    async def call(self) -> float:
        """Asks the hook for what was not asked for yet; seconds until the next round. Raises Unavailable."""
        house, now = self._house, self._house.clock()
        if not await house.store.read(recharges.has_calls, now):
            return ROUND_SECONDS
        until = now + lease_seconds(house.settings.gateway.webhooks)
        runs = await house.store.run(recharges.claim, now, until, CALLS_TOGETHER)
        await asyncio.gather(*map(self._call_one, runs))
        return 0.0 if len(runs) == CALLS_TOGETHER else ROUND_SECONDS

    async def aclose(self) -> None:
        await self._wire.aclose()

    async def _call_one(self, run: Row) -> None:
        house = self._house
        problem = await self._post(run)
        log.info("recharge.asked", run=run["id"], result=problem or "taken")
        await house.store.run(recharges.note_post, run, problem and f"the payment hook: {problem}", house.clock())

    async def _post(self, run: Row) -> str:
        """Calls the hook for one run; what went wrong, empty where it was taken."""
        environment = self._house.settings.environment
        if not environment.payment_hook_url or not environment.payment_secret:
            return NO_HOOK
        try:
            check_destination(environment.payment_hook_url, self._house.settings.gateway.webhooks)
            body = _body(run)
            headers = _headers(environment, run["reference"], body, self._house.clock())
            answer = await self._wire.post(environment.payment_hook_url, headers, body.encode())
        except Exception as error:  # one call that can't be made must not keep the others
            return failure(error)
        return "" if answer.is_success else f"http {answer.status}"

    async def _alert(self) -> None:
        rows = await self._house.store.read(deposits.payments, is_open=True, limit=ALERTS_MAX)
        for name, state in (("payment_unbooked", "unbooked"), ("payment_reversed", "reversal")):
            shown = {f"payment:{row['id']}": deposits.sentence(row) for row in rows if row["state"] == state}
            self._alerts.replace(name, shown)
        troubled = await self._house.store.read(recharges.troubled)
        self._alerts.replace("recharge_failed", {f"account:{row['name']}": _trouble(row) for row in troubled})


def _trouble(row: Row) -> str:
    return f"{row['name']} can't be recharged: {row['problem']}"


def _body(run: Row) -> str:
    content = {
        "type": "recharge",
        "reference": run["reference"],
        "account": run["name"],
        "amount": plain(run["amount"]),
        "currency": run["currency"],
    }
    return json.dumps(content, separators=(",", ":"))


def _headers(environment: Environment, reference: str, body: str, at: float) -> dict[str, str]:
    """Signed as standardwebhooks.com describes. What is signed begins with the run's reference, so that a call of ours
    never passes for a callback, although both are signed with the same secret."""
    secret = (environment.payment_secret or "").encode()
    return {
        "Content-Type": "application/json",
        "User-Agent": user_agent(),
        "webhook-id": reference,
        "webhook-timestamp": str(int(at)),
        "webhook-signature": Webhook(secret).sign(reference, datetime.fromtimestamp(int(at), UTC), body),
    }
