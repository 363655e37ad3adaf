"""Clients against the DS SMS HUB simulator, over real sockets: two after the vendor's examples, and published ones.

The published clients were written for the reference dialect and are unmodified but for the host. `smsactivate` hands
words on and lives a whole life here; `smsbower` buys and closes, but takes the text for a state; `pysmshub` and
`grizzly-sms-client` break at the first getStatus or setStatus, as the protocol reference (§12.4) says of the dialect.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from grizzly_sms import GrizzlySms, GrizzlySmsError  # type: ignore[import-untyped, unused-ignore]
from pysmshub import Status as HubStatus
from pysmshub import SyncSmsHubApi
from pysmshub.exceptions import ConnectionErrorException, SmsHubApiException
from smsactivate.api import SMSActivateAPI
from smsbower import SmsBowerClient, SmsBowerError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.simulators import dssmshub
from tests.simulators._dssmshub_engine import DsSmsHub
from tests.simulators._serve import serve

KEY = dssmshub.DEFAULT_KEY
SMS_DELAY_SECONDS = 0.1
POLL_SECONDS = 0.03
PATIENCE_SECONDS = 5.0


@dataclass
class Hub:
    """The simulator, where it listens, and a plain way to ask it."""

    sim: DsSmsHub
    base_url: str

    @property
    def url(self) -> str:
        return self.base_url + dssmshub.PATH

    def get(self, action: str, **params: str) -> httpx.Response:
        return httpx.get(self.url, params={"api_key": KEY, "action": action, **params}, trust_env=False)

    def said(self, action: str, **params: str) -> tuple[int, str]:
        answer = self.get(action, **params)
        return answer.status_code, answer.text

    def bought(self, **params: str) -> str:
        word, number, _ = self.get("getNumber", **{"service": "google", "country": "US", **params}).text.split(":")
        assert word == "ACCESS_NUMBER"
        return number


@contextmanager
def opened(**options: Any) -> Iterator[Hub]:
    app = dssmshub.build(**{"sms_delay_seconds": SMS_DELAY_SECONDS, **options})
    with serve(app) as base_url:
        yield Hub(app.state.sim, base_url)


@pytest.fixture
def hub() -> Iterator[Hub]:
    with opened() as made:
        yield made


def until(read: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if (answer := read()) is not None:
            return answer
        time.sleep(POLL_SECONDS)
    raise AssertionError("nothing came")


# --- after the vendor's examples --------------------------------------------------------------------------------------


def like_the_python_example(hub: Hub) -> tuple[str, str]:
    """Looks for `ACCESS_SMS:` and for nothing else; gives the number's id and the text."""
    number = hub.bought(max_price="55.00")

    def text() -> str | None:
        answer = hub.get("getStatus", id=number, text="1").text
        return answer.split(":", 1)[1] if answer.startswith("ACCESS_SMS:") else None

    return number, until(text)


def like_the_php_example(hub: Hub) -> tuple[str, str]:
    """Polls while the answer begins with `STATUS_WAIT`; whatever else comes is the end."""
    number = hub.bought()

    def last() -> str | None:
        answer = hub.get("getStatus", id=number).text
        return None if answer.startswith("STATUS_WAIT") else answer

    return number, until(last)


def test_python_example_reads_the_text_and_finishes(hub: Hub) -> None:
    number, text = like_the_python_example(hub)
    assert text == hub.sim.orders[number].sms[0].text
    assert hub.said("setStatus", id=number, status="6") == (200, "ACCESS_DONE")
    assert hub.said("getBalance") == (200, "ACCESS_BALANCE:9950.00")


def test_php_example_waits_only_where_the_waiting_word_is_its_own() -> None:
    with opened(waiting_word="STATUS_WAIT_CODE") as hub:
        number, answer = like_the_php_example(hub)
        assert answer == f"ACCESS_SMS:{hub.sim.orders[number].sms[0].text}"
    with opened() as hub:
        assert like_the_php_example(hub)[1] == "WAITING"


def test_cancel_gives_the_money_back(hub: Hub) -> None:
    number = hub.bought()
    assert hub.said("getBalance") == (200, "ACCESS_BALANCE:9950.00")
    assert hub.said("setStatus", id=number, status="8") == (200, "ACCESS_CANCEL")
    assert hub.said("getBalance") == (200, "ACCESS_BALANCE:10000.00")


# --- the page, action by action ---------------------------------------------------------------------------------------


