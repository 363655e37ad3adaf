"""What TextVerified writes: links, keyset pages, verifications, rentals, sales, messages (its notes §2, §4 to §6)."""

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from starlette.responses import Response

from tests.simulators._common import compact_json
from tests.simulators._textverified_engine import SENDER, Refusal, Sms, TextVerified, Verification, serial_id
from tests.simulators._textverified_rentals import Rental, Sale
from tests.simulators._textverified_webhooks import wire_time

API = "/api/pub/v2"

Item = TypeVar("Item")
Query = Mapping[str, str]
Body = Mapping[str, Any]


def reply(data: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(compact_json(data), status, headers=headers, media_type="application/json")


class Wire:
    """Records as this provider shows them to one client: `base` is the address it reached us by."""

    def __init__(self, sim: TextVerified, base: str, page_size: int, *, oldest_first: bool) -> None:
        self.sim = sim
        self._base = base
        self._page_size = page_size
        self._oldest_first = oldest_first

    def link(self, path: str, method: str = "GET") -> dict[str, str]:
        return {"method": method, "href": f"{self._base}{API}{path}"}

    def created(self, made: Verification) -> Response:
        """The link is the whole body; the verification itself takes a second request (§2)."""
        link = self.link(f"/verifications/{made.id}")
        return reply(link, 201, {"location": link["href"], **mock_header(made.is_mock)})

    def compact(self, made: Verification) -> dict[str, Any]:
        """A row of the list (§4)."""
        return {
            "id": made.id,
            "createdAt": wire_time(made.created_at),
            "serviceName": made.service,
            "state": f"verification{made.state}",
            "totalCost": float(made.cost),
            "number": made.number,
            "link": self.link(f"/verifications/{made.id}"),
            "sms": self.link(f"/sms?reservationId={made.id}"),
            "calls": self.link(f"/calls?reservationId={made.id}"),
        }

    def expanded(self, made: Verification) -> dict[str, Any]:
        """What its own address shows (§4)."""
        sim, path = self.sim, f"/verifications/{made.id}"
        row = self.compact(made)
        del row["link"]
        can_cancel, can_report, can_reuse = sim.can_cancel(made), sim.can_report(made), sim.can_reuse(made)
        return {
            **row,
            "endsAt": wire_time(made.ends_at),
            "sale": self.link(f"/sales/{sale_id(made)}"),
            "cancel": {"canCancel": can_cancel, "link": self._action(can_cancel, path, "cancel")},
            "report": {"canReport": can_report, "link": self._action(can_report, path, "report")},
            "reactivate": {
                "canReactivate": made.can_reactivate,
                "link": self._action(made.can_reactivate, path, "reactivate"),
            },
            "reuse": {
                "link": self._action(can_reuse, path, "reuse"),
                "reusableUntil": wire_time(made.ends_at) if can_reuse else None,
            },
        }

    def _action(self, is_possible: bool, path: str, name: str) -> dict[str, str] | None:
        return self.link(f"{path}/{name}", "POST") if is_possible else None

    def sms(self, sms: Sms) -> dict[str, Any]:
        return {
            "id": sms.id,
            "from": SENDER,
            "to": sms.to,
            "createdAt": wire_time(sms.at),
            "smsContent": sms.text,
            "parsedCode": sms.code or None,
            "encrypted": False,
        }

    def sale(self, made: Verification, *, is_expanded: bool) -> dict[str, Any]:
        times = {"createdAt": wire_time(made.created_at), "updatedAt": wire_time(made.created_at)}
        sale = {"id": sale_id(made), "state": "succeeded", **times}
        if not is_expanded:
            return {**sale, "totalCost": float(made.cost), "link": self.link(f"/sales/{sale_id(made)}")}
        link = self.link(f"/verifications/{made.id}")
        reservation = {"id": made.id, "reservationType": "verification", "serviceName": made.service, "link": link}
        return {**sale, "total": float(made.cost), "reservations": [reservation], "backOrderReservations": []}

    def sold(self, sale: Sale) -> Response:
        """A rental is a sale first (§6)."""
        link = self.link(f"/sales/{sale.id}")
        return reply(link, 201, {"location": link["href"]})

    def rental_sale(self, sale: Sale, *, is_expanded: bool) -> dict[str, Any]:
        times = {"createdAt": wire_time(sale.created_at), "updatedAt": wire_time(sale.created_at)}
        shown = {"id": sale.id, "state": self.sim.rentals.sale_state(sale), **times}
        if not is_expanded:
            return {**shown, "totalCost": float(sale.total), "link": self.link(f"/sales/{sale.id}")}
        made = sale.rental if shown["state"] == "succeeded" else None
        reserved = [] if made is None else [self._reserved(made)]
        waiting = [] if not sale.back_order else [self._back_order(sale)]
        return {**shown, "total": float(sale.total), "reservations": reserved, "backOrderReservations": waiting}

    def _reserved(self, made: Rental) -> dict[str, Any]:
        link = self.link(f"/reservations/{made.id}")
        return {"id": made.id, "reservationType": "nonrenewable", "serviceName": made.service, "link": link}

    def _back_order(self, sale: Sale) -> dict[str, Any]:
        link = self.link(f"/backorders/{sale.back_order}")
        return {"id": sale.back_order, "serviceName": sale.service, "status": "created", "link": link}

    def compact_rental(self, made: Rental) -> dict[str, Any]:
        """A row of the list."""
        return {
            "id": made.id,
            "createdAt": wire_time(made.created_at),
            "serviceName": made.service,
            "state": f"nonrenewable{made.state}",
            "number": made.number,
            "alwaysOn": made.always_on,
            "saleId": made.sale_id,
            "link": self.link(f"/reservations/rental/nonrenewable/{made.id}"),
        }

    def expanded_rental(self, made: Rental) -> dict[str, Any]:
        """What its own address shows."""
        row = self.compact_rental(made)
        del row["link"]
        can_refund, path = self.sim.rentals.can_refund(made), f"/reservations/rental/nonrenewable/{made.id}"
        refund = {
            "canRefund": can_refund,
            "refundableUntil": wire_time(self.sim.rentals.refundable_until(made)),
            "link": self._action(can_refund, path, "refund"),
        }
        links = {name: self.link(f"/{name}?reservationId={made.id}") for name in ("sms", "calls")}
        return {**row, "endsAt": wire_time(made.ends_at), "refund": refund, **links}

    def page(
        self, path: str, items: Sequence[Item], key: Callable[[Item], str], show: Callable[[Item], Any], query: Query
    ) -> Response:
        """A keyset page of `items` (oldest first as given): the cursor names the row it goes on from (§4)."""
        rows = list(items) if self._oldest_first else list(reversed(items))
        place, start = _cursor(query.get("cursor", "")), 0
        if place is not None:
            at = next((index for index, item in enumerate(rows) if key(item) == place["key"]), len(rows))
            start = at + place["count"] if place["direction"] == "forward" else max(0, at - self._page_size)
        shown = rows[start : start + self._page_size]
        has_next, has_previous = start + self._page_size < len(rows), start > 0
        links = {
            "current": self._page_link(path, query, query.get("cursor")),
            "next": None,
            "previous": None,
        }
        if has_next:
            links["next"] = self._page_link(path, query, _opaque(shown, key, "forward"))
        if has_previous and shown:
            links["previous"] = self._page_link(path, query, _opaque(shown, key, "reverse"))
        envelope = {"count": len(shown), "hasNext": has_next, "hasPrevious": has_previous, "links": links}
        return reply({"data": [show(item) for item in shown], **envelope})

    def _page_link(self, path: str, query: Query, cursor: str | None) -> dict[str, str]:
        kept = {name: value for name, value in query.items() if name != "cursor"} | (
            {"cursor": cursor} if cursor else {}
        )
        text = "&".join(f"{name}={value}" for name, value in kept.items())
        return self.link(f"{path}?{text}" if text else path)


def _opaque(shown: Sequence[Item], key: Callable[[Item], str], direction: str) -> str:
    """Names the first row shown and how many there were: one SMS can be listed twice, and is no place to go on from."""
    place = {"key": key(shown[0]), "count": len(shown), "direction": direction}
    return base64.urlsafe_b64encode(compact_json(place).encode()).decode().rstrip("=")


def _cursor(opaque: str) -> dict[str, Any] | None:
    if not opaque:
        return None
    try:
        place: dict[str, Any] = json.loads(base64.urlsafe_b64decode(opaque + "=" * (-len(opaque) % 4)))
    except ValueError:
        raise Refusal("InvalidCursor") from None
    return place


def mock_header(is_mock: bool) -> dict[str, str]:
    return {"x-phoneblur-mock": "true"} if is_mock else {}


def sale_id(made: Verification) -> str:
    return serial_id("sa", int(made.id[-13:]))
