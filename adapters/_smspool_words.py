"""SMSPool's names for services and countries, and our codes: what its numeric ids are found by.

The names are those of its public list; only names that differ from the catalogue's are written down here.
"""

from __future__ import annotations

from collections.abc import Mapping

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

VIRTUAL_STATES = 12
VIRTUAL_STATES_WORD = "US_V"


def plain(name: str) -> str:
    """A name without what two lists may write differently: case, blanks, punctuation."""
    return "".join(letter for letter in name.casefold() if letter.isalnum())


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
