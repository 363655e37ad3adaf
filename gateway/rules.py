"""What an account or a key may do: its own rules, and what is left of them under everybody above it.

Pure. A rule that is None (or empty, for what is denied and for addresses) says nothing. Whatever one level may not do,
those below may not: allow-lists are cut down to what they share, denials add up, of two highest prices the lower holds.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any

from gateway.catalog import Catalog
from gateway.money import MAX_MICROS
from gateway.settings import DIALECTS

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

WAYS_IN = (*DIALECTS, "5sim", "rest")
"""What a key can be kept to: the dialects by name, 5sim's protocol, and the JSON API."""

IP_RANGES_MAX = 64
OPEN_MAX = 1_000_000
TIME_MAX = 253_402_300_800.0
"""The year 10000."""

NAME_LENGTH_MAX = 100

SPEND_CAPS = {"hour": "spend_hour", "day": "spend_day", "month": "spend_month", "total": "spend_total"}
"""The rule that caps what is spent, by the period it is for."""

PER_MINUTE = ("polls_per_minute", "changes_per_minute")
"""Rules of accounts alone: a key has limits of its own."""

PER_MINUTE_MAX = 1_000_000_000

_TWO_LETTERS = re.compile(r"[A-Za-z]{2}")


class RuleError(ValueError):
    """A rule can't be so; the message says why, in words for a person."""


ANY_SERVICE = "full"
"""What rentals call a number that receives the messages of every service."""


@dataclass(frozen=True, slots=True)
class Allowed:
    """What may be bought. `price_max` is the highest price of one number, in micro-units of the account's currency."""

    services: frozenset[str] | None = None
    denied_services: frozenset[str] = frozenset()
    countries: frozenset[int] | None = None
    price_max: int | None = None

    def sells(self, service: str, country: int) -> bool:
        """Whether such a number may be bought at all, its price aside.

        A number for every service is one for the denied services too.
        """
        return (
            (self.services is None or service in self.services)
            and service not in self.denied_services
            and not (self.denied_services and service == ANY_SERVICE)
            and (self.countries is None or country in self.countries)
        )


EVERYTHING = Allowed()


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of one account or key, as they are stored. Amounts are micro-units, times seconds since the epoch."""

    suspended_at: float | None = None
    expires_at: float | None = None
    services: frozenset[str] | None = None
    denied_services: frozenset[str] = frozenset()
    countries: frozenset[int] | None = None
    ip_ranges: tuple[str, ...] = ()
    dialects: frozenset[str] | None = None
    price_max: int | None = None
    open_max: int | None = None
    spend_hour: int | None = None
    spend_day: int | None = None
    spend_month: int | None = None
    spend_total: int | None = None
    polls_per_minute: int | None = None
    changes_per_minute: int | None = None

    def cap(self, period: str) -> int | None:
        """The most that may be spent in a period (`SPEND_CAPS`), None where nobody says."""
        cap: int | None = getattr(self, SPEND_CAPS[period])
        return cap

    def stopped_at(self) -> float | None:
        """From when on it is over: for ever while suspended, whatever the clock that wrote it said. None for never."""
        return 0.0 if self.suspended_at is not None else self.expires_at


NO_RULES = Rules()
COLUMNS = tuple(field.name for field in fields(Rules))


def allowed(levels: Iterable[Rules]) -> Allowed:
    """What may be bought under all of these."""
    found = EVERYTHING
    for rules in levels:
        if rules is not NO_RULES:
            found = Allowed(
                _shared(found.services, rules.services),
                found.denied_services | rules.denied_services,
                _shared(found.countries, rules.countries),
                _lower(found.price_max, rules.price_max),
            )
    return EVERYTHING if found == EVERYTHING else found


def without(found: Allowed, services: frozenset[str]) -> Allowed:
    """The same, but for some services."""
    return replace(found, denied_services=found.denied_services | services) if services else found


def dialects(levels: Iterable[Rules]) -> frozenset[str] | None:
    """The ways in that all of these leave open; None for every way."""
    found: frozenset[str] | None = None
    for rules in levels:
        found = _shared(found, rules.dialects)
    return found


def ip_ranges(levels: Iterable[Rules]) -> tuple[tuple[str, ...], ...]:
    """Lists of ranges of which a caller's address has to be in each."""
    return tuple(rules.ip_ranges for rules in levels if rules.ip_ranges)


@dataclass(frozen=True, slots=True)
class Pace:
    """How much may be asked for in a minute by an account and all below it together; None says nothing."""

    subject: str
    polls: int | None
    changes: int | None


def paces(levels: Iterable[tuple[str, Rules]]) -> tuple[Pace, ...]:
    """The paces that these levels, by subject, have to keep, those of the last level first."""
    found = [
        Pace(subject, rules.polls_per_minute, rules.changes_per_minute)
        for subject, rules in levels
        if rules.polls_per_minute is not None or rules.changes_per_minute is not None
    ]
    return tuple(reversed(found))


def _shared(one: frozenset[Any] | None, other: frozenset[Any] | None) -> frozenset[Any] | None:
    if one is None or other is None:
        return other if one is None else one
    return one & other


def _lower(one: int | None, other: int | None) -> int | None:
    return min((value for value in (one, other) if value is not None), default=None)


