"""What operators and resellers do with accounts, keys and money: each change with its entry in the audit log.

Units of work. A `Manager` is asked for anew in the transaction of what it does: a key that was revoked, or an account
that was suspended a moment ago, changes nothing any more. What lies outside a manager's own account and those below it
is not there: `UnknownAccount`, `UnknownKey`, as for what nobody has.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway import (
    accounts,
    audit,
    deposits,
    fuse,
    ledger,
    levels,
    markups,
    recharges,
    rules,
    statements,
    terms,
    tree,
    usage,
    users,
    vouchers,
)
from gateway.accounts import AccountError, Issued, NotYours, Ruled
from gateway.errors import BadKey, Suspended
from gateway.ladders import Markup
from gateway.markups import MarkupError, Rule
from gateway.money import Money, parse, plain
from gateway.recharges import Recharge
from gateway.rules import Rules
from gateway.settings import FuseSettings
from gateway.statements import Statement
from gateway.store import Row, Tx
from gateway.users import Role
from gateway.vault import Vault
from gateway.vouchers import Batch, Redeemed

SETTABLE = tuple(name for name in rules.COLUMNS if name != "suspended_at")
"""The rules that are set as a whole; a suspension has verbs of its own."""


class MayNotManage(AccountError):
    """A key that only buys."""


class UnknownBatch(AccountError):
    """There is no such batch of vouchers, or none for whoever asks."""


class ChangedMeanwhile(AccountError):
    """It is no longer what whoever changes it has seen."""


@dataclass(frozen=True, slots=True)
class Manager:
    """Who manages. `account_id` bounds what is there: that account and all below it; None for an operator.

    `key_id` is the key that asks, or the one that what a person does is put down to.
    """

    actor: str
    account_id: int | None = None
    key_id: int = 0
    is_person: bool = False


COMMAND_LINE = Manager("cli")


def require(tx: Tx, manager: Manager, at: float) -> None:
    """Whether whoever asks may change anything. Raises BadKey, Suspended, MayNotManage."""
    if manager.account_id is None:
        return
    for level in levels.of_key(tx, manager.account_id, manager.key_id):
        ends = (level.retires_at, level.rules.stopped_at())
        if level.revoked_at is not None or any(end is not None and end <= at for end in ends):
            raise BadKey if level.is_key else Suspended
    row = tx.one("select may_manage from api_keys where id = :id", id=manager.key_id)
    if not manager.is_person and (row is None or not row["may_manage"]):
        raise MayNotManage("this key only buys")


def _note(tx: Tx, manager: Manager, at: float, action: str, subject: str, account_id: int, /, **detail: Any) -> None:
    audit.note(tx, at, manager.actor, action, subject, account_id=account_id, **detail)


# Accounts


def create_account(
    tx: Tx,
    manager: Manager,
    name: str,
    at: float,
    *,
    parent: str | None,
    currency: str | None,
    is_demo: bool | None,
    terms_version: str,
    house_currency: str,
) -> Row:
    """A new account, below `parent` or (for an operator) on top, as `accounts.shown` has it.

    A reseller's accounts are below its own, and their names begin with that of the account above and a dot: so nobody
    learns from a name that is taken what others have. Raises AccountError: also where the account above has not
    accepted the terms in force.
    """
    require(tx, manager, at)
    if parent is None and manager.account_id is not None:
        parent = str(_name_of(tx, manager.account_id))
    above = accounts.find(tx, parent, manager.account_id) if parent is not None and parent != name else None
    if above is not None:
        if manager.account_id is not None:
            _require_own_name(name, above["name"])
        terms.require_accepted(tx, above["id"], above["name"], terms_version)
    account_id = accounts.create(
        tx,
        name,
        currency or (above["currency"] if above is not None else house_currency),
        at,
        is_demo=is_demo if is_demo is not None else bool(above is not None and above["is_demo"]),
        parent=parent,
    )
    _note(tx, manager, at, "account.create", f"account:{account_id}", account_id, name=name, parent=parent)
    return accounts.shown(tx, name)


def _name_of(tx: Tx, account_id: int) -> str:
    row = tx.one("select name from accounts where id = :id", id=account_id)
    assert row is not None  # noqa: S101 — accounts are never deleted
    return str(row["name"])


def _require_own_name(name: str, above: str) -> None:
    beginning, dot, own = name.rpartition(".")
    if not (dot and own and beginning == above):
        raise AccountError(f"the name begins with that of the account above: {above}.NAME, NAME without a dot")


def suspend(tx: Tx, manager: Manager, name: str, at: float) -> Row:
    """Stops an account and all below it from buying; the account. Safe to repeat. Raises AccountError."""
    return _switch(tx, manager, name, at, "account.suspend", {"suspended_at": at})


def resume(tx: Tx, manager: Manager, name: str, at: float) -> Row:
    """Ends a suspension; the account. Safe to repeat. Raises AccountError."""
    return _switch(tx, manager, name, at, "account.resume", {"suspended_at": None})


def _switch(tx: Tx, manager: Manager, name: str, at: float, action: str, changes: Mapping[str, float | None]) -> Row:
    require(tx, manager, at)
    row = accounts.find(tx, name, manager.account_id)
    accounts.set_rules(tx, name, changes, at, within=manager.account_id)
    _note(tx, manager, at, action, f"account:{row['id']}", row["id"], name=name)
    return accounts.shown(tx, name)


def bar(tx: Tx, manager: Manager, name: str, until: float | None, at: float) -> None:
    """As `accounts.bar`."""
    require(tx, manager, at)
    row = accounts.find(tx, name)
    accounts.bar(tx, name, until)
    _note(tx, manager, at, "account.bar", f"account:{row['id']}", row["id"], name=name, until=until)


# Rules


def tag(found: Rules) -> str:
    """What an account's or a key's rules are known by: another one for other rules. A suspension is no part of it."""
    row = rules.to_row(found)
    text = repr([(name, row[name]) for name in SETTABLE])
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def change_rules(
    tx: Tx,
    manager: Manager,
    name: str,
    changes: Mapping[str, Any],
    at: float,
    *,
    force: bool = False,
    known_tags: Collection[str] | None = None,
) -> Ruled:
    """As `accounts.set_rules`. With `known_tags`, only while the rules have one of them (`tag`): ChangedMeanwhile."""
    require(tx, manager, at)
    row = accounts.find(tx, name, manager.account_id)
    if row["id"] == manager.account_id:
        raise NotYours("an account's rules are set by those above it")
    tree.lock(tx, [row["id"]])
    _require_known(tag(accounts.rules_of(tx, name, at).rules), known_tags)
    found = accounts.set_rules(tx, name, changes, at, force=force, within=manager.account_id)
    _note(tx, manager, at, "account.rules", f"account:{row['id']}", row["id"], name=name, changes=_told(changes))
    return found


def change_key_rules(
    tx: Tx,
    manager: Manager,
    key_id: int,
    changes: Mapping[str, Any],
    at: float,
    *,
    force: bool = False,
    known_tags: Collection[str] | None = None,
) -> Ruled:
    """As `change_rules`, of a key."""
    require(tx, manager, at)
    row = accounts.find_key(tx, key_id, manager.account_id)
    tree.lock(tx, [row["account_id"]])
    _require_known(tag(accounts.rules_of_key(tx, key_id, at).rules), known_tags)
    found = accounts.set_key_rules(tx, key_id, changes, at, force=force, within=manager.account_id)
    _note(tx, manager, at, "key.rules", f"key:{key_id}", row["account_id"], changes=_told(changes))
    return found


def _require_known(found: str, known_tags: Collection[str] | None) -> None:
    if known_tags is not None and found not in known_tags:
        raise ChangedMeanwhile("it has been changed meanwhile")


def _told(changes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: sorted(value) if isinstance(value, frozenset) else value for name, value in sorted(changes.items())}


# Keys


def issue_key(
    tx: Tx,
    manager: Manager,
    vault: Vault,
    name: str,
    at: float,
    *,
    label: str = "",
    dialect: str | None = None,
    changes: Mapping[str, Any] | None = None,
    changes_per_minute: int | None = None,
    polls_per_minute: int | None = None,
    may_manage: bool | None = None,
) -> tuple[Issued, Row]:
    """As `accounts.new_key`; the key, and as `accounts.shown_key` has it."""
    require(tx, manager, at)
    made = accounts.new_key(
        tx,
        vault,
        name,
        at,
        dialect,
        label=label,
        changes=changes,
        changes_per_minute=changes_per_minute,
        polls_per_minute=polls_per_minute,
        may_manage=may_manage,
        within=manager.account_id,
    )
    row = accounts.find_key(tx, made.id)
    detail = {"name": label, "may_manage": bool(row["may_manage"]), "rules": _told(changes or {})}
    _note(tx, manager, at, "key.issue", f"key:{made.id}", row["account_id"], **detail)
    return made, accounts.shown_key(tx, made.id)


def rotate_key(
    tx: Tx, manager: Manager, vault: Vault, key_id: int, at: float, grace_seconds: float
) -> tuple[Issued, Row]:
    """As `accounts.rotate_key`; the new key, and as `accounts.shown_key` has it."""
    require(tx, manager, at)
    row = accounts.find_key(tx, key_id, manager.account_id)
    made = accounts.rotate_key(tx, vault, key_id, at, grace_seconds)
    _note(tx, manager, at, "key.rotate", f"key:{key_id}", row["account_id"], replaced_by=made.id, grace=grace_seconds)
    return made, accounts.shown_key(tx, made.id)


def switch_key(tx: Tx, manager: Manager, key_id: int, at: float, *, is_suspended: bool) -> Row:
    """Suspends a key, or lets it go on; the key. Safe to repeat. Raises UnknownKey."""
    require(tx, manager, at)
    row = accounts.find_key(tx, key_id, manager.account_id)
    accounts.set_key_rules(tx, key_id, {"suspended_at": at if is_suspended else None}, at)
    _note(tx, manager, at, "key.suspend" if is_suspended else "key.resume", f"key:{key_id}", row["account_id"])
    return accounts.shown_key(tx, key_id)


def revoke_key(tx: Tx, manager: Manager, key_id: int, at: float) -> Row:
    """As `accounts.revoke_key`; the key."""
    require(tx, manager, at)
    row = accounts.find_key(tx, key_id, manager.account_id)
    accounts.revoke_key(tx, key_id, at)
    _note(tx, manager, at, "key.revoke", f"key:{key_id}", row["account_id"])
    return accounts.shown_key(tx, key_id)


def key_tag(row: Row) -> str:
    """What a key's settings are known by, as `tag`."""
    text = repr([row[name] for name in ("name", "dialect", "changes_per_minute", "polls_per_minute", "may_manage")])
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def set_key(
    tx: Tx,
    manager: Manager,
    key_id: int,
    changes: Mapping[str, Any],
    at: float,
    *,
    known_tags: Collection[str] | None = None,
) -> Row:
    """Sets some of a key's `name`, `dialect`, limits, `may_manage` and `has_old_counts`; the key.

    Raises AccountError.
    """
    require(tx, manager, at)
    row = accounts.find_key(tx, key_id, manager.account_id)
    tree.lock(tx, [row["account_id"]])
    _require_known(key_tag(accounts.find_key(tx, key_id)), known_tags)
    if "name" in changes:
        accounts.rename_key(tx, key_id, changes["name"])
    if "dialect" in changes:
        accounts.set_dialect(tx, key_id, changes["dialect"])
    limits = {name: changes[name] for name in accounts.KEY_LIMITS if name in changes}
    if limits:
        accounts.set_limits(tx, key_id, limits)
    if "may_manage" in changes:
        accounts.set_may_manage(tx, key_id, changes["may_manage"])
    if "has_old_counts" in changes:
        accounts.set_old_counts(tx, key_id, has_old_counts=changes["has_old_counts"])
    _note(tx, manager, at, "key.set", f"key:{key_id}", row["account_id"], **changes)
    return accounts.shown_key(tx, key_id)


