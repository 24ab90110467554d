"""Pydantic models written as annotated TOML: descriptions as comments, and a mark where a value is not the default."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from enum import Enum
from pathlib import PurePath
from typing import Any

from pydantic import BaseModel

BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def dump_toml(model: BaseModel) -> str:
    """Return the model as TOML that `palmette.config.load_recipe` reads back to an equal model.

    Field descriptions become comments; a value that differs from its default carries ``# default: ...``.
    """
    lines: list[str] = []
    _dump_table(model, None, (), lines)
    return "\n".join(lines).strip("\n") + "\n"


def toml_value(value: Any) -> str:
    """Return one value as TOML. Raises `ValueError` for what TOML has no form for, such as None."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Enum):
        return toml_value(value.value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        text = repr(value)
        mantissa, letter, exponent = text.partition("e")
        return text if not letter or "." in mantissa else f"{mantissa}.0e{exponent}"
    if isinstance(value, str | PurePath):
        return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list | tuple | set | frozenset):
        return "[" + ", ".join(toml_value(each) for each in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(str(key))} = {toml_value(each)}" for key, each in value.items()) + "}"
    if isinstance(value, BaseModel):
        return toml_value({key: each for key, each in value if each is not None})
    raise ValueError(f"{type(value).__name__} has no TOML form")


def _dump_table(model: BaseModel, usual: Any, prefix: tuple[str, ...], lines: list[str]) -> None:
    """Append a model's lines; `usual` is what stands in its place by default, if that is known."""
    tables: list[tuple[str, Any, Any, str | None]] = []
    for name, info in type(model).model_fields.items():
        value = getattr(model, name)
        default = None if info.is_required() else info.get_default(call_default_factory=True, validated_data={})
        known = type(usual) is type(model)
        default = getattr(usual, name) if known else default
        if isinstance(value, BaseModel | Mapping) or _is_model_list(value):
            tables.append((name, value, default, info.description))
            continue
        if info.description:
            lines += [f"# {part}" for part in info.description.splitlines()]
        if value is None:
            if default is not None:
                raise ValueError(f"TOML has no null: {name} is None where its default is {default!r}")
            lines.append(f"# {_key(name)} is not set")
            continue
        changed = (known or not info.is_required()) and value != default
        mark = f"  # default: {'not set' if default is None else toml_value(default)}" if changed else ""
        lines.append(f"{_key(name)} = {toml_value(value)}{mark}")
    for name, value, default, description in tables:
        _dump_section(value, default, (*prefix, name), description, lines)


def _is_model_list(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(each, BaseModel) for each in value)


def _dump_section(value: Any, usual: Any, keys: tuple[str, ...], description: str | None, lines: list[str]) -> None:
    title = ".".join(_key(key) for key in keys)
    lines.append("")
    lines += [f"# {part}" for part in (description or "").splitlines()]
    if isinstance(value, BaseModel):
        lines.append(f"[{title}]")
        _dump_table(value, usual, keys, lines)
    elif isinstance(value, Mapping):
        lines.append(f"[{title}]")
        nested = {str(key): each for key, each in value.items() if isinstance(each, BaseModel | Mapping)}
        lines += [f"{_key(str(key))} = {toml_value(each)}" for key, each in value.items() if str(key) not in nested]
        for key, each in nested.items():
            _dump_section(each, None, (*keys, key), None, lines)
    else:
        for each in value:
            lines.append(f"[[{title}]]")
            _dump_table(each, None, keys, lines)


def _key(name: str) -> str:
    return name if BARE_KEY.fullmatch(name) else toml_value(name)
