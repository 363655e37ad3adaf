"""Amounts: exact inside, decimals only at the edges."""

from __future__ import annotations

from decimal import ROUND_FLOOR, Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.money import (
    MAX_MICROS,
    MICROS,
    PRICE_STEP_MICROS,
    Money,
    MoneyError,
    parse,
    plain,
    round_down_to_step,
    round_up_to_step,
    scale,
    to_micros,
)

AMOUNTS = st.integers(-MAX_MICROS, MAX_MICROS)


@given(AMOUNTS)
def test_what_is_printed_reads_back_as_the_same_amount(micros: int) -> None:
    assert to_micros(plain(micros)) == micros


@given(AMOUNTS)
def test_amounts_are_printed_without_exponent_and_with_two_decimals_at_least(micros: int) -> None:
    whole, _, fraction = plain(micros).lstrip("-").partition(".")
    assert whole.isdigit()
    assert fraction.isdigit()
    assert 2 <= len(fraction) <= 6


@pytest.mark.parametrize(
    ("micros", "text"),
    [(0, "0.00"), (1, "0.000001"), (80_000, "0.08"), (1_234_500, "1.2345"), (-1_500_000, "-1.50"), (-1, "-0.000001")],
)
def test_plain(micros: int, text: str) -> None:
    assert plain(micros) == text
    assert str(Money(micros, "USD")) == f"{text} USD"


@given(st.integers(0, MAX_MICROS))
def test_rounding_to_price_steps_brackets_the_amount(micros: int) -> None:
    low, high = round_down_to_step(micros), round_up_to_step(micros)
    assert low <= micros <= high
    assert high - low in (0, PRICE_STEP_MICROS)
    assert low % PRICE_STEP_MICROS == high % PRICE_STEP_MICROS == 0


@pytest.mark.parametrize(
    ("text", "micros"),
    [("1", MICROS), (" 0.5 ", 500_000), (".5", 500_000), ("5.", 5_000_000), ("5e-05", 50), ("1E3", 1000 * MICROS)],
)
def test_decimals_as_clients_print_them(text: str, micros: int) -> None:
    assert to_micros(text) == micros


def test_the_direction_of_rounding_is_the_callers() -> None:
    assert to_micros("0.0000015") == 2
    assert to_micros("0.0000019", rounding=ROUND_FLOOR) == 1
    assert scale(1, Decimal("1.5"), up=True) == 2
    assert scale(1, Decimal("1.5"), up=False) == 1


@pytest.mark.parametrize(
    "text", ["", " ", "nan", "NaN", "inf", "-Infinity", "1,5", "1_000", "0x10", "1e999", "1 2", "١", "--1", "1e-", "."]
)
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(MoneyError):
        to_micros(text)


def test_a_refusal_quotes_a_bounded_part_of_the_text() -> None:
    with pytest.raises(MoneyError) as refusal:
        to_micros("x" * 5000)
    assert len(str(refusal.value)) < 80


@pytest.mark.parametrize("text", ["1000000000.000001", "1e10", "-1e10"])
def test_more_than_a_thousand_million_is_refused(text: str) -> None:
    with pytest.raises(MoneyError, match="too large"):
        to_micros(text)


def test_parse_takes_positive_amounts_of_at_most_six_decimals() -> None:
    assert parse("1.000001", "USD") == Money(1_000_001, "USD")
    assert parse(3, "RUB") == Money(3 * MICROS, "RUB")
    for text in ("0", "-1", "0.0000001"):
        with pytest.raises(MoneyError, match="above zero"):
            parse(text, "USD")
    with pytest.raises(MoneyError, match="six decimals"):
        parse("1.0000001", "USD")
