"""Accounts and their keys: who pays. Functions that take a `Tx` are units of work; `Callers` is the cached way in."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cachetools import LRUCache, TTLCache

from gateway import ledger, revisions
from gateway.errors import BadKey, BadWebhookUrl, Unavailable
from gateway.settings import DIALECTS
from gateway.store import Conflict, Row, Store, Tx
from gateway.vault import KEY_LENGTH, Vault, new_api_key

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,62}")
CURRENCY = re.compile(r"[A-Z]{3}")
URL_LENGTH_MAX = 255
ID_MAX = 2**63 - 1
REVISION = "accounts"
CACHED_MAX = 50_000
CACHED_SECONDS = 30.0
UNKNOWN_SECONDS = 2.0
KEY_LIMITS = ("changes_per_minute", "polls_per_minute")

_KEYS = (
    "select k.id, a.name as account, k.hint, k.dialect, k.changes_per_minute, k.polls_per_minute, k.created_at,"
    " k.revoked_at from api_keys k join accounts a on a.id = k.account_id"
)


class AccountError(Exception):
    """A person asked for something that can't be; the message says what, in words for that person."""


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


def bump(tx: Tx) -> None:
    """Tells every running server that accounts or keys have changed."""
    revisions.bump(tx, REVISION)


def create(tx: Tx, name: str, currency: str, at: float, *, is_demo: bool, parent: str | None = None) -> int:
    """A new account with an empty purse; its id. Children share their parent's currency. Raises AccountError."""
    if not NAME.fullmatch(name):
        raise AccountError("a name has 1 to 63 letters, digits, or _ . @ - and begins with a letter or digit")
    if not CURRENCY.fullmatch(currency):
        raise AccountError("a currency is three capital letters, such as USD")
    parent_row = find(tx, parent) if parent else None
    if parent_row and parent_row["currency"] != currency:
        raise AccountError(f"{parent} is kept in {parent_row['currency']}, its children too")
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
        raise AccountError(f"there is an account {name} already") from None
    ledger.open_balance(tx, account_id)
    bump(tx)
    return account_id


def find(tx: Tx, name: str) -> Row:
    """The account of that name. Raises AccountError."""
    row = tx.one("select id, name, currency, is_demo from accounts where name = :name", name=name)
    if row is None:
        raise AccountError(f"there is no account {name}")
    return row


def overview(tx: Tx) -> Sequence[Row]:
    """Every account with its balance and its working keys, by name."""
    return tx.all(
        "select a.id, a.name, a.currency, a.is_demo, a.barred_until, a.created_at, b.available, b.held, b.open_count,"
        " (select count(*) from api_keys k where k.account_id = a.id and k.revoked_at is null and k.hint <> '')"
        " as keys,"
        " (select p.name from accounts p where p.id = a.parent_id) as parent"
        " from accounts a join balances b on b.account_id = a.id order by a.name"
    )


def bar(tx: Tx, name: str, until: float | None) -> None:
    """Stops an account from buying until a time, or lets it buy again (None)."""
    tx.execute("update accounts set barred_until = :until where id = :id", until=until, id=find(tx, name)["id"])
    bump(tx)


def issue_key(
    tx: Tx,
    vault: Vault,
    name: str,
    at: float,
    dialect: str | None = None,
    changes_per_minute: int | None = None,
    polls_per_minute: int | None = None,
) -> str:
    """A new key of an account, in plain: only its digest is kept, so this is the one time it can be shown.

    Limits left out are the deployment's. Raises AccountError on an unknown account or dialect.
    """
    key = new_api_key()
    tx.execute(
        "insert into api_keys (account_id, digest, hint, created_at, dialect, changes_per_minute, polls_per_minute)"
        " values (:account, :digest, :hint, :at, :dialect, :changes, :polls)",
        account=find(tx, name)["id"],
        digest=vault.key_digests(key)[0],
        hint=key[:4],
        at=at,
        dialect=_known_dialect(dialect),
        changes=changes_per_minute,
        polls=polls_per_minute,
    )
    return key


