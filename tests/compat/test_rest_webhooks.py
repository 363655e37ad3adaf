"""An account's webhook in our JSON API: set, tested, paused, enabled, its secret, its log, and what is sent again."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway import audit
from gateway.store import Tx
from gateway.webhook_forms import EXAMPLE_TEXT
from gateway.webhooks import Courier
from tests.compat._rest_client import RestHouse, rest_house
from tests.gateway.noticing import Receiver, carried, receiving, x_signature
from tests.harness import environment

GATEWAY = "[webhooks]\nallow_http = true\nallow_private_addresses = true\nretry_seconds = [1]\n"
TOP = "/api/v1/webhook"


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as found:
        yield found


@pytest.fixture
async def api(tmp_path: Path, sqlite_url: str) -> AsyncIterator[RestHouse]:
    async with rest_house(tmp_path, environment(sqlite_url), gateway=GATEWAY) as found:
        yield found


@pytest.fixture
async def either(tmp_path: Path, database_url: str) -> AsyncIterator[RestHouse]:
    """The same on each kind of database."""
    async with rest_house(tmp_path, environment(database_url), gateway=GATEWAY) as found:
        yield found


async def post(api: RestHouse, path: str, body: Any = None, who: str = "alice", status: int = 200) -> Any:
    response = await api.ask("POST", path, body, who=who)
    assert response.status_code == status, response.text
    return response.json()


async def receive(api: RestHouse, who: str = "alice") -> str:
    """A number with its code, whose notice is carried out; the activation's id."""
    bought = await api.buy(who=who)
    await api.house.passes(2.0)
    courier = Courier(api.house.gateway.house)
    try:
        await carried(courier)
    finally:
        await courier.aclose()
    return bought


async def test_a_webhook_is_shown_with_its_form_and_how_it_fares(api: RestHouse, receiver: Receiver) -> None:
    nothing = {
        "url": None, "format": None, "state": "none", "since": None, "paused_until": None, "failures": 0,
        "last_failure": None, "secret": "own", "former_secret_until": None,
    }  # fmt: skip
    assert await api.get("/webhook") == nothing
    url = receiver.url("/hook")
    wanted = nothing | {"url": url, "format": "native", "state": "active"}
    assert await post(api, "/webhook", {"url": url}) == wanted
    assert (await post(api, TOP, {"url": url, "format": "standard"}))["format"] == "standard"
    assert await api.get("/webhook") == wanted | {"format": "standard"}
    assert await api.get("/webhook", who="bob") == nothing
    rows = await api.house.database.store.read(audit.page)
    told = [(row["actor"][:4], row["action"], row["detail"]) for row in rows if row["action"].startswith("webhook")]
    assert told == [("key:", "webhook.set", f'{{"format":"{form}"}}') for form in ("native", "standard")]


async def test_a_form_nobody_knows_is_refused(api: RestHouse) -> None:
    for form in ("rent", "", "xml", None):
        body = {"url": "https://example.com/", "format": form}
        assert (await post(api, "/webhook", body, status=422))["code"] == "invalid"


