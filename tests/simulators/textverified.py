"""TextVerified as an upstream: REST v2 under `/api/pub/v2`, with its links, keyset pages and webhooks.

Wire facts: its notes (transport §1, links §2, catalogue §3, verifications §4, SMS §5, errors §7, test names §8,
webhooks §9, checklist §11) and what the official client reads. Left out: rentals, back orders, wake requests, billing
cycles, calls and their tokens, sending of SMS. Their paths answer 404, but for an empty list of calls.
"""

import base64
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.simulators import _common, _serve
from tests.simulators._common import Amount, Clock, compact_json, money
from tests.simulators._textverified_engine import (
    AREA_CODES,
    MOCK_NAMES,
    SENDER,
    Missing,
    Refusal,
    Sms,
    TextVerified,
    Verification,
    Wish,
    serial_id,
)
from tests.simulators._textverified_webhooks import DEFAULT_WEBHOOK_SECRET, EVENTS, Casing, Webhooks, wire_time

DEFAULT_KEY = "simulator-key"
DEFAULT_USERNAME = "ops@example.com"
API = "/api/pub/v2"

Item = TypeVar("Item")
Query = Mapping[str, str]
Body = Mapping[str, Any]


# --- the wire ---------------------------------------------------------------------------------------------------------


def reply(data: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(compact_json(data), status, headers=headers, media_type="application/json")


class Wire:
    """Records as this provider shows them to one client: `base` is the address it reached us by."""

    def __init__(self, sim: TextVerified, base: str, page_size: int, *, oldest_first: bool) -> None:
        self.sim = sim
        self._base = base
        self._page_size = page_size
        self._oldest_first = oldest_first

    def link(self, path: str, method: str = "GET") -> dict[str, str]:
        return {"method": method, "href": f"{self._base}{API}{path}"}

    def created(self, made: Verification) -> Response:
        """The link is the whole body; the verification itself takes a second request (§2)."""
        link = self.link(f"/verifications/{made.id}")
        return reply(link, 201, {"location": link["href"], **mock_header(made.is_mock)})

    def compact(self, made: Verification) -> dict[str, Any]:
        """A row of the list (§4)."""
        return {
            "id": made.id,
            "createdAt": wire_time(made.created_at),
            "serviceName": made.service,
            "state": f"verification{made.state}",
            "totalCost": float(made.cost),
            "number": made.number,
            "link": self.link(f"/verifications/{made.id}"),
            "sms": self.link(f"/sms?reservationId={made.id}"),
            "calls": self.link(f"/calls?reservationId={made.id}"),
        }

    def expanded(self, made: Verification) -> dict[str, Any]:
        """What its own address shows (§4)."""
        sim, path = self.sim, f"/verifications/{made.id}"
        row = self.compact(made)
        del row["link"]
        can_cancel, can_report, can_reuse = sim.can_cancel(made), sim.can_report(made), sim.can_reuse(made)
        return {
            **row,
            "endsAt": wire_time(made.ends_at),
            "sale": self.link(f"/sales/{sale_id(made)}"),
            "cancel": {"canCancel": can_cancel, "link": self._action(can_cancel, path, "cancel")},
            "report": {"canReport": can_report, "link": self._action(can_report, path, "report")},
            "reactivate": {
                "canReactivate": made.can_reactivate,
                "link": self._action(made.can_reactivate, path, "reactivate"),
            },
            "reuse": {
                "link": self._action(can_reuse, path, "reuse"),
                "reusableUntil": wire_time(made.ends_at) if can_reuse else None,
            },
        }

    def _action(self, is_possible: bool, path: str, name: str) -> dict[str, str] | None:
        return self.link(f"{path}/{name}", "POST") if is_possible else None

    def sms(self, sms: Sms) -> dict[str, Any]:
        return {
            "id": sms.id,
            "from": SENDER,
            "to": sms.to,
            "createdAt": wire_time(sms.at),
            "smsContent": sms.text,
            "parsedCode": sms.code or None,
            "encrypted": False,
        }

    def sale(self, made: Verification, *, is_expanded: bool) -> dict[str, Any]:
        times = {"createdAt": wire_time(made.created_at), "updatedAt": wire_time(made.created_at)}
        sale = {"id": sale_id(made), "state": "succeeded", **times}
        if not is_expanded:
            return {**sale, "totalCost": float(made.cost), "link": self.link(f"/sales/{sale_id(made)}")}
        link = self.link(f"/verifications/{made.id}")
        reservation = {"id": made.id, "reservationType": "verification", "serviceName": made.service, "link": link}
        return {**sale, "total": float(made.cost), "reservations": [reservation], "backOrderReservations": []}

    def page(
        self, path: str, items: Sequence[Item], key: Callable[[Item], str], show: Callable[[Item], Any], query: Query
    ) -> Response:
        """A keyset page of `items` (oldest first as given): the cursor names the row it goes on from (§4)."""
        rows = list(items) if self._oldest_first else list(reversed(items))
        place, start = _cursor(query.get("cursor", "")), 0
        if place is not None:
            at = next((index for index, item in enumerate(rows) if key(item) == place["key"]), len(rows))
            start = at + place["count"] if place["direction"] == "forward" else max(0, at - self._page_size)
        shown = rows[start : start + self._page_size]
        has_next, has_previous = start + self._page_size < len(rows), start > 0
        links = {
            "current": self._page_link(path, query, query.get("cursor")),
            "next": None,
            "previous": None,
        }
        if has_next:
            links["next"] = self._page_link(path, query, _opaque(shown, key, "forward"))
        if has_previous and shown:
            links["previous"] = self._page_link(path, query, _opaque(shown, key, "reverse"))
        envelope = {"count": len(shown), "hasNext": has_next, "hasPrevious": has_previous, "links": links}
        return reply({"data": [show(item) for item in shown], **envelope})

    def _page_link(self, path: str, query: Query, cursor: str | None) -> dict[str, str]:
        kept = {name: value for name, value in query.items() if name != "cursor"} | (
            {"cursor": cursor} if cursor else {}
        )
        text = "&".join(f"{name}={value}" for name, value in kept.items())
        return self.link(f"{path}?{text}" if text else path)


def _opaque(shown: Sequence[Item], key: Callable[[Item], str], direction: str) -> str:
    """Names the first row shown and how many there were: one SMS can be listed twice, and is no place to go on from."""
    place = {"key": key(shown[0]), "count": len(shown), "direction": direction}
    return base64.urlsafe_b64encode(compact_json(place).encode()).decode().rstrip("=")


def _cursor(opaque: str) -> dict[str, Any] | None:
    if not opaque:
        return None
    try:
        place: dict[str, Any] = json.loads(base64.urlsafe_b64decode(opaque + "=" * (-len(opaque) % 4)))
    except ValueError:
        raise Refusal("InvalidCursor") from None
    return place


def mock_header(is_mock: bool) -> dict[str, str]:
    return {"x-phoneblur-mock": "true"} if is_mock else {}


def sale_id(made: Verification) -> str:
    return serial_id("sa", int(made.id[-13:]))


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
        rows = [{"serviceName": name, "capability": "sms", "description": None} for name in self.sim.shelves]
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
        """Of the whole account, or narrowed by verification and by number; all of it belongs to verifications here."""
        query = request.query_params
        reservation, number = query.get("reservationId"), query.get("to")
        found = [
            sms
            for sms in self.sim.messages
            if reservation in (None, sms.reservation) and (number is None or sms.to == number[-10:])
        ]
        if query.get("reservationType", "verification") != "verification":
            found = []
        return wire.page("/sms", found, lambda sms: sms.id, wire.sms, query)

    def calls(self, request: Request, body: Body, wire: Wire) -> Response:
        return wire.page("/calls", (), str, str, request.query_params)

    def sales(self, request: Request, body: Body, wire: Wire) -> Response:
        made = list(self.sim.verifications.values())
        query = request.query_params
        return wire.page("/sales", made, lambda one: one.id, lambda one: wire.sale(one, is_expanded=False), query)

    def sale(self, request: Request, body: Body, wire: Wire) -> Response:
        wanted = request.path_params["id"]
        for made in self.sim.verifications.values():
            if sale_id(made) == wanted:
                return reply(wire.sale(made, is_expanded=True))
        raise Missing(wanted)

    def webhook_events(self, request: Request, body: Body, wire: Wire) -> Response:
        return reply(list(EVENTS))

    def _named(self, request: Request) -> Verification:
        return self.sim.find(request.path_params["id"])


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
    "reuse": ("buy", "POST", "/verifications/{id}/reuse"),
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
    `oldest_first` turns the order of lists; `relative_links` leaves the host out of links.
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
        price_code=price_code,
        requests_per_second=requests_per_second,
        webhooks=webhooks,
        clock=clock,
    )
    calls = Calls(sim, has_inventory=has_inventory)

    def route(name: str, target: str, method: str, path: str) -> Route:
        call = getattr(calls, name)

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

    routes = [route(name, *place) for name, place in ROUTES.items()]
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
