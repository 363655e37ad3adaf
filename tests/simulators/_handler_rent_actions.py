"""Actions of `handler_api.php` about rentals, numbers used again and services beside others, in both forms.

Wire facts: the protocol reference §7 and §8; HeroSMS's documentation of 2026 for its renamed forms. Nothing tells what
HeroSMS answers to `prolong`: the rental as it is then, as for `getRentNumber`.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from starlette.responses import Response

from tests.simulators._common import compact_json
from tests.simulators._handler_brands import USD, Params, Refusal, json_reply, text, unprocessable
from tests.simulators._handler_engine import HandlerApi, Order
from tests.simulators._handler_rents import RENAMED_HOURS, Rental, Rents, RentShelf, RentSms

Action = Callable[[HandlerApi, Params], Response]

PAGE_MAX = 100
KAZAKHSTAN = "2"
DEFAULT_HOURS = 2


def _time(when: float) -> datetime:
    return datetime.fromtimestamp(when, UTC)


def _plain_time(when: float) -> str:
    return f"{_time(when):%Y-%m-%d %H:%M:%S}"


def _zoned_time(when: float) -> str:
    return f"{_time(when):%Y-%m-%dT%H:%M:%S}+00:00"


# --- SMS-Activate's rent family: refusals are JSON -------------------------------------------------------------------


def _refused(refusal: Refusal) -> Response:
    body: dict[str, Any] = {"status": "error", "message": refusal.token}
    if refusal.info:
        body["info"] = refusal.info
    return json_reply(body)


def _with_json_refusals(act: Callable[[Rents, Params], Any]) -> Action:
    def answered(sim: HandlerApi, params: Params) -> Response:
        try:
            return json_reply(act(sim.rents, params))
        except Refusal as refusal:
            return _refused(refusal)

    return answered


def _hours(params: Params, *names: str, default: int | None = DEFAULT_HOURS) -> int:
    given = next((params[name] for name in names if name in params), None)
    if given is None and default is not None:
        return default
    if given is None or not given.isdigit():
        raise Refusal("INVALID_TIME")
    return int(given)


def _indexed(rows: list[Any]) -> dict[str, Any]:
    """A PHP list with holes: an object with numbers for names."""
    return {str(place): row for place, row in enumerate(rows)}


def _page(rows: list[Any], params: Params, size_name: str) -> list[Any]:
    page, size = params.get("page", "1"), params.get(size_name, "10")
    if not (page.isdigit() and size.isdigit() and int(page)):
        return rows[:10]
    length = min(int(size), PAGE_MAX)
    return rows[(int(page) - 1) * length : int(page) * length]


def _on_sale(rents: Rents, params: Params) -> dict[str, Any]:
    hours, country = _hours(params, "rent_time", "time"), params.get("country", KAZAKHSTAN)
    rents.check_hours(hours)
    shelves = rents.on_sale(country)
    if not shelves:
        raise Refusal("OUT_OF_STOCK")
    return {
        "countries": _indexed([int(listed) for listed in rents.countries]),
        "operators": {"0": "any"},
        "services": {
            code: {"cost": float(shelf.price(hours)), "quant": shelf.count} for code, shelf in shelves.items()
        },
        "currency": USD,
    }


def _rented(rental: Rental) -> dict[str, Any]:
    end = f"{_time(rental.ends_at):%Y-%m-%dT%H:%M:%S}"
    return {"status": "success", "phone": {"id": int(rental.id), "endDate": end, "number": rental.phone}}


def _rent(rents: Rents, params: Params) -> dict[str, Any]:
    hours = _hours(params, "rent_time", "time")
    country = params.get("country", KAZAKHSTAN)
    return _rented(rents.rent(params.get("service", ""), country, params.get("operator"), hours))


def _of(rents: Rents, params: Params) -> Rental:
    if "id" not in params:
        raise Refusal("NO_ID_RENT")
    return rents.rental(params["id"])


_STATUS = {"finished": "STATUS_FINISH", "cancelled": "STATUS_CANCEL", "revoked": "STATUS_REVOKE"}


def _rent_status(rents: Rents, params: Params) -> dict[str, Any]:
    """Newest first, as its page says."""
    rental = _of(rents, params)
    if rental.state != "open":
        raise Refusal(_STATUS[rental.state])
    if not rental.sms:
        raise Refusal("STATUS_WAIT_CODE")
    rows = [
        {"phoneFrom": sms.sender, "text": sms.text, "service": sms.service, "date": _plain_time(sms.at)}
        for sms in reversed(rental.sms)
    ]
    return {"status": "success", "quantity": str(len(rows)), "values": _indexed(_page(rows, params, "size"))}


def _set_rent_status(rents: Rents, params: Params) -> dict[str, Any]:
    rental = _of(rents, params)
    match params.get("status"):
        case "1":
            rents.finish(rental)
        case "2":
            rents.cancel(rental)
        case _:
            raise Refusal("INCORECT_STATUS")
    return {"status": "success"}


def _rent_list(rents: Rents, params: Params) -> dict[str, Any]:
    rows = [{"id": rental.id, "phone": rental.phone} for rental in reversed(rents.open())]
    if not rows:
        raise Refusal("NO_NUMBERS")
    return {"status": "success", "values": _indexed(_page(rows, params, "length"))}


def _continue(rents: Rents, params: Params) -> dict[str, Any]:
    return _rented(rents.extend(_of(rents, params), _hours(params, "rent_time")))


def _continue_price(rents: Rents, params: Params) -> dict[str, Any]:
    price = rents.extension_price(_of(rents, params), _hours(params, "rent_time"))
    return {"status": "success", "price": float(price), "currency": USD}


def _continue_info(rents: Rents, params: Params) -> dict[str, Any]:
    rental, hours = _of(rents, params), _hours(params, "hours")
    info = {"status": "success", "price": float(rents.extension_price(rental, hours)), "currency": USD, "hours": hours}
    if params.get("needHistory") != "true":
        return info
    rows = [
        {"createDate": _plain_time(made.at), "price": str(made.price), "hours": made.hours}
        for made in rental.extensions
    ]
    return {**info, "history": _indexed(rows)}


# --- HeroSMS's --------------------------------------------------------------------------------------------------------


def _renamed_hours(params: Params) -> int:
    return _hours(params, "duration", default=0)


def _renamed_on_sale(sim: HandlerApi, params: Params) -> Response:
    hours = _renamed_hours(params)
    sim.rents.check_hours(hours)
    country = params.get("country", "")
    if country not in sim.countries:
        raise Refusal("WRONG_COUNTRY")
    services = {
        code: {"quantity": shelf.count, "price": float(shelf.price(hours)), "retail_price": float(shelf.price(hours))}
        for code, shelf in sim.rents.on_sale(country).items()
    }
    operators = sim.countries[country].operators
    return json_reply({"operators": {str(place): name for place, name in enumerate(operators)}, "services": services})


def _renamed_counts(sim: HandlerApi, params: Params) -> Response:
    """Country -> hours; the parameter `duration` narrows nothing."""
    if "service" not in params:
        raise unprocessable("UNPROCESSABLE_ENTITY", "service", "REQUIRED")
    shelves = {
        country: shelf
        for (service, country), shelf in sim.rents.shelves.items()
        if service == params["service"] and params.get("country", country) == country
    }
    return json_reply({country: _lengths(shelf) for country, shelf in shelves.items() if shelf.count > 0})


def _lengths(shelf: RentShelf) -> dict[str, Any]:
    return {
        str(hours): {
            "count": shelf.count,
            "price": float(shelf.price(hours)),
            "retail_price": float(shelf.price(hours)),
        }
        for hours in RENAMED_HOURS
    }


def _renamed_rent(sim: HandlerApi, params: Params) -> Response:
    hours = _renamed_hours(params)
    try:
        rental = sim.rents.rent(params.get("service", ""), params.get("country", ""), params.get("operator"), hours)
    except Refusal as refusal:
        if refusal.token == "NO_NUMBERS":  # where getNumber answers with text and 200
            return Response('{"title":"NO_NUMBERS","details":"No numbers"}', 404, media_type="application/json")
        raise
    return json_reply(_renamed_rental(sim, rental))


def _renamed_rental(sim: HandlerApi, rental: Rental) -> dict[str, Any]:
    return {
        "activationId": rental.id,
        "phoneNumber": rental.phone,
        "activationCost": float(rental.price),
        "currency": USD,
        "countryCode": int(rental.country),
        "countryPhoneCode": int(sim.countries[rental.country].dial),
        "canGetAnotherSms": True,
        "activationTime": _zoned_time(rental.rented_at),
        "activationEndTime": _zoned_time(rental.ends_at),
        "activationOperator": rental.operator,
        "verificationType": "sms",
        "subtype": 2,
        "serviceCode": rental.service,
        "status": 4,
    }


def renamed_row(sim: HandlerApi, rental: Rental) -> str:
    """A rental in the list of open orders."""
    return compact_json(
        {
            "activationId": rental.id,
            "serviceCode": rental.service,
            "phoneNumber": rental.phone,
            "activationCost": float(rental.price),
            "activationStatus": "4",
            "smsCode": [sms.code for sms in rental.sms] or None,
            "smsText": rental.sms[-1].text if rental.sms else None,
            "activationTime": _plain_time(rental.rented_at),
            "discount": "0.00",
            "repeated": "0",
            "countryCode": rental.country,
            "countryName": sim.countries[rental.country].eng,
            "canGetAnotherSms": 1,
            "currency": USD,
            "verificationType": "sms",
            "subtype": 2,
        }
    )


def renamed_messages(rental: Rental, params: Params) -> Response:
    """`getAllSms` of a rental: nothing can be read of one that was cancelled, all of one that is finished."""
    if rental.state in ("cancelled", "revoked"):
        raise Refusal("ACTIVATION_NOT_ACTIVE")
    page = [_renamed_sms(sms) for sms in _page(rental.sms, params, "size")]
    return json_reply({"data": page, "meta": {"total": len(rental.sms), "service": rental.service}})


def _renamed_sms(sms: RentSms) -> dict[str, Any]:
    return {
        "id": sms.id,
        "phoneFrom": sms.sender,
        "code": sms.code or None,
        "text": sms.text,
        "service": sms.service,
        "date": _zoned_time(sms.at),
        "type": "sms",
    }


def _prolong(sim: HandlerApi, params: Params) -> Response:
    rental = sim.rents.rental(params.get("id", ""))
    return json_reply(_renamed_rental(sim, sim.rents.extend(rental, _renamed_hours(params))))


def _prolong_options(sim: HandlerApi, params: Params) -> Response:
    rental = sim.rents.rental(params.get("id", ""))
    options = [
        {"price": float(sim.rents.extension_price(rental, hours)), "duration": {"unit": "hour", "value": hours}}
        for hours in RENAMED_HOURS[:5]
    ]
    return json_reply({"data": {"options": options}})


def _prolong_history(sim: HandlerApi, params: Params) -> Response:
    rental = sim.rents.rental(params.get("id", ""))
    rows = [
        {
            "userPrice": float(made.price),
            "hours": made.hours,
            "createDate": _zoned_time(made.at),
            "payerType": "client",
        }
        for made in rental.extensions
    ]
    return json_reply({"data": rows})


# --- a number again, a service beside another -------------------------------------------------------------------------


def _check_extra(sim: HandlerApi, params: Params) -> Response:
    """Its refusals are bare words, as those of activations are."""
    order = sim.order(params.get("activationId", params.get("id", "")))
    price = sim.extra_price(order)
    told = {"cost": float(price), "service": order.service, "phone": int(order.phone), "country": int(order.country)}
    return json_reply({"status": "success", **told})


def _get_extra(sim: HandlerApi, params: Params) -> Response:
    order = sim.buy_extra(sim.order(params.get("activationId", params.get("id", ""))))
    return text(f"ACCESS_NUMBER:{order.id}:{order.phone}")


def _additional(sim: HandlerApi, params: Params) -> Response:
    order = sim.buy_beside(_parent(sim, params), params.get("service", ""))
    return text(f"ADDITIONAL:{order.id}:{order.phone}")


def _parent(sim: HandlerApi, params: Params) -> Order:
    order = sim.orders.get(params.get("id", ""))
    if order is None:
        raise Refusal("WRONG_ACTIVATION_ID")
    return order


def _reactivation_price(sim: HandlerApi, params: Params) -> Response:
    return json_reply({"data": {"price": float(sim.extra_price(sim.order(params.get("id", ""))))}})


def _reactivate_options(sim: HandlerApi, params: Params) -> Response:
    price = sim.extra_price(sim.order(params.get("id", "")))
    return json_reply({"data": {"options": [{"price": float(price), "duration": {"unit": "minute", "value": 20}}]}})


def reactivated(sim: HandlerApi, params: Params) -> Order:
    return sim.buy_extra(sim.order(params.get("id", "")))


def _by_form(reference: Action, renamed: Action) -> Action:
    def answered(sim: HandlerApi, params: Params) -> Response:
        return (renamed if sim.rents.is_renamed else reference)(sim, params)

    return answered


RENT_ACTIONS: dict[str, tuple[str, Action]] = {
    "getRentServicesAndCountries": ("prices", _by_form(_with_json_refusals(_on_sale), _renamed_on_sale)),
    "getRentNumber": ("rent", _by_form(_with_json_refusals(_rent), _renamed_rent)),
    "getRentStatus": ("status", _with_json_refusals(_rent_status)),
    "setRentStatus": ("close", _with_json_refusals(_set_rent_status)),
    "getRentList": ("list", _with_json_refusals(_rent_list)),
    "continueRentNumber": ("extend", _with_json_refusals(_continue)),
    "getContinueRentPriceNumber": ("prices", _with_json_refusals(_continue_price)),
    "continueRentInfo": ("prices", _with_json_refusals(_continue_info)),
    "checkExtraActivation": ("prices", _check_extra),
    "getExtraActivation": ("reuse", _get_extra),
    "getAdditionalService": ("beside", _additional),
    "serviceCountRent": ("prices", _renamed_counts),
    "prolong": ("extend", _prolong),
    "prolongOptions": ("prices", _prolong_options),
    "prolongHistory": ("prices", _prolong_history),
    "reactivationPrice": ("prices", _reactivation_price),
    "reactivateOptions": ("prices", _reactivate_options),
}
"""As `ACTIONS` in `handler_api.py`, where `reactivate` is."""
