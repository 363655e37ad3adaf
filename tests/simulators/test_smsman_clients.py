"""The published client `smsmanpy`, unmodified but for the host, lives whole lives against the simulator."""

import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from smsmanpy import LowBalance, NoNumbers, Smsman, SMSnotReceivedError, WrongTokenError

from tests.simulators import smsman
from tests.simulators._serve import serve
from tests.simulators.smsman import SmsMan

POLL_SECONDS = 0.05
PATIENCE_SECONDS = 5.0
BRITAIN, TELEGRAM = 100, 3

Running = tuple[SmsMan, str]


@pytest.fixture
def running() -> Iterator[Running]:
    app = smsman.build(sms_delay_seconds=0.1)
    with serve(app) as address:
        yield app.state.sim, address


def client(address: str, key: str = smsman.DEFAULT_KEY) -> Any:
    made = Smsman(key)
    made._Smsman__base_url = address + "/control"
    return made


def test_client_buys_waits_and_reads_the_code(running: Running) -> None:
    sim, address = running
    there = client(address)
    request, number = there.request_phone_number(BRITAIN, TELEGRAM)
    assert number.startswith("44")
    with pytest.raises(SMSnotReceivedError):
        there.get_sms(request)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        try:
            code = there.get_sms(request)
            break
        except SMSnotReceivedError:
            time.sleep(POLL_SECONDS)
    assert code == sim.orders[str(request)].sms[0].code
    assert there.get_balance() == 100_000 - float(sim.orders[str(request)].price)


def test_client_rejects_and_gets_its_money_back(running: Running) -> None:
    sim, address = running
    sim.sms_delay_seconds = None
    there = client(address)
    request, _ = there.request_phone_number(BRITAIN, TELEGRAM)
    there.reject_number(request)
    assert sim.orders[str(request)].state == "cancelled"
    assert there.get_balance() == 100_000


def test_client_buys_several(running: Running) -> None:
    sim, address = running
    bought = client(address).request_phone_numbers(BRITAIN, TELEGRAM, 3)
    assert {str(request) for request, _ in bought} == set(sim.orders)


def test_client_reads_the_lists(running: Running) -> None:
    _, address = running
    there = client(address)
    assert there.get_all_countries()["100"] == {"id": "100", "title": "United Kingdom", "code": "GB"}
    assert there.get_all_services()["3"]["title"] == "Telegram"
    assert there.get_limits(BRITAIN, TELEGRAM) == [{"application_id": "3", "country_id": "100", "numbers": "5000"}]
    assert len(there.get_limits()) == len(smsman.COUNTRIES) * len(smsman.APPLICATIONS)


def test_client_understands_the_refusals(running: Running) -> None:
    sim, address = running
    there = client(address)
    for fault, error in [("no_balance", LowBalance), ("sold_out", NoNumbers), ("bad_key", WrongTokenError)]:
        sim.fault(fault, 1)
        with pytest.raises(error):
            there.request_phone_number(BRITAIN, TELEGRAM)
    for call in ("get_balance", "get_all_countries", "get_all_services"):
        with pytest.raises(WrongTokenError):
            getattr(client(address, "wrong"), call)()
    assert sim.purchases == 0


def test_calls_may_be_posted(running: Running) -> None:
    _, address = running
    answer = httpx.post(f"{address}/control/get-balance", data={"token": smsman.DEFAULT_KEY})
    assert answer.json() == {"balance": "100000"}
