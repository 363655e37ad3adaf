"""Money as a whole number of micro-units and a currency. Decimals exist only at the edges."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_UP, Decimal

MICROS = 1_000_000
PRICE_STEP_MICROS = 100
"""Prices are whole multiples of 0.0001, before anything is held, so what is listed is what is charged."""

MAX_MICROS = 10**15
"""A thousand million units: far above any balance, far below what a 64-bit column holds."""

_DECIMAL = re.compile(r"[+-]?(\d{1,24}(\.\d{0,24})?|\.\d{1,24})([eE][+-]?\d{1,2})?", re.ASCII)


class MoneyError(ValueError):
    """The text is no amount of money; the message names what is wrong, in words fit for a person."""


@dataclass(frozen=True, slots=True, order=False)
class Money:
    """An amount: `micros` millionths of one unit of `currency` (ISO 4217 letters). May be negative."""

    micros: int
    currency: str

    def __str__(self) -> str:
        return f"{plain(self.micros)} {self.currency}"


def to_micros(value: str | int | Decimal, *, rounding: str = ROUND_HALF_UP) -> int:
    """Micro-units of a decimal in text, an integer or a Decimal.

    Raises MoneyError on anything that is not a finite decimal below a thousand million. Exponents are taken
    only where they are small, since clients print small floats as `5e-05`.
    """
    text = str(value).strip()
    if not _DECIMAL.fullmatch(text):
        raise MoneyError(f"{text[:40]!r} is not an amount")
    number = Decimal(text)
    if abs(number) * MICROS > MAX_MICROS:
        raise MoneyError(f"{text[:40]!r} is too large")
    return int((number * MICROS).to_integral_value(rounding=rounding))


def parse(text: str | int | Decimal, currency: str) -> Money:
    """A positive amount with at most six decimals; MoneyError otherwise."""
    micros = to_micros(text)
    if micros <= 0:
        raise MoneyError("the amount must be above zero")
    if Decimal(micros) != Decimal(str(text).strip()) * MICROS:
        raise MoneyError("an amount has at most six decimals")
    return Money(micros, currency)


def plain(micros: int) -> str:
    """`1234500` as `1.2345`: at least two decimals, no exponent, no more digits than needed."""
    whole, fraction = divmod(abs(micros), MICROS)
    digits = f"{fraction:06d}".rstrip("0").ljust(2, "0")
    return f"{'-' if micros < 0 else ''}{whole}.{digits}"


def round_up_to_step(micros: int) -> int:
    """The smallest price (a multiple of 0.0001) that is not below `micros`."""
    return -(-micros // PRICE_STEP_MICROS) * PRICE_STEP_MICROS


def round_down_to_step(micros: int) -> int:
    """The largest price (a multiple of 0.0001) that is not above `micros`."""
    return micros // PRICE_STEP_MICROS * PRICE_STEP_MICROS


def scale(micros: int, factor: Decimal, *, up: bool) -> int:
    """`micros * factor`, rounded to a whole micro-unit in the named direction."""
    return int((micros * factor).to_integral_value(rounding=ROUND_CEILING if up else ROUND_FLOOR))
