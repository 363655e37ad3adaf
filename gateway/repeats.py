"""Identical requests at several processes: an order whose client has hung up goes to whoever repeats the request.

Each order under way has in its row the process that its client waits at (`served_by`), and only that one knows whether
the client is still there. Once it is not, the order is put up (`claim_until`), at the latest when somebody asks; who
takes it is its process from then on, whoever is buying. What is put up is taken in one conditional update, so of two
repeats one gets it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gateway.errors import Barred, CallerError, NoNumbers, NotAllowedNow, Unavailable
from gateway.store import Row, Tx

SEEN_MAX = 100
"""Of the orders of one request that are under way elsewhere, how many are asked for at most: the oldest."""


@dataclass(frozen=True, slots=True)
class Taken:
    """An order of the same request that was put up, and is the caller's process's now."""

    activation_id: int
    opened_at: float
    is_over: bool
    """Whether it had its number by then."""


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Orders of the same request that clients of other processes wait for, unless they have hung up."""

    ids: Sequence[int]
    processes: frozenset[str]


def look(
    tx: Tx, account_id: int, fingerprint: str, parent_id: int | None, me: str, *, since: float, at: float
) -> Taken | Elsewhere | None:
    """Takes an order of the same request that is put up; else those begun after `since` that nobody is told of yet.

    A further service on a number (`parent_id`) is the same request only on that number.
    """
    rows = tx.all(
        "select id, opened_at, served_by, claim_until from activations"
        " where fingerprint = :request and account_id = :account and answered = 0 and status <> 'failed'"
        " and coalesce(parent_id, 0) = :parent"
        " and (ended_at is null or product = 'extension')"
        " and (claim_until > :at or (claim_until is null and opened_at > :since and served_by not in ('', :me)))"
        " order by claim_until is null, id limit :most",
        request=fingerprint,
        parent=parent_id or 0,
        account=account_id,
        me=me,
        since=since,
        at=at,
        most=SEEN_MAX,
    )
    for row in rows:
        taken = take(tx, row["id"], me, at) if row["claim_until"] is not None else None
        if taken is not None:
            return taken
    others = [row for row in rows if row["claim_until"] is None]
    return Elsewhere([row["id"] for row in others], frozenset(row["served_by"] for row in others)) if others else None


def take(tx: Tx, activation_id: int, me: str, at: float) -> Taken | None:
    """Takes what is put up, unless somebody else did.

    What has its number counts as told from now on. What has not is told later, and until then can be put up again.
    """
    row = tx.one(
        "update activations set served_by = :me, claim_until = null,"
        " answered = case when status = 'opening' then 0 else 1 end"
        " where id = :id and answered = 0 and claim_until > :at and status <> 'failed'"
        " and (ended_at is null or product = 'extension') returning opened_at, answered",
        me=me,
        at=at,
        id=activation_id,
    )
    return None if row is None else Taken(activation_id, row["opened_at"], bool(row["answered"]))


def put_up(tx: Tx, ids: Iterable[int], me: str, until: float) -> None:
    """The clients of these orders, which wait here, have hung up: whoever repeats the request may have them."""
    for activation_id in sorted(ids):
        tx.execute(
            "update activations set claim_until = :until where id = :id and served_by = :me and answered = 0"
            " and claim_until is null and status <> 'failed' and (ended_at is null or product = 'extension')",
            until=until,
            me=me,
            id=activation_id,
        )


def outcome(tx: Tx, activation_id: int) -> Row | None:
    """How an order stands: `status`, `failure`, `product`, `parent_id`."""
    return tx.one("select status, failure, product, parent_id from activations where id = :id", id=activation_id)


def word(error: CallerError) -> str:
    """What the client of an order is told that failed, as its row keeps it."""
    return f"{error.code}:{error.until}" if isinstance(error, Barred) else error.code


def failure(said: str | None) -> CallerError:
    """What `word` was made of; where nothing was said, as of an order left behind, the client is to ask again."""
    code, _, until = (said or "").partition(":")
    if code == Barred.code:
        return Barred(float(until))
    return {NoNumbers.code: NoNumbers, NotAllowedNow.code: NotAllowedNow}.get(code, Unavailable)()
