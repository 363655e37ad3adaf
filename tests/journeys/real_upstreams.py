"""A `simroute serve` process that buys from simulators on real sockets, for clients that are not ours."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.request import urlopen

from tests.harness import Server, config_directory, environment, run_cli, server
from tests.simulators import fivesim, handler_api
from tests.simulators._common import Simulator
from tests.simulators._serve import serve

T = TypeVar("T")

SMS_DELAY_SECONDS = 0.4
PATIENCE_SECONDS = 15.0

UPSTREAMS = """
[herosms]
base_url = "{hero}/stubs/handler_api.php"
poll_seconds = 0.1
status_calls_per_second = 50.0

[generic]
adapter = "handler_api"
base_url = "{generic}/stubs/handler_api.php"
rents = true
reuses = true
adds_services = true
poll_seconds = 0.1
status_calls_per_second = 50.0

[fivesim]
base_url = "{five}/v1"
poll_seconds = 0.1
status_calls_per_second = 50.0
"""
ROUTING = """
[[rule]]
services = ["tg"]
upstreams = ["herosms"]

[[rule]]
services = ["wa"]
upstreams = ["generic"]

[[rule]]
services = ["vi"]
upstreams = ["fivesim"]
"""
PRICING = "[default]\npercent = 25\n"

UPSTREAM_OF = {"tg": "herosms", "wa": "generic", "vi": "fivesim"}
"""Which upstream a service is bought from, so that a client can be sent to each of them."""


@dataclass
class Shop:
    """The gateway as a client sees it, and the simulators behind it."""

    server: Server
    key: str
    simulators: dict[str, Simulator]

    @property
    def url(self) -> str:
        return self.server.url

    def send_another(self, service: str) -> None:
        """5sim has no verb for another SMS; one simply comes."""
        if UPSTREAM_OF[service] == "fivesim":
            simulator = self.simulators["fivesim"]
            newest = simulator.order_views()[-1]
            simulator.deliver(str(newest["id"]), "Your code is 24680")

    def bought(self) -> dict[str, int]:
        return {name: simulator.purchases for name, simulator in self.simulators.items()}

    def states(self, service: str) -> list[str]:
        """What became of the orders at the upstream of a service."""
        return [str(order.get("state") or order.get("status")) for order in self._orders(service)]

    def _orders(self, service: str) -> list[dict[str, object]]:
        return self.simulators[UPSTREAM_OF[service]].order_views()

    def cli(self, *arguments: str) -> str:
        result = run_cli(self.server.values, self.server.directory, *arguments)
        assert result.returncode == 0, result.stderr
        return result.stdout


def until(read: Callable[[], T | None], pause_seconds: float = 0.05) -> T:
    """Polls until something other than None comes."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if (answer := read()) is not None:
            return answer
        time.sleep(pause_seconds)
    raise AssertionError("nothing came")


@contextmanager
def shop(directory: Path, url: str, sms_delay_seconds: float = SMS_DELAY_SECONDS) -> Iterator[Shop]:
    """Opens the gateway on the database given, with the account alice and every price list read."""
    with ExitStack() as stack:
        apps = {
            "herosms": handler_api.build(brand="herosms", sms_delay_seconds=sms_delay_seconds, early_cancel_seconds=0),
            "generic": handler_api.build(brand="generic", sms_delay_seconds=sms_delay_seconds, early_cancel_seconds=0),
            "fivesim": fivesim.build(sms_delay_seconds=sms_delay_seconds),
        }
        hero, generic, five = (stack.enter_context(serve(app)) for app in apps.values())
        config = config_directory(
            directory,
            UPSTREAMS.format(hero=hero, generic=generic, five=five),
            pricing=PRICING,
            routing=ROUTING,
            gateway='[server]\nlog_level = "debug"\n',
        )
        values = environment(
            url,
            HEROSMS_API_KEY=handler_api.DEFAULT_KEY,
            GENERIC_API_KEY=handler_api.DEFAULT_KEY,
            FIVESIM_API_KEY=fivesim.DEFAULT_KEY,
        )
        run_cli(values, config, "account", "create", "alice", "--balance", "100.00")
        key = run_cli(values, config, "key", "issue", "alice").stdout.strip()
        running = stack.enter_context(server(config, values, directory / "log"))
        found = Shop(running, key, {name: app.state.sim for name, app in apps.items()})
        _wait_for_lists(found)
        yield found


def _wait_for_lists(found: Shop) -> None:
    def listed() -> bool | None:
        with urlopen(f"{found.url}?api_key={found.key}&action=getPrices&country=6") as answer:  # noqa: S310 — our own
            services = set(re.findall(r'"(\w+)":\{"cost"', answer.read().decode()))
        return True if services >= UPSTREAM_OF.keys() else None

    until(listed)
