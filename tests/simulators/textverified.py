"""TextVerified as an upstream: REST v2 under `/api/pub/v2`, with its links, keyset pages and webhooks.

Wire facts: its notes (transport §1, links §2, catalogue §3, verifications §4, SMS §5, errors §7, test names §8,
webhooks §9, checklist §11) and what the official client reads; rentals are in `_textverified_rental_calls`. Left out:
renewable rentals and billing cycles, calls and their tokens, sending of SMS. Their paths answer 404, but for an empty
list of calls.
"""

import json
import time
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.simulators import _common, _serve
from tests.simulators._common import Amount, Clock, money
from tests.simulators._textverified_engine import (
    AREA_CODES,
    MOCK_NAMES,
    Missing,
    Refusal,
    TextVerified,
    Verification,
    Wish,
)
from tests.simulators._textverified_rental_calls import RENTAL_ROUTES, RentalCalls
from tests.simulators._textverified_rentals import WHOLE_NUMBER, ExtensionAnswer, Sale
from tests.simulators._textverified_webhooks import DEFAULT_WEBHOOK_SECRET, EVENTS, Casing, Webhooks, wire_time
from tests.simulators._textverified_wire import API, Body, Wire, mock_header, reply, sale_id

DEFAULT_KEY = "simulator-key"
DEFAULT_USERNAME = "ops@example.com"


# --- what is asked for ---


def _numbers(given: Any) -> tuple[str, ...]:
    return tuple(str(item) for item in given) if isinstance(given, list) else ()


def _wish(body: Mapping[str, Any]) -> Wish:
    if not body.get("serviceName") or body.get("capability") not in ("sms", "voice", "smsAndVoiceCombo"):
        raise Refusal("InvalidRequest", "serviceName and capability are required.")
    cap = body.get("maxPrice")
    return Wish(
        service=body["serviceName"],
        area_codes=_numbers(body.get("areaCodeSelectOption")),
        carriers=_numbers(body.get("carrierSelectOption")),
        price_max=None if cap is None else money(cap),
    )


# --- the calls --------------------------------------------------------------------------------------------------------


class Calls:
    """One method for each call: from a request, its JSON and the records of the client's view to an answer."""

    def __init__(self, sim: TextVerified, *, has_inventory: bool) -> None:
        self.sim = sim
        self._has_inventory = has_inventory

    def auth(self, request: Request, body: Body, wire: Wire) -> Response:
        sim, headers = self.sim, request.headers
        if sim.faults.take("auth_limit"):
            return sim.rate_limited()
        token = sim.sign_in(headers.get("x-api-key", ""), headers.get("x-api-username", ""))
        if token is None:
            return Response(status_code=401)
        life = sim.token_life_seconds
        return reply({"token": token, "expiresIn": life, "expiresAt": wire_time(sim.now() + life)})

    def me(self, request: Request, body: Body, wire: Wire) -> Response:
        return reply({"username": self.sim.username, "currentBalance": float(self.sim.balance)})

    def services(self, request: Request, body: Body, wire: Wire) -> Response:
        query = request.query_params
        if query.get("reservationType") not in ("renewable", "nonrenewable", "verification"):
            raise Refusal("InvalidRequest", "reservationType is required.")
        names = list(self.sim.shelves) + ([] if query["reservationType"] == "verification" else [WHOLE_NUMBER])
        rows = [{"serviceName": name, "capability": "sms", "description": None} for name in names]
        return reply([*rows, {"serviceName": "servicenotlistedvoice", "capability": "voice", "description": None}])

    def area_codes(self, request: Request, body: Body, wire: Wire) -> Response:
        return reply([{"areaCode": code, "state": state} for code, state in AREA_CODES.items()])

    def pricing(self, request: Request, body: Body, wire: Wire) -> Response:
        self._check_goods(body, "areaCode", "carrier")
        service = body["serviceName"]
        price = self.sim.price(service, area_code=bool(body["areaCode"]), carrier=bool(body["carrier"]))
        return reply({"serviceName": service, "price": float(price)}, headers=mock_header(service in MOCK_NAMES))

    def inventory(self, request: Request, body: Body, wire: Wire) -> Response:
        if not self._has_inventory:
            raise Missing("inventory")
        self._check_goods(body)
        service = body["serviceName"]
        return reply({"availableQuantity": self.sim.stock(service)}, headers=mock_header(service in MOCK_NAMES))

    def _check_goods(self, body: Body, *others: str) -> None:
        if any(body.get(name) is None for name in ("serviceName", "numberType", "capability", *others)):
            raise Refusal("InvalidRequest", "A member is missing.")
        if body["numberType"] != "mobile" or body["capability"] != "sms":
            raise Refusal("Unsupported", "This combination is not supported.")

    def create(self, request: Request, body: Body, wire: Wire) -> Response:
        return wire.created(self.sim.create(_wish(body)))

    def verifications(self, request: Request, body: Body, wire: Wire) -> Response:
        made = list(self.sim.verifications.values())
        return wire.page("/verifications", made, lambda one: one.id, wire.compact, request.query_params)

    def details(self, request: Request, body: Body, wire: Wire) -> Response:
        made = self._named(request)
        return reply(wire.expanded(made), headers=mock_header(made.is_mock))

    def cancel(self, request: Request, body: Body, wire: Wire) -> Response:
        self.sim.cancel(request.path_params["id"])
        return Response()

    def report(self, request: Request, body: Body, wire: Wire) -> Response:
        self.sim.report(request.path_params["id"])
        return Response()

    def reactivate(self, request: Request, body: Body, wire: Wire) -> Response:
        return wire.created(self.sim.again(request.path_params["id"], "Reactivated"))

    def reuse(self, request: Request, body: Body, wire: Wire) -> Response:
        return wire.created(self.sim.again(request.path_params["id"], "Reused"))

    def sms(self, request: Request, body: Body, wire: Wire) -> Response:
        """Of the whole account, or narrowed by reservation, by its type, and by number."""
        query = request.query_params
        reservation, number = query.get("reservationId"), query.get("to")
        found = [
            sms
            for sms in self.sim.messages
            if reservation in (None, sms.reservation)
            and query.get("reservationType") in (None, sms.kind)
            and (number is None or sms.to == number[-10:])
        ]
        return wire.page("/sms", found, lambda sms: sms.id, wire.sms, query)

    def calls(self, request: Request, body: Body, wire: Wire) -> Response:
        return wire.page("/calls", (), str, str, request.query_params)

    def sales(self, request: Request, body: Body, wire: Wire) -> Response:
        made: list[Verification | Sale] = [*self.sim.verifications.values(), *self.sim.rentals.sales.values()]
        made.sort(key=lambda one: one.created_at)

        def shown(one: Verification | Sale) -> dict[str, Any]:
            return _sale(wire, one, is_expanded=False)

        return wire.page("/sales", made, _sale_key, shown, request.query_params)

    def sale(self, request: Request, body: Body, wire: Wire) -> Response:
        wanted = request.path_params["id"]
        sales: list[Verification | Sale] = [*self.sim.verifications.values(), *self.sim.rentals.sales.values()]
        for made in sales:
            if _sale_key(made) == wanted:
                return reply(_sale(wire, made, is_expanded=True))
        raise Missing(wanted)

    def webhook_events(self, request: Request, body: Body, wire: Wire) -> Response:
        return reply(list(EVENTS))

    def _named(self, request: Request) -> Verification:
        return self.sim.find(request.path_params["id"])


