"""HeroSMS (hero-sms.com), the de-facto successor of SMS-Activate. Facts: `protocol/upstreams/handler_api_family.md` §3.

Its ways, beside what the family shares:

* errors come as an envelope with a real HTTP status, but some are still plain text with 200;
* `physicalCount` is the real stock, `count` may be huge while that is 0; getPricesV2 and V3 do not exist;
* setStatus takes 3, 6 and 8 only; a cancel is refused for 120 s, after a code, and after 20 minutes;
* getFullSms is gone: the whole text comes from getStatusV2, or from the list of open orders (at most 100 a page);
* `fixedPrice` means exactly this price, so it is never sent; 429 after about six quick calls;
* it pushes each SMS, unsigned, from two addresses, and gives up on an answer after 3 s: a push is a hint to read.
"""

from __future__ import annotations

from adapters._handler_api import Brand, FamilyOptions, HandlerApi, build_handler_api
from adapters._handler_pushes import PushAddresses, PushRules
from adapters._values import Address
from gateway.upstream import Context


class Options(FamilyOptions):
    """`base_url` follows the provider when it moves; `push_addresses` empty takes pushes from anywhere."""

    base_url: Address = "https://hero-sms.com/stubs/handler_api.php"
    push_addresses: PushAddresses = ("84.32.223.53", "185.138.88.87")


def build(context: Context, options: Options) -> HandlerApi:
    brand = Brand(base_url=options.base_url, pushes=PushRules(options.push_addresses))
    return build_handler_api(context, brand, options)
