"""Environment and configuration files → one frozen `Settings`, or every problem there is, in words.

The models below are the reference: `describe()` lists each setting with its type, default and sentence, and a test
holds `docs/configuration.md` to that list. Decimals are exact (`tomllib` with `parse_float=Decimal`).
"""

from __future__ import annotations

import difflib
import hashlib
import ipaddress
import re
import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, get_args, get_origin
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticUndefined

from gateway.catalog import COUNTRIES_FILE, SERVICES_FILE, Catalog, CatalogError, load_catalog, unreadable
from gateway.vault import listed

GATEWAY_FILE = "gateway.toml"
UPSTREAMS_FILE = "upstreams.toml"
ROUTING_FILE = "routing.toml"
PRICING_FILE = "pricing.toml"
RATES_FILE = "rates.toml"
CATALOG_DIRECTORY = "catalog"
SECRET_LENGTH_MIN = 32

_STAMPED = (
    GATEWAY_FILE,
    UPSTREAMS_FILE,
    ROUTING_FILE,
    PRICING_FILE,
    RATES_FILE,
    f"{CATALOG_DIRECTORY}/{SERVICES_FILE}",
    f"{CATALOG_DIRECTORY}/{COUNTRIES_FILE}",
)
_TOML_FILES = (GATEWAY_FILE, UPSTREAMS_FILE, ROUTING_FILE, PRICING_FILE, RATES_FILE)
_UPSTREAMS_WITHOUT_FILE: Mapping[str, Any] = {"sandbox": {"adapter": "sandbox", "early_cancel": "deny"}}
_UPSTREAM_NAME = re.compile(r"[a-z_][a-z0-9_]{0,31}")

KeyPath = tuple[str | int, ...]
Model = TypeVar("Model", bound=BaseModel)
OptionsOf = Callable[[str], type[BaseModel]]
SecretsOf = Callable[[str], Mapping[str, bool]]


class SettingsError(ValueError):
    """The configuration cannot be used; `problems` are sentences, one for everything that has to be put right."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


# --- Types of single values ------------------------------------------------------------------------------------------


def _as_decimal(value: object) -> object:
    """Whole numbers and text become decimals; anything else is left for the model to refuse."""
    if isinstance(value, int) and not isinstance(value, bool):
        return Decimal(value)
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d{1,24}(\.\d{1,24})?", value.strip()):
        return Decimal(value.strip())
    return value


def _as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _currency(text: str) -> str:
    if not re.fullmatch(r"[A-Z]{3}", text):
        raise ValueError("should be three capital letters (ISO 4217)")
    return text


def _proxy(address: str) -> str:
    if address and not re.fullmatch(r"https?://\S+", address):
        raise ValueError("should be an http:// or https:// address, or empty")
    return address


def _network(text: str) -> str:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        raise ValueError('should be an address or a network, such as "127.0.0.1" or "10.0.0.0/8"') from None
    return text


def _origin(text: str) -> str:
    if text != "*" and not re.fullmatch(r"https?://[^/?#\s]+", text):
        raise ValueError('should be "*" or an origin, such as "https://app.example.com"')
    return text


Origin = Annotated[str, AfterValidator(_origin)]
Network = Annotated[str, AfterValidator(_network)]
Exact = Annotated[Decimal, BeforeValidator(_as_decimal), Field(le=1_000_000_000, allow_inf_nan=False)]
Amount = Annotated[Exact, Field(ge=0, decimal_places=6)]
Seconds = Annotated[float, Field(gt=0, le=30 * 86400, allow_inf_nan=False)]
SecondsOrZero = Annotated[float, Field(ge=0, le=30 * 86400, allow_inf_nan=False)]
Currency = Annotated[str, AfterValidator(_currency)]
UpstreamNames = Annotated[tuple[str, ...], BeforeValidator(_as_tuple)]


_LISTS = (list, tuple, set, frozenset)


@dataclass(frozen=True)
class _Known:
    """What rules may refer to; None where it could not be read, which is a problem of its own."""

    catalog: Catalog | None
    upstreams: Collection[str] | None


def _known(info: ValidationInfo) -> _Known:
    return info.context if isinstance(info.context, _Known) else _Known(None, None)


def _unknown(kind: str, value: object, known: Collection[str]) -> str:
    return f"there is no {kind} {value!r}{_nearest(str(value), known)}"


def _texts(value: object, what: str) -> frozenset[str]:
    if not isinstance(value, _LISTS) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"should be a list of {what}")
    return frozenset(value)


def _service_codes(value: object, info: ValidationInfo) -> frozenset[str]:
    codes, catalog = _texts(value, "service codes"), _known(info).catalog
    unknown = sorted(codes - catalog.services.keys()) if catalog else []
    if catalog and unknown:
        raise ValueError("; ".join(_unknown("service", code, catalog.services) for code in unknown))
    return codes


def _country_ids(value: object, info: ValidationInfo) -> frozenset[int]:
    """Ids, and two letters for every id that has them: a file may say 174 or "no".

    Without a catalogue nothing is checked, and only ids are kept.
    """
    if not isinstance(value, _LISTS) or not all(_is_country(item) for item in value):
        raise ValueError("should be a list of country ids and two-letter codes")
    catalog = _known(info).catalog
    if catalog is None:
        return frozenset(item for item in value if isinstance(item, int))
    found = {item: _ids_of(item, catalog) for item in value}
    unknown = [item for item, ids in found.items() if not ids]
    if unknown:
        raise ValueError("; ".join(_unknown("country", item, _country_words(catalog)) for item in unknown))
    return frozenset().union(*found.values())


def _is_country(value: object) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool)


def _ids_of(item: str | int, catalog: Catalog) -> frozenset[int]:
    if isinstance(item, str):
        return catalog.countries_of(item)
    return frozenset({item}) & catalog.countries.keys()


def _country_words(catalog: Catalog) -> list[str]:
    return sorted({*catalog.country_iso2.values(), *map(str, catalog.countries)})


def _account_names(value: object) -> frozenset[str]:
    if isinstance(value, _LISTS) and all(_is_country(item) for item in value):
        return frozenset(str(item) for item in value)
    raise ValueError("should be a list of account names or ids")


def _in_known_upstreams(names: Collection[str], info: ValidationInfo) -> None:
    known = _known(info).upstreams
    unknown = [name for name in names if known is not None and name not in known]
    if known is not None and unknown:
        raise ValueError("; ".join(_unknown("upstream", name, known) for name in unknown))


def _upstream_order(names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
    _in_known_upstreams(names, info)
    return names


def _upstream_set(value: object, info: ValidationInfo) -> frozenset[str]:
    names = _texts(value, "upstream names")
    _in_known_upstreams(sorted(names), info)
    return names


Services = Annotated[frozenset[str], BeforeValidator(_service_codes), PlainSerializer(sorted)]
Countries = Annotated[frozenset[int], BeforeValidator(_country_ids), PlainSerializer(sorted)]
Accounts = Annotated[frozenset[str], BeforeValidator(_account_names), PlainSerializer(sorted)]
Upstreams = Annotated[frozenset[str], BeforeValidator(_upstream_set), PlainSerializer(sorted)]
UpstreamOrder = Annotated[UpstreamNames, AfterValidator(_upstream_order)]


# --- gateway.toml ----------------------------------------------------------------------------------------------------


class Section(BaseModel):
    """A table of a file: frozen, no unknown keys, no silent conversions."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