def test_number_comes_with_a_plus_sign_and_its_price(hub: Hub) -> None:
    answer = hub.get("getNumber", service="google", country="US")
    assert answer.text == "ACCESS_NUMBER:12345:+15550000000"
    assert answer.headers["x-price"] == "50.00"


@pytest.mark.parametrize(
    ("how", "header"),
    [
        ("utf-8", "Код 123456: не".encode()),
        ("percent", b"%D0%9A%D0%BE%D0%B4%20123456%3A%20%D0%BD%D0%B5"),
        ("folded", b"??? 123456: ??"),
    ],
)
def test_text_is_whole_in_the_body_and_flat_in_the_header(how: str, header: bytes) -> None:
    with opened(sms_delay_seconds=None, header_text=how) as hub:
        number = hub.bought()
        hub.sim.deliver(number, "Код 123456:\nне")
        with_text, without = hub.get("getStatus", id=number, text="1"), hub.get("getStatus", id=number)
    assert with_text.text == without.text == "ACCESS_SMS:Код 123456:\nне"
    assert dict(with_text.headers.raw)[b"x-text"] == header
    assert "x-text" not in without.headers


def test_price_lists_have_their_two_shapes(hub: Hub) -> None:
    assert hub.get("getPrices").json()["google"]["US"] == {"price": 50.0}
    assert hub.get("getPricesVerification").json()["google"] == {"price": 50.0}


def test_second_server_sells_other_countries(hub: Hub) -> None:
    assert hub.said("getNumber", service="google", country="GB") == (400, "NO_NUMBERS")
    assert hub.said("getServer1Number", service="google", country="GB") == (400, "NO_NUMBERS")
    assert hub.get("getServer1Number", service="google", country="US").text.startswith("ACCESS_NUMBER:12345:+1555")
    assert hub.get("getServer2Number", service="google", country="GB").text.startswith("ACCESS_NUMBER:12346:+44555")


@pytest.mark.parametrize(
    ("action", "params", "status", "word"),
    [
        ("getBalance", {"api_key": ""}, 400, "BAD_KEY"),
        ("getBalance", {"api_key": "wrong"}, 401, "BAD_KEY"),
        ("getEverything", {}, 400, "BAD_ACTION"),
        ("getNumber", {"service": "nonsense"}, 400, "BAD_SERVICE"),
        ("getNumber", {"service": "google", "max_price": "49.99"}, 400, "MAX_PRICE_EXCEEDED"),
        ("getStatus", {"id": "1"}, 400, "NO_ACTIVATION"),
        ("setStatus", {"id": "1", "status": "8"}, 400, "NO_ACTIVATION"),
        ("setWebhook", {"webhook_url": "nonsense"}, 400, "INVALID_WEBHOOK_URL"),
        ("setWebhook", {}, 400, "INVALID_WEBHOOK_URL"),
        ("setWebhook", {"webhook_url": "http://hooks.example.com/x"}, 400, "HTTPS_REQUIRED"),
        ("setWebhook", {"webhook_url": "https://hooks.example.com/" + "x" * 230}, 400, "WEBHOOK_URL_TOO_LONG"),
    ],
)
def test_refusals_are_words_with_a_status(
    hub: Hub, action: str, params: dict[str, str], status: int, word: str
) -> None:
    assert hub.said(action, **params) == (status, word)


@pytest.mark.parametrize(
    ("fault", "action", "status", "word"),
    [
        ("no_balance", "getNumber", 400, "NO_MONEY"),
        ("no_balance", "getServer1Number", 400, "NO_BALANCE"),
        ("no_balance", "getServer2Number", 400, "NO_BALANCE"),
        ("sold_out", "getNumber", 400, "NO_NUMBERS"),
        ("user_not_found", "getNumber", 404, "USER_NOT_FOUND"),
        ("backend_error", "getNumber", 500, "BACKEND_ERROR"),
        ("database_error", "getNumber", 500, "DATABASE_ERROR"),
        ("any.error", "getNumber", 500, "INTERNAL_ERROR"),
    ],
)
def test_faults_are_shown_in_its_words(hub: Hub, fault: str, action: str, status: int, word: str) -> None:
    hub.sim.fault(fault, 1)
    assert hub.said(action, service="google", country="US") == (status, word)


def test_twenty_rentals_may_be_open_and_one_that_ends_makes_room() -> None:
    with opened(sms_delay_seconds=None) as hub:
        numbers = [hub.bought() for _ in range(20)]
        assert hub.said("getNumber", service="google") == (400, "TOO_MANY_ACTIVE_RENTALS")
        assert hub.said("setStatus", id=numbers[0], status="8") == (200, "ACCESS_CANCEL")
        hub.bought()
        hub.sim.skip(301)
        assert hub.said("getStatus", id=numbers[1]) == (200, "STATUS_CANCEL")
        assert hub.said("getBalance") == (200, "ACCESS_BALANCE:10000.00")


