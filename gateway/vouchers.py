"""Vouchers: sums set aside in batches, each paid out once to whoever has its code. Units of work.

What a batch is worth lies in a purse of its own (`batch:ID`), taken from whoever issued it. A code is shown once, when
it is issued; kept is its digest.

    open ──> redeemed         revoked and expired give the sum back to the issuer
      ├────> revoked
      └────> expired
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from gateway import audit, ledger, tree
from gateway.money import MAX_MICROS, Money
from gateway.store import Row, Store, Tx
from gateway.vault import Vault

ALPHABET = "23456789ABCDEFGHJKMNPQRSTUVWXYZ"
"""Without 0, 1, I, L and O, which are taken for one another. 31 of them: a prime, which the check needs."""

RANDOM_LENGTH = 17
"""Characters drawn: 84 bits. One more is the check."""

GROUP_LENGTH = 6
TEXT_LENGTH_MAX = 64
COUNT_MAX = 10_000
NOTE_LENGTH_MAX = 255
EXPIRY_SECONDS_MAX = 20 * 366 * 86_400.0
ROWS_AT_ONCE = 100

TRIES_MAX = 10
"""Unknown codes an account may try within a window; then not even a right one is taken until it is over."""

TRIES_SECONDS = 3600


class VoucherError(ValueError):
    """Nothing was redeemed or issued; the message says why, in words for a person. `code` is stable."""

    code: ClassVar[str] = "voucher_refused"


class Mistyped(VoucherError):
    """The code can't be one: its check does not fit."""

    code = "voucher_mistyped"

    def __init__(self) -> None:
        super().__init__("that is no voucher code: one of its characters is mistyped, or some are missing")


class UnknownVoucher(VoucherError):
    """There is no such voucher, or it is not for this account."""

    code = "voucher_unknown"

    def __init__(self) -> None:
        super().__init__("there is no such voucher")


class SpentVoucher(VoucherError):
    code = "voucher_spent"


class EndedVoucher(VoucherError):
    """Revoked or expired."""

    code = "voucher_ended"


class WrongCurrency(VoucherError):
    code = "voucher_currency"


class TooManyTries(VoucherError):
    code = "voucher_tries"

    def __init__(self) -> None:
        super().__init__("too many unknown codes were tried: no voucher is taken for the rest of the hour")


@dataclass(frozen=True, slots=True)
class Batch:
    """What was issued. `codes` are shown this once, and are in no repr."""

    id: int
    amount: Money
    expires_at: float | None
    codes: tuple[str, ...]

    def __repr__(self) -> str:
        return f"Batch({self.id}, {len(self.codes)} × {self.amount})"


@dataclass(frozen=True, slots=True)
class Redeemed:
    """What a try came to: `money` was paid in, or `error` says why not."""

    money: Money | None
    error: VoucherError | None = None


# Codes


def new_code() -> str:
    """A fresh code, in groups of six."""
    drawn = "".join(secrets.choice(ALPHABET) for _ in range(RANDOM_LENGTH))
    whole = drawn + _check(drawn)
    return "-".join(whole[at : at + GROUP_LENGTH] for at in range(0, len(whole), GROUP_LENGTH))


def normal(text: str) -> str:
    """A code as it is digested, whatever its case, spaces and dashes. Raises Mistyped.

    The check finds every single wrong character and every two that are swapped.
    """
    if len(text) > TEXT_LENGTH_MAX:
        raise Mistyped
    code = "".join(one for one in text.upper() if one not in " -\t\u2010\u2011\u2013\u2014")
    if len(code) != RANDOM_LENGTH + 1 or any(one not in ALPHABET for one in code):
        raise Mistyped
    if _check(code[:-1]) != code[-1]:
        raise Mistyped
    return code


def _check(drawn: str) -> str:
    total = sum(place * ALPHABET.index(one) for place, one in enumerate(drawn, start=2))
    return ALPHABET[total % len(ALPHABET)]


def digest_of(vault: Vault, text: str) -> str:
    """What a code is known by, however it is written. Raises Mistyped."""
    return _digest(vault, normal(text))


def _digest(vault: Vault, code: str) -> str:
    return vault.index_digest("voucher", code)


