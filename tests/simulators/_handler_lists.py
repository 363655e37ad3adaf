"""What each `handler_api.php` brand has for sale, as it lists it: prices by country, by price, by provider, and counts.

Wire facts: the protocol reference §5.1, §5.5 and §5.6; the family notes, matrix §2 and the brands after it.
"""

import itertools
from collections.abc import Callable
from typing import Any

from starlette.responses import Response

from tests.simulators._common import compact_json
from tests.simulators._handler_brands import SERVICES, USD, Brand, Params, Refusal, json_reply, unprocessable
from tests.simulators._handler_engine import HandlerApi, Shelf, Step

Leaf = Callable[[Brand, str, Shelf], Any]


def get_prices(sim: HandlerApi, params: Params) -> Response:
    """Country -> service -> leaf; a wrong name is an error at some and an empty answer elsewhere."""
    return _priced(sim, params, _price_leaf)


def _priced(sim: HandlerApi, params: Params, leaf: Leaf) -> Response:
    wrong = _wrong_name(sim, params)
    if wrong and sim.brand.wrong_prices == "message":
        return json_reply({"status": "false", "msg": f"{wrong} is incorrect"})
    if wrong and sim.brand.wrong_prices == "refusal":
        raise Refusal(f"BAD_{wrong.upper()}")
    listed: dict[str, dict[str, Any]] = {}
    for (service, country), shelf in _matching(sim, params).items():
        listed.setdefault(country, {})[service] = leaf(sim.brand, service, shelf)
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
    service, country = params.get("service"), sim.brand.only_country or params.get("country")
    return {key: shelf for key, shelf in sim.shelves.items() if service in (None, key[0]) and country in (None, key[1])}


def _price_leaf(brand: Brand, service: str, shelf: Shelf) -> dict[str, Any]:
    steps = shelf.steps()
    price = steps[0].price if steps else shelf.price
    in_stock = sum(step.count for step in steps)
    if brand.price_leaf == "ladder":
        return {str(step.price): step.count for step in steps} or {str(price): 0}
    cost = f"{price:.4f}" if brand.cost_as_string else float(price)
    if brand.price_leaf == "plain":
        return {"cost": cost, "count": in_stock}
    if brand.price_leaf == "named":
        shown = min(in_stock, brand.stock_shown_max or in_stock)
        return {"name": SERVICES[service][0], "cost": cost, "count": shown, "repeatable": False}
    return {"cost": cost, "count": in_stock + shelf.virtual, "physicalCount": in_stock}


def get_prices_v2(sim: HandlerApi, params: Params) -> Response:
    """Price -> count; Tiger's counts are cumulative, under `prices`."""
    return _priced(sim, params, _ladder_leaf)


def _ladder_leaf(brand: Brand, service: str, shelf: Shelf) -> dict[str, Any]:
    steps = shelf.steps()
    if not brand.is_cumulative:
        return {_short(step): step.count for step in steps}
    counts = itertools.accumulate(step.count for step in steps)
    prices = {f"{step.price:.4f}": count for step, count in zip(steps, counts, strict=True)}
    return {"prices": prices, "has_multi": False, "saleAveragePrice": f"{shelf.price:.4f}"}


def _short(step: Step) -> str:
    """Two decimals, or as many as the price needs."""
    return f"{step.price:.2f}" if step.price == round(step.price, 2) else str(step.price)


def get_prices_v3(sim: HandlerApi, params: Params) -> Response:
    """By provider. Tiger wants a service and a country, and what it then tells may be old."""
    if sim.brand.price_v3 == "all":
        return _priced(sim, params, lambda brand, service, shelf: _by_provider(shelf))
    for name in ("service", "country"):
        if name not in params:
            raise unprocessable("UNPROCESSABLE_ENTITY", name, "REQUIRED")
    if wrong := _wrong_name(sim, params):
        raise Refusal(f"BAD_{wrong.upper()}")
    key = (params["service"], params["country"])
    return Response(sim.v3_text(key, lambda: _one_v3(sim.shelves[key])), media_type="application/json")


def _by_provider(shelf: Shelf) -> dict[str, Any]:
    return {
        str(step.provider): {"count": step.count, "price": float(step.price), "provider_id": step.provider}
        for step in shelf.steps()
    }


def _one_v3(shelf: Shelf) -> str:
    steps = shelf.steps()
    providers = {
        str(step.provider): {"count": step.count, "price": [float(step.price)], "provider_id": step.provider}
        for step in steps
    }
    price, count = (float(steps[0].price) if steps else 0), sum(step.count for step in steps)
    return compact_json({"price": price, "count": count, "currency": USD, "providers": providers})


def get_prices_verification(sim: HandlerApi, params: Params) -> Response:
    """DaisySMS: the same by service, the country below."""
    listed: dict[str, dict[str, Any]] = {}
    for (service, country), shelf in _matching(sim, params).items():
        listed.setdefault(service, {})[country] = _price_leaf(sim.brand, service, shelf)
    return json_reply(listed)


def get_numbers_status(sim: HandlerApi, params: Params) -> Response:
    """Service -> count for one country; the reference counts in strings."""
    country = params.get("country", sim.brand.default_country)
    if country is None:
        raise unprocessable("BAD_COUNTRY", "country", "REQUIRED")
    shelves = _matching(sim, {"country": country})
    as_shown: Callable[[int], int | str] = str if sim.brand.counts_as_text else int
    counts = {
        service + sim.brand.count_suffix: as_shown(shelf.physical + shelf.virtual)
        for (service, _), shelf in shelves.items()
    }
    return Response(compact_json(counts), media_type=sim.brand.numbers_status_type)