def test_rental_that_got_its_sms_can_be_finished_but_not_cancelled(hub: Hub) -> None:
    number, _ = like_the_python_example(hub)
    assert hub.said("setStatus", id=number, status="8") == (400, "NO_ACTIVATION")
    assert hub.said("setStatus", id=number, status="6") == (200, "ACCESS_DONE")
    assert hub.said("setStatus", id=number, status="6") == (400, "NO_ACTIVATION")


# --- the JSON API -----------------------------------------------------------------------------------------------------


def test_json_api_tells_the_balance_to_either_form_of_the_key(hub: Hub) -> None:
    url = hub.base_url + dssmshub.JSON_PATH
    expected = {"status": "success", "wallet_balance": 10000.0, "referral_balance": 0, "currency": "NGN"}
    with httpx.Client(trust_env=False) as client:
        assert client.post(url, json={"key": KEY, "endpoint": "account/balance"}).json() == expected
        bearer = {"authorization": f"Bearer {KEY}"}
        assert client.post(url, json={"endpoint": "account/balance"}, headers=bearer).json() == expected


@pytest.mark.parametrize(
    ("method", "body", "status", "code"),
    [
        ("GET", None, 405, "METHOD_NOT_ALLOWED"),
        ("POST", {"endpoint": "account/balance"}, 401, "MISSING_KEY"),
        ("POST", {"key": "wrong", "endpoint": "account/balance"}, 401, "INVALID_KEY"),
        ("POST", {"key": KEY}, 400, "MISSING_PARAMS"),
        ("POST", {"key": KEY, "endpoint": "account/nonsense"}, 404, "UNKNOWN_ENDPOINT"),
    ],
)
def test_json_api_refuses_with_a_code(hub: Hub, method: str, body: Any, status: int, code: str) -> None:
    answer = httpx.request(method, hub.base_url + dssmshub.JSON_PATH, json=body, trust_env=False)
    assert answer.status_code == status
    assert (answer.json()["status"], answer.json()["code"]) == ("error", code)


# --- the webhook ------------------------------------------------------------------------------------------------------


@dataclass
class Receiver:
    """Takes what is posted to it; answers late where it is told to."""

    url: str
    bodies: list[Any]
    may_answer: threading.Event


@contextmanager
def receiver() -> Iterator[Receiver]:
    bodies: list[Any] = []
    may_answer = threading.Event()
    may_answer.set()

    def take(request: Request) -> Response:  # a plain function: Starlette runs it in a thread
        bodies.append(None)
        may_answer.wait(PATIENCE_SECONDS)
        return Response()

    async def keep(request: Request) -> Response:
        bodies.append(json.loads(await request.body()))
        return Response()

    with serve(Starlette(routes=[Route("/late", take, methods=["POST"]), Route("/", keep, methods=["POST"])])) as url:
        yield Receiver(url, bodies, may_answer)


def test_webhook_is_set_shown_and_replaced(hub: Hub) -> None:
    assert hub.said("getWebhook") == (200, "NO_WEBHOOK_SET")
    for name, url in (("webhook_url", "https://hooks.example.com:8443/a?b=c"), ("url", "https://hooks.example.com/d")):
        assert hub.said("setWebhook", **{name: url}) == (200, "ACCESS_WEBHOOK_SET")
        assert hub.said("getWebhook") == (200, f"ACCESS_WEBHOOK:{url}")


def test_webhook_is_posted_when_an_sms_comes() -> None:
    with opened(sms_delay_seconds=None, clock=lambda: 1_761_568_200.0) as hub, receiver() as there:
        httpx.post(f"{hub.base_url}/_sim/webhook", json={"url": there.url}, trust_env=False).raise_for_status()
        number = hub.bought()
        hub.sim.deliver(number, "Your verification code is 123456")
        hub.sim.wait_for_webhooks()
        assert there.bodies == [
            {
                "rental_id": "12345",
                "number": "+15550000000",
                "service": "google",
                "text": "Your verification code is 123456",
                "received_at": "2025-10-27 12:30:00",
            }
        ]
        assert hub.sim.webhook_answers == ["200"]


