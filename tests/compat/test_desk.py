"""The desk over HTTP: who is let in, what is shown, and how each mistake is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from structlog.testing import capture_logs

from adapters.manual_entry import ManualEntry, Options, build
from compat.desk import BODY_BYTES_MAX, PREFIX, routes
from gateway.database import Database, open_database
from gateway.desk import Desk
from gateway.errors import SoldOut
from gateway.model import LeaseState, Outcome, Watched
from tests.adapters._context import context, order
from tests.harness import environment

NUMBER, OTHER_NUMBER = "447700900001", "447700900002"
KEY, OTHER_KEY = "key-of-this-desk", "key-of-another-desk"
NOW = 1_750_000_000.0
PROBLEM = "application/problem+json"


@dataclass
class Office:
    """Two desks and something that is none, behind the endpoint."""

    database: Database
    now: float = NOW
    delivered: list[tuple[str, str]] = field(default_factory=list)
    fails: bool = False

    def __post_init__(self) -> None:
        self.desk = self._desk("manual_entry", KEY)
        self.other = self._desk("another", OTHER_KEY)
        upstreams = {
            "manual_entry": self.desk,
            "another": self.other,
            "keyless": self._desk("keyless", ""),
            "x": object(),
        }
        app = Starlette(routes=list(routes(lambda: upstreams, self.deliver)))
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://gateway")

    def _desk(self, name: str, key: str) -> ManualEntry:
        desk = Desk(self.database.store, self.database.vault, lambda: self.now, name, lambda _title, _body: None)
        options = Options.model_validate({"services": ["tg"], "countries": [16], "price": "0.40"})
        return build(context(name=name, clock=lambda: self.now, secret=key, desk=desk), options)

    async def deliver(self, upstream: str, reference: str) -> None:
        self.delivered.append((upstream, reference))
        if self.fails:
            raise RuntimeError(NUMBER)

    async def get(self, desk: str = "manual_entry", key: str = KEY) -> httpx.Response:
        return await self.client.get(f"{PREFIX}/{desk}", headers=bearer(key))

    async def post(self, path: str, body: Any, key: str = KEY) -> httpx.Response:
        """Posts a body to what follows the desk's own address; bytes as they are, anything else as JSON."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.client.post(f"{PREFIX}/manual_entry/{path}", content=content, headers=bearer(key))

    async def wanted(self) -> str:
        """A task that wants a number."""
        with pytest.raises(SoldOut):
            await self.desk.buy(order(timeout_seconds=0.7))
        return (await self.desk.waiting())[-1].id

    async def leased(self, number: str = NUMBER) -> str:
        """A task whose number an order has."""
        await self.desk.offer("tg", 16, number)
        return (await self.desk.buy(order())).reference


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"} if key else {}


def problem(response: httpx.Response, status: int) -> str:
    """The detail of a problem that says so in every field."""
    assert response.status_code == status
    assert response.headers["content-type"] == PROBLEM
    assert response.headers["cache-control"] == "no-store"
    body = response.json()
    assert set(body) == {"type", "title", "status", "detail"}
    assert body["status"] == status
    return str(body["detail"])


@pytest.fixture
async def office(sqlite_url: str) -> AsyncIterator[Office]:
    database = await asyncio.to_thread(open_database, environment(sqlite_url))
    found = Office(database)
    yield found
    await found.client.aclose()
    await database.store.close()


@pytest.fixture(autouse=True)
def logs() -> Iterator[list[Any]]:
    with capture_logs() as found:
        yield found


# A life


async def test_number_then_code_are_typed_and_the_code_is_delivered_at_once(office: Office) -> None:
    task = await office.wanted()
    assert (await office.get()).json()["tasks"] == [
        {
            "task": task,
            "state": "wanted",
            "wants": "number",
            "service": "tg",
            "country": 16,
            "operator": "",
            "price": "0.40 USD",
            "number": "",
            "messages": 0,
            "created_at": NOW,
            "until": NOW + 600,
        }
    ]
    ready = await office.post(task, {"number": "+44 7700 900001"})
    assert (ready.status_code, ready.json()["state"], ready.json()["number"]) == (200, "ready", NUMBER)
    assert office.delivered == []
    office.now += 8
    lease = await office.desk.buy(order())
    assert lease.reference == task
    assert [one["wants"] for one in (await office.get()).json()["tasks"]] == ["code"]
    done = await office.post(task, {"code": "012345", "text": "Your code is 012345"})
    assert (done.status_code, done.json()["wants"], done.json()["messages"]) == (200, "", 1)
    assert office.delivered == [("manual_entry", task)]
    ((sms,)) = (await office.desk.read(Watched(task, 1))).messages
    assert (sms.code, sms.text) == ("012345", "Your code is 012345")


