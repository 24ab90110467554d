"""One expert: demonstrations of its domain first, then reinforcement learning in sandboxes."""

from __future__ import annotations

import time
from pathlib import Path

from palmette.envs.api import Task
from palmette.model.load import save_model
from palmette.train.job import ELSEWHERE, Job, evaluate_model, new_stage
from palmette.train.material import demonstrations
from palmette.train.onpolicy import on_policy
from palmette.train.recordings import recorded_samples
from palmette.train.rl import fill_outcomes
from palmette.train.sft import sft
from palmette.train.stage import model_dir


async def specialise(job: Job, domain: str) -> None:
    """Train the expert of one domain: demonstrations first, then reinforcement learning."""
    stages = job.recipe.stages
    start = job.place.model_dir
    if "sft" in stages:
        start = await _sft(job, domain, start)
        await evaluate_model(job, f"sft-{domain}", start, [domain])
    if "rl" in stages:
        start = await _rl(job, domain, start)
        await evaluate_model(job, f"expert-{domain}", start, [domain])
        others = [other for other in job.recipe.domains if other != domain]
        if job.recipe.eval.experts_everywhere and others:
            await evaluate_model(job, f"{ELSEWHERE}-{domain}", start, others)


async def _sft(job: Job, domain: str, start: Path) -> Path:
    name, target = f"sft/{domain}", model_dir(job.run, f"sft-{domain}")
    if job.run.stage_done(name):
        return target
    config, start_s = job.recipe.sft, time.monotonic()
    shown = job.tasks[domain]["train"][: config.demonstrations]
    samples = await demonstrations(job.run, domain, shown, job.place, job.recipe.sft.intents)
    recorded, too_long = recorded_samples(config, job.place.renderer, job.place.engine.context_tokens)
    samples += recorded
    shown_s = time.monotonic() - start_s
    stage = new_stage(job, name, start, config, updates=config.steps(len(samples)))
    row = await sft(stage, samples, config)
    save_model(stage.model, start, target)
    told = {"recorded": len(recorded), "too_long": too_long} if config.recordings else {}
    job.finish(
        name, shown_s + stage.seconds, steps=stage.step, demonstrations=len(samples), loss=row.get("loss"), **told
    )
    return target


async def _rl(job: Job, domain: str, start: Path) -> Path:
    name, target = f"rl/{domain}", model_dir(job.run, f"expert-{domain}")
    if job.run.stage_done(name):
        return target
    config = job.recipe.rl
    stage = new_stage(job, name, start, config, updates=config.updates)
    row = await on_policy(
        stage,
        job.place,
        _not_shown(job, domain),
        config,
        lambda rollouts: fill_outcomes(rollouts, config),
        model_name="expert",
        reference=job.load(start) if config.reference_kl else None,
    )
    save_model(stage.model, start, target)
    job.finish(name, stage.seconds, steps=stage.step, success=row.get("success"))
    return target


def _not_shown(job: Job, domain: str) -> list[Task]:
    """Return the training tasks that nobody demonstrated, if there are any: those shown are known by heart."""
    tasks = job.tasks[domain]["train"]
    if "sft" not in job.recipe.stages or job.recipe.sft.demonstrations is None:
        return tasks
    return tasks[job.recipe.sft.demonstrations :] or tasks