# Issuing


def issue(
    tx: Tx,
    vault: Vault,
    issuer_id: int | None,
    count: int,
    amount: Money,
    at: float,
    actor: str,
    *,
    expires_at: float | None = None,
    is_demo: bool = False,
    note: str = "",
) -> Batch:
    """A batch of vouchers. An account's are paid for from its balance, and are for it and those below it; the
    operator's (None) are for every account that is a demo account, or is not, as `is_demo` says.

    Raises VoucherError, NoBalance, KeyError.
    """
    _require(count, amount, at, expires_at, note)
    if issuer_id is not None:
        is_demo = _require_issuer(tx, issuer_id, amount)
    batch_id = tx.insert(
        "insert into voucher_batches (issuer_id, amount, currency, is_demo, voucher_count, note, issued_at, expires_at)"
        " values (:issuer, :amount, :currency, :demo, :count, :note, :at, :expires_at) returning id",
        issuer=issuer_id, amount=amount.micros, currency=amount.currency, demo=int(is_demo), count=count, note=note,
        at=at, expires_at=expires_at,
    )  # fmt: skip
    total = Money(amount.micros * count, amount.currency)
    ledger.set_aside(tx, issuer_id, batch_id, total, at, actor=actor, note=note)
    codes = tuple(new_code() for _ in range(count))
    for part in _parts(codes):
        _insert(tx, batch_id, [(_digest(vault, normal(code)), code[:4]) for code in part])
    audit.note(
        tx, at, actor, "voucher.issue", f"batch:{batch_id}", account_id=issuer_id, count=count, amount=str(amount),
        expires_at=expires_at,
    )  # fmt: skip
    return Batch(batch_id, amount, expires_at, codes)


def _require(count: int, amount: Money, at: float, expires_at: float | None, note: str) -> None:
    if not 1 <= count <= COUNT_MAX:
        raise VoucherError(f"a batch has 1 to {COUNT_MAX} vouchers")
    if amount.micros <= 0:
        raise VoucherError("a voucher is above zero")
    if amount.micros * count > MAX_MICROS:
        raise VoucherError("the batch is worth too much")
    if expires_at is not None and (not math.isfinite(expires_at) or not at < expires_at <= at + EXPIRY_SECONDS_MAX):
        raise VoucherError("vouchers expire in the future, within twenty years")
    if len(note) > NOTE_LENGTH_MAX or not note.isprintable():
        raise VoucherError(f"a note has up to {NOTE_LENGTH_MAX} printable characters")


def _require_issuer(tx: Tx, issuer_id: int, amount: Money) -> bool:
    """Whether it is a demo account. Raises VoucherError, KeyError."""
    row = tx.one("select currency, is_demo from accounts where id = :id", id=issuer_id)
    if row is None:
        raise KeyError(issuer_id)
    if row["currency"] != amount.currency:
        raise WrongCurrency(f"the account is kept in {row['currency']}")
    return bool(row["is_demo"])


def _parts(codes: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(codes), ROWS_AT_ONCE):
        yield codes[start : start + ROWS_AT_ONCE]


def _insert(tx: Tx, batch_id: int, rows: Sequence[tuple[str, str]]) -> None:
    places = ", ".join(f"(:batch, :digest_{place}, :hint_{place})" for place in range(len(rows)))
    values: dict[str, Any] = {"batch": batch_id}
    for place, (digest, hint) in enumerate(rows):
        values[f"digest_{place}"], values[f"hint_{place}"] = digest, hint
    tx.execute(f"insert into vouchers (batch_id, digest, hint) values {places}", **values)  # noqa: S608 — places alone


# Redeeming


async def redeem(store: Store, vault: Vault, account_id: int, text: str, at: float, *, actor: str) -> Money:
    """Pays a voucher into an account; how much. Raises VoucherError, Unavailable, KeyError."""
    code = normal(text)
    found = await store.run(attempt, account_id, _digest(vault, code), at, actor)
    if found.money is None:
        raise found.error or UnknownVoucher()
    return found.money


