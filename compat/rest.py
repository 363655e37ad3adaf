"""Our own JSON: the brief's endpoints at the root, and the same with what a modern client expects under `/api/v1`.

Each operation is one entry of a table, which the routes and the OpenAPI document are both made from. Answers and
problems are models (`_rest_models`, `_rest_problems`); a status is read from memory here too.
"""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import replace
from decimal import ROUND_FLOOR

from starlette.routing import Match, Route
from starlette.types import Scope

from compat import _rest_people, _rest_resellers
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
    idempotency_key,
    show,
    unless_known,
)
from compat._rest_lists import Lists, Sheet, sheet_of
from compat._rest_models import (
    ACTIVATION_ID,
    Activation,
    ActivationList,
    ActivationQuery,
    Balance,
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
    Webhook,
    WebhookAddress,
    Wrong,
    activation,
    amount,
    as_bought,
    message,
    messages,
    name_of,
)
from compat._rest_once import Once
from compat._rest_page import page
from compat._rest_problems import DOCS_PATH, Refused
from compat._rest_waiting import Place, Waiting, is_awaited
from gateway import accounts, journal, ledger
from gateway.errors import BadCountry, BadService, TooManyRequests, UnknownActivation
from gateway.front import Front
from gateway.live import Live
from gateway.model import Order
from gateway.money import Money, round_down_to_step, to_micros
from gateway.webhooks import check_url

DOCUMENT_PATH = "/openapi.json"
ID_MAX = 2**63 - 1
PING_SECONDS = 15.0
STREAM_SECONDS_MAX = 300.0
"""A browser reconnects by itself and goes on where it was; so a key that was revoked does not listen for long."""

PUBLIC = ((b"cache-control", b"public, max-age=300"),)

_ID = re.compile(ACTIVATION_ID)