DialectName = Literal["sms_activate", "hero", "smshub", "daisy", "tiger", "bower", "grizzly", "ds", "api1"]
DIALECTS: tuple[str, ...] = get_args(DialectName)
"""The `handler_api.php` dialects served, by the names that paths, keys and this file use."""


class ServerSettings(Section):
    host: str = Field(default="127.0.0.1", min_length=1, description="Address to listen on; `HOST` overrides it.")
    port: int = Field(default=8000, ge=1, le=65535, description="Port to listen on; `PORT` overrides it.")
    trusted_proxies: Annotated[tuple[Network, ...], BeforeValidator(_as_tuple)] = Field(
        default=(), description="Addresses or networks of proxies whose `X-Forwarded-For` is believed."
    )
    cors_origins: Annotated[tuple[Origin, ...], BeforeValidator(_as_tuple)] = Field(
        default=(), description="Pages that may call the JSON API from a browser, such as `https://app.example.com`."
    )
    connections_max: int = Field(
        default=4000, ge=1, le=1_000_000, description="Connections of clients at a time; further ones are told 503."
    )
    head_bytes_max: int = Field(
        default=32768, ge=1024, le=1_048_576, description="Most bytes of a request's line and headers together."
    )
    body_bytes_max: int = Field(
        default=1_048_576, ge=1024, le=104_857_600, description="Most bytes of a request's body."
    )
    request_seconds: Seconds = Field(
        default=20, description="How long a client may take to send a request, or to begin with one."
    )
    hsts_seconds: int = Field(
        default=0, ge=0, le=63_072_000, description="For how long browsers shall come by HTTPS only; 0 says nothing."
    )
    default_country: int = Field(default=0, ge=0, description="Country id used where a client names none.")
    dialect: DialectName = Field(
        default="sms_activate", description="What clients are answered in where neither the path nor the key says."
    )
    ds_waiting_word: str = Field(
        default="WAITING",
        pattern=r"^[A-Z][A-Z_]{0,39}$",
        description="What getStatus says in the `ds` dialect while there is no SMS.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least level that is logged."
    )
    log_format: Literal["auto", "console", "json"] = Field(
        default="auto", description="`auto` is `console` on a terminal and `json` elsewhere."
    )


class LimitsSettings(Section):
    changes_per_minute: int = Field(
        default=100,
        ge=1,
        description="Purchases and state changes an account may ask for; a key with its own limit counts alone.",
    )
    polls_per_minute: int = Field(
        default=6000,
        ge=1,
        description="Requests of every kind by one key; above it they wait, and get the last known state.",
    )
    open_activations: int = Field(default=1000, ge=1, description="Activations one account may have open at once.")
    number_memory_days: int = Field(
        default=30,
        ge=0,
        le=3650,
        description="For so long an account is not handed the same number for a service again; 0 for no such memory.",
    )


class FuseSettings(Section):
    slow_after: int = Field(
        default=100,
        ge=0,
        description="Purchases of a key without a code, in a row, after which each further one waits; 0 for none.",
    )
    slow_seconds: float = Field(
        default=0.02, ge=0, le=60, allow_inf_nan=False, description="Each of them adds so much to the wait."
    )
    slow_seconds_max: float = Field(
        default=2.0, ge=0, le=60, allow_inf_nan=False, description="The longest a purchase waits for it."
    )
    stop_after: int = Field(
        default=500, ge=0, description="After so many of them there is nothing for the key for a while; 0 for never."
    )
    cooldown_seconds: Seconds = Field(default=600, description="How long that while is; a code ends it.")
    window_seconds: Seconds = Field(
        default=3600, description="A key that buys after so long without a miss begins to be counted anew."
    )


class ActivationsSettings(Section):
    life_seconds: Seconds = Field(
        default=1200, description="Life of an activation, unless the lease or the dialect is shorter."
    )
    early_cancel_seconds: SecondsOrZero = Field(
        default=0, description="A cancel younger than this is refused to every caller; 0 leaves it to the upstream."
    )
    order_deadline_seconds: Seconds = Field(
        default=9.0, description="Time for a whole purchase, all attempts at all upstreams together."
    )
    cancel_deadline_seconds: Seconds = Field(
        default=3.0, description="How long a caller waits for the upstream's answer to a cancel."
    )
    claim_seconds: Seconds = Field(
        default=60, description="How long an unclaimed number waits for the same key's identical request."
    )
    code_grace_seconds: SecondsOrZero = Field(
        default=600, description="How long the codes of a finished activation can still be read."
    )
    cancel_exposure: Amount = Field(
        default=Decimal("2.00"),
        description="Most that cancels not yet accepted upstream may cost, per account, in its currency.",
    )
    in_doubt_exposure: Amount = Field(
        default=Decimal("20.00"),
        description="Most that purchases in doubt may cost, per upstream, in the house currency.",
    )


