"""`simroute webhook`: what a person sees, and a sentence for each mistake."""

from __future__ import annotations

import http.server
import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.compat.test_rest_webhooks import GATEWAY
from tests.harness import config_directory, environment
from tests.shell import Shell


class _Hook(http.server.BaseHTTPRequestHandler):
    """Takes everything, except under `/500`."""

    received: list[tuple[dict[str, str], Any]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.received.append((dict(self.headers), json.loads(body)))
        self.send_response(500 if self.path == "/500" else 204)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def hook() -> Iterator[http.server.ThreadingHTTPServer]:
    _Hook.received = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Hook) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def shell(tmp_path: Path, sqlite_url: str) -> Shell:
    found = Shell(config_directory(tmp_path, gateway=GATEWAY), environment(sqlite_url))
    found.ok("account", "create", "alice")
    found.ok("account", "create", "bob")
    return found


def tell(shell: Shell, sql: str, **values: Any) -> None:
    with closing(sqlite3.connect(shell.values["DATABASE_URL"].removeprefix("sqlite:///"))) as connection:
        connection.execute(sql, values)
        connection.commit()


def give_up(shell: Shell, count: int) -> None:
    """Notices of alice's that were given up."""
    tell(shell, "insert into api_keys (account_id, digest, hint, created_at) values (1, 'd', 'h', 1)")
    tell(
        shell,
        "insert into activations (id, account_id, key_id, service, country, operator, status, price, currency,"
        " opened_at, fingerprint, config_version) select 7, 1, max(id), 'tg', 6, '', 'received', 1, 'USD', 1, '', ''"
        " from api_keys",
    )
    for number in range(1, count + 1):
        tell(
            shell,
            "insert into messages (id, activation_id, identity, round, code_sealed, text_sealed, received_at,"
            " is_shown) values (:id, 7, :id, 1, 'x', 'x', 1, 1)",
            id=number,
        )
        tell(
            shell,
            "insert into notices (id, account_id, activation_id, message_id, format, state, tries, next_at,"
            " created_at, ended_at, last_result) values (:id, 1, 7, :id, 'native', 'dead', 17, 1, :at, 9e8,"
            " 'http 500')",
            id=number,
            at=number * 86_400,
        )


def test_an_address_is_set_in_a_form_and_listed_without_itself(shell: Shell) -> None:
    assert shell.json("webhook", "list") == []
    set_ = ("webhook", "set", "alice", "https://example.com/hook?token=4711")
    assert shell.ok(*set_, "--format", "standard") == "alice is told by standard notices\n"
    (row,) = shell.json("webhook", "list")
    assert row == {
        "account": "alice", "format": "standard", "state": "active", "since": None, "failures": 0,
        "last_failure": None, "secret": "own, version 1", "pending": 0, "dead": 0,
    }  # fmt: skip
    assert "4711" not in shell.ok("webhook", "list")
    assert "ftp" not in shell.refused("webhook", "set", "alice", "ftp://example.com/")
    assert "no address" in shell.refused("webhook", "set", "alice", "https://")
    assert "no address" in shell.refused("webhook", "set", "alice", "https://example.com/<script>")
    assert "too long" in shell.refused("webhook", "set", "alice", "https://example.com/" + "x" * 300)
    assert "there is no account carol" in shell.refused("webhook", "set", "carol", "https://example.com/")


def test_a_secret_is_shown_and_rotated(shell: Shell) -> None:
    first = shell.json("webhook", "secret", "alice")
    assert first["secret"].startswith("whsec_")
    rotated = shell.json("webhook", "rotate", "alice", "--grace", "3600")
    assert (rotated["version"], rotated["former_until"] is not None) == (2, True)
    assert shell.json("webhook", "secret", "alice") == rotated
    assert rotated["secret"] != first["secret"] != shell.json("webhook", "secret", "bob")["secret"]
    assert "The former one signs as well until" in shell.ok("webhook", "secret", "alice")
    assert "the grace is" in shell.refused("webhook", "rotate", "alice", "--grace", "-1")
    tell(shell, "insert into webhook_secrets (account_id, version) values (2, 0)")
    said = shell.ok("webhook", "secret", "bob")
    assert "WEBHOOK_SECRET" in said
    assert shell.values["WEBHOOK_SECRET"] not in said


def test_a_test_is_sent_and_its_result_told(shell: Shell, hook: http.server.ThreadingHTTPServer) -> None:
    assert "no address is set" in shell.refused("webhook", "test", "alice")
    base = f"http://127.0.0.1:{hook.server_address[1]}"
    shell.ok("webhook", "set", "alice", base + "/hook", "--format", "native")
    found = shell.json("webhook", "test", "alice")
    assert (found["delivered"], found["result"], found["status"]) == (True, "http 204", 204)
    headers, content = _Hook.received[0]
    assert (headers["webhook-id"], content["event"]) == (found["id"], "test")
    shell.ok("webhook", "set", "alice", base + "/500")
    result = shell.run("webhook", "test", "alice")
    assert (result.exit_code, "not delivered (http 500)" in result.stdout) == (1, True)
    assert [row["result"] for row in shell.json("webhook", "log", "alice")] == ["http 500", "http 204"]
    assert shell.json("webhook", "log", "bob") == []


def test_what_was_given_up_is_listed_and_sent_again(shell: Shell) -> None:
    shell.ok("webhook", "set", "alice", "https://example.com/hook")
    give_up(shell, 4)
    rows = shell.json("webhook", "notices", "alice", "--state", "dead", "--limit", "2")
    assert [(row["id"], row["activation"], row["tries"], row["result"]) for row in rows] == [
        (4, 7, 17, "http 500"), (3, 7, 17, "http 500"),
    ]  # fmt: skip
    assert shell.json("webhook", "list")[0]["dead"] == 4
    assert shell.json("webhook", "replay", "alice", "1") == {"account": "alice", "replayed": 1}
    assert "has no notice 2" in shell.refused("webhook", "replay", "bob", "2")
    assert "waits to be sent anyway" in shell.refused("webhook", "replay", "alice", "1")
    assert shell.json("webhook", "replay", "alice", "--since", "1970-01-04") == {"account": "alice", "replayed": 2}
    assert [row["id"] for row in shell.json("webhook", "notices", "alice", "--state", "dead")] == [2]
    assert shell.ok("webhook", "replay", "alice") == "1 notices of alice are sent once more\n"
    tell(shell, "update notices set state = 'dead', ended_at = 1")
    tell(shell, "update messages set text_sealed = '' where id < 4")
    assert "the message is deleted" in shell.refused("webhook", "replay", "alice", "1")
    assert shell.json("webhook", "replay", "alice") == {"account": "alice", "replayed": 1}


def test_a_disabled_one_is_enabled(shell: Shell) -> None:
    shell.ok("webhook", "set", "alice", "https://example.com/hook")
    tell(
        shell,
        "insert into webhook_endpoints (account_id, rental_id, failures, disabled_at, last_failure)"
        " values (1, 0, 30, 86400, 'http 410')",
    )
    (row,) = shell.json("webhook", "list")
    assert (row["state"], row["since"], row["last_failure"]) == ("disabled", "1970-01-02 00:00:00", "http 410")
    assert "disabled" in shell.refused("webhook", "replay", "alice")
    assert shell.ok("webhook", "enable", "alice") == "alice gets notices again\n"
    assert shell.json("webhook", "list")[0]["state"] == "active"
