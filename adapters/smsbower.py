"""SMSBower (smsbower.page; its domain drifts). Facts: `protocol/upstreams/handler_api_family.md` §5.

Its ways, beside what the family shares:

* no list of open orders: a purchase whose reply was lost can't be found, and every lease is read singly;
* a bad key answers 401 with JSON of its own, POST answers 405, some errors are `{"error": "Bad service"}` with 200;
* after setStatus 1 an order can only be cancelled, so 1 is never sent; a cancel is refused for 120 s;
* a few countries have numbers of its own, 1001 and up; providers can be chosen, and getPricesV3 lists each apart;
* it pushes each SMS, unsigned, from one address, and twice more if not answered with 200: a push is a hint to read.
"""

from __future__ import annotations

from adapters._handler_api import Brand, HandlerApi, ProviderOptions, build_handler_api
from adapters._handler_pushes import PushAddresses, PushRules
from adapters._values import Address
from gateway.upstream import Context

COUNTRIES = {182: "1001", 190: "1002", 195: "1003", 203: "1004", 200: "1005", 98: "1010", 110: "1333"}


class Options(ProviderOptions):
    """`base_url` follows the provider when it moves; `push_addresses` empty takes pushes from anywhere."""

    base_url: Address = "https://smsbower.page/stubs/handler_api.php"
    push_addresses: PushAddresses = ("167.235.198.205",)


def build(context: Context, options: Options) -> HandlerApi:
    brand = Brand(
        base_url=options.base_url,
        countries=COUNTRIES,
        buy_parameters=options.buy_parameters(),
        price_action="getPricesV3" if options.has_choice else "getPricesV2",
        providers=frozenset(map(str, options.provider_ids)),
        excluded_providers=frozenset(map(str, options.except_provider_ids)),
        open_list="none",
        pushes=PushRules(options.push_addresses),
    )
    return build_handler_api(context, brand, options)
