"""Numbers of one's own, end to end: a signed request from every kind of sender becomes the code a client polls for.

The gateway stands behind a proxy: senders sign the public address, and nothing of it is in what arrives.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from gateway import roster
from tests.harness import ROOT, House, config_directory, environment, house, run_cli, server
from tests.simulators import inbound

PUBLIC = "https://gw.example.test/webhooks/sms"
STANZA = '[own]\nadapter = "receive_sms"\nprice = "0.05"\nexclusive = true\noffers_seconds = 0.2\n'
SECRET = "a-secret-of-this-test-only"
FORWARD = str(ROOT / "gateway" / "forward.py")
NUMBER = "447700900123"

SECRET_OF = {
    "twilio": "twilio_auth_token",
    "twilio_shared_key": "twilio_shared_keys",
    "telnyx": "telnyx_public_key",
    "vonage": "vonage_signature_secret",
    "plivo": "plivo_auth_token",
    "smsgate": "smsgate_signing_key",
    "textbee": "textbee_signing_secret",
    "httpsms": "httpsms_signing_key",
}


def secrets() -> dict[str, str]:
    found = {f"OWN_{name.upper()}": inbound.receiver_secret(sender, SECRET) for sender, name in SECRET_OF.items()}
    return {**found, "OWN_API_KEY": SECRET, "WEBHOOK_URL": PUBLIC}


def source_of(sender: str) -> str:
    return sender.partition("_")[0]


@pytest.fixture
async def made(database_url: str, tmp_path: Path) -> AsyncIterator[House]:
    directory = config_directory(tmp_path, STANZA, pricing="[default]\npercent = 100\n")
    values = environment(database_url, **secrets())
    async with house(directory, values, is_demo=False) as gateway:
        vault = gateway.database.vault
        spec = roster.specify(vault, NUMBER, "here", {"country": 16, "device": "phone-1"})
        await gateway.database.store.run(roster.put, "own", [spec], time.time())
        for _ in range(100):
            if await gateway.call("getPrices", service="tg", country=16) != "{}":
                break
            await asyncio.sleep(0.05)
        yield gateway


async def send(made: House, sender: str, text: str, id_: str = "1", secret: str = SECRET) -> httpx.Response:
    """What the sender posts to the public address, as it arrives behind the proxy."""
    url = f"{PUBLIC}/own/{source_of(sender)}" + ("?pool=1" if source_of(sender) == "twilio" else "")
    method, signed, headers, body = inbound.build(sender, url, secret, NUMBER, "Telegram", text, id_)
    parts = urlsplit(signed)
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    return await made.client.request(method, path, headers={**headers, "host": "127.0.0.1"}, content=body)


@pytest.mark.parametrize("sender", list(inbound.VENDORS))
async def test_a_signed_message_is_the_code_at_once_and_once(made: House, sender: str) -> None:
    answer = await made.call("getNumber", service="tg", country=16)
    assert answer.split(":")[2] == NUMBER, answer
    activation = answer.split(":")[1]
    for _ in range(2):
        taken = await send(made, sender, "Telegram code: 12345")
        assert taken.status_code == 200, taken.text
    assert await made.call("getStatus", id=activation) == "STATUS_OK:12345"
    assert await made.call("setStatus", id=activation, status=3) == "ACCESS_RETRY_GET"
    await send(made, sender, "Telegram code: 67890", "2")
    assert await made.until(activation, "STATUS_OK") == "STATUS_OK:67890"
    assert await made.call("setStatus", id=activation, status=6) == "ACCESS_ACTIVATION"
    assert await made.balance() == (10_000_000 - 100_000, 0)
    assert await made.problems() == []
    assert await made.call("getNumber", service="tg", country=16) == "NO_NUMBERS", "its cool-down has begun"


@pytest.mark.parametrize("sender", list(inbound.VENDORS))
async def test_a_wrong_signature_is_401_and_counted(made: House, sender: str) -> None:
    activation = await made.buy("tg", 16)
    assert (await send(made, sender, "Telegram code: 12345", secret="another-secret-altogether")).status_code == 401
    assert await made.call("getStatus", id=activation) == "STATUS_WAIT_CODE"
    counted = made.gateway.house.metrics.registry.get_sample_value(
        "simroute_pushes_total", {"upstream": "own", "outcome": "refused"}
    )
    assert counted == 1


async def test_a_message_nobody_waits_for_is_kept_and_visible(made: House) -> None:
    assert (await send(made, "twilio", "Your package is on its way")).status_code == 200
    store = made.database.store
    (row,) = await store.read(lambda tx: roster.messages(tx, "own", 10, only_unmatched=True))
    assert made.database.vault.open(row["text_sealed"]) == "Your package is on its way"


def test_a_modem_hands_its_message_over_through_the_forwarder(sqlite_url: str, tmp_path: Path) -> None:
    """As gammu-smsd runs it: the message in the environment, a process of its own, the generic signed form."""
    directory = config_directory(tmp_path, STANZA, pricing="[default]\npercent = 100\n")
    values = environment(sqlite_url, OWN_API_KEY=SECRET)

    def shell(*words: str) -> str:
        told = run_cli(values, directory, *words)
        assert told.returncode == 0, told.stderr
        return told.stdout.strip()

    shell("numbers", "add", NUMBER, "--country", "GB", "--upstream", "own")
    shell("account", "create", "alice", "--balance", "5", "--no-demo")
    key = shell("key", "issue", "alice")
    secret_file = tmp_path / "secret"
    secret_file.write_text(SECRET)
    with server(directory, values, tmp_path / "log") as running, httpx.Client(trust_env=False) as client:

        def call(action: str, **more: str) -> str:
            return client.get(running.url, params={"api_key": key, "action": action, **more}).text

        for _ in range(100):
            answer = call("getNumber", service="tg", country="16")
            if answer.startswith("ACCESS_NUMBER"):
                break
            time.sleep(0.05)
        assert answer.endswith(NUMBER)
        gammu = {"SMS_MESSAGES": "1", "SMS_1_NUMBER": "Telegram", "SMS_1_TEXT": "Telegram code 54321"}
        settings = ["--secret-file", str(secret_file), "--spool", str(tmp_path / "spool"), "--own-number", f"+{NUMBER}"]
        forwarded = subprocess.run(
            [sys.executable, FORWARD, "gammu", "--url", f"{running.base}/webhooks/sms/own/generic", *settings],
            env={"PATH": os.environ["PATH"], **gammu},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert forwarded.returncode == 0, forwarded.stderr
        assert call("getStatus", id=answer.split(":")[1]) == "STATUS_OK:54321"
