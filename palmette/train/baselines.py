"""What one would do instead: average the experts, imitate them, train one model on all, or ask other teachers."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Literal

from palmette.errors import UserError
from palmette.model.load import save_model
from palmette.train.average import averaged
from palmette.train.job import Job, evaluate_model, new_stage
from palmette.train.material import cold_start_samples
from palmette.train.onpolicy import on_policy
from palmette.train.recipe import Recipe
from palmette.train.rl import fill_outcomes
from palmette.train.stage import model_dir
from palmette.train.unify import distilled, imitate


async def compare(job: Job) -> None:
    """Make and measure every model that ``baselines`` names."""
    for name in job.recipe.baselines:
        await evaluate_model(job, name, await _MAKE[name](job), job.recipe.domains)


def mixed_steps(recipe: Recipe) -> int:
    """Return the steps of RL on the mixture that have as many rollouts as the experts and their student together."""
    rl, distil = recipe.rl, recipe.distil
    last = distil.steps * distil.groups * distil.samples if "distil" in recipe.stages else 0
    return rl.steps * len(recipe.domains) + math.ceil(last / (rl.groups * rl.samples))


async def _offline_sft(job: Job) -> Path:
    """Return the base trained on what the experts solved while they learned, as long as an expert on demonstrations."""
    target = model_dir(job.run, "offline_sft")
    if job.run.stage_done("offline_sft"):
        return target
    samples = cold_start_samples(job.run, job.recipe)
    if not samples:
        raise UserError("the experts of this run solved nothing to imitate; leave offline_sft out of baselines")
    return await imitate(job, "offline_sft", job.place.model_dir, target, samples, job.recipe.sft)


async def _mixed_rl(job: Job) -> Path:
    """Return the base after RL on all domains at once, with as many rollouts as all experts and their student had."""
    target, start = model_dir(job.run, "mixed_rl"), job.place.model_dir
    if job.run.stage_done("mixed_rl"):
        return target
    config = job.recipe.rl.model_copy(update={"steps": mixed_steps(job.recipe)})
    stage = new_stage(job, "mixed_rl", start, config, updates=config.updates)
    row = await on_policy(
        stage,
        job.place,
        job.training_tasks(),
        config,
        lambda rollouts: fill_outcomes(rollouts, config),
        model_name="mixed_rl",
        reference=job.load(start) if config.reference_kl else None,
    )
    save_model(stage.model, start, target)
    job.finish("mixed_rl", stage.seconds, steps=stage.step, success=row.get("success"))
    return target


async def _other_student(job: Job, choose: Literal["by_domain", "by_evidence"]) -> Path:
    """Return a student that differs from the recipe's in how it chooses its teachers."""
    config = job.recipe.distil.model_copy(update={"choose": choose})
    return await distilled(job, f"distil/{choose}", choose, config)


_MAKE: dict[str, Callable[[Job], Awaitable[Path]]] = {
    "average": averaged,
    "offline_sft": _offline_sft,
    "mixed_rl": _mixed_rl,
    "by_domain": lambda job: _other_student(job, "by_domain"),
    "by_evidence": lambda job: _other_student(job, "by_evidence"),
}
