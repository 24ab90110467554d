"""Recipes: TOML files and overrides read into pydantic models.

Whatever is wrong with a recipe is said in one line: the file (and line) or the override, the dotted key, what was
given, and what is expected.
"""

from __future__ import annotations

import difflib
import tomllib
import types
from collections.abc import Mapping, Sequence
from datetime import date, time
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from palmette.errors import UserError, suggest
from palmette.toml import BARE_KEY, toml_value

Model = TypeVar("Model", bound=BaseModel)


def find_recipe(name: str | Path) -> Path:
    """Return the file that `name` means: a path, or a name in ``recipes/`` here or beside the package.

    ``demo``, ``demo.toml`` and ``recipes/demo.toml`` all find the same file. Raises `UserError` naming the nearest
    existing file.
    """
    given = Path(name)
    shelves = [Path("recipes"), Path(__file__).resolve().parent.parent / "recipes"]
    names = [given] if given.suffix == ".toml" else [given, given.with_name(given.name + ".toml")]
    places = [*names, *(shelf / each.name for shelf in shelves for each in names if not given.is_absolute())]
    for place in places:
        if place.is_file():
            return place
    if given.is_dir():
        raise UserError(f"{given} is a directory; name a recipe file in it")
    near = _nearest_file(given, [given.parent, *shelves])
    raise UserError(f"no recipe {given}{f'; did you mean {near}?' if near else '; name a TOML file'}")


def load_recipe(path: Path, overrides: Sequence[str], model: type[Model]) -> Model:
    """Read a TOML file, apply overrides such as ``train.steps=20`` in order, and return a validated `model`.

    An override's value is TOML (``20``, ``true``, ``[1, 2]``, ``"text"``); quotes may be left out. Raises `UserError`
    in one line for a missing file, broken TOML, an unknown key (with a suggestion) and a value that does not fit.
    """
    path = Path(path)
    text = _read(path)
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: not valid TOML: {_lower_first(str(error))}") from None
    _refuse_unknown(data, model, lambda key: _where(path, text, key))
    sources: dict[tuple[str, ...], str] = {}
    for override in overrides:
        keys, value = _parse_override(override, model)
        _set(data, keys, value)
        sources[keys] = f"--set {override}"
        # Checked after each one, so that the message names the override and not the file.
        _refuse_unknown(data, model, lambda key, source=sources[keys]: source)
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise UserError(_explain(error, path, text, sources)) from None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = _nearest_file(path, [path.parent, Path("recipes")])
        raise UserError(f"{path} does not exist{f'; did you mean {near}?' if near else ''}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text; a recipe is a TOML file") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {_lower_first(error.strerror or str(error))}") from None


def _nearest_file(path: Path, directories: Sequence[Path]) -> Path | None:
    """Return the TOML file in `directories` whose name is nearest to the one that is missing."""
    candidates = {each.name: each for place in reversed(directories) if place.is_dir() for each in place.glob("*.toml")}
    near = difflib.get_close_matches(path.name, candidates, n=1, cutoff=0.4)
    near = near or difflib.get_close_matches(f"{path.name}.toml", candidates, n=1, cutoff=0.4)
    return candidates[near[0]] if near else None


# Overrides


def _parse_override(override: str, model: type[BaseModel]) -> tuple[tuple[str, ...], Any]:
    key, equals, raw = override.partition("=")
    keys = tuple(part.strip() for part in key.strip().split("."))
    if not equals or not all(keys):
        raise UserError(f"--set {override}: expected KEY=VALUE, such as --set train.steps=20")
    for depth in range(1, len(keys)):
        outer = _annotation_at(model, keys[:depth])
        is_section = _models(outer) or any(get_origin(option) is dict for option in _options(outer))
        if outer is not None and not is_section:
            raise UserError(f"--set {override}: '{'.'.join(keys[:depth])}' is a value, not a section")
    raw = raw.strip()
    quoted = raw[:1] in ('"', "'")
    if not quoted and _takes_text(_annotation_at(model, keys)):
        return keys, raw
    return keys, _parse_value(raw)


def _parse_value(raw: str) -> Any:
    """Parse a TOML value; text without quotes stands for itself, also inside a list."""
    try:
        parsed = tomllib.loads(f"value = {raw}")
    except tomllib.TOMLDecodeError:
        if raw.startswith("[") and raw.endswith("]"):
            return [_parse_value(part.strip()) for part in raw[1:-1].split(",") if part.strip()]
        return raw
    value = parsed["value"]
    return raw if len(parsed) != 1 or isinstance(value, date | time) else value


def _set(data: dict[str, Any], keys: tuple[str, ...], value: Any) -> None:
    for key in keys[:-1]:
        inner = data.get(key)
        data[key] = data = dict(inner) if isinstance(inner, dict) else {}
    data[keys[-1]] = value


# Walking a model's fields


