"""The published clients `aiovaksms` and `vaksms`, unmodified, live whole lives against the simulator."""

from collections.abc import Iterator
from typing import Any

import pytest
import vaksms.client
from aiovaksms import Vaksms as AsyncClient
from aiovaksms.exceptions import VakSmsBadRequest as AsyncRefusal
from vaksms import vaksms as Client
from vaksms.exceptions import VakSmsBadRequest as Refusal

from tests.simulators import vaksms as simulator
from tests.simulators._serve import serve
from tests.simulators.vaksms import VakSms

KEY = simulator.DEFAULT_KEY

Running = tuple[VakSms, str]


@pytest.fixture
def running() -> Iterator[Running]:
    app = simulator.build(sms_delay_seconds=None)
    with serve(app) as address:
        yield app.state.sim, address


def test_client_buys_waits_asks_again_and_ends(running: Running) -> None:
    sim, address = running
    client = Client(KEY, base_url=address)
    number = client.get_number("tg", country="gb")
    assert str(number.tel).startswith("44")
    assert number.lifetime == simulator.LIFE_SECONDS
    assert client.get_sms_code(number) == {"smsCode": None}
    sim.deliver(number.idNum, "Your code is 12345")
    assert client.get_sms_code(number) == {"smsCode": ["12345"]}
    assert client.set_status(number, "send") == "ready"
    sim.deliver(number.idNum, "Your code is 67890")
    assert client.get_sms_code(number.idNum, True) == {"smsCode": ["12345", "67890"]}
    assert client.set_status(number, "end") == "smsReceived"
    assert sim.orders[number.idNum].state == "finished"
    assert client.get_balance() == 100_000 - float(sim.orders[number.idNum].price)


async def test_asynchronous_client_waits_for_the_code(running: Running) -> None:
    sim, address = running
    sim.sms_delay_seconds = 0.1
    client = AsyncClient(KEY, base_url=address)
    number: Any = await client.get_number("tg", country="gb")
    code = await client.wait_sms_code(number.idNum, timeout=5, per_attempt=0.05)
    assert code == sim.orders[number.idNum].sms[0].code


async def test_asynchronous_client_gives_a_number_back(running: Running) -> None:
    sim, address = running
    client = AsyncClient(KEY, base_url=address)
    number: Any = await client.get_number("tg", country="gb", operator="o2")
    sim.cancel_wait_seconds = 300.0
    assert await client.set_status(number.idNum, "end") == "waitSMS"
    sim.skip(301)
    assert await client.set_status(number.idNum, "end") == "update"
    assert await client.get_balance() == 100_000
    with pytest.raises(AsyncRefusal) as refused:
        await client.get_sms_code(number.idNum)
    assert refused.value.code == "idNumNotFound"


def test_client_reads_the_lists(running: Running) -> None:
    sim, address = running
    vaksms.client.cache_all_data.clear()
    client = Client(KEY, base_url=address)
    sim.set_stock("tg", "gb", price="12.5", count=7)
    listed = client.get_count_number_list("gb")["tg"]
    assert (listed.cost, listed.quantity, listed.name) == (12.5, 7, "Telegram")
    vaksms.client.cache.clear()
    counted = client.get_count_number("tg", country="gb")
    assert (counted.service, counted.count, counted.price) == ("tg", 7, 12.5)
    vaksms.client.cache_countries.clear()
    assert {country.countryCode for country in client.get_country_list()} == set(simulator.COUNTRIES)


@pytest.mark.parametrize(("fault", "word"), [("no_balance", "noMoney"), ("sold_out", "noNumber")])
async def test_clients_understand_the_refusals(running: Running, fault: str, word: str) -> None:
    sim, address = running
    sim.fault(fault, 2)
    with pytest.raises(Refusal) as refused:
        Client(KEY, base_url=address).get_number("tg", country="gb")
    assert refused.value.code == word
    with pytest.raises(AsyncRefusal) as also_refused:
        await AsyncClient(KEY, base_url=address).get_number("tg", country="gb")
    assert also_refused.value.code == word
    assert sim.purchases == 0


def test_client_with_a_wrong_key_or_wrong_words_is_told(running: Running) -> None:
    _, address = running
    client = Client(KEY, base_url=address)
    with pytest.raises(Refusal) as stranger:
        Client("wrong", base_url=address).get_balance()
    assert stranger.value.code == "apiKeyNotFound"
    for wanted, word in [
        ({"service": "nonsense"}, "badService"),
        ({"service": "tg", "country": "atlantis"}, "noCountry"),
        ({"service": "tg", "operator": "nobody"}, "noOperator"),
    ]:
        with pytest.raises(Refusal) as refused:
            client.get_number(**wanted)
        assert refused.value.code == word
    with pytest.raises(Refusal) as misspelt:
        client.set_status(client.get_number("tg", country="gb"), "over")
    assert misspelt.value.code == "badStatus"
