"""The formats by name, and the import of a file: a row that will do becomes a task directory, the others are named."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from palmette.envs.api import Draft, Split, Task
from palmette.envs.importers.bfcl import from_bfcl
from palmette.envs.importers.prompts import from_prompt
from palmette.envs.importers.rows import Row, RowRefused, read_rows
from palmette.envs.importers.swe_bench import swe_bench
from palmette.envs.importers.tau2_clone import tau2
from palmette.envs.split import split_of
from palmette.envs.task import write_task
from palmette.errors import UserError, suggest

Importer = Callable[[Row], Draft]
FORMATS: dict[str, Callable[[Path | None], Importer]] = {
    "swe-bench": swe_bench,
    "tau2": tau2,
    "bfcl": lambda _: from_bfcl,
    "prompts": lambda _: from_prompt,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What came of a file: the tasks, and one line "file:line: why" for each row that was refused."""

    tasks: tuple[Task, ...]
    refused: tuple[str, ...]


def import_tasks(
    form: str,
    file: Path,
    out_dir: Path,
    *,
    split: Split | None = None,
    license: str = "",
    clones: Path | None = None,
    on_done: Callable[[], None] | None = None,
) -> Imported:
    """Write the tasks of a file below `out_dir`, in one `split` or, with None, by their source.

    `license` is noted where a row names none. Raises `UserError` for an unknown format or a file that is none.
    """
    if form not in FORMATS:
        raise UserError(f"unknown format '{form}'{suggest(form, FORMATS)} (known: {', '.join(FORMATS)})")
    draft_of, tasks, refused = FORMATS[form](clones), list[Task](), list[str]()
    for row in read_rows(file):
        try:
            if isinstance(row, RowRefused):
                raise row
            draft = draft_of(row)
            draft = replace(draft, split=split or split_of(draft.source), license=draft.license or license)
            tasks.append(write_task(draft, out_dir / _directory(draft.name)))
        except UserError as error:
            place = f"{file}:{row.number}: " if isinstance(row, Row) and not isinstance(error, RowRefused) else ""
            refused.append(f"{place}{error}")
        if on_done:
            on_done()
    return Imported(tasks=tuple(tasks), refused=tuple(refused))


def _directory(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:120] or "task"