@lru_cache(4096)
def is_within(address: str, ranges: tuple[tuple[str, ...], ...]) -> bool:
    """Whether an address is in each of the lists of ranges. What is no address is in none."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return all(any((mapped or found) in _parsed(one) for one in some) for some in ranges)


@lru_cache(maxsize=4096)
def _parsed(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """Parsed once: a key that is kept to addresses is asked for them at every request."""
    return ipaddress.ip_network(text)


# Rows


def from_row(row: Mapping[str, Any]) -> Rules:
    """The rules in a row that has a column for each."""
    return Rules(
        suspended_at=row["suspended_at"],
        expires_at=row["expires_at"],
        services=_words(row["services"]),
        denied_services=_words(row["denied_services"]) or frozenset(),
        countries=_numbers(row["countries"]),
        ip_ranges=tuple(row["ip_ranges"].split(",")) if row["ip_ranges"] else (),
        dialects=_words(row["dialects"]),
        price_max=row["price_max"],
        open_max=row["open_max"],
        spend_hour=row["spend_hour"],
        spend_day=row["spend_day"],
        spend_month=row["spend_month"],
        spend_total=row["spend_total"],
        polls_per_minute=row["polls_per_minute"],
        changes_per_minute=row["changes_per_minute"],
    )


def to_row(rules: Rules) -> dict[str, Any]:
    """The columns of a row."""
    return {name: _stored(getattr(rules, name)) for name in COLUMNS}


def _stored(value: Any) -> Any:
    if isinstance(value, frozenset):
        return ",".join(map(str, sorted(value))) or None
    if isinstance(value, tuple):
        return ",".join(value) or None
    return value


@lru_cache(4096)
def _words(text: str | None) -> frozenset[str] | None:
    return frozenset(text.split(",")) if text else None


@lru_cache(4096)
def _numbers(text: str | None) -> frozenset[int] | None:
    return frozenset(map(int, text.split(","))) if text else None


# What people write


def changed(rules: Rules, changes: Mapping[str, Any]) -> Rules:
    """The rules with some of them set anew, by the names of their fields; None takes a rule away.

    Raises RuleError on a rule there is not, an empty list (which would allow nothing), or a number out of bounds.
    """
    for name, value in changes.items():
        if name not in COLUMNS:
            raise RuleError(f"there is no rule {name}: it is one of {', '.join(COLUMNS)}")
        _require_sense(name, value)
    return replace(rules, **{name: _kept(name, value) for name, value in changes.items()})


def _kept(name: str, value: Any) -> Any:
    if name == "ip_ranges":
        return tuple(value or ())
    if name == "denied_services":
        return frozenset(value or ())
    return frozenset(value) if value is not None and name in ("services", "countries", "dialects") else value


def _require_sense(name: str, value: Any) -> None:
    if value is None:
        return
    if name in ("services", "countries", "dialects") and not value:
        raise RuleError(f"{name} would allow nothing: name some, or take the rule away")
    if name.endswith("_at") and not 0 <= value < TIME_MAX:
        raise RuleError(f"{name} is no time")
    if name == "ip_ranges" and len(value) > IP_RANGES_MAX:
        raise RuleError(f"{IP_RANGES_MAX} address ranges at most")
    if name == "open_max" and not 1 <= value <= OPEN_MAX:
        raise RuleError(f"open_max is from 1 to {OPEN_MAX}")
    if name in PER_MINUTE and not 1 <= value <= PER_MINUTE_MAX:
        raise RuleError(f"{name} is from 1 to {PER_MINUTE_MAX}")
    if (name == "price_max" or name in SPEND_CAPS.values()) and not 0 < value <= MAX_MICROS:
        raise RuleError(f"{name} is an amount above zero")


def services_of(words: Iterable[str], catalog: Catalog) -> frozenset[str]:
    """Service codes. Raises RuleError on one the catalogue does not have."""
    found = frozenset(words)
    for code in sorted(found - catalog.services.keys()):
        raise RuleError(f"there is no service {code!r} in the catalogue")
    return found


def countries_of(words: Iterable[str], catalog: Catalog) -> frozenset[int]:
    """Country ids, from ids and two-letter codes. Raises RuleError on what the catalogue does not have."""
    found: set[int] = set()
    for word in words:
        is_id = word.isascii() and word.isdigit() and len(word) < 10
        ids = catalog.countries_of(word) if _TWO_LETTERS.fullmatch(word) else frozenset[int]()
        if is_id and int(word) in catalog.countries:
            ids = frozenset({int(word)})
        if not ids:
            raise RuleError(f"there is no country {word!r} in the catalogue")
        found |= ids
    return frozenset(found)


def dialects_of(words: Iterable[str]) -> frozenset[str]:
    """Ways in, by name. Raises RuleError."""
    found = frozenset(words)
    for name in sorted(found - {*WAYS_IN}):
        raise RuleError(f"there is no dialect {name!r}: it is one of {', '.join(WAYS_IN)}")
    return found


def ip_ranges_of(words: Iterable[str]) -> tuple[str, ...]:
    """Addresses and networks in one way of writing, IPv4 in place of IPv6-mapped IPv4. Raises RuleError."""
    return tuple(dict.fromkeys(_network(word) for word in words))


def _network(word: str) -> str:
    try:
        network: Network = ipaddress.ip_network(word.strip())
    except ValueError:
        raise RuleError(f"{word[:60]!r} is no address and no network, such as 192.0.2.7 or 192.0.2.0/24") from None
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= 96:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            network = ipaddress.IPv4Network((mapped, network.prefixlen - 96))
    return str(network)
