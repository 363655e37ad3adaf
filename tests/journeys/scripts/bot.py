"""In the manner of ten thousand bots: urllib, brittle patterns, no library. Arguments: URL, key, service."""

import re
import sys
import time
from urllib.request import urlopen

URL, KEY, SERVICE = sys.argv[1:4]


def api(action: str, more: str = "") -> str:
    answer = urlopen(f"{URL}?api_key={KEY}&action={action}{more}", timeout=20)  # noqa: S310 — what bots do
    return str(answer.read().decode())


def groups(pattern: str, answer: str) -> tuple[str, ...]:
    found = re.match(pattern, answer)
    return found.groups() if found else sys.exit(f"unknown answer {answer!r}")


def wait_for_code(number_id: str) -> str:
    for _ in range(150):
        answer = api("getStatus", f"&id={number_id}")
        if answer == "STATUS_CANCEL":
            sys.exit("cancelled")
        if answer != "STATUS_WAIT_CODE" and not answer.startswith("STATUS_WAIT_RETRY"):
            return groups(r"^STATUS_OK:(\d+)$", answer)[0]
        time.sleep(0.1)
    sys.exit("no code")


(before,) = groups(r"^ACCESS_BALANCE:(\d+\.\d+)$", api("getBalance"))
number, phone = groups(r"^ACCESS_NUMBER:(\d+):(\d+)$", api("getNumber", f"&service={SERVICE}&country=6"))
assert api("setStatus", f"&id={number}&status=1") == "ACCESS_READY"
first = wait_for_code(number)
assert api("setStatus", f"&id={number}&status=3") == "ACCESS_RETRY_GET"
second = wait_for_code(number)
assert api("setStatus", f"&id={number}&status=6") == "ACCESS_ACTIVATION"
paid = float(api("getBalance").split(":")[1])

other, _ = groups(r"^ACCESS_NUMBER:(\d+):(\d+)$", api("getNumber", f"&service={SERVICE}&country=6"))
assert api("setStatus", f"&id={other}&status=8") == "ACCESS_CANCEL"
assert api("getStatus", f"&id={other}") == "STATUS_CANCEL"
assert float(api("getBalance").split(":")[1]) == paid < float(before)
sys.stdout.write(f"OK:{phone}:{first}:{second}\n")
