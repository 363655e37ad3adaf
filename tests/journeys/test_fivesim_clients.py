"""5sim's own published clients, unmodified but for the host they call, through a real server process.

Behind it the simulators stand for the upstreams: a client that knows 5sim alone buys from whoever sells.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
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
from pyfivesim import PyFiveSimAsync, PyFiveSimSync
from pyfivesim.exceptions import (
    FiveSimInvalidAPIKey,
    FiveSimInvalidCountry,
    FiveSimInvalidOperator,
    FiveSimInvalidProduct,
    FiveSimNoFreePhones,
    FiveSimOrderNotFound,
    FiveSimReuseNotPossible,
)

from tests.harness import config_directory, environment, run_cli, server
from tests.journeys.real_upstreams import UPSTREAM_OF, Shop, shop, until

PRODUCTS = {
    "tg": ActivationProduct.TELEGRAM,
    "wa": ActivationProduct.WHATSAPP,
    "vi": ActivationProduct.VIBER,
}
"""A product of each upstream."""


@pytest.fixture(scope="module")
def open_shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    directory = tmp_path_factory.mktemp("fivesim-clients")
    with shop(directory, f"sqlite:///{directory}/simroute.db") as found:
        yield found
        assert found.cli("ledger", "verify") == "ok\n"
        assert found.server.stop() == 0
    log = (directory / "log").read_text()
    assert "Traceback" not in log
    assert "exception" not in log


@pytest.fixture(params=list(UPSTREAM_OF), ids=list(UPSTREAM_OF.values()))
def service(request: pytest.FixtureRequest) -> str:
    """A service of each upstream."""
    return str(request.param)


FINISHED, CANCELLED = {"finished", "FINISHED"}, {"cancelled", "CANCELED"}


def is_closed(found: Shop, service: str, states: set[str]) -> None:
    """The upstream was told how the newest order ended."""
    until(lambda: True if found.states(service)[-1] in states else None)


# Numbers for a time, and numbers again: from the sandbox, which has both

RENTING = '[sandbox]\nadapter = "sandbox"\npoll_seconds = 0.1\nquick_seconds = 0.2\nusual_seconds_max = 0.3\n'


@pytest.fixture(scope="module")
def renting_shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Where a process serves the sandbox, and the key of an account with money."""
    directory = tmp_path_factory.mktemp("fivesim-hosting")
    values, config = environment(f"sqlite:///{directory}/simroute.db"), config_directory(directory, RENTING)
    run_cli(values, config, "account", "create", "alice", "--balance", "10.00", "--demo")
    key = run_cli(values, config, "key", "issue", "alice").stdout.strip()
    with server(config, values, directory / "log") as running:
        yield running.base, key
        assert run_cli(values, config, "ledger", "verify").stdout == "ok\n"
        assert running.stop() == 0
    assert "Traceback" not in (directory / "log").read_text()


def test_fivesim_rents_a_number_and_reads_its_inbox(renting_shop: tuple[str, str]) -> None:
    base, key = renting_shop
    client: Any = FiveSim(key)
    client.user._APIRequest__endpoint = base + "/v1/user/"
    client.guest._APIRequest__endpoint = base + "/v1/guest/"
    order = client.user.buy_number(Country.INDONESIA, Operator.ANY_OPERATOR, HostingProduct.ONE_DAY)
    assert (order.product, order.country, order.status) == (HostingProduct.ONE_DAY, Country.INDONESIA, Status.PENDING)
    assert (order.expires_at - order.created_at).total_seconds() == pytest.approx(86_400, abs=2)
    (sms,) = until(lambda: client.user.get_sms_inbox_list(order) or None)
    assert sms.activation_code in sms.text
    assert sms.sender
    listed = client.user.get_orders_history(Category.HOSTING)
    assert [(one.id, one.product) for one in listed.data] == [(order.id, HostingProduct.ONE_DAY)]
    assert told(client.user.order, OrderAction.CANCEL, order) is ErrorType.HOSTING_ORDER
    assert client.user.order(OrderAction.FINISH, order).status is Status.FINISHED


