"""What accounts add to the prices of those below them, as rows: units of work. What they do to a price: `ladders`.

A rule is for some services, some countries, or one child; of an account's rules the first that matches counts. None
takes anything off: what an account is charged it charges on, at least (see `docs/decisions.md`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from gateway import revisions, tree
from gateway.ladders import Ladder, Markup
from gateway.money import MAX_MICROS, MICROS, PRICE_STEP_MICROS, plain
from gateway.store import Row, Tx

RULES_MAX = 200
PERCENT_MAX = 100_000
PERCENT_DIGITS_MAX = 30
MILLIONTHS = 10_000
"""Of one percent."""

NOT_BELOW = "a markup is for an account directly below"
STEP_MAX_MICROS = 1000 * MICROS
ADD_MAX_MICROS = MAX_MICROS // 1000


class MarkupError(ValueError):
    """A markup can't be so; the message says why, in words for a person."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of an account. `child_id` is None where it is for everybody below."""

    id: int
    markup: Markup
    child_id: int | None = None
    child: str = ""


def ladder(tx: Tx, account_id: int) -> Ladder:
    """Everything between the operator's price and the account's. KeyError where there is no such account."""
    rows = tx.all(_LADDER, id=account_id)
    if not rows:
        raise KeyError(account_id)
    rungs: dict[str, list[Markup]] = {}
    for row in rows:
        if row["depth"]:
            rung = rungs.setdefault(row["name"], [])
            if row["markup_id"] is not None:
                rung.append(_markup(row))
    return Ladder(tuple(rungs), tuple(map(tuple, rungs.values())))


_LADDER = (
    "with recursive line (id, parent_id, name, depth) as ("
    " select id, parent_id, name, 0 from accounts where id = :id"
    " union all select a.id, a.parent_id, a.name, l.depth + 1 from line l join accounts a on a.id = l.parent_id)"
    " select l.name, l.depth, m.id as markup_id, m.services, m.countries, m.percent, m.amount, m.step"
    " from line l left join markups m on m.account_id = l.id and l.depth > 0"
    " and (m.child_id is null or m.child_id in (select id from line))"
    " order by l.depth desc, m.position, m.id"
)


def of(tx: Tx, account_id: int) -> list[Rule]:
    """An account's rules, in the order in which they are looked at."""
    rows = tx.all(
        "select m.id as markup_id, m.services, m.countries, m.percent, m.amount, m.step, m.child_id, a.name as child"
        " from markups m left join accounts a on a.id = m.child_id where m.account_id = :id order by m.position, m.id",
        id=account_id,
    )
    return [Rule(row["markup_id"], _markup(row), row["child_id"], row["child"] or "") for row in rows]


def put(tx: Tx, account_id: int, markup: Markup, child_id: int | None = None, place: int | None = None) -> int:
    """Sets an account's rule for what the markup names; its id. One for the very same is replaced where it stands.

    A new one comes to the place given (1 is the first), or before the first rule that would leave it without effect,
    or last. Raises MarkupError.
    """
    tree.lock(tx, [account_id])  # of two changes at once, the second sees the first
    _require_sense(tx, account_id, markup, child_id)
    rules = of(tx, account_id)
    same = next((rule for rule in rules if _whom(rule) == (markup.services, markup.countries, child_id)), None)
    if same is None and len(rules) >= RULES_MAX:
        raise MarkupError(f"an account has {RULES_MAX} markups at most")
    if same is not None and place is None:
        rule_id = _write(tx, account_id, markup, child_id, same.id)
    else:
        others = [rule for rule in rules if rule is not same]
        at = _place(others, markup, child_id) if place is None else min(max(place - 1, 0), len(others))
        rule_id = _write(tx, account_id, markup, child_id, None if same is None else same.id)
        _order(tx, [*(rule.id for rule in others[:at]), rule_id, *(rule.id for rule in others[at:])])
    revisions.bump(tx, revisions.ACCOUNTS)
    return rule_id


def replace(tx: Tx, account_id: int, wanted: Sequence[tuple[Markup, int | None]]) -> None:
    """Makes these an account's rules, in this order; each with the child it is for. A rule for the very same as before
    keeps its id. Raises MarkupError.
    """
    tree.lock(tx, [account_id])
    if len(wanted) > RULES_MAX:
        raise MarkupError(f"an account has {RULES_MAX} markups at most")
    whom = [(markup.services, markup.countries, child_id) for markup, child_id in wanted]
    if len(set(whom)) < len(whom):
        raise MarkupError("two markups are for the very same")
    for markup, child_id in wanted:
        _require_sense(tx, account_id, markup, child_id)
    known = {_whom(rule): rule.id for rule in of(tx, account_id)}
    for rule_id in (known[gone] for gone in known.keys() - set(whom)):
        tx.execute("delete from markups where id = :id", id=rule_id)
    _order(
        tx,
        [
            _write(tx, account_id, markup, child_id, known.get(place))
            for (markup, child_id), place in zip(wanted, whom, strict=True)
        ],
    )
    revisions.bump(tx, revisions.ACCOUNTS)