def _sale_key(made: Verification | Sale) -> str:
    return made.id if isinstance(made, Sale) else sale_id(made)


def _sale(wire: Wire, made: Verification | Sale, *, is_expanded: bool) -> dict[str, Any]:
    if isinstance(made, Sale):
        return wire.rental_sale(made, is_expanded=is_expanded)
    return wire.sale(made, is_expanded=is_expanded)


ROUTES = {
    "auth": ("auth", "POST", "/auth"),
    "me": ("balance", "GET", "/account/me"),
    "services": ("prices", "GET", "/services"),
    "area_codes": ("prices", "GET", "/area-codes"),
    "pricing": ("prices", "POST", "/pricing/verifications"),
    "inventory": ("prices", "POST", "/inventory/verifications"),
    "create": ("buy", "POST", "/verifications"),
    "verifications": ("list", "GET", "/verifications"),
    "details": ("status", "GET", "/verifications/{id}"),
    "cancel": ("close", "POST", "/verifications/{id}/cancel"),
    "report": ("close", "POST", "/verifications/{id}/report"),
    "reactivate": ("buy", "POST", "/verifications/{id}/reactivate"),
    "reuse": ("reuse", "POST", "/verifications/{id}/reuse"),
    "sms": ("list", "GET", "/sms"),
    "calls": ("list", "GET", "/calls"),
    "sales": ("list", "GET", "/sales"),
    "sale": ("status", "GET", "/sales/{id}"),
    "webhook_events": ("list", "GET", "/webhook-events"),
}
"""Name -> the target its faults are named after (a list narrowed to one verification is `status`), and where it is."""


# --- the application --------------------------------------------------------------------------------------------------


def _authorised(sim: TextVerified, request: Request) -> bool:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return scheme == "Bearer" and sim.knows(token)


async def _json(request: Request) -> Body:
    try:
        body = json.loads(await request.body() or b"{}", parse_float=Decimal)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _performed(call: Callable[[Request, Body, Wire], Response], request: Request, body: Body, wire: Wire) -> Response:
    try:
        return call(request, body, wire)
    except Refusal as refusal:
        is_mock = body.get("serviceName") in MOCK_NAMES
        error = {"errorCode": refusal.code, "errorDescription": refusal.description}
        return reply(error, 400, mock_header(is_mock))
    except Missing:
        return Response(status_code=404)


