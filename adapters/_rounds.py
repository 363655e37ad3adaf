"""Names for messages on wires that give them neither an id nor a time, only their place in a list.

Such lists were seen to hold one message twice (`protocol/upstreams/others.md` §2 names no id). The same words in one
round are therefore one message; in a later round, asked for anew, they are another. Which round a place in the list
belongs to is remembered while the process lives. After a restart it is guessed: the n-th time the same words stand
there belongs to the n-th round, though never to one that has not begun.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence

from cachetools import TTLCache

from gateway.model import Sms

LEASES_KEPT = 20_000
KEPT_SECONDS = 4 * 3600.0


class Rounds:
    """What was read of each lease: the round in which each place of its list was first seen."""

    def __init__(self) -> None:
        self._seen: TTLCache[str, list[int]] = TTLCache(LEASES_KEPT, KEPT_SECONDS)

    def identities(self, lease: str, round_: int, messages: Sequence[str]) -> list[str]:
        """One for each message, oldest first, the same however often it is read."""
        known = self._seen.get(lease)
        rounds = list(_guessed(messages, round_)) if known is None else known[: len(messages)]
        rounds += [round_] * (len(messages) - len(rounds))
        self._seen[lease] = rounds
        return list(_named(messages, rounds))

    def messages(self, lease: str, round_: int, said: Sequence[str], sms: Callable[[str, str], Sms]) -> tuple[Sms, ...]:
        """`sms(words, identity)` of each message in the list, once where it stands there twice."""
        identities = self.identities(lease, round_, said)
        named = dict(zip(identities, said, strict=True))
        return tuple(sms(words, identity) for identity, words in named.items())


def lone_sms(code: str, text: str, round_: int) -> Sms:
    """The message of an order that shows one: what tells two equal ones apart is the round they came in."""
    digest = hashlib.blake2b(f"{code}\0{text}".encode(), digest_size=12).hexdigest()
    return Sms(code, text, identity=f"{round_}:{digest}")


def _guessed(messages: Sequence[str], round_: int) -> Iterator[int]:
    for place, message in enumerate(messages):
        yield min(1 + messages[:place].count(message), round_)


def _named(messages: Sequence[str], rounds: Sequence[int]) -> Iterator[str]:
    """`n:words`, where n counts the rounds in which these words came: it needs no memory to be found again."""
    came: dict[str, list[int]] = {}
    for message, round_ in zip(messages, rounds, strict=True):
        mine = came.setdefault(message, [])
        if round_ not in mine:
            mine.append(round_)
        yield f"{mine.index(round_) + 1}:{_digest(message)}"


def _digest(message: str) -> str:
    return hashlib.blake2b(message.encode("utf-8", "replace"), digest_size=8).hexdigest()
