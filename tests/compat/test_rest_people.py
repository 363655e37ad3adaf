"""Signing in, what a session may do and for how long, and what operators do; over HTTP, on both kinds of database."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
import jwt
import pytest
from argon2 import PasswordHasher
from structlog.testing import capture_logs

from compat._rest_problems import KINDS
from gateway import audit, sessions, users
from gateway.guesses import FREE_PER_ADDRESS, FREE_PER_EMAIL
from gateway.passwords import PLACES, Passwords
from gateway.users import Role
from tests.compat._rest_client import RestHouse, rest_house
from tests.harness import environment
from tests.wire import NOON

SECRET, OLDER = "newer-secret-" + "n" * 64, "older-secret-" + "o" * 64
PASSWORD, ANOTHER = "correct horse battery", "staple that was wrong"
ANN, BEN, OLE = "ann@example.com", "ben@example.com", "ole@example.com"
LIFE_SECONDS = 43_200
QUICK = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)

ACCOUNT_CALLS = [
    ("GET", "/balance", None), ("GET", "/services", None), ("GET", "/countries", None),
    ("GET", "/api/v1/prices?service=tg&country=6", None), ("GET", "/api/v1/activations", None),
    ("POST", "/purchase", {"service": "tg", "country": 6}), ("GET", "/messages/ver_1", None),
    ("POST", "/api/v1/activations/ver_1/cancel", None), ("GET", "/api/v1/activations/ver_1/events", None),
    ("GET", "/webhook", None), ("POST", "/webhook", {"url": "https://example.com"}),
]  # fmt: skip
OPERATOR_CALLS = [
    ("GET", "/api/v1/users", None),
    ("POST", "/api/v1/users", {"email": "x@example.com", "password": PASSWORD, "role": "operator"}),
    ("POST", "/api/v1/users/1/disable", None), ("POST", "/api/v1/users/1/enable", None),
]  # fmt: skip
SESSION_CALLS = [
    ("DELETE", "/api/v1/sessions/current", None), ("DELETE", "/api/v1/sessions", None),
    ("PUT", "/api/v1/me/password", {"current_password": PASSWORD, "new_password": ANOTHER}),
]  # fmt: skip


@dataclass
class People:
    """Ann and Ben act for alice and bob, Ole operates."""

    api: RestHouse
    ids: dict[str, int] = field(default_factory=dict)

    async def add(self, email: str, role: Role, account: str | None = None) -> None:
        hashed = QUICK.hash(PASSWORD)
        run = self.api.house.database.store.run
        self.ids[email] = await run(users.add, email, hashed, role, account, NOON)

    async def try_in(self, email: str = ANN, password: str = PASSWORD, **more: Any) -> httpx.Response:
        return await self.api.ask(
            "POST", "/api/v1/sessions", {"email": email, "password": password}, who="", headers=more.get("headers")
        )

    async def token(self, email: str = ANN) -> str:
        response = await self.try_in(email)
        assert response.status_code == 201, response.text
        return str(response.json()["token"])

    async def ask(self, token: str, method: str, path: str, body: Any = None, **more: str) -> httpx.Response:
        headers = {"authorization": f"Bearer {token}", **more}
        return await self.api.ask(method, path, body, who="", headers=headers)

    async def is_in(self, token: str) -> bool:
        response = await self.ask(token, "GET", "/api/v1/me")
        assert response.status_code == 200 or code_of(response) == "bad_session"
        return response.status_code == 200


@pytest.fixture
async def people(tmp_path: Path, database_url: str) -> AsyncIterator[People]:
    async with rest_house(tmp_path, environment(database_url, JWT_SECRET_KEY=SECRET)) as api:
        yield await inhabited(api)


@pytest.fixture
async def one(tmp_path: Path, sqlite_url: str) -> AsyncIterator[People]:
    """The same on SQLite only, for what does not depend on the database."""
    async with rest_house(tmp_path, environment(sqlite_url, JWT_SECRET_KEY=SECRET)) as api:
        yield await inhabited(api)


async def inhabited(api: RestHouse) -> People:
    api.house.gateway.sessions.passwords = Passwords(QUICK)
    found = People(api)
    await found.add(ANN, Role.RESELLER, "alice")
    await found.add(BEN, Role.RESELLER, "bob")
    await found.add(OLE, Role.OPERATOR)
    return found


def code_of(response: httpx.Response) -> str:
    found = response.json()
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["cache-control"] == "no-store"
    assert found["status"] == response.status_code == KINDS[found["code"]].status
    return str(found["code"])


def made(**changes: Any) -> str:
    """A token as ours, but for the changes; None takes a claim out."""
    claims = {"iss": sessions.ISSUER, "aud": sessions.AUDIENCE, "sub": "1", "jti": "x", "iat": int(NOON),
              "exp": int(NOON) + 60, "epoch": 0}  # fmt: skip
    kept = {name: value for name, value in {**claims, **changes}.items() if value is not None}
    return jwt.encode(kept, SECRET, algorithm="HS256")


def unsigned(header: Mapping[str, Any], claims: Mapping[str, Any], signature: str = "") -> str:
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in (header, claims)]
    return ".".join([*parts, signature])


# Signing in


async def test_a_reseller_signs_in_and_acts_for_the_account(people: People) -> None:
    response = await people.try_in("  ANN@Example.COM ")
    assert response.status_code == 201
    assert response.headers["cache-control"] == "no-store"
    found = response.json()
    assert {name: found[name] for name in ("expires_at", "role", "account")} == {
        "expires_at": "2025-06-02T00:00:00Z", "role": "reseller", "account": "alice"
    }  # fmt: skip
    me = await people.ask(found["token"], "GET", "/api/v1/me")
    assert me.headers["cache-control"] == "no-store"
    assert me.json() == {
        "email": ANN, "role": "reseller", "account": "alice", "currency": "USD",
        "session_expires_at": "2025-06-02T00:00:00Z",
    }  # fmt: skip
    assert (await people.ask(found["token"], "GET", "/balance")).json()["balance"]["amount"] == "10.00"


async def test_a_session_buys_reads_and_cancels_as_a_key_does(people: People) -> None:
    token = await people.token()
    body = {"service": "xmute", "country": 6}
    first = await people.ask(token, "POST", "/purchase", body, **{"idempotency-key": "a"})
    assert first.status_code == 201
    again = await people.ask(token, "POST", "/purchase", body, **{"idempotency-key": "a"})
    assert again.content == first.content
    name = first.json()["id"]
    assert (await people.api.get(f"/api/v1/activations/{name}"))["status"] == "waiting"
    cancelled = await people.ask(token, "POST", f"/api/v1/activations/{name}/cancel")
    assert cancelled.json()["status"] == "cancelled"
    assert await people.api.house.problems() == []
    row = await people.api.house.database.store.read(
        lambda tx: tx.one(
            "select k.digest from activations a join api_keys k on k.id = a.key_id where a.id = :id",
            id=int(name.removeprefix("ver_")),
        )
    )
    assert row is not None
    assert row["digest"] == f"user:{people.ids[ANN]}"


async def test_resellers_do_not_see_each_other(people: People) -> None:
    ann, ben = await people.token(ANN), await people.token(BEN)
    bought = await people.ask(ann, "POST", "/purchase", {"service": "tg", "country": 6})
    path = f"/api/v1/activations/{bought.json()['id']}"
    nobodys = await people.ask(ben, "GET", "/api/v1/activations/ver_100999999")
    for method, end in (
        ("GET", ""),
        ("GET", "/messages"),
        ("GET", "/events"),
        ("POST", "/cancel"),
        ("POST", "/finish"),
    ):
        response = await people.ask(ben, method, path + end)
        assert (response.status_code, response.content) == (404, nobodys.content)
    assert (await people.ask(ben, "GET", "/api/v1/activations")).json()["activations"] == []
    assert (await people.ask(ben, "GET", "/balance")).json()["balance"]["amount"] == "10.00"
    assert len((await people.ask(ann, "GET", "/api/v1/activations")).json()["activations"]) == 1


async def test_wrong_passwords_unknown_and_disabled_people_are_answered_alike(people: People) -> None:
    await people.api.house.database.store.run(users.switch, people.ids[BEN], NOON)
    verified: list[str | None] = []
    hasher = people.api.house.gateway.sessions.passwords
    matches = hasher.matches

    async def counted(known: str | None, password: str) -> bool:
        verified.append(known)
        return await matches(known, password)

    with patch.object(hasher, "matches", counted):
        said = [
            await people.try_in(ANN, ANOTHER),
            await people.try_in("nobody@example.com"),
            await people.try_in(BEN),
        ]
    assert {code_of(response) for response in said} == {"bad_credentials"}
    assert len({response.content for response in said}) == 1
    assert all(response.headers["www-authenticate"] == "Bearer" for response in said)
    assert [known is None for known in verified] == [False, True, False]


@pytest.mark.parametrize(
    "body",
    [
        {}, {"email": ANN}, {"email": ANN, "password": 7}, {"email": ANN, "password": ""},
        {"email": "ann", "password": PASSWORD}, {"email": "a\0@b", "password": PASSWORD},
        {"email": ANN, "password": PASSWORD, "more": 1},
    ],
)  # fmt: skip
async def test_what_is_no_attempt_at_all_is_told_so_without_being_repeated(one: People, body: Any) -> None:
    response = await one.api.ask("POST", "/api/v1/sessions", body, who="")
    assert code_of(response) == "invalid"
    assert PASSWORD not in response.text


async def test_a_hash_of_other_parameters_is_made_anew(people: People) -> None:
    newer = PasswordHasher(time_cost=2, memory_cost=16, parallelism=1)
    people.api.house.gateway.sessions.passwords = Passwords(newer)
    await people.token()
    row = await people.api.house.database.store.read(users.by_id, people.ids[ANN])
    assert "$m=16,t=2,p=1$" in row["password_hash"]
    await people.token()


async def test_neither_password_nor_token_reaches_a_log(one: People) -> None:
    with capture_logs() as logs:
        token = await one.token()
        await one.try_in(ANN, ANOTHER)
        await one.ask(token, "PUT", "/api/v1/me/password", {"current_password": PASSWORD, "new_password": ANOTHER})
        with patch.object(one.api.house.gateway.sessions, "sign_in", side_effect=RuntimeError("no")):
            assert code_of(await one.try_in()) == "internal"
    assert {line["event"] for line in logs} >= {"session.opened", "session.not_proven", "request.failed"}
    written = repr([{name: value for name, value in line.items() if name != "exc_info"} for line in logs])
    assert not any(secret in written for secret in (token, PASSWORD, ANOTHER, ANN))


# Who came in


async def audited(people: People) -> list[tuple[str, str, str, int | None]]:
    rows = await people.api.house.database.store.read(audit.page)
    return [(row["actor"], row["action"], row["subject"], row["account_id"]) for row in rows]


async def test_who_came_in_and_who_was_kept_out_is_in_the_audit_log(people: People) -> None:
    me = f"user:{people.ids[ANN]}"
    await people.api.house.database.store.run(users.switch, people.ids[BEN], NOON)
    for email, password in ((ANN, PASSWORD), (ANN, ANOTHER), (BEN, PASSWORD), ("nobody@example.com", PASSWORD)):
        await people.try_in(email, password)
    found = await audited(people)
    account_id = found[0][3]
    assert found == [
        (me, "session.open", me, account_id), ("unproven", "session.refuse", me, account_id),
        ("unproven", "session.refuse", f"user:{people.ids[BEN]}", found[2][3]),
        ("unproven", "session.refuse", "user:unknown", None),
    ]  # fmt: skip
    assert None not in (account_id, found[2][3])
    rows = await people.api.house.database.store.read(audit.page)
    assert {row["detail"] for row in rows} == {"{}"}


async def test_ones_own_password_change_is_in_the_audit_log_where_it_was_changed(people: People) -> None:
    token, me = await people.token(), f"user:{people.ids[ANN]}"
    for current in (ANOTHER, PASSWORD):
        await people.ask(token, "PUT", "/api/v1/me/password", {"current_password": current, "new_password": ANOTHER})
    assert [entry[:3] for entry in await audited(people)] == [
        (me, "session.open", me), ("unproven", "session.refuse", me), (me, "user.password", me),
    ]  # fmt: skip


async def test_a_reseller_reads_of_its_own_people_and_of_no_others(people: People) -> None:
    await people.token(BEN)
    await people.try_in("nobody@example.com", ANOTHER)
    token = await people.token(ANN)
    lines = (await people.ask(token, "GET", "/api/v1/audit")).text.splitlines()
    assert [json.loads(line)["subject"] for line in lines] == [f"user:{people.ids[ANN]}"]


async def test_what_is_put_off_for_guessing_fills_no_log(people: People) -> None:
    for _ in range(FREE_PER_EMAIL + 10):
        await people.try_in(ANN, ANOTHER)
    assert len(await audited(people)) == FREE_PER_EMAIL + 1


# Floods


async def test_guessing_is_slowed_down_alike_for_everybody_and_nobody(people: People) -> None:
    said = {}
    for email in (ANN, "nobody@example.com"):
        for _ in range(FREE_PER_EMAIL + 1):
            assert code_of(await people.try_in(email, ANOTHER)) == "bad_credentials"
        response = await people.try_in(email)
        assert code_of(response) == "too_many_requests"
        assert response.headers["retry-after"] == "2"
        said[email] = response.content
    assert len(set(said.values())) == 1
    people.api.house.clock.now += 2
    await people.token()
    assert code_of(await people.try_in(ANN, ANOTHER)) == "bad_credentials"


async def test_enabling_somebody_ends_the_pauses(people: People) -> None:
    operator, at = await people.token(OLE), f"/api/v1/users/{people.ids[ANN]}/enable"
    for _ in range(2):  # the second time from an address that she has signed in from
        for _ in range(FREE_PER_EMAIL + 1):
            assert code_of(await people.try_in(ANN, ANOTHER)) == "bad_credentials"
        assert code_of(await people.try_in()) == "too_many_requests"
        assert (await people.ask(operator, "POST", at)).status_code == 200
        await people.token()


async def test_one_address_is_slowed_down_and_then_costs_the_database_nothing(one: People) -> None:
    for place in range(FREE_PER_ADDRESS + 1):
        assert code_of(await one.try_in(f"x{place}@example.com")) == "bad_credentials"
    for _ in range(2):
        assert code_of(await one.try_in()) == "too_many_requests"
    with patch.object(one.api.house.database.store, "run", side_effect=AssertionError("asked")):
        assert code_of(await one.try_in()) == "too_many_requests"
    one.api.house.clock.now += 2
    await one.token()


async def test_the_address_is_the_clients_only_where_a_trusted_proxy_says_so(tmp_path: Path, sqlite_url: str) -> None:
    gateway = '[server]\ntrusted_proxies = ["127.0.0.1"]\n'
    async with rest_house(tmp_path, environment(sqlite_url, JWT_SECRET_KEY=SECRET), gateway=gateway) as api:
        people = await inhabited(api)
        for place in range(FREE_PER_ADDRESS + 1):
            await people.try_in(f"x{place}@example.com", headers={"x-forwarded-for": "203.0.113.9"})
        assert code_of(await people.try_in(headers={"x-forwarded-for": "203.0.113.9"})) == "too_many_requests"
        assert (await people.try_in(headers={"x-forwarded-for": "203.0.113.9, 203.0.113.10"})).status_code == 201


async def test_when_too_many_sign_in_at_once_the_rest_come_again(one: People) -> None:
    hasher = one.api.house.gateway.sessions.passwords
    places = [hasher.place() for _ in range(PLACES)]
    for place in places:
        place.__enter__()
    response = await one.try_in()
    assert code_of(response) == "unavailable"
    assert response.headers["retry-after"] == "1"
    places[0].__exit__(None, None, None)
    await one.token()


async def test_a_flood_of_sign_ins_does_not_hold_up_a_poll(one: People) -> None:
    """With the hashes as they are in earnest: the loop goes on while threads work."""
    one.api.house.gateway.sessions.passwords = Passwords()
    name = await one.api.buy()
    flood = [asyncio.create_task(one.try_in(f"x{place}@example.com")) for place in range(12)]
    polls = 0
    while not all(task.done() for task in flood):
        assert (await one.api.ask("GET", f"/api/v1/activations/{name}")).status_code == 200
        polls += 1
        await asyncio.sleep(0)
    assert polls > 50
    assert {code_of(task.result()) for task in flood} == {"bad_credentials"}


# Tokens


async def test_a_token_that_was_touched_is_none(one: People) -> None:
    token = await one.token()
    header, claims, signature = token.split(".")
    told = json.loads(base64.urlsafe_b64decode(claims + "=="))
    operator = {**told, "sub": str(one.ids[OLE])}
    for touched in (
        unsigned({"alg": "HS256", "typ": "JWT"}, operator, signature),
        unsigned({"alg": "none", "typ": "JWT"}, told),
        unsigned({"alg": "none"}, operator, signature),
        unsigned({"alg": "None"}, told),
        f"{header}.{claims}.",
        f"{header}.{claims}.{signature[:-3]}",
        f"{header}.{claims}",
        f"{token}.{signature}",
        "...",
        ".",
        "a" * 5000 + "." + "b" * 5000,
        jwt.encode(told, SECRET, algorithm="HS512"),
        jwt.encode(told, OLDER, algorithm="HS256"),
    ):
        response = await one.ask(touched, "GET", "/balance")
        assert code_of(response) == "bad_session", touched
        assert response.headers["www-authenticate"] == "Bearer"
    assert await one.is_in(token)


@pytest.mark.parametrize("claim", ["iss", "aud", "sub", "jti", "iat", "exp", "epoch"])
async def test_a_token_without_any_of_its_claims_is_none(one: People, claim: str) -> None:
    assert await one.is_in(made())
    assert not await one.is_in(made(**{claim: None}))


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "another"}, {"aud": "another"}, {"aud": ["another"]}, {"sub": "99"}, {"sub": "x"}, {"sub": "9" * 30},
        {"sub": 1}, {"exp": int(NOON)}, {"exp": "soon"}, {"exp": 1e400}, {"epoch": 1}, {"epoch": "0"}, {"jti": 7},
    ],
)  # fmt: skip
async def test_a_token_that_says_something_else_is_none(one: People, changes: dict[str, Any]) -> None:
    assert not await one.is_in(made(**changes))


async def test_a_token_goes_where_no_log_of_addresses_shows_it(one: People) -> None:
    token = await one.token()
    for headers, query in (({"x-api-key": token}, ""), ({}, f"?api_key={token}")):
        response = await one.api.ask("GET", "/balance" + query, who="", headers=headers)
        assert code_of(response) == "bad_key"


async def test_a_session_ends_with_its_time(one: People) -> None:
    token = await one.token()
    one.api.house.clock.now += LIFE_SECONDS - 1
    assert await one.is_in(token)
    one.api.house.clock.now += 1
    assert not await one.is_in(token)


async def test_the_life_of_a_session_is_a_setting(tmp_path: Path, sqlite_url: str) -> None:
    gateway = "[sessions]\nlife_seconds = 60\n"
    async with rest_house(tmp_path, environment(sqlite_url, JWT_SECRET_KEY=SECRET), gateway=gateway) as api:
        people = await inhabited(api)
        assert (await people.try_in()).json()["expires_at"] == "2025-06-01T12:01:00Z"


async def test_an_older_secret_still_opens_what_it_signed(tmp_path: Path, database_url: str) -> None:
    values = environment(database_url, JWT_SECRET_KEY=OLDER)
    async with rest_house(tmp_path, values) as api:
        people = await inhabited(api)
        token = await people.token()
    async with rest_house(tmp_path, {**values, "JWT_SECRET_KEY": f"{SECRET},{OLDER}"}, is_new=False) as api:
        rotated = People(api)
        assert await rotated.is_in(token)
        fresh = (await rotated.try_in()).json()["token"]
        assert jwt.decode(
            fresh, SECRET, algorithms=["HS256"], audience=sessions.AUDIENCE, options={"verify_exp": False}
        )
    async with rest_house(tmp_path, {**values, "JWT_SECRET_KEY": SECRET}, is_new=False) as api:
        over = People(api)
        assert not await over.is_in(token)
        assert await over.is_in(fresh)


async def test_without_a_secret_nobody_signs_in_and_keys_work(tmp_path: Path, postgres_url: str) -> None:
    values = environment(postgres_url)
    del values["JWT_SECRET_KEY"]
    async with rest_house(tmp_path, values) as api:
        people = await inhabited(api)
        response = await people.try_in()
        assert code_of(response) == "sign_in_not_set_up"
        assert "not set up" in response.json()["title"]
        assert not await people.is_in(made())
        assert not await people.is_in(unsigned({"alg": "none"}, {"sub": "1"}))
        assert (await api.ask("GET", "/balance")).status_code == 200


# The end of a session


async def test_signing_out_ends_this_session_at_once_and_no_other(people: People) -> None:
    first, second = await people.token(), await people.token()
    for token in (first, second):
        assert await people.is_in(token)
    response = await people.ask(first, "DELETE", "/api/v1/sessions/current")
    assert (response.status_code, response.content, response.headers["cache-control"]) == (204, b"", "no-store")
    assert not await people.is_in(first)
    assert await people.is_in(second)
    assert code_of(await people.ask(first, "DELETE", "/api/v1/sessions/current")) == "bad_session"


async def test_signing_out_everywhere_ends_every_session_of_that_person(people: People) -> None:
    anns, ben = [await people.token(), await people.token()], await people.token(BEN)
    assert (await people.ask(anns[0], "DELETE", "/api/v1/sessions")).status_code == 204
    assert [await people.is_in(token) for token in (*anns, ben, await people.token())] == [False, False, True, True]


async def test_a_new_password_ends_other_sessions_and_begins_one(people: People) -> None:
    mine, other = await people.token(), await people.token()
    body = {"current_password": PASSWORD, "new_password": ANOTHER}
    response = await people.ask(mine, "PUT", "/api/v1/me/password", body)
    assert response.status_code == 200
    assert [await people.is_in(token) for token in (mine, other, response.json()["token"])] == [False, False, True]
    assert code_of(await people.try_in()) == "bad_credentials"
    assert (await people.try_in(ANN, ANOTHER)).status_code == 201


async def test_a_new_password_needs_the_old_one_and_has_to_do(people: People) -> None:
    token = await people.token()
    path = "/api/v1/me/password"
    wrong = await people.ask(token, "PUT", path, {"current_password": ANOTHER, "new_password": ANOTHER})
    assert (code_of(wrong), wrong.json()["errors"][0]["pointer"]) == ("wrong_password", "/current_password")
    long = {"current_password": PASSWORD, "new_password": "€" * 400}
    refused = await people.ask(token, "PUT", path, long)
    assert (code_of(refused), refused.json()["errors"][0]["pointer"]) == ("bad_password", "/new_password")
    short = await people.ask(token, "PUT", path, {"current_password": PASSWORD, "new_password": "short"})
    assert code_of(short) == "invalid"
    for _ in range(FREE_PER_EMAIL):
        await people.ask(token, "PUT", path, {"current_password": ANOTHER, "new_password": ANOTHER})
    guessed = await people.ask(token, "PUT", path, {"current_password": PASSWORD, "new_password": ANOTHER})
    assert code_of(guessed) == "too_many_requests"
    assert await people.is_in(token)


async def test_whoever_is_disabled_elsewhere_is_out_at_the_next_look(people: People) -> None:
    token = await people.token()
    assert await people.is_in(token)
    house = people.api.house
    await house.database.store.run(users.switch, people.ids[ANN], NOON)
    await house.gateway.sessions.refresh()
    for method, path, body in (("GET", "/balance", None), ("POST", "/purchase", {"service": "tg", "country": 6})):
        assert code_of(await people.ask(token, method, path, body)) == "bad_session"
    await house.database.store.run(users.switch, people.ids[ANN], None)
    await house.gateway.sessions.refresh()
    assert not await people.is_in(token)
    assert await people.is_in(await people.token())
    assert (await people.api.ask("GET", "/balance")).status_code == 200


async def test_a_running_server_looks_once_a_second(one: People) -> None:
    token = await one.token()
    assert await one.is_in(token)
    with patch.object(
        one.api.house.gateway.sessions, "refresh", wraps=one.api.house.gateway.sessions.refresh
    ) as looked:
        await one.api.house.gateway.worker._tick()
    assert looked.call_count == 1


async def test_sessions_in_use_go_on_while_the_database_is_away(one: People) -> None:
    token = await one.token()
    name = (await one.ask(token, "POST", "/purchase", {"service": "tg", "country": 6})).json()["id"]
    with one.api.house.database_away():
        assert (await one.ask(token, "GET", f"/api/v1/activations/{name}")).status_code == 200
        assert code_of(await one.try_in()) == "unavailable"
        assert code_of(await one.ask(made(sub=str(one.ids[BEN])), "GET", "/balance")) == "unavailable"


# Who may do what


@pytest.mark.parametrize(("method", "path", "body"), ACCOUNT_CALLS)
async def test_an_operator_has_no_account_to_act_for(one: People, method: str, path: str, body: Any) -> None:
    response = await one.ask(await one.token(OLE), method, path, body)
    assert code_of(response) == "account_required"
    assert await one.api.house.balance("alice") == (10_000_000, 0, 0)


@pytest.mark.parametrize(("method", "path", "body"), OPERATOR_CALLS)
async def test_what_operators_do_nobody_else_does(one: People, method: str, path: str, body: Any) -> None:
    assert code_of(await one.ask(await one.token(ANN), method, path, body)) == "operator_required"
    assert code_of(await one.api.ask(method, path, body)) == "operator_required"
    assert code_of(await one.api.ask(method, path, body, who="")) == "bad_key"
    assert len(await one.api.house.database.store.read(users.overview)) == 3


@pytest.mark.parametrize(("method", "path", "body"), SESSION_CALLS)
async def test_a_key_has_no_session(one: People, method: str, path: str, body: Any) -> None:
    assert code_of(await one.api.ask(method, path, body)) == "session_required"


async def test_a_key_and_an_operator_are_told_who_they_are(one: People) -> None:
    assert await one.api.get("/api/v1/me") == {
        "email": None, "role": None, "account": "alice", "currency": "USD", "session_expires_at": None
    }  # fmt: skip
    me = (await one.ask(await one.token(OLE), "GET", "/api/v1/me")).json()
    assert (me["email"], me["role"], me["account"], me["currency"]) == (OLE, "operator", None, None)


async def test_an_operator_sees_every_account_with_its_money(people: People) -> None:
    await people.api.buy("xmute")
    found = (await people.ask(await people.token(OLE), "GET", "/api/v1/accounts")).json()["accounts"]
    assert [one["name"] for one in found] == ["alice", "bob"]
    alice = {name: found[0][name] for name in ("balance", "held", "open_activations", "keys", "is_demo", "parent")}
    assert alice == {
        "balance": {"amount": "9.92", "currency": "USD"}, "held": {"amount": "0.08", "currency": "USD"},
        "open_activations": 1, "keys": 1, "is_demo": True, "parent": None,
    }  # fmt: skip


async def test_an_operator_lets_people_in_and_keeps_them_out(people: People) -> None:
    ole = await people.token(OLE)
    body = {"email": "New@Example.com", "password": PASSWORD, "role": "reseller", "account": "bob"}
    added = await people.ask(ole, "POST", "/api/v1/users", body)
    assert added.status_code == 201
    assert PASSWORD not in added.text
    assert {name: added.json()[name] for name in ("email", "role", "account", "disabled_at")} == {
        "email": "new@example.com", "role": "reseller", "account": "bob", "disabled_at": None
    }  # fmt: skip
    token = await people.token("new@example.com")
    assert await people.is_in(token)
    path = f"/api/v1/users/{added.json()['id']}"
    for _ in range(2):
        disabled = await people.ask(ole, "POST", f"{path}/disable")
        assert disabled.json()["disabled_at"] == "2025-06-01T12:00:00Z"
    assert not await people.is_in(token)
    assert code_of(await people.try_in("new@example.com")) == "bad_credentials"
    shown = (await people.ask(ole, "GET", "/api/v1/users")).json()["users"]
    assert [(one["email"], one["disabled_at"] is None) for one in shown] == [
        (ANN, True), (BEN, True), ("new@example.com", False), (OLE, True)
    ]  # fmt: skip
    assert (await people.ask(ole, "POST", f"{path}/enable")).json()["disabled_at"] is None
    await people.token("new@example.com")


async def test_the_last_operator_stays(people: People) -> None:
    operator, ole = await people.token(OLE), f"/api/v1/users/{people.ids[OLE]}"
    assert code_of(await people.ask(operator, "POST", ole + "/disable")) == "last_operator"
    await people.add("eva@example.com", Role.OPERATOR)
    eva = f"/api/v1/users/{people.ids['eva@example.com']}"
    assert (await people.ask(operator, "POST", eva + "/disable")).status_code == 200
    assert code_of(await people.ask(operator, "POST", ole + "/disable")) == "last_operator"
    assert (await people.ask(operator, "POST", eva + "/disable")).status_code == 200  # safe to repeat
    assert (await people.ask(operator, "POST", eva + "/enable")).status_code == 200
    assert (await people.ask(operator, "POST", ole + "/disable")).status_code == 200


async def test_people_who_cannot_be_are_refused_with_the_reason(people: People) -> None:
    ole = await people.token(OLE)
    good = {"email": "x@example.com", "password": PASSWORD, "role": "reseller", "account": "bob"}
    for changes, code in (
        ({"email": ANN}, "email_taken"),
        ({"email": "nobody"}, "invalid"),
        ({"account": "nobody"}, "invalid"),
        ({"account": None}, "invalid"),
        ({"role": "operator"}, "invalid"),
        ({"role": "admin"}, "invalid"),
        ({"password": "too short"}, "invalid"),
        ({"password": "€" * 400}, "bad_password"),
    ):
        response = await people.ask(ole, "POST", "/api/v1/users", {**good, **changes})
        assert code_of(response) == code, changes
        assert response.json().get("errors") or response.json().get("detail") or code == "email_taken"
    for word in ("0", "99", "x", "9" * 30, "-1", "%D9%A1"):
        assert code_of(await people.ask(ole, "POST", f"/api/v1/users/{word}/disable")) == "unknown_user"
    assert len(await people.api.house.database.store.read(users.overview)) == 3


async def test_operators_are_counted_too(tmp_path: Path, sqlite_url: str) -> None:
    gateway = "[limits]\npolls_per_minute = 2\nchanges_per_minute = 1\n"
    async with rest_house(tmp_path, environment(sqlite_url, JWT_SECRET_KEY=SECRET), gateway=gateway) as api:
        people = await inhabited(api)
        ole = await people.token(OLE)
        reads = [(await people.ask(ole, "GET", "/api/v1/users")).status_code for _ in range(3)]
        path = f"/api/v1/users/{people.ids[ANN]}/enable"
        changes = [(await people.ask(ole, "POST", path)).status_code for _ in range(2)]
        assert (reads, changes) == ([200, 200, 429], [200, 429])
        assert (await people.ask(await people.token(ANN), "GET", "/api/v1/me")).status_code == 200