def test_fivesim_takes_a_number_again(renting_shop: tuple[str, str]) -> None:
    base, key = renting_shop
    client: Any = FiveSim(key)
    client.user._APIRequest__endpoint = base + "/v1/user/"
    order = client.user.buy_number(Country.INDONESIA, Operator.ANY_OPERATOR, ActivationProduct.TELEGRAM)
    until(lambda: client.user.order(OrderAction.CHECK, order).sms or None)
    client.user.order(OrderAction.FINISH, order)
    client.user.reuse_number(ActivationProduct.TELEGRAM, order.phone[1:])
    newest = client.user.get_orders_history(Category.ACTIVATION, results_per_page=1, reverse_order=True).data[0]
    assert (newest.phone, newest.id != order.id) == (order.phone, True)


def test_pyfivesim_takes_a_number_again_and_lists_hosting(renting_shop: tuple[str, str]) -> None:
    base, key = renting_shop
    client = PyFiveSimSync(api_key=key, base_url=base + "/v1")
    order = client.buy_number("telegram", country="indonesia")
    until(lambda: client.get_order_info(order.id).sms or None)
    client.action_with_order("finish", order.id)
    assert client.reuse_number("telegram", str(order.phone).removeprefix("+")) is True
    assert client.reuse_number("whatsapp", str(order.phone).removeprefix("+")) is False
    products = {product.name: product for product in client.get_available_products("indonesia", "any")}
    assert products["1month"].category == "hosting"


# fivesim: requests, enumerations of its own


def five_sim(found: Shop, key: str = "") -> Any:
    client: Any = FiveSim(key or found.key)
    client.user._APIRequest__endpoint = found.server.base + "/v1/user/"
    client.guest._APIRequest__endpoint = found.server.base + "/v1/guest/"
    return client


def test_fivesim_buys_waits_for_two_messages_and_finishes(open_shop: Shop, service: str) -> None:
    client, before = five_sim(open_shop), open_shop.bought()
    balance = client.user.get_profile_data().balance
    order = client.user.buy_number(Country.INDONESIA, Operator.ANY_OPERATOR, PRODUCTS[service])
    assert order.phone.startswith("+62")
    assert (order.status, order.country, order.product) == (Status.PENDING, Country.INDONESIA, PRODUCTS[service])
    profile = client.user.get_profile_data()
    assert profile.frozen_balance == order.price
    assert profile.balance == pytest.approx(balance - order.price)

    def read(count: int) -> Any:
        checked = client.user.order(OrderAction.CHECK, order)
        return checked if checked.sms and len(checked.sms) >= count else None

    first = until(lambda: read(1))
    assert first.status is Status.RECEIVED
    assert first.sms[0].activation_code in first.sms[0].text
    open_shop.send_another(service)
    second = until(lambda: read(2))  # nobody has asked for it
    assert second.sms[0] == first.sms[0]
    assert second.sms[1].activation_code != first.sms[0].activation_code
    done = client.user.order(OrderAction.FINISH, order)
    assert (done.status, len(done.sms)) == (Status.FINISHED, 2)
    assert client.user.get_profile_data().frozen_balance == 0
    is_closed(open_shop, service, FINISHED)
    changed = {name for name, count in open_shop.bought().items() if count > before[name]}
    assert changed == {UPSTREAM_OF[service]}
    listed = client.user.get_orders_history(Category.ACTIVATION, results_per_page=1, reverse_order=True)
    assert [(one.id, one.status, len(one.sms)) for one in listed.data] == [(order.id, Status.FINISHED, 2)]


@pytest.mark.parametrize(
    ("action", "status"), [(OrderAction.CANCEL, Status.CANCELED), (OrderAction.BAN, Status.BANNED)]
)
def test_fivesim_gives_a_number_back(open_shop: Shop, service: str, action: OrderAction, status: Status) -> None:
    client = five_sim(open_shop)
    balance = client.user.get_profile_data().balance
    order = client.user.buy_number(Country.INDONESIA, Operator.ANY_OPERATOR, PRODUCTS[service])
    assert client.user.order(action, order).status is status
    assert client.user.get_profile_data().balance == balance
    assert client.user.order(OrderAction.CHECK, order).status is status
    is_closed(open_shop, service, CANCELLED)


