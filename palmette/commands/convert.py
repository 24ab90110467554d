"""``palmette tasks as-shell``: SWE tasks told as shell work."""

from __future__ import annotations

from pathlib import Path

from palmette.envs.task import load_tasks
from palmette.envs.terminal.from_swe import as_shell_work
from palmette.errors import UserError
from palmette.progress import Progress


def as_shell(directory: Path, out: Path) -> int:
    """Write the SWE tasks below `directory` as terminal tasks below `out`; returns 1 if one could not be.

    Raises `UserError` when there is no task.
    """
    tasks, refused = load_tasks(directory), 0
    with Progress("tasks/as-shell", len(tasks), "tasks") as bar:
        for task in tasks:
            place = task.path.name if task.path == directory else task.path.relative_to(directory)
            try:
                as_shell_work(task, out / place)
            except UserError as error:
                refused += 1
                print(f"{task.name}: {error}")
            bar.update(1)
    print(f"wrote {len(tasks) - refused} of {len(tasks)} tasks as shell work to {out}; check them next")
    return 1 if refused else 0
