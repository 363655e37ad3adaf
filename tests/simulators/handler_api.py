"""An upstream that speaks the `handler_api.php` protocol: one engine, one `Brand` of differences per provider.

Wire facts: the family notes (matrix §2, brands §3 to §8, checklist §11) and the protocol reference (state machine §3,
actions §4 to §6). `herosms` answers errors with an HTTP status and a JSON envelope; `generic` is the reference dialect,
a bare token with 200. Another family member is another `Brand` value; only a shape nobody has yet needs code.

Brands that push tell each SMS to one address, `--webhook-url` or `POST /_sim/webhook {"url": …}` (null: to nobody).
"""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.simulators import _common, _serve
from tests.simulators._common import Amount, Clock, compact_json, money
from tests.simulators._handler_brands import (
    BRANDS,
    FEW_DIALECTS,
    SERVICES,
    USD,
    Brand,
    Params,
    Refusal,
    json_reply,
    refused,
    text,
    unprocessable,
)
from tests.simulators._handler_engine import HandlerApi, Order, Wish
from tests.simulators._handler_lists import (
    get_numbers_status,
    get_prices,
    get_prices_v2,
    get_prices_v3,
    get_prices_verification,
)
from tests.simulators._handler_rent_actions import RENT_ACTIONS, reactivated, renamed_messages, renamed_row

PATH = "/stubs/handler_api.php"
DEFAULT_KEY = "simulator-key"
USD_NUMBER = "840"
PHONE_EXCEPTIONS_MAX = 20


# --- actions ----------------------------------------------------------------------------------------------------------


Action = Callable[[HandlerApi, Params], Response]


def get_balance(sim: HandlerApi, params: Params) -> Response:
    _check_currency(sim.brand, params)
    if params.get("format") == "json" and sim.brand.balance_json:
        return json_reply({"balance": f"{sim.balance:.4f}", "currency": USD})
    return text(f"ACCESS_BALANCE:{sim.balance:.4f}")


def _check_currency(brand: Brand, params: Params) -> None:
    if brand.currencies and params.get("currency", USD_NUMBER) not in brand.currencies:
        raise Refusal("BAD_CURRENCY")


def get_number(sim: HandlerApi, params: Params) -> Response:
    try:
        order = _buy(sim, params)
    except Refusal as refusal:
        return _first_version(sim.brand, refusal)
    answer = text(f"ACCESS_NUMBER:{order.id}:{order.phone}")
    if sim.brand.tells_price:
        answer.headers["X-Price"] = f"{order.price:.2f}"
    return answer


def _first_version(brand: Brand, refusal: Refusal) -> Response:
    """HeroSMS answers a wrong name in getNumber with text and 200, where getNumberV2 has a 422 envelope."""
    if brand.words.get(refusal.token) == "UNPROCESSABLE_ENTITY":
        return text(f"UNPROCESSABLE_ENTITY:{refusal.info['field']}:{refusal.info['code']}")
    return refused(brand, refusal, "getNumber")


def get_number_v2(sim: HandlerApi, params: Params) -> Response:
    order = _buy(sim, params)
    match sim.brand.number_v2:
        case "hero":
            return json_reply(_hero_number(sim, order))
        case "grizzly":
            opens_at = order.bought_at + sim.brand.early_cancel_seconds
            times = {"activationCancel": _plain_time(opens_at), "activationEnd": _plain_time(order.ends_at)}
            return json_reply({**_reference_number(order), **times})
    return json_reply(_reference_number(order))


def _buy(sim: HandlerApi, params: Params) -> Order:
    brand = sim.brand
    country = brand.only_country or params.get("country", brand.default_country)
    if "service" not in params:
        raise unprocessable("BAD_SERVICE", "service", "REQUIRED")
    if country is None:
        raise unprocessable("BAD_COUNTRY", "country", "REQUIRED")
    _check_currency(brand, params)
    return sim.buy(params["service"], country, _wish(brand, params))


def _wish(brand: Brand, params: Params) -> Wish:
    return Wish(
        operator=params.get("carriers", params.get("operator")) if brand.takes_operators else None,
        price_max=_price_max(brand, params),
        fixed_price=params.get("fixedPrice") in ("1", "true"),
        phone_exceptions=_phone_exceptions(params) if brand.takes_phone_exceptions else (),
        areas=tuple(params.get("areas", "").split(",")) if brand.only_country and params.get("areas") else (),
        providers=_provider_ids(brand, params, "providerIds", "BAD_PROVIDER_IDS"),
        excluded_providers=_provider_ids(brand, params, "exceptProviderIds", "BAD_EXCEPT_PROVIDER_IDS"),
    )