class RentalsSettings(Section):
    refund_seconds: SecondsOrZero = Field(
        default=1200, description="How long a rental without a message can be given back for its money."
    )
    remembered_seconds: SecondsOrZero = Field(
        default=60, description="How long an upstream's answer to what it rents out, and for how much, is used again."
    )
    quote_seconds: Seconds = Field(
        default=4.0, description="How long an upstream may take to say what it rents out; after it, it is left out."
    )


class HealthSettings(Section):
    faults_to_open: int = Field(default=5, ge=1, description="Faults in a row after which an upstream is left out.")
    cooldown_seconds: Seconds = Field(default=30, description="How long it is left out before one attempt is risked.")
    delivery_prior: float = Field(
        default=0.7,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="Chance of a code assumed before there is any evidence.",
    )
    delivery_prior_weight: float = Field(
        default=5, gt=0, le=10_000, allow_inf_nan=False, description="How many activations that assumption counts for."
    )
    delivery_half_life_hours: float = Field(
        default=24, gt=0, le=8760, allow_inf_nan=False, description="After this time an observation counts half."
    )


class GuardSettings(Section):
    disk_free_megabytes: float = Field(
        default=64,
        ge=0,
        le=1_000_000_000,
        allow_inf_nan=False,
        description="Free space beside an SQLite file below which nothing is bought; 0 for no such limit.",
    )
    descriptors_free: int = Field(
        default=64,
        ge=0,
        le=1_000_000,
        description="Free file descriptors below which nothing is bought, and below half of which no new connections"
        " are taken; 0 for no such limit.",
    )


class WebhooksSettings(Section):
    timeout_seconds: Seconds = Field(default=5.0, description="How long a receiver may take to answer a notice.")
    retry_seconds: Annotated[tuple[Seconds, ...], BeforeValidator(_as_tuple)] = Field(
        default=(1, 2, 4, 8, 15, 30, 60, 120, 300, 900, 1800, 3600, 7200, 14400, 28800, 28800),
        min_length=1,
        description="Pauses between the attempts to deliver a notice.",
    )
    pause_after: int = Field(
        default=10, ge=1, description="Failures in a row after which a receiver is left alone for a while."
    )
    pause_seconds: Seconds = Field(default=5, description="How long, at first; doubled with each further failure.")
    pause_seconds_max: Seconds = Field(default=300, description="How long at most.")
    disable_after_hours: float = Field(
        default=72, gt=0, le=8760, allow_inf_nan=False,
        description="A receiver that failed for so long, without a success, gets nothing more until it is enabled.",
    )  # fmt: skip
    log_days: float = Field(
        default=30, gt=0, le=3650, allow_inf_nan=False, description="How long the log of attempts is kept."
    )
    allow_http: bool = Field(default=False, description="Accept plain `http://` receivers (for tests on one machine).")
    allow_private_addresses: bool = Field(
        default=False, description="Deliver to private, loopback and link-local addresses (likewise)."
    )


class SessionsSettings(Section):
    life_seconds: Seconds = Field(default=43200, description="How long a person stays signed in.")


class BackupSettings(Section):
    directory: str = Field(
        default="",
        description="Where the daily backups go; empty, `backups` beside a SQLite database, and none of PostgreSQL.",
    )
    hour: int = Field(default=3, ge=0, le=23, description="The hour (UTC) from which the day's backup is taken.")
    keep_daily: int = Field(
        default=3, ge=0, le=366, description="The last backup of each of so many days is kept; 0 takes none."
    )
    keep_weekly: int = Field(default=2, ge=0, le=520, description="And the last of each of so many weeks.")
    alert_hours: float = Field(
        default=50,
        gt=0,
        le=8760,
        allow_inf_nan=False,
        description="A last good backup older than this raises an alert.",
    )
    postgresql_tools: str = Field(
        default="", description="Directory of `pg_dump` and `pg_restore`; empty, they are looked for on `PATH`."
    )


class LawfulSettings(Section):
    denied_services: Services = Field(
        default=frozenset(),
        description="Service codes nobody may buy or rent here; while there are any, no number of every service is"
        " rented out.",
    )
    terms_version: Annotated[str, Field(max_length=100, pattern=r"^[ -~]*$")] = Field(
        default="", description="Terms an account accepts before others are put below it; empty for none."
    )


class RetentionSettings(Section):
    days: int = Field(
        default=30,
        ge=0,
        le=3650,
        description="For so long numbers and messages are kept after their activation has ended; 0 for ever.",
    )


class GatewaySettings(Section):
    """`gateway.toml`."""

    server: ServerSettings = ServerSettings()
    limits: LimitsSettings = LimitsSettings()
    fuse: FuseSettings = FuseSettings()
    activations: ActivationsSettings = ActivationsSettings()
    rentals: RentalsSettings = RentalsSettings()
    health: HealthSettings = HealthSettings()
    guard: GuardSettings = GuardSettings()
    webhooks: WebhooksSettings = WebhooksSettings()
    sessions: SessionsSettings = SessionsSettings()
    backup: BackupSettings = BackupSettings()
    lawful: LawfulSettings = LawfulSettings()
    retention: RetentionSettings = RetentionSettings()


# --- upstreams.toml --------------------------------------------------------------------------------------------------


