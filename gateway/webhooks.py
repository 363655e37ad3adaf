"""Notices to clients: claimed, sent, tried again and given up.

`activations` queues a notice in the transaction of the delivery it tells of. A courier claims it by moving its
`next_at` past the time an attempt can take: whoever crashes on the way leaves a notice that falls due again, so each is
delivered at least once, and a receiver tells repeats by their `webhook-id`.

    pending ──2xx──> sent
       │ ^──later──┐
       └──anything else──┴──pauses used up, or nowhere to send it any more──> dead ──replay──> pending
"""

from __future__ import annotations

import asyncio
import email.utils
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC

import structlog
from cachetools import TTLCache

from gateway import webhook_endpoints, webhook_log
from gateway.errors import NotAllowedNow, TooManyRequests, Unavailable
from gateway.house import House
from gateway.settings import WebhooksSettings
from gateway.store import Row, Tx
from gateway.webhook_addresses import parsed_url
from gateway.webhook_endpoints import ENDPOINT, Endpoint, lease_seconds
from gateway.webhook_forms import RENT, body_of, example_body, signed_headers
from gateway.webhook_log import MESSAGE_DELETED, Attempt
from gateway.webhook_wire import CONNECTIONS_MAX, Answer, Wire, failure, is_refused

PAUSE_SECONDS = 0.25
IN_FLIGHT_MAX = CONNECTIONS_MAX
"""Attempts under way at once, per process. Each is a socket, a task and for a while a thread, that mostly wait."""

IN_FLIGHT_SLOW_MAX = IN_FLIGHT_MAX // 2
"""Of them, those to endpoints that are known to be slow: however many there are, others find a place."""

IN_FLIGHT_UNPROVEN_MAX = IN_FLIGHT_MAX * 3 // 4
"""Of them, those to endpoints not known to be quick: many that hang for the first time leave others the rest."""

IN_FLIGHT_PER_ACCOUNT_MAX = 8
"""Over all its endpoints: its own, and those of its rentals."""

IN_FLIGHT_PER_ENDPOINT_MAX = 2
"""So that a receiver that never answers takes two places, and not everybody's. One that was paused is tried by one."""

SLOW_SECONDS = 1.0
PACE_REMEMBERED_SECONDS = 600.0
PACES_REMEMBERED_MAX = 10_000
DEFERRED_MAX = 1_000
RETRY_AFTER_SECONDS_MAX = 3600.0
HONOURED_RETRY_AFTER = frozenset({429, 503})
GONE = 410
TESTS_MAX = 16
CLOSING_SECONDS = 2.0

log = structlog.get_logger()

EndpointKey = tuple[int, int]
"""An account's id, and that of the rental whose own address it is, or 0."""


@dataclass(frozen=True, slots=True)
class _Result:
    """What came of an attempt. `words` come from a closed set: no URL, number or text.

    `attempt` is what the log keeps; None where nothing was sent and it lay with nobody at the other end.
    """

    words: str
    is_sent: bool = False
    is_refused: bool = False
    is_final: bool = False
    is_gone: bool = False
    hold_seconds: float = 0.0
    attempt: Attempt | None = None


@dataclass(frozen=True, slots=True)
class Tested:
    """What came of a test: `words` as in the log."""

    message_id: str
    words: str
    is_delivered: bool
    status: int | None
    seconds: float


def answered(answer: Answer, now: float) -> _Result:
    """What an answer means."""
    return _Result(
        f"http {answer.status}",
        is_sent=answer.is_success,
        is_gone=answer.status == GONE,
        is_final=answer.status == GONE,
        hold_seconds=retry_after_seconds(answer.retry_after, now) if answer.status in HONOURED_RETRY_AFTER else 0.0,
    )


