"""Notices to clients: claimed, sent, tried again and given up.

`activations` queues a notice in the transaction of the delivery it tells of. A courier claims it by moving its
`next_at` past the time an attempt can take: whoever crashes on the way leaves a notice that falls due again, so each is
delivered at least once, and a receiver tells repeats by their `webhook-id`.

    pending ──2xx──> sent
       │ ^──later──┐
       └──anything else──┴──pauses used up, or no address any more──> dead
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog

from gateway.errors import Unavailable
from gateway.house import House
from gateway.store import Row, Tx
from gateway.webhook_addresses import parsed_url
from gateway.webhook_forms import RENT, body_of, rent_body, signed_headers
from gateway.webhook_wire import CONNECTIONS_MAX, LEASE_EXTRA_SECONDS, Wire, failure, is_refused

PAUSE_SECONDS = 0.25
IN_FLIGHT_MAX = CONNECTIONS_MAX
"""Attempts under way at once, per process. Each is a socket and a task that mostly wait."""

IN_FLIGHT_PER_ACCOUNT_MAX = 2
"""So that a receiver that never answers takes two places, and not everybody's."""

CLOSING_SECONDS = 2.0

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Result:
    """What came of an attempt. `words` come from a closed set: no URL, number or text."""

    words: str
    is_sent: bool = False
    is_refused: bool = False
    is_final: bool = False
    digest: str = ""


def _answered(status: int, digest: str) -> _Result:
    return _Result(f"http {status}", is_sent=200 <= status < 300, digest=digest)


def _failed(error: Exception, digest: str) -> _Result:
    return _Result(failure(error), is_refused=is_refused(error), digest=digest)


