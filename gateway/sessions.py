"""Signing in, and what a token is good for: JWTs under `JWT_SECRET_KEY`, held against what the database says now.

A token names a person and a session and nothing more; role, account and whether the person may still come in are looked
up, in memory while nothing has changed. So whoever is disabled or signs out is out within a second, as with a key.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jwt
import structlog
from cachetools import LRUCache, TTLCache

from gateway import guesses, manage, passwords, revisions, users
from gateway.accounts import ID_MAX, Caller, Callers
from gateway.errors import BadKey
from gateway.guesses import Attempt, TooManyGuesses
from gateway.house import House
from gateway.passwords import Passwords
from gateway.users import Person, Role

ALGORITHM = "HS256"
ISSUER = "simroute"
AUDIENCE = "simroute-api"
CLAIMS = ("iss", "aud", "sub", "jti", "iat", "exp", "epoch")
TOKEN_LENGTH_MAX = 2048
PEOPLE_CACHED_MAX = 10_000
_NUMBER_MAX = 2**33

log = structlog.get_logger()


class NotSetUp(Exception):
    """Nobody can sign in: there is no `JWT_SECRET_KEY`."""


class NotProven(Exception):
    """E-mail and password are not those of anybody who may come in; which of it is wrong is not told."""


class BadSession(Exception):
    """A token that is none of ours, or whose session has ended."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A session that has just begun, with its token."""

    token: str = field(repr=False)
    expires_at: float
    person: Person


@dataclass(frozen=True, slots=True)
class Session:
    """A session as somebody uses it. `caller` is what a reseller acts as; None for an operator."""

    id: str
    expires_at: float
    person: Person
    caller: Caller | None