def _provider_ids(brand: Brand, params: Params, name: str, refusal: str) -> frozenset[int]:
    given = [word for word in params.get(name, "").split(",") if word] if brand.chooses_providers else []
    if not all(word.isdigit() for word in given):
        raise Refusal(refusal)
    return frozenset(map(int, given))


def _price_max(brand: Brand, params: Params) -> Decimal | None:
    given = next((params[name] for name in brand.price_max_names if name in params), None)
    try:
        return None if given is None else money(given)
    except ArithmeticError:
        raise Refusal("ERROR_SQL") from None


def _phone_exceptions(params: Params) -> tuple[str, ...]:
    prefixes = tuple(prefix for prefix in params.get("phoneException", "").split(",") if prefix)
    if len(prefixes) > PHONE_EXCEPTIONS_MAX or not all(prefix.isdigit() for prefix in prefixes):
        raise Refusal("WRONG_EXCEPTION_PHONE")
    return prefixes


def _reference_number(order: Order) -> dict[str, Any]:
    return {
        "activationId": int(order.id),
        "phoneNumber": order.phone,
        "activationCost": float(order.price),
        "currency": USD,
        "countryCode": order.country,
        "canGetAnotherSms": "1",
        "activationTime": _plain_time(order.bought_at),
        "activationOperator": order.operator,
    }


def _hero_number(sim: HandlerApi, order: Order) -> dict[str, Any]:
    return {
        "activationId": order.id,
        "phoneNumber": order.phone,
        "activationCost": float(order.price),
        "currency": USD,
        "countryCode": int(order.country),
        "countryPhoneCode": int(sim.countries[order.country].dial),
        "canGetAnotherSms": True,
        "activationTime": _zoned_time(order.bought_at),
        "activationEndTime": _zoned_time(order.ends_at),
        "activationOperator": order.operator,
        "operator": order.operator,
        "verificationType": "sms",
        "subtype": 1,
        "serviceCode": order.service,
        "status": 4,
    }


def reactivate(sim: HandlerApi, params: Params) -> Response:
    return json_reply(_hero_number(sim, reactivated(sim, params)))


def get_status(sim: HandlerApi, params: Params) -> Response:
    order = _told(sim, params)
    answer = text(_status(sim.brand, order))
    if sim.brand.text_header and params.get("text") == "1" and order.sms:
        answer.headers["X-Text"] = " ".join(order.sms[-1].text.split())
    return answer


def _order(sim: HandlerApi, params: Params) -> Order:
    return sim.order(params.get("id", ""))


def _told(sim: HandlerApi, params: Params) -> Order:
    order = _order(sim, params)
    told = sim.told(order)
    if told is None:
        raise Refusal("NO_ACTIVATION")
    if told is not order:
        sim.called_over.add(order.id)
    return told


def _status(brand: Brand, order: Order) -> str:
    """The token of section 3.1. Ended by time with a code, an order still shows it; ended by a client, it does not."""
    match order.state:
        case "waiting":
            return "STATUS_WAIT_CODE"
        case "received":
            return f"STATUS_OK:{order.sms[-1].code}"
        case "expired" if order.sms:
            return f"STATUS_OK:{order.sms[-1].code}"
        case "retry":
            return f"STATUS_WAIT_RETRY:{order.sms[-1].code}"
        case "cancelled":
            return brand.cancelled_word
        case _:
            return "STATUS_CANCEL"


def get_status_v2(sim: HandlerApi, params: Params) -> Response:
    order = _told(sim, params)
    if _status(sim.brand, order) in ("STATUS_CANCEL", "ACCESS_CANCEL"):
        return text("STATUS_CANCEL")
    sms = order.sms[-1] if order.sms else None
    shown = sms and {"dateTime": _plain_time(sms.at), "code": sms.code, "text": sms.text}
    return json_reply({"verificationType": 0, "sms": shown, "call": None})


