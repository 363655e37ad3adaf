"""From what every upstream would sell to an ordered short-list. Pure: the same call serves orders, `explain` and lists.

Every candidate ends up either ranked, with the reason for its place, or excluded, with the reason why:

    barred      the upstream may not serve this order at all
    unsellable  no stock, no exchange rate, dearer than the caller's rules allow
    ejected     its circuit is open and another one stands; the last one standing stays, to fail fast
    dearer      above the ceiling
    repeated    same upstream and operator as a better place

The listed price is that of the first place when no operator is asked for and no cap is given. It is a promise: without
a cap it is the ceiling, whatever operator the caller then names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from gateway.health import CircuitState, Phase
from gateway.model import Offer, Quote
from gateway.money import MICROS, PRICE_STEP_MICROS, Money, plain
from gateway.pricing import RuleBook, Selector
from gateway.settings import RoutingRule, RoutingSettings


class Because(NamedTuple):
    """A reason, put into words only when somebody reads it: most orders' reasons nobody does."""

    template: str
    values: tuple[Any, ...] = ()

    def __str__(self) -> str:
        return self.template.format(*map(_worded, self.values))


def _worded(value: Any) -> Any:
    return plain(value.micros) if isinstance(value, Money) else value


@dataclass(frozen=True, slots=True)
class Route:
    """What the routing rules say of a (service, country, account). `order`, unless empty, names the only upstreams
    allowed, with the priority each has here instead of its own."""

    policy: str = "value"
    order: Mapping[str, int] = field(default_factory=dict)
    exclude: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Terms:
    """What one caller asks for. `operators` in lower case, empty for any; `price_max` is in `currency`.

    What costs more than `price_limit` (micro-units) is not for sale to this caller at all: no cap of the order, which
    failover may go up to, but a rule of the account or key.
    """

    currency: str
    is_demo: bool = False
    operators: frozenset[str] = frozenset()
    price_max: Money | None = None
    price_limit: int | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """One upstream as it stands now, for one service and country. Lower tiers and priorities come first.

    `circuit` is None unless open. `list_age_seconds` is nought for one that sells by rule, None while there is no list.
    `rates_stale_seconds` is the age of exchange rates that are needed and too old, else None.
    """

    name: str
    tier: int = 1
    priority: int = 100
    serves_demo: bool = False
    is_enabled: bool = True
    is_drained: bool = False
    is_overexposed: bool = False
    is_in_doubt: bool = False
    list_age_seconds: float | None = 0.0
    list_age_max_seconds: float = 900.0
    list_error: str = ""
    rates_stale_seconds: float | None = None
    circuit: CircuitState | None = None
    circuit_seconds_left: float = 0.0


class Candidate(NamedTuple):
    """An offer to be placed. `price` is None where there is no exchange rate. `value` is the expected cost of one
    delivered code in micro-units of house currency: a float, since it is only compared."""

    offer: Offer
    price: Money | None
    value: float


class Stall(NamedTuple):
    """One upstream with everything it offers for the order."""

    facts: Facts
    candidates: Sequence[Candidate]


@dataclass(frozen=True, slots=True)
class Ranked:
    """A place on the short-list. `fail_fast`: its circuit is open and it is the last one standing, so be impatient."""

    quote: Quote
    because: Because
    fail_fast: bool = False

    @property
    def reason(self) -> str:
        return str(self.because)


@dataclass(frozen=True, slots=True)
class Excluded:
    """Not bought, and why. `offer` is None where the upstream had nothing to offer, `price` where there is none."""

    upstream: str
    because: Because
    offer: Offer | None = None
    price: Money | None = None

    @property
    def reason(self) -> str:
        return str(self.because)


@dataclass(frozen=True, slots=True)
class Listed:
    """What the price list says: so many can be bought at this price or below."""

    price: Money
    count: int


@dataclass(frozen=True, slots=True)
class Shortlist:
    """The answer. `ceiling` is what to hold: the cap, or else the listed price; None where there is neither.

    `listed` and `minimum` (the lowest price with stock behind it) are None where nothing is for sale to this caller.
    """

    ranked: tuple[Ranked, ...]
    excluded: tuple[Excluded, ...]
    ceiling: Money | None
    listed: Listed | None
    minimum: Money | None

    @property
    def in_stock(self) -> bool:
        """Whether anything is for sale, be it above the ceiling."""
        return self.minimum is not None


class Routes:
    """The routing rules, looked up: the first that matches decides."""

    def __init__(self, settings: RoutingSettings) -> None:
        rules = (
            ((rule.services, rule.countries, rule.accounts, ()), _route(rule, settings.policy))
            for rule in settings.rule
        )
        self._rules = RuleBook(rules, Route(settings.policy))

    def route(self, service: str, country: int, account_name: str) -> Route:
        return self._rules.find(service, country, account_name)

    def alias(self, account_name: str) -> str:
        """As `RuleBook.alias`."""
        return self._rules.alias(account_name)


