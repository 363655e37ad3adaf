"""Words of an upstream for our services and countries: how tables of them are written, learnt and looked up."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict

from adapters._values import Codes, CodeTable, mapping
from gateway.errors import Refused
from gateway.model import BuyOrder, Clock

T = TypeVar("T")

VIRTUAL_STATES = 12
"""The United States are two countries of ours: this one, and 187 for the physical ones."""

LEARNT_SECONDS = 6 * 3600.0


class WordOptions(BaseModel):
    """What every stanza can say: `services` and `countries` map our codes to the upstream's words, over the tables."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    services: Annotated[Mapping[str, str], CodeTable] = {}
    countries: Annotated[Mapping[int, str], CodeTable] = {}


@dataclass(frozen=True)
class Words:
    """An upstream's words, one to one with our codes."""

    services: Codes[str]
    countries: Codes[int]

    @classmethod
    def of(cls, services: Mapping[str, str], countries: Mapping[int, str], options: WordOptions) -> Words:
        """Tables with the stanza's words on top."""
        return cls(Codes.of(services, options.services), Codes.of(countries, options.countries))

    def wanted(self, order: BuyOrder) -> tuple[str, str]:
        """Its words for the country and the service of an order. Raises Refused."""
        country, service = self.countries.outgoing.get(order.country), self.services.outgoing.get(order.service)
        if country is None or service is None:
            raise Refused("no word for this service or country there")
        return country, service

    def service(self, word: str) -> str:
        """Our code for a service of an order of ours, or the word as it is: the lease must not be hidden."""
        return self.services.incoming.get(word, word)

    def country(self, word: str) -> int:
        """Our code for a country of an order of ours, or -1: the lease must not be hidden."""
        return self.countries.incoming.get(word, -1)


def told_words(knowledge: Mapping[str, Any], kind: str) -> dict[str, str]:
    """A table in what another process has learnt. Raises ValueError."""
    table = mapping(knowledge.get(kind))
    if not all(isinstance(word, str) for word in table.values()):
        raise ValueError("not a table of words")
    return table


class Learnt(Generic[T]):
    """What an upstream's own lists say, asked for when it is first needed and once in six hours."""

    def __init__(self, before: T, clock: Clock) -> None:
        self.now = before
        """As it was learnt last, or what is good enough before."""
        self._clock = clock
        self._until: float | None = None

    @property
    def is_known(self) -> bool:
        return self._until is not None

    @property
    def good_until(self) -> float:
        """Until then it need not be asked for again."""
        return 0.0 if self._until is None else self._until

    def told(self, value: T, good_until: float) -> None:
        """As another process has learnt it."""
        self.now = value
        self._until = min(good_until, self._clock() + LEARNT_SECONDS)

    async def fresh(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Raises what `ask` raises, and then asks again the next time."""
        if self._until is None or self._clock() >= self._until:
            self.now = await ask()
            self._until = self._clock() + LEARNT_SECONDS
        return self.now


def pairs(table: str) -> dict[str, str]:
    """`tg telegram, wa whatsapp` as a table."""
    words = table.replace(",", " ").split()
    return dict(zip(words[::2], words[1::2], strict=True))


def plain(name: str) -> str:
    """A name without what two lists may write differently: case, blanks, punctuation."""
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def one_usa(iso2: Mapping[int, str]) -> dict[int, str]:
    """Letters of countries, for upstreams that sell one kind of United States: the physical ones stand for it."""
    return {number: letters for number, letters in iso2.items() if number != VIRTUAL_STATES}