class StanzaKeys(Section):
    """What every upstream's table may say; all other keys belong to its adapter."""

    adapter: str = Field(default="", description="Adapter module; left out, it is the name of the table.")
    enabled: bool = Field(default=True, description="Whether anything is bought there.")
    priority: int = Field(default=100, ge=0, le=1_000_000, description="Place among equals; lower comes first.")
    tier: int = Field(default=1, ge=1, le=100, description="A tier is tried only when those below it have nothing.")
    currency: Currency = Field(default="USD", description="Currency of its prices and of our account there.")
    proxy: Annotated[str, AfterValidator(_proxy)] = Field(
        default="", repr=False, description="Outgoing proxy as a URL; empty for none."
    )
    poll_seconds: Seconds = Field(default=1.0, description="Pause between two looks for messages.")
    status_calls_per_second: float | None = Field(
        default=None,
        gt=0,
        le=10_000,
        allow_inf_nan=False,
        description="Most status calls per second; unset, 10.",
    )
    offers_seconds: Seconds = Field(default=60.0, description="Pause between two readings of its price list.")
    offers_max_age_seconds: Seconds = Field(default=900.0, description="A price list older than this is not sold from.")
    balance_seconds: Seconds = Field(default=300.0, description="Pause between two looks at our balance there.")
    balance_low: Amount = Field(
        default=Decimal(0), description="A balance there below this raises an alert, in its currency; 0 for none."
    )
    early_cancel: Literal["absorb", "deny"] = Field(
        default="absorb",
        description="It refuses a cancel for now: `absorb` releases the caller at once and cancels later, "
        "`deny` tells the caller.",
    )
    refund_seconds: Annotated[float, Field(ge=60, le=86_400, allow_inf_nan=False)] | None = Field(
        default=None,
        description="How long after its purchase a number without a code can be given back there for its money; unset,"
        " it is given back at its end in any case.",
    )
    exclusive: bool = Field(
        default=False,
        description="The account there is ours alone: numbers open there that we do not know are cancelled.",
    )


class Stanza(StanzaKeys):
    """One upstream. `parsed` is the adapter's own options model, `options` the raw keys it was made of.

    `secrets` are those beside our key there, by name, without those left unset.
    """

    name: str
    options: Mapping[str, Any]
    parsed: Any
    secret: str = Field(default="", repr=False)
    secrets: Mapping[str, str] = Field(default={}, repr=False)


# --- routing.toml ----------------------------------------------------------------------------------------------------

PolicyWord = Literal["value", "priority"]


class RoutingRule(Section):
    """A rule applies where every list that is not empty contains the order's own; the first that applies decides."""

    services: Services = Field(default=frozenset(), description="Service codes; empty for any.")
    countries: Countries = Field(default=frozenset(), description="Country ids or two-letter codes; empty for any.")
    accounts: Accounts = Field(default=frozenset(), description="Account names or ids; empty for any.")
    policy: PolicyWord | None = Field(default=None, description="Policy for these orders; unset, that of the file.")
    upstreams: UpstreamOrder = Field(
        default=(), description="Only these upstreams, in this order of priority; empty for all."
    )
    exclude: Upstreams = Field(default=frozenset(), description="Upstreams never used for these orders.")


class RoutingSettings(Section):
    """`routing.toml`."""

    policy: PolicyWord = Field(
        default="value",
        description="`value` weighs price against the chance of a code, `priority` keeps strictly to the order.",
    )
    rule: Annotated[tuple[RoutingRule, ...], BeforeValidator(_as_tuple)] = ()


# --- pricing.toml ----------------------------------------------------------------------------------------------------


class PriceTerms(Section):
    """How a price is made: `fixed`, or the cost with `percent` and `add` on top."""

    fixed: Annotated[Amount, Field(gt=0)] | None = Field(
        default=None, description="The price, whatever the number costs us."
    )
    percent: Annotated[Exact, Field(ge=0, le=100_000)] | None = Field(
        default=None, description="Markup on the cost, in percent."
    )
    add: Amount | None = Field(default=None, description="Amount added to the cost, after the markup.")

    @model_validator(mode="after")
    def _one_way_only(self) -> PriceTerms:
        if (self.fixed is None) == (self.percent is None and self.add is None):
            raise ValueError("needs exactly one of `fixed` or (`percent` and/or `add`)")
        return self


class PriceRule(PriceTerms):
    """Terms for the orders that match; the first rule that matches decides."""

    services: Services = Field(default=frozenset(), description="Service codes; empty for any.")
    countries: Countries = Field(default=frozenset(), description="Country ids or two-letter codes; empty for any.")
    accounts: Accounts = Field(default=frozenset(), description="Account names or ids; empty for any.")
    upstreams: Upstreams = Field(default=frozenset(), description="Upstreams the number comes from; empty for any.")


class RentalTerms(Section):
    """How the price of a rental is made: the cost of its whole time, with `percent` and `add` on top."""

    percent: Annotated[Exact, Field(ge=0, le=100_000)] = Field(
        default=Decimal(30), description="Markup on what the whole time costs, in percent."
    )
    add: Amount = Field(default=Decimal(0), description="Amount added for each rental or extension, after the markup.")


class RentalRule(RentalTerms):
    """Terms for the rentals that match; the first rule that matches decides."""

    services: Services = Field(default=frozenset(), description="Service codes; empty for any.")
    countries: Countries = Field(default=frozenset(), description="Country ids or two-letter codes; empty for any.")
    accounts: Accounts = Field(default=frozenset(), description="Account names or ids; empty for any.")
    upstreams: Upstreams = Field(default=frozenset(), description="Upstreams the number comes from; empty for any.")


class RentalPricing(RentalTerms):
    rule: Annotated[tuple[RentalRule, ...], BeforeValidator(_as_tuple)] = ()


class FloorSettings(Section):
    margin_percent: Annotated[Exact, Field(ge=0, le=100_000)] = Field(
        default=Decimal(0), description="Least margin on the cost, in percent; a lower price is raised to it."
    )
    below_cost: bool = Field(default=False, description="Sell below cost where a fixed price says so.")


