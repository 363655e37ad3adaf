"""How well each upstream does: a circuit per upstream, and how often a code arrives per upstream × country × service.

In memory and per process: a restart forgets, and nothing here moves money. Times are epoch seconds of the clock given.

    closed ──N faults in a row──> open ──cool-down over──> half-open ──success──> closed
                                    ^─────────fault, cool-down doubled────┘
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

from cachetools import LRUCache

from gateway.model import Clock
from gateway.settings import HealthSettings

COOLDOWN_LIMIT_SECONDS = 600.0
"""Doubling stops here, so that an upstream that came back is noticed within ten minutes."""

CLAIM_TRUST = 0.25
"""How far an upstream's own delivery rate moves the prior towards itself: a claim is advertising, not evidence."""

CHANCE_MIN = 0.01
"""No chance is ever nought: a value is divided by it."""

EVIDENCE_KEPT = 100_000


Place = tuple[str, str, int, bool]
"""Upstream, service, country, and whether it is a rental: one kind in doubt says nothing of the other."""


class Phase(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class CircuitState:
    """A circuit to be shown. `faults` is the run since the last success.

    `open_until` is None unless others have to keep away, which during a trial (half-open) they also have to.
    """

    phase: Phase
    faults: int = 0
    open_until: float | None = None
    reason: str = ""
    fault_at: float | None = None


UNTROUBLED = CircuitState(Phase.CLOSED)


@dataclass(slots=True)
class _Circuit:
    faults: int = 0
    reopened: int = 0
    is_tripped: bool = False
    is_on_trial: bool = False
    open_until: float = 0.0
    reason: str = ""
    fault_at: float = 0.0


@dataclass(slots=True)
class _Evidence:
    """Decayed counts as they stood at `at`."""

    delivered: float
    ended: float
    at: float


class Health:
    """Everything known about the upstreams' behaviour. `settings` may be replaced while running.

    `changes` grows whenever something that decides who may be bought from changes (a circuit, a block); the mere
    passing of time does not move it, and neither does delivery evidence.
    """

    def __init__(self, clock: Clock, settings: HealthSettings) -> None:
        self.settings = settings
        self.changes = 0
        self.on_turn: Callable[[str, str], None] = lambda _upstream, _reason: None
        """Called when a circuit opens, with the reason, and when it closes, without one."""
        self._clock = clock
        self._circuits: dict[str, _Circuit] = {}
        self._answered_at: dict[str, float] = {}
        self._evidence: LRUCache[tuple[str, int, str], _Evidence] = LRUCache(EVIDENCE_KEPT)
        self._blocks: dict[Place, int] = {}

    # Circuits

    def fault(self, upstream: str, reason: str) -> None:
        """A call failed for a reason that lies with the upstream or our account there, not with the order."""
        now = self._clock()
        circuit = self._circuits.setdefault(upstream, _Circuit())
        circuit.faults += 1
        circuit.reason, circuit.fault_at = reason, now
        if circuit.is_tripped and (circuit.is_on_trial or now >= circuit.open_until):
            self._trip(circuit, now, circuit.reopened + 1)
            self.on_turn(upstream, reason)
        elif not circuit.is_tripped and circuit.faults >= self.settings.faults_to_open:
            self._trip(circuit, now, 0)
            self.on_turn(upstream, reason)

    def success(self, upstream: str) -> None:
        """The upstream answered sensibly ("sold out" is sensible): whatever was open closes."""
        self._answered_at[upstream] = self._clock()
        circuit = self._circuits.get(upstream)
        if circuit is None:
            return
        was_tripped = self._close(circuit)
        if was_tripped:
            self.on_turn(upstream, "")

    def turn(self, upstream: str, reason: str) -> None:
        """Another process's circuit has opened, or, without a reason, closed: this one's does the same."""
        circuit = self._circuits.setdefault(upstream, _Circuit())
        if not reason:
            self._answered_at[upstream] = self._clock()
            self._close(circuit)
        elif not self.is_open(upstream):
            now = self._clock()
            circuit.faults, circuit.reason, circuit.fault_at = self.settings.faults_to_open, reason, now
            self._trip(circuit, now, circuit.reopened)

    def _close(self, circuit: _Circuit) -> bool:
        """Whether it was open."""
        was_tripped = circuit.is_tripped
        self.changes += was_tripped
        circuit.faults = circuit.reopened = 0
        circuit.is_tripped = circuit.is_on_trial = False
        return was_tripped

    def is_open(self, upstream: str) -> bool:
        """Whether to keep away: cooling down, or another order is already trying it out. Changes nothing."""
        circuit = self._circuits.get(upstream)
        return circuit is not None and circuit.is_tripped and self._clock() < circuit.open_until

    def try_trial(self, upstream: str) -> bool:
        """Asked right before a call: may it be made? After a cool-down the first to ask may, and the rest wait.

        A trial that reports neither success nor fault is given up after another cool-down.
        """
        circuit = self._circuits.get(upstream)
        if circuit is None or not circuit.is_tripped:
            return True
        now = self._clock()
        if now < circuit.open_until:
            return False
        circuit.is_on_trial = True
        circuit.open_until = now + self.settings.cooldown_seconds
        self.changes += 1
        return True

    def state(self, upstream: str) -> CircuitState:
        """The circuit, for display and for the reasons routing gives."""
        circuit = self._circuits.get(upstream)
        if circuit is None:
            return UNTROUBLED
        return CircuitState(
            phase=self._phase(circuit),
            faults=circuit.faults,
            open_until=circuit.open_until if self.is_open(upstream) else None,
            reason=circuit.reason,
            fault_at=circuit.fault_at,
        )

    def answered_at(self, upstream: str) -> float:
        """When it last answered sensibly, as far as this process knows; minus infinity where it knows of no time."""
        return self._answered_at.get(upstream, -math.inf)

    def _phase(self, circuit: _Circuit) -> Phase:
        if not circuit.is_tripped:
            return Phase.CLOSED
        is_cooling = self._clock() < circuit.open_until and not circuit.is_on_trial
        return Phase.OPEN if is_cooling else Phase.HALF_OPEN

    def _trip(self, circuit: _Circuit, now: float, reopened: int) -> None:
        circuit.is_tripped, circuit.is_on_trial = True, False
        circuit.reopened = reopened
        circuit.open_until = now + _cooldown(self.settings.cooldown_seconds, reopened)
        self.changes += 1

    # Delivery

    def delivered(self, upstream: str, country: int, service: str) -> None:
        """An activation got its first message."""
        self._record((upstream, country, service), 1.0)

    def undelivered(self, upstream: str, country: int, service: str) -> None:
        """An activation ended without a message. Not to be called while one may still arrive."""
        self._record((upstream, country, service), 0.0)

    def chance(self, upstream: str, country: int, service: str, claimed_rate: float | None = None) -> float:
        """How likely a purchase made now brings a code: above 0, at most 1. The claimed rate is the upstream's own."""
        settings = self.settings
        expected = settings.delivery_prior
        if claimed_rate is not None:
            expected += CLAIM_TRUST * (claimed_rate - expected)
        evidence = self._evidence.get((upstream, country, service))
        if evidence is None:
            return _clamp(expected)
        kept = self._kept(evidence)
        weight = settings.delivery_prior_weight
        return _clamp((weight * expected + kept * evidence.delivered) / (weight + kept * evidence.ended))

    def _record(self, key: tuple[str, int, str], delivered: float) -> None:
        evidence = self._evidence.get(key)
        if evidence is None:
            self._evidence[key] = _Evidence(delivered, 1.0, self._clock())
            return
        kept = self._kept(evidence)
        evidence.delivered = evidence.delivered * kept + delivered
        evidence.ended = evidence.ended * kept + 1.0
        evidence.at = self._clock()

    def _kept(self, evidence: _Evidence) -> float:
        """The share of the evidence that age has left."""
        age_seconds = max(0.0, self._clock() - evidence.at)
        return math.pow(0.5, age_seconds / (3600.0 * self.settings.delivery_half_life_hours))

    # Purchases in doubt

    def block(self, upstream: str, service: str, country: int, *, is_rental: bool = False) -> None:
        """A purchase is in doubt: buy no more of this kind there until it is settled. Blocks are counted."""
        key = (upstream, service, country, is_rental)
        self._blocks[key] = self._blocks.get(key, 0) + 1
        self.changes += 1

    def unblock(self, upstream: str, service: str, country: int, *, is_rental: bool = False) -> None:
        """One purchase in doubt is settled; without a block there this does nothing."""
        key = (upstream, service, country, is_rental)
        left = self._blocks.pop(key, 0) - 1
        self.changes += left >= 0
        if left > 0:
            self._blocks[key] = left

    def set_blocks(self, places: Iterable[Place]) -> None:
        """Puts the blocks that stand in place of those known so far: the database knows about all processes'."""
        counted = dict(Counter(places))
        self.changes += counted != self._blocks
        self._blocks = counted

    def is_blocked(self, upstream: str, service: str, country: int, *, is_rental: bool = False) -> bool:
        return (upstream, service, country, is_rental) in self._blocks


def _cooldown(base_seconds: float, reopened: int) -> float:
    """The first cool-down is `base_seconds`, each failed trial doubles it up to the limit."""
    limit = max(base_seconds, COOLDOWN_LIMIT_SECONDS)
    return min(limit, base_seconds * 2.0 ** min(reopened, 32))


def _clamp(chance: float) -> float:
    return min(1.0, max(CHANCE_MIN, chance))
