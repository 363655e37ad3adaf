"""`simroute backup`, `backups` and `restore`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import click

from gateway import backups, restoring
from gateway.backups import Backup
from gateway.database import EMBEDDED_URL, SECRETS_FILE, find_secrets
from gateway.store import sqlite_path
from gateway.terminal import Context, common, moment, show, tell
from gateway.vault import Secrets, Vault, read_secrets

COLUMNS = ("file", "taken", "kind", "schema", "bytes", "key")
_directory = click.Path(path_type=Path, file_okay=False)


@click.command("backup")
@click.option("--to", "where", type=_directory, help="Directory to write it to, instead of the settings' own.")
@common
@click.pass_obj
def take_backup(context: Context, where: Path | None) -> None:
    """Write a backup of the database, which may be in use. The secrets are not in it: keep them apart."""
    url, settings = _own_url(context.environment), context.settings().gateway.backup
    if backups.kind_of(url) == backups.SQLITE and not sqlite_path(url).exists():
        raise click.ClickException(f"there is no database {sqlite_path(url)}")
    vault = Vault(_secrets(context.environment, url))
    taken = backups.take(url, vault, where or _place(context, url), time.time(), tools=settings.postgresql_tools)
    words = f"written: {taken.path} ({taken.size} bytes). The secrets are not in it: keep them apart"
    tell(context, _facts(taken, vault), words)


@click.command("backups")
@click.option("--in", "where", type=_directory, help="Directory to look in, instead of the settings' own.")
@common
@click.pass_obj
def list_backups(context: Context, where: Path | None) -> None:
    """The backups there are, newest first, and whether we have the key of each."""
    url = _own_url(context.environment)
    vault = Vault(_secrets(context.environment, url))
    found = backups.listed(where or _place(context, url))
    show(context, [_facts(one, vault) for one in found], COLUMNS)


@click.command("restore")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--to", "target", required=True, help="Path of a new SQLite file, or address of an empty database.")
@common
@click.pass_obj
def restore_backup(context: Context, file: Path, target: str) -> None:
    """Restore a backup into a new database, and verify its books."""
    url = target if "://" in target else f"sqlite:///{quote(target)}"
    if not url.startswith(("sqlite:///", "postgresql://", "postgres://")):
        raise click.ClickException("--to is a path, or an address that begins with sqlite:/// or postgresql://")
    tools = context.settings().gateway.backup.postgresql_tools
    secrets = _secrets(context.environment, url, _own_url(context.environment))
    result = restoring.restore(file, url, secrets, time.time(), tools=tools)
    facts = {
        "taken": moment(result.backup.header.at),
        "ok": not result.problems,
        "problems": list(result.problems),
        "notices_given_up": result.notices,
        "recharges_off": result.recharges,
    }
    click.echo(json.dumps(facts) if context.is_json else "\n".join(_sentences(result, url)))
    if result.problems:
        sys.exit(1)


def _sentences(result: restoring.Restored, url: str) -> list[str]:
    lines = [f"restored as of {moment(result.backup.header.at)} UTC"]
    if result.notices:
        lines.append(f"webhooks that waited then are given up, since they may have been sent: {result.notices}")
    if result.recharges:
        lines.append(f"recharges through the payment hook are switched off, since they may be paid: {result.recharges}")
    if backups.kind_of(url) == backups.SQLITE and not (sqlite_path(url).parent / SECRETS_FILE).exists():
        lines.append(f"before it is served, put the secrets.env that belongs to it into {sqlite_path(url).parent}")
    return [*lines, "ledger verify:", *(result.problems or ["ok"])]


def _own_url(environment: Mapping[str, str]) -> str:
    return environment.get("DATABASE_URL", "").strip() or EMBEDDED_URL


def _secrets(environment: Mapping[str, str], *urls: str) -> Secrets:
    """Those of the environment, with what the first of these databases that has a file of them adds."""
    files = [sqlite_path(url).parent / SECRETS_FILE for url in urls if backups.kind_of(url) == backups.SQLITE]
    path = next((file for file in files if file.exists()), None)
    return read_secrets(environment) if path is None else find_secrets(path, environment)


def _place(context: Context, url: str) -> Path:
    directory = backups.place(context.settings().gateway.backup, url)
    if directory is None:
        raise click.ClickException("set backup.directory in gateway.toml, or name a directory")
    return directory


def _facts(backup: Backup, vault: Vault) -> dict[str, object]:
    header = backup.header
    return {
        "file": str(backup.path),
        "taken": moment(header.at),
        "kind": header.kind,
        "schema": header.schema,
        "bytes": backup.size,
        "key": "known" if header.key in backups.keys(vault) else "unknown",
    }