class ExchangeSettings(Section):
    alert_hours: float = Field(
        default=36, gt=0, le=8760, allow_inf_nan=False, description="Rates older than this raise an alert."
    )
    max_hours: float = Field(
        default=96,
        gt=0,
        le=8760,
        allow_inf_nan=False,
        description="With older rates, whatever needs them is not sold: no price rather than a wrong one.",
    )


class PricingSettings(Section):
    """`pricing.toml`. Amounts are in `currency`."""

    currency: Currency = Field(
        default="USD", description="The house currency: amounts in this file and the operator's books."
    )
    default: PriceTerms = PriceTerms(fixed=Decimal("0.08"))
    rental: RentalPricing = RentalPricing()
    floor: FloorSettings = FloorSettings()
    exchange: ExchangeSettings = ExchangeSettings()
    rule: Annotated[tuple[PriceRule, ...], BeforeValidator(_as_tuple)] = ()


# --- rates.toml ------------------------------------------------------------------------------------------------------


class RatesSettings(Section):
    """`rates.toml`: a file of its own, so that a program can write it anew."""

    as_of: AwareDatetime | None = Field(default=None, description="When these rates were true, with a time zone.")
    rates: Annotated[Mapping[Currency, Annotated[Exact, Field(gt=0)]], AfterValidator(MappingProxyType)] = Field(
        default_factory=lambda: MappingProxyType({}),
        description="Value of one unit of another currency, in the house currency.",
    )

    @model_validator(mode="after")
    def _is_dated(self) -> RatesSettings:
        if self.rates and self.as_of is None:
            raise ValueError("as_of is missing: say when these rates were true, such as 2026-11-22T08:00:00Z")
        return self

    @property
    def as_of_seconds(self) -> float | None:
        """When the rates were true, in seconds since the epoch; None where there are none."""
        return self.as_of.timestamp() if self.as_of is not None and self.rates else None


# --- Environment -----------------------------------------------------------------------------------------------------


def _variable(sentence: str, *, is_shown: bool = False) -> Any:
    return field(default=None, repr=is_shown, metadata={"sentence": sentence})


@dataclass(frozen=True)
class Environment:
    """What comes from the environment; a blank variable counts as absent. Secrets and addresses stay out of `repr`."""

    database_url: str | None = _variable("PostgreSQL address; absent, SQLite in `var/`.")
    redis_url: str | None = _variable("Redis address; absent, everything is kept in the process.")
    host: str | None = _variable("Address to listen on, over `server.host`.", is_shown=True)
    port: int | None = _variable("Port to listen on, over `server.port`.", is_shown=True)
    backup_directory: str | None = _variable("Where backups go, over `backup.directory`.", is_shown=True)
    api_key_salt: str | None = _variable("Peppers the digests of API keys.")
    data_encryption_keys: str | None = _variable("Keys for data at rest, newest first, separated by commas.")
    index_key: str | None = _variable("Key of the digests that numbers are looked up by.")
    webhook_secret: str | None = _variable("Signs webhooks; at least 32 characters.")
    webhook_url: str | None = _variable("Our public HTTPS address, for pushes from upstreams.", is_shown=True)
    jwt_secret_key: str | None = _variable(
        "Signs user sessions; at least 32 characters. Newest first, separated by commas; absent, nobody can sign in."
    )
    stripe_webhook_secret: str | None = _variable("Proves Stripe's callbacks; absent, there are none.")
    payment_secret: str | None = _variable(
        "Proves generic payment callbacks and signs calls of the payment hook; at least 32 characters."
    )
    payment_hook_url: str | None = _variable("Where a recharge asks for a payment; HTTPS.")
    notify_urls: str | None = _variable(
        "Where alerts and waiting tasks are told: Apprise addresses, separated by white space."
    )


def read_environment(environment: Mapping[str, str]) -> Environment:
    """Raises SettingsError on a PORT or an address that is none and on secrets that are too short."""
    found, problems = _environment(environment)
    if problems:
        raise SettingsError(problems)
    return found


def _environment(environment: Mapping[str, str]) -> tuple[Environment, list[str]]:
    names = [variable.name for variable in fields(Environment)]
    values: dict[str, Any] = {name: _present(environment, name.upper()) for name in names}
    problems = [
        f"environment: {name.upper()} is shorter than {SECRET_LENGTH_MIN} characters"
        for name in ("webhook_secret", "jwt_secret_key", "payment_secret")
        if values[name] and any(len(part) < SECRET_LENGTH_MIN for part in _secrets(name, values[name]))
    ]
    if values["payment_hook_url"] and not values["payment_secret"]:
        problems.append("environment: PAYMENT_HOOK_URL needs PAYMENT_SECRET, which signs what it is sent")
    problems += _not_addresses(values)
    port = values["port"]
    if port and not (re.fullmatch(r"\d{1,5}", port) and 1 <= int(port) <= 65535):
        problems.append("environment: PORT is not a number from 1 to 65535")
        port = None
    values["port"] = int(port) if port else None
    return Environment(**values), problems


def _not_addresses(values: Mapping[str, Any]) -> list[str]:
    """What is wrong with the addresses, without a word of them: they carry passwords."""
    problems = []
    if values["redis_url"] and not _is_address(values["redis_url"], ("redis", "rediss", "unix")):
        problems.append(
            "environment: REDIS_URL is not an address like redis://:PASSWORD@HOST:6379/0 (in a password, / # ? and @"
            " are written %2F %23 %3F %40)"
        )
    if values["webhook_url"] and not _is_address(values["webhook_url"], ("https", "http")):
        problems.append("environment: WEBHOOK_URL is not an address like https://HOST/webhooks/sms")
    hook = values["payment_hook_url"]
    if hook and not (_is_address(hook, ("https",)) or _is_address(hook, ("http",), hosts=("127.0.0.1", "localhost"))):
        problems.append("environment: PAYMENT_HOOK_URL is not an HTTPS address")
    parts = (part.strip(",") for part in (values["notify_urls"] or "").split())
    if any(part and "://" not in part for part in parts):
        problems.append("environment: NOTIFY_URLS has a part that is no address, such as mailtos://… or tgram://…")
    return problems


