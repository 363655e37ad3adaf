"""Accounts and their keys: who pays. Functions that take a `Tx` are units of work; `Callers` is the cached way in."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cachetools import LRUCache, TTLCache

from gateway import caps, ledger, levels, markups, revisions, rules, tree
from gateway.caps import Counter
from gateway.errors import BadKey, BadWebhookUrl, Unavailable
from gateway.ladders import FLAT, Ladder
from gateway.model import Clock
from gateway.rules import EVERYTHING, Allowed, Pace, RuleError, Rules
from gateway.settings import DIALECTS
from gateway.store import Conflict, Row, Store, Tx
from gateway.vault import KEY_LENGTH, Vault, new_api_key

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,62}")
CURRENCY = re.compile(r"[A-Z]{3}")
URL_LENGTH_MAX = 255
ID_MAX = 2**63 - 1
GRACE_SECONDS_MAX = 30 * 86_400
REVISION = revisions.ACCOUNTS
CACHED_MAX = 50_000
AWAY_SECONDS = 4.0
"""After a look-up in vain keys are taken as last known for so long; `refresh` looks again meanwhile."""

CACHED_SECONDS = 30.0
UNKNOWN_SECONDS = 2.0
KEY_LIMITS = ("changes_per_minute", "polls_per_minute")

_KEYS = (
    "select k.id, a.name as account, k.hint, k.name, k.dialect, k.changes_per_minute, k.polls_per_minute, k.created_at,"
    " k.revoked_at, k.retires_at, k.may_manage, a.currency, coalesce(k.origin_id, k.id) as origin_id,"
    " (select r.suspended_at from rules r where r.subject = 'key:' || coalesce(k.origin_id, k.id)) as suspended_at,"
    " (select r.expires_at from rules r where r.subject = 'key:' || coalesce(k.origin_id, k.id)) as expires_at"
    " from api_keys k join accounts a on a.id = k.account_id"
)


class AccountError(Exception):
    """A person asked for something that can't be; the message says what, in words for that person."""


class UnknownAccount(AccountError):
    """There is no such account, or none for whoever asks."""


class UnknownKey(AccountError):
    """There is no such key, or none for whoever asks."""


class NameTaken(AccountError):
    """There is an account of that name already."""


class KeyOver(AccountError):
    """The key works no more, or another has its place."""


class NotYours(AccountError):
    """It is there, and for somebody above to change."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is asking, as far as a use-case needs to know."""

    key_id: int
    account_id: int
    account_name: str
    currency: str
    is_demo: bool
    barred_until: float | None
    dialect: str = ""
    """The dialect the key is answered in where the path names none; empty for the deployment's."""

    changes_per_minute: int | None = None
    polls_per_minute: int | None = None
    """The key's own limits; None for the deployment's."""

    has_old_counts: bool = False
    """Whether its lists of counts look as they did before 2022: numbers, each service with `_0` behind."""

    allowed: Allowed = EVERYTHING
    """What may be bought, under the rules of the key, the account and every account above it."""

    ip_ranges: tuple[tuple[str, ...], ...] = ()
    """Lists of ranges of which the caller's address has to be in each."""

    dialects: frozenset[str] | None = None
    """The ways in the key may take (`rules.WAYS_IN`); None for every way."""

    ladder: Ladder = FLAT
    """What the accounts above add to the operator's price."""

    paces: tuple[Pace, ...] = ()
    """What the account and those above it keep to, together with all below them; the account's first."""

    suspended_at: float | None = None
    """From when on the account may read and give back, but not buy."""

    ends_at: float | None = None
    """From when on the key is none."""

    may_manage: bool = False
    """Whether the key may do more than buy: make accounts and keys, and move money (`gateway.manage`)."""

    person_id: int | None = None
    """The person who has signed in; None where a key was sent."""

    @property
    def actor(self) -> str:
        """Who it is, as the audit log says it."""
        return f"key:{self.key_id}" if self.person_id is None else f"user:{self.person_id}"


def bump(tx: Tx) -> None:
    """Tells every running server that accounts or keys have changed."""
    revisions.bump(tx, REVISION)


