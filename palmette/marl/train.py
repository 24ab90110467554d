"""Runs a recipe of kind ``marl``: one training a seed, several side by side, measured all along; it may be resumed.

Stages are ``train/seed_N``; the network of each is ``models/seed_N/agents.safetensors``, an episode of it
``films/seed_N.json``.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes

from palmette.marl.cohort import Cohort
from palmette.marl.envs.hallway import clock_bar
from palmette.marl.film import film
from palmette.marl.recipe import MarlRecipe
from palmette.marl.training import Training
from palmette.progress import Progress
from palmette.run import RunDir, write_atomic

_LAST = 3  # measurements whose mean is the result
_SAVE_EVERY_S = 120  # what a crash costs at most; a full buffer is some 50 MB


async def train_marl(recipe: MarlRecipe, run: RunDir) -> None:
    """Train every seed that has not finished; interrupted ones go on from where they stood. Raises `UserError`."""
    with _threads(recipe.threads):
        seeds = range(recipe.seed, recipe.seed + recipe.seeds)
        left = [seed for seed in seeds if not run.stage_done(_stage(seed))]
        for first in range(0, len(left), recipe.together):
            await _train(recipe, run, left[first : first + recipe.together])
    if not run.stage_done("result"):
        run.finish_stage("result", result(recipe, run))
    Console().print(_said(recipe, run.stage_summary("result")), highlight=False, soft_wrap=True)


def result(recipe: MarlRecipe, run: RunDir) -> dict[str, Any]:
    """Return what the trainings came to: each seed's score and rate, their medians, and the clock's bar if any."""
    seeds = {seed: run.stage_summary(_stage(seed)) for seed in range(recipe.seed, recipe.seed + recipe.seeds)}
    found: dict[str, Any] = {"game": recipe.game, "method": recipe.method, "seeds": list(seeds)}
    found["score_name"] = next(iter(seeds.values()))["score_name"]
    for name in ("score", "comm_rate", "cpu_s"):
        found[name] = [summary[name] for summary in seeds.values()]
        found[f"median_{name}"] = statistics.median(found[name])
    bar = clock_bar(recipe.hallway) if recipe.game == "hallway" else None
    if bar is not None:
        found["clock_bar"] = float(bar)
    return found


async def _train(recipe: MarlRecipe, run: RunDir, seeds: Sequence[int]) -> None:
    """Train some seeds side by side, each to its end."""
    trainings = [_opened(recipe, run, seed) for seed in seeds]
    cohort = Cohort(trainings)
    every = max(recipe.steps // recipe.test.times, 1)
    clock = {seed: (time.monotonic(), training.env_steps) for seed, training in zip(seeds, trainings, strict=True)}
    words = _words(recipe)
    name = _stage(seeds[0]) if len(seeds) == 1 else f"train/{len(seeds)} seeds"
    already = sum(training.env_steps for training in trainings)
    saved_s = time.monotonic()
    with Progress(name, recipe.steps * len(seeds), "steps", done=already) as bar:
        try:
            while left := cohort.unfinished:
                before = [training.env_steps for training in left]
                rows = await _to_end(cohort.advance)
                for training, steps in zip(left, before, strict=True):
                    if steps // every != training.env_steps // every or training.finished:
                        measured = await _to_end(training.measure)
                        wrote_s, begun = clock[training.seed]
                        rate = (training.env_steps - begun) / max(time.monotonic() - wrote_s, 1e-9)
                        clock[training.seed] = time.monotonic(), training.env_steps
                        numbers = {training.spec.score_name: measured.score, **asdict(measured), **rows[training.seed]}
                        numbers |= {"cpu_s": training.seconds, "env_steps_s": rate}
                        run.metrics(_stage(training.seed), training.env_steps, **numbers)
                        shown = {"links": measured.comm_rate, "steps/s": rate * len(left)}
                        words |= {training.spec.score_name: measured.score, **shown}
                    if training.finished:
                        _finish(training, run, _stage(training.seed), _saved(run, training.seed))
                bar.update(sum(training.env_steps for training in left) - sum(before), **words)
                if time.monotonic() - saved_s > _SAVE_EVERY_S:
                    await _to_end(partial(_save, trainings, run))
                    saved_s = time.monotonic()
        except asyncio.CancelledError:
            _save(trainings, run)
            raise


def _opened(recipe: MarlRecipe, run: RunDir, seed: int) -> Training:
    """Return a training where it stopped, or at its beginning."""
    training, saved = Training(recipe, seed), _saved(run, seed)
    if saved.is_file():
        training.load_state(load_file(saved))
    return training


def _saved(run: RunDir, seed: int) -> Path:
    return run.path / "checkpoints" / f"{_stage(seed)}.safetensors"


def _finish(training: Training, run: RunDir, stage: str, saved: Path) -> None:
    rows = [row for row in run.read_metrics(stage) if "score" in row][-_LAST:]
    name = stage.removeprefix("train/")
    _save_network(training, run.path / "models" / name)
    write_atomic(run.path / "films" / f"{name}.json", json.dumps(film(training)))
    run.finish_stage(
        stage,
        {
            "score_name": training.spec.score_name,
            "steps": training.env_steps,
            "updates": training.learner.updates,
            "score": statistics.fmean(row["score"] for row in rows),
            "comm_rate": statistics.fmean(row["comm_rate"] for row in rows),
            "messages": statistics.fmean(row["messages"] for row in rows),
            "cpu_s": round(training.seconds, 2),
            "seconds": round(training.seconds, 2),
        },
    )
    saved.unlink(missing_ok=True)


def _save(trainings: Sequence[Training], run: RunDir) -> None:
    """Write the checkpoints of those that have not finished."""
    for training in trainings:
        if not run.stage_done(_stage(training.seed)):
            write_atomic(_saved(run, training.seed), to_bytes(training.state()))


def _save_network(training: Training, folder: Path) -> None:
    write_atomic(folder / "agents.safetensors", to_bytes(training.weights()))


async def _to_end(heavy: Any) -> Any:
    """Run `heavy` in a thread; if cancelled, wait for it before the cancellation leaves."""
    running = asyncio.ensure_future(asyncio.to_thread(heavy))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise


def _words(recipe: MarlRecipe) -> dict[str, float | str]:
    """Return what a progress line says from the start: the bar that a clock sets, if the game has one."""
    bar = clock_bar(recipe.hallway) if recipe.game == "hallway" and recipe.hallway.slack is not None else None
    return {} if bar is None else {"clock": f"{float(bar):.0%}"}


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    torch.set_flush_denormal(True)  # tiny optimiser moments cost CPUs a factor otherwise
    try:
        yield
    finally:
        torch.set_num_threads(before)
        torch.set_flush_denormal(False)


def _said(recipe: MarlRecipe, summary: dict[str, Any]) -> str:
    """Return the line that a run ends with."""
    score, name = summary["median_score"], summary["score_name"]
    shown = f"{name} {score:.1%}" if name == "success" else f"{name} {score:.2f}"
    bar = f", the best clock {summary['clock_bar']:.1%}" if "clock_bar" in summary else ""
    seeds = f"median of {len(summary['seeds'])} seeds" if len(summary["seeds"]) > 1 else "one seed"
    return f"{recipe.game}, {recipe.method}: {shown}{bar}, links {summary['median_comm_rate']:.1%} ({seeds})"


def _stage(seed: int) -> str:
    return f"train/seed_{seed}"