# Fuses


@dataclass(frozen=True, slots=True)
class Fused:
    """A key's fuse, and when it was stopped, the newest first."""

    key_id: int
    account: str
    name: str
    state: fuse.State
    stops: Sequence[Row]


def fuse_of(tx: Tx, within: int | None, key_id: int, settings: FuseSettings, at: float) -> Fused:
    """A key's fuse. Raises UnknownKey."""
    row = accounts.find_key(tx, key_id, within)
    state = fuse.state(tx, key_id, settings, at)
    return Fused(row["id"], row["account"], row["name"], state, fuse.stops(tx, row["account_id"], row["origin_id"]))


def set_fuse(
    tx: Tx,
    manager: Manager,
    key_id: int,
    settings: FuseSettings,
    at: float,
    *,
    changes: Mapping[str, float | None] | None = None,
    is_reset: bool = False,
) -> Fused:
    """Gives a key some settings of its own, as `fuse.set_own`, or ends its stop and counts anew; its fuse.

    Safe to repeat. Raises UnknownKey.
    """
    require(tx, manager, at)
    row = accounts.find_key(tx, key_id, manager.account_id)
    fuse.set_own(tx, key_id, changes or {})
    if is_reset:
        fuse.reset(tx, key_id)
    _note(tx, manager, at, "key.fuse", f"key:{key_id}", row["account_id"], reset=is_reset, **(changes or {}))
    return fuse_of(tx, manager.account_id, key_id, settings, at)


