"""A desk: numbers and codes that a person types, as rows. It stands behind an upstream that has nobody else to ask.

task:  wanted ─► ready ─► leased ─► finished
          │        │         ├────► cancelled    given back, or its time was over without a message
          ├────────┴─────────┴────► failed       the person said that there is none, or that it is of no use
          └─► lapsed ◄─┘                         nobody came in time

Whoever waits sees what another process wrote by looking again; a number changes hands in one conditional update, so
that it is leased once, whoever looks at the same time. Numbers, codes and texts are sealed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gateway import audit
from gateway.errors import HasSms, NotAllowed, UnknownLease
from gateway.inhouse import DeskOrder, DeskState, DeskTask, Shelves
from gateway.model import Clock, Sms
from gateway.money import Money
from gateway.store import Conflict, Row, Store, Tx
from gateway.vault import Vault

WANTED_MAX = 100
"""Numbers wanted at one desk at a time. Nobody types faster, and each one was told to the people on duty."""

MESSAGES_MAX = 50
"""Of one task: more than any service sends, and a bound on what a script gone wild can write."""

_COLUMNS = (
    "id, state, service, country, operator, cost, currency, number_sealed, number_digest, created_at, until_at,"
    " leased_at, round"
)
_IS_OPEN = "state in ('wanted', 'ready', 'leased')"
_OVER = "this task is over"


class Desk:
    """One upstream's desk: it sees no task of another. Implements `gateway.upstream.Desk`."""

    def __init__(
        self, store: Store, vault: Vault, clock: Clock, upstream_name: str, notify: Callable[[str, str], None]
    ) -> None:
        self._store = store
        self._vault = vault
        self._clock = clock
        self._upstream = upstream_name
        self._notify = notify

    def notify(self, title: str, body: str) -> None:
        self._notify(title, body)

    # What an order does

    async def take(self, order: DeskOrder, own: str = "") -> DeskTask | None:
        return await self._store.run(
            _take, self._vault, self._upstream, order, _number_of(own) if own else 0, self._clock()
        )

    async def want(self, order: DeskOrder, wanted_until: float, declined_since: float) -> tuple[DeskTask | None, bool]:
        return await self._store.run(
            _want, self._vault, self._upstream, order, wanted_until, declined_since, self._clock()
        )

    async def has_news(self, order: DeskOrder, own: str) -> bool:
        return await self._store.read(_has_news, self._upstream, order, _number_of(own), self._clock())

    async def shelves(self, declined_since: float) -> Shelves:
        return await self._store.read(_shelves, self._upstream, declined_since, self._clock())

    async def ask_again(self, task: str) -> DeskTask | None:
        return await self._store.run(_ask_again, self._vault, self._upstream, _number_of(task), self._clock())

    async def finish(self, task: str) -> None:
        await self._store.run(_finish, self._vault, self._upstream, _number_of(task), self._clock())

    async def cancel(self, task: str) -> None:
        await self._store.run(_cancel, self._vault, self._upstream, _number_of(task), self._clock())

    # What either does

    async def task(self, task: str) -> DeskTask:
        return await self._store.read(_task, self._vault, self._upstream, _number_of(task))

    async def tasks(self, ended_since: float | None = None) -> Sequence[DeskTask]:
        return await self._store.read(_tasks, self._vault, self._upstream, ended_since, self._clock())

    async def fail(self, task: str) -> DeskTask:
        return await self._store.run(_fail, self._vault, self._upstream, _number_of(task), self._clock())

    async def tidy(self, kept_since: float) -> None:
        await self._store.run(_tidy, self._upstream, kept_since, self._clock())

    # What the person does

    async def type_number(self, task: str, number: str, ready_until: float) -> DeskTask:
        return await self._store.run(
            _type_number, self._vault, self._upstream, _number_of(task), number, ready_until, self._clock()
        )

    async def type_message(self, task: str, code: str, text: str) -> DeskTask:
        return await self._store.run(
            _type_message, self._vault, self._upstream, _number_of(task), code, text, self._clock()
        )

    async def offer(self, service: str, country: int, cost: Money, number: str, ready_until: float) -> DeskTask:
        return await self._store.run(
            _offer, self._vault, self._upstream, service, country, cost, number, ready_until, self._clock()
        )


