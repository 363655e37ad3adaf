"""Sessions of people, and what only people do: the place for what operators and resellers manage.

A call that needs an operator or an account says so in its `Operation` (`access`), and is not run for anybody else.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import structlog

from compat._peer import peer
from compat._rest_access import Access
from compat._rest_http import PREFIX, Call, Operation, Reply, show
from compat._rest_models import NoBody, Wrong, moment
from compat._rest_people_models import (
    Me,
    NewUser,
    PasswordChange,
    Session,
    SignIn,
    User,
    Users,
    session,
    user,
)
from compat._rest_problems import Refused
from compat._rest_resellers import manager_of
from compat._rest_shared import require_turn
from gateway import guesses, manage, passwords, users
from gateway.accounts import ID_MAX, AccountError
from gateway.errors import TooManyRequests
from gateway.front import Front
from gateway.guesses import TooManyGuesses
from gateway.passwords import PasswordError
from gateway.sessions import NotProven, NotSetUp
from gateway.users import EmailTaken, LastOperator, Role, UnknownUser

log = structlog.get_logger()


class People:
    """The operations."""

    def __init__(self, front: Front) -> None:
        self._front = front

    async def _change(self, call: Call) -> None:
        """Counts a change. Raises TooManyRequests."""
        await self._front.count_change_of(call.caller_or_none, call.session_or_none)

    def _address(self, call: Call) -> str:
        return peer(call.scope, self._front.house.settings.gateway.server.trusted_proxies)

    # Sessions

    async def sign_in(self, call: Call) -> Reply:
        given: SignIn = call.body
        try:
            email = users.folded(given.email)
        except AccountError as error:
            raise Refused("invalid", errors=[Wrong(pointer="/email", detail=str(error))]) from None
        with _refusals():
            opened = await self._front.sessions.sign_in(email, given.password.get_secret_value(), self._address(call))
        return show(session(opened), 201)

    async def sign_out(self, call: Call) -> Reply:
        await self._front.sessions.sign_out(call.session)
        return Reply(status=204)

    async def sign_out_everywhere(self, call: Call) -> Reply:
        await self._front.sessions.sign_out(call.session, everywhere=True)
        return Reply(status=204)

    async def me(self, call: Call) -> Reply:
        require_turn(call)
        caller, signed_in = call.caller_or_none, call.session_or_none
        person = signed_in.person if signed_in else None
        return show(
            Me(
                email=person.email if person else None,
                role=person.role.value if person else None,
                account=caller.account_name if caller else None,
                currency=caller.currency if caller else None,
                session_expires_at=moment(signed_in.expires_at) if signed_in else None,
            )
        )

    async def change_password(self, call: Call) -> Reply:
        await self._change(call)
        given: PasswordChange = call.body
        current, new = given.current_password.get_secret_value(), given.new_password.get_secret_value()
        with _refusals("/new_password", "wrong_password"):
            opened = await self._front.sessions.change_password(call.session, current, new, self._address(call))
        return show(session(opened))

    # What operators see and do

    async def users(self, call: Call) -> Reply:
        require_turn(call)
        found = await self._front.house.store.read(users.overview)
        return show(Users(users=[user(row) for row in found]))

    async def add_user(self, call: Call) -> Reply:
        await self._change(call)
        given: NewUser = call.body
        house, hasher, password = self._front.house, self._front.sessions.passwords, given.password.get_secret_value()
        with _refusals("/password"):
            passwords.check(password)
            with hasher.place():
                hashed = await hasher.hash(password)
            row = await house.store.run(
                manage.add_user,
                manager_of(call),
                given.email,
                hashed,
                Role(given.role),
                given.account,
                house.clock(),
            )
        log.info("user.added", user=row["id"], role=given.role, by=call.session.person.id)
        return show(user(row), 201)

    async def disable_user(self, call: Call) -> Reply:
        return await self._switch_user(call, is_disabled=True)

    async def enable_user(self, call: Call) -> Reply:
        return await self._switch_user(call, is_disabled=False)

    async def _switch_user(self, call: Call, *, is_disabled: bool) -> Reply:
        await self._change(call)
        word, house = str(call.scope["path_params"]["user_id"]), self._front.house
        if not (word.isascii() and word.isdigit() and 0 < int(word[:20]) <= ID_MAX):
            raise Refused("unknown_user")
        with _refusals():
            row = await house.store.run(
                guesses.switch_user, house.vault, manager_of(call), int(word), house.clock(), is_disabled=is_disabled
            )
        await self._front.sessions.refresh()
        log.info("user.disabled" if is_disabled else "user.enabled", user=row["id"], by=call.session.person.id)
        return show(user(row))


@contextmanager
def _refusals(password_at: str = "", not_proven: str = "bad_credentials") -> Iterator[None]:
    """What people are refused for, as problems. `password_at` is the member that a new password stands in."""
    try:
        yield
    except NotSetUp:
        raise Refused("sign_in_not_set_up") from None
    except NotProven:
        raise Refused(not_proven) from None
    except TooManyGuesses as error:
        seconds = math.ceil(error.seconds)
        raise Refused(
            TooManyRequests.code, detail="too many attempts with a wrong password", retry_seconds=seconds
        ) from None
    except PasswordError as error:
        raise Refused("bad_password", errors=[Wrong(pointer=password_at, detail=str(error))]) from None
    except EmailTaken:
        raise Refused("email_taken") from None
    except LastOperator:
        raise Refused("last_operator") from None
    except UnknownUser:
        raise Refused("unknown_user") from None
    except AccountError as error:
        raise Refused("invalid", detail=str(error)) from None


def operations(front: Front) -> Sequence[Operation]:
    """For the table that routes and document are made from."""
    people = People(front)
    one = PREFIX + "/users/{user_id}"
    reads, switches = ("too_many_requests",), ("unknown_user",)
    guessing = ("too_many_requests", "sign_in_not_set_up")
    return (
        Operation("sign_in", "POST", (PREFIX + "/sessions",), people.sign_in, "Sign in", Session, 201, body=SignIn,
                  is_public=True, description=_SIGN_IN,
                  problems=(*guessing, "bad_credentials", "malformed", "invalid", "unavailable", "internal")),
        Operation("sign_out_everywhere", "DELETE", (PREFIX + "/sessions",), people.sign_out_everywhere,
                  "Sign out everywhere", NoBody, 204, access=Access.SESSION,
                  description="Ends every session of this person, this one included."),
        Operation("sign_out", "DELETE", (PREFIX + "/sessions/current",), people.sign_out, "Sign out", NoBody, 204,
                  access=Access.SESSION, description="Ends this session."),
        Operation("me", "GET", (PREFIX + "/me",), people.me, "Who one is", Me, access=Access.ANYBODY, problems=reads),
        Operation("change_password", "PUT", (PREFIX + "/me/password",), people.change_password,
                  "Change the password", Session, body=PasswordChange, access=Access.SESSION,
                  description="Ends every session of this person; the answer is a new one.",
                  problems=(*guessing, "wrong_password", "bad_password")),
        Operation("users", "GET", (PREFIX + "/users",), people.users, "Who can sign in", Users,
                  access=Access.OPERATOR, problems=reads),
        Operation("add_user", "POST", (PREFIX + "/users",), people.add_user, "Let somebody sign in", User, 201,
                  body=NewUser, access=Access.OPERATOR, problems=("bad_password", "email_taken")),
        Operation("disable_user", "POST", (one + "/disable",), people.disable_user, "Keep somebody out", User,
                  body=NoBody, access=Access.OPERATOR, problems=(*switches, "last_operator"),
                  description="Ends every session of that person within a second. API keys go on. Safe to repeat."),
        Operation("enable_user", "POST", (one + "/enable",), people.enable_user, "Let somebody in again", User,
                  body=NoBody, access=Access.OPERATOR, problems=switches,
                  description="Pauses after wrong passwords are forgotten. Safe to repeat."),
    )  # fmt: skip


_SIGN_IN = (
    "For operators and resellers. The token goes where a key goes, in `Authorization: Bearer TOKEN` only. After some"
    " failures the answer is `too_many_requests` for a while (`Retry-After`), whatever the password."
)
