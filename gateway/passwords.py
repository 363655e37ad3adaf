"""Passwords: which will do, and their Argon2id hashes, made on threads, a few at a time."""

from __future__ import annotations

import asyncio
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from gateway.errors import Unavailable

LENGTH_MIN = 12
BYTES_MAX = 1024
HASHES_AT_ONCE = 2
"""Each takes 64 MiB and a core for about 150 ms, without the interpreter: the loop goes on beside them."""

PLACES = 32
"""How many may be served or wait for that. Whoever comes after is told to come again."""


class PasswordError(ValueError):
    """A new password will not do; the message says why, in words for the person. It never holds the password."""


def check(password: str) -> None:
    """Raises PasswordError on a new password that will not do."""
    if len(_normal(password)) < LENGTH_MIN:
        raise PasswordError(f"a password has {LENGTH_MIN} characters at least")
    if len(_normal(password).encode()) > BYTES_MAX:
        raise PasswordError(f"a password has {BYTES_MAX} bytes at most")


def _normal(password: str) -> str:
    """The same characters, however a keyboard composes them (NIST SP 800-63B)."""
    return unicodedata.normalize("NFKC", password)


class Passwords:
    """Makes and compares hashes. RFC 9106's second choice, in one lane: a sign-in takes no more than one core."""

    def __init__(self, hasher: PasswordHasher | None = None) -> None:
        self._hasher = hasher or PasswordHasher(time_cost=3, memory_cost=65_536, parallelism=1)
        self._nobodys = ""
        self._slots = asyncio.Semaphore(HASHES_AT_ONCE)
        self._taken = 0

    @contextmanager
    def place(self) -> Iterator[None]:
        """Held around all that one request asks of it. Raises Unavailable where all places are taken."""
        if self._taken >= PLACES:
            raise Unavailable
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1

    async def matches(self, known: str | None, password: str) -> bool:
        """Whether that is the password behind a hash. Without a hash the same work is done, and the answer is no."""
        async with self._slots:
            return await asyncio.to_thread(self._matches, known, password)

    async def hash(self, password: str) -> str:
        """The hash to be kept of a password that `check` has let through."""
        async with self._slots:
            return await asyncio.to_thread(self.hash_here, password)

    def hash_here(self, password: str) -> str:
        """The same on this thread."""
        return self._hasher.hash(_normal(password))

    def is_outdated(self, known: str) -> bool:
        """Whether a hash was made with other parameters than are used now."""
        return self._hasher.check_needs_rehash(known)

    def _matches(self, known: str | None, password: str) -> bool:
        if not self._nobodys:
            self._nobodys = self._hasher.hash("whatever is compared with this, the answer is no")
        try:
            self._hasher.verify(known or self._nobodys, _normal(password))
        except (VerificationError, InvalidHashError):
            return False
        return known is not None
