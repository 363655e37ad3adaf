"""Numbers of one's own: a pool of rows, leased per service, and the messages that come in for them.

lease:  open ─► finished     its message came; the number cools down for the service
          └───► cancelled    none came; given back, or its time was over

A purchase reads which numbers are free and takes one by a conditional update on the version of its row, which grows
with everything that makes a number less free: whoever comes second takes another, so that no number is leased twice. A
message is written down before it is given to a lease, in the same transaction; a lease that has one can't be cancelled.
A rental is a lease that shares its number with no other; it is over when its time is, and counts as finished then.
Rows are locked in one order, the number before its leases. Numbers, senders and texts are sealed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import structlog

from gateway.errors import HasSms, NotAllowed, Unavailable, UnknownLease
from gateway.inhouse import FreeNumbers, PoolLease, PoolMessage, PoolTerms, Recorded, RentalTimes
from gateway.model import BuyOrder, Clock, Found, Lease, LeaseState, Outcome, Progress, Sms
from gateway.money import Money
from gateway.store import Row, Store, Tx
from gateway.vault import Vault

DAY_SECONDS = 86_400.0
HOUR_SECONDS = 3600.0
WHOLE = "full"
"""The service that is all of them: whoever rents it gets every message."""

PAGE = 20
"""Free numbers looked at together: the first one will do, unless its prefix is excepted or somebody was quicker."""

LOOKED_AT_MAX = 10_000
"""Numbers opened for one order, whatever prefixes it excepts: about a quarter of a second."""

PASSES_MAX = 5
TOGETHER = 200
"""Values of one `in (…)`, rows of one deletion."""

TEXT_LENGTH_MAX = 10_000
SENDER_LENGTH_MAX = 100

NOT_OURS = "not ours"
OTHER_SOURCE = "other source"
NO_LEASE = "no lease"
EARLY = "early"

log = structlog.get_logger()


class Numbers:
    """The pool of one upstream: it sees no number of another. Implements `gateway.upstream.NumberPool`."""

    def __init__(self, store: Store, vault: Vault, clock: Clock, upstream_name: str) -> None:
        self._store = store
        self._vault = vault
        self._clock = clock
        self._upstream = upstream_name

    async def lease(self, order: BuyOrder, terms: PoolTerms) -> Lease | None:
        return await self._lease(order, terms, _Wish(terms.price, terms.lease_seconds))

    async def rent(self, order: BuyOrder, terms: PoolTerms, price: Money) -> Lease | None:
        return await self._lease(order, _alone(terms), _Wish(price, order.hours * HOUR_SECONDS, is_rental=True))

    async def add_service(self, order: BuyOrder, terms: PoolTerms) -> Lease | None:
        lease_id = _lease_id(order.lease_reference)
        if lease_id is None:
            return None
        return await self._lease(order, terms, _Wish(terms.price, terms.lease_seconds, beside=lease_id))

    async def reuse(self, order: BuyOrder, terms: PoolTerms) -> Lease | None:
        lease_id = _lease_id(order.lease_reference)
        if lease_id is None:
            return None
        await self._end_run_out(terms)
        can_skip = self._store.dialect == "postgresql"
        return await self._store.run(
            _reuse, self._vault, self._upstream, lease_id, order.service, terms, self._clock(), can_skip=can_skip
        )

    async def is_reusable(self, reference: str, service: str, terms: PoolTerms) -> bool:
        lease_id = _lease_id(reference)
        if lease_id is None:
            return False
        found = await self._store.read(_reusable, self._upstream, lease_id, service, terms, self._clock())
        return found is not None

    async def rentable(self, country: int, terms: PoolTerms) -> Sequence[FreeNumbers]:
        await self._end_run_out(terms)
        found = await self._store.read(_free, self._upstream, _alone(terms), self._clock(), with_whole=True)
        return [kind for kind in found if kind.country == country]

    async def rental_times(self, reference: str) -> RentalTimes:
        row = await self._store.read(_open_rental, self._upstream, _known_lease_id(reference), self._clock())
        return RentalTimes(row["service"], row["opened_at"], row["expires_at"])

    async def prolong(self, reference: str, hours: int, hours_max: int) -> float:
        lease_id = _known_lease_id(reference)
        return await self._store.run(_prolong, self._upstream, lease_id, hours, hours_max, self._clock())

    async def _lease(self, order: BuyOrder, terms: PoolTerms, wish: _Wish) -> Lease | None:
        await self._end_run_out(terms)
        values = (self._vault, self._upstream, order, terms, wish)
        can_skip = self._store.dialect == "postgresql"
        for turn in range(PASSES_MAX):
            # Numbers are sealed: those with another prefix are looked for where nobody waits for the search to end.
            rows = await self._store.read(_unexcepted, *values, self._clock()) if order.phone_exceptions else None
            try:
                return await self._store.run(_lease, *values, self._clock(), rows, can_skip=can_skip)
            except _Beaten:
                await asyncio.sleep(0.01 * 2**turn)
        return None

    async def progress(self, references: Sequence[str], terms: PoolTerms) -> Mapping[str, Progress]:
        await self._join_late(terms)
        ids = {reference: _lease_id(reference) for reference in references}
        known = sorted({one for one in ids.values() if one is not None})
        found = await self._store.read(_progress, self._vault, self._upstream, known, self._clock())
        unknown = Progress(LeaseState.UNKNOWN)
        return {reference: unknown if one is None else found.get(one, unknown) for reference, one in ids.items()}

    async def close(self, reference: str, outcome: Outcome, terms: PoolTerms) -> None:
        lease_id = _known_lease_id(reference)
        await self._store.run(_close, self._upstream, lease_id, outcome, terms, self._clock())

    async def ask_again(self, reference: str) -> None:
        await self._store.run(_ask_again, self._upstream, _known_lease_id(reference), self._clock())

    async def find(self, since: float) -> Sequence[Found]:
        return await self._store.read(_find, self._vault, self._upstream, since, self._clock())

    async def free(self, terms: PoolTerms) -> Sequence[FreeNumbers]:
        await self._end_run_out(terms)
        return await self._store.read(_free, self._upstream, terms, self._clock())

    async def record(self, message: PoolMessage, terms: PoolTerms) -> Sequence[Recorded]:
        recorded = await self._store.run(_record, self._vault, self._upstream, message, terms, self._clock())
        self._tell(recorded)
        return recorded

    async def place(self, devices: Mapping[str, str], source: str) -> int:
        return await self._store.run(_place, self._vault, self._upstream, devices, source) if devices else 0

    async def tidy(self, terms: PoolTerms) -> None:
        await self._end_run_out(terms)
        await self._join_late(terms)
        before = self._clock() - terms.keep_seconds
        for drop in (_drop_parts, _drop_messages):
            while await self._store.run(drop, self._upstream, before) == TOGETHER:
                pass

    async def _end_run_out(self, terms: PoolTerms) -> None:
        """Leases whose time is over and whose end nobody told: one transaction each, so that locks stay in order."""
        for lease_id in await self._store.read(_run_out, self._upstream, self._clock()):
            await self._store.run(_end_one_run_out, self._upstream, lease_id, terms)

    async def _join_late(self, terms: PoolTerms) -> None:
        before = self._clock() - terms.parts_seconds
        for whole in await self._store.read(_late, self._upstream, before):
            self._tell(await self._store.run(_join_one_late, self._vault, self._upstream, whole, terms, self._clock()))

    def _tell(self, recorded: Sequence[Recorded]) -> None:
        for one in recorded:
            log.info("number.message", upstream=self._upstream, reason=one.reason or "matched", is_kept=one.is_kept)


@dataclass(frozen=True, slots=True)
class _Wish:
    """What a lease is to be. `beside` is the open lease whose number it shall be of; nought for any number."""

    price: Money
    seconds: float
    is_rental: bool = False
    beside: int = 0


def _alone(terms: PoolTerms) -> PoolTerms:
    """The same terms for numbers that nobody else has."""
    return replace(terms, shared=1)


class _Beaten(Exception):
    """Every number that was free was somebody else's by the time it was to be taken."""


