"""One activation's trouble stays its own: work on many goes on when that on one fails in a way nobody expected."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import walk_tb

import structlog

from gateway.errors import Unavailable, Unwell, UpstreamError
from gateway.live import Live

log = structlog.get_logger()


@contextmanager
def apart(live: Live, work: str, *passes: type[Exception]) -> Iterator[None]:
    """Ends with whatever goes wrong inside; each kind is logged once for an activation.

    Lets through Unavailable, which concerns every activation, and what is named.
    """
    try:
        yield
    except Unavailable:
        raise
    except Exception as error:
        if isinstance(error, passes):
            raise
        note_unexpected(live, work, error)


@contextmanager
def foreseen(activation_id: int, upstream: str, work: str) -> Iterator[None]:
    """For one request to an upstream: what nobody foresaw is logged, and Unwell, so that it is told again."""
    try:
        yield
    except (UpstreamError, Unavailable):
        raise
    except Exception as error:
        log_unexpected(activation_id, upstream, work, error)
        raise Unwell("it failed in a way nobody expected") from None


def note_unexpected(live: Live, work: str, error: Exception) -> None:
    """A line in the log, once for each kind of trouble that an activation has."""
    kind, place = named(error)
    told = f"{work}: {kind} at {place}"
    if told not in live.troubles:
        live.troubles += (told,)
        log_unexpected(live.id, live.upstream, work, error)


def log_unexpected(activation_id: int, upstream: str, work: str, error: Exception) -> None:
    """What may be told of it."""
    kind, place = named(error)
    log.error("activation.unexpected", activation=activation_id, upstream=upstream, work=work, error=kind, at=place)


def named(error: Exception) -> tuple[str, str]:
    """Its class, and where it was raised: all of an error that surely holds neither a number nor a message."""
    frame, line = list(walk_tb(error.__traceback__))[-1]
    return type(error).__name__, f"{Path(frame.f_code.co_filename).name}:{line}"
