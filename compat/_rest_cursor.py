"""Places in lists, as text that nobody takes for more than it is."""

from __future__ import annotations

import base64

from compat._rest_models import Wrong
from compat._rest_problems import Refused
from gateway.accounts import ID_MAX


def cursor(word: str, place: str | int) -> str:
    """A place, opened again by the list that made it: the one of the same word."""
    return base64.urlsafe_b64encode(f"{word}:{place}".encode()).decode().rstrip("=")


def place_of(word: str, given: str | None) -> str | None:
    """The place behind a cursor; None without one. Raises Refused."""
    if given is None:
        return None
    try:
        found, colon, place = base64.urlsafe_b64decode(given + "=" * (-len(given) % 4)).decode("ascii").partition(":")
    except ValueError:
        found = colon = place = ""
    if not (found == word and colon and place and place.isprintable()):
        raise _not_ours()
    return place


def id_of(word: str, given: str | None, default: int) -> int:
    """The id behind a cursor; the default without one. Raises Refused."""
    place = place_of(word, given)
    if place is None:
        return default
    if not (place.isdigit() and len(place) < 20 and 0 < int(place) <= ID_MAX):
        raise _not_ours()
    return int(place)


def _not_ours() -> Refused:
    return Refused("invalid", errors=[Wrong(parameter="cursor", detail="not one that was given out")])
