"""From where, and by which way, a key may be used."""

from __future__ import annotations

from starlette.types import Scope

from compat._peer import peer
from gateway.accounts import Caller
from gateway.errors import BadKey
from gateway.front import Front
from gateway.rules import is_within


def require_way_in(front: Front, caller: Caller, scope: Scope, dialect: str) -> None:
    """Raises BadKey where the key is kept to other addresses or dialects: who has a stolen one learns nothing more."""
    if caller.dialects is not None and dialect not in caller.dialects:
        raise BadKey
    if caller.ip_ranges:
        address = peer(scope, front.house.settings.gateway.server.trusted_proxies)
        if not is_within(address, caller.ip_ranges):
            raise BadKey
