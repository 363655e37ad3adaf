"""Money from outside, by reference: each payment is booked once, whoever tells of it and however often. Units of work.

A payment is known by its source (`operator`, `stripe`, `generic`, …) and the reference it has there. One that somebody
signed for, and that can't be booked, is kept until a person books or dismisses it:

    unbooked ──assign, or told again when it can be──> booked
        └─────dismiss──> dismissed <──dismiss── reversal      a refund or dispute: booked by nobody
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from gateway import audit, ledger, recharges
from gateway.money import MAX_MICROS, Money, plain
from gateway.store import Row, Tx

REFERENCE_LENGTH_MAX = 255
OPERATOR = "operator"
"""The source of what the operator books by hand."""

PAGE_ROWS = 1_000


class DepositError(ValueError):
    """The payment can't be booked so; the message says why, in words for a person. Nothing was moved."""


class ReferenceUsed(DepositError):
    """The source told of another payment under this reference before."""

    def __init__(self) -> None:
        super().__init__("this reference was used for another deposit before: nothing was booked")


class UnknownPayment(DepositError):
    """There is no such payment."""

    def __init__(self, payment_id: int) -> None:
        super().__init__(f"there is no payment {payment_id}")


class NotOpen(DepositError):
    """The payment is over, or can't be closed this way."""


class WrongCurrency(DepositError):
    """The account is kept in another currency."""


class BadReference(DepositError):
    """What is no reference."""


class Outcome(StrEnum):
    """What came of a payment that was told of."""

    BOOKED = "booked"
    REPEATED = "repeated"
    """Booked or dismissed before: nothing was done."""

    UNBOOKED = "unbooked"
    """Kept, to be assigned by a person."""


@dataclass(frozen=True, slots=True)
class Told:
    """A payment, as its source tells of it. `account` is a name that may be nobody's.

    `is_test` where the source says that no real money moved, or that it did; None where it does not say. `recharge` is
    the id of the recharge that asked for it, where it is not the reference itself.
    """

    source: str
    reference: str
    account: str
    money: Money
    is_test: bool | None = None
    recharge: str = ""


def pay_in(
    tx: Tx,
    account_id: int,
    money: Money,
    reference: str,
    source: str,
    at: float,
    actor: str,
    note: str = "",
    *,
    recharge: str = "",
) -> bool:
    """Books a payment to an account; False where it was booked before, to the same account and as much.

    Raises ReferenceUsed where the reference stands for anything else, DepositError on an amount, a currency or a
    reference that can't be, KeyError on an unknown account.
    """
    _require(tx, account_id, money, reference)
    payment_id = _insert(tx, source, reference, "booked", money, at, actor, account_id=account_id, note=note)
    if payment_id is None:
        known = _lock(tx, source, reference)
        if known["state"] == "booked" and known["account_id"] == account_id and _money(known) == money:
            return False
        if known["state"] != "unbooked" or _money(known) != money:
            raise ReferenceUsed
        payment_id = known["id"]
    _book(tx, payment_id, account_id, money, reference, source, at, actor, note, recharge)
    return True


def receive(tx: Tx, told: Told, at: float) -> Outcome:
    """Books what a source has signed for, or keeps it for a person where it can't be booked. Raises ReferenceUsed, and
    DepositError on an amount or reference that can't be."""
    _require_form(told.money, told.reference)
    known = _known(tx, told.source, told.reference)
    if known is not None and _is_repeat(known, told):
        return Outcome.REPEATED
    account = tx.one("select id, currency, is_demo from accounts where name = :name", name=told.account)
    problem = _problem(account, told)
    if account is None or problem:
        return _keep(tx, told, problem, at)
    is_new = pay_in(tx, account["id"], told.money, told.reference, told.source, at, told.source, recharge=told.recharge)
    return Outcome.BOOKED if is_new else Outcome.REPEATED


def reverse(tx: Tx, source: str, reference: str, money: Money, what: str, payment: str, at: float) -> bool:
    """Keeps that money was taken back (`what`: refund, dispute) for a person to act on; False where it was told before.

    Books nothing: what the account has spent is spent, and who bears the loss is not decided by a program.
    """
    made = _insert(
        tx, source, reference, "reversal", money, at, source, reason=what, note=payment[:REFERENCE_LENGTH_MAX]
    )
    if made is not None:
        audit.note(tx, at, source, "deposit.reversal", f"payment:{made}", amount=str(money), what=what)
    return made is not None


