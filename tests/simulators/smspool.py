"""SMSPool as an upstream: posted forms (or queries), refusals inside JSON, one SMS an order.

Wire facts: the notes on other providers (§1), the published collection's examples, and what the official client and an
older one send: the key as a bearer token or as `key`, `orderid` or `order_id`, ids or names.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.simulators import _common, _serve
from tests.simulators._common import Amount, Clock, json_reply, money
from tests.simulators._smspool_engine import (
    COUNTRIES,
    LISTED,
    POOLS,
    RECEIVED,
    REFUNDED,
    SERVICES,
    STATUS_WORDS,
    Order,
    Refusal,
    SmsPool,
)

DEFAULT_KEY = "simulator-key"
ZONE = timedelta(hours=1)
"""Time stamps are an hour ahead of UTC, without saying so."""

Fields = Mapping[str, str]


# --- the wire ---------------------------------------------------------------------------------------------------------


def countries_json(sim: SmsPool, fields: Fields) -> Any:
    return [
        {
            "ID": int(number),
            "name": country.name,
            "short_name": country.short_name,
            "cc": country.prefix,
            "region": country.region,
        }
        for number, country in COUNTRIES.items()
    ]


def services_json(sim: SmsPool, fields: Fields) -> Any:
    return [{"ID": int(number), "name": name, "favourite": 0} for number, (name, _) in SERVICES.items()]


def pools_json(sim: SmsPool, fields: Fields) -> Any:
    return [{"ID": int(number), "name": name} for number, name in POOLS.items()]


def balance_json(sim: SmsPool, fields: Fields) -> Any:
    return {"balance": f"{sim.balance:.2f}"}


def stock_json(sim: SmsPool, fields: Fields) -> Any:
    """Every shelf with its stock, also an empty one."""
    return [{**row, "pool_name": POOLS[str(row["pool"])], "stock": stock} for row, stock in _price_rows(sim, fields)]


def pricing_json(sim: SmsPool, fields: Fields) -> Any:
    """Every shelf without its stock, also an empty one."""
    return [{**row, "short_name": COUNTRIES[str(row["country"])].short_name} for row, _ in _price_rows(sim, fields)]


def _price_rows(sim: SmsPool, fields: Fields) -> Iterable[tuple[dict[str, Any], int]]:
    for (service, country), shelves in sim.shelves.items():
        for pool, shelf in shelves.items():
            wanted = {"service": service, "country": country, "pool": pool}
            if any(fields.get(name, value) != value for name, value in wanted.items()):
                continue
            row = {
                "country": int(country),
                "country_name": COUNTRIES[country].name,
                "pool": int(pool),
                "price": str(shelf.price),
                "service": int(service),
                "service_name": SERVICES[service][0],
            }
            yield row, shelf.count


def price_json(sim: SmsPool, fields: Fields) -> Any:
    rows = list(_price_rows(sim, {**fields, **_place(fields)}))
    if not rows:
        raise Refusal("We could not find a price for this service.", 422)
    prices = [Decimal(row["price"]) for row, _ in rows]
    return {"price": str(min(prices)), "high_price": str(max(prices)), "pool": rows[0][0]["pool"], "success_rate": 78}


def _place(fields: Fields) -> dict[str, str]:
    """Ids of the service and country, which may be given as names or ISO letters."""
    names = {name: number for number, (name, _) in SERVICES.items()}
    places = {word: number for number, country in COUNTRIES.items() for word in (country.name, country.short_name)}
    service, country = fields.get("service", ""), fields.get("country", "")
    return {"service": names.get(service, service), "country": places.get(country, country)}


def purchase_json(sim: SmsPool, fields: Fields) -> Any:
    place = _place(fields)
    order = sim.buy(place["service"], place["country"], fields.get("pool", ""), _price_max(fields))
    country, service, pool = COUNTRIES[order.country], SERVICES[order.service][0], POOLS[order.pool]
    return {
        "success": 1,
        "number": int(order.phone),
        "phonenumber": order.phone.removeprefix(country.prefix),
        "cc": country.prefix,
        "order_id": order.id,
        "country": country.name,
        "service": service,
        "pool": int(order.pool),
        "expires_in": round(order.ends_at - sim.now()),
        "expiration": int(order.ends_at),
        "cost": str(order.price),
        "cost_in_cents": int(order.price * 100),
        "message": f"You have succesfully ordered a {service} number from pool: {pool} for {order.price}.",
    }


def _price_max(fields: Fields) -> Decimal | None:
    given = fields.get("max_price")
    try:
        return None if not given else money(given)
    except ArithmeticError:
        return None


def _order_id(fields: Fields) -> str:
    given = fields.get("orderid") or fields.get("order_id") or ""
    if not given:
        raise Refusal("Missing parameter: orderid", 400)
    return given


def check_json(sim: SmsPool, fields: Fields) -> Any:
    """While an order waits for another SMS, the one before is still shown."""
    order = sim.known(_order_id(fields))
    shown: dict[str, Any] = {"status": order.status, "resend": 0, "expiration": int(order.ends_at)}
    if order.text:
        shown |= {"sms": order.code, "full_sms": order.text}
    if order.status == REFUNDED:
        shown["message"] = "This order has been refunded"
    return shown if order.status == RECEIVED else {**shown, "time_left": _left(sim, order)}


def _left(sim: SmsPool, order: Order) -> int:
    return max(0, int(order.ends_at) - int(sim.now()))


def active_json(sim: SmsPool, fields: Fields) -> Any:
    return [_row(sim, order) for order in sim.orders.values() if order.status in LISTED and sim.now() < order.ends_at]


def history_json(sim: SmsPool, fields: Fields) -> Any:
    return [{**_row(sim, order), "pool": int(order.pool), "completed_on": None} for order in sim.orders.values()]


def _row(sim: SmsPool, order: Order) -> dict[str, Any]:
    return {
        "cost": str(order.price),
        "order_code": order.id,
        "phonenumber": order.phone,
        "code": order.code or "0",
        "full_code": order.text,
        "short_name": COUNTRIES[order.country].short_name,
        "service": SERVICES[order.service][0],
        "status": STATUS_WORDS[order.status],
        "timestamp": f"{datetime.fromtimestamp(order.bought_at, UTC) + ZONE:%Y-%m-%d %H:%M:%S}",
        "expiry": int(order.ends_at),
        "time_left": _left(sim, order),
    }


def cancel_json(sim: SmsPool, fields: Fields) -> Any:
    order = sim.cancel(_order_id(fields))
    words = f"The order has been cancelled, and you have been refunded {order.price} dollars."
    return {"success": 1, "message": words}


def check_resend_json(sim: SmsPool, fields: Fields) -> Any:
    order = sim.check_resend(_order_id(fields))
    return {
        "success": 1,
        "resendCost": float(sim.resend_price),
        "resends": order.resends,
        "expires_in_hour": 115,
        "message": "This phonenumber is available for resend!",
    }


def resend_json(sim: SmsPool, fields: Fields) -> Any:
    order = sim.resend(_order_id(fields))
    return {
        "success": 1,
        "charge": float(sim.resend_price),
        "order_id": order.id,
        "message": "Your number has been requested again!",
    }


def archive_json(sim: SmsPool, fields: Fields) -> Any:
    return {"success": 1, "message": "All your inactive orders have been archived."}


# --- the application --------------------------------------------------------------------------------------------------

Act = Callable[[SmsPool, Fields], Any]

ROUTES: dict[str, tuple[str, Act]] = {
    "/country/retrieve_all": ("prices", countries_json),
    "/service/retrieve_all": ("prices", services_json),
    "/pool/retrieve_all": ("prices", pools_json),
    "/request/balance": ("balance", balance_json),
    "/request/price": ("prices", price_json),
    "/request/pricing": ("prices", pricing_json),
    "/sms/all_stock": ("prices", stock_json),
    "/purchase/sms": ("buy", purchase_json),
    "/sms/check": ("status", check_json),
    "/request/active": ("list", active_json),
    "/request/history": ("list", history_json),
    "/request/archive": ("close", archive_json),
    "/sms/cancel": ("close", cancel_json),
    "/sms/check_resend": ("status", check_resend_json),
    "/sms/resend": ("status", resend_json),
}
"""Path -> the target its faults are named after, and what makes its answer."""

PUBLIC = frozenset(path for path, (target, _) in ROUTES.items() if target == "prices")
"""The official client sends no key to these."""


async def _fields(request: Request) -> Fields:
    """The query, and the form if one was posted."""
    form = (await request.body()).decode() if request.method == "POST" else ""
    return {**request.query_params, **dict(parse_qsl(form))}


def _authorised(sim: SmsPool, request: Request, fields: Fields) -> bool:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    given = token if scheme == "Bearer" else fields.get("key", "")
    return given in sim.keys and not sim.faults.take("bad_key")


def _performed(sim: SmsPool, act: Act, fields: Fields) -> Response:
    try:
        return json_reply(act(sim, fields))
    except Refusal as refusal:
        return json_reply(refusal.body(), refusal.status if sim.refusal_statuses else 200)


def _bad_key(sim: SmsPool) -> Response:
    details = [{"message": "Invalid API key", "param": "key", "description": "Your API key"}]
    return json_reply({"success": 0, "errors": details}, 403 if sim.refusal_statuses else 200)


def _route(sim: SmsPool, path: str, target: str, act: Act) -> Route:
    async def endpoint(request: Request) -> Response:
        fields = await _fields(request)
        sim.advance()
        sim.requests[path] += 1
        if path not in PUBLIC and not _authorised(sim, request, fields):
            return _bad_key(sim)
        if sim.over_limit():
            return sim.rate_limited()
        return await sim.answer(request, target, lambda: _performed(sim, act, fields))

    return Route(path, endpoint, methods=["GET", "POST"])


def build(
    *,
    keys: Iterable[str] = (DEFAULT_KEY,),
    balance: Amount = "1000",
    stock: int = 5000,
    sms_delay_seconds: float | None = 1.0,
    cancel_lock_seconds: float = 0.0,
    life_seconds: float = 1200.0,
    resend_price: Amount = "0",
    resend_renames: bool = False,
    refusal_statuses: bool = False,
    requests_per_second: int | None = None,
    clock: Clock = time.time,
) -> Starlette:
    """The simulator as an ASGI application; its state is `app.state.sim`.

    `sms_delay_seconds` None (or negative) delivers nothing by itself; a cancel within `cancel_lock_seconds` is refused;
    another SMS costs `resend_price` and, with `resend_renames`, comes under a new order id. With `refusal_statuses`
    refusals have statuses of their own, as newer answers have, instead of 200.
    """
    sim = SmsPool(
        keys=keys,
        balance=balance,
        stock=stock,
        sms_delay_seconds=sms_delay_seconds,
        cancel_lock_seconds=cancel_lock_seconds,
        life_seconds=life_seconds,
        resend_price=resend_price,
        resend_renames=resend_renames,
        refusal_statuses=refusal_statuses,
        requests_per_second=requests_per_second,
        clock=clock,
    )
    routes = [_route(sim, path, target, act) for path, (target, act) in ROUTES.items()]
    app = Starlette(routes=[*routes, *_common.control_routes(sim)])
    app.state.sim = sim
    return app


def main() -> None:
    flags = _serve.parser("SMSPool as an upstream.")
    flags.add_argument("--cancel-lock-seconds", type=float, help="cancels are refused for so long after a purchase")
    flags.add_argument("--resend-price", help="what another SMS costs")
    flags.add_argument("--refusal-statuses", action="store_true", help="refusals do not have status 200")
    given = flags.parse_args()
    _serve.run(build(**_serve.options(given)), host=given.host, port=given.port)


if __name__ == "__main__":
    main()