def attempt(tx: Tx, account_id: int, digest: str, at: float, actor: str) -> Redeemed:
    """As `redeem`, for the digest of a code. Refusals are returned: what counts against guessing is to be committed."""
    if not _take_try(tx, account_id, at):
        return Redeemed(None, TooManyTries())
    account = tx.one("select name, currency, is_demo from accounts where id = :id", id=account_id)
    if account is None:
        raise KeyError(account_id)
    voucher = _voucher(tx, digest)
    if voucher is None or not _is_for(tx, voucher, account_id, account):
        return Redeemed(None, UnknownVoucher())
    _give_back_try(tx, account_id)
    error = _obstacle(voucher, account_id, account, at)
    if error is not None:
        return Redeemed(None, error)
    taken = tx.execute(
        "update vouchers set state = 'redeemed', redeemed_by = :account, ended_at = :at"
        " where id = :id and state = 'open'",
        account=account_id,
        at=at,
        id=voucher["id"],
    )
    if not taken:  # somebody was faster, within these few statements
        return Redeemed(None, _ended(_voucher(tx, digest) or voucher, account_id))
    return Redeemed(_pay(tx, voucher, account_id, at, actor))


def _pay(tx: Tx, voucher: Row, account_id: int, at: float, actor: str) -> Money:
    money = Money(voucher["amount"], voucher["currency"])
    entry = ledger.redeem(tx, account_id, voucher["batch_id"], money, at, actor=actor)
    tx.execute("update vouchers set ledger_id = :entry where id = :id", entry=entry, id=voucher["id"])
    audit.note(
        tx, at, actor, "voucher.redeem", f"voucher:{voucher['id']}", account_id=account_id, amount=str(money),
        batch=voucher["batch_id"],
    )  # fmt: skip
    return money


def _voucher(tx: Tx, digest: str) -> Row | None:
    return tx.one(
        "select v.id, v.batch_id, v.state, v.redeemed_by, b.issuer_id, b.amount, b.currency, b.is_demo, b.expires_at"
        " from vouchers v join voucher_batches b on b.id = v.batch_id where v.digest = :digest",
        digest=digest,
    )


def _is_for(tx: Tx, voucher: Row, account_id: int, account: Row) -> bool:
    """Whether the account may know of it at all."""
    if voucher["is_demo"] != account["is_demo"]:
        return False
    return voucher["issuer_id"] is None or tree.is_within(tx, account_id, voucher["issuer_id"])


def _obstacle(voucher: Row, account_id: int, account: Row, at: float) -> VoucherError | None:
    if voucher["state"] != "open":
        return _ended(voucher, account_id)
    if voucher["expires_at"] is not None and voucher["expires_at"] <= at:
        return EndedVoucher("this voucher has expired")
    if voucher["currency"] != account["currency"]:
        return WrongCurrency(f"this voucher is in {voucher['currency']}, the account is kept in {account['currency']}")
    return None


def _ended(voucher: Row, account_id: int) -> VoucherError:
    if voucher["state"] == "redeemed":
        own = voucher["redeemed_by"] == account_id
        return SpentVoucher("you have redeemed this voucher already" if own else "this voucher was redeemed before")
    return EndedVoucher(f"this voucher {'has expired' if voucher['state'] == 'expired' else 'was revoked'}")


