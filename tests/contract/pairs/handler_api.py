from tests.contract._pair import Pair
from tests.simulators import handler_api

SHELF = {"service": "tg", "country": "16"}

PAIRS = {
    "family": Pair(
        "handler_api",
        handler_api.build,
        handler_api.DEFAULT_KEY,
        handler_api.PATH,
        SHELF,
        options={"open_list": "getActiveActivations", "open_list_page": 0},
        simulator_options={"brand": "generic"},
    ),
    "oldest family": Pair(
        "handler_api",
        handler_api.build,
        handler_api.DEFAULT_KEY,
        handler_api.PATH,
        SHELF,
        options={"number_v2": False, "text_source": "getFullSms"},
        simulator_options={"brand": "generic"},
        tells_cost=False,
    ),
}
