"""Who may call what: a key or a reseller's session for its account, an operator's session for the house."""

from __future__ import annotations

from enum import Enum

from compat._rest_problems import Refused
from gateway.accounts import Caller
from gateway.sessions import Session
from gateway.users import Role


class Access(Enum):
    """What a call needs. The value is the problem told to somebody who is known and may not."""

    ACCOUNT = "account_required"
    SESSION = "session_required"
    OPERATOR = "operator_required"
    MANAGER = "may_not_manage"
    """A key that may manage, any session."""

    ANYBODY = ""
    """Any key, any session."""


def require(access: Access, caller: Caller | None, session: Session | None) -> None:
    """Raises Refused where whoever asks may not."""
    may = {
        Access.ACCOUNT: caller is not None,
        Access.SESSION: session is not None,
        Access.OPERATOR: session is not None and session.person.role is Role.OPERATOR,
        Access.MANAGER: session is not None or (caller is not None and caller.may_manage),
        Access.ANYBODY: True,
    }
    if not may[access]:
        raise Refused(access.value)
