"""How the Go client judges an answer, in Python: by status, and by whether the body decodes into its error's type.

Follows what was observed of the client, row by row; `test_status_table.py` holds the model to that.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

SIMPLE = frozenset({401, 404, 500})
VALIDATION = 422


class Undecodable(Exception):
    """The client's own complaint about a body; the server's message is lost."""


@dataclass(frozen=True)
class Success:
    pass


@dataclass(frozen=True)
class SimpleError:
    message: str


@dataclass(frozen=True)
class ValidationErrors:
    errors: dict[str, list[str]] | None


Verdict = Success | SimpleError | ValidationErrors


def judge(status: int, body: bytes) -> Verdict:
    """Return what a call of `Save` comes to. Raises `Undecodable` where the client fails to read the refusal."""
    if status in SIMPLE:
        message = _object(body).get("error", "")
        if not isinstance(message, str):
            raise Undecodable("error is no string")
        return SimpleError(message)
    if status == VALIDATION:
        errors = _object(body).get("errors")
        if errors is not None and not _is_map_of_lists(errors):
            raise Undecodable("errors are no lists of strings")
        return ValidationErrors(errors)
    return Success()


def _object(body: bytes) -> dict[str, Any]:
    try:
        content = json.loads(body)
    except ValueError as error:
        raise Undecodable(str(error)) from None
    if not isinstance(content, dict):
        raise Undecodable("no object")
    return content


def _is_map_of_lists(errors: Any) -> bool:
    return isinstance(errors, dict) and all(
        isinstance(messages, list) and all(isinstance(message, str) for message in messages)
        for messages in errors.values()
    )
