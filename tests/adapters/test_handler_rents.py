"""Rentals, numbers used again and added services of the `handler_api.php` family against scripted answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import httpx
import hypothesis
import pytest
from hypothesis import strategies as st
from pydantic import ValidationError

from adapters import load
from adapters._handler_rent_forms import ActivateRents, RenamedRents, RentRules
from gateway.errors import (
    HasSms,
    InDoubt,
    NotAllowed,
    NothingTaken,
    Refused,
    SoldOut,
    TooEarly,
    UnknownLease,
    Unwell,
    UpstreamError,
)
from gateway.model import BuyOrder, LeaseState, LostExtension, Outcome, Progress, RentOffer
from gateway.money import Money
from gateway.upstream import AddsServices, Rents, Reuses
from tests.adapters._context import SECRET, Script, context, order, watched
from tests.adapters._handler_answers import Answers, by_action, envelope, reply

BASE_URL = "https://upstream.test/stubs/handler_api.php"
NUMBER = "447700900123"
NOW = 1793527200.0  # 2026-11-01 10:00:00 UTC
HOUR = 3600.0

LIST = {
    "countries": {"0": 2, "1": 16, "2": 999},
    "operators": {"0": "any"},
    "services": {"tg": {"cost": 2.4, "quant": 5}, "full": {"cost": 9, "quant": 2}, "wa": {"cost": 1, "quant": 0}},
    "currency": 840,
}
RENTED = {"status": "success", "phone": {"id": 17, "endDate": "2026-11-02T10:00:00", "number": NUMBER}}
LATER = {"status": "success", "phone": {"id": 17, "endDate": "2026-11-03T10:00:00", "number": NUMBER}}
INFO = {"status": "success", "price": 2.4, "currency": 840, "hours": 24}
HERO_LIST = {"operators": {"1": "o2"}, "services": {"tg": {"quantity": 2, "price": 2.4, "retail_price": 3}}}
HERO_RENTED = {
    "activationId": "17",
    "phoneNumber": NUMBER,
    "activationCost": 2.4,
    "activationEndTime": "2026-11-02T10:00:00+00:00",
    "activationOperator": "o2",
    "subtype": 2,
}
HERO_OPTIONS = {
    "data": {
        "options": [
            {"price": 6.1, "duration": {"unit": "hour", "value": 72}},
            {"price": 2.4, "duration": {"unit": "hour", "value": 24}},
        ]
    }
}


def said(word: str, **info: Any) -> Any:
    """A refusal of SMS-Activate's rent family."""
    return {"status": "error", "message": word, **({"info": info} if info else {})}


@asynccontextmanager
async def upstream(name: str, answers: Answers, given: Any = None, **options: Any) -> AsyncIterator[tuple[Any, Script]]:
    script, module = Script(by_action(answers)), load(name)
    wanted = {"rents": True, "reuses": True, "adds_services": True} if name == "handler_api" else {}
    made = module.build(
        context(script, clock=lambda: NOW, **(given or {})), module.Options(base_url=BASE_URL, **wanted, **options)
    )
    try:
        yield made, script
    finally:
        await made.aclose()


def rental(hours: int = 24, cost_max: int = 3_000_000, **changes: Any) -> BuyOrder:
    return order(cost_max=cost_max, hours=hours, **changes)


def longer(hours: int = 24, cost_max: int = 3_000_000) -> BuyOrder:
    return order(cost_max=cost_max, hours=hours, lease_reference="rent:17", lease_number=NUMBER)


def asked(script: Script) -> list[dict[str, str]]:
    """The parameters of every request, without the key."""
    return [
        {name: value for name, value in request.url.params.items() if name != "api_key"} for request in script.requests
    ]


# --- who can ---


@pytest.mark.parametrize(
    ("name", "abilities"),
    [
        ("herosms", {Rents, Reuses}),
        ("tigersms", set()),
        ("smsbower", set()),
        ("grizzlysms", set()),
        ("smshub", set()),
        ("daisysms", set()),
        ("vaksms_stub", set()),
        ("smsman_stub", set()),
    ],
)
async def test_abilities_are_those_of_the_brand(name: str, abilities: set[type]) -> None:
    async with upstream(name, {}) as (there, _):
        assert {ability for ability in (Rents, Reuses, AddsServices) if isinstance(there, ability)} == abilities


@pytest.mark.parametrize("ability", [(Rents, "rents"), (Reuses, "reuses"), (AddsServices, "adds_services")])
async def test_abilities_of_any_other_are_set_one_by_one(ability: tuple[type, str]) -> None:
    kind, option = ability
    module = load("handler_api")
    for is_set in (False, True):
        made = module.build(context(), module.Options(base_url=BASE_URL, **{option: is_set}))
        others = [one for one in (Rents, Reuses, AddsServices) if one is not kind and isinstance(made, one)]
        assert (isinstance(made, kind), others) == (is_set, [])
        await made.aclose()


# --- what is rented out ---