def told(call: Any, *args: Any, **more: Any) -> ErrorType:
    with pytest.raises(FiveSimError) as refused:
        call(*args, **more)
    error: ErrorType = refused.value.get_error()
    return error


def test_fivesim_understands_the_refusals(open_shop: Shop) -> None:
    client = five_sim(open_shop)
    buy, any_operator = client.user.buy_number, Operator.ANY_OPERATOR
    assert told(five_sim(open_shop, "wrong").user.get_profile_data) is ErrorType.INVALID_API_KEY
    assert told(buy, Country.INDONESIA, Operator.VIRTUAL21, PRODUCTS["vi"]) is ErrorType.BAD_OPERATOR
    assert told(buy, Country.INDONESIA, any_operator, ActivationProduct.AOL) is ErrorType.NO_FREE_PHONES
    forwarded = {"forwarding_number": "79161234567"}
    assert told(buy, Country.INDONESIA, any_operator, PRODUCTS["tg"], **forwarded) is ErrorType.NO_FREE_PHONES
    order = buy(Country.INDONESIA, any_operator, PRODUCTS["tg"], voice=True)
    assert told(client.user.order, OrderAction.FINISH, order) is ErrorType.ORDER_NO_SMS
    until(lambda: client.user.order(OrderAction.CHECK, order).sms or None)
    assert told(client.user.order, OrderAction.CANCEL, order) is ErrorType.ORDER_HAS_SMS
    client.user.order(OrderAction.FINISH, order)
    assert told(client.user.order, OrderAction.BAN, order) is ErrorType.ORDER_NOT_FOUND
    stranger = type(order).from_order_id(5)
    assert told(client.user.order, OrderAction.CHECK, stranger) is ErrorType.ORDER_NOT_FOUND


def test_fivesim_reads_the_catalogue(open_shop: Shop) -> None:
    guest = five_sim(open_shop).guest
    countries = guest.get_countries()
    assert (countries[Country.INDONESIA].iso, countries[Country.INDONESIA].prefix) == ("id", "+62")
    product = PRODUCTS["vi"]
    listed = guest.get_products(Country.INDONESIA, Operator.ANY_OPERATOR)[product]
    prices = guest.get_prices(country=Country.INDONESIA, product=product)
    leaf = prices[Country.INDONESIA][product][Operator.ANY_OPERATOR]
    assert (leaf.price, leaf.quantity) == (listed.price, listed.quantity)
    assert guest.get_prices(country=Country.INDONESIA)[Country.INDONESIA][product] == {Operator.ANY_OPERATOR: leaf}
    assert guest.get_prices(product=product)[Country.INDONESIA][product] == {Operator.ANY_OPERATOR: leaf}
    error = told(guest.get_prices, country=Country.INDONESIA, product=ActivationProduct.AOL)
    assert error is ErrorType.INCORRECT_PRODUCT


def test_fivesim_reads_its_payments(open_shop: Shop) -> None:
    paid = five_sim(open_shop).user.get_payments_history(results_per_page=5, reverse_order=True)
    assert [(one.type, one.amount, one.balance) for one in paid.data] == [("charge", 100, 100)]
    assert (paid.payment_types_names, paid.payment_providers_names, paid.total) == (["charge"], ["admin"], 1)


# pyfivesim: httpx and aiohttp, pydantic models, an exact content type


def strict(found: Shop, key: str = "") -> Any:
    return PyFiveSimSync(api_key=key or found.key, base_url=found.server.base + "/v1")


def test_pyfivesim_lives_a_whole_order(open_shop: Shop, service: str) -> None:
    client, product = strict(open_shop), PRODUCTS[service].value
    profile = client.get_user_profile()
    price = client.get_prices(country="indonesia", product=product)[0].operator_info.price
    order = client.buy_number(product, country="indonesia", max_price=price)
    assert order.price <= price
    after = client.get_user_profile()
    assert after.total_active_orders == profile.total_active_orders + 1
    assert (after.last_order.service, after.last_order.country) == (product, "indonesia")
    code = until(lambda: (sms := client.get_order_info(order.id).sms) and sms.code)
    assert code.isdigit()
    assert client.action_with_order("finish", order.id).status == "FINISHED"
    listed = client.get_user_orders("activation", limit=1, reverse=True)
    assert (listed.data.id, listed.data.sms.code) == (order.id, code)
    assert listed.total >= 1
    is_closed(open_shop, service, FINISHED)