def _number_of(task: str) -> int:
    if not (task.isascii() and task.isdigit() and len(task) <= 18):
        raise UnknownLease("no such task")
    return int(task)


# Reading


def _shown(tx: Tx, vault: Vault, row: Row, messages: Sequence[Row] | None = None) -> DeskTask:
    if messages is None:
        messages = tx.all(
            "select id, task_id, round, code_sealed, text_sealed, received_at from desk_messages where task_id = :id"
            " order by id",
            id=row["id"],
        )
    state = DeskState(row["state"])
    return DeskTask(
        id=str(row["id"]),
        state=state,
        service=row["service"],
        country=row["country"],
        operator=row["operator"],
        cost=Money(row["cost"], row["currency"]),
        created_at=row["created_at"],
        until=row["until_at"],
        number=vault.open(row["number_sealed"]) if row["number_sealed"] else "",
        leased_at=row["leased_at"],
        round=row["round"],
        is_code_awaited=state is DeskState.LEASED and all(one["round"] != row["round"] for one in messages),
        messages=tuple(_sms(vault, one) for one in messages),
    )


def _sms(vault: Vault, row: Row) -> Sms:
    code, text = vault.open(row["code_sealed"]), vault.open(row["text_sealed"])
    return Sms(code, text, received_at=row["received_at"], identity=f"desk:{row['id']}")


def _task(tx: Tx, vault: Vault, upstream: str, task: int) -> DeskTask:
    row = tx.one(
        f"select {_COLUMNS} from desk_tasks where id = :id and upstream = :upstream",  # noqa: S608 — constant columns
        id=task,
        upstream=upstream,
    )
    if row is None:
        raise UnknownLease("no such task")
    return _shown(tx, vault, row)


def _tasks(tx: Tx, vault: Vault, upstream: str, ended_since: float | None, at: float) -> list[DeskTask]:
    chosen = (
        f"upstream = :upstream and (({_IS_OPEN} and until_at > :at) or (ended_at is not null and ended_at >= :since))"
    )
    values = {"upstream": upstream, "at": at, "since": at + 1.0 if ended_since is None else ended_since}
    rows = tx.all(f"select {_COLUMNS} from desk_tasks where {chosen} order by id", **values)  # noqa: S608 — constant text
    messages: dict[int, list[Row]] = {}
    for message in tx.all(
        "select id, task_id, round, code_sealed, text_sealed, received_at from desk_messages"  # noqa: S608 — constant text
        f" where task_id in (select id from desk_tasks where {chosen}) order by id",
        **values,
    ):
        messages.setdefault(message["task_id"], []).append(message)
    return [_shown(tx, vault, row, messages.get(row["id"], [])) for row in rows]


def _shelves(tx: Tx, upstream: str, declined_since: float, at: float) -> Shelves:
    ready = tx.all(
        "select service, country, count(*) as n from desk_tasks where upstream = :upstream and state = 'ready'"
        " and until_at > :at and waits_until <= :at group by service, country",
        upstream=upstream,
        at=at,
    )
    declined = tx.all(
        "select distinct service, country from desk_tasks where upstream = :upstream and state = 'failed'"
        " and operator = '' and number_digest is null and ended_at >= :since",
        upstream=upstream,
        since=declined_since,
    )
    return Shelves(
        {(row["service"], row["country"]): int(row["n"]) for row in ready},
        frozenset((row["service"], row["country"]) for row in declined),
    )


_FITS = (
    "upstream = :upstream and service = :service and country = :country and state = 'ready' and until_at > :at"
    " and (id = :own or waits_until <= :at) and (operator = :operator or :operator = '')"
)
"""A number that an order may have: typed for it, or for nobody who still waits."""


def _fitting(upstream: str, order: DeskOrder, own: int, at: float) -> dict[str, object]:
    return {
        "upstream": upstream,
        "service": order.service,
        "country": order.country,
        "operator": order.operator,
        "own": own,
        "at": at,
    }