@pytest.mark.parametrize(
    ("wanted", "length"), [(1, 2), (2, 2), (5, 5), (24, 24), (25, 48), (73, 96), (1344, 1344), (1345, None)]
)
def test_from_a_day_on_only_whole_days_are_rented(wanted: int, length: int | None) -> None:
    assert RentRules(ActivateRents()).at_least(wanted) == length


def test_herosms_rents_for_its_own_times() -> None:
    rules = RentRules(RenamedRents(), (72, 24))
    assert [rules.at_least(hours) for hours in (1, 24, 25, 73)] == [24, 24, 72, None]


@pytest.mark.parametrize("hours", [[], [0], [-24], [9000], ["a day"]])
def test_times_that_are_none_are_refused_in_a_stanza(hours: list[Any]) -> None:
    with pytest.raises(ValidationError):
        load("herosms").Options(rent_hours=hours)


async def test_list_tells_for_how_long_and_leaves_out_what_is_sold_out_or_unknown() -> None:
    async with upstream("handler_api", {"getRentServicesAndCountries": LIST}) as (there, script):
        offers = await there.rent_offers(16, 30)
    assert offers == [RentOffer("there", "tg", 16, 48, Money(2_400_000, "USD"), 5)]
    assert asked(script) == [
        {"action": "getRentServicesAndCountries", "country": "16", "rent_time": "48", "currency": "840"}
    ]


async def test_nothing_is_asked_for_a_time_or_a_country_there_is_not() -> None:
    async with upstream("handler_api", {}) as (there, script):
        assert await there.rent_offers(16, 9999) == []
        assert await there.rent_offers(4, 24) == []
    assert script.requests == []


@pytest.mark.parametrize("empty", [said("OUT_OF_STOCK"), {**LIST, "services": []}, {**LIST, "services": {}}])
async def test_country_without_rentals_has_an_empty_list(empty: Any) -> None:
    async with upstream("handler_api", {"getRentServicesAndCountries": empty}) as (there, _):
        assert await there.rent_offers(16, 24) == []


@pytest.mark.parametrize("odd", [{}, [], "OK", {**LIST, "services": {"tg": {"quant": 5}}}, {**LIST, "currency": 643}])
async def test_list_that_makes_no_sense_is_unwell(odd: Any) -> None:
    async with upstream("handler_api", {"getRentServicesAndCountries": odd}) as (there, _):
        with pytest.raises(Unwell):
            await there.rent_offers(16, 24)


async def test_list_refused_for_the_account_is_a_fault() -> None:
    async with upstream("handler_api", {"getRentServicesAndCountries": "BAD_ACTION"}) as (there, _):
        with pytest.raises(Refused) as caught:
            await there.rent_offers(16, 24)
    assert caught.value.is_fault


async def test_countries_are_those_listed_or_those_marked() -> None:
    marked = {"6": {"id": 6, "rent": 1}, "16": {"id": "16", "rent": 0}, "43": {"id": 43, "rent": "1"}}
    async with upstream("handler_api", {"getRentServicesAndCountries": LIST}) as (there, _):
        assert await there.rent_countries() == {16}
    answers = {"getRentServicesAndCountries": said("OUT_OF_STOCK"), "getCountries": marked}
    async with upstream("handler_api", answers) as (there, _):
        assert await there.rent_countries() == {6, 43}
    async with upstream("herosms", {"getCountries": list(marked.values())}) as (there, _):
        assert await there.rent_countries() == {6, 43}
    async with upstream("herosms", {"getCountries": {"6": {"id": 6}}}) as (there, _):
        with pytest.raises(Unwell):
            await there.rent_countries()


# --- renting ---


async def test_price_is_asked_before_a_rental_and_the_end_is_told() -> None:
    answers = {"getRentServicesAndCountries": LIST, "getRentNumber": RENTED}
    async with upstream("handler_api", answers, utc_offset_minutes=180) as (there, script):
        lease = await there.rent(rental(operator="o2"))
    assert (lease.reference, lease.number, lease.cost) == ("rent:17", NUMBER, None)
    assert lease.expires_at == NOW + 24 * HOUR - 3 * HOUR, "its clock is three hours ahead"
    goods = {"country": "16", "operator": "o2", "rent_time": "24"}
    assert asked(script) == [
        {"action": "getRentServicesAndCountries", "currency": "840", **goods},
        {"action": "getRentNumber", "service": "tg", **goods},
    ]


async def test_herosms_rents_by_its_own_names() -> None:
    answers = {"getRentServicesAndCountries": HERO_LIST, "getRentNumber": HERO_RENTED}
    async with upstream("herosms", answers) as (there, script):
        lease = await there.rent(rental())
    assert (lease.reference, lease.cost, lease.operator) == ("rent:17", Money(2_400_000, "USD"), "o2")
    assert lease.expires_at == NOW + 24 * HOUR
    assert [request["duration"] for request in asked(script)] == ["24", "24"]
    assert {request.method for request in script.requests} == {"GET"}