def blown(tx: Tx, within: int | None, settings: FuseSettings, at: float) -> tuple[list[fuse.Hurt], Sequence[Row]]:
    """Which keys are slowed or stopped now, and the latest stops."""
    return fuse.hurt(tx, within, settings, at), fuse.stops(tx, within)


# Money


def deposit(tx: Tx, manager: Manager, name: str, money: Money, at: float, *, note: str = "") -> None:
    """As `ledger.deposit`, for operators."""
    row = accounts.find(tx, name)
    ledger.deposit(tx, row["id"], money, at, actor=manager.actor, note=note)
    _note(tx, manager, at, "deposit", f"account:{row['id']}", row["id"], name=name, amount=str(money))


def transfer(
    tx: Tx,
    manager: Manager,
    source: str,
    target: str,
    amount: str | None,
    at: float,
    *,
    note: str = "",
    reference: str = "",
    is_reference_own: bool = False,
) -> Row:
    """As `ledger.transfer`, by names; the transfer as `transfers` has it. None moves all that is available.

    A reference that `is_reference_own` is the manager's, whichever accounts it is for: `ledger.ReferenceUsed` where it
    was for others.
    """
    require(tx, manager, at)
    payer = accounts.find(tx, source, manager.account_id)
    payee = accounts.find(tx, target, manager.account_id)
    money = None if amount is None else parse(amount, payer["currency"])
    # Both are locked before anybody looks whether the reference has been used.
    tree.lock(tx, {payer["id"], payee["id"]})
    known = _by_reference(tx, reference) if reference and is_reference_own else None
    if known is not None and (known["from_id"], known["to_id"]) != (payer["id"], payee["id"]):
        raise ledger.ReferenceUsed("this reference was used for another transfer before")
    last_id = _last_transfer(tx, payer["id"])
    moved = ledger.transfer(
        tx, payer["id"], payee["id"], money, at, actor=manager.actor, note=note, reference=reference
    )
    if _last_transfer(tx, payer["id"]) != last_id:
        detail = {"from": source, "to": target, "amount": str(moved)}
        for row in (payer, payee):
            _note(tx, manager, at, "transfer", f"account:{payee['id']}", row["id"], **detail)
    rows = tx.all(
        f"{_TRANSFERS} where t.from_id = :source and t.to_id = :target"
        " and (:reference = '' or t.reference = :reference) order by t.id desc limit 1",
        within=manager.account_id or 0,
        source=payer["id"],
        target=payee["id"],
        reference=reference,
    )
    return rows[0]


