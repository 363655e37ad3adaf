"""The OpenAPI document says what is served, no more and no less; and what is served keeps to it."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import re
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from argon2 import PasswordHasher
from starlette.routing import Route

from compat import rest
from compat._rest_http import Resource
from compat._rest_problems import KINDS, Refused, problem
from gateway import users
from gateway.passwords import Passwords
from gateway.users import Role
from tests.compat._rest_client import RestHouse, rest_house, soon
from tests.harness import ROOT, environment

GATEWAY = "[limits]\nchanges_per_minute = 1000000\npolls_per_minute = 1000000\nopen_activations = 1000000\n"
PASSWORD = "correct horse battery"
UNDOCUMENTED = {"/openapi.json", "/docs", "/docs/"}


@pytest.fixture
async def api(tmp_path: Path, sqlite_url: str) -> AsyncIterator[RestHouse]:
    async with rest_house(tmp_path, environment(sqlite_url), gateway=GATEWAY) as found:
        yield found


async def described(api: RestHouse) -> Any:
    return (await api.ask("GET", "/openapi.json", who="")).json()


def walk(value: Any) -> Iterator[Any]:
    """Every object within a JSON value."""
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from walk(inner)


async def test_the_document_has_every_route_and_no_other(api: RestHouse) -> None:
    served = {
        (route.path, method)
        for route in rest.routes(api.house.gateway.front)
        if isinstance(route.app, Resource) and route.path not in UNDOCUMENTED
        for method in set(route.app.methods) - {"HEAD", "OPTIONS"}
    }
    documented = {
        (path, method.upper()) for path, methods in (await described(api))["paths"].items() for method in methods
    }
    assert documented == served
    assert {"/balance", "/services", "/countries", "/purchase", "/messages/{id}", "/webhook"} <= {
        path for path, _ in served if not path.startswith("/api/")
    }


async def test_every_route_lets_its_methods_through(api: RestHouse) -> None:
    """Methods are the resource's business: Starlette's own 405 would be no problem+json."""
    assert all(isinstance(route, Route) and route.methods is None for route in rest.routes(api.house.gateway.front))


async def test_names_are_unique_and_references_lead_somewhere(api: RestHouse) -> None:
    document = await described(api)
    names = [operation["operationId"] for methods in document["paths"].values() for operation in methods.values()]
    assert len(set(names)) == len(names)
    references = {found["$ref"] for found in walk(document) if "$ref" in found}
    schemas = document["components"]["schemas"]
    assert {f"#/components/schemas/{name}" for name in schemas} >= references


async def test_paths_in_the_document_name_their_parameters(api: RestHouse) -> None:
    for path, methods in (await described(api))["paths"].items():
        for operation in methods.values():
            named = {one["name"] for one in operation["parameters"] if one["in"] == "path"}
            assert named == set(re.findall(r"\{(\w+)\}", path))


async def test_every_status_of_a_problem_is_documented_where_it_can_come(api: RestHouse) -> None:
    operations = [
        operation for route in rest.routes(api.house.gateway.front) if isinstance(route.app, Resource)
        for operation in route.app._operations.values()
    ]  # fmt: skip
    assert {code for operation in operations for code in operation.codes} <= set(KINDS)
    everywhere = {"not_found", "method_not_allowed"}
    never_here = {"bad_action", "bad_activation_id", "order_exists", "no_operators", "no_activations"}
    told = {code for operation in operations for code in operation.codes}
    assert told == set(KINDS) - everywhere - never_here


@pytest.mark.parametrize("code", sorted(KINDS))
def test_a_problem_says_its_code_and_leads_to_its_words(code: str) -> None:
    found = problem(Refused(code))
    assert (found.code, found.status, found.type) == (code, KINDS[code].status, f"/docs#{code}")


async def test_the_page_explains_every_call_and_every_code(api: RestHouse) -> None:
    page = (await api.ask("GET", "/docs", who="")).text
    document = await described(api)
    for path in document["paths"]:
        assert path in page
    for code in KINDS:
        assert f"id='{code}'" in page
    anchors = set(re.findall(r"id='([^']+)'", page))
    assert set(re.findall(r"href='#([^']+)'", page)) <= anchors


async def test_the_page_loads_nothing_from_anywhere(api: RestHouse) -> None:
    for spelt in ("/docs/", "/docs?utm_source=x&utm_source=y", "/openapi.json?v=1"):
        assert (await api.ask("GET", spelt, who="")).status_code == 200
    response = await api.ask("GET", "/docs", who="")
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.headers["content-security-policy"].startswith("default-src 'none'")
    assert not re.search(r"<script|<link|<img|src=|href='(?![#/])|url\(|@import", response.text)


@pytest.mark.parametrize("path", ["/openapi.json", "/docs"])
async def test_both_may_be_cached(api: RestHouse, path: str) -> None:
    first = await api.ask("GET", path, who="")
    assert "public" in first.headers["cache-control"]
    again = await api.ask("GET", path, who="", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


async def signed_in(api: RestHouse, role: Role, account: str | None) -> str:
    """The token of somebody of that role."""
    api.house.gateway.sessions.passwords = Passwords(PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))
    hashed, email = await api.house.gateway.sessions.passwords.hash(PASSWORD), f"{role.value}@example.com"
    await api.house.database.store.run(users.add, email, hashed, role, account, api.house.clock())
    response = await api.ask("POST", "/api/v1/sessions", {"email": email, "password": PASSWORD}, who="")
    return str(response.json()["token"])


async def test_the_document_says_who_may_call_what(api: RestHouse) -> None:
    document = await described(api)
    assert document["components"]["securitySchemes"]["session"]["bearerFormat"] == "JWT"
    assert [next(iter(way)) for way in document["security"]] == ["bearer", "header", "query", "session"]
    said = {
        (path, method): operation.get("security", "any")
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    assert said["/api/v1/sessions", "post"] == []
    assert said["/api/v1/users", "get"] == said["/api/v1/sessions/current", "delete"] == [{"session": []}]
    assert said["/balance", "get"] == said["/api/v1/me", "get"] == "any"
    page = (await api.ask("GET", "/docs", who="")).text
    assert "For operators who have signed in." in page


OF_MANAGING = "/(accounts|keys|alerts|webhook)"
OF_SESSIONS = "/(me|me/password|users.*|accounts|deposits.*|alerts|balance|purchase)$"
CHOSEN = {
    "key": ("--exclude-path-regex", f"/deposits|{OF_MANAGING}"),
    "key that manages": ("--include-path-regex", OF_MANAGING),
    "reseller": ("--include-path-regex", OF_SESSIONS),
    "operator": ("--include-path-regex", OF_SESSIONS),
}
"""By who asks, what for; a key's in two parts, which two workers can do at once."""