def _is_address(text: str, schemes: Collection[str], hosts: Collection[str] = ()) -> bool:
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        return False
    if parts.scheme not in schemes or port == 0 or parts.fragment:
        return False
    return bool(parts.path) if parts.scheme == "unix" else bool(host) and (not hosts or host in hosts)


def _secrets(name: str, value: str) -> Sequence[str]:
    return listed(value) if name == "jwt_secret_key" else [value]


def _present(environment: Mapping[str, str], variable: str) -> str | None:
    return environment.get(variable, "").strip() or None


# --- Everything together ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Settings:
    """One configuration, whole. `version` is a digest of the files it was read from."""

    gateway: GatewaySettings
    upstreams: Mapping[str, Stanza]
    routing: RoutingSettings
    pricing: PricingSettings
    rates: RatesSettings
    catalog: Catalog = field(repr=False)
    environment: Environment
    version: str


def load_settings(
    directory: Path, environment: Mapping[str, str], options_of: OptionsOf, secrets_of: SecretsOf
) -> Settings:
    """Reads everything or raises SettingsError with all problems of all files.

    `options_of(adapter)` returns an adapter's options model or raises LookupError with a sentence;
    `secrets_of(adapter)` names its secrets, `api_key` first, and says of each whether it cannot work without:
    `<UPSTREAM>_API_KEY` and so on in the environment.
    """
    if not directory.is_dir():
        raise SettingsError([f"{directory}: there is no such directory of configuration files"])
    problems: list[str] = []
    contents = {name: _content(directory / name, problems) for name in _STAMPED}
    catalog = _catalog(directory / CATALOG_DIRECTORY, problems)
    files = {name: _File.parse(directory / name, contents[name], problems) for name in _TOML_FILES}
    reader = _StanzaReader(options_of, secrets_of, environment, problems)

    upstreams = reader.stanzas(files[UPSTREAMS_FILE])
    known = _Known(catalog, _stanza_tables(files[UPSTREAMS_FILE]))
    gateway = files[GATEWAY_FILE].validate(GatewaySettings, known, problems)
    routing = files[ROUTING_FILE].validate(RoutingSettings, known, problems)
    pricing = files[PRICING_FILE].validate(PricingSettings, known, problems)
    rates = files[RATES_FILE].validate(RatesSettings, known, problems)
    found, environment_problems = _environment(environment)
    problems += environment_problems
    if gateway and catalog:
        problems += _country_problems(files[GATEWAY_FILE], gateway, catalog)
    if pricing and rates:
        problems += _rate_problems(files, upstreams, pricing, rates)
    if problems or not (gateway and routing and pricing and rates and catalog):
        raise SettingsError(problems)
    return Settings(
        gateway=_overridden(gateway, found),
        upstreams=MappingProxyType(upstreams),
        routing=routing,
        pricing=pricing,
        rates=rates,
        catalog=catalog,
        environment=found,
        version=_version(contents),
    )


def config_stamp(directory: Path) -> tuple[tuple[str, int, int], ...]:
    """Name, mtime in nanoseconds and size of every configuration file: changes whenever a reload may be due."""
    return tuple(_stamp(directory, name) for name in _STAMPED)


def _stamp(directory: Path, name: str) -> tuple[str, int, int]:
    try:
        found = (directory / name).stat()
    except OSError:
        return name, -1, -1
    return name, found.st_mtime_ns, found.st_size


