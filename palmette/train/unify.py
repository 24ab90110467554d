"""One student of all experts: a cold start on what they solved, then distillation on its own rollouts."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from palmette.chat.template import Renderer
from palmette.errors import UserError
from palmette.model.load import check_model_dir, resolve_model, save_model
from palmette.train.average import averaged, check_alike
from palmette.train.distil import DistilConfig, check_renderers, fill_distillation
from palmette.train.job import Job, evaluate_model, new_stage, teacher_of
from palmette.train.material import cold_start_samples, solved_samples
from palmette.train.onpolicy import on_policy
from palmette.train.recipe import Recipe
from palmette.train.samples import Sample
from palmette.train.score import score_samples
from palmette.train.sft import SftConfig, sft
from palmette.train.stage import model_dir
from palmette.train.trust import Trust, calibrate, turn_logprobs

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_CALIBRATION = 64  # rollouts of each expert


async def unify(job: Job) -> None:
    """Distil the experts of all domains into one student, and measure it."""
    if "distil" in job.recipe.stages:
        target = await distilled(job, "distil", "student", job.recipe.distil)
        await evaluate_model(job, "student", target, job.recipe.domains)


def check_teachers(recipe: Recipe, base: Path, student: Renderer) -> None:
    """Refuse, before anything runs, teachers that the recipe names and its student cannot learn from.

    Raises `UserError` for a directory that is no model, one with another tokenizer or template, and for one that has no
    mean with the others where a mean is asked for.
    """
    named = {domain: resolve_model(path) for domain, path in recipe.distil.teachers.items()}
    for path in named.values():
        check_model_dir(path)
    check_renderers(student, named)
    if recipe.distil.start == "average" or "average" in recipe.baselines:
        check_alike([named.get(domain, base) for domain in recipe.domains])


async def distilled(job: Job, name: str, model: str, config: DistilConfig) -> Path:
    """Distil the experts as `config` says, as stage `name`, and return the directory of the student, called `model`."""
    run, target = job.run, model_dir(job.run, model)
    if run.stage_done(name):
        return target
    teachers = {domain: teacher_of(job, domain) for domain in job.recipe.domains}
    check_renderers(job.place.renderer, teachers)
    start = await averaged(job) if config.start == "average" else job.place.model_dir
    warm = await _cold_start(job, start)
    models = {domain: job.load(path) for domain, path in teachers.items()}
    trust = await asyncio.to_thread(_calibrated, job, models) if config.choose == "by_evidence" else None
    stage = new_stage(job, name, warm, config, updates=config.updates)
    alike = all(type(teacher) is type(stage.model) for teacher in models.values())  # what the self-check stands for
    row = await on_policy(
        stage,
        job.place,
        job.training_tasks(),
        config,
        lambda rollouts: fill_distillation(
            rollouts, models, config, student=stage.model, trust=trust, tree=stage.tree and alike
        ),
        model_name=model,
        reference=job.load(start) if config.reference_kl else None,
    )
    save_model(stage.model, start, target)
    job.finish(name, stage.seconds, steps=stage.step, success=row.get("success"))
    return target


def _calibrated(job: Job, teachers: Mapping[str, PreTrainedModel]) -> Trust:
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


async def _cold_start(job: Job, start: Path) -> Path:
    """Let the student imitate what the experts solved while they learned, so that it meets their states at all."""
    name, target = "cold_start", model_dir(job.run, "cold-start")
    if job.run.stage_done(name):
        return target
    config = job.recipe.sft.model_copy(update={"epochs": job.recipe.distil.cold_start})
    samples = cold_start_samples(job.run, job.recipe) if job.recipe.distil.cold_start else []
    if not samples:
        return start
    return await imitate(job, name, start, target, samples, config)


async def imitate(job: Job, name: str, start: Path, target: Path, samples: Sequence[Sample], config: SftConfig) -> Path:
    """Train a model on what the experts solved, as stage `name`, and return where it was saved."""
    stage = new_stage(job, name, start, config, updates=config.steps(len(samples)))
    row = await sft(stage, samples, config)
    save_model(stage.model, start, target)
    job.finish(name, stage.seconds, steps=stage.step, trajectories=len(samples), loss=row.get("loss"))
    return target
