"""The document as a page: plain HTML, made here, that loads nothing from anywhere."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html import escape
from typing import Any

from compat._rest_problems import KINDS

Json = dict[str, Any]

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid #8886; } h3 { margin-top: 2rem; }
code, pre { font: 14px/1.45 ui-monospace, monospace; } pre { overflow-x: auto; background: #8882; padding: .7rem; }
table { border-collapse: collapse; width: 100%; } th, td { text-align: left; padding: .25rem .75rem .25rem 0;
vertical-align: top; border-bottom: 1px solid #8884; } nav a { margin-right: .8rem; white-space: nowrap; }
.method { font-weight: 700; }
"""


_EXAMPLE = """curl -H "Authorization: Bearer KEY" -H "Content-Type: application/json" \\
  -d '{"service": "tg", "country": 6}' http://127.0.0.1:8000/api/v1/purchase"""


def page(document: Json) -> str:
    """The page of a document."""
    info = document["info"]
    parts = [
        f"<h1>{escape(info['title'])} {escape(info['version'])}</h1>",
        f"<p>{_words(info['description'])} The same as <a href='/openapi.json'>OpenAPI 3.1</a>.</p>",
        f"<pre>{escape(_EXAMPLE)}</pre>",
        f"<nav>{''.join(_links(document))}</nav>",
        "<h2>Calls</h2>",
        *_calls(document),
        "<h2>Problems</h2>",
        *_problems(),
        "<h2>Schemas</h2>",
        *_schemas(document["components"]["schemas"]),
    ]
    title = escape(info["title"])
    body = "\n".join(parts)
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width'>"
        f"<title>{title}: API</title><style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _each(document: Json) -> Iterator[tuple[str, str, Json]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method.upper(), operation


def _links(document: Json) -> Iterator[str]:
    for path, method, operation in _each(document):
        yield f"<a href='#{escape(operation['operationId'])}'>{method} {escape(path)}</a> "


def _calls(document: Json) -> Iterator[str]:
    for path, method, operation in _each(document):
        name = escape(operation["operationId"])
        yield f"<h3 id='{name}'><code><span class='method'>{method}</span> {escape(path)}</code></h3>"
        yield f"<p>{_words(operation['summary'])}. {_words(operation.get('description', ''))}</p>"
        if "requestBody" in operation:
            body = operation["requestBody"]
            yield f"<p>Body: {_content(body)}. {_words(body['description'])}</p>"
        if operation["parameters"]:
            yield _table(("Parameter", "In", "Meaning"), (_parameter(one) for one in operation["parameters"]))
        yield _table(("Status", "Answer", ""), (_answer(*one) for one in operation["responses"].items()))


def _parameter(parameter: Json) -> tuple[str, str, str]:
    meaning = " ".join([_words(parameter.get("description", "")), _kind(parameter["schema"])])
    return f"<code>{escape(parameter['name'])}</code>", escape(parameter["in"]), meaning


def _answer(status: str, answer: Json) -> tuple[str, str, str]:
    return status, _words(answer["description"]), _content(answer)


def _content(holder: Json) -> str:
    return ", ".join(
        f"<code>{escape(media_type)}</code> {_kind(content['schema'])}"
        for media_type, content in holder.get("content", {}).items()
    )


def _problems() -> Iterator[str]:
    rows = ((f"<code id='{code}'>{code}</code>", str(kind.status), escape(kind.title)) for code, kind in KINDS.items())
    yield _table(("Code", "Status", "Meaning"), rows)


def _schemas(schemas: Json) -> Iterator[str]:
    for name, schema in schemas.items():
        yield f"<h3 id='schema-{escape(name)}'>{escape(name)}</h3><p>{_words(schema.get('description', ''))}</p>"
        required = schema.get("required", ())
        rows = (
            (
                f"<code>{escape(member)}</code>{'' if member in required else ' (may be absent)'}",
                _kind(value),
                _words(value.get("description", "")),
            )
            for member, value in schema.get("properties", {}).items()
        )
        yield _table(("Member", "Kind", "Meaning"), rows)


def _kind(schema: Json) -> str:
    """A schema in a few words."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f"<a href='#schema-{name}'>{name}</a>"
    if "anyOf" in schema:
        return " or ".join(_kind(choice) for choice in schema["anyOf"])
    if "enum" in schema:
        return " or ".join(f"<code>{escape(str(word))}</code>" for word in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_kind(schema['items'])}"
    words = [schema.get("type", "anything"), schema.get("format", "")]
    limits = {name: schema[name] for name in ("minimum", "maximum", "maxLength", "default") if name in schema}
    words += [f"{name} {json.dumps(value)}" for name, value in limits.items()]
    if schema.get("examples"):
        words.append(f"such as {json.dumps(schema['examples'][0])}")
    return escape(", ".join(word for word in words if word))


def _table(heads: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    head = "".join(f"<th>{text}</th>" for text in heads)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _words(text: str) -> str:
    """Prose with its `words` set as code."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(text))
