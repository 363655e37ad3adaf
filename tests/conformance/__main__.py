"""`python -m tests.conformance`: runs the clients and says how they did; `--write` puts the table into the pages."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.conformance.registry import clients
from tests.conformance.runner import place, run_all, tools
from tests.conformance.table import placed, short, whole
from tests.harness import ROOT


def main() -> int:
    """The exit status: 1 where a client did otherwise than its driver says."""
    flags = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    flags.add_argument("names", nargs="*", help="drivers to run; all, where none is named")
    flags.add_argument("--python", default=sys.executable, help="the interpreter that has PyPI's clients")
    flags.add_argument("--node-modules", type=Path, help="the folder that has npm's")
    flags.add_argument("--write", action="store_true", help="write the table into docs/clients.md and the README")
    flags.add_argument("--verbose", action="store_true", help="show what drivers printed")
    given = flags.parse_args()
    chosen = [client for client in clients() if not given.names or client.name in given.names]
    if not chosen or (given.write and given.names):
        flags.error("no such driver" if not chosen else "a table of some clients is no table")
    with place(chosen) as at:
        outcomes = run_all(chosen, at, tools(given.python, given.node_modules and given.node_modules.resolve()))
    surprised = 0
    for client in chosen:
        outcome = outcomes[client.name]
        went_well = sum(not why for why in outcome.results.values())
        said = f"skipped: {outcome.skipped}" if outcome.skipped else f"{went_well} of {len(outcome.results)}"
        sys.stdout.write(f"{client.name:22} {outcome.version:8} {said}\n")
        for name, why in outcome.surprises(client).items():
            surprised += 1
            sys.stdout.write(f"    {name}: {why}\n")
        if given.verbose:
            sys.stdout.write(outcome.output)
    if given.write:
        for page, table in (("docs/clients.md", whole(chosen, outcomes)), ("README.md", short(chosen, outcomes))):
            text = (ROOT / page).read_text(encoding="utf-8")
            (ROOT / page).write_text(placed(text, table), encoding="utf-8")
    return 1 if surprised else 0


if __name__ == "__main__":
    sys.exit(main())