async def test_end_that_is_not_told_is_reckoned() -> None:
    phone = {"status": "success", "phone": {"id": 17, "number": NUMBER}}
    async with upstream("handler_api", {"getRentServicesAndCountries": LIST, "getRentNumber": phone}) as (there, _):
        assert (await there.rent(rental(48))).expires_at == NOW + 48 * HOUR


@pytest.mark.parametrize(
    ("listed", "expected", "is_fault"),
    [
        ({**LIST, "services": {"tg": {"cost": "3.01", "quant": 5}}}, SoldOut, None),
        ({**LIST, "services": {"tg": {"cost": 1, "quant": 0}}}, SoldOut, None),
        (said("OUT_OF_STOCK"), SoldOut, None),
        (httpx.ReadTimeout("late"), Refused, True),
        (httpx.Response(502, text="Bad Gateway"), Refused, True),
        (said("SERVER_ERROR"), Refused, True),
        ("BAD_KEY", Refused, True),
        ({"services": "none"}, Refused, True),
        ({**LIST, "currency": 643}, Refused, True),
    ],
)
async def test_nothing_is_rented_above_the_price_or_without_knowing_it(
    listed: Any, expected: type[UpstreamError], is_fault: bool | None
) -> None:
    async with upstream("handler_api", {"getRentServicesAndCountries": listed}) as (there, script):
        with pytest.raises(expected) as caught:
            await there.rent(rental())
    assert is_fault is None or (isinstance(caught.value, Refused) and caught.value.is_fault is is_fault)
    assert len(script.requests) == 1


@pytest.mark.parametrize(
    ("name", "answer", "expected", "is_fault"),
    [
        ("handler_api", said("NO_NUMBERS"), SoldOut, None),
        ("handler_api", said("NO_BALANCE"), Refused, True),
        ("handler_api", said("CHANNELS_LIMIT"), Refused, True),
        ("handler_api", said("ACCOUNT_INACTIVE"), Refused, True),
        ("handler_api", said("BAD_SERVICE"), Refused, False),
        ("handler_api", said("SERVER_ERROR"), InDoubt, None),
        ("handler_api", {"status": "success"}, InDoubt, None),
        ("handler_api", {"status": "success", "phone": {"id": 17, "number": "soon"}}, InDoubt, None),
        ("handler_api", {"status": "success", "phone": {"number": NUMBER}}, InDoubt, None),
        ("handler_api", f"ACCESS_NUMBER:17:{NUMBER}", InDoubt, None),
        ("handler_api", "<html>Welcome</html>", InDoubt, None),
        ("handler_api", httpx.ReadTimeout("late"), InDoubt, None),
        ("herosms", envelope(404, "NO_NUMBERS"), SoldOut, None),
        ("herosms", envelope(402, "NO_BALANCE"), Refused, True),
        ("herosms", envelope(400, "BAD_DURATION", available_durations=[24]), Refused, False),
        ("herosms", envelope(429, "RATE_LIMIT"), Refused, True),
        ("herosms", envelope(500, "SERVER_ERROR"), InDoubt, None),
        ("herosms", {**HERO_RENTED, "phoneNumber": None}, InDoubt, None),
    ],
)
async def test_what_a_rental_is_answered_with(
    name: str, answer: Any, expected: type[UpstreamError], is_fault: bool | None
) -> None:
    listed = HERO_LIST if name == "herosms" else LIST
    async with upstream(name, {"getRentServicesAndCountries": listed, "getRentNumber": answer}) as (there, script):
        with pytest.raises(expected) as caught:
            await there.rent(rental())
    assert is_fault is None or (isinstance(caught.value, Refused) and caught.value.is_fault is is_fault)
    assert len(script.requests) == 2
    assert NUMBER not in str(caught.value)
    assert SECRET not in str(caught.value)


# --- more time ---


async def test_extension_is_asked_paid_and_told() -> None:
    async with upstream("handler_api", {"continueRentInfo": INFO, "continueRentNumber": LATER}) as (there, script):
        assert await there.extension_cost("rent:17", 20) == (Money(2_400_000, "USD"), 20)
        assert await there.extend(longer()) == NOW + 48 * HOUR
    assert asked(script)[1:] == [
        {"action": "continueRentInfo", "id": "17", "hours": "24"},
        {"action": "continueRentNumber", "id": "17", "rent_time": "24"},
    ]


async def test_older_price_of_an_extension_is_a_setting() -> None:
    answers = {"getContinueRentPriceNumber": {"status": "success", "price": "2.4", "currency": 840}}
    async with upstream("handler_api", answers, rent_price_action="getContinueRentPriceNumber") as (there, script):
        assert await there.extension_cost("rent:17", 24) == (Money(2_400_000, "USD"), 24)
    assert asked(script)[0] == {
        "action": "getContinueRentPriceNumber", "id": "17", "rent_time": "24", "currency": "840",
    }  # fmt: skip