def _has_news(tx: Tx, upstream: str, order: DeskOrder, own: int, at: float) -> bool:
    row = tx.one(
        f"select 1 as x from desk_tasks where (id = :own and state <> 'wanted') or ({_FITS}) limit 1",  # noqa: S608 — constant text
        **_fitting(upstream, order, own, at),
    )
    return row is not None


# Orders


def _take(tx: Tx, vault: Vault, upstream: str, order: DeskOrder, own: int, at: float) -> DeskTask | None:
    rows = tx.all(
        f"select id, number_sealed from desk_tasks where {_FITS} order by case when id = :own then 0 else 1 end, id",  # noqa: S608 — constant text
        **_fitting(upstream, order, own, at),
    )
    for row in rows:
        if vault.open(row["number_sealed"]).startswith(order.phone_exceptions):
            continue
        # Another process may have chosen the same row: whose update comes second finds it leased, and looks further.
        leased = tx.one(
            "update desk_tasks set state = 'leased', leased_at = :at, until_at = :until, waits_until = 0,"  # noqa: S608 — constant text
            f" cost = :cost, currency = :currency where id = :id and state = 'ready' returning {_COLUMNS}",
            at=at,
            until=at + order.life_seconds,
            cost=order.cost.micros,
            currency=order.cost.currency,
            id=row["id"],
        )
        if leased is None:
            continue
        if own and own != row["id"]:
            _withdraw(tx, own, at)
        return _shown(tx, vault, leased)
    return None


def _withdraw(tx: Tx, own: int, at: float) -> None:
    """The order has another number, so nobody needs to look for this one."""
    tx.execute(
        "update desk_tasks set state = 'lapsed', ended_at = :at where id = :id and state = 'wanted'", at=at, id=own
    )


def _want(
    tx: Tx, vault: Vault, upstream: str, order: DeskOrder, wanted_until: float, declined_since: float, at: float
) -> tuple[DeskTask | None, bool]:
    _lapse(tx, upstream, at)
    place = {"upstream": upstream, "service": order.service, "country": order.country, "operator": order.operator}
    declined = tx.one(
        "select 1 as x from desk_tasks where upstream = :upstream and service = :service and country = :country"
        " and operator = :operator and state = 'failed' and number_digest is null and ended_at >= :since limit 1",
        **place,
        since=declined_since,
    )
    if declined is not None:
        return None, False
    left = tx.all(
        "select id from desk_tasks where upstream = :upstream and service = :service and country = :country"
        " and operator = :operator and state = 'wanted' and waits_until <= :at order by id",
        **place,
        at=at,
    )
    for row in left:
        taken_up = tx.one(
            "update desk_tasks set waits_until = :waits, until_at = :until, cost = :cost,"  # noqa: S608 — constant text
            " currency = :currency where id = :id and state = 'wanted' and waits_until <= :at"
            f" returning {_COLUMNS}",
            waits=order.waits_until, until=wanted_until, cost=order.cost.micros, currency=order.cost.currency,
            id=row["id"], at=at,
        )  # fmt: skip
        if taken_up is not None:
            return _shown(tx, vault, taken_up, ()), False
    wanted = tx.one(
        "select count(*) as n from desk_tasks where upstream = :upstream and state = 'wanted'", upstream=upstream
    )
    if wanted is not None and wanted["n"] >= WANTED_MAX:
        return None, False
    task = tx.insert(
        "insert into desk_tasks (upstream, service, country, operator, cost, currency, state, created_at, waits_until,"
        " until_at, round) values (:upstream, :service, :country, :operator, :cost, :currency, 'wanted', :at, :waits,"
        " :until, 1) returning id",
        **place, cost=order.cost.micros, currency=order.cost.currency, at=at, waits=order.waits_until,
        until=wanted_until,
    )  # fmt: skip
    return _task(tx, vault, upstream, task), True


