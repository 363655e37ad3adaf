"""Our JSON API: what it answers, what it refuses and in which words."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from structlog.testing import capture_logs

from compat import rest
from compat._rest_models import Prices
from compat._rest_problems import KINDS
from gateway import accounts, errors, limits
from gateway.model import Sms, Status
from gateway.store import Tx
from tests.compat._rest_client import ONE, RestHouse, rest_house
from tests.harness import environment

PROBLEM = "application/problem+json"
ROOT = [("GET", "/balance"), ("GET", "/services"), ("GET", "/countries"), ("POST", "/purchase"),
        ("GET", "/messages/ver_1"), ("POST", "/webhook")]  # fmt: skip
NOBODYS = "ver_100999999"


@pytest.fixture
async def api(tmp_path: Path, sqlite_url: str) -> AsyncIterator[RestHouse]:
    async with rest_house(tmp_path, environment(sqlite_url)) as found:
        yield found


@pytest.fixture
async def either(tmp_path: Path, database_url: str) -> AsyncIterator[RestHouse]:
    """The same on each kind of database."""
    async with rest_house(tmp_path, environment(database_url)) as found:
        yield found


def code_of(response: Any) -> str:
    """The code of a problem, once it is proven to be one."""
    found = response.json()
    assert response.headers["content-type"] == PROBLEM
    assert response.headers["cache-control"] == "no-store"
    assert found["status"] == response.status_code == KINDS[found["code"]].status
    assert found["type"] == f"/docs#{found['code']}"
    return str(found["code"])


def pointers(response: Any) -> list[str]:
    return [error.get("pointer", error.get("parameter")) for error in response.json()["errors"]]


# Keys


@pytest.mark.parametrize("prefix", ["", "/api/v1"])
@pytest.mark.parametrize(("method", "path"), ROOT)
async def test_every_endpoint_wants_a_key(api: RestHouse, method: str, path: str, prefix: str) -> None:
    for headers in ({}, {"authorization": "Bearer " + "a" * 32}, {"x-api-key": "short"}, {"authorization": "Basic eA"}):
        response = await api.ask(method, prefix + path, {}, who="", headers=headers)
        assert code_of(response) == "bad_key"
        assert response.headers["www-authenticate"] == "Bearer"


async def test_a_key_may_come_in_three_ways(api: RestHouse) -> None:
    key = api.house.keys["alice"]
    for headers, query in (({"Authorization": f"bearer {key}"}, ""), ({"X-Api-Key": key}, ""), ({}, f"?api_key={key}")):
        response = await api.ask("GET", "/balance" + query, who="", headers=headers)
        assert response.status_code == 200


async def test_a_key_is_neither_logged_nor_told_back(api: RestHouse) -> None:
    key = api.house.keys["alice"]
    with capture_logs() as logs, patch.object(api.house.gateway.purchases, "open", side_effect=RuntimeError("no")):
        said = [
            await api.ask("POST", f"/purchase?api_key={key}", {"service": "tg", "country": 6}),
            await api.ask("POST", "/purchase", {key: key, "service": key, "country": [key]}),
            await api.ask("GET", f"/balance?{key}={key}"),
            await api.ask("GET", f"/messages/{key}?api_key={key}x", who=""),
        ]
    assert [response.status_code for response in said] == [500, 422, 422, 401]
    assert all(key not in response.text for response in said)
    assert logs
    assert key not in repr([{name: value for name, value in line.items() if name != "exc_info"} for line in logs])


# The account and what is for sale


async def test_the_balance_says_what_can_be_spent_and_what_is_held(api: RestHouse) -> None:
    await api.buy("xmute")
    found = await api.get("/balance")
    assert found["open_activations"] == 1
    assert found["balance"]["currency"] == found["held"]["currency"] == "USD"
    assert [found[name]["amount"] for name in ("balance", "held")] == ["9.92", "0.08"]


async def test_services_and_countries_are_listed_with_an_etag(api: RestHouse) -> None:
    assert {"code": "tg", "name": "Telegram"} in (await api.get("/services"))["services"]
    indonesia = {"id": 6, "iso2": "ID", "name": "Indonesia", "prefix": "62"}
    assert indonesia in (await api.get("/countries"))["countries"]
    for path in ("/services", "/countries"):
        etag = (await api.ask("GET", path)).headers["etag"]
        again = await api.ask("GET", path, headers={"If-None-Match": f'"x", {etag}'})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)


async def test_prices_are_narrowed_and_kept_by_their_etag(api: RestHouse) -> None:
    path = "/api/v1/prices?service=tg&country="
    response = await api.ask("GET", path + "6")
    assert response.json() == {
        "currency": "USD", "prices": [{"service": "tg", "country": 6, "price": "0.08", "count": 1000}]
    }  # fmt: skip
    assert Prices.model_validate(response.json())
    assert (await api.ask("GET", path + "id")).content == response.content
    etag = response.headers["etag"]
    assert (await api.ask("GET", path + "6", headers={"If-None-Match": etag})).status_code == 304
    assert (await api.ask("GET", path + "6", headers={"If-None-Match": 'W/"00"'})).status_code == 200
    assert (await api.ask("GET", path + "0", headers={"If-None-Match": etag})).status_code == 200


async def test_prices_of_what_there_is_not_name_the_parameter(api: RestHouse) -> None:
    for query, code, parameter in (
        ("service=zzzz", "bad_service", "service"),
        ("country=9999", "bad_country", "country"),
        ("country=XX", "bad_country", "country"),
        ("services=tg", "invalid", "services"),
    ):
        response = await api.ask("GET", f"/api/v1/prices?{query}")
        assert (code_of(response), pointers(response)) == (code, [parameter])


async def test_letters_that_several_countries_share_mean_the_last(api: RestHouse) -> None:
    response = await api.ask("POST", "/purchase", {"service": "tg", "country": "us"})
    assert response.json()["country"] == 187


# From purchase to end


async def test_a_number_is_bought_read_asked_again_and_finished(either: RestHouse) -> None:
    response = await either.ask("POST", "/api/v1/purchase", {"service": "tg", "country": 6, "operator": "any"})
    bought = response.json()
    assert response.headers["location"] == f"/api/v1/activations/{bought['id']}"
    assert response.headers["cache-control"] == "no-store"
    assert bought["id"].startswith("ver_")
    assert bought["phone_number"].startswith("+62")
    assert bought["price"] == {"amount": "0.08", "currency": "USD"}
    assert (bought["opened_at"], bought["expires_at"]) == ("2025-06-01T12:00:00Z", "2025-06-01T12:20:00Z")
    assert await either.get(response.headers["location"]) == bought
    await either.house.passes(1.5)
    told = await either.get(f"/messages/{bought['id'].removeprefix('ver_')}")
    assert told["status"] == "received"
    assert told["messages"][0]["code"] in told["messages"][0]["text"]
    assert told["messages"][0]["received_at"].endswith("Z")
    assert (await either.do(bought["id"], "another-sms")).json()["status"] == "retrying"
    await either.house.passes(8.5)
    assert len((await either.get(ONE.format(bought["id"]) + "/messages"))["messages"]) == 2
    finished = (await either.do(bought["id"], "finish")).json()
    assert finished["status"] == "finished"
    assert finished["code"] == finished["messages"][-1]["code"]
    assert finished["ended_at"] == "2025-06-01T12:00:10Z"
    assert (await either.do(bought["id"], "finish")).json() == finished
    assert await either.house.problems() == []


async def test_a_cancel_before_a_code_costs_nothing_and_repeats(api: RestHouse) -> None:
    bought = await api.buy("xmute")
    assert [(await api.do(bought, "cancel")).json()["status"] for _ in range(2)] == ["cancelled", "cancelled"]
    assert (await api.get("/balance"))["balance"]["amount"] == "10.00"


async def test_what_the_status_does_not_allow_is_a_conflict(api: RestHouse) -> None:
    waiting, received = await api.buy("xmute"), await api.buy("tg")
    await api.house.passes(1.5)
    for activation_id, what in ((waiting, "finish"), (waiting, "another-sms"), (received, "cancel")):
        assert code_of(await api.do(activation_id, what)) == "not_allowed_now"
    assert code_of(await api.do(await api.buy("xlock"), "cancel")) == "cancel_too_early"


async def test_a_cap_below_every_price_is_told_the_least(api: RestHouse) -> None:
    response = await api.ask("POST", "/purchase", {"service": "tg", "country": 6, "max_price": "0.01"})
    assert code_of(response) == "price_too_low"
    assert response.json()["minimum"] == {"amount": "0.08", "currency": "USD"}


async def test_what_can_not_be_bought_says_why(api: RestHouse) -> None:
    for body, code, found in (
        ({"service": "zzzz", "country": 6}, "bad_service", ["/service"]),
        ({"service": "tg", "country": 9999}, "bad_country", ["/country"]),
        ({"service": "tg", "country": "XX"}, "bad_country", ["/country"]),
    ):
        response = await api.ask("POST", "/purchase", body)
        assert (code_of(response), pointers(response)) == (code, found)
    assert code_of(await api.ask("POST", "/purchase", {"service": "xnone", "country": 6})) == "no_numbers"
    response = await api.ask("POST", "/purchase", {"service": "xban", "country": 6})
    assert code_of(response) == "barred"
    assert response.json()["until"] == "2025-06-01T13:00:00Z"
    await api.house.open_account("poor", "0.00")
    assert code_of(await api.ask("POST", "/purchase", {"service": "tg", "country": 6}, who="poor")) == "no_balance"


async def test_a_client_that_hung_up_gets_its_number_by_asking_again(api: RestHouse) -> None:
    body = {"service": "xmute", "country": 6}
    await api.hang_up("POST", "/purchase", body)
    [lost] = api.house.gateway.house.live.all_open()
    assert (await api.ask("POST", "/api/v1/purchase", body)).json()["id"] == f"ver_{lost.id}"
    assert (await api.ask("POST", "/purchase", body)).json()["id"] != f"ver_{lost.id}"


async def test_a_number_nobody_asks_for_again_is_given_back(api: RestHouse) -> None:
    await api.hang_up("POST", "/purchase", {"service": "xmute", "country": 6})
    api.house.clock.now += 61
    assert len(await api.house.gateway.handovers.overdue()) == 1


async def test_a_number_that_was_answered_is_nobody_elses(api: RestHouse) -> None:
    bought = await api.buy("xmute")
    assert await api.house.gateway.handovers.overdue() == []
    assert await api.buy("xmute") != bought


# Lists


async def test_activations_are_paged_newest_first(either: RestHouse) -> None:
    bought = [await either.buy("xmute") for _ in range(5)]
    await either.do(bought[1], "cancel")
    await either.do(bought[3], "cancel")
    await either.ask("POST", "/purchase", {"service": "xnone", "country": 6})
    await either.buy("tg", who="bob")
    for state, expected in (
        ("", ["failed", "waiting", "cancelled", "waiting", "cancelled", "waiting"]),
        ("&state=open", ["waiting"] * 3),
        ("&state=past", ["failed", "cancelled", "cancelled"]),
    ):
        found: list[Any] = []
        cursor = ""
        while True:
            page = await either.get(f"/api/v1/activations?limit=2{state}{cursor}")
            assert len(page["activations"]) <= 2
            found += page["activations"]
            if page["next_cursor"] is None:
                break
            cursor = f"&cursor={page['next_cursor']}"
        assert [one["status"] for one in found] == expected
        numbers = [int(one["id"].removeprefix("ver_")) for one in found]
        assert numbers == sorted(numbers, reverse=True)


async def test_a_list_shows_what_a_look_shows(either: RestHouse) -> None:
    bought = await either.buy("tg")
    await either.house.passes(1.5)
    shown = await either.get(ONE.format(bought))
    assert (await either.get("/api/v1/activations"))["activations"] == [shown]
    assert (await either.get("/api/v1/activations?state=open"))["activations"] == [shown]
    await either.do(bought, "finish")
    assert (await either.get("/api/v1/activations?state=past"))["activations"] == [await either.get(ONE.format(bought))]


async def test_a_list_hides_orders_under_way_and_messages_that_came_too_late(either: RestHouse) -> None:
    opening, cancelled = await either.buy("xmute"), await either.buy("xmute")
    await either.do(cancelled, "cancel")
    live = either.house.gateway.house.live.get(int(cancelled.removeprefix("ver_")))
    assert live is not None
    await either.house.gateway.activations.deliver(live, 1, [Sms("123", "too late: 123")])

    def reopen(tx: Tx) -> None:
        tx.execute("update activations set status = 'opening' where id = :id", id=int(opening.removeprefix("ver_")))

    await either.house.database.store.run(reopen)
    [shown] = (await either.get("/api/v1/activations"))["activations"]
    assert (shown["id"], shown["messages"], shown["code"]) == (cancelled, [], None)


@pytest.mark.parametrize("cursor", ["x", "%00", "YmVmb3JlOi0x", "YmVmb3JlOjA", "YWZ0ZXI6MQ", "%C3%A4", "=" * 64])
async def test_a_cursor_that_was_never_given_out_is_refused(api: RestHouse, cursor: str) -> None:
    response = await api.ask("GET", f"/api/v1/activations?cursor={cursor}")
    assert (code_of(response), pointers(response)) == ("invalid", ["cursor"])


# Webhook


async def test_a_webhook_is_set_and_shown(api: RestHouse) -> None:
    assert (await api.get("/webhook"))["url"] is None
    url = "https://example.com/hook?token=mine"
    assert (await api.ask("POST", "/webhook", {"url": url})).json()["url"] == url
    assert (await api.get("/webhook"))["url"] == url


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http://example.com/", "webhook_not_https"),
        ("https://127.0.0.1/", "bad_webhook_url"),
        ("https://example.com/" + "x" * 250, "webhook_url_too_long"),
        ("https://", "bad_webhook_url"),
        ("https://example.com/<script>", "bad_webhook_url"),
    ],
)
async def test_a_webhook_address_is_checked(api: RestHouse, url: str, code: str) -> None:
    response = await api.ask("POST", "/webhook", {"url": url})
    assert (code_of(response), pointers(response)) == (code, ["/url"])
    assert (await api.get("/webhook"))["url"] is None


# Requests that make no sense


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ({}, ["/service", "/country"]),
        ([], [""]),
        (None, [""]),
        ({"service": "tg", "country": 6, "colour": "red"}, ["/colour"]),
        ({"service": "tg", "country": 6, "a/b~c": 1}, ["/a~1b~0c"]),
        ({"service": 7, "country": True}, ["/service", "/country"]),
        ({"service": "tg", "country": -1}, ["/country"]),
        ({"service": "tg", "country": 1.5}, ["/country"]),
        ({"service": "tg", "country": 6, "max_price": 0.1}, ["/max_price"]),
        ({"service": "tg", "country": 6, "max_price": "1e3"}, ["/max_price"]),
        ({"service": "tg", "country": 6, "max_price": "0.1\n"}, ["/max_price"]),
        ({"service": "tg", "country": 6, "operator": "a\0b"}, ["/operator"]),
        ({"service": "tg", "country": 6, "phone_exceptions": ["7918", "x"]}, ["/phone_exceptions/1"]),
        ({"service": "tg", "country": 6, "phone_exceptions": ["7918"] * 21}, ["/phone_exceptions"]),
    ],
)
async def test_what_is_wrong_with_a_body_is_pointed_at(api: RestHouse, body: Any, found: list[str]) -> None:
    response = await api.client.post(
        "/purchase", content=json.dumps(body), headers={"x-api-key": api.house.keys["alice"]}
    )
    assert (code_of(response), pointers(response)) == ("invalid", found)


@pytest.mark.parametrize(
    ("raw", "media_type", "code"),
    [
        (b"", "application/json", "malformed"),
        (b"{", "application/json", "malformed"),
        (b'{"service": NaN}', "application/json", "malformed"),
        (b'{"service": "\\ud800"}', "application/json", "malformed"),
        (b'{"service": "\xff"}', "application/json", "malformed"),
        (b"[" * 9000, "application/json", "malformed"),
        (b"1" * 9000, "application/json; charset=utf-8", "malformed"),
        (b" " * 16_385, "application/json", "too_large"),
        (b"service=tg&country=6", "application/x-www-form-urlencoded", "not_json"),
        (b"{}", "text/plain", "not_json"),
    ],
)
async def test_a_body_that_is_no_small_json_is_refused(api: RestHouse, raw: bytes, media_type: str, code: str) -> None:
    headers = {"x-api-key": api.house.keys["alice"], "content-type": media_type}
    assert code_of(await api.client.post("/purchase", content=raw, headers=headers)) == code
    assert (await api.get("/balance"))["open_activations"] == 0


async def test_a_change_takes_no_members(api: RestHouse) -> None:
    bought = await api.buy("xmute")
    path = ONE.format(bought) + "/cancel"
    assert pointers(await api.ask("POST", path, {"why": "so"})) == ["/why"]
    assert (await api.ask("POST", path, {})).json()["status"] == "cancelled"


@pytest.mark.parametrize(
    "query", ["wait=-1", "wait=61", "wait=x", "wait=", "wait=1&wait=1", "x=1", "&".join("abcdefg" * 4)]
)
async def test_a_query_that_makes_no_sense_is_refused(api: RestHouse, query: str) -> None:
    response = await api.ask("GET", f"{ONE.format(await api.buy('xmute'))}?{query}")
    assert code_of(response) in ("invalid", "malformed")


async def test_a_body_cut_off_in_the_middle_buys_nothing(api: RestHouse) -> None:
    messages = [{"type": "http.disconnect"}, {"type": "http.request", "body": b'{"service":"tg"', "more_body": True}]
    sent: list[Any] = []

    async def receive() -> Any:
        return messages.pop()

    async def send(message: Any) -> None:
        sent.append(message)

    await api.app(api.scope("POST", "/purchase", "alice"), receive, send)
    assert sent[0]["status"] == 400
    assert (await api.get("/balance"))["open_activations"] == 0


# Paths and methods


@pytest.mark.parametrize(
    "path", ["/api/v1", "/api/v1/", "/api/v1/nothing", "/api/v1/balance/", "/api/v1/activations/1/x"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "PATCH", "OPTIONS"])
async def test_a_path_that_is_none_is_a_problem(api: RestHouse, path: str, method: str) -> None:
    assert code_of(await api.ask(method, path)) == "not_found"


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "TRACE", "NONSENSE"])
async def test_a_method_that_is_not_served_is_told_which_are(api: RestHouse, method: str) -> None:
    response = await api.ask(method, "/balance")
    assert code_of(response) == "method_not_allowed"
    assert response.headers["allow"] == "GET, HEAD, OPTIONS"
    assert (await api.ask("GET", "/purchase")).headers["allow"] == "OPTIONS, POST"
    assert (await api.ask("HEAD", "/purchase")).status_code == 405


async def test_head_is_a_get_without_a_body(api: RestHouse) -> None:
    for path in ("/balance", "/docs", "/openapi.json", "/api/v1/prices?service=tg&country=6"):
        head, whole = await api.ask("HEAD", path), await api.ask("GET", path)
        assert head.content == b""
        assert head.headers == whole.headers


async def test_options_say_what_is_served_and_do_nothing(api: RestHouse) -> None:
    response = await api.ask("OPTIONS", "/purchase", {"service": "tg", "country": 6}, who="")
    assert (response.status_code, response.content, response.headers["allow"]) == (204, b"", "OPTIONS, POST")


async def test_paths_of_others_are_left_alone(api: RestHouse) -> None:
    """The desk's own 405 and everything outside, wherever our routes stand in the list."""
    from starlette.applications import Starlette
    from starlette.routing import Route

    async def nothing(_request: Any) -> Any:
        raise AssertionError

    import httpx

    desk = Route("/api/v1/desk/{name}", nothing, methods=["GET"])
    app = Starlette(routes=[*rest.routes(api.house.gateway.front), desk])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://gateway") as client:
        assert (await client.get("/nothing")).headers["content-type"].startswith("text/plain")
        with pytest.raises(AssertionError):
            await client.get("/api/v1/desk/one")


