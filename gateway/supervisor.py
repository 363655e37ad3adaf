"""`simroute serve --workers`: several processes behind one listening socket, each started anew when it dies.

SIGTERM and SIGINT end all of them. SIGHUP replaces them one by one, each only when its successor serves: with a new
program or a new environment of this one's children, and without a refused connection.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import structlog

READY_SECONDS = 60.0
"""How long a process may take until it serves: a schema may have to be brought up to date first."""

PAUSE_SECONDS = 1.0
PAUSE_SECONDS_MAX = 30.0
STOP_SECONDS = 30.0

log = structlog.get_logger()


@dataclass(eq=False)
class _Place:
    """One of the processes, whichever it is by now."""

    number: int
    process: asyncio.subprocess.Process
    starting: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Whoever starts a successor holds it: there is never more than one."""


class Supervisor:
    """Keeps so many processes running."""

    def __init__(self, command: Callable[[int, int], Sequence[str]], count: int, inherited: int) -> None:
        """`command` is asked with a place's number (from 0) and the descriptor that the process writes to once it
        serves. `inherited` is the descriptor of the listening socket, which it gets, too.
        """
        self._command = command
        self._count = count
        self._inherited = inherited
        self._stopping = asyncio.Event()
        self._renew = asyncio.Event()
        self._places: list[_Place] = []
        self._started: set[asyncio.subprocess.Process] = set()
        """Those that may be running."""

    async def run(self, on_ready: Callable[[], None]) -> int:
        """Until a signal ends it; the exit status. What keeps the first process from serving ends it, too."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        loop.add_signal_handler(signal.SIGHUP, self._renew.set)
        # The first one alone: it brings the schema up to date, and what is wrong is said once.
        first = await self._start(0)
        if first is None:
            return 1
        self._places.append(_Place(0, first))
        rest = await asyncio.gather(*(self._start(number) for number in range(1, self._count)))
        self._places += [_Place(number, process) for number, process in enumerate(rest, 1) if process is not None]
        keepers = [asyncio.create_task(self._keep(place)) for place in self._places]
        renewer = asyncio.create_task(self._renew_on_signal())
        if len(self._places) == self._count:
            on_ready()
            await self._stopping.wait()
        status = 0 if len(self._places) == self._count else 1
        self._stopping.set()
        for task in (*keepers, renewer):
            task.cancel()
        await asyncio.gather(*keepers, renewer, return_exceptions=True)
        await asyncio.gather(*map(self._end, self._started))  # one that was just being started, too
        return status

    async def _keep(self, place: _Place) -> None:
        pause = PAUSE_SECONDS
        while True:
            process = place.process
            status = await process.wait()
            if process is not place.process:
                continue  # replaced
            log.warning("process.died", place=place.number, status=status)
            await asyncio.sleep(pause)
            async with place.starting:
                fresh = await self._start(place.number) if process is place.process else None
                if fresh is not None:
                    place.process = fresh
            pause = PAUSE_SECONDS if process is not place.process else min(PAUSE_SECONDS_MAX, 2 * pause)

    async def _renew_on_signal(self) -> None:
        while True:
            await self._renew.wait()
            self._renew.clear()
            for place in self._places:
                if not await self._replace(place):
                    log.error("process.not_replaced", place=place.number)
                    break
                log.info("process.replaced", place=place.number)

    async def _replace(self, place: _Place) -> bool:
        async with place.starting:
            fresh = await self._start(place.number)
            if fresh is None:
                return False
            former, place.process = place.process, fresh
        await self._end(former)
        return True

    async def _start(self, number: int) -> asyncio.subprocess.Process | None:
        """A process that serves; None where it can't be started, died first, took too long, or all is to stop."""
        try:
            reading, writing = os.pipe()
        except OSError as error:
            log.error("process.not_started", place=number, error=error.strerror)  # noqa: TRY400 — a trace says no more
            return None
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command(number, writing), pass_fds=(self._inherited, writing), start_new_session=True
            )
        except OSError as error:
            os.close(reading)
            log.error("process.not_started", place=number, error=error.strerror)  # noqa: TRY400 — likewise
            return None
        finally:
            os.close(writing)
        self._started = {one for one in self._started if one.returncode is None} | {process}
        if not await self._is_ready(reading):
            await self._end(process)
            return None
        return process

    async def _is_ready(self, reading: int) -> bool:
        """Whether a process says that it serves, before it dies, is late or all is to stop. Closes the pipe."""
        loop, said = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(reading, said.set)
        waits = [asyncio.ensure_future(event.wait()) for event in (said, self._stopping)]
        try:
            await asyncio.wait(waits, timeout=READY_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            return said.is_set() and not self._stopping.is_set() and bool(os.read(reading, 1))
        finally:
            for wait in waits:
                wait.cancel()
            loop.remove_reader(reading)
            os.close(reading)

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        if process.returncode is not None:
            return
        try:
            process.terminate()
            async with asyncio.timeout(STOP_SECONDS):
                await process.wait()
        except ProcessLookupError:
            return
        except TimeoutError:
            process.kill()
            await process.wait()
