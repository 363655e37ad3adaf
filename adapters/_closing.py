"""How a lease stands after a cancel that was refused, or that may have come too late."""

from __future__ import annotations

from gateway.errors import HasSms, NotAllowed, UnknownLease, Unwell
from gateway.model import LeaseState


def accept_cancelled(state: LeaseState, has_sms: bool, said: str = "open all the same") -> None:
    """Return where it has ended without a message, raise what stands against it otherwise.

    Raises HasSms, UnknownLease, NotAllowed, and Unwell with what was `said` to the cancel where it is open still.
    """
    if has_sms:
        raise HasSms
    match state:
        case LeaseState.UNKNOWN:
            raise UnknownLease("order not found")
        case LeaseState.FINISHED:
            raise NotAllowed("finished")
        case LeaseState.OPEN:
            raise Unwell(said)
