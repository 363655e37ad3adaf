"""What a driver in Python leans on: the standard library alone, for it runs wherever its client is installed.

A driver is a class with a method for each call its head names. The methods run in the order of `calls.py`; what one
learns (the activation bought) the next finds on `self`. A method that returns has seen the right result; any exception
is why it has not.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode
from urllib.request import urlopen

from tests.conformance.calls import NAMES
from tests.conformance.registry import read

T = TypeVar("T")

SERVICE, COUNTRY = "tg", 6
UNKNOWN_SERVICE = "nonsense"
UNSOLD = ("zz", 204)
"""A service and a country of the catalogue that nobody sells."""
WRONG_KEY = "wrongwrongwrongwrongwrongwrong12"
PATIENCE_SECONDS = 20.0


class Driver:
    """`url` is what the client is pointed at, `base` the gateway's root, `key` the account's."""

    def __init__(self, url: str, base: str, key: str) -> None:
        self.url, self.base, self.key = url, base, key

    def raw(self, action: str, **parameters: object) -> str:
        """The gateway's own answer, in the reference dialect: what the client's is compared with."""
        query = urlencode({"api_key": self.key, "action": action, **parameters})
        with urlopen(f"{self.base}/stubs/handler_api.php?{query}", timeout=20) as answer:  # noqa: S310 — our own
            return str(answer.read().decode())

    def available(self) -> float:
        return float(self.raw("getBalance").removeprefix("ACCESS_BALANCE:"))

    def last_code(self, activation: object) -> str:
        """The newest code of an activation, read beside the client."""
        return str(json.loads(self.raw("getStatusV2", id=activation))["sms"]["code"])

    def is_over(self, activation: object, status: str) -> bool:
        """Whether the history has it with this status: 6 finished, 8 cancelled."""
        rows = json.loads(self.raw("getHistory"))
        return any(row["id"] == str(activation) and row["status"] == status for row in rows)


def same(found: object, wanted: object) -> None:
    """Raises AssertionError, with both in it."""
    if found != wanted:
        raise AssertionError(f"{found!r} where {wanted!r} was due")


def true(found: object, what: object = "it") -> None:
    """Raises AssertionError."""
    if not found:
        raise AssertionError(f"{what} is {found!r}")


def raises(kind: type[BaseException] | tuple[type[BaseException], ...], call: Callable[[], Any]) -> BaseException:
    """What the call raised, which is of this kind. Raises AssertionError."""
    try:
        found = call()
    except kind as error:
        return error
    raise AssertionError(f"{found!r} where {kind} was due")


def until(read: Callable[[], T | None]) -> T:
    """Polls until something comes. Raises AssertionError."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if (found := read()) is not None:
            return found
        time.sleep(0.1)
    raise AssertionError("nothing came")


async def until_async(read: Callable[[], Any]) -> Any:
    """As `until`, for a coroutine function."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if (found := await read()) is not None:
            return found
        await asyncio.sleep(0.1)
    raise AssertionError("nothing came")


def code_of(status: str) -> str | None:
    return status.removeprefix("STATUS_OK:") if status.startswith("STATUS_OK:") else None


def main(kind: type[Driver]) -> None:
    """Runs a driver with the process's arguments (URL, base, key) and says how each call went, a line each."""
    calls = read(Path(sys.modules[kind.__module__].__file__ or "")).calls
    asyncio.run(_run(kind(*sys.argv[1:4]), calls))


async def _run(driver: Driver, calls: tuple[str, ...]) -> None:
    for name in (name for name in NAMES if name in calls):
        try:
            found = getattr(driver, name)()
            if inspect.isawaitable(found):
                await found
        except Exception as error:
            _say("no", name, f"{type(error).__name__}: {error}")
            traceback.print_exc()
        else:
            _say("ok", name)
    close = getattr(driver, "close", None)
    if close is not None:
        await close()


def _say(word: str, name: str, why: str = "") -> None:
    sys.stdout.write(f"{word} {name} {' '.join(why.split())}".rstrip() + "\n")
    sys.stdout.flush()
