"""SMSHub (smshub.org). Facts: `protocol/upstreams/handler_api_family.md` §7; known through its clients only.

Its ways, beside what the family shares:

* getNumber only, which does not tell the price; a list leaf is a map from price to count;
* `currency` goes with purchases and the balance: dollars or roubles, as the stanza's `currency` says;
* a bad key may be `API_KEY_NOT_VALID`, an unknown service `WRONG_SERVICE`;
* errors are plain words with 200; the rule on early cancels, a list of open orders (`getCurrentActivations`),
  getFullSms and `phoneException` are not certain, so they are settings.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from adapters._handler_api import Brand, FamilyOptions, HandlerApi, TextSource, build_handler_api
from adapters._handler_words import CURRENCY_NUMBERS
from adapters._values import Address
from gateway.upstream import Context


class Options(FamilyOptions):
    """Whatever is not certain, at its likelier value."""

    base_url: Address = "https://smshub.org/stubs/handler_api.php"
    text_source: TextSource = "getFullSms"
    open_list: Literal["getCurrentActivations", "none"] = "none"
    phone_exceptions: bool = True
    early_cancel_seconds: float = Field(default=120.0, ge=0, le=3600)


def build(context: Context, options: Options) -> HandlerApi:
    number = CURRENCY_NUMBERS.get(context.currency)
    currency = {} if number is None else {"currency": number}
    brand = Brand(
        base_url=options.base_url,
        has_number_v2=False,
        takes_phone_exceptions=options.phone_exceptions,
        buy_parameters=currency,
        balance_parameters=currency,
        text_source=options.text_source,
        open_list=options.open_list,
        open_list_page=None,
        early_cancel_seconds=options.early_cancel_seconds,
    )
    return build_handler_api(context, brand, options)
