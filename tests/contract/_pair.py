"""What the contract suite has to know of an adapter and the simulator of its upstream."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette

PRICE = "0.40"
STOCK = 7


@dataclass(frozen=True)
class Pair:
    """One adapter and the simulator of its upstream.

    `simulator` builds the application from `simulator_options`, with `stock=3, sms_delay_seconds=None` and, unless it
    is None, `cancel_wait_option` beside them. `path` is where its base URL begins. `shelf` names the goods that
    `service` and `country` stand for to the simulator's `set_stock`; `others` are shelves of the same goods, to be
    emptied. `secrets` are those beside the key.

    What an upstream can't do is said here, and the tests of it are skipped: `gives_second_sms`, `tells_cost` (of what
    was bought), `tells_text` (of a message, beside its code), `tells_stock` (a list without counts sells one of each),
    `tells_finish` (it has no call that finishes), `tells_prices_without_key`, `cancel_wait_option` None (it never
    refuses a cancel for being early).
    """

    adapter: str
    simulator: Callable[..., Starlette]
    key: str
    path: str
    shelf: Mapping[str, str]
    others: tuple[Mapping[str, str], ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
    simulator_options: Mapping[str, Any] = field(default_factory=dict)
    service: str = "tg"
    country: int = 16
    currency: str = "USD"
    unknown_reference: str = "99999"
    cancel_wait_option: str | None = "early_cancel_seconds"
    gives_second_sms: bool = True
    tells_cost: bool = True
    tells_text: bool = True
    tells_stock: bool = True
    tells_finish: bool = True
    tells_prices_without_key: bool = False


def discovered() -> dict[str, Pair]:
    """The pairs of every module in `tests/contract/pairs`: each has a mapping `PAIRS` from a name to a Pair."""
    package = importlib.import_module("tests.contract.pairs")
    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
    modules = [importlib.import_module(f"{package.__name__}.{name}") for name in names]
    return {name: pair for module in modules for name, pair in module.PAIRS.items()}