def test_webhook_that_hangs_holds_nobody_up() -> None:
    with opened(sms_delay_seconds=None) as hub, receiver() as there:
        there.may_answer.clear()
        hub.sim.webhook_url = f"{there.url}/late"
        number = hub.bought()
        started = time.monotonic()
        hub.sim.deliver(number, "Your code is 12345")
        assert hub.said("getStatus", id=number) == (200, "ACCESS_SMS:Your code is 12345")
        assert time.monotonic() - started < 2
        assert hub.sim.webhook_answers == []
        there.may_answer.set()
        hub.sim.wait_for_webhooks()
        assert hub.sim.webhook_answers == ["200"]


def test_webhook_to_nobody_is_noted() -> None:
    with opened(sms_delay_seconds=None) as hub:
        hub.sim.webhook_url = "http://127.0.0.1:1/x"
        hub.sim.deliver(hub.bought(), "Your code is 12345")
        hub.sim.wait_for_webhooks()
        assert hub.sim.webhook_answers == ["ConnectError"]


# --- published clients ------------------------------------------------------------------------------------------------


def test_smsactivate_lives_a_whole_life_since_it_hands_words_on(hub: Hub) -> None:
    client = SMSActivateAPI(KEY)
    client._SMSActivateAPI__api_url = hub.url
    assert client.getBalance() == {"balance": "10000.00"}
    assert client.getPrices()["google"]["US"] == {"price": 50.0}
    number = client.getNumber(service="google", country="US")["activation_id"]
    assert client.getStatus(number) == "WAITING"
    text = hub.sim.orders[str(number)].sms
    answer = until(lambda: said if (said := client.getStatus(number)) != "WAITING" else None)
    assert answer == f"ACCESS_SMS:{text[0].text}"
    assert client.setStatus(number, status=6) == "ACCESS_DONE"
    again = client.getNumber(service="google", country="US")["activation_id"]
    assert client.setStatus(again, status=8) == "ACCESS_CANCEL"
    assert client.getStatus(5)["error"] == "NO_ACTIVATION"


def test_smsbower_buys_and_closes_but_takes_the_text_for_a_state(hub: Hub) -> None:
    with SmsBowerClient(KEY, base_url=hub.base_url) as client:
        assert client.get_balance() == 10000.0
        bought = client.get_number("google", country="US")
        assert client.get_status(bought.id).status == "WAITING"
        received = until(lambda: s if (s := client.get_status(bought.id)).status != "WAITING" else None)
        assert (received.status, received.code) == (f"ACCESS_SMS:{hub.sim.orders[bought.id].sms[0].text}", None)
        assert client.set_status(bought.id, 6) == "ACCESS_DONE"
        assert client.set_status(client.get_number("google", country="US").id, 8) == "ACCESS_CANCEL"
        with pytest.raises(SmsBowerError):
            client.get_status("5")


def test_pysmshub_buys_and_cancels_but_knows_neither_the_waiting_word_nor_the_text() -> None:
    with opened(sms_delay_seconds=None) as hub:
        client = SyncSmsHubApi(KEY)
        client.base_url = hub.url
        number, phone = client.get_number("google", country="US")  # type: ignore[arg-type, unused-ignore]
        assert phone.startswith("+1555")
        with pytest.raises(SmsHubApiException):
            client.get_status(number)
        hub.sim.deliver(number, "Your code is 12345")
        with pytest.raises(SmsHubApiException):
            client.get_status(number)
        other, _ = client.get_number("google")
        assert client.set_status(other, HubStatus.CANCEL) == "ACCESS_CANCEL"
        assert client.get_status(other) == (HubStatus.CANCEL, None)
        with pytest.raises(ConnectionErrorException):
            client.get_status(5)


def test_grizzly_client_cancels_but_takes_the_words_of_the_dialect_for_errors() -> None:
    with opened(sms_delay_seconds=None) as hub, GrizzlySms(KEY, base_url=hub.base_url) as client:
        bought = client.get_number("google", country="US")
        with pytest.raises(GrizzlySmsError, match="WAITING"):
            client.get_status(bought.activation_id)
        assert client.cancel(bought.activation_id) == "ACCESS_CANCEL"
        other = client.get_number("google", country="US")
        hub.sim.deliver(other.activation_id, "Your code is 12345")
        with pytest.raises(GrizzlySmsError, match="ACCESS_SMS"):
            client.get_status(other.activation_id)
        with pytest.raises(GrizzlySmsError, match="ACCESS_DONE"):
            client.complete(other.activation_id)
        assert hub.sim.orders[other.activation_id].state == "finished"