def _selector(rule: RoutingRule) -> Selector:
    return rule.services, rule.countries, rule.accounts, ()


def _route(rule: RoutingRule, policy: str) -> Route:
    order = {name: place for place, name in enumerate(rule.upstreams, start=1)}
    return Route(rule.policy or policy, order, rule.exclude)


# What is to be had


def choose(stalls: Iterable[Stall], terms: Terms, route: Route) -> Shortlist:
    """Ranks what may be bought on these terms; every candidate is ranked or excluded, exactly once."""
    excluded: list[Excluded] = []
    spots = _in_order(_standing(_sellable(stalls, terms, route, excluded), excluded), route)
    listed = _listed(spots)
    ceiling = terms.price_max if terms.price_max is not None or listed is None else listed.price
    ranked = _ranked(_asked_first(spots, terms), terms, route, ceiling, excluded)
    minimum = min((spot.price for spot in spots), key=_micros, default=None)
    return Shortlist(tuple(ranked), tuple(excluded), ceiling, listed, minimum)


def list_price(stalls: Iterable[Stall], terms: Terms, route: Route) -> Listed | None:
    """The listed price and count alone: exactly what `choose` says, without the reasons."""
    return _listed(_in_order(_standing(_sellable(stalls, terms, route, None), None), route))


class _Spot(NamedTuple):
    """A candidate that has a price and stock."""

    facts: Facts
    offer: Offer
    price: Money
    value: float


def _sellable(stalls: Iterable[Stall], terms: Terms, route: Route, excluded: list[Excluded] | None) -> list[_Spot]:
    spots: list[_Spot] = []
    limit = terms.price_limit
    for facts, candidates in stalls:
        because = barrier(facts, terms) or named(facts.name, route)
        if because is None and not candidates:
            because = NOT_SOLD
        if because is not None:
            _exclude_all(facts, candidates, because, excluded)
            continue
        for offer, price, value in candidates:
            if price is not None and offer.count > 0 and (limit is None or price.micros <= limit):
                spots.append(_Spot(facts, offer, price, value))
            elif excluded is not None:
                excluded.append(Excluded(facts.name, _unsellable(offer, price, terms), offer, price))
    return spots


def _exclude_all(
    facts: Facts, candidates: Iterable[Candidate], because: Because, excluded: list[Excluded] | None
) -> None:
    if excluded is None:
        return
    before = len(excluded)
    excluded.extend(Excluded(facts.name, because, offer, price) for offer, price, _ in candidates)
    if len(excluded) == before:
        excluded.append(Excluded(facts.name, because))


def _standing(spots: list[_Spot], excluded: list[Excluded] | None) -> list[_Spot]:
    """Ejects open circuits. Where nothing else is left, the upstream whose circuit closes soonest stays."""
    if all(spot.facts.circuit is None for spot in spots):
        return spots
    last = None if any(spot.facts.circuit is None for spot in spots) else min(map(_closing, spots))[1]
    kept = [spot for spot in spots if spot.facts.circuit is None or spot.facts.name == last]
    if excluded is not None:
        ejected = (spot for spot in spots if spot.facts.circuit is not None and spot.facts.name != last)
        excluded.extend(_excluded(spot, _circuit(spot.facts, spot.facts.circuit)) for spot in ejected)
    return kept


def _closing(spot: _Spot) -> tuple[float, str]:
    return spot.facts.circuit_seconds_left, spot.facts.name


# Order

_Key = tuple[Any, ...]


def _in_order(spots: list[_Spot], route: Route) -> list[_Spot]:
    """By the route's policy. Keys name everything that tells two offers apart, so the order given does not matter."""
    if len(spots) < 2:
        return spots
    key: Callable[[_Spot, int], _Key] = _by_priority if route.policy == "priority" else _by_value
    return sorted(spots, key=lambda spot: key(spot, _priority(spot.facts, route)))


def _by_value(spot: _Spot, priority: int) -> _Key:
    """Values are compared to the nearest price step: "about equal" would not be transitive."""
    facts, offer, price, value = spot
    nearest = round(value / PRICE_STEP_MICROS)
    return facts.tier, nearest, priority, facts.name, price.micros, offer.operator, offer.cost.micros, -offer.count


def _by_priority(spot: _Spot, priority: int) -> _Key:
    facts, offer, price, value = spot
    return facts.tier, priority, price.micros, facts.name, offer.operator, offer.cost.micros, -offer.count, value


def _priority(facts: Facts, route: Route) -> int:
    return route.order.get(facts.name, facts.priority)


def _listed(spots: Sequence[_Spot]) -> Listed | None:
    """Price of the first, and how many there are at that price or below."""
    if not spots:
        return None
    price = spots[0].price
    return Listed(price, sum(spot.offer.count for spot in spots if spot.price.micros <= price.micros))


def _asked_first(spots: list[_Spot], terms: Terms) -> list[_Spot]:
    """Operators the caller named come first; where nobody has them, the order stands as it is."""
    if not terms.operators:
        return spots
    return sorted(spots, key=lambda spot: not _is_asked(spot.offer, terms))


