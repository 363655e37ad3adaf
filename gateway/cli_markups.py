"""`simroute markup`: what accounts add to the prices of those below them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import click

from gateway import accounts, manage, markups, rules
from gateway.ladders import Customer, Markup, priced_as
from gateway.manage import COMMAND_LINE
from gateway.markups import Rule
from gateway.model import Quote
from gateway.money import PRICE_STEP_MICROS, Money, MoneyError, plain, to_micros
from gateway.pricing import Pricing
from gateway.settings import PriceTerms
from gateway.store import Tx
from gateway.terminal import Context, common, show, tell, with_database


@click.group("markup")
def markup_group() -> None:
    """What accounts add to the prices of those below them."""


@markup_group.command("set")
@click.argument("name", metavar="ACCOUNT")
@click.option("--percent", default="0", help="Added in percent of what the account pays itself.")
@click.option("--add", default="0", metavar="AMOUNT", help="Added to each number, after that.")
@click.option("--step", metavar="AMOUNT", help="Prices are rounded up to a multiple of it; 0.0001 unless given.")
@click.option("--services", default="", help="Only for these services, such as tg,wa.")
@click.option("--countries", default="", help="Only for these countries, by id or two letters.")
@click.option("--child", help="Only for this account directly below, and those below that.")
@click.option(
    "--place", type=click.IntRange(1), help="Its place among the account's markups: the first that fits counts."
)
@common
@click.pass_obj
def markup_set(
    context: Context,
    name: str,
    percent: str,
    add: str,
    step: str | None,
    services: str,
    countries: str,
    child: str | None,
    place: int | None,
) -> None:
    """Add to the prices of everybody below an account.

    One for the very same services, countries and child is replaced. A new one comes before the first that would hide
    it, else last.
    """
    catalog = context.settings().catalog if services or countries else None
    markup = Markup(
        services=rules.services_of(_words(services), catalog) if catalog else frozenset(),
        countries=rules.countries_of(_words(countries), catalog) if catalog else frozenset(),
        percent_millionths=markups.percent_of(percent),
        add_micros=_exact(add),
        step_micros=PRICE_STEP_MICROS if step is None else _exact(step),
    )

    def put(tx: Tx) -> Sequence[Rule]:
        row = accounts.find(tx, name)
        child_id = None if child is None else accounts.find(tx, child, row["id"])["id"]
        markups.put(tx, row["id"], markup, child_id, place)
        found = markups.of(tx, row["id"])
        manage.note_markups(tx, COMMAND_LINE, time.time(), row, found)
        return found

    _show(context, with_database(context, lambda database: database.store.run(put)))


@markup_group.command("list")
@click.argument("name", metavar="ACCOUNT")
@common
@click.pass_obj
def markup_list(context: Context, name: str) -> None:
    """An account's markups, in the order in which they are looked at: the first that fits counts."""

    def read(tx: Tx) -> Sequence[Rule]:
        return markups.of(tx, accounts.find(tx, name)["id"])

    _show(context, with_database(context, lambda database: database.store.read(read)))


@markup_group.command("remove")
@click.argument("name", metavar="ACCOUNT")
@click.argument("rule_id", metavar="ID", type=click.IntRange(1))
@common
@click.pass_obj
def markup_remove(context: Context, name: str, rule_id: int) -> None:
    """Take a markup away."""

    def remove(tx: Tx) -> None:
        row = accounts.find(tx, name)
        markups.remove(tx, row["id"], rule_id)
        manage.note_markups(tx, COMMAND_LINE, time.time(), row, markups.of(tx, row["id"]))

    with_database(context, lambda database: database.store.run(remove))
    tell(context, {"account": name, "removed": rule_id}, f"markup {rule_id} of {name} is gone")


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _exact(text: str) -> int:
    """Micro-units of an amount that needs no rounding. Raises MoneyError."""
    micros = to_micros(text)
    if to_micros(text, rounding="ROUND_CEILING") != micros or to_micros(text, rounding="ROUND_FLOOR") != micros:
        raise MoneyError("an amount has at most six decimals")
    return micros


def _show(context: Context, found: Sequence[Rule]) -> None:
    if not found and not context.is_json:
        click.echo("no markups: prices are passed on as they are")
        return
    columns = ("id", "services", "countries", "child", "percent", "add", "step")
    show(context, [_row(rule) for rule in found], columns)


def _row(rule: Rule) -> dict[str, Any]:
    markup = rule.markup
    return {
        "id": rule.id,
        "services": ",".join(sorted(markup.services)) or None,
        "countries": ",".join(map(str, sorted(markup.countries))) or None,
        "child": rule.child or None,
        "percent": markups.percent_text(markup.percent_millionths),
        "add": plain(markup.add_micros),
        "step": plain(markup.step_micros),
    }


# How a price came about


def price_steps(pricing: Pricing, quote: Quote, buyer: Customer) -> list[dict[str, str]]:
    """How a price came about: cost, exchange, the operator's rule, and what each account on the way adds."""
    offer, currency = quote.offer, buyer.currency
    found = [{"step": "cost", "rule": f"at {offer.upstream}", "amount": str(offer.cost)}]
    exchanged = pricing.convert(offer.cost, currency)
    if exchanged is not None and offer.cost.currency != currency:
        found.append({"step": "exchange", "rule": f"{offer.cost.currency} to {currency}", "amount": str(exchanged)})
    rule = _terms_text(pricing.terms(offer, priced_as(buyer)), pricing.house_currency)
    if pricing.is_at_floor(offer, priced_as(buyer), currency):
        rule += f", raised to the floor of {pricing.settings.floor.margin_percent} % over the cost"
    whom = f" for {priced_as(buyer)}" if priced_as(buyer) else ""
    found.append({"step": "operator", "rule": rule + whom, "amount": str(Money(quote.top_micros, currency))})
    micros = quote.top_micros
    for name, markup in zip(buyer.ladder.names, buyer.ladder.markups(offer.service, offer.country), strict=True):
        micros = markup.price_micros(micros)
        found.append({"step": name, "rule": _markup_text(markup), "amount": str(Money(micros, currency))})
    return found


def _terms_text(terms: PriceTerms, currency: str) -> str:
    if terms.fixed is not None:
        return f"fixed {terms.fixed} {currency}"
    percent = f"+ {terms.percent} %" if terms.percent else ""
    add = f"+ {terms.add} {currency}" if terms.add else ""
    return " ".join(part for part in (percent, add) if part) or "the cost"


def _markup_text(markup: Markup) -> str:
    percent = f"+ {markups.percent_text(markup.percent_millionths)} %" if markup.percent_millionths else ""
    add = f"+ {plain(markup.add_micros)}" if markup.add_micros else ""
    step = f"up to a multiple of {plain(markup.step_micros)}" if markup.step_micros != PRICE_STEP_MICROS else ""
    return " ".join(part for part in (percent, add, step) if part) or "passes it on"
