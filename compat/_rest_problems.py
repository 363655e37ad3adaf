"""What goes wrong, as `application/problem+json` (RFC 9457): one table from code to status and words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from compat._rest_models import Problem, Wrong, amount, moment
from gateway.errors import Barred, CallerError, PriceTooLow
from gateway.logs import redact

MEDIA_TYPE = b"application/problem+json"
DOCS_PATH = "/docs"
AGAIN_SECONDS = 1

NAME_LENGTH_MAX = 64


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of problem. `retry_seconds` is when to ask again, where asking again can help."""

    status: int
    title: str
    retry_seconds: int | None = None


KINDS = {
    # What the use-cases say: every code of gateway.errors
    "bad_key": Kind(401, "An API key is required, and this is none that works."),
    "bad_action": Kind(404, "There is no such action."),
    "barred": Kind(403, "The account may not buy for now."),
    "suspended": Kind(403, "The account may not buy."),
    "bad_service": Kind(422, "There is no such service."),
    "bad_country": Kind(422, "There is no such country."),
    "bad_phone_exception": Kind(422, "A beginning of a number has another form, or there are too many."),
    "price_too_low": Kind(409, "All that is for sale costs more than the highest price given."),
    "too_many_open": Kind(409, "The account has as many activations open as it may."),
    "no_balance": Kind(402, "The balance does not reach."),
    "no_numbers": Kind(409, "There is no such number to be had now."),
    "order_exists": Kind(409, "This order has been given before."),
    "bad_activation_id": Kind(404, "There is no such activation."),
    "unknown_activation": Kind(404, "There is no such activation or rental."),
    "not_allowed_now": Kind(409, "This can't be done with it, or not in its present state."),
    "cancel_too_early": Kind(409, "It is too early to cancel."),
    "no_operators": Kind(404, "No operator can be named there."),
    "no_activations": Kind(404, "There are no activations."),
    "bad_webhook_url": Kind(422, "This is no address that notices can be sent to."),
    "webhook_not_https": Kind(422, "Notices are sent to https:// addresses only."),
    "webhook_url_too_long": Kind(422, "The address is too long."),
    "too_many_requests": Kind(429, "Too many requests.", AGAIN_SECONDS),
    "unavailable": Kind(503, "Not now: nothing was done, ask again.", AGAIN_SECONDS),
    "internal": Kind(500, "Something is broken here."),
    # What this dialect says of its own
    "not_found": Kind(404, "There is nothing here."),
    "method_not_allowed": Kind(405, "This can't be done here."),
    "malformed": Kind(400, "The request can't be read."),
    "too_large": Kind(413, "The body is too large."),
    "not_json": Kind(415, "The body has to be application/json."),
    "invalid": Kind(422, "The request says something it can't."),
    "bad_idempotency_key": Kind(400, "An Idempotency-Key has 1 to 255 visible ASCII characters."),
    "idempotency_key_reused": Kind(422, "This Idempotency-Key came with another request before."),
    "in_progress": Kind(409, "The purchase with this Idempotency-Key is not over yet.", AGAIN_SECONDS),
    "bad_credentials": Kind(401, "E-mail or password is wrong."),
    "bad_session": Kind(401, "The session has ended, or this is none: sign in again."),
    "account_required": Kind(403, "This is done for an account, and an operator has none: use an account's key."),
    "session_required": Kind(403, "This is for people who have signed in, not for keys."),
    "operator_required": Kind(403, "This is for operators who have signed in."),
    "unknown_user": Kind(404, "There is no such user."),
    "last_operator": Kind(409, "This is the last operator who can sign in."),
    "email_taken": Kind(409, "Somebody has that e-mail address already."),
    "wrong_password": Kind(422, "The current password is another."),
    "bad_password": Kind(422, "The new password will not do."),
    "may_not_manage": Kind(403, "This key only buys: managing takes a key that may manage, or a session."),
    "unknown_account": Kind(404, "There is no such account."),
    "unknown_key": Kind(404, "There is no such key."),
    "name_taken": Kind(409, "There is an account of that name already."),
    "not_yours": Kind(403, "This is for others to say: for those above the account, or for itself."),
    "key_is_over": Kind(409, "The key is revoked, or another has its place."),
    "changed_meanwhile": Kind(412, "It is no longer what If-Match says: read it again."),
    "unknown_batch": Kind(404, "There is no such batch of vouchers."),
    "voucher_mistyped": Kind(422, "That is no voucher code: a character is mistyped, or some are missing."),
    "voucher_unknown": Kind(409, "There is no such voucher for this account."),
    "voucher_spent": Kind(409, "The voucher was redeemed before."),
    "voucher_ended": Kind(409, "The voucher was revoked, or has expired."),
    "voucher_currency": Kind(409, "The voucher is in another currency than the account."),
    "voucher_tries": Kind(429, "Too many unknown codes were tried: none is taken for the rest of the hour.", 3600),
    "unknown_payment": Kind(404, "There is no such payment."),
    "reference_used": Kind(409, "Another deposit has this reference."),
    "unknown_notice": Kind(404, "There is no such notice."),
    "terms_not_accepted": Kind(403, "The account above has not accepted the terms in force."),
    "terms_not_in_force": Kind(409, "These are not the terms in force."),
    "sign_in_not_set_up": Kind(501, "Sign-in is not set up: the operator has to set JWT_SECRET_KEY."),
    "too_many_waiting": Kind(429, "Too many requests of this key wait already.", AGAIN_SECONDS),
}


