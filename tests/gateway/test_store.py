"""Units of work on both databases: all or nothing, alone or together, and healing by themselves."""

from __future__ import annotations

import asyncio
import socket
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from gateway.errors import Unavailable
from gateway.store import (
    BUSY_SECONDS,
    Conflict,
    PostgresStore,
    SqliteStore,
    Store,
    Tx,
    _Attempt,
    connect,
    server_address,
    sqlite_path,
    watched,
)
from tests.journeys.cut_wire import Proxy, proxy


def create(tx: Tx) -> None:
    serial = "integer primary key" if isinstance(tx._connection, sqlite3.Connection) else "serial primary key"
    tx.execute(f"create table things (id {serial}, name text not null unique, value integer not null default 0)")


def add(tx: Tx, name: str) -> int:
    return tx.insert("insert into things (name) values (:name) returning id", name=name)


def add_then_fail(tx: Tx, name: str) -> None:
    add(tx, name)
    raise LookupError(name)


def names(tx: Tx) -> list[str]:
    return [row["name"] for row in tx.all("select name from things order by name")]


def grow(tx: Tx, first: str, second: str, meet: Callable[[], object] = lambda: None) -> None:
    tx.execute("update things set value = value + 1 where name = :name", name=first)
    meet()
    tx.execute("update things set value = value + 1 where name = :name", name=second)


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    if database_url.startswith("sqlite"):
        sqlite3.connect(sqlite_path(database_url)).close()
    store = connect(database_url)
    await store.run(create)
    yield store
    await store.close()


