"""Circuits, delivery rates and blocks, on a clock that the tests own."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.health import CHANCE_MIN, COOLDOWN_LIMIT_SECONDS, EVIDENCE_KEPT, Health, Phase
from gateway.settings import HealthSettings

HOUR = 3600.0


class Watch:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def health(watch: Watch) -> Health:
    return Health(watch, HealthSettings(faults_to_open=3, cooldown_seconds=30))


def trip(health: Health, upstream: str = "x") -> None:
    for _ in range(3):
        health.fault(upstream, "time-out")


def test_stays_closed_below_the_number_of_faults(health: Health) -> None:
    health.fault("x", "time-out")
    health.fault("x", "time-out")
    assert not health.is_open("x")
    assert health.state("x").faults == 2


def test_opens_after_faults_in_a_row_and_says_why(health: Health, watch: Watch) -> None:
    trip(health)
    state = health.state("x")
    assert health.is_open("x")
    assert (state.phase, state.faults, state.reason) == (Phase.OPEN, 3, "time-out")
    assert state.open_until == watch.now + 30
    assert state.fault_at == watch.now


def test_what_a_circuit_does_is_told_once_and_done_by_the_others(health: Health, watch: Watch) -> None:
    other = Health(watch, HealthSettings(faults_to_open=3, cooldown_seconds=30))
    told: list[tuple[str, str]] = []

    def tell(upstream: str, reason: str) -> None:
        told.append((upstream, reason))
        other.turn(upstream, reason)

    health.on_turn = tell
    other.on_turn = lambda upstream, reason: pytest.fail("an echo")
    trip(health)
    health.fault("x", "time-out")
    assert told == [("x", "time-out")]
    assert other.is_open("x")
    assert other.state("x").reason == "time-out"
    watch.now += 30
    assert health.try_trial("x")
    health.success("x")
    assert told[1:] == [("x", "")]
    assert not other.is_open("x")
    assert other.state("x").phase is Phase.CLOSED


def test_success_between_faults_starts_the_count_afresh(health: Health) -> None:
    health.fault("x", "time-out")
    health.fault("x", "time-out")
    health.success("x")
    health.fault("x", "time-out")
    assert not health.is_open("x")


def test_success_of_an_upstream_never_in_trouble_changes_nothing(health: Health) -> None:
    health.success("x")
    assert health.changes == 0
    assert health.state("x").phase is Phase.CLOSED


def test_circuits_of_other_upstreams_are_untouched(health: Health) -> None:
    trip(health)
    assert not health.is_open("y")
    assert health.state("y").phase is Phase.CLOSED
    assert health.try_trial("y")


def test_no_trial_while_cooling_down(health: Health, watch: Watch) -> None:
    trip(health)
    watch.now += 29.9
    assert not health.try_trial("x")


def test_one_trial_after_the_cooldown_while_others_keep_away(health: Health, watch: Watch) -> None:
    trip(health)
    watch.now += 30
    assert not health.is_open("x")
    assert health.state("x").phase is Phase.HALF_OPEN
    assert health.try_trial("x")
    assert health.is_open("x")
    assert health.state("x").phase is Phase.HALF_OPEN
    assert not health.try_trial("x")


def test_asking_whether_it_is_open_takes_no_trial(health: Health, watch: Watch) -> None:
    trip(health)
    watch.now += 30
    assert [health.is_open("x") for _ in range(3)] == [False] * 3
    assert health.try_trial("x")


def test_a_good_trial_closes(health: Health, watch: Watch) -> None:
    trip(health)
    watch.now += 30
    health.try_trial("x")
    health.success("x")
    assert health.state("x").phase is Phase.CLOSED
    assert health.try_trial("x")
    assert health.try_trial("x")


def test_failed_trials_double_the_cooldown_up_to_a_limit(health: Health, watch: Watch) -> None:
    trip(health)
    pauses = []
    for _ in range(8):
        opened = health.state("x").open_until
        assert opened is not None
        pauses.append(opened - watch.now)
        watch.now = opened
        assert health.try_trial("x")
        health.fault("x", "time-out")
    assert pauses == [30, 60, 120, 240, 480, COOLDOWN_LIMIT_SECONDS, COOLDOWN_LIMIT_SECONDS, COOLDOWN_LIMIT_SECONDS]


def test_success_after_failed_trials_forgets_the_doubling(health: Health, watch: Watch) -> None:
    trip(health)
    watch.now += 30
    health.fault("x", "time-out")
    health.success("x")
    trip(health)
    assert health.state("x").open_until == watch.now + 30


def test_late_faults_while_open_do_not_prolong_it(health: Health, watch: Watch) -> None:
    trip(health)
    opened = health.state("x").open_until
    watch.now += 5
    health.fault("x", "still in flight")
    assert health.state("x").open_until == opened
    assert health.state("x").reason == "still in flight"


def test_a_trial_nobody_reports_on_is_given_up(health: Health, watch: Watch) -> None:
    trip(health)
    watch.now += 30
    assert health.try_trial("x")
    watch.now += 30
    assert not health.is_open("x")
    assert health.try_trial("x")


def test_a_cooldown_above_the_limit_is_kept(watch: Watch) -> None:
    health = Health(watch, HealthSettings(faults_to_open=1, cooldown_seconds=3000))
    health.fault("x", "no funds")
    assert health.state("x").open_until == watch.now + 3000


def test_changes_move_with_circuits_and_blocks_only(health: Health) -> None:
    def moves() -> bool:
        before, known[0] = known[0], health.changes
        return health.changes != before

    known = [health.changes]
    health.fault("x", "time-out")
    health.delivered("x", 1, "tg")
    health.success("x")
    assert not moves()
    trip(health)
    assert moves()
    health.success("x")
    assert moves()
    health.block("x", "tg", 1)
    assert moves()
    health.unblock("x", "tg", 1)
    assert moves()
    health.unblock("x", "tg", 1)
    assert not moves()


def test_without_evidence_the_chance_is_the_prior(health: Health) -> None:
    assert health.chance("x", 1, "tg", None) == pytest.approx(0.7)


def test_a_claim_moves_the_prior_but_is_not_believed(health: Health) -> None:
    assert 0.7 < health.chance("x", 1, "tg", 1.0) < 0.8
    assert 0.5 < health.chance("x", 1, "tg", 0.0) < 0.7


def test_evidence_moves_the_chance_of_that_kind_only(health: Health) -> None:
    for _ in range(5):
        health.undelivered("x", 1, "tg")
    assert health.chance("x", 1, "tg") == pytest.approx(0.35)
    assert health.chance("x", 2, "tg") == health.chance("x", 1, "wa") == health.chance("y", 1, "tg")


def test_much_evidence_outweighs_prior_and_claim(health: Health) -> None:
    for _ in range(1000):
        health.delivered("x", 1, "tg")
    assert health.chance("x", 1, "tg", 0.0) > 0.99


def test_evidence_counts_half_after_the_half_life(health: Health, watch: Watch) -> None:
    for _ in range(10):
        health.undelivered("x", 1, "tg")
    watch.now += 24 * HOUR
    assert health.chance("x", 1, "tg") == pytest.approx(0.7 * 5 / (5 + 5))
    watch.now += 365 * 24 * HOUR
    assert health.chance("x", 1, "tg") == pytest.approx(0.7)


def test_old_and_new_evidence_are_weighed_by_age(health: Health, watch: Watch) -> None:
    for _ in range(4):
        health.undelivered("x", 1, "tg")
    watch.now += 24 * HOUR
    health.delivered("x", 1, "tg")
    assert health.chance("x", 1, "tg") == pytest.approx((0.7 * 5 + 1) / (5 + 2 + 1))


def test_a_clock_set_back_does_not_inflate_evidence(health: Health, watch: Watch) -> None:
    health.undelivered("x", 1, "tg")
    before = health.chance("x", 1, "tg")
    watch.now -= 48 * HOUR
    assert health.chance("x", 1, "tg") == before


@given(
    ends=st.lists(st.booleans(), max_size=50),
    claim=st.none() | st.floats(0, 1),
    prior=st.floats(0, 1),
)
@settings(deadline=None, database=None)
def test_a_chance_can_always_be_divided_by(ends: list[bool], claim: float | None, prior: float) -> None:
    health = Health(Watch(), HealthSettings(delivery_prior=prior))
    for is_delivered in ends:
        (health.delivered if is_delivered else health.undelivered)("x", 1, "tg")
    assert CHANCE_MIN <= health.chance("x", 1, "tg", claim) <= 1


def test_evidence_is_bounded_and_drops_the_least_recent(health: Health) -> None:
    health.undelivered("x", 0, "tg")
    for country in range(1, EVIDENCE_KEPT + 1):
        health.undelivered("x", country, "tg")
    assert health.chance("x", 0, "tg") == pytest.approx(0.7)
    assert health.chance("x", EVIDENCE_KEPT, "tg") < 0.7


def test_blocks_are_counted_per_upstream_service_and_country(health: Health) -> None:
    health.block("x", "tg", 1)
    health.block("x", "tg", 1)
    health.unblock("x", "tg", 1)
    assert health.is_blocked("x", "tg", 1)
    assert not health.is_blocked("x", "tg", 2)
    assert not health.is_blocked("y", "tg", 1)
    health.unblock("x", "tg", 1)
    assert not health.is_blocked("x", "tg", 1)


def test_unblocking_too_often_does_not_hide_a_later_block(health: Health) -> None:
    health.unblock("x", "tg", 1)
    health.block("x", "tg", 1)
    assert health.is_blocked("x", "tg", 1)


def test_blocks_known_elsewhere_replace_those_known_here(health: Health) -> None:
    health.block("x", "tg", 1)
    before = health.changes
    health.set_blocks([("y", "tg", 1, False), ("y", "tg", 1, False)])
    assert not health.is_blocked("x", "tg", 1)
    health.unblock("y", "tg", 1)
    assert health.is_blocked("y", "tg", 1)
    assert health.changes > before


def test_setting_the_same_blocks_again_changes_nothing(health: Health) -> None:
    health.set_blocks([("y", "tg", 1, False)])
    before = health.changes
    health.set_blocks([("y", "tg", 1, False)])
    assert health.changes == before


def test_rentals_are_blocked_apart_from_numbers_for_codes() -> None:
    health = Health(Watch(), HealthSettings())
    health.block("x", "full", 1, is_rental=True)
    assert health.is_blocked("x", "full", 1, is_rental=True)
    assert not health.is_blocked("x", "full", 1)
    health.unblock("x", "full", 1)
    assert health.is_blocked("x", "full", 1, is_rental=True)
    health.set_blocks([("x", "full", 1, False)])
    assert health.is_blocked("x", "full", 1)
    assert not health.is_blocked("x", "full", 1, is_rental=True)
