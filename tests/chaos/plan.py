"""What breaks, when, and for how long: a pure function of the seed and of what there is to break."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

T = TypeVar("T")

Kind = Literal[
    "kill", "stop", "freeze", "skew", "reset_clients", "restart_postgres", "reset_postgres", "freeze_postgres",
    "swallow_postgres", "flush_redis", "kill_redis", "freeze_redis", "fill_disk", "lock_sqlite", "upstream", "receiver",
]  # fmt: skip

SKEW_SECONDS = 4.0
"""Below what a lost purchase's date may differ from an upstream's (`attempts.CLOCK_SKEW_SECONDS`)."""

STEP_SECONDS = (0.25, 0.9)
"""Least and most time between two blows."""

PATIENT_SHARE = 0.8

ON_PROCESSES: tuple[Kind, ...] = ("kill", "stop", "freeze", "skew", "reset_clients", "receiver")
ON_POSTGRES: tuple[Kind, ...] = ("restart_postgres", "reset_postgres", "freeze_postgres", "swallow_postgres")
ON_SQLITE: tuple[Kind, ...] = ("fill_disk", "lock_sqlite")
ON_REDIS: tuple[Kind, ...] = ("flush_redis", "kill_redis", "freeze_redis")

LASTS: dict[Kind, tuple[float, float]] = {
    "kill": (0.0, 0.8),
    "stop": (0.0, 0.8),
    "freeze": (0.3, 8.0),
    "restart_postgres": (0.0, 1.2),
    "freeze_postgres": (0.3, 8.0),
    "swallow_postgres": (1.0, 8.0),
    "kill_redis": (0.5, 3.0),
    "freeze_redis": (0.5, 6.0),
    "fill_disk": (0.5, 2.5),
    "lock_sqlite": (0.5, 3.0),
    "upstream": (1.0, 4.0),
    "receiver": (0.5, 3.0),
}
"""Least and most seconds of what lasts; the others happen, and stay.

Freezes are longer at times than the leases that processes hold on their work (`gateway.leases`), and than anybody waits
for an answer of the database. A silent cut ends when PostgreSQL gives up the sessions it hears nothing of.
"""

FAULTS: tuple[tuple[str, bool | None], ...] = (
    ("buy.drop", True), ("buy.drop", False), ("buy.hang", True), ("buy.hang", False), ("buy.error", True),
    ("buy.html", True), ("buy.truncated", None), ("buy.wrong_types", True), ("buy.bad_gateway", True),
    ("buy.lie", None), ("buy.rate_limit", None), ("sold_out", None), ("overpriced", None),
    ("list.drop", None), ("list.hang", None), ("list.html", None), ("list.wrong_types", None),
    ("status.drop", None), ("status.error", None), ("status.hang", None), ("status.truncated", None),
    ("close.drop", True), ("close.drop", False), ("close.hang", True), ("close.error", True), ("close.html", False),
    ("prices.error", None), ("prices.wrong_types", None), ("any.bad_gateway", False),
    ("sms_on_cancel", None), ("repeat_sms", None), ("no_sms", None),
    ("denied", None), ("called_finished", None), ("called_cancelled", None),
    ("any.cesu8", None), ("any.nul", None), ("any.not_utf8", None),
)  # fmt: skip
"""What upstreams do, and whether the work is done all the same (None: as the fault is)."""


FAULT_LASTS = {
    "denied": (5.0, 9.0),
    "any.cesu8": (2.0, 6.0), "any.nul": (2.0, 6.0), "any.not_utf8": (2.0, 6.0),
}  # fmt: skip
"""As `LASTS`, of faults that need more: what is denied is believed only when it is denied again and again, and odd
bytes have to meet a message."""


@dataclass(frozen=True, slots=True)
class Blow:
    """One thing that breaks, so many seconds after the storm began."""

    at: float
    kind: Kind
    seconds: float = 0.0
    target: int = 0
    """Which process or upstream."""

    fault: str = ""
    commit: bool | None = None
    amount: float = 0.0
    is_patient: bool = False
    """Waits until what it strikes serves: else a slow machine would see nothing but starts."""

    def __str__(self) -> str:
        words = [f"{self.at:7.2f}s {self.kind} {self.target}", self.fault]
        if self.commit is not None:
            words.append("done" if self.commit else "undone")
        if self.amount:
            words.append(f"{self.amount:+.1f}s")
        if self.is_patient:
            words.append("once it serves")
        if self.seconds:
            words.append(f"for {self.seconds:.2f}s")
        return " ".join(word for word in words if word)


def plan(seed: int, seconds: float, kinds: Sequence[Kind], *, processes: int, upstreams: int) -> tuple[Blow, ...]:
    """The storm: every kind of blow and every fault comes once before any comes again, in an order of the seed's."""
    chance = random.Random(f"plan:{seed}")
    dealt, faults = _dealt(chance, kinds), _dealt(chance, FAULTS)
    blows: list[Blow] = []
    at = chance.uniform(*STEP_SECONDS)
    while at < seconds:
        blows.append(_blow(chance, at, next(dealt), faults, processes, upstreams))
        at += chance.uniform(*STEP_SECONDS)
    return tuple(blows)


def kinds(database: str, *, has_redis: bool) -> tuple[Kind, ...]:
    """What there is to break. Upstreams break twice as often as all the rest."""
    found = ON_PROCESSES + (ON_SQLITE if database == "sqlite" else ON_POSTGRES) + (ON_REDIS if has_redis else ())
    upstream: tuple[Kind, ...] = ("upstream",)
    return found + upstream * 2 * len(found)


def _blow(
    chance: random.Random,
    at: float,
    kind: Kind,
    faults: Iterator[tuple[str, bool | None]],
    processes: int,
    upstreams: int,
) -> Blow:
    if kind == "upstream":
        fault, commit = next(faults)
        seconds = chance.uniform(*FAULT_LASTS.get(fault, LASTS[kind]))
        return Blow(at, kind, seconds, chance.randrange(upstreams), fault, commit)
    seconds = chance.uniform(*LASTS[kind]) if kind in LASTS else 0.0
    amount = chance.uniform(-SKEW_SECONDS, SKEW_SECONDS) if kind == "skew" else 0.0
    is_patient = chance.random() < PATIENT_SHARE
    return Blow(at, kind, seconds, chance.randrange(processes), amount=amount, is_patient=is_patient)


def _dealt(chance: random.Random, cards: Sequence[T]) -> Iterator[T]:
    while True:
        yield from chance.sample(cards, len(cards))