@pytest.fixture
async def sqlite(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    (tmp_path / "simroute.db").touch()
    store = SqliteStore(tmp_path / "simroute.db")
    await store.run(create)
    yield store
    await store.close()


@pytest.fixture
async def postgres(postgres_url: str) -> AsyncIterator[PostgresStore]:
    store = PostgresStore(postgres_url)
    await store.run(create)
    yield store
    await store.close()


# On both


async def test_a_unit_is_committed_whole_or_undone_whole(store: Store) -> None:
    await store.run(add, "kept")
    with pytest.raises(LookupError, match="undone"):
        await store.run(add_then_fail, "undone")
    assert await store.read(names) == ["kept"]


async def test_a_unique_constraint_is_a_conflict_that_quotes_no_value(store: Store) -> None:
    await store.run(add, "secret")
    with pytest.raises(Conflict) as conflict:
        await store.run(add, "secret")
    assert "secret" not in str(conflict.value)
    await store.run(add, "other")
    assert await store.read(names) == ["other", "secret"]


async def test_units_that_run_at_the_same_time_fail_alone(store: Store) -> None:
    works = [store.run(add_then_fail if number % 3 == 0 else add, f"n{number:02}") for number in range(30)]
    outcomes = await asyncio.gather(*works, return_exceptions=True)
    assert [isinstance(outcome, LookupError) for outcome in outcomes] == [number % 3 == 0 for number in range(30)]
    assert await store.read(names) == [f"n{number:02}" for number in range(30) if number % 3]


async def test_no_update_is_lost_between_parallel_units(store: Store) -> None:
    await store.run(add, "a")
    await asyncio.gather(*(store.run(grow, "a", "a") for _ in range(50)))
    row = await store.read(lambda tx: tx.one("select value from things where name = 'a'"))
    assert row is not None
    assert row["value"] == 100


async def test_a_caller_that_gives_up_does_not_undo_what_it_asked_for(store: Store) -> None:
    started, go = threading.Event(), threading.Event()

    def slow(tx: Tx) -> None:
        add(tx, "slow")
        started.set()
        go.wait(5)

    task = asyncio.create_task(store.run(slow))
    await asyncio.to_thread(started.wait, 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go.set()
    await store.run(add, "next")
    assert await store.read(names) == ["next", "slow"]


async def test_what_a_caller_gave_up_on_is_undone_and_what_queued_behind_it_is_not_begun(postgres_url: str) -> None:
    """A server that says nothing: its clients were told that nothing was done."""
    store = PostgresStore(postgres_url, connections=1, answer_seconds=2.0)
    await store.run(create)
    store._answer_seconds = 0.2
    started, go, begun = threading.Event(), threading.Event(), list[str]()

    def stuck(tx: Tx) -> None:
        add(tx, "given up")
        started.set()
        go.wait(10)

    def behind(_tx: Tx) -> None:
        begun.append("behind")

    for error in await asyncio.gather(store.run(stuck), store.run(behind), return_exceptions=True):
        assert isinstance(error, Unavailable)
    assert started.is_set()
    go.set()
    store._answer_seconds, store._down_until = 10.0, 0.0
    await store.run(add, "later")
    assert await store.read(names) == ["later"]
    assert begun == []
    await store.close()


async def test_a_unit_that_reads_sees_one_moment(store: Store) -> None:
    """What `ledger verify` adds up beside a running server must not shift under it."""
    await store.run(add, "first")
    started, written = threading.Event(), threading.Event()

    def twice(tx: Tx) -> tuple[list[str], list[str]]:
        before = names(tx)
        started.set()
        assert written.wait(5)
        return before, names(tx)

    reading = asyncio.create_task(store.read(twice))
    await asyncio.to_thread(started.wait, 5)
    await store.run(add, "second")
    written.set()
    assert await reading == (["first"], ["first"])
    assert await store.read(names) == ["first", "second"]


async def test_a_closed_store_is_unavailable(store: Store) -> None:
    await store.close()
    for work in (store.run, store.read):
        with pytest.raises(Unavailable):
            await work(names)
    await store.close()


def test_an_address_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="DATABASE_URL"):
        connect("mysql://localhost/x")


# SQLite


class Traced(SqliteStore):
    """Writes down what it tells SQLite."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.statements: list[str] = []

    def _open(self, busy_seconds: float) -> sqlite3.Connection:
        connection = super()._open(busy_seconds)
        connection.set_trace_callback(lambda sql: self.statements.append(sql.lower()))
        return connection


async def test_units_that_wait_for_the_disk_are_committed_together(tmp_path: Path) -> None:
    (tmp_path / "simroute.db").touch()
    store = Traced(tmp_path / "simroute.db")
    await store.run(create)
    go = threading.Event()
    first = asyncio.create_task(store.run(lambda tx: go.wait(5)))
    await asyncio.sleep(0.05)
    store.statements.clear()
    works = [store.run(add_then_fail if number == 4 else add, f"n{number}") for number in range(10)]
    rest = [asyncio.create_task(work) for work in works]
    await asyncio.sleep(0.05)
    go.set()
    outcomes = await asyncio.gather(first, *rest, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes if isinstance(outcome, Exception)] == [LookupError]
    assert store.statements.count("commit") == 2  # the unit that kept the others waiting, then all of those
    assert len(await store.read(names)) == 9
    await store.close()


async def test_each_unit_waits_for_a_lock_by_itself(sqlite: SqliteStore) -> None:
    other = sqlite3.connect(sqlite.path, isolation_level=None)
    other.execute("begin immediate")

    async def waited(after_seconds: float) -> float:
        await asyncio.sleep(after_seconds)
        started = time.monotonic()
        with pytest.raises(Unavailable):
            await sqlite.run(add, "too late")
        return time.monotonic() - started

    seconds = await asyncio.gather(*(waited(number * 0.3) for number in range(4)))
    assert all(BUSY_SECONDS - 0.2 < one < BUSY_SECONDS + 1 for one in seconds), seconds
    other.close()
    assert await sqlite.read(names) == []


async def test_a_unit_gets_through_as_soon_as_the_lock_is_gone(sqlite: SqliteStore) -> None:
    other = sqlite3.connect(sqlite.path, isolation_level=None)
    other.execute("begin immediate")
    waiting = asyncio.create_task(sqlite.run(add, "patient"))
    await asyncio.sleep(BUSY_SECONDS / 2)
    assert not waiting.done()
    other.execute("rollback")
    other.close()
    await waiting
    assert await sqlite.read(names) == ["patient"]


async def test_a_lock_held_too_long_is_unavailable_and_heals(sqlite: SqliteStore) -> None:
    other = sqlite3.connect(sqlite.path, isolation_level=None)
    other.execute("begin immediate")
    started = time.monotonic()
    with pytest.raises(Unavailable):
        await sqlite.run(add, "too late")
    assert BUSY_SECONDS - 0.5 < time.monotonic() - started < BUSY_SECONDS + 1.5
    assert await sqlite.read(names) == []  # readers never wait for a writer
    other.execute("rollback")
    other.close()
    await sqlite.run(add, "in time")
    assert await sqlite.read(names) == ["in time"]


async def test_a_short_lock_of_another_process_is_waited_for(sqlite: SqliteStore) -> None:
    other = sqlite3.connect(sqlite.path, isolation_level=None, check_same_thread=False)
    other.execute("begin immediate")
    other.execute("insert into things (name) values ('theirs')")
    threading.Timer(0.3, lambda: other.execute("commit").connection.close()).start()
    await sqlite.run(add, "ours")
    assert await sqlite.read(names) == ["ours", "theirs"]


async def test_a_file_that_goes_away_is_unavailable_until_it_is_back(sqlite: SqliteStore) -> None:
    await sqlite.run(add, "before")
    parts = [path for path in sqlite.path.parent.iterdir() if path.name.startswith("simroute.db")]
    for path in parts:
        path.rename(path.with_name("away-" + path.name))
    for _ in range(2):
        with pytest.raises(Unavailable):
            await sqlite.run(add, "nowhere")
        with pytest.raises(Unavailable):
            await sqlite.read(names)
    assert not sqlite.path.exists()  # nothing was put in its place
    for path in parts:
        away = path.with_name("away-" + path.name)
        if away.exists():
            away.rename(path)
    await sqlite.run(add, "after")
    assert await sqlite.read(names) == ["after", "before"]


async def test_a_file_put_back_from_a_copy_is_taken_up(sqlite: SqliteStore, tmp_path: Path) -> None:
    await sqlite.run(add, "before")
    with sqlite3.connect(sqlite.path) as source, sqlite3.connect(tmp_path / "copy.db") as target:
        source.backup(target)
    source.close()
    target.close()
    sqlite.path.unlink()
    with pytest.raises(Unavailable):
        await sqlite.run(add, "nowhere")
    with pytest.raises(Unavailable):
        await sqlite.read(names)
    (tmp_path / "copy.db").rename(sqlite.path)
    await sqlite.run(add, "after")
    assert await sqlite.read(names) == ["after", "before"]


async def test_a_file_that_is_no_database_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "simroute.db").write_bytes(b"this is no database " * 100)
    store = SqliteStore(tmp_path / "simroute.db")
    for work in (store.run, store.read):
        with pytest.raises(Unavailable):
            await work(names)
    await store.close()


# PostgreSQL


def terminate(url: str) -> int:
    """Ends every other connection to the database; how many there were."""
    with psycopg.connect(url, autocommit=True) as connection:
        found = connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()"
        ).fetchall()
    return len(found)


async def test_terminated_connections_heal_unnoticed(postgres: PostgresStore, postgres_url: str) -> None:
    meeting = threading.Barrier(8)
    await asyncio.gather(*(postgres.run(lambda tx: (tx.one("select 1 as x"), meeting.wait(5))) for _ in range(8)))
    assert terminate(postgres_url) >= 8
    await postgres.run(add, "first")
    await asyncio.gather(*(postgres.run(add, f"n{number}") for number in range(40)))
    assert len(await postgres.read(names)) == 41


async def test_a_unit_whose_connection_breaks_happens_once(postgres: PostgresStore, postgres_url: str) -> None:
    runs: list[int] = []

    def break_once(tx: Tx) -> None:
        add(tx, "once")
        runs.append(1)
        if len(runs) == 1:
            terminate(postgres_url)
        add(tx, "then")

    await postgres.run(break_once)
    assert len(runs) == 2
    assert await postgres.read(names) == ["once", "then"]


async def test_a_connection_that_breaks_at_the_commit_is_unavailable(
    postgres: PostgresStore, postgres_url: str
) -> None:
    """It may have been committed: running it again could move money twice."""
    runs: list[int] = []

    def break_at_the_end(tx: Tx) -> None:
        add(tx, "perhaps")
        runs.append(terminate(postgres_url))

    with pytest.raises(Unavailable):
        await postgres.run(break_at_the_end)
    assert len(runs) == 1
    await asyncio.sleep(PostgresStore.DOWN_SECONDS)
    await postgres.run(add, "again")
    assert await postgres.read(names) == ["again"]


async def test_a_deadlock_is_tried_again(postgres: PostgresStore) -> None:
    await postgres.run(add, "a")
    await postgres.run(add, "b")
    runs: list[str] = []
    meeting = threading.Barrier(2)

    def meet(name: str) -> None:
        runs.append(name)
        if len(runs) <= 2:
            meeting.wait(5)

    await asyncio.gather(
        postgres.run(grow, "a", "b", lambda: meet("first")), postgres.run(grow, "b", "a", lambda: meet("second"))
    )
    assert len(runs) == 3  # one of the two ran again
    row = await postgres.read(lambda tx: tx.one("select min(value) as low, max(value) as high from things"))
    assert row is not None
    assert (row["low"], row["high"]) == (2, 2)


async def test_a_server_that_is_away_is_unavailable_at_once_for_those_who_follow() -> None:
    store = PostgresStore("postgresql://127.0.0.1:9/none")
    with pytest.raises(Unavailable):
        await store.run(names)
    started = time.monotonic()
    outcomes = await asyncio.gather(*(store.run(names) for _ in range(50)), return_exceptions=True)
    assert all(isinstance(outcome, Unavailable) for outcome in outcomes)
    assert time.monotonic() - started < 0.4
    await store.close()


async def test_what_takes_too_long_is_unavailable_alone(postgres_url: str) -> None:
    store = PostgresStore(postgres_url, answer_seconds=2.0)
    await store.run(create)
    await store.run(add, "a")
    with psycopg.connect(postgres_url) as other:
        other.execute("update things set value = 9 where name = 'a'")
        slow: list[Callable[[Tx], object]] = [
            lambda tx: tx.one("select pg_sleep(4)"),
            lambda tx: grow(tx, "a", "a"),
            lambda tx: grow(tx, "b", "b", lambda: time.sleep(4)),
        ]
        outcomes = await asyncio.gather(*map(store.run, slow), return_exceptions=True)
        await store.run(add, "b")
    assert all(isinstance(outcome, Unavailable) for outcome in outcomes)
    assert await store.read(names) == ["a", "b"]
    await store.close()


async def test_a_server_that_answers_nothing_is_away_for_those_who_follow() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        store = PostgresStore(f"postgresql://127.0.0.1:{silent.getsockname()[1]}/none", answer_seconds=1.0)
        with pytest.raises(Unavailable):
            await store.run(names)
        started = time.monotonic()
        outcomes = await asyncio.gather(*(store.run(names) for _ in range(50)), return_exceptions=True)
        assert all(isinstance(outcome, Unavailable) for outcome in outcomes)
        assert time.monotonic() - started < 0.4
        await store.close()


async def test_a_row_locked_for_too_long_is_unavailable_for_its_waiters_only(
    postgres: PostgresStore, postgres_url: str
) -> None:
    await postgres.run(add, "a")
    with psycopg.connect(postgres_url) as other:
        other.execute("update things set value = 9 where name = 'a'")
        waiting = asyncio.create_task(postgres.run(grow, "a", "a"))
        await asyncio.sleep(0.1)
        await postgres.run(add, "b")
        with pytest.raises(Unavailable):
            await waiting
        await postgres.run(add, "c")
        other.rollback()
    await postgres.run(grow, "a", "a")
    assert await postgres.read(names) == ["a", "b", "c"]


HEAL_SECONDS = 20.0
"""More than ever needed: a test that waits so long has failed."""


def through(wire: Proxy) -> str:
    return make_conninfo(wire.behind, host="127.0.0.1", port=wire.port)


async def connected(store: PostgresStore, count: int, sql: str = "select 1") -> None:
    """Runs a statement on so many connections at once."""
    meeting = threading.Barrier(count)
    await asyncio.gather(*(store.run(lambda tx: (tx.execute(sql), meeting.wait(5))) for _ in range(count)))


async def healed(store: PostgresStore, name: str) -> None:
    deadline = time.monotonic() + HEAL_SECONDS
    while True:
        try:
            await store.run(add, name)
            return
        except Unavailable:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)


async def test_connections_that_are_all_lost_in_silence_are_replaced(postgres_url: str) -> None:
    async with proxy(postgres_url) as wire:
        store = PostgresStore(through(wire), answer_seconds=2.0)
        await store.run(create)
        await connected(store, 10)
        wire.swallow()
        lost = await asyncio.gather(*(store.run(add, f"lost {number}") for number in range(3)), return_exceptions=True)
        assert all(isinstance(outcome, Unavailable) for outcome in lost)
        await healed(store, "after")
        await connected(store, 10)  # every thread is back
        assert await store.read(names) == ["after"]
        await store.close()


@pytest.mark.parametrize("is_waited_for", [True, False])
async def test_a_connection_lost_alone_does_not_keep_its_thread(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, *, is_waited_for: bool
) -> None:
    """The others are heard, so it takes as long as a statement may before it is known."""
    monkeypatch.setattr(PostgresStore, "STATEMENT_SECONDS", 1)
    is_lost, is_free = threading.Event(), threading.Event()
    async with proxy(postgres_url) as wire:
        store = PostgresStore(through(wire), answer_seconds=2.0)
        await store.run(create)

        def lose(tx: Tx) -> None:
            add(tx, "lost")
            wire.swallow()
            store._renew_connections()  # this one alone is lost
            is_lost.set()
            try:
                tx.one("select 1")
            except psycopg.OperationalError:
                is_free.set()
                raise

        work = asyncio.create_task(store.run(lose))
        assert await asyncio.to_thread(is_lost.wait, 5)
        await store.run(add, "beside")
        if not is_waited_for:
            work.cancel()
        with pytest.raises(Unavailable if is_waited_for else asyncio.CancelledError):
            await work
        assert await asyncio.to_thread(is_free.wait, HEAL_SECONDS)
        await healed(store, "after")
        assert await store.read(names) == ["after", "beside"]
        await store.close()


async def test_a_connection_cut_after_the_last_word_is_not_handed_on(postgres: PostgresStore) -> None:
    """It was heard in the nick of time, and nothing shows that it is dead."""
    sessions = []
    attempt = _Attempt()
    for _ in range(2):
        with postgres._lent(attempt) as connection:
            sessions.append(connection.info.backend_pid)
            attempt.is_cut = True
    assert len(set(sessions)) == 2


def test_what_takes_too_long_on_a_watched_connection_breaks_it(postgres_url: str) -> None:
    started = time.monotonic()
    with psycopg.connect(postgres_url) as connection:
        with watched(connection, HEAL_SECONDS):
            connection.execute("select 1")
        with pytest.raises(psycopg.OperationalError), watched(connection, 0.2):
            connection.execute("select pg_sleep(60)")
        assert connection.closed
    assert time.monotonic() - started < HEAL_SECONDS


async def test_a_server_that_only_reads_is_away_for_readers_too_until_it_writes_again(postgres_url: str) -> None:
    store = PostgresStore(postgres_url, answer_seconds=4.0)
    await store.run(create)
    with psycopg.connect(postgres_url, autocommit=True) as other:
        name = other.info.dbname
        await connected(store, 3, "set session characteristics as transaction read only")
        other.execute(f"alter database {name} set default_transaction_read_only = on")
        with pytest.raises(Unavailable):
            await store.run(add, "nowhere")
        await asyncio.sleep(PostgresStore.DOWN_SECONDS)
        with pytest.raises(Unavailable):
            await store.read(names)
        other.execute(f"alter database {name} reset default_transaction_read_only")
    await healed(store, "after")
    assert await store.read(names) == ["after"]
    await store.close()


async def test_a_command_may_read_from_a_standby(postgres_url: str) -> None:
    store = PostgresStore(make_conninfo(postgres_url, options="-c default_transaction_read_only=on"))
    assert await store.read(lambda tx: tx.one("select 1 as x")) == {"x": 1}
    await store.close()


async def test_a_session_that_the_server_ended_within_a_transaction_is_unavailable(postgres: PostgresStore) -> None:
    def dawdle(tx: Tx) -> None:
        tx.execute("set local idle_in_transaction_session_timeout = 100")
        add(tx, "late")
        time.sleep(1)
        add(tx, "later")

    with pytest.raises(Unavailable):
        await postgres.run(dawdle)
    await postgres.run(add, "after")
    assert await postgres.read(names) == ["after"]


async def test_a_reading_unit_that_writes_is_a_mistake_of_ours_and_no_outage(postgres: PostgresStore) -> None:
    with pytest.raises(TypeError, match="only reads"):
        await postgres.read(add, "a")
    await postgres.run(add, "b")


def test_what_the_address_says_of_its_wire_holds() -> None:
    given = conninfo_to_dict(
        server_address("postgresql://u@h/db?tcp_user_timeout=7&target_session_attrs=any", writes=True)
    )
    assert (given["tcp_user_timeout"], given["target_session_attrs"]) == ("7", "any")
    assert int(given["keepalives_idle"] or 0) < 60
    assert "target_session_attrs" not in conninfo_to_dict(server_address("postgresql://u@h/db"))