def _options(annotation: Any) -> list[Any]:
    """Return the members of a union (unions and Annotated flattened), or the annotation itself."""
    if get_origin(annotation) is Annotated:
        return _options(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [option for each in get_args(annotation) for option in _options(each)]
    return [annotation]


def _models(annotation: Any) -> list[type[BaseModel]]:
    return [each for each in _options(annotation) if isinstance(each, type) and issubclass(each, BaseModel)]


def _takes_text(annotation: Any) -> bool:
    return bool({str, Path} & {each for each in _options(annotation) if isinstance(each, type)})


def _annotation_at(model: type[BaseModel], keys: Sequence[str]) -> Any:
    """Return the annotation of a dotted key, or None where the model has none."""
    annotation: Any = model
    for key in keys:
        found = [each.model_fields[key].annotation for each in _models(annotation) if key in each.model_fields]
        found += [get_args(each)[1] for each in _options(annotation) if get_origin(each) is dict]
        if not found:
            return None
        annotation = found[0]
    return annotation


def _known_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Return every dotted key of the model, sections included."""
    keys = []
    for name, info in model.model_fields.items():
        keys.append(prefix + name)
        for child in _models(info.annotation):
            keys += _known_keys(child, f"{prefix}{name}.")
    return keys


def _refuse_unknown(data: Mapping[str, Any], model: type[BaseModel], where: Any) -> None:
    unknown = _first_unknown(data, model, ())
    if unknown is None:
        return
    keys, siblings = unknown
    dotted = ".".join(keys)
    near = suggest(keys[-1], siblings)
    if not near:
        last = {key.split(".")[-1]: key for key in reversed(_known_keys(model))}
        elsewhere = difflib.get_close_matches(keys[-1], last, n=1, cutoff=0.8)
        near = f"; did you mean '{last[elsewhere[0]]}'?" if elsewhere else ""
    if not near:
        near = f"; known here: {', '.join(siblings)}"
    raise UserError(f"{where(keys)}: unknown key '{dotted}'{near}")


def _first_unknown(
    data: Mapping[str, Any], model: type[BaseModel], prefix: tuple[str, ...]
) -> tuple[tuple[str, ...], list[str]] | None:
    """Return the first key the model does not have, and the keys it has there."""
    for key, value in data.items():
        if key not in model.model_fields:
            return (*prefix, key), list(model.model_fields)
        found = _unknown_in_value(value, model.model_fields[key].annotation, (*prefix, key))
        if found:
            return found
    return None


def _unknown_in_value(value: Any, annotation: Any, keys: tuple[str, ...]) -> tuple[tuple[str, ...], list[str]] | None:
    models = _models(annotation)
    if isinstance(value, Mapping) and models:
        results = [_first_unknown(value, each, keys) for each in models]
        return None if None in results else results[0]
    for option in _options(annotation):
        origin, inner = get_origin(option), get_args(option)
        if origin is dict and isinstance(value, Mapping):
            pairs = [(each, (*keys, name)) for name, each in value.items()]
            inner = inner[1:]
        elif origin in (list, tuple) and isinstance(value, list):
            pairs = [(each, (*keys, str(index))) for index, each in enumerate(value)]
        else:
            continue
        for each, name in pairs:
            if inner and (found := _unknown_in_value(each, inner[0], name)):
                return found
    return None


# Saying what is wrong


def _explain(error: ValidationError, path: Path, text: str, sources: Mapping[tuple[str, ...], str]) -> str:
    """Return the first problem of a validation as one line."""
    problems = error.errors(include_url=False)
    first = problems[0]
    keys = tuple(str(part) for part in first["loc"] if not (isinstance(part, str) and not BARE_KEY.fullmatch(part)))
    source = next((said for set_keys, said in sources.items() if keys[: len(set_keys)] == set_keys), None)
    where = source or _where(path, text, keys)
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    dotted = ".".join(keys)
    if first["type"] == "missing":
        return f"{where}: '{dotted}' is missing; add it{more}"
    wanted = _lower_first(first["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, "))
    wanted = wanted.split(", unable to parse")[0].replace("input should", "should")
    if first["type"] in ("model_type", "dict_type", "model_attributes_type"):
        wanted = "should be a section of keys"
    if not dotted:  # a check over several keys, in its own words
        return f"{where}: {wanted}{more}"
    return f"{where}: {dotted} = {_brief(first['input'])}: {wanted}{more}".replace("\n", " ")


def _brief(value: Any) -> str:
    try:
        text = toml_value(value)
    except ValueError:
        text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]


def _where(path: Path, text: str, keys: Sequence[str]) -> str:
    """Return ``file:line`` of a dotted key, or the file alone when the line cannot be told."""
    section: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.strip()
        if line.startswith("["):
            section = [part.strip().strip("\"'") for part in line.split("#")[0].strip().strip("[]").split(".")]
            here = section
        elif "=" in line and not line.startswith("#"):
            here = section + [part.strip().strip("\"'") for part in line.split("=")[0].split(".")]
        else:
            continue
        if here == list(keys):
            return f"{path}:{number}"
    return str(path)