def _webhook_route(webhooks: Webhooks, sim: TextVerified) -> Route:
    """`/_sim/webhook`: sets the address (`url`, `secret`, `casing`); with `"test": true` a `v2.test` is sent there."""

    async def endpoint(request: Request) -> Response:
        body = await request.json()
        try:
            is_test = body.pop("test", False)
            webhooks.set(**body) if body else None
        except (TypeError, ValueError) as mistake:
            return reply({"error": str(mistake)}, 400)
        if is_test:
            webhooks.send("v2.test", {"message": "test"}, sim.now())
        return reply({"url": webhooks.url, "casing": webhooks.casing})

    return Route("/_sim/webhook", endpoint, methods=["POST"])


def build(
    *,
    keys: Iterable[str] = (DEFAULT_KEY,),
    username: str = DEFAULT_USERNAME,
    balance: Amount = "1000",
    stock: int = 5000,
    sms_delay_seconds: float | None = 1.0,
    mock_delay_seconds: float = 3.0,
    life_seconds: float = 600.0,
    cancel_seconds: float | None = None,
    token_life_seconds: float = 899.0,
    refunds_on_timeout: bool = True,
    rental_stock: int | None = None,
    refund_seconds: float = 1200.0,
    sale_seconds: float = 0.0,
    wake_seconds: float = 0.0,
    extension_answer: ExtensionAnswer = "extension",
    price_code: str = "MaxPriceExceeded",
    has_inventory: bool = True,
    page_size: int = 50,
    oldest_first: bool = False,
    relative_links: bool = False,
    requests_per_second: int | None = None,
    webhook_url: str = "",
    webhook_secret: str = DEFAULT_WEBHOOK_SECRET,
    webhook_casing: Casing = "camel",
    webhook_retry_seconds: float = 1.0,
    clock: Clock = time.time,
) -> Starlette:
    """The simulator as an ASGI application; its state is `app.state.sim`.

    `sms_delay_seconds` None (or negative) delivers nothing by itself, `mock_delay_seconds` is that of
    `test_delayed_success`. A verification can be cancelled for `cancel_seconds` (None: while it waits), then reported.
    `price_code` is the word for a price above `maxPrice`; `has_inventory` False has no such call, as older versions;
    `oldest_first` turns the order of lists; `relative_links` leaves the host out of links. A rental's sale takes
    `sale_seconds`, it is refunded for `refund_seconds` where it had no SMS, and a sleeping one wakes `wake_seconds`
    after it was asked to. `rental_stock` None is `stock`.
    """
    webhooks = Webhooks(webhook_url, webhook_secret, webhook_casing, retry_seconds=webhook_retry_seconds)
    sim = TextVerified(
        keys=keys,
        username=username,
        balance=balance,
        stock=stock,
        sms_delay_seconds=sms_delay_seconds,
        mock_delay_seconds=mock_delay_seconds,
        life_seconds=life_seconds,
        cancel_seconds=cancel_seconds,
        token_life_seconds=token_life_seconds,
        refunds_on_timeout=refunds_on_timeout,
        rental_stock=stock if rental_stock is None else rental_stock,
        refund_seconds=refund_seconds,
        sale_seconds=sale_seconds,
        wake_seconds=wake_seconds,
        price_code=price_code,
        requests_per_second=requests_per_second,
        webhooks=webhooks,
        clock=clock,
    )
    calls = Calls(sim, has_inventory=has_inventory)
    rental_calls = RentalCalls(sim, has_inventory=has_inventory, extension_answer=extension_answer)

    def route(name: str, target: str, method: str, path: str) -> Route:
        call = getattr(rental_calls if name in RENTAL_ROUTES else calls, name)

        async def endpoint(request: Request) -> Response:
            sim.advance()
            sim.requests[name] += 1
            body = await _json(request)
            if name != "auth" and not _authorised(sim, request):
                return Response(status_code=401)
            if sim.over_limit():
                return sim.rate_limited()
            base = "" if relative_links else str(request.base_url).rstrip("/")
            wire = Wire(sim, base, page_size, oldest_first=oldest_first)
            shown_as = "status" if target == "list" and "reservationId" in request.query_params else target
            return await sim.answer(request, shown_as, lambda: _performed(call, request, body, wire))

        return Route(API + path, endpoint, methods=[method])

    routes = [route(name, *place) for name, place in (ROUTES | RENTAL_ROUTES).items()]
    app = Starlette(routes=[*routes, _webhook_route(webhooks, sim), *_common.control_routes(sim)])
    app.state.sim = sim
    return app


def main() -> None:
    flags = _serve.parser("TextVerified (REST v2) as an upstream.")
    flags.add_argument("--username", help="the account's name")
    flags.add_argument("--token-life-seconds", type=float, help="a token is good for so long")
    flags.add_argument("--page-size", type=int, help="rows of a page")
    flags.add_argument("--cancel-seconds", type=float, help="a verification can be cancelled for so long")
    flags.add_argument("--webhook-url", help="where events are sent to")
    flags.add_argument("--webhook-secret", help="what they are signed with")
    flags.add_argument("--webhook-casing", choices=("camel", "pascal"), help="how their members are written")
    given = flags.parse_args()
    _serve.run(build(**_serve.options(given)), host=given.host, port=given.port)


if __name__ == "__main__":
    main()