def routes(
    front: Front, *, origins: Collection[str] = (), is_stopping: Callable[[], bool] = lambda: False
) -> list[Route]:
    """For the application that serves what is no dialect's.

    `origins` are the sites whose pages may call from a browser (`https://app.example.com`, or `*`). Once `is_stopping`
    says so, whoever waits gets what is known, and streams end.
    """
    operations = (
        *_operations(_Rest(front, is_stopping)),
        *_rest_people.operations(front),
        *_rest_resellers.operations(front),
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


class _Rest:
    """The operations."""

    def __init__(self, front: Front, is_stopping: Callable[[], bool]) -> None:
        self._front = front
        self._once = Once(front)
        self._lists = Lists(front)
        self.waiting = Waiting(front.activations.peek, is_stopping)

    def _read(self, call: Call) -> None:
        """For what costs a look-up: over the limit, only what memory knows is told. Raises TooManyRequests."""
        if not call.is_within:
            raise TooManyRequests

    async def _change(self, call: Call) -> None:
        """Counts a purchase or a change. Raises TooManyRequests."""
        await self._front.count_change(call.caller)

    # The account

    async def balance(self, call: Call) -> Reply:
        self._read(call)
        found = await self._front.house.store.read(ledger.balance, call.caller.account_id)
        return show(
            Balance(balance=amount(found.available), held=amount(found.held), open_activations=found.open_count)
        )

    async def set_webhook(self, call: Call) -> Reply:
        await self._change(call)
        house, url = self._front.house, call.body.url
        check_url(url, house.settings.gateway.webhooks)
        await house.store.run(accounts.set_webhook, house.vault, call.caller.account_id, url, "native")
        return show(Webhook(url=url))

    async def webhook(self, call: Call) -> Reply:
        self._read(call)
        house = self._front.house
        url = await house.store.read(accounts.webhook, house.vault, call.caller.account_id)
        return show(Webhook(url=url or None))

    # What is for sale

    async def services(self, call: Call) -> Reply:
        return _sheet(call, self._lists.services(call.caller))

    async def countries(self, call: Call) -> Reply:
        return _sheet(call, self._lists.countries())

    async def prices(self, call: Call) -> Reply:
        service, word = call.query.service, call.query.country
        if service is not None and service not in self._front.house.settings.catalog.services:
            raise _no_such(BadService.code, "service")
        try:
            country = None if word is None else self._country(word)
        except BadCountry:
            raise _no_such(BadCountry.code, "country") from None
        return _sheet(call, await self._lists.prices(call.caller, service, country, may_build=call.is_within))

    def _country(self, word: str) -> int:
        """Raises BadCountry. Of several ids with the same letters the last is meant: `US` is 187, 12 are virtual."""
        catalog = self._front.house.settings.catalog
        found = {int(word)} & catalog.countries.keys() if word.isdigit() else catalog.countries_of(word)
        if not found:
            raise BadCountry
        return max(found)

    # Buying

    async def purchase(self, call: Call) -> Reply:
        await self._change(call)
        front, caller = self._front, call.caller
        order = self._order(call)
        hung_up = call.hung_up()
        if order.reference:
            bought = await self._once.buy(caller, order, hung_up)
            live, is_new = bought.live, bought.is_new
        else:
            live, is_new = await front.purchases.open(caller, order, hung_up.done), True
        was_gone = hung_up.done()

        def on_sent(was_there: bool) -> None:
            if was_there and not was_gone:
                if order.reference:
                    # Another request with the key may have hung up: the number is not given back for that.
                    front.activations.peek(caller.account_id, live.id)
                front.purchases.answered(live)
            elif is_new:
                front.purchases.abandon(live, order.fingerprint)

        place = (b"location", f"{PREFIX}/activations/{name_of(live.id)}".encode())
        reply = show(as_bought(live), 201)
        return replace(reply, headers=(*reply.headers, place), on_sent=on_sent)

    def _order(self, call: Call) -> Order:
        """Raises BadService, BadCountry, Refused."""
        wanted: Purchase = call.body
        house = self._front.house
        if wanted.service not in house.settings.catalog.services:
            raise BadService
        country = self._country(wanted.country)
        key = idempotency_key(call)
        reference = house.vault.index_digest("idempotency", key) if key else ""
        # With a key the account repeats itself by whichever API key; without, only the same API key does.
        who = f"{call.caller.account_id}:{reference}" if key else str(call.caller.key_id)
        return Order(
            service=wanted.service,
            country=country,
            operator="" if wanted.operator in (None, "any") else str(wanted.operator),
            price_max=_cap(wanted.max_price, call.caller.currency),
            phone_exceptions=tuple(prefix.removeprefix("+") for prefix in wanted.phone_exceptions),
            reference=reference,
            fingerprint=house.vault.index_digest("rest", f"{who}:{wanted.model_dump_json()}"),
        )

    # Reading

    async def _find(self, call: Call) -> Live:
        """The activation of the path. Raises UnknownActivation, TooManyRequests, Unavailable."""
        if not _ID.fullmatch(call.path_id):
            raise UnknownActivation
        activation_id = int(call.path_id.removeprefix("ver_"))
        if activation_id > ID_MAX:
            raise UnknownActivation
        live = self._front.activations.peek(call.caller.account_id, activation_id)
        if live is not None:
            return live
        self._read(call)
        return await self._front.activations.get(call.caller, activation_id)

    async def _awaited(self, call: Call) -> Live:
        """The activation, once there is something to tell or the time given is up.

        Where too many wait already, it is told as it stands, at once.
        """
        live = await self._find(call)
        if not call.query.wait or call.is_head or not is_awaited(live):
            return live
        try:
            place = self.waiting.enter(call.caller, live)
        except Refused:
            return live
        call.has_waited = True
        try:
            return await _told(place, call)
        finally:
            place.leave()

    async def show(self, call: Call) -> Reply:
        return self._shown(call, await self._awaited(call))

    def _shown(self, call: Call, live: Live) -> Reply:
        self._front.readers.saw(call.caller, live)
        return show(activation(live))

    async def messages(self, call: Call) -> Reply:
        live = await self._awaited(call)
        self._front.readers.saw(call.caller, live)
        return show(messages(live))

    async def activations(self, call: Call) -> Reply:
        query: ListQuery = call.query
        before = _before(query.cursor)
        if query.state == "open":
            found = [live for live in reversed(self._front.activations.open_of(call.caller)) if live.id < before]
        else:
            self._read(call)
            house = self._front.house
            found = await house.store.read(
                journal.page,
                house.vault,
                call.caller.account_id,
                before=before,
                limit=query.limit + 1,
                only_ended=query.state == "past",
            )
        shown = found[: query.limit]
        cursor = _cursor(shown[-1].id) if len(found) > len(shown) else None
        self._front.readers.saw_each(call.caller, shown)
        return show(ActivationList(activations=[activation(live) for live in shown], next_cursor=cursor))

    async def events(self, call: Call) -> Reply | Stream:
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
            self._front.readers.saw(call.caller, live)
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
        await self._change(call)
        return self._shown(call, await self._front.activations.finish(call.caller, live.id))

    async def cancel(self, call: Call) -> Reply:
        live = await self._find(call)
        await self._change(call)
        return self._shown(call, await self._front.activations.cancel(call.caller, live.id))

    async def another_sms(self, call: Call) -> Reply:
        live = await self._find(call)
        await self._change(call)
        return self._shown(call, await self._front.activations.ask_again(call.caller, live.id))


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
                  problems=("bad_service", "bad_country", "bad_phone_exception", "price_too_low", "no_numbers",
                            "no_balance", "barred", "suspended", "too_many_open", "bad_idempotency_key",
                            "idempotency_key_reused", "in_progress")),
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
        Operation("webhook", "GET", _both("/webhook"), rest.webhook, "Where notices go", Webhook,
                  problems=("too_many_requests",)),
        Operation("set_webhook", "POST", _both("/webhook"), rest.set_webhook, "Say where notices go", Webhook,
                  body=WebhookAddress, problems=("bad_webhook_url", "webhook_not_https", "webhook_url_too_long")),
    )  # fmt: skip