def _lapse(tx: Tx, upstream: str, at: float) -> None:
    """Writes down what time has ended, so that a number that nobody took can be typed again."""
    tx.execute(
        "update desk_tasks set ended_at = :at, state = case when state <> 'leased' then 'lapsed'"  # noqa: S608 — constant text
        " when exists (select 1 from desk_messages m where m.task_id = desk_tasks.id) then 'finished'"
        " else 'cancelled' end"
        f" where upstream = :upstream and {_IS_OPEN} and until_at <= :at",
        at=at,
        upstream=upstream,
    )


# Changes of one task


def _locked(tx: Tx, vault: Vault, upstream: str, task: int) -> DeskTask:
    """The task, kept from every other unit until this one is done. Raises UnknownLease."""
    row = tx.one(
        f"update desk_tasks set round = round where id = :id and upstream = :upstream returning {_COLUMNS}",  # noqa: S608 — constant columns
        id=task,
        upstream=upstream,
    )
    if row is None:
        raise UnknownLease("no such task")
    return _shown(tx, vault, row)


def _locked_lease(tx: Tx, vault: Vault, upstream: str, task: int) -> DeskTask:
    """As `_locked`; what no order ever had is no lease."""
    found = _locked(tx, vault, upstream, task)
    if found.leased_at is None:
        raise UnknownLease("no such task")
    return found


def _end(tx: Tx, task: int, state: DeskState, at: float) -> None:
    tx.execute("update desk_tasks set state = :state, ended_at = :at where id = :id", state=state.value, at=at, id=task)


def _type_number(
    tx: Tx, vault: Vault, upstream: str, task: int, number: str, ready_until: float, at: float
) -> DeskTask:
    _lapse(tx, upstream, at)
    known = _locked(tx, vault, upstream, task)
    if known.number == number and known.is_open:
        return known
    if known.state in (DeskState.READY, DeskState.LEASED):
        raise NotAllowed("this task has another number")
    if known.state is not DeskState.WANTED:
        raise NotAllowed(f"{_OVER}: put the number up with `offer`")
    digest = _digest(vault, number)
    _refuse_used(tx, upstream, known.service, digest)
    try:
        tx.insert(
            "update desk_tasks set state = 'ready', number_sealed = :sealed, number_digest = :digest,"
            " until_at = :until where id = :id returning id",
            sealed=vault.seal(number),
            digest=digest,
            until=ready_until,
            id=task,
        )
    except Conflict:
        raise NotAllowed("this number is on the desk already") from None
    _note(tx, upstream, "desk.number", task, at)
    return _task(tx, vault, upstream, task)


def _offer(
    tx: Tx,
    vault: Vault,
    upstream: str,
    service: str,
    country: int,
    cost: Money,
    number: str,
    ready_until: float,
    at: float,
) -> DeskTask:
    _lapse(tx, upstream, at)
    digest = _digest(vault, number)
    _refuse_used(tx, upstream, service, digest)
    try:
        task = tx.insert(
            "insert into desk_tasks (upstream, service, country, operator, cost, currency, state, number_sealed,"
            " number_digest, created_at, waits_until, until_at, round)"
            " values (:upstream, :service, :country, '', :cost, :currency, 'ready', :sealed, :digest, :at, 0,"
            " :until, 1) returning id",
            upstream=upstream, service=service, country=country, cost=cost.micros, currency=cost.currency,
            sealed=vault.seal(number), digest=digest, at=at, until=ready_until,
        )  # fmt: skip
    except Conflict:
        raise NotAllowed("this number is on the desk already") from None
    _note(tx, upstream, "desk.offer", task, at, service=service, country=country)
    return _task(tx, vault, upstream, task)


def _note(tx: Tx, upstream: str, action: str, task: int, at: float, **detail: Any) -> None:
    """In the audit log: the person at the desk did something. What was typed is not in it."""
    audit.note(tx, at, f"desk:{upstream}", action, f"task:{task}", **detail)


def _digest(vault: Vault, number: str) -> str:
    return vault.index_digest("desk number", number)