@pytest.mark.timeout(400)
@pytest.mark.parametrize("who", CHOSEN)
@pytest.mark.skipif(importlib.util.find_spec("schemathesis") is None, reason="schemathesis is not installed")
async def test_generated_requests_find_nothing_that_the_document_does_not_say(
    api: RestHouse, tmp_path: Path, who: str
) -> None:
    """Schemathesis, run against a server: statuses, media types, schemas, methods, keys and wrong data.

    Left out: `positive_data_acceptance`, since a service may be well-formed and not in the catalogue. Who waits is not
    made to wait here. Sessions do not sign out, or all that follows would be refused; and where a session differs from
    a key in nothing, the key is enough. What is an operator's alone is asked for as an operator.
    """
    api.stop.is_on = True
    token = api.house.keys["alice"]
    if who in ("reseller", "operator"):
        token = await signed_in(api, Role(who), "alice" if who == "reseller" else None)
    await api.buy("tg")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(api.app, log_config=None, access_log=False, lifespan="off"))
        serving = asyncio.create_task(server.serve([listener]))
        await soon(lambda: server.started)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "schemathesis.cli", "run",
            f"http://127.0.0.1:{listener.getsockname()[1]}/openapi.json",
            "--header", f"Authorization: Bearer {token}", *CHOSEN[who],
            "--phases", "examples,coverage", "--exclude-checks", "positive_data_acceptance",
            "--continue-on-failure", "--seed", "1", "--warnings", "off", "--no-color",
            cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        try:
            output, _ = await process.communicate()
        finally:
            server.should_exit = True
            await serving
    assert process.returncode == 0, output.decode()[-8000:]


async def test_docs_for_people_name_every_path_and_every_code(api: RestHouse) -> None:
    words = (ROOT / "docs" / "rest.md").read_text()
    for path in (await described(api))["paths"]:
        if path.startswith("/api/v1"):
            assert path.removeprefix("/api/v1") in words, path
    for code in KINDS:
        assert code in ("bad_action", "bad_activation_id", "order_exists", "no_operators", "no_activations") or (
            f"`{code}`" in words
        ), code
    for example in re.findall(r"```json\n(.*?)```", words, re.DOTALL):
        json.loads(example)
