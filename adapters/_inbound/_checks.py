"""What verifying takes. Whatever is wrong, a stranger is told one thing: refused."""

from __future__ import annotations

import hmac
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from gateway.errors import PushRefused
from gateway.upstream import PushRequest

TOLERANCE_SECONDS = 300.0
"""How far a time stamp may be from our clock, either way, where the sender signs each repeat anew."""

REPEATS_SECONDS = 86_400.0 + TOLERANCE_SECONDS
"""How old one may be where the sender repeats for a day and perhaps does not sign anew."""

SECONDS_MAX = 1e11
"""More than any clock shows, and little enough to reckon with."""

_STAMP = re.compile(r"[0-9]{1,11}")
_HEADER = re.compile(r"[\x20-\x7e]{1,8192}")


@contextmanager
def refusing() -> Iterator[None]:
    """For verifying: what can't be read can't be genuine. UnicodeError and the readers' Unreadable are ValueErrors."""
    try:
        yield
    except ValueError:
        pass
    else:
        return
    raise PushRefused("what was to be verified makes no sense")


def keys(secrets: Mapping[str, str], name: str) -> Sequence[str]:
    """The values of one secret, at least one."""
    values = secrets.get(name, "").split()
    if not values:
        raise PushRefused(f"no {name} is set")
    return values


def header(request: PushRequest, name: str) -> str:
    """A header that has to be there, in printable ASCII."""
    value = request.headers.get(name, "")
    if not _HEADER.fullmatch(value):
        raise PushRefused(f"no sensible {name}")
    return value


def equal(one: str, other: str) -> bool:
    """Compared in a time that tells nothing of where they differ."""
    return hmac.compare_digest(one.encode(), other.encode())


def hex_hmac(key: str, message: bytes) -> str:
    return hmac.new(key.encode(), message, "sha256").hexdigest()


def require(is_genuine: bool) -> None:
    if not is_genuine:
        raise PushRefused("the signature does not fit")


def require_recent(
    stamp: str, now: float, past_seconds: float = TOLERANCE_SECONDS, future_seconds: float = TOLERANCE_SECONDS
) -> None:
    """Refuses a time stamp (epoch seconds) that is too far from our clock: a recording, played again."""
    if not _STAMP.fullmatch(stamp):
        raise PushRefused("no sensible time stamp")
    if not -future_seconds <= now - int(stamp) <= past_seconds:
        raise PushRefused("the time stamp is too far from our clock")


def require_stamped_hmac(request: PushRequest, candidates: Sequence[str], now: float) -> None:
    """X-Signature is the hex HMAC-SHA256 of the body followed by X-Timestamp.

    Nothing separates the two, so digits could move from one to the other; a JSON object ends in a brace, though, and
    what is left of the time stamp would be decades old.
    """
    stamp, signature = header(request, "x-timestamp"), header(request, "x-signature").lower()
    require_recent(stamp, now)
    message = request.body + stamp.encode()
    require(any(equal(hex_hmac(key, message), signature) for key in candidates))


def bearer_claims(request: PushRequest, candidates: Sequence[str], now: float) -> Mapping[str, Any]:
    """The claims of the JWT in Authorization, signed with HS256 by one of the keys and within the times it names.

    Times are compared here, since PyJWT would read the clock of the machine.
    """
    scheme, _, token = header(request, "authorization").partition(" ")
    if scheme.lower() != "bearer":
        raise PushRefused("no bearer token")
    for key in candidates:
        claims = _claims(token.strip(), key)
        if claims is not None:
            expires, begins = _seconds(claims, "exp", math.inf), _seconds(claims, "nbf", -math.inf)
            if not begins - TOLERANCE_SECONDS <= now <= expires + TOLERANCE_SECONDS:
                raise PushRefused("the token is not valid now")
            return claims
    raise PushRefused("the signature does not fit")


def _claims(token: str, key: str) -> dict[str, Any] | None:
    import jwt

    only_the_signature: Any = dict.fromkeys(
        ("verify_exp", "verify_nbf", "verify_iat", "verify_aud", "verify_iss", "verify_sub", "verify_jti"), False
    )
    try:
        with warnings.catch_warnings():
            # Of keys under 32 bytes: the vendor's choice, and to be told at every request helps nobody
            warnings.simplefilter("ignore", jwt.InsecureKeyLengthWarning)
            return jwt.decode(token, key, algorithms=["HS256"], options=only_the_signature)
    except jwt.PyJWTError:
        return None


def _seconds(claims: Mapping[str, Any], name: str, default: float) -> float:
    if name not in claims:
        return default
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= SECONDS_MAX:
        raise PushRefused(f"no sensible {name}")
    return float(value)
