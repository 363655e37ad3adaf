"""Adapters: one module per upstream, found by its name.

A new upstream is a new module here that has `Options` and `build`; no existing file changes. Modules whose name starts
with an underscore are shared parts, not adapters.
"""

from __future__ import annotations

import importlib
import pkgutil
from difflib import get_close_matches
from typing import Any, Protocol, cast

from pydantic import BaseModel

from gateway.upstream import Context, Upstream


class AdapterModule(Protocol):
    """What a module here has to offer.

    It may also set `NEEDS_SECRET = False` where the upstream takes no key, and `SECRETS`, a mapping from the names of
    further secrets to whether they are needed; see `secrets`.
    """

    @property
    def Options(self) -> type[BaseModel]:
        """The stanza's own keys: frozen, unknown keys forbidden."""
        ...

    def build(self, context: Context, options: Any) -> Upstream:
        """An upstream made of the wiring's context and this module's validated `Options`."""
        ...


class UnknownAdapter(LookupError):
    """No adapter has that name; the message lists the known names and the nearest."""

    def __init__(self, name: str, names: list[str]) -> None:
        near = get_close_matches(name, names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        super().__init__(f"unknown adapter {name!r}{hint} (known: {', '.join(names)})")


def known() -> list[str]:
    """Names of all adapters, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def load(name: str) -> AdapterModule:
    """The adapter of that name. Raises UnknownAdapter, or TypeError where the module lacks a part."""
    names = known()
    if name not in names:
        raise UnknownAdapter(name, names)
    module = importlib.import_module(f"{__name__}.{name}")
    missing = [part for part in ("Options", "build") if not hasattr(module, part)]
    if missing:
        raise TypeError(f"adapter {name!r} lacks {', '.join(missing)}")
    return cast("AdapterModule", module)


def secrets(module: AdapterModule) -> dict[str, bool]:
    """Secrets an upstream of this kind takes, and whether it is useless without them.

    `api_key` comes first; the environment variable of each is the upstream's name and the secret's, in capitals.
    """
    return {"api_key": bool(getattr(module, "NEEDS_SECRET", True)), **getattr(module, "SECRETS", {})}
