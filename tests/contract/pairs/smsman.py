from tests.contract._pair import Pair
from tests.simulators import smsman

PAIRS = {
    "smsman": Pair(
        "smsman",
        smsman.build,
        smsman.DEFAULT_KEY,
        "/control",
        {"service": "3", "country": "100"},
        currency="RUB",
        cancel_wait_option=None,
        tells_cost=False,
        tells_text=False,
    ),
}
