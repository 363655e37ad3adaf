"""Rules: what people may write, what is left of them under everybody above, and which addresses are meant."""

from __future__ import annotations

from typing import Any

import pytest

from gateway import rules
from gateway.catalog import Catalog, Country
from gateway.rules import EVERYTHING, NO_RULES, Allowed, RuleError, Rules

CATALOG = Catalog(
    {"tg": "Telegram", "wa": "WhatsApp"},
    frozenset(),
    {number: Country(number, iso2, "", "", "", "1") for number, iso2 in ((6, "ID"), (12, "US"), (187, "US"))},
)


# Levels


def test_no_rules_allow_everything() -> None:
    assert rules.allowed([NO_RULES, NO_RULES]) is EVERYTHING
    assert rules.allowed([Rules(spend_day=5)]) is EVERYTHING
    assert EVERYTHING.sells("tg", 6)


def test_what_one_level_may_not_no_level_below_may() -> None:
    above = Rules(services=frozenset({"tg", "wa"}), denied_services=frozenset({"vk"}), price_max=500_000)
    below = Rules(services=frozenset({"wa", "vk"}), countries=frozenset({6}), price_max=900_000)
    for order in ([above, below], [below, above]):
        assert rules.allowed(order) == Allowed(frozenset({"wa"}), frozenset({"vk"}), frozenset({6}), 500_000)


@pytest.mark.parametrize(
    ("allowed", "service", "country", "is_sold"),
    [
        (Allowed(services=frozenset({"tg"})), "tg", 6, True),
        (Allowed(services=frozenset({"tg"})), "wa", 6, False),
        (Allowed(services=frozenset({"tg"}), denied_services=frozenset({"tg"})), "tg", 6, False),
        (Allowed(denied_services=frozenset({"tg"})), "wa", 6, True),
        (Allowed(countries=frozenset({6})), "tg", 7, False),
        (Allowed(services=frozenset()), "tg", 6, False),
    ],
)
def test_what_may_be_bought(allowed: Allowed, service: str, country: int, *, is_sold: bool) -> None:
    assert allowed.sells(service, country) is is_sold


def test_ways_in_are_those_that_every_level_leaves_open() -> None:
    one, other = Rules(dialects=frozenset({"rest", "hero"})), Rules(dialects=frozenset({"rest", "5sim"}))
    assert rules.dialects([NO_RULES]) is None
    assert rules.dialects([one, NO_RULES, other]) == frozenset({"rest"})


def test_rules_survive_their_row() -> None:
    full = Rules(
        suspended_at=1.5, expires_at=2.5, services=frozenset({"tg", "wa"}), denied_services=frozenset({"vk"}),
        countries=frozenset({6, 0}), ip_ranges=("192.0.2.0/24", "2001:db8::/32"), dialects=frozenset({"rest"}),
        price_max=1, open_max=2, spend_hour=3, spend_day=4, spend_month=5, spend_total=6,
    )  # fmt: skip
    for found in (full, NO_RULES):
        assert rules.from_row(rules.to_row(found)) == found
    assert set(rules.to_row(full)) == set(rules.COLUMNS)


# Addresses


@pytest.mark.parametrize(
    ("address", "ranges", "is_in"),
    [
        ("192.0.2.7", (("192.0.2.0/24",),), True),
        ("192.0.3.7", (("192.0.2.0/24",),), False),
        ("192.0.3.7", (("192.0.2.0/24", "192.0.3.7/32"),), True),
        ("::ffff:192.0.2.7", (("192.0.2.0/24",),), True),
        ("2001:db8::1", (("2001:db8::/32",),), True),
        ("2001:db9::1", (("2001:db8::/32",),), False),
        ("192.0.2.7", (("2001:db8::/32",),), False),
        ("192.0.2.7", (("192.0.2.0/24",), ("192.0.2.0/30",)), False),
        ("192.0.2.2", (("192.0.2.0/24",), ("192.0.2.0/30",)), True),
        ("", (("0.0.0.0/0", "::/0"),), False),
        ("localhost", (("0.0.0.0/0", "::/0"),), False),
        ("192.0.2.7, 10.0.0.1", (("0.0.0.0/0",),), False),
    ],
)
def test_an_address_has_to_be_in_each_list(address: str, ranges: tuple[tuple[str, ...], ...], *, is_in: bool) -> None:
    assert rules.is_within(address, ranges) is is_in


def test_ranges_are_written_in_one_way() -> None:
    given = ["192.0.2.7", "192.0.2.7/32", "2001:DB8:0::/32", "::ffff:192.0.2.0/120"]
    assert rules.ip_ranges_of(given) == ("192.0.2.7/32", "2001:db8::/32", "192.0.2.0/24")


# What can't be


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"speed": 1}, "there is no rule speed"),
        ({"services": frozenset()}, "services would allow nothing"),
        ({"countries": frozenset()}, "countries would allow nothing"),
        ({"dialects": frozenset()}, "dialects would allow nothing"),
        ({"ip_ranges": ("192.0.2.1/32",) * 65}, "64 address ranges at most"),
        ({"open_max": 0}, "open_max is from 1"),
        ({"open_max": -1}, "open_max is from 1"),
        ({"open_max": 10**30}, "open_max is from 1"),
        ({"expires_at": float("nan")}, "expires_at is no time"),
        ({"expires_at": float("inf")}, "expires_at is no time"),
        ({"expires_at": -1.0}, "expires_at is no time"),
        ({"price_max": 0}, "price_max is an amount above zero"),
        ({"spend_day": -5}, "spend_day is an amount above zero"),
        ({"spend_total": 10**16}, "spend_total is an amount above zero"),
    ],
)
def test_rules_that_make_no_sense_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(RuleError, match=words):
        rules.changed(NO_RULES, changes)


def test_none_takes_a_rule_away() -> None:
    full = Rules(services=frozenset({"tg"}), denied_services=frozenset({"vk"}), ip_ranges=("::/0",), spend_day=4)
    assert rules.changed(full, dict.fromkeys(rules.COLUMNS)) == NO_RULES
    assert rules.changed(full, {}) == full


def test_words_are_looked_up_in_the_catalogue() -> None:
    assert rules.services_of(["tg", "wa", "tg"], CATALOG) == {"tg", "wa"}
    assert rules.countries_of(["6", "us"], CATALOG) == {6, 12, 187}
    assert rules.dialects_of(["rest", "hero"]) == {"rest", "hero"}
    for unknown in ("xx9", "TG", ""):
        with pytest.raises(RuleError, match="there is no service"):
            rules.services_of([unknown], CATALOG)
    for unknown in ("7", "ZZ", "", "-6", "6.0", "٦", "9" * 40):
        with pytest.raises(RuleError, match="there is no country"):
            rules.countries_of([unknown], CATALOG)
    with pytest.raises(RuleError, match="there is no dialect 'soap'"):
        rules.dialects_of(["soap"])
    for unknown in ("", "localhost", "192.0.2.1/24", "192.0.2.0/33", "1.2.3", "192.0.2.0/-1"):
        with pytest.raises(RuleError, match="is no address and no network"):
            rules.ip_ranges_of([unknown])
