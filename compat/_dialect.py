"""A whole `handler_api.php` dialect: the table of actions over what the other modules serve."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from compat._core import Handler
from compat._lists import Lists
from compat._past import PastActivations
from compat._price_lists import PriceLists
from compat._reply import Call, Reply, text
from compat._unserved import unserved_actions
from compat._wire import first
from gateway import accounts, ledger
from gateway.front import Front
from gateway.money import plain
from gateway.webhooks import check_url

SMS_ACTIVATE_ONLY = frozenset(
    {
        "buyPartnerProduct", "checkExtraActivation", "continueRentInfo", "continueRentNumber", "getAdditionalService",
        "getContinueRentPriceNumber", "getExtraActivation", "getIncomingCallStatus", "getListOfActiveActivations",
        "getListOfTopCountriesByService", "getMultiServiceNumber", "getPricesExtended", "getPricesVerification",
        "getRentList", "getRentNumber", "getRentServicesAndCountries", "getRentStatus", "parseCall", "setRentStatus",
    }
)  # fmt: skip
"""Those that nobody took over, but for the dialects that say so."""

NEWER = frozenset(
    {
        "getBalanceAndCashBack", "getHistory", "getPricesV2", "getPricesV3", "getTopCountriesByService",
        "getTopCountriesByServiceRank",
    }
)  # fmt: skip
"""Those that some dialects have and others have not."""


class Dialect(PastActivations, PriceLists):
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
            "getActiveActivations": self.get_active_activations,
            "getBalance": self.get_balance,
            "getBalanceAndCashBack": self.get_balance,
            "getCountries": self.get_countries,
            "getCurrentActivations": self.get_current,
            "getFullSms": self.get_full_sms,
            "getHistory": self.get_history,
            "getListOfActiveActivations": self.get_list_of_active,
            "getListOfTopCountriesByService": self.get_top_by_share,
            "getNumber": self.get_number,
            "getNumberV2": self.get_number,
            "getNumbersStatus": self.get_numbers_status,
            "getOperators": self.get_operators,
            "getPrices": self.get_prices,
            "getPricesExtended": self.get_prices_extended,
            "getPricesV2": self.get_prices_v2,
            "getPricesV3": self.get_prices_v3,
            "getPricesVerification": self.get_prices_verification,
            "getServicesList": self.get_services_list,
            "getStatus": self.get_status,
            "getStatusV2": self.get_status_v2,
            "getTopCountriesByService": self.get_top_countries,
            "getTopCountriesByServiceRank": self.get_top_countries,
            "getWebhook": self.get_webhook,
            "setStatus": self.set_status,
            "setWebhook": self.set_webhook,
        }

    def own_actions(self) -> dict[str, Handler]:
        """What a dialect has beyond the reference, or does otherwise."""
        return {}

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
        check_url(url, house.settings.gateway.webhooks)
        account_id = call.caller.account_id
        await house.store.run(accounts.set_webhook, house.vault, account_id, url, self.webhook_format)
        return text("ACCESS_WEBHOOK_SET")

    async def get_webhook(self, call: Call) -> Reply:
        self.count_look(call)
        house = self.front.house
        url = await house.store.read(accounts.webhook, house.vault, call.caller.account_id)
        return text(f"ACCESS_WEBHOOK:{url}" if url else "NO_WEBHOOK_SET")
