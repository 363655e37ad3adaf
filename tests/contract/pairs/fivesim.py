from tests.contract._pair import Pair, Rented, Reused
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
        simulator_options={"rental_stock": 0},
        rented=Rented(
            {"product": "1day", "country": "england", "operator": "o2"},
            service="full",
            cancel_seconds=0.0,
            tells_finish=False,
            is_extensible=False,
            is_returnable=False,
        ),
        reused=Reused(),
    ),
}
