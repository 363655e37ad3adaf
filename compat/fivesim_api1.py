"""5sim's older protocol ("API1"): SMS-Activate of its first years, with words for countries and services.

What is known of it is its clients': `protocol/handler_api.md` §5.1, §10 (no money), §11. Numbers of countries and our
codes of services are taken as well; answers hold words. Shapes no client shows are the reference's.
"""

from __future__ import annotations

from collections.abc import Mapping

from compat._core import WORDS
from compat._dialect import NEWER, SMS_ACTIVATE_ONLY, Dialect
from compat._fivesim_words import Words, words_of
from compat._lists import Lists
from gateway.errors import BadCountry, BadService
from gateway.front import Front


class FiveSimApi1(Dialect):
    """As its clients of 2019 to 2026 know it."""

    name = "api1"
    words = WORDS
    count_suffix = "_0"
    counts_are_text = False
    lacks = SMS_ACTIVATE_ONLY | NEWER | {
        "getActiveActivations", "getCurrentActivations", "getFullSms", "getNumberV2", "getOperators", "getStatusV2",
    }  # fmt: skip

    def __init__(self, front: Front, lists: Lists) -> None:
        super().__init__(front, lists)
        self._words: tuple[str, Words] | None = None

    def service(self, values: Mapping[str, str]) -> str:
        """By 5sim's word, or by our code where that is no other service's word. Raises BadService."""
        given = values.get("service", "")
        code = self._fivesim_words().service_of.get(given.lower(), given)
        if code not in self.catalog.services:
            raise BadService
        return code

    def service_word(self, service: str) -> str:
        return self._fivesim_words().product(service)

    def country(self, values: Mapping[str, str]) -> int:
        """By 5sim's word or by number; unnamed, the deployment's. Raises BadCountry."""
        number = self._fivesim_words().number_of.get(values.get("country", "").lower())
        if number is None:
            return super().country(values)
        if number not in self.catalog.countries:
            raise BadCountry
        return number

    def country_number(self, country: int) -> str:
        return self._fivesim_words().country(country)

    def country_id(self, country: int) -> int:
        """Lists of countries are the reference's, and a word is no number: ours is taken as well."""
        return country

    def _fivesim_words(self) -> Words:
        version = self.front.house.settings.version
        if self._words is None or self._words[0] != version:
            self._words = (version, words_of(self.catalog))
        return self._words[1]
