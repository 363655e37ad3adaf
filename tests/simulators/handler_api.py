"""An upstream that speaks the `handler_api.php` protocol: one engine, one `Brand` of differences per provider.

Wire facts: the family notes (matrix §2, HeroSMS §3, checklist §11) and the protocol reference (state machine §3,
actions §4 to §6). `herosms` answers errors with an HTTP status and a JSON envelope; `generic` is the reference dialect,
a bare token with 200. Another family member is another `Brand` value; only a shape nobody has yet needs code.
"""

import itertools
import time
from collections.abc import Callable, Iterable, Mapping
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
from tests.simulators._handler_brands import BRANDS, SERVICES, Brand, Refusal, json_reply, refused, text, unprocessable
from tests.simulators._handler_engine import HandlerApi, Order, Shelf

PATH = "/stubs/handler_api.php"
DEFAULT_KEY = "simulator-key"
USD = 840
PHONE_EXCEPTIONS_MAX = 20


# --- actions ----------------------------------------------------------------------------------------------------------


Params = Mapping[str, str]
Action = Callable[[HandlerApi, Params], Response]


def get_balance(sim: HandlerApi, params: Params) -> Response:
    return text(f"ACCESS_BALANCE:{sim.balance:.4f}")


def get_number(sim: HandlerApi, params: Params) -> Response:
    try:
        order = _buy(sim, params)
    except Refusal as refusal:
        return _first_version(sim.brand, refusal)
    return text(f"ACCESS_NUMBER:{order.id}:{order.phone}")


def _first_version(brand: Brand, refusal: Refusal) -> Response:
    """HeroSMS answers a wrong name in getNumber with text and 200, where getNumberV2 has a 422 envelope."""
    if brand.words.get(refusal.token) == "UNPROCESSABLE_ENTITY":
        return text(f"UNPROCESSABLE_ENTITY:{refusal.info['field']}:{refusal.info['code']}")
    return refused(brand, refusal)


def get_number_v2(sim: HandlerApi, params: Params) -> Response:
    order = _buy(sim, params)
    return json_reply(_hero_number(sim, order) if sim.brand.number_v2 == "hero" else _reference_number(order))


def _buy(sim: HandlerApi, params: Params) -> Order:
    country = params.get("country", sim.brand.default_country)
    if "service" not in params:
        raise unprocessable("BAD_SERVICE", "service", "REQUIRED")
    if country is None:
        raise unprocessable("BAD_COUNTRY", "country", "REQUIRED")
    return sim.buy(
        params["service"],
        country,
        operator=params.get("operator"),
        price_max=_price_max(params),
        fixed_price=params.get("fixedPrice") in ("1", "true"),
        phone_exceptions=_phone_exceptions(params),
    )


def _price_max(params: Params) -> Decimal | None:
    given = params.get("maxPrice")
    try:
        return None if given is None else money(given)
    except ArithmeticError:
        raise Refusal("ERROR_SQL") from None


def _phone_exceptions(params: Params) -> list[str]:
    prefixes = [prefix for prefix in params.get("phoneException", "").split(",") if prefix]
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
        "serviceCode": order.service,
        "status": 4,
    }


def get_status(sim: HandlerApi, params: Params) -> Response:
    return text(_status(_order(sim, params)))


def _order(sim: HandlerApi, params: Params) -> Order:
    return sim.order(params.get("id", ""))


def _status(order: Order) -> str:
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
        case _:
            return "STATUS_CANCEL"


def get_status_v2(sim: HandlerApi, params: Params) -> Response:
    order = _order(sim, params)
    if _status(order) == "STATUS_CANCEL":
        return text("STATUS_CANCEL")
    sms = order.sms[-1] if order.sms else None
    shown = sms and {"dateTime": _plain_time(sms.at), "code": sms.code, "text": sms.text}
    return json_reply({"verificationType": 0, "sms": shown, "call": None})


def get_full_sms(sim: HandlerApi, params: Params) -> Response:
    order = _order(sim, params)
    if order.sms:
        return text(f"FULL_SMS:{order.sms[-1].text}")
    return text(_status(order))