def _by_reference(tx: Tx, reference: str) -> Row | None:
    return tx.one("select from_id, to_id from transfers where reference = :reference", reference=reference)


def _last_transfer(tx: Tx, from_id: int) -> int:
    row = tx.one("select coalesce(max(id), 0) as id from transfers where from_id = :id", id=from_id)
    return int(row["id"]) if row else 0


_SEEN = "(:within = 0 or exists (select 1 from account_tree s where s.account_id = {} and s.ancestor_id = :within))"
_TRANSFERS = (
    "select t.id, t.at, t.amount, t.currency, l.note,"  # noqa: S608 — constant text
    f" case when {_SEEN.format('t.from_id')} then p.name end as source,"
    f" case when {_SEEN.format('t.to_id')} then q.name end as target"
    " from transfers t join ledger l on l.id = t.ledger_id"
    " join accounts p on p.id = t.from_id join accounts q on q.id = t.to_id"
)


def transfers(tx: Tx, within: int | None, *, account_id: int | None, before: int, limit: int) -> Sequence[Row]:
    """Transfers from and to an account, or any of an account and those below it, with ids below `before`.

    Newest first. `source` and `target` are None where the account is above.
    """
    if account_id is not None:
        mine = "(t.from_id = :account or t.to_id = :account)"
    elif within is not None:
        below = "(select s.account_id from account_tree s where s.ancestor_id = :within)"
        mine = f"(t.from_id in {below} or t.to_id in {below})"
    else:
        mine = "1 = 1"
    return tx.all(
        f"{_TRANSFERS} where {mine} and t.id < :before order by t.id desc limit :limit",
        within=within or 0,
        account=account_id or 0,
        before=before,
        limit=limit,
    )


