"""Clients written by others rent numbers, unmodified but for the host they call, over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
from aiosmsactivate import SmsActivate
from aiosmsactivate.exceptions import SmsActivateException
from smsactivate.api import SMSActivateAPI

from tests.harness import PATH, config_directory, environment
from tests.wire import StillHouse, on_a_socket, still_house

T = TypeVar("T")
COUNTRY = 6


@dataclass
class Shop:
    """A gateway with a customer."""

    house: StillHouse
    url: str

    @property
    def key(self) -> str:
        return self.house.keys["alice"]


@pytest.fixture
async def shop(tmp_path: Path, database_url: str) -> AsyncIterator[Shop]:
    async with (
        still_house(config_directory(tmp_path), environment(database_url)) as house,
        on_a_socket(house.gateway) as port,
    ):
        await house.open_account("alice", "10.00")
        yield Shop(house, f"http://127.0.0.1:{port}{PATH}")
        assert await house.problems() == []


async def blocking(call: Callable[..., T], *args: Any, **more: Any) -> T:
    """A client that blocks, beside the server it talks to."""
    return await asyncio.to_thread(call, *args, **more)


# smsactivate: requests


def sms_activate(shop: Shop) -> Any:
    client = SMSActivateAPI(shop.key)
    client._SMSActivateAPI__api_url = shop.url
    return client


async def test_smsactivate_rents_reads_prolongs_and_finishes(shop: Shop) -> None:
    client = sms_activate(shop)
    offers = await blocking(client.getRentServicesAndCountries, time=4, country=COUNTRY)
    assert (offers["services"]["full"], offers["currency"]) == ({"cost": 0.052, "quant": 20}, 840)
    assert COUNTRY in offers["countries"].values()
    rented = (await blocking(client.getRentNumber, service="full", time=4, country=COUNTRY))["phone"]
    assert rented["number"].startswith("62")
    assert rented["endDate"] == "2025-06-01T16:00:00"
    assert await blocking(client.getRentStatus, rented["id"]) == {"status": "error", "message": "STATUS_WAIT_CODE"}
    await shop.house.passes(60)
    found = await blocking(client.getRentStatus, rented["id"])
    assert (found["status"], found["quantity"], set(found["values"])) == ("success", "3", {"0", "1", "2"})
    assert found["values"]["0"]["phoneFrom"] in found["values"]["0"]["text"]
    listed = await blocking(client.getRentList)
    assert listed["values"] == {"0": {"id": str(rented["id"]), "phone": rented["number"]}}
    assert (await blocking(client.getContinueRentPriceNumber, rented["id"]))["price"] == 0.026
    longer = await blocking(client.continueRentNumber, rented["id"], 4)
    assert longer["phone"] == {**rented, "endDate": "2025-06-01T20:00:00"}
    refused = await blocking(client.setRentStatus, rented["id"], 2)
    assert refused == {"status": "error", "message": "CANT_CANCEL"}
    assert await blocking(client.setRentStatus, rented["id"], 1) == {"status": "success"}
    assert (await blocking(client.getRentStatus, rented["id"]))["message"] == "STATUS_FINISH"
    assert client.rentStatus("STATUS_FINISH") == "Rent paid and completed"


async def test_smsactivate_gives_a_rental_back_and_reads_the_refusals(shop: Shop) -> None:
    client = sms_activate(shop)
    balance = await blocking(client.getBalance)
    rented = (await blocking(client.getRentNumber, service="xmute", country=COUNTRY))["phone"]
    assert await blocking(client.getBalance) != balance
    assert await blocking(client.setRentStatus, rented["id"], 2) == {"status": "success"}
    assert await blocking(client.getBalance) == balance
    assert (await blocking(client.getRentList))["message"] == "NO_NUMBERS"
    for call, word in (
        ((client.getRentNumber, "nonsense"), "BAD_SERVICE"),
        ((client.getRentStatus, 5), "INVALID_PHONE"),
        ((client.setRentStatus, rented["id"], 1), "ALREADY_CANCEL"),
        ((client.continueRentNumber, rented["id"], 4), "RENT_DIE"),
    ):
        assert await blocking(*call) == {"status": "error", "message": word}


async def test_smsactivate_takes_two_services_on_one_number_and_another_beside_them(shop: Shop) -> None:
    client = sms_activate(shop)
    both = await blocking(client.getMultiServiceNumber, service="tg,wa", country=COUNTRY)
    assert ([row["service"] for row in both], len({row["phone"] for row in both})) == (["tg", "wa"], 1)
    beside = await blocking(client.getAdditionalService, both[0]["activation"], "vi")
    assert str(beside["phone"]) == both[0]["phone"]
    assert await blocking(client.setStatus, beside["id"], status=8) == "ACCESS_CANCEL"
    again = await blocking(client.getAdditionalService, both[0]["activation"], "wa")
    assert again["error"] == "REPEAT_ADDITIONAL_SERVICE"


# aiosmsactivate: POST with an empty body, parameter names with blanks behind them. Its set_rent_status asks for
# getRentStatus, and its continue_rent_info never gets as far as a request.


async def test_aiosmsactivate_rents_reads_and_prolongs(shop: Shop) -> None:
    client = SmsActivate(shop.key, base_url=shop.url)
    offers: Any = await client.get_rent_services_and_countries(time=24, country=str(COUNTRY), incomingCall=False)
    assert offers["services"]["tg"] == {"cost": 0.312, "quant": 20}
    rented: Any = await client.get_rent_number("tg", time=24, country=str(COUNTRY), operator="any")
    rental_id = str(rented["phone"]["id"])
    await shop.house.passes(60)
    found: Any = await client.get_rent_status(rental_id, page=1, size=2)
    assert (found["quantity"], len(found["values"])) == ("3", 2)
    assert (await client.set_rent_status(rental_id, 1))["status"] == "success"
    assert str((await client.get_rent_list(rental_id, 1, 10))["values"]["0"]["id"]) == rental_id
    price: Any = await client.get_continue_rent_price_number(rental_id, 24)
    assert (price["price"], price["currency"]) == (0.312, 840)
    longer: Any = await client.continue_rent_number(rental_id, 24)
    assert longer["phone"]["endDate"] == "2025-06-03T12:00:00"


async def test_aiosmsactivate_gets_a_number_again(shop: Shop) -> None:
    client = SmsActivate(shop.key, base_url=shop.url)
    number = await client.purchase("tg", country=COUNTRY)
    with pytest.raises(SmsActivateException):
        await client.check_extra_activation(number.activation_id)
    await shop.house.passes(1.5)
    await client.set_activation_status(number.activation_id, 6)
    offer: Any = await client.check_extra_activation(number.activation_id)
    assert (offer["status"], offer["cost"], str(offer["phone"])) == (
        "success",
        number.activation_cost,
        str(number.phone_number),
    )
    _, phone = await client.get_extra_activation(str(number.activation_id))
    assert phone == str(number.phone_number)
