"""Readers of one JSON field each; what is wrong becomes a 400 that names the field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import orjson

from palmette.gateway.refusal import malformed, unsupported

MAX_MESSAGES = 10_000
MAX_STOPS, MAX_STOP_CHARS = 16, 256
MAX_DEPTH = 64  # of nested JSON; deeper values are refused before anything recurses over them

Fate = Literal["honoured", "imposed", "ignored", "refused"]
"""What becomes of a field: "imposed" ones are decided by the rollout and heeded only where there is no rollout."""


def check_table(
    fields: Mapping[str, Any], table: Mapping[str, Fate], allowed: Mapping[str, tuple[Any, ...]], prefix: str = ""
) -> None:
    """Raise `Refusal` for the first refused field that holds anything but null or one of its `allowed` values."""
    for name, fate in table.items():
        value = fields.get(name)
        if fate == "refused" and value is not None and not _among(value, allowed.get(name, ())):
            raise unsupported(prefix + name)


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


def read_integer(fields: Mapping[str, Any], name: str, least: int | None = None, prefix: str = "") -> int | None:
    """Return an integer field of at least `least`, or None when absent or null."""
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or (least is not None and value < least):
        raise malformed(prefix + name, "expected an integer" + ("." if least is None else f" of at least {least}."))
    return value


def read_top_k(fields: Mapping[str, Any]) -> int | None:
    """Return the `top_k` field, 0 for off, which some write as -1."""
    value = read_integer(fields, "top_k", -1)
    return None if value is None else max(value, 0)


def read_number(fields: Mapping[str, Any], name: str, least: float, most: float, prefix: str = "") -> float | None:
    """Return a number field within [least, most], or None when absent or null."""
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value <= most:
        raise malformed(prefix + name, f"expected a number from {least:g} to {most:g}.")
    return float(value)


def read_list(fields: Mapping[str, Any], name: str, prefix: str = "") -> list[Any]:
    """Return a list field; absent and null are empty."""
    value = fields.get(name)
    if value is not None and not isinstance(value, list):
        raise malformed(prefix + name, "expected a list.")
    return value or []


def read_stops(fields: Mapping[str, Any], name: str, prefix: str = "") -> tuple[str, ...]:
    """Return a field of stop strings, one or a list of at most `MAX_STOPS`; absent and null are none."""
    value = fields.get(name)
    stops = [value] if isinstance(value, str) else read_list(fields, name, prefix)
    if len(stops) > MAX_STOPS or not all(isinstance(stop, str) and 0 < len(stop) <= MAX_STOP_CHARS for stop in stops):
        raise malformed(prefix + name, f"expected at most {MAX_STOPS} strings of 1 to {MAX_STOP_CHARS} characters.")
    return tuple(stops)


def read_model(fields: Mapping[str, Any]) -> str:
    """Return the model's name, which is echoed and chooses nothing: a session has one model."""
    value = fields.get("model")
    if value is not None and not isinstance(value, str):
        raise malformed("model", "expected a string.")
    return value or "palmette"


def read_description(fields: Mapping[str, Any], at: str) -> str:
    """Return the `description` of the object at `at`; absent and null are empty."""
    value = fields.get("description")
    if value is not None and not isinstance(value, str):
        raise malformed(f"{at}.description", "expected a string.")
    return value or ""


def read_schema(value: Any, at: str) -> dict[str, Any]:
    """Return a tool's JSON schema as one of type object with properties: templates count on both, agents do not."""
    return {"type": "object", "properties": {}} | read_object({} if value is None else value, at)


def read_string(fields: Mapping[str, Any], name: str, at: str) -> str:
    """Return a string field of the object at `at`, which must not be empty."""
    value = fields.get(name)
    if not isinstance(value, str) or not value:
        raise malformed(f"{at}.{name}", "expected a string that is not empty.")
    return value


def _among(value: Any, allowed: Sequence[Any]) -> bool:
    return any(type(value) is type(one) and value == one for one in allowed)  # true is not 1


def _deeper_than(value: Any, limit: int) -> bool:
    level: Sequence[Any] = [value]
    for _ in range(limit):
        containers = [item for item in level if isinstance(item, dict | list)]
        level = [child for item in containers for child in (item.values() if isinstance(item, dict) else item)]
        if not level:
            return False
    return True
