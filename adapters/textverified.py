"""TextVerified (textverified.com, REST v2): numbers of the United States. Facts: `protocol/upstreams/textverified.md`.

Its ways:

* key and account name (`SECRETS`) buy a token that lives for a quarter of an hour; a 401 means that nothing was done,
  so the call, even a purchase, is made once more with a new one;
* a purchase answers with a link, and the number comes from a second request, which is repeated until the order's time
  is up: the purchase itself never is;
* there is no price list: each service is asked for singly, slowly, and what was told is kept (`_textverified_prices`);
* a choice of carrier or area code raises the price. Carriers are operators of the catalogue (`carriers` says which are
  offered); `area_codes` go with every purchase;
* a verification is completed by its message, finally: nothing finishes it, and another message is another purchase,
  so a second one is never waited for there;
* messages of all verifications come in one list that names the number, not the verification;
* a number can be had again, for a new verification at a price that is not told beforehand;
* rentals are in `_textverified_rentals`;
* webhooks are hints (`_textverified_push`).
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from contextlib import aclosing
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field

from adapters._http import LIST_BYTES, LIST_SECONDS, Reply, list_body
from adapters._pace import Pace, Urgency
from adapters._price_first import require_cap, within
from adapters._rentals import WHOLE_NUMBER, rental_id
from adapters._textverified_prices import PriceBook, parse_services
from adapters._textverified_push import check_signature, read_push
from adapters._textverified_records import (
    Message,
    Verification,
    created,
    every_verification,
    in_order,
    is_done,
    messages,
    read_price,
    read_stock,
    readable,
    seen,
    verifications,
)
from adapters._textverified_rentals import Rentals, Terms
from adapters._textverified_session import Session, own_path, seen_by
from adapters._textverified_words import ALL_SERVICES, CARRIERS, NOT_LISTED, SERVICES
from adapters._values import Address, Codes, CodeTable, cost, mapping, micros, moment
from gateway.errors import HasSms, InDoubt, NotAllowed, Refused, TooEarly, UnknownLease, Unwell
from gateway.model import BuyOrder, Found, Lease, LeaseState, Outcome, Progress, RentOffer, Sms, Watched
from gateway.money import Money, plain
from gateway.upstream import Context, OfferTable, PushRequest, PushTaken

SECRETS = {"username": True, "webhook_secret": False}
"""`username` is the account's e-mail address, `webhook_secret` the text beginning with `whsec_`."""

PAGES_MAX = 20
FIND_PAGES_MAX = 100
OPENED_SKEW_SECONDS = 120.0
"""How far our clock may be from theirs when the list is searched for leases of ours."""

Carrier = Literal["att", "tmo", "vz"]
AreaCode = Annotated[str, Field(pattern=r"^\d{3}$")]


