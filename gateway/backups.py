"""Backups: one consistent moment of the database, sealed in a file that shows whether it is whole.

A SQLite file is copied by its online backup, beside whoever writes to it, and checked; PostgreSQL is dumped by its own
`pg_dump`. The file is sealed under a key derived from the newest of `DATA_ENCRYPTION_KEYS`, which is not in it: nor is
any other secret, nor the configuration. It bears its name only once all of it is on the disk.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import sqlite3
import subprocess
import tempfile
import time
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import IO

import psycopg
from psycopg import conninfo
from psycopg.pq import Conninfo

from gateway.database import DatabaseError, lock_for_backup, schema_of
from gateway.sealed_stream import NotWhole, read_header, write_sealed
from gateway.settings import BackupSettings
from gateway.store import sqlite_path
from gateway.vault import Vault

MAGIC = b"simroute backup\n"
FORMAT = 1
PURPOSE = "simroute backup"
SQLITE, POSTGRESQL = "sqlite", "postgresql"
DIRECTORY = "backups"
"""Beside a SQLite database, where the settings name no other place."""

PAGES_A_STEP = 256
STEP_PAUSE_SECONDS = 0.005
"""After each megabyte: whoever commits meanwhile shares the disk."""

LOOK_SECONDS = 0.5
INSTRUCTIONS_A_LOOK = 1_000_000
"""SQLite's, between two looks whether to stop."""

READ_BYTES = 1 << 18
SYNC_BYTES = 8 << 20
"""Written at once at most: the disk must not have to take a whole backup before it takes the next commit."""

SPARE_BYTES = 64 << 20
LEFT_OVER_SECONDS = 86_400.0
LOCK_WAIT = "30s"

_PARTIAL = ".simroute-"

ShouldStop = Callable[[], bool]
Content = Generator[bytes, None, None]


class BackupError(Exception):
    """A backup can't be taken, read or restored; the message says why and what to do."""


class Stopped(BackupError):
    """It was to be given up before it was done."""


class Busy(BackupError):
    """Another one of the same database is being taken."""


@dataclass(frozen=True, slots=True)
class Header:
    """What anybody may read of a backup. `key` is the fingerprint of the key it is sealed under."""

    format: int
    kind: str
    schema: str
    key: str
    at: float


@dataclass(frozen=True, slots=True)
class Backup:
    """One file. Only reading it to its end shows that it is whole."""

    path: Path
    header: Header
    size: int


def kind_of(url: str) -> str:
    """Which kind of database an address is of; a backup is restored into its own kind."""
    return SQLITE if url.startswith("sqlite:") else POSTGRESQL


def go_on() -> bool:
    """Never to be given up."""
    return False


# Where, which


def place(settings: BackupSettings, url: str) -> Path | None:
    """Where backups of a database go; None where nobody said."""
    if settings.directory:
        return Path(settings.directory)
    return sqlite_path(url).parent / DIRECTORY if url.startswith("sqlite:") else None


def listed(directory: Path) -> list[Backup]:
    """The backups in a directory, newest first. Files that are none are passed over."""
    found = []
    for path in directory.glob("simroute-*.backup"):
        with suppress(BackupError, OSError):
            found.append(read(path))
    return sorted(found, key=lambda one: (one.header.at, one.path.name), reverse=True)


def read(path: Path) -> Backup:
    """A file's header. Raises BackupError where it is no backup this version reads, OSError."""
    with path.open("rb") as file:
        try:
            facts = json.loads(read_header(file, MAGIC))
            header = Header(facts["format"], facts["kind"], facts["schema"], facts["key"], float(facts["at"]))
        except (NotWhole, ValueError, KeyError, TypeError):
            raise BackupError(f"{path} is not a backup of simroute, or its beginning is damaged") from None
    if header.format != FORMAT:
        raise BackupError(f"{path} was written by a newer version of simroute: restore it with that")
    return Backup(path, header, path.stat().st_size)


def fingerprint(key: bytes) -> str:
    """Names a derived key without telling of it."""
    return sha256(b"fingerprint" + key).hexdigest()[:16]


def keys(vault: Vault) -> Mapping[str, bytes]:
    """The keys of the ring that backups are sealed under, by fingerprint, newest first."""
    return {fingerprint(key): key for key in vault.derived_keys(PURPOSE)}


# Keeping


def superfluous(times: Sequence[float], daily: int, weekly: int) -> set[float]:
    """Times of backups that need not be kept: the last of each of the newest days and ISO weeks with any are."""
    days: dict[object, float] = {}
    weeks: dict[object, float] = {}
    for at in sorted(times, reverse=True):
        day = datetime.fromtimestamp(at, UTC).date()
        days.setdefault(day, at)
        weeks.setdefault(day.isocalendar()[:2], at)
    return set(times) - {*list(days.values())[:daily], *list(weeks.values())[:weekly]}


