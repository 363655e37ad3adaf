"""Our own JSON: the brief's endpoints at the root, and the same with what a modern client expects under `/api/v1`.

Each operation is one entry of a table, which the routes and the OpenAPI document are both made from. Answers and
problems are models (`_rest_models`, `_rest_problems`); a status is read from memory here too.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence

from starlette.routing import Match, Route
from starlette.types import Scope

from compat import _rest_alerts, _rest_deposits, _rest_people, _rest_resellers, _rest_retention, _rest_webhooks
from compat._rest_document import Json, document
from compat._rest_http import (
    PREFIX,
    REVALIDATED,
    Call,
    Nowhere,
    Operation,
    Reply,
    Resource,
    Stream,
    show,
    unless_known,
)
from compat._rest_lists import Lists, Sheet, sheet_of
from compat._rest_models import (
    ACTIVATION_ID,
    Activation,
    ActivationList,
    ActivationQuery,
    Again,
    AgainOffer,
    Balance,
    Beside,
    Countries,
    Event,
    ListQuery,
    Messages,
    NoBody,
    Page,
    Prices,
    PricesQuery,
    Purchase,
    Services,
    activation,
    amount,
    as_bought,
    message,
    messages,
    name_of,
)
from compat._rest_once import Once, Open
from compat._rest_page import page
from compat._rest_problems import DOCS_PATH, Refused
from compat._rest_rentals import rental_operations
from compat._rest_shared import BUYING, Shared, before, cap, following, no_such, require_turn
from compat._rest_waiting import Place, Waiting, is_awaited
from gateway import journal, ledger
from gateway.errors import BadCountry, BadService
from gateway.front import Front
from gateway.live import Live
from gateway.model import Order, Product

DOCUMENT_PATH = "/openapi.json"
PING_SECONDS = 15.0
STREAM_SECONDS_MAX = 300.0
"""A browser reconnects by itself and goes on where it was; so a key that was revoked does not listen for long."""

PUBLIC = ((b"cache-control", b"public, max-age=300"),)
PAGE_POLICY = (
    b"default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)

_ID = re.compile(ACTIVATION_ID)


def routes(
    front: Front, *, origins: Collection[str] = (), is_stopping: Callable[[], bool] = lambda: False
) -> list[Route]:
    """For the application that serves what is no dialect's.

    `origins` are the sites whose pages may call from a browser (`https://app.example.com`, or `*`). Once `is_stopping`
    says so, whoever waits gets what is known, and streams end.
    """
    once, waiting = Once(front), Waiting(front.activations.peek, is_stopping)
    operations = (
        *_operations(_Rest(front, once, waiting)),
        *rental_operations(front, once, waiting),
        *_rest_people.operations(front),
        *_rest_resellers.operations(front),
        *_rest_deposits.operations(front),
        *_rest_alerts.operations(front),
        *_rest_webhooks.operations(front),
        *_rest_retention.operations(front),
    )
    by_path: dict[str, list[Operation]] = {}
    for operation in (*operations, *_pages(document(operations))):
        for path in operation.paths:
            by_path.setdefault(path, []).append(operation)
    found = [Route(path, Resource(front, of_path, origins), name=path) for path, of_path in by_path.items()]
    return [*found, _Otherwise(PREFIX + "/{rest:path}", Nowhere()), _Otherwise(PREFIX, Nowhere())]


class _Otherwise(Route):
    """A route that comes after all others, wherever it stands among them."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, child = super().matches(scope)
        return (Match.PARTIAL if match is Match.FULL else match), child


