"""What a dialect may use: the use-cases, and the house they work in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.accounts import Caller, Callers
from gateway.activations import Activations
from gateway.errors import TooManyRequests, UnknownActivation
from gateway.handovers import Handovers
from gateway.house import House
from gateway.inbox import Inbox
from gateway.limits import HELD_SECONDS_MAX, Limits
from gateway.live import Live
from gateway.purchases import Purchases
from gateway.readers import Readers
from gateway.rentals import Rentals
from gateway.sessions import Session, Sessions
from gateway.webhooks import Trials

ACTIVATIONS = (False,)
RENTALS = (True,)
EITHER = (False, True)
"""What an id may be of, in the order in which it is looked for: whether it is a rental."""


@dataclass(frozen=True)
class Front:
    """One gateway's use-cases, as every dialect gets them."""

    house: House
    callers: Callers
    activations: Activations
    purchases: Purchases
    handovers: Handovers
    rentals: Rentals
    limits: Limits
    inbox: Inbox
    sessions: Sessions
    readers: Readers
    trials: Trials

    async def find(self, caller: Caller, wanted: int, *, may_look: bool, kinds: Sequence[bool] = ACTIVATIONS) -> Live:
        """The caller's activation or rental of that id; from memory, where it is there.

        Over the limit (not `may_look`) a poll still gets what is known in memory, but costs no look-up. Raises
        UnknownActivation, TooManyRequests, Unavailable.
        """
        for is_rental in kinds:
            live = self.activations.peek(caller.account_id, wanted, is_rental=is_rental)
            if live is not None:
                return live
        if not may_look:
            raise TooManyRequests
        for is_rental in kinds[:-1]:
            try:
                return await self.activations.get(caller, wanted, is_rental=is_rental)
            except UnknownActivation:
                pass  # it may be of the next kind
        return await self.activations.get(caller, wanted, is_rental=kinds[-1])

    def late_seconds(self, caller: Caller) -> float:
        """Counts a request of the key, whatever it asks for; how far it is ahead of its turn, 0 within the limit.

        One that is late is to be held back (`limits.hold_back`) before anything is done for it.
        """
        default = self.house.settings.gateway.limits.polls_per_minute
        late = self.limits.turn_seconds(caller.key_id, caller.polls_per_minute or default)
        for pace in caller.paces:
            if late > HELD_SECONDS_MAX:
                break  # what a key or branch floods with is not taken from the others above it
            if pace.polls is not None:
                late = max(late, self.limits.turn_seconds(pace.subject, pace.polls))
        return late

    async def count_change(self, caller: Caller, count: int = 1) -> None:
        """Counts a purchase or a change, or several at once. Raises TooManyRequests.

        A key with a limit of its own is counted alone, the others of an account together: more keys make no more
        changes. What accounts are ruled to is counted beside, for all below each of them together.
        """
        if caller.changes_per_minute:
            who, most = f"key:{caller.key_id}", caller.changes_per_minute
        else:
            who, most = f"account:{caller.account_id}", self.house.settings.gateway.limits.changes_per_minute
        ruled = ((f"below {pace.subject}", pace.changes) for pace in caller.paces if pace.changes is not None)
        for name, limit in ((who, most), *ruled):
            if not await self.limits.change(name, limit, count):
                raise TooManyRequests(self.limits.window_seconds_left())

    async def count_change_of(self, caller: Caller | None, session: Session | None) -> None:
        """As `count_change`, of whoever asks: a caller, or an operator's session. Raises TooManyRequests."""
        if caller is not None:
            await self.count_change(caller)
        elif session is not None:
            await self.count_operator_change(session.person.id)

    def operator_late_seconds(self, person_id: int) -> float:
        """As `late_seconds`, for an operator's session: counted under a number that no key has."""
        return self.limits.turn_seconds(-person_id, self.house.settings.gateway.limits.polls_per_minute)

    async def count_operator_change(self, person_id: int) -> None:
        """As `count_change`, for an operator's session."""
        if not await self.limits.change(f"operator:{person_id}", self.house.settings.gateway.limits.changes_per_minute):
            raise TooManyRequests(self.limits.window_seconds_left())