def get_full_sms(sim: HandlerApi, params: Params) -> Response:
    order = _told(sim, params)
    if order.sms:
        return text(f"FULL_SMS:{order.sms[-1].text}")
    return text(_status(sim.brand, order))


def get_all_sms(sim: HandlerApi, params: Params) -> Response:
    if params.get("id") in sim.rents.rentals:
        return renamed_messages(sim.rents.rental(params["id"]), params)
    order = _told(sim, params)
    rows = [
        {
            "id": f"{order.id}{number}",
            "phoneFrom": SERVICES[order.service][0],
            "code": sms.code,
            "text": sms.text,
            "service": order.service,
            "date": _zoned_time(sms.at),
            "type": "sms",
        }
        for number, sms in enumerate(order.sms)
    ]
    return json_reply({"data": rows, "meta": {"total": len(rows), "service": order.service}})


def set_status(sim: HandlerApi, params: Params) -> Response:
    move = params.get("status", "")
    if move in ("8", "-1") and sim.brand.vain_cancel_is_ready:
        return _vague_cancel(sim, params)
    order = _order(sim, params)
    if move not in sim.brand.moves:
        raise Refusal("BAD_STATUS")
    moves = {"1": sim.ready, "3": sim.ask_again, "6": sim.finish, "8": sim.cancel, "-1": sim.cancel}
    return text(moves[move](order))


def _vague_cancel(sim: HandlerApi, params: Params) -> Response:
    """DaisySMS: "missing or already has the code" are one answer, which sounds like success."""
    try:
        return text(sim.cancel(_order(sim, params)))
    except Refusal as refusal:
        if refusal.token == "EARLY_CANCEL_DENIED":
            raise
        return text("ACCESS_READY")


def finish_activation(sim: HandlerApi, params: Params) -> Response:
    if params.get("id") in sim.rents.rentals:
        sim.rents.finish(sim.rents.rental(params["id"]))
    else:
        sim.finish(_order(sim, params))
    return Response(status_code=204)


def cancel_activation(sim: HandlerApi, params: Params) -> Response:
    if params.get("id") in sim.rents.rentals:
        sim.rents.cancel(sim.rents.rental(params["id"]))
    else:
        sim.cancel(_order(sim, params))
    return Response(status_code=204)


def get_active_activations(sim: HandlerApi, params: Params) -> Response:
    """The open orders, newest first. Rows are kept as text, so a page costs a join and not a serialisation."""
    start, limit = _page(sim.brand, params)
    rented = [renamed_row(sim, rental) for rental in reversed(sim.rents.open())] if sim.rents.is_renamed else []
    listed: Iterator[str | Order] = itertools.chain(rented, _listed(sim))
    page = itertools.islice(listed, start, None if limit is None else start + limit)
    rows = [order if isinstance(order, str) else order.row or _row(sim, order) for order in page]
    return Response(_list_body(sim.brand, rows), media_type="application/json")


def _listed(sim: HandlerApi) -> Iterator[Order]:
    """The open orders, the newest first, without those that are lied about."""
    for order in reversed(sim.open.values()):
        if sim.told(order) is order:
            yield order


def _page(brand: Brand, params: Params) -> tuple[int, int | None]:
    if brand.active_page is None:
        return 0, None
    usual, most = brand.active_page
    try:
        start, limit = int(params.get("start", "0")), int(params.get("limit", usual))
    except ValueError:
        raise unprocessable("BAD_VALUES", "start") from None
    return max(start, 0), min(max(limit, 0), most)


def _row(sim: HandlerApi, order: Order) -> str:
    order.row = compact_json(
        {
            "activationId": order.id,
            "serviceCode": order.service,
            "phoneNumber": order.phone,
            "activationCost": float(order.price),
            "activationStatus": sim.brand.active_statuses[order.state],
            "smsCode": _codes(sim.brand, order),
            "smsText": order.sms[-1].text if order.sms else None,
            "activationTime": _plain_time(order.bought_at),
            "discount": "0.00",
            "repeated": "0",
            "countryCode": order.country,
            "countryName": sim.countries[order.country].eng,
            "canGetAnotherSms": 1 if sim.brand.active_list == "hero" else "1",
            "currency": USD,
            **({"verificationType": "sms", "subtype": 1} if sim.brand.active_list == "hero" else {}),
        }
    )
    return order.row


