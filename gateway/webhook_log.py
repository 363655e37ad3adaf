"""What was sent and what became of it: attempts, notices that were given up, and their replay. Units of work.

Each names the account it is for. Results come from a closed set of words: no URL, number or text is in here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from gateway import audit, webhook_endpoints
from gateway.errors import NotAllowedNow
from gateway.store import Row, Tx
from gateway.webhook_endpoints import DISABLED, ENDPOINT

REPLAYED_MAX = 1_000
"""Of one call: each is a row that couriers then read at once."""

PRUNED_MAX = 5_000

MESSAGE_DELETED = "message deleted"
"""The result of a notice whose message was gone when its turn came. Nobody failed: nobody was asked."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request that was made, or refused to be made. `seconds` is how long it took; `status` what was answered."""

    at: float
    format: str
    words: str
    status: int | None
    seconds: float
    digest: str = field(repr=False)
    signature: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Figures:
    """The outbox at a glance."""

    oldest_pending_seconds: float
    dead: int
    disabled: int


def note_attempt(tx: Tx, account_id: int, notice_id: int | None, attempt: Attempt) -> None:
    """Writes one attempt down; `notice_id` is None for a test.

    Of a message that was deleted while it was under way nothing is kept by which that could be guessed.
    """
    has_message = notice_id is None or _keep_message(tx, notice_id)
    tx.execute(
        "insert into webhook_attempts (account_id, notice_id, at, format, result, status, seconds, body_digest,"
        " signature) values (:account, :notice, :at, :format, :words, :status, :seconds, :digest, :signature)",
        account=account_id,
        notice=notice_id,
        at=attempt.at,
        format=attempt.format,
        words=attempt.words,
        status=attempt.status,
        seconds=attempt.seconds,
        digest=attempt.digest if has_message else "",
        signature=attempt.signature if has_message else "",
    )


def _keep_message(tx: Tx, notice_id: int) -> bool:
    """Whether a notice's message is still there, which it then is until we are done; else its digest goes as well."""
    # Written, though nothing changes: so whoever deletes it waits, and finds the attempt.
    is_there = tx.execute(
        "update messages set is_shown = is_shown"
        " where id = (select message_id from notices where id = :id) and text_sealed <> ''",
        id=notice_id,
    )
    if not is_there:
        tx.execute("update notices set body_digest = '' where id = :id", id=notice_id)
    return bool(is_there)


def attempts(tx: Tx, account_id: int, *, before: int, limit: int) -> Sequence[Row]:
    """The account's attempts with ids below `before`, newest first."""
    return tx.all(
        "select id, notice_id, at, format, result, status, seconds, body_digest, signature from webhook_attempts"
        " where account_id = :account and id < :before order by id desc limit :limit",
        account=account_id,
        before=before,
        limit=limit,
    )


_NOTICE = (
    "select n.id, n.activation_id, n.format, n.state, n.tries, n.created_at, n.ended_at, n.next_at, n.last_result,"  # noqa: S608 — a constant
    f" {ENDPOINT} as rental_id, v.product from notices n join activations v on v.id = n.activation_id"
    " where n.account_id = :account and n.id "
)


def notices(tx: Tx, account_id: int, *, state: str | None, before: int, limit: int) -> Sequence[Row]:
    """The account's notices with ids below `before`, newest first; those in one state, or all."""
    return tx.all(
        _NOTICE + "< :before and (n.state = :state or :state = '') order by n.id desc limit :limit",
        account=account_id,
        before=before,
        state=state or "",
        limit=limit,
    )


def replay(tx: Tx, account_id: int, notice_id: int, at: float, actor: str) -> Row | None:
    """Sends a notice that is sent or given up once more, under its own id; None where the account has no such notice.

    Raises NotAllowedNow where it waits to be sent anyway, where its message is deleted, or where nothing would be sent.
    """
    row = tx.one(_NOTICE + "= :id", account=account_id, id=notice_id)
    if row is None:
        return None
    webhook_endpoints.require_usable(tx, account_id, row["rental_id"])
    is_ours = tx.execute(
        "update notices set state = 'pending', tries = 0, next_at = :at, ended_at = null"
        " where id = :id and state <> 'pending'"
        " and exists (select 1 from messages m where m.id = notices.message_id and m.text_sealed <> '')",
        at=at,
        id=notice_id,
    )
    if not is_ours:
        raise NotAllowedNow
    _audit(tx, account_id, at, actor, notice=notice_id)
    return tx.one(_NOTICE + "= :id", account=account_id, id=notice_id)


def replay_dead(tx: Tx, account_id: int, since: float, at: float, actor: str) -> int:
    """Sends what was given up of messages since then once more, oldest first, `REPLAYED_MAX` at most; how many.

    What was given up after `at` is left: so whoever repeats this with the same time comes to an end. Raises
    NotAllowedNow where nothing would be sent. Notices to a rental that takes none, and of deleted messages, are left
    where they are.
    """
    webhook_endpoints.require_usable(tx, account_id, 0)
    count = tx.execute(
        "update notices set state = 'pending', tries = 0, next_at = :at, ended_at = null where state = 'dead'"  # noqa: S608 — a constant
        " and id in (select n.id from notices n join activations v on v.id = n.activation_id"
        " join messages m on m.id = n.message_id"
        f" left join webhook_endpoints e on e.account_id = n.account_id and e.rental_id = {ENDPOINT}"
        " where n.account_id = :account and n.state = 'dead' and n.created_at >= :since and n.ended_at <= :at"
        " and e.disabled_at is null and m.text_sealed <> ''"
        " and (n.format <> 'rent' or v.webhook_url_sealed is not null) order by n.id limit :most)",
        account=account_id,
        since=since,
        at=at,
        most=REPLAYED_MAX,
    )
    if count:
        _audit(tx, account_id, at, actor, since=since, count=count)
    return count


def _audit(tx: Tx, account_id: int, at: float, actor: str, **detail: float) -> None:
    audit.note(tx, at, actor, "webhook.replay", f"account:{account_id}", account_id=account_id, **detail)


def prune(tx: Tx, until: float) -> int:
    """Deletes attempts older than that, `PRUNED_MAX` at most; how many."""
    return tx.execute(
        "delete from webhook_attempts where id in"
        " (select id from webhook_attempts where at < :until order by at limit :most)",
        until=until,
        most=PRUNED_MAX,
    )


def figures(tx: Tx, now: float) -> Figures:
    """How it stands with the outbox."""
    row = tx.one(
        "select (select min(created_at) from notices where state = 'pending') as oldest,"  # noqa: S608 — a constant
        " (select count(*) from notices where state = 'dead') as dead,"
        f" (select count(*) from webhook_endpoints e where {DISABLED}) as disabled"
    )
    assert row is not None  # noqa: S101 — no table, one row
    return Figures(max(0.0, now - row["oldest"]) if row["oldest"] is not None else 0.0, row["dead"], row["disabled"])
