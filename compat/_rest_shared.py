"""What every group of our own operations leans on: limits, countries, references, caps and pages."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from decimal import ROUND_FLOOR

from pydantic import BaseModel

from compat._rest_cursor import cursor, id_of
from compat._rest_http import Call, Reply, idempotency_key, show
from compat._rest_models import Wrong
from compat._rest_once import Bought, Get, Once, Open
from compat._rest_problems import Refused
from compat._rest_waiting import Waiting
from gateway.accounts import ID_MAX
from gateway.errors import BadCountry, TooManyRequests, UnknownActivation
from gateway.front import Front
from gateway.live import Live
from gateway.model import Order
from gateway.money import Money, round_down_to_step, to_micros

BUYING = (
    "price_too_low", "no_numbers", "no_balance", "barred", "suspended", "too_many_open", "bad_idempotency_key",
    "idempotency_key_reused", "in_progress",
)  # fmt: skip
"""What any purchase may be answered with, beyond what is wrong with its body."""


class Shared:
    """Of the operations."""

    def __init__(self, front: Front, once: Once) -> None:
        self.front = front
        self.once = once

    async def count_change(self, call: Call) -> None:
        """Counts a purchase or a change. Raises TooManyRequests."""
        await self.front.count_change(call.caller)

    def country(self, word: str) -> int:
        """Raises BadCountry. Of several ids with the same letters the last is meant: `US` is 187, 12 are virtual."""
        catalog = self.front.house.settings.catalog
        found = {int(word)} & catalog.countries.keys() if word.isdigit() else catalog.countries_of(word)
        if not found:
            raise BadCountry
        return max(found)

    def named(self, call: Call, order: Order, body: BaseModel, verb: str = "") -> Order:
        """The order with its reference and fingerprint: those of the Idempotency-Key and of the body.

        Raises Refused. `verb` tells bodies of different operations apart that read alike.
        """
        vault, key = self.front.house.vault, idempotency_key(call)
        reference = vault.index_digest("idempotency", key) if key else ""
        # With a key the account repeats itself by whichever API key; without, only the same API key does.
        who = f"{call.caller.account_id}:{reference}" if key else str(call.caller.key_id)
        fingerprint = vault.index_digest("rest", f"{who}:{verb}{body.model_dump_json()}")
        return replace(order, reference=reference, fingerprint=fingerprint)

    def path_id(self, call: Call, pattern: re.Pattern[str], prefix: str) -> int:
        """The id in the path. Raises UnknownActivation where it can be nobody's."""
        if not pattern.fullmatch(call.path_id):
            raise UnknownActivation
        found = int(call.path_id.removeprefix(prefix))
        if found > ID_MAX:
            raise UnknownActivation
        return found

    async def awaited(self, call: Call, waiting: Waiting, live: Live, is_awaited: Callable[[Live], bool]) -> Live:
        """What a client waits for, once nothing is awaited of it any more or the time given is up.

        Where too many wait already, it is told as it stands, at once.
        """
        if not call.query.wait or call.is_head or not is_awaited(live):
            return live
        try:
            place = waiting.enter(call.caller, live)
        except Refused:
            return live
        call.has_waited = True
        ends_at, hung_up = time.monotonic() + call.query.wait, call.hung_up()
        try:
            while is_awaited(place.live) and not hung_up.done():
                left = ends_at - time.monotonic()
                if left <= 0 or not await place.change(left, hung_up):
                    break
            return place.live
        finally:
            place.leave()

    async def buy(self, call: Call, order: Order, opened: Open, known: Get) -> tuple[Bought, bool]:
        """What was bought, and whether the client has hung up meanwhile. Raises as `opened`, and as `Once.buy`."""
        hung_up = call.hung_up()
        if order.reference:
            bought = await self.once.buy(call.caller, order, hung_up, opened, known)
        else:
            bought = Bought(await opened(call.caller, order, hung_up.done), is_new=True)
        return bought, hung_up.done()

    def handed_over(self, order: Order, bought: Bought, shown: BaseModel, place: str, *, was_gone: bool) -> Reply:
        """The answer to a purchase: 201, and where what was bought is found.

        What a client that has gone never heard of is kept for its repetition.
        """
        live = bought.live

        def on_sent(was_there: bool) -> None:
            if was_there and not was_gone:
                if order.reference:
                    # Another request with the key may have hung up: the number is not given back for that.
                    self.front.activations.peek(live.account_id, live.id, is_rental=live.is_rental)
                self.front.handovers.answered(live)
            elif bought.is_new:
                self.front.handovers.abandon(live, order.fingerprint)

        reply = show(shown, 201)
        return replace(reply, headers=(*reply.headers, (b"location", place.encode())), on_sent=on_sent)


def require_turn(call: Call) -> None:
    """For what costs a look-up: over the limit, only what memory knows is told. Raises TooManyRequests."""
    if not call.is_within:
        raise TooManyRequests


def cap(given: str | None, currency: str) -> Money | None:
    """The highest price in whole price steps."""
    return None if given is None else Money(round_down_to_step(to_micros(given, rounding=ROUND_FLOOR)), currency)


def no_such(code: str, parameter: str) -> Refused:
    """A name in the query that is in no catalogue."""
    return Refused(code, errors=[Wrong(parameter=parameter, detail="not in the catalogue")])


def following(shown: Sequence[Live], found: Sequence[Live]) -> str | None:
    """The cursor of the next page, where more was found than is shown."""
    return cursor("before", shown[-1].id) if len(found) > len(shown) else None


def before(given: str | None) -> int:
    """The id that a page ends before. Raises Refused."""
    return id_of("before", given, ID_MAX)
