"""Keeping a journal small: what closed sessions said is left out, as far as no open one goes on from it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from palmette.gateway.journal import files, fold, frames
from palmette.gateway.records import Closed, Opened

FOLD_BYTES = 64 << 20  # below which folding would not be worth it


class _Head(msgspec.Struct, frozen=True):
    """What folding must know of any record."""

    type: str
    key: str
    forked_from: str | None = None


def due(size: int, after_last: int, *, least: int = FOLD_BYTES) -> bool:
    """Say whether a journal of `size` bytes, `after_last` when it was folded last, has grown enough to be folded."""
    return size > max(least, 2 * after_last)


def fold_closed(path: Path) -> None:
    """Fold all files before `path` (see `Journal.turn_over`) into it. Blocks; raises `OSError`, `UserError`.

    A closed session's records go, unless an open one was forked from it, or from such a one.
    """
    before = [each for each in files(path.parent) if int(each.stem) < int(path.stem)]
    decoder = msgspec.msgpack.Decoder(_Head)
    parents: dict[str, str | None] = {}
    closed: set[str] = set()
    for head in (decoder.decode(frame) for each in before for frame in frames(each)):
        if head.type == _OPENED:
            parents[head.key] = head.forked_from
        elif head.type == _CLOSED:
            closed.add(head.key)
    needed: set[str] = set()
    for key in parents.keys() - closed:
        at: str | None = key
        while at is not None and at not in needed:
            needed.add(at)
            at = parents.get(at)

    def kept() -> Iterator[bytes]:
        for each in before:
            for frame in frames(each):
                if decoder.decode(frame).key in needed:
                    yield frame

    fold(path, kept())


_OPENED, _CLOSED = (record.__struct_config__.tag for record in (Opened, Closed))
