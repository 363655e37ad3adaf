"""A whole `handler_api.php` dialect: the table of actions over what the other modules serve."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import ClassVar

from compat._core import Handler
from compat._extras import Extras
from compat._lists import Lists
from compat._past import PastActivations
from compat._price_lists import PriceLists
from compat._rentals import RENT_ACTIONS, Rentals
from compat._reply import Call, Reply, text
from compat._unserved import unserved_actions
from compat._wire import first
from gateway import accounts, ledger, webhook_endpoints
from gateway.front import Front
from gateway.money import plain

SMS_ACTIVATE_ONLY = RENT_ACTIONS | {
    "buyPartnerProduct", "checkExtraActivation", "getAdditionalService", "getExtraActivation", "getIncomingCallStatus",
    "getListOfActiveActivations", "getListOfTopCountriesByService", "getMultiServiceNumber", "getPricesExtended",
    "getPricesVerification", "parseCall",
}  # fmt: skip
"""Those that nobody took over, but for the dialects that say so."""

NEWER = frozenset(
    {
        "getBalanceAndCashBack", "getHistory", "getPricesV2", "getPricesV3", "getTopCountriesByService",
        "getTopCountriesByServiceRank",
    }
)  # fmt: skip
"""Those that some dialects have and others have not."""


class Dialect(Rentals, Extras, PastActivations, PriceLists):
    """The reference dialect; others are subclasses."""

    lacks: ClassVar[frozenset[str]] = frozenset()
    """Actions of the reference that this dialect does not have."""

    webhook_format: ClassVar[str] = "sms_activate"
    """The form of notices to an address that was set in this dialect (`gateway.webhooks`)."""

    def __init__(self, front: Front, lists: Lists) -> None:
        super().__init__(front, lists)
        served = {**self.common_actions(), **self.own_actions()}
        self.actions: Mapping[str, Handler] = {
            action: handler for action, handler in served.items() if action not in self.lacks
        }

    def common_actions(self) -> dict[str, Handler]:
        """Those of the reference dialect."""
        return {
            **unserved_actions(self),
            "checkExtraActivation": self.check_extra,
            "continueRentInfo": self.continue_rent_info,
            "continueRentNumber": self.continue_rent_number,
            "getActiveActivations": self.get_active_activations,
            "getAdditionalService": self.get_additional,
            "getBalance": self.get_balance,
            "getBalanceAndCashBack": self.get_balance,
            "getContinueRentPriceNumber": self.get_continue_price,
            "getCountries": self.get_countries,
            "getCurrentActivations": self.get_current,
            "getExtraActivation": self.get_extra,
            "getFullSms": self.get_full_sms,
            "getHistory": self.get_history,
            "getListOfActiveActivations": self.get_list_of_active,
            "getListOfTopCountriesByService": self.get_top_by_share,
            "getMultiServiceNumber": self.get_multi,
            "getNumber": self.get_number,
            "getNumberV2": self.get_number,
            "getNumbersStatus": self.get_numbers_status,
            "getOperators": self.get_operators,
            "getPrices": self.get_prices,
            "getPricesExtended": self.get_prices_extended,
            "getPricesV2": self.get_prices_v2,
            "getPricesV3": self.get_prices_v3,
            "getPricesVerification": self.get_prices_verification,
            "getRentList": self.get_rent_list,
            "getRentNumber": self.get_rent_number,
            "getRentServicesAndCountries": self.get_rent_offers,
            "getRentStatus": self.get_rent_status,
            "getServicesList": self.get_services_list,
            "getStatus": self.get_status,
            "getStatusV2": self.get_status_v2,
            "getTopCountriesByService": self.get_top_countries,
            "getTopCountriesByServiceRank": self.get_top_countries,
            "getWebhook": self.get_webhook,
            "setRentStatus": self.set_rent_status,
            "setStatus": self.set_status,
            "setWebhook": self.set_webhook,
        }

    def own_actions(self) -> dict[str, Handler]:
        """What a dialect has beyond the reference, or does otherwise."""
        return {}

    async def renting(self, call: Call) -> Collection[int]:
        return await self.front.rentals.countries(call.caller) if "getRentNumber" in self.actions else ()

    # Money

    async def get_balance(self, call: Call) -> Reply:
        """getBalance and getBalanceAndCashBack: there is one purse, and nothing is paid back into another."""
        return text(f"ACCESS_BALANCE:{plain(await self.available(call))}")

    async def available(self, call: Call) -> int:
        """What the caller can spend, in micro-units. Raises TooManyRequests, Unavailable."""
        self.count_look(call)
        balance = await self.front.house.store.read(ledger.balance, call.caller.account_id)
        return balance.available.micros

    # Webhook

    async def set_webhook(self, call: Call) -> Reply:
        await self.count_change(call)
        house = self.front.house
        url = first(call.values, "webhook_url", "url")
        await house.store.run(
            webhook_endpoints.set_address,
            house.vault,
            house.settings.gateway.webhooks,
            call.caller.account_id,
            url,
            self.webhook_format,
            house.clock(),
            call.caller.actor,
        )
        return text("ACCESS_WEBHOOK_SET")

    async def get_webhook(self, call: Call) -> Reply:
        self.count_look(call)
        house = self.front.house
        url = await house.store.read(accounts.webhook, house.vault, call.caller.account_id)
        return text(f"ACCESS_WEBHOOK:{url}" if url else "NO_WEBHOOK_SET")
