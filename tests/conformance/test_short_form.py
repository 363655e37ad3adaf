"""The matrix, as far as the tests' own environment goes: clients of its lock, and scripts whose tool is here."""

from __future__ import annotations

import re
import sys

import pytest

from tests.conformance.registry import Client, clients
from tests.conformance.runner import Outcome, place, run_all, tools
from tests.harness import ROOT

LOCKED = set(re.findall(r"^([a-z0-9.-]+)==", (ROOT / "tests" / "requirements.txt").read_text(), re.MULTILINE))
SHORT = [one for one in clients() if not one.package or (one.source == "PyPI" and one.package.lower() in LOCKED)]


pytestmark = [
    pytest.mark.xdist_group("conformance"),  # one gateway for all
    pytest.mark.timeout(300),  # the first test waits for every client
]


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcome]:
    """They spend their time waiting for codes, so they run beside each other."""
    with place(SHORT) as here:
        return run_all(SHORT, here, tools(sys.executable), processes=5)


def test_the_lock_has_clients_of_both_protocols() -> None:
    assert {"smsactivate", "aiosmsactivate", "pysmshub", "herosms", "smsbower", "fivesim", "pyfivesim"} <= {
        one.name for one in SHORT
    }


@pytest.mark.parametrize("client", SHORT, ids=lambda one: one.name)
def test_client_does_what_its_driver_says(client: Client, outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes[client.name]
    if outcome.skipped and not client.package:
        pytest.skip(outcome.skipped)
    assert not outcome.skipped
    assert outcome.surprises(client) == {}, outcome.output
