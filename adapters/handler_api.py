"""Any upstream that speaks the SMS-Activate protocol, with its differences set in the stanza.

Brands with a module of their own (`herosms`, `tigersms`, `smsbower`, `grizzlysms`, `smshub`, `daisysms`) are better
used by that. Settings for others (`protocol/upstreams/handler_api_family.md` §8), beside `base_url`:

    365sms              number_v2 = false, text_source = "none"
    sms-online.pro      rents = true
    another simroute    open_list = "getActiveActivations", pushes = true, rents = true, reuses = true,
                        adds_services = true

`pushes = true` takes SMS-Activate's webhook (hints, from `push_addresses` only where that names any) and the signed one
of the brief. With the secret NAME_WEBHOOK_SECRET set, every push has to be signed: in the header `X-Signature`, over
the body as sent, or in the member `signature`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from adapters._handler_api import (
    Brand,
    FamilyOptions,
    HandlerApi,
    OpenList,
    TextSource,
    build_handler_api,
)
from adapters._handler_extras import AddingHandlerApi, ReusingHandlerApi
from adapters._handler_pushes import PushAddresses, PushRules
from adapters._handler_rent_forms import ActivateRents, PriceAction, RentRules
from adapters._handler_rents import RentingHandlerApi
from adapters._handler_words import CURRENCY_NUMBERS
from adapters._values import Address
from gateway.upstream import Context

SECRETS = {"webhook_secret": False}


class Options(FamilyOptions):
    """Defaults are what most living brands share. `open_list_page` 0 asks for the list in one piece."""

    base_url: Address
    max_price_parameter: Literal["maxPrice", "max_price"] = "maxPrice"
    number_v2: bool = True
    text_source: TextSource = "getStatusV2"
    price_action: Literal["getPrices", "getPricesV2", "getPricesV3", "getPricesExtended", "getFreePrices"] = "getPrices"
    services_first: bool = False
    cumulative_counts: bool = False
    open_list: OpenList = "none"
    open_list_page: int = Field(default=100, ge=0, le=100)
    early_cancel_seconds: float = Field(default=120.0, ge=0, le=3600)
    pushes: bool = False
    push_addresses: PushAddresses = ()
    rents: bool = False
    rent_hours_min: int = Field(default=2, ge=1, le=24)
    rent_hours_max: int = Field(default=1344, ge=24, le=8760)
    rent_price_action: PriceAction = "continueRentInfo"
    reuses: bool = False
    adds_services: bool = False


def build(context: Context, options: Options) -> HandlerApi:
    secret = context.secrets.get("webhook_secret", "")
    rules = PushRules(options.push_addresses, secret, "own" if options.rents else "none")
    form = ActivateRents(options.rent_price_action, CURRENCY_NUMBERS.get(context.currency, ""))
    rents = RentRules(form, hours_min=options.rent_hours_min, hours_max=options.rent_hours_max)
    brand = _brand(options, rules, rents if options.rents else None)
    wanted = {
        RentingHandlerApi: options.rents,
        ReusingHandlerApi: options.reuses,
        AddingHandlerApi: options.adds_services,
    }
    abilities: list[type[HandlerApi]] = [ability for ability, is_wanted in wanted.items() if is_wanted]
    return build_handler_api(context, brand, options, *abilities)


def _brand(options: Options, rules: PushRules, rents: RentRules | None) -> Brand:
    return Brand(
        base_url=options.base_url,
        max_price_parameter=options.max_price_parameter,
        has_number_v2=options.number_v2,
        text_source=options.text_source,
        price_action=options.price_action,
        is_services_first=options.services_first,
        is_cumulative=options.cumulative_counts,
        open_list=options.open_list,
        open_list_page=options.open_list_page or None,
        early_cancel_seconds=options.early_cancel_seconds,
        pushes=rules if options.pushes else None,
        rents=rents,
    )
