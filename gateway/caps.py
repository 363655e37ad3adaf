"""Caps that hold: counters of what an account or a key has spent in a calendar window (UTC), and has open.

Only a subject with a cap has counters, one row for each window it has bought in. A row is made from the holds there
are, when its cap is set or when the first purchase of a new window comes; from then on every hold, release and end in
that window moves it, in the same transaction, so it always equals what the holds say. What is spent is what is held or
captured, of the subject and everything below it.

Whoever touches counters has locked the balance of the account that buys first, and takes them in one order everywhere:
amounts before open places, root before leaf before key. So purchases can neither pass a cap together nor wait for each
other in a circle. Setting a cap locks the balances of all it is for (`tree.lock_below`) before it counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from gateway import rules, tree
from gateway.errors import NoBalance, TooManyOpen
from gateway.levels import Level
from gateway.model import Product
from gateway.money import plain
from gateway.rules import NO_RULES, SPEND_CAPS, RuleError, Rules
from gateway.store import Row, Tx

OPEN = "open"
"""The counter of open activations, beside those of periods."""

TAKES_NO_PLACE = Product.EXTENSION.value
"""More time for a rental is no further number: it has no place among the open ones, and needs none."""

PERIODS = (*SPEND_CAPS, OPEN)
HOUR, DAY = 3600, 86_400
KEPT_SECONDS = {"hour": 2 * DAY, "day": 62 * DAY}
"""How long counters of a window that is over are kept: they can be made again from the holds at any time."""

_IN_WINDOWS = (
    " and (c.period = 'total' or (c.period = 'hour' and c.starts_at = :hour)"
    " or (c.period = 'day' and c.starts_at = :day) or (c.period = 'month' and c.starts_at = :month))"
)
_OF_ORDER = (
    "select c.subject, c.period, c.starts_at, t.depth from activations v"
    " join account_tree t on t.account_id = v.account_id join counters c on c.subject = 'account:' || t.ancestor_id"
    " where v.id = :order{wanted} union all"
    " select c.subject, c.period, c.starts_at, -1 from activations v join api_keys k on k.id = v.key_id"
    " join counters c on c.subject = 'key:' || coalesce(k.origin_id, k.id) where v.id = :order{wanted}"
)
_SPENT = _OF_ORDER.replace("{wanted}", _IN_WINDOWS)
_PLACES = _OF_ORDER.replace("{wanted}", " and c.period = 'open'")


@dataclass(frozen=True, slots=True)
class Counter:
    """One counter as it stands, with its cap: micro-units, or activations."""

    period: str
    amount: int
    cap: int


def starts_at(period: str, at: float) -> int:
    """When the window of a moment begins."""
    if period == "hour":
        return int(at // HOUR * HOUR)
    if period == "day":
        return int(at // DAY * DAY)
    if period == "month":
        moment = datetime.fromtimestamp(at, UTC)
        return int(datetime(moment.year, moment.month, 1, tzinfo=UTC).timestamp())
    return 0


def ends_at(period: str, start: int) -> float:
    """When the window that begins then is over."""
    if period == "hour":
        return start + HOUR
    if period == "day":
        return start + DAY
    # 31 days after the first of a month is in the next one, whichever it is.
    return starts_at(period, start + 31 * DAY) if period == "month" else float("inf")


def amount_at(level: Level, micros: int, shares: Sequence[int] = ()) -> int:
    """What a level pays of an order for which the account that buys pays so much.

    `shares` is what each account pays, the root first; empty where all pay the same. A key pays what its account does.
    """
    return shares[-1 - max(level.depth, 0)] if shares else micros


# Moving


def take(
    tx: Tx,
    levels: Sequence[Level],
    micros: int,
    at: float,
    shares: Sequence[int] = (),
    *,
    takes_place: bool = True,
) -> None:
    """Counts an order of so much (at each level: `amount_at`), opened then, at every level with a cap.

    Before its hold is written, after its account's balance is locked. Raises NoBalance or TooManyOpen, having changed
    nothing.
    """
    taken: list[tuple[str, str, int, int]] = []
    for level, period, cap in _caps(levels):
        if period == OPEN and not takes_place:
            continue
        step = 1 if period == OPEN else amount_at(level, micros, shares)
        start = starts_at(period, at)
        if not _add(tx, level.subject, period, start, step, cap):
            for subject, earlier, begun, back in taken:
                _take_off(tx, subject, earlier, begun, back)
            raise TooManyOpen if takes_place and (period == OPEN or _is_full(tx, levels)) else NoBalance
        taken.append((level.subject, period, start, step))


def _caps(levels: Sequence[Level]) -> Iterable[tuple[Level, str, int]]:
    """Every cap on the way, in the order in which counters are taken. Levels come root first."""
    bound = [level for level in levels if level.rules is not NO_RULES]
    for level in bound:
        for period in SPEND_CAPS:
            cap = level.rules.cap(period)
            if cap is not None:
                yield level, period, cap
    for level in bound:
        if level.rules.open_max is not None:
            yield level, OPEN, level.rules.open_max


def _is_full(tx: Tx, levels: Sequence[Level]) -> bool:
    """Whether there is no place left anyway: that is said first, as where only an account's own places count."""
    return any(
        period == OPEN and (_amount(tx, level.subject, OPEN, 0) or 0) >= cap for level, period, cap in _caps(levels)
    )


