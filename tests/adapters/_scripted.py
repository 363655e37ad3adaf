"""What tests of adapters share that speak a protocol of their own: scripted answers, purchases that fail, odd JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import httpx
import pytest
from hypothesis import strategies as st

from gateway.errors import InDoubt, Refused, UpstreamError
from gateway.model import BuyOrder, Outcome
from gateway.upstream import AsksAgain, Finds, ReadsMany, Rents, Reuses, Upstream
from tests.adapters._context import Script, watched

Answers = Mapping[str, Any]

LOST = (
    httpx.Response(200, text="<html>Welcome</html>"),
    httpx.Response(502, text="Bad Gateway"),
    httpx.ReadTimeout("late"),
)
"""Leave a purchase in doubt on every wire."""


def as_json(given: Any) -> httpx.Response:
    return httpx.Response(200, content=json.dumps(given))


def scripted(
    answers: Answers, call: Callable[[httpx.Request], str], reply: Callable[[Any], httpx.Response] = as_json
) -> Script:
    """The answer to each call by its name, made by `reply` unless it is one, or is raised.

    A tuple answers one after another, and its last one stays. A function is asked with the request's query.
    """
    left = {name: list(given) if isinstance(given, tuple) else [given] for name, given in answers.items()}

    def respond(request: httpx.Request) -> httpx.Response:
        queue = left[call(request)]
        given = queue.pop(0) if len(queue) > 1 else queue[0]
        if callable(given):
            given = given(request.url.params)
        if isinstance(given, Exception):
            raise given
        return given if isinstance(given, httpx.Response) else reply(given)

    return Script(respond)


def longest_prefix(path: str, names: Iterable[str]) -> str:
    """For `scripted`: which of the names a path begins with."""
    return max((name for name in names if path.startswith(name)), key=len)


async def refused(there: Upstream, order: BuyOrder, expected: type[UpstreamError], is_fault: bool | None) -> str:
    """What is said where a purchase took nothing. `is_fault` is None where that is not told."""
    with pytest.raises(expected) as caught:
        await there.buy(order)
    if isinstance(caught.value, Refused):
        assert caught.value.is_fault is is_fault
    return str(caught.value)


async def in_doubt(there: Upstream, order: BuyOrder) -> str:
    """What is said where a purchase may have taken a number."""
    with pytest.raises(InDoubt) as caught:
        await there.buy(order)
    return str(caught.value)


async def every_verb(there: Upstream, order: BuyOrder, reference: str = "77") -> None:
    """Each verb in turn: it returns, or it raises an UpstreamError."""
    calls: list[Callable[[], Any]] = [
        lambda: there.buy(order),
        lambda: there.read(watched(reference)),
        there.balance,
        there.offers,
        lambda: there.close(reference, Outcome.FINISHED),
        lambda: there.close(reference, Outcome.CANCELLED),
    ]
    if isinstance(there, ReadsMany):
        calls.append(lambda: there.read_many([watched(reference)]))
    if isinstance(there, Finds):
        calls.append(lambda: there.find(0))
    if isinstance(there, AsksAgain):
        calls.append(lambda: there.ask_again(reference))
    if isinstance(there, Rents):
        calls += _rent_calls(there, replace(order, hours=24, lease_reference=f"rent:{reference}"))
        calls.append(lambda: there.read(watched(f"rent:{reference}")))
        calls += [partial(there.close, f"rent:{reference}", outcome) for outcome in Outcome]
    if isinstance(there, Reuses):
        again = replace(order, lease_reference=reference, lease_number="12025550100")
        calls.append(lambda: there.reuse_cost(reference, again.lease_number, again.service, again.country))
        calls.append(lambda: there.reuse(again))
    for call in calls:
        with suppress(UpstreamError):
            await call()


def _rent_calls(there: Rents, order: BuyOrder) -> list[Callable[[], Any]]:
    return [
        there.rent_countries,
        lambda: there.rent_offers(order.country, order.hours),
        lambda: there.rent(order),
        lambda: there.extension_cost(order.lease_reference, order.hours),
        lambda: there.extend(order),
    ]


def json_values(names: Iterable[str]) -> st.SearchStrategy[Any]:
    """Whatever JSON can hold, half characters included; objects have these names and others."""
    return st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=())),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(sorted(names)) | st.text(), inner),
        max_leaves=12,
    )


def odd(make: Callable[..., dict[str, Any]], values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """What `make` makes, with some of its fields replaced."""
    return st.builds(lambda changes: make(**changes), st.fixed_dictionaries({}, optional=dict.fromkeys(make(), values)))


texts = st.text(st.characters(exclude_categories=["Cs"]))
