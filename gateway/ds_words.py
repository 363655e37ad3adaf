"""DS SMS HUB's words for services: the dialect takes them, and its notices name a service by them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

from gateway.catalog import Catalog
from gateway.fivesim_words import PRODUCTS

_NOT_IN_WORD = re.compile(r"[^a-z0-9]+")


def service_words(catalog: Catalog) -> Mapping[str, str]:
    """Code to word: a product's usual name, else the catalogue's in plain lower case; the code where that is taken."""
    usual = {code: word for code, word in PRODUCTS.items() if code in catalog.services}
    simple = {code: _NOT_IN_WORD.sub("", name.lower()) for code, name in catalog.services.items() if code not in usual}
    times = Counter([*usual.values(), *simple.values(), *catalog.services])
    named = {code: word for code, word in simple.items() if word and times[word] == 1}
    return {code: usual.get(code) or named.get(code, code) for code in catalog.services}
