"""Webhooks of the brands that tell of each SMS by themselves: unsigned, one address, tried again after pauses.

Sent from the loop the simulator is served by, so a delivery made from another thread waits for that loop's next look.
Pauses are in the simulator's time: `skip` makes the next try due.
"""

import asyncio
import urllib.error
import urllib.request
from collections import deque
from dataclasses import dataclass, field

from tests.simulators._common import Clock
from tests.simulators._handler_brands import Webhook

PENDING_MAX = 1000
"""More than so many and the oldest are forgotten."""

AT_ONCE = 8
LOOK_SECONDS = 0.05


@dataclass(slots=True)
class Notice:
    body: bytes = field(repr=False)
    due_at: float
    pauses_seconds: tuple[float, ...]


class Webhooks:
    """What is still to be sent, and how each attempt was answered (a status, or None where nobody answered).

    `now` is called at every look, so what is due by then (an SMS that comes by itself) may happen in it.
    """

    def __init__(self, rules: Webhook, now: Clock) -> None:
        self.url: str | None = None
        self.answers: deque[int | None] = deque(maxlen=PENDING_MAX)
        self.pending: deque[Notice] = deque(maxlen=PENDING_MAX)
        self._rules = rules
        self._now = now
        self._courier: asyncio.Task[None] | None = None

    def put(self, body: str) -> None:
        if self.url is not None:
            self.pending.append(Notice(body.encode(), self._now(), self._rules.pauses_seconds))

    def start(self) -> None:
        """Send from the running loop, until it ends; to be called as often as one likes."""
        if self.url is not None and (self._courier is None or self._courier.done()):
            self._courier = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as attempts:
            free = asyncio.Semaphore(AT_ONCE)
            while True:
                now = self._now()
                for _ in range(len(self.pending)):
                    notice = self.pending.popleft()
                    if notice.due_at > now:
                        self.pending.append(notice)
                        continue
                    await free.acquire()
                    attempts.create_task(self._attempt(notice)).add_done_callback(lambda _: free.release())
                await asyncio.sleep(LOOK_SECONDS)

    async def _attempt(self, notice: Notice) -> None:
        url = self.url
        if url is None:
            return
        answer = await asyncio.to_thread(_post, url, notice.body, self._rules.timeout_seconds)
        self.answers.append(answer)
        if answer not in self._rules.statuses and notice.pauses_seconds:
            pause, *rest = notice.pauses_seconds
            self.pending.append(Notice(notice.body, self._now() + pause, tuple(rest)))


def _post(url: str, body: bytes, timeout_seconds: float) -> int | None:
    request = urllib.request.Request(  # noqa: S310 - whoever runs the simulator names the address
        url, data=body, headers={"Content-Type": "application/json"}, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=timeout_seconds) as answer:  # noqa: S310 - likewise
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
    except (OSError, ValueError):
        return None
