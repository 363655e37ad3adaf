"""After the storm: what has to be so, whatever broke. Pure, from what each side has written down."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.clients import Journal
from tests.chaos.upstreams import Sold

Row = Mapping[str, Any]

ORDER_SLACK_SECONDS = 30.0
"""How far a sale may be from the attempt it came of: an order's time, what two clocks differ, and
what a machine that is short of time keeps a request waiting."""

TRACEBACK = "Traceback (most recent call last)"

ENDED = frozenset({"finished", "cancelled", "expired", "failed"})
DOUBTFUL = frozenset({"in_doubt", "gone", "cancelled"})
"""Attempts that may stand for a number which was never seen. One that was given back stands for another one where an
upstream hid a number in the same place: the two cannot be told apart."""


@dataclass
class Evidence:
    """What everybody says, once all is quiet. Rows are those of the database, with what is sealed in them opened."""

    sold: Sequence[Sold] = ()
    hidden: Collection[tuple[str, str]] = ()
    """Orders that an upstream sold and denied."""

    called_over: Collection[tuple[str, str]] = ()
    """Orders that an upstream said to have given the money of back, though they were open. It is believed, as it has
    the last word on that (`docs/decisions.md`, "Cancels"): nobody asks for a code of theirs any more, nor for money."""

    accounts: Sequence[Row] = ()
    """id, name, available, held, open_count, has_webhook."""

    deposited: int = 0
    activations: Sequence[Row] = ()
    attempts: Sequence[Row] = ()
    holds: Sequence[Row] = ()
    ledger: Sequence[Row] = ()
    messages: Sequence[Row] = ()
    notices: Sequence[Row] = ()
    accepted: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    readable: Mapping[int, Sequence[str] | None] = field(default_factory=dict)
    """The codes an account was shown when it asked, by activation."""

    journals: Sequence[Journal] = ()
    late: Sequence[str] = ()
    """What was not over by its deadline."""

    verified: str = ""
    """What the command line had against the books; empty for nothing."""

    logs: str = ""
    secrets: Collection[str] = ()
    ends: Sequence[str] = ()
    """Processes that ended by themselves, with a status that is not that of a refusal to start."""

    def captured(self) -> dict[int, int]:
        """What was paid, by activation."""
        paid: Counter[int] = Counter()
        for row in self.ledger:
            if row["kind"] == "capture" and row["debit"].startswith("account:"):
                paid[row["activation_id"]] += row["amount"]
        return dict(paid)


Problems = Iterator[str]


def books_verify(found: Evidence) -> Problems:
    if found.verified:
        yield found.verified


def every_sale_is_accounted_for(found: Evidence) -> Problems:
    """Attached, given back, lost and booked, or one of a purchase that is listed as in doubt."""
    attached = {(row["upstream"], row["reference"]) for row in found.activations if row["reference"]}
    attempted = {(row["upstream"], row["reference"]) for row in found.attempts if row["reference"]}
    doubts = [row for row in found.attempts if row["state"] in DOUBTFUL]
    used: set[int] = set()
    for sold in sorted(found.sold, key=lambda sold: sold.bought_at):
        place = (sold.upstream, sold.reference)
        if not sold.is_paid or place in attached or place in attempted or place in found.hidden:
            continue
        stands_for = next((row for row in doubts if row["id"] not in used and _may_be(row, sold)), None)
        if stands_for is None:
            yield f"{sold.upstream} sold {sold.reference} ({sold.state}), and nobody knows of it"
        else:
            used.add(stands_for["id"])


def _may_be(attempt: Row, sold: Sold) -> bool:
    if attempt["upstream"] != sold.upstream or (attempt["reference"] and attempt["state"] != "cancelled"):
        return False
    return bool(abs(attempt["started_at"] - sold.bought_at) <= ORDER_SLACK_SECONDS)


def costs_are_what_was_sold(found: Evidence) -> Problems:
    """Each attached number that was paid for is booked once, at its price; none that was given back is."""
    booked: dict[tuple[str, str], list[int]] = defaultdict(list)
    place_of = {row["id"]: (row["upstream"], row["reference"]) for row in found.activations}
    for row in found.ledger:
        if row["kind"] in ("cost", "loss") and row["activation_id"] is not None:
            booked[place_of[row["activation_id"]]].append(row["amount"])
    attached = set(place_of.values())
    for sold in found.sold:
        place = (sold.upstream, sold.reference)
        wanted = [sold.cost] if sold.is_paid else []
        is_believed = place in found.called_over and not booked[place]
        if place in attached and booked[place] != wanted and not is_believed:
            yield f"{sold.upstream} {sold.reference} ({sold.state}) cost {wanted}, booked are {booked[place]}"
    paid = {(sold.upstream, sold.reference): sold.is_paid for sold in found.sold}
    lost = {row["note"] for row in found.ledger if row["kind"] == "loss" and row["activation_id"] is None}
    for row in found.attempts:
        place = (row["upstream"], row["reference"])
        if not row["reference"] or place in attached:
            continue
        is_booked = f"attempt {row['id']}" in lost
        if paid[place] is not is_booked and (is_booked or place not in found.called_over):
            yield f"attempt {row['id']} ({row['state']}) is paid at {row['upstream']}: {paid[place]}, booked otherwise"


def nobody_paid_without_a_code(found: Evidence) -> Problems:
    shown = Counter(row["activation_id"] for row in found.messages if row["is_shown"])
    for activation_id, amount in found.captured().items():
        if not shown[activation_id]:
            yield f"activation {activation_id} was charged {amount} without a message"


def every_code_is_readable(found: Evidence) -> Problems:
    """Whatever was written down as shown is what the account reads."""
    codes: dict[int, list[str]] = defaultdict(list)
    for row in found.messages:
        if row["is_shown"]:
            codes[row["activation_id"]].append(row["code"])
    for activation_id, wanted in codes.items():
        told = found.readable.get(activation_id)
        if told is None or sorted(told) != sorted(wanted):
            yield f"activation {activation_id} has {len(wanted)} codes, its account reads {told and len(told)}"


def every_code_that_came_is_known(found: Evidence) -> Problems:
    """What was sent to a number that waited is shown to its account, or is down as having come too late.

    That is promised of what came first. It is paid for, so the number can't be given back any more, and whoever tries
    to end it finds the code, however late. What comes for another round is read as long as there is time, and not asked
    for once more at the end.
    """
    messages: dict[int, dict[str, bool]] = defaultdict(dict)
    for row in found.messages:
        messages[row["activation_id"]][row["code"]] = bool(row["is_shown"])
    codes = {(sold.upstream, sold.reference): sold.codes for sold in found.sold}
    for row in found.activations:
        place = (row["upstream"], row["reference"])
        came = codes.get(place, ())
        if not came or place in found.called_over:
            continue
        is_shown = messages[row["id"]].get(came[0])
        if is_shown is None:
            yield f"activation {row['id']} ({row['status']}) never got what {place[0]} received for it"
        elif row["status"] == "finished" and not is_shown:
            yield f"activation {row['id']} was paid for, and what {place[0]} received for it first is not shown"


def accounts_paid_what_was_captured(found: Evidence) -> Problems:
    paid: Counter[int] = Counter()
    owner = {row["id"]: row["account_id"] for row in found.activations}
    for activation_id, amount in found.captured().items():
        paid[owner[activation_id]] += amount
    for row in found.accounts:
        if row["available"] != found.deposited - paid[row["id"]] or row["held"] or row["open_count"]:
            yield (
                f"{row['name']} has {row['available']}, {row['held']} held, {row['open_count']} open;"
                f" it paid {paid[row['id']]} of {found.deposited}"
            )


def codes_are_those_of_their_order(found: Evidence) -> Problems:
    """What a client read came for its number, and that number was sold for it."""
    sold = {(one.upstream, one.reference): one for one in found.sold}
    rows = {row["id"]: row for row in found.activations}
    names = {row["id"]: row["name"] for row in found.accounts}
    for journal in found.journals:
        for deal in journal.deals.values():
            row = rows.get(deal.id)
            if row is None or names[row["account_id"]] != journal.account:
                yield f"activation {deal.id} was handed to {journal.account}, whose it is not"
                continue
            order = sold[row["upstream"], row["reference"]]
            if order.number != deal.number:
                yield f"activation {deal.id} is another number than {order.upstream} sold"
            if not set(deal.codes) <= set(order.codes):
                yield f"activation {deal.id} showed codes that never came for it"


def no_code_of_a_former_round_is_shown(found: Evidence) -> Problems:
    """After a client was told that another code comes; one that its upstream sent twice is a new one, too."""
    came = Counter((row["activation_id"], row["code"]) for row in found.messages if row["is_shown"])
    for journal in found.journals:
        for deal in journal.deals.values():
            if any(came[deal.id, code] < 2 for code in deal.shown_again):
                yield f"activation {deal.id} showed {journal.account} a former code as the new one"


def clients_were_told_the_truth(found: Evidence) -> Problems:
    """Who was told that a number is given back has not paid for it; who read a code has."""
    captured = found.captured()
    for journal in found.journals:
        yield from (f"{journal.account}: {surprise}" for surprise in journal.surprises)
        for deal in journal.deals.values():
            if deal.is_cancelled and deal.id in captured:
                yield f"activation {deal.id} was cancelled for {journal.account}, and charged"
            if deal.codes and deal.id not in captured:
                yield f"activation {deal.id} showed {journal.account} a code, and was not charged"
            if deal.is_cancelled and deal.codes:
                yield f"activation {deal.id} had a code and was cancelled"


def an_idempotency_key_bought_once(found: Evidence) -> Problems:
    for journal in found.journals:
        for name, bought in journal.bought_by.items():
            if len(bought) > 1:
                yield f"{journal.account}: {name} bought {sorted(bought)}"


def every_notice_arrived(found: Evidence) -> Problems:
    """One for each message shown to an account with a receiver; received, or given up with a reason."""
    has_webhook = {row["id"] for row in found.accounts if row["has_webhook"]}
    owner = {row["id"]: row["account_id"] for row in found.activations}
    noticed = {row["message_id"] for row in found.notices}
    for row in found.messages:
        if row["is_shown"] and owner[row["activation_id"]] in has_webhook and row["id"] not in noticed:
            yield f"message {row['id']} of activation {row['activation_id']} has no notice"
    for row in found.notices:
        told = found.accepted.get(f"msg_{row['id']}")
        if row["state"] == "pending" or (row["state"] == "dead" and not row["last_result"]):
            yield f"notice {row['id']} is {row['state']} after {row['tries']} tries: {row['last_result']!r}"
        elif row["state"] == "sent" and (told is None or told["activationId"] != row["activation_id"]):
            yield f"notice {row['id']} is down as sent, and never arrived"


def nothing_is_left_open(found: Evidence) -> Problems:
    """Nothing holds money, waits or is in doubt beyond its time."""
    yield from found.late
    yield from (f"activation {row['id']} is {row['status']}" for row in found.activations if row["status"] not in ENDED)
    yield from (
        f"the hold of activation {row['activation_id']} is open" for row in found.holds if row["state"] == "open"
    )
    yield from (
        f"attempt {row['id']} at {row['upstream']} is {row['state']}"
        for row in found.attempts
        if row["state"] in ("pending", "in_doubt", "orphan")
    )
    yield from (
        f"activation {row['id']} is to be {row['close_outcome']} upstream"
        for row in found.activations
        if row["close_outcome"]
    )


def logs_tell_no_secret(found: Evidence) -> Problems:
    told = sum(secret in found.logs for secret in found.secrets)
    if told:
        yield f"{told} keys, numbers or addresses are in the logs"
    if "Your code is" in found.logs:
        yield "the text of a message is in the logs"


def nothing_unforeseen_was_raised(found: Evidence) -> Problems:
    """Whatever breaks is expected somewhere: no stack of calls is ever written."""
    yield from found.ends
    for line in found.logs.splitlines():
        if TRACEBACK in line:
            yield f"an error was met unprepared: {line[-300:]}"


CHECKS: tuple[Callable[[Evidence], Problems], ...] = (
    books_verify,
    every_sale_is_accounted_for,
    costs_are_what_was_sold,
    nobody_paid_without_a_code,
    every_code_is_readable,
    every_code_that_came_is_known,
    accounts_paid_what_was_captured,
    codes_are_those_of_their_order,
    no_code_of_a_former_round_is_shown,
    clients_were_told_the_truth,
    an_idempotency_key_bought_once,
    every_notice_arrived,
    nothing_is_left_open,
    logs_tell_no_secret,
    nothing_unforeseen_was_raised,
)


def problems(found: Evidence) -> dict[str, list[str]]:
    """What is wrong, by the name of the check."""
    told = {check.__name__.replace("_", " "): list(check(found)) for check in CHECKS}
    return {name: rows for name, rows in told.items() if rows}