# Deposits


def pay_in(
    tx: Tx,
    manager: Manager,
    name: str,
    amount: str,
    currency: str | None,
    reference: str,
    at: float,
    *,
    note: str = "",
) -> Row:
    """As `deposits.pay_in`, by name, for operators; the payment as it was booked first.

    Without a `currency` it is the account's. Raises NotYours, UnknownAccount, DepositError, MoneyError.
    """
    _require_operator(manager)
    row = accounts.find(tx, name)
    money = parse(amount, currency or row["currency"])
    deposits.pay_in(tx, row["id"], money, reference, deposits.OPERATOR, at, manager.actor, note)
    return deposits.shown_by_reference(tx, deposits.OPERATOR, reference)


def assign_payment(tx: Tx, manager: Manager, payment_id: int, name: str, at: float) -> Row:
    """As `deposits.assign`, by name, for operators; the payment. Raises NotYours, UnknownAccount, DepositError."""
    _require_operator(manager)
    deposits.shown(tx, payment_id)
    deposits.assign(tx, payment_id, accounts.find(tx, name)["id"], at, manager.actor)
    return deposits.shown(tx, payment_id)


def dismiss_payment(tx: Tx, manager: Manager, payment_id: int, at: float, *, note: str = "") -> Row:
    """As `deposits.dismiss`, for operators; the payment. Raises NotYours, DepositError."""
    _require_operator(manager)
    deposits.dismiss(tx, payment_id, at, manager.actor, note)
    return deposits.shown(tx, payment_id)


def payments_page(tx: Tx, name: str | None, *, is_open: bool, after: int, limit: int) -> Sequence[Row]:
    """As `deposits.payments`, by name. Raises UnknownAccount."""
    account_id = None if name is None else accounts.find(tx, name)["id"]
    return deposits.payments(tx, account_id=account_id, is_open=is_open, after=after, limit=limit)


def _require_operator(manager: Manager) -> None:
    if manager.account_id is not None:
        raise NotYours("money from outside is booked by operators")


# Vouchers and recharges


