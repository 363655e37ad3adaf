"""Money that moves: hold, capture or release, deposit, transfer. Every function here is part of a unit of work.

Each row of `ledger` takes an amount from one account (`debit`) and gives it to another (`credit`), so the books balance
by construction, in every currency. Callers' accounts are `account:ID:available` and `account:ID:held`, mirrored in
`balances`; the operator's (`house:…`, `upstream:…`) are summed when somebody asks, so that no sale waits for another.

Whatever takes or gives back money or a place does so in the counters of capped levels as well (`gateway.caps`): there
is no way around a cap. Locks are taken in one order: hold, balances from the root of the tree
down to the account that buys, counters.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from operator import itemgetter

from gateway import caps, fuse, levels, proofs, tree
from gateway.caps import TAKES_NO_PLACE
from gateway.errors import CallerError, NoBalance, TooManyOpen
from gateway.money import MAX_MICROS, Money
from gateway.store import Row, Tx


@dataclass(frozen=True, slots=True)
class Balance:
    """What an account can spend, what is reserved, and how many activations it has open."""

    available: Money
    held: Money
    open_count: int


def available(account_id: int) -> str:
    return f"account:{account_id}:available"


def held(account_id: int) -> str:
    return f"account:{account_id}:held"


def batch(batch_id: int) -> str:
    """The purse of what a batch's open vouchers are worth."""
    return f"batch:{batch_id}"


def _enter(
    tx: Tx,
    kind: str,
    debit: str,
    credit: str,
    money: Money,
    at: float,
    *,
    activation: int | None,
    actor: str,
    note: str = "",
) -> int | None:
    """The row's id; None where there is nothing to enter."""
    if money.micros == 0:
        return None
    return tx.insert(
        "insert into ledger (at, kind, debit, credit, amount, currency, activation_id, actor, note)"
        " values (:at, :kind, :debit, :credit, :amount, :currency, :activation, :actor, :note) returning id",
        at=at, kind=kind, debit=debit, credit=credit, amount=money.micros, currency=money.currency,
        activation=activation, actor=actor, note=note,
    )  # fmt: skip


def open_balance(tx: Tx, account_id: int) -> None:
    """An empty purse for a new account."""
    tx.execute("insert into balances (account_id, available, held, open_count) values (:id, 0, 0, 0)", id=account_id)


def balance(tx: Tx, account_id: int) -> Balance:
    """The account's balance, in its own currency. KeyError where there is no such account."""
    row = tx.one(
        "select b.available, b.held, b.open_count, a.currency from balances b join accounts a on a.id = b.account_id"
        " where b.account_id = :id",
        id=account_id,
    )
    if row is None:
        raise KeyError(account_id)
    currency = row["currency"]
    return Balance(Money(row["available"], currency), Money(row["held"], currency), row["open_count"])


def deposit(tx: Tx, account_id: int, money: Money, at: float, *, actor: str, note: str = "") -> int | None:
    """Adds money from outside; its row's id. ValueError where it is not above zero or not in the account's currency."""
    if money.micros <= 0:
        raise ValueError("a deposit is above zero")
    currency = balance(tx, account_id).available.currency
    if money.currency != currency:
        raise ValueError(f"the account is kept in {currency}")
    tx.execute(
        "update balances set available = available + :amount where account_id = :id", amount=money.micros, id=account_id
    )
    return _enter(
        tx, "deposit", "house:deposits", available(account_id), money, at, activation=None, actor=actor, note=note
    )


def set_aside(
    tx: Tx, account_id: int | None, batch_id: int, money: Money, at: float, *, actor: str, note: str = ""
) -> None:
    """Moves what a batch of vouchers is worth into its purse: from an account, or from the operator (None).

    Raises NoBalance, having changed nothing.
    """
    if account_id is not None:
        taken = tx.execute(
            "update balances set available = available - :amount where account_id = :id and available >= :amount",
            amount=money.micros,
            id=account_id,
        )
        if not taken:
            raise NoBalance
    _enter(tx, "issue", _issuer(account_id), batch(batch_id), money, at, activation=None, actor=actor, note=note)