def _take_try(tx: Tx, account_id: int, at: float) -> bool:
    """Counts a try before anything is looked up, so that not even parallel guesses get past the limit.

    Windows only move on: a clock that goes back gives nobody new tries.
    """
    start = int(at // TRIES_SECONDS * TRIES_SECONDS)
    tx.execute(
        "insert into voucher_tries (account_id, starts_at, tries) values (:id, :start, 0)"
        " on conflict (account_id) do update set tries = 0, starts_at = :start where voucher_tries.starts_at < :start",
        id=account_id,
        start=start,
    )
    return bool(
        tx.execute(
            "update voucher_tries set tries = tries + 1 where account_id = :id and tries < :most",
            id=account_id,
            most=TRIES_MAX,
        )
    )


def _give_back_try(tx: Tx, account_id: int) -> None:
    tx.execute("update voucher_tries set tries = tries - 1 where account_id = :id", id=account_id)


# Ending


def revoke(
    tx: Tx, batch_id: int, at: float, actor: str, *, issuer_id: int | None = None, voucher_id: int | None = None
) -> int:
    """Ends what is not redeemed of a batch (or that one voucher of it) and gives its worth back; how many.

    `issuer_id` is the account that asks: another one's batch does not exist. Raises VoucherError.
    """
    batch = _lock_batch(tx, batch_id)
    if batch is None or (issuer_id is not None and batch["issuer_id"] != issuer_id):
        raise VoucherError(f"there is no batch {batch_id}")
    return _end(tx, batch, "revoked", at, actor, voucher_id)


def overdue(tx: Tx, at: float) -> list[int]:
    """The batches whose time is over, with vouchers that are not ended yet."""
    rows = tx.all(
        "select id from voucher_batches where closed_at is null and expires_at <= :at order by id limit 100", at=at
    )
    return [row["id"] for row in rows]


def expire(tx: Tx, batch_id: int, at: float) -> int:
    """Ends the vouchers of an overdue batch and gives their worth back; how many."""
    batch = _lock_batch(tx, batch_id)
    if batch is None or batch["expires_at"] is None or batch["expires_at"] > at:
        return 0
    return _end(tx, batch, "expired", at, "worker", None)


def _lock_batch(tx: Tx, batch_id: int) -> Row | None:
    return tx.one("update voucher_batches set note = note where id = :id returning *", id=min(batch_id, 2**63 - 1))


def _end(tx: Tx, batch: Row, state: str, at: float, actor: str, voucher_id: int | None) -> int:
    ended = tx.execute(
        "update vouchers set state = :state, ended_at = :at where batch_id = :batch and state = 'open'"
        " and (id = :voucher or :voucher = 0)",
        state=state, at=at, batch=batch["id"], voucher=voucher_id or 0,
    )  # fmt: skip
    if voucher_id is None:
        tx.execute(
            "update voucher_batches set closed_at = :at where id = :id and closed_at is null", at=at, id=batch["id"]
        )
    if ended:
        worth = Money(batch["amount"] * ended, batch["currency"])
        ledger.take_back(tx, batch["issuer_id"], batch["id"], worth, at, actor=actor)
        audit.note(
            tx, at, actor, f"voucher.{state}", f"batch:{batch['id']}", account_id=batch["issuer_id"], count=ended,
            given_back=str(worth),
        )  # fmt: skip
    return ended


# Looking


def batches(tx: Tx, issuer_id: int | None = None, *, after: int = 0, limit: int = 1_000) -> Sequence[Row]:
    """Batches with ids above `after`, oldest first, all or one account's: how many vouchers are in which state."""
    return tx.all(
        "select b.id, b.amount, b.currency, b.voucher_count, b.note, b.issued_at, b.expires_at, b.closed_at,"
        " a.name as issuer, sum(case v.state when 'open' then 1 else 0 end) as open_count,"
        " sum(case v.state when 'redeemed' then 1 else 0 end) as redeemed,"
        " sum(case v.state when 'revoked' then 1 else 0 end) as revoked,"
        " sum(case v.state when 'expired' then 1 else 0 end) as expired"
        " from voucher_batches b join vouchers v on v.batch_id = b.id left join accounts a on a.id = b.issuer_id"
        " where b.id > :after and (b.issuer_id = :issuer or :issuer = 0)"
        " group by b.id, a.name"
        " order by b.id limit :limit",
        after=after, issuer=issuer_id or 0, limit=limit,
    )  # fmt: skip


def of_batch(tx: Tx, batch_id: int, *, issuer_id: int | None = None) -> Sequence[Row]:
    """The vouchers of a batch by id, with their first four characters and who redeemed them. Raises VoucherError."""
    batch = tx.one("select issuer_id from voucher_batches where id = :id", id=min(batch_id, 2**63 - 1))
    if batch is None or (issuer_id is not None and batch["issuer_id"] != issuer_id):
        raise VoucherError(f"there is no batch {batch_id}")
    return tx.all(
        "select v.id, v.hint, v.state, v.ended_at, a.name as redeemed_by from vouchers v"
        " left join accounts a on a.id = v.redeemed_by where v.batch_id = :id order by v.id",
        id=batch_id,
    )
