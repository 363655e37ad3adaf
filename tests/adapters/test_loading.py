"""Adapters are found by the name of their module."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

import adapters
from adapters import UnknownAdapter, herosms, known, load, secrets
from tests.adapters._context import SECRET, context

REQUIRED: dict[str, dict[str, Any]] = {
    "handler_api": {"base_url": "https://upstream.test/stubs/handler_api.php"},
    "daisysms": {"base_url": "https://upstream.test/stubs/handler_api.php"},
    "manual_entry": {"services": ["tg"], "price": "0.40"},
}


def test_known_names_are_sorted_and_leave_out_shared_parts() -> None:
    names = known()
    assert {"fivesim", "handler_api", "herosms"} <= set(names)
    assert names == sorted(names)
    assert not any(name.startswith("_") for name in names)


def test_unknown_name_lists_the_known_ones_and_the_nearest() -> None:
    with pytest.raises(UnknownAdapter) as caught:
        load("herosm")
    assert "did you mean 'herosms'?" in str(caught.value)
    assert "fivesim" in str(caught.value)


@pytest.mark.parametrize("name", ["_http", "", "os", "..os", "adapters.herosms"])
def test_what_is_no_adapter_is_not_loaded(name: str) -> None:
    with pytest.raises(UnknownAdapter):
        load(name)


def test_module_without_build_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(herosms, "build")
    with pytest.raises(TypeError, match="build"):
        load("herosms")


@pytest.mark.parametrize("name", known())
async def test_every_adapter_builds_from_its_options(name: str) -> None:
    module = load(name)
    upstream = module.build(context(name="one"), module.Options(**REQUIRED.get(name, {})))
    assert upstream.name == "one"
    await upstream.aclose()


@pytest.mark.parametrize("name", known())
def test_options_are_frozen_and_refuse_unknown_keys(name: str) -> None:
    options = load(name).Options
    assert options.model_config.get("frozen")
    with pytest.raises(ValidationError, match="surprise"):
        options(**REQUIRED.get(name, {}), surprise=1)


@pytest.mark.parametrize("name", ["fivesim", "handler_api", "herosms"])
def test_upstreams_with_a_network_need_a_secret_and_hide_it(name: str) -> None:
    module = load(name)
    upstream = module.build(context(), module.Options(**REQUIRED.get(name, {})))
    assert secrets(module)["api_key"]
    assert SECRET not in repr(upstream)


def test_a_module_says_which_secrets_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(herosms, "NEEDS_SECRET", False, raising=False)
    monkeypatch.setattr(herosms, "SECRETS", {"username": True}, raising=False)
    assert secrets(load("herosms")) == {"api_key": False, "username": True}


def test_package_names_its_modules_only() -> None:
    assert adapters.load("herosms") is herosms
