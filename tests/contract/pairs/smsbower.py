from tests.contract._pair import Pair
from tests.simulators import handler_api

SHELF = {"service": "tg", "country": "16"}

PAIRS = {
    "smsbower": Pair(
        "smsbower",
        handler_api.build,
        handler_api.DEFAULT_KEY,
        handler_api.PATH,
        SHELF,
        simulator_options={"brand": "smsbower"},
    ),
    "smsbower with chosen providers": Pair(
        "smsbower",
        handler_api.build,
        handler_api.DEFAULT_KEY,
        handler_api.PATH,
        SHELF,
        options={"provider_ids": [1011], "except_provider_ids": [7]},
        simulator_options={"brand": "smsbower"},
    ),
}
