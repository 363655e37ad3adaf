from tests.contract._pair import Beside, Pair, Rented, Reused
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
    "family that rents": Pair(
        "handler_api",
        handler_api.build,
        handler_api.DEFAULT_KEY,
        handler_api.PATH,
        SHELF,
        options={
            "open_list": "getActiveActivations",
            "open_list_page": 0,
            "rents": True,
            "reuses": True,
            "adds_services": True,
        },
        simulator_options={"brand": "generic"},
        rented=Rented(SHELF, tells_cost=False, tells_goods=False),
        reused=Reused(tells_cost=False),
        beside=Beside({"service": "wa", "country": "16"}, tells_cost=False),
    ),
    "family that rents blindly": Pair(
        "handler_api",
        handler_api.build,
        handler_api.DEFAULT_KEY,
        handler_api.PATH,
        SHELF,
        options={"number_v2": False, "text_source": "getFullSms", "rents": True},
        simulator_options={"brand": "generic"},
        tells_cost=False,
        rented=Rented(SHELF, tells_cost=False, tells_goods=False),
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
