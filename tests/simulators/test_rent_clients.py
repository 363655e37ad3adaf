"""Clients written by others, unmodified but for the host, rent numbers from the simulator, and use them again.

What SMS-Activate's two clients and HeroSMS's send and can read; the forms are those of the protocol reference §7, §8.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from aiosmsactivate import SmsActivate
from herosms import HeroSMSClient
from smsactivate.api import SMSActivateAPI

from tests.simulators import handler_api
from tests.simulators._handler_engine import HandlerApi
from tests.simulators._serve import serve

KEY = handler_api.DEFAULT_KEY


@contextmanager
def shop(brand: str) -> Iterator[tuple[HandlerApi, str]]:
    app = handler_api.build(brand=brand, sms_delay_seconds=None, early_cancel_seconds=0)
    with serve(app) as base_url:
        app.state.sim.set_rent_stock("tg", 2, price="2.40", count=3)
        yield app.state.sim, base_url + handler_api.PATH


def official(url: str) -> Any:
    client = SMSActivateAPI(KEY)
    client._SMSActivateAPI__api_url = url
    return client


def test_smsactivate_rents_reads_extends_and_finishes() -> None:
    with shop("generic") as (sim, url):
        client = official(url)
        listed = client.getRentServicesAndCountries(time=24, country=2)
        assert listed["services"]["tg"] == {"cost": 2.4, "quant": 3}
        assert 2 in listed["countries"].values()
        rented = client.getRentNumber(service="tg", time=24, country=2)["phone"]
        assert (sim.rental_views()[0]["phone"], sim.balance) == (
            rented["number"],
            1000 - sim.rents.rentals[str(rented["id"])].price,
        )
        assert client.getRentStatus(id=rented["id"]) == {"status": "error", "message": "STATUS_WAIT_CODE"}
        assert client.rentStatus("STATUS_WAIT_CODE") == "Waiting for the first SMS"
        sim.deliver_rental(str(rented["id"]), "Your code is 12345")
        sim.deliver_rental(str(rented["id"]), "Your code is 67890")
        status = client.getRentStatus(id=rented["id"])
        assert status["quantity"] == "2"
        assert [row["text"] for row in status["values"].values()] == ["Your code is 67890", "Your code is 12345"]
        assert client.getRentList()["values"] == {"0": {"id": str(rented["id"]), "phone": rented["number"]}}
        assert client.getContinueRentPriceNumber(id=rented["id"])["price"] == pytest.approx(0.2)
        longer = client.continueRentNumber(id=rented["id"], time=24)["phone"]
        assert longer["id"] == rented["id"]
        assert longer["endDate"] > rented["endDate"]
        assert client.setRentStatus(id=rented["id"], status=2)["message"] == "CANT_CANCEL"
        assert client.setRentStatus(id=rented["id"], status=1) == {"status": "success"}
        assert client.setRentStatus(id=rented["id"], status=1)["message"] == "ALREADY_FINISH"
        assert client.getRentStatus(id=rented["id"])["message"] == "STATUS_FINISH"
        assert client.getRentList() == {"status": "error", "message": "NO_NUMBERS"}


def test_smsactivate_cancels_a_rental_and_reads_refusals() -> None:
    with shop("generic") as (sim, url):
        client = official(url)
        rented = client.getRentNumber(service="tg", time=24, country=2)["phone"]
        assert client.setRentStatus(id=rented["id"], status=2) == {"status": "success"}
        assert sim.balance == 1000
        assert client.getRentStatus(id=rented["id"])["message"] == "STATUS_CANCEL"
        assert client.continueRentNumber(id=rented["id"], time=24)["message"] == "RENT_DIE"
        assert client.getRentStatus(id=1)["message"] == "INVALID_PHONE"
        assert client.setRentStatus(id=rented["id"], status=7)["message"] == "INCORECT_STATUS"
        assert client.getRentNumber(service="nothing", time=24, country=2)["message"] == "BAD_SERVICE"
        sim.set_rent_stock("tg", 2, count=0)
        assert client.getRentNumber(service="tg", time=24, country=2)["message"] == "NO_NUMBERS"


def test_rental_that_is_over_is_rented_anew_by_an_extension() -> None:
    """As SMS-Activate's page says: under another id."""
    with shop("generic") as (sim, url):
        client = official(url)
        rented = client.getRentNumber(service="tg", time=24, country=2)["phone"]
        client.setRentStatus(id=rented["id"], status=1)
        again = client.continueRentNumber(id=rented["id"], time=24)["phone"]
        assert (again["number"], again["id"] != rented["id"]) == (rented["number"], True)
        assert len(sim.rental_views()) == 2


def test_smsactivate_adds_a_service() -> None:
    with shop("generic") as (sim, url):
        client = official(url)
        first = client.getNumberV2(service="tg", country=2)
        added = client.getAdditionalService(id=first["activationId"], service="wa")
        assert (str(added["phone"]), added["id"] != first["activationId"]) == (first["phoneNumber"], True)
        assert {order["service"] for order in sim.order_views()} == {"tg", "wa"}


