"""The official TextVerified client, unmodified, against the simulator; and what only a receiver of webhooks can see."""

import base64
import hashlib
import hmac
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import requests
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from textverified import (
    NumberType,
    RentalDuration,
    ReservationCapability,
    ReservationState,
    ReservationType,
    TestMode,
    TextVerified,
    TextVerifiedError,
)
from textverified.data import WebhookEventReservationCreatedWebhookEvent, WebhookEventSmsWebhookEvent

from tests.simulators import textverified as simulator
from tests.simulators._serve import serve
from tests.simulators._textverified_wire import API

POLL_SECONDS = 0.05
PATIENCE_SECONDS = 5.0
GOODS: dict[str, Any] = {"number_type": NumberType.MOBILE, "capability": ReservationCapability.SMS}


@contextmanager
def opened(**settings: Any) -> Iterator[tuple[Any, Any]]:
    """The client and the state of the simulator it talks to."""
    app = simulator.build(**{"sms_delay_seconds": None, **settings})
    with serve(app) as address:
        client = TextVerified(api_key=simulator.DEFAULT_KEY, api_username=simulator.DEFAULT_USERNAME, base_url=address)
        try:
            yield client, app.state.sim
        finally:
            client.session.close()


def create(client: Any, service: str = "telegram", **wishes: Any) -> Any:
    return client.verifications.create(service_name=service, capability=ReservationCapability.SMS, **wishes)


def incoming(client: Any, made: Any) -> list[Any]:
    since = made.created_at - timedelta(seconds=1)
    return list(
        client.sms.incoming(made, timeout=PATIENCE_SECONDS, polling_interval=POLL_SECONDS, since=since),
    )


