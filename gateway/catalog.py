"""The canonical services and countries: codes, names and dialling prefixes, read from `config/catalog/`."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

SERVICES_FILE = "services.toml"
COUNTRIES_FILE = "countries.toml"

_SERVICE_CODE = re.compile(r"[a-z0-9]{1,5}")
_COUNTRY_ID = re.compile(r"0|[1-9]\d{0,5}")
_ISO2 = re.compile(r"[A-Z]{2}")
_PREFIX = re.compile(r"[1-9]\d{0,5}")
_NAMES = ("eng", "rus", "chn")
_COUNTRY_KEYS = ("iso2", *_NAMES, "prefix")


class CatalogError(ValueError):
    """The catalogue cannot be used; `problems` are sentences that name the file and the entry."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Country:
    """One country: `iso2` in capitals, names in three languages, `prefix` its dialling code in digits."""

    id: int
    iso2: str
    eng: str
    rus: str
    chn: str
    prefix: str


@dataclass(frozen=True)
class Catalog:
    """Everything that can be named in an order. `services` includes the sandbox's scenario codes."""

    services: Mapping[str, str]
    sandbox_services: frozenset[str]
    countries: Mapping[int, Country]
    country_iso2: Mapping[int, str] = field(init=False, repr=False)
    country_prefix: Mapping[int, str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        by_iso2 = {country.id: country.iso2 for country in self.countries.values()}
        by_prefix = {country.id: country.prefix for country in self.countries.values()}
        object.__setattr__(self, "country_iso2", MappingProxyType(by_iso2))
        object.__setattr__(self, "country_prefix", MappingProxyType(by_prefix))

    @property
    def service_names(self) -> Mapping[str, str]:
        """Code to English name; what `gateway.upstream.Names` asks for."""
        return self.services

    def countries_of(self, iso2: str) -> frozenset[int]:
        """Every id with these letters, in either case: the United States have two. Empty where there is none."""
        letters = iso2.upper()
        return frozenset(number for number, known in self.country_iso2.items() if known == letters)


def load_catalog(directory: Path) -> Catalog:
    """The catalogue in `directory`. Raises CatalogError with every problem found in either file."""
    problems: list[str] = []
    services, countries = (_content(directory / name, problems) for name in (SERVICES_FILE, COUNTRIES_FILE))
    if problems:
        raise CatalogError(tuple(problems))
    return _parsed(str(directory), services, countries)


def _content(path: Path, problems: list[str]) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        problems.append(f"{path}: the file is missing")
    except OSError as error:
        problems.append(unreadable(path, error))
    return b""


def unreadable(path: Path, error: OSError) -> str:
    """What to say of a file that is there and can't be read."""
    return f"{path}: can't be read: {error.strerror or type(error).__name__}"


@lru_cache(maxsize=2)
def _parsed(directory: str, services: bytes, countries: bytes) -> Catalog:
    """Cached by content, so that a reload which leaves the catalogue alone does not pay for parsing it again."""
    problems: list[str] = []
    services_path, countries_path = Path(directory) / SERVICES_FILE, Path(directory) / COUNTRIES_FILE
    tables = _tables(services_path, services, ("services", "sandbox"), problems)
    sold, played = tables["services"], tables["sandbox"]
    rows = _tables(countries_path, countries, ("countries",), problems)["countries"]
    problems += (f"{services_path}: {text}" for text in _service_problems(sold, played))
    problems += (f"{countries_path}: {text}" for text in _country_problems(rows))
    if problems:
        raise CatalogError(tuple(problems))
    return Catalog(
        services=MappingProxyType({**sold, **played}),
        sandbox_services=frozenset(played),
        countries=MappingProxyType({int(number): Country(id=int(number), **row) for number, row in rows.items()}),
    )


def _tables(path: Path, content: bytes, names: tuple[str, ...], problems: list[str]) -> dict[str, dict[str, Any]]:
    """The named tables of a file, empty where it cannot be read; what is wrong is added to `problems`."""
    try:
        data = tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        problems.append(f"{path}: not valid TOML: {error}")
        return {name: {} for name in names}
    problems += (f"{path}: {key!r} is not one of the tables {', '.join(names)}" for key in data if key not in names)
    tables = {name: data.get(name, {}) for name in names}
    problems += (f"{path}: {name!r} is not a table" for name in names if not isinstance(tables[name], dict))
    return {name: table if isinstance(table, dict) else {} for name, table in tables.items()}


def _service_problems(sold: Mapping[str, Any], played: Mapping[str, Any]) -> Iterator[str]:
    for code, name in (*sold.items(), *played.items()):
        if not _SERVICE_CODE.fullmatch(code):
            yield f"service {code!r} is not one to five lower-case letters or digits"
        if not _is_text(name):
            yield f"service {code!r} has no name"
    for code in sorted(sold.keys() & played.keys()):
        yield f"service {code!r} is both sold and a sandbox scenario"


def _country_problems(rows: Mapping[str, Any]) -> Iterator[str]:
    for number, row in rows.items():
        if not _COUNTRY_ID.fullmatch(number):
            yield f"country {number!r} is not a number"
        elif not isinstance(row, dict) or sorted(row) != sorted(_COUNTRY_KEYS):
            yield f"country {number} needs exactly {', '.join(_COUNTRY_KEYS)}"
        else:
            yield from (f"country {number}: {text}" for text in _row_problems(row))


def _row_problems(row: Mapping[str, Any]) -> Iterator[str]:
    if not (_is_text(row["iso2"]) and _ISO2.fullmatch(row["iso2"])):
        yield "iso2 is not two capital letters"
    if not (_is_text(row["prefix"]) and _PREFIX.fullmatch(row["prefix"])):
        yield "prefix is not a dialling code in digits"
    yield from (f"{key} is not a name" for key in _NAMES if not _is_text(row[key]))


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())