async def test_aiosmsactivate_rents_and_uses_a_number_again() -> None:
    """Its parameter names end in a blank, and what it calls set_rent_status asks for the status."""
    with shop("generic") as (sim, url):
        client = SmsActivate(KEY, base_url=url)
        rented = (await client.get_rent_number("tg", time=24, country="2"))["phone"]
        sim.deliver_rental(str(rented["id"]), "Your code is 12345")
        status = await client.get_rent_status(str(rented["id"]), page=1, size=5)
        assert status["values"]["0"]["text"] == "Your code is 12345"
        extended = (await client.continue_rent_number(str(rented["id"]), 24))["phone"]
        assert extended["endDate"] > rented["endDate"]
        bought = await client.purchase("tg", country=2)
        sim.deliver(str(bought.activation_id), "Your code is 12345")
        await client.set_activation_status(bought.activation_id, 6)
        told = await client.check_extra_activation(bought.activation_id)
        assert (told["service"], told["cost"]) == ("tg", float(sim.orders[str(bought.activation_id)].price))
        again, phone = await client.get_extra_activation(str(bought.activation_id))
        assert (phone, again) == (sim.orders[again].phone, sim.order_views()[-1]["id"])


async def test_herosms_rents_reads_every_message_and_uses_a_number_again() -> None:
    with shop("herosms") as (sim, url):
        async with HeroSMSClient(KEY, base_url=url, retry_attempts=1) as client:
            assert (await client.get_rent_availability("tg", country=2))["2"]["24"]["price"] == 2.4
            rented = await client.rent_number("tg", 2, 24)
            sim.deliver_rental(str(rented.id), "Your code is 12345")
            sim.deliver_rental(str(rented.id), "Hello")
            assert [(item.code, item.text) for item in await rented.get_all_sms()] == [
                ("12345", "Your code is 12345"), (None, "Hello"),
            ]  # fmt: skip
            bought = await client.activations.create(service="tg", country=2)
            sim.deliver(str(bought.id), "Your code is 12345")
            await bought.complete()
            assert await bought.get_reactivation_price() == float(sim.orders[str(bought.id)].price)
            again = await bought.reactivate()
            assert sim.orders[str(again.id)].phone == sim.orders[str(bought.id)].phone


async def test_herosms_ends_rentals_without_a_body_and_lists_them_with_the_others() -> None:
    with shop("herosms") as (sim, url):
        async with httpx.AsyncClient(params={"api_key": KEY}) as client:
            rent = {"action": "getRentNumber", "service": "tg", "country": "2", "duration": "24"}
            first, second = [(await client.get(url, params=rent)).json()["activationId"] for _ in range(2)]
            listed = (await client.get(url, params={"action": "getActiveActivations"})).json()["data"]
            assert {(row["activationId"], row["subtype"]) for row in listed} == {(first, 2), (second, 2)}
            ended = await client.get(url, params={"action": "finishActivation", "id": first})
            back = await client.get(url, params={"action": "cancelActivation", "id": second})
            assert [(answer.status_code, answer.content) for answer in (ended, back)] == [(204, b"")] * 2
            gone = await client.get(url, params={"action": "getAllSms", "id": second})
            assert (gone.status_code, gone.json()["title"]) == (409, "ACTIVATION_NOT_ACTIVE")
            odd = await client.get(url, params={**rent, "duration": "25"})
            assert (odd.status_code, odd.json()["info"]["available_durations"][0]) == (400, 24)
            posted = await client.post(url, params={"action": "prolong", "id": first, "duration": "24"})
            assert posted.json()["title"] == "ACTION_NOT_AVAILABLE"
            refused = await client.post(url, params=rent)
            assert refused.status_code == 405
        assert [rental["state"] for rental in sim.rental_views()] == ["finished", "cancelled"]


@pytest.mark.parametrize("brand", ["tigersms", "smsbower", "grizzlysms", "smshub", "daisysms", "vaksms_stub"])
async def test_brands_without_rentals_know_no_such_action(brand: str) -> None:
    with serve(handler_api.build(brand=brand)) as base_url:
        async with httpx.AsyncClient(params={"api_key": KEY}) as client:
            for action in ("getRentNumber", "getRentServicesAndCountries", "getExtraActivation", "reactivate"):
                answer = await client.get(base_url + handler_api.PATH, params={"action": action, "service": "tg"})
                assert "BAD_ACTION" in answer.text


async def test_push_of_a_rental_names_it() -> None:
    came: list[bytes] = []

    async def serve_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        came.append(await reader.readexactly(length))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve_once, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    app = handler_api.build(brand="generic", sms_delay_seconds=None, webhook_url=f"http://127.0.0.1:{port}/")
    with serve(app) as base_url:
        async with httpx.AsyncClient(params={"api_key": KEY}) as client:
            rent = {"action": "getRentNumber", "service": "tg", "country": "2", "rent_time": "24"}
            rented = (await client.get(base_url + handler_api.PATH, params=rent)).json()["phone"]
            app.state.sim.deliver_rental(str(rented["id"]), "Your code is 12345")
            for _ in range(100):
                if came:
                    break
                await asyncio.sleep(0.05)
    server.close()
    assert came[0].startswith(b'{"rentId":%d,"sms":{"phoneFrom":"Telegram","text":"Your code is 12345"' % rented["id"])
