"""Every text of an upstream can be encoded and stored, however it was written; odd letters hide nothing beside them."""

from __future__ import annotations

import json

import pytest

from adapters._http import Reply
from adapters._values import decoded, load_json

CESU = b"\xed\xa0\xbd\xed\xb8\x80"
"""An emoji as some Java programs write it: each half of its UTF-16 form on its own."""


@pytest.mark.parametrize(
    ("body", "text"),
    [
        pytest.param("Код 4821 😀".encode(), "Код 4821 😀", id="utf-8"),
        pytest.param(b"\xef\xbb\xbf4821", "4821", id="byte order mark"),
        pytest.param(b"Hi " + CESU + b" 4821", "Hi 😀 4821", id="cesu-8"),
        pytest.param(CESU[:3] + b" 4821", "\ufffd 4821", id="first half"),
        pytest.param(b"4821 " + CESU[3:], "4821 \ufffd", id="second half"),
        pytest.param(CESU[3:] + CESU[:3], "\ufffd\ufffd", id="halves the wrong way round"),
        pytest.param(b"4821 \xff", "4821 \ufffd", id="no character"),
        pytest.param("4821 😀".encode()[:-1], "4821 \ufffd", id="cut"),
        pytest.param(b"48\x0021", "48\ufffd21", id="nul"),
        pytest.param(CESU[:3] + b"\0", "\ufffd\ufffd", id="half and nul"),
    ],
)
def test_text_is_storable_in_json_and_beside_it(body: bytes, text: str) -> None:
    assert decoded(body) == text
    assert Reply(200, body).text == text
    assert load_json(b'{"text": ["' + body.removeprefix(b"\xef\xbb\xbf") + b'"]}') == {"text": [text]}
    text.encode()


@pytest.mark.parametrize(
    ("escaped", "text"),
    [
        (r"Hi \ud83d\ude00 4821", "Hi 😀 4821"),
        (r"\uD83D 4821", "\ufffd 4821"),
        (r"4821 \ude00", "4821 \ufffd"),
        (r"tel\u0000kom", "tel\ufffdkom"),
        (r"\\ud83d", r"\ud83d"),
    ],
)
def test_escapes_are_storable_in_values_and_in_names(escaped: str, text: str) -> None:
    assert load_json(f'{{"{escaped}": [{{"x": "{escaped}"}}]}}'.encode()) == {text: [{"x": text}]}


def test_a_word_with_a_nul_in_it_is_not_the_word_without() -> None:
    assert decoded(b"ACCESS_\0CANCEL") != "ACCESS_CANCEL"


def test_plain_json_is_read_as_ever() -> None:
    data = {"a": [1, "x", None, True, {"b": "ä"}]}
    assert load_json(json.dumps(data).encode()) == data
    assert load_json(json.dumps(data, ensure_ascii=False).encode("utf-8-sig")) == data