class Options(BaseModel):
    """`services` maps our codes to their names, over the table; `country` is the canonical one that stands for the US.

    `sold_out_codes` are the words of a 400 which say that there is no number at this price; all others, but those with
    a price in them, are faults of the account. `rent_services` are our codes for what is rented out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    base_url: Address = "https://www.textverified.com"
    services: Annotated[Mapping[str, str], CodeTable] = {}
    country: int = Field(default=187, ge=0)
    carriers: tuple[Carrier, ...] = ()
    area_codes: tuple[AreaCode, ...] = ()
    number_type: Literal["mobile", "voip", "landline"] = "mobile"
    not_listed_name: str = Field(default="other", min_length=1)
    sold_out_codes: tuple[str, ...] = ("Unavailable", "OutOfStock", "NoNumbers")
    requests_per_second: float = Field(default=4.0, gt=0)
    price_seconds: float = Field(default=6 * 3600.0, ge=0)
    stock_seconds: float = Field(default=600.0, ge=0)
    round_seconds: float = Field(default=30.0, gt=0, le=90.0)
    rent_services: tuple[str, ...] = (WHOLE_NUMBER, "tg", "wa", "go")
    rent_always_on: bool = True
    rent_wakes: bool = True


def build(context: Context, options: Options) -> TextVerified:
    return TextVerified(context, options)


class TextVerified:
    """The upstream. A number gets one message, so it is no AsksAgain."""

    def __init__(self, context: Context, options: Options) -> None:
        self.name = context.name
        self.unmapped: Counter[str] = Counter()
        """Services sold there under names we have no code for; their stock is not told, so each counts as one."""
        self._currency = context.currency
        self._clock = context.clock
        self._offload = context.offload
        self._options = options
        self._webhook_secret = context.secrets.get("webhook_secret", "")
        self._session = Session(context, options.base_url)
        self._sold_out = frozenset(code.lower() for code in options.sold_out_codes)
        self._codes = Codes.of(SERVICES, options.services)
        self._pace = Pace(1 / options.requests_per_second)
        self._sold: tuple[str, ...] = ()
        self._sold_due_at = float("-inf")
        self._book = PriceBook(
            self._price,
            self._stock,
            with_carriers=bool(options.carriers),
            price_seconds=options.price_seconds,
            stock_seconds=options.stock_seconds,
            clock=context.clock,
        )
        self._rentals = Rentals(context, self._session, self._pace, self._terms())

    def _terms(self) -> Terms:
        options = self._options
        return Terms(
            words=Codes.of({**SERVICES, WHOLE_NUMBER: ALL_SERVICES}, options.services).outgoing,
            services=options.rent_services,
            country=options.country,
            number_type=options.number_type,
            area_codes=options.area_codes,
            always_on=options.rent_always_on,
            wakes=options.rent_wakes,
            sold_out=self._sold_out,
            price_seconds=options.price_seconds,
            stock_seconds=options.stock_seconds,
        )

    # --- what it sells ---

    async def offers(self) -> OfferTable:
        """What is known by now; a new process knows little for its first rounds."""
        if self._clock() >= self._sold_due_at:
            await self._list_services()
        await self._book.refresh(self._sold, self._options.round_seconds)
        rows = self._book.rows(self._codes.incoming, self._options.country, self._options.carriers)
        return OfferTable(self.name, self._currency, rows)

    def knowledge(self) -> Mapping[str, Any]:
        """Asked for a service at a time, so it is far more than the last round told."""
        return {
            "sold": self._sold,
            "sold_due_at": max(0.0, self._sold_due_at),
            "unmapped": self.unmapped,
            "book": self._book.entries(),
        }

    def learn(self, knowledge: Mapping[str, Any]) -> None:
        due_at, strange = float(knowledge["sold_due_at"]), mapping(knowledge.get("unmapped"))
        sold = tuple(word for word in knowledge["sold"] if word in self._codes.incoming)
        self._book.take(knowledge["book"])
        self._sold, self._sold_due_at = sold, min(due_at, self._clock() + self._options.price_seconds)
        self.unmapped = Counter(strange)

    async def _list_services(self) -> None:
        params = {"numberType": self._options.number_type, "reservationType": "verification"}
        body = await self._session.ask(
            "offers", own_path("services"), list_body, params=params, seconds=LIST_SECONDS, body_bytes=LIST_BYTES
        )
        parsed = await self._offload(parse_services, body, frozenset(self._codes.incoming))
        self._sold, self.unmapped = cast("tuple[tuple[str, ...], Counter[str]]", parsed)
        self._sold_due_at = self._clock() + self._options.price_seconds

    async def _price(self, word: str, with_carrier: bool) -> int | None:
        return await self._ask_price("offers", Urgency.LIST, word, with_carrier)

    async def _ask_price(self, verb: str, urgency: Urgency, word: str, with_carrier: bool) -> int | None:
        """Micro-units, None where it is not sold so. Raises Unwell."""
        data = self._goods(word) | {"areaCode": bool(self._options.area_codes), "carrier": with_carrier}
        await self._pace.turn(urgency)
        return await self._session.ask(verb, own_path("pricing", "verifications"), read_price, method="POST", data=data)

    async def _stock(self, word: str) -> int | None:
        await self._pace.turn(Urgency.LIST)
        data = self._goods(word)
        return await self._session.ask(
            "offers", own_path("inventory", "verifications"), read_stock, method="POST", data=data
        )

    def _goods(self, word: str) -> dict[str, Any]:
        return {"serviceName": word, "numberType": self._options.number_type, "capability": "sms"}

    async def balance(self) -> Money:
        """USD credits."""
        micros_left = await self._session.ask("balance", own_path("account", "me"), _balance, tells_account=True)
        return Money(micros_left, self._currency)

    # --- buying ---

    async def buy(self, order: BuyOrder) -> Lease:
        word = self._codes.outgoing.get(order.service)
        if word is None or order.country != self._options.country:
            raise Refused("no word for this service or country there")
        if order.operator and order.operator not in CARRIERS:
            raise Refused("no such carrier there")
        deadline = asyncio.get_running_loop().time() + order.timeout_seconds
        reference = await self._session.buy(
            own_path("verifications"), self._request(word, order), self._created, deadline
        )
        return await self._bought(reference, deadline)

    def _request(self, word: str, order: BuyOrder) -> dict[str, Any]:
        return {
            "serviceName": word,
            "capability": "sms",
            "areaCodeSelectOption": list(self._options.area_codes) or None,
            "carrierSelectOption": [order.operator] if order.operator else None,
            "serviceNotListedName": self._options.not_listed_name if word == NOT_LISTED else None,
            "maxPrice": float(plain(order.cost_max.micros)),
        }

    def _created(self, reply: Reply) -> str:
        return created(reply, self._sold_out)

    async def _bought(self, reference: str, deadline: float) -> Lease:
        """The lease of a purchase that went well: looked at until its number is seen. Raises InDoubt."""
        bought = await seen_by(deadline, lambda: self._look("read", reference))
        if bought is None:
            raise InDoubt("bought, but the number could not be read in time")
        return bought.lease(self._currency)

    # --- renting ---

    async def rent_countries(self) -> Collection[int]:
        return frozenset({self._options.country} if self._options.rent_services else ())

    async def rent_offers(self, country: int, hours: int) -> Sequence[RentOffer]:
        return await self._rentals.offers(country, hours)

    async def rent(self, order: BuyOrder) -> Lease:
        return await self._rentals.rent(order)

    async def extension_cost(self, reference: str, hours: int) -> tuple[Money, int]:
        return await self._rentals.extension_cost(reference, hours)

    async def extend(self, order: BuyOrder) -> float:
        return await self._rentals.extend(order)

    # --- using a number again ---

    async def reuse_cost(self, reference: str, number: str, service: str, country: int) -> Money:
        """The dearer of what the number cost and what the service costs now: which of the two it is, is not told."""
        if rental_id(reference):
            raise NotAllowed("a rental is not used again")
        found = await self._look("reuse_cost", reference)
        if found is None:
            raise UnknownLease("no such verification")
        if not found.can_reuse(self._clock()):
            raise NotAllowed("the number can't be used again, or not any more")
        listed = await self._ask_price("reuse_cost", Urgency.BUY, found.service_name, False)
        paid = cost(found.total_cost, self._currency)
        known = [price for price in (listed, paid.micros if paid is not None else None) if price is not None]
        if not known:
            raise Unwell("no price is told")
        return Money(max(known), self._currency)

    async def reuse(self, order: BuyOrder) -> Lease:
        deadline = asyncio.get_running_loop().time() + order.timeout_seconds
        question = self.reuse_cost(order.lease_reference, order.lease_number, order.service, order.country)
        require_cap((await within(question, order.timeout_seconds / 2)).micros, order)
        target = own_path("verifications", order.lease_reference, "reuse")
        reference = await self._session.buy(target, None, self._created, deadline)
        if reference == order.lease_reference:
            raise InDoubt("the verification before was named again")
        return await self._bought(reference, deadline)

    # --- reading ---

    async def read(self, watched: Watched) -> Progress:
        rental = rental_id(watched.reference)
        if rental:
            return await self._rentals.read(rental)
        found = await self._look("read", watched.reference)
        if found is None:
            return Progress(LeaseState.UNKNOWN)
        return Progress(_known_state(found), await self._messages("read", found))

    async def _look(self, verb: str, reference: str) -> Verification | None:
        """The verification, or None where there is none (any more). Raises Unwell."""
        return await self._session.ask(verb, own_path("verifications", reference), seen)

    async def _messages(self, verb: str, of: Verification) -> tuple[Sms, ...]:
        """Its messages; asked for only where its state says that there are any."""
        if not of.had_sms:
            return ()
        found: list[Message] = []
        start = of.sms_href or f"{own_path('sms')}?reservationId={of.id}"
        async with aclosing(self._session.pages(verb, start, PAGES_MAX)) as pages:
            async for page in pages:
                found += messages(page.rows)
        return in_order(found)

    async def read_many(self, watched: Sequence[Watched]) -> Mapping[str, Progress]:
        """From the two lists of the account, states first, so that no completed lease lacks a message sent before.

        A lease in a state never seen is left out, and one whose message is not on the pages read: both are read singly,
        as are rentals, whose messages may be on any page.
        """
        leases = [lease for lease in watched if not rental_id(lease.reference)]
        wanted = {lease.reference for lease in leases}
        if not wanted:
            return {}
        oldest = min(lease.opened_at for lease in leases) - OPENED_SKEW_SECONDS
        listed = await self._listed("read_many", wanted, oldest)
        open_ones = [one for one in listed if one.id in wanted and (one.is_pending or one.had_sms)]
        received = await self._received(open_ones, _owners(listed)) if open_ones else {}
        progress = {}
        for one in listed:
            found = in_order(received.get(one.id, ()))
            if one.id in wanted and one.lease_state is not None and (found or not one.had_sms):
                progress[one.id] = Progress(one.lease_state, found)
        return progress

    async def _listed(self, verb: str, wanted: set[str], since: float) -> list[Verification]:
        """Verifications on the pages that are needed to see those wanted."""
        listed: list[Verification] = []
        async with aclosing(self._session.pages(verb, own_path("verifications"), PAGES_MAX)) as pages:
            async for page in pages:
                listed += verifications(page.rows)
                if wanted <= {one.id for one in listed} or page.is_past(since):
                    break
        return listed

    async def _received(self, open_ones: Sequence[Verification], owners: Owners) -> dict[str, list[Message]]:
        """Messages by verification: the pages are read until each completed one has its own, and the first always."""
        received: defaultdict[str, list[Message]] = defaultdict(list)
        ids = {one.id for one in open_ones}
        lacking = {one.id for one in open_ones if one.had_sms}
        oldest = min((moment(one.created_at) or 0.0 for one in open_ones if one.had_sms), default=0.0)
        async with aclosing(self._session.pages("read_many", own_path("sms"), PAGES_MAX)) as pages:
            async for page in pages:
                for message in messages(page.rows):
                    owner = _owner(message, owners)
                    if owner in ids:
                        received[owner].append(message)
                if lacking <= received.keys() or page.is_past(oldest):
                    break
        return received

    async def find(self, since: float) -> Sequence[Found]:
        """Open verifications and rentals created at or after `since`. Raises Unwell rather than to miss one."""
        return [*await self._open_since(since), *await self._rentals.find(since)]

    async def _open_since(self, since: float) -> list[Found]:
        """Open verifications created at or after `since`. Raises Unwell rather than to miss one of a list too long."""
        found: dict[str, Found] = {}
        async with aclosing(self._session.pages("find", own_path("verifications"), FIND_PAGES_MAX)) as pages:
            async for page in pages:
                found |= {
                    one.id: self._found(one) for one in every_verification(page.rows) if _is_open_since(one, since)
                }
                if not page.next_href or page.is_past(since):
                    return sorted(found.values(), key=lambda one: one.created_at or 0.0, reverse=True)
        raise Unwell("the list is too long to be searched")

    def _found(self, one: Verification) -> Found:
        """A service without a code of ours is given as it is: the lease must not be hidden."""
        return Found(
            lease=one.lease(self._currency),
            service=self._codes.incoming.get(one.service_name, one.service_name),
            country=self._options.country,
            created_at=moment(one.created_at),
        )

    # --- closing ---

    async def close(self, reference: str, outcome: Outcome) -> None:
        rental = rental_id(reference)
        if rental:
            return await self._rentals.close(rental, outcome)
        found = await self._known(reference)
        if outcome is Outcome.CANCELLED:
            return await self._cancel(found)
        return await self._finish(found)

    async def _finish(self, found: Verification) -> None:
        """A completed verification needs no call, and one without a message is given back.

        A message that comes meanwhile completes it, which is what was wished.
        """
        if found.is_pending:
            try:
                await self._cancel(found)
            except HasSms:
                return

    async def _cancel(self, found: Verification) -> None:
        if found.is_pending and found.can_cancel:
            if await self._act("cancel", found.id):
                return
            found = await self._known(found.id)
        if found.can_report and not await self._messages("close", found):
            if await self._act("report", found.id):
                return
            found = await self._known(found.id)
        _accept_end(found)

    async def _known(self, reference: str) -> Verification:
        """Raises UnknownLease, Unwell."""
        found = await self._look("close", reference)
        if found is None:
            raise UnknownLease("no such verification")
        _known_state(found)
        return found

    async def _act(self, action: str, reference: str) -> bool:
        """Whether it was done; a refusal says nothing of the state. Raises Unwell."""
        return await self._session.ask("close", own_path("verifications", reference, action), is_done, method="POST")

    async def aclose(self) -> None:
        await self._session.aclose()

    # --- being told ---

    async def take_push(self, request: PushRequest) -> PushTaken:
        check_signature(request, self._webhook_secret)
        return read_push(request.body)


# --- small parts ---

Owners = Mapping[str, Sequence[tuple[float, str]]]
"""National number to (when it was bought, verification), oldest first."""


def _known_state(found: Verification) -> LeaseState:
    if found.lease_state is None:
        raise Unwell("an unknown state")
    return found.lease_state


def _accept_end(found: Verification) -> None:
    """Return where it is given back, raise what its state says against it otherwise."""
    if found.had_sms:
        raise HasSms
    if found.is_pending:
        raise TooEarly


def _is_open_since(one: Verification, since: float) -> bool:
    created_at = moment(one.created_at)
    return one.lease_state is LeaseState.OPEN and (created_at is None or created_at >= since)


def _owners(listed: Sequence[Verification]) -> Owners:
    owners: defaultdict[str, list[tuple[float, str]]] = defaultdict(list)
    for one in listed:
        created_at = moment(one.created_at)
        if created_at is not None:
            owners[one.number[-10:]].append((created_at, one.id))
    return {number: sorted(times) for number, times in owners.items()}


def _owner(message: Message, owners: Owners) -> str:
    """The verification that a message belongs to, or empty: the last that was bought with its number before it came."""
    bought, came_at = owners.get(message.to[-10:], ()), moment(message.created_at)
    place = bisect_right(bought, came_at, key=lambda one: one[0]) if came_at is not None else 0
    return bought[place - 1][1] if place else ""


def _balance(reply: Reply) -> int:
    if reply.status == 429:
        raise Refused("too many requests", is_fault=True)
    return micros(mapping(readable(reply)).get("currentBalance"))
