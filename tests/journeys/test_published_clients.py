"""Clients written by others, unmodified but for the host they call, live whole lives through a real server process.

Behind it the simulators stand for the upstreams, on sockets of their own: three protocols below, one above.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from aiosmsactivate import SmsActivate
from aiosmsactivate.exceptions import SmsActivateException
from aiosmsactivate.models import SetActivationStatusResponse
from grizzly_sms import GrizzlySms, GrizzlySmsError  # type: ignore[import-untyped, unused-ignore]
from herosms import HeroSMSClient
from pysmshub import AsyncSmsHubApi, SyncSmsHubApi
from pysmshub import Status as HubStatus
from pysmshub.exceptions import SmsHubApiException
from smsactivate.api import SMSActivateAPI

from tests.harness import PATH
from tests.journeys.real_upstreams import UPSTREAM_OF, Shop, shop, until

COUNTRY = 6
SERVICES = list(UPSTREAM_OF)


@pytest.fixture(scope="module")
def open_shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    directory = tmp_path_factory.mktemp("clients")
    with shop(directory, f"sqlite:///{directory}/simroute.db") as found:
        yield found
        assert found.cli("ledger", "verify") == "ok\n"
        assert found.server.stop() == 0
    log = (directory / "log").read_text()
    assert "Traceback" not in log


@pytest.fixture(params=SERVICES, ids=list(UPSTREAM_OF.values()))
def service(request: pytest.FixtureRequest) -> str:
    """A service of each upstream."""
    return str(request.param)


def code_of(status: str) -> str | None:
    return status.removeprefix("STATUS_OK:") if status.startswith("STATUS_OK:") else None


def is_closed(found: Shop, service: str, states: set[str]) -> None:
    """The upstream was told how the newest order ended."""
    until(lambda: True if found.states(service)[-1] in states else None)


FINISHED, CANCELLED = {"finished", "FINISHED"}, {"cancelled", "CANCELED"}


# smsactivate: requests, getNumber


def sms_activate(found: Shop, key: str = "") -> Any:
    client = SMSActivateAPI(key or found.key)
    client._SMSActivateAPI__api_url = found.url
    return client


def test_smsactivate_buys_waits_asks_again_and_finishes(open_shop: Shop, service: str) -> None:
    client, before = sms_activate(open_shop), open_shop.bought()
    balance = float(client.getBalance()["balance"])
    price = client.getPrices(service=service, country=COUNTRY)[str(COUNTRY)][service]["cost"]
    bought = client.getNumber(service=service, country=COUNTRY, maxPrice=price)
    number = bought["activation_id"]
    assert str(bought["phone"]).startswith("62")
    assert float(client.getBalance()["balance"]) == pytest.approx(balance - price)
    assert client.setStatus(number, status=1) == "ACCESS_READY"
    first = until(lambda: code_of(client.getStatus(number)))
    assert first in client.getFullSms(number)
    assert client.setStatus(number, status=3) == "ACCESS_RETRY_GET"
    open_shop.send_another(service)
    second = until(lambda: code if (code := code_of(client.getStatus(number))) != first else None)
    assert second != first
    assert client.setStatus(number, status=6) == "ACCESS_ACTIVATION"
    assert float(client.getBalance()["balance"]) == pytest.approx(balance - price)
    is_closed(open_shop, service, FINISHED)
    changed = {name for name, count in open_shop.bought().items() if count > before[name]}
    assert changed == {UPSTREAM_OF[service]}


def test_smsactivate_cancels_and_has_its_money_back(open_shop: Shop, service: str) -> None:
    client = sms_activate(open_shop)
    balance = client.getBalance()
    bought = client.getNumberV2(service=service, country=COUNTRY)
    listed = client.getActiveActivations()["activeActivations"]
    assert str(bought["activationId"]) in [row["activationId"] for row in listed]
    assert client.setStatus(bought["activationId"], status=8) == "ACCESS_CANCEL"
    assert client.getBalance() == balance
    is_closed(open_shop, service, CANCELLED)


def test_smsactivate_understands_the_refusals(open_shop: Shop) -> None:
    client = sms_activate(open_shop)
    assert client.getNumber(service="nonsense", country=COUNTRY)["error"] == "BAD_SERVICE"
    assert client.getStatus(5)["error"] == "NO_ACTIVATION"
    assert client.getNumber(service="zz", country=204)["error"] == "NO_NUMBERS"
    assert sms_activate(open_shop, key="wrong").getBalance()["error"] == "BAD_KEY"


def test_smsactivate_reads_the_catalogue(open_shop: Shop) -> None:
    client = sms_activate(open_shop)
    assert client.getCountries()["187"]["eng"]
    assert int(client.getNumbersStatus(country=COUNTRY)["tg"]) > 0
    assert client.getOperators(country=COUNTRY)["status"] in ("success", "error")


# pysmshub: synchronous and asynchronous, strict patterns


def test_pysmshub_buys_polls_and_finishes(open_shop: Shop, service: str) -> None:
    client = SyncSmsHubApi(open_shop.key)
    client.base_url = open_shop.url
    balance = client.get_balance()
    number, phone = client.get_number(service, country=COUNTRY, max_price=10)
    assert phone.startswith("62")
    status, code = until(lambda: received if (received := client.get_status(number))[1] else None)
    assert status == HubStatus.SENT
    assert str(code).isdigit()
    assert client.set_status(number, HubStatus.SUCCESS) == "ACCESS_ACTIVATION"
    assert client.get_balance() < balance
    is_closed(open_shop, service, FINISHED)
    with pytest.raises(SmsHubApiException):
        client.get_number("nonsense", country=COUNTRY)


async def test_asynchronous_pysmshub_cancels(open_shop: Shop, service: str) -> None:
    client = AsyncSmsHubApi(open_shop.key)
    client.base_url = open_shop.url
    balance = await client.get_balance()
    number, _ = await client.get_number(service, country=COUNTRY)
    assert await client.get_status(number) == (HubStatus.WAIT, None)
    assert await client.set_status(number, HubStatus.CANCEL) == "ACCESS_CANCEL"
    assert await client.get_status(number) == (HubStatus.CANCEL, None)
    assert await client.get_balance() == balance


# grizzly-sms-client: JSON by content type, prefix checks


def test_grizzly_client_buys_waits_and_completes(open_shop: Shop, service: str) -> None:
    with GrizzlySms(open_shop.key, base_url=open_shop.url.removesuffix(PATH)) as client:
        bought = client.get_number_v2(service, country=COUNTRY, max_price=10)
        received = client.wait_for_code(bought.activation_id, interval_ms=50, timeout_ms=15_000)
        assert received.code.isdigit()
        assert client.get_status_v2(bought.activation_id)["sms"]["code"] == received.code
        assert client.complete(bought.activation_id) == "ACCESS_ACTIVATION"
        assert {row.code for row in client.get_services()} >= {"tg", "wa"}
        assert {row.id for row in client.get_countries()} >= {6, 187}


def test_grizzly_client_cancels_and_reads_the_refusals(open_shop: Shop, service: str) -> None:
    with GrizzlySms(open_shop.key, base_url=open_shop.url.removesuffix(PATH)) as client:
        [quote] = client.find_prices(service=service, country=COUNTRY)
        bought = client.get_number(service, country=COUNTRY, max_price=quote.cost)
        assert client.cancel(bought.activation_id, status=-1) == "ACCESS_CANCEL"
        with pytest.raises(GrizzlySmsError, match=rf"^WRONG_MAX_PRICE:{quote.cost}0?$"):
            client.get_number(service, country=COUNTRY, max_price=0.01)
        with pytest.raises(GrizzlySmsError, match="BAD_STATUS"):
            client.complete(bought.activation_id)


# aiosmsactivate: POST with an empty body, parameter names with blanks behind them


async def test_aiosmsactivate_buys_waits_asks_again_and_completes(open_shop: Shop, service: str) -> None:
    client = SmsActivate(open_shop.key, base_url=open_shop.url)
    balance = await client.get_balance()
    number = await client.purchase(service, country=COUNTRY, maxPrice=10)
    first = await client.wait_sms_code(number, timeout=15, per_attempt=0.05)
    assert str(first).isdigit()
    assert await client.set_activation_status(number.activation_id, 3) == SetActivationStatusResponse.RETRY_GET
    await asyncio.to_thread(open_shop.send_another, service)
    for _ in range(200):
        answer = await client.get_activation_status(number.activation_id)
        if not isinstance(answer, str) and answer.sms is not None and answer.sms.code != first:
            break
        await asyncio.sleep(0.05)
    else:
        raise AssertionError("no second code")
    assert await client.set_activation_status(number.activation_id, 6) == SetActivationStatusResponse.ACTIVATED
    assert await client.get_balance() == pytest.approx(balance - number.activation_cost)


async def test_aiosmsactivate_cancels_and_reads_the_refusals(open_shop: Shop, service: str) -> None:
    client = SmsActivate(open_shop.key, base_url=open_shop.url)
    balance = await client.get_balance()
    number = await client.purchase(service, country=COUNTRY)
    assert (await client.get_activation_status(number)).sms is None
    assert await client.set_activation_status(number.activation_id, 8) == SetActivationStatusResponse.CANCEL
    assert await client.get_activation_status(number) == "STATUS_CANCEL"
    assert await client.get_balance() == balance
    with pytest.raises(SmsActivateException) as refused:
        await client.purchase(service, country=COUNTRY, maxPrice=0.01)
    assert str(refused.value.code).startswith("WRONG_MAX_PRICE")


# herosms: made for the envelopes of another dialect, so only what goes well


async def test_herosms_buys_waits_and_completes(open_shop: Shop, service: str) -> None:
    async with HeroSMSClient(open_shop.key, base_url=open_shop.url, poll_interval=0.05, retry_attempts=1) as client:
        balance = (await client.get_balance()).amount
        activation = await client.activations.create(service=service, country=COUNTRY, max_price=10)
        received = await activation.wait_for_sms(timeout=15)
        assert str(received.code).isdigit()
        await activation.complete()
        assert (await client.get_balance()).amount == pytest.approx(balance - activation.cost)


async def test_herosms_cancels(open_shop: Shop, service: str) -> None:
    async with HeroSMSClient(open_shop.key, base_url=open_shop.url, retry_attempts=1) as client:
        balance = (await client.get_balance()).amount
        activation = await client.activations.create(service=service, country=COUNTRY)
        await activation.cancel()
        assert (await client.get_balance()).amount == balance
        assert {country.id for country in await client.get_countries()} >= {6, 187}
