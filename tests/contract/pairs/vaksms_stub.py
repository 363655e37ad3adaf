from tests.contract._pair import Pair
from tests.simulators import handler_api

SHELF = {"service": "tg", "country": "16"}

PAIRS = {
    "vaksms_stub": Pair(
        "vaksms_stub",
        handler_api.build,
        handler_api.DEFAULT_KEY,
        handler_api.PATH,
        SHELF,
        tells_cost=False,
        simulator_options={"brand": "vaksms_stub"},
    )
}
