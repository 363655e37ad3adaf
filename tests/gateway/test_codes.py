"""From a message to the code that is shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.codes import clean_code


@given(st.text(max_size=80), st.text(max_size=200))
def test_a_code_is_never_empty_and_never_splits_an_answer(code: str, text: str) -> None:
    shown = clean_code(code, text)
    assert shown
    assert ":" not in shown
    assert shown.split() == [shown]


@pytest.mark.parametrize(
    ("code", "text", "shown"),
    [
        ("12345", "Your code is 99999", "12345"),
        (" 12345 ", "", "12345"),
        ("G-123456", "", "G-123456"),
        ("", "Your code is 12345", "12345"),
        ("", "WhatsApp code 123-456", "123456"),
        ("", "123 456 is your code", "123456"),
        ("", "In 2 minutes use 4711.", "4711"),
        ("", "PIN 987", "987"),
        ("", "open https://t.me/login", "open_https_//t.me/login"),
        ("12:34", "", "12_34"),
        ("", "", "-"),
        ("   ", "  ", "-"),
    ],
)
def test_clean_code(code: str, text: str, shown: str) -> None:
    assert clean_code(code, text) == shown


@pytest.mark.parametrize("code", ["0012", "ab12cd", "код"])
def test_the_upstreams_own_reading_wins_where_it_is_usable(code: str) -> None:
    assert clean_code(code, "Your code is 55555") == code
