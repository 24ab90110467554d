"""``palmette export`` and ``palmette import``: rollouts in the formats that other tools read and write."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from palmette.commands.locate import find_run
from palmette.errors import UserError
from palmette.rollout.atif import from_atif, to_atif
from palmette.rollout.predictions import to_line, to_prediction
from palmette.rollout.record import load_rollouts, to_metadata
from palmette.rollout.run import Rollout
from palmette.run import RunDir, write_atomic
from palmette.trajectory.store import TreeStore
from palmette.trajectory.tree import Tree

Kept = tuple[Rollout, dict[str, Any]]


def export(name: str, *, runs: Path, form: str, out: Path, stage: str, model: str) -> None:
    """Write the rollouts of a run, of one stage or all, to `out`: a directory for atif, a file for the others.

    Raises `UserError` when there is no such run or nothing to write.
    """
    if form not in FORMS:
        raise UserError(f"--format {form}: rollouts are written as {', '.join(FORMS)}")
    run = find_run(name, runs)
    wanted = {"stage": stage} if stage else {}
    kept = list(load_rollouts(TreeStore(run.path / "trees"), **wanted))
    if not kept:
        raise UserError(f"{run.path} has no rollouts{f' of the stage {stage}' if stage else ''} to export")
    number = FORMS[form](kept, out, model or run.name)
    print(f"{number} rollouts of {run.path} written to {out}", file=sys.stderr)


def import_files(files: list[Path], *, name: str, runs: Path) -> None:
    """Make a run of ATIF documents: files of one, or directories of such files.

    Raises `UserError` for a file that is none, and for a run that is there already; nothing is made then.
    """
    documents = [path for file in files for path in (sorted(file.rglob("*.json")) if file.is_dir() else [file])]
    if not documents:
        raise UserError(f"no .json files in {', '.join(map(str, files))}")
    records: list[tuple[dict[str, Any], Tree]] = []
    for path in documents:
        rollout, exact = from_atif(_document(path), source=str(path))
        records.append((to_metadata(rollout, stage="import", exact=exact), rollout.tree))
    run = RunDir.create(runs / name, 'kind = "import"\n')
    TreeStore(run.path / "trees").extend(records)
    exact = sum(bool(metadata["exact"]) for metadata, _ in records)
    print(f"{len(records)} rollouts in {run.path}: {exact} token for token, {len(records) - exact} as text only")


def _document(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path} is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} is no ATIF document: it holds no JSON object")
    return value


def _atif(kept: list[Kept], out: Path, model: str) -> int:
    """Write a file a rollout, named after stage, step, task, group and sample."""
    out.mkdir(parents=True, exist_ok=True)
    number = 0
    for rollout, metadata in kept:
        if not rollout.conversation:
            continue
        document = to_atif(
            rollout, model=str(metadata.get("model") or model), exact=metadata.get("exact", True) is not False
        )
        where = (metadata.get("stage"), metadata.get("step"), rollout.task, rollout.group, rollout.sample, number)
        file = ".".join(re.sub(r"[^\w.-]+", "_", str(part)) for part in where if part is not None)
        write_atomic(out / f"{file}.json", json.dumps(document, ensure_ascii=False))
        number += 1
    return number


def _predictions(kept: list[Kept], out: Path, model: str) -> int:
    """Write one line an instance, as graders want: that of the last rollout whose patch was kept."""
    last: dict[str, Rollout] = {}
    for rollout, _ in kept:
        if rollout.patch is not None or rollout.task not in last:
            last[rollout.task] = rollout
    patched = [rollout for rollout in last.values() if rollout.patch is not None]
    if not patched:
        to_prediction(next(iter(last.values())), model=model)  # says why
    return _lines(out, (to_prediction(rollout, model=model) for rollout in patched))


def _jsonl(kept: list[Kept], out: Path, model: str) -> int:
    return _lines(out, (metadata | to_line(rollout) for rollout, metadata in kept))


def _lines(out: Path, values: Iterator[dict[str, Any]]) -> int:
    lines = [json.dumps(value, ensure_ascii=False) for value in values]
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, "".join(f"{line}\n" for line in lines))
    return len(lines)


FORMS: dict[str, Callable[[list[Kept], Path, str], int]] = {
    "atif": _atif,
    "swebench": _predictions,
    "jsonl": _jsonl,
}