class Refused(Exception):
    """A request that this dialect itself refuses."""

    def __init__(
        self,
        code: str,
        *,
        detail: str | None = None,
        errors: Sequence[Wrong] | None = None,
        retry_seconds: int | None = None,
    ) -> None:
        super().__init__(code)
        self.code = code
        self.detail = detail
        self.errors = errors
        self.retry_seconds = retry_seconds
        """When to ask again, where it is not the table's word."""


def problem(error: CallerError | Refused) -> Problem:
    """What is told of an error: its code, the words of the table, and nothing that the error does not mean to tell."""
    kind = KINDS[error.code]
    return Problem(
        type=f"{DOCS_PATH}#{error.code}",
        title=kind.title,
        status=kind.status,
        code=error.code,
        detail=error.detail if isinstance(error, Refused) else _MEMBERS.get(error.code, (None, None))[1],
        errors=_errors(error),
        minimum=amount(error.minimum) if isinstance(error, PriceTooLow) else None,
        until=moment(error.until) if isinstance(error, Barred) else None,
    )


_MEMBERS: dict[str, tuple[str | None, str | None]] = {
    "bad_service": ("/service", "not in the catalogue: see /services"),
    "bad_country": ("/country", "not in the catalogue: see /countries"),
    "bad_phone_exception": ("/phone_exceptions", None),
    "price_too_low": ("/max_price", None),
    "bad_webhook_url": ("/url", None),
    "webhook_not_https": ("/url", None),
    "webhook_url_too_long": ("/url", "255 characters at most"),
    "wrong_password": ("/current_password", None),
    "bad_key": (None, "send it as `Authorization: Bearer …`, as `X-Api-Key`, or as the parameter `api_key`"),
}
"""The member of the body each of these is about, and what more there is to say."""


def _errors(error: CallerError | Refused) -> list[Wrong] | None:
    if isinstance(error, Refused) and error.errors:
        return list(error.errors)
    pointer, detail = _MEMBERS.get(error.code, (None, None))
    return [Wrong(pointer=pointer, detail=detail or KINDS[error.code].title)] if pointer else None


def wrong_members(error: ValidationError) -> list[Wrong]:
    """What is wrong with a body. Values are not repeated: there may be a secret in the wrong place."""
    return [Wrong(pointer=_pointer(found["loc"]), detail=_told(found)) for found in _found(error)]


def wrong_parameters(error: ValidationError) -> list[Wrong]:
    """What is wrong with a query; likewise."""
    return [Wrong(parameter=_name(found["loc"][0]), detail=_told(found)) for found in _found(error)]


def _found(error: ValidationError) -> list[Any]:
    return list(error.errors(include_url=False, include_context=False, include_input=False))


def _told(found: Any) -> str:
    return "there is no such member" if found["type"] == "extra_forbidden" else str(found["msg"])


def _pointer(location: Sequence[int | str]) -> str:
    return "".join("/" + _name(part).replace("~", "~0").replace("/", "~1") for part in location)


def _name(part: int | str) -> str:
    """A name as the client wrote it, within limits: a key pasted in a name's place is blotted out."""
    return redact(str(part))[:NAME_LENGTH_MAX]