def create(tx: Tx, name: str, currency: str, at: float, *, is_demo: bool, parent: str | None = None) -> int:
    """A new account with an empty purse; its id. Raises AccountError.

    A child has its parent's currency and kind, and its place below it for good.
    """
    if not NAME.fullmatch(name):
        raise AccountError("a name has 1 to 63 letters, digits, or _ . @ - and begins with a letter or digit")
    if not CURRENCY.fullmatch(currency):
        raise AccountError("a currency is three capital letters, such as USD")
    if parent == name:
        raise AccountError("an account can't be its own parent")
    parent_row = find(tx, parent) if parent else None
    if parent_row and parent_row["currency"] != currency:
        raise AccountError(f"{parent} is kept in {parent_row['currency']}, its children too")
    if parent_row and bool(parent_row["is_demo"]) is not is_demo:
        kind = "a demo account" if parent_row["is_demo"] else "no demo account"
        raise AccountError(f"{parent} is {kind}, and so are its children")
    try:
        account_id = tx.insert(
            "insert into accounts (name, parent_id, currency, is_demo, created_at)"
            " values (:name, :parent, :currency, :demo, :at) returning id",
            name=name,
            parent=parent_row["id"] if parent_row else None,
            currency=currency,
            demo=int(is_demo),
            at=at,
        )
    except Conflict:
        raise NameTaken(f"there is an account {name} already") from None
    ledger.open_balance(tx, account_id)
    if parent_row:
        # Whoever counts what is below an account for its cap has locked it: the child is counted, or comes later.
        tree.lock(tx, tree.line(tx, parent_row["id"]))
    try:
        tree.place(tx, account_id)
    except tree.TooDeep:
        raise AccountError(f"accounts have {tree.LEVELS_MAX} levels at most") from None
    bump(tx)
    return account_id


_IS_WITHIN = (
    "(:within = 0 or exists (select 1 from account_tree t where t.account_id = a.id and t.ancestor_id = :within))"
)
"""One statement whether it is there or not, so that nobody can tell by the time it takes."""


_ACCOUNT = "select a.id, a.name, a.currency, a.is_demo, a.parent_id from accounts a"
_KEY = (
    "select k.id, k.account_id, coalesce(k.origin_id, k.id) as origin_id, k.dialect, k.name, k.hint,"
    " k.changes_per_minute, k.polls_per_minute, k.may_manage, k.revoked_at, k.retires_at, a.name as account, a.currency"
    " from api_keys k join accounts a on a.id = k.account_id"
)
_BY_NAME = " where a.name = :name and " + _IS_WITHIN
_BY_KEY_ID = " where k.id = :id and k.hint <> '' and " + _IS_WITHIN


def find(tx: Tx, name: str, within: int | None = None) -> Row:
    """The account of that name. With `within`, only that one and those below it are there. Raises UnknownAccount."""
    row = tx.one(_ACCOUNT + _BY_NAME, name=name, within=within or 0)
    if row is None:
        raise UnknownAccount(f"there is no account {name}")
    return row


def find_key(tx: Tx, key_id: int, within: int | None = None) -> Row:
    """A key by its id. With `within`, only those of that account and of accounts below it. Raises UnknownKey."""
    row = tx.one(_KEY + _BY_KEY_ID, id=key_id if key_id <= ID_MAX else 0, within=within or 0)
    if row is None:
        raise UnknownKey(f"there is no key {key_id}")
    return row


_OVERVIEW = (
    "select a.id, a.name, a.currency, a.is_demo, a.barred_until, a.created_at, b.available, b.held, b.open_count,"
    " (select count(*) from api_keys k where k.account_id = a.id and k.revoked_at is null and k.hint <> '') as keys,"
    " (select p.name from accounts p where p.id = a.parent_id) as parent, a.parent_id,"
    " (select r.suspended_at from rules r where r.subject = 'account:' || a.id) as suspended_at"
    " from accounts a join balances b on b.account_id = a.id"
)


def overview(tx: Tx) -> Sequence[Row]:
    """Every account with its balance and its working keys, by name."""
    return tx.all(f"{_OVERVIEW} order by a.name")