def _codes(brand: Brand, order: Order) -> list[str] | str | None:
    if not order.sms:
        return None
    return order.sms[-1].code if brand.active_code == "text" else [sms.code for sms in order.sms]


def _list_body(brand: Brand, rows: list[str]) -> str:
    joined = ",".join(rows)
    match brand.active_list:
        case "array":
            return f"[{joined}]"
        case "hero":
            legacy = compact_json({"affected_rows": len(rows), "num_rows": len(rows), "row": [], "rows": []})
            return f'{{"status":"success","data":[{joined}],"activeActivations":{legacy}}}'
        case "data":
            return f'{{"status":"success","data":[{joined}]}}'
        case "reference" if not rows:
            return '{"status":"error","error":"NO_ACTIVATIONS"}'
    return f'{{"status":"success","activeActivations":[{joined}]}}'


def get_countries(sim: HandlerApi, params: Params) -> Response:
    """An object by id, or an array; SMSBower writes ids as text, and had a row without one."""
    rows: dict[str, dict[str, Any]] = {
        id_: {
            "id": int(id_),
            "rus": c.rus,
            "eng": c.eng,
            "chn": c.eng,
            "visible": 1,
            "retry": 1,
            "rent": int(sim.brand.rents != "no" and id_ in sim.rents.countries),
        }
        for id_, c in sim.countries.items()
    }
    match sim.brand.countries:
        case "array":
            return json_reply(list(rows.values()))
        case "text ids":
            named = {id_: {**row, "id": id_} for id_, row in rows.items()}
            return json_reply({**named, "": {"id": "", "rus": "", "eng": "", "chn": ""}})
    return json_reply(rows)


def get_services_list(sim: HandlerApi, params: Params) -> Response:
    services = [{"code": code, "name": name} for code, (name, _) in SERVICES.items()]
    return json_reply({"status": "success", "services": services})


def get_operators(sim: HandlerApi, params: Params) -> Response:
    wanted = params.get("country")
    if wanted is None:
        listed = {id_: list(country.operators) for id_, country in sim.countries.items()}
    elif wanted in sim.countries:
        listed = {wanted: list(sim.countries[wanted].operators)}
    elif sim.brand.operators_not_found:
        return json_reply({"status": "error", "error": "OPERATORS_NOT_FOUND"})
    else:
        listed = {wanted: []}
    return json_reply({"status": "success", "countryOperators": listed})


ACTIONS: dict[str, tuple[str, Action]] = {
    "getBalance": ("balance", get_balance),
    "getNumber": ("buy", get_number),
    "getNumberV2": ("buy", get_number_v2),
    "getStatus": ("status", get_status),
    "getStatusV2": ("status", get_status_v2),
    "getFullSms": ("status", get_full_sms),
    "getAllSms": ("status", get_all_sms),
    "setStatus": ("close", set_status),
    "finishActivation": ("close", finish_activation),
    "cancelActivation": ("close", cancel_activation),
    "getPrices": ("prices", get_prices),
    "getPricesV2": ("prices", get_prices_v2),
    "getFreePrices": ("prices", get_prices_v2),
    "getPricesV3": ("prices", get_prices_v3),
    "getPricesVerification": ("prices", get_prices_verification),
    "getNumbersStatus": ("prices", get_numbers_status),
    "getActiveActivations": ("list", get_active_activations),
    "getCountries": ("prices", get_countries),
    "getServicesList": ("prices", get_services_list),
    "getOperators": ("prices", get_operators),
    "reactivate": ("reuse", reactivate),
    **RENT_ACTIONS,
}
"""Action -> the target its faults are named after, and who answers it."""


def _time(when: float) -> datetime:
    return datetime.fromtimestamp(when, UTC)


def _plain_time(when: float) -> str:
    return f"{_time(when):%Y-%m-%d %H:%M:%S}"


def _zoned_time(when: float) -> str:
    return f"{_time(when):%Y-%m-%dT%H:%M:%S}+00:00"


# --- the application --------------------------------------------------------------------------------------------------


async def _parameters(request: Request) -> dict[str, str]:
    """Query and form merged, the query winning; empty values count as absent, stray blanks in names are forgiven."""
    pairs = parse_qsl(request.scope["query_string"].decode("latin-1"))
    if request.method == "POST":
        pairs = parse_qsl((await request.body()).decode("latin-1")) + pairs
    return {name.strip(): value for name, value in pairs}


