"""Counts of price lists."""

from __future__ import annotations


def in_stock(value: object) -> int:
    """Numbers in stock: a whole number, or a text of digits; none where it is neither."""
    text = str(value)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