def _lease_id(reference: str) -> int | None:
    is_id = reference.isascii() and reference.isdigit() and len(reference) <= 18
    return int(reference) if is_id else None


def _known_lease_id(reference: str) -> int:
    lease_id = _lease_id(reference)
    if lease_id is None:
        raise UnknownLease("no reference of the pool")
    return lease_id


# Leasing

_FREE = (
    "n.upstream = :upstream and n.removed_at is null and n.is_enabled = 1 and n.quarantined_until <= :now"
    " and (select count(*) from number_leases o where o.number_id = n.id and o.ended_at is null) < :shared"
    " and (select count(*) from number_leases d where d.number_id = n.id and d.opened_at > :day)"
    " < coalesce(n.daily_cap, :cap)"
    " and not exists (select 1 from number_leases r where r.number_id = n.id and r.is_rental = 1"
    " and (r.ended_at is null or (r.service = 'full' and r.cool_until > :now)))"
)
"""A number that may be leased, as far as the service does not matter: one that was rented for everything cools down for
everything."""

_ALLOWED = (
    "(n.services = '' or (n.services like '+%' and n.services like :word)"
    " or (n.services like '-%' and n.services not like :word))"
)


def _free_values(upstream: str, terms: PoolTerms, at: float) -> dict[str, Any]:
    return {"upstream": upstream, "now": at, "day": at - DAY_SECONDS, "cap": terms.daily_cap, "shared": terms.shared}


