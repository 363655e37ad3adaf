"""What 5sim's answers look like: pure functions from our values to its JSON.

Amounts are written as text and never pass through a binary fraction. Times are RFC 3339 in UTC with the nine digits of
the original, of which we know six. Members stand in the order of the captured answers.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence

from compat._fivesim_words import ANY, Words
from gateway.catalog import Country
from gateway.ledger import Balance
from gateway.live import Live, Shown
from gateway.model import Status
from gateway.money import plain

RATING = "96"
"""The best there is. Nobody is rated here, and clients stop buying below their own threshold."""

STATUSES = {
    Status.WAITING: "PENDING",
    Status.RECEIVED: "RECEIVED",
    Status.RETRYING: "RECEIVED",
    Status.FINISHED: "FINISHED",
    Status.CANCELLED: "CANCELED",
    Status.EXPIRED: "TIMEOUT",
}
"""5sim shows RECEIVED before a message, too, but PENDING then is what every client takes for "wait"."""


def moment(at: float) -> str:
    """`2026-11-01T10:00:00.123456000Z`."""
    seconds, micros = divmod(round(at * 1_000_000), 1_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{micros:06d}000Z"


def quoted(text: str) -> str:
    """A JSON string."""
    return json.dumps(text, ensure_ascii=False)


def order(live: Live, words: Words, status: str, *, sms: str, product: str = "") -> str:
    """An order, as every call about one answers. `sms` is JSON: null in the answer to a purchase, then a list.

    `product` is the word of a hosting product; empty for that of the order's service.
    """
    return (
        f'{{"id":{live.id},"phone":"+{live.number}","operator":{quoted(live.operator or ANY)},'
        f'"product":{quoted(product or words.product(live.service))},"price":{plain(live.price_micros)},'
        f'"status":"{status}",'
        f'"expires":"{moment(live.expires_at)}","sms":{sms},"created_at":"{moment(live.opened_at)}",'
        f'"forwarding":false,"forwarding_number":"","country":{quoted(words.country(live.country))}}}'
    )


def sms_list(messages: Iterable[Shown]) -> str:
    """Messages, in the order given. `sender` is empty where the upstream does not tell."""
    return f"[{','.join(map(_sms, messages))}]"


def _sms(message: Shown) -> str:
    at = moment(message.received_at)
    return (
        f'{{"created_at":"{at}","date":"{at}","sender":{quoted(message.sender)},'
        f'"text":{quoted(message.text)},"code":{quoted(message.code)}}}'
    )


def orders(rows: Sequence[str], total: int) -> str:
    """A page of the history."""
    return f'{{"Data":[{",".join(rows)}],"ProductNames":[],"Statuses":[],"Total":{total}}}'


def profile(account_id: int, name: str, balance: Balance, country: Country | None, words: Words, last: str) -> str:
    """The documented members, and the undocumented ones that one strict client insists on.

    Accounts have no e-mail address here: the one shown is of a domain that belongs to nobody. `last` is the newest
    order as `last_order`, empty where there is none; the client splits it, so something has to stand there.
    """
    home = words.country(country.id) if country else ANY
    iso, prefix = (country.iso2.lower(), country.prefix) if country else ("", "")
    told = last or f"{home}:other:{ANY}:0:0"
    return (
        f'{{"id":{account_id},"email":"account{account_id}@example.com","vendor":{quoted(name)},'
        f'"default_forwarding_number":"","balance":{plain(balance.available.micros)},"rating":{RATING},'
        f'"default_country":{{"name":{quoted(home)},"iso":"{iso}","prefix":"+{prefix}"}},'
        f'"default_operator":{{"name":"{ANY}"}},"frozen_balance":{plain(balance.held.micros)},'
        f'"did_order":{"true" if last else "false"},"last_order":{quoted(told)},'
        f'"last_top_orders":{quoted(f"[{told}]")},"last_top_idx":0,"total_active_orders":{balance.open_count}}}'
    )


def last_order(words: Words, row: Mapping[str, object]) -> str:
    """`country:product:operator:id:price`; an operator's own colons and commas would split it."""
    operator = str(row["operator"] or ANY).replace(":", " ").replace(",", " ")
    country, product = words.country(int(str(row["country"]))), words.product(str(row["service"]))
    return f"{country}:{product}:{operator}:{row['id']}:{plain(int(str(row['price'])))}"


def payments(rows: Sequence[Mapping[str, object]], offset: int, limit: int, *, newest_first: bool) -> str:
    """A page of what was paid in, given all of it oldest first. `Balance` is what had been paid in by then."""
    told: list[str] = []
    total = 0
    for row in rows:
        amount = int(str(row["amount"]))
        total += amount
        told.append(
            f'{{"ID":{row["id"]},"TypeName":"charge","ProviderName":"admin","Amount":{plain(amount)},'
            f'"Balance":{plain(total)},"CreatedAt":"{moment(float(str(row["at"])))}"}}'
        )
    if newest_first:
        told.reverse()
    names = '"PaymentTypes":[{"Name":"charge"}],"PaymentProviders":[{"Name":"admin"}],"PaymentStatuses":null'
    return f'{{"Data":[{",".join(told[offset : offset + limit])}],{names},"Total":{len(told)}}}'


def country(found: Country, operators: Iterable[str]) -> str:
    """One country of the list; its operators stand beside its names, after them."""
    members = [
        f'"iso":{{"{found.iso2.lower()}":1}}',
        f'"prefix":{{"+{found.prefix}":1}}',
        f'"text_en":{quoted(found.eng)}',
        f'"text_ru":{quoted(found.rus)}',
        *(f'{quoted(operator)}:{{"activation":1}}' for operator in operators),
    ]
    return f"{{{','.join(members)}}}"


def leaf(price_micros: int, count: int) -> str:
    """What a product costs in a country. Prices here are of all upstreams together, so the operator is `any`."""
    return f'{{"{ANY}":{{"cost":{plain(price_micros)},"count":{count}}}}}'


def product(price_micros: int, count: int, category: str = "activation") -> str:
    return f'{{"Category":"{category}","Qty":{count},"Price":{plain(price_micros)}}}'


def members(pairs: Iterable[tuple[str, str]]) -> str:
    """A JSON object of names and values that are JSON already."""
    return f"{{{','.join(f'{quoted(name)}:{value}' for name, value in pairs)}}}"
