"""The OpenAPI 3.1 document, made from the table of operations and the models: nothing in it is kept by hand."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from http import HTTPStatus
from importlib.metadata import version
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from compat._rest_access import Access
from compat._rest_http import BODY_BYTES_MAX, Operation
from compat._rest_models import Problem
from compat._rest_people_models import ACCOUNT_NAME, USER_ID
from compat._rest_problems import KINDS, MEDIA_TYPE

Json = dict[str, Any]

_REF = "#/components/schemas/{model}"
_INTRODUCTION = (
    "Numbers for one-time codes. A key is required everywhere but to sign in: `Authorization: Bearer KEY`,"
    " `X-Api-Key: KEY`, or the parameter `api_key`. A reseller who has signed in may send the session's token in its"
    " place, in `Authorization: Bearer TOKEN`. Amounts are decimals in text, times RFC 3339 in UTC, ids look like"
    " `ver_123456` (the bare number is taken as well), those of rentals like `rent_123456`. What can't be done is told"
    " as `application/problem+json` with a stable `code`."
)


_KEYS: list[Json] = [{"bearer": []}, {"header": []}, {"query": []}]
_SESSION: list[Json] = [{"session": []}]
_WHO = {
    Access.MANAGER: "For keys that may manage, and people who have signed in.",
    Access.SESSION: "For people who have signed in.",
    Access.OPERATOR: "For operators who have signed in.",
}
_PLACES: Json = {
    "account": {"type": "string", "pattern": ACCOUNT_NAME, "examples": ["acme"]},
    "key_id": {"type": "string", "pattern": USER_ID, "examples": ["17"]},
    "batch_id": {"type": "string", "pattern": USER_ID, "examples": ["3"]},
    "payment_id": {"type": "string", "pattern": USER_ID, "examples": ["9"]},
    "user_id": {"type": "string", "pattern": USER_ID, "examples": ["7"]},
}
"""What stands in paths, by name."""


def document(operations: Sequence[Operation]) -> Json:
    """The whole document, as JSON values."""
    names, schemas = _schemas(operations)
    paths: dict[str, Json] = defaultdict(dict)
    for operation in operations:
        for place, path in enumerate(operation.paths):
            paths[path][operation.method.lower()] = _operation(operation, path, place, names)
    return {
        "openapi": "3.1.0",
        "info": {"title": "simroute", "version": version("simroute"), "description": _INTRODUCTION},
        "security": [*_KEYS, *_SESSION],
        "paths": {path: paths[path] for path in sorted(paths, key=lambda path: (not path.startswith("/api/"), path))},
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "An API key."},
                "header": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
                "query": {"type": "apiKey", "in": "query", "name": "api_key"},
                "session": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "The token of a session, from `POST /api/v1/sessions`.",
                },
            },
        },
    }


def _schemas(operations: Iterable[Operation]) -> tuple[dict[Any, Json], Json]:
    """A reference for each model that is sent or taken, and what they refer to."""
    wanted: dict[tuple[type[BaseModel], JsonSchemaMode], None] = {(Problem, "serialization"): None}
    for operation in operations:
        wanted[(operation.answer, "serialization")] = None
        if operation.body is not None:
            wanted[(operation.body, "validation")] = None
    references, definitions = models_json_schema(list(wanted), ref_template=_REF)
    return {model: reference for (model, _), reference in references.items()}, definitions["$defs"]


def _operation(operation: Operation, path: str, place: int, names: dict[type[BaseModel], Json]) -> Json:
    described: Json = {
        "operationId": operation.name if place == 0 else f"{operation.name}_{place + 1}",
        "summary": operation.summary,
        "parameters": _parameters(operation, path),
        "responses": _responses(operation, names),
    }
    if operation.is_public:
        described["security"] = []
    elif operation.access in (Access.SESSION, Access.OPERATOR):
        described["security"] = _SESSION
    words = ["" if operation.is_public else _WHO.get(operation.access, ""), operation.description]
    if any(words):
        described["description"] = " ".join(word for word in words if word)
    if operation.body is not None:
        described["requestBody"] = {
            "required": not operation.body.may_be_absent,
            "description": f"{BODY_BYTES_MAX} bytes at most.",
            "content": {"application/json": {"schema": names[operation.body]}},
        }
    return described


def _parameters(operation: Operation, path: str) -> list[Json]:
    found: list[Json] = []
    schemas: dict[str, Json] = {
        "id": {"type": "string", "pattern": operation.id_pattern, "examples": [operation.id_example]},
        **_PLACES,
    }
    for name, schema in schemas.items():
        if f"{{{name}}}" in path:
            found.append({"name": name, "in": "path", "required": True, "schema": schema})
    for name, member in operation.query.model_json_schema().get("properties", {}).items():
        schema = _without_null(member)
        text = schema.pop("description", None)
        found.append({"name": name, "in": "query", "schema": schema, **({"description": text} if text else {})})
    if operation.takes_idempotency_key or operation.needs_idempotency_key:
        schema = {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"}
        text = "Any word of yours, new for each: a UUID, say."
        found.append({"name": "Idempotency-Key", "in": "header", "schema": schema, "description": text,
                      "required": operation.needs_idempotency_key})  # fmt: skip
    if operation.takes_if_match:
        schema = {"type": "string"}
        text = "The `ETag` known: nothing is changed where it is another by now."
        found.append({"name": "If-Match", "in": "header", "schema": schema, "description": text})
    if operation.takes_last_event_id:
        schema = {"type": "string"}
        found.append({"name": "Last-Event-ID", "in": "header", "schema": schema, "description": "The last `id` seen."})
    if operation.has_etag and operation.method == "GET":
        schema = {"type": "string"}
        found.append({"name": "If-None-Match", "in": "header", "schema": schema, "description": "The `ETag` known."})
    return found


def _without_null(schema: Json) -> Json:
    """A parameter is absent or has a value: `null` exists in bodies only."""
    outer = {name: value for name, value in schema.items() if name not in ("anyOf", "title", "default")}
    if schema.get("default") is not None:
        outer["default"] = schema["default"]
    choices = [choice for choice in schema.get("anyOf", ()) if choice != {"type": "null"}]
    if len(choices) == 1:
        return {**choices[0], **outer}
    return {**outer, "anyOf": choices} if choices else outer


def _responses(operation: Operation, names: dict[type[BaseModel], Json]) -> Json:
    found: Json = {str(operation.status): _success(operation, names)}
    if operation.has_etag and operation.method == "GET":
        found["304"] = {"description": "What the client has is still good.", "headers": _header("ETag")}
    if operation.takes_last_event_id:
        found["204"] = {"description": "The activation is over, and all of it has been told."}
    by_status: dict[int, list[str]] = defaultdict(list)
    for code in operation.codes:
        by_status[KINDS[code].status].append(code)
    for status, codes in sorted(by_status.items()):
        found[str(status)] = _refusals(status, codes, names)
    return found


def _success(operation: Operation, names: dict[type[BaseModel], Json]) -> Json:
    if operation.status == 204:
        return {"description": operation.summary}
    content = {operation.media_type: {"schema": names[operation.answer]}}
    answer: Json = {"description": operation.summary, "content": content}
    if operation.has_etag or operation.has_tag:
        answer["headers"] = _header("ETag")
    if operation.takes_idempotency_key or operation.name == "create_account":
        answer["headers"] = _header("Location")
    return answer


def _refusals(status: int, codes: Sequence[str], names: dict[type[BaseModel], Json]) -> Json:
    told: Json = {
        "description": f"{HTTPStatus(status).phrase}: " + ", ".join(f"`{code}`" for code in codes),
        "content": {MEDIA_TYPE.decode(): {"schema": names[Problem]}},
    }
    if any(KINDS[code].retry_seconds is not None for code in codes):
        told["headers"] = _header("Retry-After")
    return told


def _header(name: str) -> Json:
    return {name: {"schema": {"type": "string"}}}
