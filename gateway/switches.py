"""Switches an operator turns by hand: which upstreams take no new orders. Kept in the database, so that every server
follows within a second, and a restart forgets nothing."""

from __future__ import annotations

from gateway import audit, revisions
from gateway.store import Tx

REVISION = "upstreams"
"""Grows with every turn of a switch."""


def set_drained(tx: Tx, upstream: str, at: float, actor: str, *, is_drained: bool) -> bool:
    """Takes an upstream out of new orders, or back in; whether that changed anything."""
    row = tx.one("select is_drained from upstream_switches where upstream = :upstream", upstream=upstream)
    if is_drained is bool(row is not None and row["is_drained"]):
        return False
    tx.execute(
        "insert into upstream_switches (upstream, is_drained, changed_at, actor)"
        " values (:upstream, :drained, :at, :actor)"
        " on conflict (upstream) do update set is_drained = :drained, changed_at = :at, actor = :actor",
        upstream=upstream,
        drained=int(is_drained),
        at=at,
        actor=actor,
    )
    revisions.bump(tx, REVISION)
    audit.note(tx, at, actor, "upstream.drain" if is_drained else "upstream.resume", f"upstream:{upstream}")
    return True


def drained(tx: Tx) -> dict[str, float]:
    """Upstreams that take no new orders, with the time since when."""
    rows = tx.all("select upstream, changed_at from upstream_switches where is_drained = 1")
    return {row["upstream"]: row["changed_at"] for row in rows}