def test_pyfivesim_finishes_an_order_without_a_message_by_cancelling_it(open_shop: Shop, service: str) -> None:
    client = strict(open_shop)
    balance = client.get_user_profile().balance
    order = client.buy_number(PRODUCTS[service].value, country="indonesia")
    assert client.action_with_order("finish", order.id).status == "CANCELED"
    assert client.get_user_profile().balance == balance


async def test_asynchronous_pyfivesim_lives_a_whole_order(open_shop: Shop, service: str) -> None:
    client: Any = PyFiveSimAsync(api_key=open_shop.key, base_url=open_shop.server.base + "/v1")
    order = await client.buy_number(PRODUCTS[service].value, country="indonesia")

    async def received() -> Any:
        async with asyncio.timeout(15):
            while True:
                checked = await client.get_order_info(order.id)
                if checked.sms:
                    return checked
                await asyncio.sleep(0.05)

    checked = await received()
    assert checked.sms.code.isdigit()
    assert (await client.action_with_order("finish", order.id)).status == "FINISHED"


def test_pyfivesim_reads_the_catalogue_and_the_account(open_shop: Shop) -> None:
    client = strict(open_shop)
    countries = {country.name: country for country in client.get_countries_list()}
    assert (countries["indonesia"].iso, countries["england"].prefix) == ("id", "+44")
    operators = countries["indonesia"].available_operators
    assert "telkomsel" in operators
    products = {product.name: product for product in client.get_available_products("indonesia", "any")}
    assert products["viber"].category == "activation"
    at_operator = {product.name: product for product in client.get_available_products("indonesia", "telkomsel")}
    assert at_operator["viber"].price >= products["viber"].price
    assert {product.name for product in client.get_prices(country="indonesia").products} >= {"telegram", "viber"}
    assert client.get_prices(product="telegram").name == "telegram"
    assert "indonesia" in {country.name for country in client.get_prices()}
    assert client.get_user_price_limits() == []
    assert client.action_with_user_price_limits("create", "telegram", 0.5) is False
    assert client.get_user_payments().total == 1
    nobody = PyFiveSimSync(base_url=open_shop.server.base + "/v1")
    assert "indonesia" in {country.name for country in nobody.get_countries_list()}


def test_pyfivesim_buys_from_the_operator_it_names_and_in_any_country(open_shop: Shop) -> None:
    client = strict(open_shop)
    price = {product.name: product.price for product in client.get_available_products("indonesia", "telkomsel")}
    order = client.buy_number("viber", country="indonesia", operator="telkomsel")
    assert (order.operator, order.price) == ("telkomsel", price["viber"])
    client.action_with_order("cancel", order.id)
    anywhere = client.buy_number("viber")
    cheapest = min(
        leaf.operator_info.price
        for country in client.get_prices(product="viber").countries
        for leaf in country.operators
    )
    assert anywhere.price == cheapest
    client.action_with_order("cancel", anywhere.id)


def test_pyfivesim_understands_the_refusals(open_shop: Shop) -> None:
    client = strict(open_shop)
    calls: dict[type[BaseException], Callable[[], Any]] = {
        FiveSimInvalidAPIKey: lambda: strict(open_shop, "wrong").get_user_profile(),
        FiveSimNoFreePhones: lambda: client.buy_number("telegram", country="indonesia", max_price=0.0001),
        FiveSimInvalidCountry: lambda: client.buy_number("telegram", country="atlantis"),
        FiveSimInvalidOperator: lambda: client.buy_number("telegram", country="indonesia", operator="nobody"),
        FiveSimInvalidProduct: lambda: client.buy_number("nonsense", country="indonesia"),
        FiveSimReuseNotPossible: lambda: client.buy_number("telegram", country="indonesia", reuse=True),
        FiveSimOrderNotFound: lambda: client.get_order_info(5),
    }
    for refused, call in calls.items():
        with pytest.raises(refused):
            call()
    assert client.reuse_number("telegram", "6281234567890") is False
