"""Whose message is it? What a service calls itself, and how a message is given to one of several leases.

A message goes, in this order, to

1. nobody, where a rule says to ignore it (a carrier's advertising);
2. the lease whose service its sender or text names: the one named by its sender first, then by the longest name; of
   several alike the only one that waits;
3. nobody, where it clearly names another known service: it was somebody else's request, or a mistake, and whoever sees
   it could take over an account that is not theirs;
4. nobody, where there is no digit in it: without a name and without a code it is an advertisement;
5. the only lease there is, or the only one that waits; nobody where a guess would have to decide.

Names are compared as words, without regard to capitals. A service is known by its names in the catalogue, by what is
in `KNOWN_AS`, or by its rule in the settings, which takes the place of both.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from pydantic import BaseModel, ConfigDict, Field

from gateway.inhouse import PoolLease, PoolMessage

OTHER_SERVICE = "other service"
IGNORED = "ignored"
NO_CODE = "no code"
AMBIGUOUS = "ambiguous"
NOT_NAMED = "not named"

TAKES_ALL = frozenset({"full"})
"""Codes of services that are the whole number: whatever is sent to it is theirs."""

NAMELESS = frozenset({"ot", "full"})
"""Codes whose catalogue name is no name of a service."""

KNOWN_AS: Mapping[str, tuple[str, ...]] = {
    "dr": ("OpenAI", "ChatGPT"),
    "fb": ("Facebook", "FB", "Meta"),
    "ig": ("Instagram", "Threads", "Insta", "Meta"),
    "lf": ("TikTok", "Douyin"),
    "mb": ("Yahoo",),
    "me": ("Line", "Line messenger"),
    "mm": ("Microsoft", "Outlook", "Hotmail"),
    "mt": ("Steam", "Steam Guard"),
    "ok": ("OK", "OKru", "ok.ru", "Odnoklassniki"),
    "tw": ("Twitter", "your X", "X code"),
    "vk": ("VK", "VKcom", "vk.com", "VKontakte"),
    "wa": ("WhatsApp", "Meta"),
    "wb": ("WeChat", "Weixin"),
    "wx": ("Apple", "iCloud", "Apple ID"),
}
"""Names that the catalogue does not have, or not in this form."""

PLAIN_WORDS = frozenset(
    """
    account adverts all amaze any band bank banks bet bit booking box branch cash casino chase chat chime cita citi
    clear clerk cloud code consultant continente copy cora corona curve dana daya dent diversity duet emma excellent
    factory familia fast feels fetch first five flaming flash flip forte fortuna foxy frankly free full gambling
    gamer get go gorod grab hanya her hi hop hotline ibank indeed index jago jet jush just kaya koin letgo liberty
    lider lime line link live login luck mail mantan maps mas match max maxim maya medium mega mercado meta metro
    million mobile moka money move my neon next ngn noon now ok okey one onet online open other our outlier pairs
    paper pay pin pintu pixels pony porte porter potato premium prime prom rabbit rapido rent ride royale rush
    seated secure segari seven shield shielded shop siesta signal simply smart smiles smitten square start stone
    subito sunlight super surveyon switch taki talk tangga tank team tell things threads tick tier tomei top touch
    treasury trip trust twilio twin upward us use valora value vantage verify verse via vida virgo vivid voi vonage
    waha wallet wert will wink winner wise wish yes you your zen
    """.split()  # noqa: SIM905 — a list of two hundred would fill a page
)
"""Names of services that are words of every day: a text that has one does not name the service for that."""

_WORD = re.compile(r"[^\W_]+")
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")
_SEPARATOR = re.compile(r"[,/+]")
_DOMAIN = re.compile(r"\.(?:com|ru|ua|kz|one|net|org)$", re.IGNORECASE)

PHRASE_WORDS_MAX = 5
SHORT_LENGTH_MAX = 5

Words = tuple[str, ...]


class Rule(BaseModel):
    """What tells a service's messages: words of the sender's name or of the text. `*` in a sender is anything."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    senders: tuple[str, ...] = Field(default=(), description="Names of senders, or words of them.")
    texts: tuple[str, ...] = Field(default=(), description="Words of the text.")


@dataclass(frozen=True, slots=True)
class _Names:
    """One service's names, in words."""

    senders: tuple[str, ...]
    texts: frozenset[Words]