def _content(path: Path, problems: list[str]) -> bytes | None:
    """None where there is no such file. One that can't be read is a problem: its defaults are not what was meant."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        problems.append(unreadable(path, error))
        return None


def _version(contents: Mapping[str, bytes | None]) -> str:
    digest = hashlib.sha256()
    for name, content in contents.items():
        digest.update(f"{name}:{-1 if content is None else len(content)}:".encode() + (content or b""))
    return digest.hexdigest()[:12]


def _catalog(directory: Path, problems: list[str]) -> Catalog | None:
    try:
        return load_catalog(directory)
    except CatalogError as error:
        problems += (problem for problem in error.problems if problem not in problems)
        return None


def _overridden(gateway: GatewaySettings, environment: Environment) -> GatewaySettings:
    over = {"host": environment.host, "port": environment.port}
    server = gateway.server.model_copy(update={key: value for key, value in over.items() if value is not None})
    backup = gateway.backup
    if environment.backup_directory:
        backup = backup.model_copy(update={"directory": environment.backup_directory})
    return gateway.model_copy(update={"server": server, "backup": backup})


def _country_problems(file: _File, gateway: GatewaySettings, catalog: Catalog) -> Iterator[str]:
    if gateway.server.default_country not in catalog.countries:
        yield file.sentence(("server", "default_country"), "there is no such country in the catalogue")


def _rate_problems(
    files: Mapping[str, _File], upstreams: Mapping[str, Stanza], pricing: PricingSettings, rates: RatesSettings
) -> Iterator[str]:
    if rates.rates.get(pricing.currency, 1) != 1:
        words = "the rate of the house currency to itself: leave it out"
        yield files[RATES_FILE].sentence(("rates", pricing.currency), words)
    priced = {pricing.currency, *rates.rates}
    for name, stanza in upstreams.items():
        if stanza.enabled and stanza.currency not in priced:
            words = f"{RATES_FILE} has no rate for {stanza.currency}: add it under [rates]"
            yield files[UPSTREAMS_FILE].sentence((name, "currency"), words)


@dataclass(frozen=True)
class _StanzaReader:
    """Builds stanzas: their own keys by the model above, the rest by the adapter's."""

    options_of: OptionsOf
    secrets_of: SecretsOf
    environment: Mapping[str, str]
    problems: list[str]

    def stanzas(self, file: _File) -> dict[str, Stanza]:
        built = (self._stanza(file, name, table) for name, table in (_stanza_tables(file) or {}).items())
        return {stanza.name: stanza for stanza in built if stanza}

    def _stanza(self, file: _File, name: str, table: object) -> Stanza | None:
        if not _UPSTREAM_NAME.fullmatch(name) or not isinstance(table, dict):
            self.problems.append(file.sentence((name,), _not_a_stanza(name, table)))
            return None
        common = {key: value for key, value in table.items() if key in StanzaKeys.model_fields}
        options = {key: value for key, value in table.items() if key not in common}
        keys = file.validate(StanzaKeys, None, self.problems, at=(name,), data=common)
        adapter = keys.adapter or name if keys else name
        parsed = self._options(file, name, adapter, options) if keys else None
        if keys is None or parsed is None:
            return None
        secrets = dict(self._secrets(name, adapter, is_wanted=keys.enabled))
        given = {**keys.model_dump(), "adapter": adapter, "secret": secrets.pop("api_key", "")}
        return Stanza(**given, name=name, options=MappingProxyType(options), parsed=parsed, secrets=secrets)

    def _options(self, file: _File, name: str, adapter: str, options: Mapping[str, Any]) -> BaseModel | None:
        try:
            model = self.options_of(adapter)
        except LookupError as error:
            self.problems.append(file.sentence((name, "adapter"), str(error.args[0] if error.args else error)))
            return None
        return file.validate(model, None, self.problems, at=(name,), data=options, also_known=StanzaKeys.model_fields)

    def _secrets(self, name: str, adapter: str, *, is_wanted: bool) -> Iterator[tuple[str, str]]:
        for secret_name, is_needed in self.secrets_of(adapter).items():
            variable = f"{name}_{secret_name}".upper()
            secret = _present(self.environment, variable)
            if secret is not None:
                yield secret_name, secret
            elif is_needed and is_wanted:
                self.problems.append(f"environment: {variable} is missing, and the upstream {name!r} is enabled")


def _stanza_tables(file: _File) -> Mapping[str, Any] | None:
    """The file's tables by upstream; without a file the sandbox alone, None where the file cannot be read."""
    if file.content is None:
        return _UPSTREAMS_WITHOUT_FILE
    return None if file.is_broken else file.data


def _not_a_stanza(name: str, table: object) -> str:
    if not isinstance(table, dict):
        return f"should be a table, not {_kind(table)}: settings stand under a [name] of an upstream"
    return "an upstream's name is lower-case letters, digits and _, does not start with a digit, has 32 at most"


# --- Problems in words -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _File:
    """A parsed file that can say where a key stands."""

    path: Path
    content: bytes | None
    data: Mapping[str, Any]
    is_broken: bool = False

    @classmethod
    def parse(cls, path: Path, content: bytes | None, problems: list[str]) -> _File:
        """A file that cannot be read counts as empty, and adds its problem."""
        try:
            return cls(path, content, tomllib.loads((content or b"").decode(), parse_float=Decimal))
        except UnicodeDecodeError as error:
            problems.append(f"{path} line {error.object.count(10, 0, error.start) + 1}: not UTF-8 text")
        except tomllib.TOMLDecodeError as error:
            problems.append(_syntax_sentence(path, str(error), content or b""))
        return cls(path, content, {}, is_broken=True)

    def validate(
        self,
        model: type[Model],
        known: _Known | None,
        problems: list[str],
        *,
        at: KeyPath = (),
        data: Mapping[str, Any] | None = None,
        also_known: Collection[str] = (),
    ) -> Model | None:
        """The model of `data` (the whole file unless given), or None and one sentence per problem."""
        try:
            return model.model_validate(self.data if data is None else data, context=known)
        except ValidationError as error:
            for detail in error.errors(include_url=False):
                problems.append(self.sentence((*at, *detail["loc"]), _explained(model, detail, also_known)))
        return None

    def sentence(self, path: KeyPath, words: str) -> str:
        path = tuple(part for part in path if part != "[key]")  # pydantic's word for "the key itself is wrong"
        line = _line_of((self.content or b"").decode(errors="replace"), path)
        where = f"{self.path} line {line}" if line else str(self.path)
        return f"{where}: {_dotted(path)}: {words}" if path else f"{where}: {words}"


def _syntax_sentence(path: Path, message: str, content: bytes) -> str:
    found = re.search(r"^(.*) \(at line (\d+), column (\d+)\)$", message)
    if found:
        return f"{path} line {found[2]}: not valid TOML: {found[1]} (column {found[3]})"
    return f"{path} line {content.count(10) + 1}: not valid TOML: {message}"


def _explained(model: type[BaseModel], detail: ErrorDetails, also_known: Collection[str]) -> str:
    """What is wrong, without the value: a secret typed into the wrong place must not reach a log."""
    kind, path = detail["type"], detail["loc"]
    if kind == "extra_forbidden":
        known = [*_keys_at(model, path[:-1]), *(also_known if len(path) == 1 else ())]
        return f"unknown key{_nearest(str(path[-1]), known) or _all_known(known)}{_secret_hint(str(path[-1]))}"
    if kind == "missing":
        return "is missing"
    if kind == "value_error":
        return str(detail["ctx"]["error"])
    words = _NOT_DECIMAL if kind == "is_instance_of" else re.sub(r"^Input ", "", detail["msg"])
    return f"{words}, not {_kind(detail['input'])}" if _is_about_type(kind) else words


_NOT_DECIMAL = "should be a plain decimal number"


def _is_about_type(kind: str) -> bool:
    return kind.endswith(("_type", "is_instance_of"))


