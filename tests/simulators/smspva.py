"""SMSPVA as an upstream: version 2 of its activation protocol, envelopes with statuses of their own.

Wire facts: the notes on other providers (§5), the published documentation, and the shapes the official client declares.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.simulators import _common, _serve
from tests.simulators._common import Amount, Clock
from tests.simulators._smspva_engine import COUNTRIES, SERVICES, Order, Refusal, SmsPva, envelope, refused

DEFAULT_KEY = "simulator-key"
PATH = "/activation"

Words = Mapping[str, str]
"""The variable parts of a path."""


# --- the wire ---------------------------------------------------------------------------------------------------------


def balance_json(sim: SmsPva, words: Words) -> Any:
    return {"balance": f"{sim.balance:.2f}"}


def userinfo_json(sim: SmsPva, words: Words) -> Any:
    return {"balance": f"{sim.balance:.2f}", "name": "demo", "karma": 100.5}


def operators_json(sim: SmsPva, words: Words) -> Any:
    country = words["country"]
    if country not in COUNTRIES:
        raise Refusal(405, "INVALID_PARAMETERS", "Invalid parameters")
    return {"country": country, "operators": list(COUNTRIES[country].operators)}


def conversions_json(sim: SmsPva, words: Words) -> Any:
    return {"service": words["service"], "conversions": dict.fromkeys(COUNTRIES, 40)}


def counts_json(sim: SmsPva, words: Words) -> Any:
    """A row for each operator; what is left over from sharing evenly goes to the first."""
    rows = []
    for code, country in COUNTRIES.items():
        if words.get("country", code) != code:
            continue
        for place, operator in enumerate(country.operators):
            services = [
                {"service": service, "total": _share(sim.shelves[service, code].count, place, len(country.operators))}
                for service in SERVICES
            ]
            rows.append({"operator": operator, "country": code, "services": services})
    return rows


def _share(count: int, place: int, operators: int) -> int:
    return count // operators + (count % operators if place == 0 else 0)


def price_json(sim: SmsPva, words: Words) -> Any:
    country, service = words["country"], words["service"]
    price = str(sim.shelf(country, service).price)
    return {
        "service": service,
        "serviceDescription": SERVICES[service][0],
        "country": country,
        "price": price,
        "priceByOperators": dict.fromkeys(COUNTRIES[country].operators, price),
    }


def prices_json(sim: SmsPva, words: Words) -> Any:
    """Each service in each country, in stock or not."""
    return [
        {
            "service": service,
            "serviceDescription": SERVICES[service][0],
            "country": country,
            "price": str(shelf.price),
        }
        for (service, country), shelf in sim.shelves.items()
    ]


def number_json(sim: SmsPva, words: Words) -> Any:
    """The number comes as an integer, without the country's prefix."""
    order = sim.buy(words["country"], words["service"], words.get("operator", ""))
    return {
        "orderId": order.id,
        "phoneNumber": int(order.national),
        "countryCode": order.country,
        "orderExpireIn": _left(sim, order),
    }


def _left(sim: SmsPva, order: Order) -> int:
    return max(0, round(order.ends_at - sim.now()))


def sms_json(sim: SmsPva, words: Words) -> Any:
    order = sim.receive(words["id"])
    return {"sms": _sms(order), "orderId": order.id, "orderExpireIn": _left(sim, order)}


def _sms(order: Order) -> dict[str, str]:
    return {"code": order.code, "fullText": order.text}


def orders_json(sim: SmsPva, words: Words) -> Any:
    """The open orders. Whether an SMS that was never fetched shows here is an option."""
    return {"orders": [_row(sim, order) for order in sim.orders if order.state == "active"]}


def _row(sim: SmsPva, order: Order) -> dict[str, Any]:
    row = {
        "orderId": order.id,
        "phoneNumber": int(order.national),
        "countryCode": order.country,
        "orderExpireIn": _left(sim, order),
        "service": order.service,
        "country": order.country,
        "status": order.state,
    }
    is_shown = order.text and (order.is_read or sim.list_shows_unread)
    return {**row, "sms": _sms(order)} if is_shown else row