class _Rest(Shared):
    """The operations on activations, and on the account."""

    def __init__(self, front: Front, once: Once, waiting: Waiting) -> None:
        super().__init__(front, once)
        self._lists = Lists(front)
        self.waiting = waiting

    # The account

    async def balance(self, call: Call) -> Reply:
        require_turn(call)
        found = await self.front.house.store.read(ledger.balance, call.caller.account_id)
        return show(
            Balance(balance=amount(found.available), held=amount(found.held), open_activations=found.open_count)
        )

    # What is for sale

    async def services(self, call: Call) -> Reply:
        return _sheet(call, self._lists.services(call.caller))

    async def countries(self, call: Call) -> Reply:
        return _sheet(call, self._lists.countries())

    async def prices(self, call: Call) -> Reply:
        service, word = call.query.service, call.query.country
        if service is not None and service not in self.front.house.settings.catalog.services:
            raise no_such(BadService.code, "service")
        try:
            country = None if word is None else self.country(word)
        except BadCountry:
            raise no_such(BadCountry.code, "country") from None
        return _sheet(call, await self._lists.prices(call.caller, service, country, may_build=call.is_within))

    # Buying

    async def purchase(self, call: Call) -> Reply:
        await self.count_change(call)
        order = self.named(call, self._order(call), call.body)
        return await self._bought(call, order, self.front.purchases.open)

    async def _bought(self, call: Call, order: Order, opened: Open) -> Reply:
        bought, was_gone = await self.buy(call, order, opened, self.front.activations.get)
        place = f"{PREFIX}/activations/{name_of(bought.live.id)}"
        return self.handed_over(order, bought, as_bought(bought.live), place, was_gone=was_gone)

    def _order(self, call: Call) -> Order:
        """Raises BadService, BadCountry."""
        wanted: Purchase = call.body
        if wanted.service not in self.front.house.settings.catalog.services:
            raise BadService
        return Order(
            service=wanted.service,
            country=self.country(wanted.country),
            operator="" if wanted.operator in (None, "any") else str(wanted.operator),
            price_max=cap(wanted.max_price, call.caller.currency),
            phone_exceptions=tuple(prefix.removeprefix("+") for prefix in wanted.phone_exceptions),
        )

    # What builds on a number

    async def price_again(self, call: Call) -> Reply:
        live = await self._find(call)
        require_turn(call)
        offer = await self.front.rentals.extra_offer(call.caller, live.id)
        return show(AgainOffer(price=amount(offer.price), service=offer.service, country=offer.country))

    async def again(self, call: Call) -> Reply:
        parent = await self._find(call)
        await self.count_change(call)
        order = self._built_on(call, parent, Product.AGAIN, parent.service)
        return await self._bought(call, order, self.front.rentals.open_extra)

    async def add_service(self, call: Call) -> Reply:
        parent = await self._find(call)
        await self.count_change(call)
        if call.body.service not in self.front.house.settings.catalog.services:
            raise BadService
        order = self._built_on(call, parent, Product.BESIDE, call.body.service)
        return await self._bought(call, order, self.front.rentals.add_service)

    def _built_on(self, call: Call, parent: Live, product: Product, service: str) -> Order:
        order = Order(
            service=service,
            country=parent.country,
            price_max=cap(call.body.max_price, call.caller.currency),
            product=product,
            parent_id=parent.id,
        )
        return self.named(call, order, call.body, f"{product}:{parent.id}:")

    # Reading

    async def _find(self, call: Call) -> Live:
        """The activation of the path. Raises UnknownActivation, TooManyRequests, Unavailable."""
        return await self.front.find(call.caller, self.path_id(call, _ID, "ver_"), may_look=call.is_within)

    async def _awaited(self, call: Call) -> Live:
        """The activation, once there is something to tell or the time given is up."""
        return await self.awaited(call, self.waiting, await self._find(call), is_awaited)

    async def show(self, call: Call) -> Reply:
        return self._shown(call, await self._awaited(call))

    def _shown(self, call: Call, live: Live) -> Reply:
        self.front.readers.saw(call.caller, live)
        return show(activation(live))

    async def messages(self, call: Call) -> Reply:
        live = await self._awaited(call)
        self.front.readers.saw(call.caller, live)
        return show(messages(live))

    async def activations(self, call: Call) -> Reply:
        query: ListQuery = call.query
        below = before(query.cursor)
        if query.state == "open":
            found = [live for live in reversed(self.front.activations.open_of(call.caller)) if live.id < below]
        else:
            require_turn(call)
            house = self.front.house
            found = await house.store.read(
                journal.page,
                house.vault,
                call.caller.account_id,
                before=below,
                limit=query.limit + 1,
                only_ended=query.state == "past",
            )
        shown = found[: query.limit]
        self.front.readers.saw_each(call.caller, shown)
        told = [activation(live) for live in shown]
        return show(ActivationList(activations=told, next_cursor=following(shown, found)))

    async def events(self, call: Call) -> Reply | Stream:
        if call.scope.get("http_version") == "1.0":
            raise Refused("invalid", detail="a stream needs HTTP/1.1: read the activation with ?wait=SECONDS instead")
        live = await self._find(call)
        told = _ordinal(call.header(b"last-event-id"))
        if not live.status.is_open and told is not None and told >= len(live.messages):
            # The one answer after which a browser does not connect again.
            return Reply(status=204)
        place = self.waiting.enter(call.caller, live)
        call.has_waited = True
        return Stream(self._told_events(call, place, told or 0), b"text/event-stream", place.leave)

    async def _told_events(self, call: Call, place: Place, told: int) -> AsyncIterator[bytes]:
        """Each message once, each status, and a sign of life now and then; to the end of the activation."""
        status, ends_at = None, time.monotonic() + STREAM_SECONDS_MAX
        hung_up = call.hung_up()
        yield b"retry: 2000\n\n"
        while not hung_up.done():
            live = place.live
            self.front.readers.saw(call.caller, live)
            for ordinal, shown in enumerate(live.messages[told:], told + 1):
                yield _event("message", message(shown).model_dump_json(), ordinal)
            told = max(told, len(live.messages))
            if live.status is not status:
                status = live.status
                yield _event("status", activation(live).model_dump_json(), told)
            if not live.status.is_open or self.waiting.is_stopping() or time.monotonic() >= ends_at:
                return
            if not await place.change(PING_SECONDS, hung_up):
                yield b": still here\n\n"

    # Changing

    async def finish(self, call: Call) -> Reply:
        live = await self._find(call)
        await self.count_change(call)
        return self._shown(call, await self.front.activations.finish(call.caller, live.id))

    async def cancel(self, call: Call) -> Reply:
        live = await self._find(call)
        await self.count_change(call)
        return self._shown(call, await self.front.activations.cancel(call.caller, live.id))

    async def another_sms(self, call: Call) -> Reply:
        live = await self._find(call)
        await self.count_change(call)
        return self._shown(call, await self.front.activations.ask_again(call.caller, live.id))


