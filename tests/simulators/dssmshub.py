"""DS SMS HUB as an upstream: its `handler_api.php` dialect, its JSON API and its webhook.

Wire facts: the brief ("The DS SMS HUB dialect"), the protocol reference §12, the family notes §8. Where these are
silent:

* an order that is over has `STATUS_CANCEL` for getStatus, as with its ancestor, and `NO_ACTIVATION` for setStatus;
* a missing key is `BAD_KEY` with 400, a wrong one with 401; other countries than US have `NO_NUMBERS` outside server 2;
* the first two servers share their stock, and the price lists show what is in stock, server 2's countries included;
* `X-Text` can't hold line breaks, so they become blanks; how it is encoded is an option.
"""

import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.simulators import _common, _serve
from tests.simulators._common import Amount, Clock, json_reply, money
from tests.simulators._dssmshub_engine import HOME, DsSmsHub, Order, Refusal, text

PATH = "/stubs/handler_api.php"
JSON_PATH = "/api"
DEFAULT_KEY = "simulator-key"
CURRENCY = "NGN"
WAITING = "WAITING"
OVER = "STATUS_CANCEL"

HeaderText = Literal["utf-8", "percent", "folded"]


@dataclass(frozen=True)
class Wire:
    """In what the page leaves room: the waiting word, and how a text is put into a header."""

    waiting_word: str = WAITING
    header_text: HeaderText = "utf-8"


# --- actions ----------------------------------------------------------------------------------------------------------


Params = Mapping[str, str]
Action = Callable[[DsSmsHub, Wire, Params], Response]


def get_balance(sim: DsSmsHub, wire: Wire, params: Params) -> Response:
    return text(f"ACCESS_BALANCE:{sim.balance:.2f}")


def get_number(sim: DsSmsHub, wire: Wire, params: Params) -> Response:
    return _bought(sim, params, only_home=True, poor_word="NO_MONEY")


def get_server1_number(sim: DsSmsHub, wire: Wire, params: Params) -> Response:
    return _bought(sim, params, only_home=True, poor_word="NO_BALANCE")


def get_server2_number(sim: DsSmsHub, wire: Wire, params: Params) -> Response:
    return _bought(sim, params, only_home=False, poor_word="NO_BALANCE")


def _bought(sim: DsSmsHub, params: Params, *, only_home: bool, poor_word: str) -> Response:
    country = params.get("country", HOME)
    if only_home and country != HOME:
        raise Refusal("NO_NUMBERS")
    order = sim.buy(params.get("service", ""), country, _price_max(params), poor_word=poor_word)
    answer = text(f"ACCESS_NUMBER:{order.id}:{order.phone}")
    answer.headers["X-Price"] = f"{order.price:.2f}"
    return answer


def _price_max(params: Params) -> Decimal | None:
    given = params.get("max_price", params.get("maxPrice"))
    try:
        return None if given is None else money(given)
    except ArithmeticError:
        return None


def get_status(sim: DsSmsHub, wire: Wire, params: Params) -> Response:
    order = _order(sim, params)
    if order.sms and order.state in ("received", "expired"):
        said = order.sms[-1].text
        answer = text(f"ACCESS_SMS:{said}")
        if params.get("text") == "1":
            answer.raw_headers.append((b"x-text", in_header(said, wire.header_text)))
        return answer
    return text(wire.waiting_word if order.is_open else OVER)


def in_header(said: str, how: HeaderText) -> bytes:
    """A text without its line breaks, which no header can hold."""
    flat = " ".join(said.splitlines())
    if how == "percent":
        return quote(flat).encode()
    return flat.encode("ascii", errors="replace") if how == "folded" else flat.encode()


def set_status(sim: DsSmsHub, wire: Wire, params: Params) -> Response:
    order = _order(sim, params)
    match params.get("status"):
        case "6":
            sim.finish(order)
            return text("ACCESS_DONE")
        case "8":
            sim.cancel(order)
            return text("ACCESS_CANCEL")
    raise Refusal("BAD_ACTION")


def _order(sim: DsSmsHub, params: Params) -> Order:
    return sim.order(params.get("id", ""))


def get_prices(sim: DsSmsHub, wire: Wire, params: Params) -> Response:
    """Service -> country -> price; no counts."""
    listed: dict[str, dict[str, Any]] = {}
    for (service, country), shelf in sim.shelves.items():
        if shelf.count > 0:
            listed.setdefault(service, {})[country] = {"price": float(shelf.price)}
    return json_reply(listed)


def get_prices_verification(sim: DsSmsHub, wire: Wire, params: Params) -> Response:
    at_home = {service: shelf for (service, country), shelf in sim.shelves.items() if country == HOME}
    return json_reply({service: {"price": float(shelf.price)} for service, shelf in at_home.items() if shelf.count > 0})


def set_webhook(sim: DsSmsHub, wire: Wire, params: Params) -> Response:
    sim.set_webhook(params.get("webhook_url", params.get("url", "")))
    return text("ACCESS_WEBHOOK_SET")


def get_webhook(sim: DsSmsHub, wire: Wire, params: Params) -> Response:
    return text(f"ACCESS_WEBHOOK:{sim.webhook_url}" if sim.webhook_url else "NO_WEBHOOK_SET")


ACTIONS: dict[str, tuple[str, Action]] = {
    "getBalance": ("balance", get_balance),
    "getNumber": ("buy", get_number),
    "getServer1Number": ("buy", get_server1_number),
    "getServer2Number": ("buy", get_server2_number),
    "getStatus": ("status", get_status),
    "setStatus": ("close", set_status),
    "getPrices": ("prices", get_prices),
    "getPricesVerification": ("prices", get_prices_verification),
    "setWebhook": ("list", set_webhook),
    "getWebhook": ("list", get_webhook),
}
"""Action -> the target its faults are named after, and who answers it."""


