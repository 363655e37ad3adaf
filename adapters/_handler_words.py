"""Answers of the `handler_api.php` family: both shapes in, one `Answer` out, and what its words mean as errors.

Shapes (`protocol/upstreams/handler_api_family.md` §3.1): plain tokens (`WORD`, `WORD:rest`), mostly with 200, and the
envelope `{"title": WORD, "details": …, "info": {…}}` with a real status. One brand uses both, so every answer is
read for both, the envelope first. Two more are met inside JSON: `{"status": "error", "error": WORD}` and prose.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from adapters._http import Reply
from adapters._values import Unreadable, micros
from gateway.errors import InDoubt, Refused, SoldOut, Unwell, UpstreamError

CURRENCY_NUMBERS = {"USD": "840", "RUB": "643"}
"""ISO 4217 numbers, as this protocol names currencies."""

MAX_PROSE = 300
"""No refusal is longer; a longer body that is no token is a page."""

_TOKEN = re.compile(r"([A-Z][A-Z0-9_]+)(?::(.*))?", re.DOTALL)
_QUOTABLE = re.compile(r"[A-Z_]{2,40}")

_PROSE = {
    "too many requests": "TOO_MANY_REQUESTS",  # Tiger's edge
    "prohibited for sale": "PROHIBITED_FOR_SALE",  # Grizzly
}
_STATUS_WORDS = {401: "BAD_KEY", 402: "NO_BALANCE", 429: "TOO_MANY_REQUESTS"}
"""What a status means where the body says nothing readable."""

_FAILED = frozenset({"error", "fail", "false", "0"})
"""`status` members that mean failure, as lower-case text."""

SOLD_OUT = frozenset(
    {
        "BAD_MAX_PRICE",
        "MAX_PRICE_EXCEEDED",
        "NO_NUMBERS",
        "NO_PROVIDERS",
        "NUMBER_NOT_AVAILABLE",
        "OUT_OF_STOCK",
        "WRONG_MAX_PRICE",
    }
)
BAD_KEY = frozenset({"BAD_KEY", "NO_KEY", "API_KEY_NOT_VALID", "NO_ACCESS"})
FAULTS = BAD_KEY | {
    "BAD_ACTION",  # a stanza that does not fit the brand, or (vak-sms) a bad key
    "NO_ACTION",  # the same at SMSHub
    "BAD_CURRENCY",  # the stanza names one the account does not have
    "BAD_PROVIDER_IDS",  # the stanza chooses providers there are not
    "BAD_EXCEPT_PROVIDER_IDS",
    "NO_BALANCE",
    "NO_MONEY",
    "BANNED",
    "ACCOUNT_INACTIVE",
    "CHANNELS_LIMIT",
    "TOO_MANY_ACTIVE_RENTALS",
    "RATE_LIMIT",
    "RATE_LIMITED",
    "TOO_MANY_REQUESTS",
}
UNKNOWN_LEASE = frozenset({"NO_ACTIVATION", "NOT_FOUND", "WRONG_ACTIVATION_ID", "BAD_ID"})
BROKEN = frozenset({"ERROR_SQL", "SERVER_ERROR"})
"""The upstream's own failure, which may have come after the number was taken."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply, read. `word` is empty where the reply is data, or nothing we can read; `data` is parsed JSON."""

    status: int
    word: str = ""
    rest: str = field(default="", repr=False)
    info: Mapping[str, Any] = field(default_factory=dict, repr=False)
    data: Any = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def is_page(self) -> bool:
        """Nothing readable: HTML, or an empty body with any status but 204."""
        return not self.word and self.data is None and self.status != 204

    @property
    def quotable(self) -> str:
        """The word if it is safe to repeat in a message: no digits, so no number, key or code."""
        return self.word if _QUOTABLE.fullmatch(self.word) else f"status {self.status}"