def _operations(rest: _Rest) -> Sequence[Operation]:
    """Everything that is served with a key."""
    one = PREFIX + "/activations/{id}"
    find = ("unknown_activation", "too_many_requests")
    changes = (*find, "not_allowed_now")
    return (
        # First, since it is what nearly every request asks for, and routes are tried in this order.
        Operation("activation", "GET", (one,), rest.show, "Status of an activation", Activation,
                  query=ActivationQuery, problems=find),
        Operation("balance", "GET", _both("/balance"), rest.balance, "Balance", Balance,
                  problems=("too_many_requests",)),
        Operation("services", "GET", _both("/services"), rest.services, "Services", Services, has_etag=True),
        Operation("countries", "GET", _both("/countries"), rest.countries, "Countries", Countries, has_etag=True),
        Operation("prices", "GET", (PREFIX + "/prices",), rest.prices, "Prices", Prices, query=PricesQuery,
                  has_etag=True, problems=("bad_service", "bad_country", "too_many_requests"),
                  description="A price is the most that a purchase without `max_price` costs at that moment."),
        Operation("purchase", "POST", _both("/purchase"), rest.purchase, "Buy a number", Activation, 201,
                  body=Purchase, takes_idempotency_key=True, description=_PURCHASE,
                  problems=("bad_service", "bad_country", "bad_phone_exception", *BUYING)),
        Operation("activations", "GET", (PREFIX + "/activations",), rest.activations, "Activations, newest first",
                  ActivationList, query=ListQuery, problems=("too_many_requests",)),
        Operation("messages", "GET", (*_both("/messages/{id}"), one + "/messages"), rest.messages,
                  "Messages of an activation", Messages, query=ActivationQuery, problems=find),
        Operation("events", "GET", (one + "/events",), rest.events, "Events of an activation as they happen", Event,
                  media_type="text/event-stream", description=_EVENTS, takes_last_event_id=True,
                  problems=(*find, "too_many_waiting")),
        Operation("finish", "POST", (one + "/finish",), rest.finish, "Done with it, after a code", Activation,
                  body=NoBody, problems=changes, description="Safe to repeat."),
        Operation("cancel", "POST", (one + "/cancel",), rest.cancel, "Give it back, before a code", Activation,
                  body=NoBody, problems=(*changes, "cancel_too_early"), description=_CANCEL),
        Operation("another_sms", "POST", (one + "/another-sms",), rest.another_sms, "Wait for another message, free",
                  Activation, body=NoBody, problems=changes, description="After a first one. Safe to repeat."),
        Operation("price_again", "GET", (one + "/again",), rest.price_again,
                  "What another code on the number costs, once its activation is over", AgainOffer,
                  problems=(*changes, "no_numbers")),
        Operation("again", "POST", (one + "/again",), rest.again, "Another code on the number, once it is over",
                  Activation, 201, body=Again, takes_idempotency_key=True, description=_AGAIN,
                  problems=(*find, *BUYING, "not_allowed_now")),
        Operation("add_service", "POST", (one + "/services",), rest.add_service,
                  "Another service on the number, while it is open", Activation, 201, body=Beside,
                  takes_idempotency_key=True, description="A new activation beside the first, with a price of its own.",
                  problems=(*find, *BUYING, "not_allowed_now", "bad_service")),
    )  # fmt: skip


