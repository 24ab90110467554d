"""Runs a recipe: tasks, base, one expert a domain, the student of all, and what each of them scored.

Every stage is skipped when it has finished before; a training stage that was interrupted goes on from its last
checkpoint. Stages and models have names: ``sft/swe`` makes ``models/sft-swe``, ``rl/swe`` ``models/expert-swe``,
``distil`` ``models/student``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from rich.console import Console

from palmette.envs.api import Task
from palmette.report.html import write_report
from palmette.report.load import load_run
from palmette.report.plots import overview_figure, to_png
from palmette.report.tables import as_rich, headline
from palmette.run import RunDir
from palmette.train.baselines import compare
from palmette.train.job import Job, evaluate_model
from palmette.train.material import ready_tasks
from palmette.train.memory import Watch
from palmette.train.recipe import Recipe
from palmette.train.specialise import specialise
from palmette.train.summary import write_summary
from palmette.train.unify import check_teachers, unify
from palmette.train.workplace import Workplace, open_workplace


async def run_pipeline(recipe: Any, run: RunDir) -> None:
    """Run a recipe of any kind in `run`, from wherever it stands. Raises `UserError`; may be cancelled at any time."""
    await KINDS[recipe.kind](recipe, run)


async def specialise_then_unify(recipe: Recipe, run: RunDir) -> None:
    """Train an expert for each domain, then one student of all experts; evaluate each; write summary and report."""
    with Watch() as watch:
        async with open_workplace(recipe, run) as place:
            check_teachers(recipe, place.model_dir, place.renderer)
            job = Job(recipe=recipe, run=run, place=place, tasks=await _tasks(recipe, run, place), watch=watch)
            await evaluate_model(job, "base", place.model_dir, recipe.domains)
            for domain in recipe.domains:
                await specialise(job, domain)
            await compare(job)
            await unify(job)
        _report(job)


def finished_run(path: Path, recipe: Recipe) -> RunDir:
    """Return the run at `path` when it is finished: made, or gone on with from wherever it stands."""
    run = RunDir.open(path) if path.is_dir() else RunDir.create(path, recipe, seed=recipe.seed)
    if not run.stage_done("report"):
        asyncio.run(run_pipeline(recipe, run))
    return run


KINDS: dict[str, Callable[[Any, RunDir], Coroutine[Any, Any, None]]] = {
    "specialise_then_unify": specialise_then_unify,
    "base": lambda recipe, run: _base(recipe, run),
    "marl": lambda recipe, run: _marl(recipe, run),
}


async def _base(recipe: Any, run: RunDir) -> None:
    from palmette.train.base.train import train_base

    await train_base(recipe, run)


async def _marl(recipe: Any, run: RunDir) -> None:
    from palmette.marl.train import train_marl

    await train_marl(recipe, run)


async def _tasks(recipe: Recipe, run: RunDir, place: Workplace) -> dict[str, dict[str, list[Task]]]:
    start_s = time.monotonic()
    tasks, dropped = await ready_tasks(recipe, run, place)
    if not run.stage_done("tasks"):
        counts = {f"{d}_{split}": len(each) for d, splits in tasks.items() for split, each in splits.items()}
        run.finish_stage("tasks", {**counts, "dropped": dropped, "seconds": round(time.monotonic() - start_s, 2)})
    return tasks


def _report(job: Job) -> None:
    start_s = time.monotonic()
    summary = write_summary(job.recipe, job.run)
    path = write_report(job.run.path)
    to_png(overview_figure(load_run(job.run.path)), job.run.path / "result.png")
    job.finish("report", time.monotonic() - start_s)
    console = Console()
    console.print(as_rich(headline(summary["domains"])))
    console.print(f"report: {path}", highlight=False, soft_wrap=True)
