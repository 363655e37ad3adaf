"""SMSPool's answers: objects that say whether it was done, and why not by a type or only in words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from adapters._values import mapping

_TYPES = {"OUT_OF_STOCK": "sold out", "PRICE_NOT_FOUND": "sold out", "BALANCE_ERROR": "no funds"}
_WORDS = (
    ("bad key", re.compile(r"\bapi key\b")),
    ("too many requests", re.compile(r"too many|rate limit")),
    ("no funds", re.compile(r"(insufficient|not enough) (balance|funds)")),
    ("barred", re.compile(r"account.*(banned|suspended|blocked|disabled|restricted)")),
    ("sold out", re.compile(r"out of stock|available phone ?number|suitable pool")),
    ("unknown order", re.compile(r"find this order|order (could not be|was not|not) found")),
    ("too early", re.compile(r"cancelled yet")),
    ("later", re.compile(r"at the moment|try again later")),
)
FAULTS = frozenset({"bad key", "too many requests", "no funds", "barred"})
_TAG = re.compile(r"<[^>]*>")
_TYPE = re.compile(r"[A-Z][A-Z_]{2,39}")


@dataclass(frozen=True)
class Answer:
    """A JSON object; `reason` is why it refuses, empty where it doesn't and `refused` where it says nothing known."""

    data: Mapping[str, Any] = field(repr=False)
    reason: str = ""

    @property
    def is_done(self) -> bool:
        return not self.reason and str(self.data.get("success")) in ("1", "True")

    @property
    def said(self) -> str:
        """For errors: a word of ours or the refusal's type, never its text."""
        kind = str(self.data.get("type") or "")
        return kind if self.reason == "refused" and _TYPE.fullmatch(kind) else self.reason or "an unknown answer"


def read_answer(data: object) -> Answer:
    fields = mapping(data)
    refuses = str(fields.get("success")) in ("0", "False")
    return Answer(fields, _reason(fields) if refuses else "")


def _reason(fields: Mapping[str, Any]) -> str:
    known = _TYPES.get(str(fields.get("type")))
    if known:
        return known
    errors = fields.get("errors")
    details = [error.get("message") for error in errors if isinstance(error, dict)] if isinstance(errors, list) else []
    said = _TAG.sub(" ", " ".join(str(part) for part in [fields.get("message"), *details]))
    words = " ".join(said.lower().split())
    return next((reason for reason, pattern in _WORDS if pattern.search(words)), "refused")