async def test_same_request_again_changes_nothing(office: Office) -> None:
    task = await office.leased()
    for _ in range(2):
        assert (await office.post(task, {"code": "12345"})).json()["messages"] == 1
    for _ in range(2):
        assert (await office.post(task, {"failed": True})).json()["state"] == "failed"


async def test_failed_task_in_use_is_read_at_once(office: Office) -> None:
    task = await office.leased()
    assert (await office.post(task, {"failed": True})).status_code == 200
    assert office.delivered == [("manual_entry", task)]
    assert (await office.desk.read(Watched(task, 1))).state is LeaseState.CANCELLED


async def test_declined_task_that_no_order_has_is_nothing_to_read(office: Office) -> None:
    assert (await office.post(await office.wanted(), {"failed": True})).json()["state"] == "failed"
    assert office.delivered == []


async def test_number_is_put_up_in_advance(office: Office) -> None:
    made = await office.post("numbers", {"service": "tg", "country": 16, "number": NUMBER})
    assert (made.status_code, made.json()["state"]) == (201, "ready")
    assert (await office.desk.buy(order())).number == NUMBER


async def test_code_is_kept_where_its_delivery_fails(office: Office, logs: list[Any]) -> None:
    task = await office.leased()
    office.fails = True
    assert (await office.post(task, {"code": "12345"})).status_code == 200
    assert len((await office.desk.read(Watched(task, 1))).messages) == 1
    assert [one["event"] for one in logs] == ["desk.not_delivered"]
    assert NUMBER not in str(logs)


async def test_list_is_kept_by_no_cache_and_shows_no_message(office: Office) -> None:
    task = await office.leased()
    await office.post(task, {"code": "975312", "text": "the text of it"})
    response = await office.get()
    assert response.headers["cache-control"] == "no-store"
    assert "975312" not in response.text
    assert "the text of it" not in response.text
    assert [one["number"] for one in response.json()["tasks"]] == [NUMBER]


# Who is let in


@pytest.mark.parametrize("key", ["", "wrong", KEY + "x", KEY[:-1], "\x00", "é"])
async def test_without_a_key_every_path_is_401(office: Office, key: str) -> None:
    task = await office.leased()
    headers = {b"authorization": f"Bearer {key}".encode("latin-1")} if key else {}
    answers = set()
    for method, path in (
        ("GET", "manual_entry"), ("GET", "keyless"), ("GET", "x"), ("GET", "nosuch"), ("POST", f"manual_entry/{task}"),
        ("POST", "manual_entry/99999"), ("POST", "nosuch/1"), ("POST", "manual_entry/numbers"),
    ):  # fmt: skip
        response = await office.client.request(method, f"{PREFIX}/{path}", headers=headers, content=b"not JSON")
        problem(response, 401)
        assert response.headers["www-authenticate"] == "Bearer"
        answers.add(response.content)
    assert len(answers) == 1
    assert (await office.desk.waiting())[0].messages == ()


@pytest.mark.parametrize("header", ["Basic {}", "{}", "Bearer", "Bearer ", "Token {}", "bearer: {}"])
async def test_key_comes_as_a_bearer_token(office: Office, header: str) -> None:
    response = await office.client.get(f"{PREFIX}/manual_entry", headers={"authorization": header.format(KEY)})
    problem(response, 401)


async def test_scheme_is_read_in_any_case(office: Office) -> None:
    response = await office.client.get(f"{PREFIX}/manual_entry", headers={"authorization": f"bearer {KEY}"})
    assert response.status_code == 200


