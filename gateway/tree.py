"""Who is below whom: every account with all those above it, itself included, as units of work.

An account's parent is named when it is created and never changes, so there are no cycles, and a parent's id is always
the lower one: whoever locks accounts in the order of their ids locks them root to leaf.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gateway.store import Tx

LEVELS_MAX = 16
"""An operator's customers are level one."""


class TooDeep(Exception):
    """The tree would have more levels than it may."""


def place(tx: Tx, account_id: int) -> None:
    """Gives an account its place under its parent, which gets its own first where it has none. Raises TooDeep."""
    row = tx.one("select parent_id from accounts where id = :id", id=account_id)
    parent_id = row["parent_id"] if row else None
    if parent_id is not None and not line(tx, parent_id):
        place(tx, parent_id)
    above = [] if parent_id is None else line(tx, parent_id)
    if len(above) >= LEVELS_MAX:
        raise TooDeep
    for depth, ancestor_id in enumerate(reversed([*above, account_id])):
        tx.execute(
            "insert into account_tree (account_id, ancestor_id, depth) values (:id, :ancestor, :depth)"
            " on conflict (account_id, ancestor_id) do nothing",
            id=account_id,
            ancestor=ancestor_id,
            depth=depth,
        )


def line(tx: Tx, account_id: int) -> list[int]:
    """The ids from the root down to the account; empty where it has no place yet."""
    rows = tx.all("select ancestor_id from account_tree where account_id = :id order by depth desc", id=account_id)
    return [row["ancestor_id"] for row in rows]


def is_within(tx: Tx, account_id: int, ancestor_id: int) -> bool:
    """Whether an account is the other one or somewhere below it."""
    return (
        tx.one(
            "select 1 as x from account_tree where account_id = :id and ancestor_id = :ancestor",
            id=account_id,
            ancestor=ancestor_id,
        )
        is not None
    )


def below(tx: Tx, account_id: int) -> list[int]:
    """The account and all below it, root to leaf."""
    rows = tx.all("select account_id from account_tree where ancestor_id = :id order by account_id", id=account_id)
    return [row["account_id"] for row in rows]


def lock(tx: Tx, account_ids: Iterable[int]) -> None:
    """Makes every hold, release and transfer of these accounts wait for this unit, and waits for those under way."""
    for account_id in sorted(account_ids):
        tx.execute("update balances set open_count = open_count where account_id = :id", id=account_id)


def lock_below(tx: Tx, account_id: int) -> None:
    """As `lock`, for an account and all below it; nobody can be put below it meanwhile (see `accounts.create`)."""
    lock(tx, [account_id])
    lock(tx, below(tx, account_id)[1:])


def verify(tx: Tx) -> Iterable[str]:
    """A sentence for each account whose place is not what the chain of its parents says."""
    parents = {row["id"]: row["parent_id"] for row in tx.all("select id, parent_id from accounts")}
    shown: dict[int, list[tuple[int, int]]] = {}
    for row in tx.all("select account_id, ancestor_id, depth from account_tree"):
        shown.setdefault(row["account_id"], []).append((row["depth"], row["ancestor_id"]))
    for account_id in parents:
        if sorted(shown.get(account_id, [])) != list(enumerate(_climb(parents, account_id))):
            yield f"account_tree: account {account_id} is not where its parents are"


def _climb(parents: dict[int, int | None], account_id: int) -> Sequence[int]:
    found: list[int] = []
    at: int | None = account_id
    while at is not None and at not in found:
        found.append(at)
        at = parents.get(at)
    return found
