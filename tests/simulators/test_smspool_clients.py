"""SMSPool's official client and an older one, unmodified but for the host they call, against the simulator."""

import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest
import smspool_sdk
from smspool.client import smspool as OlderClient  # type: ignore[import-untyped, unused-ignore]
from smspool_sdk.exceptions import ApiException

from tests.simulators import smspool
from tests.simulators._serve import serve
from tests.simulators._smspool_engine import SmsPool

Bench = tuple[SmsPool, str]

SMS_DELAY_SECONDS = 0.1
POLL_SECONDS = 0.03
PATIENCE_SECONDS = 5.0


@pytest.fixture
def bench() -> Iterator[Bench]:
    app = smspool.build(sms_delay_seconds=SMS_DELAY_SECONDS)
    with serve(app) as address:
        yield app.state.sim, address


@pytest.fixture
def official(bench: Bench) -> Iterator[smspool_sdk.ApiClient]:
    _, address = bench
    with official_client(address) as client:
        yield client


def official_client(address: str) -> smspool_sdk.ApiClient:
    return smspool_sdk.ApiClient(smspool_sdk.Configuration(host=address, access_token=smspool.DEFAULT_KEY))


def until(read: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if answer := read():
            return answer
        time.sleep(POLL_SECONDS)
    raise AssertionError("nothing came")


def received(api: Any, order_id: str) -> Any:
    shown = api.sms_check(orderid=order_id)
    return shown if shown["status"] == 3 else None


def test_official_client_buys_waits_and_asks_again(bench: Bench, official: smspool_sdk.ApiClient) -> None:
    sim, _ = bench
    api: Any = smspool_sdk.SMSApi(official)
    bought = api.purchase_sms(country="GB", service="907", max_price=0.5, pricing_option=0, quantity=1)
    assert bought["success"] == 1
    assert str(bought["number"]).startswith("44")
    assert [row["status"] for row in api.request_active()] == ["pending"]
    first = until(lambda: received(api, bought["order_id"]))
    assert first["sms"] == sim.orders[bought["order_id"]].code
    assert api.sms_check_resend(orderid=bought["order_id"])["resendCost"] == 0
    again = api.sms_resend(orderid=bought["order_id"])
    assert until(lambda: received(api, again["order_id"]))["sms"] != first["sms"]
    assert [row["order_code"] for row in api.request_history()] == [bought["order_id"]]


def test_official_client_cancels_and_reads_the_lists(bench: Bench, official: smspool_sdk.ApiClient) -> None:
    sim, _ = bench
    api: Any = smspool_sdk.SMSApi(official)
    information: Any = smspool_sdk.InformationApi(official)
    prices: Any = smspool_sdk.PricingApi(official)
    assert information.request_balance() == {"balance": "1000.00"}
    assert {row["ID"]: row["name"] for row in information.service_retrieve_all()}[907] == "Telegram"
    assert {row["short_name"] for row in information.country_retrieve_all()} >= {"US", "US_V", "GB"}
    assert prices.request_price(country="GB", service="907")["price"] == "0.42"
    assert {row["price"] for row in prices.request_pricing(country="2", service="907")} == {"0.42", "0.47"}
    assert {row["stock"] for row in api.sms_all_stock(country="2", service="907")} == {5000}
    bought = api.purchase_sms(country="2", service="907")
    assert sim.balance < 1000
    assert api.sms_cancel(orderid=bought["order_id"])["success"] == 1
    assert api.sms_check(orderid=bought["order_id"])["status"] == 6
    assert sim.balance == 1000


def test_official_client_reads_refusals_inside_answers(bench: Bench, official: smspool_sdk.ApiClient) -> None:
    sim, _ = bench
    api: Any = smspool_sdk.SMSApi(official)
    sim.fault("sold_out", 1)
    refused = api.purchase_sms(country="2", service="907")
    assert (refused["success"], refused["type"]) == (0, "OUT_OF_STOCK")
    assert api.purchase_sms(country="2", service="907", max_price=0.01)["type"] == "PRICE_NOT_FOUND"


def test_official_client_is_told_what_another_sms_costs() -> None:
    app = smspool.build(sms_delay_seconds=None, resend_price="0.12", resend_renames=True)
    with serve(app) as address, official_client(address) as client:
        api: Any = smspool_sdk.SMSApi(client)
        order = api.purchase_sms(country="2", service="907")["order_id"]
        assert api.sms_resend(orderid=order)["success"] == 0
        app.state.sim.deliver(order, "Your code is 12345")
        app.state.sim.fault("no_resend", 1)
        assert api.sms_check_resend(orderid=order)["success"] == 0
        assert api.sms_check_resend(orderid=order)["resendCost"] == 0.12
        again = api.sms_resend(orderid=order)
    assert again["order_id"] != order
    assert app.state.sim.balance == Decimal(1000) - Decimal("0.54")


def test_official_client_raises_where_refusals_have_statuses() -> None:
    app = smspool.build(refusal_statuses=True, sms_delay_seconds=None, cancel_lock_seconds=60)
    with serve(app) as address, official_client(address) as client:
        api: Any = smspool_sdk.SMSApi(client)
        bought = api.purchase_sms(country="2", service="907")
        with pytest.raises(ApiException) as early:
            api.sms_cancel(orderid=bought["order_id"])
    assert early.value.status == 400


def test_older_client_buys_by_name_and_with_the_key_in_the_query(bench: Bench) -> None:
    sim, address = bench
    client = OlderClient(smspool.DEFAULT_KEY, base_url=f"{address}/")
    assert client.get_balance() == {"balance": "1000.00"}
    bought = client.purchase_sms(country="United States", service="WhatsApp")
    assert bought["cost"] == str(sim.orders[bought["order_id"]].price)
    assert [row["order_code"] for row in client.get_active_orders()] == [bought["order_id"]]
    shown = until(lambda: client.check_sms(bought["order_id"]).get("sms"))
    assert shown == sim.orders[bought["order_id"]].code
    assert client.cancel_sms(bought["order_id"])["success"] == 0
    assert client.resend_sms(bought["order_id"])["success"] == 1
    assert len(client.get_order_history()) == 1
    assert {row["ID"] for row in client.get_countries()} >= {1, 2}


def test_older_client_is_told_of_a_wrong_key(bench: Bench) -> None:
    _, address = bench
    assert OlderClient("wrong", base_url=f"{address}/").get_balance()["success"] == 0