def _refuse_used(tx: Tx, upstream: str, service: str, digest: str) -> None:
    """Who got a code for a service by a number has an account there: the next one must not get into it."""
    used = tx.one(
        "select 1 as x from desk_tasks t join desk_messages m on m.task_id = t.id"
        " where t.upstream = :upstream and t.number_digest = :digest and t.service = :service limit 1",
        upstream=upstream,
        digest=digest,
        service=service,
    )
    if used is not None:
        raise NotAllowed("this number has had a code for this service before")


def _type_message(tx: Tx, vault: Vault, upstream: str, task: int, code: str, text: str, at: float) -> DeskTask:
    known = _locked(tx, vault, upstream, task)
    if known.state is DeskState.WANTED:
        raise NotAllowed("this task wants a number first")
    if known.state is DeskState.READY:
        raise NotAllowed("no order has this number yet: type its code once one has")
    if _was_typed(tx, vault, known, code, text):
        return known
    if known.state is not DeskState.LEASED or known.until <= at:
        raise NotAllowed(_OVER)
    if len(known.messages) >= MESSAGES_MAX:
        raise NotAllowed("this task has too many messages")
    tx.insert(
        "insert into desk_messages (task_id, round, code_sealed, text_sealed, received_at)"
        " values (:task, :round, :code, :text, :at) returning id",
        task=task, round=known.round, code=vault.seal(code), text=vault.seal(text), at=at,
    )  # fmt: skip
    _note(tx, upstream, "desk.message", task, at)
    return _task(tx, vault, upstream, task)


def _was_typed(tx: Tx, vault: Vault, known: DeskTask, code: str, text: str) -> bool:
    """Whether this round has it: typed twice it is one message, asked for twice it is two."""
    rows = tx.all(
        "select id, code_sealed, text_sealed, received_at from desk_messages where task_id = :id and round = :round",
        id=int(known.id),
        round=known.round,
    )
    return any(one.code == code and (code or one.text == text) for one in (_sms(vault, row) for row in rows))


def _ask_again(tx: Tx, vault: Vault, upstream: str, task: int, at: float) -> DeskTask | None:
    known = _locked_lease(tx, vault, upstream, task)
    if known.state is not DeskState.LEASED or known.until <= at:
        raise NotAllowed(_OVER)
    if known.is_code_awaited:
        return None
    tx.execute("update desk_tasks set round = round + 1 where id = :id", id=task)
    return _task(tx, vault, upstream, task)


def _finish(tx: Tx, vault: Vault, upstream: str, task: int, at: float) -> None:
    known = _locked_lease(tx, vault, upstream, task)
    if known.state is DeskState.CANCELLED:
        raise NotAllowed("it was cancelled")
    if known.state is DeskState.LEASED:
        _end(tx, task, DeskState.FINISHED, at)


def _cancel(tx: Tx, vault: Vault, upstream: str, task: int, at: float) -> None:
    known = _locked_lease(tx, vault, upstream, task)
    if known.state in (DeskState.CANCELLED, DeskState.FAILED):
        return
    if known.messages:
        raise HasSms
    if known.state is not DeskState.LEASED:
        raise NotAllowed("it was finished")
    _end(tx, task, DeskState.CANCELLED, at)


def _fail(tx: Tx, vault: Vault, upstream: str, task: int, at: float) -> DeskTask:
    known = _locked(tx, vault, upstream, task)
    if known.state is DeskState.FAILED:
        return known
    if not known.is_open or known.until <= at:
        raise NotAllowed(_OVER)
    _end(tx, task, DeskState.FAILED, at)
    _note(tx, upstream, "desk.fail", task, at)
    return _task(tx, vault, upstream, task)


def _tidy(tx: Tx, upstream: str, kept_since: float, at: float) -> None:
    _lapse(tx, upstream, at)
    old = "select id from desk_tasks where upstream = :upstream and ended_at < :since"
    tx.execute(f"delete from desk_messages where task_id in ({old})", upstream=upstream, since=kept_since)  # noqa: S608 — constant text
    tx.execute(
        "delete from desk_tasks where upstream = :upstream and ended_at < :since", upstream=upstream, since=kept_since
    )
