"""Leases that go on under another reference once another SMS was asked for: units of work.

Such an upstream makes a new order for it. That it is about to be asked is written down first, as with a purchase:
should the answer be lost, an order is open there that nobody here knows, and asking once more would make another one.
Until it is known, an order with that number for that service is nobody else's.

Every reference a lease has ever had stays its own: an order that is still listed under one is no stranger.
"""

from __future__ import annotations

from gateway.errors import Unavailable
from gateway.model import Status
from gateway.store import Tx
from gateway.vault import Vault

Goods = tuple[str, str]
"""Service and number."""


def begin(tx: Tx, activation_id: int, until: float, at: float) -> bool | None:
    """Notes that another SMS is asked for, until then at most; whether it was before, and nobody knows what came of it.

    None where the state does not allow it. Raises Unavailable while somebody is at it.
    """
    # An update that changes nothing takes the row's lock: of two at once the second sees the first.
    row = tx.one(
        "update activations set round = round where id = :id and status = :received returning resend_until",
        id=activation_id,
        received=Status.RECEIVED.value,
    )
    if row is None:
        return None
    if row["resend_until"] is not None and row["resend_until"] > at:
        raise Unavailable
    tx.execute("update activations set resend_until = :until where id = :id", until=until, id=activation_id)
    return row["resend_until"] is not None


def refused(tx: Tx, activation_id: int) -> None:
    """Nothing came of it."""
    tx.execute("update activations set resend_until = null where id = :id", id=activation_id)


def leave_in_doubt(tx: Tx, activation_id: int, at: float) -> None:
    """Nobody is at it any more, and what came of it is not known."""
    tx.execute(
        "update activations set resend_until = :at where id = :id and resend_until is not null",
        at=at,
        id=activation_id,
    )


def under_way(tx: Tx, vault: Vault, upstream: str, ended_since: float | None = None) -> frozenset[Goods]:
    """What an upstream was asked another SMS for, while it is not known under which reference that comes.

    Of activations that are open, and those that ended later than `ended_since`.
    """
    rows = tx.all(
        "select service, number_sealed, ended_at from activations"
        " where upstream = :upstream and resend_until is not null and number_sealed is not null",
        upstream=upstream,
    )
    return frozenset(
        (row["service"], vault.open(row["number_sealed"]))
        for row in rows
        if row["ended_at"] is None or (ended_since is not None and row["ended_at"] > ended_since)
    )


def move(tx: Tx, activation_id: int, reference: str, at: float) -> None:
    """The activation's lease goes on under this reference. Raises Conflict where that is another activation's.

    One that has ended meanwhile is told to the upstream, again: what was made there is to be closed, too. One that was
    moved elsewhere meanwhile stays there, and keeps this reference beside its own.
    """
    row = tx.one(
        "update activations set round = round where id = :id"
        " returning upstream, reference, status, ended_at, resend_until",
        id=activation_id,
    )
    if row is None or row["reference"] == reference:
        return
    is_elsewhere = row["ended_at"] is None and row["status"] != Status.RECEIVED
    _remember(tx, activation_id, row["upstream"], reference if is_elsewhere else row["reference"])
    if is_elsewhere:
        return
    tx.insert(
        "update activations set reference = :reference, resend_until = null where id = :id returning id",
        reference=reference,
        id=activation_id,
    )
    if row["ended_at"] is not None:
        tx.execute(
            "update activations set close_outcome = 'finished', close_at = :at, close_tries = 0 where id = :id",
            at=at,
            id=activation_id,
        )


def _remember(tx: Tx, activation_id: int, upstream: str, reference: str) -> None:
    tx.execute(
        "insert into lease_references (upstream, reference, activation_id) values (:upstream, :reference, :id)"
        " on conflict (upstream, reference) do nothing",
        upstream=upstream,
        reference=reference,
        id=activation_id,
    )


def activation_of(tx: Tx, upstream: str, reference: str) -> int | None:
    """Whose lease it is that has this reference, or had it."""
    row = tx.one(
        "select id from activations where upstream = :upstream and reference = :reference"
        " union all select activation_id from lease_references where upstream = :upstream and reference = :reference"
        " limit 1",
        upstream=upstream,
        reference=reference,
    )
    return None if row is None else int(row["id"])


def former_references(tx: Tx, activation_id: int) -> list[str]:
    """Those that its lease had beside the one it has now."""
    rows = tx.all(
        "select reference from lease_references where activation_id = :id order by reference", id=activation_id
    )
    return [str(row["reference"]) for row in rows]