def take_back(tx: Tx, account_id: int | None, batch_id: int, money: Money, at: float, *, actor: str) -> None:
    """Returns to whoever issued a batch what can't be redeemed any more."""
    if account_id is not None:
        _add(tx, account_id, money)
    _enter(tx, "revoke", batch(batch_id), _issuer(account_id), money, at, activation=None, actor=actor)


def redeem(tx: Tx, account_id: int, batch_id: int, money: Money, at: float, *, actor: str) -> int | None:
    """Pays one voucher of a batch out to an account; its row's id."""
    _add(tx, account_id, money)
    return _enter(tx, "voucher", batch(batch_id), available(account_id), money, at, activation=None, actor=actor)


def _add(tx: Tx, account_id: int, money: Money) -> None:
    tx.execute(
        "update balances set available = available + :amount where account_id = :id", amount=money.micros, id=account_id
    )


def _issuer(account_id: int | None) -> str:
    return "house:vouchers" if account_id is None else available(account_id)


def top_up(tx: Tx, upstream: str, money: Money, at: float, *, actor: str, note: str = "") -> None:
    """Books what we paid to an upstream in advance. ValueError where it is not above zero."""
    if money.micros <= 0:
        raise ValueError("a top-up is above zero")
    _enter(
        tx,
        "topup",
        "house:topups",
        f"upstream:{upstream}:float",
        money,
        at,
        activation=None,
        actor=actor,
        note=note,
    )


def hold(
    tx: Tx,
    account_id: int,
    activation_id: int,
    money: Money,
    at: float,
    *,
    open_max: int | None,
    actor: str,
    shares: Sequence[int] = (),
) -> None:
    """Reserves the order's ceiling and one of the account's places, in one conditional update.

    `shares` is what each account pays the one above it, from the root down to this one, whose share is the whole;
    empty where all pay the same. The split of the money is frozen with it: that is how `capture` divides it.
    What takes no place (`TAKES_NO_PLACE`) has no `open_max`: nobody counts it.

    In the same transaction it asks, of the key, the account and every account above, whether they may buy this at all
    and whether it fits under their caps. Raises TooManyOpen, NoBalance, BadKey, Suspended, Barred or NoNumbers, having
    changed nothing.
    """
    taken = tx.execute(
        "update balances set available = available - :amount, held = held + :amount, open_count = open_count + :places"
        " where account_id = :id and available >= :amount and (:places = 0 or open_count < :open_max)",
        amount=money.micros,
        id=account_id,
        places=int(open_max is not None),
        open_max=open_max or 0,
    )
    if not taken:
        is_full = open_max is not None and balance(tx, account_id).open_count >= open_max
        raise TooManyOpen if is_full else NoBalance
    try:
        _pass_levels(tx, activation_id, money.micros, at, shares, takes_place=open_max is not None)
    except CallerError:
        _unhold(tx, account_id, money.micros)
        if open_max is not None:
            _leave_place(tx, account_id)
        raise
    tx.execute(
        "insert into holds (activation_id, account_id, amount, currency, state, opened_at)"
        " values (:activation, :account, :amount, :currency, 'open', :at)",
        activation=activation_id,
        account=account_id,
        amount=money.micros,
        currency=money.currency,
        at=at,
    )
    if shares:
        _freeze(tx, activation_id, account_id, money.micros, shares)
    _enter(tx, "hold", available(account_id), held(account_id), money, at, activation=activation_id, actor=actor)


def _freeze(tx: Tx, activation_id: int, account_id: int, micros: int, shares: Sequence[int]) -> None:
    """Writes down what each level pays. ValueError where that is no way down to this account and amount."""
    line = tree.line(tx, account_id)
    if len(line) != len(shares) or shares[-1] != micros or list(shares) != sorted(shares):
        raise ValueError("these shares are not those of the account and its price")
    for level, (one, price) in enumerate(zip(line, shares, strict=True)):
        tx.execute(
            "insert into hold_shares (activation_id, account_id, level, price)"
            " values (:activation, :account, :level, :price)",
            activation=activation_id,
            account=one,
            level=level,
            price=price,
        )


