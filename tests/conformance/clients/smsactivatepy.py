"""A descendant of SMS-Activate's own client.

package: smsactivatepy
from: PyPI
path: /stubs/handler_api.php
moved by: `client._SMSActivateAPI__api_url`
calls: balance prices countries services operators stock top number waiting ready code text again open finish number_v2 cancel more rent_offers rent rent_status rent_list rent_longer rent_end bad_key no_numbers bad_service
"""

from __future__ import annotations

from typing import Any

from smsactivatepy.api import SMSActivateAPI

from tests.conformance.clients._official import Official
from tests.conformance.driver import main


class SmsActivatePy(Official):
    def new(self, key: str) -> Any:
        client: Any = SMSActivateAPI(key)
        client._SMSActivateAPI__api_url = self.url
        return client


if __name__ == "__main__":
    main(SmsActivatePy)