def assign(tx: Tx, payment_id: int, account_id: int, at: float, actor: str) -> Money:
    """Books an unbooked payment to an account; how much. Raises DepositError, KeyError."""
    row = _open_row(tx, payment_id)
    if row["state"] != "unbooked":
        raise NotOpen(f"payment {payment_id} is a {row['reason']}: it can only be dismissed")
    money = _money(row)
    _require(tx, account_id, money, row["reference"])
    _book(tx, row["id"], account_id, money, row["reference"], row["source"], at, actor, row["note"], "")
    return money


def dismiss(tx: Tx, payment_id: int, at: float, actor: str, note: str = "") -> None:
    """Closes an unbooked payment or a reversal without booking anything. Raises DepositError."""
    row = _open_row(tx, payment_id)
    tx.execute(
        "update payments set state = 'dismissed', closed_at = :at, note = :note, actor = :actor where id = :id",
        at=at, note=note or row["note"], actor=actor, id=payment_id,
    )  # fmt: skip
    audit.note(tx, at, actor, "deposit.dismiss", f"payment:{payment_id}", amount=str(_money(row)), note=note)


_SHOWN = (
    "select p.id, p.at, p.source, p.reference, p.state, p.amount, p.currency, p.told_account, p.reason, p.note,"
    " a.name as account from payments p left join accounts a on a.id = p.account_id"
)


def shown(tx: Tx, payment_id: int) -> Row:
    """One payment as `payments` has it. Raises UnknownPayment."""
    row = tx.one(f"{_SHOWN} where p.id = :id", id=min(payment_id, 2**63 - 1))
    if row is None:
        raise UnknownPayment(payment_id)
    return row


def shown_by_reference(tx: Tx, source: str, reference: str) -> Row:
    """As `shown`, by what its source calls it. Raises KeyError."""
    row = tx.one(f"{_SHOWN} where p.source = :source and p.reference = :reference", source=source, reference=reference)
    if row is None:
        raise KeyError(reference)
    return row


def payments(
    tx: Tx, *, account_id: int | None = None, is_open: bool = False, after: int = 0, limit: int = PAGE_ROWS
) -> Sequence[Row]:
    """Payments with ids above `after`, oldest first: all, one account's, or those that wait for a person."""
    return tx.all(
        f"{_SHOWN} where p.id > :after and (p.account_id = :account or :account = 0)"
        " and (p.state in ('unbooked', 'reversal') or :is_open = 0) order by p.id limit :limit",
        after=after, account=account_id or 0, is_open=int(is_open), limit=limit,
    )  # fmt: skip


def sentence(row: Row) -> str:
    """What an operator has to know of a payment that waits for a person."""
    amount = f"{plain(row['amount'])} {row['currency']}"
    if row["state"] == "reversal":
        return (
            f"{row['source']} tells of a {row['reason']} of {amount}{' in all' if row['reason'] == 'refund' else ''}:"
            " nothing was booked."
            f" See to it, then: simroute deposit dismiss {row['id']}"
        )
    return (
        f"{amount} came by {row['source']} and can't be booked: {row['reason']}."
        f" simroute deposit assign {row['id']} ACCOUNT books it"
    )


# Parts


def _require(tx: Tx, account_id: int, money: Money, reference: str) -> None:
    _require_form(money, reference)
    currency = ledger.balance(tx, account_id).available.currency
    if money.currency != currency:
        raise WrongCurrency(f"the account is kept in {currency}")


def _require_form(money: Money, reference: str) -> None:
    if money.micros <= 0:
        raise DepositError("a deposit is above zero")
    if money.micros > MAX_MICROS:
        raise DepositError("the amount is too large")
    if not 0 < len(reference) <= REFERENCE_LENGTH_MAX or not reference.isprintable():
        raise BadReference(f"a reference has 1 to {REFERENCE_LENGTH_MAX} printable characters")


