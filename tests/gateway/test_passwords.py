"""Passwords: which will do, how their hashes compare, and that no flood of them takes everything."""

from __future__ import annotations

import asyncio
from typing import Literal

import pytest
from argon2 import PasswordHasher

from gateway import passwords
from gateway.errors import Unavailable
from gateway.passwords import BYTES_MAX, HASHES_AT_ONCE, LENGTH_MIN, PLACES, PasswordError, Passwords

GOOD = "correct horse battery"
QUICK = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


@pytest.mark.parametrize("password", ["", "a" * (LENGTH_MIN - 1), "a" * (BYTES_MAX + 1), "€" * (BYTES_MAX // 3 + 1)])
def test_one_too_short_or_too_long_is_refused_without_being_repeated(password: str) -> None:
    with pytest.raises(PasswordError) as refusal:
        passwords.check(password)
    assert not password or password not in str(refusal.value)


@pytest.mark.parametrize("password", ["a" * LENGTH_MIN, "a" * BYTES_MAX, "пароль и ещё один"])
async def test_one_that_will_do_matches_its_own_hash_only(password: str) -> None:
    passwords.check(password)
    hasher = Passwords(QUICK)
    known = await hasher.hash(password)
    assert password not in known
    assert await hasher.matches(known, password)
    assert not await hasher.matches(known, password + "x")
    assert not await hasher.matches(known, "")


async def test_the_same_letters_match_however_a_keyboard_composes_them() -> None:
    hasher = Passwords(QUICK)
    known = await hasher.hash("r\u00e9sum\u00e9 of a life")
    assert await hasher.matches(known, "re\u0301sume\u0301 of a life")


async def test_hashes_are_argon2id_and_told_apart_when_parameters_change() -> None:
    hasher = Passwords()
    known = await hasher.hash(GOOD)
    assert known.startswith("$argon2id$v=19$m=65536,t=3,p=1$")
    assert not hasher.is_outdated(known)
    assert hasher.is_outdated(await Passwords(QUICK).hash(GOOD))


async def test_without_a_hash_the_same_work_is_done_and_the_answer_is_no() -> None:
    verified: list[str] = []

    class Counting(PasswordHasher):
        def verify(self, known: str | bytes, password: str | bytes) -> Literal[True]:
            verified.append(str(known))
            return super().verify(known, password)

    hasher = Passwords(Counting(time_cost=1, memory_cost=8, parallelism=1))
    known = await hasher.hash(GOOD)
    assert not await hasher.matches(None, GOOD)
    assert not await hasher.matches(known, "something else")
    assert [one.split("$")[1:4] for one in verified] == [known.split("$")[1:4]] * 2
    # Nobody can name the one that stands in.
    assert not await hasher.matches(None, "whatever is compared with this, the answer is no")


async def test_a_hash_that_is_none_matches_nothing() -> None:
    assert not await Passwords(QUICK).matches("not a hash", GOOD)


async def test_a_few_are_hashed_at_once_and_the_loop_goes_on() -> None:
    at_work, most = 0, 0

    class Slow(Passwords):
        def _matches(self, known: str | None, password: str) -> bool:
            nonlocal at_work, most
            at_work += 1
            most = max(most, at_work)
            found = super()._matches(known, password)
            at_work -= 1
            return found

    hasher = Slow(PasswordHasher(time_cost=3, memory_cost=8192, parallelism=1))
    waiting = [asyncio.create_task(hasher.matches(None, GOOD)) for _ in range(8)]
    turns = 0
    while not all(task.done() for task in waiting):
        await asyncio.sleep(0.001)
        turns += 1
    assert most == HASHES_AT_ONCE
    assert turns > 10


def test_places_are_limited_and_given_back() -> None:
    hasher = Passwords(QUICK)
    taken = [hasher.place() for _ in range(PLACES)]
    for one in taken:
        one.__enter__()
    with pytest.raises(Unavailable), hasher.place():
        pass
    taken[0].__exit__(None, None, None)
    with hasher.place():
        pass
