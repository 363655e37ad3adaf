"""Which numbers an account was handed for a service, as digests: none is handed to it again for a while."""

from __future__ import annotations

from gateway.store import Tx

FORGOTTEN_TOGETHER = 5000
"""Old rows deleted in one unit of work, so that nobody waits for long."""


class Repeated(Exception):
    """The account was handed this number for this service before, and not long enough ago."""


def remember(tx: Tx, activation_id: int, digest: str, at: float, known_since: float) -> None:
    """Notes that an activation's account gets a number for its service. Raises Repeated.

    One that was handed over at `known_since` or before counts as forgotten. Of two purchases at once the second waits
    for the first.
    """
    row = tx.one(
        "insert into handed_numbers (account_id, service, digest, at) select account_id, service, :digest, :at"
        " from activations where id = :id"
        " on conflict (account_id, service, digest) do update set at = :at where handed_numbers.at <= :since"
        " returning account_id",
        id=activation_id,
        digest=digest,
        at=at,
        since=known_since,
    )
    if row is None:
        raise Repeated


def forget(tx: Tx, before: float) -> None:
    """Deletes what was handed over before then, some of it at a time."""
    tx.execute(
        "delete from handed_numbers where at < :before and at < coalesce((select at from handed_numbers"
        " where at < :before order by at limit 1 offset :most), :before)",
        before=before,
        most=FORGOTTEN_TOGETHER,
    )
