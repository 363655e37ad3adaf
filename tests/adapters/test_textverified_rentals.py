"""TextVerified's rentals and numbers used again, against its simulator and scripted answers."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import hypothesis
import pytest
from pydantic import ValidationError

from adapters import textverified
from gateway.errors import HasSms, InDoubt, NotAllowed, NothingTaken, Refused, SoldOut, UnknownLease, Unwell
from gateway.model import BuyOrder, LeaseState, Outcome, Progress, RentOffer, Watched
from gateway.money import Money
from tests.adapters import _scripted
from tests.adapters._context import order
from tests.adapters.test_textverified import (
    API,
    BASE,
    Clock,
    grant,
    link,
    message,
    page,
    refusal,
    scripted,
    sent,
    simulated,
    us,
    verification,
)

RENTALS = "/reservations/rental/nonrenewable"


def usd(micros: int) -> Money:
    return Money(micros, "USD")


def rental(**changes: Any) -> dict[str, Any]:
    return {
        "id": "lr_02",
        "number": "2025550100",
        "serviceName": "telegram",
        "state": "nonrenewableActive",
        "createdAt": "2026-11-01T10:00:00.1234567+00:00",
        "endsAt": "2026-11-02T10:00:00+00:00",
        "alwaysOn": True,
        "saleId": "sa_01",
        "refund": {"canRefund": True, "refundableUntil": "2026-11-01T10:20:00+00:00", "link": None},
        **changes,
    }


def sale(*reserved: str, **changes: Any) -> dict[str, Any]:
    rows = [{"id": ident, "reservationType": "nonrenewable", "serviceName": "telegram"} for ident in reserved]
    return {"id": "sa_01", "state": "succeeded", "total": 1.9, "reservations": rows, **changes}


def wish(hours: int = 24, **changes: Any) -> BuyOrder:
    return order(**{"country": 187, "cost_max": 2_000_000, "hours": hours, **changes})


PRICED = {"serviceName": "telegram", "price": 1.9}
SOLD = link(f"{BASE}{API}/sales/sa_01")
RENTED = {
    "POST /pricing/rentals": PRICED,
    "POST /reservations/rental": SOLD,
    "GET /sales/sa_01": sale("lr_02"),
    f"GET {RENTALS}/lr_02": rental(),
    "GET /sms": page(),
}


def body(request: httpx.Request) -> Any:
    return json.loads(request.content)


# --- what is offered ---


async def test_services_of_the_stanza_are_priced_for_the_shortest_duration_that_lasts() -> None:
    answers = {"POST /pricing/rentals": PRICED, "POST /inventory/rentals": {"availableQuantity": 7}}
    async with scripted(answers, rent_services=["tg", "full"]) as (there, script):
        offers = await there.rent_offers(187, 25)
        again = await there.rent_offers(187, 72)
    expected = {RentOffer("there", service, 187, 72, usd(1_900_000), 7) for service in ("tg", "full")}
    assert set(offers) == set(again) == expected
    asked = [body(request) for request in sent(script, "POST /pricing/rentals")]
    assert {one["serviceName"] for one in asked} == {"telegram", "allservices"}
    assert {(one["duration"], one["alwaysOn"], one["isRenewable"]) for one in asked} == {("threeDay", True, False)}
    assert len(asked) == len(sent(script, "POST /inventory/rentals")) == 2


async def test_nothing_is_offered_elsewhere_for_longer_or_without_stock() -> None:
    async with scripted({"POST /inventory/rentals": {"availableQuantity": 0}}, rent_services=["tg"]) as (there, script):
        assert list(await there.rent_offers(187, 24)) == []
        asked = len(script.requests)
        assert list(await there.rent_offers(16, 24)) == []
        assert list(await there.rent_offers(187, 8761)) == []
        assert len(script.requests) == asked
        assert await there.rent_countries() == {187}
    async with scripted({}, rent_services=[]) as (there, _):
        assert await there.rent_countries() == frozenset()


async def test_services_that_are_not_rented_out_and_stock_not_told_are_no_faults() -> None:
    def priced(_query: Any) -> Any:
        return PRICED

    answers = {
        "POST /pricing/rentals": (refusal("Unsupported"), priced),
        "POST /inventory/rentals": httpx.Response(404),
    }
    async with scripted(answers, rent_services=["tg", "wa"], requests_per_second=50) as (there, _):
        (offer,) = await there.rent_offers(187, 24)
    assert (offer.service, offer.count) == ("wa", 1)


@pytest.mark.parametrize("given", [httpx.Response(500), httpx.Response(429), {"availableQuantity": "x"}])
async def test_prices_that_are_not_told_are_unwell(given: Any) -> None:
    async with scripted({"POST /inventory/rentals": given}) as (there, _):
        with pytest.raises(Unwell):
            await there.rent_offers(187, 24)


# --- renting ---


async def test_rental_is_bought_once_priced_and_read_through_its_sale() -> None:
    async with scripted(RENTED) as (there, script):
        lease = await there.rent(wish(20))
    assert (lease.reference, lease.number, lease.cost) == ("rent:lr_02", "12025550100", usd(1_900_000))
    assert lease.expires_at == 1793613600.0
    (bought,) = sent(script, "POST /reservations/rental")
    assert body(bought) == {
        "serviceName": "telegram",
        "numberType": "mobile",
        "capability": "sms",
        "duration": "oneDay",
        "isRenewable": False,
        "alwaysOn": True,
        "allowBackOrderReservations": False,
        "areaCodeSelectOption": None,
        "billingCycleIdToAssignTo": None,
    }


async def test_sale_that_takes_its_time_and_a_rental_not_seen_yet_are_waited_for() -> None:
    sales = (httpx.Response(500), sale(state="processing"), sale("lr_02"))
    answers = {**RENTED, "GET /sales/sa_01": sales, f"GET {RENTALS}/lr_02": (httpx.Response(404), rental())}
    async with scripted(answers) as (there, script):
        assert (await there.rent(wish())).reference == "rent:lr_02"
    assert len(sent(script, "POST /reservations/rental")) == 1


@pytest.mark.parametrize("given", [sale(state="created"), sale(), sale("lr_02", "lr_03"), httpx.Response(500), {}])
async def test_sale_that_shows_no_rental_in_time_is_in_doubt(given: Any) -> None:
    async with scripted({**RENTED, "GET /sales/sa_01": given}) as (there, script):
        with pytest.raises(InDoubt):
            await there.rent(wish(timeout_seconds=0.5))
    assert len(sent(script, "POST /reservations/rental")) == 1


async def test_sale_that_failed_took_nothing() -> None:
    async with scripted({**RENTED, "GET /sales/sa_01": sale(state="failed")}) as (there, _):
        with pytest.raises(Refused) as caught:
            await there.rent(wish())
    assert not caught.value.is_fault


async def test_failed_sale_gives_its_money_back_and_is_not_found() -> None:
    async with simulated() as (there, sim):
        sim.fault("sale_fails", 1)
        with pytest.raises(Refused):
            await there.rent(wish())
        assert await there.balance() == usd(1_000_000_000)
        assert await there.find(0) == []


@pytest.mark.parametrize(
    "wanted", [wish(cost_max=1_899_999), wish(8761), wish(service="xx"), wish(country=12), wish(operator="vz")]
)
async def test_what_is_too_dear_or_not_there_is_not_asked_for(wanted: BuyOrder) -> None:
    async with scripted(RENTED) as (there, script):
        with pytest.raises(NothingTaken):
            await there.rent(wanted)
    assert sent(script, "POST /reservations/rental") == []


@pytest.mark.parametrize("given", [httpx.Response(500), httpx.ReadTimeout("late"), {"price": None}])
async def test_price_that_is_not_told_is_a_refusal(given: Any) -> None:
    async with scripted({**RENTED, "POST /pricing/rentals": given}) as (there, script):
        with pytest.raises(Refused) as caught:
            await there.rent(wish())
    assert caught.value.is_fault
    assert sent(script, "POST /reservations/rental") == []


@pytest.mark.parametrize(
    "given", [link(), link(f"{BASE}{API}/sales/"), httpx.Response(400, text="no"), *_scripted.LOST]
)
async def test_unreadable_answer_to_a_rental_is_in_doubt(given: Any) -> None:
    async with scripted({**RENTED, "POST /reservations/rental": given}) as (there, script):
        with pytest.raises(InDoubt):
            await there.rent(wish())
    assert len(sent(script, "POST /reservations/rental")) == 1


async def test_back_order_is_never_taken() -> None:
    async with simulated() as (there, sim):
        sim.set_rent_stock("telegram", "oneDay", count=0)
        with pytest.raises(SoldOut):
            await there.rent(wish())
        assert sim.rentals.sales == {}


async def test_area_codes_raise_the_price_and_are_asked_for() -> None:
    async with simulated({"area_codes": ["415"]}) as (there, sim):
        sim.set_rent_stock("telegram", "oneDay", price="1.80", count=1)
        with pytest.raises(SoldOut):
            await there.rent(wish(cost_max=2_049_999))
        assert (await there.rent(wish(cost_max=2_050_000))).number.startswith("1415")


# --- reading ---


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("nonrenewableActive", LeaseState.OPEN),
        ("nonrenewableExpired", LeaseState.FINISHED),
        ("NonrenewableRefunded", LeaseState.CANCELLED),
    ],
)
async def test_states_of_rentals_are_read_with_their_end(state: str, expected: LeaseState) -> None:
    async with scripted({**RENTED, f"GET {RENTALS}/lr_02": rental(state=state)}) as (there, _):
        assert await there.read(Watched("rent:lr_02", 1)) == Progress(expected, (), 1793613600.0)


async def test_messages_of_a_rental_are_read_from_every_page() -> None:
    pages = (
        page(message(id="sm_2", createdAt="2026-11-01T11:00:00Z"), next_href=f"{API}/sms?cursor=x"),
        page(message()),
    )
    async with scripted({**RENTED, "GET /sms": pages}) as (there, script):
        progress = await there.read(Watched("rent:lr_02", 1))
    assert [sms.identity for sms in progress.messages] == ["sm_1", "sm_2"]
    assert sent(script, "GET /sms")[0].url.params["reservationId"] == "lr_02"


@pytest.mark.parametrize("given", [rental(state="somethingNew"), rental(number=None), httpx.Response(500), "x"])
async def test_rentals_that_can_not_be_read_are_unwell(given: Any) -> None:
    async with scripted({**RENTED, f"GET {RENTALS}/lr_02": given}) as (there, _):
        with pytest.raises(Unwell):
            await there.read(Watched("rent:lr_02", 1))


async def test_rentals_are_left_to_be_read_singly() -> None:
    async with scripted({}) as (there, script):
        assert await there.read_many([Watched("rent:lr_02", 1)]) == {}
    assert script.requests == []


# --- sleep ---


async def test_sleeping_number_is_woken_by_reading_and_again_when_its_time_is_over() -> None:
    clock = Clock()
    async with simulated(clock=clock) as (there, sim):
        clock.now = sim.now()
        sim.fault("no_always_on", 1)
        lease = await there.rent(wish())
        sim.deliver_rental(lease.reference.removeprefix("rent:"), "Your code is 11111")
        for _ in range(3):
            await there.read(Watched(lease.reference, 1))
        assert sim.requests["wake"] == 1
        sim.deliver_rental(lease.reference.removeprefix("rent:"), "Your code is 22222")
        assert [sms.code for sms in (await there.read(Watched(lease.reference, 1))).messages] == ["22222"]
        sim.skip(700)
        clock.now = sim.now()
        await there.read(Watched(lease.reference, 1))
        assert sim.requests["wake"] == 2


async def test_number_that_is_always_on_or_may_sleep_is_not_woken() -> None:
    async with scripted(RENTED) as (there, script):
        await there.read(Watched("rent:lr_02", 1))
    async with scripted({**RENTED, f"GET {RENTALS}/lr_02": rental(alwaysOn=False)}, rent_wakes=False) as (there, other):
        await there.read(Watched("rent:lr_02", 1))
    assert [one for each in (script, other) for one in sent(each, "POST /wake-requests")] == []


@pytest.mark.parametrize("given", [httpx.Response(500), refusal("Throttled"), {"isScheduled": False}, "x"])
async def test_wake_that_fails_hides_no_message_and_is_tried_again_after_a_while(given: Any) -> None:
    clock = Clock()
    answers = {
        **RENTED,
        f"GET {RENTALS}/lr_02": rental(alwaysOn=False),
        "GET /sms": page(message()),
        "POST /wake-requests": link(f"{BASE}{API}/wake-requests/wr_01") if isinstance(given, dict) else given,
        "GET /wake-requests/wr_01": given,
    }
    async with scripted(answers, clock=clock) as (there, script):
        for _ in range(2):
            assert len((await there.read(Watched("rent:lr_02", 1))).messages) == 1
        assert len(sent(script, "POST /wake-requests")) == 1
        clock.now += 61
        await there.read(Watched("rent:lr_02", 1))
        assert len(sent(script, "POST /wake-requests")) == 2


# --- finding ---


async def test_search_shows_open_rentals_with_their_cost_and_end() -> None:
    rows = page(
        rental(endsAt=None),
        rental(id="lr_03", state="nonrenewableExpired"),
        rental(id="lr_04", state="somethingNew"),
        rental(id="lr_05", createdAt="2026-10-01T10:00:00Z"),
    )
    answers = {**RENTED, "GET /verifications": page(), f"GET {RENTALS}": rows}
    async with scripted(answers) as (there, _):
        (found,) = await there.find(1793527200.0)
    assert (found.lease.reference, found.lease.cost, found.lease.expires_at) == (
        "rent:lr_02",
        usd(1_900_000),
        1793613600.0,
    )
    assert (found.service, found.country, found.is_rental) == ("tg", 187, True)


@pytest.mark.parametrize(
    "changes", [{f"GET {RENTALS}": page({"id": "lr_02"})}, {f"GET {RENTALS}": page("x")}, {"GET /sales/sa_01": "x"}]
)
async def test_search_that_may_miss_a_rental_is_unwell(changes: dict[str, Any]) -> None:
    answers = {**RENTED, "GET /verifications": page(), f"GET {RENTALS}": page(rental()), **changes}
    async with scripted(answers) as (there, _):
        with pytest.raises(Unwell):
            await there.find(0)


# --- closing ---


async def test_refund_that_meets_a_message_says_so() -> None:
    async with simulated() as (there, sim):
        lease = await there.rent(wish())
        sim.fault("sms_on_cancel", 1)
        with pytest.raises(HasSms):
            await there.close(lease.reference, Outcome.CANCELLED)


async def test_refused_refund_is_tried_again_while_it_should_be_possible() -> None:
    async with simulated() as (there, sim):
        lease = await there.rent(wish())
        sim.fault("refuse_refund", 1)
        with pytest.raises(Unwell):
            await there.close(lease.reference, Outcome.CANCELLED)
        await there.close(lease.reference, Outcome.CANCELLED)
        assert await there.balance() == usd(1_000_000_000)


async def test_finished_rental_is_left_to_run_out() -> None:
    async with scripted(RENTED) as (there, script):
        await there.close("rent:lr_02", Outcome.FINISHED)
    assert [request.method for request in script.requests] == ["POST", "GET"]


# --- more time ---


@pytest.mark.parametrize("answer", ["extension", "link", "empty"])
async def test_extension_is_read_whatever_form_its_answer_has(answer: str) -> None:
    async with simulated(extension_answer=answer) as (there, sim):
        lease = await there.rent(wish())
        assert lease.expires_at is not None
        cost, hours = await there.extension_cost(lease.reference, 60)
        assert hours == 72
        end = await there.extend(wish(hours, cost_max=cost.micros, lease_reference=lease.reference))
        assert end == pytest.approx(lease.expires_at + 72 * 3600, abs=1)
        assert sim.rental_views()[0]["extensions"] == 1


@pytest.mark.parametrize("given", [link(), httpx.Response(200), httpx.Response(204)])
async def test_extension_whose_end_is_not_seen_in_time_is_in_doubt(given: httpx.Response) -> None:
    async with scripted({**RENTED, "POST /reservations/rentals/extensions": given}) as (there, script):
        with pytest.raises(InDoubt):
            await there.extend(wish(timeout_seconds=0.5, lease_reference="rent:lr_02"))
    assert len(sent(script, "POST /reservations/rentals/extensions")) == 1


async def test_extension_that_can_not_be_had_is_never_asked_for() -> None:
    async with scripted({**RENTED, f"GET {RENTALS}/lr_02": rental(state="nonrenewableExpired")}) as (there, script):
        with pytest.raises(NotAllowed):
            await there.extension_cost("rent:lr_02", 24)
        for reference in ("rent:lr_02", "rent:lr_99", "lr_02"):
            with pytest.raises(NothingTaken):
                await there.extend(wish(lease_reference=reference))
        with pytest.raises(UnknownLease):
            await there.extension_cost("rent:lr_99", 24)
    assert sent(script, "POST /reservations/rentals/extensions") == []


async def test_refused_extension_is_of_the_account_or_of_the_order() -> None:
    answers = {
        **RENTED,
        "POST /reservations/rentals/extensions": (refusal("InsufficientBalance"), refusal("Unavailable")),
    }
    async with scripted(answers) as (there, _):
        with pytest.raises(Refused) as caught:
            await there.extend(wish(lease_reference="rent:lr_02"))
        assert caught.value.is_fault
        with pytest.raises(SoldOut):
            await there.extend(wish(lease_reference="rent:lr_02"))


# --- a number again ---

REUSABLE = verification(state="verificationCompleted", reuse={"link": None, "reusableUntil": "2026-11-01T10:10:00Z"})


@pytest.mark.parametrize(
    ("reuse", "is_reusable"),
    [
        ({"link": None, "reusableUntil": "2026-11-01T10:10:00Z"}, True),
        ({"link": {"href": "x"}, "reusableUntil": None}, True),
        ({"reusableUntil": "1999-11-01T10:10:00Z", "link": {"href": "x"}}, False),
        ({"link": None, "reusableUntil": None}, False),
        (None, False),
    ],
)
async def test_number_is_used_again_while_its_verification_says_so(reuse: Any, is_reusable: bool) -> None:
    answers = {
        "GET /verifications/lr_01": verification(state="verificationCompleted", reuse=reuse),
        "POST /pricing/verifications": {"price": 0.7},
    }
    clock = Clock(1793527200.0)
    async with scripted(answers, clock=clock) as (there, _):
        if is_reusable:
            assert await there.reuse_cost("lr_01", "12025550100", "tg", 187) == usd(750_000)
            return
        with pytest.raises(NotAllowed):
            await there.reuse_cost("lr_01", "12025550100", "tg", 187)


async def test_number_used_again_is_a_verification_of_its_own() -> None:
    answers = {
        "GET /verifications/lr_01": REUSABLE,
        "POST /pricing/verifications": {"price": 0.8},
        "POST /verifications/lr_01/reuse": link(f"{BASE}{API}/verifications/lr_07"),
        "GET /verifications/lr_07": verification(id="lr_07", totalCost=0.6),
    }
    async with scripted(answers) as (there, script):
        with pytest.raises(SoldOut):
            await there.reuse(us(cost_max=799_999, lease_reference="lr_01"))
        lease = await there.reuse(us(cost_max=800_000, lease_reference="lr_01"))
    assert (lease.reference, lease.number, lease.cost) == ("lr_07", "12025550100", usd(600_000))
    (bought,) = sent(script, "POST /verifications/lr_01/reuse")
    assert bought.content == b""


@pytest.mark.parametrize("given", [link(), link(f"{BASE}{API}/sales/sa_01"), *_scripted.LOST])
async def test_reuse_that_makes_no_sense_is_in_doubt(given: Any) -> None:
    answers = {
        "GET /verifications/lr_01": REUSABLE,
        "POST /pricing/verifications": {"price": 0.8},
        "POST /verifications/lr_01/reuse": given,
    }
    async with scripted(answers) as (there, script):
        with pytest.raises(InDoubt):
            await there.reuse(us(lease_reference="lr_01"))
    assert len(sent(script, "POST /verifications/lr_01/reuse")) == 1


# --- whatever comes ---


@hypothesis.given(
    data=_scripted.json_values([*rental(), *sale(), *page(), "newEndsAt", "href", "price", "reuse"])
    | _scripted.odd(rental, _scripted.json_values(rental()))
    | _scripted.odd(sale, _scripted.json_values(sale()))
)
@hypothesis.settings(max_examples=60, deadline=None)
def test_no_answer_breaks_a_verb(data: Any) -> None:
    calls = (
        "POST /pricing/rentals", "POST /inventory/rentals", "POST /reservations/rental", "GET /sales/sa_01",
        f"GET {RENTALS}", f"GET {RENTALS}/lr_02", f"POST {RENTALS}/lr_02/refund", "POST /wake-requests",
        "POST /reservations/rentals/extensions", "GET /sms", "GET /verifications", "GET /verifications/lr_02",
        "POST /verifications/lr_02/reuse", "POST /pricing/verifications", "GET /account/me", "GET /services",
    )  # fmt: skip

    async def every_verb() -> None:
        answers = {**dict.fromkeys(calls, data), "POST /auth": grant()}
        async with scripted(answers, rent_services=["tg"]) as (there, _):
            await _scripted.every_verb(there, us(timeout_seconds=0.05), "lr_02")

    asyncio.run(every_verb())


def test_mistakes_in_the_stanza_are_refused() -> None:
    wrongs: list[dict[str, Any]] = [{"rent_services": "full"}, {"rent_always_on": "perhaps"}]
    for wrong in wrongs:
        with pytest.raises(ValidationError):
            textverified.Options(**wrong)