# --- the handler ------------------------------------------------------------------------------------------------------


def _admit(sim: DsSmsHub, action: str, params: Params) -> None:
    """Action, then key; raises the Refusal to answer."""
    if action not in ACTIONS:
        raise Refusal("BAD_ACTION")
    if not params.get("api_key"):
        raise Refusal("BAD_KEY")
    if params["api_key"] not in sim.keys or sim.faults.take("bad_key"):
        raise Refusal("BAD_KEY", 401)
    if sim.faults.take("user_not_found"):
        raise Refusal("USER_NOT_FOUND", 404)


async def _handle(sim: DsSmsHub, wire: Wire, request: Request) -> Response:
    sim.advance()
    params = dict(request.query_params)
    action = params.get("action", "")
    sim.requests[action] += 1
    if sim.over_limit():
        return sim.rate_limited()
    try:
        _admit(sim, action, params)
    except Refusal as refusal:
        return text(refusal.word, refusal.status)
    target, act = ACTIONS[action]
    return await sim.answer(request, target, lambda: _performed(sim, wire, act, params))


def _performed(sim: DsSmsHub, wire: Wire, act: Action, params: Params) -> Response:
    try:
        return act(sim, wire, params)
    except Refusal as refusal:
        return text(refusal.word, refusal.status)


# --- the JSON API -----------------------------------------------------------------------------------------------------


async def _handle_json(sim: DsSmsHub, request: Request) -> Response:
    """`POST {"key": …, "endpoint": "account/balance"}`; a bearer token stands in for the member `key`."""
    sim.advance()
    sim.requests["json_api"] += 1
    if request.method != "POST":
        return _failed("METHOD_NOT_ALLOWED", 405)
    body = _object(await request.body())
    return await sim.answer(request, "balance", lambda: _json_answer(sim, request, body))


def _object(body: bytes) -> dict[str, Any]:
    try:
        data = json.loads(body)
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}


def _json_answer(sim: DsSmsHub, request: Request, body: Mapping[str, Any]) -> Response:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    key = token if scheme == "Bearer" else body.get("key")
    if not key:
        return _failed("MISSING_KEY", 401)
    if key not in sim.keys or sim.faults.take("bad_key"):
        return _failed("INVALID_KEY", 401)
    if "endpoint" not in body:
        return _failed("MISSING_PARAMS", 400)
    if body["endpoint"] != "account/balance":
        return _failed("UNKNOWN_ENDPOINT", 404)
    wallet = float(sim.balance)
    return json_reply({"status": "success", "wallet_balance": wallet, "referral_balance": 0, "currency": CURRENCY})


def _failed(code: str, status: int) -> Response:
    message = code.replace("_", " ").capitalize()
    return json_reply({"status": "error", "code": code, "message": message}, status)


# --- the application --------------------------------------------------------------------------------------------------


def _webhook_control(sim: DsSmsHub) -> Route:
    """`POST /_sim/webhook {"url": …}`: any address, http too, unlike setWebhook; an empty one switches it off."""

    async def endpoint(request: Request) -> Response:
        url = _object(await request.body()).get("url")
        if not isinstance(url, str):
            return json_reply({"error": "there is no url"}, 400)
        sim.webhook_url = url
        return json_reply(sim.counters())

    return Route("/_sim/webhook", endpoint, methods=["POST"])


def build(
    *,
    keys: Iterable[str] = (DEFAULT_KEY,),
    balance: Amount = "10000",
    stock: int = 5000,
    sms_delay_seconds: float | None = 1.0,
    life_seconds: float = 300.0,
    open_max: int = 20,
    waiting_word: str = WAITING,
    header_text: HeaderText = "utf-8",
    requests_per_second: int | None = None,
    clock: Clock = time.time,
) -> Starlette:
    """The simulator as an ASGI application; its state is `app.state.sim`.

    `sms_delay_seconds` None (or negative) delivers nothing by itself; `open_max` is how many rentals may be open.
    """
    sim = DsSmsHub(
        keys=keys,
        balance=balance,
        stock=stock,
        sms_delay_seconds=sms_delay_seconds,
        life_seconds=life_seconds,
        open_max=open_max,
        requests_per_second=requests_per_second,
        clock=clock,
    )
    wire = Wire(waiting_word, header_text)

    async def handler(request: Request) -> Response:
        return await _handle(sim, wire, request)

    async def json_api(request: Request) -> Response:
        return await _handle_json(sim, request)

    routes = [
        Route(PATH, handler, methods=["GET"]),
        Route(JSON_PATH, json_api, methods=["GET", "POST", "PUT", "DELETE"]),
        _webhook_control(sim),
    ]
    app = Starlette(routes=[*routes, *_common.control_routes(sim)])
    app.state.sim = sim
    return app


def main() -> None:
    flags = _serve.parser("DS SMS HUB as an upstream.")
    flags.add_argument("--open-max", type=int, help="more rentals than these are refused")
    flags.add_argument("--waiting-word", help=f"what getStatus says of a rental that waits (default {WAITING})")
    flags.add_argument("--header-text", choices=["utf-8", "percent", "folded"], help="how X-Text is encoded")
    given = flags.parse_args()
    _serve.run(build(**_serve.options(given)), host=given.host, port=given.port)


if __name__ == "__main__":
    main()