def clear_json(sim: SmsPva, words: Words) -> Any:
    order = sim.clear(words["id"])
    return {"orderId": order.id, "orderExpireIn": _left(sim, order)}


def stop_json(sim: SmsPva, words: Words) -> Any:
    return {"orderId": sim.stop(words["id"]).id}


def cancel_json(sim: SmsPva, words: Words) -> Any:
    return {"orderId": sim.cancel(words["id"]).id}


def block_json(sim: SmsPva, words: Words) -> Any:
    return {"orderId": sim.block(words["id"]).id}


# --- the application --------------------------------------------------------------------------------------------------

Act = Callable[[SmsPva, Words], Any]

ROUTES: dict[str, tuple[str, str, Act]] = {
    "/balance": ("GET", "balance", balance_json),
    "/userinfo": ("GET", "balance", userinfo_json),
    "/operators/{country}": ("GET", "prices", operators_json),
    "/conversions/{service}": ("GET", "prices", conversions_json),
    "/countnumbers": ("GET", "prices", counts_json),
    "/countnumbers/{country}": ("GET", "prices", counts_json),
    "/serviceprice/{country}/{service}": ("GET", "prices", price_json),
    "/servicesprices": ("GET", "prices", prices_json),
    "/number/{country}/{service}": ("GET", "buy", number_json),
    "/number/{country}/{service}/{operator}": ("GET", "buy", number_json),
    "/sms/{id}": ("GET", "status", sms_json),
    "/orders": ("GET", "list", orders_json),
    "/clearsms/{id}": ("PUT", "status", clear_json),
    "/stopsms/{id}": ("PUT", "close", stop_json),
    "/cancelorder/{id}": ("PUT", "close", cancel_json),
    "/blocknumber/{id}": ("PUT", "close", block_json),
}
"""Path -> method, the target its faults are named after, and what makes the data of its answer."""


def _performed(sim: SmsPva, act: Act, words: Words) -> Response:
    try:
        return envelope(act(sim, words))
    except Refusal as refusal:
        return refused(refusal)


def _route(sim: SmsPva, path: str, method: str, target: str, act: Act) -> Route:
    async def endpoint(request: Request) -> Response:
        sim.advance()
        sim.requests[path.split("/")[1]] += 1
        if request.headers.get("apikey") not in sim.keys or sim.faults.take("bad_key"):
            return refused(Refusal(401, "UNAUTHORIZED", "Invalid apikey"))
        if sim.over_limit():
            return sim.rate_limited()
        return await sim.answer(request, target, lambda: _performed(sim, act, request.path_params))

    return Route(PATH + path, endpoint, methods=[method])


def build(
    *,
    keys: Iterable[str] = (DEFAULT_KEY,),
    balance: Amount = "1000",
    stock: int = 5000,
    sms_delay_seconds: float | None = 1.0,
    life_seconds: float = 600.0,
    list_shows_unread: bool = True,
    requests_per_second: int | None = None,
    clock: Clock = time.time,
) -> Starlette:
    """The simulator as an ASGI application; its state is `app.state.sim`.

    `sms_delay_seconds` None (or negative) delivers nothing by itself; without `list_shows_unread` the list of orders
    shows an SMS only once it was fetched singly.
    """
    sim = SmsPva(
        keys=keys,
        balance=balance,
        stock=stock,
        sms_delay_seconds=sms_delay_seconds,
        life_seconds=life_seconds,
        list_shows_unread=list_shows_unread,
        requests_per_second=requests_per_second,
        clock=clock,
    )
    routes = [_route(sim, path, *rest) for path, rest in ROUTES.items()]
    app = Starlette(routes=[*routes, *_common.control_routes(sim)])
    app.state.sim = sim
    return app


def main() -> None:
    flags = _serve.parser("SMSPVA as an upstream.")
    given = flags.parse_args()
    _serve.run(build(**_serve.options(given)), host=given.host, port=given.port)


if __name__ == "__main__":
    main()
