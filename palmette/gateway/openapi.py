"""The gateway's routes as an OpenAPI 3.1 document, made from the tables that the dialects are read by.

What becomes of a field is its dialect's `fields`; only the forms of the commonest are said here. A field without a form
here may hold anything that its dialect reads; one that is refused may hold null.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import palmette
from palmette.gateway.dialect import Dialect
from palmette.gateway.fields import MAX_STOP_CHARS, MAX_STOPS

_TEXT: dict[str, Any] = {"type": "string"}
_FLAG: dict[str, Any] = {"type": ["boolean", "null"]}
_COUNT: dict[str, Any] = {"type": ["integer", "null"], "minimum": 1}
_IDS: dict[str, Any] = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}}
_STOPS: dict[str, Any] = {
    "type": "array",
    "maxItems": MAX_STOPS,
    "items": {"type": "string", "minLength": 1, "maxLength": MAX_STOP_CHARS},
}
_MESSAGE: dict[str, Any] = {
    "type": "object",
    "properties": {"role": {"enum": ["user", "assistant"]}, "content": _TEXT},
    "required": ["role", "content"],
}
_PARTS = {"type": "array", "items": {"type": "object", "properties": {"text": _TEXT}, "required": ["text"]}}
_CONTENT: dict[str, Any] = {
    "type": "object",
    "properties": {"role": {"enum": ["user", "model"]}, "parts": _PARTS | {"minItems": 1}},
    "required": ["role", "parts"],
}
_FORMS: dict[str, dict[str, Any]] = {
    "messages": {"type": "array", "items": _MESSAGE, "minItems": 1},
    "contents": {"type": "array", "items": _CONTENT, "minItems": 1},
    "input": {"type": "string", "minLength": 1},
    "prompt": _IDS | {"minItems": 1},
    "stop_token_ids": _IDS,
    "stop": _STOPS,
    "stop_sequences": _STOPS,
    "model": {"type": ["string", "null"]},
    "stream": _FLAG,
    "return_token_ids": _FLAG,
    "max_tokens": _COUNT,
    "max_completion_tokens": _COUNT,
    "max_output_tokens": _COUNT,
    "temperature": {"type": ["number", "null"], "minimum": 0, "maximum": 2},
    "top_p": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
}
_REQUIRED = ("messages", "contents", "input", "prompt")
_ERROR = {"description": "refused, in the dialect's own form", "content": {"application/json": {}}}
_ERRORS = {"400": _ERROR, "401": _ERROR, "404": _ERROR, "413": _ERROR, "429": _ERROR, "503": _ERROR}


def describe(answers: Mapping[str, Dialect], counts: Mapping[str, Dialect], looks: Iterable[str]) -> dict[str, Any]:
    """Return the document: paths that `answers` and `counts` are posted to, and paths to look at."""
    paths: dict[str, Any] = {}
    for path, dialect in answers.items():
        told = {"application/json": {}, "text/event-stream": {}}
        paths[path] = {"post": _operation(dialect, f"answer in {dialect.name}", told)}
        if "{name}" in path:
            name = {
                "name": "name",
                "in": "path",
                "required": True,
                "schema": {"type": "string", "pattern": "^[a-z0-9.-]+$"},
            }
            paths[path]["parameters"] = [name]
    for path, dialect in counts.items():
        told = {"application/json": {}}
        paths[path] = {"post": _operation(dialect, f"count the tokens of a prompt in {dialect.name}", told)}
    for path in looks:
        got = {"200": {"description": "what is asked for", "content": {"application/json": {}}}, "404": _ERROR}
        paths[path] = {"get": {"summary": "look", "responses": got}}
    scheme = {"type": "http", "scheme": "bearer", "description": "the key of a session, or of `palmette serve`"}
    return {
        "openapi": "3.1.0",
        "info": {"title": "palmette gateway", "version": palmette.__version__},
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {"securitySchemes": {"key": scheme}},
        "security": [{"key": []}],
    }


def _operation(dialect: Dialect, summary: str, told: dict[str, Any]) -> dict[str, Any]:
    properties = {
        name: {"description": fate} | ({"type": "null"} if fate == "refused" else _FORMS.get(name, {}))
        for name, fate in dialect.fields.items()
    }
    required = [name for name in _REQUIRED if dialect.fields.get(name) == "honoured"]
    schema = {"type": "object", "properties": properties, "required": required}
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "responses": {"200": {"description": "the answer", "content": told}} | _ERRORS,
    }
