"""Shops in the manner of DaisySMS, itself closed since March 2026. Facts: `upstreams/handler_api_family.md` §8.

Its ways, beside what the family shares (`protocol/handler_api.md` §4.4, §11):

* one country, the United States, which requests do not name and lists call 187;
* `max_price` is inclusive; the price paid is in the header `X-Price`, the whole text, with `text=1`, in `X-Text`;
* words of its own: `MAX_PRICE_EXCEEDED`, `NO_MONEY`, `TOO_MANY_ACTIVE_RENTALS` (20); a cancel that comes too late, or
  for an order it does not know, answers `ACCESS_READY`, and the state then tells;
* area codes and carriers can be chosen; no V2, no list of open orders, no time in which a cancel is too early;
* counts above 100 are shown as 100; setStatus 3 is not documented: one SMS a number, unless the stanza says more.
"""

from __future__ import annotations

from adapters._handler_api import Brand, FamilyOptions, HandlerApi, build_handler_api
from adapters._values import Address
from gateway.upstream import Context

UNITED_STATES = 187
KEY_HEADER = "X-Api-Key"


class Options(FamilyOptions):
    """No default `base_url`: the shop it was named after is gone. `key_in_header` keeps the key out of URLs."""

    base_url: Address
    key_in_header: bool = False
    areas: tuple[str, ...] = ()
    carriers: tuple[str, ...] = ()
    another_sms: bool = False


def build(context: Context, options: Options) -> HandlerApi:
    wishes = {"areas": ",".join(options.areas), "carriers": ",".join(options.carriers)}
    brand = Brand(
        base_url=options.base_url,
        key_header=KEY_HEADER if options.key_in_header else "",
        only_country=UNITED_STATES,
        max_price_parameter="max_price",
        has_number_v2=False,
        operator_parameter="carriers",
        takes_phone_exceptions=False,
        buy_parameters={name: chosen for name, chosen in wishes.items() if chosen},
        text_source="X-Text",
        has_another_sms=options.another_sms,
        open_list="none",
        early_cancel_seconds=0.0,
    )
    return build_handler_api(context, brand, options)