@pytest.mark.parametrize(("method", "given"), [("POST", {}), ("GET", {"change_method": "GET"})])
async def test_herosms_is_extended_by_its_shortest_time_that_is_long_enough(method: str, given: Any) -> None:
    end = {**HERO_RENTED, "activationEndTime": "2026-11-05T10:00:00+00:00"}
    async with upstream("herosms", {"prolongOptions": HERO_OPTIONS, "prolong": end}, **given) as (there, script):
        assert await there.extension_cost("rent:17", 20) == (Money(2_400_000, "USD"), 24)
        assert await there.extension_cost("rent:17", 25) == (Money(6_100_000, "USD"), 72)
        with pytest.raises(NotAllowed):
            await there.extension_cost("rent:17", 100)
        assert await there.extend(longer(72, 7_000_000)) == NOW + 96 * HOUR
    assert script.requests[-1].method == method
    assert asked(script)[-1] == {"action": "prolong", "id": "17", "duration": "72"}


async def test_herosms_extension_without_a_word_of_the_end_is_reckoned_from_the_one_before() -> None:
    answers = {
        "getRentServicesAndCountries": HERO_LIST,
        "getRentNumber": HERO_RENTED,
        "prolongOptions": HERO_OPTIONS,
        "prolong": httpx.Response(204),
    }
    async with upstream("herosms", answers) as (there, _):
        with pytest.raises(InDoubt):
            await there.extend(longer())
        assert await there.extend(replace(longer(), lease_expires_at=NOW + 24 * HOUR)) == NOW + 48 * HOUR


@pytest.mark.parametrize(
    ("name", "action", "answer", "expected"),
    [
        ("handler_api", "continueRentInfo", said("RENT_DIE"), NotAllowed),
        ("handler_api", "continueRentInfo", said("MAX_HOURS_EXCEED", max=4), NotAllowed),
        ("handler_api", "continueRentInfo", said("INVALID_TIME"), NotAllowed),
        ("handler_api", "continueRentInfo", said("INVALID_PHONE"), UnknownLease),
        ("handler_api", "continueRentInfo", said("NO_ID_RENT"), UnknownLease),
        ("handler_api", "continueRentInfo", said("SERVER_ERROR"), Unwell),
        ("handler_api", "continueRentInfo", {**INFO, "currency": 643}, Unwell),
        ("handler_api", "continueRentInfo", {"status": "success"}, Unwell),
        ("herosms", "prolongOptions", envelope(404, "NOT_FOUND"), UnknownLease),
        ("herosms", "prolongOptions", envelope(400, "ACTION_NOT_AVAILABLE"), NotAllowed),
        ("herosms", "prolongOptions", envelope(425, "TOO_EARLY"), NotAllowed),
        ("herosms", "prolongOptions", {"data": {"options": []}}, NotAllowed),
        ("herosms", "prolongOptions", {"data": {"options": [{"price": 1}]}}, Unwell),
    ],
)
async def test_rental_that_is_not_extended_says_why(
    name: str, action: str, answer: Any, expected: type[UpstreamError]
) -> None:
    async with upstream(name, {action: answer}) as (there, script):
        with pytest.raises(expected):
            await there.extension_cost("rent:17", 24)
        with pytest.raises(Refused) as caught:
            await there.extend(longer())
    assert caught.value.is_fault is (expected is Unwell)
    assert {request["action"] for request in asked(script)} == {action}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (said("NO_BALANCE"), Refused),
        (said("RENT_DIE"), Refused),
        (said("SERVER_ERROR"), InDoubt),
        ({**LATER, "phone": {**RENTED["phone"], "id": 18}}, InDoubt),  # type: ignore[dict-item]
        ({"status": "success"}, InDoubt),
        ("", InDoubt),
    ],
)
async def test_what_an_extension_is_answered_with(answer: Any, expected: type[UpstreamError]) -> None:
    """Another id: the rental was over, and has been rented anew."""
    async with upstream("handler_api", {"continueRentInfo": INFO, "continueRentNumber": answer}) as (there, script):
        with pytest.raises(expected):
            await there.extend(longer())
    assert len(script.requests) == 2


async def test_what_is_rented_anew_is_named() -> None:
    anew: Any = {**LATER, "phone": {**RENTED["phone"], "id": 18}}  # type: ignore[dict-item]
    answers = {"continueRentInfo": INFO, "continueRentNumber": anew, "getRentStatus": said("STATUS_WAIT_CODE")}
    async with upstream("handler_api", answers) as (there, _):
        with pytest.raises(InDoubt) as raised:
            await there.extend(replace(longer(), lease_expires_at=NOW + HOUR))
        assert raised.value.reference == "rent:18"


LOST_ANSWER = httpx.ReadTimeout("late")
BEFORE = {"0": {"createDate": "2026-11-01 09:59:00", "price": "2.40", "hours": 24}}