class Courier:
    """Carries notices out of the outbox. Several, in one process or many, may work on one database."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._wire = Wire(house)
        self._in_flight: dict[asyncio.Task[None], int] = {}

    async def round(self) -> float:
        """Starts what is due, as far as there is room, and waits a moment for it; seconds until the next round.

        A slow receiver is left under way and does not hold the next round up. Raises Unavailable.
        """
        house = self._house
        due = await house.store.read(_due, house.clock())
        chosen = self._fitting(due)
        if chosen:
            lease = house.settings.gateway.webhooks.timeout_seconds + LEASE_EXTRA_SECONDS
            for row in await house.store.run(_claim, chosen, house.clock() + lease):
                self._start(row)
        is_more = len(chosen) < len(due)
        await self._wait(asyncio.FIRST_COMPLETED if is_more else asyncio.ALL_COMPLETED)
        return 0.0 if is_more or self._in_flight else PAUSE_SECONDS

    async def aclose(self) -> None:
        """Waits a little for what is under way, then lets go: what is cut off is sent again by the next to start.

        The store must still be open.
        """
        if self._in_flight:
            _, late = await asyncio.wait(self._in_flight, timeout=CLOSING_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await self._wire.aclose()

    async def _wait(self, until: str) -> None:
        if self._in_flight:
            await asyncio.wait(self._in_flight, timeout=PAUSE_SECONDS, return_when=until)

    def _fitting(self, due: Sequence[Row]) -> list[Row]:
        """Those there is a place for, in the process and in the share of their account."""
        busy, room = Counter(self._in_flight.values()), IN_FLIGHT_MAX - len(self._in_flight)
        chosen: list[Row] = []
        for row in due:
            if len(chosen) < room and busy[row["account_id"]] < IN_FLIGHT_PER_ACCOUNT_MAX:
                busy[row["account_id"]] += 1
                chosen.append(row)
        return chosen

    def _start(self, row: Row) -> None:
        task = asyncio.create_task(self._carry(row), name=f"notice:{row['id']}")
        self._in_flight[task] = row["account_id"]
        task.add_done_callback(self._in_flight.pop)

    async def _carry(self, row: Row) -> None:
        house = self._house
        result = await self._attempt(row)
        pauses = house.settings.gateway.webhooks.retry_seconds
        ending = _ending(result, row["tries"], row["next_at"], pauses, house.clock())
        try:
            await house.store.run(_note, row["id"], ending)
        except Unavailable:
            log.warning("notice.unrecorded", notice=row["id"], result=result.words)
            return
        house.metrics.notices.labels(ending.label).inc()
        log.info(f"notice.{ending.label}", notice=row["id"], result=result.words, tries=ending.tries)

    async def _attempt(self, row: Row) -> _Result:
        house, digest = self._house, ""
        is_rent = row["format"] == RENT
        sealed = row["rent_url_sealed"] if is_rent else row["webhook_url_sealed"]
        if not sealed:
            return _Result("no webhook set", is_final=True)
        try:
            url = house.vault.open(sealed)
            parsed_url(url, house.settings.gateway.webhooks)  # the command line may set what a dialect would refuse
            body = rent_body(house.vault, row) if is_rent else body_of(house.vault, house.settings.catalog, row)
            digest = house.vault.index_digest("notice", body)
            headers = signed_headers(house.vault, row["id"], body, house.clock())
            return _answered(await self._wire.post(url, headers, body.encode()), digest)
        except Exception as error:  # one notice that cannot be sent must not keep the others
            return _failed(error, digest)


@dataclass(frozen=True, slots=True)
class _Ending:
    """How an attempt leaves its notice. `leased_until` is the claim it was made under."""

    state: str
    label: str
    tries: int
    next_at: float
    at: float
    leased_until: float
    words: str
    digest: str = field(repr=False)


def _ending(result: _Result, tries: int, leased_until: float, pauses: Sequence[float], now: float) -> _Ending:
    """`tries` counts the attempts before this one; after the first failure the first pause follows, and so on."""
    made = tries + (not result.is_final)
    if result.is_sent:
        state, label, next_at = "sent", "sent", now
    elif result.is_final or tries >= len(pauses):
        state, label, next_at = "dead", "dead", now
    else:
        state, label, next_at = "pending", "refused" if result.is_refused else "retry", now + pauses[tries]
    return _Ending(state, label, made, next_at, now, leased_until, result.words, result.digest)


# Units of work


def _due(tx: Tx, now: float) -> Sequence[Row]:
    """What is due, longest first: of each account one more than it may have under way.

    So no backlog hides another account's notices, and yet shows that there is more. Enough rows that those of busy
    accounts can be passed over and every place still be filled.
    """
    return tx.all(
        "select id, account_id, next_at from ("
        "select id, account_id, next_at, row_number() over (partition by account_id order by next_at, id) as place"
        " from notices where state = 'pending' and next_at <= :now) as due"
        " where place <= :each order by next_at, id limit :most",
        now=now,
        each=IN_FLIGHT_PER_ACCOUNT_MAX + 1,
        most=IN_FLIGHT_MAX * (IN_FLIGHT_PER_ACCOUNT_MAX + 2),
    )


def _claim(tx: Tx, chosen: Sequence[Row], until: float) -> list[Row]:
    """Those of the chosen that nobody else claimed since they were read, with all that is needed to send them."""
    # In one order everywhere, so that two processes cannot wait for each other.
    return [row for seen in sorted(chosen, key=lambda seen: int(seen["id"])) if (row := _claim_one(tx, seen, until))]


def _claim_one(tx: Tx, seen: Row, until: float) -> Row | None:
    is_ours = tx.execute(
        "update notices set next_at = :until, format = case when format = :rent then format else coalesce("
        "(select webhook_format from accounts where accounts.id = notices.account_id), 'sms_activate') end"
        " where id = :id and state = 'pending' and next_at = :seen",
        until=until,
        rent=RENT,
        id=seen["id"],
        seen=seen["next_at"],
    )
    return _whole(tx, seen["id"]) if is_ours else None


def _whole(tx: Tx, notice_id: int) -> Row | None:
    return tx.one(
        "select n.id, n.account_id, n.activation_id, n.message_id, n.tries, n.next_at, n.format, v.service, v.country,"
        " v.number_sealed, m.text_sealed, m.code_sealed, m.sender_sealed, m.received_at, a.webhook_url_sealed,"
        " v.webhook_url_sealed as rent_url_sealed"
        " from notices n join messages m on m.id = n.message_id join activations v on v.id = n.activation_id"
        " join accounts a on a.id = n.account_id where n.id = :id",
        id=notice_id,
    )


def _note(tx: Tx, notice_id: int, ending: _Ending) -> None:
    """Writes an attempt down. A failure counts only under its own claim; a success, however late, always does."""
    tx.execute(
        "update notices set state = :state, tries = :tries, next_at = :next_at, ended_at = :ended_at,"
        " last_result = :words, body_digest = :digest"
        " where id = :id and state = 'pending' and (next_at = :leased_until or :state = 'sent')",
        id=notice_id,
        state=ending.state,
        tries=ending.tries,
        next_at=ending.next_at,
        ended_at=None if ending.state == "pending" else ending.at,
        words=ending.words,
        digest=ending.digest,
        leased_until=ending.leased_until,
    )
