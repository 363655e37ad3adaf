from tests.contract._pair import Pair, Rented, Reused
from tests.simulators import textverified

PAIRS = {
    "textverified": Pair(
        "textverified",
        textverified.build,
        textverified.DEFAULT_KEY,
        "",
        {"service": "telegram"},
        options={"price_seconds": 0, "stock_seconds": 0, "requests_per_second": 1000},
        secrets={"username": textverified.DEFAULT_USERNAME},
        simulator_options={"page_size": 2},
        country=187,
        unknown_reference="lr_99999",
        cancel_wait_option=None,
        gives_second_sms=False,
        tells_finish=False,
        rented=Rented(
            {"service": "telegram", "duration": "oneDay"},
            unknown_reference="rent:lr_99999",
            tells_finish=False,
            asks_countries=False,
        ),
        reused=Reused(),
    ),
}
