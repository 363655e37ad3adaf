"""What a dialect may use: the use-cases, and the house they work in."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.accounts import Callers
from gateway.activations import Activations
from gateway.house import House
from gateway.inbox import Inbox
from gateway.limits import Limits
from gateway.purchases import Purchases
from gateway.rentals import Rentals


@dataclass(frozen=True)
class Front:
    """One gateway's use-cases, as every dialect gets them."""

    house: House
    callers: Callers
    activations: Activations
    purchases: Purchases
    rentals: Rentals
    limits: Limits
    inbox: Inbox
