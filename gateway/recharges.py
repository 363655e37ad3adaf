"""Accounts that are recharged by themselves when little is left: from their parent's balance, or by asking the payment
hook for a payment. Units of work; `recharger` runs them.

    hook:    pending ──the payment comes──> done          parent:  done at once
                └────nobody paid in time──> lapsed ──the payment comes after all──> done

One row per account is locked by whoever tries, so of any number that try at once a single one goes on. Months are
those of UTC. What lapsed does not count towards the month, unless it is paid after all.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from gateway import audit, ledger, levels
from gateway.errors import NoBalance
from gateway.money import MAX_MICROS, Money, plain
from gateway.store import Row, Tx

SOURCES = ("parent", "hook")
COOL_DOWN_SECONDS = 300.0
COOL_DOWN_SECONDS_MAX = 30 * 86_400.0
BACK_OFF_SECONDS = 60.0
BACK_OFF_SECONDS_MAX = 6 * 3600.0
FULL_MONTH_SECONDS = 3600.0
"""How long an account whose month is full is left alone before its ceiling is looked at again."""

LAPSE_SECONDS = 3600.0
"""How long a payment that the hook was asked for is waited for."""

POST_PAUSE_SECONDS = (5.0, 30.0, 120.0, 600.0)
"""Pauses after each failed call of the hook; the last one again and again until the run lapses."""

CLOCK_SKEW_SECONDS = 300.0
"""A pause that began later than this from now was written by a clock that has gone back since."""

DUE_MAX = 100


class RechargeError(ValueError):
    """The recharge can't be set so; the message says why, in words for a person."""


@dataclass(frozen=True, slots=True)
class Recharge:
    """One account's rule, and how it stands. `problem` is empty where the last try went well."""

    account: str
    is_on: bool
    source: str
    threshold: Money
    amount: Money
    month_max: Money
    month_spent: Money
    cool_down_seconds: float
    is_pending: bool
    problem: str


# Rules


def set_rule(
    tx: Tx,
    account_id: int,
    threshold: Money,
    amount: Money,
    source: str,
    month_max: Money,
    at: float,
    actor: str,
    *,
    cool_down_seconds: float = COOL_DOWN_SECONDS,
) -> None:
    """From now on `amount` is added whenever less than `threshold` is available, up to `month_max` a month.

    Whoever sets `parent` as the source spends the parent's money, so it is for the parent (or the operator) to set.
    Setting a rule anew ends its pause. Raises RechargeError, KeyError.
    """
    row = _require(tx, account_id, (threshold, amount, month_max), source)
    if amount.micros > month_max.micros:
        raise RechargeError("the amount is above the month's ceiling: it could never be added")
    if not math.isfinite(cool_down_seconds) or not 1 <= cool_down_seconds <= COOL_DOWN_SECONDS_MAX:
        raise RechargeError(f"a cool-down has 1 to {COOL_DOWN_SECONDS_MAX:.0f} seconds")
    tx.execute(
        "insert into recharges (account_id, is_on, source, threshold, amount, month_max, cool_down_seconds)"
        " values (:id, 1, :source, :threshold, :amount, :month_max, :cool_down)"
        " on conflict (account_id) do update set is_on = 1, source = :source, threshold = :threshold,"
        " amount = :amount, month_max = :month_max, cool_down_seconds = :cool_down,"
        " paused_at = null, pause_seconds = 0, failures = 0, problem = ''",
        id=account_id, source=source, threshold=threshold.micros, amount=amount.micros, month_max=month_max.micros,
        cool_down=cool_down_seconds,
    )  # fmt: skip
    audit.note(
        tx, at, actor, "recharge.set", f"account:{account_id}", account_id=account_id, name=row["name"], source=source,
        threshold=str(threshold), amount=str(amount), month_max=str(month_max), cool_down_seconds=cool_down_seconds,
    )  # fmt: skip


def switch_off(tx: Tx, account_id: int, at: float, actor: str) -> bool:
    """Ends an account's recharges; whether they were on. A payment asked for already is still booked when it comes."""
    changed = tx.execute(
        "update recharges set is_on = 0, problem = '' where account_id = :id and is_on = 1", id=account_id
    )
    if changed:
        audit.note(tx, at, actor, "recharge.off", f"account:{account_id}", account_id=account_id)
    return bool(changed)