# Other sites


async def test_no_site_may_call_unless_it_is_configured(api: RestHouse) -> None:
    response = await api.ask("GET", "/balance", headers={"Origin": "https://app.example.com"})
    assert not [name for name in response.headers if name.startswith("access-control")]


async def test_a_configured_site_may_call(tmp_path: Path, sqlite_url: str) -> None:
    known = "https://app.example.com"
    async with rest_house(tmp_path, environment(sqlite_url), origins=[known]) as api:
        asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
        preflight = await api.ask("OPTIONS", "/purchase", who="", headers={"Origin": known, **asked})
        assert preflight.headers["access-control-allow-origin"] == known
        assert "POST" in preflight.headers["access-control-allow-methods"]
        assert "Idempotency-Key" in preflight.headers["access-control-allow-headers"]
        assert "Origin" in preflight.headers["vary"]
        for response in (await api.ask("GET", "/balance", headers={"Origin": known}),
                         await api.ask("GET", "/balance", who="", headers={"Origin": known})):  # fmt: skip
            assert response.headers["access-control-allow-origin"] == known
        for other in ("https://evil.example.com", known + ".evil.com", "null"):
            response = await api.ask("OPTIONS", "/purchase", who="", headers={"Origin": other, **asked})
            assert not [name for name in response.headers if name.startswith("access-control")]
            assert "Origin" in response.headers["vary"]


