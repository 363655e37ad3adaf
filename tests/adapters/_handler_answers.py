"""What tests of the `handler_api.php` family share: scripted answers, told apart by the action asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx

Answers = dict[str, Any]


def reply(body: Any, status: int = 200, **headers: str) -> httpx.Response:
    if isinstance(body, str):
        return httpx.Response(status, text=body, headers=headers)
    return httpx.Response(status, content=json.dumps(body), headers=headers)


def envelope(status: int, title: str, **info: Any) -> httpx.Response:
    return reply({"title": title, "details": "Some words", "info": info}, status)


def by_action(answers: Answers) -> Callable[[httpx.Request], httpx.Response]:
    """Each action's answer; a tuple answers one after another, and its last one stays."""
    left = {action: list(given) if isinstance(given, tuple) else [given] for action, given in answers.items()}

    def respond(request: httpx.Request) -> httpx.Response:
        queue = left[request.url.params["action"]]
        given = queue.pop(0) if len(queue) > 1 else queue[0]
        if isinstance(given, Exception):
            raise given
        return given if isinstance(given, httpx.Response) else reply(given)

    return respond