def _admit(sim: HandlerApi, action: str, params: Params) -> None:
    """Action, then key, as the vendors check; raises the Refusal to answer."""
    is_rare = action in FEW_DIALECTS and action not in sim.brand.extra_actions
    if action not in ACTIONS or action in sim.brand.missing_actions or is_rare:
        raise Refusal("BAD_ACTION")
    if action in sim.brand.keyless_actions:
        return
    if "api_key" not in params:
        raise Refusal("NO_KEY")
    if params["api_key"] not in sim.keys or sim.faults.take("bad_key"):
        raise Refusal("BAD_KEY")


async def _handle(sim: HandlerApi, request: Request) -> Response:
    sim.advance()
    params = await _parameters(request)
    may_post = sim.brand.post_allowed or params.get("action") in sim.brand.post_actions
    if request.method == "POST" and not may_post:
        return Response(compact_json({"message": "Method not allowed"}), 405, media_type="application/json")
    if sim.brand.header_key and "x-api-key" in request.headers:
        params.setdefault("api_key", request.headers["x-api-key"])
    if sim.webhooks is not None:
        sim.webhooks.start()
    action = params.get("action", "")
    sim.requests[action] += 1
    if sim.over_limit():
        return sim.rate_limited()
    try:
        _admit(sim, action, params)
    except Refusal as refusal:
        return refused(sim.brand, refusal, params.get("action", ""))
    target, act = ACTIONS[action]
    return await sim.answer(request, target, lambda: _performed(sim, act, params))


def _performed(sim: HandlerApi, act: Action, params: Params) -> Response:
    try:
        return act(sim, params)
    except Refusal as refusal:
        return refused(sim.brand, refusal, params.get("action", ""))


async def _set_webhook(sim: HandlerApi, request: Request) -> Response:
    try:
        sim.set_webhook((await request.json())["url"])
    except (ValueError, TypeError, KeyError) as mistake:
        return Response(compact_json({"error": str(mistake)}), 400, media_type="application/json")
    if sim.webhooks is not None:
        sim.webhooks.start()
    return json_reply(sim.counters())


def build(
    *,
    brand: str | Brand = "herosms",
    keys: Iterable[str] = (DEFAULT_KEY,),
    balance: Amount = "1000",
    stock: int = 5000,
    sms_delay_seconds: float | None = 1.0,
    early_cancel_seconds: float | None = None,
    life_seconds: float = 1200.0,
    requests_per_second: int | None = None,
    clock: Clock = time.time,
    webhook_url: str | None = None,
) -> Starlette:
    """The simulator as an ASGI application; its state is `app.state.sim`.

    `sms_delay_seconds` None (or negative) delivers nothing by itself; `early_cancel_seconds` None keeps the brand's.
    """
    chosen = BRANDS[brand] if isinstance(brand, str) else brand
    if early_cancel_seconds is not None:
        chosen = replace(chosen, early_cancel_seconds=early_cancel_seconds)
    sim = HandlerApi(
        brand=chosen,
        keys=keys,
        balance=balance,
        stock=stock,
        sms_delay_seconds=sms_delay_seconds,
        life_seconds=life_seconds,
        requests_per_second=requests_per_second,
        clock=clock,
        webhook_url=webhook_url,
    )

    async def handler(request: Request) -> Response:
        return await _handle(sim, request)

    async def webhook(request: Request) -> Response:
        return await _set_webhook(sim, request)

    routes = [Route(PATH, handler, methods=["GET", "POST"]), Route("/_sim/webhook", webhook, methods=["POST"])]
    app = Starlette(routes=[*routes, *_common.control_routes(sim)])
    app.state.sim = sim
    return app


def main() -> None:
    flags = _serve.parser("An upstream that speaks the handler_api.php protocol.")
    flags.add_argument("--brand", choices=sorted(BRANDS), help="whose dialect (default herosms)")
    flags.add_argument("--early-cancel-seconds", type=float, help="cancels are refused for so long after a purchase")
    flags.add_argument("--webhook-url", help="each SMS is told to this address, by the brands that push")
    given = flags.parse_args()
    _serve.run(build(**_serve.options(given)), host=given.host, port=given.port)


if __name__ == "__main__":
    main()
