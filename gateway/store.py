"""Where the truth lies: units of work on SQLite or PostgreSQL, written once in the SQL both understand.

A unit of work is a plain function that takes a `Tx` first. It runs on a thread, never on the event loop, and either all
of it is committed when `run` returns or none of it happened. It may run again after a deadlock, so it touches nothing
outside its transaction.

SQLite has one writer: units that arrive while a commit is under way are committed together by the next one, each
inside its own savepoint, so that the disk is waited for once and not once per caller (`docs/decisions.md` has the
measurement).
"""

from __future__ import annotations

import asyncio
import math
import os
import re
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, cast
from urllib.parse import unquote, urlsplit

import psycopg
from psycopg import conninfo, errors
from psycopg.rows import dict_row
from psycopg_pool import ConnectionPool, PoolTimeout

from gateway.errors import Unavailable

P = ParamSpec("P")
T = TypeVar("T")
Row = Mapping[str, Any]

BUSY_SECONDS = 1.5
"""How long a unit waits for another process's lock, or for a connection, before it gives up."""

LOCKED_SECONDS = 0.1
"""How long the writer tries for another process's lock before it looks which of its units have waited enough."""

GROUP_MAX = 64
"""Units committed together at most: bounds how long the first one waits for the last."""

MINIMUM_SQLITE = (3, 35, 0)
"""The first SQLite with RETURNING."""

_WIRE: dict[str, str | int] = {
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
"""How soon the system gives up a connection whose other end is silent: by default that takes hours where nothing is
being sent, and a quarter of one where something is."""

_NOT_NOW = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    errors.ReadOnlySqlTransaction,
    errors.IdleInTransactionSessionTimeout,
    errors.TransactionTimeout,
)
"""What says that this server, or this connection to it, can't do it now: nothing about the unit."""

_FULL_CODES = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE)
"""No space on the device; and any other limit on what may be written, such as a quota's or a process's."""

_PARAMETER = re.compile(r"(?<!:):([a-z_][a-z0-9_]*)")


class Conflict(Exception):
    """A unique constraint refused the row."""


class _Connection(Protocol):
    def execute(self, sql: str, parameters: Any = ..., /) -> Any: ...


class Tx:
    """One transaction, as a unit of work sees it. Parameters are named: `:name` in the text, keywords here."""

    __slots__ = ("_connection", "_translate")

    def __init__(self, connection: _Connection, translate: Callable[[str], str] | None = None) -> None:
        self._connection = connection
        self._translate = translate

    def _run(self, sql: str, values: Mapping[str, Any]) -> Any:
        return self._connection.execute(self._translate(sql) if self._translate else sql, values)

    def execute(self, sql: str, **values: Any) -> int:
        """Runs a statement; how many rows it touched."""
        return cast(int, self._run(sql, values).rowcount)

    def one(self, sql: str, **values: Any) -> Row | None:
        """The first row, or None."""
        return cast("Row | None", self._run(sql, values).fetchone())

    def all(self, sql: str, **values: Any) -> Sequence[Row]:
        """Every row."""
        return cast("Sequence[Row]", self._run(sql, values).fetchall())

    def insert(self, sql: str, **values: Any) -> int:
        """Runs an `insert … returning id`; the id. Raises Conflict where a unique constraint says no."""
        try:
            row = self.one(sql, **values)
        except (sqlite3.IntegrityError, errors.UniqueViolation) as error:
            raise Conflict(_constraint(error)) from None
        if row is None:
            raise Conflict("nothing was inserted")
        return cast(int, row["id"])


def _constraint(error: Exception) -> str:
    """Which constraint refused, without the values that SQLite and PostgreSQL like to quote."""
    if isinstance(error, psycopg.Error):
        return error.diag.constraint_name or "unique"
    return str(error).partition(": ")[2] or "unique"


Unit = Callable[Concatenate[Tx, P], T]


