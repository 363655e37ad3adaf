"""What the use-cases share: the store, the upstreams, the market, the live map, the time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.bus import Silence, Tells
from gateway.guard import Guard
from gateway.health import Health
from gateway.live import LiveMap
from gateway.metrics import Metrics
from gateway.model import Clock
from gateway.offers import Market
from gateway.refunds import Losses
from gateway.settings import Settings, Stanza
from gateway.store import Store
from gateway.upstream import Upstream
from gateway.vault import Vault


@dataclass
class House:
    """One running gateway. `settings`, `upstreams` and `market` are swapped by reference when files change."""

    store: Store
    vault: Vault
    clock: Clock
    settings: Settings
    upstreams: Mapping[str, Upstream]
    market: Market
    health: Health
    metrics: Metrics
    live: LiveMap = field(default_factory=LiveMap)
    bus: Tells = field(default_factory=Silence)
    is_shared: bool = False
    """Whether other processes may work on the same database."""

    status_calls: Counter[str] = field(default_factory=Counter)
    """Calls other than purchases, by upstream: what a poller paces itself by."""

    guard: Guard = field(default_factory=Guard)
    """Whether there is room to buy."""

    losses: Losses = field(init=False)

    former: Mapping[str, Stanza] = field(default_factory=dict)
    """Stanzas of earlier configurations: numbers may still be open at an upstream that was taken out of the file."""

    def __post_init__(self) -> None:
        self.losses = Losses(self.metrics)

    def stanza(self, upstream: str) -> Stanza | None:
        """An upstream's stanza, be it the last one it had; None for one this process never knew."""
        return self.settings.upstreams.get(upstream) or self.former.get(upstream)
