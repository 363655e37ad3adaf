"""People in the database, and how fast somebody may guess at their passwords; on both kinds of database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway import accounts, guesses, revisions, users
from gateway.accounts import AccountError
from gateway.database import Database, open_database
from gateway.guesses import FORGET_SECONDS, FREE_PER_ADDRESS, FREE_PER_EMAIL, PAUSE_SECONDS_MAX, Attempt, TooManyGuesses
from gateway.store import Tx
from gateway.users import ENDED_MAX, EmailTaken, Role, UnknownUser
from tests.harness import add_account, environment

NOW = 1_700_000_000.0
ANN, BEN = "ann@example.com", "ben@example.com"
HERE, THERE = "192.0.2.1", "198.51.100.7"


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    found = open_database(environment(database_url))
    await add_account(found, "alice")
    yield found
    await found.store.close()


async def add(database: Database, email: str = ANN, role: Role = Role.RESELLER, account: str | None = "alice") -> int:
    return await database.store.run(users.add, email, "hash", role, account, NOW)


async def begin(database: Database, email: str = ANN, place: str = HERE, at: float = NOW) -> Attempt:
    return await database.store.run(guesses.begin, database.vault, email, place, at)


async def fail(database: Database, times: int, *, step: float = 0.0, **where: Any) -> None:
    for time in range(times):
        await begin(database, at=NOW + step * time, **where)


async def pause(database: Database, **where: Any) -> float:
    """How long the next attempt has to wait."""
    try:
        await begin(database, **where)
    except TooManyGuesses as error:
        return error.seconds
    return 0.0


# People


@pytest.mark.parametrize(
    ("email", "kept"),
    [
        (ANN, ANN),
        (" Ann@EXAMPLE.com ", ANN),
        ("STRASSE@example.com", "strasse@example.com"),
        ("straße@example.com", "strasse@example.com"),
        ("ann+x@[192.0.2.1]", "ann+x@[192.0.2.1]"),
    ],
)
def test_an_address_is_kept_in_one_spelling(email: str, kept: str) -> None:
    assert users.folded(email) == kept


@pytest.mark.parametrize("email", ["", "ann", "@example.com", "ann@", "a@b@c", "a b@c", "a\0@b", "a" * 251 + "@b.c"])
def test_what_is_no_address_is_refused(email: str) -> None:
    with pytest.raises(AccountError, match="no e-mail"):
        users.folded(email)


async def test_an_address_is_taken_once_in_whatever_case(database: Database) -> None:
    await add(database)
    with pytest.raises(EmailTaken):
        await add(database, "ANN@example.com")
    assert [row["email"] for row in await database.store.read(users.overview)] == [ANN]


async def test_a_reseller_has_an_account_and_an_operator_none(database: Database) -> None:
    for role, account in ((Role.RESELLER, None), (Role.OPERATOR, "alice"), (Role.RESELLER, "nobody")):
        with pytest.raises(AccountError):
            await add(database, role=role, account=account)
    assert await database.store.read(users.overview) == []


async def test_a_person_buys_by_a_key_that_no_list_shows_and_nobody_ends(database: Database) -> None:
    before = await database.store.read(accounts.keys)
    user_id = await add(database)
    assert await database.store.read(accounts.keys) == before
    assert [row["keys"] for row in await database.store.read(accounts.overview)] == [1]
    caller = await accounts.Callers(database.store, database.vault).person(user_id)
    assert (caller.account_name, caller.key_id) == ("alice", before[-1]["id"] + 1)
    with pytest.raises(AccountError):
        await database.store.run(accounts.revoke_key, caller.key_id, NOW)


async def test_nobody_of_an_id_or_address_is_said_to_be_nobody(database: Database) -> None:
    for user_id in (99, 2**70):
        with pytest.raises(UnknownUser):
            await database.store.read(users.by_id, user_id)
        with pytest.raises(UnknownUser):
            await database.store.run(users.switch, user_id, NOW)
    with pytest.raises(UnknownUser):
        await database.store.read(users.by_email, BEN)
    assert await database.store.read(users.person, 99, NOW) is None


async def test_keeping_somebody_out_ends_the_sessions_and_can_be_repeated(database: Database) -> None:
    user_id = await add(database)
    revision = await database.store.read(revisions.value, users.REVISION)
    for at in (NOW, NOW + 60):
        row = await database.store.run(users.switch, user_id, at)
        assert row["disabled_at"] == NOW
    person = await database.store.read(users.person, user_id, NOW)
    assert person is not None
    assert (person.is_disabled, person.epoch > 0) == (True, True)
    assert (await database.store.run(users.switch, user_id, None))["disabled_at"] is None
    assert await database.store.read(revisions.value, users.REVISION) >= revision + 3


async def test_a_password_is_replaced_only_instead_of_the_one_proven(database: Database) -> None:
    user_id = await add(database)
    assert await database.store.run(users.set_password, user_id, "new", instead_of="another") is None
    assert await database.store.run(users.set_password, user_id, "new", instead_of="hash") == 1
    assert await database.store.run(users.set_password, user_id, "newer") == 2
    await database.store.run(users.switch, user_id, NOW)
    assert await database.store.run(users.set_password, user_id, "newest", instead_of="newer") is None
    await database.store.run(users.rehash, user_id, "hash", "rehashed")
    assert (await database.store.read(users.by_id, user_id))["password_hash"] == "newer"


async def test_ended_sessions_are_remembered_until_they_would_have_expired(database: Database) -> None:
    user_id = await add(database)
    for _ in range(2):
        await database.store.run(users.end_session, user_id, "one", NOW + 10, NOW)
    await database.store.run(users.end_session, user_id, "two", NOW + 99, NOW)
    for at, ended in ((NOW, {"one", "two"}), (NOW + 10, {"two"}), (NOW + 99, set())):
        person = await database.store.read(users.person, user_id, at)
        assert person is not None
        assert person.ended == ended
    await database.store.run(users.end_session, user_id, "three", NOW + 200, NOW + 100)
    rows = await database.store.read(lambda tx: tx.all("select id from ended_sessions"))
    assert [row["id"] for row in rows] == ["three"]


async def test_whoever_signs_out_without_end_signs_out_of_everything(database: Database) -> None:
    user_id = await add(database)

    def fill(tx: Tx) -> None:
        for place in range(ENDED_MAX):
            users.end_session(tx, user_id, str(place), NOW + 10, NOW)

    await database.store.run(fill)
    before = await database.store.read(users.person, user_id, NOW)
    await database.store.run(users.end_session, user_id, "last", NOW + 10, NOW)
    after = await database.store.read(users.person, user_id, NOW)
    assert before is not None
    assert after is not None
    assert (len(before.ended), before.epoch, len(after.ended), after.epoch) == (ENDED_MAX, 0, 0, 1)


# Guesses


@pytest.mark.parametrize("email", [ANN, "nobody@example.com"])
async def test_pauses_grow_with_failures_whether_or_not_somebody_has_the_address(
    database: Database, email: str
) -> None:
    await add(database)
    for place in range(FREE_PER_EMAIL):
        await begin(database, email, f"192.0.2.{place}")
    at, pauses = NOW, []
    for place in range(10):
        attempt = await begin(database, email, f"198.51.100.{place}", at)
        assert (attempt.row is not None) is (email == ANN)
        pauses.append(await pause(database, email=email, place=HERE, at=at))
        at += pauses[-1]
    assert pauses == [2, 4, 8, 16, 32, 64, 128, 256, PAUSE_SECONDS_MAX, PAUSE_SECONDS_MAX]


async def test_an_address_is_slowed_down_whatever_it_tries(database: Database) -> None:
    for place in range(FREE_PER_ADDRESS + 1):
        await begin(database, f"x{place}@example.com")
    with pytest.raises(TooManyGuesses) as refusal:
        await begin(database, BEN)
    assert (refusal.value.seconds, refusal.value.is_of_address) == (2.0, True)
    await begin(database, BEN, THERE)


async def test_a_refused_attempt_is_not_counted(database: Database) -> None:
    await fail(database, FREE_PER_EMAIL + 1)
    for _ in range(5):
        assert await pause(database, place=THERE) == 2.0
    await begin(database, BEN, THERE)
    rows = await database.store.read(lambda tx: tx.all("select failed_count from sign_in_attempts"))
    assert sorted(row["failed_count"] for row in rows) == [1, 1, FREE_PER_EMAIL + 1, FREE_PER_EMAIL + 1]


async def test_parallel_attempts_do_not_pass_together(database: Database) -> None:
    tries = [begin(database, place=f"192.0.2.{place}") for place in range(40)]
    results = await asyncio.gather(*tries, return_exceptions=True)
    assert sum(isinstance(result, Attempt) for result in results) == FREE_PER_EMAIL + 1
    assert all(isinstance(result, Attempt | TooManyGuesses) for result in results)


async def test_success_takes_the_attempt_back_and_leaves_others_failures_at_the_address(database: Database) -> None:
    user_id = await add(database)
    for place in range(3):
        await begin(database, f"x{place}@example.com")
    await fail(database, 2)
    attempt = await begin(database)
    assert await database.store.run(guesses.succeeded, attempt, user_id, NOW, is_sign_in=True) == 0
    rows = await database.store.read(lambda tx: tx.all("select digest, failed_count from sign_in_attempts"))
    counts = {row["digest"]: row["failed_count"] for row in rows}
    assert attempt.of_person not in counts
    assert counts[attempt.of_address] == 5


async def test_somebody_else_cannot_keep_a_person_out_of_the_usual_place(database: Database) -> None:
    user_id = await add(database)
    await database.store.run(guesses.succeeded, await begin(database), user_id, NOW, is_sign_in=True)
    for place in range(FREE_PER_EMAIL + 1):
        await begin(database, place=f"198.51.100.{place}")
    assert await pause(database, place=THERE) > 0
    attempt = await begin(database, place=HERE)
    assert await database.store.run(guesses.succeeded, attempt, user_id, NOW, is_sign_in=True) == 0
    assert await pause(database, place=THERE) > 0


async def test_everything_is_forgotten_after_a_while(database: Database) -> None:
    await fail(database, FREE_PER_EMAIL + 1)
    await begin(database, BEN, THERE, NOW + FORGET_SECONDS)
    rows = await database.store.read(lambda tx: tx.all("select digest from sign_in_attempts"))
    assert len(rows) == 2
    await fail(database, FREE_PER_EMAIL)


async def test_whoever_was_disabled_or_given_a_new_password_meanwhile_has_not_succeeded(database: Database) -> None:
    user_id = await add(database)
    attempt = await begin(database)
    await database.store.run(users.set_password, user_id, "new")
    assert await database.store.run(guesses.succeeded, attempt, user_id, NOW, is_sign_in=True) is None
    attempt = await begin(database)
    await database.store.run(users.switch, user_id, NOW)
    assert await database.store.run(guesses.succeeded, attempt, user_id, NOW, is_sign_in=True) is None


async def test_nothing_that_is_kept_of_attempts_names_anybody(database: Database) -> None:
    await fail(database, 2)
    rows = await database.store.read(lambda tx: tx.all("select * from sign_in_attempts"))
    assert ANN not in repr([dict(row) for row in rows])
    assert HERE not in repr([dict(row) for row in rows])


@pytest.mark.parametrize(
    ("address", "place"),
    [
        (HERE, HERE),
        ("::ffff:192.0.2.1", HERE),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("nonsense", ""),
    ],
)
def test_one_customer_has_one_address_or_one_network(address: str, place: str) -> None:
    assert guesses.network(address) == place
