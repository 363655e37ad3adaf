"""Two trees: what a caller is told, and what an adapter raises.

CallerError                      UpstreamError
├─ BadKey, Barred, Suspended, …  ├─ NothingTaken        a purchase surely took no number
├─ BadService, BadCountry, …     │  ├─ SoldOut
├─ NoNumbers, NoBalance, …       │  ├─ Refused           this order, or this account there
├─ UnknownActivation, …          │  ├─ CallerBarred
└─ Unavailable                   │  └─ NotReached        no connection was made
                                 ├─ InDoubt             a purchase perhaps took one
                                 ├─ Unwell              any other call failed; ask again later
                                 ├─ TooEarly            a cancel is refused for now
                                 ├─ HasSms              a cancel is refused: a message is there
                                 ├─ NotAllowed          this verb, in this state, never
                                 ├─ UnknownLease        no such reference there
                                 ├─ PushRefused         a push is not proven to come from the upstream
                                 └─ PushUnreadable      a push makes no sense
"""

from __future__ import annotations

from typing import ClassVar, Self

from gateway.money import Money


class CallerError(Exception):
    """Told to a caller. `code` is stable; every dialect has a word for each (a test says so)."""

    code: ClassVar[str] = ""


class BadKey(CallerError):
    code = "bad_key"


class BadAction(CallerError):
    code = "bad_action"


class Barred(CallerError):
    """The account may not buy until `until` (epoch seconds)."""

    code = "barred"

    def __init__(self, until: float) -> None:
        super().__init__()
        self.until = until


class Suspended(CallerError):
    """The account, or one above it, may not buy until somebody lets it again."""

    code = "suspended"


class BadService(CallerError):
    code = "bad_service"


class BadCountry(CallerError):
    code = "bad_country"


class BadPhoneException(CallerError):
    code = "bad_phone_exception"


class PriceTooLow(CallerError):
    """The caller's highest price is below `minimum`, the lowest there is stock at."""

    code = "price_too_low"

    def __init__(self, minimum: Money) -> None:
        super().__init__()
        self.minimum = minimum


class TooManyOpen(CallerError):
    code = "too_many_open"


class NoBalance(CallerError):
    code = "no_balance"


class NoNumbers(CallerError):
    code = "no_numbers"


class OrderExists(CallerError):
    """The caller's own order reference was used before."""

    code = "order_exists"


class BadActivationId(CallerError):
    code = "bad_activation_id"


class UnknownActivation(CallerError):
    """No activation of this account has that id; somebody else's does not exist either."""

    code = "unknown_activation"


class NotAllowedNow(CallerError):
    code = "not_allowed_now"


class CancelTooEarly(CallerError):
    code = "cancel_too_early"


class NoOperators(CallerError):
    code = "no_operators"


class NoActivations(CallerError):
    code = "no_activations"


class BadWebhookUrl(CallerError):
    code = "bad_webhook_url"


class WebhookNotHttps(CallerError):
    code = "webhook_not_https"


class WebhookUrlTooLong(CallerError):
    code = "webhook_url_too_long"


class TooManyRequests(CallerError):
    """Over a limit; asking again can help in `retry_seconds`."""

    code = "too_many_requests"

    def __init__(self, retry_seconds: float = 1.0) -> None:
        super().__init__()
        self.retry_seconds = retry_seconds


class Unavailable(CallerError):
    """The database does not answer, or the house is shutting down: nothing was done, ask again."""

    code = "unavailable"


class Internal(CallerError):
    """A defect of ours; logged where it happened, told to nobody."""

    code = "internal"


class UpstreamError(Exception):
    """Raised by an adapter. The message is for logs and `explain`: it never holds a key, a number or a text.

    `is_local` where the cause lies with this machine, as far as can be told: the upstream has no part in it.
    """

    is_local = False

    def caused_by(self, error: UpstreamError) -> Self:
        """The same, with the cause of another."""
        self.is_local = error.is_local
        return self


class NothingTaken(UpstreamError):
    """A purchase that surely took no number."""


class SoldOut(NothingTaken):
    """No number of this kind at this price now."""


class Refused(NothingTaken):
    """Understood and declined. `is_fault` where the account there is at fault (key, funds, ban), not the order."""

    def __init__(self, message: str, *, is_fault: bool = False) -> None:
        super().__init__(message)
        self.is_fault = is_fault


class CallerBarred(NothingTaken):
    """The upstream bars this caller until `until`; only an upstream that knows our callers may say so."""

    def __init__(self, until: float) -> None:
        super().__init__("caller barred")
        self.until = until


class NotReached(NothingTaken):
    """No connection was made, so nothing was asked. Decided by the cause, not by a wrapper's name."""


class InDoubt(UpstreamError):
    """A purchase whose reply was lost or makes no sense: a number was perhaps taken.

    `reference` names a lease that was certainly taken, and is not what was asked for: it is to be given back.
    """

    def __init__(self, message: str = "", *, reference: str = "") -> None:
        super().__init__(message)
        self.reference = reference


class Unwell(UpstreamError):
    """A call other than a purchase failed (time-out, 5xx, unreadable answer): ask again later."""


class TooEarly(UpstreamError):
    """The cancel window is not open yet; `retry_seconds` where the upstream tells, else None."""

    def __init__(self, retry_seconds: float | None = None) -> None:
        super().__init__("too early to cancel")
        self.retry_seconds = retry_seconds


class HasSms(UpstreamError):
    """Not cancelled: a message has arrived."""


class NotAllowed(UpstreamError):
    """The upstream does not do this in this state, and will not later."""


class UnknownLease(UpstreamError):
    """The upstream knows no such reference."""


class PushRefused(UpstreamError):
    """A push without a valid signature, or from an address or by a path that is not the upstream's: 401."""


class PushUnreadable(UpstreamError):
    """A push that is genuine as far as can be told, and makes no sense: 400."""
