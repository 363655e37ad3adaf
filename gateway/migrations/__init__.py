"""Schema changes, applied by `upgrade` at start and by `simroute db upgrade`. Old and new code both live with each."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

HERE = Path(__file__).parent
LATEST = "0024"


def is_older(revision: str) -> bool:
    """Whether a schema is to be brought up to date: one that this program does not know was made by a newer program,
    beside which it goes on while processes are replaced one after the other."""
    return not revision or (revision in known() and revision != LATEST)


def sqlalchemy_url(url: str) -> str:
    """The same address, naming the driver SQLAlchemy shall use."""
    for prefix in ("postgresql://", "postgres://"):
        if url.startswith(prefix):
            return "postgresql+psycopg://" + url.removeprefix(prefix)
    return url


def upgrade(url: str) -> None:
    """Brings the schema up to date; does nothing where it is. Safe to run by several processes at once.

    Raises ValueError where a newer version has been at it, psycopg.Error, sqlite3.Error.
    """
    from alembic import command  # takes a third of a second to import: only when there is something to do
    from alembic.config import Config
    from alembic.util.exc import CommandError
    from sqlalchemy.exc import DBAPIError

    config = Config()
    config.set_main_option("script_location", str(HERE))
    config.set_main_option("sqlalchemy.url", sqlalchemy_url(url).replace("%", "%%"))
    try:
        command.upgrade(config, "head")
    except CommandError:
        raise ValueError(
            "its schema is of a newer simroute: run that version, or restore a backup of before the update"
        ) from None
    except DBAPIError as error:
        if error.orig is None:
            raise
        raise error.orig from None


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
