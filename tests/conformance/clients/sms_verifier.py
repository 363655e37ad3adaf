"""A command line over curl: every call is a process, with the address in its environment.

package: sms-verifier
from: PyPI
path: /stubs/handler_api.php
moved by: the variable `SMS_PROVIDER_BASE_URL`
calls: balance prices countries services number waiting ready code finish cancel bad_key no_numbers bad_service
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.conformance.driver import (
    COUNTRY,
    SERVICE,
    UNKNOWN_SERVICE,
    UNSOLD,
    WRONG_KEY,
    Driver,
    code_of,
    main,
    same,
    true,
    until,
)

BUYER, POOL = "sms_verifier.core", "sms_verifier.protocol"
COST_GUARD, PROVIDER_ERROR = 3, 4


class SmsVerifier(Driver):
    """`order`, `wait` and `finish` are its own; the rest goes through its raw actions."""

    def __init__(self, url: str, base: str, key: str) -> None:
        super().__init__(url, base, key)
        self.directory = tempfile.TemporaryDirectory()

    def run(self, module: str, *arguments: object, key: str = "") -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "SMS_PROVIDER_BASE_URL": self.url,
            "SMS_PROVIDER_API_KEY": key or self.key,
            "SMS_STATE_FILE": str(Path(self.directory.name) / "activations.json"),
        }
        command = [sys.executable, "-W", "ignore", "-m", module, *map(str, arguments)]
        if module == POOL or arguments[0] in ("price", "order"):  # the others know it from their own file
            command += ["--provider", "sms-activate"]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)

    def said(self, *arguments: object) -> str:
        return self.run(POOL, *arguments).stdout.strip()

    def order(self, service: str, country: int) -> subprocess.CompletedProcess[str]:
        return self.run(BUYER, "order", "--service", service, "--country", country, "--max-price", 10)

    def balance(self) -> None:
        same(float(self.said("balance").split()[1]), self.available())

    def prices(self) -> None:
        found = self.run(BUYER, "price", "--service", SERVICE, "--country", COUNTRY)
        same(found.returncode, 0)

    def countries(self) -> None:
        same(json.loads(self.said("countries"))["6"]["eng"], "Indonesia")

    def services(self) -> None:
        true(json.loads(self.said("services"))["services"])

    def number(self) -> None:
        found = self.order(SERVICE, COUNTRY)
        same(found.returncode, 0)
        self.id = str(json.loads(found.stdout)["activation"])

    def waiting(self) -> None:
        """A number of its own: the first may have its code by now."""
        bought = self.said("get-number", "--service", SERVICE, "--country", COUNTRY).split(":")
        same(bought[0], "ACCESS_NUMBER")
        self.other = bought[1]
        true(self.said("status", "--activation", self.other).startswith("STATUS_"))

    def ready(self) -> None:
        same(self.said("set-status", "--activation", self.other, "--status-code", 1), "ACCESS_READY")

    def code(self) -> None:
        found = self.run(BUYER, "wait", "--activation", self.id, "--timeout", 20, "--interval", 1)
        same(found.returncode, 0)
        true(self.last_code(self.id) in found.stdout)

    def finish(self) -> None:
        same(self.run(BUYER, "finish", "--activation", self.id).returncode, 0)
        true(self.is_over(self.id, "6"))
        until(lambda: code_of(self.said("status", "--activation", self.other)))
        same(self.said("finish", "--activation", self.other), "ACCESS_ACTIVATION")

    def cancel(self) -> None:
        """A number without a code for long enough to start a process."""
        before = self.available()
        bought = self.said("get-number", "--service", "vi", "--country", COUNTRY).split(":")
        same(self.said("cancel", "--activation", bought[1]), "ACCESS_CANCEL")
        same(self.available(), before)

    def bad_key(self) -> None:
        found = self.run(POOL, "balance", key=WRONG_KEY)
        true(found.returncode == 1 and "BAD_KEY" in found.stdout, found)

    def no_numbers(self) -> None:
        """Its guard refuses first, for there is no price; the raw action asks all the same."""
        service, country = UNSOLD
        same(self.order(service, country).returncode, COST_GUARD)
        same(self.said("get-number", "--service", service, "--country", country), "NO_NUMBERS")

    def bad_service(self) -> None:
        same(self.said("get-number", "--service", UNKNOWN_SERVICE, "--country", COUNTRY), "BAD_SERVICE")

    async def close(self) -> None:
        self.directory.cleanup()


if __name__ == "__main__":
    main(SmsVerifier)