async def end_of(there: Any, made_before: int) -> float | None:
    """Of a rental, read for the sake of an extension whose answer was lost."""
    lost = LostExtension(24, NOW + HOUR, made_before)
    progress: Progress = await there.read(replace(watched("rent:17"), extension=lost))
    assert progress.state is LeaseState.OPEN
    return progress.expires_at


@pytest.mark.parametrize(
    ("after", "hours_more"),
    [
        ({**BEFORE, "1": {"createDate": "2026-11-01 10:00:02", "price": "2.40", "hours": 24}}, 24),
        ([{"hours": "24"}, {"hours": 24}], 24),
        (BEFORE, 0),
        ({**BEFORE, "1": {"createDate": "2026-11-01 10:00:02", "price": "4.80", "hours": 48}}, 0),
        ([], 0),
    ],
)
async def test_extension_in_doubt_is_looked_up_in_the_history(after: Any, hours_more: int) -> None:
    """One of as many hours that was there before is not taken for it, nor does another process know less of it."""
    lost_answer = {"continueRentInfo": ({**INFO, "history": BEFORE}, INFO), "continueRentNumber": LOST_ANSWER}
    async with upstream("handler_api", lost_answer) as (there, script):
        made_before = await there.extensions_made("rent:17", 24)
        with pytest.raises(InDoubt):
            await there.extend(longer())
    assert [request["action"] for request in asked(script)].count("continueRentNumber") == 1
    seen = {"continueRentInfo": {**INFO, "history": after}, "getRentStatus": said("STATUS_WAIT_CODE")}
    async with upstream("handler_api", seen) as (another, _):
        for _ in range(2):
            assert await end_of(another, made_before) == NOW + (1 + hours_more) * HOUR
        assert (await another.read(watched("rent:17"))).expires_at is None


async def test_history_that_is_not_told_leaves_the_end_unknown() -> None:
    answers = {"continueRentInfo": said("SERVER_ERROR"), "getRentStatus": said("STATUS_WAIT_CODE")}
    async with upstream("handler_api", answers) as (there, _):
        with pytest.raises((Unwell, Refused)):
            await there.extensions_made("rent:17", 24)
        with pytest.raises(Refused):
            await there.extensions_made("17", 24)
        assert await end_of(there, 0) is None


async def test_extension_is_by_the_hours_ordered_or_not_at_all() -> None:
    async with upstream("herosms", {"prolongOptions": HERO_OPTIONS}) as (there, script):
        with pytest.raises(Refused):
            await there.extend(longer(48, 9_000_000))
    assert len(script.requests) == 1


# --- reading ---


def page(*rows: dict[str, Any], total: int | None = None) -> dict[str, Any]:
    values = {str(place): row for place, row in enumerate(rows)}
    return {"status": "success", "quantity": str(len(rows) if total is None else total), "values": values}


def row(text: str, date: str = "2026-11-01 10:05:00") -> dict[str, Any]:
    return {"phoneFrom": "Telegram", "text": text, "service": "tg", "date": date}


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("STATUS_WAIT_CODE", LeaseState.OPEN),
        ("STATUS_FINISH", LeaseState.FINISHED),
        ("STATUS_CANCEL", LeaseState.CANCELLED),
        ("STATUS_REVOKE", LeaseState.CANCELLED),
        ("INVALID_PHONE", LeaseState.UNKNOWN),
        ("NO_ID_RENT", LeaseState.UNKNOWN),
    ],
)
async def test_state_of_a_rental_comes_as_an_error(word: str, state: LeaseState) -> None:
    for answer in (said(word), word):
        async with upstream("handler_api", {"getRentStatus": answer}) as (there, _):
            progress = await there.read(watched("rent:17"))
        assert (progress.state, progress.messages) == (state, ())


async def test_messages_come_newest_first_and_are_told_oldest_first() -> None:
    shown = page(row("c", "2026-11-01 10:06:00"), row("b"), row("a"), row("b"))
    async with upstream("handler_api", {"getRentStatus": shown}) as (there, script):
        first = (await there.read(watched("rent:17"))).messages
        assert (await there.read(watched("rent:17"))).messages == first
    assert [sms.text for sms in first] == ["b", "a", "b", "c"]
    assert len({sms.identity for sms in first}) == 4
    assert first[0].identity + ":2" == first[2].identity
    assert [sms.received_at for sms in first] == [NOW + 300, NOW + 300, NOW + 300, NOW + 360]
    assert first[0].sender == "Telegram"
    assert asked(script)[0] == {"action": "getRentStatus", "id": "17", "page": "1", "size": "100"}


async def test_equal_message_that_comes_later_leaves_the_first_as_it_was() -> None:
    answers = {"getRentStatus": (page(row("a")), page(row("a"), row("a")))}
    async with upstream("handler_api", answers) as (there, _):
        (before,) = (await there.read(watched("rent:17"))).messages
        after = (await there.read(watched("rent:17"))).messages
    assert [sms.identity for sms in after] == [before.identity, f"{before.identity}:2"]