def _is_asked(offer: Offer, terms: Terms) -> bool:
    return offer.operator.lower() in terms.operators


def _ranked(
    spots: Iterable[_Spot], terms: Terms, route: Route, ceiling: Money | None, excluded: list[Excluded]
) -> list[Ranked]:
    """What fits under the ceiling, each upstream and operator once."""
    ranked: list[Ranked] = []
    taken: set[tuple[str, str]] = set()
    for spot in spots:
        facts, offer, price, _ = spot
        if ceiling is not None and price.micros > ceiling.micros:
            excluded.append(_excluded(spot, Because("price {} is above the ceiling {}", (price, ceiling))))
        elif (facts.name, offer.operator) in taken:
            excluded.append(_excluded(spot, _repeated(offer)))
        else:
            taken.add((facts.name, offer.operator))
            ranked.append(Ranked(Quote(offer, price), _place(spot, terms, route), facts.circuit is not None))
    return ranked


def _excluded(spot: _Spot, because: Because) -> Excluded:
    return Excluded(spot.facts.name, because, spot.offer, spot.price)


def _micros(price: Money) -> int:
    return price.micros


# Reasons

SERVES_DEMO = Because("serves demo accounts only")
SERVES_NO_DEMO = Because("serves no demo accounts")
SWITCHED_OFF = Because("switched off")
DRAINED = Because("drained: it takes no new orders")
OVEREXPOSED = Because("purchases in doubt there may have cost too much")
IN_DOUBT = Because("a purchase in doubt is being settled")
NOT_NAMED = Because("not named by the routing rule")
RULED_OUT = Because("excluded by the routing rule")
NOT_SOLD = Because("does not sell this service in this country")
SOLD_OUT = Because("sold out")
TOO_DEAR = Because("costs more than the rules of the account or key allow")
NOT_ALLOWED = Because("not allowed by the rules of the account or key")
ON_TRIAL = Because("circuit half open: another order is trying it out")


def barrier(facts: Facts, terms: Terms) -> Because | None:
    """Why this upstream can serve no order on these terms, leaving prices and circuits aside; None if it can."""
    if facts.serves_demo is not terms.is_demo:
        return SERVES_DEMO if facts.serves_demo else SERVES_NO_DEMO
    if not facts.is_enabled:
        return SWITCHED_OFF
    if facts.is_drained:
        return DRAINED
    if facts.is_overexposed:
        return OVEREXPOSED
    if facts.list_age_seconds is None or facts.list_age_seconds > facts.list_age_max_seconds:
        return _list_trouble(facts)
    if facts.rates_stale_seconds is not None:
        return _rates_trouble(facts.rates_stale_seconds / 3600)
    return IN_DOUBT if facts.is_in_doubt else None


def named(upstream: str, route: Route) -> Because | None:
    """Why the routing rule keeps this upstream out; None if it does not."""
    if route.order and upstream not in route.order:
        return NOT_NAMED
    return RULED_OUT if upstream in route.exclude else None


def _rates_trouble(age_hours: float) -> Because:
    if age_hours < 0:
        return Because("exchange rates are dated in the future")
    return Because("exchange rates are {:.0f} h old", (age_hours,))


def _list_trouble(facts: Facts) -> Because:
    error = f" ({facts.list_error})" if facts.list_error else ""
    if facts.list_age_seconds is None:
        return Because("no price list yet{}", (error,))
    return Because("price list is {} old{}", (_duration(facts.list_age_seconds), error))


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _unsellable(offer: Offer, price: Money | None, terms: Terms) -> Because:
    if price is None:
        return Because("no exchange rate from {} to {}", (offer.cost.currency, terms.currency))
    return SOLD_OUT if offer.count <= 0 else TOO_DEAR


def _circuit(facts: Facts, circuit: CircuitState | None) -> Because:
    if circuit is None or circuit.phase is Phase.HALF_OPEN:
        return ON_TRIAL
    faults = "1 fault" if circuit.faults == 1 else f"{circuit.faults} faults"
    return Because("circuit open for {:.0f} s more after {} ({})", (facts.circuit_seconds_left, faults, circuit.reason))


def _repeated(offer: Offer) -> Because:
    operator = f" for operator {offer.operator}" if offer.operator else ""
    return Because("a better place asks {} already{}", (offer.upstream, operator))


def _place(spot: _Spot, terms: Terms, route: Route) -> Because:
    facts, offer, _, value = spot
    asked = f"operator {offer.operator} as asked, " if terms.operators and _is_asked(offer, terms) else ""
    priority = _priority(facts, route)
    if route.policy == "priority":
        return Because("{}tier {}, priority {}", (asked, facts.tier, priority))
    values = (asked, facts.tier, value / MICROS, priority)
    return Because("{}tier {}, {:.4f} expected per delivered code, priority {}", values)
