"""Every adapter in a running gateway, against its simulator: a client of the SMS-Activate protocol sees no difference.

The pairs are those of the contract suite, so a new upstream is here without a line of its own.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gateway.settling import Settling
from gateway.store import Tx
from gateway.upstream import Finds
from tests.contract._pair import Pair, discovered
from tests.harness import House, config_directory, environment, house
from tests.simulators._serve import serve

PAIRS = discovered()
RATES = 'as_of = {now}\n[rates]\nNGN = "1"\nRUB = "1"\nEUR = "1"\n'
PRICING = "[default]\npercent = 25\n"
PATIENCE_SECONDS = 20.0


@dataclass
class Stage:
    """A gateway whose one upstream is a simulator."""

    pair: Pair
    house: House
    sim: Any

    async def buy(self) -> str:
        return await self.house.buy(self.pair.service, self.pair.country)

    def order(self) -> Mapping[str, Any]:
        """The newest order, as the simulator has it."""
        return dict(self.sim.order_views()[-1])


def toml(value: Any) -> str:
    """A value of an options mapping, as it stands in a file."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(str(key))} = {toml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)


@contextmanager
def stanza(pair: Pair, sim_options: Mapping[str, Any]) -> Iterator[tuple[Any, str]]:
    app = pair.simulator(**{"stock": 3, "sms_delay_seconds": None, **sim_options, **pair.simulator_options})
    sim = app.state.sim
    sim.set_stock(**pair.shelf, price="0.40", count=7)
    for shelf in pair.others:
        sim.set_stock(**shelf, count=0)
    with serve(app) as address:
        lines = [
            "[there]",
            f'adapter = "{pair.adapter}"',
            f'base_url = "{address}{pair.path}"',
            f'currency = "{pair.currency}"',
            "poll_seconds = 0.1",
            "status_calls_per_second = 50.0",
            "offers_seconds = 0.5",
            "balance_seconds = 0.5",
            *(f"{name} = {toml(value)}" for name, value in pair.options.items() if value is not None),
        ]
        yield sim, "\n".join(lines) + "\n"


@asynccontextmanager
async def staged(pair: Pair, tmp_path: Path, url: str) -> AsyncIterator[Stage]:
    cancel_wait = {} if pair.cancel_wait_option is None else {pair.cancel_wait_option: 0.0}
    secrets = {f"THERE_{name.upper()}": value for name, value in pair.secrets.items()}
    with stanza(pair, cancel_wait) as (sim, text):
        directory = config_directory(
            tmp_path, text, pricing=PRICING, rates=RATES.format(now=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
        )
        values = environment(url, THERE_API_KEY=pair.key, **secrets)
        async with house(directory, values, is_demo=False) as made:
            await listed(made, pair)
            yield Stage(pair, made, sim)


async def listed(made: House, pair: Pair) -> None:
    """Waits until the price list is there."""
    for _ in range(200):
        prices = json.loads(await made.call("getPrices", service=pair.service, country=pair.country))
        if prices:
            return
        await asyncio.sleep(0.05)
    raise AssertionError("the gateway has no prices")


@pytest.fixture(params=list(PAIRS.values()), ids=list(PAIRS))
async def stage(request: pytest.FixtureRequest, tmp_path: Path, sqlite_url: str) -> AsyncIterator[Stage]:
    async with staged(request.param, tmp_path, sqlite_url) as made:
        yield made


async def test_a_number_is_bought_its_code_read_and_its_end_told(stage: Stage) -> None:
    activation = await stage.buy()
    assert await stage.house.call("getStatus", id=activation) == "STATUS_WAIT_CODE"
    stage.sim.deliver(str(stage.order()["id"]), "Your code is 12345")
    assert await stage.house.until(activation, "STATUS_OK", PATIENCE_SECONDS) == "STATUS_OK:12345"
    assert await stage.house.call("setStatus", id=activation, status=6) == "ACCESS_ACTIVATION"
    assert await stage.house.balance() == (10_000_000 - 500_000, 0)
    assert await stage.house.problems() == []


async def test_a_cancel_gives_the_money_back_on_both_sides(stage: Stage) -> None:
    before = stage.sim.balance
    activation = await stage.buy()
    assert await stage.house.call("setStatus", id=activation, status=8) == "ACCESS_CANCEL"
    assert await stage.house.balance() == (10_000_000, 0)
    assert stage.sim.balance == before
    assert await stage.house.problems() == []


async def test_a_lost_purchase_costs_the_caller_nothing_and_is_found_or_shown(stage: Stage) -> None:
    """Where the upstream can be asked it is found (and adopted, or given back); where not, it stays as exposure."""
    stage.sim.fault("buy.drop", 1)
    answer = await stage.house.call("getNumber", service=stage.pair.service, country=stage.pair.country)
    assert stage.sim.purchases == 1
    gateway = stage.house.gateway
    if isinstance(gateway.house.upstreams["there"], Finds):
        assert answer.startswith("ACCESS_NUMBER:"), answer
        assert answer.split(":")[2].endswith(str(stage.order()["phone"]).lstrip("+"))
        assert stage.house.gateway.house.live.get(int(answer.split(":")[1])) is not None
        return
    assert answer == "NO_NUMBERS"
    assert await stage.house.balance() == (10_000_000, 0)
    assert await doubts(stage, gateway.settling) == {"in_doubt": 1}
    again = await stage.house.call("getNumber", service=stage.pair.service, country=stage.pair.country)
    assert (again, stage.sim.purchases) == ("NO_NUMBERS", 1), "nothing more is bought there while in doubt"
    assert await stage.house.problems() == []


async def doubts(stage: Stage, settling: Settling) -> dict[str, int]:
    await settling.settle()
    exposure = stage.house.gateway.house.metrics.registry.get_sample_value(
        "simroute_exposure_amount", {"upstream": "there", "currency": stage.pair.currency}
    )
    assert exposure
    assert exposure > 0

    def read(tx: Tx) -> dict[str, int]:
        return {row["state"]: row["n"] for row in tx.all("select state, count(*) as n from attempts group by state")}

    return await stage.house.database.store.read(read)


async def test_a_number_dearer_than_allowed_goes_back_at_once(stage: Stage) -> None:
    if not stage.pair.tells_cost:
        pytest.skip("this upstream does not say what a number cost")
    stage.sim.fault("overpriced", 1, price="0.90")
    answer = await stage.house.call("getNumber", service=stage.pair.service, country=stage.pair.country)
    assert answer == "NO_NUMBERS"
    await stage.house.gateway.purchases.drain()
    await stage.house.gateway.settling.settle()
    assert stage.sim.purchases == 1
    assert await stage.house.balance() == (10_000_000, 0)
    state = await stage.house.gateway.house.upstreams["there"].balance()
    assert state.micros == round(float(stage.sim.balance) * 1e6)
    assert await stage.house.problems() == []
