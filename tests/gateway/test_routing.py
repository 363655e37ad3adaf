"""The order of the short-list, the reasons in it, and the promise of the listed price."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.health import CircuitState, Phase
from gateway.model import Offer
from gateway.money import Money, to_micros
from gateway.routing import (
    Candidate,
    Facts,
    Listed,
    Route,
    Routes,
    Shortlist,
    Stall,
    Terms,
    choose,
    list_price,
)
from gateway.settings import RoutingRule, RoutingSettings

BY_VALUE = Route("value")
BY_PRIORITY = Route("priority")
ANYBODY = Terms("USD")


def usd(text: str) -> Money:
    return Money(to_micros(text), "USD")


def candidate(
    upstream: str, price: str | None, *, value: str | None = None, count: int = 5, operator: str = ""
) -> Candidate:
    """An offer at cost; its value is its price unless told otherwise."""
    cost = usd(price or "0.10")
    offer = Offer(upstream, "tg", 1, cost, count, operator)
    return Candidate(offer, None if price is None else cost, float(usd(value).micros if value else cost.micros))


def stall(name: str, *prices: str, **facts: Any) -> Stall:
    return Stall(Facts(name, **facts), [candidate(name, price) for price in prices])


def tripped(seconds: float = 12.0, phase: Phase = Phase.OPEN) -> dict[str, Any]:
    return {"circuit": CircuitState(phase, 5, 0.0, "time-out", 0.0), "circuit_seconds_left": seconds}


def capped(price: str, **changes: Any) -> Terms:
    return Terms("USD", price_max=usd(price), **changes)


def order_of(shortlist: Shortlist) -> list[str]:
    return [ranked.quote.offer.upstream for ranked in shortlist.ranked]


def places(shortlist: Shortlist) -> list[tuple[str, str, str]]:
    quotes = [ranked.quote for ranked in shortlist.ranked]
    return [(quote.offer.upstream, quote.offer.operator, str(quote.price)) for quote in quotes]


def reasons(shortlist: Shortlist) -> dict[str, str]:
    return {excluded.upstream: excluded.reason for excluded in shortlist.excluded}


def test_better_value_comes_first_within_a_tier() -> None:
    stalls = [stall("dear", "0.30"), stall("cheap", "0.10")]
    assert order_of(choose(stalls, capped("1"), BY_VALUE)) == ["cheap", "dear"]


def test_a_dearer_number_that_delivers_beats_a_cheaper_one_that_does_not() -> None:
    stalls = [
        Stall(Facts("cheap"), [candidate("cheap", "0.10", value="0.50")]),
        Stall(Facts("sure"), [candidate("sure", "0.20", value="0.25")]),
    ]
    assert order_of(choose(stalls, capped("1"), BY_VALUE)) == ["sure", "cheap"]


def test_a_lower_tier_comes_first_whatever_it_costs() -> None:
    stalls = [stall("manual", "0.01", tier=9), stall("real", "0.90", tier=1)]
    for route in (BY_VALUE, BY_PRIORITY):
        assert order_of(choose(stalls, capped("1"), route)) == ["real", "manual"]


def test_values_equal_to_the_price_step_are_told_apart_by_priority_then_name() -> None:
    stalls = [
        Stall(Facts("c", priority=1), [candidate("c", "0.10", value="0.100049")]),
        Stall(Facts("b", priority=2), [candidate("b", "0.10", value="0.100000")]),
        Stall(Facts("a", priority=2), [candidate("a", "0.10", value="0.100010")]),
        Stall(Facts("z", priority=0), [candidate("z", "0.10", value="0.100300")]),
    ]
    assert order_of(choose(stalls, ANYBODY, BY_VALUE)) == ["c", "a", "b", "z"]


def test_policy_priority_ignores_value() -> None:
    stalls = [stall("cheap", "0.10", priority=2), stall("first", "0.90", priority=1)]
    assert order_of(choose(stalls, capped("1"), BY_PRIORITY)) == ["first", "cheap"]


def test_a_rule_s_own_order_replaces_priorities() -> None:
    stalls = [stall("a", "0.10", priority=1), stall("b", "0.10", priority=2), stall("c", "0.10")]
    shortlist = choose(stalls, ANYBODY, Route("priority", {"b": 1, "a": 2}))
    assert order_of(shortlist) == ["b", "a"]
    assert reasons(shortlist) == {"c": "not named by the routing rule"}
    assert shortlist.ranked[0].reason == "tier 1, priority 1"


def test_each_place_says_why() -> None:
    shortlist = choose([stall("a", "0.10", priority=7)], ANYBODY, BY_VALUE)
    assert shortlist.ranked[0].reason == "tier 1, 0.1000 expected per delivered code, priority 7"


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"serves_demo": True}, "serves demo accounts only"),
        ({"is_enabled": False}, "switched off"),
        ({"is_drained": True}, "drained: it takes no new orders"),
        ({"is_overexposed": True}, "purchases in doubt there may have cost too much"),
        ({"is_in_doubt": True}, "a purchase in doubt is being settled"),
        ({"list_age_seconds": 1200.0}, "price list is 20 min old"),
        ({"list_age_seconds": 95.4, "list_age_max_seconds": 60.0}, "price list is 95 s old"),
        ({"list_age_seconds": 1200.0, "list_error": "time-out"}, "price list is 20 min old (time-out)"),
        ({"list_age_seconds": None, "list_error": "bad key"}, "no price list yet (bad key)"),
        (tripped(), "circuit open for 12 s more after 5 faults (time-out)"),
        (tripped(phase=Phase.HALF_OPEN), "circuit half open: another order is trying it out"),
    ],
)
def test_an_upstream_that_may_not_serve_is_left_out_with_a_reason(facts: dict[str, Any], reason: str) -> None:
    shortlist = choose([stall("bad", "0.01", **facts), stall("good", "0.20")], ANYBODY, BY_VALUE)
    assert order_of(shortlist) == ["good"]
    assert reasons(shortlist) == {"bad": reason}


def test_demo_callers_are_served_by_demo_upstreams_only() -> None:
    shortlist = choose(
        [stall("sandbox", "0.10", serves_demo=True), stall("real", "0.10")], Terms("USD", True), BY_VALUE
    )
    assert order_of(shortlist) == ["sandbox"]
    assert reasons(shortlist) == {"real": "serves no demo accounts"}


def test_an_upstream_the_rule_excludes_is_left_out() -> None:
    shortlist = choose([stall("a", "0.10")], ANYBODY, Route("value", {}, frozenset({"a"})))
    assert reasons(shortlist) == {"a": "excluded by the routing rule"}


def test_an_upstream_with_nothing_to_offer_says_so() -> None:
    shortlist = choose([stall("a")], ANYBODY, BY_VALUE)
    assert reasons(shortlist) == {"a": "does not sell this service in this country"}
    assert shortlist.excluded[0].offer is None


def test_offers_without_stock_or_rate_are_left_out() -> None:
    stalls = [
        Stall(Facts("a"), [candidate("a", "0.10", count=0)]),
        Stall(Facts("b"), [candidate("b", None)]),
    ]
    shortlist = choose(stalls, ANYBODY, BY_VALUE)
    assert reasons(shortlist) == {"a": "sold out", "b": "no exchange rate from USD to USD"}
    assert (shortlist.ranked, shortlist.listed, shortlist.minimum, shortlist.ceiling) == ((), None, None, None)
    assert not shortlist.in_stock


def test_the_last_one_standing_stays_but_fails_fast() -> None:
    shortlist = choose([stall("a", "0.10", **tripped())], ANYBODY, BY_VALUE)
    assert [ranked.fail_fast for ranked in shortlist.ranked] == [True]
    assert shortlist.excluded == ()


def test_where_all_circuits_are_open_the_one_that_closes_soonest_stays() -> None:
    stalls = [
        stall("a", "0.10", **tripped(100)),
        stall("b", "0.30", **tripped(20)),
        stall("c", "0.10", is_drained=True),
    ]
    shortlist = choose(stalls, ANYBODY, BY_VALUE)
    assert order_of(shortlist) == ["b"]
    assert reasons(shortlist)["a"] == "circuit open for 100 s more after 5 faults (time-out)"


def test_an_upstream_that_stands_without_stock_does_not_count_as_standing() -> None:
    stalls = [stall("a", "0.10", **tripped()), Stall(Facts("b"), [candidate("b", "0.10", count=0)])]
    assert order_of(choose(stalls, ANYBODY, BY_VALUE)) == ["a"]


def test_without_a_cap_the_first_place_sets_the_ceiling() -> None:
    stalls = [
        Stall(Facts("best"), [candidate("best", "0.20", value="0.21", count=3)]),
        Stall(Facts("cheap"), [candidate("cheap", "0.10", value="0.40", count=4)]),
        Stall(Facts("dear"), [candidate("dear", "0.30", value="0.31", count=5)]),
    ]
    shortlist = choose(stalls, ANYBODY, BY_VALUE)
    assert shortlist.listed == Listed(usd("0.20"), 7)
    assert shortlist.ceiling == usd("0.20")
    assert shortlist.minimum == usd("0.10")
    assert order_of(shortlist) == ["best", "cheap"]
    assert reasons(shortlist) == {"dear": "price 0.30 is above the ceiling 0.20"}


def test_a_cap_is_the_ceiling_and_leaves_the_listed_price_alone() -> None:
    shortlist = choose([stall("a", "0.10"), stall("b", "0.25")], capped("0.25"), BY_VALUE)
    assert shortlist.ceiling == usd("0.25")
    assert shortlist.listed == Listed(usd("0.10"), 5)
    assert order_of(shortlist) == ["a", "b"]


def test_a_cap_below_everything_tells_the_lowest_price() -> None:
    shortlist = choose([stall("a", "0.30"), stall("b", "0.25")], capped("0.20"), BY_VALUE)
    assert shortlist.ranked == ()
    assert shortlist.in_stock
    assert shortlist.minimum == usd("0.25")


def test_one_upstream_is_tried_once_per_operator() -> None:
    offers = [candidate("a", "0.10"), candidate("a", "0.20"), candidate("a", "0.15", operator="mts")]
    shortlist = choose([Stall(Facts("a"), offers)], capped("1"), BY_VALUE)
    assert places(shortlist) == [("a", "", "0.10 USD"), ("a", "mts", "0.15 USD")]
    assert reasons(shortlist) == {"a": "a better place asks a already"}


def test_the_listed_count_includes_every_level_at_that_price() -> None:
    offers = [candidate("a", "0.10", count=2), candidate("a", "0.10", count=3, operator="mts")]
    shortlist = choose([Stall(Facts("a"), offers), stall("b", "0.10")], ANYBODY, BY_VALUE)
    assert shortlist.listed == Listed(usd("0.10"), 10)


def test_a_named_operator_comes_first_even_from_a_later_tier() -> None:
    stalls = [
        stall("plain", "0.10"),
        Stall(Facts("word", tier=2), [candidate("word", "0.20", operator="MTS"), candidate("word", "0.15")]),
    ]
    shortlist = choose(stalls, capped("1", operators=frozenset({"mts"})), BY_VALUE)
    assert places(shortlist)[0] == ("word", "MTS", "0.20 USD")
    assert order_of(shortlist) == ["word", "plain", "word"]
    assert shortlist.ranked[0].reason.startswith("operator MTS as asked, tier 2")


def test_an_operator_nobody_has_changes_nothing() -> None:
    stalls = [stall("b", "0.10"), stall("a", "0.20")]
    asked = choose(stalls, capped("1", operators=frozenset({"nobody"})), BY_VALUE)
    assert asked == choose(stalls, capped("1"), BY_VALUE)


def test_naming_an_operator_does_not_raise_the_listed_price() -> None:
    offers = [candidate("a", "0.10"), candidate("a", "0.50", operator="mts")]
    shortlist = choose([Stall(Facts("a"), offers)], Terms("USD", operators=frozenset({"mts"})), BY_VALUE)
    assert shortlist.ceiling == usd("0.10")
    assert places(shortlist) == [("a", "", "0.10 USD")]


def test_the_first_matching_rule_decides_the_route() -> None:
    rules = (
        RoutingRule(services=frozenset({"tg"}), accounts=frozenset({"vip"}), policy="priority", upstreams=("b", "a")),
        RoutingRule(services=frozenset({"tg"}), exclude=frozenset({"c"})),
    )
    routes = Routes(RoutingSettings(policy="value", rule=rules))
    assert routes.route("tg", 1, "vip") == Route("priority", {"b": 1, "a": 2})
    assert routes.route("tg", 1, "acme") == Route("value", {}, frozenset({"c"}))
    assert routes.route("wa", 1, "vip") == Route("value")


# For any market

candidates_of = st.builds(
    lambda price, value, count, operator: (price, value, count, operator),
    st.none() | st.integers(0, 12).map(lambda steps: steps * 100),
    st.floats(0, 2000),
    st.integers(0, 3),
    st.sampled_from(["", "mts", "Beeline"]),
)
facts_of = st.fixed_dictionaries(
    {
        "tier": st.integers(1, 2),
        "priority": st.integers(1, 3),
        "serves_demo": st.sampled_from([False, False, False, True]),
        "is_enabled": st.sampled_from([True, True, True, False]),
        "is_drained": st.sampled_from([False, False, False, True]),
        "is_in_doubt": st.sampled_from([False, False, False, True]),
        "list_age_seconds": st.sampled_from([0.0, 10.0, 10.0, 5000.0, None]),
        "circuit": st.sampled_from([None, None, CircuitState(Phase.OPEN, 5, 0.0, "x", 0.0)]),
        "circuit_seconds_left": st.sampled_from([1.0, 2.0]),
    }
)


@st.composite
def markets(draw: st.DrawFn) -> list[Stall]:
    return [_stall(name, draw(facts_of), draw(st.lists(candidates_of, max_size=4))) for name in "abcd"]


def _stall(name: str, facts: dict[str, Any], rows: list[tuple[int | None, float, int, str]]) -> Stall:
    candidates = [
        Candidate(
            Offer(name, "tg", 1, Money(number, "USD"), count, operator),
            None if price is None else Money(price, "USD"),
            value,
        )
        for number, (price, value, count, operator) in enumerate(rows)
    ]
    return Stall(Facts(name, **facts), candidates)


terms_of = st.builds(
    Terms,
    currency=st.just("USD"),
    is_demo=st.sampled_from([False, False, True]),
    operators=st.sampled_from([frozenset[str](), frozenset({"mts"}), frozenset({"mts", "beeline"})]),
    price_max=st.none() | st.integers(0, 1500).map(lambda micros: Money(micros, "USD")),
)
routes_of = st.builds(
    Route,
    st.sampled_from(["value", "priority"]),
    st.sampled_from([{}, {}, {"b": 1, "a": 2}]),
    st.sampled_from([frozenset[str](), frozenset({"c"})]),
)


@given(markets(), terms_of, routes_of)
@settings(deadline=None, database=None)
def test_every_candidate_is_ranked_or_excluded_exactly_once(stalls: list[Stall], terms: Terms, route: Route) -> None:
    shortlist = choose(stalls, terms, route)
    seen = [ranked.quote.offer for ranked in shortlist.ranked]
    seen += [excluded.offer for excluded in shortlist.excluded if excluded.offer is not None]
    assert Counter(seen) == Counter(one.offer for stall in stalls for one in stall.candidates)
    empty = {excluded.upstream for excluded in shortlist.excluded if excluded.offer is None}
    assert empty == {stall.facts.name for stall in stalls if not stall.candidates}
    assert all(ranked.reason for ranked in shortlist.ranked)
    assert all(excluded.reason for excluded in shortlist.excluded)


@given(markets(), terms_of, routes_of)
@settings(deadline=None, database=None)
def test_nothing_ranked_is_above_the_ceiling_nor_repeated(stalls: list[Stall], terms: Terms, route: Route) -> None:
    shortlist = choose(stalls, terms, route)
    quotes = [ranked.quote for ranked in shortlist.ranked]
    assert all(shortlist.ceiling and quote.price.micros <= shortlist.ceiling.micros for quote in quotes)
    words = [(quote.offer.upstream, quote.offer.operator) for quote in quotes]
    assert len(words) == len(set(words))
    if terms.price_max is not None:
        assert shortlist.ceiling == terms.price_max
        assert bool(quotes) == (shortlist.minimum is not None and shortlist.minimum.micros <= terms.price_max.micros)


@given(markets(), terms_of, routes_of, st.randoms(use_true_random=False))
@settings(deadline=None, database=None)
def test_the_order_given_does_not_matter(stalls: list[Stall], terms: Terms, route: Route, random: Any) -> None:
    shuffled = [Stall(facts, random.sample(candidates, len(candidates))) for facts, candidates in stalls]
    random.shuffle(shuffled)
    first, second = choose(stalls, terms, route), choose(shuffled, terms, route)
    assert first.ranked == second.ranked
    assert (first.listed, first.minimum, first.ceiling) == (second.listed, second.minimum, second.ceiling)
    assert set(map(repr, first.excluded)) == set(map(repr, second.excluded))


@given(markets(), terms_of, routes_of)
@settings(deadline=None, database=None)
def test_the_listed_price_is_a_promise(stalls: list[Stall], terms: Terms, route: Route) -> None:
    plain = Terms(terms.currency, terms.is_demo)
    listed = list_price(stalls, plain, route)
    for shortlist in (
        choose(stalls, plain, route),
        choose(stalls, Terms(terms.currency, terms.is_demo, terms.operators), route),
    ):
        assert shortlist.listed == listed
        assert shortlist.in_stock == (listed is not None) == bool(shortlist.ranked)
        assert all(listed and ranked.quote.price.micros <= listed.price.micros for ranked in shortlist.ranked)
    assert listed is None or listed.count > 0


@given(markets(), terms_of, routes_of)
@settings(deadline=None, database=None)
def test_an_open_circuit_is_ranked_only_alone_and_to_fail_fast(stalls: list[Stall], terms: Terms, route: Route) -> None:
    shortlist = choose(stalls, terms, route)
    circuits = {stall.facts.name: stall.facts.circuit for stall in stalls}
    for ranked in shortlist.ranked:
        assert ranked.fail_fast == (circuits[ranked.quote.offer.upstream] is not None)
    if any(ranked.fail_fast for ranked in shortlist.ranked):
        assert len({ranked.quote.offer.upstream for ranked in shortlist.ranked}) == 1
