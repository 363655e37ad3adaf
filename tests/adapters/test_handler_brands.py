"""The named brands of the `handler_api.php` family against scripted answers: what each does otherwise than the rest."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from adapters import load
from adapters._handler_api import HandlerApi
from gateway.errors import (
    InDoubt,
    NotAllowed,
    NothingTaken,
    NotReached,
    Refused,
    SoldOut,
    TooEarly,
    UnknownLease,
    Unwell,
    UpstreamError,
)
from gateway.model import Lease, LeaseState, Outcome, Progress, Sms, Watched
from gateway.money import Money
from gateway.upstream import AsksAgain, Finds, OfferTable, Pushes, ReadsMany
from tests.adapters._context import SECRET, Observed, Script, context, order, watched
from tests.adapters._handler_answers import Answers, by_action, envelope, reply

NUMBER = "447700900123"
BASE_URL = "https://upstream.test/stubs/handler_api.php"
LISTING = {"herosms", "tigersms", "grizzlysms"}
PUSHING = {"herosms", "smsbower"}
BRANDS = ["herosms", "tigersms", "smsbower", "grizzlysms", "smshub", "daisysms", "vaksms_stub", "smsman_stub"]
V2 = {"activationId": "77", "phoneNumber": NUMBER, "activationCost": 0.4}
PRICES = {"16": {"tg": {"cost": 0.4, "count": 3}}, "187": {"tg": {"cost": 0.4, "count": 3}}}


@asynccontextmanager
async def brand(
    name: str, answers: Answers, given: Mapping[str, Any] | None = None, **options: Any
) -> AsyncIterator[tuple[HandlerApi, Script]]:
    script, module = Script(by_action(answers)), load(name)
    made: Any = module.build(context(script, **(given or {})), module.Options(base_url=BASE_URL, **options))
    try:
        yield made, script
    finally:
        await made.aclose()


async def terms_of(name: str, **options: Any) -> dict[str, str]:
    """What a purchase there sends, beside key, action, service and country."""
    answers = {"getNumberV2": V2, "getNumber": f"ACCESS_NUMBER:77:{NUMBER}", "getPrices": PRICES}
    country = 187 if name == "daisysms" else 16
    wanted = order(country=country, operator="o2", phone_exceptions=("4477", "4478"))
    async with brand(name, answers, **options) as (there, script):
        await there.buy(wanted)
    params = dict(script.requests[-1].url.params)
    return {key: value for key, value in params.items() if key not in ("api_key", "action", "service", "country")}


def ladder(table: OfferTable, service: str = "tg", country: int = 16) -> list[tuple[int, int]]:
    return [(offer.cost.micros, offer.count) for offer in table.at(service, country)]


# --- what all of them claim ---


@pytest.mark.parametrize("name", BRANDS)
async def test_abilities_are_those_the_brand_has(name: str) -> None:
    async with brand(name, {}) as (there, _):
        assert isinstance(there, ReadsMany) is (name in LISTING)
        assert isinstance(there, Finds) is (name in LISTING)
        assert isinstance(there, Pushes) is (name in PUSHING)
        assert isinstance(there, AsksAgain)


@pytest.mark.parametrize("name", BRANDS)
async def test_every_request_is_a_get_that_never_says_ready(name: str) -> None:
    answers = {
        "getNumberV2": {**V2, "activationId": "77"},
        "getNumber": f"ACCESS_NUMBER:77:{NUMBER}",
        "getPrices": PRICES,
        "setStatus": "ACCESS_ACTIVATION",
    }
    async with brand(name, answers) as (there, script):
        lease = await there.buy(order(country=187 if name == "daisysms" else 16))
        await there.close(lease.reference, Outcome.FINISHED)
    assert {request.method for request in script.requests} == {"GET"}
    assert [request.url.params["status"] for request in script.requests if "status" in request.url.params] == ["6"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("herosms", {"maxPrice": "0.50", "operator": "o2", "phoneException": "4477,4478"}),
        ("tigersms", {"maxPrice": "0.50"}),
        ("smsbower", {"maxPrice": "0.50", "operator": "o2", "phoneException": "4477,4478"}),
        ("grizzlysms", {"maxPrice": "0.50", "operator": "o2", "phoneException": "4477,4478"}),
        ("smshub", {"maxPrice": "0.50", "currency": "840", "operator": "o2", "phoneException": "4477,4478"}),
        ("daisysms", {"max_price": "0.50", "carriers": "o2"}),
        ("vaksms_stub", {"maxPrice": "0.50", "operator": "o2", "phoneException": "4477,4478"}),
        ("smsman_stub", {"maxPrice": "0.50", "operator": "o2", "phoneException": "4477,4478"}),
    ],
)
async def test_purchases_carry_what_the_brand_honours(name: str, expected: dict[str, str]) -> None:
    assert await terms_of(name) == expected


@pytest.mark.parametrize("name", ["tigersms", "smsbower", "grizzlysms"])
async def test_providers_are_chosen_by_the_stanza(name: str) -> None:
    terms = await terms_of(name, provider_ids=[7, 1011], except_provider_ids=[9])
    assert (terms["providerIds"], terms["exceptProviderIds"]) == ("7,1011", "9")


@pytest.mark.parametrize("name", ["herosms", "smshub", "daisysms", "vaksms_stub", "smsman_stub"])
def test_providers_are_no_option_where_they_are_ignored(name: str) -> None:
    with pytest.raises(ValidationError):
        load(name).Options(base_url=BASE_URL, provider_ids=[7])


@pytest.mark.parametrize("name", BRANDS)
def test_any_is_a_country_at_grizzly_only(name: str) -> None:
    options = {"base_url": BASE_URL, "countries": {16: "any"}}
    if name == "grizzlysms":
        load(name).Options(**options)
        return
    with pytest.raises(ValidationError, match="no country 'any'"):
        load(name).Options(**options)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("herosms", envelope(401, "BAD_KEY")),
        ("tigersms", reply("BAD_KEY", 401)),
        ("smsbower", reply({"status": 0, "message": "No access", "data": []}, 401)),
        ("grizzlysms", reply("BAD_KEY")),
        ("smshub", reply("API_KEY_NOT_VALID")),
        ("daisysms", reply("BAD_KEY")),
        ("smsman_stub", reply("BAD_KEY")),
    ],
)
async def test_a_bad_key_is_known_in_every_shape(name: str, given: httpx.Response) -> None:
    async with brand(name, {"getNumberV2": given, "getNumber": given, "getBalance": given}) as (there, _):
        for call in (there.buy(order(country=187 if name == "daisysms" else 16)), there.balance()):
            with pytest.raises(Refused) as caught:
                await call
            assert caught.value.is_fault


@pytest.mark.parametrize(
    ("name", "word", "expected", "is_fault"),
    [
        ("tigersms", "BAD_MAX_PRICE", SoldOut, None),
        ("tigersms", "NO_PROVIDERS", SoldOut, None),
        ("tigersms", "BAD_PROVIDER_IDS", Refused, True),
        ("smsbower", "WRONG_SERVICE", Refused, False),
        ("grizzlysms", "SERVICE_UNAVAILABLE_REGION", Refused, False),
        ("grizzlysms", "This service is prohibited for sale in your country", Refused, False),
        ("smshub", "BAD_CURRENCY", Refused, True),
        ("smshub", "NO_ACTION", Refused, True),
        ("daisysms", "MAX_PRICE_EXCEEDED", SoldOut, None),
        ("daisysms", "NO_MONEY", Refused, True),
        ("daisysms", "TOO_MANY_ACTIVE_RENTALS", Refused, True),
    ],
)
async def test_refusals_of_a_brand_are_known(
    name: str, word: str, expected: type[UpstreamError], is_fault: bool | None
) -> None:
    async with brand(name, {"getNumberV2": word, "getNumber": word}) as (there, _):
        with pytest.raises(expected) as caught:
            await there.buy(order(country=187 if name == "daisysms" else 16))
    assert getattr(caught.value, "is_fault", None) is is_fault


# --- Tiger SMS ---


async def test_tiger_reads_rows_with_their_code_at_once() -> None:
    wide = "9223372036854775801"
    rows = [
        {"activationId": wide, "phoneNumber": NUMBER, "activationStatus": "6", "smsCode": ["55"], "smsText": "Code 55"},
        {"activationId": "2", "phoneNumber": NUMBER, "activationStatus": "8", "smsCode": None, "smsText": None},
    ]
    async with brand("tigersms", {"getActiveActivations": {"status": "success", "data": rows}}) as (there, _):
        assert isinstance(there, ReadsMany)
        read = await there.read_many([Watched(wide, 1), Watched("2", 1)])
    assert read == {wide: Progress(LeaseState.OPEN, (Sms("55", "Code 55", identity="1:55"),))}


async def test_a_row_with_six_is_over_elsewhere_and_read_singly() -> None:
    rows = [{"activationId": "1", "phoneNumber": NUMBER, "activationStatus": "6", "smsCode": "55"}]
    async with brand("grizzlysms", {"getActiveActivations": rows}) as (there, _):
        assert isinstance(there, ReadsMany)
        assert await there.read_many([watched("1")]) == {}


async def test_tiger_ladders_are_made_plain() -> None:
    prices = {"0.2500": 41, "0.3000": 45}
    listed = {"16": {"tg": {"prices": prices, "has_multi": True, "saleAveragePrice": "0.27"}}}
    async with brand("tigersms", {"getPricesV2": listed}) as (there, _):
        assert ladder(await there.offers()) == [(250_000, 41), (300_000, 4)]


async def test_tiger_cancel_tells_the_wait_and_a_cancelled_order_its_own_word() -> None:
    answers = {"setStatus": envelope(409, "EARLY_CANCEL_DENIED", minActivationTime=90), "getStatus": "ACCESS_CANCEL"}
    async with brand("tigersms", answers) as (there, _):
        with pytest.raises(TooEarly) as caught:
            await there.close("77", Outcome.CANCELLED)
        assert caught.value.retry_seconds == 90
        assert await there.read(watched()) == Progress(LeaseState.CANCELLED)


async def test_tiger_edge_is_a_fault_and_takes_nothing() -> None:
    limited = reply("Too Many Requests", 429)
    async with brand("tigersms", {"getNumberV2": limited}) as (there, _):
        with pytest.raises(Refused) as caught:
            await there.buy(order())
    assert caught.value.is_fault


# --- SMSBower ---


async def test_bower_asks_by_price_and_by_provider_where_these_are_chosen() -> None:
    by_provider = {"16": {"tg": {"7": {"count": 5, "price": 0.2}, "9": {"count": 2, "price": 0.1}}}}
    answers = {"getPricesV2": {"16": {"tg": {"0.20": 5, "0.10": 2}}}, "getPricesV3": by_provider}
    async with brand("smsbower", answers) as (there, _):
        assert ladder(await there.offers()) == [(100_000, 2), (200_000, 5)]
    async with brand("smsbower", answers, provider_ids=[7]) as (there, _):
        assert ladder(await there.offers()) == [(200_000, 5)]
    async with brand("smsbower", answers, except_provider_ids=[7]) as (there, _):
        assert ladder(await there.offers()) == [(100_000, 2)]


async def test_numbers_of_a_brands_own_stand_for_our_countries() -> None:
    answers = {"getPricesV2": {"1001": {"tg": {"0.20": 5}}, "1009": {"tg": {"0.20": 5}}}, "getNumberV2": V2}
    async with brand("smsbower", answers) as (there, script):
        assert ladder(await there.offers(), country=182) == [(200_000, 5)]
        assert there.unmapped == {"country 1009": 5}
        await there.buy(order(country=182))
    assert script.requests[-1].url.params["country"] == "1001"


async def test_a_stanza_overrules_a_brands_own_numbers() -> None:
    async with brand("smsbower", {"getNumberV2": V2}, countries={182: "182"}) as (there, script):
        await there.buy(order(country=182))
    assert script.requests[-1].url.params["country"] == "182"


@pytest.mark.parametrize("given", [{"error": "Bad service"}, reply({"status": 0, "message": "No access"}, 401)])
async def test_bower_price_list_that_is_an_error_is_unwell(given: Any) -> None:
    async with brand("smsbower", {"getPricesV2": given}) as (there, _):
        with pytest.raises(Unwell):
            await there.offers()


# --- GrizzlySMS ---

GRIZZLY = {**V2, "activationCancel": "2026-11-01 10:00:40", "activationEnd": "2026-11-01 10:20:00"}
TEN = 1793527200.0  # 2026-11-01 10:00:00 UTC


@pytest.mark.parametrize(
    ("now", "wait_seconds"), [(TEN, 40.0), (TEN + 39.5, 0.5), (TEN + 50, 120.0), (0.0, 120.0), (TEN - 9000, 120.0)]
)
async def test_grizzly_waits_until_the_time_the_order_told(now: float, wait_seconds: float) -> None:
    answers = {"getNumberV2": GRIZZLY, "setStatus": "EARLY_CANCEL_DENIED"}
    async with brand("grizzlysms", answers, {"clock": lambda: now}) as (there, _):
        lease = await there.buy(order())
        assert lease.expires_at == TEN + 1200
        with pytest.raises(TooEarly) as caught:
            await there.close(lease.reference, Outcome.CANCELLED)
    assert caught.value.retry_seconds == wait_seconds


async def test_grizzly_list_is_asked_for_in_one_piece() -> None:
    async with brand("grizzlysms", {"getActiveActivations": "[]"}) as (there, script):
        assert isinstance(there, Finds)
        assert await there.find(0) == []
    assert "limit" not in script.requests[0].url.params


# --- SMSHub ---


@pytest.mark.parametrize(("currency", "number"), [("USD", "840"), ("RUB", "643"), ("NGN", None)])
async def test_smshub_is_told_the_currency_of_the_stanza(currency: str, number: str | None) -> None:
    async with brand("smshub", {"getBalance": "ACCESS_BALANCE:5.50"}, {"currency": currency}) as (there, script):
        assert await there.balance() == Money(5_500_000, currency)
    assert script.requests[0].url.params.get("currency") == number


async def test_smshub_list_maps_prices_to_counts() -> None:
    async with brand("smshub", {"getPrices": {"16": {"tg": {"0.20": 4, "0.15": 123}}}}) as (there, _):
        assert ladder(await there.offers()) == [(150_000, 123), (200_000, 4)]


async def test_smshub_list_of_orders_is_a_setting() -> None:
    rows = {"status": "success", "array": [{"id": 5, "phone": NUMBER, "status": "2"}], "time": 1}
    answers = {"getCurrentActivations": rows}
    async with brand("smshub", answers, open_list="getCurrentActivations") as (there, _):
        assert isinstance(there, ReadsMany)
        assert await there.read_many([watched("5")]) == {"5": Progress(LeaseState.OPEN)}


# --- shops in the manner of DaisySMS ---

DAISY_BOUGHT = httpx.Response(200, text="ACCESS_NUMBER:77:12025550123", headers={"X-Price": "0.31"})


async def test_daisy_names_no_country_and_sells_one() -> None:
    async with brand("daisysms", {"getNumber": DAISY_BOUGHT}) as (there, script):
        lease = await there.buy(order(country=187))
        with pytest.raises(Refused):
            await there.buy(order(country=16))
    assert lease == Lease("77", "12025550123", Money(310_000, "USD"))
    assert len(script.requests) == 1
    assert "country" not in script.requests[0].url.params


async def test_daisy_wishes_come_from_the_stanza() -> None:
    terms = await terms_of("daisysms", areas=["503", "202"], carriers=["tmo", "vz"])
    assert (terms["areas"], terms["carriers"]) == ("503,202", "o2")
    async with brand("daisysms", {"getNumber": DAISY_BOUGHT}, carriers=["tmo", "vz"]) as (there, script):
        await there.buy(order(country=187))
    assert script.requests[0].url.params["carriers"] == "tmo,vz"


@pytest.mark.parametrize("in_header", [True, False])
async def test_daisy_key_goes_where_the_stanza_says(in_header: bool) -> None:
    async with brand("daisysms", {"getNumber": DAISY_BOUGHT}, key_in_header=in_header) as (there, script):
        await there.buy(order(country=187))
    (request,) = script.requests
    assert (SECRET in str(request.url)) is not in_header
    assert (request.headers.get("x-api-key") == SECRET) is in_header


async def test_daisy_tells_the_whole_text_in_a_header() -> None:
    answers = {"getStatus": httpx.Response(200, text="STATUS_OK:55", headers={"X-Text": "Your code is 55"})}
    async with brand("daisysms", answers) as (there, script):
        (sms,) = (await there.read(watched())).messages
    assert (sms.code, sms.text, sms.identity) == ("55", "Your code is 55", "1:55")
    assert [request.url.params["text"] for request in script.requests] == ["1"]


async def test_daisy_gives_one_sms_a_number_unless_the_stanza_says_more() -> None:
    async with brand("daisysms", {"getStatus": ("STATUS_OK:55", "NO_ACTIVATION")}) as (there, _):
        with pytest.raises(NotAllowed):
            await there.ask_again("77")
        with pytest.raises(UnknownLease):
            await there.ask_again("77")
    async with brand("daisysms", {"setStatus": "ACCESS_RETRY_GET"}, another_sms=True) as (there, script):
        await there.ask_again("77")
    assert script.requests[0].url.params["status"] == "3"


# --- vak-sms ---


async def test_vague_word_of_an_unknown_id_is_told_from_a_bad_key() -> None:
    answers: Answers = {"getStatus": "BAD_ACTION", "getBalance": "ACCESS_BALANCE:1.0"}
    async with brand("vaksms_stub", answers) as (there, _):
        assert await there.read(watched()) == Progress(LeaseState.UNKNOWN)
    for balance in ("BAD_ACTION", reply("<html>", 502)):
        async with brand("vaksms_stub", {**answers, "getBalance": balance}) as (there, _):
            with pytest.raises(Unwell):
                await there.read(watched())


@pytest.mark.parametrize(
    ("prices", "expected"),
    [
        ({"16": {"tg": {"cost": 0.51, "count": 9}}}, SoldOut),
        ({"16": {"tg": {"cost": 0.4, "count": 0}}}, SoldOut),
        ("[]", SoldOut),
        ("BAD_ACTION", Refused),
        (reply("<html>", 502), Refused),
        (httpx.ReadTimeout("late"), Refused),
        (httpx.ConnectError("refused"), NotReached),
    ],
)
async def test_nothing_is_bought_above_the_price_or_without_knowing_it(
    prices: Any, expected: type[NothingTaken]
) -> None:
    async with brand("vaksms_stub", {"getPrices": prices}) as (there, script):
        with pytest.raises(expected) as caught:
            await there.buy(order())
    assert [request.url.params["action"] for request in script.requests] == ["getPrices"]
    assert getattr(caught.value, "is_fault", True)


@pytest.mark.parametrize(("price_first", "actions"), [(True, ["getPrices", "getNumber"]), (False, ["getNumber"])])
@pytest.mark.parametrize("name", ["vaksms_stub", "smsman_stub"])
async def test_asking_the_price_first_is_a_setting(name: str, price_first: bool, actions: list[str]) -> None:
    answers = {"getPrices": PRICES, "getNumber": f"ACCESS_NUMBER:77:{NUMBER}"}
    async with brand(name, answers, price_first=price_first) as (there, script):
        assert (await there.buy(order())).cost is None
    assert [request.url.params["action"] for request in script.requests] == actions


async def test_the_question_of_the_price_is_reported_as_such() -> None:
    observed = Observed()
    answers = {"getPrices": PRICES, "getNumber": f"ACCESS_NUMBER:77:{NUMBER}"}
    async with brand("vaksms_stub", answers, {"observe": observed}) as (there, _):
        await there.buy(order())
    assert observed.calls == [("price", "ok"), ("buy", "ok")]


async def test_purchase_after_the_price_is_still_in_doubt_when_lost() -> None:
    async with brand("vaksms_stub", {"getPrices": PRICES, "getNumber": httpx.ReadTimeout("late")}) as (there, _):
        with pytest.raises(InDoubt):
            await there.buy(order())
