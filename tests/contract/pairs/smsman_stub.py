from tests.contract._pair import Pair
from tests.simulators import handler_api

SHELF = {"service": "tg", "country": "16"}

PAIRS = {
    "smsman_stub": Pair(
        "smsman_stub",
        handler_api.build,
        handler_api.DEFAULT_KEY,
        handler_api.PATH,
        SHELF,
        tells_cost=False,
        simulator_options={"brand": "smsman_stub"},
    )
}