@dataclass(frozen=True, slots=True)
class _Share:
    """What an account pays the one above it of a hold."""

    account_id: int
    price: int


_IS_SHARED = "exists (select 1 from hold_shares s where s.activation_id = holds.activation_id) as is_shared"
"""Asked with the hold itself: most holds are not, and then nothing more has to be asked."""


def _shares(tx: Tx, activation_id: int, row: Row) -> list[_Share]:
    """Those of a hold, root first; none where all levels pay the same."""
    if not row["is_shared"]:
        return []
    rows = tx.all(
        "select account_id, price from hold_shares where activation_id = :id order by level", id=activation_id
    )
    return [_Share(row["account_id"], row["price"]) for row in rows]


def _prices(shares: Sequence[_Share]) -> list[int]:
    return [share.price for share in shares]


def _pass_levels(
    tx: Tx, activation_id: int, micros: int, at: float, shares: Sequence[int], *, takes_place: bool
) -> None:
    """Read once the balance is locked: whoever sets a cap locks it, too, so none is missed."""
    passed = levels.of_order(tx, activation_id)
    levels.require_buyer(passed, at)
    levels.require_allowed(tx, passed, activation_id, micros)
    caps.take(tx, passed, micros, at, shares, takes_place=takes_place)


def _open_hold(tx: Tx, activation_id: int) -> Row | None:
    return tx.one(
        f"select account_id, amount, currency, opened_at, {_IS_SHARED} from holds"  # noqa: S608 — constant text
        " where activation_id = :id and state = 'open'",
        id=activation_id,
    )


def shrink(tx: Tx, activation_id: int, price: Money, at: float, *, actor: str, shares: Sequence[int] = ()) -> None:
    """Gives back what the hold reserves above `price`. Never grows a hold; a closed one stays as it is.

    `shares` as in `hold`: the split is frozen anew. It may come down where the price stays, by rounding. ValueError
    where a level would pay more than is held of it.
    """
    row = _open_hold(tx, activation_id)
    if row is None or row["amount"] < price.micros:
        return
    before = _shares(tx, activation_id, row)
    if row["amount"] == price.micros and _prices(before) == list(shares):
        return
    changed = tx.execute(
        "update holds set amount = :price where activation_id = :id and state = 'open' and amount = :amount",
        price=price.micros,
        id=activation_id,
        amount=row["amount"],
    )
    if changed:
        backs = _refreeze(tx, activation_id, before, shares)
        back = Money(row["amount"] - price.micros, row["currency"])
        _unhold(tx, row["account_id"], back.micros)
        caps.give_back(tx, activation_id, back.micros, row["opened_at"], backs)
        _enter(
            tx,
            "shrink",
            held(row["account_id"]),
            available(row["account_id"]),
            back,
            at,
            activation=activation_id,
            actor=actor,
        )


def _refreeze(tx: Tx, activation_id: int, before: Sequence[_Share], shares: Sequence[int]) -> list[int]:
    """Writes down what each level pays now; by how much that is less. Raises ValueError."""
    backs = [share.price - price for share, price in zip(before, shares, strict=True)]
    if any(back < 0 for back in backs) or list(shares) != sorted(shares):
        raise ValueError("a level would pay more than is held of it")
    for share, price in zip(before, shares, strict=True):
        if price != share.price:
            tx.execute(
                "update hold_shares set price = :price where activation_id = :id and account_id = :account",
                price=price,
                id=activation_id,
                account=share.account_id,
            )
    return backs


def _unhold(tx: Tx, account_id: int, micros: int) -> None:
    tx.execute(
        "update balances set available = available + :amount, held = held - :amount where account_id = :id",
        amount=micros,
        id=account_id,
    )


def _close_hold(tx: Tx, activation_id: int, state: str, at: float) -> Row | None:
    """The hold as it was, closed by this very call; None where it was closed before."""
    return tx.one(
        "update holds set state = :state, closed_at = :at where activation_id = :id and state = 'open'"  # noqa: S608
        f" returning account_id, amount, currency, opened_at, {_IS_SHARED}",
        state=state,
        at=at,
        id=activation_id,
    )