def _add(tx: Tx, subject: str, period: str, start: int, step: int, cap: int) -> bool:
    if _add_to_row(tx, subject, period, start, step, cap):
        return True
    if _amount(tx, subject, period, start) is None:
        _create(tx, subject, period, start)
    # Again where the row is there by now, too: another purchase may just have made it.
    return _add_to_row(tx, subject, period, start, step, cap)


def _add_to_row(tx: Tx, subject: str, period: str, start: int, step: int, cap: int) -> bool:
    return bool(
        tx.execute(
            "update counters set amount = amount + :step where subject = :subject and period = :period"
            " and starts_at = :start and amount + :step <= :cap",
            step=step,
            subject=subject,
            period=period,
            start=start,
            cap=cap,
        )
    )


def _amount(tx: Tx, subject: str, period: str, start: int) -> int | None:
    row = tx.one(
        "select amount from counters where subject = :subject and period = :period and starts_at = :start",
        subject=subject,
        period=period,
        start=start,
    )
    return None if row is None else int(row["amount"])


def _take_off(tx: Tx, subject: str, period: str, start: int, step: int) -> None:
    """Never below nought: a counter that somebody edited must not keep money from being given back."""
    tx.execute(
        "update counters set amount = case when amount < :step then 0 else amount - :step end"
        " where subject = :subject and period = :period and starts_at = :start",
        step=step,
        subject=subject,
        period=period,
        start=start,
    )


def give_back(tx: Tx, activation_id: int, micros: int, opened_at: float, shares: Sequence[int] = ()) -> None:
    """Takes so much (at each level: `amount_at`) off every counter of the window in which the hold was opened.

    After its account's balance is locked.
    """
    windows = {period: starts_at(period, opened_at) for period in ("hour", "day", "month")}
    for row in _in_order(tx.all(_SPENT, order=activation_id, **windows)):
        level = Level(row["subject"], row["depth"], NO_RULES)
        _take_off(tx, row["subject"], row["period"], row["starts_at"], amount_at(level, micros, shares))


def leave(tx: Tx, activation_id: int) -> None:
    """Gives back the place an ended activation took at every level. After its account's balance is locked."""
    for row in _in_order(tx.all(_PLACES, order=activation_id)):
        _take_off(tx, row["subject"], row["period"], row["starts_at"], 1)


