"""5sim's own protocol under `/v1`: REST in shape, GET for everything, errors as bare lower-case sentences.

JSON answers are exactly `application/json` (one published client compares the whole header), sentences `text/plain`
without a newline. `no free phones` comes with 200; no key, or a wrong one, is an empty 401; what can't be routed, by
path or by method, is a 302 to `/404.html`. Only `/user/…` needs a key. Facts: `protocol/upstreams/fivesim.md`.

Further messages simply appear in `sms[]`. Most upstreams have to be asked for one, so a client that goes on reading an
order whose messages it has been shown has us ask, once for each message, behind its back.
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog
from starlette.types import Receive, Scope, Send

from compat._admission import require_way_in
from compat._fivesim_account import Account
from compat._fivesim_buying import Buying
from compat._fivesim_catalogue import Catalogue
from compat._fivesim_hosting import Hosting
from compat._fivesim_http import WAY_IN, Call, Common, Reply, Said, bearer, send_reply
from compat._fivesim_orders import Orders
from gateway.accounts import Caller
from gateway.errors import BadAction, CallerError, Internal, TooManyRequests, UnknownActivation
from gateway.front import Front
from gateway.limits import hold_back

PREFIX = "/v1/"
TEXT = b"text/plain"
NOWHERE = (b"location", b"/404.html")

WORDS = {
    "bad_key": "",
    "bad_action": "",
    "barred": "not enough rating",
    "suspended": "not enough rating",
    "bad_service": "no product",
    "bad_country": "bad country",
    "price_too_low": "no free phones",
    "too_many_open": "api limit is 100 requests per second",
    "no_balance": "not enough user balance",
    "no_numbers": "no free phones",
    "bad_activation_id": "",
    "unknown_activation": "order not found",
    "not_allowed_now": "order expired",
    "cancel_too_early": "you need to wait time",
    "too_many_requests": "api limit is 100 requests per second",
    "unavailable": "server offline",
    "internal": "internal error",
    # Of verbs and parameters that this protocol does not have.
    "bad_phone_exception": "internal error",
    "order_exists": "internal error",
    "no_operators": "internal error",
    "no_activations": "internal error",
    "bad_webhook_url": "internal error",
    "webhook_not_https": "internal error",
    "webhook_url_too_long": "internal error",
}

STATUSES = {
    "bad_key": 401,
    "bad_action": 302,
    "bad_activation_id": 302,
    "price_too_low": 200,
    "no_numbers": 200,
    "too_many_open": 429,
    "too_many_requests": 429,
    "internal": 500,
    "bad_phone_exception": 500,
    "order_exists": 500,
    "no_operators": 500,
    "no_activations": 500,
    "bad_webhook_url": 500,
    "webhook_not_https": 500,
    "webhook_url_too_long": 500,
}
"""HTTP status of each word; 400 where none is given."""

log = structlog.get_logger()

GET = frozenset({"GET"})

ForCaller = Callable[[Call, Caller], Awaitable[Reply]]
ForAnyone = Callable[[Call], Awaitable[Reply]]


@dataclass(frozen=True, slots=True)
class Route:
    """What serves a path. A path of `/user` has a handler `for_caller`, any other one `for_anyone`."""

    verb: str
    for_caller: ForCaller | None = None
    for_anyone: ForAnyone | None = None
    methods: frozenset[str] = GET


class FiveSim:
    """An ASGI application for the paths under `/v1/`. A poll passes no router, and reads memory only."""

    def __init__(self, front: Front) -> None:
        self._front = front
        common = Common(front)
        hosting = Hosting(common)
        catalogue = Catalogue(common, hosting)
        buying = Buying(common, catalogue, hosting)
        self._orders = orders = Orders(common, hosting)
        account = Account(common, orders, hosting)
        # By the words a path begins with, and how many follow them.
        self._routes: dict[tuple[tuple[str, ...], int], Route] = {
            (("user", "check"), 1): Route("check", orders.check),
            (("user", "finish"), 1): Route("finish", orders.finish),
            (("user", "cancel"), 1): Route("cancel", orders.give_back),
            (("user", "ban"), 1): Route("ban", orders.give_back),
            (("user", "profile"), 0): Route("profile", account.profile),
            (("user", "orders"), 0): Route("orders", account.orders),
            (("user", "payments"), 0): Route("payments", account.payments),
            (("user", "max-prices"), 0): Route(
                "max-prices", account.max_prices, methods=frozenset({"GET", "POST", "DELETE"})
            ),
            (("user", "reuse"), 2): Route("reuse", buying.reuse),
            (("user", "buy", "activation"), 3): Route("buy", buying.buy),
            (("user", "buy", "hosting"), 3): Route("hosting", buying.hosting),
            (("user", "sms", "inbox"), 1): Route("inbox", hosting.inbox),
            (("guest", "countries"), 0): Route("countries", for_anyone=catalogue.countries),
            (("guest", "products"), 2): Route("products", for_anyone=catalogue.products),
            (("guest", "prices"), 0): Route("prices", for_anyone=catalogue.prices),
            (("guest", "flash"), 1): Route("flash", for_anyone=catalogue.flash),
        }
        metrics = front.house.metrics
        names = {route.verb for route in self._routes.values()} | {"other"}
        self._latency = {verb: metrics.latency.labels(f"5sim {verb}") for verb in names}

    async def drain(self) -> None:
        """Waits for what is being asked of upstreams behind clients' backs."""
        await self._orders.drain()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        route, parts = self._route(scope)
        call = Call(scope, receive, route.verb, parts)
        reply, outcome = await self._reply(route, call)
        await send_reply(scope, send, reply)
        self._front.house.metrics.requests.labels(f"5sim {route.verb}", outcome).inc()
        self._latency[route.verb].observe(time.perf_counter() - started - call.held_seconds)

    def _route(self, scope: Scope) -> tuple[Route, tuple[str, ...]]:
        parts = tuple(scope["path"].removeprefix(PREFIX).removesuffix("/").split("/"))
        for size in (2, 3):
            route = self._routes.get((parts[:size], len(parts) - size))
            # A HEAD or OPTIONS must not buy a number.
            if route is not None and scope["method"] in route.methods:
                return route, parts[size:]
        return _OTHER, parts

    async def _reply(self, route: Route, call: Call) -> tuple[Reply, str]:
        try:
            if route.for_caller is not None:
                caller = await self._front.callers.caller(bearer(call.scope))
                require_way_in(self._front, caller, call.scope, WAY_IN)
                late_seconds = self._front.late_seconds(caller)
                if late_seconds:
                    asked_at = time.perf_counter()
                    call.is_within = await hold_back(late_seconds)
                    call.held_seconds = time.perf_counter() - asked_at
                return await route.for_caller(call, caller), "ok"
            if route.for_anyone is not None:
                return await route.for_anyone(call), "ok"
            raise BadAction
        except Said as said:
            return Reply(said.sentence.encode(), TEXT, 400), said.code
        except UnknownActivation as error:
            return _refusal(error, 404 if route.verb == "check" else 400), error.code
        except CallerError as error:
            return _refusal(error), error.code
        except Exception:
            log.exception("request.failed", action=f"5sim {route.verb}")
            return _refusal(Internal()), Internal.code


_OTHER = Route("other")


def _refusal(error: CallerError, status: int | None = None) -> Reply:
    """The dialect's word for what went wrong."""
    status = status or STATUSES.get(error.code, 400)
    headers = (NOWHERE,) if status == 302 else ()
    if isinstance(error, TooManyRequests):
        headers = ((b"retry-after", b"%d" % math.ceil(error.retry_seconds)),)
    return Reply(WORDS[error.code].encode(), TEXT, status, headers)