def parse_answer(reply: Reply) -> Answer:
    """Raises Unreadable where a successful status carries broken JSON."""
    text = reply.text
    if text[:1] in ("{", "["):
        return _from_json(reply)
    token = _TOKEN.fullmatch(text)
    word, rest = (token[1], token[2] or "") if token else (_prose_word(text), "")
    word = word or _STATUS_WORDS.get(reply.status, "")
    return Answer(reply.status, word, rest, data=_number(text), headers=reply.headers)


def _number(text: str) -> str | None:
    """A bare number is data: one clone answers getBalance so."""
    return text if re.fullmatch(r"-?\d+(\.\d+)?", text) else None


def _from_json(reply: Reply) -> Answer:
    try:
        data = reply.json()
    except Unreadable:
        if reply.status < 400:
            raise
        return Answer(reply.status, _STATUS_WORDS.get(reply.status, ""), headers=reply.headers)
    word, info = _json_word(data)
    return Answer(reply.status, word or _STATUS_WORDS.get(reply.status, ""), "", info, data, reply.headers)


def _json_word(data: Any) -> tuple[str, Mapping[str, Any]]:
    """The error named by a JSON answer, as a token; empty where it names none."""
    if not isinstance(data, dict):
        return "", {}
    if isinstance(data.get("title"), str):
        info = data.get("info")
        return _as_token(data["title"]), info if isinstance(info, dict) else {}
    if isinstance(data.get("error"), str) or str(data.get("status", "")).lower() in _FAILED:
        said = data.get("error") or data.get("msg") or data.get("message") or "error"
        return _as_token(str(said)), {}
    return "", {}


def _as_token(text: str) -> str:
    return re.sub(r"[^A-Z0-9_]+", "_", text.upper()).strip("_")[:60]


def _prose_word(text: str) -> str:
    if len(text) > MAX_PROSE:
        return ""
    return next((word for phrase, word in _PROSE.items() if phrase in text.casefold()), "")


def purchase_error(answer: Answer) -> UpstreamError:
    """Why a purchase brought no number, and whether one may have been taken all the same.

    Words first met are refusals where they are plainly error words; what can't be read is in doubt.
    """
    if answer.status >= 500 or answer.status == 408 or answer.word in BROKEN:
        return InDoubt(f"the upstream failed ({answer.quotable})")
    if answer.word in SOLD_OUT:
        return SoldOut(answer.quotable)
    if answer.word in FAULTS:
        return Refused(answer.quotable, is_fault=_blames_account(answer))
    if 300 <= answer.status < 500:  # HTTP says nothing was done; a page instead of a word says we are locked out
        return Refused(answer.quotable, is_fault=answer.is_page)
    if _is_error_word(answer):
        return Refused(answer.quotable)
    return InDoubt("an answer that makes no sense")


def _blames_account(answer: Answer) -> bool:
    """HeroSMS bans for one service too: `info.scope` is then `specific`."""
    return answer.info.get("scope") != "specific"


def _is_error_word(answer: Answer) -> bool:
    """A bare word, or one with detail that begins as error words do; never one that begins as success does."""
    if not answer.word or answer.word.startswith(("ACCESS_", "STATUS_", "FULL_")):
        return False
    return not answer.rest or answer.word.startswith(("BAD_", "NO_", "NOT_", "WRONG_", "UNPROCESSABLE_"))


def call_error(answer: Answer) -> UpstreamError:
    """Why a harmless call brought nothing."""
    return Unwell(answer.quotable)


def balance_of(answer: Answer) -> int:
    """Micro-units of `ACCESS_BALANCE:x`, `{"balance": x}` or a bare number. Raises Refused, Unwell or Unreadable."""
    if answer.word == "ACCESS_BALANCE":
        return micros(answer.rest.strip())
    if answer.word in FAULTS:
        raise Refused(answer.quotable, is_fault=True)
    if answer.word or answer.status != 200:
        raise call_error(answer)
    return micros(answer.data.get("balance") if isinstance(answer.data, dict) else answer.data)