def capture(tx: Tx, activation_id: int, cost: Money, upstream: str, at: float, *, actor: str) -> bool:
    """Keeps the hold and books what the upstream takes; whether this call did it (a repeat does nothing).

    The operator gets the price of the account at the root, every account above the buyer the difference between what
    the one below pays it and what it pays itself.
    """
    row = _close_hold(tx, activation_id, "captured", at)
    if row is None:
        return False
    account, price = row["account_id"], Money(row["amount"], row["currency"])
    shares = _shares(tx, activation_id, row)
    sale = Money(shares[0].price, price.currency) if shares else price
    margins = [
        (seller.account_id, Money(buyer.price - seller.price, price.currency))
        for seller, buyer in pairwise(shares)
        if buyer.price != seller.price
    ]
    for seller_id, margin in margins:
        tx.execute(
            "update balances set available = available + :amount where account_id = :id",
            amount=margin.micros,
            id=seller_id,
        )
    tx.execute("update balances set held = held - :amount where account_id = :id", amount=price.micros, id=account)
    _enter(tx, "capture", held(account), "house:sales", sale, at, activation=activation_id, actor=actor)
    for seller_id, margin in margins:
        _enter(tx, "margin", held(account), available(seller_id), margin, at, activation=activation_id, actor=actor)
    spend(tx, "cost", cost, upstream, at, activation=activation_id, actor=actor)
    return True


def spend(
    tx: Tx,
    kind: str,
    cost: Money,
    upstream: str,
    at: float,
    *,
    activation: int | None,
    actor: str,
    note: str = "",
) -> None:
    """Books what an upstream took from our float there: `cost` for a sale, `loss` where nobody paid for it."""
    _enter(
        tx,
        kind,
        f"upstream:{upstream}:float",
        f"upstream:{upstream}:{kind}",
        cost,
        at,
        activation=activation,
        actor=actor,
        note=note,
    )


def release(tx: Tx, activation_id: int, at: float, *, actor: str) -> bool:
    """Gives the hold back; whether this call did it."""
    row = _close_hold(tx, activation_id, "released", at)
    if row is None:
        return False
    account = row["account_id"]
    _unhold(tx, account, row["amount"])
    caps.give_back(tx, activation_id, row["amount"], row["opened_at"], _prices(_shares(tx, activation_id, row)))
    money = Money(row["amount"], row["currency"])
    _enter(tx, "release", held(account), available(account), money, at, activation=activation_id, actor=actor)
    return True


def leave(tx: Tx, account_id: int, activation_id: int) -> None:
    """Gives back the place an ended activation took. Called once for each that took one, when it ends."""
    _leave_place(tx, account_id)
    caps.leave(tx, activation_id)


def _leave_place(tx: Tx, account_id: int) -> None:
    tx.execute("update balances set open_count = open_count - 1 where account_id = :id", id=account_id)


REFERENCE_LENGTH_MAX = 255


class TransferError(ValueError):
    """Money can't move this way; the message says why, in words for a person. Nothing was moved."""


class ReferenceUsed(TransferError):
    """The reference belongs to another transfer."""


def transfer(
    tx: Tx,
    from_id: int,
    to_id: int,
    money: Money | None,
    at: float,
    *,
    actor: str,
    note: str = "",
    reference: str = "",
) -> Money:
    """Moves money between an account and one above or below it; how much.

    None moves all that is available. What is held can't be moved. With a reference it happens once, however often it
    is asked for: references belong to the upper of the two accounts. Raises TransferError, or NoBalance.
    """
    upper_id = _upper(tx, from_id, to_id)
    if len(reference) > REFERENCE_LENGTH_MAX or not reference.isprintable():
        raise TransferError(f"a reference has up to {REFERENCE_LENGTH_MAX} printable characters")
    tree.lock(tx, (from_id, to_id))
    known = _transferred(tx, upper_id, reference) if reference else None
    if known is not None:
        return _repeated(known, from_id, to_id, money)
    money = balance(tx, from_id).available if money is None else money
    _require_amount(tx, from_id, to_id, money)
    taken = tx.execute(
        "update balances set available = available - :amount where account_id = :id and available >= :amount",
        amount=money.micros,
        id=from_id,
    )
    if not taken:
        raise NoBalance
    tx.execute(
        "update balances set available = available + :amount where account_id = :id", amount=money.micros, id=to_id
    )
    entry = _enter(
        tx, "transfer", available(from_id), available(to_id), money, at, activation=None, actor=actor, note=note
    )
    tx.execute(
        "insert into transfers (upper_id, from_id, to_id, amount, currency, reference, ledger_id, at)"
        " values (:upper, :from, :to, :amount, :currency, :reference, :entry, :at)",
        **{"upper": upper_id, "from": from_id, "to": to_id, "amount": money.micros, "currency": money.currency,
           "reference": reference or None, "entry": entry, "at": at},
    )  # fmt: skip
    return money


