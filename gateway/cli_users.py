"""`simroute user`: who can sign in. A password is asked for or read from standard input, never an argument."""

from __future__ import annotations

import sys
import time
from typing import Any

import click

from gateway import guesses, manage, passwords, users
from gateway.database import Database
from gateway.manage import COMMAND_LINE
from gateway.passwords import Passwords
from gateway.store import Row, Tx
from gateway.terminal import Context, common, moment, show, tell, with_database
from gateway.users import Role

_from_stdin = click.option("--password-stdin", "is_piped", is_flag=True, help="Read it from standard input.")


@click.group("user")
def users_group() -> None:
    """People who can sign in to the JSON API: operators, and resellers with an account."""


@users_group.command("add")
@click.argument("email")
@click.option("--role", type=click.Choice([role.value for role in Role]), required=True, help="What the person may do.")
@click.option("--account", help="The account a reseller acts for.")
@_from_stdin
@common
@click.pass_obj
def user_add(context: Context, email: str, role: str, account: str | None, is_piped: bool) -> None:
    """Let somebody sign in."""
    hashed = _hashed(is_piped=is_piped)

    def add(tx: Tx) -> Row:
        return manage.add_user(tx, COMMAND_LINE, email, hashed, Role(role), account, time.time())

    row = with_database(context, lambda database: database.store.run(add))
    whom = f"for {row['account']}" if row["account"] else "as operator"
    tell(context, _facts(row), f"{row['email']} can sign in {whom}")


@users_group.command("list")
@common
@click.pass_obj
def user_list(context: Context) -> None:
    """Everybody, by e-mail."""
    found = with_database(context, lambda database: database.store.read(users.overview))
    show(context, [_facts(row) for row in found], ("id", "email", "role", "account", "created", "disabled"))


@users_group.command("disable")
@click.argument("email")
@click.option("--force", "is_forced", is_flag=True, help="Also the last operator.")
@common
@click.pass_obj
def user_disable(context: Context, email: str, is_forced: bool) -> None:
    """Keep somebody out. A running server ends the person's sessions within a second; the account's keys go on."""

    def disable(tx: Tx) -> Row:
        user_id = users.by_email(tx, email)["id"]
        return manage.switch_user(tx, COMMAND_LINE, user_id, time.time(), is_disabled=True, is_forced=is_forced)

    row = with_database(context, lambda database: database.store.run(disable))
    tell(context, _facts(row), f"{row['email']} can't sign in")


@users_group.command("enable")
@click.argument("email")
@common
@click.pass_obj
def user_enable(context: Context, email: str) -> None:
    """Let somebody in again, at once: pauses after wrong passwords are forgotten."""

    async def enable(database: Database) -> Row:
        def unit(tx: Tx) -> Row:
            row = users.by_email(tx, email)
            guesses.forget(tx, database.vault, row["email"])
            return manage.switch_user(tx, COMMAND_LINE, row["id"], time.time(), is_disabled=False)

        return await database.store.run(unit)

    row = with_database(context, enable)
    tell(context, _facts(row), f"{row['email']} can sign in")


@users_group.command("password")
@click.argument("email")
@_from_stdin
@common
@click.pass_obj
def user_password(context: Context, email: str, is_piped: bool) -> None:
    """Give somebody a new password. Ends the person's sessions within a second."""
    hashed = _hashed(is_piped=is_piped)

    async def change(database: Database) -> Row:
        def unit(tx: Tx) -> Row:
            row = users.by_email(tx, email)
            guesses.forget(tx, database.vault, row["email"])
            manage.set_password(tx, COMMAND_LINE, row, hashed, time.time())
            return row

        return await database.store.run(unit)

    row = with_database(context, change)
    tell(context, _facts(row), f"{row['email']} has a new password")


def _hashed(*, is_piped: bool) -> str:
    """The hash of the password that is typed or piped in. Raises PasswordError."""
    if is_piped:
        password = sys.stdin.readline().rstrip("\r\n")
    else:
        password = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    passwords.check(password)
    return Passwords().hash_here(password)


def _facts(row: Row) -> dict[str, Any]:
    return {
        "id": row["id"],
        "email": row["email"],
        "role": row["role"],
        "account": row["account"],
        "created": moment(row["created_at"]),
        "disabled": moment(row["disabled_at"]),
    }
