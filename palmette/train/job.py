"""What all parts of a pipeline share: recipe, run, workplace and tasks; how a model is trained and measured."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palmette.engine.api import Sampling
from palmette.envs.api import Task
from palmette.errors import UserError
from palmette.evaluate.run import Evaluation, evaluate, shown_on
from palmette.model.load import load_model, resolve_model
from palmette.progress import Progress
from palmette.rollout.casting import Casting, cast
from palmette.run import RunDir
from palmette.train.memory import Watch
from palmette.train.policy import OnPolicyConfig
from palmette.train.recipe import Recipe
from palmette.train.sft import SftConfig
from palmette.train.stage import Stage, model_dir
from palmette.train.workplace import Workplace

if TYPE_CHECKING:
    from transformers import PreTrainedModel


ELSEWHERE = "elsewhere"
"""What an expert is called where it is measured on other domains than its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run of a recipe, opened."""

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

    def training_tasks(self) -> list[Task]:
        """Return the training tasks of all domains."""
        return [task for domain in self.recipe.domains for task in self.tasks[domain]["train"]]


def new_stage(job: Job, name: str, start: Path, config: SftConfig | OnPolicyConfig, *, updates: int) -> Stage:
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


def teacher_of(job: Job, domain: str) -> Path:
    """Return the model that teaches a domain: the recipe's own choice, else the furthest this run has trained."""
    if domain in job.recipe.distil.teachers:
        return resolve_model(job.recipe.distil.teachers[domain])
    for name in (f"expert-{domain}", f"sft-{domain}"):
        if model_dir(job.run, name).is_dir():
            return model_dir(job.run, name)
    raise UserError(f"nobody teaches {domain}: name a model in distil.teachers.{domain}, or run the stages sft and rl")


async def evaluate_model(job: Job, name: str, path: Path, domains: Sequence[str]) -> None:
    """Measure the model directory `path` on the held-out tasks of `domains`, as stage ``evaluate/<name>``.

    First as training told and drove tasks (or by the recipe's ``eval.scaffold``), then in every phrasing and by every
    scaffold that ``eval`` names; what these scored stands under ``axes`` in the stage's summary.
    """
    stage = f"evaluate/{name}"
    if job.run.stage_done(stage):
        return
    start_s = time.monotonic()
    config, place = job.recipe.eval, job.place
    tasks = [task for domain in domains for task in job.tasks[domain]["heldout"]]
    await place.serve(job.load(path))
    result = await _measure(job, name, stage, tasks, cast(place.crew, by=config.scaffold))
    axes: dict[str, dict[str, Any]] = {}
    for level in config.intents:
        found = await _measure(
            job, name, f"{stage}/{level}", tasks, cast(place.crew, intents=[level], by=config.scaffold)
        )
        axes.setdefault("intent", {})[level] = found.to_dict()["domains"]
    for scaffold in config.scaffolds:
        found = await _measure(job, name, f"{stage}/{scaffold}", tasks, cast(place.crew, by=scaffold))
        axes.setdefault("scaffold", {})[scaffold] = found.to_dict()["domains"]
    numbers = {f"pass_1/{domain}": score.pass_1 for domain, score in result.domains.items()}
    job.run.metrics(stage, 0, **numbers)
    job.finish(stage, time.monotonic() - start_s, **result.to_dict(), axes=axes)


async def _measure(job: Job, name: str, stage: str, tasks: Sequence[Task], casting: Casting) -> Evaluation:
    config, place = job.recipe.eval, job.place
    sampling = Sampling(max_tokens=place.max_tokens, temperature=config.temperature, seed=job.recipe.seed)
    with Progress(stage, len(tasks) * config.samples, "rollouts") as bar:
        result = await evaluate(
            tasks, pool=place.pool, samples=config.samples, sampling=sampling, on_done=shown_on(bar), casting=casting
        )
    place.record(result.rollouts, stage=stage, step=0, model=name.split("-")[0])
    return result
