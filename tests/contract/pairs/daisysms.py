from tests.contract._pair import Pair
from tests.simulators import handler_api

SHELF = {"service": "tg", "country": "187"}

PAIRS = {
    f"daisysms with its key in {place}": Pair(
        "daisysms",
        handler_api.build,
        handler_api.DEFAULT_KEY,
        handler_api.PATH,
        SHELF,
        options={"key_in_header": place == "a header", "services": {"xx": "go"}},
        simulator_options={"brand": "daisysms"},
        country=187,
        cancel_wait_option=None,
        gives_second_sms=False,
    )
    for place in ("the query", "a header")
}