def get_all_sms(sim: HandlerApi, params: Params) -> Response:
    order = _order(sim, params)
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
    order = _order(sim, params)
    match params.get("status"):
        case "1":
            return text(sim.ready(order))
        case "3":
            return text(sim.ask_again(order))
        case "6":
            return text(sim.finish(order))
        case "8":
            return text(sim.cancel(order))
        case "-1" if sim.brand.minus_one_cancels:
            return text(sim.cancel(order))
    raise Refusal("BAD_STATUS")


def finish_activation(sim: HandlerApi, params: Params) -> Response:
    sim.finish(_order(sim, params))
    return Response(status_code=204)


def cancel_activation(sim: HandlerApi, params: Params) -> Response:
    sim.cancel(_order(sim, params))
    return Response(status_code=204)


def get_prices(sim: HandlerApi, params: Params) -> Response:
    """Country -> service -> leaf; a wrong name is an error at HeroSMS and an empty answer elsewhere."""
    wrong = _wrong_name(sim, params)
    if wrong and sim.brand.names_wrong_prices:
        return json_reply({"status": "false", "msg": f"{wrong} is incorrect"})
    listed: dict[str, dict[str, Any]] = {}
    for (service, country), shelf in _matching(sim, params).items():
        listed.setdefault(country, {})[service] = _price_leaf(sim.brand, shelf)
    if not listed:
        return Response(sim.brand.empty_prices, media_type="application/json")
    return json_reply(listed)


def _wrong_name(sim: HandlerApi, params: Params) -> str | None:
    if params.get("service", "tg") not in SERVICES:
        return "service"
    if "country" in params and params["country"] not in sim.countries:
        return "country"
    return None


def _matching(sim: HandlerApi, params: Params) -> dict[tuple[str, str], Shelf]:
    service, country = params.get("service"), params.get("country")
    return {key: shelf for key, shelf in sim.shelves.items() if service in (None, key[0]) and country in (None, key[1])}


def _price_leaf(brand: Brand, shelf: Shelf) -> dict[str, Any]:
    if brand.price_leaf == "ladder":
        return {str(shelf.price): shelf.physical}
    cost = f"{shelf.price:.4f}" if brand.cost_as_string else float(shelf.price)
    if brand.price_leaf == "plain":
        return {"cost": cost, "count": shelf.physical}
    return {"cost": cost, "count": shelf.physical + shelf.virtual, "physicalCount": shelf.physical}


def get_numbers_status(sim: HandlerApi, params: Params) -> Response:
    """Service -> count for one country; the reference counts in strings."""
    country = params.get("country", sim.brand.default_country)
    if country is None:
        raise unprocessable("BAD_COUNTRY", "country", "REQUIRED")
    shelves = _matching(sim, {"country": country})
    as_shown: Callable[[int], int | str] = str if sim.brand.counts_as_text else int
    counts = {service: as_shown(shelf.physical + shelf.virtual) for (service, _), shelf in shelves.items()}
    return Response(compact_json(counts), media_type=sim.brand.numbers_status_type)


def get_active_activations(sim: HandlerApi, params: Params) -> Response:
    """The open orders, newest first. Rows are kept as text, so a page costs a join and not a serialisation."""
    start, limit = _page(sim.brand, params)
    page = itertools.islice(reversed(sim.open.values()), start, None if limit is None else start + limit)
    rows = [order.row or _row(sim, order) for order in page]
    return Response(_list_body(sim.brand, rows), media_type="application/json")


def _page(brand: Brand, params: Params) -> tuple[int, int | None]:
    if brand.active_page_max is None:
        return 0, None
    try:
        start, limit = int(params.get("start", "0")), int(params.get("limit", brand.active_page_max))
    except ValueError:
        raise unprocessable("BAD_VALUES", "start") from None
    return max(start, 0), min(max(limit, 0), brand.active_page_max)


