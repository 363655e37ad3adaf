from dataclasses import replace

from tests.contract._pair import Pair
from tests.simulators import smspool

SHELF = {"service": "907", "country": "2"}

OLDER = Pair(
    "smspool",
    smspool.build,
    smspool.DEFAULT_KEY,
    "",
    {**SHELF, "pool": "7"},
    others=({**SHELF, "pool": "3"},),
    unknown_reference="ZZZZZZZZ",
    cancel_wait_option="cancel_lock_seconds",
    tells_finish=False,
    tells_prices_without_key=True,
)

PAIRS = {
    "smspool": OLDER,
    "smspool with statuses": replace(OLDER, simulator_options={"refusal_statuses": True}),
    "smspool with renamed orders": replace(OLDER, simulator_options={"resend_renames": True}),
}
