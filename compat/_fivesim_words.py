"""Every service and country of a catalogue under a word of 5sim's, or one made the way 5sim makes its own.

Where 5sim's word is known it is used (`gateway.fivesim_words`, as the adapter buys by them). All others are called by
their English name in lower case without anything but letters and digits; a name that has other letters goes by our own
code. No two share a word, in any catalogue: the second to claim one gets its code behind it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain, count

from gateway.catalog import Catalog
from gateway.fivesim_words import COUNTRIES, PRODUCTS

ANY = "any"
HOSTING: Mapping[str, int] = {"3hours": 3, "1day": 24, "10days": 240, "1month": 720}
"""5sim's products for renting, and their hours; never the word of a service."""

USA_VIRTUAL = 12
"""5sim sells one kind of United States; the physical ones (187) stand for it, as they do where we buy from 5sim."""

_OTHER = re.compile(r"[^a-z0-9]+")


@dataclass(frozen=True)
class Words:
    """Both directions of both tables."""

    product_of: Mapping[str, str]
    service_of: Mapping[str, str]
    country_of: Mapping[int, str]
    number_of: Mapping[str, int]

    def product(self, service: str) -> str:
        """The word for a service, be it one that has left the catalogue since."""
        return self.product_of.get(service, service)

    def country(self, number: int) -> str:
        return self.country_of.get(number, str(number))


def words_of(catalog: Catalog) -> Words:
    """The words of one catalogue; the same catalogue always has the same."""
    products = _products(catalog)
    countries = _countries(catalog)
    return Words(
        product_of=products,
        service_of={word: service for service, word in products.items()},
        country_of=countries,
        number_of={word: number for number, word in countries.items()},
    )


def _products(catalog: Catalog) -> dict[str, str]:
    """The sandbox's scenarios go by their codes: that is what its page calls them."""
    known = {service: PRODUCTS[service] for service in catalog.services if service in PRODUCTS}
    known |= {service: service for service in catalog.services if service in catalog.sandbox_services}
    taken = {ANY, *HOSTING, *known.values()}
    for service, name in catalog.services.items():
        if service not in known:
            known[service] = _claim((slug(name) or service), service, taken)
    return known


def _countries(catalog: Catalog) -> dict[int, str]:
    known: dict[int, str] = {}
    taken = {ANY}
    for country in catalog.countries.values():
        word = COUNTRIES.get(country.iso2, "")
        if word and word not in taken and country.id != USA_VIRTUAL:
            known[country.id] = word
            taken.add(word)
    for country in catalog.countries.values():
        if country.id not in known:
            known[country.id] = _claim(slug(country.eng) or f"country{country.id}", str(country.id), taken)
    return known


def slug(name: str) -> str:
    """Lower-case letters and digits of a name, accents taken off; empty where it has letters beyond a to z."""
    plain = "".join(part for part in unicodedata.normalize("NFKD", name) if not unicodedata.combining(part))
    if any(letter.isalnum() and not letter.isascii() for letter in plain):
        return ""
    return _OTHER.sub("", plain.lower())


def _claim(word: str, code: str, taken: set[str]) -> str:
    candidates: Iterable[str] = chain((word, word + code), (f"{word}{code}n{number}" for number in count(2)))
    free = next(candidate for candidate in candidates if candidate not in taken)
    taken.add(free)
    return free
