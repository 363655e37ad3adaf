"""SMSPVA's official client, unmodified but for the host it calls, against the simulator."""

import asyncio
import time
from collections.abc import Iterator

import pytest
from smspva import SMSPVA, ApiError, AsyncSMSPVA, is_pending

from tests.simulators import smspva
from tests.simulators._serve import serve
from tests.simulators._smspva_engine import SmsPva

Bench = tuple[SmsPva, str]

KEY = smspva.DEFAULT_KEY
POLL_SECONDS = 0.03


@pytest.fixture
def bench() -> Iterator[Bench]:
    app = smspva.build(sms_delay_seconds=0.1)
    with serve(app) as address:
        yield app.state.sim, address


def test_official_client_buys_waits_asks_again_and_stops(bench: Bench) -> None:
    sim, address = bench
    with SMSPVA(KEY, activation_base_url=address) as client:
        api = client.activation
        bought = api.get_number(country="UK", service="opt29")["data"]
        order = bought["orderId"]
        assert is_pending(api.receive_sms(orderid=order))
        [listed] = api.get_orders()["data"]["orders"]
        assert (listed["orderId"], listed["phoneNumber"]) == (order, bought["phoneNumber"])
        time.sleep(0.2)
        shown = api.wait_for_sms(orderid=order, expires_at=time.time() + bought["orderExpireIn"])["data"]["sms"]
        assert shown == {"code": sim.orders[0].code, "fullText": sim.orders[0].text}
        assert api.clear_sms(orderid=order)["data"]["orderExpireIn"] == 600
        assert is_pending(api.receive_sms(orderid=order))
        time.sleep(0.2)
        assert not is_pending(api.receive_sms(orderid=order))
        assert api.stop_sms(orderid=order)["data"] == {"orderId": order}
        with pytest.raises(ApiError) as over:
            api.receive_sms(orderid=order)
    assert over.value.http_status == 410


def test_official_client_cancels_blocks_and_reads_the_lists(bench: Bench) -> None:
    sim, address = bench
    with SMSPVA(KEY, activation_base_url=address) as client:
        api = client.activation
        assert api.get_balance()["data"] == {"balance": "1000.00"}
        assert api.get_user_info()["data"]["name"] == "demo"
        assert api.get_operators(country="UK")["data"]["operators"] == ["vodafone", "o2"]
        assert api.get_conversions(service="opt29")["data"]["conversions"]["UK"] == 40
        assert api.get_service_price(country="UK", service="opt29")["data"]["price"] == "0.43"
        prices = api.get_all_service_prices()["data"]
        assert {"service": "opt29", "serviceDescription": "Telegram", "country": "UK", "price": "0.43"} in prices
        counts = api.get_country_number_counts(country="UK")["data"]
        assert [row["operator"] for row in counts] == ["vodafone", "o2"]
        assert len(api.get_all_number_counts()["data"]) > len(counts)
        cancelled = api.get_number_by_operator(country="UK", service="opt29", operator="o2")["data"]["orderId"]
        assert api.cancel_order(orderid=cancelled)["data"] == {"orderId": cancelled}
        blocked = api.get_number(country="DE", service="opt20")["data"]["orderId"]
        assert api.block_number(orderid=blocked)["data"] == {"orderId": blocked}
    assert sim.balance == 1000


def test_official_client_understands_the_refusals(bench: Bench) -> None:
    sim, address = bench
    with SMSPVA(KEY, activation_base_url=address) as client:
        for fault, status in (("sold_out", 502), ("no_balance", 407), ("low_karma", 411)):
            sim.fault(fault, 1)
            with pytest.raises(ApiError) as refused:
                client.activation.get_number(country="UK", service="opt29")
            assert refused.value.http_status == status
        with pytest.raises(ApiError) as unknown:
            client.activation.receive_sms(orderid=5)
        assert unknown.value.code == "ORDER_NOT_FOUND"
    with SMSPVA("wrong", activation_base_url=address) as stranger, pytest.raises(ApiError):
        stranger.activation.get_balance()


def test_list_may_hide_an_sms_until_it_was_paid_for_by_reading_it() -> None:
    app = smspva.build(sms_delay_seconds=None, list_shows_unread=False)
    with serve(app) as address, SMSPVA(KEY, activation_base_url=address) as client:
        order = client.activation.get_number(country="UK", service="opt29")["data"]["orderId"]
        app.state.sim.deliver(str(order), "Your code is 12345")
        assert "sms" not in client.activation.get_orders()["data"]["orders"][0]
        app.state.sim.fault("unpaid", 1)
        with pytest.raises(ApiError) as unpaid:
            client.activation.receive_sms(orderid=order)
        assert unpaid.value.http_status == 407
        client.activation.receive_sms(orderid=order)
        assert client.activation.get_orders()["data"]["orders"][0]["sms"]["code"] == "12345"


async def test_asynchronous_official_client_buys_and_receives(bench: Bench) -> None:
    sim, address = bench
    async with AsyncSMSPVA(KEY, activation_base_url=address) as client:
        bought = (await client.activation.get_number(country="US", service="opt1"))["data"]
        await asyncio.sleep(0.2)
        answer = await client.activation.wait_for_sms(orderid=bought["orderId"], expires_at=time.time() + 60)
    assert answer["data"]["sms"]["code"] == sim.orders[0].code
