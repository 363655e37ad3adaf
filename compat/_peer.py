"""Who sent a request, as far as proxies in front of us are trusted to tell."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.types import Scope

from gateway.rules import is_within


def peer(scope: Scope, trusted_proxies: Iterable[str]) -> str:
    """The last address in the chain that is no trusted proxy's. Empty where nobody can tell."""
    trusted = (tuple(trusted_proxies),)
    told = [value.decode("latin-1") for name, value in scope["headers"] if name == b"x-forwarded-for"]
    chain = [part.strip() for value in told for part in value.split(",")]
    address = str(scope["client"][0]) if scope.get("client") else ""
    while chain and is_within(address, trusted):
        address = _without_port(chain.pop())
    return address


def _without_port(told: str) -> str:
    """The address of `192.0.2.1:5678` and `[2001:db8::1]:5678`, as some proxies write it."""
    if told.startswith("["):
        return told[1:].partition("]")[0]
    return told.partition(":")[0] if told.count(":") == 1 else told