def rules(tx: Tx, at: float, account_ids: Sequence[int] | None = None) -> list[Recharge]:
    """Every rule, or those of the accounts named, by the account's name."""
    rows = tx.all(
        "select r.*, a.name, a.currency, (select count(*) from recharge_runs p where p.account_id = r.account_id"
        " and p.state = 'pending') as pending from recharges r join accounts a on a.id = r.account_id order by a.name"
    )
    return [_shown(tx, row, at) for row in rows if account_ids is None or row["account_id"] in account_ids]


def _shown(tx: Tx, row: Row, at: float) -> Recharge:
    currency = row["currency"]
    return Recharge(
        account=row["name"],
        is_on=bool(row["is_on"]),
        source=row["source"],
        threshold=Money(row["threshold"], currency),
        amount=Money(row["amount"], currency),
        month_max=Money(row["month_max"], currency),
        month_spent=Money(spent(tx, row["account_id"], month(at)), currency),
        cool_down_seconds=row["cool_down_seconds"],
        is_pending=row["pending"] > 0,
        problem=row["problem"],
    )


def _require(tx: Tx, account_id: int, amounts: Sequence[Money], source: str) -> Row:
    row = tx.one(
        "select a.name, a.currency, a.is_demo, p.is_demo as parent_demo from accounts a"
        " left join accounts p on p.id = a.parent_id where a.id = :id",
        id=account_id,
    )
    if row is None:
        raise KeyError(account_id)
    for money in amounts:
        if money.currency != row["currency"]:
            raise RechargeError(f"the account is kept in {row['currency']}")
        if not 0 < money.micros <= MAX_MICROS:
            raise RechargeError("an amount is above zero" if money.micros <= 0 else "the amount is too large")
    if source not in SOURCES:
        raise RechargeError(f"money comes from one of {', '.join(SOURCES)}")
    if source == "parent" and row["parent_demo"] is None:
        raise RechargeError(f"{row['name']} has no parent to be recharged from")
    if source == "parent" and row["parent_demo"] != row["is_demo"]:
        raise RechargeError("a demo account's money is not real: it goes to demo accounts only")
    return row


# Trying


def due(tx: Tx, at: float) -> list[int]:
    """The accounts below their threshold that are neither pausing nor waiting for a payment."""
    rows = tx.all(
        "select r.account_id, r.paused_at, r.pause_seconds from recharges r"
        " join balances b on b.account_id = r.account_id where r.is_on = 1 and b.available < r.threshold"
        " and not exists (select 1 from recharge_runs p where p.account_id = r.account_id and p.state = 'pending')"
        " order by r.account_id"
    )
    return [row["account_id"] for row in rows if _is_rested(row, at)][:DUE_MAX]


def may_help(tx: Tx, account_id: int, at: float, needed_micros: int) -> bool:
    """Whether `help_order` could do anything: a look that locks nothing, for an order that failed."""
    row = tx.one("select paused_at, pause_seconds from recharges where account_id = :id and is_on = 1", id=account_id)
    return row is not None and (_is_rested(row, at) or _has(tx, account_id, needed_micros))


def help_order(tx: Tx, account_id: int, at: float, needed_micros: int) -> bool:
    """Recharges an account with too little for an order, where it is due; whether there is enough now.

    Of many orders that fail together one recharges, and all may go on with what it brought.
    """
    return attempt(tx, account_id, at, needed_micros=needed_micros) or _has(tx, account_id, needed_micros)


def _has(tx: Tx, account_id: int, micros: int) -> bool:
    return ledger.balance(tx, account_id).available.micros >= micros


def attempt(tx: Tx, account_id: int, at: float, *, needed_micros: int = 0) -> bool:
    """Recharges an account once where it is due (or has less than `needed_micros`); whether money came by this call.

    From the hook it comes later. What fails is written down with the row, and tried again after a pause.
    """
    row = tx.one("update recharges set is_on = is_on where account_id = :id and is_on = 1 returning *", id=account_id)
    if row is None or not _is_rested(row, at):
        return False
    # Read after the row is locked: whoever recharged a moment ago has been waited for.
    available = ledger.balance(tx, account_id).available
    if available.micros >= max(row["threshold"], needed_micros) or _is_waiting(tx, account_id):
        return False
    stopped_at = levels.stopped_at(levels.of_key(tx, account_id, 0))
    if stopped_at is not None and stopped_at <= at:
        return False
    amount = Money(row["amount"], available.currency)
    if spent(tx, account_id, month(at)) + amount.micros > row["month_max"]:
        ceiling = f"{plain(row['month_max'])} {amount.currency}"
        _pause(tx, account_id, at, FULL_MONTH_SECONDS, row["failures"], f"the month's ceiling of {ceiling} is reached")
        return False
    if row["source"] == "hook":
        _ask(tx, account_id, amount, at)
        _pause(tx, account_id, at, row["cool_down_seconds"], row["failures"], row["problem"])
        return False
    return _take_from_parent(tx, row, amount, at)