async def test_pages_are_joined_until_all_are_there() -> None:
    pages = (page(row("c"), row("b"), total=3), page(row("a"), total=3))
    async with upstream("handler_api", {"getRentStatus": pages}) as (there, script):
        assert [sms.text for sms in (await there.read(watched("rent:17"))).messages] == ["a", "b", "c"]
    assert [request["page"] for request in asked(script)] == ["1", "2"]


@pytest.mark.parametrize(
    "pages",
    [
        (page(row("b"), row("a"), total=3), page(row("a"), total=4)),
        (page(row("b"), row("a"), total=3), page(total=3)),
        (page(row("b"), total=2), page(row("b"), row("a"), total=2)),
        (page(row("b"), total=-1),),
        (page({"text": ["a"]}),),
        (page({"phoneFrom": "Telegram"}),),
        ({"status": "success", "values": {"0": row("a")}},),
        ("OK",),
        ([],),
    ],
)
async def test_messages_that_do_not_add_up_are_unwell(pages: Any) -> None:
    """A message that came between two pages shifts them: one would be read twice, and count as two."""
    async with upstream("handler_api", {"getRentStatus": pages}) as (there, _):
        with pytest.raises(Unwell):
            await there.read(watched("rent:17"))


async def test_herosms_tells_messages_with_their_ids() -> None:
    rows = [
        {"id": "2", "phoneFrom": "Telegram", "code": None, "text": "hello", "date": "2026-11-01T10:06:00+00:00"},
        {
            "id": "1",
            "phoneFrom": "Telegram",
            "code": "12345",
            "text": "code 12345",
            "date": "2026-11-01T10:05:00+00:00",
        },
    ]
    async with upstream("herosms", {"getAllSms": {"data": rows, "meta": {"total": 2}}}) as (there, _):
        messages = (await there.read(watched("rent:17"))).messages
    assert [(sms.identity, sms.code, sms.text) for sms in messages] == [
        ("1", "12345", "code 12345"),
        ("2", "", "hello"),
    ]


@pytest.mark.parametrize(
    ("answer", "state"),
    [(envelope(409, "ACTIVATION_NOT_ACTIVE"), LeaseState.CANCELLED), (envelope(404, "NOT_FOUND"), LeaseState.UNKNOWN)],
)
async def test_herosms_rental_that_is_over_or_unknown(answer: httpx.Response, state: LeaseState) -> None:
    async with upstream("herosms", {"getAllSms": answer}) as (there, _):
        assert (await there.read(watched("rent:17"))).state is state


# --- closing ---


@pytest.mark.parametrize(
    ("outcome", "answer", "state", "expected"),
    [
        (Outcome.FINISHED, {"status": "success"}, None, None),
        (Outcome.FINISHED, said("ALREADY_FINISH"), None, None),
        (Outcome.FINISHED, said("ALREADY_CANCEL"), None, None),
        (Outcome.CANCELLED, {"status": "success"}, None, None),
        (Outcome.CANCELLED, said("ALREADY_CANCEL"), None, None),
        (Outcome.CANCELLED, said("ALREADY_FINISH"), None, NotAllowed),
        (Outcome.CANCELLED, said("CANT_CANCEL"), said("STATUS_WAIT_CODE"), NotAllowed),
        (Outcome.CANCELLED, said("CANT_CANCEL"), page(row("a")), HasSms),
        (Outcome.CANCELLED, said("CANT_CANCEL"), said("STATUS_REVOKE"), None),
        (Outcome.CANCELLED, said("CANT_CANCEL"), said("STATUS_FINISH"), NotAllowed),
        (Outcome.CANCELLED, said("CANT_CANCEL"), said("INVALID_PHONE"), UnknownLease),
        (Outcome.CANCELLED, said("INVALID_PHONE"), None, UnknownLease),
        (Outcome.CANCELLED, said("INCORECT_STATUS"), None, Unwell),
        (Outcome.CANCELLED, said("SERVER_ERROR"), None, Unwell),
        (Outcome.CANCELLED, "OK", None, Unwell),
        (Outcome.FINISHED, "", None, Unwell),
    ],
)
async def test_what_closing_a_rental_is_answered_with(
    outcome: Outcome, answer: Any, state: Any, expected: type[UpstreamError] | None
) -> None:
    """Money is back only where it was cancelled: a finished rental never counts as that."""
    answers = {"setRentStatus": answer, **({} if state is None else {"getRentStatus": state})}
    async with upstream("handler_api", answers) as (there, script):
        if expected is None:
            await there.close("rent:17", outcome)
        else:
            with pytest.raises(expected):
                await there.close("rent:17", outcome)
    assert asked(script)[0]["status"] == ("1" if outcome is Outcome.FINISHED else "2")


