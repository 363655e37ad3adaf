"""Giving numbers back in time: which are due, in which order, until when it is worth trying, and what was lost.

Most upstreams give the money of a number without a code back by themselves when it ends. Where a stanza has
`refund_seconds` the upstream keeps it unless the number was cancelled by then: such a number lives no longer here, its
cancel is tried up to that moment, and what was not accepted by then is booked as lost, said and counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from gateway.errors import TooEarly, UpstreamError
from gateway.metrics import Metrics
from gateway.model import Outcome
from gateway.money import MICROS, Money
from gateway.settings import Stanza
from gateway.store import Row, Tx

MARGIN_SECONDS = 30.0
"""A number ends here so long before its window closes: time for some tries."""

DENIED_SECONDS = 60.0
"""How long after an upstream denied a lease it is told to take it back: by then a glitch of its is over."""

LAST_PAUSE_SECONDS = 2.0
TRIES_MAX = 40
"""How often an upstream is told, where there is no window to close."""

PAUSE_SECONDS_MAX = 60.0
TOO_EARLY_SECONDS_MAX = 10.0
CALLS_PER_SECOND = 10.0
DUE_MAX = 50
GONE_SECONDS = 86_400.0
"""How long a number waits for an upstream that was taken out of the configuration."""

TOLD_SECONDS = 86_400.0
"""How long a loss stands as an alert."""


def window_ends_at(stanza: Stanza | None, row: Row) -> float | None:
    """When giving back the activation stops being worth anything; None where it gives the money back by itself."""
    is_activation = row["product"] != "rental" and row["close_outcome"] == Outcome.CANCELLED
    if stanza is None or stanza.refund_seconds is None or not is_activation:
        return None
    return float(row["opened_at"]) + stanza.refund_seconds


def life_ends_at(stanza: Stanza | None, opened_at: float, ends_at: float) -> float:
    """The end of an activation, early enough to give it back."""
    if stanza is None or stanza.refund_seconds is None:
        return ends_at
    return min(ends_at, opened_at + stanza.refund_seconds - MARGIN_SECONDS)


def is_over(row: Row, window_end: float | None, now: float) -> bool:
    """Whether a close that has just failed is not to be tried again."""
    return bool(row["close_tries"] >= TRIES_MAX) if window_end is None else now >= window_end


def next_try_at(row: Row, error: UpstreamError, window_end: float | None, now: float) -> float:
    """When to tell the upstream again: later each time, at the age it names, and once more before it is too late."""
    pause: float = min(PAUSE_SECONDS_MAX, 2.0 ** min(row["close_tries"], 10))
    if isinstance(error, TooEarly):
        # What upstreams tell is the least age a lease has to have.
        opens_at = row["opened_at"] + (error.retry_seconds or 0.0)
        pause = max(
            LAST_PAUSE_SECONDS, opens_at - now, 0.0 if error.retry_seconds else min(pause, TOO_EARLY_SECONDS_MAX)
        )
    at = now + pause
    if window_end is None or at < window_end:
        return at
    return max(now + LAST_PAUSE_SECONDS, window_end - LAST_PAUSE_SECONDS)


def share(rows: Iterable[Row], stanzas: Mapping[str, Stanza | None]) -> dict[str, list[Row]]:
    """By upstream, the most urgent first, no more than it takes in a second beside what else it is asked."""
    shares: dict[str, list[Row]] = {}
    for row in rows:
        stanza = stanzas.get(row["upstream"])
        rate = (stanza.status_calls_per_second if stanza else None) or CALLS_PER_SECOND
        mine = shares.setdefault(row["upstream"], [])
        if len(mine) < max(1, int(rate)):
            mine.append(row)
    return shares


@dataclass
class Losses:
    """What could not be given back lately, as far as this process knows."""

    metrics: Metrics
    _last: dict[str, tuple[float, str]] = field(default_factory=dict)

    def note(self, upstream: str, cost: Money, at: float) -> None:
        self.metrics.refunds_lost.labels(upstream).inc()
        self.metrics.refunds_lost_amount.labels(upstream, cost.currency).inc(cost.micros / MICROS)
        words = f"{upstream} keeps the money of a number without a code ({cost}): it was not given back in time"
        self._last[upstream] = (at, f"{words}. See close.given_up and close.refused in the log")

    def sentences(self, now: float) -> dict[str, str]:
        """Of the last day, by an alert's subject."""
        recent = {name: words for name, (at, words) in self._last.items() if now - at < TOLD_SECONDS}
        return {f"refund:{name}": words for name, words in recent.items()}


# Units of work


def due(tx: Tx, now: float) -> Sequence[Row]:
    """Leases to be closed upstream: cancels first, the oldest first, so many of each upstream as matter at once.

    None is kept waiting by another upstream's, however many those are.
    """
    return tx.all(
        "select * from (select id, upstream, reference, close_outcome, close_tries, product, service, opened_at, cost,"
        " cost_currency, row_number() over (partition by upstream"
        " order by case when close_outcome = 'cancelled' then 0 else 1 end, opened_at, id) as place"
        " from activations where close_outcome is not null and close_at <= :now) as waiting"
        " where place <= :most order by place, id",
        now=now,
        most=DUE_MAX,
    )


def not_given_back(tx: Tx) -> Sequence[Row]:
    """How many cancels upstreams have not accepted yet, and what they may cost."""
    # `close_at` is set with the outcome, and its index holds what is to be closed only.
    return tx.all(
        "select upstream, cost_currency as currency, count(*) as numbers, sum(cost) as amount from activations"
        " where close_outcome = 'cancelled' and close_at > 0 group by upstream, cost_currency"
    )
