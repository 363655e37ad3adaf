from tests.contract._pair import Pair
from tests.simulators import fivesim

SHELF = {"product": "telegram", "country": "england"}

PAIRS = {
    "fivesim": Pair(
        "fivesim",
        fivesim.build,
        fivesim.DEFAULT_KEY,
        "/v1",
        {**SHELF, "operator": "o2"},
        others=({**SHELF, "operator": "vodafone"}, {**SHELF, "operator": "virtual21"}),
        cancel_wait_option="cancel_wait_seconds",
        tells_prices_without_key=True,
    ),
}
