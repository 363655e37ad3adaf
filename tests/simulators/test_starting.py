"""Every simulator is a program of its own, too: `python -m tests.simulators.NAME --port N`."""

import importlib
import pkgutil
import select
import subprocess
import sys

import httpx
import pytest

import tests.simulators

MODULES = [
    module.name
    for module in pkgutil.iter_modules(tests.simulators.__path__)
    if not module.name.startswith(("_", "test_"))
    and hasattr(importlib.import_module(f"tests.simulators.{module.name}"), "build")
    and module.name != "inbound"  # senders, not a server
]
START_SECONDS = 20.0


@pytest.mark.parametrize("name", MODULES)
def test_a_simulator_starts_by_its_name_and_says_where(name: str) -> None:
    command = [sys.executable, "-m", f"tests.simulators.{name}", "--port", "0", "--balance", "7.5"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            ready, _, _ = select.select([process.stdout], [], [], START_SECONDS)
            line = process.stdout.readline() if ready else ""
            assert line.startswith("listening on http://127.0.0.1:")
            answer = httpx.get(line.split()[-1] + "/_sim/state", trust_env=False)
            assert answer.json()["balance"] == "7.5"
        finally:
            process.terminate()


def test_there_is_one_for_each_protocol() -> None:
    assert {
        "dssmshub", "fivesim", "handler_api", "onlinesim", "smsman", "smspool", "smspva", "textverified", "vaksms"
    } <= set(MODULES)  # fmt: skip
