"""Any upstream that speaks the SMS-Activate protocol, with its differences set in the stanza.

Settings for the brands we know of (`protocol/upstreams/handler_api_family.md` §2-§8), beside `base_url`:

    Tiger SMS     price_action = "getPricesV2", cumulative_counts = true, open_list = "getActiveActivations"
    SMSBower      (the defaults)
    GrizzlySMS    open_list = "getActiveActivations"
    SMSHub        number_v2 = false, text_source = "getFullSms"
    DS SMS HUB    number_v2 = false, text_source = "none", max_price_parameter = "max_price", services_first = true
    365sms        number_v2 = false, text_source = "none"
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
from adapters._values import Address
from gateway.upstream import Context


class Options(FamilyOptions):
    """Defaults are what most living brands share. `open_list_page` None asks for the list in one piece."""

    base_url: Address
    max_price_parameter: Literal["maxPrice", "max_price"] = "maxPrice"
    number_v2: bool = True
    text_source: TextSource = "getStatusV2"
    price_action: Literal["getPrices", "getPricesV2", "getPricesV3", "getPricesExtended", "getFreePrices"] = "getPrices"
    services_first: bool = False
    cumulative_counts: bool = False
    open_list: OpenList = "none"
    open_list_page: int | None = Field(default=100, ge=1, le=100)
    early_cancel_seconds: float = Field(default=120.0, ge=0, le=3600)


def build(context: Context, options: Options) -> HandlerApi:
    return build_handler_api(context, _brand(options), options)


def _brand(options: Options) -> Brand:
    return Brand(
        base_url=options.base_url,
        max_price_parameter=options.max_price_parameter,
        has_number_v2=options.number_v2,
        text_source=options.text_source,
        price_action=options.price_action,
        is_services_first=options.services_first,
        is_cumulative=options.cumulative_counts,
        open_list=options.open_list,
        open_list_page=options.open_list_page,
        early_cancel_seconds=options.early_cancel_seconds,
    )
