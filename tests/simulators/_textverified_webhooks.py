"""Signed webhooks of the TextVerified simulator: both casings, repeated on failure with a growing `attempt` (§9)."""

import base64
import hashlib
import hmac
import itertools
import threading
from datetime import UTC, datetime
from typing import Any, Literal

import httpx

from tests.simulators._common import compact_json

Casing = Literal["camel", "pascal"]

EVENTS = (
    "v2.rental.billingcycle.renewed",
    "v2.rental.billingcycle.expired",
    "v2.sms.received",
    "v2.rental.backorder.fulfilled",
    "v2.reservation.created",
)
DEFAULT_WEBHOOK_SECRET = "whsec_simulator"
TRY_SECONDS = 5.0
FAILURES_MAX = 25


def wire_time(when: float) -> str:
    """ISO 8601 with seven fraction digits, as .NET writes it."""
    seconds, micros = divmod(round(when * 1_000_000), 1_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{micros:06d}0+00:00"


def sign(body: bytes, secret: str) -> str:
    digest = hmac.new(secret.encode(), body, hashlib.sha512).digest()
    return "HMAC-SHA512=" + base64.b64encode(digest).decode()


def pascal(value: Any) -> Any:
    """Members with a capital, at every level."""
    if isinstance(value, dict):
        return {key[:1].upper() + key[1:]: pascal(item) for key, item in value.items()}
    return value


class Webhooks:
    """Sends events to one address, each in a thread of its own, until it is answered with 2xx.

    `retry_seconds` is the first pause, doubled each time. After many failures in a row nothing is sent any more until
    the address is set again.
    """

    def __init__(
        self,
        url: str = "",
        secret: str = DEFAULT_WEBHOOK_SECRET,
        casing: Casing = "camel",
        *,
        retry_seconds: float = 1.0,
        attempts_max: int = 6,
    ) -> None:
        self.retry_seconds = retry_seconds
        self.attempts_max = attempts_max
        self.attempts: list[tuple[str, int, int]] = []
        """Of each attempt: event, its number, the status that came (0: none)."""
        self._serials = itertools.count(1)
        self.set(url, secret, casing)

    def set(self, url: str, secret: str = DEFAULT_WEBHOOK_SECRET, casing: Casing = "camel") -> None:
        """Where events go from now on; an empty `url` sends none."""
        if casing not in ("camel", "pascal"):
            raise ValueError("casing is camel or pascal")
        self.url, self.secret, self.casing = url, secret, casing
        self.failures = 0

    @staticmethod
    def time(when: float) -> str:
        return wire_time(when)

    def attempts_view(self) -> list[dict[str, Any]]:
        return [{"event": event, "attempt": attempt, "status": status} for event, attempt, status in self.attempts]

    def send(self, event: str, data: dict[str, Any], now: float) -> None:
        """Returns at once."""
        if not self.url or self.failures >= FAILURES_MAX:
            return
        serial = next(self._serials)
        envelope = {"occurredAt": wire_time(now), "event": event, "data": data, "idempotencyKey": f"idem_{serial:06d}"}
        target = (self.url, self.secret, self.casing)
        threading.Thread(
            target=self._deliver, args=({"id": f"ev_{serial:06d}", **envelope}, target), daemon=True
        ).start()

    def _deliver(self, envelope: dict[str, Any], target: tuple[str, str, Casing]) -> None:
        pause = threading.Event()
        for attempt in range(1, self.attempts_max + 1):
            status = self._try({"id": envelope["id"], "attempt": attempt, **envelope}, target)
            self.attempts.append((envelope["event"], attempt, status))
            if 200 <= status < 300:
                self.failures = 0
                return
            self.failures += 1
            pause.wait(self.retry_seconds * 2 ** (attempt - 1))

    def _try(self, envelope: dict[str, Any], target: tuple[str, str, Casing]) -> int:
        url, secret, casing = target
        body = compact_json(pascal(envelope) if casing == "pascal" else envelope).encode()
        headers = {"content-type": "application/json", "x-webhook-signature": sign(body, secret)}
        try:
            return httpx.post(url, content=body, headers=headers, timeout=TRY_SECONDS, trust_env=False).status_code
        except httpx.HTTPError:
            return 0
