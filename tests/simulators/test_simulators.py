"""The simulators do what the checklists of the protocol notes ask: states, money, refusals and faults.

Most run in process under a clock that only moves when told; what concerns the connection itself runs on real sockets.
"""

import json
import re
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any

import httpx
import pytest

from tests.simulators import fivesim, handler_api, vaksms
from tests.simulators._common import NotOpen
from tests.simulators._fivesim_engine import FiveSim
from tests.simulators._handler_brands import BRANDS
from tests.simulators._handler_engine import HandlerApi
from tests.simulators._serve import serve

START = 1_793_527_200.25
COST = Decimal("0.406")
"""What `tg` costs in country 6 unless a test says otherwise."""


class Clock:
    """Stands still until told to move."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


class Handler:
    """The handler_api simulator in process, asked as clients ask it."""

    def __init__(self, **options: Any) -> None:
        self.clock = Clock()
        app = handler_api.build(clock=self.clock, **{"sms_delay_seconds": None, **options})
        self.sim: HandlerApi = app.state.sim
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://upstream")

    async def ask(self, action: str, **params: Any) -> httpx.Response:
        query = {"api_key": handler_api.DEFAULT_KEY, "action": action, **params}
        return await self.http.get(handler_api.PATH, params=query)

    async def buy(self, **params: Any) -> str:
        answer = await self.ask("getNumber", service="tg", country=6, **params)
        return answer.text.split(":")[1]


class Five:
    """The 5sim simulator in process."""

    def __init__(self, **options: Any) -> None:
        self.clock = Clock()
        app = fivesim.build(clock=self.clock, **{"sms_delay_seconds": None, **options})
        self.sim: FiveSim = app.state.sim
        headers = {"Authorization": f"Bearer {fivesim.DEFAULT_KEY}"}
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://upstream/v1", headers=headers
        )

    async def get(self, path: str, **params: Any) -> httpx.Response:
        return await self.http.get(path, params=params)

    async def buy(self, path: str = "england/any/telegram", **params: Any) -> dict[str, Any]:
        bought: dict[str, Any] = (await self.get(f"/user/buy/activation/{path}", **params)).json()
        return bought


def title(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["title"]


def bare(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.text


# --- handler_api: the life of an order --------------------------------------------------------------------------------


async def test_text_replies_are_the_token_alone_and_labelled_as_the_reference_does() -> None:
    answer = await Handler(brand="generic").ask("getBalance")
    assert answer.content == b"ACCESS_BALANCE:1000.0000"
    assert answer.headers["content-type"] == "text/html; charset=UTF-8"


async def test_money_is_taken_at_the_purchase_and_given_back_by_a_cancel() -> None:
    upstream = Handler(early_cancel_seconds=0)
    order = await upstream.buy()
    assert upstream.sim.balance == 1000 - COST
    assert bare(await upstream.ask("setStatus", id=order, status=8)) == (200, "ACCESS_CANCEL")
    assert upstream.sim.balance == 1000


async def test_an_order_without_sms_expires_as_cancelled_and_refunds() -> None:
    upstream = Handler()
    order = await upstream.buy()
    upstream.clock.now += 1199
    assert (await upstream.ask("getStatus", id=order)).text == "STATUS_WAIT_CODE"
    upstream.clock.now += 1
    assert (await upstream.ask("getStatus", id=order)).text == "STATUS_CANCEL"
    assert upstream.sim.balance == 1000


async def test_an_order_with_sms_keeps_its_code_and_its_price_when_its_time_is_over() -> None:
    upstream = Handler()
    order = await upstream.buy()
    upstream.sim.deliver(order, "Your code is 12345")
    upstream.clock.now += 1200
    assert (await upstream.ask("getStatus", id=order)).text == "STATUS_OK:12345"
    assert upstream.sim.balance == 1000 - COST
    with pytest.raises(NotOpen):
        upstream.sim.deliver(order, "too late")


async def test_sms_come_by_themselves_after_the_delay_and_again_after_a_retry() -> None:
    upstream = Handler(sms_delay_seconds=5)
    order = await upstream.buy()
    upstream.clock.now += 4.9
    assert (await upstream.ask("getStatus", id=order)).text == "STATUS_WAIT_CODE"
    upstream.clock.now += 0.1
    first = (await upstream.ask("getStatus", id=order)).text
    assert re.fullmatch(r"STATUS_OK:\d{5}", first)
    assert (await upstream.ask("setStatus", id=order, status=3)).text == "ACCESS_RETRY_GET"
    assert (await upstream.ask("getStatus", id=order)).text == first.replace("OK", "WAIT_RETRY")
    upstream.clock.now += 5
    assert (await upstream.ask("getStatus", id=order)).text not in (first, first.replace("OK", "WAIT_RETRY"))


@pytest.mark.parametrize("status", ["3", "6", "7", "x"])
async def test_reference_refuses_moves_that_need_a_code(status: str) -> None:
    upstream = Handler(brand="generic")
    order = await upstream.buy()
    assert bare(await upstream.ask("setStatus", id=order, status=status)) == (200, "BAD_STATUS")


@pytest.mark.parametrize("status", ["1", "3", "6", "8", "-1"])
async def test_reference_refuses_every_move_of_a_finished_order(status: str) -> None:
    upstream = Handler(brand="generic", early_cancel_seconds=0)
    order = await upstream.buy()
    upstream.sim.deliver(order, "code 12345")
    assert (await upstream.ask("setStatus", id=order, status=6)).text == "ACCESS_ACTIVATION"
    assert bare(await upstream.ask("setStatus", id=order, status=status)) == (200, "BAD_STATUS")


async def test_reference_takes_ready_and_minus_one_which_hero_does_not() -> None:
    reference = Handler(brand="generic", early_cancel_seconds=0)
    order = await reference.buy()
    assert (await reference.ask("setStatus", id=order, status=1)).text == "ACCESS_READY"
    assert (await reference.ask("setStatus", id=order, status=-1)).text == "ACCESS_CANCEL"
    hero = Handler(early_cancel_seconds=0)
    order = await hero.buy()
    for status in (1, -1):
        assert title(await hero.ask("setStatus", id=order, status=status)) == (400, "BAD_STATUS")


async def test_hero_denies_an_early_cancel_and_says_how_long() -> None:
    upstream = Handler()
    order = await upstream.buy()
    upstream.clock.now += 119
    refused = await upstream.ask("setStatus", id=order, status=8)
    assert title(refused) == (409, "EARLY_CANCEL_DENIED")
    assert refused.json()["info"] == {"minActivationTime": 120}
    upstream.clock.now += 1
    assert (await upstream.ask("setStatus", id=order, status=8)).text == "ACCESS_CANCEL"


async def test_reference_denies_an_early_cancel_with_a_bare_token() -> None:
    upstream = Handler(brand="generic")
    order = await upstream.buy()
    assert bare(await upstream.ask("setStatus", id=order, status=8)) == (200, "EARLY_CANCEL_DENIED")


async def test_an_sms_that_comes_as_the_cancel_is_asked_refuses_it() -> None:
    hero, reference = Handler(early_cancel_seconds=0), Handler(brand="generic", early_cancel_seconds=0)
    for upstream in (hero, reference):
        upstream.sim.fault("sms_on_cancel", 1)
    order = await hero.buy()
    assert title(await hero.ask("setStatus", id=order, status=8)) == (409, "OTP_RECEIVED")
    assert (await hero.ask("getStatus", id=order)).text == "STATUS_OK:24680"
    assert hero.sim.balance == 1000 - COST
    order = await reference.buy()
    assert bare(await reference.ask("setStatus", id=order, status=8)) == (200, "BAD_STATUS")


async def test_full_text_belongs_to_the_reference_and_the_sms_list_to_hero() -> None:
    reference, hero = Handler(brand="generic"), Handler()
    order = await reference.buy()
    assert (await reference.ask("getFullSms", id=order)).text == "STATUS_WAIT_CODE"
    reference.sim.deliver(order, "a: b\nc 12345")
    assert (await reference.ask("getFullSms", id=order)).text == "FULL_SMS:a: b\nc 12345"
    assert bare(await reference.ask("getAllSms", id=order)) == (200, "BAD_ACTION")
    order = await hero.buy()
    hero.sim.deliver(order, "no digits here")
    assert [row["code"] for row in (await hero.ask("getAllSms", id=order)).json()["data"]] == [""]
    assert title(await hero.ask("getFullSms", id=order)) == (404, "BAD_ACTION")


# --- handler_api: buying ----------------------------------------------------------------------------------------------


async def test_a_cap_below_the_price_is_refused_with_the_lowest_price() -> None:
    hero = await Handler().ask("getNumberV2", service="tg", country=6, maxPrice="0.4")
    assert title(hero) == (400, "WRONG_MAX_PRICE")
    assert hero.json()["info"] == {"min": 0.406}
    reference = await Handler(brand="generic").ask("getNumber", service="tg", country=6, maxPrice="0.4")
    assert bare(reference) == (200, "WRONG_MAX_PRICE:0.406")


async def test_a_cap_equal_to_the_price_buys_and_a_higher_one_costs_no_more() -> None:
    upstream = Handler()
    for cap in ("0.406", "5"):
        bought = await upstream.ask("getNumberV2", service="tg", country=6, maxPrice=cap)
        assert bought.json()["activationCost"] == 0.406


async def test_a_number_above_the_cap_can_be_handed_out() -> None:
    upstream = Handler()
    upstream.sim.fault("overpriced", 1)
    bought = await upstream.ask("getNumberV2", service="tg", country=6, maxPrice="0.41")
    assert bought.json()["activationCost"] == 0.91
    assert upstream.sim.balance == 1000 - Decimal("0.91")


async def test_hero_counts_virtual_numbers_that_nobody_can_buy() -> None:
    upstream = Handler()
    upstream.sim.set_stock("tg", 6, count=0, virtual=40_000, price="0.2")
    leaf = (await upstream.ask("getPrices", service="tg", country=6)).json()["6"]["tg"]
    assert leaf == {"cost": 0.2, "count": 40_000, "physicalCount": 0}
    assert bare(await upstream.ask("getNumber", service="tg", country=6)) == (200, "NO_NUMBERS")
    assert upstream.sim.purchases == 0


async def test_stock_and_money_run_out() -> None:
    upstream = Handler(balance="1.0", stock=2)
    await upstream.buy()
    await upstream.buy()
    assert bare(await upstream.ask("getNumberV2", service="tg", country=6)) == (200, "NO_NUMBERS")
    assert title(await upstream.ask("getNumberV2", service="wa", country=6)) == (402, "NO_BALANCE")


async def test_excepted_prefixes_are_avoided_and_bad_ones_refused() -> None:
    upstream = Handler(brand="generic")
    refusing = ",".join(f"62{digit}" for digit in range(1, 9))
    for _ in range(5):
        answer = await upstream.ask("getNumber", service="tg", country=6, phoneException=refusing)
        assert answer.text.split(":")[2].startswith("629")
    assert (await upstream.ask("getNumber", service="tg", country=6, phoneException="62")).text == "NO_NUMBERS"
    assert (await upstream.ask("getNumber", service="tg", country=6, phoneException="+62")).text == (
        "WRONG_EXCEPTION_PHONE"
    )


async def test_hero_words_a_wrong_name_differently_in_each_version() -> None:
    upstream = Handler()
    first = await upstream.ask("getNumber", service="nonsense", country=6)
    assert bare(first) == (200, "UNPROCESSABLE_ENTITY:service:INVALID")
    second = await upstream.ask("getNumberV2", service="tg")
    assert title(second) == (422, "UNPROCESSABLE_ENTITY")
    assert second.json()["info"]["field"] == "country"
    prices = await upstream.ask("getPrices", service="nonsense")
    assert prices.json() == {"status": "false", "msg": "service is incorrect"}


async def test_keys_are_checked_after_the_action_and_not_for_heros_catalogue() -> None:
    hero = Handler()
    assert title(await hero.ask("nonsense", api_key="wrong")) == (404, "BAD_ACTION")
    assert title(await hero.ask("getBalance", api_key="wrong")) == (401, "BAD_KEY")
    assert bare(await hero.ask("getBalance", api_key="")) == (200, "NO_KEY")
    assert (await hero.ask("getCountries", api_key="wrong")).json()["6"]["eng"] == "Indonesia"
    assert bare(await Handler(brand="generic").ask("getCountries", api_key="wrong")) == (200, "BAD_KEY")


async def test_reference_takes_a_form_and_hero_refuses_post() -> None:
    form = {"api_key": handler_api.DEFAULT_KEY, "action": "getBalance"}
    assert (await Handler(brand="generic").http.post(handler_api.PATH, data=form)).text == "ACCESS_BALANCE:1000.0000"
    assert (await Handler().http.post(handler_api.PATH, params=form)).status_code == 405


async def test_v2_types_differ_as_recorded() -> None:
    hero = (await Handler().ask("getNumberV2", service="tg", country=6)).json()
    reference = (await Handler(brand="generic").ask("getNumberV2", service="tg", country=6)).json()
    assert (hero["activationId"], reference["activationId"]) == ("1000000001", 100000001)
    assert (hero["countryCode"], reference["countryCode"]) == (6, "6")
    assert (hero["activationTime"], reference["activationTime"]) == (
        "2026-11-01T10:00:00+00:00",
        "2026-11-01 10:00:00",
    )
    assert hero["activationEndTime"] == "2026-11-01T10:20:00+00:00"


async def test_hero_pages_its_open_orders_by_a_hundred_newest_first() -> None:
    upstream = Handler(early_cancel_seconds=0)
    bought = [await upstream.buy() for _ in range(130)]
    await upstream.ask("setStatus", id=bought[0], status=8)
    upstream.sim.deliver(bought[1], "Your code is 12345")
    pages = [(await upstream.ask("getActiveActivations", start=at, limit=500)).json()["data"] for at in (0, 100, 200)]
    assert [len(page) for page in pages] == [100, 29, 0]
    rows = [row for page in pages for row in page]
    assert [row["activationId"] for row in rows] == bought[:0:-1]
    assert (rows[-1]["smsCode"], rows[-1]["smsText"]) == (["12345"], "Your code is 12345")
    assert (rows[0]["smsCode"], rows[0]["activationStatus"]) == (None, "4")


async def test_reference_lists_states_and_says_when_nothing_is_open() -> None:
    upstream = Handler(brand="generic")
    assert (await upstream.ask("getActiveActivations")).text == '{"status":"error","error":"NO_ACTIVATIONS"}'
    order = await upstream.buy()

    async def listed() -> Any:
        return (await upstream.ask("getActiveActivations")).json()["activeActivations"][0]["activationStatus"]

    states = [await listed()]
    upstream.sim.deliver(order, "12345")
    states.append(await listed())
    await upstream.ask("setStatus", id=order, status=3)
    assert [*states, await listed()] == ["4", "2", "3"]


async def test_a_repeated_sms_is_listed_twice() -> None:
    upstream = Handler()
    upstream.sim.fault("repeat_sms", 1)
    order = await upstream.buy()
    upstream.sim.deliver(order, "Your code is 12345")
    [row] = (await upstream.ask("getActiveActivations")).json()["data"]
    assert row["smsCode"] == ["12345", "12345"]


async def test_price_shapes_follow_the_brand() -> None:
    reference = Handler(brand="generic")
    assert (await reference.ask("getPrices", service="tg", country=6)).json() == {
        "6": {"tg": {"cost": 0.406, "count": 5000}}
    }
    assert (await reference.ask("getPrices", service="nonsense")).text == "[]"
    ladder = replace(BRANDS["generic"], price_leaf="ladder")
    assert (await Handler(brand=ladder).ask("getPrices", service="tg", country=6)).text == '{"6":{"tg":{"0.406":5000}}}'


# --- 5sim -------------------------------------------------------------------------------------------------------------


async def test_a_wrong_bearer_gets_401_without_a_body_and_guests_need_none() -> None:
    upstream = Five()
    upstream.http.headers["Authorization"] = "Bearer wrong"
    assert bare(await upstream.get("/user/profile")) == (401, "")
    assert (await upstream.get("/guest/prices")).status_code == 200


async def test_json_is_labelled_without_a_charset() -> None:
    assert (await Five().get("/user/profile")).headers["content-type"] == "application/json"


async def test_no_free_phones_is_text_with_200() -> None:
    upstream = Five()
    upstream.sim.fault("sold_out", 1)
    answer = await upstream.get("/user/buy/activation/england/any/telegram")
    assert bare(answer) == (200, "no free phones")
    assert answer.headers["content-type"].startswith("text/plain")


async def test_a_cap_counts_only_with_any_operator() -> None:
    upstream = Five()
    capped = await upstream.get("/user/buy/activation/england/any/telegram", maxPrice="0.41")
    assert bare(capped) == (200, "no free phones")
    assert (await upstream.buy(maxPrice="0.42"))["operator"] == "vodafone"
    assert (await upstream.buy("england/o2/telegram", maxPrice="0.01"))["price"] == 0.43


async def test_any_country_is_the_cheapest_one_in_stock() -> None:
    upstream = Five()
    upstream.sim.set_stock("telegram", "india", "airtel", price="0.05", count=1)
    assert [(await upstream.buy("any/any/telegram"))["country"] for _ in range(2)] == ["india", "england"]


async def test_an_order_is_pending_then_received_without_sms_then_with_it() -> None:
    upstream = Five(pending_seconds=1, sms_delay_seconds=5)
    bought = await upstream.buy()
    assert (bought["status"], bought["sms"], bought["phone"][:3]) == ("PENDING", None, "+44")
    seen = []
    for seconds in (0, 1, 4):
        upstream.clock.now += seconds
        order = (await upstream.get(f"/user/check/{bought['id']}")).json()
        seen.append((order["status"], len(order["sms"])))
    assert seen == [("PENDING", 0), ("RECEIVED", 0), ("RECEIVED", 1)]


async def test_an_order_can_stay_pending_while_it_holds_an_sms() -> None:
    upstream = Five()
    upstream.sim.fault("keep_pending", 1)
    bought = await upstream.buy()
    upstream.sim.deliver(str(bought["id"]), "Your code is 12345")
    order = (await upstream.get(f"/user/check/{bought['id']}")).json()
    assert (order["status"], order["sms"][0]["code"]) == ("PENDING", "12345")
    assert (await upstream.get(f"/user/finish/{bought['id']}")).json()["status"] == "FINISHED"


async def test_times_have_nine_fraction_digits() -> None:
    bought = await Five().buy()
    assert re.fullmatch(r"2026-11-01T10:00:00\.250000\d{3}Z", bought["created_at"])
    assert bought["expires"][:19] == "2026-11-01T10:15:00"


async def test_the_price_is_frozen_by_a_purchase_and_returned_by_a_cancel() -> None:
    upstream = Five()
    bought = await upstream.buy()
    profile = (await upstream.get("/user/profile")).json()
    assert (profile["balance"], profile["frozen_balance"], profile["total_active_orders"]) == (999.58, 0.42, 1)
    assert profile["last_order"] == f"england:telegram:vodafone:{bought['id']}:0.42"
    assert (await upstream.get(f"/user/cancel/{bought['id']}")).json()["status"] == "CANCELED"
    profile = (await upstream.get("/user/profile")).json()
    assert (profile["balance"], profile["frozen_balance"], profile["total_active_orders"]) == (1000, 0, 0)


@pytest.mark.parametrize("action", ["cancel", "ban"])
async def test_an_order_with_sms_cannot_be_given_back(action: str) -> None:
    upstream = Five()
    bought = await upstream.buy()
    upstream.sim.deliver(str(bought["id"]), "12345")
    assert bare(await upstream.get(f"/user/{action}/{bought['id']}")) == (400, "order has sms")
    assert upstream.sim.balance == Decimal("999.58")


async def test_an_sms_that_comes_as_the_5sim_cancel_is_asked_refuses_it() -> None:
    upstream = Five()
    upstream.sim.fault("sms_on_cancel", 1)
    bought = await upstream.buy()
    assert bare(await upstream.get(f"/user/cancel/{bought['id']}")) == (400, "order has sms")


async def test_finishing_without_sms_is_refused() -> None:
    upstream = Five()
    bought = await upstream.buy()
    assert bare(await upstream.get(f"/user/finish/{bought['id']}")) == (400, "order no sms")


@pytest.mark.parametrize(("sms", "status", "balance"), [(False, "TIMEOUT", "1000"), (True, "FINISHED", "999.58")])
async def test_the_end_of_an_orders_life(sms: bool, status: str, balance: str) -> None:
    upstream = Five()
    bought = await upstream.buy()
    if sms:
        upstream.sim.deliver(str(bought["id"]), "12345")
    upstream.clock.now += 900
    assert (await upstream.get(f"/user/check/{bought['id']}")).json()["status"] == status
    assert (upstream.sim.balance, upstream.sim.frozen) == (Decimal(balance), Decimal(0))


async def test_an_unknown_order_is_404_on_check_and_400_elsewhere() -> None:
    upstream = Five()
    found = {action: bare(await upstream.get(f"/user/{action}/77")) for action in ("check", "finish", "cancel", "ban")}
    assert found.pop("check") == (404, "order not found")
    assert set(found.values()) == {(400, "order not found")}


async def test_unknown_words_redirect_and_unsold_products_are_null() -> None:
    upstream = Five()
    upstream.sim.drop_product("viber", "england")
    for path in ("/user/buy/activation/england/any/nonsense", "/user/nonsense", "/user/check/nonsense"):
        answer = await upstream.get(path)
        assert (answer.status_code, answer.headers["location"]) == (302, "/404.html")
    assert bare(await upstream.get("/guest/prices", country="england", product="viber")) == (200, "null")
    assert bare(await upstream.get("/guest/prices", product="nonsense")) == (400, "product is incorrect")
    assert bare(await upstream.get("/user/buy/activation/atlantis/any/viber")) == (400, "bad country")
    assert bare(await upstream.get("/user/buy/activation/england/nonsense/viber")) == (400, "bad operator")


async def test_prices_nest_by_country_unless_only_the_product_is_named() -> None:
    upstream = Five()
    leaf = {"cost": 0.42, "count": 5000, "rate": 87.5, "rate72": 87.5}
    everything = (await upstream.get("/guest/prices")).json()
    both = (await upstream.get("/guest/prices", country="england", product="telegram")).json()
    product = (await upstream.get("/guest/prices", product="telegram")).json()
    assert everything["england"]["telegram"]["vodafone"] == both["england"]["telegram"]["vodafone"] == leaf
    assert product["telegram"]["england"]["vodafone"] == leaf
    assert "any" not in everything["england"]["telegram"]


async def test_products_have_capitals_and_include_hosting() -> None:
    products = (await Five().get("/guest/products/england/any")).json()
    assert products["telegram"] == {"Category": "activation", "Qty": 15000, "Price": 0.42}
    assert products["1day"]["Category"] == "hosting"


async def test_the_order_list_pages_both_ways_and_needs_a_category() -> None:
    upstream = Five()
    ids = [(await upstream.buy())["id"] for _ in range(5)]

    async def listed(**params: Any) -> list[int]:
        page = (await upstream.get("/user/orders", category="activation", **params)).json()
        assert page["Total"] == 5
        return [order["id"] for order in page["Data"]]

    assert await listed() == ids
    assert await listed(reverse="true", limit=2) == [ids[4], ids[3]]
    assert await listed(reverse="true", limit=2, offset=4) == [ids[0]]
    assert await listed(limit=2, offset=1) == ids[1:3]
    assert (await upstream.get("/user/orders")).status_code == 400


async def test_5sim_words_its_limits() -> None:
    upstream = Five(requests_per_second=1)
    await upstream.get("/user/profile")
    assert bare(await upstream.get("/user/profile")) == (429, "api limit is 100 requests per second")
    upstream.sim.fault("ip_limit", 1)
    assert bare(await upstream.get("/user/profile")) == (503, "ip address limit is 100 requests per second")


async def test_5sim_asks_to_wait_before_a_cancel() -> None:
    upstream = Five(cancel_wait_seconds=10)
    bought = await upstream.buy()
    assert bare(await upstream.get(f"/user/cancel/{bought['id']}")) == (400, "you need to wait time")
    upstream.clock.now += 10
    assert (await upstream.get(f"/user/cancel/{bought['id']}")).json()["status"] == "CANCELED"


# --- faults -----------------------------------------------------------------------------------------------------------


async def buy_hero(upstream: Handler) -> httpx.Response:
    return await upstream.ask("getNumberV2", service="tg", country=6)


async def test_errors_after_the_commit_wear_each_providers_clothes() -> None:
    hero, reference, five = Handler(), Handler(brand="generic"), Five()
    for sim in (hero.sim, reference.sim, five.sim):
        sim.fault("buy.error", 1)
    assert title(await buy_hero(hero)) == (500, "SERVER_ERROR")
    assert bare(await buy_hero(reference)) == (500, "ERROR_SQL")
    assert bare(await five.get("/user/buy/activation/england/any/telegram")) == (500, "internal error")
    assert [hero.sim.purchases, reference.sim.purchases, five.sim.purchases] == [1, 1, 1]


async def test_a_fault_lasts_as_many_occasions_as_told_or_until_cleared() -> None:
    upstream = Handler()
    upstream.sim.fault("buy.bad_gateway", 2)
    assert [(await buy_hero(upstream)).status_code for _ in range(3)] == [502, 502, 200]
    upstream.sim.fault("buy.bad_gateway")
    assert [(await buy_hero(upstream)).status_code for _ in range(3)] == [502] * 3
    upstream.sim.clear_faults()
    assert (await buy_hero(upstream)).status_code == 200
    assert upstream.sim.purchases == 7


@pytest.mark.parametrize(("commit", "purchases"), [(True, 1), (False, 0)])
async def test_an_html_page_with_200_before_or_after_the_commit(commit: bool, purchases: int) -> None:
    upstream = Handler()
    upstream.sim.fault("buy.html", 1, commit=commit)
    answer = await buy_hero(upstream)
    assert (answer.status_code, answer.text[:15]) == (200, "<!DOCTYPE html>")
    assert upstream.sim.purchases == purchases


async def test_truncated_json_after_the_commit() -> None:
    upstream = Handler()
    upstream.sim.fault("buy.truncated", 1)
    answer = await buy_hero(upstream)
    assert answer.text.startswith('{"activationId":"1000000001"')
    with pytest.raises(json.JSONDecodeError):
        answer.json()
    assert upstream.sim.purchases == 1


async def test_a_drop_without_a_connection_raises_in_process() -> None:
    upstream = Handler()
    upstream.sim.fault("buy.drop", 1)
    with pytest.raises(ConnectionResetError):
        await buy_hero(upstream)
    assert upstream.sim.purchases == 1


async def test_an_overpriced_number_can_be_given_a_price() -> None:
    upstream = Five()
    upstream.sim.fault("overpriced", 1, price="3.5")
    assert (await upstream.buy(maxPrice="0.01"))["price"] == 3.5


async def test_hero_limits_with_retry_after() -> None:
    upstream = Handler(requests_per_second=2)
    answers = [await upstream.ask("getBalance") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert (answers[2].json()["title"], answers[2].headers["retry-after"]) == ("RATE_LIMIT", "1")
    upstream.clock.now += 1
    upstream.sim.fault("buy.rate_limit", 1)
    assert (await buy_hero(upstream)).status_code == 429
    assert upstream.sim.purchases == 0


async def test_refusal_knobs_name_their_reason() -> None:
    upstream = Handler()
    expected = {
        "bad_key": (401, "BAD_KEY"),
        "no_balance": (402, "NO_BALANCE"),
        "banned": (403, "BANNED"),
        "channels_limit": (403, "CHANNELS_LIMIT"),
    }
    for knob, answer in expected.items():
        upstream.sim.fault(knob, 1)
        assert title(await buy_hero(upstream)) == answer
    reference = Handler(brand="generic")
    reference.sim.fault("banned", 1)
    assert (await reference.ask("getNumber", service="tg")).text == "BANNED:'2026-11-01 11-00-00'"


async def test_status_calls_fail_apart_from_purchases() -> None:
    upstream = Handler()
    upstream.sim.fault("status.error")
    order = await upstream.buy()
    assert (await upstream.ask("getStatus", id=order)).status_code == 500
    assert (await upstream.ask("getActiveActivations")).status_code == 200


async def test_hero_denies_a_live_order_or_calls_it_cancelled_until_it_is_asked_to_end_it() -> None:
    upstream = Handler(early_cancel_seconds=0)
    order = await upstream.buy()
    upstream.sim.fault("denied")
    assert (await upstream.ask("getStatus", id=order)).status_code == 404
    assert (await upstream.ask("getActiveActivations")).json()["data"] == []
    assert upstream.sim.called_over == set()
    upstream.sim.clear_faults()
    upstream.sim.fault("called_cancelled")
    assert (await upstream.ask("getStatus", id=order)).text == "STATUS_CANCEL"
    assert upstream.sim.called_over == {order}
    assert upstream.sim.order_views()[0]["state"] == "waiting"
    assert (await upstream.ask("setStatus", id=order, status=8)).text == "ACCESS_CANCEL"


@pytest.mark.parametrize(("lie", "status"), [("called_finished", "FINISHED"), ("called_cancelled", "CANCELED")])
async def test_5sim_calls_an_order_over_that_waits_and_is_honest_once_it_has_a_message(lie: str, status: str) -> None:
    upstream = Five()
    order = str((await upstream.buy())["id"])
    upstream.sim.fault(lie)
    assert (await upstream.get(f"/user/check/{order}")).json()["status"] == status
    assert (await upstream.get("/user/orders", category="activation")).json()["Data"][0]["status"] == status
    assert upstream.sim.called_over == ({order} if status == "CANCELED" else set())
    upstream.sim.deliver(order, "Your code is 12345")
    assert (await upstream.get(f"/user/check/{order}")).json()["status"] == "RECEIVED"


async def test_5sim_denies_a_live_order_also_with_its_message() -> None:
    upstream = Five()
    order = str((await upstream.buy())["id"])
    upstream.sim.deliver(order, "Your code is 12345")
    upstream.sim.fault("denied")
    assert bare(await upstream.get(f"/user/check/{order}")) == (404, "order not found")
    assert (await upstream.get("/user/orders", category="activation")).json()["Data"] == []
    assert (await upstream.get(f"/user/finish/{order}")).json()["status"] == "FINISHED"


async def test_vaksms_denies_an_order_that_waits_as_if_it_were_over() -> None:
    app = vaksms.build(sms_delay_seconds=None, clock=Clock())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://upstream/api") as http:
        params = {"apiKey": vaksms.DEFAULT_KEY}
        bought = (await http.get("/getNumber", params={**params, "service": "tg", "country": "gb"})).json()
        app.state.sim.fault("denied")
        told = await http.get("/getSmsCode", params={**params, "idNum": bought["idNum"]})
        assert told.json() == {"error": "idNumNotFound"}
        assert app.state.sim.called_over == set()
        app.state.sim.deliver(bought["idNum"], "Your code is 12345")
        told = await http.get("/getSmsCode", params={**params, "idNum": bought["idNum"]})
        assert told.json() == {"smsCode": "12345"}


@pytest.mark.parametrize(
    ("how", "odd"),
    [("cesu8", b"\xed\xa0\xbd\xed\xb8\x80\xed\xa0\xbd"), ("nul", b"\\u0000"), ("not_utf8", b"\xff\xfe\xe9")],
)
async def test_texts_and_names_can_be_bytes_that_no_text_is(how: str, odd: bytes) -> None:
    hero, five = Handler(), Five()
    hero.sim.fault(f"any.{how}")
    five.sim.fault(f"any.{how}")
    bought = await buy_hero(hero)
    assert b'"activationOperator":"' + odd in bought.content
    order = bought.content.split(b'"activationId":"')[1].split(b'"')[0].decode()
    hero.sim.deliver(order, "Your code is 12345")
    listed = await hero.ask("getActiveActivations")
    assert b'"smsText":"' + odd + b"Your code is 12345" in listed.content
    assert b'"smsCode":["12345"]' in listed.content
    assert b'"operator":"' + odd in (await five.get("/user/buy/activation/england/any/telegram")).content
    assert int(listed.headers["content-length"]) == len(listed.content)


async def test_a_plain_text_can_hold_a_nul() -> None:
    upstream = Handler(brand="generic")
    order = await upstream.buy()
    upstream.sim.deliver(order, "Your code is 12345")
    upstream.sim.fault("status.nul")
    assert (await upstream.ask("getFullSms", id=order)).content == b"FULL_SMS:\0Your code is 12345"


async def test_an_unknown_fault_is_refused_by_name() -> None:
    upstream = Handler()
    with pytest.raises(ValueError, match=r"no fault 'buy\.explode'"):
        upstream.sim.fault("buy.explode")


# --- control routes ---------------------------------------------------------------------------------------------------


async def test_everything_can_be_steered_over_http() -> None:
    upstream = Handler()
    http = upstream.http
    stock = {"service": "tg", "country": 6, "price": "0.7", "count": 3}
    assert (await http.post("/_sim/stock", json=stock)).status_code == 200
    faults = {"buy.slow": {"count": 1, "seconds": 0.0}, "bad_key": False, "status.error": 2, "no_sms": True}
    shown = (await http.post("/_sim/faults", json=faults)).json()
    assert shown == {"buy.slow": 1, "status.error": 2, "no_sms": None}
    order = await upstream.buy()
    assert (await http.delete("/_sim/faults")).json() == {}
    assert (await http.post("/_sim/sms", json={"id": order, "text": "G-987654 is your code"})).status_code == 200
    state = (await http.get("/_sim/state")).json()
    assert (state["balance"], state["purchases"], state["requests"]) == ("999.3", 1, {"getNumber": 1})
    [seen] = state["orders"]
    assert (seen["state"], seen["sms"]) == ("received", [{"text": "G-987654 is your code", "code": "987654"}])
    assert (await http.post("/_sim/skip", json={"seconds": 1200})).status_code == 200
    assert (await upstream.ask("getStatus", id=order)).text == "STATUS_OK:987654"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/_sim/faults", {"nonsense": True}),
        ("/_sim/sms", {"id": "1", "text": "x"}),
        ("/_sim/stock", {"service": "tg", "country": "atlantis"}),
        ("/_sim/stock", {"colour": "red"}),
        ("/_sim/skip", {}),
    ],
)
async def test_mistakes_in_control_requests_are_told(path: str, body: dict[str, Any]) -> None:
    answer = await Handler().http.post(path, json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]


# --- real sockets -----------------------------------------------------------------------------------------------------


def raw_get(base_url: str, target: str, header: str = "") -> bytes:
    """Everything the server sends back to one request before it closes the connection."""
    host, _, port = base_url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(f"GET {target} HTTP/1.1\r\nHost: {host}\r\n{header}\r\n".encode())
        return b"".join(iter(lambda: connection.recv(65536), b""))


HERO_PURCHASE = f"{handler_api.PATH}?api_key={handler_api.DEFAULT_KEY}&action=getNumberV2&service=tg&country=6"
FIVE_PURCHASE = "/v1/user/buy/activation/england/any/telegram"
FIVE_HEADER = f"Authorization: Bearer {fivesim.DEFAULT_KEY}\r\n"


@pytest.mark.parametrize(
    ("build", "target", "header"), [(handler_api.build, HERO_PURCHASE, ""), (fivesim.build, FIVE_PURCHASE, FIVE_HEADER)]
)
def test_a_dropped_purchase_is_committed_and_not_one_byte_comes_back(
    build: Callable[[], Any], target: str, header: str
) -> None:
    app = build()
    app.state.sim.fault("buy.drop", 1)
    with serve(app) as base_url:
        assert raw_get(base_url, target, header) == b""
        assert app.state.sim.purchases == 1
        assert b"200 OK" in raw_get(base_url, target, header + "Connection: close\r\n")


def test_a_drop_before_the_commit_buys_nothing() -> None:
    app = handler_api.build()
    app.state.sim.fault("buy.drop", 1, commit=False)
    with serve(app) as base_url:
        assert raw_get(base_url, HERO_PURCHASE) == b""
        assert app.state.sim.purchases == 0


def test_a_slow_purchase_is_committed_at_once_and_answered_late() -> None:
    app = handler_api.build()
    app.state.sim.fault("buy.slow", 1, seconds=0.3)
    with serve(app) as base_url, httpx.Client(base_url=base_url) as client:
        started = time.monotonic()
        assert client.get(HERO_PURCHASE).json()["activationId"] == "1000000001"
        assert time.monotonic() - started >= 0.3
        app.state.sim.fault("buy.slow", 1)
        with pytest.raises(httpx.ReadTimeout):
            client.get(HERO_PURCHASE, timeout=0.1)
        assert app.state.sim.purchases == 2


def test_a_hanging_status_call_delays_neither_others_nor_the_shutdown() -> None:
    app = handler_api.build()
    app.state.sim.fault("status.hang", 1)
    target = f"{handler_api.PATH}?api_key={handler_api.DEFAULT_KEY}&action=getStatus&id=1"
    with serve(app) as base_url:
        hanging = threading.Thread(target=raw_get, args=(base_url, target))
        hanging.start()
        while not app.state.sim.requests["getStatus"]:
            time.sleep(0.01)
        assert b"404" in raw_get(base_url, target, "Connection: close\r\n")
        leaving = time.monotonic()
    assert time.monotonic() - leaving < 4
    hanging.join()
