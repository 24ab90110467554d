"""Readers of one JSON field each; what is wrong becomes a 400 that names the field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from palmette.gateway.refusal import malformed

MAX_DEPTH = 64  # of nested JSON; deeper values are refused before anything recurses over them


def read_json(text: bytes, at: str) -> Any:
    """Parse JSON of bounded depth. Raises `Refusal`, as every reader here does."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise malformed(at, f"not JSON: {error}.") from error
    if _deeper_than(value, MAX_DEPTH):
        raise malformed(at, f"nested deeper than {MAX_DEPTH} levels.")
    return value


def read_object(value: Any, at: str) -> dict[str, Any]:
    """Return `value`, found at `at`, if it is an object."""
    if not isinstance(value, dict):
        raise malformed(at, "expected an object.")
    return value


def read_flag(fields: Mapping[str, Any], name: str, prefix: str = "") -> bool:
    """Return a boolean field; absent and null are false."""
    value = fields.get(name)
    if value is not None and not isinstance(value, bool):
        raise malformed(prefix + name, "expected true or false.")
    return bool(value)


def read_integer(fields: Mapping[str, Any], name: str, least: int | None = None) -> int | None:
    """Return an integer field of at least `least`, or None when absent or null."""
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or (least is not None and value < least):
        raise malformed(name, "expected an integer" + ("." if least is None else f" of at least {least}."))
    return value


def read_number(fields: Mapping[str, Any], name: str, least: float, most: float) -> float | None:
    """Return a number field within [least, most], or None when absent or null."""
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value <= most:
        raise malformed(name, f"expected a number from {least:g} to {most:g}.")
    return float(value)


def read_string(fields: Mapping[str, Any], name: str, at: str) -> str:
    """Return a string field of the object at `at`, which must not be empty."""
    value = fields.get(name)
    if not isinstance(value, str) or not value:
        raise malformed(f"{at}.{name}", "expected a string that is not empty.")
    return value


def _deeper_than(value: Any, limit: int) -> bool:
    level: Sequence[Any] = [value]
    for _ in range(limit):
        containers = [item for item in level if isinstance(item, dict | list)]
        level = [child for item in containers for child in (item.values() if isinstance(item, dict) else item)]
        if not level:
            return False
    return True