def _problem(account: Row | None, told: Told) -> str:
    if account is None:
        return "it names no account that exists"
    if account["currency"] != told.money.currency:
        return f"{told.account} is kept in {account['currency']}"
    if told.is_test is not None and told.is_test is not bool(account["is_demo"]):
        return "a test payment is for demo accounts" if told.is_test else f"{told.account} is a demo account"
    return ""


def _is_repeat(known: Row, told: Told) -> bool:
    """Whether what is told again is over. A source may leave the name out where it tells of one payment twice."""
    is_same = _money(known) == told.money and told.account in (known["told_account"], known["name"], "")
    return is_same and known["state"] in ("booked", "dismissed")


def _keep(tx: Tx, told: Told, problem: str, at: float) -> Outcome:
    made = _insert(
        tx, told.source, told.reference, "unbooked", told.money, at, told.source, told_account=told.account,
        reason=problem,
    )  # fmt: skip
    if made is not None:
        audit.note(tx, at, told.source, "deposit.unbooked", f"payment:{made}", amount=str(told.money), why=problem)
        return Outcome.UNBOOKED
    known = _lock(tx, told.source, told.reference)
    if known["state"] != "unbooked" or _money(known) != told.money:
        raise ReferenceUsed
    return Outcome.UNBOOKED


def _insert(
    tx: Tx,
    source: str,
    reference: str,
    state: str,
    money: Money,
    at: float,
    actor: str,
    *,
    account_id: int | None = None,
    told_account: str = "",
    reason: str = "",
    note: str = "",
) -> int | None:
    """The new row's id; None where the source has told of that reference before."""
    row = tx.one(
        "insert into payments (source, reference, state, account_id, told_account, amount, currency, reason, note,"
        " actor, at) values (:source, :reference, :state, :account, :told, :amount, :currency, :reason, :note,"
        " :actor, :at) on conflict (source, reference) do nothing returning id",
        source=source, reference=reference, state=state, account=account_id, told=told_account[:REFERENCE_LENGTH_MAX],
        amount=money.micros, currency=money.currency, reason=reason, note=note, actor=actor, at=at,
    )  # fmt: skip
    return None if row is None else int(row["id"])


def _known(tx: Tx, source: str, reference: str) -> Row | None:
    return tx.one(
        "select p.*, a.name from payments p left join accounts a on a.id = p.account_id"
        " where p.source = :source and p.reference = :reference",
        source=source, reference=reference,
    )  # fmt: skip


def _lock(tx: Tx, source: str, reference: str) -> Row:
    """The payment as it is now; nobody else changes it until this unit is over."""
    row = tx.one(
        "update payments set state = state where source = :source and reference = :reference returning *",
        source=source, reference=reference,
    )  # fmt: skip
    if row is None:
        raise KeyError(reference)
    return row


def _open_row(tx: Tx, payment_id: int) -> Row:
    """As `_lock`, for one that waits for a person. Raises DepositError."""
    row = tx.one("update payments set state = state where id = :id returning *", id=min(payment_id, 2**63 - 1))
    if row is None:
        raise UnknownPayment(payment_id)
    if row["state"] not in ("unbooked", "reversal"):
        raise NotOpen(f"payment {payment_id} is {row['state']} already")
    return row


def _book(
    tx: Tx,
    payment_id: int,
    account_id: int,
    money: Money,
    reference: str,
    source: str,
    at: float,
    actor: str,
    note: str,
    recharge: str,
) -> None:
    # Before the balance is touched: a recharge locks its own rows first, too.
    recharges.arrived(tx, account_id, recharge or reference, at)
    entry = ledger.deposit(tx, account_id, money, at, actor=actor, note=note or f"{source} {reference}")
    tx.execute(
        "update payments set state = 'booked', account_id = :account, ledger_id = :entry, note = :note, closed_at = :at"
        " where id = :id",
        account=account_id, entry=entry, note=note, at=at, id=payment_id,
    )  # fmt: skip
    audit.note(
        tx, at, actor, "deposit", f"account:{account_id}", account_id=account_id, amount=str(money), source=source,
        reference=reference,
    )  # fmt: skip


def _money(row: Row) -> Money:
    return Money(row["amount"], row["currency"])