def _upper(tx: Tx, one: int, other: int) -> int:
    """Of two accounts in one line the upper one. Raises TransferError."""
    if one == other:
        raise TransferError("an account can't pay itself")
    for upper, lower in ((one, other), (other, one)):
        if tree.is_within(tx, lower, upper):
            return upper
    raise TransferError("money moves only between an account and those above or below it")


def _require_amount(tx: Tx, from_id: int, to_id: int, money: Money) -> None:
    if money.micros <= 0:
        raise TransferError("there is nothing to transfer" if money.micros == 0 else "a transfer is above zero")
    if money.micros > MAX_MICROS:
        raise TransferError("the amount is too large")
    for account_id in (from_id, to_id):
        currency = balance(tx, account_id).available.currency
        if money.currency != currency:
            raise TransferError(f"the account is kept in {currency}")
    row = tx.one(
        "select count(distinct is_demo) as kinds from accounts where id = :one or id = :other", one=from_id, other=to_id
    )
    if row is not None and row["kinds"] > 1:
        raise TransferError("a demo account's money is not real: it goes to demo accounts only")


def _transferred(tx: Tx, upper_id: int, reference: str) -> Row | None:
    return tx.one(
        "select from_id, to_id, amount, currency from transfers where upper_id = :id and reference = :reference",
        id=upper_id,
        reference=reference,
    )


def _repeated(known: Row, from_id: int, to_id: int, money: Money | None) -> Money:
    """What was moved under the reference already. Raises TransferError where that was something else."""
    moved = Money(known["amount"], known["currency"])
    if (known["from_id"], known["to_id"]) != (from_id, to_id) or (money is not None and money != moved):
        raise ReferenceUsed("this reference was used for another transfer before")
    return moved


HOLD_OF_STATUS = {
    "opening": "open",
    "waiting": "open",
    "received": "captured",
    "retrying": "captured",
    "finished": "captured",
    "cancelled": "released",
    "expired": "released",
    "failed": "released",
}
"""What an activation's status says about its money. A rental that waits has paid once `refundable_until` is nought."""


def verify(tx: Tx) -> list[str]:
    """Recomputes everything from the immutable rows; a sentence for each thing that does not add up."""
    return [
        *_verify_balances(tx),
        *_verify_holds(tx),
        *_verify_activations(tx),
        *_verify_closings(tx),
        *_verify_shares(tx),
        *_verify_costs(tx),
        *_verify_transfers(tx),
        *proofs.verify(tx),
        *tree.verify(tx),
        *caps.verify(tx),
        *fuse.verify(tx),
    ]


def _verify_balances(tx: Tx) -> Iterable[str]:
    sums: dict[tuple[str, str], int] = {}
    for row in tx.all("select debit as side, currency, sum(amount) as total from ledger group by debit, currency"):
        sums[row["side"], row["currency"]] = -int(row["total"])
    for row in tx.all("select credit as side, currency, sum(amount) as total from ledger group by credit, currency"):
        key = (row["side"], row["currency"])
        sums[key] = sums.get(key, 0) + int(row["total"])
    known: set[tuple[str, str]] = set()
    for row in tx.all(
        "select a.id, a.name, a.currency, b.available, b.held from accounts a join balances b on b.account_id = a.id"
    ):
        for side, shown in ((available(row["id"]), row["available"]), (held(row["id"]), row["held"])):
            known.add((side, row["currency"]))
            booked = sums.get((side, row["currency"]), 0)
            if booked != shown or shown < 0:
                yield f"balances: {side} ({row['name']}) shows {shown}, its ledger rows say {booked}"
    for side, currency in sums:
        if side.startswith("account:") and (side, currency) not in known:
            yield f"ledger: rows name {side} in {currency}, which no account has"
    for currency in {currency for _, currency in sums}:
        total = sum(amount for (_, other), amount in sums.items() if other == currency)
        if total:
            yield f"ledger: rows in {currency} sum to {total}, not to zero"