@pytest.mark.parametrize(
    ("outcome", "answer", "shown", "expected"),
    [
        (Outcome.FINISHED, httpx.Response(204), None, None),
        (Outcome.FINISHED, envelope(409, "ACTIVATION_NOT_ACTIVE"), None, None),
        (Outcome.CANCELLED, httpx.Response(204), None, None),
        (Outcome.CANCELLED, envelope(409, "EARLY_CANCEL_DENIED", minActivationTime=90), None, TooEarly),
        (Outcome.CANCELLED, envelope(409, "OTP_RECEIVED"), None, HasSms),
        (Outcome.CANCELLED, envelope(409, "ACTIVATION_NOT_ACTIVE"), envelope(409, "ACTIVATION_NOT_ACTIVE"), None),
        (Outcome.CANCELLED, envelope(409, "ACTIVATION_NOT_ACTIVE"), {"data": [], "meta": {"total": 0}}, NotAllowed),
        (Outcome.CANCELLED, envelope(409, "FREE_CANCELLATION_EXPIRED"), {"data": [], "meta": {"total": 0}}, NotAllowed),
        (Outcome.CANCELLED, envelope(404, "NOT_FOUND"), None, UnknownLease),
    ],
)
async def test_what_closing_is_answered_with_at_herosms(
    outcome: Outcome, answer: Any, shown: Any, expected: type[UpstreamError] | None
) -> None:
    action = "finishActivation" if outcome is Outcome.FINISHED else "cancelActivation"
    async with upstream("herosms", {action: answer, "getAllSms": shown}) as (there, _):
        if expected is None:
            await there.close("rent:17", outcome)
            return
        with pytest.raises(expected) as caught:
            await there.close("rent:17", outcome)
    assert not isinstance(caught.value, TooEarly) or caught.value.retry_seconds == 90


# --- found again ---


async def test_list_of_rentals_is_read_to_its_end_beside_the_open_orders() -> None:
    orders = {"status": "error", "error": "NO_ACTIVATIONS"}
    rentals = ({"status": "success", "values": {"0": {"id": "17", "phone": NUMBER}}}, said("NO_NUMBERS"))
    answers = {"getActiveActivations": orders, "getRentList": rentals}
    async with upstream("handler_api", answers, open_list="getActiveActivations") as (there, _):
        (found,) = await there.find(NOW + 1e6)
    assert (found.lease.reference, found.lease.number, found.is_rental) == ("rent:17", NUMBER, True)
    assert (found.service, found.country, found.created_at) == ("", -1, None), "its list does not say"


@pytest.mark.parametrize("odd", [said("SERVER_ERROR"), {"status": "success", "values": {"0": {"id": "17"}}}, "OK"])
async def test_list_of_rentals_that_makes_no_sense_is_unwell(odd: Any) -> None:
    answers = {"getActiveActivations": {"status": "error", "error": "NO_ACTIVATIONS"}, "getRentList": odd}
    async with upstream("handler_api", answers, open_list="getActiveActivations") as (there, _):
        with pytest.raises(Unwell):
            await there.find(0)


# --- a number again ---


async def test_number_is_had_again_for_a_price_that_is_asked_first() -> None:
    told = {"status": "success", "cost": 0.5, "service": "tg", "phone": int(NUMBER), "country": 16}
    answers = {"checkExtraActivation": told, "getExtraActivation": f"ACCESS_NUMBER:78:{NUMBER}"}
    async with upstream("handler_api", answers) as (there, script):
        assert await there.reuse_cost("77", NUMBER, "tg", 16) == Money(500_000, "USD")
        lease = await there.reuse(order(lease_reference="77", lease_number=NUMBER))
        with pytest.raises(SoldOut):
            await there.reuse(order(cost_max=499_999, lease_reference="77", lease_number=NUMBER))
    assert (lease.reference, lease.number) == ("78", NUMBER)
    assert asked(script)[2] == {"action": "getExtraActivation", "activationId": "77"}
    assert [request["action"] for request in asked(script)].count("getExtraActivation") == 1


async def test_herosms_reactivates_with_a_post() -> None:
    again = {**HERO_RENTED, "activationId": "78", "activationCost": 0.45, "subtype": 1}
    answers = {"reactivationPrice": {"data": {"price": 0.45}}, "reactivate": again}
    async with upstream("herosms", answers) as (there, script):
        lease = await there.reuse(order(lease_reference="77", lease_number=NUMBER))
    assert (lease.reference, lease.cost) == ("78", Money(450_000, "USD"))
    assert [request.method for request in script.requests] == ["GET", "POST"]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("RENEW_ACTIVATION_NOT_AVAILABLE", NotAllowed),
        ("SIM_OFFLINE", NotAllowed),
        ("NEW_ACTIVATION_IMPOSSIBLE", NotAllowed),
        ("WRONG_ACTIVATION_ID", UnknownLease),
        ("BAD_ID", UnknownLease),
        ("ERROR_SQL", Unwell),
    ],
)
async def test_number_that_is_not_had_again_says_why(word: str, expected: type[UpstreamError]) -> None:
    for answer in (word, said(word)):
        async with upstream("handler_api", {"checkExtraActivation": answer}) as (there, _):
            with pytest.raises(expected):
                await there.reuse_cost("77", NUMBER, "tg", 16)
            with pytest.raises(NothingTaken):
                await there.reuse(order(lease_reference="77"))


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("NEW_ACTIVATION_IMPOSSIBLE", Refused),
        ("NO_BALANCE", Refused),
        (f"ASLEEP:78:{NUMBER}:1793528000", InDoubt),
        ("ERROR_SQL", InDoubt),
        ("ACCESS_NUMBER:78", InDoubt),
    ],
)
async def test_what_a_number_used_again_is_answered_with(answer: str, expected: type[UpstreamError]) -> None:
    """`ASLEEP` names a number that was taken, and gets its messages later: not what was asked for."""
    told = {"status": "success", "cost": 0.5}
    async with upstream("handler_api", {"checkExtraActivation": told, "getExtraActivation": answer}) as (there, _):
        with pytest.raises(expected) as caught:
            await there.reuse(order(lease_reference="77"))
    assert NUMBER not in str(caught.value)