def page(tx: Tx, within: int | None, *, after: str = "", parent_id: int | None = None, limit: int) -> Sequence[Row]:
    """As `overview`: those whose names come after `after`; of one account and all below it, or the children of one."""
    return tx.all(
        f"{_OVERVIEW} where a.name > :after and (:parent = 0 or a.parent_id = :parent) and {_IS_WITHIN}"
        " order by a.name limit :limit",
        after=after,
        parent=parent_id or 0,
        within=within or 0,
        limit=limit,
    )


def shown(tx: Tx, name: str, within: int | None = None) -> Row:
    """One account as `overview` has it. Raises UnknownAccount."""
    row = tx.one(_OVERVIEW + _BY_NAME, name=name, within=within or 0)
    if row is None:
        raise UnknownAccount(f"there is no account {name}")
    return row


def in_tree(tx: Tx, within: int | None = None) -> Sequence[Row]:
    """As `overview`, each account behind its parent and with its `depth`; one account and all below it, or every."""
    rows = [dict(row) for row in overview(tx)]
    inside = None if within is None else frozenset(tree.below(tx, within))
    children: dict[int | None, list[dict[str, Any]]] = {}
    for row in rows:
        top = row["parent_id"] is None if inside is None else row["id"] == within
        if inside is None or row["id"] in inside:
            children.setdefault(None if top else row["parent_id"], []).append(row)
    found: list[Row] = []
    left = [(row, 0) for row in reversed(children.get(None, []))]
    while left:
        row, depth = left.pop()
        found.append({**row, "depth": depth})
        left += [(child, depth + 1) for child in reversed(children.get(row["id"], []))]
    return found


def bar(tx: Tx, name: str, until: float | None) -> None:
    """Stops an account from buying until a time, or lets it buy again (None)."""
    tx.execute("update accounts set barred_until = :until where id = :id", until=until, id=find(tx, name)["id"])
    bump(tx)


@dataclass(frozen=True, slots=True)
class Issued:
    """A key just made, in plain: only its digest is kept, so this is the one time it can be shown."""

    id: int
    key: str = field(repr=False)


def issue_key(tx: Tx, vault: Vault, name: str, at: float, dialect: str | None = None) -> str:
    """A new key of an account, in plain, without rules or limits. Raises AccountError."""
    return new_key(tx, vault, name, at, dialect).key


def new_key(
    tx: Tx,
    vault: Vault,
    name: str,
    at: float,
    dialect: str | None = None,
    *,
    label: str = "",
    changes: Mapping[str, Any] | None = None,
    changes_per_minute: int | None = None,
    polls_per_minute: int | None = None,
    may_manage: bool | None = None,
    within: int | None = None,
) -> Issued:
    """A new key of an account, with rules of its own (`set_key_rules`). Limits left out are the deployment's.

    Unless told, an account's first key may manage if it has no rules, and every other may only buy. Raises AccountError
    on an unknown account or dialect, RuleError.
    """
    account_id = find(tx, name, within)["id"]
    if may_manage is None:
        may_manage = not changes and not _has_keys(tx, account_id)
    key = new_api_key()
    key_id = tx.insert(
        "insert into api_keys (account_id, digest, hint, created_at, dialect, name, changes_per_minute,"
        " polls_per_minute, may_manage)"
        " values (:account, :digest, :hint, :at, :dialect, :name, :changes, :polls, :manages) returning id",
        account=account_id,
        digest=vault.key_digests(key)[0],
        hint=key[:4],
        at=at,
        dialect=_known_dialect(dialect),
        changes=changes_per_minute,
        polls=polls_per_minute,
        manages=int(may_manage),
        name=_known_label(label),
    )
    if changes:
        set_key_rules(tx, key_id, changes, at)
    return Issued(key_id, key)


def _has_keys(tx: Tx, account_id: int) -> bool:
    return tx.one("select 1 as x from api_keys where account_id = :id and hint <> ''", id=account_id) is not None


