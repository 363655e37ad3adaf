"""Commands of `simroute` as a person types them, run in the test's own process."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import structlog
from click.testing import CliRunner, Result

from gateway.cli import main


@dataclass
class Shell:
    """Runs commands on a configuration and a database; those of one group where a subclass names it."""

    directory: Path
    values: Mapping[str, str]

    group: ClassVar[tuple[str, ...]] = ()

    def run(self, *arguments: str, typed: str = "") -> Result:
        """`typed` is what comes from standard input.

        Commands set logging up to write to the standard error they are run with: afterwards it is as before.
        """
        before = logging.getLogger().handlers[:]
        command = ["--config", str(self.directory), *self.group, *arguments]
        try:
            return CliRunner().invoke(main, command, input=typed, env=dict(self.values))
        finally:
            structlog.reset_defaults()
            logging.getLogger().handlers[:] = before

    def ok(self, *arguments: str, typed: str = "") -> str:
        """What a command that succeeds says."""
        result = self.run(*arguments, typed=typed)
        assert result.exit_code == 0, (arguments, result.output, result.exception)
        return result.stdout

    def json(self, *arguments: str) -> Any:
        return json.loads(self.ok(*arguments, "--json"))

    def refused(self, *arguments: str) -> str:
        """What a command that fails says, all of it to standard error."""
        result = self.run(*arguments)
        assert result.exit_code == 1, (arguments, result.output, result.exception)
        assert result.stdout == ""
        return result.stderr