def _verify_holds(tx: Tx) -> Iterable[str]:
    for row in tx.all(
        "select b.account_id, b.held, coalesce(sum(h.amount), 0) as total from balances b"
        " left join holds h on h.account_id = b.account_id and h.state = 'open' group by b.account_id, b.held"
    ):
        if row["held"] != row["total"]:
            yield f"balances: account {row['account_id']} holds {row['held']}, its open holds sum to {row['total']}"
    for row in tx.all(
        "select b.account_id, b.open_count, count(a.id) as total from balances b left join activations a"
        " on a.account_id = b.account_id and a.ended_at is null and a.product <> :placeless"
        " group by b.account_id, b.open_count",
        placeless=TAKES_NO_PLACE,
    ):
        if row["open_count"] != row["total"]:
            shown, total = row["open_count"], row["total"]
            yield f"balances: account {row['account_id']} counts {shown} open activations, there are {total}"


def _verify_activations(tx: Tx) -> Iterable[str]:
    for row in tx.all(
        "select a.id, a.status, a.price, a.product, a.refundable_until, h.state, h.amount from activations a"
        " left join holds h on h.activation_id = a.id"
    ):
        is_kept = row["product"] == "rental" and row["status"] == "waiting" and row["refundable_until"] == 0
        expected = "captured" if is_kept else HOLD_OF_STATUS.get(row["status"])
        if row["state"] != expected:
            yield f"activations: {row['id']} is {row['status']} and its hold is {row['state']}, not {expected}"
        elif row["amount"] != row["price"]:
            yield f"activations: {row['id']} costs {row['price']}, its hold is {row['amount']}"


def _verify_closings(tx: Tx) -> Iterable[str]:
    """Each hold against its own ledger rows: what was reserved, and that it was closed once, for as much."""
    for row in tx.all(
        "select h.activation_id, h.state, h.amount, coalesce(l.reserved, 0) as reserved,"
        " coalesce(l.captured, 0) as captured, coalesce(l.released, 0) as released, coalesce(l.closings, 0) as closings"
        ", coalesce(s.price, h.amount) as sale"
        " from holds h left join (select activation_id,"
        "  sum(case kind when 'hold' then amount when 'shrink' then -amount else 0 end) as reserved,"
        "  sum(case when kind in ('capture', 'margin') then amount else 0 end) as captured,"
        "  sum(case kind when 'release' then amount else 0 end) as released,"
        "  sum(case when kind in ('capture', 'release') then 1 else 0 end) as closings"
        "  from ledger where activation_id is not null group by activation_id) l on l.activation_id = h.activation_id"
        " left join hold_shares s on s.activation_id = h.activation_id and s.level = 0"
    ):
        yield from _closing_problems(row)


def _closing_problems(row: Row) -> Iterable[str]:
    name, state, amount = row["activation_id"], row["state"], row["amount"]
    # What costs nothing, or nothing to the account at the root, has no such row.
    wanted = 0 if state == "open" or (row["sale"] if state == "captured" else amount) == 0 else 1
    if row["closings"] != wanted:
        yield f"holds: {name} is {state} and was closed {row['closings']} times in the ledger"
    closed = {"captured": row["captured"], "released": row["released"]}.get(state, amount)
    if row["reserved"] != amount or closed != amount:
        yield f"holds: {name} is for {amount}, its ledger rows say {row['reserved']} reserved and {closed} {state}"


