"""Runs a recipe: tasks, base, one expert a domain, the student of all, and what each of them scored.

Every stage is skipped when it has finished before; a training stage that was interrupted goes on from its last
checkpoint. Stages and models have names: ``sft/swe`` makes ``models/sft-swe``, ``rl/swe`` ``models/expert-swe``,
``distil`` ``models/student``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console

from palmette.engine.api import Sampling
from palmette.envs.api import Task
from palmette.errors import UserError
from palmette.evaluate.run import evaluate, shown_on
from palmette.model.load import load_model, save_model
from palmette.progress import Progress
from palmette.report.html import write_report
from palmette.report.load import load_run
from palmette.report.plots import overview_figure, to_png
from palmette.report.tables import as_rich, headline
from palmette.run import RunDir
from palmette.train.distil import check_renderers, fill_distillation
from palmette.train.material import cold_start_samples, demonstrations, ready_tasks, solved_samples
from palmette.train.memory import Watch
from palmette.train.onpolicy import on_policy
from palmette.train.policy import OnPolicyConfig
from palmette.train.recipe import Recipe
from palmette.train.rl import fill_outcomes
from palmette.train.score import score_samples
from palmette.train.sft import SftConfig, sft
from palmette.train.stage import Stage, model_dir
from palmette.train.summary import write_summary
from palmette.train.trust import Trust, calibrate, turn_logprobs
from palmette.train.workplace import Workplace, open_workplace

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_CALIBRATION = 64  # rollouts of each expert


async def run_pipeline(recipe: Any, run: RunDir) -> None:
    """Run a recipe of any kind in `run`, from wherever it stands. Raises `UserError`; may be cancelled at any time."""
    await KINDS[recipe.kind](recipe, run)


async def specialise_then_unify(recipe: Recipe, run: RunDir) -> None:
    """Train an expert for each domain, then one student of all experts; evaluate each; write summary and report."""
    with Watch() as watch:
        async with open_workplace(recipe, run) as place:
            job = _Job(recipe=recipe, run=run, place=place, tasks=await _tasks(recipe, run, place), watch=watch)
            await _evaluate(job, "base", place.model_dir, recipe.domains)
            for domain in recipe.domains:
                await _specialise(job, domain)
            await _unify(job)
        _report(job)


KINDS: dict[str, Callable[[Any, RunDir], Coroutine[Any, Any, None]]] = {
    "specialise_then_unify": specialise_then_unify,
    "base": lambda recipe, run: _base(recipe, run),
    "marl": lambda recipe, run: _marl(recipe, run),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    recipe: Recipe
    run: RunDir
    place: Workplace
    tasks: dict[str, dict[str, list[Task]]]  # domain -> split -> tasks
    watch: Watch

    def finish(self, stage: str, seconds: float, **summary: Any) -> None:
        """Mark a stage as finished, with what it took."""
        self.run.finish_stage(stage, {**summary, "seconds": round(seconds, 2), "peak_memory_gb": self.watch.peak_gb})

    def load(self, path: Path) -> PreTrainedModel:
        """Load a model for training or teaching."""
        return load_model(path, dtype=self.recipe.model.dtype, device=self.recipe.model.device)


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


async def _evaluate(job: _Job, name: str, path: Path, domains: Sequence[str]) -> None:
    """Measure the model directory `path` on the held-out tasks of `domains`, as stage ``evaluate/<name>``."""
    stage = f"evaluate/{name}"
    if job.run.stage_done(stage):
        return
    start_s = time.monotonic()
    config, place = job.recipe.eval, job.place
    tasks = [task for domain in domains for task in job.tasks[domain]["heldout"]]
    await place.serve(job.load(path))
    sampling = Sampling(max_tokens=place.max_tokens, temperature=config.temperature, seed=job.recipe.seed)
    with Progress(stage, len(tasks) * config.samples, "rollouts") as bar:
        result = await evaluate(
            tasks, pool=place.pool, samples=config.samples, sampling=sampling, on_done=shown_on(bar)
        )
    place.record(result.rollouts, stage=stage, step=0, model=name.split("-")[0])
    numbers = {f"pass_1/{domain}": score.pass_1 for domain, score in result.domains.items()}
    job.run.metrics(stage, 0, **numbers)
    job.finish(stage, time.monotonic() - start_s, **result.to_dict())


async def _specialise(job: _Job, domain: str) -> None:
    """Train the expert of one domain: demonstrations first, then reinforcement learning."""
    stages = job.recipe.stages
    start = job.place.model_dir
    if "sft" in stages:
        start = await _sft(job, domain, start)
        await _evaluate(job, f"sft-{domain}", start, [domain])
    if "rl" in stages:
        start = await _rl(job, domain, start)
        await _evaluate(job, f"expert-{domain}", start, [domain])


async def _sft(job: _Job, domain: str, start: Path) -> Path:
    name, target = f"sft/{domain}", model_dir(job.run, f"sft-{domain}")
    if job.run.stage_done(name):
        return target
    config, start_s = job.recipe.sft, time.monotonic()
    shown = job.tasks[domain]["train"][: config.demonstrations]
    samples = await demonstrations(job.run, domain, shown, job.place)
    shown_s = time.monotonic() - start_s
    stage = _stage(job, name, start, config, updates=config.steps(len(samples)))
    row = await sft(stage, samples, config)
    save_model(stage.model, start, target)
    job.finish(name, shown_s + stage.seconds, steps=stage.step, demonstrations=len(samples), loss=row.get("loss"))
    return target


async def _rl(job: _Job, domain: str, start: Path) -> Path:
    name, target = f"rl/{domain}", model_dir(job.run, f"expert-{domain}")
    if job.run.stage_done(name):
        return target
    config = job.recipe.rl
    stage = _stage(job, name, start, config, updates=config.updates)
    row = await on_policy(
        stage,
        job.place,
        _not_shown(job, domain),
        config,
        lambda rollouts: fill_outcomes(
            rollouts,
            config.baseline,
            negative=config.negative,
            shared=config.shared,
            scale=config.advantage_scale,
        ),
        model_name="expert",
        reference=job.load(start) if config.reference_kl else None,
    )
    save_model(stage.model, start, target)
    job.finish(name, stage.seconds, steps=stage.step, success=row.get("success"))
    return target


def _not_shown(job: _Job, domain: str) -> list[Task]:
    """Return the training tasks that nobody demonstrated, if there are any: those shown are known by heart."""
    tasks = job.tasks[domain]["train"]
    if "sft" not in job.recipe.stages or job.recipe.sft.demonstrations is None:
        return tasks
    return tasks[job.recipe.sft.demonstrations :] or tasks


async def _unify(job: _Job) -> None:
    """Distil the experts of all domains into one student that starts from the base."""
    if "distil" not in job.recipe.stages:
        return
    run, config, start, target = job.run, job.recipe.distil, job.place.model_dir, model_dir(job.run, "student")
    if not run.stage_done("distil"):
        teachers = {domain: _teacher(job, domain) for domain in job.recipe.domains}
        check_renderers(job.place.renderer, teachers)
        warm = await _cold_start(job, start)
        models = {domain: job.load(path) for domain, path in teachers.items()}
        trust = await asyncio.to_thread(_calibrated, job, models) if config.choose == "by_evidence" else None
        stage = _stage(job, "distil", warm, config, updates=config.updates)
        alike = all(type(teacher) is type(stage.model) for teacher in models.values())  # what the self-check stands for
        row = await on_policy(
            stage,
            job.place,
            _mixed([job.tasks[domain]["train"] for domain in job.recipe.domains]),
            config,
            lambda rollouts: fill_distillation(
                rollouts, models, config, student=stage.model, trust=trust, tree=stage.tree and alike
            ),
            model_name="student",
            reference=job.load(start) if config.reference_kl else None,
        )
        save_model(stage.model, start, target)
        job.finish("distil", stage.seconds, steps=stage.step, success=row.get("success"))
    await _evaluate(job, "student", target, job.recipe.domains)


def _calibrated(job: _Job, teachers: Mapping[str, PreTrainedModel]) -> Trust:
    """Learn how to read the teachers from what each expert solved early in its reinforcement learning."""
    names = sorted(teachers)
    turns: list[tuple[int, np.ndarray]] = []
    for label, domain in enumerate(names):
        solved = solved_samples(job.run, domain, after=0, until=max(job.recipe.rl.steps // 2, 1))[:_CALIBRATION]
        budget = job.recipe.distil.token_budget
        scores = [score_samples(teachers[name], solved, budget, tree=False) for name in names]
        for sample, *own in zip(solved, *scores, strict=True):
            turns.append((label, turn_logprobs(sample, np.stack(own, 1))))
    if len({label for label, _ in turns}) < len(names):
        missing = [name for label, name in enumerate(names) if label not in {known for known, _ in turns}]
        raise UserError(
            f"distil.choose = by_evidence learns from rollouts that the experts solved, and there are none of "
            f"{', '.join(missing)} in this run; set distil.choose = by_domain"
        )
    return calibrate(turns)


async def _cold_start(job: _Job, start: Path) -> Path:
    """Let the student imitate what the experts solved while they learned, so that it meets their states at all."""
    name, target = "cold_start", model_dir(job.run, "cold-start")
    if job.run.stage_done(name):
        return target
    config = job.recipe.sft.model_copy(update={"epochs": job.recipe.distil.cold_start})
    samples = cold_start_samples(job.run, job.recipe) if job.recipe.distil.cold_start else []
    if not samples:
        return start
    stage = _stage(job, name, start, config, updates=config.steps(len(samples)))
    row = await sft(stage, samples, config)
    save_model(stage.model, start, target)
    job.finish(name, stage.seconds, steps=stage.step, trajectories=len(samples), loss=row.get("loss"))
    return target


def _stage(job: _Job, name: str, start: Path, config: SftConfig | OnPolicyConfig, *, updates: int) -> Stage:
    """Return a stage that trains the model at `start`."""
    return Stage(
        job.run,
        name,
        job.load(start),
        config.optim,
        updates=updates,
        seed=job.recipe.seed,
        checkpoint_every=config.checkpoint_every,
        way=job.recipe.train,
    )


def _teacher(job: _Job, domain: str) -> Path:
    """Return the model that teaches a domain: the recipe's own choice, else the furthest this run has trained."""
    if domain in job.recipe.distil.teachers:
        return Path(job.recipe.distil.teachers[domain])
    for name in (f"expert-{domain}", f"sft-{domain}"):
        if model_dir(job.run, name).is_dir():
            return model_dir(job.run, name)
    raise UserError(f"nobody teaches {domain}: name a model in distil.teachers.{domain}, or run the stages sft and rl")


def _mixed(lists: Sequence[Sequence[Task]]) -> list[Task]:
    """Return the tasks of all domains."""
    return [task for tasks in lists for task in tasks]


def _report(job: _Job) -> None:
    start_s = time.monotonic()
    summary = write_summary(job.recipe, job.run)
    path = write_report(job.run.path)
    to_png(overview_figure(load_run(job.run.path)), job.run.path / "result.png")
    job.finish("report", time.monotonic() - start_s)
    console = Console()
    console.print(as_rich(headline(summary["domains"])))
    console.print(f"report: {path}", highlight=False)
