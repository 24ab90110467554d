"""``palmette tasks as-shell | rephrase``: every task of a directory written anew as another one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from palmette.envs.api import INTENTS, Task
from palmette.envs.intent import endpoint_key, model_rewriter, rephrase
from palmette.envs.task import load_tasks
from palmette.envs.terminal.from_swe import as_shell_work
from palmette.errors import UserError
from palmette.progress import Progress


def as_shell(directory: Path, out: Path) -> int:
    """Write the SWE tasks below `directory` as terminal tasks below `out`; returns 1 if one could not be.

    Raises `UserError` when there is no task.
    """
    written, lost = _convert(directory, out, "as-shell", as_shell_work)
    print(f"wrote {written} of {written + lost} tasks as shell work to {out}; check them next")
    return 1 if lost else 0


def rephrase_all(directory: Path, level: str, out: Path, *, url: str, model: str) -> int:
    """Write the tasks below `directory` phrased at another level below `out`; returns 1 if one could not be.

    Raises `UserError` for an unknown level, and half of an endpoint.
    """
    if bool(url) != bool(model):
        raise UserError("--url and --model belong together: an OpenAI-compatible endpoint and the model to ask there")
    if level not in INTENTS:
        raise UserError(f"--intent {level}: the levels are {', '.join(INTENTS)}")
    rewriter = model_rewriter(url, model, key=endpoint_key()) if url else None
    written, lost = _convert(directory, out, level, lambda task, to: rephrase(task, level, to, rewriter=rewriter))
    print(f"wrote {written} of {written + lost} tasks, phrased as {level}, to {out}")
    return 1 if lost else 0


def _convert(directory: Path, out: Path, title: str, write: Callable[[Task, Path], object]) -> tuple[int, int]:
    """Return how many tasks were written below `out`, each where it was, and how many could not be, which are named."""
    tasks, lost = load_tasks(directory), 0
    with Progress(f"tasks/{title}", len(tasks), "tasks") as bar:
        for task in tasks:
            place = task.path.name if task.path == directory else task.path.relative_to(directory)
            try:
                write(task, out / place)
            except UserError as error:
                lost += 1
                print(f"{task.name}: {error}")
            bar.update(1)
    return len(tasks) - lost, lost