def _take_from_parent(tx: Tx, row: Row, amount: Money, at: float) -> bool:
    account_id = row["account_id"]
    account = tx.one("select parent_id from accounts where id = :id", id=account_id)
    parent_id = account["parent_id"] if account is not None else None
    try:
        if parent_id is None:
            raise ledger.TransferError("there is no parent to be recharged from")
        ledger.transfer(tx, parent_id, account_id, amount, at, actor="recharge", note="recharge")
    except (NoBalance, ledger.TransferError) as error:
        problem = str(error) or "the parent has too little available"
        _fail(tx, row, problem, at)
        return False
    _insert(tx, account_id, "parent", amount, at, "done")
    _pause(tx, account_id, at, row["cool_down_seconds"], 0, "")
    audit.note(
        tx, at, "recharge", "recharge", f"account:{account_id}", account_id=account_id, amount=str(amount),
        source="parent",
    )  # fmt: skip
    return True


def _ask(tx: Tx, account_id: int, amount: Money, at: float) -> None:
    reference = _insert(tx, account_id, "hook", amount, at, "pending")
    audit.note(
        tx, at, "recharge", "recharge.ask", f"account:{account_id}", account_id=account_id, amount=str(amount),
        reference=reference,
    )  # fmt: skip


def _insert(tx: Tx, account_id: int, source: str, amount: Money, at: float, state: str) -> str:
    reference = f"rch_{secrets.token_hex(12)}"
    is_pending = state == "pending"
    tx.insert(
        "insert into recharge_runs (account_id, reference, source, amount, currency, month, state, at, lapses_at,"
        " next_post_at, ended_at) values (:account, :reference, :source, :amount, :currency, :month, :state, :at,"
        " :lapses_at, :next_post_at, :ended_at) returning id",
        account=account_id, reference=reference, source=source, amount=amount.micros, currency=amount.currency,
        month=month(at), state=state, at=at, lapses_at=at + LAPSE_SECONDS, next_post_at=at if is_pending else None,
        ended_at=None if is_pending else at,
    )  # fmt: skip
    return reference


def _is_waiting(tx: Tx, account_id: int) -> bool:
    found = tx.one("select 1 as x from recharge_runs where account_id = :id and state = 'pending'", id=account_id)
    return found is not None


def _is_rested(row: Row, at: float) -> bool:
    if row["paused_at"] is None or at < row["paused_at"] - CLOCK_SKEW_SECONDS:
        return True
    return bool(at >= row["paused_at"] + row["pause_seconds"])


def _pause(tx: Tx, account_id: int, at: float, seconds: float, failures: int, problem: str) -> None:
    tx.execute(
        "update recharges set paused_at = :at, pause_seconds = :seconds, failures = :failures, problem = :problem"
        " where account_id = :id",
        at=at, seconds=seconds, failures=failures, problem=problem, id=account_id,
    )  # fmt: skip


def _fail(tx: Tx, row: Row, problem: str, at: float) -> None:
    failures = row["failures"] + 1
    _pause(tx, row["account_id"], at, back_off_seconds(row["cool_down_seconds"], failures), failures, problem)


def back_off_seconds(cool_down_seconds: float, failures: int) -> float:
    """The pause after so many failures in a row: a minute, doubled each time, never below the cool-down."""
    doubled = BACK_OFF_SECONDS * float(2 ** min(failures - 1, 20))
    return max(cool_down_seconds, min(doubled, BACK_OFF_SECONDS_MAX))