def rotate_key(tx: Tx, vault: Vault, key_id: int, at: float, grace_seconds: float) -> Issued:
    """A new key in the place of another, which goes on working for the grace time.

    The two share rules, caps and what is spent of them. Raises AccountError where the key works no more, or has been
    replaced already.
    """
    if not 0 <= grace_seconds <= GRACE_SECONDS_MAX:
        raise AccountError(f"a grace time is from 0 to {GRACE_SECONDS_MAX} seconds")
    row = find_key(tx, key_id)
    replaced = tx.execute(
        "update api_keys set retires_at = :until where id = :id and revoked_at is null and retires_at is null",
        until=at + grace_seconds,
        id=key_id,
    )
    if not replaced:
        raise KeyOver(f"key {key_id} is {'revoked' if row['revoked_at'] is not None else 'replaced already'}")
    key = new_api_key()
    new_id = tx.insert(
        "insert into api_keys (account_id, digest, hint, created_at, dialect, name, origin_id, changes_per_minute,"
        " polls_per_minute, has_old_counts, may_manage) select account_id, :digest, :hint, :at, dialect, name,"
        " coalesce(origin_id, id), changes_per_minute, polls_per_minute, has_old_counts, may_manage from api_keys"
        " where id = :id returning id",
        digest=vault.key_digests(key)[0],
        hint=key[:4],
        at=at,
        id=key_id,
    )
    bump(tx)
    return Issued(new_id, key)


def rename_key(tx: Tx, key_id: int, label: str) -> None:
    """What its owner calls a key. Raises AccountError."""
    tx.execute(
        "update api_keys set name = :name where id = :id", name=_known_label(label), id=find_key(tx, key_id)["id"]
    )


def _known_label(label: str) -> str:
    if len(label) > rules.NAME_LENGTH_MAX or not label.isprintable():
        raise AccountError(f"a key's name has up to {rules.NAME_LENGTH_MAX} printable characters")
    return label


def set_dialect(tx: Tx, key_id: int, dialect: str | None) -> None:
    """What a key is answered in where the path names no dialect; None for the deployment's. Raises AccountError."""
    name = _known_dialect(dialect)
    find_key(tx, key_id)
    tx.execute("update api_keys set dialect = :name where id = :id", name=name, id=key_id)
    bump(tx)


def set_may_manage(tx: Tx, key_id: int, may_manage: bool) -> None:
    """Whether a key may do more than buy. Raises UnknownKey."""
    find_key(tx, key_id)
    tx.execute("update api_keys set may_manage = :may where id = :id", may=int(may_manage), id=key_id)
    bump(tx)


def set_limits(tx: Tx, key_id: int, limits: Mapping[str, int | None]) -> Row:
    """Sets some of a key's limits, by column; None for the deployment's. The key's row. Raises AccountError."""
    find_key(tx, key_id)
    row = tx.one(_KEYS + " where k.id = :id", id=key_id)
    assert row is not None  # noqa: S101 — found above, and keys are never deleted
    for column in KEY_LIMITS:
        if column in limits:
            tx.execute(f"update api_keys set {column} = :most where id = :id", most=limits[column], id=key_id)  # noqa: S608
    bump(tx)
    return {**row, **limits}


def set_old_counts(tx: Tx, key_id: int, *, has_old_counts: bool) -> None:
    """How a key's lists of counts look (`Caller.has_old_counts`). Raises AccountError."""
    row_id = find_key(tx, key_id)["id"]
    tx.execute("update api_keys set has_old_counts = :old where id = :id", old=int(has_old_counts), id=row_id)
    bump(tx)


def _known_dialect(name: str | None) -> str | None:
    if name is not None and name not in DIALECTS:
        raise AccountError(f"there is no dialect {name}: it is one of {', '.join(DIALECTS)}")
    return name


def keys(tx: Tx, name: str | None = None) -> Sequence[Row]:
    """Keys, all or one account's, with their first four characters. Raises AccountError."""
    if name:
        find(tx, name)
    return tx.all(
        _KEYS + " where (a.name = :name or :name = '') and k.hint <> '' order by k.id",
        name=name or "",
    )


