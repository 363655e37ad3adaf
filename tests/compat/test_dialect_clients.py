"""Clients written by others, each on the path of the shop it was made for: nothing is changed but the base URL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
from grizzly_sms import GrizzlySms, GrizzlySmsError  # type: ignore[import-untyped, unused-ignore]
from herosms import HeroSMSClient
from herosms.exceptions import (
    ActivationNotFoundError,
    AuthenticationError,
    BadRequestError,
    ConflictError,
    InsufficientFundsError,
)
from pysmshub import Status as HubStatus
from pysmshub import SyncSmsHubApi
from pysmshub.exceptions import SmsHubApiException
from smsbower import SmsBowerClient, SmsBowerError

from tests.harness import PATH, config_directory, environment
from tests.wire import StillHouse, on_a_socket, still_house

T = TypeVar("T")


@dataclass
class Shop:
    """A gateway with a rich and a poor customer."""

    house: StillHouse
    base: str

    @property
    def key(self) -> str:
        return self.house.keys["alice"]


@pytest.fixture
async def shop(tmp_path: Path, sqlite_url: str) -> AsyncIterator[Shop]:
    async with (
        still_house(config_directory(tmp_path), environment(sqlite_url)) as house,
        on_a_socket(house.gateway) as port,
    ):
        await house.open_account("alice", "10.00")
        await house.open_account("poor", "0.01")
        yield Shop(house, f"http://127.0.0.1:{port}")
        assert await house.problems() == []


async def blocking(call: Callable[[], T]) -> T:
    """A client that blocks, beside the server it talks to."""
    return await asyncio.to_thread(call)


# HeroSMS


def hero(shop: Shop, key: str = "") -> HeroSMSClient:
    return HeroSMSClient(key or shop.key, base_url=f"{shop.base}/hero{PATH}", poll_interval=0.05, retry_attempts=1)


async def test_herosms_buys_waits_and_completes(shop: Shop) -> None:
    async with hero(shop) as client:
        activation = await client.activations.create(service="tg", country=6, max_price=1)
        await shop.house.passes(1.5)
        received = await activation.wait_for_sms(timeout=15)
        assert str(received.code).isdigit()
        [message] = await activation.get_all_sms()
        assert message.code == str(received.code)
        [row] = await client.get_active_activations()
        assert str(row.activation_id) == str(activation.id)
        await activation.complete()
        assert len(await client.get_history()) == 1
        assert (await client.get_balance()).amount == pytest.approx(9.92)


async def test_herosms_has_its_own_errors_for_our_refusals(shop: Shop) -> None:
    async with hero(shop) as client:
        activation = await client.activations.create(service="tg", country=6)
        await shop.house.passes(1.5)
        with pytest.raises(ConflictError) as refused:
            await activation.cancel()
        assert refused.value.title == "OTP_RECEIVED"
        with pytest.raises(BadRequestError) as too_low:
            await client.activations.create(service="tg", country=6, max_price=0.01)
        assert too_low.value.title == "WRONG_MAX_PRICE"
        with pytest.raises(ActivationNotFoundError):
            await client.get_status_v1(100999999)
    async with hero(shop, "wrong") as stranger:
        with pytest.raises(AuthenticationError):
            await stranger.get_balance()
    async with hero(shop, shop.house.keys["poor"]) as poor:
        with pytest.raises(InsufficientFundsError):
            await poor.activations.create(service="tg", country=6)


# SMSBower


async def test_smsbower_buys_reads_the_lists_and_understands_the_refusals(shop: Shop) -> None:
    with SmsBowerClient(shop.key, base_url=f"{shop.base}/bower") as client:
        bought = await blocking(lambda: client.get_number_v2("tg", country=6, max_price=0.08, min_price=0.01))
        assert (await blocking(lambda: client.get_prices("tg", 6)))["6"]["tg"]["cost"] == 0.08
        assert await blocking(lambda: client.get_prices_v2("tg", 6)) == {"6": {"tg": {"0.08": 1000}}}
        assert (await blocking(lambda: client.get_prices_v3("tg", 6)))["6"]["tg"]["1"]["count"] == 1000
        assert (await blocking(client.get_countries))["6"].eng == "Indonesia"
        await shop.house.passes(1.5)
        assert (await blocking(lambda: client.get_status(bought["activationId"]))).status == "STATUS_OK"
        assert await blocking(lambda: client.set_status(bought["activationId"], 6)) == "ACCESS_ACTIVATION"
        with pytest.raises(SmsBowerError, match="NO_ACTIVATION"):
            await blocking(lambda: client.get_status(5))
    with SmsBowerClient("wrong", base_url=f"{shop.base}/bower") as stranger, pytest.raises(SmsBowerError, match="401"):
        await blocking(stranger.get_balance)


# GrizzlySMS


async def test_grizzly_buys_anywhere_waits_and_completes(shop: Shop) -> None:
    with GrizzlySms(shop.key, base_url=f"{shop.base}/grizzly") as client:
        bought = await blocking(lambda: client.get_number_v2("tg", country="any", max_price=1))
        assert bought.activation_cancel < bought.activation_end
        await shop.house.passes(1.5)
        received = await blocking(lambda: client.wait_for_code(bought.activation_id, interval_ms=50, timeout_ms=15_000))
        [row] = await blocking(client.get_active_activations)
        assert (row.activation_id, row.sms_code, row.service_code) == (bought.activation_id, received.code, "tg")
        assert await blocking(lambda: client.complete(bought.activation_id)) == "ACCESS_ACTIVATION"
        assert await blocking(client.get_active_activations) == []
        assert (await blocking(lambda: client.get_prices_v3(service="tg", country=6)))["6"]["tg"]["1"]["price"] == 0.08
        with pytest.raises(GrizzlySmsError, match=r"WRONG_MAX_PRICE:0\.08"):
            await blocking(lambda: client.get_number("tg", country=6, max_price=0.01))


# SMSHub


async def test_pysmshub_buys_polls_and_finishes(shop: Shop) -> None:
    client: Any = SyncSmsHubApi(shop.key)
    client.base_url = f"{shop.base}/smshub{PATH}"
    assert (await blocking(lambda: client.get_numbers_status(country="6")))["tg_0"] == 1000
    assert await blocking(lambda: client.get_prices(service="tg", country="6")) == {"6": {"tg": {"0.08": 1000}}}
    number, _ = await blocking(lambda: client.get_number("tg", country=6, max_price=1))
    assert await blocking(lambda: client.get_status(number)) == (HubStatus.WAIT, None)
    await shop.house.passes(1.5)
    status, code = await blocking(lambda: client.get_status(number))
    assert (status, str(code).isdigit()) == (HubStatus.SENT, True)
    assert await blocking(lambda: client.set_status(number, HubStatus.SUCCESS)) == "ACCESS_ACTIVATION"
    with pytest.raises(SmsHubApiException):
        await blocking(lambda: client.get_number("nonsense", country=6))


# DS SMS HUB: the two examples of its page, in the order they do things


@pytest.mark.parametrize("word", ["WAITING", "STATUS_WAIT_CODE"])
async def test_the_two_examples_of_ds_get_their_text(word: str, tmp_path: Path, sqlite_url: str) -> None:
    """One looks for `ACCESS_SMS:` alone; the other waits while the answer begins with `STATUS_WAIT`."""
    directory = config_directory(tmp_path, gateway=f'[server]\nds_waiting_word = "{word}"\n')
    async with (
        still_house(directory, environment(sqlite_url)) as house,
        on_a_socket(house.gateway) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}/ds{PATH}") as client,
    ):
        await house.open_account("alice", "10.00")
        asked = {"api_key": house.keys["alice"]}
        wanted = {"action": "getNumber", "service": "telegram", "country": "US", "max_price": "1"}
        bought = await client.get("", params=asked | wanted)
        _, number, phone = bought.text.split(":")
        assert (phone[:2], bought.headers["X-Price"]) == ("+1", "0.08")
        poll = asked | {"action": "getStatus", "id": number}
        first = (await client.get("", params=poll)).text
        assert (first.startswith("ACCESS_SMS:"), first.startswith("STATUS_WAIT")) == (False, word != "WAITING")
        await house.passes(1.5)
        second = (await client.get("", params=poll)).text
        assert second.startswith("ACCESS_SMS:Your Telegram code is ")
