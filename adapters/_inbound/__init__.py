"""Inbound SMS to numbers of one's own: one small pure module per sender's format, found by its name.

Facts: `protocol/upstreams/inbound_sms.md`. The modules keep nothing and talk to nobody: `verify` says whether a request
is genuine, `parse` what messages are in it. Whose lease a message belongs to, what was seen before and how parts are
joined is for the one who keeps the pool. A new format is a new module here; those starting with an underscore are
shared parts.

Every secret may hold several values separated by spaces, any of which will do: several accounts or phones push to one
address, and a secret has to be changed without losing what is under way. No value may have a space in it.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import NamedTuple, Protocol, cast, runtime_checkable

from gateway.upstream import PushRequest

NOTHING = (b"", "text/plain")
"""The answer of those who look at the status only."""


class Part(NamedTuple):
    """One of several calls that make a message: what they share, how many there are, and which this is, from 1."""

    reference: str
    total: int
    number: int


@dataclass(frozen=True, slots=True)
class Inbound:
    """One message, or one part of one.

    `id` is the sender's own and stays the same however often the message is pushed. `to` is digits only, and empty
    where the sender does not tell which number of ours was written to: `device` then says where to look it up.
    `sender` is digits where it is a number, else the name as it came. `text` may be empty.
    """

    id: str
    to: str
    sender: str
    text: str
    received_at: float | None = None
    device: str = ""
    part: Part | None = None

    def __repr__(self) -> str:
        return "Inbound(…)"


class Source(Protocol):
    """What a module here has to offer."""

    @property
    def SECRETS(self) -> Mapping[str, bool]:
        """Names of the secrets it wants, and whether nothing can be verified without them."""
        ...

    @property
    def ANSWER(self) -> tuple[bytes, str]:
        """Body and media type the sender wants to see, with status 200."""
        ...

    def verify(self, request: PushRequest, secrets: Mapping[str, str], now: float, /) -> None:
        """Returns for a genuine request, raises PushRefused for any other. Goes by the raw bytes."""
        ...

    def parse(self, request: PushRequest, /) -> Sequence[Inbound]:
        """The messages of a request; none where it tells of something else (receipts, pings). Raises PushUnreadable.

        Reads only what `verify` vouched for.
        """
        ...


@runtime_checkable
class TellsDevices(Protocol):
    """Sometimes tells which numbers are in which device."""

    def devices(self, request: PushRequest, /) -> Mapping[str, str]:
        """`Inbound.device` to number, from a verified request; empty for most. Raises PushUnreadable."""
        ...


class UnknownSource(LookupError):
    """No format has that name; the message lists the known names and the nearest."""

    def __init__(self, name: str, names: list[str]) -> None:
        near = get_close_matches(name, names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        super().__init__(f"unknown source {name!r}{hint} (known: {', '.join(names)})")


def known() -> list[str]:
    """Names of all formats, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def load(source: str) -> Source:
    """The format of that name, imported when first asked for: some bring heavy packages. Raises UnknownSource."""
    names = known()
    if source not in names:
        raise UnknownSource(source, names)
    return cast("Source", importlib.import_module(f"{__name__}.{source}"))
