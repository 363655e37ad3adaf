from tests.contract._pair import Pair
from tests.simulators import onlinesim

PAIRS = {
    "onlinesim": Pair(
        "onlinesim",
        onlinesim.build,
        onlinesim.DEFAULT_KEY,
        "/api",
        {"service": "telegram", "country": "44"},
        options={"pause_seconds": 0},
        cancel_wait_option="cancel_wait_seconds",
        tells_cost=False,
    ),
}
