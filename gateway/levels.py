"""The levels an order passes: every account from the root down to the one that buys, then its key, with their rules.

Read again in the transaction of each hold, so that a suspension, a revocation or a new cap counts at once, on every
process: what a caller carries (`accounts.Caller`) may be a second old.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway import rules, tree
from gateway.errors import BadKey, Barred, NoNumbers, Suspended
from gateway.rules import EVERYTHING, NO_RULES, Allowed, Rules
from gateway.store import Row, Tx

_RULES = ", ".join(f"r.{name}" for name in rules.COLUMNS)

_KEY = (
    "select 'key:' || coalesce(k.origin_id, k.id) as subject, -1 as depth, k.revoked_at, k.retires_at,"
    " cast(null as double precision) as barred_until, r.subject as has_rules, " + _RULES
)
_KEY_RULES = " left join rules r on r.subject = 'key:' || coalesce(k.origin_id, k.id)"
_ACCOUNTS = (
    "select 'account:' || a.id as subject, t.depth, cast(null as double precision) as revoked_at,"
    " cast(null as double precision) as retires_at, a.barred_until, r.subject as has_rules, " + _RULES
)
_ACCOUNT_RULES = " join accounts a on a.id = t.ancestor_id left join rules r on r.subject = 'account:' || a.id"

_OF_KEY = (
    _KEY + " from api_keys k" + _KEY_RULES + " where k.id = :key union all "
    + _ACCOUNTS + " from account_tree t" + _ACCOUNT_RULES + " where t.account_id = :account order by depth desc"
)  # fmt: skip
_OF_ORDER = (
    _KEY + " from activations v join api_keys k on k.id = v.key_id" + _KEY_RULES + " where v.id = :order union all "
    + _ACCOUNTS + " from activations v join account_tree t on t.account_id = v.account_id" + _ACCOUNT_RULES
    + " where v.id = :order order by depth desc"
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Level:
    """One level. `subject` is what its rules and counters go by, `depth` counts from the account up, -1 for the key."""

    subject: str
    depth: int
    rules: Rules
    barred_until: float | None = None
    revoked_at: float | None = None
    retires_at: float | None = None

    @property
    def is_key(self) -> bool:
        return self.depth < 0


def account_subject(account_id: int) -> str:
    return f"account:{account_id}"


def key_subject(key_id: int) -> str:
    """`key_id` is that of the first of the keys that replaced each other."""
    return f"key:{key_id}"


def of_key(tx: Tx, account_id: int, key_id: int) -> list[Level]:
    """The levels of whoever asks with a key of an account; `key_id` 0 for the account alone."""
    return _levels(tx.all(_OF_KEY, key=key_id, account=account_id))


def of_order(tx: Tx, activation_id: int) -> list[Level]:
    """The levels an order passes: root, …, account, key."""
    found = _levels(tx.all(_OF_ORDER, order=activation_id))
    if len(found) > 1:
        return found
    # An account from before there was a tree, made by a program of that time.
    row = tx.one("select account_id from activations where id = :id", id=activation_id)
    if row is None:
        raise KeyError(activation_id)
    tree.place(tx, row["account_id"])
    return _levels(tx.all(_OF_ORDER, order=activation_id))


def _levels(rows: Sequence[Row]) -> list[Level]:
    return [
        Level(
            subject=row["subject"],
            depth=row["depth"],
            rules=NO_RULES if row["has_rules"] is None else rules.from_row(row),
            barred_until=row["barred_until"],
            revoked_at=row["revoked_at"],
            retires_at=row["retires_at"],
        )
        for row in rows
    ]


def barred_until(levels: Sequence[Level]) -> float | None:
    """Until when nothing may be bought: a bar is for everybody below, too."""
    return max((level.barred_until for level in levels if level.barred_until is not None), default=None)


def stopped_at(levels: Sequence[Level]) -> float | None:
    """From when on an account or one above it may not buy, by a suspension or the end of its time."""
    times = (level.rules.stopped_at() for level in levels if not level.is_key)
    return min((at for at in times if at is not None), default=None)


def key_ends_at(levels: Sequence[Level]) -> float | None:
    """When the key stops working: revoked or suspended it has, replaced or given a time it will."""
    found: list[float | None] = []
    for level in levels:
        if level.is_key:
            revoked_at = None if level.revoked_at is None else 0.0
            found = [revoked_at, level.retires_at, level.rules.stopped_at()]
    return min((at for at in found if at is not None), default=None)


def require_buyer(levels: Sequence[Level], at: float) -> None:
    """Whether these may buy at all. Raises BadKey, Suspended, Barred.

    A suspension or revocation counts whatever the clock that wrote it said; only a time that was set to come is waited
    for.
    """
    for level in levels:
        ends = (level.retires_at, level.rules.stopped_at())
        if level.revoked_at is not None or any(end is not None and end <= at for end in ends):
            raise BadKey if level.is_key else Suspended
    until = barred_until(levels)
    if until is not None and until > at:
        raise Barred(until)


def allowed(levels: Sequence[Level]) -> Allowed:
    """What may be bought under all of these."""
    return rules.allowed(level.rules for level in levels)


def require_allowed(tx: Tx, levels: Sequence[Level], activation_id: int, price_micros: int) -> None:
    """Whether these may buy what the order is for, for so much. Raises NoNumbers: what may not be had is not there."""
    found = allowed(levels)
    if found is EVERYTHING:
        return
    order = tx.one("select service, country from activations where id = :id", id=activation_id)
    is_sold = order is not None and found.sells(order["service"], order["country"])
    if not is_sold or (found.price_max is not None and price_micros > found.price_max):
        raise NoNumbers


# Rules as rows


def load(tx: Tx, subject: str) -> Rules:
    """A subject's own rules."""
    row = tx.one("select * from rules where subject = :subject", subject=subject)
    return NO_RULES if row is None else rules.from_row(row)


def save(tx: Tx, subject: str, found: Rules) -> None:
    """Writes a subject's rules, all of them."""
    values: Mapping[str, Any] = rules.to_row(found)
    names, places = ", ".join(values), ", ".join(f":{name}" for name in values)
    sets = ", ".join(f"{name} = excluded.{name}" for name in values)
    tx.execute(
        f"insert into rules (subject, {names}) values (:subject, {places})"  # noqa: S608 — names of our own columns
        f" on conflict (subject) do update set {sets}",
        subject=subject,
        **values,
    )
