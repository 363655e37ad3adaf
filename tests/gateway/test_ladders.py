"""What accounts add on the way down: prices never fall, keep their order, and no level pays more than is held of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gateway import ladders
from gateway.ladders import FLAT, Ladder, Markup
from gateway.model import Offer
from gateway.money import MAX_MICROS, PRICE_STEP_MICROS, Money
from gateway.pricing import Pricing
from gateway.settings import FloorSettings, PriceRule, PriceTerms, PricingSettings

CENT = 10_000


@dataclass(frozen=True)
class Customer:
    account_name: str = "leaf"
    currency: str = "USD"
    ladder: Ladder = FLAT


def offer(micros: int = 50_000, service: str = "tg", country: int = 6) -> Offer:
    return Offer("one", service, country, Money(micros, "USD"), 10)


def percent(number: int, add: int = 0, step: int = PRICE_STEP_MICROS, services: frozenset[str] = frozenset()) -> Markup:
    return Markup(services, percent_millionths=number * 10_000, add_micros=add, step_micros=step)


AT_COST = Pricing(PricingSettings(default=PriceTerms(percent=Decimal(0))))


@pytest.mark.parametrize(
    ("markup", "paid", "price"),
    [
        (Markup(), 80_000, 80_000),
        (percent(25), 80_000, 100_000),
        (percent(25), 80_100, 100_200),  # 100,125 before it is rounded up to 0.0001
        (percent(0, add=1), 80_000, 80_100),
        (percent(10, add=5_000), 80_000, 93_000),
        (percent(10, step=5 * CENT), 80_000, 100_000),
        (percent(0, step=5 * CENT), 100_000, 100_000),
        (percent(0, step=5 * CENT), 0, 0),
        (percent(100_000, add=MAX_MICROS // 1000), MAX_MICROS - 100, MAX_MICROS),
        (percent(50), MAX_MICROS + 100, MAX_MICROS + 100),
    ],
)
def test_one_rule(markup: Markup, paid: int, price: int) -> None:
    assert markup.price_micros(paid) == price


def test_the_first_rule_that_matches_counts_at_each_level() -> None:
    rung = (
        percent(100, services=frozenset({"tg"})),
        Markup(countries=frozenset({6}), add_micros=CENT),
        percent(10),
    )
    ladder = Ladder(("top", "mid"), (rung, ()))
    assert ladder.price_micros("tg", 6, 100_000) == 200_000
    assert ladder.price_micros("wa", 6, 100_000) == 110_000
    assert ladder.price_micros("wa", 7, 200_000) == 220_000
    assert ladder.shares("wa", 7, 200_000) == (200_000, 220_000, 220_000)


def test_the_operators_price_is_that_of_the_account_at_the_top() -> None:
    rules = (
        PriceRule(fixed=Decimal("0.99"), accounts=frozenset({"leaf"})),
        PriceRule(fixed=Decimal("0.20"), accounts=frozenset({"top"})),
    )
    pricing = Pricing(PricingSettings(rule=rules))
    below = Customer(ladder=Ladder(("top", "mid"), ((), (percent(50),))))
    assert ladders.pricer(pricing, below)(offer()) == Money(300_000, "USD")
    assert ladders.pricer(pricing, Customer())(offer()) == Money(990_000, "USD")
    quote = ladders.quote(pricing, offer(), below)
    assert quote is not None
    assert (quote.price, quote.shares, quote.top_micros) == (
        Money(300_000, "USD"),
        (200_000, 200_000, 300_000),
        200_000,
    )


def test_where_nobody_adds_anything_there_are_no_shares() -> None:
    quote = ladders.quote(AT_COST, offer(), Customer(ladder=Ladder(("top", "mid"), ((), ()))))
    assert quote is not None
    assert (quote.price, quote.shares, quote.top_micros) == (Money(50_000, "USD"), (), 50_000)


def test_without_an_exchange_rate_there_is_no_price() -> None:
    customer = Customer(currency="NGN", ladder=Ladder(("top",), ((percent(5),),)))
    assert ladders.pricer(AT_COST, customer)(offer()) is None
    assert ladders.quote(AT_COST, offer(), customer) is None


def test_ladders_that_say_the_same_have_the_same_steps() -> None:
    one, other = Ladder(("top",), ((percent(5),),)), Ladder(("upper", "lower"), ((percent(5),), ()))
    assert one.steps == other.steps != FLAT.steps
    assert FLAT.steps == Ladder(("top",), ((),)).steps


# Whatever the rules

steps_micros = st.integers(1, 20_000).map(lambda steps: steps * PRICE_STEP_MICROS)
some_services = st.sampled_from([frozenset[str](), frozenset({"tg"}), frozenset({"wa"})])
some_countries = st.sampled_from([frozenset[int](), frozenset({6}), frozenset({7})])
rules = st.builds(Markup, some_services, some_countries, st.integers(0, 5_000_000), st.integers(0, 10**6), steps_micros)
rungs = st.lists(st.lists(rules, max_size=3).map(tuple), min_size=1, max_size=6).map(tuple)
ladders_of = rungs.map(lambda found: Ladder(tuple(f"level{number}" for number in range(len(found))), found))
pricings = st.builds(
    PricingSettings,
    default=st.builds(PriceTerms, percent=st.decimals(0, 500, places=3), add=st.none() | st.decimals(0, 5, places=6)),
    floor=st.builds(FloorSettings, margin_percent=st.decimals(0, 100, places=3)),
)
costs = st.integers(0, 10**8)


@given(ladders_of, costs, costs)
@settings(deadline=None, database=None)
def test_prices_never_fall_on_the_way_down_and_keep_their_order(ladder: Ladder, one: int, other: int) -> None:
    low, high = sorted((one // 100 * 100, other // 100 * 100))
    found = []
    for top in (low, high):
        shares = ladder.shares("tg", 6, top)
        assert list(shares) == sorted(shares)
        assert (shares[-1] if shares else top) == ladder.price_micros("tg", 6, top)
        assert all(price % PRICE_STEP_MICROS == 0 for price in shares)
        found.append(shares)
    assert all(below <= above for below, above in zip(*found, strict=True))


@given(pricings, ladders_of, costs, costs)
@settings(deadline=None, database=None)
def test_a_cost_within_the_ceiling_is_within_what_is_held_at_every_level_and_no_larger_one_is(
    setting: PricingSettings, ladder: Ladder, held_cost: int, cost: int
) -> None:
    pricing, customer = Pricing(setting), Customer(ladder=ladder)
    held = ladders.quote(pricing, offer(held_cost), customer)
    assert held is not None
    limit = ladders.cost_ceiling(pricing, offer(cost), held.price, held.shares, customer)
    assert limit.micros >= held_cost or limit.micros == cost
    assume(limit.micros >= held_cost)
    fits, beyond = (_levels(pricing, limit.micros + more, customer) for more in (0, 1))
    levels = held.shares or (held.price.micros,)
    assert all(paid <= most for paid, most in zip(fits, levels, strict=True))
    assert beyond[0] > levels[0]


def _levels(pricing: Pricing, micros: int, customer: Customer) -> tuple[int, ...]:
    found = ladders.quote(pricing, replace(offer(), cost=Money(micros, "USD")), customer)
    assert found is not None
    return found.shares or (found.price.micros,)
