"""GrizzlySMS (grizzlysms.com). Facts: `protocol/upstreams/handler_api_family.md` §6.

Its ways, beside what the family shares:

* getNumberV2 tells when a cancel becomes possible (`activationCancel`) and when the order ends (`activationEnd`);
* the list of open orders is a bare array, in one piece;
* errors are plain words with 200, and now and then a sentence (`… prohibited for sale …`);
* a few countries have numbers of its own, 10016 and up, and a few services codes of its own (`gr_…`);
* providers can be chosen, and getPricesV3 lists each apart; whether operators count is not certain;
* the word `any` is a country: mapping one of ours to it buys there whatever is cheapest, in any country.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from adapters._handler_api import Brand, HandlerApi, ProviderOptions, build_handler_api
from adapters._values import Address
from gateway.upstream import Context

COUNTRIES = {57: "10016", 197: "10227", 198: "10231", 200: "10348", 190: "10350", 196: "10351"}


class Options(ProviderOptions):
    """`early_cancel_seconds` counts where an order does not say when it may be cancelled; that rule is not certain."""

    takes_any_country: ClassVar[bool] = True

    base_url: Address = "https://api.grizzlysms.com/stubs/handler_api.php"
    early_cancel_seconds: float = Field(default=120.0, ge=0, le=3600)


def build(context: Context, options: Options) -> HandlerApi:
    brand = Brand(
        base_url=options.base_url,
        countries=COUNTRIES,
        buy_parameters=options.buy_parameters(),
        price_action="getPricesV3" if options.has_choice else "getPricesV2",
        providers=frozenset(map(str, options.provider_ids)),
        excluded_providers=frozenset(map(str, options.except_provider_ids)),
        open_list_page=None,
        early_cancel_seconds=options.early_cancel_seconds,
    )
    return build_handler_api(context, brand, options)