async def test_what_is_not_ones_own_does_not_exist(office: Office) -> None:
    """Another desk, no desk, another desk's task, no task: one and the same answer."""
    theirs = await office.other.offer("tg", 16, NUMBER)
    answers = set()
    for path in ("another", "keyless", "x", "nosuch"):
        response = await office.get(path)
        problem(response, 404)
        answers.add(response.content)
    for task in (theirs.id, "99999", "x", "-1"):
        for body in ({"number": OTHER_NUMBER}, {"code": "12345"}, {"failed": True}):
            response = await office.post(task, body)
            problem(response, 404)
            answers.add(response.content)
    assert len(answers) == 1
    assert (await office.get()).json() == {"tasks": []}
    assert await office.other.waiting() == [theirs]


async def test_two_desks_with_one_key_are_both_open(office: Office) -> None:
    same = office._desk("same", KEY)
    app = Starlette(routes=list(routes(lambda: {"manual_entry": office.desk, "same": same}, office.deliver)))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://gateway") as client:
        for name in ("manual_entry", "same"):
            assert (await client.get(f"{PREFIX}/{name}", headers=bearer(KEY))).status_code == 200


# Mistakes


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"", 400, "not JSON"),
        (b"{", 400, "not JSON"),
        (b"\xff\xfe", 400, "not JSON"),
        (b"[" * 10_000, 400, "not JSON"),
        ([], 400, "not a JSON object"),
        ("12345", 400, "not a JSON object"),
        ({"code": 12345}, 422, "code: "),
        ({"code": None}, 422, "code: "),
        ({"failed": "yes"}, 422, "failed: "),
        ({"cod": "12345"}, 422, "unknown key"),
        ({"failed": True, "code": "12345"}, 422, "stands alone"),
        ({"failed": False}, 422, "type a number, a code or a text"),
        ({}, 422, "type a number, a code or a text"),
        ({"number": "07700900001"}, 422, "begins with 44"),
        ({"number": NUMBER, "code": "12345"}, 422, "number first"),
        (b'{"code": "\\ud83d"}', 422, "control characters"),
        (b'{"code": "12\\u000045"}', 422, "control characters"),
        ({"code": "12345"}, 409, "number first"),
        (b" " * (BODY_BYTES_MAX + 1), 413, "at most"),
    ],
)
async def test_mistake_is_told_in_words(office: Office, body: Any, status: int, words: str) -> None:
    task = await office.wanted()
    response = await office.post(task, body)
    assert words in problem(response, status)
    assert "12345" not in response.text
    assert "900001" not in response.text
    assert [one.wants for one in await office.desk.waiting()] == ["number"]
    assert office.delivered == []


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"service": "tg", "country": 16}, 422, "number: "),
        ({"service": "tg", "country": "16", "number": OTHER_NUMBER}, 422, "country: "),
        ({"service": "tg", "country": True, "number": OTHER_NUMBER}, 422, "country: "),
        ({"service": "wa", "country": 16, "number": OTHER_NUMBER}, 422, "does not sell"),
        ({"service": "tg", "country": 16, "number": "1"}, 422, "digits"),
        ({"service": "tg", "country": 16, "number": NUMBER}, 409, "on the desk already"),
    ],
)
async def test_number_that_cannot_be_put_up_is_told_in_words(
    office: Office, body: Any, status: int, words: str
) -> None:
    await office.desk.offer("tg", 16, NUMBER)
    response = await office.post("numbers", body)
    assert words in problem(response, status)
    assert "90000" not in response.text
    assert len(await office.desk.waiting()) == 1


async def test_task_that_is_over_is_a_conflict(office: Office) -> None:
    task = await office.leased()
    await office.desk.close(task, Outcome.CANCELLED)
    assert "over" in problem(await office.post(task, {"code": "12345"}), 409)
    assert office.delivered == []


async def test_database_that_is_away_is_told_to_come_again(office: Office) -> None:
    await office.database.store.close()
    assert "does not answer" in problem(await office.get(), 503)


async def test_body_that_never_ends_is_not_read_to_its_end(office: Office) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(1_000):
            sent += 1024
            yield b" " * 1024

    task = await office.wanted()
    response = await office.client.post(f"{PREFIX}/manual_entry/{task}", content=endless(), headers=bearer(KEY))
    problem(response, 413)
    assert sent <= BODY_BYTES_MAX + 2048
