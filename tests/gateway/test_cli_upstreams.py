"""What `simroute upstreams` and `simroute catalog coverage` show, from the rows and reports there are."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest

from gateway.cli_upstreams import overview
from gateway.errors import NoNumbers
from gateway.inbox import push_secret
from gateway.vault import Vault, read_secrets
from tests.harness import config_directory, environment, run_cli
from tests.scripted import worlds
from tests.simulators import fivesim
from tests.simulators._serve import serve


async def test_money_at_risk_and_delivery_are_shown(tmp_path: Path, database_url: str) -> None:
    world = worlds(database_url, tmp_path)()
    await world.begin()
    delivered = await world.buy()
    world.one.sms(delivered.reference)
    await world.gateway.activations.look(delivered)
    lost = await world.buy()
    world.watch.now += 120
    await world.gateway.activations.give_back(lost)
    judged_too_soon = await world.buy()
    await world.gateway.activations.give_back(judged_too_soon)
    world.one.buys.append("doubt_hidden")
    world.two.buys.append("doubt")
    with pytest.raises(NoNumbers):
        await world.buy(world.order(price_max="0.50"))
    settings = world.gateway.house.settings
    rows, standing = await world.store.read(overview, settings, world.watch.now)
    one, two = ({key: row[key] for key in ("open", "delivery", "in_doubt", "exposure", "state")} for row in rows)
    assert one == {"open": 1, "delivery": "50 % of 2", "in_doubt": 1, "exposure": "0.10 USD", "state": "no server"}
    assert two == {"open": 0, "delivery": None, "in_doubt": 1, "exposure": "0.12 USD", "state": "no server"}
    assert standing == []
    await world.end()


async def test_coverage_lists_what_we_can_not_name_by_stock(sqlite_url: str, tmp_path: Path) -> None:
    app = fivesim.build(stock=3, sms_delay_seconds=None)
    app.state.sim.set_stock(product="telegram", country="england", operator="o2", price="0.10", count=90_000)
    with serve(app) as address:
        # Both of 5sim's words are taken for other things, so there is none left for what it calls telegram.
        stanza = f'[five]\nadapter = "fivesim"\nbase_url = "{address}/v1"\nservices = {{ tg = "viber" }}\n'
        values = environment(sqlite_url, FIVE_API_KEY=fivesim.DEFAULT_KEY)
        directory = config_directory(tmp_path, stanza)
        told = await asyncio.to_thread(run_cli, values, directory, "catalog", "coverage", "--json")
        seen = await asyncio.to_thread(run_cli, values, directory, "catalog", "coverage", "--limit", "1")
    first = json.loads(told.stdout)[0]
    assert (first["upstream"], first["kind"], first["word"]) == ("five", "service", "telegram")
    assert first["stock"] > 90_000
    assert "To sell them" in seen.stderr
    assert [line.split()[:3] for line in seen.stdout.splitlines()] == [
        ["UPSTREAM", "KIND", "WORD"],
        ["five", "service", "telegram"],
    ]
    unknown = await asyncio.to_thread(run_cli, values, directory, "catalog", "coverage", "--upstream", "nobody")
    assert (unknown.returncode, "there is no upstream nobody" in unknown.stderr) == (1, True)


def test_push_addresses_are_ready_to_be_copied(sqlite_url: str, tmp_path: Path) -> None:
    adapters = {"hero": "herosms", "own": "receive_sms", "vak": "vaksms"}
    stanzas = "".join(f'[{name}]\nadapter = "{adapter}"\n' for name, adapter in adapters.items())
    secrets = {"OWN_API_KEY": "x" * 32, "OWN_TWILIO_AUTH_TOKEN": "x" * 32, "HERO_API_KEY": "x", "VAK_API_KEY": "x"}
    values = environment(sqlite_url, WEBHOOK_URL="https://gw.example.test/webhooks/sms/", **secrets)
    told = run_cli(values, config_directory(tmp_path, stanzas), "upstreams", "push-urls", "--json")
    urls = {row["url"].rsplit("/sms/")[1] for row in json.loads(told.stdout)}
    hero, own = (push_secret(Vault(read_secrets(values)), name) for name in ("hero", "own"))
    assert urls == {f"hero/{hero}", f"own/{own}/generic", f"own/{own}/twilio"}


@pytest.mark.parametrize(
    ("as_of", "state"),
    [
        ("2020-01-01T00:00:00Z", "resting: rates too old"),
        ("2999-01-01T00:00:00Z", "resting: rates from the future"),
        (time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3600)), "no server"),
    ],
    ids=["old", "future", "end of the day"],
)
async def test_an_upstream_that_rests_for_want_of_rates_says_so(
    sqlite_url: str, tmp_path: Path, as_of: str, state: str
) -> None:
    stanza = '[own]\nadapter = "receive_sms"\ncurrency = "EUR"\n'
    values = environment(sqlite_url)
    directory = config_directory(tmp_path, stanza, rates=f'as_of = {as_of}\n[rates]\nEUR = "1.1"\n')
    told = await asyncio.to_thread(run_cli, values, directory, "upstreams", "--json")
    assert [row["state"] for row in json.loads(told.stdout)] == [state]