def shown_key(tx: Tx, key_id: int, within: int | None = None) -> Row:
    """One key as `keys` has it. Raises UnknownKey."""
    row = tx.one(_KEYS + _BY_KEY_ID, id=key_id if key_id <= ID_MAX else 0, within=within or 0)
    if row is None:
        raise UnknownKey(f"there is no key {key_id}")
    return row


def keys_page(tx: Tx, account_id: int, *, after: int, limit: int) -> Sequence[Row]:
    """Keys of an account with ids above `after`, as `keys` has them."""
    return tx.all(
        f"{_KEYS} where k.account_id = :account and k.id > :after and k.hint <> '' order by k.id limit :limit",
        account=account_id,
        after=after,
        limit=limit,
    )


def revoke_key(tx: Tx, key_id: int, at: float) -> None:
    """Ends a key, with those it replaced; repeating it is harmless. Raises AccountError where there is no such key."""
    row = find_key(tx, key_id)
    tx.execute(
        "update api_keys set revoked_at = coalesce(revoked_at, :at)"
        " where (id = :origin or origin_id = :origin) and id <= :id",
        at=at,
        origin=row["origin_id"],
        id=key_id,
    )
    bump(tx)


def add_person(tx: Tx, user_id: int, account_id: int, at: float) -> None:
    """The key that what a person does for an account is put down to. Nobody can send it, and no list shows it."""
    tx.execute(
        "insert into api_keys (account_id, digest, hint, created_at) values (:account, :digest, '', :at)",
        account=account_id,
        digest=_person_digest(user_id),
        at=at,
    )


def _person_digest(user_id: int) -> str:
    """No key's: a key's begins with the number of a salt."""
    return f"user:{user_id}"


# Rules


@dataclass(frozen=True, slots=True)
class Ruled:
    """An account's or a key's own rules, and how much of its caps is used."""

    rules: Rules
    counters: Sequence[Counter]
    currency: str


def set_rules(
    tx: Tx, name: str, changes: Mapping[str, Any], at: float, *, force: bool = False, within: int | None = None
) -> Ruled:
    """Changes rules of an account, by the names of their fields (`rules.Rules`); None takes one away.

    They hold for everybody below it as well. With `within`, accounts below that one are there, and it is not for its
    own rules to change. Raises AccountError, or RuleError: also where a cap is below what is spent already, unless
    forced.
    """
    row = find(tx, name, within)
    if row["id"] == within:
        raise NotYours("an account's rules are set by those above it")
    return _change(tx, levels.account_subject(row["id"]), row["id"], row["currency"], changes, at, force=force)


def set_key_rules(
    tx: Tx, key_id: int, changes: Mapping[str, Any], at: float, *, force: bool = False, within: int | None = None
) -> Ruled:
    """As `set_rules`, of a key and those that replaced it or were replaced by it."""
    row = find_key(tx, key_id, within)
    if any(changes.get(name) is not None for name in rules.PER_MINUTE):
        raise RuleError("requests a minute are a rule for accounts: a key has limits of its own")
    subject = levels.key_subject(row["origin_id"])
    return _change(tx, subject, row["account_id"], row["currency"], changes, at, force=force)


def _change(
    tx: Tx, subject: str, account_id: int, currency: str, changes: Mapping[str, Any], at: float, *, force: bool
) -> Ruled:
    # Before the rules are read: of two changes at once, the second sees the first.
    tree.lock(tx, [account_id])
    before = levels.load(tx, subject)
    after = rules.changed(before, changes)
    if after != before:
        caps.follow(tx, subject, account_id, before, after, at, currency, force=force)
        levels.save(tx, subject, after)
        bump(tx)
    return Ruled(after, caps.shown(tx, subject, after, at), currency)


def suspend(tx: Tx, name: str, at: float, *, within: int | None = None) -> None:
    """Stops an account and all below it from buying, until `resume`. Raises AccountError."""
    set_rules(tx, name, {"suspended_at": at}, at, within=within)


def resume(tx: Tx, name: str, at: float, *, within: int | None = None) -> None:
    """Ends a suspension. Raises AccountError."""
    set_rules(tx, name, {"suspended_at": None}, at, within=within)


