"""The calls of TextVerified's rentals: from a request to an answer (its notes §6)."""

from starlette.requests import Request
from starlette.responses import Response

from tests.simulators._textverified_engine import Missing, Refusal, TextVerified
from tests.simulators._textverified_rentals import DURATIONS, Extension, ExtensionAnswer, Rental, RentWish
from tests.simulators._textverified_webhooks import wire_time
from tests.simulators._textverified_wire import Body, Wire, reply

RENTAL_ROUTES = {
    "rent_pricing": ("prices", "POST", "/pricing/rentals"),
    "rent_inventory": ("prices", "POST", "/inventory/rentals"),
    "rent": ("rent", "POST", "/reservations/rental"),
    "rentals": ("list", "GET", "/reservations/rental/nonrenewable"),
    "rental": ("status", "GET", "/reservations/rental/nonrenewable/{id}"),
    "refund": ("close", "POST", "/reservations/rental/nonrenewable/{id}/refund"),
    "extend": ("extend", "POST", "/reservations/rentals/extensions"),
    "reservation": ("status", "GET", "/reservations/{id}"),
    "wake": ("status", "POST", "/wake-requests"),
    "wake_request": ("status", "GET", "/wake-requests/{id}"),
}
"""As `ROUTES`."""

MEMBERS = ("serviceName", "numberType", "capability", "duration")


class RentalCalls:
    """One method for each call, as in `Calls`."""

    def __init__(self, sim: TextVerified, *, has_inventory: bool, extension_answer: ExtensionAnswer) -> None:
        self.sim = sim
        self._has_inventory = has_inventory
        self._extension_answer = extension_answer

    def rent_pricing(self, request: Request, body: Body, wire: Wire) -> Response:
        _check(body, "areaCode", "isRenewable")
        service = body["serviceName"]
        price = self.sim.rentals.price(service, body["duration"], area_code=bool(body["areaCode"]))
        return reply({"serviceName": service, "price": float(price)})

    def rent_inventory(self, request: Request, body: Body, wire: Wire) -> Response:
        if not self._has_inventory:
            raise Missing("inventory")
        _check(body)
        return reply({"availableQuantity": self.sim.rentals.shelf(body["serviceName"], body["duration"]).count})

    def rent(self, request: Request, body: Body, wire: Wire) -> Response:
        _check(body, "isRenewable", "allowBackOrderReservations")
        if body["isRenewable"]:
            raise Refusal("Unsupported", "Renewable rentals are left out here.")
        wish = RentWish(
            body["serviceName"],
            body["duration"],
            always_on=bool(body.get("alwaysOn")),
            area_codes=tuple(body.get("areaCodeSelectOption") or ()),
            takes_back_order=bool(body["allowBackOrderReservations"]),
        )
        return wire.sold(self.sim.rentals.create(wish))

    def rentals(self, request: Request, body: Body, wire: Wire) -> Response:
        made = list(self.sim.rentals.rentals.values())
        path = "/reservations/rental/nonrenewable"
        return wire.page(path, made, lambda one: one.id, wire.compact_rental, request.query_params)

    def rental(self, request: Request, body: Body, wire: Wire) -> Response:
        return reply(wire.expanded_rental(self._named(request)))

    def reservation(self, request: Request, body: Body, wire: Wire) -> Response:
        """Where to find it, whatever it is."""
        ident = request.path_params["id"]
        if ident in self.sim.verifications:
            return reply(wire.link(f"/verifications/{ident}"))
        return reply(wire.link(f"/reservations/rental/nonrenewable/{self.sim.rentals.find(ident).id}"))

    def refund(self, request: Request, body: Body, wire: Wire) -> Response:
        self.sim.rentals.refund(request.path_params["id"])
        return Response()

    def extend(self, request: Request, body: Body, wire: Wire) -> Response:
        if body.get("extensionDuration") not in DURATIONS or not isinstance(body.get("rentalId"), str):
            raise Refusal("InvalidRequest", "A member is missing.")
        made = self.sim.rentals.extend(body["rentalId"], body["extensionDuration"])
        match self._extension_answer:
            case "link":
                return reply(wire.link(f"/reservations/rentals/extensions/{made.id}"), 201)
            case "empty":
                return Response()
        return reply(_extension(made))

    def wake(self, request: Request, body: Body, wire: Wire) -> Response:
        wake = self.sim.rentals.wake(str(body.get("reservationId")))
        link = wire.link(f"/wake-requests/{wake.id}")
        return reply(link, 201, {"location": link["href"]})

    def wake_request(self, request: Request, body: Body, wire: Wire) -> Response:
        wake = self.sim.rentals.find_wake(request.path_params["id"])
        window = (wire_time(wake.starts_at), wire_time(wake.ends_at)) if wake.is_scheduled else (None, None)
        return reply(
            {
                "id": wake.id,
                "isScheduled": wake.is_scheduled,
                "usageWindowStart": window[0],
                "usageWindowEnd": window[1],
                "reservationId": wake.rental_id,
            }
        )

    def _named(self, request: Request) -> Rental:
        return self.sim.rentals.find(request.path_params["id"])


def _check(body: Body, *others: str) -> None:
    if any(body.get(name) is None for name in (*MEMBERS, *others)):
        raise Refusal("InvalidRequest", "A member is missing.")
    if body["numberType"] != "mobile" or body["capability"] != "sms":
        raise Refusal("Unsupported", "This combination is not supported.")


def _extension(made: Extension) -> dict[str, object]:
    return {
        "id": made.id,
        "reservationId": made.rental.id,
        "extensionAmount": made.duration,
        "cost": float(made.cost),
        "createdAt": wire_time(made.at),
        "originalEndsAt": wire_time(made.ended_at),
        "newEndsAt": wire_time(made.ends_at),
    }
