"""vak-sms (vak-sms.com) by its `handler_api.php` stub; its own protocol is the better choice where there is one.

Facts: `protocol/upstreams/handler_api_family.md` §8. Its ways, beside what the family shares:

* everything is text with 200, and a bad key is `BAD_ACTION`. So is an unknown id to getStatus (setStatus says
  `NO_ACTIVATION`): the balance is asked for then, which tells the two apart;
* its own protocol has no highest price, so the stub is taken to have none: the price is asked for before a purchase,
  which is a request more and can still lose a race (`price_first = false` trusts `maxPrice`);
* getNumber only, which does not tell the price; no list of open orders; roubles.
"""

from __future__ import annotations

from adapters._handler_api import Brand, FamilyOptions, HandlerApi, TextSource, build_handler_api
from adapters._values import Address
from gateway.upstream import Context


class Options(FamilyOptions):
    """`text_source` is not certain; a text that is not to be had costs one call a code."""

    base_url: Address = "https://vak-sms.com/stubs/handler_api.php"
    price_first: bool = True
    text_source: TextSource = "getFullSms"


def build(context: Context, options: Options) -> HandlerApi:
    brand = Brand(
        base_url=options.base_url,
        has_number_v2=False,
        asks_price_first=options.price_first,
        text_source=options.text_source,
        vague_word="BAD_ACTION",
        open_list="none",
    )
    return build_handler_api(context, brand, options)
