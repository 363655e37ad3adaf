"""The columns of the table: what a client can ask, in the order a driver asks it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Call:
    """`actions` are the original's words for it, `fivesim` 5sim's."""

    name: str
    title: str
    group: str
    actions: str
    fivesim: str = ""


LISTS, NUMBERS, RENT, REFUSALS = "lists", "numbers", "rent", "refusals"
GROUPS = (LISTS, NUMBERS, RENT, REFUSALS)

CALLS = (
    Call("balance", "balance", LISTS, "getBalance, getBalanceAndCashBack", "profile"),
    Call("prices", "prices", LISTS, "getPrices and its variants", "prices"),
    Call("countries", "countries", LISTS, "getCountries", "countries"),
    Call("services", "services", LISTS, "getServicesList", "products"),
    Call("operators", "operators", LISTS, "getOperators", "countries' operators"),
    Call("stock", "stock", LISTS, "getNumbersStatus"),
    Call("top", "top", LISTS, "getTopCountriesByService and its variants"),
    Call("number", "number", NUMBERS, "getNumber", "buy/activation"),
    Call("number_v2", "number V2", NUMBERS, "getNumberV2"),
    Call("waiting", "waiting", NUMBERS, "getStatus before a code", "check"),
    Call("ready", "ready", NUMBERS, "setStatus 1"),
    Call("code", "code", NUMBERS, "getStatus with a code", "check"),
    Call("text", "text", NUMBERS, "getFullSms, getStatusV2, getAllSms", "check, sms/inbox"),
    Call("again", "again", NUMBERS, "setStatus 3, then the second code", "a second message"),
    Call("open", "open", NUMBERS, "getActiveActivations, getCurrentActivations"),
    Call("finish", "finish", NUMBERS, "setStatus 6", "finish"),
    Call("cancel", "cancel", NUMBERS, "setStatus 8, and the money is back", "cancel, ban"),
    Call("history", "history", NUMBERS, "getHistory", "orders, payments"),
    Call(
        "more", "more", NUMBERS, "extra, additional, multi-service, calls: a result, or the word that says no", "reuse"
    ),
    Call("rent_offers", "rent offers", RENT, "getRentServicesAndCountries, serviceCountRent"),
    Call("rent", "rent", RENT, "getRentNumber", "buy/hosting"),
    Call("rent_status", "rent status", RENT, "getRentStatus", "check"),
    Call("rent_list", "rent list", RENT, "getRentList"),
    Call("rent_longer", "rent longer", RENT, "continueRentNumber, getContinueRentPriceNumber"),
    Call("rent_end", "rent end", RENT, "setRentStatus", "finish"),
    Call("bad_key", "wrong key", REFUSALS, "BAD_KEY", "401"),
    Call("no_numbers", "no numbers", REFUSALS, "NO_NUMBERS", "no free phones"),
    Call("bad_service", "bad service", REFUSALS, "BAD_SERVICE", "product is incorrect"),
)
NAMES = tuple(call.name for call in CALLS)
