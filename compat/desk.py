"""The desk over HTTP: what waits for a person, and what the person types, as JSON.

A desk's key (`Authorization: Bearer …`) opens that desk and nothing else. Without a key of some desk every path says
401; with one, another desk, a desk that is not there and a task that is not there are the same 404. What can't be
done is told as `application/problem+json` (RFC 9457), in words fit for the person.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeVar

import structlog
from pydantic import BaseModel, ConfigDict, StrictBool, StrictInt, StrictStr, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gateway.errors import NotAllowed, UnknownLease, Unwell
from gateway.inhouse import DeskTask, Mistyped, TypedIn

BODY_BYTES_MAX = 16 * 1024
PREFIX = "/api/v1/desk"

Upstreams = Callable[[], Mapping[str, object]]
"""The upstreams as they are now: a reload replaces them."""

Delivered = Callable[[str, str], Awaitable[None]]
"""`await delivered(upstream, reference)` reads that lease at once, so that its caller need not wait for a poll."""

log = structlog.get_logger()

_Model = TypeVar("_Model", bound=BaseModel)


class _Entry(BaseModel):
    """What is typed for a task. All of it is text: a code keeps its leading noughts."""

    model_config = ConfigDict(extra="forbid")

    number: StrictStr = ""
    code: StrictStr = ""
    text: StrictStr = ""
    failed: StrictBool = False


class _Number(BaseModel):
    """A number put on the desk in advance."""

    model_config = ConfigDict(extra="forbid")

    service: StrictStr
    country: StrictInt
    number: StrictStr


class _Problem(Exception):
    """An answer other than the one wished for."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


@dataclass(frozen=True)
class _Desks:
    upstreams: Upstreams
    delivered: Delivered

    def opened(self, request: Request) -> TypedIn:
        """The desk that the path names, if the key is its own. Raises _Problem."""
        desks = {name: desk for name, desk in self.upstreams().items() if isinstance(desk, TypedIn)}
        token = _token(request)
        # Every desk is asked, whichever the path names, so that the time an answer takes tells nothing of it.
        admitted = [name for name, desk in desks.items() if desk.admits(token)] if token else []
        if not admitted:
            raise _Problem(401, "send the desk's key as `Authorization: Bearer …`")
        name = request.path_params["upstream"]
        if name not in admitted:
            raise _not_found()
        return desks[name]

    async def list(self, request: Request) -> Response:
        desk = self.opened(request)
        return JSONResponse({"tasks": [shown(task) for task in await desk.waiting()]})

    async def offer(self, request: Request) -> Response:
        desk = self.opened(request)
        entry = _parsed(_Number, await _body(request))
        task = await desk.offer(entry.service, entry.country, entry.number)
        return JSONResponse(shown(task), 201)

    async def type(self, request: Request) -> Response:
        desk = self.opened(request)
        entry = _parsed(_Entry, await _body(request))
        task = request.path_params["task"]
        if entry.failed and (entry.number or entry.code or entry.text):
            raise _Problem(422, "`failed` stands alone")
        if entry.failed:
            done = await desk.fail(task)
        else:
            done = await desk.supply(task, number=entry.number, code=entry.code, text=entry.text)
        if done.leased_at is not None:
            await self._deliver(request.path_params["upstream"], done.id)
        return JSONResponse(shown(done))

    async def _deliver(self, upstream: str, reference: str) -> None:
        """What was typed is written down already: where this fails, the next poll brings it in."""
        try:
            await self.delivered(upstream, reference)
        except Exception as error:
            log.warning("desk.not_delivered", upstream=upstream, error=type(error).__name__)


def routes(upstreams: Upstreams, delivered: Delivered) -> list[Route]:
    """The desk's three calls. `delivered` is called after a code was typed, and after a task in use was failed."""
    desks = _Desks(upstreams, delivered)
    desk = PREFIX + "/{upstream}"
    return [
        Route(desk, _answering(desks.list), methods=["GET"]),
        Route(desk + "/numbers", _answering(desks.offer), methods=["POST"]),
        Route(desk + "/{task}", _answering(desks.type), methods=["POST"]),
    ]


def shown(task: DeskTask) -> dict[str, Any]:
    """A task as its person sees it. What was typed is counted, not shown: nobody types it again."""
    return {
        "task": task.id,
        "state": task.state.value,
        "wants": task.wants,
        "service": task.service,
        "country": task.country,
        "operator": task.operator,
        "price": str(task.cost),
        "number": task.number,
        "messages": len(task.messages),
        "created_at": task.created_at,
        "until": task.until,
    }


def _answering(call: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint of a call: every error is an answer."""

    async def endpoint(request: Request) -> Response:
        try:
            response = await call(request)
        except _Problem as problem:
            response = _problem(problem)
        except Mistyped as error:
            response = _problem(_Problem(422, str(error)))
        except NotAllowed as error:
            response = _problem(_Problem(409, str(error)))
        except UnknownLease:
            response = _problem(_not_found())
        except Unwell as error:
            response = _problem(_Problem(503, f"{error}; nothing may have been done, so look before you type it again"))
        # Numbers are in it: no cache on the way may keep it.
        response.headers["cache-control"] = "no-store"
        return response

    return endpoint


def _problem(problem: _Problem) -> Response:
    body = {
        "type": "about:blank",
        "title": HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "detail": problem.detail,
    }
    headers = {"www-authenticate": "Bearer"} if problem.status == 401 else {}
    return JSONResponse(body, problem.status, headers, media_type="application/problem+json")


def _not_found() -> _Problem:
    return _Problem(404, "no such desk or task")


def _token(request: Request) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


async def _body(request: Request) -> Any:
    """The JSON of a request. Raises _Problem."""
    chunks, size = [], 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > BODY_BYTES_MAX:
                raise _Problem(413, f"a body has {BODY_BYTES_MAX} bytes at most")
            chunks.append(chunk)
    except ClientDisconnect:
        raise _Problem(400, "the body ended too soon") from None
    try:
        return json.loads(b"".join(chunks))
    except (ValueError, RecursionError):
        raise _Problem(400, "the body is not JSON") from None


def _parsed(kind: type[_Model], data: Any) -> _Model:
    """The body as one of ours. Raises _Problem; its words name keys, and never repeat a value."""
    if not isinstance(data, dict):
        raise _Problem(400, "the body is not a JSON object")
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        known = kind.model_fields
        names = [str(one["loc"][0]) if one["loc"] and one["loc"][0] in known else "an unknown key" for one in found]
        told = "; ".join(f"{name}: {one['msg']}" for name, one in zip(names, found, strict=True))
        raise _Problem(422, told) from None