class Rules:
    """Chooses leases for messages. Pure once made, and quick: a text is cut into words, and the words are looked up."""

    def __init__(self, service_names: Mapping[str, str], rules: Mapping[str, Rule], ignored: Rule, *, strict: bool):
        self._strict = strict
        self._ignored = _of_rule(ignored)
        catalogue = {code: tuple(_catalogue_names(code, name)) for code, name in service_names.items()}
        everyone = {_words(name) for names in catalogue.values() for name in names}
        self._names: dict[str, _Names] = {}
        for code, names in catalogue.items():
            if code in rules:
                self._names[code] = _of_rule(rules[code])
            else:
                own = (*names, *_names_within(names, everyone))
                self._names[code] = _Names(own, frozenset(map(_words, own)) - {()})
        self._known = {words for words in everyone if _is_telling(words)}
        self._known_senders = {"".join(words) for words in everyone if not all(word.isdigit() for word in words)}

    def __call__(self, leases: Sequence[PoolLease], message: PoolMessage) -> PoolLease | str:
        phrases = set(_phrases(_words(message.text)))
        if _rank(self._ignored, message.sender, phrases) > 0:
            return IGNORED
        ranks = {lease.id: self._rank(lease, message.sender, phrases) for lease in leases}
        named = [lease for lease in leases if ranks[lease.id] > 0]
        if named:
            top = max(ranks[lease.id] for lease in named)
            return _sole([lease for lease in named if ranks[lease.id] == top])
        takers = [lease for lease in leases if lease.service in TAKES_ALL]
        if takers:
            return takers[0]
        if self._strict:
            return NOT_NAMED
        if self._names_another(message):
            return OTHER_SERVICE
        if not any(character.isdigit() for character in message.text):
            return NO_CODE
        return _sole(leases)

    def _rank(self, lease: PoolLease, sender: str, phrases: set[Words]) -> int:
        names = self._names.get(lease.service)
        return _rank(names, sender, phrases) if names is not None else 0

    def _names_another(self, message: PoolMessage) -> bool:
        if "".join(_words(message.sender)) in self._known_senders:
            return True
        written = _phrases(tuple(_WORD.findall(message.text)))
        return any(_lower(phrase) in self._known and _is_a_name(phrase) for phrase in written)


def _sole(leases: Sequence[PoolLease]) -> PoolLease | str:
    """The only one, or the only one that waits: a guess would show one customer's code to another."""
    if len(leases) == 1:
        return leases[0]
    waiting = [lease for lease in leases if lease.is_waiting]
    return waiting[0] if len(waiting) == 1 else AMBIGUOUS


def _rank(names: _Names, sender: str, phrases: set[Words]) -> int:
    """Nought where the message is not the service's; more where it is more surely."""
    if _is_sender(names.senders, sender):
        return 10_000
    found = names.texts & phrases
    return max(map(_length, found), default=0)


def _is_sender(patterns: Iterable[str], sender: str) -> bool:
    within = set(_phrases(_words(sender)))
    plain = sender.strip().lower()
    return any(
        fnmatchcase(plain, pattern.lower()) if "*" in pattern else _words(pattern) in within for pattern in patterns
    )


def _of_rule(rule: Rule) -> _Names:
    return _Names(rule.senders, frozenset(map(_words, rule.texts)) - {()})


def _catalogue_names(code: str, name: str) -> Iterator[str]:
    if code in NAMELESS:
        return
    yield from KNOWN_AS.get(code, ())
    for part in _SEPARATOR.split(name):
        yield part
        yield _DOMAIN.sub("", part)


def _names_within(names: Iterable[str], everyone: set[Words]) -> Iterator[str]:
    """`Google Chat` and `GoogleVoice` send as `Google`: names of services that a name begins with."""
    for name in names:
        first = name.split()[:1]
        for beginning in (*first, *_HUMP.split(name)[:1]):
            words = _words(beginning)
            if beginning != name and words in everyone and _is_telling(words):
                yield beginning


def _is_telling(words: Words) -> bool:
    """Whether a text that has these words names the service: not what is short, and no word of every day."""
    return _length(words) >= 3 and not all(word in PLAIN_WORDS or word.isdigit() for word in words)


def _is_a_name(written: Words) -> bool:
    """Short names are words of some language or other, unless they are written as names are."""
    return _length(written) > SHORT_LENGTH_MAX or not written[0][0].islower()


def _length(words: Words) -> int:
    return sum(map(len, words))


def _lower(words: Words) -> Words:
    return tuple(word.lower() for word in words)


def _words(text: str) -> Words:
    return tuple(_WORD.findall(text.lower()))


def _phrases(words: Words) -> Iterator[Words]:
    """Every run of up to five words."""
    for start in range(len(words)):
        for end in range(start + 1, min(start + PHRASE_WORDS_MAX, len(words)) + 1):
            yield words[start:end]