# Somebody else's


@pytest.mark.parametrize("service", ["xmute", "tg"])
async def test_somebody_elses_id_is_answered_as_one_that_nobody_has(either: RestHouse, service: str) -> None:
    alices = await either.buy(service)
    await either.house.passes(1.5)
    for method, path in (
        ("GET", ONE), ("GET", ONE + "/messages"), ("GET", "/messages/{}"), ("GET", ONE + "/events"),
        ("GET", ONE + "?wait=1"), ("POST", ONE + "/finish"), ("POST", ONE + "/cancel"), ("POST", ONE + "/another-sms"),
    ):  # fmt: skip
        answers = [
            await either.ask(method, path.format(one), who="bob")
            for one in (alices, alices.removeprefix("ver_"), NOBODYS, "ver_0", "9" * 40, "nonsense", "ver_01", "ver_-1")
        ]
        assert {code_of(answer) for answer in answers} == {"unknown_activation"}
        assert len({answer.content for answer in answers}) == 1
        assert len({json.dumps(sorted(answer.headers.items())) for answer in answers}) == 1
    assert (await either.get("/api/v1/activations", who="bob"))["activations"] == []
    live = either.house.gateway.house.live.get(int(alices.removeprefix("ver_")))
    assert live is not None
    assert live.status is (Status.WAITING if service == "xmute" else Status.RECEIVED)