def issue_vouchers(
    tx: Tx,
    manager: Manager,
    vault: Vault,
    name: str,
    count: int,
    amount: str,
    at: float,
    *,
    expires_at: float | None = None,
    note: str = "",
) -> Batch:
    """As `vouchers.issue`, of an account. Raises UnknownAccount, VoucherError, NoBalance as well."""
    require(tx, manager, at)
    row = accounts.find(tx, name, manager.account_id)
    money = parse(amount, row["currency"])
    return vouchers.issue(tx, vault, row["id"], count, money, at, manager.actor, expires_at=expires_at, note=note)


def revoke_vouchers(tx: Tx, manager: Manager, batch_id: int, at: float) -> Row:
    """As `vouchers.revoke`; the batch. Safe to repeat. Raises UnknownBatch."""
    require(tx, manager, at)
    issuer_id = _issuer(tx, batch_id, manager.account_id)
    vouchers.revoke(tx, batch_id, at, manager.actor)
    return vouchers.batches(tx, issuer_id, after=batch_id - 1, limit=1)[0]


def batches_page(tx: Tx, within: int | None, name: str, *, after: int, limit: int) -> Sequence[Row]:
    """As `vouchers.batches`, of one account. Raises UnknownAccount."""
    return vouchers.batches(tx, accounts.find(tx, name, within)["id"], after=after, limit=limit)


def vouchers_page(tx: Tx, within: int | None, batch_id: int, *, after: int, limit: int) -> Sequence[Row]:
    """The vouchers of a batch with ids above `after`. Raises UnknownBatch."""
    _issuer(tx, batch_id, within)
    return tx.all(
        "select v.id, v.hint, v.state, v.ended_at, a.name as redeemed_by from vouchers v"
        " left join accounts a on a.id = v.redeemed_by where v.batch_id = :batch and v.id > :after"
        " order by v.id limit :limit",
        batch=batch_id,
        after=after,
        limit=limit,
    )


_BATCH = "select b.issuer_id from voucher_batches b where b.id = :id and "
_OF_BATCH = _BATCH + _SEEN.format("b.issuer_id")


def _issuer(tx: Tx, batch_id: int, within: int | None) -> int | None:
    row = tx.one(_OF_BATCH, id=batch_id if batch_id <= accounts.ID_MAX else 0, within=within or 0)
    if row is None:
        raise UnknownBatch(f"there is no batch {batch_id}")
    issuer_id: int | None = row["issuer_id"]
    return issuer_id


def redeem(tx: Tx, manager: Manager, name: str, digest: str, at: float) -> Redeemed:
    """As `vouchers.attempt`, by name. Raises UnknownAccount."""
    require(tx, manager, at)
    return vouchers.attempt(tx, accounts.find(tx, name, manager.account_id)["id"], digest, at, manager.actor)


def recharge(tx: Tx, within: int | None, name: str, at: float) -> Recharge | None:
    """The rule by which an account is recharged, if it has one that is on. Raises UnknownAccount."""
    found = recharges.rules(tx, at, [accounts.find(tx, name, within)["id"]])
    return found[0] if found and found[0].is_on else None


def recharge_tag(found: Recharge | None) -> str:
    """As `tag`, of the rule itself, not of how it stands."""
    rule = (
        (found.source, found.threshold, found.amount, found.month_max, found.cool_down_seconds)
        if found is not None
        else None
    )
    return hashlib.blake2b(repr(rule).encode(), digest_size=12).hexdigest()


def set_recharge(
    tx: Tx,
    manager: Manager,
    name: str,
    amounts: tuple[str, str, str],
    source: str,
    cool_down_seconds: float,
    at: float,
    *,
    known_tags: Collection[str] | None = None,
) -> Recharge | None:
    """As `recharges.set_rule`; `amounts` are threshold, amount and the month's ceiling. Raises AccountError as well.

    It is for the parent to say that its money is taken.
    """
    row = _rechargeable(tx, manager, name, at, known_tags)
    if source == "parent" and row["id"] == manager.account_id:
        raise NotYours("the parent's money is for the parent to give")
    threshold, amount, month_max = (parse(text, row["currency"]) for text in amounts)
    recharges.set_rule(
        tx, row["id"], threshold, amount, source, month_max, at, manager.actor, cool_down_seconds=cool_down_seconds
    )
    return recharge(tx, manager.account_id, name, at)


