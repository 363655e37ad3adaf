"""What is counted, in Prometheus form. One registry per gateway, so that tests and processes don't share counts."""

from __future__ import annotations

import math
from contextlib import suppress

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from gateway.model import Product

LATENCY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """The gateway's counters. Label values come from closed sets: never a key, a number, or what a client typed."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "simroute_requests", "Client requests by action and outcome", ["action", "outcome"], registry=self.registry
        )
        self.latency = Histogram(
            "simroute_request_seconds",
            "Time to answer a client",
            ["action"],
            buckets=LATENCY_BUCKETS,
            registry=self.registry,
        )
        self.upstream_calls = Counter(
            "simroute_upstream_calls", "Calls to upstreams by verb and outcome", ["upstream", "verb", "outcome"],
            registry=self.registry,
        )  # fmt: skip
        self.upstream_latency = Histogram(
            "simroute_upstream_seconds", "Time an upstream took to answer", ["upstream", "verb"],
            buckets=LATENCY_BUCKETS, registry=self.registry,
        )  # fmt: skip
        self.activations = Counter(
            "simroute_activations", "Activations by upstream and what became of them", ["upstream", "status"],
            registry=self.registry,
        )  # fmt: skip
        self.rentals = Counter(
            "simroute_rentals", "Rentals and their extensions by upstream and what became of them",
            ["upstream", "status"], registry=self.registry,
        )  # fmt: skip
        self.open_activations = Gauge("simroute_open_activations", "Activations open now", registry=self.registry)
        self.holds_open = Gauge("simroute_holds_open", "Holds open now", ["currency"], registry=self.registry)
        self.holds_amount = Gauge("simroute_holds_amount", "Money held now", ["currency"], registry=self.registry)
        self.in_doubt = Gauge("simroute_attempts_in_doubt", "Purchases in doubt", ["upstream"], registry=self.registry)
        self.exposure = Gauge(
            "simroute_exposure_amount",
            "What purchases in doubt may have cost",
            ["upstream", "currency"],
            registry=self.registry,
        )
        self.strangers = Gauge(
            "simroute_strangers", "Numbers open upstream that we know nothing of", ["upstream"], registry=self.registry
        )
        self.refunds_open = Gauge(
            "simroute_refunds_open", "Cancels not yet accepted there", ["upstream", "currency"], registry=self.registry
        )
        self.refunds_open_amount = Gauge(
            "simroute_refunds_open_amount", "What those may cost", ["upstream", "currency"], registry=self.registry
        )
        self.refunds_lost = Counter(
            "simroute_refunds_lost", "Numbers without a code that were not given back in time", ["upstream"],
            registry=self.registry,
        )  # fmt: skip
        self.refunds_lost_amount = Counter(
            "simroute_refunds_lost_amount", "What those cost", ["upstream", "currency"], registry=self.registry
        )
        self.late_messages = Counter(
            "simroute_late_messages", "Messages after the caller was released", ["upstream"], registry=self.registry
        )
        self.pushes = Counter(
            "simroute_pushes", "Pushes from upstreams by outcome", ["upstream", "outcome"], registry=self.registry
        )
        self.alerts = Gauge(
            "simroute_alert", "1 where something is wrong now", ["alert", "subject"], registry=self.registry
        )
        self.upstream_balance = Gauge(
            "simroute_upstream_balance", "Our balance there", ["upstream", "currency"], registry=self.registry
        )
        self.disk_free = Gauge("simroute_disk_free_bytes", "Free beside the SQLite file", registry=self.registry)
        self.descriptors_free = Gauge(
            "simroute_descriptors_free", "File descriptors this process may still open", registry=self.registry
        )
        # Nothing has been seen yet, and beside a database elsewhere nothing ever is: nought would be an alarm.
        self.disk_free.set(math.nan)
        self.descriptors_free.set(math.nan)
        self.notifications = Counter(
            "simroute_notifications", "Messages to the notification list by result", ["result"], registry=self.registry
        )
        self.notices = Counter("simroute_notices", "Webhook attempts by result", ["result"], registry=self.registry)
        self.notices_oldest = Gauge(
            "simroute_notices_oldest_pending_seconds", "Age of the oldest notice not sent yet", registry=self.registry
        )
        self.notices_dead = Gauge("simroute_notices_dead", "Notices given up", registry=self.registry)
        self.webhooks_disabled = Gauge("simroute_webhooks_disabled", "Webhooks disabled now", registry=self.registry)
        for result in ("sent", "retry", "refused", "dead", "deleted"):
            self.notices.labels(result)  # from nought on: of a series that begins at 1 no increase is seen
        for result in ("sent", "failed", "dropped"):
            self.notifications.labels(result)
        self.offers_at = Gauge(
            "simroute_offers_timestamp_seconds",
            "When the price list in use was read; 0 for never since the start",
            ["upstream"],
            registry=self.registry,
        )

        self.sealing_keys = Gauge(
            "simroute_sealing_keys", "Keys under which something may be sealed; 1 where all is", registry=self.registry
        )
        self.resealing_places = Gauge(
            "simroute_resealing_places", "Columns yet to be sealed under the newest key", registry=self.registry
        )
        self.resealed = Counter("simroute_resealed", "Values brought under the newest key", registry=self.registry)
        self.retention_overdue = Gauge(
            "simroute_retention_overdue", "Rows whose numbers or messages should be deleted", registry=self.registry
        )
        self.capture_rate = Gauge(
            "simroute_capture_rate", "Of numbers whose life ended in the last hour, the share that got a code",
            ["upstream"], registry=self.registry,
        )  # fmt: skip
        self.in_doubt_since = Gauge(
            "simroute_in_doubt_oldest_timestamp_seconds",
            "When the oldest purchase still in doubt was made",
            ["upstream"],
            registry=self.registry,
        )
        self.backup_at = Gauge(
            "simroute_backup_timestamp_seconds", "When the last good backup was taken; 0 for never",
            registry=self.registry,
        )  # fmt: skip
        self.database_up = Gauge("simroute_database_up", "Whether the database answers", registry=self.registry)
        self.database_up.set(1)
        self.loop_lag = Histogram(
            "simroute_loop_lag_seconds",
            "How late the event loop comes back to what is due",
            buckets=LATENCY_BUCKETS,
            registry=self.registry,
        )

    def count(self, product: Product, upstream: str, status: str) -> None:
        """Counts what became of an order; those for rentals and more time apart from the others."""
        counter = self.activations if product.is_for_codes else self.rentals
        counter.labels(upstream, status).inc()

    def forget_overseen(self) -> None:
        """Empties what only the process that looks after the others keeps up to date."""
        for by_upstream in (self.in_doubt_since, self.refunds_open, self.refunds_open_amount, self.capture_rate):
            by_upstream.clear()
        for plain in (self.retention_overdue, self.notices_oldest, self.notices_dead, self.webhooks_disabled):
            plain.set(0)

    def await_offers(self, upstream: str) -> None:
        """An upstream's list is to be read: until it is, that shows."""
        self.offers_at.labels(upstream)

    def forget_offers(self, upstream: str) -> None:
        """An upstream is read no more: its list does not get old."""
        with suppress(KeyError):
            self.offers_at.remove(upstream)

    def observe_upstream(self, upstream: str, verb: str, outcome: str, seconds: float) -> None:
        """Counts one call; `outcome` is `ok` or an error's class name."""
        self.upstream_calls.labels(upstream, verb, outcome).inc()
        self.upstream_latency.labels(upstream, verb).observe(seconds)

    def count_notification(self, result: str) -> None:
        """`sent`, `failed` or `dropped`; from any thread."""
        self.notifications.labels(result).inc()

    def render(self) -> bytes:
        """The text Prometheus scrapes."""
        return generate_latest(self.registry)
