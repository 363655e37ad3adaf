"""From a message to the code in it, in a form that survives every client's parser."""

from __future__ import annotations

import re

_SPLIT_DIGITS = re.compile(r"(?<![\w.,+])(\d{3,4})[- ](\d{3,4})(?![\w])")
_DIGITS = re.compile(r"(?<![\d.,+])(\d{4,8})(?![\d]|[.,]\d)")
_SHORT_DIGITS = re.compile(r"\d{3,}")
_UNSAFE = re.compile(r"[\s:]+")


def clean_code(code: str, text: str) -> str:
    """The code to show for a message: never empty, never with a colon or white space, which clients split at.

    `code` is the upstream's reading and wins where it is usable; else the digits in `text`; else the text, made safe.
    """
    stripped = code.strip()
    if stripped and not _UNSAFE.search(stripped):
        return stripped
    source = stripped or text
    split = _SPLIT_DIGITS.search(source)
    if split:
        return split.group(1) + split.group(2)
    found = _DIGITS.search(source) or _SHORT_DIGITS.search(source)
    if found:
        return found.group(found.lastindex or 0)
    return _UNSAFE.sub(" ", source).strip().replace(" ", "_") or "-"