def end_recharge(tx: Tx, manager: Manager, name: str, at: float, *, known_tags: Collection[str] | None = None) -> None:
    """As `recharges.switch_off`. Safe to repeat. Raises AccountError."""
    row = _rechargeable(tx, manager, name, at, known_tags)
    recharges.switch_off(tx, row["id"], at, manager.actor)


def _rechargeable(tx: Tx, manager: Manager, name: str, at: float, known_tags: Collection[str] | None) -> Row:
    require(tx, manager, at)
    row = accounts.find(tx, name, manager.account_id)
    tree.lock(tx, [row["id"]])
    _require_known(recharge_tag(recharge(tx, manager.account_id, name, at)), known_tags)
    return row


# Markups


def markups_of(tx: Tx, within: int | None, name: str) -> list[Rule]:
    """As `markups.of`, by name. Raises UnknownAccount."""
    return markups.of(tx, accounts.find(tx, name, within)["id"])


def markups_tag(found: Sequence[Rule]) -> str:
    """As `tag`, of an account's markups in their order."""
    text = repr([(rule.child_id, *_markup_told(rule).values()) for rule in found])
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def set_markups(
    tx: Tx,
    manager: Manager,
    name: str,
    wanted: Sequence[tuple[Markup, str | None]],
    at: float,
    *,
    known_tags: Collection[str] | None = None,
) -> list[Rule]:
    """As `markups.replace`, by name, each with the name of the child it is for; the rules.

    Raises AccountError as well, and ChangedMeanwhile as `change_rules`. A child that is not there is one that is not
    directly below.
    """
    require(tx, manager, at)
    row = accounts.find(tx, name, manager.account_id)
    tree.lock(tx, [row["id"]])
    _require_known(markups_tag(markups.of(tx, row["id"])), known_tags)
    children = {child: _child_id(tx, row["id"], child) for _, child in wanted if child is not None}
    markups.replace(tx, row["id"], [(markup, children[child] if child else None) for markup, child in wanted])
    found = markups.of(tx, row["id"])
    note_markups(tx, manager, at, row, found)
    return found


def note_markups(tx: Tx, manager: Manager, at: float, row: Row, found: Sequence[Rule]) -> None:
    """In the audit log: these are an account's markups now."""
    told = [_markup_told(rule) for rule in found]
    _note(tx, manager, at, "account.markups", f"account:{row['id']}", row["id"], name=row["name"], markups=told)


def _child_id(tx: Tx, account_id: int, child: str) -> int:
    try:
        return int(accounts.find(tx, child, account_id)["id"])
    except accounts.UnknownAccount:
        raise MarkupError(markups.NOT_BELOW) from None


def _markup_told(rule: Rule) -> dict[str, Any]:
    markup = rule.markup
    return {
        "services": sorted(markup.services),
        "countries": sorted(markup.countries),
        "child": rule.child or None,
        "percent": markups.percent_text(markup.percent_millionths),
        "add": plain(markup.add_micros),
        "step": plain(markup.step_micros),
    }


# People


def add_user(
    tx: Tx, manager: Manager, email: str, password_hash: str, role: Role, account: str | None, at: float
) -> Row:
    """As `users.add`, for operators; the person."""
    row = users.by_id(tx, users.add(tx, email, password_hash, role, account, at))
    _note_user(tx, manager, at, "user.add", row, role=role.value)
    return row


def switch_user(
    tx: Tx, manager: Manager, user_id: int, at: float, *, is_disabled: bool, is_forced: bool = False
) -> Row:
    """As `users.switch`, for operators; the person."""
    row = users.switch(tx, user_id, at if is_disabled else None, is_forced=is_forced)
    _note_user(tx, manager, at, "user.disable" if is_disabled else "user.enable", row)
    return row