def rules_of(tx: Tx, name: str, at: float, *, within: int | None = None) -> Ruled:
    """An account's own rules. Raises AccountError."""
    row = find(tx, name, within)
    subject = levels.account_subject(row["id"])
    found = levels.load(tx, subject)
    return Ruled(found, caps.shown(tx, subject, found, at), row["currency"])


def rules_of_key(tx: Tx, key_id: int, at: float, *, within: int | None = None) -> Ruled:
    """A key's own rules. Raises AccountError."""
    row = find_key(tx, key_id, within)
    subject = levels.key_subject(row["origin_id"])
    found = levels.load(tx, subject)
    return Ruled(found, caps.shown(tx, subject, found, at), row["currency"])


def buyer(tx: Tx, name: str, denied_services: frozenset[str] = frozenset()) -> Caller:
    """Somebody who would buy for an account, with a key that has no rules of its own. Raises UnknownAccount."""
    row = find(tx, name)
    caller = Caller(0, row["id"], row["name"], row["currency"], bool(row["is_demo"]), None)
    caller = replace(caller, ladder=markups.ladder(tx, row["id"]))
    found = _bound(caller, levels.of_key(tx, row["id"], 0))
    return replace(found, allowed=rules.without(found.allowed, denied_services))


def _ladder(tx: Tx, account_id: int) -> Ladder:
    try:
        return markups.ladder(tx, account_id)
    except KeyError:
        return FLAT


_CALLER = (
    "select k.id as key_id, k.dialect, k.changes_per_minute, k.polls_per_minute, k.has_old_counts, k.may_manage,"
    " a.id as account_id, a.name, a.currency, a.is_demo, a.barred_until, a.parent_id from api_keys k"
    " join accounts a on a.id = k.account_id"
)


def _by_digest(tx: Tx, digests: Sequence[str]) -> Caller | None:
    """The caller behind a key that is not revoked; None where there is none.

    The same statements whoever asks: how long it takes says nothing about what is there.
    """
    places = ", ".join(f":digest{number}" for number in range(len(digests)))
    given = {f"digest{number}": digest for number, digest in enumerate(digests)}
    row = tx.one(_CALLER + f" where k.digest in ({places}) and k.revoked_at is null", **given)
    passed = levels.of_key(tx, row["account_id"] if row else 0, row["key_id"] if row else 0)
    ladder = _ladder(tx, row["account_id"] if row else 0)
    if row is None:
        return None
    caller = Caller(
        key_id=row["key_id"],
        account_id=row["account_id"],
        account_name=row["name"],
        currency=row["currency"],
        is_demo=bool(row["is_demo"]),
        barred_until=row["barred_until"],
        dialect=row["dialect"] or "",
        changes_per_minute=row["changes_per_minute"],
        polls_per_minute=row["polls_per_minute"],
        has_old_counts=bool(row["has_old_counts"]),
        may_manage=bool(row["may_manage"]),
        ladder=FLAT if row["parent_id"] is None else ladder,
    )
    return _bound(caller, passed)


def _bound(caller: Caller, found: Sequence[levels.Level]) -> Caller:
    """The caller with what all its levels say."""
    every = [level.rules for level in found]
    return replace(
        caller,
        barred_until=levels.barred_until(found) if any(not level.is_key for level in found) else caller.barred_until,
        allowed=rules.allowed(every),
        ip_ranges=rules.ip_ranges(every),
        dialects=rules.dialects(every),
        paces=rules.paces((level.subject, level.rules) for level in found if not level.is_key),
        suspended_at=levels.stopped_at(found),
        ends_at=levels.key_ends_at(found),
    )


def set_webhook(tx: Tx, vault: Vault, account_id: int, url: str, body_format: str = "sms_activate") -> None:
    """Where the account's notices go, and in which form; sealed, since such addresses tend to carry secrets."""
    if not url or len(url) > URL_LENGTH_MAX:
        raise BadWebhookUrl
    tx.execute(
        "update accounts set webhook_url_sealed = :url, webhook_format = :form where id = :id",
        url=vault.seal(url),
        form=body_format,
        id=account_id,
    )


