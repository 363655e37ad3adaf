"""In the manner of ten thousand bots: urllib and brittle patterns.

from: Python (urllib)
path: /stubs/handler_api.php
calls: balance prices number waiting ready code text again finish cancel bad_key no_numbers bad_service
"""

from __future__ import annotations

import json
import re
import time
from urllib.request import urlopen

from tests.conformance.driver import Driver, main, same, true


class PythonUrllib(Driver):
    def api(self, action: str, more: str = "", key: str = "") -> str:
        answer = urlopen(f"{self.url}?api_key={key or self.key}&action={action}{more}", timeout=20)  # noqa: S310 — what bots do
        return str(answer.read().decode())

    def groups(self, pattern: str, answer: str) -> tuple[str, ...]:
        found = re.match(pattern, answer)
        if found is None:
            raise AssertionError(f"unknown answer {answer!r}")
        return found.groups()

    def wait_for_code(self) -> str:
        for _ in range(150):
            answer = self.api("getStatus", f"&id={self.id}")
            if answer != "STATUS_WAIT_CODE" and not answer.startswith("STATUS_WAIT_RETRY"):
                return self.groups(r"^STATUS_OK:(\d+)$", answer)[0]
            time.sleep(0.1)
        raise AssertionError("no code")

    def balance(self) -> None:
        (self.before,) = self.groups(r"^ACCESS_BALANCE:(\d+\.\d+)$", self.api("getBalance"))

    def prices(self) -> None:
        true(json.loads(self.api("getPrices", "&service=tg&country=6"))["6"]["tg"]["cost"] > 0)

    def number(self) -> None:
        self.id, _ = self.groups(r"^ACCESS_NUMBER:(\d+):(62\d+)$", self.api("getNumber", "&service=tg&country=6"))

    def waiting(self) -> None:
        same(self.api("getStatus", f"&id={self.id}"), "STATUS_WAIT_CODE")

    def ready(self) -> None:
        same(self.api("setStatus", f"&id={self.id}&status=1"), "ACCESS_READY")

    def code(self) -> None:
        self.first = self.wait_for_code()

    def text(self) -> None:
        true(self.first in self.groups(r"^FULL_SMS:(.+)$", self.api("getFullSms", f"&id={self.id}"))[0])

    def again(self) -> None:
        same(self.api("setStatus", f"&id={self.id}&status=3"), "ACCESS_RETRY_GET")
        true(self.wait_for_code() != self.first, "the second code")

    def finish(self) -> None:
        same(self.api("setStatus", f"&id={self.id}&status=6"), "ACCESS_ACTIVATION")
        true(self.is_over(self.id, "6"))

    def cancel(self) -> None:
        paid = float(self.api("getBalance").split(":")[1])
        other, _ = self.groups(r"^ACCESS_NUMBER:(\d+):(\d+)$", self.api("getNumber", "&service=tg&country=6"))
        same(self.api("setStatus", f"&id={other}&status=8"), "ACCESS_CANCEL")
        same(self.api("getStatus", f"&id={other}"), "STATUS_CANCEL")
        true(float(self.api("getBalance").split(":")[1]) == paid < float(self.before))

    def bad_key(self) -> None:
        same(self.api("getBalance", key="wrong"), "BAD_KEY")

    def no_numbers(self) -> None:
        same(self.api("getNumber", "&service=zz&country=204"), "NO_NUMBERS")

    def bad_service(self) -> None:
        same(self.api("getNumber", "&service=nonsense&country=6"), "BAD_SERVICE")


if __name__ == "__main__":
    main(PythonUrllib)