def retry_after_seconds(text: str, now: float) -> float:
    """How long a `Retry-After` asks to wait, an hour at most; 0 where it says nothing readable."""
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), RETRY_AFTER_SECONDS_MAX)
    try:
        at = email.utils.parsedate_to_datetime(text)
        # Without a zone, which `-0000` is to the parser, it is UTC as RFC 9110 has it, not the time of this machine.
        seconds = (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp() - now
    except (ValueError, OverflowError):
        return 0.0
    return min(max(0.0, seconds), RETRY_AFTER_SECONDS_MAX)


# The queue


class Courier:
    """Carries notices out of the outbox. Several, in one process or many, may work on one database."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._wire = Wire(house)
        self._in_flight: dict[asyncio.Task[None], tuple[EndpointKey, float]] = {}
        self._slow: TTLCache[EndpointKey, None] = TTLCache(PACES_REMEMBERED_MAX, PACE_REMEMBERED_SECONDS)
        self._quick: TTLCache[EndpointKey, None] = TTLCache(PACES_REMEMBERED_MAX, PACE_REMEMBERED_SECONDS)

    async def round(self) -> float:
        """Starts what is due, as far as there is room, and waits a moment for it; seconds until the next round.

        A slow receiver is left under way and does not hold the next round up. Raises Unavailable.
        """
        house, settings = self._house, self._house.settings.gateway.webhooks
        due, has_paused = await house.store.read(_due, house.clock())
        if has_paused:
            await house.store.run(_defer, house.clock())
        chosen = self._fitting(due, settings)
        if chosen:
            for row in await house.store.run(_claim, chosen, house.clock() + lease_seconds(settings)):
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

    def _fitting(self, due: Sequence[Row], settings: WebhooksSettings) -> list[Row]:
        """Those there is a place for: in the process, among their like, and in the share of account and endpoint."""
        endpoints = Counter(key for key, _ in self._in_flight.values())
        accounts = Counter(key[0] for key, _ in self._in_flight.values())
        slow, unproven = self._slow_in_flight(), self._unproven_in_flight()
        room = IN_FLIGHT_MAX - len(self._in_flight)
        chosen: list[Row] = []
        for row in due:
            key = _key(row)
            is_slow, is_unproven = key in self._slow, key not in self._quick
            most = 1 if row["failures"] >= settings.pause_after else IN_FLIGHT_PER_ENDPOINT_MAX
            is_full = endpoints[key] >= most or accounts[key[0]] >= IN_FLIGHT_PER_ACCOUNT_MAX
            is_crowded = (is_slow and slow >= IN_FLIGHT_SLOW_MAX) or (
                is_unproven and unproven >= IN_FLIGHT_UNPROVEN_MAX
            )
            if len(chosen) == room or is_full or is_crowded:
                continue
            endpoints[key] += 1
            accounts[key[0]] += 1
            slow += is_slow
            unproven += is_unproven
            chosen.append(row)
        return chosen

    def _slow_in_flight(self) -> int:
        now = time.monotonic()
        return sum(key in self._slow or now - began > SLOW_SECONDS for key, began in self._in_flight.values())

    def _unproven_in_flight(self) -> int:
        return sum(key not in self._quick for key, _ in self._in_flight.values())

    def _start(self, row: Row) -> None:
        task = asyncio.create_task(self._carry(row), name=f"notice:{row['id']}")
        self._in_flight[task] = _key(row), time.monotonic()
        task.add_done_callback(self._in_flight.pop)

    async def _carry(self, row: Row) -> None:
        await self._deliver(row)
        await self._wire.looked_up()  # till then its place is taken: there are no more threads than places

    async def _deliver(self, row: Row) -> None:
        house, settings = self._house, self._house.settings.gateway.webhooks
        result = await self._attempt(row)
        self._note_pace(_key(row), result, min(SLOW_SECONDS, settings.timeout_seconds))
        ending = _ending(result, row["tries"], settings.retry_seconds, house.clock())
        try:
            ending = await house.store.run(_note, row, result, ending, settings)
        except Unavailable:
            log.warning("notice.unrecorded", notice=row["id"], result=result.words)
            return
        house.metrics.notices.labels(ending.label).inc()
        log.info(f"notice.{ending.label}", notice=row["id"], result=result.words, tries=ending.tries)

    def _note_pace(self, key: EndpointKey, result: _Result, slow_seconds: float) -> None:
        if result.attempt is None:
            return
        is_slow = result.attempt.seconds >= slow_seconds
        now, before = (self._slow, self._quick) if is_slow else (self._quick, self._slow)
        now[key] = None
        before.pop(key, None)

    async def _attempt(self, row: Row) -> _Result:
        """One attempt, whatever comes of it: a notice that cannot be sent must not keep the others."""
        house = self._house
        nowhere = _nowhere(row)
        if nowhere:
            return _Result(nowhere, is_final=True)
        try:
            url = house.vault.open(_address(row))
            secrets = webhook_endpoints.secrets_of(
                house.vault, row["account_id"], webhook_endpoints.versions_of(row, house.clock())
            )
            body = body_of(house.vault, house.settings.catalog, row, secrets[0])
        except Exception as error:
            return _Result(failure(error))
        return await _send(house, self._wire, url, row["format"], f"msg_{row['id']}", body, secrets)


class Trials:
    """Sends tests, on connections of its own: however many are asked for, no notice waits for one."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._wire = Wire(house)
        self._busy: set[int] = set()

    async def send(self, account_id: int, message_id: str) -> Tested:
        """Sends a test to the account's address, in its form, paused and disabled or not; what came of it.

        Raises NotAllowedNow where there is no address, TooManyRequests while another test of the account, or too many
        of others, are under way, and Unavailable.
        """
        if account_id in self._busy or len(self._busy) >= TESTS_MAX:
            raise TooManyRequests
        self._busy.add(account_id)
        try:
            return await self._send(account_id, message_id)
        finally:
            self._busy.discard(account_id)

    async def aclose(self) -> None:
        await self._wire.aclose()

    async def _send(self, account_id: int, message_id: str) -> Tested:
        house = self._house
        found: Endpoint = await house.store.read(webhook_endpoints.shown, house.vault, account_id, house.clock())
        if not found.url:
            raise NotAllowedNow
        secrets = webhook_endpoints.secrets_of(house.vault, account_id, found.versions)
        body = example_body(found.format, secrets[0], house.clock())
        result = await _send(house, self._wire, found.url, found.format, message_id, body, secrets)
        attempt = result.attempt
        if attempt is not None:
            await house.store.run(webhook_log.note_attempt, account_id, None, attempt)
        status, seconds = (attempt.status, attempt.seconds) if attempt is not None else (None, 0.0)
        return Tested(message_id, result.words, result.is_sent, status, seconds)


async def _send(
    house: House, wire: Wire, url: str, body_format: str, message_id: str, body: str, secrets: Sequence[bytes]
) -> _Result:
    """One request; what came of it, with what the log keeps. Raises nothing."""
    status: int | None = None
    headers = signed_headers(secrets, message_id, body, house.clock())
    began_at, began = house.clock(), time.monotonic()
    try:
        parsed_url(url, house.settings.gateway.webhooks)  # the file may allow less than when it was set
        answer = await wire.post(url, headers, body.encode())
        result, status = answered(answer, house.clock()), answer.status
    except Exception as error:
        result = _Result(failure(error), is_refused=is_refused(error))
    attempt = Attempt(
        at=began_at,
        format=body_format,
        words=result.words,
        status=status,
        seconds=time.monotonic() - began,
        digest=house.vault.index_digest("notice", body),
        signature=headers["X-Signature"],
    )
    return replace(result, attempt=attempt)


def _key(row: Row) -> EndpointKey:
    return row["account_id"], row["rental_id"]


def _address(row: Row) -> str:
    """The sealed address of a notice's endpoint, empty where there is none."""
    return str((row["rent_url_sealed"] if row["format"] == RENT else row["webhook_url_sealed"]) or "")


def _nowhere(row: Row) -> str:
    """Why a notice can't be sent at all, empty where it can."""
    if not _address(row):
        return "no webhook set"
    if row["disabled_at"] is not None:
        return "webhook disabled"
    return "" if row["text_sealed"] else MESSAGE_DELETED


@dataclass(frozen=True, slots=True)
class _Ending:
    """How an attempt leaves its notice."""

    state: str
    label: str
    tries: int
    next_at: float
    at: float


def _ending(result: _Result, tries: int, pauses: Sequence[float], now: float) -> _Ending:
    """`tries` counts the attempts before this one; after the first failure the first pause follows, and so on."""
    made = tries + (result.attempt is not None or not result.is_final)
    if result.is_sent:
        state, label, next_at = "sent", "sent", now
    elif result.is_final or tries >= len(pauses):
        label = "deleted" if result.words == MESSAGE_DELETED else "dead"
        state, next_at = "dead", now
    else:
        label = "refused" if result.is_refused else "retry"
        state, next_at = "pending", now + max(pauses[tries], result.hold_seconds)
    return _Ending(state, label, made, next_at, now)


def _readdressed(result: _Result, tries: int, now: float) -> _Ending:
    """How a failed attempt leaves its notice where another address was set meanwhile: that one has all its attempts."""
    return _Ending("pending", "refused" if result.is_refused else "retry", tries, now, now)


# Units of work


_PAUSED = (
    "select 1 from webhook_endpoints e where e.account_id = n.account_id"  # noqa: S608 — a constant
    f" and e.rental_id = {ENDPOINT} and e.paused_until > :now"
)


def _due(tx: Tx, now: float) -> tuple[Sequence[Row], bool]:
    """What is due: of each endpoint one more than it may have under way, its first before anybody's second.

    So no backlog hides another's notices, and yet shows that there is more. Enough rows that those of busy endpoints
    can be passed over and every place still be filled. And whether any is due at an endpoint that is paused.
    """
    rows = tx.all(
        "select d.id, d.account_id, d.rental_id, d.next_at, coalesce(e.failures, 0) as failures from ("  # noqa: S608 — constants
        f"select n.id, n.account_id, {ENDPOINT} as rental_id, n.next_at,"
        f" row_number() over (partition by n.account_id, {ENDPOINT} order by n.next_at, n.id) as place"
        f" from notices n where n.state = 'pending' and n.next_at <= :now and not exists ({_PAUSED})) as d"
        " left join webhook_endpoints e on e.account_id = d.account_id and e.rental_id = d.rental_id"
        " where d.place <= :each order by d.place, d.next_at, d.id limit :most",
        now=now,
        each=IN_FLIGHT_PER_ENDPOINT_MAX + 1,
        most=IN_FLIGHT_MAX * (IN_FLIGHT_PER_ENDPOINT_MAX + 2),
    )
    paused = tx.one(
        f"select n.id from notices n where n.state = 'pending' and n.next_at <= :now and exists ({_PAUSED}) limit 1",  # noqa: S608 — constants
        now=now,
    )
    return rows, paused is not None


def _defer(tx: Tx, now: float) -> None:
    """Moves what is due at paused endpoints to the end of the pause, so that no round has to look at it till then."""
    tx.execute(
        "update notices set next_at = coalesce((select e.paused_until from webhook_endpoints e"  # noqa: S608 — constants
        " where e.account_id = notices.account_id and e.rental_id ="
        " case when notices.format = 'rent' then notices.activation_id else 0 end), next_at)"
        " where state = 'pending' and next_at <= :now and id in (select n.id from notices n"
        f" where n.state = 'pending' and n.next_at <= :now and exists ({_PAUSED}) order by n.id limit :most)",
        now=now,
        most=DEFERRED_MAX,
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
        "select n.id, n.account_id, n.activation_id, n.message_id, n.tries, n.next_at, n.format, v.service, v.country,"  # noqa: S608 — a constant
        " v.product, v.number_sealed, m.text_sealed, m.code_sealed, m.sender_sealed, m.received_at,"
        f" a.webhook_url_sealed, v.webhook_url_sealed as rent_url_sealed, {ENDPOINT} as rental_id, e.disabled_at,"
        " s.version, s.former_version, s.former_until"
        " from notices n join messages m on m.id = n.message_id join activations v on v.id = n.activation_id"
        " join accounts a on a.id = n.account_id left join webhook_secrets s on s.account_id = n.account_id"
        f" left join webhook_endpoints e on e.account_id = n.account_id and e.rental_id = {ENDPOINT}"
        " where n.id = :id",
        id=notice_id,
    )


def _note(tx: Tx, row: Row, result: _Result, ending: _Ending, settings: WebhooksSettings) -> _Ending:
    """Writes an attempt down; how it left the notice.

    A failure counts only under its own claim, and only at the address still set; a success, however late, always does.
    """
    attempt = result.attempt
    is_former = not _is_current(tx, row, is_held=not result.is_sent)
    if is_former and not result.is_sent:
        ending = _readdressed(result, row["tries"], ending.at)
    is_noted = tx.execute(
        "update notices set state = :state, tries = :tries, next_at = :next_at, ended_at = :ended_at,"
        " last_result = :words, body_digest = :digest"
        " where id = :id and state = 'pending' and (next_at = :leased_until or :state = 'sent')",
        id=row["id"],
        state=ending.state,
        tries=ending.tries,
        next_at=ending.next_at,
        ended_at=None if ending.state == "pending" else ending.at,
        words=result.words,
        digest=attempt.digest if attempt is not None else "",
        leased_until=row["next_at"],
    )
    if attempt is None:
        return ending
    webhook_log.note_attempt(tx, row["account_id"], row["id"], attempt)
    if not is_noted or is_former:
        return ending  # it tells nothing of the endpoint as it is now
    if result.is_sent:
        webhook_endpoints.note_success(tx, *_key(row))
    else:
        webhook_endpoints.note_failure(
            tx, *_key(row), result.words, ending.at, settings, is_gone=result.is_gone, hold_seconds=result.hold_seconds
        )
    return ending


def _is_current(tx: Tx, row: Row, *, is_held: bool) -> bool:
    """Whether the address is still the one the notice was claimed with; it is sealed anew when it is set anew.

    `is_held`: an account's stays so until this unit is over, so that no other is set beside it unnoticed.
    """
    if row["format"] == RENT:  # never set again
        found = tx.one("select webhook_url_sealed as url from activations where id = :id", id=row["activation_id"])
    else:
        if is_held:
            tx.execute("update accounts set webhook_format = webhook_format where id = :id", id=row["account_id"])
        found = tx.one("select webhook_url_sealed as url from accounts where id = :id", id=row["account_id"])
    return found is not None and str(found["url"] or "") == _address(row)