def remove(tx: Tx, account_id: int, rule_id: int) -> None:
    """Takes a rule away. Raises MarkupError where the account has no such one."""
    gone = rule_id <= _ID_MAX and tx.execute(
        "delete from markups where id = :id and account_id = :account", id=rule_id, account=account_id
    )
    if not gone:
        raise MarkupError(f"there is no markup {rule_id} of this account")
    revisions.bump(tx, revisions.ACCOUNTS)


_ID_MAX = 2**63 - 1


def _whom(rule: Rule) -> tuple[frozenset[str], frozenset[int], int | None]:
    return rule.markup.services, rule.markup.countries, rule.child_id


def _place(rules: Sequence[Rule], markup: Markup, child_id: int | None) -> int:
    """Before the first rule that matches whatever the new one does."""
    hiding = (place for place, rule in enumerate(rules) if _hides(rule, markup, child_id))
    return next(hiding, len(rules))


def _hides(rule: Rule, markup: Markup, child_id: int | None) -> bool:
    services, countries, child = _whom(rule)
    return (
        (not services or bool(markup.services and markup.services <= services))
        and (not countries or bool(markup.countries and markup.countries <= countries))
        and child in (None, child_id)
    )


def _write(tx: Tx, account_id: int, markup: Markup, child_id: int | None, rule_id: int | None) -> int:
    values = {
        "percent": markup.percent_millionths,
        "amount": markup.add_micros,
        "step": markup.step_micros,
    }
    if rule_id is not None:
        tx.execute("update markups set percent = :percent, amount = :amount, step = :step where id = :id",
                   id=rule_id, **values)  # fmt: skip
        return rule_id
    return tx.insert(
        "insert into markups (account_id, position, services, countries, child_id, percent, amount, step)"
        " values (:account, 0, :services, :countries, :child, :percent, :amount, :step) returning id",
        account=account_id,
        services=",".join(sorted(markup.services)) or None,
        countries=",".join(map(str, sorted(markup.countries))) or None,
        child=child_id,
        **values,
    )


def _order(tx: Tx, rule_ids: Sequence[int]) -> None:
    for position, rule_id in enumerate(rule_ids, start=1):
        tx.execute("update markups set position = :position where id = :id", position=position, id=rule_id)


def _require_sense(tx: Tx, account_id: int, markup: Markup, child_id: int | None) -> None:
    if not 0 <= markup.percent_millionths <= PERCENT_MAX * MILLIONTHS:
        raise MarkupError(f"percent is from 0 to {PERCENT_MAX}")
    if not 0 <= markup.add_micros <= ADD_MAX_MICROS:
        raise MarkupError(f"an amount added is from 0 to {plain(ADD_MAX_MICROS)}")
    if not 0 < markup.step_micros <= STEP_MAX_MICROS or markup.step_micros % PRICE_STEP_MICROS:
        raise MarkupError(f"a rounding step is a multiple of {plain(PRICE_STEP_MICROS)} up to {plain(STEP_MAX_MICROS)}")
    if child_id is None:
        return
    row = tx.one("select parent_id from accounts where id = :id", id=child_id)
    if row is None or row["parent_id"] != account_id:
        raise MarkupError(NOT_BELOW)


def percent_of(text: str) -> int:
    """Millionths in a percentage, of which four decimals count. Raises MarkupError."""
    try:
        number = Decimal(text.strip()) * MILLIONTHS if len(text) <= PERCENT_DIGITS_MAX else Decimal("nan")
    except ArithmeticError:
        number = Decimal("nan")
    if not number.is_finite() or not 0 <= number <= PERCENT_MAX * MILLIONTHS or number != int(number):
        raise MarkupError(f"{text[:40]!r} is no percentage from 0 to {PERCENT_MAX} with at most four decimals")
    return int(number)


def percent_text(millionths: int) -> str:
    """The percentage as people write it."""
    return f"{Decimal(millionths) / MILLIONTHS:f}"


def _markup(row: Row) -> Markup:
    words: Any = row["services"]
    numbers: Any = row["countries"]
    return Markup(
        services=frozenset(words.split(",")) if words else frozenset(),
        countries=frozenset(map(int, numbers.split(","))) if numbers else frozenset(),
        percent_millionths=row["percent"],
        add_micros=row["amount"],
        step_micros=row["step"],
    )
