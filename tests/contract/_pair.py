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
RENT_PRICE = "2.40"
RENT_STOCK = 5


@dataclass(frozen=True)
class Rented:
    """What the suite has to know of an upstream that rents out, beside `Pair`.

    Its simulator has `set_rent_stock(**shelf, price=…, count=…)`, which sets what one number costs for `hours`;
    `deliver_rental(id, text)`; and `rental_views()`, every rental ever made, oldest first, each with `id`, `phone`,
    `state` and `extensions` (how many it was given). Its faults have the targets `rent` and `extend`. The simulator's
    id of a rental is what the lease's reference has behind `rent:`.

    `extension_hours` cost `extension_cost`. `unknown_reference` is well-formed and nobody's.

    What it can't do is said here: `tells_cost` (of what was rented), `tells_finish` (reading shows that it was
    finished), `tells_goods` (a rental found names its service and country), `tells_end` (reading tells after an
    extension in doubt whether it took place), `is_extensible`, `is_returnable` (a rental can be given back at all),
    `asks_countries` (where it rents out is not known beforehand), `cancel_seconds` None (it takes a rental back for as
    long as no message came). `closes_silently`: it answers a close with no body, so there is none to be broken.
    `service` is what is rented where that is not the pair's.
    """

    shelf: Mapping[str, Any]
    hours: int = 24
    extension_hours: int = 24
    extension_cost: str = RENT_PRICE
    unknown_reference: str = "rent:99999"
    cancel_seconds: float | None = 1200.0
    tells_cost: bool = True
    tells_finish: bool = True
    tells_goods: bool = True
    tells_end: bool = True
    is_extensible: bool = True
    is_returnable: bool = True
    asks_countries: bool = True
    closes_silently: bool = False
    service: str = ""


@dataclass(frozen=True)
class Reused:
    """Of an upstream that hands out a number again. Its simulator's faults have the target `reuse`."""

    cost: str = PRICE
    tells_cost: bool = True


@dataclass(frozen=True)
class Beside:
    """Of one that adds a service to a number in use: `service` by our code and `shelf` its goods, at `PRICE` each.

    Its simulator's faults have the target `beside`.
    """

    shelf: Mapping[str, str]
    service: str = "wa"
    tells_cost: bool = True


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

    `rented`, `reused` and `beside` belong to upstreams with these abilities (`test_rentals.py`).
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
    rented: Rented | None = None
    reused: Reused | None = None
    beside: Beside | None = None


def discovered() -> dict[str, Pair]:
    """The pairs of every module in `tests/contract/pairs`: each has a mapping `PAIRS` from a name to a Pair."""
    package = importlib.import_module("tests.contract.pairs")
    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
    modules = [importlib.import_module(f"{package.__name__}.{name}") for name in names]
    return {name: pair for module in modules for name, pair in module.PAIRS.items()}
