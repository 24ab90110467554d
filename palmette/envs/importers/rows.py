"""Rows of a file (JSON lines, a JSON array, Parquet), each with its place, and what may be asked of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from palmette.errors import UserError


class RowRefused(UserError):
    """One row cannot become a task; the text says where it stands and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One record and where it stands: line of a text file, or number of a row, from 1."""

    path: Path
    number: int
    data: dict[str, Any]

    def refuse(self, why: str) -> RowRefused:
        """Return the error that names the place."""
        return RowRefused(f"{self.path}:{self.number}: {why}")

    def text(self, key: str, default: str | None = None) -> str:
        """Return a text that is not blank, `default` where there is none. Raises `RowRefused`."""
        value = self.data.get(key, default)
        if not isinstance(value, str) or (not value.strip() and default is None):
            raise self.refuse(f"{key} must be a text that says something, not {_shown(value)}")
        return value

    def texts(self, key: str) -> list[str]:
        """Return a list of texts, given as a list or as the JSON of one. Raises `RowRefused`."""
        value = self.data.get(key)
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except json.JSONDecodeError:
                raise self.refuse(f"{key} is a text, but not the JSON of a list: {_shown(value)}") from None
        if hasattr(value, "tolist"):
            value = value.tolist()  # type: ignore[union-attr]
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.refuse(f"{key} must be a list of texts, not {_shown(value)}")
        return value

    def table(self, key: str) -> dict[str, Any]:
        """Return an object, empty where there is none. Raises `RowRefused`."""
        value = self.data.get(key) or {}
        if not isinstance(value, dict):
            raise self.refuse(f"{key} must be an object, not {_shown(value)}")
        return value


def read_rows(path: Path) -> Iterator[Row | RowRefused]:
    """Yield the rows of a file, and a refusal in the place of one that cannot be read.

    Raises `UserError` for a file that cannot be read at all.
    """
    if not path.is_file():
        raise UserError(f"{path} is not a file; give one of JSON lines, a JSON array or Parquet")
    if path.suffix == ".parquet":
        yield from _parquet(path)
        return
    data = path.read_bytes()
    if data.lstrip()[:1] == b"[":
        yield from _array(path, data)
        return
    if b"\n" in data.strip() and _is_object(data):
        raise UserError(f"{path} is one JSON object over several lines, not rows; give JSON lines or an array")
    for number, line in enumerate(data.splitlines(), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield RowRefused(f"{path}:{number}: not JSON: {error}")
            continue
        yield _row(path, number, value)


def _is_object(data: bytes) -> bool:
    try:
        return isinstance(json.loads(data), dict)
    except (ValueError, RecursionError):
        return False


def _array(path: Path, data: bytes) -> Iterator[Row | RowRefused]:
    try:
        values = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a JSON array: {error}") from None
    for number, value in enumerate(values, 1):
        yield _row(path, number, value)


def _parquet(path: Path) -> Iterator[Row | RowRefused]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a Parquet file that can be read: {error}") from None
    for number, value in enumerate(table.to_pylist(), 1):
        yield _row(path, number, value)


def _row(path: Path, number: int, value: object) -> Row | RowRefused:
    if not isinstance(value, dict):
        return RowRefused(f"{path}:{number}: a task is an object, not {_shown(value)}")
    return Row(path=path, number=number, data=value)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