def prune(directory: Path, vault: Vault, daily: int, weekly: int) -> list[Path]:
    """Deletes what need not be kept; those of other databases, which are sealed under keys we lack, are let alone."""
    ours = [one for one in listed(directory) if one.header.key in keys(vault)]
    gone = superfluous([one.header.at for one in ours], daily, weekly)
    paths = [one.path for one in ours if one.header.at in gone]
    for path in paths:
        path.unlink(missing_ok=True)
    _sweep(directory)
    return paths


def _sweep(directory: Path) -> None:
    """Removes what processes that died in the middle have left."""
    for path in directory.glob(f"{_PARTIAL}*"):
        with suppress(OSError):  # gone meanwhile, or somebody else's
            if _is_left_over(path):
                shutil.rmtree(path, ignore_errors=True)


def _is_left_over(path: Path) -> bool:
    """Whether nobody writes there any more. Raises OSError where that can't be looked at."""
    is_old = time.time() - path.stat().st_mtime > LEFT_OVER_SECONDS
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return is_old or any(path.iterdir())  # one that is empty may be about to be locked
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return is_old
    finally:
        os.close(descriptor)


# Taking


def take(
    url: str, vault: Vault, directory: Path, at: float, *, tools: str = "", should_stop: ShouldStop = go_on
) -> Backup:
    """Writes a backup of a database, which may be in use, into a directory, made where there is none. Blocks.

    `tools` is the directory of `pg_dump`; empty, it is looked for on PATH. Raises BackupError, Busy where somebody else
    is at it; then nothing was written.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with closing(lock_for_backup(url)) as lock, private_directory(directory) as partial:
            if lock.is_lost():
                raise BackupError("PostgreSQL does not answer")
            _sweep(directory)
            is_over = _either(should_stop, lock.is_lost)
            kind = kind_of(url)
            named, key = next(iter(keys(vault).items()))  # the newest
            header = Header(FORMAT, kind, schema_of(url), named, at)
            content = _of_sqlite if kind == SQLITE else _of_postgresql
            with (
                (partial / "sealed").open("xb") as file,
                closing(content(url, partial, tools, is_over)) as plain,  # which ends a tool at work, too
            ):
                write_sealed(file, MAGIC, json.dumps(asdict(header)).encode(), key, _synced(file, plain))
                file.flush()
                os.fsync(file.fileno())
            return read(_name(partial / "sealed", directory, at))
    except DatabaseError as error:
        raise Busy(str(error)) from None
    except Stopped:
        if should_stop():
            raise
        raise BackupError("the connection that kept others from taking one was lost") from None
    except sqlite3.Error as error:
        if should_stop():
            raise Stopped("given up") from None
        raise BackupError(f"the database can't be copied: {error}") from None
    except psycopg.Error as error:
        raise BackupError(f"PostgreSQL does not answer: {type(error).__name__}") from None
    except OSError as error:
        raise BackupError(f"the backup can't be written to {directory}: {error.strerror or error}") from None


@contextmanager
def private_directory(parent: Path) -> Iterator[Path]:
    """A directory only its owner sees, whose files only its owner can read; gone afterwards, with all in it.

    Locked for as long as the process lives, and before anything is written there, so that others see what was left.
    """
    path = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=parent))
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):  # a file system without locks: what is left is known by its age
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(descriptor)


def _either(one: ShouldStop, other: ShouldStop) -> ShouldStop:
    return lambda: one() or other()


def _name(written: Path, directory: Path, at: float) -> Path:
    """Gives a file that is on the disk its name."""
    stem = f"simroute-{datetime.fromtimestamp(at, UTC):%Y%m%dT%H%M%SZ}"
    path, number = directory / f"{stem}.backup", 1
    while path.exists():
        number += 1
        path = directory / f"{stem}-{number}.backup"
    move(written, path)
    return path


def move(written: Path, path: Path) -> None:
    """Renames a file so that it is where it should be after a power cut, too, and only its owner can read it."""
    written.chmod(0o600)
    written.rename(path)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _synced(file: IO[bytes], plain: Iterator[bytes]) -> Iterator[bytes]:
    """The same, while what was written of it so far goes to the disk bit by bit."""
    done = 0
    for piece in plain:
        yield piece
        if file.tell() - done >= SYNC_BYTES:
            file.flush()
            os.fdatasync(file.fileno())
            done = file.tell()


def _of_sqlite(url: str, partial: Path, _tools: str, should_stop: ShouldStop) -> Content:
    source, copy = sqlite_path(url), partial / "copy"
    size, free = source.stat().st_size, shutil.disk_usage(partial).free
    if free < 2 * size + SPARE_BYTES:  # the copy and, at worst, a backup as big
        needed = (2 * size + SPARE_BYTES) >> 20
        raise BackupError(f"too little room on the disk: {free >> 20} MiB are free, {needed} MiB needed")
    _copy(source, copy, should_stop)
    compress = zlib.compressobj(1)
    with copy.open("rb") as file:
        while piece := file.read(READ_BYTES):
            if should_stop():
                raise Stopped("given up")
            yield compress.compress(piece)
    yield compress.flush()


def _copy(source_path: Path, path: Path, should_stop: ShouldStop) -> None:
    def pause(_status: int, _remaining: int, _total: int) -> None:
        if should_stop():
            raise Stopped("given up")
        time.sleep(STEP_PAUSE_SECONDS)

    with (
        closing(sqlite3.connect(f"file:{source_path}?mode=rw", uri=True, isolation_level=None)) as source,
        closing(sqlite3.connect(path, isolation_level=None)) as target,
    ):
        path.chmod(0o600)
        # A transaction of ours holds one moment: without it the copy would begin anew with each commit of the others.
        source.execute("begin")
        source.execute("select count(*) from sqlite_master").fetchone()
        target.execute("pragma journal_mode = off")
        target.execute("pragma synchronous = off")
        source.backup(target, pages=PAGES_A_STEP, progress=pause)
        target.execute("pragma journal_mode = delete")  # one file, without a log beside it
        target.set_progress_handler(should_stop, INSTRUCTIONS_A_LOOK)
        check(target)


def check(connection: sqlite3.Connection) -> None:
    """Raises BackupError where SQLite finds the database damaged."""
    if connection.execute("pragma integrity_check(1)").fetchone() != ("ok",):
        raise BackupError("the database is damaged (pragma integrity_check): keep older backups, and see to the disk")


def _of_postgresql(url: str, partial: Path, tools: str, should_stop: ShouldStop) -> Content:
    options = ("--format=custom", "--no-owner", "--no-privileges", f"--lock-wait-timeout={LOCK_WAIT}")
    with running_tool("pg_dump", options, url, partial, tools, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None  # noqa: S101 — for the type checker
        output = process.stdout.fileno()
        looks = select.poll()  # which takes any descriptor, as `select` does not
        looks.register(output, select.POLLIN | select.POLLHUP)
        while True:
            # It may say nothing for long, while it waits for a lock: whoever wants to stop does not wait with it.
            is_ready = looks.poll(LOOK_SECONDS * 1000)
            if should_stop():
                raise Stopped("given up")
            if is_ready:
                piece = os.read(output, READ_BYTES)
                if not piece:
                    return
                yield piece


@contextmanager
def running_tool(
    name: str,
    options: Sequence[str],
    url: str,
    partial: Path,
    tools: str,
    *,
    stdin: int = subprocess.DEVNULL,
    stdout: int = subprocess.DEVNULL,
) -> Iterator[subprocess.Popen[bytes]]:
    """One of PostgreSQL's own tools at work on a database. Raises BackupError where it fails; ended with the block.

    The address, which holds a password, goes by the environment, which only we can read, and not into the list of
    processes.
    """
    path = shutil.which(name, path=tools or None)
    if path is None:
        where = f"in {tools}" if tools else "on PATH"
        raise BackupError(
            f"there is no {name} {where}: install PostgreSQL's client tools, of the server's version or newer, or name"
            " their directory in backup.postgresql_tools"
        )
    errors = partial / "errors"
    address, variables = _address(url)
    command = [path, *options, "--no-password", f"--dbname={address}"]
    environment = {**os.environ, **variables, "LC_ALL": "C"}
    with errors.open("xb") as complaints:
        process = subprocess.Popen(  # noqa: S603 — no shell, and no argument from outside
            command, stdin=stdin, stdout=stdout, stderr=complaints, env=environment
        )
    try:
        yield process
        if process.stdin is not None:
            process.stdin.close()
        if process.wait() != 0:
            raise BackupError(f"{name} failed: {_complaint(errors)}")
    except BrokenPipeError:
        process.wait()
        raise BackupError(f"{name} failed: {_complaint(errors)}") from None
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()


def _address(url: str) -> tuple[str, Mapping[str, str]]:
    """What a tool is told of an address: by argument the database and what has no variable, by variables the rest."""
    variables = {option.keyword.decode(): option.envvar.decode() for option in Conninfo.get_defaults() if option.envvar}
    given = {name: str(value) for name, value in conninfo.conninfo_to_dict(url).items()}
    shown = {name: value for name, value in given.items() if name == "dbname" or name not in variables}
    shown.pop("sslpassword", None)  # has no variable, and must not be seen
    return conninfo.make_conninfo(**shown), {variables[name]: given[name] for name in given.keys() & variables.keys()}


def _complaint(errors: Path) -> str:
    """The first line that names an error: those after it tend to quote rows."""
    lines = errors.read_text(errors="replace").splitlines()
    named = [line for line in lines if "error:" in line] or lines or ["it said nothing"]
    hint = " (set backup.postgresql_tools to the server's version)" if "version mismatch" in named[0] else ""
    return named[0][:300] + hint
