"""The committed table says what the drivers say; what it is made from is read and counted right."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.conformance.calls import CALLS, GROUPS
from tests.conformance.registry import HERE, Client, clients, read
from tests.conformance.runner import Outcome, _results
from tests.conformance.table import BEGIN, END, FAILS, NONE, SKIPPED, WORKS, between, placed, short, whole
from tests.harness import ROOT

CLIENTS = clients()
DOCS = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
HEAD = '"""A client.\n\npackage: {package}\nfrom: PyPI\npath: /stubs/handler_api.php\ncalls: {calls}\n{more}"""\n'


def driver(tmp_path: Path, calls: str = "balance number", more: str = "", package: str = "some-client") -> Client:
    path = tmp_path / "some_client.py"
    path.write_text(HEAD.format(package=package, calls=calls, more=more))
    return read(path)


def test_there_are_clients_enough() -> None:
    published = [one for one in CLIENTS if one.package]
    fivesim = {one.name for one in published if one.path.startswith("/v1")}
    assert len(published) - len(fivesim) >= 10
    assert len(fivesim) >= 2
    assert {one.source for one in CLIENTS} >= {"PyPI", "npm", "PHP", "Java", "POSIX shell with curl", "C (sockets)"}


def test_the_table_has_every_client_and_every_call() -> None:
    heading, *rows = between(DOCS)
    assert heading == ["Client", "Version", "Path", *(call.title for call in CALLS)]
    assert [(row[0], row[2]) for row in rows] == [(_shown(one), f"`{one.path}`") for one in CLIENTS]
    assert [row[0] for row in between(README)[1:]] == [_shown(one) for one in CLIENTS]
    assert between(README)[0] == ["Client", "Version", *GROUPS]


@pytest.mark.parametrize("client", CLIENTS, ids=lambda one: one.name)
def test_a_cell_is_what_the_driver_says(client: Client) -> None:
    [row] = [row for row in between(DOCS)[1:] if row[0] == _shown(client)]
    for call, cell in zip(CALLS, row[3:], strict=True):
        if call.name not in client.calls:
            allowed = {NONE}
        elif call.name in client.fails:
            allowed = {FAILS, SKIPPED}
        else:
            allowed = {WORKS, SKIPPED}
        assert cell.rstrip(" 0123456789") in allowed, call.title
    for why in client.fails.values():
        assert f"{client.title}: {why}." in DOCS


def test_versions_are_those_of_the_lock() -> None:
    pinned = dict(re.findall(r"^([a-z0-9.-]+)==(\S+)", (HERE / "requirements.txt").read_text(), re.MULTILINE))
    npm = json.loads((HERE / "package.json").read_text())["dependencies"]
    shown = {row[0]: row[1] for page in (DOCS, README) for row in between(page)[1:]}
    for client in CLIENTS:
        if client.package:
            locked = npm[client.package] if client.source == "npm" else pinned[client.package.lower()]
            assert shown[_shown(client)] in (locked, NONE)


def test_the_locks_have_hashes_and_name_no_registry() -> None:
    requirements = (HERE / "requirements.txt").read_text()
    assert "--hash=sha256:" in requirements
    assert "://" not in requirements
    lock = json.loads((HERE / "package-lock.json").read_text())["packages"]
    assert all("integrity" in one and "resolved" not in one for name, one in lock.items() if name)


def test_a_driver_says_where_it_goes_and_what_it_calls(tmp_path: Path) -> None:
    found = driver(tmp_path, "balance history", "fails history: reads an array as an object\nnote: old\n")
    assert (found.name, found.title, found.calls) == ("some_client", "some-client", ("balance", "history"))
    assert (found.fails, found.note) == ({"history": "reads an array as an object"}, "old")
    with pytest.raises(ValueError, match="nonsense"):
        driver(tmp_path, "balance nonsense")
    with pytest.raises(ValueError, match="history"):
        driver(tmp_path, "balance", "fails history: it has no such call\n")
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(ValueError, match=r"empty\.py says nothing about calls, from, path"):
        read(tmp_path / "empty.py")


def test_a_package_that_is_not_installed_is_said(tmp_path: Path) -> None:
    found = driver(tmp_path)
    assert found.missing({}) == "some-client is not installed"
    assert found.missing({"pypi:some-client": "1"}) == ""


def test_a_call_that_fails_or_is_not_reached_has_failed(tmp_path: Path) -> None:
    client = driver(tmp_path, "balance number cancel", "fails cancel: always\n")
    results = _results(client, "ok balance\nchatter\nno cancel BAD_STATUS: x\n", "Traceback\nValueError: gone\n")
    assert results == {"balance": "", "number": "not reached: ValueError: gone", "cancel": "BAD_STATUS: x"}
    assert Outcome("1", results).surprises(client) == {"number": "not reached: ValueError: gone"}
    mended = {"balance": "", "number": "", "cancel": ""}
    assert Outcome("1", mended).surprises(client) == {"cancel": "works, and its driver says it fails"}


def test_a_table_has_marks_and_reasons(tmp_path: Path) -> None:
    client = driver(tmp_path, "balance number cancel rent", "fails cancel: always\n")
    results = {"balance": "", "number": "gone", "cancel": "BAD_STATUS", "rent": "BAD_ACTION"}
    made = whole([client], {"some_client": Outcome("1.2", results)})
    row = made.splitlines()[2]
    cells = dict(
        zip([call.name for call in CALLS], [part.strip() for part in row.strip("|").split("|")][3:], strict=True)
    )
    assert {name: mark for name, mark in cells.items() if mark != NONE} == {
        "balance": WORKS,
        "number": f"{FAILS} 1",
        "cancel": f"{FAILS} 2",
        "rent": f"{FAILS} 3",
    }
    assert "1. some-client, number: gone" in made
    assert "2. some-client: always." in made
    counts = short([client], {"some_client": Outcome("1.2", results)}).splitlines()[2]
    assert counts.startswith(f"| some-client (PyPI) | 1.2 | {WORKS} 1 | 0 of 2 |")


def test_a_client_that_could_not_run_says_so(tmp_path: Path) -> None:
    client = driver(tmp_path, "balance")
    made = whole([client], {"some_client": Outcome("", {}, "no php here")})
    assert f"| {SKIPPED} |" in made
    assert "some-client: skipped: no php here" in made


def test_a_page_without_a_place_is_an_error() -> None:
    assert placed(f"a\n{BEGIN}\nold\n{END}\nb", "new") == f"a\n{BEGIN}\nnew\n{END}\nb"
    with pytest.raises(ValueError, match="no place"):
        placed("a page", "new")


def _shown(client: Client) -> str:
    return f"{client.package} ({client.source})" if client.package else client.source
