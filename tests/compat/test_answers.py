"""What every `handler_api.php` answer carries for those who read it in a browser."""

from __future__ import annotations

import pytest
from starlette.types import Message

from compat import _wire


@pytest.mark.parametrize(
    ("body", "content_type", "is_defused"),
    [
        (b"FULL_SMS:<script>alert(1)</script>", _wire.TEXT, True),
        (b"FULL_SMS:1 < 2", _wire.TEXT, True),
        (b"STATUS_OK:12345", _wire.TEXT, False),
        (b'{"text":"<b>"}', _wire.JSON, False),
    ],
)
async def test_a_text_that_might_be_taken_for_a_page_is_not_run(
    body: bytes, content_type: bytes, is_defused: bool
) -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    await _wire.answer({"type": "http", "method": "GET", "headers": []}, send, body, content_type)
    names = {name for name, _ in sent[0]["headers"]}
    assert (b"content-security-policy" in names and b"x-content-type-options" in names) is is_defused
    assert sent[1]["body"] == body