def _in_order(rows: Sequence[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: (-row["depth"], PERIODS.index(row["period"])))


# Making


def follow(
    tx: Tx, subject: str, account_id: int, before: Rules, after: Rules, at: float, currency: str, *, force: bool
) -> None:
    """Makes the counters of caps that are new, drops those of caps that are gone.

    Raises RuleError where a cap is below what is spent or open already, unless that is meant (`force`): then nothing
    can be bought until its window is over. `account_id` is the subject's account, or the one its key belongs to.
    """
    changed = [period for period in PERIODS if _cap(before, period) != _cap(after, period)]
    if not changed:
        return
    tree.lock_below(tx, account_id)
    for period in changed:
        cap, start = _cap(after, period), starts_at(period, at)
        if cap is None or _cap(before, period) is None:
            tx.execute("delete from counters where subject = :subject and period = :period",
                       subject=subject, period=period)  # fmt: skip
        if cap is None:
            continue
        amount = _amount(tx, subject, period, start)
        if amount is None:
            amount = recount(tx, subject, period, start)
            _insert(tx, subject, period, start, amount)
        if amount > cap and not force:
            raise RuleError(_below(period, amount, cap, currency))


def _below(period: str, amount: int, cap: int, currency: str) -> str:
    if period == OPEN:
        return f"{amount} activations are open already, more than {cap}: nothing could be bought until some end"
    spent = "in all" if period == "total" else f"this {period}"
    return (
        f"{plain(amount)} {currency} are spent {spent} already, more than {plain(cap)}:"
        f" nothing could be bought {'any more' if period == 'total' else f'for the rest of the {period}'}"
    )


def _cap(found: Rules, period: str) -> int | None:
    return found.open_max if period == OPEN else found.cap(period)


def _create(tx: Tx, subject: str, period: str, start: int) -> None:
    """The counter of a window in which the first purchase comes. Nothing is held in it, as a rule.

    Where the clock has gone back to before the cap was set, something is: then nobody may move while it is counted.
    """
    amount = recount(tx, subject, period, start)
    if amount:
        tree.lock_below(tx, _account_of(tx, subject))
        amount = recount(tx, subject, period, start)
    _insert(tx, subject, period, start, amount)


def _insert(tx: Tx, subject: str, period: str, start: int, amount: int) -> None:
    tx.execute(
        "insert into counters (subject, period, starts_at, amount) values (:subject, :period, :start, :amount)"
        " on conflict (subject, period, starts_at) do nothing",
        subject=subject,
        period=period,
        start=start,
        amount=amount,
    )


def _account_of(tx: Tx, subject: str) -> int:
    kind, _, number = subject.partition(":")
    if kind == "account":
        return int(number)
    row = tx.one("select account_id from api_keys where id = :id", id=int(number))
    if row is None:
        raise KeyError(subject)
    return int(row["account_id"])


_HOLDS = {
    "account": (
        " from account_tree t join holds h on h.account_id = t.account_id join activations v on v.id = h.activation_id"
        " left join hold_shares s on s.activation_id = h.activation_id and s.account_id = t.ancestor_id"
        " where t.ancestor_id = :id"
    ),
    "key": (
        " from api_keys k join holds h on h.account_id = k.account_id join activations v on v.id = h.activation_id"
        " and v.key_id = k.id where (k.id = :id or k.origin_id = :id)"
    ),
}
"""Every order of a subject. One that is about to be held has no hold yet."""

_PAID = {"account": "coalesce(s.price, h.amount)", "key": "h.amount"}
"""What a subject pays of each."""


def recount(tx: Tx, subject: str, period: str, start: int) -> int:
    """What a counter has to say, from the holds and activations alone."""
    kind, _, number = subject.partition(":")
    if period == OPEN:
        is_open = " and v.ended_at is null and v.product <> :placeless"
        row = tx.one("select count(*) as n" + _HOLDS[kind] + is_open, id=int(number), placeless=TAKES_NO_PLACE)
        return 0 if row is None else int(row["n"])
    end = ends_at(period, start)
    row = tx.one(
        f"select coalesce(sum({_PAID[kind]}), 0) as n" + _HOLDS[kind] + " and h.state in ('open', 'captured')"
        " and h.opened_at >= :start and h.opened_at < :end",
        id=int(number),
        start=float("-inf") if period == "total" else float(start),
        end=end,
    )
    return 0 if row is None else int(row["n"])


# Looking


def shown(tx: Tx, subject: str, found: Rules, at: float) -> list[Counter]:
    """How much of each of a subject's caps is used."""
    counters = []
    for period in PERIODS:
        cap = _cap(found, period)
        if cap is not None:
            amount = _amount(tx, subject, period, starts_at(period, at))
            counters.append(Counter(period, amount or 0, cap))
    return counters


def tidy(tx: Tx, now: float) -> None:
    """Forgets counters of windows that are long over."""
    for period, seconds in KEPT_SECONDS.items():
        tx.execute(
            "delete from counters where period = :period and starts_at < :before",
            period=period,
            before=int(now - seconds),
        )


def verify(tx: Tx) -> Iterable[str]:
    """A sentence for each counter that is not what the holds say, and for each cap without one it should have."""
    for row in tx.all("select subject, period, starts_at, amount from counters order by subject, period, starts_at"):
        counted = recount(tx, row["subject"], row["period"], row["starts_at"])
        if counted != row["amount"]:
            window = f"{row['period']} from {row['starts_at']}" if row["starts_at"] else row["period"]
            yield f"counters: {row['subject']} shows {row['amount']} for {window}, its holds say {counted}"
    counted_for = {(row["subject"], row["period"]) for row in tx.all("select distinct subject, period from counters")}
    found: Mapping[str, Rules] = {row["subject"]: rules.from_row(row) for row in tx.all("select * from rules")}
    for subject, period in counted_for:
        if _cap(found.get(subject, NO_RULES), period) is None:
            yield f"counters: {subject} counts by {period} without a cap"
