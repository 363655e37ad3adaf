"""The published client `onlinesimru`, unmodified, lives whole lives against the simulator, over real sockets."""

import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from onlinesimru import Driver
from onlinesimru.exceptions import RequestException

from tests.simulators import onlinesim
from tests.simulators._serve import serve
from tests.simulators.onlinesim import OnlineSim

KEY = onlinesim.DEFAULT_KEY
POLL_SECONDS = 0.05

Running = tuple[OnlineSim, str]


@pytest.fixture
def running() -> Iterator[Running]:
    app = onlinesim.build(sms_delay_seconds=0.1)
    with serve(app) as address:
        yield app.state.sim, address


def driver(address: str, key: str = KEY) -> Any:
    return Driver(key, base_url=address)


def test_client_buys_waits_and_closes(running: Running) -> None:
    sim, address = running
    numbers = driver(address).numbers()
    bought = numbers.get("telegram", country=44, number=True)
    assert bought["number"].startswith("+44")
    [row] = numbers.state()
    assert (row["tzid"], row["response"], row["sum"]) == (bought["tzid"], "TZ_NUM_WAIT", 0.42)
    assert 890 <= row["time"] <= 900
    assert driver(address).user().balance()["zbalance"] == 0.42
    code = numbers.wait_code(bought["tzid"], timeout=POLL_SECONDS)
    order = sim.orders[str(bought["tzid"])]
    assert code == order.sms[0].code
    assert order.state == "finished"
    assert numbers.stateOne(bought["tzid"])["response"] == "TZ_OVER_OK"


def test_client_waits_for_the_next_message(running: Running) -> None:
    sim, address = running
    numbers = driver(address).numbers()
    tzid = numbers.get("telegram", country=44)
    first = numbers.wait_code(tzid, timeout=POLL_SECONDS, not_end=True)
    assert numbers.stateOne(tzid, msg_list=False)["msg"] is False
    assert numbers.wait_code(tzid, timeout=POLL_SECONDS) != first
    messages = numbers.stateOne(tzid, message_to_code=0)["msg"]
    assert [message["msg"] for message in messages] == [sms.text for sms in sim.orders[str(tzid)].sms]


def test_client_closes_without_a_code_after_two_minutes(running: Running) -> None:
    sim, address = running
    sim.sms_delay_seconds = None
    numbers = driver(address).numbers()
    tzid = numbers.get("telegram", country=44)
    with pytest.raises(RequestException) as refused:
        numbers.close(tzid)
    assert refused.value.error == "NO_COMPLETE_TZID"
    sim.skip(121)
    assert numbers.close(tzid)["response"] == 1
    assert numbers.stateOne(tzid)["response"] == "TZ_OVER_EMPTY"
    assert float(driver(address).user().balance()["balance"]) == 1000


def test_client_reads_tariffs_and_prices(running: Running) -> None:
    _, address = running
    numbers = driver(address).numbers()
    cell = numbers.tariffs()["44"]["services"]["service_telegram"]
    assert (cell["price"], cell["count"], cell["slug"]) == ("0.42", 5000, "telegram")
    assert numbers.tariffsOne(44)["services"]["service_telegram"] == cell
    assert numbers.price("telegram") == "0.42"


@pytest.mark.parametrize(("fault", "word"), [("no_balance", "WARNING_LOW_BALANCE"), ("sold_out", "NO_NUMBER")])
def test_client_understands_the_refusals(running: Running, fault: str, word: str) -> None:
    sim, address = running
    sim.fault(fault, 1)
    with pytest.raises(RequestException) as refused:
        driver(address).numbers().get("telegram", country=44)
    assert refused.value.error == word
    assert sim.purchases == 0


def test_client_with_a_wrong_key_or_none_is_told(running: Running) -> None:
    _, address = running
    for key, word in [("wrong", "ERROR_WRONG_KEY"), ("", "ERROR_NO_KEY")]:
        with pytest.raises(RequestException) as refused:
            driver(address, key).user().balance()
        assert refused.value.error == word


def test_client_that_asks_too_fast_is_dropped() -> None:
    app = onlinesim.build(requests_per_second=5, clock=lambda: 1_790_000_000.0)
    with serve(app) as address:
        user = driver(address).user()
        for _ in range(5):
            user.balance()
        with pytest.raises(httpx.RemoteProtocolError):
            user.balance()


def test_operation_ends_by_itself_and_the_money_comes_back(running: Running) -> None:
    sim, address = running
    sim.sms_delay_seconds = None
    numbers = driver(address).numbers()
    tzid = numbers.get("telegram", country=44)
    sim.skip(onlinesim.LIFE_SECONDS)
    assert numbers.stateOne(tzid)["response"] == "TZ_OVER_EMPTY"
    assert sim.balance == 1000
    started = time.monotonic()
    with pytest.raises(RequestException):
        numbers.state()
    assert time.monotonic() - started < 5