def _verify_shares(tx: Tx) -> Iterable[str]:
    """What each level pays against the tree and the hold, and every account's margin against the ledger."""
    booked = _booked_margins(tx)
    lines: dict[int, list[int]] = {}
    for row in tx.all("select account_id, ancestor_id from account_tree order by account_id, depth desc"):
        lines.setdefault(row["account_id"], []).append(row["ancestor_id"])
    rows = tx.all(
        "select s.activation_id, s.account_id, s.level, s.price, h.account_id as buyer_id, h.amount, h.state,"
        " h.currency from hold_shares s left join holds h on h.activation_id = s.activation_id"
        " order by s.activation_id, s.level"
    )
    for activation_id, found in groupby(rows, itemgetter("activation_id")):
        shares = list(found)
        prices = [row["price"] for row in shares]
        buyer_id, currency = shares[0]["buyer_id"], shares[0]["currency"]
        if [row["account_id"] for row in shares] != lines.get(buyer_id):
            yield f"hold_shares: {activation_id} is not shared by account {buyer_id} and those above it"
        if prices != sorted(prices) or prices[-1] != shares[0]["amount"]:
            yield f"hold_shares: {activation_id} is shared as {prices}, its hold is {shares[0]['amount']}"
        is_captured = shares[0]["state"] == "captured"
        wanted = [
            (held(buyer_id), available(seller["account_id"]), buyer["price"] - seller["price"], currency)
            for seller, buyer in pairwise(shares)
            if is_captured and buyer["price"] != seller["price"]
        ]
        if sorted(wanted) != booked.pop(activation_id, []):
            yield f"hold_shares: the margins of {activation_id} are not what the ledger says"
    for activation_id in booked:
        yield f"ledger: {activation_id} has margins, and nobody shares it"


def _booked_margins(tx: Tx) -> dict[int, list[tuple[str, str, int, str]]]:
    """Payer, account, amount and currency of each margin, sorted, by activation."""
    found: dict[int, list[tuple[str, str, int, str]]] = {}
    for row in tx.all("select activation_id, debit, credit, amount, currency from ledger where kind = 'margin'"):
        entry = (row["debit"], row["credit"], row["amount"], row["currency"])
        found.setdefault(row["activation_id"], []).append(entry)
    return {activation_id: sorted(entries) for activation_id, entries in found.items()}


def _verify_costs(tx: Tx) -> Iterable[str]:
    for row in tx.all(
        "select activation_id, count(*) as times from ledger where kind in ('cost', 'loss')"
        " and activation_id is not null group by activation_id having count(*) > 1"
    ):
        yield f"ledger: activation {row['activation_id']} was paid for upstream {row['times']} times"
    for row in tx.all(
        "select a.id, a.cost, a.cost_currency, l.amount, l.currency from holds h join activations a"
        " on a.id = h.activation_id left join ledger l on l.activation_id = a.id and l.kind = 'cost'"
        " where h.state = 'captured' and a.cost > 0"
        " and (l.id is null or l.amount <> a.cost or l.currency <> a.cost_currency)"
    ):
        booked = "nothing" if row["amount"] is None else f"{row['amount']} {row['currency']}"
        yield f"ledger: activation {row['id']} cost {row['cost']} {row['cost_currency']} upstream, booked is {booked}"


def _verify_transfers(tx: Tx) -> Iterable[str]:
    for row in tx.all(
        "select t.id, t.from_id, t.to_id, t.amount, t.currency, l.kind, l.debit, l.credit, l.amount as booked,"
        " l.currency as booked_currency from transfers t left join ledger l on l.id = t.ledger_id"
    ):
        wanted = ("transfer", available(row["from_id"]), available(row["to_id"]), row["amount"], row["currency"])
        booked = (row["kind"], row["debit"], row["credit"], row["booked"], row["booked_currency"])
        if booked != wanted:
            yield f"transfers: {row['id']} is not what its ledger row says"
    for row in tx.all(
        "select l.id from ledger l left join transfers t on t.ledger_id = l.id"
        " where l.kind = 'transfer' and t.id is null"
    ):
        yield f"ledger: row {row['id']} is a transfer that nobody made"
