"""The forwarder of gammu-smsd and SMS Server Tools 3, run as they run it: as a program, against a real server."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from adapters._inbound import generic
from gateway import forward
from gateway.upstream import PushRequest

SECRET = b"key-of-this-test"
OWN = "+447700900123"
SENDER = "+12025550111"
TEXT = "Your code is 123456"
GAMMU = {"SMS_MESSAGES": "1", "SMS_1_NUMBER": SENDER, "SMS_1_TEXT": TEXT, "SMS_1_CLASS": "-1", "PHONE_ID": "stick"}


@dataclass
class Gateway:
    """A server that answers with `statuses`, one after another, and with the last one for ever."""

    url: str = ""
    statuses: list[int] = field(default_factory=lambda: [200])
    requests: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    delay_seconds: float = 0.0

    @property
    def messages(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, body in self.requests]

    @property
    def texts(self) -> list[str]:
        return [message["text"] for message in self.messages]

    def take(self, headers: dict[str, str], body: bytes) -> int:
        time.sleep(self.delay_seconds)
        self.requests.append((headers, body))
        return self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    made = Gateway()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            status = made.take(headers, body)
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("location", made.url + "/elsewhere")
            self.send_header("content-length", "0")
            self.end_headers()

        do_GET = do_POST

        def log_message(self, *_args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.url = f"http://127.0.0.1:{server.server_port}/in/generic"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


@dataclass
class Machine:
    """A machine with a modem: a copy of the program, its key, its spool. Nothing of ours can be imported there."""

    directory: Path
    url: str
    said: str = ""

    @property
    def spool(self) -> Path:
        return self.directory / "spool"

    @property
    def waiting(self) -> list[Path]:
        return sorted(self.spool.glob("*.json"))

    def command(self, kind: str, *arguments: str) -> list[str]:
        program = [sys.executable, "-I", "-S", str(self.directory / "forward.py"), kind]
        settings = ["--url", self.url, "--secret-file", str(self.directory / "key"), "--spool", str(self.spool)]
        return [*program, *settings, *arguments]

    def run(self, kind: str, *arguments: str, **environment: str) -> int:
        done = subprocess.run(
            self.command(kind, *arguments),
            env={"NO_PROXY": "*", "LC_ALL": "C.UTF-8", **environment},
            capture_output=True,
            timeout=50,
            check=False,
        )
        self.said = done.stderr.decode()
        assert "Traceback" not in self.said
        assert done.stdout == b""
        return done.returncode

    def gammu(self, *arguments: str, **environment: str) -> int:
        return self.run("gammu", "--own-number", OWN, *arguments, **{**GAMMU, **environment})

    def incoming(self, content: bytes, name: str = "GSM1.aBc123") -> str:
        path = self.directory / name
        path.write_bytes(content)
        return str(path)

    def smstools(self, content: bytes, *arguments: str, event: str = "RECEIVED") -> int:
        return self.run("smstools", *arguments, event, self.incoming(content))


@pytest.fixture
def machine(tmp_path: Path, gateway: Gateway) -> Machine:
    shutil.copy(forward.__file__, tmp_path / "forward.py")
    (tmp_path / "key").write_bytes(SECRET + b"\n")
    return Machine(tmp_path, gateway.url)


def offline(machine: Machine) -> Machine:
    return Machine(machine.directory, "http://127.0.0.1:1/in/generic")


# --- what is posted ---


def test_message_of_gammu_is_posted_and_signed(machine: Machine, gateway: Gateway) -> None:
    assert machine.gammu("17") == 0
    [(headers, body)] = gateway.requests
    message = json.loads(body)
    assert set(message) == {"id", "to", "from", "text", "received_at"}
    assert (message["to"], message["from"], message["text"]) == (OWN, SENDER, TEXT)
    stamp = headers["x-timestamp"]
    assert abs(int(stamp) - time.time()) < 30
    assert headers["x-signature"] == hmac.new(SECRET, body + stamp.encode(), hashlib.sha256).hexdigest()
    assert headers["content-type"] == "application/json"
    assert machine.waiting == []


def test_signature_is_that_of_the_published_vector() -> None:
    body = b'{"event":"sms:received","id":"evt_1"}'
    expected = "d1f9abc64ff766ea27643aa560fb2549804c0d08e478dfb94853b3af54b14a89"
    assert forward.signature(b"example-signing-key", body, "1790000000") == expected


@pytest.mark.parametrize("arguments", [("--own-number", OWN), ()])
def test_gateway_reads_what_is_posted(machine: Machine, gateway: Gateway, arguments: tuple[str, ...]) -> None:
    assert machine.run("gammu", *arguments, "17", **GAMMU) == 0
    [(headers, body)] = gateway.requests
    request = PushRequest("POST", gateway.url, headers, body)
    generic.verify(request, {"generic_secret": SECRET.decode()}, time.time())
    [read] = generic.parse(request)
    assert read.id == json.loads(body)["id"]
    assert read.to == (OWN.lstrip("+") if arguments else "")
    assert read.device == ("" if arguments else "stick")
    assert (read.sender, read.text) == (SENDER.lstrip("+"), TEXT)
    assert read.received_at == pytest.approx(time.time(), abs=30)


# --- gammu ---


@pytest.mark.parametrize(
    ("environment", "text"),
    [
        ({"DECODED_PARTS": "1", "DECODED_1_TEXT": "whole text", "SMS_1_TEXT": "whole"}, "whole text"),
        ({"DECODED_PARTS": "1", "DECODED_0_TEXT": "whole text", "SMS_1_TEXT": "whole"}, "whole text"),
        ({"DECODED_PARTS": "2", "DECODED_1_TEXT": "one ", "DECODED_2_TEXT": "two"}, "one two"),
        ({"DECODED_PARTS": "2", "DECODED_0_TEXT": "one ", "DECODED_1_TEXT": "two"}, "one two"),
        ({"DECODED_PARTS": "0", "SMS_MESSAGES": "2", "SMS_1_TEXT": "one ", "SMS_2_TEXT": "two"}, "one two"),
        ({"SMS_1_TEXT": "Ваш код: 1234\n请勿告知 🙂"}, "Ваш код: 1234\n请勿告知 🙂"),
        ({"SMS_1_TEXT": ""}, ""),
    ],
)
def test_text_is_whole_however_gammu_counts(
    machine: Machine, gateway: Gateway, environment: dict[str, str], text: str
) -> None:
    assert machine.gammu("17", **environment) == 0
    assert gateway.texts == [text]


def test_gammu_that_counts_from_nought_is_understood(machine: Machine, gateway: Gateway) -> None:
    environment = {"SMS_MESSAGES": "1", "SMS_0_NUMBER": SENDER, "SMS_0_TEXT": TEXT}
    assert machine.run("gammu", "--own-number", OWN, **environment) == 0
    assert (gateway.messages[0]["from"], gateway.messages[0]["text"]) == (SENDER, TEXT)


def test_text_survives_a_locale_without_utf8(machine: Machine, gateway: Gateway) -> None:
    assert machine.gammu("17", SMS_1_TEXT="Код 1234", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0") == 0
    assert gateway.texts == ["Код 1234"]


def test_gammu_without_a_message_is_a_mistake(machine: Machine, gateway: Gateway) -> None:
    assert machine.run("gammu", "--own-number", OWN) == 2
    assert gateway.requests == []


# --- SMS Server Tools ---

HEADERS = b"From: 12025550111\nFrom_TOA: 91 international, ISDN/telephone\nFrom_SMSC: 12025550100\nSubject: GSM1\n"
HEADERS += b"IMSI: 234150000000001\nSent: 26-11-01 10:00:00\nReceived: 26-11-01 10:00:05\nReport: no\n"


@pytest.mark.parametrize(
    ("rest", "text"),
    [
        (b"Alphabet: ISO\n\nYour code is 123456\n", "Your code is 123456"),
        (b"Alphabet: ISO\nLength: 5\n\n\xa4 caf\xe9", "€ café"),
        (b"Alphabet: UTF-8\n\n" + "Код: 1234\n\nдва".encode(), "Код: 1234\n\nдва"),
        (b"Alphabet: UCS2\n\n" + "Код: 1234\n请 🙂".encode("utf-16-be"), "Код: 1234\n请 🙂"),
        (b"Alphabet: UCS2\n\n" + "\ufeffКод".encode("utf-16-be") + b"\n", "Код"),
        (b"Alphabet: ISO\r\n\r\nYour code\r\n", "Your code"),
        (b"\nno alphabet named", "no alphabet named"),
        (b"Alphabet: ISO\n", ""),
    ],
)
def test_text_of_the_tools_is_read_in_its_alphabet(machine: Machine, gateway: Gateway, rest: bytes, text: str) -> None:
    content = HEADERS.replace(b"\n", b"\r\n") + rest if b"\r" in rest else HEADERS + rest
    assert machine.smstools(content, "--own-number", OWN) == 0
    [message] = gateway.messages
    assert (message["to"], message["from"], message["text"]) == (OWN, SENDER, text)
    received = time.mktime(time.strptime("2026-11-01 10:00:05", "%Y-%m-%d %H:%M:%S"))
    assert message["received_at"] == time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(received))


@pytest.mark.parametrize(
    ("sender", "expected"),
    [
        (b"From: 12345\nFrom_TOA: 81 unknown, unknown\n", "12345"),
        (b"From: Telegram\nFrom_TOA: D0 alphanumeric, unknown\n", "Telegram"),
        (b"From: 12025550111\nFrom_TOA: 91 international, unknown\n", SENDER),
    ],
)
def test_sender_has_a_plus_sign_only_where_it_is_international(
    machine: Machine, gateway: Gateway, sender: bytes, expected: str
) -> None:
    assert machine.smstools(sender + b"Subject: GSM1\n\nhello") == 0
    assert gateway.messages[0]["from"] == expected


@pytest.mark.parametrize("event", ["SENT", "FAILED", "REPORT", "CALL"])
def test_other_events_only_post_what_waits(machine: Machine, gateway: Gateway, event: str) -> None:
    assert offline(machine).gammu("17") == 3
    assert machine.smstools(HEADERS + b"\nhello", event=event) == 0
    assert gateway.texts == [TEXT]


def test_what_is_no_text_is_left_out(machine: Machine, gateway: Gateway) -> None:
    assert machine.smstools(HEADERS + b"Alphabet: binary\n\n\x00\x01") == 0
    assert gateway.requests == []


@pytest.mark.parametrize("content", [b"", b"\x00\xff", b"Subject: GSM1\n\nhello"])
def test_file_that_makes_no_sense_is_a_mistake(machine: Machine, gateway: Gateway, content: bytes) -> None:
    assert machine.smstools(content) == 2
    assert gateway.requests == []


def test_file_that_is_gone_is_a_mistake(machine: Machine) -> None:
    assert machine.run("smstools", "RECEIVED", str(machine.directory / "nothing")) == 2


# --- the own number ---

NUMBERS = "# our cards\nstick = +447700900001\nGSM1=+447700900002  # upstairs\n\n234150000000001 = 447700900003\n"


def test_own_number_is_looked_up_by_phone_modem_and_card(machine: Machine, gateway: Gateway) -> None:
    path = machine.directory / "numbers"
    path.write_text(NUMBERS, encoding="utf-8")
    listed = ("--own-numbers", str(path))
    assert machine.run("gammu", *listed, **GAMMU) == 0
    assert machine.smstools(HEADERS + b"\nhello", *listed) == 0
    assert machine.smstools(b"From: 1\nSubject: GSM1\n\nhello", *listed) == 0
    assert machine.smstools(b"From: 1\nSubject: GSM2\n\nhello", *listed, "--own-number", OWN) == 0
    assert [message["to"] for message in gateway.messages] == ["+447700900001", "447700900003", "+447700900002", OWN]


def test_unknown_own_number_is_left_to_the_gateway(machine: Machine, gateway: Gateway) -> None:
    assert machine.smstools(HEADERS.replace(b"GSM1", b"my modem") + b"\nhello") == 0
    assert machine.smstools(b"From: 1\n\nhello") == 0
    assert [message["device"] for message in gateway.messages] == ["my_modem", "modem"]
    assert not any("to" in message for message in gateway.messages)


@pytest.mark.parametrize("content", ["stick\n", "= 123456\n", "stick = soon\n", None])
def test_wrong_list_of_numbers_is_told_and_loses_nothing(
    machine: Machine, gateway: Gateway, content: str | None
) -> None:
    path = machine.directory / "numbers"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    assert machine.run("gammu", "--own-numbers", str(path), **GAMMU) == 2
    assert "list of own numbers" in machine.said
    assert gateway.messages[0]["device"] == "stick"


# --- the spool ---


def test_messages_wait_while_offline_and_go_oldest_first(machine: Machine, gateway: Gateway) -> None:
    for number in range(3):
        assert offline(machine).gammu(str(number), SMS_1_TEXT=f"text {number}") == 3
    assert len(machine.waiting) == 3
    assert machine.gammu("3", SMS_1_TEXT="text 3") == 0
    assert gateway.texts == ["text 0", "text 1", "text 2", "text 3"]
    assert machine.waiting == []


def test_flush_posts_what_waits_with_a_new_signature_and_the_same_id(machine: Machine, gateway: Gateway) -> None:
    gateway.statuses = [503, 200]
    assert machine.gammu("17") == 3
    assert machine.run("flush") == 0
    (_, first), (headers, second) = gateway.requests
    assert first == second
    stamp = headers["x-timestamp"]
    assert headers["x-signature"] == hmac.new(SECRET, second + stamp.encode(), hashlib.sha256).hexdigest()
    assert machine.run("flush") == 0
    assert len(gateway.requests) == 2


@pytest.mark.parametrize("status", [302, 401, 403, 404, 408, 429, 500, 502])
def test_what_may_be_set_right_keeps_the_message(machine: Machine, gateway: Gateway, status: int) -> None:
    gateway.statuses = [status]
    assert machine.gammu("17") == 3
    assert len(machine.waiting) == 1
    assert len(gateway.requests) == 1
    assert TEXT not in machine.said
    assert SENDER.lstrip("+") not in machine.said


@pytest.mark.parametrize("status", [400, 413, 422])
def test_senseless_message_is_set_aside_and_the_others_go_on(machine: Machine, gateway: Gateway, status: int) -> None:
    assert offline(machine).gammu("1", SMS_1_TEXT="senseless") == 3
    gateway.statuses = [status, 200]
    assert machine.gammu("2", SMS_1_TEXT="fine") == 4
    assert gateway.texts == ["senseless", "fine"]
    assert machine.waiting == []
    [kept] = (machine.spool / "refused").glob("*.json")
    assert json.loads(kept.read_bytes())["text"] == "senseless"


def test_first_failure_ends_the_run_and_the_order_is_kept(machine: Machine, gateway: Gateway) -> None:
    for number in range(3):
        offline(machine).gammu(str(number), SMS_1_TEXT=f"text {number}")
    gateway.statuses = [200, 500, 200]
    assert machine.run("flush") == 3
    assert machine.run("flush") == 0
    assert gateway.texts == ["text 0", "text 1", "text 1", "text 2"]


def test_message_told_twice_has_one_id_and_another_has_another(machine: Machine, gateway: Gateway) -> None:
    assert machine.gammu("17") == machine.gammu("17") == machine.gammu("18") == 0
    first, again, other = (message["id"] for message in gateway.messages)
    assert first == again != other
    content = HEADERS + b"\nhello"
    assert machine.smstools(content) == machine.smstools(content) == 0
    assert gateway.messages[-1]["id"] == gateway.messages[-2]["id"]


def test_full_spool_takes_no_more_but_still_posts(machine: Machine, gateway: Gateway) -> None:
    for number in range(2):
        assert offline(machine).gammu("--spool-max", "2", str(number), SMS_1_TEXT=f"text {number}") == 3
    assert offline(machine).gammu("--spool-max", "2", "2", SMS_1_TEXT="text 2") == 5
    assert len(machine.waiting) == 2
    assert machine.gammu("--spool-max", "2", "3", SMS_1_TEXT="text 3") == 0
    assert gateway.texts == ["text 0", "text 1", "text 3"]


def test_set_aside_messages_are_bounded(tmp_path: Path) -> None:
    spool = forward.Spool(tmp_path, 2)
    for number in range(4):
        spool.keep(str(number).encode())
        spool.set_aside(spool.waiting()[0])
    assert [path.read_bytes() for path in sorted((tmp_path / "refused").iterdir())] == [b"2", b"3"]


def test_spool_that_can_not_be_written_still_posts(machine: Machine, gateway: Gateway) -> None:
    machine.spool.write_text("a file in the place of the folder", encoding="utf-8")
    assert machine.gammu("17") == 0
    assert gateway.texts == [TEXT]
    assert offline(machine).gammu("18") == 5
    assert machine.run("flush") == 3


def test_unfinished_file_is_never_posted(machine: Machine, gateway: Gateway) -> None:
    machine.spool.mkdir()
    (machine.spool / ".00000000000000000001-1").write_bytes(b'{"id":')
    assert machine.run("flush") == 0
    assert gateway.requests == []


def test_kept_messages_are_for_their_owner_only(machine: Machine) -> None:
    offline(machine).gammu("17")
    [kept] = machine.waiting
    assert kept.stat().st_mode & 0o077 == 0


def test_runs_at_the_same_time_post_each_message_once(machine: Machine, gateway: Gateway) -> None:
    gateway.delay_seconds = 0.05
    environment = {**os.environ, "NO_PROXY": "*", **GAMMU}
    processes = [
        subprocess.Popen(
            machine.command("gammu", "--own-number", OWN, str(number)),
            env={**environment, "SMS_1_TEXT": f"text {number}"},
        )
        for number in range(5)
    ]
    assert [process.wait(30) for process in processes] == [0] * 5
    assert sorted(gateway.texts) == [f"text {number}" for number in range(5)]
    assert machine.waiting == []


def test_run_ends_in_time_while_another_one_posts(machine: Machine, gateway: Gateway) -> None:
    offline(machine).gammu("1")
    with forward.Spool(machine.spool, 10).claimed(0) as is_mine:
        assert is_mine
        started = time.monotonic()
        assert machine.run("flush", "--seconds", "0.5") == 3
        assert time.monotonic() - started < 10
    assert gateway.requests == []
    assert machine.run("flush") == 0


# --- settings ---


@pytest.mark.parametrize("key", [None, b"", b" \n"])
def test_key_that_is_missing_is_told_and_the_message_is_kept(
    machine: Machine, gateway: Gateway, key: bytes | None
) -> None:
    path = machine.directory / "key"
    path.unlink()
    if key is not None:
        path.write_bytes(key)
    assert machine.gammu("17") == 2
    assert "key file" in machine.said
    path.write_bytes(SECRET)
    assert machine.run("flush") == 0
    assert gateway.texts == [TEXT]


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("gammu",),
        ("flush", "--url", "ftp://x", "--secret-file", "x", "--spool", "x"),
        ("flush", "--url", "http://x", "--secret-file", "x", "--spool", "x", "--spool-max", "0"),
        ("gammu", "--url", "http://x", "--secret-file", "x", "--spool", "x", "--own-number", "mine"),
        ("smstools", "--url", "http://x", "--secret-file", "x", "--spool", "x", "RECEIVED"),
    ],
)
def test_wrong_arguments_are_told(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        forward.main(arguments)
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err
