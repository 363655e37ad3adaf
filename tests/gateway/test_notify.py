"""Notices over real sockets: what arrives, what a bad address costs, and what never reaches a log."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from structlog.testing import capture_logs

from gateway import notify
from gateway.notify import Notifier, addresses
from tests.harness import ROOT

# Apprise loads every plug-in, one of which needs a module that later Pythons lack and then brings its own.
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")

TOKEN = "token-that-nobody-may-see"


@dataclass
class Receiver:
    """An address on loopback. `/fail/…` answers 500, `/moved/…` sends elsewhere, `/slow/…` waits to be released."""

    port: int = 0
    received: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)

    def url(self, path: str = "in") -> str:
        return f"json://user:{TOKEN}@127.0.0.1:{self.port}/{path}"

    def handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.received.append((self.path, json.loads(body)))
                if self.path.startswith("/slow"):
                    receiver.released.wait(10)
                status = 500 if self.path.startswith("/fail") else 302 if self.path.startswith("/moved") else 200
                self.send_response(status)
                if status == 302:
                    self.send_header("location", f"http://127.0.0.1:{receiver.port}/elsewhere")
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 — the name is http.server's
                """Says nothing."""

        return Handler


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    found = Receiver()
    with ThreadingHTTPServer(("127.0.0.1", 0), found.handler()) as server:
        found.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield found
        found.released.set()
        server.shutdown()
        thread.join()


@dataclass
class Bench:
    """A notifier, what it counted and what it logged."""

    notifier: Notifier
    counts: Counter[str]
    logs: list[Any]

    def finish(self) -> None:
        """Everything that was queued is through."""
        self.notifier.close(10)


@pytest.fixture
def benches() -> Iterator[Any]:
    made: list[Notifier] = []
    with capture_logs() as logs:

        def make(*urls: str) -> Bench:
            counts: Counter[str] = Counter()
            made.append(Notifier(urls, lambda result: counts.update([result])))
            return Bench(made[-1], counts, logs)

        yield make
    for notifier in made:
        notifier.close(10)


def test_notice_arrives_as_it_was_written(receiver: Receiver, benches: Any) -> None:
    bench = benches(receiver.url())
    bench.notifier.send("manual_entry: number wanted", "Task 7, Telegram (tg), GB (16): a <b> & 50% *wait* \\n {x}.")
    bench.finish()
    ((path, body),) = receiver.received
    assert path == "/in"
    assert body["title"] == "manual_entry: number wanted"
    assert body["message"] == "Task 7, Telegram (tg), GB (16): a <b> & 50% *wait* \\n {x}."
    assert bench.counts == {"sent": 1}
    assert bench.logs == []


def test_every_address_is_told_whatever_becomes_of_the_others(receiver: Receiver, benches: Any) -> None:
    bench = benches(f"json://user:{TOKEN}@127.0.0.1:1/x", receiver.url("fail/x"), receiver.url("a"), receiver.url("b"))
    bench.notifier.send("title", "body")
    bench.finish()
    assert [path for path, _ in receiver.received] == ["/fail/x", "/a", "/b"]
    assert bench.counts == {"sent": 2, "failed": 2}
    assert [(one["event"], one["place"], one["scheme"]) for one in bench.logs] == [
        ("notify.failed", 1, "json"),
        ("notify.failed", 2, "json"),
    ]


def test_redirect_is_not_followed(receiver: Receiver, benches: Any) -> None:
    bench = benches(receiver.url("moved/x"))
    bench.notifier.send("title", "body")
    bench.finish()
    assert [path for path, _ in receiver.received] == ["/moved/x"]
    assert bench.counts == {"failed": 1}


@pytest.mark.parametrize(
    "bad", [f"nosuch://{TOKEN}", f"{TOKEN}", f"json://{TOKEN}:x:y@@:99999999/", f"tgram://{TOKEN}"]
)
def test_bad_address_is_told_at_the_start_by_its_place_alone(
    receiver: Receiver, benches: Any, bad: str, caplog: pytest.LogCaptureFixture
) -> None:
    bench = benches(receiver.url(), bad)
    bench.notifier.start()
    bench.finish()
    (told,) = bench.logs
    assert (told["event"], told["place"]) == ("notify.bad_address", 2)
    assert TOKEN not in f"{bench.logs} {caplog.text} {bench.notifier!r}"
    assert receiver.received == []


def test_no_log_holds_an_address_or_a_notice(
    receiver: Receiver, benches: Any, caplog: pytest.LogCaptureFixture
) -> None:
    bench = benches(receiver.url("fail/x"), f"json://user:{TOKEN}@127.0.0.1:1/x")
    bench.notifier.send("a title of its own", "a body of its own")
    bench.finish()
    said = f"{bench.logs} {caplog.text}"
    assert not [secret for secret in (TOKEN, "127.0.0.1", "a title of", "a body of") if secret in said]


def test_sending_never_waits_and_what_is_too_much_is_dropped(
    receiver: Receiver, benches: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "QUEUE_MAX", 3)
    bench = benches(receiver.url("slow/x"))
    bench.notifier.send("first", "body")
    while not receiver.received:
        time.sleep(0.01)
    started = time.monotonic()
    for _ in range(5):
        bench.notifier.send("more", "body")
    assert time.monotonic() - started < 0.5
    assert bench.counts == {"dropped": 2}
    receiver.released.set()
    bench.finish()
    assert bench.counts == {"dropped": 2, "sent": 4}


def test_stopping_waits_for_what_is_queued_but_not_for_ever(receiver: Receiver, benches: Any) -> None:
    bench = benches(receiver.url("slow/x"))
    bench.notifier.send("title", "body")
    while not receiver.received:
        time.sleep(0.01)
    started = time.monotonic()
    bench.notifier.close(0.2)
    assert time.monotonic() - started < 2
    bench.notifier.send("after the end", "body")
    bench.notifier.close(0.1)
    receiver.released.set()
    bench.finish()
    assert [body["title"] for _, body in receiver.received] == ["title"]


def test_without_addresses_there_is_no_thread_and_no_library() -> None:
    code = (
        "import sys, threading\n"
        "from gateway.notify import Notifier\n"
        "notifier = Notifier(())\n"
        "notifier.start(); notifier.send('title', 'body'); notifier.close()\n"
        "assert threading.active_count() == 1 and 'apprise' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=30)


@pytest.mark.parametrize(
    ("text", "listed"),
    [
        ("", ()),
        (" , \n", ()),
        ("json://a", ("json://a",)),
        ("json://a,tgram://b/c  mailto://d\njson://e", ("json://a", "tgram://b/c", "mailto://d", "json://e")),
        ("json://a, tgram://b,", ("json://a", "tgram://b")),
        ("mailto://x?to=a@b,c@d,json://e", ("mailto://x?to=a@b,c@d", "json://e")),
    ],
)
def test_addresses_are_listed_with_spaces_or_commas(text: str, listed: tuple[str, ...]) -> None:
    assert addresses(text) == listed