def month(at: float) -> str:
    """The month of a moment, such as `2026-11`."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m")


def spent(tx: Tx, account_id: int, of_month: str) -> int:
    """Micro-units recharged, or asked for, in a month."""
    row = tx.one(
        "select coalesce(sum(amount), 0) as total from recharge_runs where account_id = :id and month = :month"
        " and state in ('pending', 'done')",
        id=account_id,
        month=of_month,
    )
    return 0 if row is None else int(row["total"])


# What the hook was asked for


def arrived(tx: Tx, account_id: int, reference: str, at: float) -> None:
    """A payment came; where a recharge of that account had asked for it, that is over."""
    done = tx.execute(
        "update recharge_runs set state = 'done', ended_at = :at, next_post_at = null"
        " where reference = :reference and account_id = :account and state <> 'done'",
        at=at, reference=reference, account=account_id,
    )  # fmt: skip
    if done:
        tx.execute("update recharges set failures = 0, problem = '' where account_id = :id", id=account_id)


def claim(tx: Tx, at: float, until: float, limit: int) -> list[Row]:
    """The runs whose hook is to be called now, claimed until then: whoever crashes leaves them due again."""
    rows = tx.all(
        "select p.id, p.next_post_at from recharge_runs p where p.state = 'pending' and p.next_post_at <= :at"
        " and p.lapses_at > :at order by p.id limit :limit",
        at=at,
        limit=limit,
    )
    return [run for row in rows if (run := _claim_one(tx, row, until)) is not None]


def _claim_one(tx: Tx, seen: Row, until: float) -> Row | None:
    is_ours = tx.execute(
        "update recharge_runs set next_post_at = :until where id = :id and state = 'pending' and next_post_at = :seen",
        until=until,
        id=seen["id"],
        seen=seen["next_post_at"],
    )
    if not is_ours:
        return None
    return tx.one(
        "select p.id, p.reference, p.amount, p.currency, p.posts, p.next_post_at, p.account_id, a.name"
        " from recharge_runs p join accounts a on a.id = p.account_id where p.id = :id",
        id=seen["id"],
    )


def note_post(tx: Tx, run: Row, problem: str, at: float) -> None:
    """What came of calling the hook: an empty `problem` where it took the call, and is waited for."""
    pause = POST_PAUSE_SECONDS[min(run["posts"], len(POST_PAUSE_SECONDS) - 1)]
    changed = tx.execute(
        "update recharge_runs set posts = posts + 1, next_post_at = :next where id = :id and state = 'pending'"
        " and next_post_at = :claimed",
        next=at + pause if problem else None, id=run["id"], claimed=run["next_post_at"],
    )  # fmt: skip
    if changed:
        tx.execute(
            "update recharges set problem = :problem where account_id = :id and is_on = 1",
            problem=problem,
            id=run["account_id"],
        )


def has_calls(tx: Tx, at: float) -> bool:
    """Whether `claim` would find anything: a look that locks nothing."""
    return bool(
        tx.one(
            "select 1 as x from recharge_runs where state = 'pending' and next_post_at <= :at and lapses_at > :at",
            at=at,
        )
    )


def has_lapsed(tx: Tx, at: float) -> bool:
    """Whether `lapse` would find anything: a look that locks nothing."""
    return bool(tx.one("select 1 as x from recharge_runs where state = 'pending' and lapses_at <= :at", at=at))


def lapse(tx: Tx, at: float) -> int:
    """Ends the runs that nobody paid in time; how many."""
    rows = tx.all("select id, account_id from recharge_runs where state = 'pending' and lapses_at <= :at", at=at)
    return sum(_lapse_one(tx, row["id"], row["account_id"], at) for row in rows)


def _lapse_one(tx: Tx, run_id: int, account_id: int, at: float) -> bool:
    # Run first, then rule: the order of `arrived`.
    changed = tx.execute(
        "update recharge_runs set state = 'lapsed', ended_at = :at, next_post_at = null"
        " where id = :id and state = 'pending'",
        at=at,
        id=run_id,
    )
    row = tx.one("update recharges set is_on = is_on where account_id = :id and is_on = 1 returning *", id=account_id)
    if changed and row is not None:
        hook = f" ({row['problem']})" if row["problem"] else ""
        _fail(tx, row, f"no payment came within {LAPSE_SECONDS / 60:.0f} minutes{hook}"[:200], at)
    return bool(changed)


def troubled(tx: Tx) -> Sequence[Row]:
    """The rules that are on and did not work last, with their accounts' names."""
    return tx.all(
        "select a.name, r.problem from recharges r join accounts a on a.id = r.account_id"
        " where r.is_on = 1 and r.problem <> '' order by a.id limit :limit",
        limit=DUE_MAX,
    )
