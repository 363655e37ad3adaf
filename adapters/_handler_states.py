"""What `getStatus` says of a lease in the `handler_api.php` family, and the messages it shows. Pure."""

from __future__ import annotations

import hashlib
from typing import Any

from adapters._handler_words import UNKNOWN_LEASE, Answer, call_error
from gateway.errors import HasSms, NotAllowed, UnknownLease, UpstreamError
from gateway.model import LeaseState, Outcome, Progress, Sms

NO_CODE_FOUND = "Нет кода"
"""`STATUS_OK:` carries these words, in Russian, for a message without a code (one old branch, handler_api.md §3.1)."""

WAITING = frozenset({"STATUS_WAIT_CODE", "STATUS_WAIT_RETRY", "STATUS_WAIT_RESEND"})
CANCELLED = frozenset({"STATUS_CANCEL", "ACCESS_CANCEL"})
WITH_SMS = frozenset({"STATUS_OK", "STATUS_WAIT_RETRY", "FULL_SMS"})


def known_status(answer: Answer) -> Answer:
    """A getStatus answer, or Unwell: words that are no state tell nothing about the lease."""
    if answer.word in WAITING | CANCELLED | UNKNOWN_LEASE:
        return answer
    if answer.word in ("STATUS_OK", "FULL_SMS") and answer.rest:
        return answer
    raise call_error(answer)


def progress_of(answer: Answer, round_: int) -> Progress:
    if answer.word in UNKNOWN_LEASE:
        return Progress(LeaseState.UNKNOWN)
    if answer.word in CANCELLED:
        return Progress(LeaseState.CANCELLED)
    if answer.word == "STATUS_OK":
        return Progress(LeaseState.OPEN, (coded_sms(answer.rest, round_, answer.headers.get("x-text", "")),))
    if answer.word == "FULL_SMS":
        return Progress(LeaseState.OPEN, (Sms("", answer.rest, identity=f"{round_}:{_digest(answer.rest)}"),))
    return Progress(LeaseState.OPEN)


def coded_sms(code: str, round_: int, text: str = "") -> Sms:
    """The wire has no message ids: the code within its round is all there is to tell messages apart."""
    return Sms("" if code == NO_CODE_FOUND else code, text, identity=f"{round_}:{code}")


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def text_beside(data: Any, code: str) -> str:
    """The text in a getStatusV2 answer, unless it belongs to another code.

    SMS-Activate and Tiger use `sms` and `call`, HeroSMS in 2026 `data` (handler_api.md §4.5).
    """
    members = [data.get(name) for name in ("sms", "data", "call")] if isinstance(data, dict) else []
    for member in members:
        if isinstance(member, dict) and str(member.get("code") or code) == code:
            return str(member.get("text") or "")
    return ""


def is_done(answer: Answer, word: str) -> bool:
    """204 is HeroSMS's; one clone answers `{"status": "success"}`."""
    told = isinstance(answer.data, dict) and answer.data.get("status") == "success"
    return answer.word == word or answer.status == 204 or (told and answer.status == 200)


def lease_error(answer: Answer) -> UpstreamError:
    """Why a call about one lease brought nothing."""
    return UnknownLease(answer.quotable) if answer.word in UNKNOWN_LEASE else call_error(answer)


def accept_state(state: Answer, outcome: Outcome) -> None:
    """Return where the lease has ended already; raise what stands in the way otherwise.

    The reference dialect shows `STATUS_CANCEL` for finished orders too (handler_api.md §3.1).
    """
    if state.word in CANCELLED:
        return
    if state.word in UNKNOWN_LEASE:
        raise UnknownLease(state.quotable)
    if outcome is Outcome.CANCELLED and state.word in WITH_SMS:
        raise HasSms
    raise NotAllowed(state.quotable)