def set_dialect(tx: Tx, key_id: int, dialect: str | None) -> None:
    """What a key is answered in where the path names no dialect; None for the deployment's. Raises AccountError."""
    name = _known_dialect(dialect)
    found = key_id <= ID_MAX and tx.execute("update api_keys set dialect = :name where id = :id", name=name, id=key_id)
    if not found:
        raise AccountError(f"there is no key {key_id}")
    bump(tx)


def set_limits(tx: Tx, key_id: int, limits: Mapping[str, int | None]) -> Row:
    """Sets some of a key's limits, by column; None for the deployment's. The key's row. Raises AccountError."""
    row = tx.one(_KEYS + " where k.id = :id", id=key_id) if key_id <= ID_MAX else None
    if row is None:
        raise AccountError(f"there is no key {key_id}")
    for column in KEY_LIMITS:
        if column in limits:
            tx.execute(f"update api_keys set {column} = :most where id = :id", most=limits[column], id=key_id)  # noqa: S608
    bump(tx)
    return {**row, **limits}


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


def revoke_key(tx: Tx, key_id: int, at: float) -> None:
    """Ends a key; repeating it is harmless. Raises AccountError where there is no such key."""
    found = key_id <= ID_MAX and tx.execute(
        "update api_keys set revoked_at = coalesce(revoked_at, :at) where id = :id and hint <> ''", at=at, id=key_id
    )
    if not found:
        raise AccountError(f"there is no key {key_id}")
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


def _by_digest(tx: Tx, digests: Sequence[str]) -> Row | None:
    for digest in digests:
        row = tx.one(
            "select k.id as key_id, k.dialect, k.changes_per_minute, k.polls_per_minute,"
            " a.id as account_id, a.name, a.currency, a.is_demo, a.barred_until"
            " from api_keys k join accounts a on a.id = k.account_id"
            " where k.digest = :digest and k.revoked_at is null",
            digest=digest,
        )
        if row is not None:
            return row
    return None


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

    def __init__(self, store: Store, vault: Vault) -> None:
        self._store = store
        self._vault = vault
        self._known: TTLCache[str, Caller] = TTLCache(CACHED_MAX, CACHED_SECONDS)
        self._last_known: LRUCache[str, Caller] = LRUCache(CACHED_MAX)
        self._unknown: TTLCache[str, None] = TTLCache(10_000, UNKNOWN_SECONDS)
        self._revision = -1

    async def caller(self, key: str) -> Caller:
        """The caller behind a key. Raises BadKey, or Unavailable."""
        if len(key) != KEY_LENGTH or not key.isascii() or not key.isalnum():
            raise BadKey
        digests = self._vault.key_digests(key)
        caller = self._known.get(digests[0])
        return caller if caller is not None else await self._look_up(digests)

    async def person(self, user_id: int) -> Caller:
        """The caller that a signed-in reseller is. Raises BadKey, or Unavailable."""
        digest = _person_digest(user_id)
        caller = self._known.get(digest)
        return caller if caller is not None else await self._look_up([digest])

    async def _look_up(self, digests: Sequence[str]) -> Caller:
        if digests[0] in self._unknown:
            raise BadKey
        try:
            row = await self._store.read(_by_digest, digests)
        except Unavailable:
            # Polls of live numbers go on while the database is away; whatever moves money needs it anyway.
            if digests[0] in self._last_known:
                return self._last_known[digests[0]]
            raise
        if row is None:
            self._unknown[digests[0]] = None
            self._last_known.pop(digests[0], None)
            raise BadKey
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
        )
        self._known[digests[0]] = self._last_known[digests[0]] = caller
        return caller

    async def refresh(self) -> None:
        """Forgets what it knows when accounts or keys have changed, by whatever process. Raises Unavailable."""
        now = await self._store.read(revisions.value, REVISION)
        if now != self._revision:
            self._revision = now
            self._known.clear()
            self._last_known.clear()
            self._unknown.clear()
