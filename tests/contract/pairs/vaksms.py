from tests.contract._pair import Pair
from tests.simulators import vaksms

PAIRS = {
    "vaksms": Pair(
        "vaksms",
        vaksms.build,
        vaksms.DEFAULT_KEY,
        "/api",
        {"service": "tg", "country": "gb"},
        options={"cancel_wait_seconds": 120},
        currency="RUB",
        cancel_wait_option="cancel_wait_seconds",
        tells_cost=False,
        tells_text=False,
        tells_prices_without_key=True,
    ),
}