def set_password(tx: Tx, manager: Manager, row: Row, password_hash: str, at: float) -> None:
    """As `users.set_password`, for operators."""
    users.set_password(tx, row["id"], password_hash)
    _note_user(tx, manager, at, "user.password", row)


def change_own_password(tx: Tx, user_id: int, password_hash: str, known: str, at: float) -> int | None:
    """As `users.set_password`, by the person, who has proved the one known; the new epoch, None where it was changed
    or the person disabled meanwhile."""
    epoch = users.set_password(tx, user_id, password_hash, instead_of=known)
    if epoch is not None:
        note_person(tx, at, f"user:{user_id}", "user.password", user_id)
    return epoch


def note_person(tx: Tx, at: float, actor: str, action: str, user_id: int | None) -> None:
    """In the audit log: something befell a person, or (None) whoever was taken for one. It takes the same work."""
    row = tx.one("select account_id from users where id = :id", id=user_id or 0)
    subject = "user:unknown" if user_id is None else f"user:{user_id}"
    audit.note(tx, at, actor, action, subject, account_id=row["account_id"] if row is not None else None)


def _note_user(tx: Tx, manager: Manager, at: float, action: str, row: Row, **detail: Any) -> None:
    account_id = accounts.find(tx, row["account"])["id"] if row["account"] else None
    audit.note(tx, at, manager.actor, action, f"user:{row['id']}", account_id=account_id, **detail)


# Terms


def accept_terms(tx: Tx, manager: Manager, name: str, version: str, current: str, at: float) -> Row | None:
    """An account accepts the terms in force; as `terms.accepted`. Safe to repeat. Raises AccountError."""
    require(tx, manager, at)
    row = accounts.find(tx, name, manager.account_id)
    if manager.account_id not in (None, row["id"]):
        raise NotYours("an account accepts the terms itself")
    if terms.accept(tx, row["id"], version, current, at, manager.actor):
        _note(tx, manager, at, "terms.accept", f"account:{row['id']}", row["id"], name=name, version=version)
    return terms.accepted(tx, row["id"], version)


# Reading


def accounts_page(tx: Tx, within: int | None, parent: str | None, *, after: str, limit: int) -> Sequence[Row]:
    """As `accounts.page`; with `parent`, only the children of that account. Raises UnknownAccount."""
    parent_id = None if parent is None else accounts.find(tx, parent, within)["id"]
    return accounts.page(tx, within, after=after, parent_id=parent_id, limit=limit)


def keys_page(tx: Tx, within: int | None, name: str, *, after: int, limit: int) -> Sequence[Row]:
    """As `accounts.keys_page`, by name. Raises UnknownAccount."""
    return accounts.keys_page(tx, accounts.find(tx, name, within)["id"], after=after, limit=limit)


def transfers_page(tx: Tx, within: int | None, name: str | None, *, before: int, limit: int) -> Sequence[Row]:
    """As `transfers`, by name. Raises UnknownAccount."""
    account_id = None if name is None else accounts.find(tx, name, within)["id"]
    return transfers(tx, within, account_id=account_id, before=before, limit=limit)


def statement(
    tx: Tx, within: int | None, name: str, start: float, end: float, *, after: int = 0, limit: int = 1000
) -> Statement:
    """As `statements.statement`, by name. Raises UnknownAccount."""
    account_id = accounts.find(tx, name, within)["id"]
    return statements.statement(tx, account_id, start, end, after=after, limit=limit)


def usage_of(tx: Tx, within: int | None, name: str, first: int, end: int, by: tuple[str, ...]) -> list[usage.Line]:
    """As `usage.report`, of an account with all below it, by name. Raises UnknownAccount."""
    account_id = accounts.find(tx, name, within)["id"]
    return usage.report(tx, usage.Query(first, end, by, account_id))


def accepted_terms(tx: Tx, within: int | None, name: str, version: str) -> Row | None:
    """As `terms.accepted`, by name. Raises UnknownAccount."""
    return terms.accepted(tx, accounts.find(tx, name, within)["id"], version)
