"""Keeps an eye on webhooks: figures for metrics, an alert for each that was disabled, an end to old log entries."""

from __future__ import annotations

import time

from gateway import webhook_endpoints, webhook_log
from gateway.alerts import Alerts
from gateway.house import House
from gateway.store import Row
from gateway.webhook_log import Figures

ROUND_SECONDS = 15.0
DAY_SECONDS = 86_400.0
ALERTS_MAX = 20
"""Webhooks that alerts are shown for: the rest come forward as these are seen to."""


class WebhookWatch:
    """One per process that works; several on one database do no harm."""

    def __init__(self, house: House, alerts: Alerts) -> None:
        self._house = house
        self._alerts = alerts

    async def round(self) -> float:
        """Looks once; seconds until the next round. Raises Unavailable."""
        house, now = self._house, self._house.clock()
        self._measure(await house.store.read(webhook_log.figures, now))
        rows = await house.store.read(webhook_endpoints.disabled, ALERTS_MAX)
        self._alerts.replace("webhook_disabled", {_subject(row): _sentence(row) for row in rows})
        until = now - house.settings.gateway.webhooks.log_days * DAY_SECONDS
        pruned = await house.store.run(webhook_log.prune, until)
        return 0.0 if pruned == webhook_log.PRUNED_MAX else ROUND_SECONDS

    def _measure(self, found: Figures) -> None:
        metrics = self._house.metrics
        metrics.notices_oldest.set(found.oldest_pending_seconds)
        metrics.notices_dead.set(found.dead)
        metrics.webhooks_disabled.set(found.disabled)


def _subject(row: Row) -> str:
    return f"webhook:{row['name']}" + (f":rental {row['rental_id']}" if row["rental_id"] else "")


def _sentence(row: Row) -> str:
    since = time.strftime("%Y-%m-%d %H:%M", time.gmtime(row["disabled_at"]))
    return (
        f"the webhook of {row['name']} gets nothing since {since} UTC ({row['last_failure']}): its owner sets the"
        f" address anew, or `simroute webhook enable {row['name']}`, then replays what was given up"
    )