class Store(Protocol):
    """The database."""

    dialect: str

    @property
    def full_at(self) -> float:
        """When a write last failed for want of space, by the monotonic clock; never: minus infinity."""
        ...

    async def run(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs a unit of work in a transaction and returns what it returned once that is durable.

        Raises Unavailable when the database does not answer (the unit may then have been committed: whoever cares
        has written down beforehand what it was about to do), and whatever the unit raises, after undoing it.
        """
        ...

    async def read(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs a unit that only reads. Raises Unavailable."""
        ...

    async def close(self) -> None: ...


def connect(url: str, *, answer_seconds: float | None = None) -> Store:
    """The store behind a `sqlite:///path` or `postgresql://…` address. Raises ValueError on any other.

    `answer_seconds` bounds how long a caller waits for a server that accepts everything and answers nothing; None
    waits, which suits a person with a long report.
    """
    scheme = urlsplit(url).scheme
    if scheme == "sqlite":
        return SqliteStore(sqlite_path(url))
    if scheme in ("postgresql", "postgres"):
        return PostgresStore(url, answer_seconds=answer_seconds)
    raise ValueError("DATABASE_URL must begin with sqlite:/// or postgresql://")


@contextmanager
def transaction(url: str) -> Iterator[Tx]:
    """One transaction on a connection of its own, for what is done before there is a loop; committed at its end."""
    if urlsplit(url).scheme == "sqlite":
        with closing(sqlite3.connect(sqlite_path(url), timeout=5.0)) as connection, connection:
            connection.row_factory = sqlite3.Row
            yield Tx(connection)
    else:
        with psycopg.connect(server_address(url), connect_timeout=5, row_factory=dict_row) as server:
            yield Tx(cast(_Connection, server), _translated)


def _translated(sql: str) -> str:
    return _PARAMETER.sub(r"%(\1)s", sql.replace("%", "%%"))


def server_address(url: str, *, writes: bool = False) -> str:
    """A PostgreSQL's address as libpq takes it, with what notices that its other end is gone, unless the URL says.

    To one that `writes`, a standby is no answer. Raises psycopg.ProgrammingError.
    """
    wanted = {**_WIRE, "target_session_attrs": "read-write"} if writes else _WIRE
    given = conninfo.conninfo_to_dict(url)
    return conninfo.make_conninfo(url, **{name: value for name, value in wanted.items() if name not in given})


def sqlite_path(url: str) -> Path:
    """The file behind `sqlite:///relative` or `sqlite:////absolute`."""
    return Path(unquote(url.removeprefix("sqlite:///")))


class _Job:
    __slots__ = ("args", "deadline", "error", "future", "kwargs", "result", "unit")

    def __init__(self, unit: Callable[..., Any], args: Any, kwargs: Any, future: asyncio.Future[Any]) -> None:
        self.unit = unit
        self.deadline = time.monotonic() + BUSY_SECONDS
        self.args = args
        self.kwargs = kwargs
        self.future = future
        self.result: Any = None
        self.error: BaseException | None = None


def _settle(jobs: Sequence[_Job]) -> None:
    for job in jobs:
        if job.future.done():
            continue
        if job.error is not None:
            job.future.set_exception(job.error)
        else:
            job.future.set_result(job.result)


class SqliteStore:
    """One file, one writing thread with group commit, one reading thread (WAL: they do not block each other)."""

    dialect = "sqlite"

    def __init__(self, path: Path) -> None:
        if sqlite3.sqlite_version_info < MINIMUM_SQLITE:
            raise ValueError(f"SQLite {sqlite3.sqlite_version} is too old: 3.35 or newer is needed")
        self.path = path
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._writer: sqlite3.Connection | None = None
        self._inode = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._readers = ThreadPoolExecutor(1, "sqlite-read")
        self._reader: sqlite3.Connection | None = None
        self._reader_inode = 0
        self._closed = False
        self.full_at = -math.inf

    async def run(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        loop = asyncio.get_running_loop()
        if self._closed:
            raise Unavailable
        if self._thread is None:
            self._loop = loop
            self._thread = threading.Thread(target=self._write, name="sqlite-write", daemon=True)
            self._thread.start()
        job = _Job(unit, args, kwargs, loop.create_future())
        self._jobs.put(job)
        # A caller that gives up must not undo what is about to be committed, nor be taken for its failure.
        return cast(T, await asyncio.shield(job.future))

    async def read(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        if self._closed:
            raise Unavailable
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._readers, lambda: self._read(unit, args, kwargs))

    def _read(self, unit: Callable[..., T], args: Any, kwargs: Any) -> T:
        try:
            inode = os.stat(self.path).st_ino
            if self._reader is None or inode != self._reader_inode:
                self._reader, self._reader_inode = self._open(BUSY_SECONDS), inode
            # A transaction although nothing is written: all a unit reads is of one moment.
            self._reader.execute("begin")
            try:
                return unit(Tx(self._reader), *args, **kwargs)
            finally:
                self._reader.execute("rollback")
        except (sqlite3.OperationalError, sqlite3.DatabaseError, OSError) as error:
            _close(self._reader)
            self._reader = None
            raise Unavailable from error

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._thread is not None:
            self._jobs.put(None)
            await asyncio.to_thread(self._thread.join)
        await asyncio.to_thread(self._readers.shutdown)
        _close(self._reader)
        self._reader = None

    def _open(self, busy_seconds: float) -> sqlite3.Connection:
        # `mode=rw`: a file that has gone away must be noticed, not quietly replaced by an empty one.
        connection = sqlite3.connect(
            f"file:{self.path}?mode=rw", uri=True, timeout=busy_seconds, isolation_level=None, check_same_thread=False
        )
        connection.row_factory = sqlite3.Row
        connection.execute("pragma journal_mode = wal")
        connection.execute("pragma synchronous = full")
        connection.execute("pragma foreign_keys = on")
        connection.execute("pragma secure_delete = on")  # what is deleted is overwritten in the file
        return connection

    def _connection(self) -> sqlite3.Connection:
        inode = os.stat(self.path).st_ino
        if self._writer is None or inode != self._inode:
            _close(self._writer)
            self._writer, self._inode = self._open(LOCKED_SECONDS), inode
        return self._writer

    def _write(self) -> None:
        jobs: list[_Job] = []
        is_ending = False
        while not is_ending or jobs:
            is_ending = self._gather(jobs) or is_ending
            if jobs and not self._is_locked(jobs):
                self._answer(jobs)
                jobs = []
        _close(self._writer)
        self._writer = None

    def _gather(self, jobs: list[_Job]) -> bool:
        """Adds the units that have arrived, waiting for one where there is none; whether the store is being closed."""
        while len(jobs) < GROUP_MAX and (not jobs or not self._jobs.empty()):
            job = self._jobs.get()
            if job is None:
                return True
            jobs.append(job)
        return False

    def _is_locked(self, jobs: list[_Job]) -> bool:
        """Commits the units, or fails them; True while another process writes and some of them can still wait.

        Each waits for itself: one that has been in vain for long must not make the next one wait as long again.
        """
        error = self._commit_together(jobs)
        if error is None:
            return False
        if not (isinstance(error, sqlite3.OperationalError) and "locked" in str(error)):
            if _is_full(error):
                self.full_at = time.monotonic()
            else:
                _close(self._writer)
                self._writer = None
            _fail(jobs, error)
            return False
        now = time.monotonic()
        late = [job for job in jobs if job.deadline <= now]
        _fail(late, error)
        self._answer(late)
        jobs[:] = [job for job in jobs if job.deadline > now]
        return bool(jobs)

    def _answer(self, jobs: Sequence[_Job]) -> None:
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(_settle, jobs)

    def _commit_together(self, jobs: Sequence[_Job]) -> Exception | None:
        """Runs and commits the units in one transaction; what the database had against it."""
        try:
            connection = self._connection()
            connection.execute("begin immediate")
            try:
                for job in jobs:
                    _run_in_savepoint(connection, job)
                connection.execute("commit")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("rollback")
                raise
        except (sqlite3.Error, OSError) as error:
            return error
        return None


def _is_full(error: Exception) -> bool:
    """Whether there was no room to write. The connection is as good as before, and a new one would need room itself."""
    return isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) in _FULL_CODES


def _fail(jobs: Sequence[_Job], error: Exception) -> None:
    for job in jobs:
        job.error = Unavailable()
        job.error.__cause__ = error


def _run_in_savepoint(connection: sqlite3.Connection, job: _Job) -> None:
    connection.execute("savepoint unit")
    job.error = None
    try:
        job.result = job.unit(Tx(connection), *job.args, **job.kwargs)
    except sqlite3.OperationalError:
        raise  # the disk or the file, not the unit: the whole group fails together
    except Exception as error:
        job.error = error
        connection.execute("rollback to unit")
    connection.execute("release unit")


def _close(connection: sqlite3.Connection | None) -> None:
    if connection is not None:
        connection.close()


class _Broken(Exception):
    """The connection broke within the unit, before its commit was asked for: nothing was done."""


class _Attempt:
    """A unit under way on a thread, and how whoever waits for it takes the thread back.

    A thread that waits for an answer hears of nothing but its connection. The descriptor it is ended by is one of our
    own: the connection's may have been closed meanwhile, and its number be somebody else's.
    """

    def __init__(self) -> None:
        self.is_given_up = False
        self.is_cut = False
        self.lent_at = -math.inf
        self._wire: socket.socket | None = None
        self._lock = threading.Lock()

    @contextmanager
    def on(self, connection: psycopg.Connection[Any]) -> Iterator[None]:
        """While this lasts, the connection is the one to cut. Raises Unavailable where nobody waits any more."""
        with self._lock:
            if self.is_given_up:
                raise Unavailable
            try:
                # Its family plays no part in what is done with it.
                wire = self._wire = socket.fromfd(connection.fileno(), socket.AF_INET, socket.SOCK_STREAM)
            except OSError as error:
                raise Unavailable from error
            self.lent_at = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                self._wire = None
                wire.close()

    def give_up(self) -> None:
        """Whatever it comes to is to be undone."""
        with self._lock:
            self.is_given_up = True

    def cut(self) -> bool:
        """Gives up, and ends the connection in use, from any thread; whether there was one."""
        with self._lock:
            self.is_given_up = True
            if self._wire is None:
                return False
            self.is_cut = True
            with suppress(OSError):  # the other end was faster
                self._wire.shutdown(socket.SHUT_RDWR)
            return True


def _cut_all(attempts: Sequence[_Attempt]) -> None:
    for attempt in attempts:
        attempt.cut()


@contextmanager
def watched(connection: psycopg.Connection[Any], seconds: float) -> Iterator[None]:
    """Ends a connection from this side where what is done with it takes longer: then it breaks.

    Raises Unavailable where there is no descriptor to do it by.
    """
    attempt = _Attempt()
    timer = threading.Timer(seconds, attempt.cut)
    timer.daemon = True
    with attempt.on(connection):
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


def _at_one_moment(tx: Tx, unit: Callable[..., T], args: Any, kwargs: Any) -> T:
    tx.execute("set transaction isolation level repeatable read, read only")
    try:
        return unit(tx, *args, **kwargs)
    except errors.ReadOnlySqlTransaction as error:
        raise TypeError("a unit that only reads wrote") from error  # not the server's fault


class PostgresStore:
    """A pool of connections, each used by one thread at a time.

    While the server is away, whoever asks is told so at once, for half a second at a time. It is away where no
    connection can be had, or where it answers nothing: that one unit takes long, or waits for another one's lock, says
    nothing of it, so it is then asked something that takes no time.

    Connections can also be lost in silence, one and all, while new ones would work (a firewall forgot them, another
    server took over from a frozen one). So one on which nothing was heard for too long is ended from this side, which
    frees its thread, and all the pool has are made anew.
    """

    dialect = "postgresql"
    TRIES = 4
    DOWN_SECONDS = 0.5
    STATEMENT_SECONDS = 5
    """How long a statement may take where somebody waits; the server sees to that, and says so."""

    STOP_SECONDS = 5.0

    def __init__(self, url: str, *, connections: int = 10, answer_seconds: float | None = None) -> None:
        self._answer_seconds = answer_seconds
        statement_seconds = 0 if answer_seconds is None else self.STATEMENT_SECONDS
        address = server_address(url, writes=answer_seconds is not None)
        self._threads = ThreadPoolExecutor(connections, "postgres")
        self._pool = ConnectionPool(
            conninfo.make_conninfo(address, connect_timeout=2, application_name="simroute"),
            min_size=1,
            max_size=connections + 1,  # one to ask whether the server answers
            timeout=BUSY_SECONDS,
            reconnect_timeout=10,
            open=False,
            kwargs={
                "row_factory": dict_row,
                "autocommit": False,
                "options": f"-c statement_timeout={statement_seconds}s -c lock_timeout=2s"
                " -c idle_in_transaction_session_timeout=10s",
            },
        )
        self._statements: dict[str, str] = {}
        self._down_until = 0.0
        self._heard_at = -math.inf
        self._drained_at = -math.inf
        self._asking: threading.Thread | None = None
        self._question = _Attempt()
        self._late: set[_Attempt] = set()
        """Those that nobody waits for any more."""
        self._opened = False
        self._closed = False
        self.full_at = -math.inf

    async def run(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        if self._closed:
            raise Unavailable
        loop = asyncio.get_running_loop()
        attempt = _Attempt()
        work = loop.run_in_executor(self._threads, lambda: self._work(unit, args, kwargs, attempt))
        try:
            is_in_time = await self._is_in_time(work, attempt)
        except asyncio.CancelledError:
            self._cut_later(attempt)
            work.add_done_callback(lambda late: late.cancelled() or late.exception())  # nobody hears what it says
            raise
        if not is_in_time:
            # Undone, unless its commit is on the way: that is found out by the next one who looks, as after a crash.
            attempt.give_up()
            self._cut_later(attempt)
            work.add_done_callback(lambda late: late.cancelled() or late.exception())
            raise Unavailable
        return work.result()

    async def _is_in_time(self, work: asyncio.Future[Any], attempt: _Attempt) -> bool:
        """Waits for a unit as long as a caller waits. Where it takes longer, the server may be away."""
        if self._answer_seconds is None:
            await asyncio.wait({work})
            return True
        half_seconds = self._answer_seconds / 2
        done, _ = await asyncio.wait({work}, timeout=half_seconds)
        if not done:
            asked_at = time.monotonic()
            self._ask()
            done, _ = await asyncio.wait({work}, timeout=half_seconds)
            if not done and self._heard_at < asked_at:
                self._down_until = time.monotonic() + self.DOWN_SECONDS
                self._cut(attempt)
                self._cut(self._question)
        return bool(done)

    def _ask(self) -> None:
        """Asks the server for nothing, on a thread that nobody waits for, unless that is being done."""
        if self._asking is None or not self._asking.is_alive():
            self._question = _Attempt()
            self._asking = threading.Thread(target=self._hear, args=(self._question,), name="postgres-ask", daemon=True)
            self._asking.start()

    def _hear(self, question: _Attempt) -> None:
        with suppress(psycopg.Error, Unavailable), self._lent(question) as connection:
            connection.execute("select 1")
            self._heard_at = time.monotonic()

    def _cut_later(self, attempt: _Attempt) -> None:
        """Nobody waits for it any more; a server that is there has answered by the time it is cut."""
        if self._answer_seconds is not None:
            self._late.add(attempt)
            seconds = self._answer_seconds + self.STATEMENT_SECONDS
            asyncio.get_running_loop().call_later(seconds, self._cut, attempt)

    def _cut(self, attempt: _Attempt) -> None:
        """Ends a silent connection, if it is still in use. Those of its age may be as dead, though none has said so."""
        self._late.discard(attempt)
        if attempt.cut() and attempt.lent_at > self._drained_at:
            self._renew_connections()

    def _renew_connections(self) -> None:
        """Has every connection replaced: those in use when they are given back."""
        self._drained_at = time.monotonic()
        self._pool.drain()

    @contextmanager
    def _lent(self, attempt: _Attempt) -> Iterator[psycopg.Connection[Any]]:
        """A connection of the pool with a transaction on it, which is committed at the end."""
        connection = self._pool.getconn()
        try:
            with attempt.on(connection), connection:
                yield connection
        finally:
            if attempt.is_cut:
                connection.close()  # perhaps cut after it had said the last word: it looks well
            self._pool.putconn(connection)

    async def read(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.run(_at_one_moment, unit, args, kwargs)

    async def close(self) -> None:
        self._closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._late:
            # The process can't end before its threads, and the loop that would free them may end first.
            timer = threading.Timer(self.STATEMENT_SECONDS, _cut_all, (list(self._late),))
            timer.daemon = True
            timer.start()
        if self._opened:
            await asyncio.to_thread(self._pool.close, self.STOP_SECONDS)

    def _translate(self, sql: str) -> str:
        text = self._statements.get(sql)
        if text is None:
            text = self._statements[sql] = _translated(sql)
        return text

    def _work(self, unit: Callable[..., T], args: Any, kwargs: Any, attempt: _Attempt) -> T:
        # While the server is away, everybody waiting for the same time-out would hold all threads; and who queued
        # behind them in vain is not to be served before those who came since.
        if attempt.is_given_up or time.monotonic() < self._down_until:
            raise Unavailable
        try:
            result = self._try(unit, args, kwargs, attempt)
        except (PoolTimeout, _Broken) as error:
            self._down_until = time.monotonic() + self.DOWN_SECONDS
            raise Unavailable from error
        except _NOT_NOW as error:
            if isinstance(error, errors.DiskFull):
                self.full_at = time.monotonic()
            elif isinstance(error, errors.ReadOnlySqlTransaction):
                # A standby, or about to be one: reads would still get through, and say that all is well.
                self._down_until = time.monotonic() + self.DOWN_SECONDS
                self._renew_connections()
            raise Unavailable from error
        self._heard_at = time.monotonic()
        return result

    def _try(self, unit: Callable[..., T], args: Any, kwargs: Any, attempt: _Attempt) -> T:
        """Again after a deadlock, and with another connection where the server ended the one from the pool.

        Raises _Broken where all of them break, Unavailable where nobody waits any more.
        """
        conflicts, left = 0, self._pool.max_size
        while True:
            try:
                return self._once(unit, args, kwargs, attempt)
            except (errors.DeadlockDetected, errors.SerializationFailure):
                conflicts += 1
                if conflicts == self.TRIES:
                    raise
            except _Broken:
                left -= 1
                if attempt.is_given_up:
                    raise Unavailable from None
                if not left:
                    raise

    def _once(self, unit: Callable[..., T], args: Any, kwargs: Any, attempt: _Attempt) -> T:
        if not self._opened:
            self._pool.open()
            self._opened = True
        with self._lent(attempt) as connection:
            try:
                result = unit(Tx(cast(_Connection, connection), self._translate), *args, **kwargs)
            except psycopg.OperationalError as error:
                if connection.closed:
                    raise _Broken from error
                raise
            if attempt.is_given_up:
                raise Unavailable  # its caller was told that nothing was done
            return result