_PURCHASE = (
    "With an `Idempotency-Key` the same request gets the same answer and one number, however often it is sent: the"
    " activation as it was when it was bought. The key is used up once a number was asked for, also where none was had:"
    " then the answer stays `no_numbers`, and another attempt needs another key. Without a key, two requests are two"
    " numbers, except where the client hung up before its answer: then the identical request gets that number."
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
        headers = (*PUBLIC, (b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'"))
        return unless_known(call, as_page.etag, Reply(as_page.body, 200, b"text/html; charset=utf-8", headers))

    return (
        Operation("openapi", "GET", (DOCUMENT_PATH,), show_document, "The document", Page, is_public=True),
        Operation("docs", "GET", (DOCS_PATH,), show_page, "The document as a page", Page, is_public=True),
    )


def _both(path: str) -> tuple[str, str]:
    return PREFIX + path, path


async def _told(place: Place, call: Call) -> Live:
    ends_at = time.monotonic() + call.query.wait
    hung_up = call.hung_up()
    while is_awaited(place.live) and not hung_up.done():
        left = ends_at - time.monotonic()
        if left <= 0 or not await place.change(left, hung_up):
            break
    return place.live


def _sheet(call: Call, sheet: Sheet) -> Reply:
    return unless_known(call, sheet.etag, Reply(sheet.body, headers=REVALIDATED))


def _no_such(code: str, parameter: str) -> Refused:
    return Refused(code, errors=[Wrong(parameter=parameter, detail="not in the catalogue")])


def _cap(given: str | None, currency: str) -> Money | None:
    """The highest price in whole price steps."""
    return None if given is None else Money(round_down_to_step(to_micros(given, rounding=ROUND_FLOOR)), currency)


def _cursor(activation_id: int) -> str:
    return base64.urlsafe_b64encode(f"before:{activation_id}".encode()).decode().rstrip("=")


def _before(cursor: str | None) -> int:
    """Raises Refused."""
    if cursor is None:
        return ID_MAX
    try:
        word, _, number = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii").partition(":")
        if word == "before" and number.isdigit() and 0 < int(number) <= ID_MAX:
            return int(number)
    except ValueError:
        pass
    raise Refused("invalid", errors=[Wrong(parameter="cursor", detail="not one that was given out")])


def _ordinal(last_event_id: str) -> int | None:
    """How many messages the client has seen, None where it does not say."""
    is_number = last_event_id.isascii() and last_event_id.isdigit() and len(last_event_id) < 10
    return int(last_event_id) if is_number else None


def _event(name: str, data: str, ordinal: int) -> bytes:
    # JSON has no line breaks of its own, so one `data:` line is enough.
    return f"id: {ordinal}\nevent: {name}\ndata: {data}\n\n".encode()
