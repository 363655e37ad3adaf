"""The brands of the handler_api simulator: each difference on the wire, and the webhooks of those that push."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.simulators import handler_api
from tests.simulators._handler_brands import BRANDS
from tests.simulators._handler_engine import HandlerApi
from tests.simulators._handler_webhooks import Webhooks
from tests.simulators._serve import serve

START = 1793527200.0  # 2026-11-01 10:00:00 UTC
KEY = handler_api.DEFAULT_KEY
PATIENCE_SECONDS = 5.0


class Shop:
    """One brand in process, asked as clients ask it; its clock stands still."""

    def __init__(self, brand: str, **options: Any) -> None:
        self.now = START
        app = handler_api.build(brand=brand, clock=lambda: self.now, **{"sms_delay_seconds": None, **options})
        self.sim: HandlerApi = app.state.sim
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://upstream")

    async def ask(self, action: str, **params: Any) -> httpx.Response:
        return await self.http.get(handler_api.PATH, params={"api_key": KEY, "action": action, **params})

    async def says(self, action: str, **params: Any) -> tuple[int, str]:
        answer = await self.ask(action, **params)
        return answer.status_code, answer.text

    async def buy(self, **params: Any) -> str:
        bought = await self.ask("getNumber", **{"service": "tg", "country": 6, **params})
        assert bought.text.startswith("ACCESS_NUMBER:"), bought.text
        return bought.text.split(":")[1]


def error(title: str, info: dict[str, Any] | None = None) -> dict[str, Any]:
    details = title.replace("_", " ").capitalize()
    return {"title": title, "details": details} if info is None else {"title": title, "details": details, "info": info}


# --- keys, methods, actions ---


@pytest.mark.parametrize(
    ("brand", "expected"),
    [
        ("tigersms", (401, "BAD_KEY")),
        ("smsbower", (401, '{"status":0,"message":"No access","data":[]}')),
        ("grizzlysms", (200, "BAD_KEY")),
        ("smshub", (200, "BAD_KEY")),
        ("daisysms", (200, "BAD_KEY")),
        ("vaksms_stub", (200, "BAD_ACTION")),
        ("smsman_stub", (200, "BAD_KEY")),
    ],
)
async def test_a_bad_key_is_refused_in_the_brands_shape(brand: str, expected: tuple[int, str]) -> None:
    assert await Shop(brand).says("getBalance", api_key="wrong") == expected


async def test_smshub_refuses_a_bad_key_otherwise_in_get_number() -> None:
    assert await Shop("smshub").says("getNumber", api_key="wrong") == (200, "API_KEY_NOT_VALID")


@pytest.mark.parametrize(
    ("brand", "status"), [("smsbower", 405), ("herosms", 405), ("tigersms", 200), ("generic", 200)]
)
async def test_post_is_taken_by_some(brand: str, status: int) -> None:
    form = {"api_key": KEY, "action": "getBalance"}
    answer = await Shop(brand).http.post(handler_api.PATH, data=form)
    assert answer.status_code == status


@pytest.mark.parametrize(
    ("brand", "missing"),
    [
        ("herosms", {"getPricesV2", "getPricesV3", "getFullSms"}),
        ("tigersms", {"getNumbersStatus", "getOperators", "getFullSms"}),
        ("smsbower", {"getActiveActivations", "getNumbersStatus", "getFullSms"}),
        ("grizzlysms", {"getFreePrices"}),
        ("smshub", {"getNumberV2", "getActiveActivations", "getPricesV2", "getPricesV3"}),
        ("daisysms", {"getNumberV2", "getActiveActivations", "getStatusV2", "getFullSms"}),
        ("vaksms_stub", {"getNumberV2", "getActiveActivations"}),
        ("smsman_stub", {"getNumberV2", "getActiveActivations"}),
    ],
)
async def test_an_action_the_brand_lacks_is_a_bad_action(brand: str, missing: set[str]) -> None:
    shop = Shop(brand)
    for action in missing:
        assert "BAD_ACTION" in (await shop.ask(action)).text


async def test_daisy_takes_the_key_in_a_header() -> None:
    shop = Shop("daisysms")
    for key, expected in [(KEY, "ACCESS_BALANCE:1000.0000"), ("wrong", "BAD_KEY")]:
        answer = await shop.http.get(handler_api.PATH, params={"action": "getBalance"}, headers={"X-Api-Key": key})
        assert answer.text == expected


async def test_vak_says_bad_action_of_an_unknown_id_but_not_to_set_status() -> None:
    shop = Shop("vaksms_stub")
    assert await shop.says("getStatus", id=5) == (200, "BAD_ACTION")
    assert await shop.says("setStatus", id=5, status=8) == (200, "NO_ACTIVATION")
    assert [row["id"] for row in (await shop.ask("getCountries", api_key="")).json()][:2] == [0, 2]


# --- buying ---


async def test_tiger_words_its_first_version_and_envelopes_the_second() -> None:
    shop = Shop("tigersms")
    goods = {"service": "tg", "country": 6, "maxPrice": "0.1"}
    assert await shop.says("getNumber", **goods) == (200, "WRONG_MAX_PRICE:0.406")
    second = await shop.ask("getNumberV2", **goods)
    assert (second.status_code, second.json()) == (400, error("WRONG_MAX_PRICE", {"min": 0.406}))
    assert await shop.says("getNumber", service="nonsense", country=6) == (200, "BAD_SERVICE")
    assert (await shop.ask("getStatusV2", id=5)).json()["title"] == "NOT_FOUND"


async def test_tiger_ids_are_too_wide_for_a_float() -> None:
    first, second = [await (shop := Shop("tigersms")).buy(), await shop.buy()]
    assert len(first) == 19
    assert first != second
    assert float(first) == float(second)


async def test_tiger_ignores_operator_and_exceptions_which_bower_honours() -> None:
    wishes = {"service": "tg", "country": 6, "operator": "three", "phoneException": "62"}
    bought = (await Shop("tigersms").ask("getNumberV2", **wishes)).json()
    assert (bought["activationOperator"], bought["phoneNumber"][:2]) == ("telkomsel", "62")
    assert await Shop("smsbower").says("getNumberV2", **wishes) == (200, "NO_NUMBERS")


@pytest.mark.parametrize("brand", ["tigersms", "smsbower", "grizzlysms"])
async def test_providers_can_be_chosen(brand: str) -> None:
    shop = Shop(brand)
    shop.sim.set_stock("tg", 6, price="0.20", count=5, dearer={"0.30": 2})
    goods = {"service": "tg", "country": 6}
    costs = [
        (await shop.ask("getNumberV2", **goods, **choice)).json()["activationCost"]
        for choice in ({}, {"providerIds": "1012"}, {"exceptProviderIds": "1011"})
    ]
    assert costs == [0.2, 0.3, 0.3]
    assert (await shop.ask("getNumber", **goods, providerIds="1012")).text == "NO_NUMBERS"
    assert (await shop.ask("getNumber", **goods, providerIds="x")).text == "BAD_PROVIDER_IDS"


async def test_any_country_is_the_cheapest_at_grizzly_and_no_country_elsewhere() -> None:
    grizzly = Shop("grizzlysms")
    grizzly.sim.set_stock("tg", 73, price="0.01", count=1)
    assert (await grizzly.ask("getNumberV2", service="tg", country="any")).json()["countryCode"] == "73"
    assert (await grizzly.ask("getNumberV2", service="tg")).json()["countryCode"] == "0"
    assert await Shop("smsbower").says("getNumber", service="tg", country="any") == (200, "BAD_COUNTRY")


async def test_grizzly_tells_when_an_order_can_be_cancelled_and_when_it_ends() -> None:
    bought = (await Shop("grizzlysms").ask("getNumberV2", service="tg", country=6)).json()
    assert (bought["activationCancel"], bought["activationEnd"]) == ("2026-11-01 10:02:00", "2026-11-01 10:20:00")


async def test_smshub_knows_two_currencies() -> None:
    shop = Shop("smshub")
    assert [(await shop.ask("getBalance", currency=number)).text for number in (840, 643, 978)] == [
        "ACCESS_BALANCE:1000.0000",
        "ACCESS_BALANCE:1000.0000",
        "BAD_CURRENCY",
    ]


async def test_daisy_sells_one_country_and_tells_the_price_in_a_header() -> None:
    shop = Shop("daisysms")
    bought = await shop.ask("getNumber", service="tg", country=16, max_price="0.587", areas="503", carriers="att")
    assert bought.text.split(":")[2].startswith("1503")
    assert bought.headers["x-price"] == "0.59"
    assert shop.sim.order_views()[0]["country"] == "187"
    assert await shop.says("getNumber", service="tg", max_price="0.58") == (200, "MAX_PRICE_EXCEEDED")


async def test_daisy_has_words_of_its_own() -> None:
    shop = Shop("daisysms", balance="100")
    for _ in range(20):
        await shop.buy()
    assert await shop.says("getNumber", service="tg") == (200, "TOO_MANY_ACTIVE_RENTALS")
    assert await Shop("daisysms", balance="0.1").says("getNumber", service="tg") == (200, "NO_MONEY")


async def test_vak_hands_out_numbers_above_the_cap() -> None:
    assert (await Shop("vaksms_stub").ask("getNumber", service="tg", country=6, maxPrice="0.01")).text[:6] == "ACCESS"


# --- price lists ---


async def listed(brand: str, action: str, **params: Any) -> Any:
    shop = Shop(brand)
    shop.sim.set_stock("tg", shop.sim.brand.only_country or 6, price="0.20", count=5, dearer={"0.30": 2})
    return (await shop.ask(action, service="tg", **params)).json()


@pytest.mark.parametrize(
    ("brand", "action", "expected"),
    [
        ("tigersms", "getPrices", {"cost": "0.2000", "count": 7}),
        ("tigersms", "getPricesV2", {"prices": {"0.2000": 5, "0.3000": 7}, "has_multi": False}),
        ("tigersms", "getFreePrices", {"prices": {"0.2000": 5, "0.3000": 7}, "has_multi": False}),
        ("smsbower", "getPrices", {"cost": 0.2, "count": 7}),
        ("smsbower", "getPricesV2", {"0.20": 5, "0.30": 2}),
        ("grizzlysms", "getPricesV2", {"0.20": 5, "0.30": 2}),
        ("smshub", "getPrices", {"0.20": 5, "0.30": 2}),
    ],
)
async def test_a_leaf_of_the_price_list_has_the_brands_shape(brand: str, action: str, expected: dict[str, Any]) -> None:
    leaf = (await listed(brand, action, country=6))["6"]["tg"]
    assert {name: leaf[name] for name in expected} == expected


async def test_bower_lists_each_provider_apart() -> None:
    assert await listed("smsbower", "getPricesV3", country=6) == {
        "6": {
            "tg": {
                "1011": {"count": 5, "price": 0.2, "provider_id": 1011},
                "1012": {"count": 2, "price": 0.3, "provider_id": 1012},
            }
        }
    }


async def test_tiger_wants_a_service_and_a_country_and_tells_what_is_45_seconds_old() -> None:
    shop = Shop("tigersms")
    shop.sim.set_stock("tg", 6, price="0.20", count=5)
    assert (await shop.ask("getPricesV3", service="tg")).json()["info"]["field"] == "country"
    seen = []
    for seconds in (0, 44, 1):
        shop.now += seconds
        answer = (await shop.ask("getPricesV3", service="tg", country=6)).json()
        seen.append((answer["count"], answer["providers"]["1011"]["count"]))
        await shop.buy()
    assert seen == [(5, 5), (5, 5), (3, 3)]


async def test_daisy_shows_no_more_than_a_hundred_and_lists_by_service_too() -> None:
    shop = Shop("daisysms")
    leaf = (await shop.ask("getPrices")).json()["187"]["tg"]
    assert leaf == {"name": "Telegram", "cost": 0.587, "count": 100, "repeatable": False}
    assert (await shop.ask("getPricesVerification", service="tg")).json() == {"tg": {"187": leaf}}


@pytest.mark.parametrize(
    ("action", "params", "expected"),
    [
        ("getNumber", {"service": "nonsense", "country": 6}, "WRONG_SERVICE"),
        ("getPrices", {"service": "nonsense"}, '{"error":"Bad service"}'),
        ("getPricesV2", {"country": "999"}, '{"error":"Bad country"}'),
        ("getPricesV3", {"service": "nonsense"}, "BAD_SERVICE"),
        ("getPricesV3", {"country": "999"}, "BAD_COUNTRY"),
        ("getStatus", {"id": 5}, "NO_ACTIVATION"),
        ("getOperators", {"country": "999"}, '{"status":"success","countryOperators":{"999":[]}}'),
    ],
)
async def test_bower_has_many_ways_to_refuse(action: str, params: dict[str, Any], expected: str) -> None:
    assert await Shop("smsbower").says(action, **params) == (200, expected)


async def test_countries_come_as_object_array_or_with_a_row_without_id() -> None:
    assert (await Shop("tigersms").ask("getCountries")).json()[0]["id"] == 0
    bower = (await Shop("smsbower").ask("getCountries")).json()
    assert (bower["6"]["id"], bower[""]["id"]) == ("6", "")


async def test_smshub_counts_with_the_old_suffix() -> None:
    assert (await Shop("smshub").ask("getNumbersStatus", country=6)).json()["tg_0"] == 5000


# --- the life of an order ---


@pytest.mark.parametrize(
    ("brand", "states", "codes"),
    [("tigersms", ["1", "6", "3"], ["12345"]), ("grizzlysms", ["4", "2", "3"], "12345")],
)
async def test_open_orders_are_listed_in_the_brands_shape(brand: str, states: list[str], codes: Any) -> None:
    shop, seen = Shop(brand), []

    async def look() -> None:
        answer = (await shop.ask("getActiveActivations")).json()
        [row] = answer["data"] if brand == "tigersms" else answer
        seen.append(row)

    order = await shop.buy()
    await look()
    shop.sim.deliver(order, "Your code is 12345")
    await look()
    await shop.ask("setStatus", id=order, status=3)
    await look()
    assert [row["activationStatus"] for row in seen] == states
    assert [row["smsCode"] for row in seen] == [None, codes, codes]


async def test_tiger_pages_hold_fifty_unless_asked_for_up_to_a_hundred() -> None:
    shop = Shop("tigersms")
    for _ in range(120):
        await shop.buy()
    sizes = [len((await shop.ask("getActiveActivations", **ask)).json()["data"]) for ask in ({}, {"limit": 500})]
    assert sizes == [50, 100]


async def test_a_cancelled_order_reads_otherwise_at_tiger() -> None:
    for brand, word in [("tigersms", "ACCESS_CANCEL"), ("smsbower", "STATUS_CANCEL")]:
        shop = Shop(brand, early_cancel_seconds=0)
        order = await shop.buy()
        await shop.ask("setStatus", id=order, status=8)
        assert (await shop.ask("getStatus", id=order)).text == word


async def test_early_cancels_are_refused_in_the_brands_shape() -> None:
    tiger, bower, daisy = Shop("tigersms"), Shop("smsbower"), Shop("daisysms")
    refused = await tiger.ask("setStatus", id=await tiger.buy(), status=8)
    assert (refused.status_code, refused.json()["info"]) == (409, {"minActivationTime": 120})
    assert await bower.says("setStatus", id=await bower.buy(), status=8) == (200, "EARLY_CANCEL_DENIED")
    assert await daisy.says("setStatus", id=await daisy.buy(), status=8) == (200, "ACCESS_CANCEL")


async def test_bower_can_only_cancel_after_ready_until_a_code_comes() -> None:
    shop = Shop("smsbower", early_cancel_seconds=0)
    first, second = await shop.buy(), await shop.buy()
    for order in (first, second):
        assert (await shop.ask("setStatus", id=order, status=1)).text == "ACCESS_READY"
        for status in (1, 3, 6):
            assert (await shop.ask("setStatus", id=order, status=status)).text == "BAD_STATUS"
    assert (await shop.ask("setStatus", id=first, status=8)).text == "ACCESS_CANCEL"
    shop.sim.deliver(second, "12345")
    assert (await shop.ask("setStatus", id=second, status=3)).text == "ACCESS_RETRY_GET"
    assert (await shop.ask("setStatus", id=second, status=6)).text == "ACCESS_ACTIVATION"


async def test_daisy_answers_every_vain_cancel_alike_and_gives_one_sms() -> None:
    shop = Shop("daisysms")
    order = await shop.buy()
    shop.sim.deliver(order, "Your code\nis 12345")
    status = await shop.ask("getStatus", id=order, text=1)
    assert (status.text, status.headers["x-text"]) == ("STATUS_OK:12345", "Your code is 12345")
    assert "x-text" not in (await shop.ask("getStatus", id=order)).headers
    for number in (order, "99999"):
        assert await shop.says("setStatus", id=number, status=8) == (200, "ACCESS_READY")
    assert await shop.says("setStatus", id=order, status=3) == (200, "BAD_STATUS")
    assert await shop.says("setStatus", id=order, status=6) == (200, "ACCESS_ACTIVATION")


@pytest.mark.parametrize("brand", ["tigersms", "smsbower", "grizzlysms", "smshub"])
async def test_the_edge_limits_in_prose(brand: str) -> None:
    shop = Shop(brand, requests_per_second=1)
    await shop.ask("getBalance")
    limited = await shop.ask("getBalance")
    assert (limited.status_code, limited.text) == (429, "Too Many Requests")
    assert limited.headers["retry-after"] == "1"


# --- webhooks ---


class Receiver:
    """What was pushed, and what is answered: statuses one after another, the last of them for ever."""

    def __init__(self) -> None:
        self.bodies: list[Any] = []
        self.types: list[str] = []
        self.statuses = [200]

    async def take(self, request: Request) -> Response:
        self.bodies.append(json.loads(await request.body()))
        self.types.append(request.headers["content-type"])
        return Response(status_code=self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0])


@contextmanager
def pushing(brand: str, *statuses: int) -> Iterator[tuple[HandlerApi, httpx.Client, Receiver]]:
    receiver = Receiver()
    receiver.statuses = list(statuses) or [200]
    heard = Starlette(routes=[Route("/push", receiver.take, methods=["POST"])])
    with serve(heard) as address:
        app = handler_api.build(brand=brand, sms_delay_seconds=None, webhook_url=address + "/push")
        with serve(app) as base_url, httpx.Client(base_url=base_url) as client:
            yield app.state.sim, client, receiver


def buy(client: httpx.Client) -> str:
    query = {"api_key": KEY, "action": "getNumber", "service": "tg", "country": "6"}
    return client.get(handler_api.PATH, params=query).text.split(":")[1]


def webhooks(sim: HandlerApi) -> Webhooks:
    assert sim.webhooks is not None
    return sim.webhooks


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        assert time.monotonic() < deadline, "it never was"
        time.sleep(0.01)


@pytest.mark.parametrize("brand", ["herosms", "smsbower", "generic"])
def test_each_sms_is_pushed_in_the_brands_shape(brand: str) -> None:
    with pushing(brand) as (sim, client, receiver):
        order = buy(client)
        sim.deliver(order, "Ваш код 12345")
        until(lambda: len(receiver.bodies) == 1)
    (body,) = receiver.bodies
    received_at = body.pop("receivedAt")
    common = {"service": "tg", "text": "Ваш код 12345", "code": "12345", "country": 6}
    if brand == "herosms":
        assert body == {"activationId": order, "phoneFrom": "Telegram", **common}
        assert (received_at[10], received_at[-1]) == ("T", "Z")
    else:
        assert body == {"activationId": int(order), **common}
        assert (received_at[10], len(received_at)) == (" ", 19)
    assert receiver.types == ["application/json"]


@pytest.mark.parametrize(("brand", "pauses"), [("herosms", [25.0] * 7), ("smsbower", [60.0, 300.0])])
def test_a_push_not_taken_is_tried_again_after_pauses_and_then_given_up(brand: str, pauses: list[float]) -> None:
    with pushing(brand, 500) as (sim, client, receiver):
        sim.deliver(buy(client), "12345")
        for tried, pause in enumerate(pauses, start=1):
            until(lambda: (len(receiver.bodies), len(webhooks(sim).pending)) == (tried, 1))  # noqa: B023 - asked now
            sim.skip(pause - 1)
            time.sleep(0.12)
            assert len(receiver.bodies) == tried
            sim.skip(1.0)
        until(lambda: len(receiver.bodies) == len(pauses) + 1 and not webhooks(sim).pending)
        assert list(webhooks(sim).answers)[-1] == 500


@pytest.mark.parametrize(("brand", "is_heard"), [("herosms", True), ("smsbower", False)])
def test_bower_takes_nothing_but_200_for_heard(brand: str, is_heard: bool) -> None:
    with pushing(brand, 204) as (sim, client, _):
        sim.deliver(buy(client), "12345")
        until(lambda: list(webhooks(sim).answers) == [204])
        until(lambda: len(webhooks(sim).pending) == (0 if is_heard else 1))


def test_an_sms_that_comes_by_itself_is_pushed_without_a_request_asking_for_it() -> None:
    with pushing("herosms") as (sim, client, receiver):
        sim.sms_delay_seconds = 0.2
        order = buy(client)
        until(lambda: [body["activationId"] for body in receiver.bodies] == [order])


def test_the_address_can_be_set_and_taken_away_over_http() -> None:
    with pushing("herosms") as (sim, client, receiver):
        assert client.post("/_sim/webhook", json={"url": None}).status_code == 200
        sim.deliver(buy(client), "12345")
        url = client.post("/_sim/webhook", json={"url": "http://127.0.0.1:1/"})
        assert url.json()["webhooks"] == []
        sim.deliver(buy(client), "12345")
        until(lambda: list(webhooks(sim).answers) == [None])
        assert receiver.bodies == []
        assert client.post("/_sim/webhook", json={}).status_code == 400


async def test_a_brand_without_webhooks_refuses_an_address() -> None:
    answer = await Shop("tigersms").http.post("/_sim/webhook", json={"url": "http://127.0.0.1:1/"})
    assert answer.status_code == 400
    with pytest.raises(ValueError, match="tells of nothing"):
        handler_api.build(brand="smshub", webhook_url="http://127.0.0.1:1/")


def test_every_brand_can_be_chosen_by_its_name() -> None:
    assert all(name == brand.name for name, brand in BRANDS.items())
    assert {"generic", "herosms", "tigersms", "smsbower", "grizzlysms", "smshub", "daisysms"} <= BRANDS.keys()


async def test_money_is_taken_at_the_price_of_the_step_sold() -> None:
    shop = Shop("smsbower")
    shop.sim.set_stock("tg", 6, price="0.20", count=1, dearer={"0.30": 1})
    await shop.buy()
    await shop.buy()
    assert shop.sim.balance == 1000 - Decimal("0.50")
    assert (await shop.ask("getNumber", service="tg", country=6)).text == "NO_NUMBERS"