def eventually(read: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not read():
        assert time.monotonic() < deadline, "it never was"
        time.sleep(POLL_SECONDS)


# --- the official client ---


def test_client_buys_waits_for_the_sms_and_is_charged() -> None:
    with opened(sms_delay_seconds=0.1) as (client, sim):
        made = create(client, max_price=0.75)
        assert len(made.number) == 10
        assert made.state is ReservationState.VERIFICATION_PENDING
        assert made.ends_at > datetime.now(UTC)
        assert made.total_cost == 0.75
        (sms,) = incoming(client, made)
        assert sms.parsed_code in sms.sms_content
        assert sms.to_value == made.number
        assert client.verifications.details(made.id).state is ReservationState.VERIFICATION_COMPLETED
        assert client.account.balance == 999.25
        assert client.account.username == simulator.DEFAULT_USERNAME
        with pytest.raises(TextVerifiedError):
            client.verifications.cancel(made)
        assert sim.requests["auth"] == 1


def test_client_cancels_and_has_its_money_back() -> None:
    with opened() as (client, _):
        made = create(client)
        assert made.cancel.can_cancel
        assert client.account.balance == 999.25
        assert client.verifications.cancel(made)
        assert client.verifications.details(made).state is ReservationState.VERIFICATION_CANCELED
        assert client.account.balance == 1000
        with pytest.raises(TextVerifiedError):
            client.verifications.cancel(made)


def test_client_reads_services_area_codes_prices_and_stock() -> None:
    with opened(stock=12_000) as (client, sim):
        services = client.services.list(NumberType.MOBILE, ReservationType.VERIFICATION)
        assert {"telegram", "whatsapp"} <= {service.service_name for service in services}
        assert ("202", "District of Columbia") in {(one.area_code, one.state) for one in client.services.area_codes()}
        plain = client.verifications.pricing(service_name="telegram", area_code=False, carrier=False, **GOODS)
        chosen = client.verifications.pricing(service_name="telegram", area_code=True, carrier=True, **GOODS)
        assert (plain.price, chosen.price) == (0.75, 1.1)
        assert client.services.verification_inventory(service_name="telegram", **GOODS).available_quantity == 9000
        sim.set_stock("telegram", count=7)
        assert client.services.verification_inventory(service_name="telegram", **GOODS).available_quantity == 7


def test_client_chooses_area_code_and_carrier() -> None:
    with opened() as (client, _):
        made = create(client, area_code_select_option=["646"], carrier_select_option=["vz"], max_price=1.1)
        assert made.number.startswith("646")
        assert made.total_cost == 1.1


def test_client_goes_through_all_pages() -> None:
    with opened(page_size=2) as (client, sim):
        made = [create(client) for _ in range(5)]
        for one in made:
            sim.deliver(one.id, "Your code is 12345")
        assert [one.id for one in client.verifications.list()] == [one.id for one in reversed(made)]
        assert len(client.sms.list().get_all_items()) == 5
        assert [sms.to_value for sms in client.sms.list(to_number=made[3].number)] == [made[3].number]
        assert len({sale.id for sale in client.sales.list()}) == 5
        assert list(client.calls.list()) == []


def test_client_understands_the_refusals() -> None:
    with opened() as (client, sim):
        for fault, code in (
            ("sold_out", "Unavailable"),
            ("no_balance", "InsufficientBalance"),
            ("too_many", "TooManyUnfinishedVerifications"),
        ):
            sim.fault(fault, 1)
            with pytest.raises(TextVerifiedError) as caught:
                create(client)
            assert caught.value.error_code == code
        with pytest.raises(TextVerifiedError) as caught:
            create(client, service="whatsapp", max_price=0.99)
        assert caught.value.error_code == "MaxPriceExceeded"
        with pytest.raises(requests.HTTPError, match="404"):
            client.verifications.details("lr_99999")
        client.api_key, client.bearer = "wrong", None
        with pytest.raises(requests.HTTPError, match="401"):
            client.account.me()


def test_client_signs_in_again_when_its_token_ends() -> None:
    with opened(token_life_seconds=0.2) as (client, sim):
        client.account.me()
        time.sleep(0.25)
        client.account.me()
        assert sim.requests["auth"] == 2


def test_client_uses_a_number_again_and_gives_one_up() -> None:
    with opened(cancel_seconds=60.0) as (client, sim):
        first, second = create(client), create(client)
        sim.deliver(first.id, "Your code is 12345")
        assert client.verifications.details(first).reuse.reusable_until is not None
        client.verifications.reuse(first)
        newest = client.verifications.list()[0]
        assert (newest.number, newest.state) == (first.number, ReservationState.VERIFICATION_PENDING)
        assert client.verifications.details(first).state is ReservationState.VERIFICATION_REUSED
        sim.skip(61)
        assert client.verifications.details(second).report.can_report
        client.verifications.report(second)
        assert client.verifications.details(second).state is ReservationState.VERIFICATION_REFUNDED
        sim.skip(600)
        assert client.verifications.details(newest).state is ReservationState.VERIFICATION_TIMED_OUT
        assert client.account.balance == 999.25


# --- the test names ---


def mocked(client: Any, mode: TestMode) -> Any:
    return create(client, test=mode)


def test_mode_of_success_brings_an_sms_and_costs_nothing() -> None:
    with opened() as (client, sim):
        made = mocked(client, TestMode.MOCK_SUCCESS)
        assert made.state is ReservationState.VERIFICATION_COMPLETED
        (sms,) = incoming(client, made)
        assert sms.parsed_code.isdigit()
        assert client.account.balance == 1000
        assert sim.purchases == 0


def test_mode_of_delay_brings_it_later() -> None:
    with opened(mock_delay_seconds=0.2) as (client, _):
        made = mocked(client, TestMode.MOCK_DELAYED_SUCCESS)
        assert made.state is ReservationState.VERIFICATION_PENDING
        assert len(incoming(client, made)) == 1


def test_modes_that_bring_nothing() -> None:
    with opened(mock_delay_seconds=0.0) as (client, sim):
        pending = mocked(client, TestMode.MOCK_PENDING)
        sim.skip(60)
        assert client.verifications.details(pending).state is ReservationState.VERIFICATION_PENDING
        assert mocked(client, TestMode.MOCK_TIMEOUT).state is ReservationState.VERIFICATION_TIMED_OUT
        again = mocked(client, TestMode.MOCK_REACTIVATABLE)
        assert again.reactivate.can_reactivate
        client.verifications.reactivate(again)
        assert client.verifications.details(again).state is ReservationState.VERIFICATION_REACTIVATED
        assert client.verifications.list()[0].number == again.number
        assert client.account.balance == 1000


@pytest.mark.parametrize(
    ("mode", "code"),
    [
        (TestMode.MOCK_INSUFFICIENT_BALANCE, "InsufficientBalance"),
        (TestMode.MOCK_NO_NUMBERS, "Unavailable"),
        (TestMode.MOCK_TOO_MANY_UNFINISHED_VERIFICATIONS, "TooManyUnfinishedVerifications"),
        (TestMode.MOCK_BACKORDER, "Unsupported"),
        (TestMode.MOCK_RENEWABLE_EXPIRED, "Unsupported"),
        (TestMode.MOCK_NONRENEWABLE_EXPIRED, "Unsupported"),
    ],
)
def test_modes_that_are_refused(mode: TestMode, code: str) -> None:
    with opened() as (client, _):
        with pytest.raises(TextVerifiedError) as caught:
            mocked(client, mode)
        assert caught.value.error_code == code


def test_mode_serves_prices_and_stock() -> None:
    with opened() as (client, _):
        mode = {"test": TestMode.MOCK_SUCCESS, **GOODS}
        priced = client.verifications.pricing(service_name="telegram", area_code=False, carrier=False, **mode)
        assert priced.service_name == "test_success"
        assert client.services.verification_inventory(service_name="telegram", **mode).available_quantity > 0


RENTAL: dict[str, Any] = {
    "service_name": "telegram",
    "duration": RentalDuration.THREE_DAY,
    "always_on": True,
    "is_renewable": False,
    **GOODS,
}


def rent(client: Any, **wishes: Any) -> Any:
    """The rental that a sale brought."""
    sale = client.reservations.create(allow_back_order_reservations=False, **{**RENTAL, **wishes})
    assert sale.back_order_reservations == []
    return client.reservations.details(sale.reservations[0])


def test_client_rents_reads_and_extends() -> None:
    with opened() as (client, sim):
        price = client.reservations.pricing(area_code=False, **RENTAL).price
        made = rent(client)
        assert (made.state, made.always_on, len(made.number)) == (ReservationState.NONRENEWABLE_ACTIVE, True, 10)
        assert made.ends_at - made.created_at == timedelta(days=3)
        assert client.account.balance == 1000 - price
        sim.deliver_rental(made.id, "Your code is 12345")
        sim.deliver_rental(made.id, "Your code is 67890")
        assert {sms.parsed_code for sms in client.sms.list(made)} == {"12345", "67890"}
        assert len(list(client.sms.list(reservation_type=ReservationType.NONRENEWABLE))) == 2
        assert list(client.sms.list(reservation_type=ReservationType.VERIFICATION)) == []
        assert [one.id for one in client.reservations.list_nonrenewable()] == [made.id]
        client.reservations.extend_nonrenewable(extension_duration=RentalDuration.ONE_DAY, rental_id=made.id)
        assert client.reservations.nonrenewable_details(made.id).ends_at == made.ends_at + timedelta(days=1)
        assert client.sales.get(made.sale_id).total == price


def test_client_gets_a_refund_while_no_sms_came() -> None:
    with opened(refund_seconds=600.0) as (client, sim):
        first, second, third = rent(client), rent(client), rent(client)
        assert client.reservations.refund_nonrenewable(first)
        assert client.reservations.details(first).state is ReservationState.NONRENEWABLE_REFUNDED
        sim.deliver_rental(second.id, "Your code is 12345")
        sim.skip(601)
        for kept in (second, third):
            assert not client.reservations.details(kept).refund.can_refund
            with pytest.raises(TextVerifiedError) as caught:
                client.reservations.refund_nonrenewable(kept)
            assert caught.value.error_code == "CannotRefund"


def test_client_wakes_a_number_that_sleeps() -> None:
    with opened() as (client, sim):
        sim.fault("no_always_on", 1)
        made = rent(client)
        assert not made.always_on
        sim.deliver_rental(made.id, "Your code is 12345")
        assert list(client.sms.list(made)) == []
        wake = client.wake_requests.create(made)
        assert wake.is_scheduled
        assert wake.usage_window_end > wake.usage_window_start
        sim.deliver_rental(made.id, "Your code is 67890")
        assert [sms.parsed_code for sms in client.sms.list(made)] == ["67890"]


def test_client_understands_what_is_not_rented_out() -> None:
    with opened(rental_stock=0) as (client, sim):
        with pytest.raises(TextVerifiedError) as caught:
            rent(client)
        assert caught.value.error_code == "Unavailable"
        sale = client.reservations.create(allow_back_order_reservations=True, **RENTAL)
        assert (sale.reservations, len(sale.back_order_reservations)) == ([], 1)
        sim.set_rent_stock("telegram", "threeDay", count=2)
        told = client.services.rental_inventory(service_name="telegram", duration=RentalDuration.THREE_DAY, **GOODS)
        assert told.available_quantity == 2


def signed_in(http: httpx.Client) -> None:
    account = {"x-api-key": simulator.DEFAULT_KEY, "x-api-username": simulator.DEFAULT_USERNAME}
    http.headers["authorization"] = f"Bearer {http.post('/auth', headers=account).json()['token']}"


def test_answers_to_test_names_say_so_in_a_header() -> None:
    with serve(simulator.build()) as address, httpx.Client(base_url=address + API) as http:
        signed_in(http)
        for service, is_mock in (("test_success", True), ("test_no_numbers", True), ("telegram", False)):
            answer = http.post("/verifications", json={"serviceName": service, "capability": "sms"})
            assert answer.headers.get("x-phoneblur-mock") == ("true" if is_mock else None)
            if answer.status_code == 201:
                assert answer.headers["location"] == answer.json()["href"]
                assert http.get(answer.json()["href"]).headers.get("x-phoneblur-mock") == ("true" if is_mock else None)


def test_links_can_leave_the_host_out() -> None:
    with opened(relative_links=True, page_size=1) as (client, _):
        made = [create(client) for _ in range(2)]
        assert {one.id for one in client.verifications.list()} == {one.id for one in made}


# --- webhooks ---


class Receiver:
    """Keeps what comes and answers with the statuses given, the last of which stays."""

    def __init__(self, *statuses: int) -> None:
        self.came: list[tuple[bytes, str]] = []
        self._statuses = list(statuses)
        self._lock = threading.Lock()
        self.app = Starlette(routes=[Route("/hook", self._take, methods=["POST"])])

    async def _take(self, request: Request) -> Response:
        body = await request.body()
        with self._lock:
            self.came.append((body, request.headers["x-webhook-signature"]))
            status = self._statuses.pop(0) if len(self._statuses) > 1 else self._statuses[0]
        return Response(status_code=status)


def is_signed(body: bytes, signature: str, secret: str) -> bool:
    digest = hmac.new(secret.encode(), body, hashlib.sha512).digest()
    return signature == "HMAC-SHA512=" + base64.b64encode(digest).decode()


def set_webhook(client: Any, **settings: Any) -> None:
    assert httpx.post(f"{client.base_url}/_sim/webhook", json=settings).status_code == 200


def test_events_are_signed_and_read_as_the_official_client_reads_them() -> None:
    receiver = Receiver(200)
    with serve(receiver.app) as there, opened() as (client, sim):
        set_webhook(client, url=f"{there}/hook", secret="whsec_example", casing="camel")
        made = create(client)
        eventually(lambda: len(receiver.came) == 1)
        sim.deliver(made.id, "Your code is 12345")
        eventually(lambda: len(receiver.came) == 2)
    assert all(is_signed(body, signature, "whsec_example") for body, signature in receiver.came)
    bought, received = (httpx.Response(200, content=body).json() for body, _ in receiver.came)
    assert WebhookEventReservationCreatedWebhookEvent.from_api(bought).data.id == made.id
    told = WebhookEventSmsWebhookEvent.from_api(received)
    assert (told.event, told.attempt, told.data.reservation_id) == ("v2.sms.received", 1, made.id)
    assert (told.data.parsed_code, told.data.to_value) == ("12345", made.number)
    assert "id" not in received["data"]


def test_event_that_is_not_taken_comes_again_as_a_later_attempt() -> None:
    receiver = Receiver(500, 404, 200)
    with serve(receiver.app) as there, opened(webhook_retry_seconds=0.02) as (client, _):
        set_webhook(client, url=f"{there}/hook", test=True)
        eventually(lambda: len(receiver.came) == 3)
        eventually(lambda: len(httpx.get(f"{client.base_url}/_sim/state").json()["webhooks"]) == 3)
    told = [httpx.Response(200, content=body).json() for body, _ in receiver.came]
    assert [one["attempt"] for one in told] == [1, 2, 3]
    assert len({one["id"] for one in told}) == 1
    assert {one["event"] for one in told} == {"v2.test"}
    assert len({signature for _, signature in receiver.came}) == 3


def test_members_can_be_written_with_capitals() -> None:
    receiver = Receiver(200)
    with serve(receiver.app) as there, opened() as (client, _):
        set_webhook(client, url=f"{there}/hook", casing="pascal")
        made = create(client)
        eventually(lambda: len(receiver.came) == 1)
    told = httpx.Response(200, content=receiver.came[0][0]).json()
    assert (told["Event"], told["Data"]) == ("v2.reservation.created", {"Id": made.id, "Type": "verification"})


def test_mistakes_in_the_address_of_events_are_told() -> None:
    with opened() as (client, _):
        for mistake in ({"url": "http://127.0.0.1:1/", "casing": "snake"}, {"address": "x"}):
            assert httpx.post(f"{client.base_url}/_sim/webhook", json=mistake).status_code == 400
