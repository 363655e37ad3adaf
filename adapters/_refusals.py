"""Upstreams that refuse with a word: what it means for a purchase, for the balance, and for any other call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from adapters._http import Reply
from adapters._values import Unreadable, mapping, micros
from gateway.errors import InDoubt, NotAllowed, Refused, SoldOut, Unwell, UpstreamError


class RefusedForGood(Refused, NotAllowed):
    """Nothing was taken, and asking later does not help: this number is not used again, this rental not extended."""


@dataclass(frozen=True, slots=True)
class Answer:
    """`word` is that of a refusal, or empty where `data` is what was asked for."""

    word: str
    data: Any = field(repr=False)


@dataclass(frozen=True)
class Refusals:
    """Its words. One that is in none of the sets has never been met: after a purchase it is in doubt.

    `quotable` makes a word fit for a message, without a number, code or key in it.
    """

    sold_out: frozenset[str]
    faults: frozenset[str]
    declined: frozenset[str]
    quotable: Callable[[str], str]

    def purchase_error(self, word: str) -> UpstreamError:
        if word in self.sold_out:
            return SoldOut(word)
        if word in self.faults or word in self.declined:
            return Refused(word, is_fault=word in self.faults)
        return InDoubt(self.quotable(word))

    def bought(self, answer: Answer) -> Any:
        """What a purchase, or a question before it, was answered with. Raises as `purchase_error`."""
        if answer.word:
            raise self.purchase_error(answer.word)
        return answer.data

    def told(self, answer: Answer) -> Any:
        """What any other call was answered with. Raises Unwell."""
        if answer.word:
            raise Unwell(self.quotable(answer.word))
        return answer.data

    def balance(self, answer: Answer) -> int:
        """Micro-units. Raises Refused where the account is at fault, Unwell."""
        if answer.word in self.faults:
            raise Refused(answer.word, is_fault=True)
        return micros(mapping(self.told(answer)).get("balance"))


def read_answer(reply: Reply, statuses: Mapping[int, str], word_of: Callable[[Any], str]) -> Answer:
    """The JSON of a reply with the word that `word_of` finds in it, or that its status stands for.

    Raises Unreadable where the server broke, or refused in no word.
    """
    if reply.status in statuses:
        return Answer(statuses[reply.status], None)
    if reply.status >= 500 or reply.status == 408:
        raise Unreadable("the server broke")
    data = reply.json()
    word = word_of(data)
    if not word and reply.status != 200:
        raise Unreadable("a status without a word")
    return Answer(word, data)
