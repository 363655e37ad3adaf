"""What members of the `handler_api.php` family sell on a number one has: another code of it, or a service beside.

Facts: `protocol/handler_api.md` §7. None of these requests names a highest price, so the price is asked first.

DaisySMS has getExtraActivation too, but tells no price for it, and may answer `ASLEEP:` with a number that gets its
messages only later and costs a penalty if none comes. It is not bought from in this way; the answer would be in doubt.
"""

from __future__ import annotations

from adapters._handler_api import HandlerApi
from adapters._handler_rent_rows import rent_id
from adapters._handler_words import UNKNOWN_LEASE, Answer, call_error, parse_answer, purchase_error
from adapters._http import Reply
from adapters._price_first import Countdown, before_buying, require_price
from adapters._values import digits, mapping, micros, reference
from gateway.errors import NotAllowed, Refused, UnknownLease, Unwell
from gateway.model import BuyOrder, Lease
from gateway.money import Money

NOT_AGAIN = frozenset(
    {
        "RENEW_ACTIVATION_NOT_AVAILABLE",
        "NEW_ACTIVATION_IMPOSSIBLE",
        "SIM_OFFLINE",
        "SIM_TEMPORARY_OFFLINE",
        "SERVICE_NOT_AVAILABLE",
        "ACTION_NOT_AVAILABLE",
    }
)


class ReusingHandlerApi(HandlerApi):
    """Hands out the number of an activation that is over: checkExtraActivation and getExtraActivation."""

    _cost_action = "checkExtraActivation"
    _reuse_action = "getExtraActivation"
    _reuse_parameter = "activationId"

    async def reuse_cost(self, reference: str, number: str, service: str, country: int) -> Money:
        if rent_id(reference) is not None:
            raise NotAllowed("a rental")
        params = {self._reuse_parameter: reference}
        return Money(await self._call("reuse_cost", self._cost_action, self._cost_again, params), self._currency)

    def _cost_again(self, answer: Answer) -> int:
        """Micro-units. Raises NotAllowed, UnknownLease, Unwell."""
        if answer.word in UNKNOWN_LEASE:
            raise UnknownLease(answer.quotable)
        if answer.word in NOT_AGAIN:
            raise NotAllowed(answer.quotable)
        if answer.word or answer.status != 200:
            raise call_error(answer)
        return self._cost_told(answer)

    def _cost_told(self, answer: Answer) -> int:
        return micros(mapping(answer.data).get("cost"))

    async def reuse(self, order: BuyOrder) -> Lease:
        if rent_id(order.lease_reference) is not None:
            raise Refused("a rental")
        time_left, params = Countdown(order.timeout_seconds), {self._reuse_parameter: order.lease_reference}
        question = self._http.buy(
            self._brand.base_url,
            self._cost_before,
            params=self._params(self._cost_action, **params),
            seconds=time_left.left_seconds(),
            verb="price",
        )
        await require_price(before_buying(question), order)
        return await self._http.buy(
            self._brand.base_url,
            self._lease,
            params=self._params(self._reuse_action, **params),
            seconds=time_left.left_seconds(),
            method=self._brand.change_method,
            verb="reuse",
        )

    def _cost_before(self, reply: Reply) -> int:
        """As `_cost_again`, for a purchase: raises NothingTaken."""
        is_fault = True
        try:
            return self._cost_again(parse_answer(reply))
        except (NotAllowed, UnknownLease) as error:
            reason, is_fault = str(error), False
        except Unwell as error:
            reason = str(error)
        raise Refused(f"the price was not told: {reason}", is_fault=is_fault)


class ReactivatingHandlerApi(ReusingHandlerApi):
    """HeroSMS's names for it: reactivationPrice and reactivate, which is posted and answers as getNumberV2 does."""

    _cost_action = "reactivationPrice"
    _reuse_action = "reactivate"
    _reuse_parameter = "id"

    def _cost_told(self, answer: Answer) -> int:
        return micros(mapping(mapping(answer.data).get("data")).get("price"))


class AddingHandlerApi(HandlerApi):
    """Adds a service to a number in use, at that service's own price: getAdditionalService."""

    async def add_service(self, order: BuyOrder) -> Lease:
        if rent_id(order.lease_reference) is not None:
            raise Refused("a rental")
        goods, time_left = self._goods(order), Countdown(order.timeout_seconds)
        await self._check_price(order, goods, time_left)
        params = {"id": order.lease_reference, "service": goods["service"]}
        return await self._http.buy(
            self._brand.base_url,
            self._added,
            params=self._params("getAdditionalService", **params),
            seconds=time_left.left_seconds(),
            verb="add_service",
        )

    def _added(self, reply: Reply) -> Lease:
        answer = parse_answer(reply)
        if answer.word != "ADDITIONAL" or answer.status != 200:
            raise purchase_error(answer)
        identity, _, phone = answer.rest.partition(":")
        return Lease(reference(identity), digits(phone))