# --- a service beside ---

PRICES = {"16": {"tg": {"cost": 0.4, "count": 3}}}


async def test_service_is_added_at_its_own_price() -> None:
    answers = {"getPrices": PRICES, "getAdditionalService": f"ADDITIONAL:78:{NUMBER}"}
    async with upstream("handler_api", answers) as (there, script):
        lease = await there.add_service(order(lease_reference="77", lease_number=NUMBER))
        with pytest.raises(SoldOut):
            await there.add_service(order(cost_max=399_999, lease_reference="77", lease_number=NUMBER))
    assert (lease.reference, lease.number, lease.cost) == ("78", NUMBER, None)
    assert asked(script)[:2] == [
        {"action": "getPrices", "service": "tg", "country": "16"},
        {"action": "getAdditionalService", "id": "77", "service": "tg"},
    ]


@pytest.mark.parametrize(
    ("answer", "expected", "is_fault"),
    [
        ("WRONG_ADDITIONAL_SERVICE", Refused, False),
        ("WRONG_ACTIVATION_ID", Refused, False),
        ("WRONG_SECURITY", Refused, False),
        ("REPEAT_ADDITIONAL_SERVICE", Refused, False),
        ("NO_BALANCE", Refused, True),
        ("ERROR_SQL", InDoubt, None),
        ("ADDITIONAL", InDoubt, None),
        ("ADDITIONAL:78:soon", InDoubt, None),
        (f"ACCESS_NUMBER:78:{NUMBER}", InDoubt, None),
        (reply("", 502), InDoubt, None),
    ],
)
async def test_what_adding_a_service_is_answered_with(
    answer: Any, expected: type[UpstreamError], is_fault: bool | None
) -> None:
    async with upstream("handler_api", {"getPrices": PRICES, "getAdditionalService": answer}) as (there, _):
        with pytest.raises(expected) as caught:
            await there.add_service(order(lease_reference="77"))
    assert is_fault is None or (isinstance(caught.value, Refused) and caught.value.is_fault is is_fault)


# --- whatever comes ---

NAMES = sorted(
    {"status", "message", "values", "quantity", "data", "meta", "total", "phone", "id", "endDate", "number", "text"}
    | {"code", "date", "services", "countries", "cost", "quant", "price", "hours", "history", "options", "duration"}
    | {"rent", "activationId", "activationEndTime", "phoneNumber", "tg", "0", "title", "error", "info", "value", "unit"}
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["success", "error", "17"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=6),
    max_leaves=14,
)


@hypothesis.settings(max_examples=120, deadline=None)
@hypothesis.given(name=st.sampled_from(["handler_api", "herosms"]), data=JSON, status=st.sampled_from([200, 204, 400]))
async def test_no_answer_breaks_a_verb(name: str, data: Any, status: int) -> None:
    """Each verb returns, or raises an UpstreamError."""

    def answer(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(status, text=data) if isinstance(data, str) else reply(data, status)

    script, module = Script(answer), load(name)
    wanted = {"rents": True, "reuses": True, "adds_services": True} if name == "handler_api" else {}
    there: Any = module.build(context(script), module.Options(base_url=BASE_URL, **wanted))
    calls: list[Callable[[], Awaitable[Any]]] = [
        lambda: there.rent_countries(),
        lambda: there.rent_offers(16, 24),
        lambda: there.rent(rental()),
        lambda: there.extension_cost("rent:17", 24),
        lambda: there.extend(longer()),
        lambda: there.read(watched("rent:17")),
        lambda: there.close("rent:17", Outcome.FINISHED),
        lambda: there.close("rent:17", Outcome.CANCELLED),
        lambda: there.reuse_cost("77", NUMBER, "tg", 16),
        lambda: there.reuse(order(lease_reference="77")),
    ]
    for call in calls:
        with suppress(UpstreamError):
            await call()
    await there.aclose()
