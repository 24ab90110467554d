"""``palmette run`` and ``palmette resume``: a recipe becomes a run directory, and the pipeline works on it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from palmette.commands.interrupt import run_interruptibly
from palmette.commands.locate import find_run
from palmette.config import find_recipe
from palmette.errors import UserError
from palmette.run import RunDir, seed_everything


def start(recipe: str, overrides: Sequence[str], *, name: str, runs: Path, fresh: bool, resume: bool) -> int:
    """Run a recipe in a new run directory. Returns the exit code; raises `UserError` if a run of that name is there."""
    from palmette.train.recipe import read_recipe

    path = find_recipe(recipe)
    resolved: Any = read_recipe(path, overrides)
    named = resolved.name if "name" in resolved.model_fields_set else path.stem
    run_path = runs / (name or named)
    if fresh and run_path.exists():
        aside = _set_aside(run_path)
        print(f"moved the earlier run to {aside}", file=sys.stderr)
    elif run_path.exists():
        if resume and not overrides:
            return _work(RunDir.open(run_path))
        raise UserError(_already_there(RunDir.open(run_path)))
    return _work(RunDir.create(run_path, resolved, seed=resolved.seed))


def resume(name: str, *, runs: Path) -> int:
    """Go on with a run; its own ``config.toml`` is the recipe. Returns the exit code."""
    return _work(find_run(name, runs))


def _work(run: RunDir) -> int:
    from palmette.train.pipeline import run_pipeline
    from palmette.train.recipe import read_recipe

    recipe = read_recipe(run.config_path, ())
    print(f"run {run.path}, seed {run.seed}", file=sys.stderr)
    try:
        with run.attempt():
            seed_everything(run.seed)
            run_interruptibly(
                run_pipeline(recipe, run), notice="stopping after this step and saving; Ctrl-C again to stop at once"
            )
    except KeyboardInterrupt:
        print(f"stopped; go on with: palmette resume {_short(run)}", file=sys.stderr)
        return 130
    return 0


def _set_aside(path: Path) -> Path:
    """Rename a run to ``<name>.1``, ``<name>.2``, ...: nothing is ever deleted. Refuses one that is being worked on."""
    if (path / "config.toml").is_file() and RunDir.open(path).state == "running":
        raise UserError(f"{path} is being worked on; stop it first, or choose another --name")
    number = 1
    while (aside := path.with_name(f"{path.name}.{number}")).exists():
        number += 1
    path.rename(aside)
    return aside


def _already_there(run: RunDir) -> str:
    state = run.state
    other = "choose another --name, or --fresh to move it aside and start anew"
    if state == "finished":
        return f"{run.path} has finished already; see 'palmette view {_short(run)}', {other}"
    if state == "running":
        return f"{run.path} is being worked on by another process; {other.split(',')[0]}"
    return f"{run.path} is there already ({state}); go on with 'palmette resume {_short(run)}', {other}"


def _short(run: RunDir) -> str:
    return run.name if run.path.parent == Path("runs") else str(run.path)
