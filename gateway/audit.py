"""Who read or changed what: rows that are never edited, sealed like the ledger. Units of work.

`actor` is who did it (`cli`, `key:17`, `user:3`, `worker`), `action` a word such as `key.issue`, `subject` what it was
done to (`account:5`, `message:12`). `detail` holds names and amounts, never a key, a number or a message.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from gateway.store import Row, Tx

PAGE_ROWS = 1_000


def note(
    tx: Tx, /, at: float, actor: str, action: str, subject: str, *, account_id: int | None = None, **detail: Any
) -> None:
    """Writes one entry, in the transaction of what it tells of."""
    tx.execute(
        "insert into audit (at, actor, action, subject, account_id, detail)"
        " values (:at, :actor, :action, :subject, :account, :detail)",
        at=at,
        actor=actor,
        action=action,
        subject=subject,
        account=account_id,
        detail=json.dumps(detail, ensure_ascii=False, sort_keys=True, separators=(",", ":")),
    )


def page(
    tx: Tx, *, after: int = 0, start: float = 0.0, end: float = float("inf"), within: int | None = None,
    limit: int = PAGE_ROWS,
) -> Sequence[Row]:  # fmt: skip
    """Entries with ids above `after` and times in the span, oldest first; of one account and all below it, or all."""
    if within is None:
        return tx.all(
            "select * from audit where id > :after and at >= :start and at < :end order by id limit :limit",
            after=after, start=start, end=min(end, 1e15), limit=limit,
        )  # fmt: skip
    return tx.all(
        "select * from audit where account_id in (select account_id from account_tree where ancestor_id = :within)"
        " and id > :after and at >= :start and at < :end order by id limit :limit",
        within=within, after=after, start=start, end=min(end, 1e15), limit=limit,
    )  # fmt: skip


def as_fields(row: Row) -> Mapping[str, Any]:
    """One entry for an export: plain values, the detail opened."""
    return {
        "id": row["id"],
        "at": row["at"],
        "actor": row["actor"],
        "action": row["action"],
        "subject": row["subject"],
        "account": row["account_id"],
        "detail": json.loads(row["detail"]),
    }
