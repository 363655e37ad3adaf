"""Who has been shown which message: the first time each key or person saw one is in the audit log.

A poll must not wait for the database, so it only leaves a note here; a loop writes what is new within a second. What
was written is known by message and reader, so however many processes show it, and after restarts, it is written once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import structlog
from cachetools import LRUCache

from gateway import audit
from gateway.accounts import Caller
from gateway.errors import Unavailable
from gateway.history import Past
from gateway.live import Live
from gateway.model import Clock
from gateway.store import Store, Tx

WRITE_SECONDS = 0.5
REMEMBERED_MAX = 100_000
WAITING_MAX = 100_000
"""Notes kept while the database is away; what comes after them is not noted, and the log says so."""

WRITTEN_TOGETHER = 100

log = structlog.get_logger()

_Place = tuple[int, int]


@dataclass(slots=True)
class _Sight:
    """Messages of one activation that somebody saw: bit `n` stands for the one of place `n`, counted from 0."""

    activation_id: int
    account_id: int
    actor: str
    at: float
    places: int


class Readers:
    """One per process."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._known: LRUCache[_Place, int] = LRUCache(REMEMBERED_MAX)
        self._waiting: dict[_Place, _Sight] = {}
        self._is_full = False

    def saw(self, caller: Caller, live: Live, *, only_newest: bool = False) -> None:
        """The caller is shown an activation's messages, or the newest of them. Costs nothing where there is none."""
        count = len(live.messages)
        if count:
            self._note(caller, live.id, (1 << (count - 1)) if only_newest else (1 << count) - 1)

    def saw_some(self, caller: Caller, live: Live, places: Iterable[int]) -> None:
        """As `saw`, for the messages of these places, counted from 0."""
        wanted = sum(1 << place for place in places if place < len(live.messages))
        if wanted:
            self._note(caller, live.id, wanted)

    def saw_each(self, caller: Caller, lives: Iterable[Live]) -> None:
        """As `saw`, for a list."""
        for live in lives:
            self.saw(caller, live)

    def saw_past(self, caller: Caller, found: Iterable[Past]) -> None:
        """The caller is shown the newest message of each of these."""
        for past in found:
            if past.message_count:
                self._note(caller, past.id, 1 << (past.message_count - 1))

    def _note(self, caller: Caller, activation_id: int, places: int) -> None:
        place = (activation_id, caller.key_id)
        known = self._known.get(place, 0)
        if not places & ~known:
            return
        waiting = self._waiting.get(place)
        if waiting is not None:
            waiting.places |= places
        elif len(self._waiting) < WAITING_MAX:
            self._waiting[place] = _Sight(activation_id, caller.account_id, caller.actor, self._clock(), places)
        else:
            if not self._is_full:
                log.error("readers.full", waiting=WAITING_MAX)
            self._is_full = True
            return
        self._known[place] = known | places

    async def write(self) -> None:
        """Writes what has been noted. Raises Unavailable, having forgotten nothing."""
        while self._waiting:
            places = list(self._waiting)[:WRITTEN_TOGETHER]
            sights = [self._waiting.pop(place) for place in places]
            try:
                await self._store.run(_write, sights)
            except Unavailable:
                for place, sight in zip(places, sights, strict=True):
                    newer = self._waiting.get(place)
                    if newer is not None:
                        sight.places |= newer.places
                    self._waiting[place] = sight
                raise
        self._is_full = False


def _write(tx: Tx, sights: Sequence[_Sight]) -> None:
    for sight in sights:
        rows = tx.all(
            "select id from messages where activation_id = :id and is_shown = 1 order by id limit :most",
            id=sight.activation_id,
            most=sight.places.bit_length(),
        )
        for place, row in enumerate(rows):
            if sight.places >> place & 1 and _is_first(tx, row["id"], sight):
                audit.note(
                    tx,
                    sight.at,
                    sight.actor,
                    "message.read",
                    f"message:{row['id']}",
                    account_id=sight.account_id,
                    activation=sight.activation_id,
                )


def _is_first(tx: Tx, message_id: int, sight: _Sight) -> bool:
    return bool(
        tx.execute(
            "insert into shown_messages (message_id, actor, at) values (:message, :actor, :at)"
            " on conflict (message_id, actor) do nothing",
            message=message_id,
            actor=sight.actor,
            at=sight.at,
        )
    )
