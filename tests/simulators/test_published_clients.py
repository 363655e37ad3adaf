"""Clients written by others, unmodified but for the host they call, live whole lives against the simulators.

They are the judges of the simulators: each was written against the real service. Everything runs over real sockets.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from aiosmsactivate import SmsActivate
from aiosmsactivate.exceptions import SmsActivateException
from aiosmsactivate.models import SetActivationStatusResponse
from fivesim import (
    ActivationProduct,
    Category,
    Country,
    ErrorType,
    FiveSim,
    FiveSimError,
    HostingProduct,
    Operator,
    OrderAction,
    Status,
)
from grizzly_sms import GrizzlySms, GrizzlySmsError  # type: ignore[import-untyped, unused-ignore]
from herosms import HeroSMSClient
from herosms.exceptions import AuthenticationError, BadRequestError, ConflictError
from pyfivesim import PyFiveSimAsync, PyFiveSimSync
from pyfivesim.exceptions import FiveSimInvalidAPIKey, FiveSimNoFreePhones
from pysmshub import AsyncSmsHubApi, SyncSmsHubApi
from pysmshub import Status as HubStatus
from pysmshub.exceptions import SmsHubApiException
from smsactivate.api import SMSActivateAPI

from tests.simulators import fivesim as fivesim_simulator
from tests.simulators import handler_api
from tests.simulators._fivesim_engine import FiveSim as FiveSimState
from tests.simulators._handler_engine import HandlerApi
from tests.simulators._serve import serve

KEY = handler_api.DEFAULT_KEY
TOKEN = fivesim_simulator.DEFAULT_KEY
SMS_DELAY_SECONDS = 0.1
POLL_SECONDS = 0.03
PATIENCE_SECONDS = 5.0

Reference = tuple[HandlerApi, str]
"""The simulator's state and the URL of its handler."""


@pytest.fixture
def reference() -> Iterator[Reference]:
    app = handler_api.build(brand="generic", sms_delay_seconds=SMS_DELAY_SECONDS, early_cancel_seconds=0)
    with serve(app) as base_url:
        yield app.state.sim, base_url + handler_api.PATH


@pytest.fixture
def hero() -> Iterator[Reference]:
    app = handler_api.build(brand="herosms", sms_delay_seconds=SMS_DELAY_SECONDS, early_cancel_seconds=0)
    with serve(app) as base_url:
        yield app.state.sim, base_url + handler_api.PATH


@pytest.fixture
def five() -> Iterator[tuple[FiveSimState, str]]:
    app = fivesim_simulator.build(sms_delay_seconds=SMS_DELAY_SECONDS)
    with serve(app) as base_url:
        yield app.state.sim, base_url + "/v1"


