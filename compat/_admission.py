"""From where, and by which way, a key may be used."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.types import Scope

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


def peer(scope: Scope, trusted_proxies: Iterable[str]) -> str:
    """Who sent the request: the last address in the chain that is no trusted proxy's. Empty where nobody can tell."""
    trusted = (tuple(trusted_proxies),)
    given = [value for name, value in scope["headers"] if name == b"x-forwarded-for"]
    chain = [part.strip() for value in given for part in value.decode("latin-1").split(",")]
    client = scope.get("client")
    address = str(client[0]) if client else ""
    while chain and is_within(address, trusted):
        address = chain.pop()
    return address
