"""HeroSMS (hero-sms.com), the de-facto successor of SMS-Activate. Facts: `protocol/upstreams/handler_api_family.md` §3.

Its ways, beside what the family shares:

* errors come as an envelope with a real HTTP status, but some are still plain text with 200;
* `physicalCount` is the real stock, `count` may be huge while that is 0; getPricesV2 and V3 do not exist;
* setStatus takes 3, 6 and 8 only; a cancel is refused for 120 s, after a code, and after 20 minutes;
* getFullSms is gone: the whole text comes from getStatusV2, or from the list of open orders (at most 100 a page);
* `fixedPrice` means exactly this price, so it is never sent; 429 after about six quick calls;
* it pushes each SMS, unsigned, from two addresses, and gives up on an answer after 3 s: a push is a hint to read;
* rentals are activations of another subtype, under actions it renamed (`protocol/handler_api.md` §8), for the times in
  `rent_hours`; `prolong` and `reactivate` are posted, though a published client sends them with GET.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from adapters._handler_api import Brand, FamilyOptions, HandlerApi, build_handler_api
from adapters._handler_extras import ReactivatingHandlerApi
from adapters._handler_pushes import PushAddresses, PushRules
from adapters._handler_rent_forms import RenamedRents, RentRules
from adapters._handler_rents import RentingHandlerApi
from adapters._values import Address
from gateway.upstream import Context

RentHours = Annotated[tuple[Annotated[int, Field(ge=1, le=8760)], ...], Field(min_length=1)]


class Options(FamilyOptions):
    """`base_url` follows the provider when it moves; `push_addresses` empty takes pushes from anywhere.

    Its documents disagree on `rent_hours`; these are what it listed when it refused another.
    """

    base_url: Address = "https://hero-sms.com/stubs/handler_api.php"
    push_addresses: PushAddresses = ("84.32.223.53", "185.138.88.87")
    rent_hours: RentHours = (24, 72, 168, 336, 720, 1440, 2160, 4320)
    change_method: Literal["POST", "GET"] = "POST"


def build(context: Context, options: Options) -> HandlerApi:
    brand = Brand(
        base_url=options.base_url,
        pushes=PushRules(options.push_addresses, rentals="shared"),
        change_method=options.change_method,
        rents=RentRules(RenamedRents(options.change_method), options.rent_hours),
    )
    return build_handler_api(context, brand, options, RentingHandlerApi, ReactivatingHandlerApi)