def until(read: Callable[[], Any]) -> Any:
    """Poll as these clients' users do, until something other than None comes."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if (answer := read()) is not None:
            return answer
        time.sleep(POLL_SECONDS)
    raise AssertionError("nothing came")


async def eventually(read: Callable[[], Awaitable[bool]]) -> None:
    """Poll until it is so."""
    for _ in range(int(PATIENCE_SECONDS / POLL_SECONDS)):
        if await read():
            return
        await asyncio.sleep(POLL_SECONDS)
    raise AssertionError("it never was")


# --- the handler_api family -------------------------------------------------------------------------------------------


def sms_activate(url: str, key: str = KEY) -> Any:
    client = SMSActivateAPI(key)
    client._SMSActivateAPI__api_url = url
    return client


def code_of(status: str) -> str | None:
    return status.removeprefix("STATUS_OK:") if status.startswith("STATUS_OK:") else None


def test_smsactivate_buys_asks_again_and_finishes(reference: Reference) -> None:
    sim, url = reference
    client = sms_activate(url)
    bought = client.getNumber(service="tg", country=6, maxPrice=1)
    number = bought["activation_id"]
    assert str(bought["phone"]).startswith("62")
    assert client.getStatus(number) == "STATUS_WAIT_CODE"
    assert client.setStatus(number, status=1) == "ACCESS_READY"
    first = until(lambda: code_of(client.getStatus(number)))
    assert client.getFullSms(number) == f"FULL_SMS:Your code is {first}"
    assert client.setStatus(number, status=3) == "ACCESS_RETRY_GET"
    assert client.getStatus(number) == f"STATUS_WAIT_RETRY:{first}"
    assert until(lambda: code_of(client.getStatus(number))) != first
    assert client.setStatus(number, status=6) == "ACCESS_ACTIVATION"
    assert float(client.getBalance()["balance"]) == float(1000 - sim.orders[str(number)].price)


def test_smsactivate_reads_the_v2_purchase_the_lists_and_a_cancel(reference: Reference) -> None:
    _, url = reference
    client = sms_activate(url)
    bought = client.getNumberV2(service="wa", country=187)
    listed = client.getActiveActivations()["activeActivations"]
    assert [row["activationId"] for row in listed] == [str(bought["activationId"])]
    assert client.getPrices(service="wa", country=187)["187"]["wa"]["cost"] == bought["activationCost"]
    assert client.getNumbersStatus(country=187)["wa"] == "4999"
    assert client.getCountries()["187"]["eng"] == "USA"
    assert client.getOperators(country=187)["countryOperators"]["187"][0] == bought["activationOperator"]
    assert client.setStatus(bought["activationId"], status=8) == "ACCESS_CANCEL"
    assert float(client.getBalance()["balance"]) == 1000


def test_smsactivate_understands_the_refusals(reference: Reference) -> None:
    sim, url = reference
    client = sms_activate(url)
    sim.fault("no_balance", 1)
    assert client.getNumber(service="tg", country=6)["error"] == "NO_BALANCE"
    sim.fault("sold_out", 1)
    assert client.getNumber(service="tg", country=6)["error"] == "NO_NUMBERS"
    assert client.getNumber(service="nonsense", country=6)["error"] == "BAD_SERVICE"
    assert client.getStatus(5)["error"] == "NO_ACTIVATION"
    assert sms_activate(url, key="wrong").getBalance()["error"] == "BAD_KEY"


def test_pysmshub_buys_polls_and_finishes(reference: Reference) -> None:
    sim, url = reference
    client = SyncSmsHubApi(KEY)
    client.base_url = url
    number, phone = client.get_number("tg", country=6, max_price=1)
    assert phone.startswith("62")
    assert client.get_status(number) == (HubStatus.WAIT, None)
    status, code = until(lambda: received if (received := client.get_status(number))[1] else None)
    assert (status, code) == (HubStatus.SENT, sim.orders[number].sms[0].code)
    assert client.set_status(number, HubStatus.SUCCESS) == "ACCESS_ACTIVATION"
    assert client.get_balance() == float(1000 - sim.orders[number].price)
    with pytest.raises(SmsHubApiException):
        client.get_number("nonsense", country=6)


async def test_asynchronous_pysmshub_buys_and_cancels(reference: Reference) -> None:
    _, url = reference
    client = AsyncSmsHubApi(KEY)
    client.base_url = url
    number, _ = await client.get_number("tg", country=6)
    assert await client.set_status(number, HubStatus.CANCEL) == "ACCESS_CANCEL"
    assert await client.get_status(number) == (HubStatus.CANCEL, None)
    assert await client.get_balance() == 1000.0


def test_grizzly_client_buys_waits_and_completes(reference: Reference) -> None:
    sim, url = reference
    with GrizzlySms(KEY, base_url=url.removesuffix(handler_api.PATH)) as client:
        bought = client.get_number_v2("tg", country=6, max_price=1)
        assert bought.activation_cost == float(sim.orders[bought.activation_id].price)
        received = client.wait_for_code(
            bought.activation_id, interval_ms=POLL_SECONDS * 1000, timeout_ms=PATIENCE_SECONDS * 1000
        )
        assert received.code == sim.orders[bought.activation_id].sms[0].code
        assert client.get_status_v2(bought.activation_id)["sms"]["code"] == received.code
        assert client.complete(bought.activation_id) == "ACCESS_ACTIVATION"
        assert {row.code for row in client.get_services()} >= {"tg", "wa"}
        assert {row.id for row in client.get_countries()} >= {6, 187}


def test_grizzly_client_cancels_and_reads_the_refusals(reference: Reference) -> None:
    _, url = reference
    with GrizzlySms(KEY, base_url=url.removesuffix(handler_api.PATH)) as client:
        [quote] = client.find_prices(service="tg", country=6)
        bought = client.get_number("tg", country=6, max_price=quote.cost)
        assert client.cancel(bought.activation_id, status=-1) == "ACCESS_CANCEL"
        with pytest.raises(GrizzlySmsError, match=r"^WRONG_MAX_PRICE:0\.406$"):
            client.get_number("tg", country=6, max_price=0.01)
        with pytest.raises(GrizzlySmsError, match="BAD_STATUS"):
            client.complete(bought.activation_id)


async def test_aiosmsactivate_buys_waits_and_completes_over_post(reference: Reference) -> None:
    sim, url = reference
    client = SmsActivate(KEY, base_url=url)
    number = await client.purchase("tg", country=6, maxPrice=1)
    code = await client.wait_sms_code(number, timeout=5, per_attempt=POLL_SECONDS)
    assert code == sim.orders[str(number.activation_id)].sms[0].code
    assert await client.set_activation_status(number.activation_id, 6) == SetActivationStatusResponse.ACTIVATED
    assert await client.get_balance() == 1000 - number.activation_cost


async def test_aiosmsactivate_cancels_and_reads_the_refusals(reference: Reference) -> None:
    sim, url = reference
    client = SmsActivate(KEY, base_url=url)
    number = await client.purchase("tg", country=6)
    assert (await client.get_activation_status(number)).sms is None
    assert await client.set_activation_status(number.activation_id, 8) == SetActivationStatusResponse.CANCEL
    assert await client.get_activation_status(number) == "STATUS_CANCEL"
    sim.fault("no_balance", 1)
    with pytest.raises(SmsActivateException) as refused:
        await client.purchase("tg", country=6)
    assert refused.value.code == "NO_BALANCE"


async def has_messages(activation: Any, count: int) -> bool:
    return len(await activation.get_all_sms()) >= count


async def test_herosms_buys_waits_asks_again_and_completes(hero: Reference) -> None:
    sim, url = hero
    async with HeroSMSClient(KEY, base_url=url, poll_interval=POLL_SECONDS, retry_attempts=1) as client:
        activation = await client.activations.create(service="tg", country=6, max_price=1)
        assert activation.cost == float(sim.orders[str(activation.id)].price)
        received = await activation.wait_for_sms(timeout=PATIENCE_SECONDS)
        assert received.code == sim.orders[str(activation.id)].sms[0].code
        await activation.request_sms()
        await eventually(lambda: has_messages(activation, 2))
        await activation.complete()
        assert (await client.get_balance()).amount == 1000 - activation.cost


async def test_herosms_cancels_and_reads_the_envelopes(hero: Reference) -> None:
    sim, url = hero
    async with HeroSMSClient(KEY, base_url=url, retry_attempts=1) as client:
        activation = await client.activations.create(service="tg", country=6)
        await client.activations.cancel(activation.id)
        assert sim.balance == 1000
        with pytest.raises(ConflictError) as refused:
            await activation.cancel()
        assert refused.value.title == "ACTIVATION_NOT_ACTIVE"
        with pytest.raises(BadRequestError) as too_low:
            await client.activations.create(service="tg", country=6, max_price=0.01)
        assert too_low.value.title == "WRONG_MAX_PRICE"
        assert {country.id for country in await client.get_countries()} >= {6, 187}
    async with HeroSMSClient("wrong", base_url=url, retry_attempts=1) as stranger:
        with pytest.raises(AuthenticationError):
            await stranger.get_balance()


# --- 5sim -------------------------------------------------------------------------------------------------------------


def five_sim(url: str, token: str = TOKEN) -> Any:
    client: Any = FiveSim(token)
    client.user._APIRequest__endpoint = url + "/user/"
    client.guest._APIRequest__endpoint = url + "/guest/"
    return client


def test_fivesim_buys_checks_and_finishes(five: tuple[FiveSimState, str]) -> None:
    sim, url = five
    client = five_sim(url)
    order = client.user.buy_number(Country.ENGLAND, Operator.ANY_OPERATOR, ActivationProduct.TELEGRAM)
    assert order.phone.startswith("+44")
    assert order.status is Status.PENDING
    assert client.user.get_profile_data().frozen_balance == order.price

    def received() -> Any:
        checked = client.user.order(OrderAction.CHECK, order)
        return checked if checked.sms else None

    assert until(received).sms[0].activation_code == sim.orders[0].sms[0].code
    assert client.user.order(OrderAction.FINISH, order).status is Status.FINISHED
    assert client.user.get_profile_data().balance == 1000 - order.price
    [listed] = client.user.get_orders_history(Category.ACTIVATION, results_per_page=10, reverse_order=True).data
    assert (listed.id, listed.status) == (order.id, Status.FINISHED)


def test_fivesim_cancels_and_reads_the_refusals(five: tuple[FiveSimState, str]) -> None:
    sim, url = five
    client = five_sim(url)
    order = client.user.buy_number(Country.ENGLAND, Operator.ANY_OPERATOR, ActivationProduct.TELEGRAM)
    assert client.user.order(OrderAction.CANCEL, order).status is Status.CANCELED
    assert client.user.get_profile_data().balance == 1000
    for knob, error in [("sold_out", ErrorType.NO_FREE_PHONES), ("no_balance", ErrorType.BALANCE_TOO_LOW)]:
        sim.fault(knob, 1)
        with pytest.raises(FiveSimError) as refused:
            client.user.buy_number(Country.ENGLAND, Operator.ANY_OPERATOR, ActivationProduct.TELEGRAM)
        assert refused.value.get_error() is error
    with pytest.raises(FiveSimError) as stranger:
        five_sim(url, token="wrong").user.get_profile_data()
    assert stranger.value.get_error() is ErrorType.INVALID_API_KEY


def test_fivesim_reads_the_catalogue(five: tuple[FiveSimState, str]) -> None:
    sim, url = five
    sim.drop_product("viber", "england")
    client = five_sim(url)
    assert client.guest.get_countries()[Country.ENGLAND].prefix == "+44"
    assert client.guest.get_products(Country.ENGLAND, Operator.ANY_OPERATOR)[ActivationProduct.TELEGRAM].price == 0.42
    prices = client.guest.get_prices(country=Country.ENGLAND, product=ActivationProduct.TELEGRAM)
    assert min(leaf.price for leaf in prices[Country.ENGLAND][ActivationProduct.TELEGRAM].values()) == 0.42
    with pytest.raises(FiveSimError) as unsold:
        client.guest.get_prices(country=Country.ENGLAND, product=ActivationProduct.VIBER)
    assert unsold.value.get_error() is ErrorType.INCORRECT_PRODUCT


def test_fivesim_rents_a_number_and_reads_its_inbox(five: tuple[FiveSimState, str]) -> None:
    sim, url = five
    client = five_sim(url)
    offered = client.guest.get_products(Country.ENGLAND, Operator.ANY_OPERATOR)[HostingProduct.ONE_DAY]
    assert (offered.category, offered.price) == (Category.HOSTING, 1.9)
    order = client.user.buy_number(Country.ENGLAND, Operator.ANY_OPERATOR, HostingProduct.ONE_DAY)
    assert order.product is HostingProduct.ONE_DAY
    assert (order.expires_at - order.created_at).total_seconds() == 24 * 3600
    until(lambda: client.user.get_sms_inbox_list(order) or None)
    sim.deliver(str(order.id), "And another: 67890")
    assert [sms.text for sms in client.user.get_sms_inbox_list(order)][1:] == ["And another: 67890"]
    assert [row.id for row in client.user.get_orders_history(Category.HOSTING).data] == [order.id]
    assert client.user.get_orders_history(Category.ACTIVATION).data == []
    with pytest.raises(FiveSimError) as refused:
        client.user.order(OrderAction.CANCEL, order)
    assert refused.value.get_error() is ErrorType.HOSTING_ORDER
    assert client.user.order(OrderAction.FINISH, order).status is Status.FINISHED


def test_clients_use_a_number_again(five: tuple[FiveSimState, str]) -> None:
    sim, url = five
    client, strict = five_sim(url), PyFiveSimSync(api_key=TOKEN, base_url=url)
    order = client.user.buy_number(Country.ENGLAND, Operator.ANY_OPERATOR, ActivationProduct.TELEGRAM, reuse=True)
    number = order.phone.lstrip("+")
    assert strict.reuse_number("telegram", number) is False
    until(lambda: client.user.order(OrderAction.CHECK, order).sms or None)
    client.user.order(OrderAction.FINISH, order)
    client.user.reuse_number(ActivationProduct.TELEGRAM, number)
    again = sim.orders[-1]
    assert (again.phone, again.status, sim.purchases) == (order.phone, "PENDING", 2)
    sim.deliver(str(again.id), "Your code is 12345")
    sim.finish(str(again.id))
    assert strict.reuse_number("telegram", number) is True
    sim.skip(3600)
    with pytest.raises(FiveSimError) as refused:
        client.user.reuse_number(ActivationProduct.TELEGRAM, number)
    assert "reuse expired" in str(refused.value)


def test_strict_pyfivesim_lives_a_whole_order(five: tuple[FiveSimState, str]) -> None:
    sim, url = five
    client = PyFiveSimSync(api_key=TOKEN, base_url=url)
    assert client.get_user_profile().total_active_orders == 0
    order = client.buy_number("telegram", country="england", max_price=0.5)
    assert client.get_user_profile().last_order.service == "telegram"
    code = until(lambda: (sms := client.get_order_info(order.id).sms) and sms.code)
    assert code == sim.orders[0].sms[0].code
    assert client.action_with_order("finish", order.id).status == "FINISHED"
    assert client.get_user_orders("activation", limit=10, reverse=True).data.id == order.id
    assert "england" in {country.name for country in client.get_countries_list()}
    assert client.get_prices(country="england", product="telegram")[0].operator_info.price == 0.42
    assert client.get_prices(product="telegram").name == "telegram"


async def test_asynchronous_pyfivesim_cancels_and_reads_the_refusals(five: tuple[FiveSimState, str]) -> None:
    sim, url = five
    client = PyFiveSimAsync(api_key=TOKEN, base_url=url)
    order = await client.buy_number("telegram", country="england")
    assert (await client.action_with_order("cancel", order.id)).status == "CANCELED"
    assert (await client.get_user_profile()).balance == 1000
    with pytest.raises(FiveSimNoFreePhones):
        await client.buy_number("telegram", country="england", max_price=0.01)
    sim.fault("bad_key", 1)
    with pytest.raises(FiveSimInvalidAPIKey):
        await client.get_user_profile()
