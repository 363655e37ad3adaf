"""In the manner of ten thousand bots: urllib, brittle patterns, no library. Arguments: URL, key, service."""

import re
import sys
import time
from urllib.request import urlopen

URL, KEY, SERVICE = sys.argv[1:4]


def api(action, **parameters):
    query = "".join(f"&{name}={value}" for name, value in parameters.items())
    return urlopen(f"{URL}?api_key={KEY}&action={action}{query}", timeout=20).read().decode()


def wait_for_code(number_id):
    for _ in range(150):
        answer = api("getStatus", id=number_id)
        if answer == "STATUS_CANCEL":
            sys.exit("cancelled")
        if re.match(r"^STATUS_OK:(\d+)$", answer):
            return answer.split(":")[1]
        if answer not in ("STATUS_WAIT_CODE",) and not answer.startswith("STATUS_WAIT_RETRY"):
            sys.exit(f"unknown answer {answer!r}")
        time.sleep(0.1)
    sys.exit("no code")


before = float(re.match(r"^ACCESS_BALANCE:(\d+\.\d+)$", api("getBalance")).group(1))
number_id, phone = re.match(r"^ACCESS_NUMBER:(\d+):(\d+)$", api("getNumber", service=SERVICE, country=6)).groups()
assert api("setStatus", id=number_id, status=1) == "ACCESS_READY"
first = wait_for_code(number_id)
assert api("setStatus", id=number_id, status=3) == "ACCESS_RETRY_GET"
second = wait_for_code(number_id)
assert api("setStatus", id=number_id, status=6) == "ACCESS_ACTIVATION"
paid = float(api("getBalance").split(":")[1])

other_id, _ = re.match(r"^ACCESS_NUMBER:(\d+):(\d+)$", api("getNumber", service=SERVICE, country=6)).groups()
assert api("setStatus", id=other_id, status=8) == "ACCESS_CANCEL"
assert api("getStatus", id=other_id) == "STATUS_CANCEL"
assert float(api("getBalance").split(":")[1]) == paid < before
print("OK", phone, first, second, sep=":")
