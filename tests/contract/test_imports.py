"""Who imports whom: the layers of the house, read from the source itself (imports inside functions count too).

app ──> compat ──> gateway <── adapters <── app
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import ROOT

OURS = ("gateway", "adapters", "compat", "tests", "bench")

SEEN_BY_ADAPTERS = {f"gateway.{name}" for name in ("upstream", "inhouse", "model", "money", "errors", "fivesim_words")}
"""The seam: everything an adapter needs to know of the house, and the words we both buy and sell by."""

HIDDEN_FROM_DIALECTS = {"app", "cli", "terminal", "worker", "poller", "database", "migrations", "store"}
"""A dialect parses and renders; how the house is run, wired and stored is not its business."""

WIRING = {"app", "cli"}
"""The only ones that name adapters and dialects."""

LAYERS = (
    # Values and small tools that know nothing of the rest
    "money", "codes", "vault", "sealed_stream", "notify", "logs", "limits", "redis_client", "bus", "supervisor",
    "migrations", "catalog", "fivesim_words", "ds_words",
    # The words everybody uses
    "errors", "model", "metrics", "settings", "guard", "rules",
    # The seam, the database, and what is kept in memory
    "inhouse", "upstream", "snapshots", "store", "leases", "live", "apart", "health", "passwords",
    # Decisions: pure, from facts to a short-list
    "pricing", "ladders", "routing", "offers",
    # Units of work on the store
    "keyring", "reencryption", "database", "revisions", "records", "history", "journal", "refunds", "tree", "markups",
    "levels", "caps", "fuse", "handed", "proofs", "ledger", "seals", "statements", "usage", "audit", "drift",
    "recharges", "deposits", "vouchers",
    "accounts", "terms", "readers", "users", "manage", "guesses", "numbers", "roster", "desk", "switches", "alerts",
    "host_alerts",    "backups", "restoring",
    # What the use-cases share, the use-cases, and the loops behind them
    "house", "feed", "sessions", "moves", "attempts", "repeats", "handovers", "errands", "settling", "adoption",
    "payments",
    "rent_market", "purchases", "activations", "inbox", "webhook_addresses", "webhook_endpoints",
    "webhook_log", "webhook_forms", "webhook_wire", "webhooks", "webhook_watch", "rentals", "poller", "overseer",
    "shared_lists", "pricelists", "recharger", "retention", "archivist", "worker",
    # A program of its own, for the machine beside the modem
    "forward",
    # What a dialect gets, and the wiring
    "edge", "front", "app", "terminal", "connections", "cli_accounts", "cli_activations", "cli_backups", "cli_fuse",
    "cli_numbers", "cli_desk", "cli_ledger", "cli_markups", "cli_money", "cli_retention", "cli_secrets",
    "cli_upstreams", "cli_usage", "cli_users", "cli_webhooks", "cli",
)  # fmt: skip
"""The modules of `gateway`, lowest first: each leans only on those before it. A new module takes its place here."""


def imports(path: Path) -> Iterator[str]:
    """Full names of our own modules that a file imports; `from gateway import ledger` is `gateway.ledger`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            names = [f"{module}.{alias.name}" for alias in node.names] if "." not in module else [module]
        else:
            continue
        yield from (name for name in names if name.partition(".")[0] in OURS)


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def named(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


@pytest.mark.parametrize("file", named(modules("adapters")))
def test_an_adapter_sees_the_seam_and_its_shared_parts(file: str) -> None:
    for name in imports(ROOT / file):
        package, _, module = name.partition(".")
        is_shared_part = package == "adapters" and module.startswith("_")
        assert is_shared_part or ".".join(name.split(".")[:2]) in SEEN_BY_ADAPTERS, f"{file} imports {name}"


@pytest.mark.parametrize("file", named(modules("compat")))
def test_a_dialect_sees_the_use_cases_and_no_other_dialect(file: str) -> None:
    is_package = file.endswith("__init__.py")
    for name in imports(ROOT / file):
        package, _, module = name.partition(".")
        if package == "compat":
            assert is_package or module.startswith("_"), f"{file} imports {name}"
        else:
            assert package == "gateway", f"{file} imports {name}"
            assert module.split(".")[0] not in HIDDEN_FROM_DIALECTS, f"{file} imports {name}"


@pytest.mark.parametrize("file", named(sorted((ROOT / "gateway").rglob("*.py"))))
def test_only_the_wiring_names_adapters_and_dialects(file: str) -> None:
    outside = [name for name in imports(ROOT / file) if not name.startswith("gateway.")]
    assert outside == [] or Path(file).stem in WIRING
    assert not [name for name in outside if name.partition(".")[0] in ("tests", "bench")]


@pytest.mark.parametrize("file", named(sorted((ROOT / "tests" / "simulators").rglob("*.py"))))
def test_a_simulator_imports_none_of_ours(file: str) -> None:
    """So that a parser and its fake never agree on the same mistake."""
    for name in imports(ROOT / file):
        assert name.startswith("tests.simulators"), f"{file} imports {name}"


def test_every_module_of_the_gateway_has_its_layer() -> None:
    found = {path.stem for path in (ROOT / "gateway").glob("*.py")} - {"__init__"} | {"migrations"}
    assert found == set(LAYERS)
    assert len(set(LAYERS)) == len(LAYERS)


@pytest.mark.parametrize("layer", LAYERS)
def test_a_module_leans_only_on_those_before_it(layer: str) -> None:
    below = LAYERS[: LAYERS.index(layer)]
    place = ROOT / "gateway" / layer
    for path in sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]:
        for name in imports(path):
            package, _, rest = name.partition(".")
            module = rest.split(".")[0]
            if package == "gateway" and module != layer:
                assert module in below, f"{layer} imports {module}, which stands above it"


def test_a_relative_or_hidden_import_would_be_seen(tmp_path: Path) -> None:
    source = tmp_path / "x.py"
    source.write_text("def f():\n    from gateway import store\n    import adapters.sandbox as s\n")
    assert sorted(imports(source)) == ["adapters.sandbox", "gateway.store"]
