"""Schema changes, applied by `upgrade` at start and by `simroute db upgrade`. Old and new code both live with each."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alembic.config import Config

HERE = Path(__file__).parent
LATEST = "0025"

TRY_SECONDS = 45.0
TRY_PAUSE_SECONDS = 3.0
"""How long, and how often, tables are tried for that somebody else uses. Shorter than a supervisor waits for a process
that starts."""

_WAITS = (
    "the schema is to be updated, and a table that changes is in use (by a backup, a report or a forgotten transaction,"
    f" see pg_stat_activity). Trying for {TRY_SECONDS:.0f} seconds; the other processes go on meanwhile"
)
_GIVEN_UP = (
    f"its schema could not be updated in {TRY_SECONDS:.0f} seconds: a table that changes is in use (by a backup, a"
    " report or a forgotten transaction, see pg_stat_activity). Nothing was changed: start again when that is over"
)


def is_older(revision: str) -> bool:
    """Whether a schema is to be brought up to date: one that this program does not know was made by a newer program,
    beside which it goes on while processes are replaced one after the other."""
    return not revision or (revision in known() and revision != LATEST)


def upgrade(url: str, tell: Callable[[str], None] | None = None) -> None:
    """Brings the schema up to date; does nothing where it is. Safe to run by several processes at once.

    `url` is SQLite's, or anything that libpq takes for an address.

    Where somebody else uses a table it is tried again, and `tell` hears of it. Raises ValueError where that takes too
    long or a newer version has been at it, psycopg.Error, sqlite3.Error.
    """
    until = time.monotonic() + TRY_SECONDS
    is_told = tell is None
    while not _is_upgraded(url):
        if time.monotonic() + TRY_PAUSE_SECONDS > until:
            raise ValueError(_GIVEN_UP)
        if tell is not None and not is_told:
            tell(_WAITS)
            is_told = True
        time.sleep(TRY_PAUSE_SECONDS)


def config(url: str) -> Config:
    """What alembic's commands need for a database."""
    import psycopg
    from alembic.config import Config

    found = Config()
    found.set_main_option("script_location", str(HERE))
    if url.startswith("sqlite:"):
        found.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
    else:
        # By libpq's own reading of the address: SQLAlchemy knows no list of hosts with ports.
        found.attributes["connect"] = partial(psycopg.connect, url)
    return found


def _is_upgraded(url: str) -> bool:
    """Whether it got all the tables it changes; where it did not, it changed nothing."""
    import psycopg
    from alembic import command  # takes a third of a second to import: only when there is something to do
    from alembic.util.exc import CommandError
    from sqlalchemy.exc import DBAPIError

    try:
        command.upgrade(config(url), "head")
    except CommandError:
        raise ValueError(
            "its schema is of a newer simroute: run that version, or restore a backup of before the update"
        ) from None
    except DBAPIError as error:
        if isinstance(error.orig, (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected)):
            return False
        if error.orig is None:
            raise
        raise error.orig from None
    return True


def create_sqlite(path: Path) -> None:
    """An empty database file that only its owner can read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


def sqlite_version(path: Path) -> str:
    """The revision a SQLite file stands at, empty for an empty file."""
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        row = connection.execute("select version_num from alembic_version").fetchone()
    except sqlite3.OperationalError:
        return ""
    finally:
        connection.close()
    return str(row[0]) if row else ""


def known() -> frozenset[str]:
    """Every revision this code can work from: a database at any other was made by a newer version."""
    return frozenset(path.name.partition("_")[0] for path in (HERE / "versions").glob("[0-9]*.py"))
