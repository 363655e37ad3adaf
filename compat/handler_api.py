"""The SMS-Activate text protocol, exact to the byte: the reference dialect.

Everything is HTTP 200; the body is the token and nothing else. Texts are `text/html; charset=UTF-8` as the original
sent them, and so is getNumbersStatus although it is JSON; the other JSON answers are `application/json`. Order of
checks: action, key, then what the use-case says. Facts: the vendor's API page and replies captured from it in 2025.

All of it is the common ground that the other dialects differ from, so it stands in `compat._dialect` and below.
"""

from __future__ import annotations

from compat._dialect import Dialect


class SmsActivate(Dialect):
    """As it was in 2025."""

    name = "sms_activate"
