"""`simroute user`: people are let in and kept out, and no password stands on a command line."""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from click.testing import CliRunner, Result

from gateway.app import Gateway
from gateway.cli import main
from gateway.database import open_database
from gateway.guesses import FREE_PER_EMAIL, TooManyGuesses
from gateway.sessions import NotProven, Opened
from tests.harness import config_directory, environment, server

PASSWORD, ANOTHER = "correct horse battery", "staple that was wrong"
ANN = "ann@example.com"


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """Commands set logging up to write to the standard error they were run with."""
    before = logging.getLogger().handlers[:]
    yield
    structlog.reset_defaults()
    logging.getLogger().handlers[:] = before


@dataclass
class Shell:
    """Runs commands on a configuration and a database, and signs in where a server would."""

    directory: Path
    values: Mapping[str, str]

    def run(self, *arguments: str, typed: str = "") -> Result:
        command = ["--config", str(self.directory), *arguments]
        return CliRunner().invoke(main, command, env=dict(self.values), input=typed)

    def ok(self, *arguments: str, typed: str = "") -> str:
        result = self.run(*arguments, typed=typed)
        assert result.exit_code == 0, (arguments, result.output, result.exception)
        assert PASSWORD not in result.output
        return result.stdout

    def refused(self, *arguments: str, typed: str = "") -> str:
        result = self.run(*arguments, typed=typed)
        assert result.exit_code == 1, (arguments, result.output, result.exception)
        assert PASSWORD not in result.output
        return result.stderr

    def json(self, *arguments: str) -> Any:
        return json.loads(self.ok("user", *arguments, "--json"))

    def sign_in(self, password: str = PASSWORD, address: str = "192.0.2.1", ahead_seconds: float = 0.0) -> Opened:
        async def attempt() -> Opened:
            database = open_database(self.values)
            gateway = Gateway(self.directory, self.values, database, lambda: time.time() + ahead_seconds)
            try:
                return await gateway.sessions.sign_in(ANN, password, address)
            finally:
                await gateway.stop()

        return asyncio.run(attempt())


@pytest.fixture
def shell(tmp_path: Path, sqlite_url: str) -> Shell:
    found = Shell(config_directory(tmp_path), environment(sqlite_url))
    found.ok("account", "create", "alice")
    return found


def test_a_password_is_typed_twice_or_piped_in(shell: Shell) -> None:
    typed = f"{PASSWORD}\n{PASSWORD}\n"
    said = shell.ok("user", "add", "Ann@Example.com", "--role", "reseller", "--account", "alice", typed=typed)
    assert said == "ann@example.com can sign in for alice\n"
    assert shell.sign_in().person.account_name == "alice"
    said = shell.ok("user", "add", "ole@example.com", "--role", "operator", "--password-stdin", typed=f"{PASSWORD}\n")
    assert said == "ole@example.com can sign in as operator\n"
    rows = shell.json("list")
    assert [(row["email"], row["role"], row["account"], row["disabled"]) for row in rows] == [
        (ANN, "reseller", "alice", None), ("ole@example.com", "operator", None, None)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "typed", "said"),
    [
        ((ANN, "--role", "operator"), "short\n", "12 characters"),
        ((ANN, "--role", "operator"), "", "12 characters"),
        ((ANN, "--role", "operator", "--account", "alice"), PASSWORD, "for none"),
        ((ANN, "--role", "reseller"), PASSWORD, "acts for an account"),
        ((ANN, "--role", "reseller", "--account", "nobody"), PASSWORD, "no account nobody"),
        (("ann", "--role", "operator"), PASSWORD, "no e-mail address"),
    ],
)
def test_who_cannot_be_is_refused_in_a_sentence(
    shell: Shell, arguments: tuple[str, ...], typed: str, said: str
) -> None:
    assert said in shell.refused("user", "add", *arguments, "--password-stdin", typed=typed)
    assert shell.json("list") == []


def test_a_password_on_the_command_line_is_no_password(shell: Shell) -> None:
    result = shell.run("user", "add", ANN, "--role", "operator", "--password", PASSWORD)
    assert result.exit_code == 2
    result = shell.run("user", "password", ANN, PASSWORD)
    assert result.exit_code == 2


