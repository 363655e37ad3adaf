from typing import Any

from tests.contract._pair import Pair
from tests.simulators import dssmshub


def pair(**changes: Any) -> Pair:
    given: dict[str, Any] = {
        "shelf": {"service": "telegram", "country": "US"},
        "country": 187,
        "currency": dssmshub.CURRENCY,
        "cancel_wait_option": None,
        "gives_second_sms": False,
        "tells_stock": False,
    }
    return Pair("dssmshub", dssmshub.build, dssmshub.DEFAULT_KEY, dssmshub.PATH, **{**given, **changes})


PAIRS = {
    "dssmshub": pair(),
    "dssmshub second server": pair(
        shelf={"service": "telegram", "country": "GB"},
        country=16,
        options={"server": "2"},
        simulator_options={"waiting_word": "STATUS_WAIT_CODE", "header_text": "percent"},
    ),
}