def webhook(tx: Tx, vault: Vault, account_id: int) -> str:
    """The account's webhook address, empty where none is set."""
    row = tx.one("select webhook_url_sealed from accounts where id = :id", id=account_id)
    return vault.open(row["webhook_url_sealed"]) if row and row["webhook_url_sealed"] else ""


class Callers:
    """Turns keys into callers. No plain key is kept, only digests."""

    def __init__(
        self,
        store: Store,
        vault: Vault,
        clock: Clock = time.time,
        denied_services: Callable[[], frozenset[str]] = frozenset,
    ) -> None:
        """`denied_services` are those nobody may buy here, as the configuration in force has them."""
        self._store = store
        self._vault = vault
        self._clock = clock
        # Not the library's cache with a time-out: asking that one is a twentieth of what a poll costs.
        self._known: dict[str, tuple[float, Caller]] = {}
        self._last_known: LRUCache[str, Caller] = LRUCache(CACHED_MAX)
        self._unknown: TTLCache[str, None] = TTLCache(10_000, UNKNOWN_SECONDS)
        self._revision = -1
        self._away_until = 0.0
        self._denied_services = denied_services
        self._denied = denied_services()

    async def caller(self, key: str) -> Caller:
        """The caller behind a key. Raises BadKey, or Unavailable."""
        if len(key) != KEY_LENGTH:
            raise BadKey
        # Of the right length, what can be no key takes the way of one that nobody has.
        digests = self._vault.key_digests(key)
        return self._working(self._fresh(digests[0]) or await self._look_up(digests))

    def _fresh(self, digest: str) -> Caller | None:
        until, caller = self._known.get(digest, (0.0, None))
        return caller if until > time.monotonic() else None

    def _keep(self, digest: str, caller: Caller) -> None:
        self._known.pop(digest, None)
        if len(self._known) >= CACHED_MAX:
            del self._known[next(iter(self._known))]  # the oldest
        self._known[digest] = (time.monotonic() + CACHED_SECONDS, caller)
        self._last_known[digest] = caller

    def _working(self, caller: Caller) -> Caller:
        """Raises BadKey where the key has come to its end."""
        if caller.ends_at is not None and caller.ends_at <= self._clock():
            raise BadKey
        return caller

    async def person(self, user_id: int) -> Caller:
        """The caller that a signed-in reseller is. Raises BadKey, or Unavailable."""
        digest = _person_digest(user_id)
        caller = self._working(self._fresh(digest) or await self._look_up([digest]))
        return replace(caller, person_id=user_id)

    async def _look_up(self, digests: Sequence[str]) -> Caller:
        if digests[0] in self._unknown:
            raise BadKey
        # Polls of live numbers go on while the database is away, and do not wait for it each; whatever moves money
        # needs it anyway.
        last_known = self._last_known.get(digests[0])
        if last_known is not None and time.monotonic() < self._away_until:
            return last_known
        try:
            caller = await self._store.read(_by_digest, digests)
        except Unavailable:
            self._away_until = time.monotonic() + AWAY_SECONDS
            if last_known is not None:
                return last_known
            raise
        if caller is None or (caller.ends_at is not None and caller.ends_at <= self._clock()):
            self._unknown[digests[0]] = None
            self._last_known.pop(digests[0], None)
            raise BadKey
        if self._denied:
            caller = replace(caller, allowed=rules.without(caller.allowed, self._denied))
        self._keep(digests[0], caller)
        return caller

    async def refresh(self) -> None:
        """Forgets what it knows when accounts, keys or what is denied to all have changed, by whatever process.

        Raises Unavailable.
        """
        try:
            now = await self._store.read(revisions.value, REVISION)
        except Unavailable:
            self._away_until = time.monotonic() + AWAY_SECONDS
            raise
        self._away_until = 0.0
        denied = self._denied_services()
        if now != self._revision or denied != self._denied:
            self._revision, self._denied = now, denied
            self._known.clear()
            self._last_known.clear()
            self._unknown.clear()
