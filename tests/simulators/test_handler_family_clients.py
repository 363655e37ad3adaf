"""Clients written by others, unmodified but for the host they call, against the brands they were written for.

The reference dialect and HeroSMS have theirs in `test_published_clients.py`. Where a brand has no published client, one
written for SMS-Activate stands in: that is who such a brand is made for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from aiosmsactivate import SmsActivate
from aiosmsactivate.exceptions import SmsActivateException
from aiosmsactivate.models import SetActivationStatusResponse
from grizzly_sms import GrizzlySms, GrizzlySmsError
from pysmshub import AsyncSmsHubApi, SyncSmsHubApi
from pysmshub import Status as HubStatus
from pysmshub.exceptions import SmsHubApiException
from smsactivate.api import SMSActivateAPI
from smsbower import SmsBowerClient, SmsBowerError

from tests.simulators import handler_api
from tests.simulators._handler_engine import HandlerApi
from tests.simulators._serve import serve

KEY = handler_api.DEFAULT_KEY
POLL_SECONDS = 0.03
PATIENCE_SECONDS = 5.0


@contextmanager
def shop(brand: str, **options: Any) -> Iterator[tuple[HandlerApi, str]]:
    """The simulator's state and the address of the host it plays."""
    given = {"sms_delay_seconds": 0.1, "early_cancel_seconds": 0, **options}
    app = handler_api.build(brand=brand, **given)
    with serve(app) as base_url:
        yield app.state.sim, base_url


