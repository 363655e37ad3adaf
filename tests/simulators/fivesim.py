"""5sim.net as an upstream: the JSON protocol under `/v1`, with its bare-text errors.

Wire facts: the 5sim notes (transport §1, profile §2, catalogue §3, buying §4, states §6, errors §9, checklist §15) and
what the strictest published clients demand: `application/json` without a charset, and undocumented profile members.
"""

import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal, cast

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from tests.simulators import _common, _serve
from tests.simulators._common import Amount, Clock, compact_json, money
from tests.simulators._fivesim_engine import (
    ANY,
    COUNTRIES,
    HOSTING,
    Category,
    FiveSim,
    Order,
    Refusal,
    Shelf,
    Sms,
    Unroutable,
    bare_text,
)

DEFAULT_KEY = "simulator-token"
PAGE_MAX = 100

# --- the wire ---------------------------------------------------------------------------------------------------------


def json_reply(body: str) -> Response:
    """Exactly `application/json`: one published client compares the whole header."""
    return Response(body, media_type="application/json")


def not_routed() -> Response:
    return RedirectResponse("/404.html", status_code=302)


def nano_time(when: float, order_id: int) -> str:
    """RFC 3339 with nine fraction digits; the last three come from the order, as a float cannot hold them."""
    seconds, micros = divmod(round(when * 1_000_000), 1_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{micros:06d}{order_id % 999 + 1:03d}Z"


def order_json(order: Order) -> str:
    """The order as `check` and the list show it: `sms` is a list from now on, forwarding members are absent."""
    if order.row is None:
        shown = order.sms if order.shows_sms else []
        order.row = compact_json({**_order_members(order), "sms": [_sms_members(order, sms) for sms in shown]})
    return order.row


def inbox_json(sim: FiveSim, order: Order) -> str:
    """A rental's own list (§5)."""
    shown = order.sms if sim.rental_sms_in != "order" else []
    return compact_json({"Data": [_sms_members(order, sms) for sms in shown], "Total": len(shown)})


def bought_json(order: Order) -> str:
    """The answer to a purchase: `sms` is null, and the forwarding members are there."""
    return compact_json({**_order_members(order), "sms": None, "forwarding": False, "forwarding_number": ""})


def _order_members(order: Order) -> dict[str, Any]:
    return {
        "id": order.id,
        "phone": order.phone,
        "operator": order.operator,
        "product": order.product,
        "price": float(order.price),
        "status": order.status,
        "expires": nano_time(order.ends_at, order.id),
        "created_at": nano_time(order.bought_at, order.id),
        "country": order.country,
    }


def _sms_members(order: Order, sms: Sms) -> dict[str, Any]:
    return {
        "id": sms.id,
        "created_at": nano_time(sms.at, order.id),
        "date": nano_time(sms.at, order.id),
        "sender": sms.sender,
        "text": sms.text,
        "code": sms.code,
        "is_wave": False,
        "wave_uuid": "",
    }


def profile_json(sim: FiveSim) -> str:
    """The documented members and the five undocumented ones that `pyfivesim` insists on."""
    last = sim.orders[-1] if sim.orders else None
    words = (last.country, last.product, last.operator, last.id, float(last.price)) if last else ()
    last_order = ":".join(map(str, words)) or "england:telegram:vodafone:11629999:0.2"
    return compact_json(
        {
            "id": 1001,
            "email": "ops@example.com",
            "vendor": "demo",
            "default_forwarding_number": "",
            "balance": float(sim.balance),
            "rating": sim.rating,
            "default_country": {"name": "england", "iso": "gb", "prefix": "+44"},
            "default_operator": {"name": ""},
            "frozen_balance": float(sim.frozen),
            "did_order": last is not None,
            "last_order": last_order,
            "last_top_orders": f"[{last_order}]",
            "last_top_idx": 0,
            "total_active_orders": sim.open_count,
        }
    )


def countries_json() -> str:
    """Operators are siblings of iso, prefix and the names, after them."""
    return compact_json(
        {
            slug: {
                "iso": {country.iso: 1},
                "prefix": {country.prefix: 1},
                "text_en": country.text_en,
                "text_ru": country.text_ru,
                **{operator: {"activation": 1} for operator in country.operators},
            }
            for slug, country in COUNTRIES.items()
        }
    )


def products_json(sim: FiveSim, country: str, operator: str) -> str:
    """Product -> category, quantity and lowest price, with the capitals of this one endpoint."""
    if country not in (ANY, *COUNTRIES):
        raise Refusal("country is incorrect")
    listed: dict[str, Any] = {}
    for product in sim.shelves:
        shelves = sim.offers(country, operator, product, None).values()
        if shelves:
            cheapest = min(shelf.cost for shelf in shelves)
            quantity = sum(shelf.count for shelf in shelves)
            category = "hosting" if product in HOSTING else "activation"
            listed[product] = {"Category": category, "Qty": quantity, "Price": float(cheapest)}
    return compact_json(listed)


def prices_json(sim: FiveSim, country: str | None, product: str | None) -> str:
    """Country -> product -> operator, but product -> country -> operator when only the product is named."""
    if country is not None and country not in COUNTRIES:
        raise Refusal("country is incorrect")
    if product is not None and product not in sim.shelves:
        raise Refusal("product is incorrect")
    if product is None:
        return compact_json(_by_country(sim, [country] if country else list(COUNTRIES)))
    places = {slug: _leaves(shelves) for slug, shelves in sim.shelves[product].items() if country in (None, slug)}
    if not places:
        return "null"
    return compact_json({country: {product: places[country]}} if country else {product: places})


def _by_country(sim: FiveSim, slugs: Iterable[str]) -> dict[str, dict[str, Any]]:
    return {
        slug: {product: _leaves(places[slug]) for product, places in sim.shelves.items() if slug in places}
        for slug in slugs
    }


def _leaves(shelves: Mapping[str, Shelf]) -> dict[str, dict[str, Any]]:
    return {
        operator: {
            "cost": float(shelf.cost),
            "count": shelf.count,
            **({} if shelf.rate is None else {"rate": shelf.rate, "rate72": shelf.rate}),
        }
        for operator, shelf in shelves.items()
    }


def orders_json(sim: FiveSim, params: Mapping[str, str]) -> str:
    """A page of the history, open orders included; joined from rows kept as text."""
    category = params.get("category")
    if category not in ("activation", "hosting"):
        raise Refusal("bad category")
    orders = sim.listed[cast(Category, category)]
    limit = min(_whole(params.get("limit"), PAGE_MAX), PAGE_MAX)
    offset = _whole(params.get("offset"), 0)
    if params.get("reverse") == "true":
        page = [orders[place] for place in range(len(orders) - 1 - offset, -1, -1)[:limit]]
    else:
        page = orders[offset : offset + limit]
    told = [sim.told(sim.check(str(order.id))) for order in page]
    rows = ",".join(order_json(order) for order in told if order is not None)
    return f'{{"Data":[{rows}],"ProductNames":[],"Statuses":[],"Total":{len(orders)}}}'


def _whole(given: str | None, default: int) -> int:
    return int(given) if given is not None and given.isdigit() else default


# --- the application --------------------------------------------------------------------------------------------------


def _authorised(sim: FiveSim, request: Request) -> bool:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    return scheme == "Bearer" and key in sim.keys and not sim.faults.take("bad_key")


def _price_max(request: Request) -> Decimal | None:
    given = request.query_params.get("maxPrice")
    try:
        return None if not given else money(given)
    except ArithmeticError:
        return None


def _act(sim: FiveSim, request: Request, name: str) -> str:
    """The body of one successful answer."""
    path, query = request.path_params, request.query_params
    match name:
        case "profile":
            return profile_json(sim)
        case "buy":
            goods, is_reusable = (path["country"], path["operator"], path["product"]), query.get("reuse") == "1"
            return bought_json(sim.buy(*goods, _price_max(request), is_reusable=is_reusable))
        case "rent":
            return bought_json(sim.buy(path["country"], path["operator"], path["product"], category="hosting"))
        case "reuse":
            return bought_json(sim.reuse(path["product"], path["number"]))
        case "inbox":
            return inbox_json(sim, sim.inbox(str(path["id"])))
        case "check":
            return order_json(_told(sim, str(path["id"])))
        case "finish":
            return order_json(sim.finish(str(path["id"])))
        case "cancel":
            return order_json(sim.cancel(str(path["id"])))
        case "ban":
            return order_json(sim.ban(str(path["id"])))
        case "orders":
            return orders_json(sim, query)
        case "countries":
            return countries_json()
        case "products":
            return products_json(sim, path["country"], path["operator"])
        case "prices":
            return prices_json(sim, query.get("country"), query.get("product"))
    raise AssertionError(name)


def _told(sim: FiveSim, order_id: str) -> Order:
    order = sim.told(sim.check(order_id))
    if order is None:
        raise Refusal("order not found", 404)
    return order


def _performed(sim: FiveSim, request: Request, name: str) -> Response:
    try:
        return json_reply(_act(sim, request, name))
    except Refusal as refusal:
        return bare_text(refusal.words, refusal.status)
    except Unroutable:
        return not_routed()


ROUTES = {
    "profile": ("balance", "/v1/user/profile"),
    "buy": ("buy", "/v1/user/buy/activation/{country}/{operator}/{product}"),
    "rent": ("rent", "/v1/user/buy/hosting/{country}/{operator}/{product}"),
    "reuse": ("reuse", "/v1/user/reuse/{product}/{number}"),
    "inbox": ("status", "/v1/user/sms/inbox/{id:int}"),
    "check": ("status", "/v1/user/check/{id:int}"),
    "finish": ("close", "/v1/user/finish/{id:int}"),
    "cancel": ("close", "/v1/user/cancel/{id:int}"),
    "ban": ("close", "/v1/user/ban/{id:int}"),
    "orders": ("list", "/v1/user/orders"),
    "countries": ("prices", "/v1/guest/countries"),
    "products": ("prices", "/v1/guest/products/{country}/{operator}"),
    "prices": ("prices", "/v1/guest/prices"),
}
"""Name -> the target its faults are named after, and its path."""


def _route(sim: FiveSim, name: str, target: str, path: str) -> Route:
    needs_key = path.startswith("/v1/user/")

    async def endpoint(request: Request) -> Response:
        sim.advance()
        sim.requests[name] += 1
        if needs_key and not _authorised(sim, request):
            return Response(status_code=401)
        if sim.faults.take("ip_limit"):
            return bare_text("ip address limit is 100 requests per second", 503)
        if sim.over_limit():
            return sim.rate_limited()
        return await sim.answer(request, target, lambda: _performed(sim, request, name))

    return Route(path, endpoint)


async def _unroutable(request: Request, error: Exception) -> Response:
    return not_routed()


def build(
    *,
    keys: Iterable[str] = (DEFAULT_KEY,),
    balance: Amount = "1000",
    stock: int = 5000,
    sms_delay_seconds: float | None = 1.0,
    pending_seconds: float = 0.0,
    cancel_wait_seconds: float = 0.0,
    life_seconds: float = 900.0,
    reuse_seconds: float = 1200.0,
    reuses_any: bool = True,
    rental_stock: int | None = None,
    rental_sms_in: Literal["inbox", "order", "both"] = "inbox",
    requests_per_second: int | None = None,
    clock: Clock = time.time,
) -> Starlette:
    """The simulator as an ASGI application; its state is `app.state.sim`.

    `sms_delay_seconds` None (or negative) delivers nothing by itself; an order is PENDING for `pending_seconds`, then
    RECEIVED, with or without an SMS; cancels within `cancel_wait_seconds` are told to wait. A
    number is used again for `reuse_seconds` after its end, with `reuses_any` False only one that was bought so; what a
    rental received is shown where `rental_sms_in` says. `rental_stock` None is `stock`.
    """
    sim = FiveSim(
        keys=keys,
        balance=balance,
        stock=stock,
        sms_delay_seconds=sms_delay_seconds,
        pending_seconds=pending_seconds,
        cancel_wait_seconds=cancel_wait_seconds,
        life_seconds=life_seconds,
        reuse_seconds=reuse_seconds,
        reuses_any=reuses_any,
        rental_stock=rental_stock,
        rental_sms_in=rental_sms_in,
        requests_per_second=requests_per_second,
        clock=clock,
    )
    routes = [_route(sim, name, target, path) for name, (target, path) in ROUTES.items()]
    app = Starlette(
        routes=[*routes, *_common.control_routes(sim)], exception_handlers={404: _unroutable, 405: _unroutable}
    )
    app.state.sim = sim
    return app


def main() -> None:
    flags = _serve.parser("5sim.net as an upstream.")
    flags.add_argument("--pending-seconds", type=float, help="an order is PENDING for so long")
    flags.add_argument(
        "--cancel-wait-seconds", type=float, help="cancels are told to wait for so long after a purchase"
    )
    given = flags.parse_args()
    _serve.run(build(**_serve.options(given)), host=given.host, port=given.port)


if __name__ == "__main__":
    main()
