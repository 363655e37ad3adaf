"""SMSPool's names for services and countries, and our codes: what its numeric ids are found by.

The names are those of its public list; only names that differ from the catalogue's are written down here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from adapters._words import VIRTUAL_STATES, WordOptions, Words, plain
from gateway.upstream import Names

SERVICES = {
    "acz": "ClaudeAI",
    "am": "Amazon / Amazon Web Services",
    "bz": "Battle.net / Blizzard",
    "dr": "OpenAI / ChatGPT",
    "go": "Google/Gmail",
    "gt": "GetTaxi",
    "ig": "Instagram",
    "lf": "TikTok",
    "ma": "MailRu",
    "me": "Line",
    "mm": "Microsoft / Microsoft Rewards / Outlook",
    "ok": "OKru",
    "ot": "Not Listed",
    "pf": "Plenty Of Fish",
    "qq": "Tencent / QQ",
    "qw": "QIWIWallet",
    "tw": "Twitter / X",
    "ub": "Uber / Postmates",
    "vk": "VK",
    "ya": "Yandex",
    "za": "JD",
}
"""Service code to name."""

VIRTUAL_STATES_WORD = "US_V"


def service_words(names: Mapping[str, str]) -> dict[str, str]:
    """Service code to the name SMSPool has for it, or else our own."""
    return {**names, **{code: name for code, name in SERVICES.items() if code in names}}


def codes_by_name(names: Mapping[str, str]) -> dict[str, str]:
    """Plain name to service code, for our names and SMSPool's. A name that two of our services share is left out."""
    plain_names = [plain(name) for name in names.values()]
    ours = {plain(name): code for code, name in names.items() if plain_names.count(plain(name)) == 1}
    return {**ours, **{plain(name): code for code, name in SERVICES.items() if code in names}}


def country_words(iso2: Mapping[int, str]) -> dict[int, str]:
    """Country id to SMSPool's `short_name`: ISO letters, and a word of its own for the virtual United States."""
    words = dict(iso2)
    if VIRTUAL_STATES in words:
        words[VIRTUAL_STATES] = VIRTUAL_STATES_WORD
    return words


@dataclass(frozen=True)
class Lists:
    """Our codes and SMSPool's ids (or, before its lists were read, its names), and the words its rows have for them."""

    words: Words
    service_ids: Mapping[str, str]
    country_ids: Mapping[str, str]

    def service_of(self, name: str) -> str:
        """Our code, or the name as it is: the order must not be hidden."""
        return self.words.services.incoming.get(self.service_ids.get(plain(name), ""), name)

    def country_of(self, short_name: str) -> int:
        return self.words.country(self.country_ids.get(short_name, ""))


def unread_lists(names: Names, options: WordOptions) -> Lists:
    return Lists(Words.of(service_words(names.service_names), country_words(names.country_iso2), options), {}, {})


def read_lists(services: Mapping[str, str], countries: Mapping[str, str], names: Names, options: WordOptions) -> Lists:
    """`services` and `countries` are from SMSPool's name and short name to its id."""
    codes = codes_by_name(names.service_names)
    service_ids: dict[str, str] = {}
    for name, number in services.items():
        service_ids.setdefault(plain(name), number)
    found: dict[str, str] = {}
    for name, number in service_ids.items():
        if name in codes:
            found.setdefault(codes[name], number)
    known = {code: countries[word] for code, word in country_words(names.country_iso2).items() if word in countries}
    return Lists(Words.of(found, known, options), service_ids, countries)
