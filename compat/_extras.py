"""What builds on a number one has, in the `handler_api.php` dialects: its number again, another service beside it.

Facts: `protocol/handler_api.md` §7.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

from compat._activations import Activations, exceptions, while_there
from compat._reply import Call, Refusal, Reply, amount, as_json, dumps, text
from compat._shelves import names_a_price
from compat._wire import JSON, TEXT, first
from gateway.errors import BadService, NoNumbers
from gateway.live import Live
from gateway.model import Order, Product

SERVICES_MAX = 10
"""Of one number, at once."""

_NOT_AGAIN = {
    "bad_activation_id": "WRONG_ACTIVATION_ID",
    "unknown_activation": "WRONG_ACTIVATION_ID",
    "not_allowed_now": "RENEW_ACTIVATION_NOT_AVAILABLE",
}
_BY_ACTION = {
    "checkExtraActivation": {**_NOT_AGAIN, "no_numbers": "SIM_OFFLINE"},
    "getExtraActivation": {**_NOT_AGAIN, "no_numbers": "NEW_ACTIVATION_IMPOSSIBLE"},
    "getAdditionalService": {
        "bad_activation_id": "WRONG_ACTIVATION_ID",
        "unknown_activation": "WRONG_ACTIVATION_ID",
        "bad_service": "WRONG_ADDITIONAL_SERVICE",
        "not_allowed_now": "WRONG_ADDITIONAL_SERVICE",
    },
    "getMultiServiceNumber": {"not_allowed_now": "NOT_AVAILABLE"},
}

EXTRA_WORDS: Mapping[tuple[str, str], str] = {
    (action, code): word for action, words in _BY_ACTION.items() for code, word in words.items()
}


class Extras(Activations):
    """getAdditionalService, getMultiServiceNumber, checkExtraActivation, getExtraActivation."""

    action_words: ClassVar[Mapping[tuple[str, str], str]] = EXTRA_WORDS

    async def check_extra(self, call: Call) -> Reply:
        """checkExtraActivation: what the number of an activation that is over would cost again."""
        parent = await self.find(call, _parent_name(call))
        self.count_look(call)
        offer = await self.front.rentals.extra_offer(call.caller, parent.id)
        return as_json(
            {
                "status": "success",
                "cost": amount(offer.price.micros),
                "service": offer.service,
                "phone": int(offer.number),
                "country": int(self.country_number(offer.country)),
            }
        )

    async def get_extra(self, call: Call) -> Reply:
        """getExtraActivation: that number again."""
        order, live, was_gone = await self.again(call, _parent_name(call))
        said = f"ACCESS_NUMBER:{live.id}:{self.number(live)}"
        return self.handed_over(order, live, said.encode(), TEXT, was_gone=was_gone)

    async def again(self, call: Call, name: str) -> tuple[Order, Live, bool]:
        """The number of the activation named, for its service again; with the order, and whether the client is gone.

        Raises as `Rentals.open_extra`, and BadActivationId, TooManyRequests.
        """
        parent = await self.find(call, name)
        await self.count_change(call)
        self.front.purchases.require_free(call.caller)
        order = self.built_on(call, parent, Product.AGAIN)
        rentals = self.front.rentals
        if names_a_price(call.values):
            offer = await rentals.extra_offer(call.caller, parent.id)
            self.require_price(call, offer.price, order.price_max)
        live, was_gone = await while_there(call, lambda is_gone: rentals.open_extra(call.caller, order, is_gone))
        return order, live, was_gone

    def built_on(self, call: Call, parent: Live, product: Product) -> Order:
        """An order for what builds on an activation, for its service unless told otherwise.

        Raises as `require_seller`, and BadPhoneException, NoNumbers where the number is one that is not wanted.
        """
        self.require_seller(call)
        unwanted = exceptions(call.values.get("phoneException", ""))
        if unwanted and parent.number.startswith(unwanted):
            raise NoNumbers
        given = first(call.values, *self.cap_names)
        return Order(
            service=parent.service,
            country=parent.country,
            price_max=self.cap(given, call.caller.currency) if given else None,
            reference=self.own_reference(call),
            fingerprint=self.fingerprint(call),
            life_seconds=self.life_seconds,
            open_max=self.open_max,
            product=product,
            parent_id=parent.id,
        )

    async def get_additional(self, call: Call) -> Reply:
        """getAdditionalService: another service on the number of an open activation."""
        parent = await self.find(call)
        await self.count_change(call)
        self.front.purchases.require_free(call.caller)
        service = self.service(call.values)
        if not parent.status.is_open:
            raise Refusal(text("WRONG_SECURITY"))
        mine = self.front.activations.open_of(call.caller)
        if any(live.number == parent.number and live.service == service for live in mine):
            raise Refusal(text("REPEAT_ADDITIONAL_SERVICE"))
        order = replace(self.built_on(call, parent, Product.BESIDE), service=service)
        if names_a_price(call.values):
            self.require_price(call, self.listed_price(call.caller, order), order.price_max)
        rentals = self.front.rentals
        live, was_gone = await while_there(call, lambda is_gone: rentals.add_service(call.caller, order, is_gone))
        said = f"ADDITIONAL:{live.id}:{self.number(live)}"
        return self.handed_over(order, live, said.encode(), TEXT, was_gone=was_gone)

    async def get_multi(self, call: Call) -> Reply:
        """getMultiServiceNumber: one number for several services, all or none."""
        await self.count_change(call)
        self.front.purchases.require_free(call.caller)
        services = self._services(call.values.get("multiService", ""))
        if len(services) > 1:
            await self.count_change(call, len(services) - 1)  # each is a purchase, and all are counted before the first
        orders = [self.order(replace(call, values={**call.values, "service": service})) for service in services]
        orders[1:] = [replace(order, reference="") for order in orders[1:]]  # an order's id is one activation's
        rentals = self.front.rentals
        lives, was_gone = await while_there(call, lambda is_gone: rentals.open_many(call.caller, orders, is_gone))
        rows = [{"phone": self.number(live), "activation": str(live.id), "service": live.service} for live in lives]
        each = [self.when_sent(order, live, was_gone=was_gone) for order, live in zip(orders, lives, strict=True)]

        def on_sent(was_there: bool) -> None:
            for told in each:
                told(was_there)

        return Reply(dumps(rows), JSON, on_sent=on_sent)

    def _services(self, given: str) -> list[str]:
        """Our codes for the services named, each once. Raises BadService."""
        services = [self.service({"service": part.strip()}) for part in given.split(",")]
        if len(services) > SERVICES_MAX or len(set(services)) < len(services):
            raise BadService
        return services


def _parent_name(call: Call) -> str:
    """One client says `id`."""
    return "activationId" if "activationId" in call.values else "id"