def _row(sim: HandlerApi, order: Order) -> str:
    order.row = compact_json(
        {
            "activationId": order.id,
            "serviceCode": order.service,
            "phoneNumber": order.phone,
            "activationCost": float(order.price),
            "activationStatus": _active_status(sim.brand, order),
            "smsCode": [sms.code for sms in order.sms] or None,
            "smsText": order.sms[-1].text if order.sms else None,
            "activationTime": _plain_time(order.bought_at),
            "discount": "0.00",
            "repeated": "0",
            "countryCode": order.country,
            "countryName": sim.countries[order.country].eng,
            "canGetAnotherSms": 1 if sim.brand.active_list == "hero" else "1",
            "currency": USD,
        }
    )
    return order.row


def _active_status(brand: Brand, order: Order) -> str:
    """HeroSMS calls every open order 4; the reference tells received (2) and asked again (3) apart."""
    if brand.active_list == "hero":
        return "4"
    return {"waiting": "4", "received": "2", "retry": "3"}[order.state]


def _list_body(brand: Brand, rows: list[str]) -> str:
    joined = ",".join(rows)
    match brand.active_list:
        case "array":
            return f"[{joined}]"
        case "hero":
            legacy = compact_json({"affected_rows": len(rows), "num_rows": len(rows), "row": [], "rows": []})
            return f'{{"status":"success","data":[{joined}],"activeActivations":{legacy}}}'
        case "reference" if not rows:
            return '{"status":"error","error":"NO_ACTIVATIONS"}'
    return f'{{"status":"success","activeActivations":[{joined}]}}'


def get_countries(sim: HandlerApi, params: Params) -> Response:
    return json_reply(
        {
            id_: {"id": int(id_), "rus": c.rus, "eng": c.eng, "chn": c.eng, "visible": 1, "retry": 1, "rent": 0}
            for id_, c in sim.countries.items()
        }
    )


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
    "getNumbersStatus": ("prices", get_numbers_status),
    "getActiveActivations": ("list", get_active_activations),
    "getCountries": ("prices", get_countries),
    "getServicesList": ("prices", get_services_list),
    "getOperators": ("prices", get_operators),
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
    if action not in ACTIONS or action in sim.brand.missing_actions:
        raise Refusal("BAD_ACTION")
    if action in sim.brand.keyless_actions:
        return
    if "api_key" not in params:
        raise Refusal("NO_KEY")
    if params["api_key"] not in sim.keys or sim.faults.take("bad_key"):
        raise Refusal("BAD_KEY")


async def _handle(sim: HandlerApi, request: Request) -> Response:
    sim.advance()
    if request.method == "POST" and not sim.brand.post_allowed:
        return Response(compact_json({"message": "Method not allowed"}), 405, media_type="application/json")
    params = await _parameters(request)
    action = params.get("action", "")
    sim.requests[action] += 1
    if sim.over_limit():
        return sim.rate_limited()
    try:
        _admit(sim, action, params)
    except Refusal as refusal:
        return refused(sim.brand, refusal)
    target, act = ACTIONS[action]
    return await sim.answer(request, target, lambda: _performed(sim, act, params))


def _performed(sim: HandlerApi, act: Action, params: Params) -> Response:
    try:
        return act(sim, params)
    except Refusal as refusal:
        return refused(sim.brand, refusal)


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
    )

    async def handler(request: Request) -> Response:
        return await _handle(sim, request)

    app = Starlette(routes=[Route(PATH, handler, methods=["GET", "POST"]), *_common.control_routes(sim)])
    app.state.sim = sim
    return app


def main() -> None:
    flags = _serve.parser("An upstream that speaks the handler_api.php protocol.")
    flags.add_argument("--brand", choices=sorted(BRANDS), help="whose dialect (default herosms)")
    flags.add_argument("--early-cancel-seconds", type=float, help="cancels are refused for so long after a purchase")
    given = flags.parse_args()
    _serve.run(build(**_serve.options(given)), host=given.host, port=given.port)


if __name__ == "__main__":
    main()