# Limits and defects


async def test_a_status_is_read_from_memory(api: RestHouse) -> None:
    bought = await api.buy("tg")
    await api.house.passes(1.5)
    await api.get("/balance")  # the key is known from here on
    with api.house.database_away():
        assert (await api.get(ONE.format(bought)))["status"] == "received"
        assert len((await api.get(f"/messages/{bought}"))["messages"]) == 1
        response = await api.ask("GET", "/balance")
    assert code_of(response) == "unavailable"
    assert response.headers["retry-after"] == "1"


async def test_over_the_limit_what_is_known_is_still_told(
    tmp_path: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HELD_SECONDS_MAX", 0.05)
    async with rest_house(tmp_path, environment(sqlite_url), gateway="[limits]\npolls_per_minute = 3\n") as api:
        bought = await api.buy("xmute")
        for _ in range(5):
            assert (await api.get(ONE.format(bought)))["status"] == "waiting"
        places = ("/balance", "/webhook", "/api/v1/activations", "/api/v1/prices", "/api/v1/accounts", "/api/v1/alerts")
        for path in (ONE.format(NOBODYS), *places):
            response = await api.ask("GET", path)
            assert code_of(response) == "too_many_requests"
            assert response.headers["retry-after"] == "1"
        assert (await api.get("/api/v1/activations?state=open"))["activations"][0]["id"] == bought


async def test_changes_are_limited(tmp_path: Path, sqlite_url: str) -> None:
    async with rest_house(tmp_path, environment(sqlite_url), gateway="[limits]\nchanges_per_minute = 2\n") as api:
        bought = [await api.buy("xmute"), await api.buy("xmute")]
        for response in (
            await api.do(bought[0], "cancel"),
            await api.ask("POST", "/purchase", {"service": "tg", "country": 6}),
            await api.ask("POST", "/webhook", {"url": "https://example.com"}),
        ):
            assert response.headers["content-type"] == "application/problem+json"
            assert response.status_code == 429
            assert code_of(response) == "too_many_requests"
            assert response.headers["retry-after"] == "60"  # the clock stands still at noon
        assert (await api.get(ONE.format(bought[0])))["status"] == "waiting"


async def test_a_defect_is_logged_and_told_to_nobody(api: RestHouse) -> None:
    with (
        capture_logs() as logs,
        patch.object(api.house.gateway.purchases, "open", side_effect=RuntimeError("inner workings")),
    ):
        response = await api.ask("POST", "/purchase", {"service": "tg", "country": 6})
    assert code_of(response) == "internal"
    assert "inner" not in response.text
    assert [line["event"] for line in logs] == ["request.failed"]


async def test_requests_are_counted_by_what_they_are(api: RestHouse) -> None:
    await api.get("/balance")
    await api.get("/api/v1/balance")
    await api.ask("GET", "/balance", who="")
    rendered = api.house.gateway.house.metrics.render().decode()
    assert 'simroute_requests_total{action="rest_balance",outcome="ok"} 2.0' in rendered
    assert 'simroute_requests_total{action="rest_balance",outcome="bad_key"} 1.0' in rendered


async def test_a_revoked_key_is_no_key(api: RestHouse) -> None:
    await api.get("/balance")
    await api.house.database.store.run(accounts.revoke_key, 1, api.house.clock())
    await api.house.gateway.callers.refresh()
    assert code_of(await api.ask("GET", "/balance")) == "bad_key"


def every(kind: type[errors.CallerError]) -> Iterator[type[errors.CallerError]]:
    for one in kind.__subclasses__():
        yield one
        yield from every(one)


@pytest.mark.parametrize("kind", sorted(every(errors.CallerError), key=str))
def test_every_error_a_caller_is_told_has_its_words(kind: type[errors.CallerError]) -> None:
    found = KINDS[kind.code]
    assert 400 <= found.status <= 599
    assert found.title
    assert (found.retry_seconds is None) == (found.status not in (429, 503))