_PURCHASE = (
    "With an `Idempotency-Key` the same request gets the same answer and one number, however often it is sent: the"
    " activation as it was when it was bought. The key is used up once a number was asked for, also where none was had:"
    " then the answer stays `no_numbers`, and another attempt needs another key. Without a key, two requests are two"
    " numbers, except where the client hung up before its answer: then the identical request gets that number."
)
_AGAIN = (
    "A new activation for the same service, where the upstream still has the number. With an `Idempotency-Key` as a"
    " purchase has it."
)
_CANCEL = "Nothing is charged. Safe to repeat."
_EVENTS = (
    "Server-sent events: `message` (a Message, its `id` the place among the messages) and `status` (an Activation)."
    " The stream ends with the activation, or after five minutes; a browser connects again and goes on where it was."
    " After the end the answer is 204, which tells it to stop."
)


def _pages(described: Json) -> Sequence[Operation]:
    """The document itself, as JSON and as a page. They need no key, and are not in it."""
    as_json = sheet_of(json.dumps(described, ensure_ascii=False, separators=(",", ":")).encode())
    as_page = sheet_of(page(described).encode())

    async def show_document(call: Call) -> Reply:
        return unless_known(call, as_json.etag, Reply(as_json.body, headers=PUBLIC))

    async def show_page(call: Call) -> Reply:
        headers = (*PUBLIC, (b"content-security-policy", PAGE_POLICY))
        return unless_known(call, as_page.etag, Reply(as_page.body, 200, b"text/html; charset=utf-8", headers))

    return (
        Operation("openapi", "GET", (DOCUMENT_PATH,), show_document, "The document", Page, is_public=True),
        Operation(
            "docs", "GET", (DOCS_PATH, DOCS_PATH + "/"), show_page, "The document as a page", Page, is_public=True
        ),
    )


def _both(path: str) -> tuple[str, str]:
    return PREFIX + path, path


def _sheet(call: Call, sheet: Sheet) -> Reply:
    return unless_known(call, sheet.etag, Reply(sheet.body, headers=REVALIDATED))


def _ordinal(last_event_id: str) -> int | None:
    """How many messages the client has seen, None where it does not say."""
    is_number = last_event_id.isascii() and last_event_id.isdigit() and len(last_event_id) < 10
    return int(last_event_id) if is_number else None


def _event(name: str, data: str, ordinal: int) -> bytes:
    # JSON has no line breaks of its own, so one `data:` line is enough.
    return f"id: {ordinal}\nevent: {name}\ndata: {data}\n\n".encode()