class Sessions:
    """Everybody who signs in. One per process."""

    def __init__(self, house: House, callers: Callers) -> None:
        self._house = house
        self._callers = callers
        self.passwords = Passwords()
        self._known: LRUCache[int, Person] = LRUCache(PEOPLE_CACHED_MAX)
        self._locked: TTLCache[str, float] = TTLCache(10_000, guesses.PAUSE_SECONDS_MAX)
        self._revision = -1

    async def sign_in(self, email: str, password: str, address: str) -> Opened:
        """A new session of whoever proves to be somebody. `address` is whom the request comes from.

        Raises NotSetUp, NotProven, TooManyGuesses, or Unavailable (the database, or too many sign in at once).
        """
        if not self._house.vault.session_secrets:
            raise NotSetUp
        with self.passwords.place():
            attempt, epoch = await self._prove(email, password, address, is_sign_in=True)
            row = attempt.row or {}
            if self.passwords.is_outdated(row["password_hash"]):
                newer = await self.passwords.hash(password)
                await self._house.store.run(users.rehash, row["id"], row["password_hash"], newer)
        person = await self._house.store.read(users.person, row["id"], self._house.clock())
        if person is None:
            raise NotProven
        log.info("session.opened", user=person.id, role=person.role.value)
        return self._opened(person, epoch)

    async def change_password(self, session: Session, current: str, new: str, address: str) -> Opened:
        """Replaces a person's password, which ends every session, and opens a new one.

        Raises PasswordError (the new one will not do), NotProven (the current one is another), and as `sign_in`.
        """
        passwords.check(new)
        with self.passwords.place():
            hashed = await self.passwords.hash(new)
            attempt, _ = await self._prove(session.person.email, current, address, is_sign_in=False)
            known = attempt.row["password_hash"] if attempt.row else ""
            run, at = self._house.store.run, self._house.clock()
            epoch = await run(manage.change_own_password, session.person.id, hashed, known, at)
        if epoch is None:
            raise NotProven
        await self.refresh()
        log.info("session.password_changed", user=session.person.id)
        return self._opened(session.person, epoch)

    async def _prove(self, email: str, password: str, address: str, *, is_sign_in: bool) -> tuple[Attempt, int]:
        """The same work whoever it is, if anybody. Raises NotProven, TooManyGuesses, Unavailable."""
        house = self._house
        place = guesses.network(address)
        until = self._locked.get(place, 0.0)
        if until > house.clock():
            # A flood from one place costs the database nothing.
            raise TooManyGuesses(until - house.clock(), is_of_address=True)
        try:
            attempt = await house.store.run(guesses.begin, house.vault, email, place, house.clock())
        except TooManyGuesses as error:
            if error.is_of_address:
                self._locked[place] = house.clock() + error.seconds
            raise
        row = attempt.row
        is_right = await self.passwords.matches(row["password_hash"] if row else None, password)
        if row is None or not is_right or row["disabled_at"] is not None:
            log.info("session.not_proven", user=row["id"] if row else None)
            await house.store.run(guesses.failed, attempt, house.clock())
            raise NotProven
        epoch = await house.store.run(guesses.succeeded, attempt, row["id"], house.clock(), is_sign_in=is_sign_in)
        if epoch is None:
            raise NotProven
        return attempt, epoch

    def _opened(self, person: Person, epoch: int) -> Opened:
        now = int(self._house.clock())
        expires_at = now + int(self._house.settings.gateway.sessions.life_seconds)
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": str(person.id),
            "jti": secrets.token_urlsafe(16),
            "iat": now,
            "exp": expires_at,
            "epoch": epoch,
        }
        token = jwt.encode(claims, self._house.vault.session_secrets[0], algorithm=ALGORITHM)
        return Opened(token, float(expires_at), person)

    async def admit(self, token: str) -> Session:
        """The session behind a token. Raises BadSession, or Unavailable."""
        claims = _claims(token, self._house.vault.session_secrets)
        expires_at, user_id = float(claims["exp"]), int(claims["sub"])
        if expires_at <= self._house.clock():
            raise BadSession
        person = await self._person(user_id)
        is_over = person is None or person.is_disabled or person.epoch != claims["epoch"]
        if person is None or is_over or claims["jti"] in person.ended:
            raise BadSession
        if person.role is Role.OPERATOR:
            return Session(claims["jti"], expires_at, person, None)
        try:
            return Session(claims["jti"], expires_at, person, await self._callers.person(user_id))
        except BadKey:
            raise BadSession from None

    async def sign_out(self, session: Session, *, everywhere: bool = False) -> None:
        """Ends a session, or every session of its person. Raises Unavailable."""
        store, user_id = self._house.store, session.person.id
        if everywhere:
            await store.run(users.end_all, user_id)
        else:
            await store.run(users.end_session, user_id, session.id, session.expires_at, self._house.clock())
        await self.refresh()

    async def _person(self, user_id: int) -> Person | None:
        person = self._known.get(user_id)
        if person is not None:
            return person
        revision = self._revision
        person = await self._house.store.read(users.person, user_id, self._house.clock())
        if person is not None and revision == self._revision:
            self._known[user_id] = person
        return person

    async def refresh(self) -> None:
        """Forgets whom it knows when a session has ended anywhere, by whatever process. Raises Unavailable."""
        now = await self._house.store.read(revisions.value, users.REVISION)
        if now != self._revision:
            self._revision = now
            self._known.clear()


def _claims(token: str, keys: Sequence[bytes]) -> dict[str, Any]:
    """What a token of ours says. Raises BadSession."""
    if len(token) > TOKEN_LENGTH_MAX:
        raise BadSession
    for key in keys:
        try:
            # Times are compared by the caller, with the clock of the house.
            return _as_signed(jwt.decode(
                token, key, algorithms=[ALGORITHM], audience=AUDIENCE, issuer=ISSUER,
                options={"require": list(CLAIMS), "verify_exp": False, "verify_iat": False, "verify_nbf": False},
            ))  # fmt: skip
        except jwt.InvalidSignatureError:
            continue  # perhaps one made under an older secret
        except jwt.PyJWTError:
            break
    raise BadSession


def _as_signed(claims: dict[str, Any]) -> dict[str, Any]:
    """The claims, if each is of the kind that `_opened` makes. Raises BadSession."""
    subject, numbers = claims["sub"], (claims["exp"], claims["epoch"])
    is_id = subject.isascii() and subject.isdigit() and len(subject) < len(str(ID_MAX))
    if not (is_id and all(type(number) is int and 0 <= number < _NUMBER_MAX for number in numbers)):
        raise BadSession
    return claims
