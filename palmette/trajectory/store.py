"""Trees on disk: a directory of immutable Parquet segments, each wholly there or not at all."""

from __future__ import annotations

import hashlib
import io
import json
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from palmette.errors import UserError
from palmette.run import write_atomic
from palmette.trajectory.record import pack, unpack
from palmette.trajectory.tree import Tree

FORMAT_VERSION = 1

_FORMAT_KEY, _VERSION_KEY = b"palmette.format", b"palmette.format_version"
_FORMAT = b"trajectory"
_SEGMENT = re.compile(r"\d{8}-[0-9a-f]{8}-[0-9a-f]{16}\.parquet")
_ARRAY = pa.struct(
    [
        ("name", pa.string()),
        ("dtype", pa.string()),
        ("tail", pa.list_(pa.int32())),
        ("rows", pa.list_(pa.int32())),
        ("data", pa.large_binary()),
    ]
)
_INTEGERS = ("node_id", "parent", "length", "turn", "token_ids", "version")
_SCHEMA = pa.schema(
    [
        ("metadata", pa.string()),
        *((name, pa.list_(pa.int32())) for name in _INTEGERS),
        ("logprob", pa.list_(pa.float32())),
        ("arrays", pa.list_(_ARRAY)),
    ],
    metadata={_FORMAT_KEY: _FORMAT, _VERSION_KEY: str(FORMAT_VERSION).encode()},
)


class TreeStore:
    """Records of (JSON metadata, tree) in the order of their appending; e.g. ``TreeStore(run.path / "trees")``.

    Every `append` or `extend` writes one segment to a temporary file, syncs it and renames it: when the call returns
    its records are durable, and after a crash in it none of them is there. Several processes may append at once.
    A segment's name is its number, a random word and the digest of its content. Anything else in the directory, and a
    segment that is not what its name says, is an error that names the file; only names that begin with a dot
    (unfinished writes) are passed over.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.path} cannot hold trajectories: {error.strerror}; choose another place") from None

    def append(self, metadata: Mapping[str, Any], tree: Tree) -> None:
        """Write one record; see `extend`."""
        self.extend([(metadata, tree)])

    def extend(self, records: Iterable[tuple[Mapping[str, Any], Tree]]) -> None:
        """Write all `records` as one segment (nothing for no records).

        Raises `ValueError` for metadata that is not JSON, `UserError` when the disk does not take it.
        """
        rows = [{"metadata": _to_json(metadata), **pack(tree)} for metadata, tree in records]
        if not rows:
            return
        sink = io.BytesIO()
        table = pa.Table.from_pylist(rows, schema=_SCHEMA)
        pq.write_table(table, sink, compression="zstd", row_group_size=64)
        data, segments = sink.getvalue(), self._segments()
        number = int(segments[-1].name[:8]) + 1 if segments else 0
        target = self.path / f"{number:08d}-{secrets.token_hex(4)}-{_digest(data)}.parquet"
        try:
            write_atomic(target, data)
        except OSError as error:
            raise UserError(f"{target} cannot be written: {error.strerror}; free some space or move the run") from None

    def __iter__(self) -> Iterator[tuple[dict[str, Any], Tree]]:
        """Yield every record. Raises `UserError` with the path of a torn or foreign file, or one of another format."""
        for segment in self._segments():
            for batch in _batches(segment, None):
                for row in range(batch.num_rows):
                    try:
                        record = _read(batch, row)
                    except (ValueError, TypeError, KeyError, IndexError) as error:
                        raise _torn(segment, error) from None
                    yield record

    def metadata(self) -> Iterator[dict[str, Any]]:
        """Yield the metadata of every record without reading its tree."""
        for segment in self._segments():
            for batch in _batches(segment, ["metadata"]):
                yield from (json.loads(text) for text in batch.column("metadata").to_pylist())

    def __len__(self) -> int:
        """Return the number of records, from the segments' footers alone."""
        return sum(_open(segment, segment).metadata.num_rows for segment in self._segments())

    def _segments(self) -> list[Path]:
        """Return the segments in order of writing, once nothing else is in the directory."""
        paths = sorted(path for path in self.path.iterdir() if not path.name.startswith("."))
        for path in paths:
            if not _SEGMENT.fullmatch(path.name):
                raise UserError(f"{path} is no trajectory segment; move it out of this directory")
        return paths


def _to_json(metadata: Mapping[str, Any]) -> str:
    try:
        return json.dumps(dict(metadata), allow_nan=False, ensure_ascii=False)
    except TypeError as error:
        raise ValueError(f"metadata must be JSON: {error}") from None


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def _batches(segment: Path, columns: list[str] | None) -> Iterator[pa.RecordBatch]:
    try:
        data = segment.read_bytes()
    except OSError as error:
        raise _torn(segment, error) from None
    if _digest(data) not in segment.name:
        raise _torn(segment, ValueError("its content is not what was written"))
    yield from _open(segment, pa.BufferReader(data)).iter_batches(batch_size=64, columns=columns)


def _open(segment: Path, source: Path | pa.BufferReader) -> pq.ParquetFile:
    try:
        file = pq.ParquetFile(source)
    except (pa.ArrowException, OSError) as error:
        raise _torn(segment, error) from None
    known = file.schema_arrow.metadata or {}
    if known.get(_FORMAT_KEY) != _FORMAT:
        raise UserError(f"{segment} is a Parquet file but no trajectory segment; move it out of this directory")
    version = known.get(_VERSION_KEY, b"?").decode()
    if version != str(FORMAT_VERSION):
        raise UserError(
            f"{segment} has trajectory format {version}, this palmette reads {FORMAT_VERSION}; "
            "use the palmette that wrote it"
        )
    return file


def _read(batch: pa.RecordBatch, row: int) -> tuple[dict[str, Any], Tree]:
    columns: dict[str, Any] = {
        name: batch.column(name)[row].values.to_numpy(zero_copy_only=False) for name in (*_INTEGERS, "logprob")
    }
    columns["arrays"] = batch.column("arrays")[row].as_py()
    return json.loads(batch.column("metadata")[row].as_py()), unpack(columns)


def _torn(segment: Path, error: Exception) -> UserError:
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return UserError(f"{segment} cannot be read as a trajectory segment ({reason}); restore or remove it")