def _lease(
    tx: Tx,
    vault: Vault,
    upstream: str,
    order: BuyOrder,
    terms: PoolTerms,
    wish: _Wish,
    at: float,
    rows: Iterable[Row] | None,
    *,
    can_skip: bool,
) -> Lease | None:
    """Leases the first of these numbers, or of all that are free, that nobody else is quicker to take.

    Raises _Beaten where somebody was quicker for each of them.
    """
    was_beaten = False
    for row in _candidates(tx, upstream, order, terms, wish, at) if rows is None else rows:
        lease_id = _take(tx, upstream, row, order.service, wish, at, can_skip=can_skip)
        if lease_id is not None:
            number = vault.open(row["number_sealed"])
            return Lease(str(lease_id), number, wish.price, row["carrier"], at + wish.seconds)
        was_beaten = True
    if was_beaten:
        raise _Beaten
    return None


def _unexcepted(
    tx: Tx, vault: Vault, upstream: str, order: BuyOrder, terms: PoolTerms, wish: _Wish, at: float
) -> Sequence[Row]:
    """The first free numbers that don't begin as the order excepts. Their versions say whether they are free still."""
    rows = _candidates(tx, upstream, order, terms, wish, at)
    return list(
        islice((row for row in rows if not vault.open(row["number_sealed"]).startswith(order.phone_exceptions)), PAGE)
    )