def until(read: Callable[[], Any]) -> Any:
    """Poll as these clients' users do, until something other than None comes."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if (answer := read()) is not None:
            return answer
        time.sleep(POLL_SECONDS)
    raise AssertionError("nothing came")


# --- SMSBower ---


def test_smsbower_buys_waits_asks_again_and_finishes() -> None:
    with shop("smsbower") as (sim, base_url):
        client = SmsBowerClient(KEY, base_url=base_url)
        bought = client.get_number("tg", country=6, max_price=1, provider_ids=[1011], except_provider_ids="7")
        assert bought.number.startswith("62")
        assert client.get_status(bought.id).status == "STATUS_WAIT_CODE"
        first = until(lambda: client.get_status(bought.id).code)
        assert client.set_status(bought.id, 3) == "ACCESS_RETRY_GET"
        assert (client.get_status(bought.id).status, client.get_status(bought.id).code) == ("STATUS_WAIT_RETRY", first)
        second = until(lambda: code if (code := client.get_status(bought.id).code) != first else None)
        assert [sms.code for sms in sim.orders[bought.id].sms] == [first, second]
        assert client.set_status(bought.id, 6) == "ACCESS_ACTIVATION"
        assert client.get_balance() == float(1000 - sim.orders[bought.id].price)
        client.close()


def test_smsbower_reads_the_second_version_the_lists_and_the_refusals() -> None:
    with shop("smsbower", sms_delay_seconds=None) as (sim, base_url):
        sim.set_stock("tg", 6, price="0.20", count=5, dearer={"0.30": 2})
        with SmsBowerClient(KEY, base_url=base_url) as client:
            bought = client.get_number_v2("tg", country="6", max_price=0.2)
            assert bought["activationCost"] == 0.2
            assert client.get_prices("tg", 6) == {"6": {"tg": {"cost": 0.2, "count": 6}}}
            assert client.get_prices_v2("tg", 6) == {"6": {"tg": {"0.20": 4, "0.30": 2}}}
            assert client.get_prices_v3("tg", 6)["6"]["tg"]["1012"]["count"] == 2
            assert client.get_countries()["6"].eng == "Indonesia"
            assert {service.code for service in client.get_services_list()} >= {"tg", "wa"}
            assert client.set_status(bought["activationId"], 8) == "ACCESS_CANCEL"
            with pytest.raises(SmsBowerError, match="NO_NUMBERS"):
                client.get_number("tg", country=6, max_price=0.01)
            with pytest.raises(SmsBowerError, match="NO_ACTIVATION"):
                client.get_status(5)
            with pytest.raises(SmsBowerError, match="BAD_STATUS"):
                client.set_status(bought["activationId"], 8)
        with SmsBowerClient("wrong", base_url=base_url) as stranger, pytest.raises(SmsBowerError, match="401"):
            stranger.get_balance()


# --- GrizzlySMS ---


def test_grizzly_client_buys_anywhere_waits_and_completes() -> None:
    with shop("grizzlysms") as (sim, base_url), GrizzlySms(KEY, base_url=base_url) as client:
        sim.set_stock("tg", 73, price="0.02", count=9)
        bought = client.get_number_v2("tg", country="any", max_price=1, except_provider_ids=[7])
        assert (bought.country_code, bought.activation_cost) == ("73", 0.02)
        assert bought.activation_cancel < bought.activation_end
        received = client.wait_for_code(
            bought.activation_id, interval_ms=POLL_SECONDS * 1000, timeout_ms=PATIENCE_SECONDS * 1000
        )
        [row] = client.get_active_activations()
        assert (row.activation_id, row.sms_code, row.service_code) == (bought.activation_id, received.code, "tg")
        assert row.sms_text == f"Your code is {received.code}"
        assert client.request_another_code(bought.activation_id) == "ACCESS_RETRY_GET"
        assert client.complete(bought.activation_id) == "ACCESS_ACTIVATION"
        assert client.get_active_activations() == []


def test_grizzly_client_reads_the_lists_and_the_refusals() -> None:
    with shop("grizzlysms", early_cancel_seconds=120) as (_, base_url), GrizzlySms(KEY, base_url=base_url) as client:
        assert client.get_prices_v2(service="tg", country=6) == {"6": {"tg": {"0.406": 5000}}}
        assert client.get_prices_v3(service="tg", country=6)["6"]["tg"]["1011"]["price"] == 0.406
        bought = client.get_number("tg", country=6)
        with pytest.raises(GrizzlySmsError, match="EARLY_CANCEL_DENIED"):
            client.cancel(bought.activation_id)
        with pytest.raises(GrizzlySmsError, match="NO_ACTIVATION"):
            client.get_status(5)
        with GrizzlySms("wrong", base_url=base_url) as stranger, pytest.raises(GrizzlySmsError, match="BAD_KEY"):
            stranger.get_balance()


# --- SMSHub ---


def hub(kind: Any, base_url: str, key: str = KEY) -> Any:
    client = kind(key)
    client.base_url = base_url + handler_api.PATH
    return client


def test_pysmshub_buys_polls_and_finishes() -> None:
    with shop("smshub") as (sim, base_url):
        client = hub(SyncSmsHubApi, base_url)
        assert client.get_numbers_status(country="6")["tg_0"] == 5000
        assert client.get_prices(service="tg", country="6") == {"6": {"tg": {"0.406": 5000}}}
        number, _ = client.get_number("tg", country=6, max_price=1)
        assert client.get_status(number) == (HubStatus.WAIT, None)
        status, code = until(lambda: received if (received := client.get_status(number))[1] else None)
        assert (status, code) == (HubStatus.SENT, sim.orders[number].sms[0].code)
        assert client.set_status(number, HubStatus.REPEAT) == "ACCESS_RETRY_GET"
        assert client.get_status(number)[0] == HubStatus.REPEAT
        assert client.set_status(number, HubStatus.SUCCESS) == "ACCESS_ACTIVATION"
        assert client.get_balance() == float(1000 - sim.orders[number].price)


async def test_pysmshub_reads_the_refusals() -> None:
    with shop("smshub") as (sim, base_url):
        client = hub(AsyncSmsHubApi, base_url)
        number, _ = await client.get_number("tg", country=6)
        assert await client.set_status(number, HubStatus.CANCEL) == "ACCESS_CANCEL"
        assert await client.get_status(number) == (HubStatus.CANCEL, None)
        sim.fault("sold_out", 1)
        for key, service, word in [(KEY, "nonsense", "WRONG_SERVICE"), (KEY, "tg", "NO_NUMBERS")]:
            with pytest.raises(SmsHubApiException, match=word):
                await hub(AsyncSmsHubApi, base_url, key).get_number(service, country=6)
        with pytest.raises(SmsHubApiException, match="API_KEY_NOT_VALID"):
            await hub(AsyncSmsHubApi, base_url, "wrong").get_number("tg", country=6)


# --- Tiger SMS ---


async def test_aiosmsactivate_lives_a_whole_order_at_tiger_over_post() -> None:
    with shop("tigersms") as (sim, base_url):
        client = SmsActivate(KEY, base_url=base_url + handler_api.PATH)
        number = await client.purchase("tg", country=6, maxPrice=1)
        assert str(number.activation_id) in sim.orders
        assert len(str(number.activation_id)) == 19
        code = await client.wait_sms_code(number, timeout=5, per_attempt=POLL_SECONDS)
        assert code == sim.orders[str(number.activation_id)].sms[0].code
        [row] = (await client.get_active_activations())["data"]
        assert row["activationId"] == str(number.activation_id)
        assert await client.set_activation_status(number.activation_id, 6) == SetActivationStatusResponse.ACTIVATED
        with pytest.raises(SmsActivateException):
            await client.get_number("nonsense", country=6)


# --- brands that have none of their own ---


def reference_client(base_url: str, key: str = KEY) -> Any:
    client = SMSActivateAPI(key)
    client._SMSActivateAPI__api_url = base_url + handler_api.PATH
    return client


def code_of(status: str) -> str | None:
    return status.removeprefix("STATUS_OK:") if status.startswith("STATUS_OK:") else None


@pytest.mark.parametrize("brand", ["tigersms", "daisysms", "vaksms_stub", "smsman_stub"])
def test_smsactivate_buys_waits_and_finishes(brand: str) -> None:
    with shop(brand) as (sim, base_url):
        client = reference_client(base_url)
        bought = client.getNumber(service="tg", country=6, maxPrice=1)
        number = str(bought["activation_id"])
        assert client.getStatus(number) == "STATUS_WAIT_CODE"
        code = until(lambda: code_of(client.getStatus(number)))
        assert code == sim.orders[number].sms[0].code
        assert client.setStatus(number, status=6) == "ACCESS_ACTIVATION"
        assert float(client.getBalance()["balance"]) == float(1000 - sim.orders[number].price)
        assert "tg" in client.getPrices(service="tg")[sim.orders[number].country]


@pytest.mark.parametrize("brand", ["tigersms", "daisysms", "vaksms_stub", "smsman_stub"])
def test_smsactivate_cancels(brand: str) -> None:
    with shop(brand, sms_delay_seconds=None) as (_, base_url):
        client = reference_client(base_url)
        number = str(client.getNumber(service="tg", country=6)["activation_id"])
        assert client.setStatus(number, status=8) == "ACCESS_CANCEL"
        assert float(client.getBalance()["balance"]) == 1000
