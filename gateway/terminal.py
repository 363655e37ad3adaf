"""What every command of `simroute` shares: where it starts from, how it prints, what it may run against."""

from __future__ import annotations

import asyncio
import errno
import json
import sqlite3
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from gateway import logs
from gateway.accounts import AccountError
from gateway.app import Gateway, read_settings
from gateway.backups import BackupError
from gateway.database import Database, DatabaseError, open_database
from gateway.errors import Unavailable
from gateway.money import MoneyError
from gateway.settings import Settings, SettingsError
from gateway.vault import SecretsError

T = TypeVar("T")


@dataclass(frozen=True)
class Context:
    """What every command starts from."""

    directory: Path
    environment: Mapping[str, str]
    is_json: bool

    def settings(self) -> Settings:
        return read_settings(self.directory, self.environment)


class Group(click.Group):
    """Turns what a person can put right into one sentence and status 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SettingsError as error:
            raise click.ClickException("\n".join(error.problems)) from None
        except (AccountError, BackupError, DatabaseError, SecretsError, MoneyError, ValueError) as error:
            raise click.ClickException(str(error)) from None
        except Unavailable as error:
            raise click.ClickException(f"the database does not answer{_why(error)}; nothing was done") from None
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise  # nobody reads on: click ends without a word
            where = f"{error.filename}: " if error.filename else ""
            raise click.ClickException(f"{where}{error.strerror or type(error).__name__}") from None


def _why(error: Unavailable) -> str:
    """What SQLite says, which is about the file: full, locked, read-only. PostgreSQL may quote what was written."""
    cause = error.__cause__
    return f" ({cause})" if isinstance(cause, sqlite3.OperationalError) else ""


def common(function: Callable[..., Any]) -> Callable[..., Any]:
    """Lets `--config` and `--json` stand behind the command as well, where most people put them."""

    def remember(ctx: click.Context, parameter: click.Parameter, value: Any) -> None:
        if value:
            known: Context = ctx.obj
            directory = value if parameter.name == "directory" else known.directory
            ctx.obj = Context(directory, known.environment, known.is_json or parameter.name == "is_json")

    directory = click.Path(path_type=Path)
    for option in (
        click.option("--config", "directory", type=directory, expose_value=False, callback=remember, help="As above."),
        click.option("--json", "is_json", is_flag=True, expose_value=False, callback=remember, help="As above."),
    ):
        function = option(function)
    return function


def show(context: Context, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Rows as an aligned table, or as JSON."""
    if context.is_json:
        click.echo(json.dumps([dict(row) for row in rows], ensure_ascii=False))
        return
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(line[place]) for line in [list(columns), *cells]) for place in range(len(columns))]
    for line in [[column.upper() for column in columns], *cells]:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def complain(sentence: str) -> None:
    """What a person should know, apart from the result."""
    click.echo(sentence, err=True)


def tell(context: Context, facts: Mapping[str, Any], sentence: str) -> None:
    """One result, as a sentence or as JSON."""
    click.echo(json.dumps(dict(facts), ensure_ascii=False) if context.is_json else sentence)


def with_database(context: Context, work: Callable[[Database], Awaitable[T]]) -> T:
    """Runs something against the database, and closes it."""

    async def run() -> T:
        database = open_database(context.environment, tell=complain)
        try:
            return await work(database)
        finally:
            await database.store.close()

    return asyncio.run(run())


def moment(at: float | None) -> str | None:
    return None if at is None else time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(at))


def with_gateway(context: Context, work: Callable[[Gateway], Awaitable[T]]) -> T:
    """Runs something with every part wired up, but no loop running."""
    logs.configure("error", "auto")

    async def run(database: Database) -> T:
        gateway = Gateway(context.directory, context.environment, database)
        try:
            return await work(gateway)
        finally:
            await gateway.stop()

    return with_database(context, run)