def _candidates(tx: Tx, upstream: str, order: BuyOrder, terms: PoolTerms, wish: _Wish, at: float) -> Iterator[Row]:
    """Numbers that may be leased, the one used longest ago first."""
    used_at, last_id = -1.0, 0
    for _ in range(LOOKED_AT_MAX // PAGE):
        rows = tx.all(
            "select n.id, n.version, n.number_sealed, n.carrier, n.used_at from numbers n"  # noqa: S608 — constant text
            f" where {_FREE} and {_ALLOWED} and n.country = :country and (:carrier = '' or n.carrier = :carrier)"
            " and not exists (select 1 from number_leases l where l.number_id = n.id"
            " and (l.service = :service or :whole = 1) and (l.ended_at is null or l.cool_until > :now))"
            " and (:whole = 0 or n.services not like '-%')"
            " and (:beside = 0 or exists (select 1 from number_leases b where b.id = :beside and b.number_id = n.id"
            " and b.ended_at is null and b.expires_at > :now))"
            " and (n.used_at > :used or (n.used_at = :used and n.id > :last))"
            " order by n.used_at, n.id limit :page",
            **_free_values(upstream, terms, at),
            word=f"% {order.service} %",
            country=order.country,
            carrier=order.operator,
            service=order.service,
            whole=int(wish.is_rental and order.service == WHOLE),
            beside=wish.beside,
            used=used_at,
            last=last_id,
            page=PAGE,
        )
        yield from rows
        if len(rows) < PAGE:
            return
        used_at, last_id = rows[-1]["used_at"], rows[-1]["id"]


def _take(tx: Tx, upstream: str, number: Row, service: str, wish: _Wish, at: float, *, can_skip: bool) -> int | None:
    """The lease's id; None where somebody else is changing the number, or has since it was looked at.

    Nobody waits here for another's lock: with a lock of its own in hand, each of two would wait for the other.
    """
    if can_skip and not tx.one(
        "select id from numbers where id = :id and version = :version for update skip locked",
        id=number["id"],
        version=number["version"],
    ):
        return None
    is_first = tx.execute(
        "update numbers set used_at = :at, version = version + 1 where id = :id and version = :version",
        at=at,
        id=number["id"],
        version=number["version"],
    )
    if not is_first:
        return None
    # The index of open leases is a second lock on the same door.
    row = tx.one(
        "insert into number_leases (upstream, number_id, service, price, currency, state, messages, is_waiting,"
        " opened_at, expires_at, cool_until, is_rental)"
        " values (:upstream, :number, :service, :price, :currency, 'open', 0, 1, :at, :expires, 0, :rental)"
        " on conflict do nothing returning id",
        upstream=upstream, number=number["id"], service=service, price=wish.price.micros,
        currency=wish.price.currency, at=at, expires=at + wish.seconds, rental=int(wish.is_rental),
    )  # fmt: skip
    return int(row["id"]) if row is not None else None


def _reusable(tx: Tx, upstream: str, lease_id: int, service: str, terms: PoolTerms, at: float) -> Row | None:
    """The number of a lease that had its message, if it is free and nobody has had it since."""
    return tx.one(
        "select n.id, n.version, n.number_sealed, n.carrier, l.ended_at from number_leases l"
        " join numbers n on n.id = l.number_id"
        " where l.id = :lease and l.upstream = :upstream and l.service = :service and l.is_rental = 0"
        " and l.messages > 0 and l.state <> 'cancelled' and n.removed_at is null and n.is_enabled = 1"
        " and (n.quarantined_until <= :now or n.quarantined_until <= l.ended_at + :quarantine)"
        " and not exists (select 1 from number_leases x where x.number_id = n.id"
        " and (x.id > l.id or (x.ended_at is null and x.id <> l.id)))"
        " and (select count(*) from number_leases d where d.number_id = n.id and d.opened_at > :day)"
        " < coalesce(n.daily_cap, :cap)",
        lease=lease_id,
        upstream=upstream,
        service=service,
        now=at,
        quarantine=terms.quarantine_seconds,
        day=at - DAY_SECONDS,
        cap=terms.daily_cap,
    )


def _reuse(
    tx: Tx, vault: Vault, upstream: str, lease_id: int, service: str, terms: PoolTerms, at: float, *, can_skip: bool
) -> Lease | None:
    """The house may not have told yet that the lease is over; whoever wants the number again has said so."""
    row = _reusable(tx, upstream, lease_id, service, terms, at)
    if row is not None and row["ended_at"] is None:
        _end(tx, _lease_row(tx, upstream, lease_id), Outcome.FINISHED, terms, at)
        row = _reusable(tx, upstream, lease_id, service, terms, at)
    wish = _Wish(terms.price, terms.lease_seconds)
    again = None if row is None else _take(tx, upstream, row, service, wish, at, can_skip=can_skip)
    if row is None or again is None:
        return None
    return Lease(str(again), vault.open(row["number_sealed"]), wish.price, row["carrier"], at + wish.seconds)


def _find(tx: Tx, vault: Vault, upstream: str, since: float, at: float) -> list[Found]:
    rows = tx.all(
        "select l.id, l.service, l.price, l.currency, l.opened_at, l.expires_at, l.is_rental, n.country, n.carrier,"
        " n.number_sealed"
        " from number_leases l join numbers n on n.id = l.number_id"
        " where l.upstream = :upstream and l.ended_at is null and l.expires_at > :now and l.opened_at >= :since"
        " order by l.id",
        upstream=upstream,
        now=at,
        since=since,
    )
    return [
        Found(
            Lease(
                str(row["id"]), vault.open(row["number_sealed"]), Money(row["price"], row["currency"]),
                row["carrier"], row["expires_at"],
            ),
            row["service"], row["country"], row["opened_at"], bool(row["is_rental"]),
        )
        for row in rows
    ]  # fmt: skip


def _free(tx: Tx, upstream: str, terms: PoolTerms, at: float, *, with_whole: bool = False) -> list[FreeNumbers]:
    """Counted by what numbers have in common, so that ten thousand numbers are no more work than their kinds.

    `with_whole` also says how many are in any cool-down, as taken for everything.
    """
    values = _free_values(upstream, terms, at)
    free = f"(select n.id, n.country, n.carrier, n.services from numbers n where {_FREE}) f"  # noqa: S608 — constant text
    kinds = tx.all(
        f"select f.country, f.carrier, f.services, count(*) as numbers from {free}"  # noqa: S608 — constant text
        " group by f.country, f.carrier, f.services",
        **values,
    )
    taken: dict[tuple[int, str, str], dict[str, int]] = {}
    for row in tx.all(
        f"select f.country, f.carrier, f.services, l.service, count(distinct f.id) as numbers from {free}"  # noqa: S608 — constant text
        " join number_leases l on l.number_id = f.id where l.ended_at is null or l.cool_until > :now"
        " group by f.country, f.carrier, f.services, l.service",
        **values,
    ):
        kind = (row["country"], row["carrier"], row["services"])
        taken.setdefault(kind, {})[row["service"]] = int(row["numbers"])
    if with_whole:
        for row in tx.all(
            f"select f.country, f.carrier, f.services, count(distinct f.id) as numbers from {free}"  # noqa: S608 — constant text
            " join number_leases l on l.number_id = f.id where l.ended_at is null or l.cool_until > :now"
            " group by f.country, f.carrier, f.services",
            **values,
        ):
            kind = (row["country"], row["carrier"], row["services"])
            taken.setdefault(kind, {})[WHOLE] = int(row["numbers"])
    return [
        FreeNumbers(
            row["country"], row["carrier"], frozenset(row["services"][1:].split()), row["services"].startswith("-"),
            int(row["numbers"]), taken.get((row["country"], row["carrier"], row["services"]), {}),
        )
        for row in kinds
    ]  # fmt: skip


# The life of a lease


def _progress(tx: Tx, vault: Vault, upstream: str, ids: Sequence[int], at: float) -> dict[int, Progress]:
    leases = among(
        tx,
        "select id, state, messages, ended_at, expires_at, is_rental from number_leases"
        " where upstream = :upstream and id",
        ids,
        upstream=upstream,
    )
    messages: dict[int, list[Sms]] = {}
    with_messages = [row["id"] for row in leases if row["messages"]]
    rows = among(
        tx,
        "select id, lease_id, identity, sender_sealed, text_sealed, received_at from number_messages where lease_id",
        with_messages,
    )
    for row in sorted(rows, key=lambda row: int(row["id"])):
        messages.setdefault(row["lease_id"], []).append(_sms(vault, row))
    return {
        row["id"]: Progress(
            _state(row, at), tuple(messages.get(row["id"], ())), row["expires_at"] if row["is_rental"] else None
        )
        for row in leases
    }


def _state(lease: Row, at: float) -> LeaseState:
    if lease["ended_at"] is None and lease["expires_at"] <= at:
        return LeaseState.FINISHED if lease["messages"] or lease["is_rental"] else LeaseState.CANCELLED
    return LeaseState(lease["state"])


def _close(tx: Tx, upstream: str, lease_id: int, outcome: Outcome, terms: PoolTerms, at: float) -> None:
    row = _lease_row(tx, upstream, lease_id)
    if row["ended_at"] is None and _end(tx, row, outcome, terms, at):
        return
    row = _lease_row(tx, upstream, lease_id)
    if row["state"] == outcome.value:
        return
    if outcome is Outcome.CANCELLED and row["messages"]:
        raise HasSms
    raise NotAllowed(f"the lease is {row['state']} already")


def _lease_row(tx: Tx, upstream: str, lease_id: int) -> Row:
    row = tx.one(
        "select id, number_id, service, state, messages, ended_at, expires_at, opened_at, is_rental from number_leases"
        " where id = :id and upstream = :upstream",
        id=lease_id,
        upstream=upstream,
    )
    if row is None:
        raise UnknownLease("no lease of the pool")
    return row


def _open_rental(tx: Tx, upstream: str, lease_id: int, at: float) -> Row:
    row = _lease_row(tx, upstream, lease_id)
    if not row["is_rental"] or row["ended_at"] is not None or row["expires_at"] <= at:
        raise NotAllowed("no open rental")
    return row


def _prolong(tx: Tx, upstream: str, lease_id: int, hours: int, hours_max: int, at: float) -> float:
    row = _open_rental(tx, upstream, lease_id, at)
    later = tx.one(
        "update number_leases set expires_at = expires_at + :seconds where id = :id and ended_at is null"
        " and expires_at > :now and expires_at + :seconds <= opened_at + :most returning expires_at",
        seconds=hours * HOUR_SECONDS,
        id=row["id"],
        now=at,
        most=hours_max * HOUR_SECONDS,
    )
    if later is None:
        raise NotAllowed(f"a rental lasts {hours_max} hours at most")
    return float(later["expires_at"])


def _end(tx: Tx, lease: Row, outcome: Outcome, terms: PoolTerms, at: float, *, if_run_out: bool = False) -> bool:
    """Ends an open lease; False where it has ended, or has a message and is to be cancelled.

    `if_run_out` ends it only if it was not prolonged since it was looked at.

    Given back without a message, a number cools down too, if for a short time: whoever gave it back asked for a message
    that may still be on its way, and must not meet the next one who wants the same service.
    """
    is_finished = outcome is Outcome.FINISHED
    tx.execute(
        "update numbers set version = version + 1,"
        " quarantined_until = case when quarantined_until > :until then quarantined_until else :until end"
        " where id = :id",
        until=at + terms.quarantine_seconds,
        id=lease["number_id"],
    )
    changed = tx.execute(
        "update number_leases set state = :state, ended_at = :at, is_waiting = 0,"
        " cool_until = case when is_rental = 1 and messages = 0 then :short else :cool end"
        " where id = :id and ended_at is null and (messages = 0 or :finished = 1)"
        " and (:any = 1 or expires_at <= :seen)",
        state=outcome.value,
        at=at,
        short=at + terms.cancelled_cooldown_seconds,
        cool=at + (terms.cooldown_seconds if is_finished else terms.cancelled_cooldown_seconds),
        finished=int(is_finished),
        any=int(not if_run_out),
        seen=lease["expires_at"],
        id=lease["id"],
    )
    return bool(changed)


def _run_out(tx: Tx, upstream: str, at: float) -> list[int]:
    rows = tx.all(
        "select id from number_leases where upstream = :upstream and ended_at is null and expires_at <= :now"
        " order by id limit :most",
        upstream=upstream,
        now=at,
        most=TOGETHER,
    )
    return [row["id"] for row in rows]


def _end_one_run_out(tx: Tx, upstream: str, lease_id: int, terms: PoolTerms) -> None:
    row = _lease_row(tx, upstream, lease_id)
    outcome = Outcome.FINISHED if row["messages"] or row["is_rental"] else Outcome.CANCELLED
    _end(tx, row, outcome, terms, row["expires_at"], if_run_out=True)


def _ask_again(tx: Tx, upstream: str, lease_id: int, at: float) -> None:
    changed = tx.execute(
        "update number_leases set is_waiting = 1"
        " where id = :id and upstream = :upstream and ended_at is null and expires_at > :now",
        id=lease_id,
        upstream=upstream,
        now=at,
    )
    if not changed:
        _lease_row(tx, upstream, lease_id)
        raise NotAllowed("the lease is over")


# Messages


@dataclass(frozen=True, slots=True)
class _Whole:
    """A message about to be written down, with the digest that it is known by."""

    digest: str
    message: PoolMessage
    received_at: float


def _record(
    tx: Tx, vault: Vault, upstream: str, message: PoolMessage, terms: PoolTerms, at: float
) -> Sequence[Recorded]:
    number = _number_of(tx, vault, upstream, message)
    received_at = at if message.received_at is None else min(message.received_at, at)
    if number is not None and message.part is not None and _is_from(number, message.source):
        return _record_part(tx, vault, upstream, number, message, message.part, received_at, terms, at)
    digest = _digest(vault, upstream, message)
    _, recorded = _write(tx, vault, upstream, number, _Whole(digest, message, received_at), terms, at)
    return [recorded]


def _digest(vault: Vault, upstream: str, message: PoolMessage) -> str:
    place = f":{message.part[2]}" if message.part else ""
    return vault.index_digest(f"pool message:{upstream}", f"{message.source}:{message.identity}{place}")


def _is_from(number: Row, source: str) -> bool:
    """Whoever has the secret of one source can't speak for the numbers of another."""
    return number["source"] in ("", source)


def _number_of(tx: Tx, vault: Vault, upstream: str, message: PoolMessage) -> Row | None:
    """Ours that the message was sent to. A SIM card may not know its number, or not in this form: then its device."""
    columns = "select id, source from numbers where upstream = :upstream and removed_at is null"
    row = None
    if message.to:
        digest = number_digest(vault, message.to.removeprefix("00"))
        row = tx.one(f"{columns} and digest = :digest", upstream=upstream, digest=digest)
    if row is None and message.device:
        row = tx.one(f"{columns} and device = :device", upstream=upstream, device=message.device)
    return row


def number_digest(vault: Vault, number: str) -> str:
    return vault.index_digest("pool number", number)


def _write(
    tx: Tx, vault: Vault, upstream: str, number: Row | None, whole: _Whole, terms: PoolTerms, at: float
) -> tuple[int, Recorded]:
    """Writes a message down and gives it to its lease; its row's id, nought where it is not kept."""
    message = whole.message
    known = _known(tx, vault, upstream, whole.digest)
    if known is not None:
        return known
    text, sender = message.text[:TEXT_LENGTH_MAX], message.sender[:SENDER_LENGTH_MAX]
    sms = Sms("", text, sender, whole.received_at, whole.digest)
    if number is None and _strangers(tx, upstream, at) >= terms.strangers_daily_max:
        return 0, Recorded(sms, reason=NOT_OURS, is_kept=False)
    row = tx.one(
        "insert into number_messages (upstream, source, identity, number_id, to_sealed, device, sender_sealed,"
        " text_sealed, reason, received_at, recorded_at)"
        " values (:upstream, :source, :identity, :number, :to, :device, :sender, :text, '', :received, :at)"
        " on conflict (upstream, identity) do nothing returning id",
        upstream=upstream, source=message.source, identity=whole.digest, number=number["id"] if number else None,
        to=vault.seal(message.to), device=message.device[:SENDER_LENGTH_MAX],
        sender=vault.seal(message.sender[:SENDER_LENGTH_MAX]), text=vault.seal(message.text[:TEXT_LENGTH_MAX]),
        received=whole.received_at, at=at,
    )  # fmt: skip
    if row is None:
        # Another transaction was quicker, and has committed: the insert has waited for it.
        known = _known(tx, vault, upstream, whole.digest)
        if known is None:
            raise Unavailable
        return known
    lease_id, reason = _whose(tx, number, whole, terms, at)
    tx.execute(
        "update number_messages set lease_id = :lease, reason = :reason where id = :id",
        lease=lease_id,
        reason=reason,
        id=row["id"],
    )
    return row["id"], Recorded(sms, "" if lease_id is None else str(lease_id), reason)


def _known(tx: Tx, vault: Vault, upstream: str, digest: str) -> tuple[int, Recorded] | None:
    row = tx.one(
        "select id, lease_id, identity, sender_sealed, text_sealed, received_at, reason from number_messages"
        " where upstream = :upstream and identity = :identity",
        upstream=upstream,
        identity=digest,
    )
    if row is None:
        return None
    reference = "" if row["lease_id"] is None else str(row["lease_id"])
    return row["id"], Recorded(_sms(vault, row), reference, row["reason"])


def _sms(vault: Vault, row: Row) -> Sms:
    text, sender = vault.open(row["text_sealed"]), vault.open(row["sender_sealed"])
    return Sms("", text, sender, row["received_at"], row["identity"])


def _strangers(tx: Tx, upstream: str, at: float) -> int:
    row = tx.one(
        "select count(*) as messages from number_messages"
        " where upstream = :upstream and number_id is null and recorded_at > :day",
        upstream=upstream,
        day=at - DAY_SECONDS,
    )
    return int(row["messages"]) if row else 0


def _whose(tx: Tx, number: Row | None, whole: _Whole, terms: PoolTerms, at: float) -> tuple[int | None, str]:
    """The lease that the message was given to, or why it was given to none."""
    if number is None:
        return None, NOT_OURS
    if not _is_from(number, whole.message.source):
        return None, OTHER_SOURCE
    for _ in range(PASSES_MAX):
        leases = open_leases(tx, number["id"], at)
        if not leases:
            break
        in_time = [lease for lease in leases if lease.opened_at <= whole.received_at + terms.skew_seconds]
        if not in_time:
            return None, EARLY
        chosen = terms.choose(in_time, whole.message)
        if isinstance(chosen, str):
            return None, chosen
        if tx.execute(
            "update number_leases set messages = messages + 1, is_waiting = 0 where id = :id and ended_at is null",
            id=chosen.id,
        ):
            return chosen.id, ""
    return None, NO_LEASE


def open_leases(tx: Tx, number_id: int, at: float) -> list[PoolLease]:
    rows = tx.all(
        "select id, service, opened_at, is_waiting from number_leases"
        " where number_id = :number and ended_at is null and expires_at > :now order by opened_at, id",
        number=number_id,
        now=at,
    )
    return [PoolLease(row["id"], row["service"], row["opened_at"], bool(row["is_waiting"])) for row in rows]


# Messages in parts


def _record_part(
    tx: Tx,
    vault: Vault,
    upstream: str,
    number: Row,
    message: PoolMessage,
    part: tuple[str, int, int],
    received_at: float,
    terms: PoolTerms,
    at: float,
) -> list[Recorded]:
    """Keeps a part; what it completes is written down as one message."""
    reference, total, place = part
    # Takes the number's lock: of two parts that come at the same time, the second sees the first.
    tx.execute("update numbers set version = version where id = :id", id=number["id"])
    digest = _digest(vault, upstream, message)
    same_for_all = (message.source, str(number["id"]), message.sender, reference, str(total))
    whole = vault.index_digest(f"pool parts:{upstream}", "\n".join(same_for_all))
    row = tx.one(
        "insert into number_parts (upstream, source, identity, whole, place, total, number_id, to_sealed, device,"
        " sender_sealed, text_sealed, received_at, recorded_at)"
        " values (:upstream, :source, :identity, :whole, :place, :total, :number, :to, :device, :sender, :text,"
        " :received, :at) on conflict (upstream, identity) do nothing returning id",
        upstream=upstream, source=message.source, identity=digest, whole=whole, place=place, total=total,
        number=number["id"], to=vault.seal(message.to), device=message.device[:SENDER_LENGTH_MAX],
        sender=vault.seal(message.sender[:SENDER_LENGTH_MAX]), text=vault.seal(message.text[:TEXT_LENGTH_MAX]),
        received=received_at, at=at,
    )  # fmt: skip
    if row is None:
        return _joined_before(tx, vault, upstream, digest)
    waiting = _waiting(tx, upstream, whole)
    recorded = []
    earlier = [one for one in waiting if one["id"] != row["id"]]
    if place in {one["place"] for one in earlier}:
        # A reference used again: what is here belongs to the message before.
        recorded.append(_join(tx, vault, upstream, earlier, terms, at))
        waiting = [one for one in waiting if one["id"] == row["id"]]
    if len(waiting) == total:
        recorded.append(_join(tx, vault, upstream, waiting, terms, at))
    return recorded


def _joined_before(tx: Tx, vault: Vault, upstream: str, digest: str) -> list[Recorded]:
    row = tx.one(
        "select m.identity from number_parts p join number_messages m on m.id = p.message_id"
        " where p.upstream = :upstream and p.identity = :identity",
        upstream=upstream,
        identity=digest,
    )
    known = _known(tx, vault, upstream, row["identity"]) if row is not None else None
    return [known[1]] if known is not None else []


def _waiting(tx: Tx, upstream: str, whole: str) -> Sequence[Row]:
    return tx.all(
        "select id, source, identity, place, number_id, to_sealed, device, sender_sealed, text_sealed, received_at"
        " from number_parts where upstream = :upstream and whole = :whole and message_id is null order by place, id",
        upstream=upstream,
        whole=whole,
    )


def _join(tx: Tx, vault: Vault, upstream: str, parts: Sequence[Row], terms: PoolTerms, at: float) -> Recorded:
    """Writes parts down as one message; where some are missing, three dots stand for them."""
    first = parts[0]
    number = tx.one("select id, source from numbers where id = :id", id=first["number_id"])
    text, expected = "", 1
    for part in parts:
        text += ("" if part["place"] == expected else " … ") + vault.open(part["text_sealed"])
        expected = part["place"] + 1
    digest = vault.index_digest(f"pool message:{upstream}", "\n".join(part["identity"] for part in parts))
    to, sender = vault.open(first["to_sealed"]), vault.open(first["sender_sealed"])
    received_at = min(part["received_at"] for part in parts)
    message = PoolMessage(first["source"], digest, to, sender, text, received_at, first["device"])
    message_id, recorded = _write(tx, vault, upstream, number, _Whole(digest, message, received_at), terms, at)
    for part in parts:
        tx.execute("update number_parts set message_id = :message where id = :id", message=message_id, id=part["id"])
    return recorded


def _late(tx: Tx, upstream: str, before: float) -> list[str]:
    rows = tx.all(
        "select whole from number_parts where upstream = :upstream and message_id is null"
        " group by whole having min(recorded_at) <= :before order by min(id) limit :most",
        upstream=upstream,
        before=before,
        most=TOGETHER,
    )
    return [row["whole"] for row in rows]


def _join_one_late(tx: Tx, vault: Vault, upstream: str, whole: str, terms: PoolTerms, at: float) -> Sequence[Recorded]:
    parts = _waiting(tx, upstream, whole)
    if not parts:
        return ()
    tx.execute("update numbers set version = version where id = :id", id=parts[0]["number_id"])
    parts = _waiting(tx, upstream, whole)
    return [_join(tx, vault, upstream, parts, terms, at)] if parts else ()


def _drop_parts(tx: Tx, upstream: str, before: float) -> int:
    return tx.execute(
        "delete from number_parts where id in (select id from number_parts"
        " where upstream = :upstream and recorded_at < :before and message_id is not null order by id limit :most)",
        upstream=upstream,
        before=before,
        most=TOGETHER,
    )


def _drop_messages(tx: Tx, upstream: str, before: float) -> int:
    """Old messages, but for those of leases that are open still."""
    return tx.execute(
        "delete from number_messages where id in (select m.id from number_messages m"
        " left join number_leases l on l.id = m.lease_id"
        " where m.upstream = :upstream and m.recorded_at < :before and (l.id is null or l.ended_at is not null)"
        " and not exists (select 1 from number_parts p where p.message_id = m.id) order by m.id limit :most)",
        upstream=upstream,
        before=before,
        most=TOGETHER,
    )


def _place(tx: Tx, vault: Vault, upstream: str, devices: Mapping[str, str], source: str) -> int:
    """A card that moved takes its number along: whatever was in its place before is in none."""
    changed = 0
    for device, number in devices.items():
        row = tx.one(
            "select id, source, device from numbers"
            " where upstream = :upstream and digest = :digest and removed_at is null",
            upstream=upstream,
            digest=number_digest(vault, number),
        )
        holder = tx.one(
            "select source from numbers where upstream = :upstream and device = :device",
            upstream=upstream,
            device=device,
        )
        is_free = holder is None or _is_from(holder, source)  # one source's word moves no number of another's
        if row is not None and is_free and _is_from(row, source) and row["device"] != device:
            tx.execute(
                "update numbers set device = null where upstream = :upstream and device = :device",
                upstream=upstream,
                device=device,
            )
            changed += tx.execute("update numbers set device = :device where id = :id", device=device, id=row["id"])
    return changed


def among(tx: Tx, select: str, wanted: Sequence[Any], **values: Any) -> list[Row]:
    """Rows of a `select … where … column` whose column is among those wanted, however many: some at a time.

    Always as many parameters, so that there is one statement to prepare.
    """
    names = ", ".join(f":in_{place}" for place in range(TOGETHER))
    found: list[Row] = []
    for start in range(0, len(wanted), TOGETHER):
        some = list(wanted[start : start + TOGETHER])
        some += some[-1:] * (TOGETHER - len(some))
        chosen = {f"in_{place}": value for place, value in enumerate(some)}
        found += tx.all(f"{select} in ({names})", **values, **chosen)
    return found