def test_people_are_kept_out_and_let_in_again(shell: Shell) -> None:
    shell.ok("user", "add", ANN, "--role", "operator", "--password-stdin", typed=PASSWORD)
    assert "the last operator" in shell.refused("user", "disable", ANN)
    assert shell.ok("user", "disable", "ANN@example.com", "--force") == f"{ANN} can't sign in\n"
    assert shell.json("list")[0]["disabled"] is not None
    with pytest.raises(NotProven):
        shell.sign_in()
    assert shell.json("enable", ANN)["disabled"] is None
    shell.sign_in()
    for command in ("disable", "enable"):
        assert "there is no user" in shell.refused("user", command, "nobody@example.com")


def test_a_new_password_takes_the_place_of_the_old(shell: Shell) -> None:
    shell.ok("user", "add", ANN, "--role", "operator", "--password-stdin", typed=PASSWORD)
    shell.ok("user", "password", ANN, "--password-stdin", typed=ANOTHER)
    with pytest.raises(NotProven):
        shell.sign_in()
    shell.sign_in(ANOTHER)
    assert "there is no user" in shell.refused(
        "user", "password", "nobody@example.com", "--password-stdin", typed=PASSWORD
    )


@pytest.mark.parametrize("command", [("enable",), ("password", "--password-stdin")])
def test_an_operator_ends_a_pause_after_wrong_passwords(shell: Shell, command: tuple[str, ...]) -> None:
    shell.ok("user", "add", ANN, "--role", "operator", "--password-stdin", typed=PASSWORD)
    for place in range(FREE_PER_EMAIL + 3):
        with pytest.raises((NotProven, TooManyGuesses)):
            shell.sign_in(ANOTHER, f"192.0.2.{place}")
    with pytest.raises(TooManyGuesses):
        shell.sign_in()
    shell.ok("user", command[0], ANN, *command[1:], typed=PASSWORD)
    shell.sign_in()


@pytest.mark.parametrize("command", [("enable",), ("password", "--password-stdin")])
def test_a_pause_ends_where_the_person_has_signed_in_before_too(shell: Shell, command: tuple[str, ...]) -> None:
    shell.ok("user", "add", ANN, "--role", "operator", "--password-stdin", typed=PASSWORD)
    shell.sign_in()
    for _ in range(FREE_PER_EMAIL + 1):
        with pytest.raises(NotProven):
            shell.sign_in(ANOTHER, ahead_seconds=600.0)  # the pause lasts as long as the test takes
    with pytest.raises(TooManyGuesses):
        shell.sign_in()
    shell.ok("user", command[0], ANN, *command[1:], typed=PASSWORD)
    shell.sign_in()


def test_a_running_server_ends_the_session_of_whoever_is_disabled(shell: Shell, tmp_path: Path) -> None:
    shell.ok("user", "add", ANN, "--role", "reseller", "--account", "alice", "--password-stdin", typed=PASSWORD)
    with server(shell.directory, shell.values, tmp_path / "log") as running, httpx.Client(base_url=running.base) as web:
        opened = web.post("/api/v1/sessions", json={"email": ANN, "password": PASSWORD})
        assert opened.status_code == 201
        headers = {"authorization": f"Bearer {opened.json()['token']}"}
        assert web.get("/balance", headers=headers).status_code == 200
        shell.ok("user", "disable", ANN)
        disabled_at = time.monotonic()
        while web.get("/balance", headers=headers).status_code == 200:
            assert time.monotonic() < disabled_at + 3
            time.sleep(0.05)
        assert web.get("/balance", headers=headers).json()["code"] == "bad_session"
        assert running.stop() == 0
    written = (tmp_path / "log").read_text()
    assert "session.opened" in written
    assert not any(secret in written for secret in (PASSWORD, opened.json()["token"], ANN))


def test_the_database_holds_no_password(shell: Shell, tmp_path: Path) -> None:
    shell.ok("user", "add", ANN, "--role", "operator", "--password-stdin", typed=PASSWORD)
    with sqlite3.connect(tmp_path / "simroute.db") as connection:
        (kept,) = connection.execute("select password_hash from users").fetchone()
    connection.close()
    assert kept.startswith("$argon2id$")
