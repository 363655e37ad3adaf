"""Tiger SMS (tiger-sms.com). Facts: `protocol/upstreams/handler_api_family.md` §4.

Its ways, beside what the family shares:

* ids have up to 19 digits;
* getPricesV2 counts at each price all that is cheaper too, and writes prices as text; getPricesV3 wants a service and a
  country, so it is of no use for a whole list, and is 45 s old;
* `operator` and `phoneException` are ignored, so they are not sent; providers can be chosen;
* a row of the open list with status 6 has received its code (elsewhere 6 is finished); a cancelled order may read
  `ACCESS_CANCEL`; getFullSms and getNumbersStatus do not exist;
* getNumber's errors are words with 200, those of V2 envelopes with their status; the edge says `Too Many Requests`.
"""

from __future__ import annotations

from adapters._handler_api import Brand, HandlerApi, ProviderOptions, build_handler_api
from adapters._values import Address
from gateway.upstream import Context


class Options(ProviderOptions):
    """`base_url` follows the provider when it moves."""

    base_url: Address = "https://api.tiger-sms.com/stubs/handler_api.php"


def build(context: Context, options: Options) -> HandlerApi:
    brand = Brand(
        base_url=options.base_url,
        operator_parameter="",
        takes_phone_exceptions=False,
        buy_parameters=options.buy_parameters(),
        price_action="getPricesV2",
        is_cumulative=True,
        open_rows=frozenset({"1", "2", "3", "6"}),
    )
    return build_handler_api(context, brand, options)