async def test_the_dialects_go_on_saying_only_the_address(api: RestHouse, receiver: Receiver) -> None:
    """Clients cut `ACCESS_WEBHOOK:` off and take the rest for the address, however it fares."""
    await post(api, "/webhook", {"url": receiver.url("/410")})
    await receive(api)
    assert (await api.get("/webhook"))["state"] == "disabled"
    transport = httpx.ASGITransport(app=api.house.gateway.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        query = {"api_key": api.house.keys["alice"], "action": "getWebhook"}
        response = await client.get("/stubs/handler_api.php", params=query)
    assert response.text == f"ACCESS_WEBHOOK:{receiver.url('/410')}"


async def test_a_test_is_sent_signed_and_its_result_answered(either: RestHouse, receiver: Receiver) -> None:
    assert (await post(either, "/webhook/test", status=409))["code"] == "not_allowed_now"
    await post(either, "/webhook", {"url": receiver.url("/503"), "format": "standard"})
    failed = await post(either, "/webhook/test")
    assert (failed["is_delivered"], failed["result"], failed["status"]) == (False, "http 503", 503)
    await post(either, "/webhook", {"url": receiver.url("/hook"), "format": "standard"})
    found = await post(either, TOP + "/test")
    assert (found["is_delivered"], found["result"], found["status"]) == (True, "http 200", 200)
    one = receiver.received[1]
    assert one.headers["webhook-id"] == found["id"]
    assert found["id"].startswith("test_")
    assert json.loads(one.body)["data"]["text"] == EXAMPLE_TEXT
    secret = (await either.get(TOP + "/secret"))["secret"]
    assert one.headers["X-Signature"] == x_signature(b64decode(secret.removeprefix("whsec_")), one.body)
    logged = (await either.get(TOP + "/attempts"))["attempts"]
    assert [(entry["notice_id"], entry["result"]) for entry in logged] == [(None, "http 200"), (None, "http 503")]
    assert (await either.get(TOP + "/attempts", who="bob"))["attempts"] == []


async def test_a_secret_is_rotated_by_whoever_may_manage_and_shown_to_nobody_else(either: RestHouse) -> None:
    first = await either.get(TOP + "/secret")
    assert (first["version"], first["former_secret_until"]) == (1, None)
    second = await post(either, TOP + "/secret/rotate", {"grace_seconds": 60})
    assert (second["version"], second["former_secret_until"]) == (2, "2025-06-01T12:01:00Z")
    assert second["secret"] != first["secret"]
    assert await either.get(TOP + "/secret") == second
    assert (await either.get("/webhook"))["former_secret_until"] == "2025-06-01T12:01:00Z"
    assert (await either.get(TOP + "/secret", who="bob"))["version"] == 1
    third = await post(either, TOP + "/secret/rotate", {"grace_seconds": 0})
    assert (third["version"], third["former_secret_until"]) == (3, None)

    await either.house.database.store.run(lambda tx: tx.execute("update api_keys set may_manage = 0"))
    for method, path in (("GET", TOP + "/secret"), ("POST", TOP + "/secret/rotate")):
        response = await either.ask(method, path)
        assert (response.status_code, response.json()["code"]) == (403, "may_not_manage")
        assert "whsec_" not in response.text
    actions = [row["action"] for row in await either.house.database.store.read(audit.page)]
    assert [action for action in actions if action.startswith("webhook")] == [
        "webhook.secret", "webhook.rotate", "webhook.secret", "webhook.secret", "webhook.rotate",
    ]  # fmt: skip


async def test_the_deployment_s_secret_is_never_shown(api: RestHouse) -> None:
    await api.house.database.store.run(
        lambda tx: tx.execute("insert into webhook_secrets (account_id, version) select id, 0 from accounts")
    )
    found = await api.ask("GET", TOP + "/secret")
    assert (found.json()["secret"], found.json()["version"]) == (None, 0)
    assert (await api.get("/webhook"))["secret"] == "deployment"
    assert (await post(api, TOP + "/secret/rotate"))["secret"].startswith("whsec_")
    assert (await api.get("/webhook"))["secret"] == "own"


async def test_what_was_given_up_is_listed_and_sent_again_under_its_id(either: RestHouse, receiver: Receiver) -> None:
    await post(either, "/webhook", {"url": receiver.url("/410")})
    bought = await receive(either)
    (dead,) = (await either.get(TOP + "/notices?state=dead"))["notices"]
    assert (dead["activation_id"], dead["state"], dead["tries"], dead["last_result"]) == (bought, "dead", 1, "http 410")
    found = await either.get("/webhook")
    assert (found["state"], found["last_failure"], found["since"]) == ("disabled", "http 410", "2025-06-01T12:00:02Z")

    one = f"{TOP}/notices/{dead['id']}/replay"
    for path in (one, TOP + "/replay"):
        assert (await post(either, path, status=409))["code"] == "not_allowed_now"
    assert (await post(either, one, who="bob", status=404))["code"] == "unknown_notice"
    for nobodys in ("msg_999999", "msg_0", "x", "9" * 19, "msg_" + "9" * 19):
        assert (await post(either, f"{TOP}/notices/{nobodys}/replay", status=404))["code"] == "unknown_notice"

    assert (await post(either, TOP + "/enable"))["state"] == "active"
    await post(either, "/webhook", {"url": receiver.url("/hook")})
    again = await post(either, one)
    assert (again["id"], again["state"], again["tries"], again["ended_at"]) == (dead["id"], "pending", 0, None)
    assert (await post(either, one, status=409))["code"] == "not_allowed_now"
    await receive(either)
    ids = [received.headers["webhook-id"] for received in receiver.received]
    assert ids[0] == dead["id"]
    assert sorted(ids[1:]) == [dead["id"], "msg_2"]
    assert (await either.get(TOP + "/notices?state=dead"))["notices"] == []


async def test_all_that_was_given_up_since_a_time_is_sent_again(either: RestHouse, receiver: Receiver) -> None:
    await post(either, "/webhook", {"url": receiver.url("/hook")})
    await receive(either)
    await either.house.passes(3600.0)
    await receive(either)
    await either.house.database.store.run(_give_all_up, either.house.clock())
    assert await post(either, TOP + "/replay", {"since": "2025-06-01T12:30:00Z"}) == {"count": 1, "is_more": False}
    states = [one["state"] for one in (await either.get(TOP + "/notices"))["notices"]]
    assert states == ["pending", "dead"]
    assert await post(either, TOP + "/replay") == {"count": 1, "is_more": False}
    assert (await post(either, TOP + "/replay", {"since": "yesterday"}, status=422))["code"] == "invalid"

    await either.house.database.store.run(_give_all_up, either.house.clock())
    await either.house.database.store.run(lambda tx: tx.execute("update messages set text_sealed = ''"))
    assert await post(either, TOP + "/replay") == {"count": 0, "is_more": False}
    assert (await post(either, TOP + "/notices/msg_1/replay", status=409))["code"] == "not_allowed_now"


def _give_all_up(tx: Tx, at: float) -> None:
    tx.execute("update notices set state = 'dead', ended_at = :at", at=at)


async def test_lists_go_on_where_a_page_ended_and_show_nobody_else_s(api: RestHouse, receiver: Receiver) -> None:
    for who in ("alice", "bob"):
        await post(api, "/webhook", {"url": receiver.url("/hook")}, who=who)
    for who in ("alice", "alice", "bob", "alice"):
        await receive(api, who)
    for path, name, key in ((TOP + "/notices", "notices", "id"), (TOP + "/attempts", "attempts", "notice_id")):
        page = await api.get(f"{path}?limit=2")
        rest = await api.get(f"{path}?limit=2&cursor={page['next_cursor']}")
        assert [one[key] for one in (*page[name], *rest[name])] == ["msg_4", "msg_2", "msg_1"]
        assert rest["next_cursor"] is None
        assert [one[key] for one in (await api.get(path, who="bob"))[name]] == ["msg_3"]
        response = await api.ask("GET", f"{path}?cursor=bm90aGluZw")
        assert response.json()["code"] == "invalid"
