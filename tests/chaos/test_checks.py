"""Each check tells what it is for, and is silent where all is well."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.chaos.checks import CHECKS, Evidence, problems
from tests.chaos.clients import Deal, Journal
from tests.chaos.plan import FAULTS, kinds, plan
from tests.chaos.upstreams import Sold

DEPOSITED = 1_000_000
PRICE = 500_000
COST = 400_000


def sold(reference: str, state: str = "finished", *, codes: tuple[str, ...] = (), is_paid: bool = True) -> Sold:
    return Sold("one", reference, f"4915{reference}", COST, 1000.0, state, is_paid, codes)


def activation(number: int, status: str, reference: str | None) -> dict[str, Any]:
    return {
        "id": number, "account_id": 1, "status": status, "upstream": "one", "reference": reference,
        "close_outcome": None,
    }  # fmt: skip


def attempt(number: int, state: str, reference: str | None = None, started_at: float = 1000.0) -> dict[str, Any]:
    return {"id": number, "upstream": "one", "state": state, "reference": reference, "started_at": started_at}


def entry(kind: str, activation_id: int | None, amount: int, note: str = "") -> dict[str, Any]:
    debit = "account:1:held" if kind == "capture" else "house:costs"
    return {"kind": kind, "activation_id": activation_id, "amount": amount, "debit": debit, "note": note}


LOST = entry("loss", 2, COST)


def well() -> Evidence:
    """Alice had a code, gave a number back and lost one; an orphan with a message was booked as lost."""
    alice = Journal("alice", bought_by={"k": {1}})
    alice.deals = {
        1: Deal(1, "4915r1", codes=["11111"]),
        2: Deal(2, "4915r2", is_cancelled=True),
    }
    return Evidence(
        sold=[
            sold("r1", codes=("11111",)),
            sold("r2", "cancelled", is_paid=False),
            sold("never-seen", codes=("33333",)),
            sold("orphan", codes=("44444",)),
        ],
        accounts=[
            {
                "id": 1, "name": "alice", "available": DEPOSITED - PRICE, "held": 0, "open_count": 0,
                "has_webhook": True,
            }
        ],
        deposited=DEPOSITED,
        activations=[
            activation(1, "finished", "r1"), activation(2, "cancelled", "r2"), activation(3, "failed", None)
        ],
        attempts=[
            attempt(1, "leased", "r1"), attempt(2, "leased", "r2"), attempt(3, "gone"), attempt(4, "gone", "orphan")
        ],
        holds=[{"activation_id": 1, "state": "captured"}],
        ledger=[entry("capture", 1, PRICE), entry("cost", 1, COST), entry("loss", None, COST, "attempt 4")],
        messages=[{"id": 7, "activation_id": 1, "is_shown": 1, "code": "11111"}],
        notices=[{"id": 9, "message_id": 7, "activation_id": 1, "state": "sent", "tries": 1, "last_result": "200"}],
        accepted={"msg_9": {"activationId": 1}},
        readable={1: ["11111"]},
        journals=[alice],
        logs='{"event": "message.delivered"}\n',
        secrets={"4915r1"},
    )  # fmt: skip


def of_alice(change: Callable[[Journal], object]) -> Callable[[Evidence], Evidence]:
    def apply(found: Evidence) -> Evidence:
        change(found.journals[0])
        return found

    return apply


def with_row(name: str, place: int, **values: object) -> Callable[[Evidence], Evidence]:
    def apply(found: Evidence) -> Evidence:
        rows = [dict(row) for row in getattr(found, name)]
        rows[place].update(values)
        changed: dict[str, Any] = {name: rows}
        return replace(found, **changed)

    return apply


def having(**values: Any) -> Callable[[Evidence], Evidence]:
    return lambda found: replace(found, **values)


BROKEN: dict[str, tuple[Callable[[Evidence], Evidence], str]] = {
    "the books": (having(verified="row 3"), "books verify"),
    "a sale nobody knows of": (
        lambda found: replace(found, sold=[*found.sold, sold("x")]), "every sale is accounted for"
    ),
    "a sale long after the attempt": (
        with_row("attempts", 2, started_at=900.0), "every sale is accounted for"
    ),
    "a cost not booked": (
        lambda found: replace(found, ledger=[row for row in found.ledger if row["kind"] != "cost"]),
        "costs are what was sold",
    ),
    "a cost of what was given back": (
        lambda found: replace(found, ledger=[*found.ledger, LOST]), "costs are what was sold"
    ),
    "an orphan's loss not booked": (
        lambda found: replace(found, ledger=found.ledger[:2]), "costs are what was sold"
    ),
    "charged without a code": (having(messages=(), readable={}, notices=()), "nobody paid without a code"),
    "a code the account can't read": (having(readable={1: []}), "every code is readable"),
    "a code that was lost": (
        lambda found: replace(found, sold=[sold("r1", codes=("55555",)), *found.sold[1:]]),
        "every code that came is known",
    ),
    "a code that came for a number given back": (
        lambda found: replace(found, sold=[found.sold[0], sold("r2", codes=("22222",)), *found.sold[2:]]),
        "every code that came is known",
    ),
    "a code kept from its buyer": (with_row("messages", 0, is_shown=0), "every code that came is known"),
    "a balance": (with_row("accounts", 0, available=DEPOSITED), "accounts paid what was captured"),
    "money held": (with_row("accounts", 0, held=1), "accounts paid what was captured"),
    "somebody else's code": (
        of_alice(lambda alice: alice.deals[1].codes.append("99999")), "codes are those of their order"
    ),
    "somebody else's activation": (
        of_alice(lambda alice: alice.deals.setdefault(77, Deal(77, "1"))), "codes are those of their order"
    ),
    "a former code": (
        of_alice(lambda alice: alice.deals[1].shown_again.append("11111")), "no code of a former round is shown"
    ),
    "another number": (
        of_alice(lambda alice: setattr(alice.deals[1], "number", "1")), "codes are those of their order"
    ),
    "cancelled and charged": (
        of_alice(lambda alice: setattr(alice.deals[1], "is_cancelled", True)), "clients were told the truth"
    ),
    "a code for nothing": (
        lambda found: replace(found, ledger=[row for row in found.ledger if row["kind"] != "capture"]),
        "clients were told the truth",
    ),
    "an odd answer": (of_alice(lambda alice: alice.surprises.append("500")), "clients were told the truth"),
    "a key that bought twice": (
        of_alice(lambda alice: alice.bought_by["k"].add(2)), "an idempotency key bought once"
    ),
    "a message without a notice": (having(notices=()), "every notice arrived"),
    "a notice that never arrived": (having(accepted={}), "every notice arrived"),
    "a notice given up without a reason": (
        with_row("notices", 0, state="dead", last_result=""), "every notice arrived"
    ),
    "an activation left open": (with_row("activations", 2, status="opening"), "nothing is left open"),
    "an open hold": (with_row("holds", 0, state="open"), "nothing is left open"),
    "an attempt in doubt": (with_row("attempts", 2, state="in_doubt"), "nothing is left open"),
    "an end not told": (with_row("activations", 1, close_outcome="cancelled"), "nothing is left open"),
    "a deadline": (having(late=["too late"]), "nothing is left open"),
    "a number in a log": (having(logs="number 4915r1"), "logs tell no secret"),
    "a message in a log": (having(logs="Your code is 1"), "logs tell no secret"),
    "an exception": (having(logs="Traceback (most recent call last): …"), "nothing unforeseen was raised"),
    "an end by itself": (having(ends=["status -11"]), "nothing unforeseen was raised"),
}  # fmt: skip


def test_where_all_is_well_nothing_is_told() -> None:
    assert problems(well()) == {}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_wrong_is_told(name: str) -> None:
    spoil, check = BROKEN[name]
    assert check in problems(spoil(well()))


def test_a_code_that_came_too_late_is_known() -> None:
    found = well()
    late = {"id": 8, "activation_id": 2, "is_shown": 0, "code": "22222"}
    paid = [found.sold[0], sold("r2", codes=("22222",)), *found.sold[2:]]
    assert problems(replace(found, sold=paid, messages=[*found.messages, late], ledger=[*found.ledger, LOST])) == {}


def test_an_upstream_that_says_the_money_is_back_is_believed() -> None:
    found = well()
    paid = replace(found, sold=[found.sold[0], sold("r2", codes=("22222",)), *found.sold[2:]])
    assert set(problems(paid)) == {"costs are what was sold", "every code that came is known"}
    assert problems(replace(paid, called_over={("one", "r2")})) == {}


def test_every_check_can_fail() -> None:
    assert {check for _, check in BROKEN.values()} == {check.__name__.replace("_", " ") for check in CHECKS}


def test_a_seed_is_a_plan() -> None:
    one, same, other = (
        plan(seed, 60.0, kinds("sqlite", has_redis=True), processes=2, upstreams=3) for seed in (1, 1, 2)
    )
    assert one == same
    assert one != other


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_in_time_everything_breaks(database: str) -> None:
    possible = kinds(database, has_redis=True)
    blows = plan(5, 120.0, possible, processes=3, upstreams=3)
    assert {blow.kind for blow in blows} == set(possible)
    assert {(blow.fault, blow.commit) for blow in blows if blow.fault} == set(FAULTS)
    assert {blow.target for blow in blows} == {0, 1, 2}