_KINDS: tuple[tuple[type, str], ...] = (
    (bool, "true or false"),
    (str, "text"),
    (int, "a whole number"),
    (Decimal, "a decimal number"),
    (list, "a list"),
    (tuple, "a list"),
    (dict, "a table"),
)


def _kind(value: object) -> str:
    return next((word for kind, word in _KINDS if isinstance(value, kind)), type(value).__name__)


def _nearest(key: str, known: Collection[str]) -> str:
    found = difflib.get_close_matches(key.lower(), known, n=1) or difflib.get_close_matches(key.upper(), known, n=1)
    return f"; did you mean {found[0]!r}?" if found else ""


def _all_known(known: Collection[str]) -> str:
    return f"; known here: {', '.join(sorted(known))}" if known else "; nothing is known here"


def _secret_hint(key: str) -> str:
    is_secret = re.search(r"key|secret|token|password", key, re.IGNORECASE)
    return " (secrets come from the environment, see docs/configuration.md)" if is_secret else ""


def _keys_at(model: type[BaseModel], path: KeyPath) -> list[str]:
    """Keys of the table at `path`, as far as the models tell."""
    current: type[BaseModel] | None = model
    for part in path:
        if isinstance(part, int):
            continue
        inner = current.model_fields.get(part) if current else None
        current = _model_in(inner.annotation) if inner else None
    return list(current.model_fields) if current else []


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for found in map(_model_in, get_args(annotation)) if found), None)


def _dotted(path: KeyPath) -> str:
    """`("rule", 0, "services")` as `rule[1].services`: people count from one."""
    parts = (f"[{part + 1}]" if isinstance(part, int) else f".{part}" for part in path)
    return "".join(parts).removeprefix(".")


_HEADER = re.compile(r"\s*(\[\[?)\s*([^\[\]]+?)\s*\]\]?\s*(#.*)?$")
_ASSIGNMENT = re.compile(r"\s*([^=#\[\]{}]+?)\s*=")


def _line_of(text: str, path: KeyPath) -> int | None:
    """The line where the key at `path` stands, or the nearest table around it; None where neither is found."""
    lines = _lines(text)
    return next((lines[path[:length]] for length in range(len(path), 0, -1) if path[:length] in lines), None)


def _lines(text: str) -> dict[KeyPath, int]:
    """Key paths with their lines. `tomllib` keeps no positions, so headers and assignments are found by shape."""
    lines: dict[KeyPath, int] = {}
    counts: dict[KeyPath, int] = {}
    table: KeyPath = ()
    for number, line in enumerate(text.splitlines(), start=1):
        header, assignment = _HEADER.match(line), _ASSIGNMENT.match(line)
        if header:
            table = _key_path(header[2])
            if header[1] == "[[":
                counts[table] = counts.get(table, -1) + 1
                table = (*table, counts[table])
            lines.setdefault(table, number)
        elif assignment:
            lines.setdefault((*table, *_key_path(assignment[1])), number)
    return lines


def _key_path(key: str) -> KeyPath:
    """`a."b c"` as ("a", "b c"), read by the TOML parser itself; empty where it is no key."""
    try:
        data = tomllib.loads(f"{key} = 0")
    except tomllib.TOMLDecodeError:
        return ()
    path: list[str] = []
    while isinstance(data, dict):
        name, data = next(iter(data.items()))
        path.append(name)
    return tuple(path)


# --- The reference ---------------------------------------------------------------------------------------------------


class Described(NamedTuple):
    """One setting as the documentation has it; `default` is written as in TOML, empty where there is none."""

    file: str
    key: str
    type: str
    default: str
    sentence: str


def describe() -> list[Described]:
    """Every setting and environment variable, in the order of the files."""
    return [
        *_described(GATEWAY_FILE, GatewaySettings),
        *_described(UPSTREAMS_FILE, StanzaKeys, "<name>."),
        *_described(ROUTING_FILE, RoutingSettings),
        *_described(PRICING_FILE, PricingSettings),
        *_described(RATES_FILE, RatesSettings),
        *(
            Described("environment", variable.name.upper(), "text", "", variable.metadata["sentence"])
            for variable in fields(Environment)
        ),
        Described("environment", "<NAME>_API_KEY", "text", "", "Our key at the upstream of that name."),
        Described(
            "environment", "<NAME>_<SECRET>", "text", "", "A further secret its adapter takes, see upstreams.md."
        ),
    ]


def _described(file: str, model: type[BaseModel], prefix: str = "") -> Iterator[Described]:
    for name, info in model.model_fields.items():
        inner = _model_in(info.annotation)
        if inner:
            yield from _described(file, inner, f"{prefix}{name}.")
        else:
            key = f"{prefix}{name}.<CURRENCY>" if get_origin(info.annotation) is Mapping else f"{prefix}{name}"
            yield Described(file, key, _words_of(info.annotation), _toml(info.default), info.description or "")


_TYPES: Mapping[Any, str] = {
    bool: "true/false",
    int: "whole number",
    float: "number",
    Decimal: "decimal",
    str: "text",
    AwareDatetime: "date and time",
}


def _words_of(annotation: Any) -> str:
    """Words for a field's type; what may be unset is described by what it may be."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(f'"{word}"' for word in arguments)
    if origin in (tuple, frozenset):
        return f"list of {_words_of(arguments[0])}".replace("number", "numbers")
    if origin is Annotated:
        return _words_of(arguments[0])
    if arguments:
        return _words_of(next(argument for argument in reversed(arguments) if argument is not type(None)))
    return _TYPES[annotation]


def _toml(value: object) -> str:
    """A default as it would stand in the file."""
    if value is None or value is PydanticUndefined or isinstance(value, Mapping):
        return "unset"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | Decimal):
        return f'"{value}"'
    if isinstance(value, tuple | frozenset):
        return f"[{', '.join(map(_toml, value))}]"
    return str(value)
