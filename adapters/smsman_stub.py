"""sms-man (sms-man.com) by its `handler_api.php` stub; its own protocol is the better choice where there is one.

Facts: `protocol/upstreams/handler_api_family.md` §8. Little of it is certain, so it is the oldest member of the family
with settings: getNumber without a price in the reply, words with 200, SMS-Activate's numbers for countries, no list of
open orders. `maxPrice` is what its own protocol calls the highest price.
"""

from __future__ import annotations

from adapters._handler_api import Brand, FamilyOptions, HandlerApi, TextSource, build_handler_api
from adapters._values import Address
from gateway.upstream import Context


class Options(FamilyOptions):
    """Whatever is not certain, at its likelier value. `price_first` does not trust `maxPrice` (one request more)."""

    base_url: Address = "https://api.sms-man.com/stubs/handler_api.php"
    number_v2: bool = False
    price_first: bool = False
    text_source: TextSource = "getFullSms"


def build(context: Context, options: Options) -> HandlerApi:
    brand = Brand(
        base_url=options.base_url,
        has_number_v2=options.number_v2,
        asks_price_first=options.price_first,
        text_source=options.text_source,
        open_list="none",
    )
    return build_handler_api(context, brand, options)
