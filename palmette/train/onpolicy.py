"""The on-policy loop: sample rollouts, let somebody fill the arrays, update, serve the new weights.

Reinforcement learning and distillation are this loop with different fillers (`palmette.train.rl`,
`palmette.train.distil`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from palmette.envs.api import Task
from palmette.evaluate.metrics import PASS
from palmette.progress import Progress
from palmette.rollout.run import Rollout
from palmette.train.draws import Draws, by_engine
from palmette.train.explore import explore
from palmette.train.old import by_trainer, with_old
from palmette.train.policy import OnPolicyConfig, PolicyObjective
from palmette.train.samples import Sample, to_tree
from palmette.train.score import score_samples
from palmette.train.stage import Stage
from palmette.train.workplace import Workplace

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Filled:
    """What a filler made of the rollouts of one step: samples ready to train on, the tree each is of, and numbers."""

    samples: list[Sample]
    rollouts: list[Rollout]  # one a sample
    metrics: dict[str, float]


Fill = Callable[[Sequence[Rollout]], Filled]
"""Turns rollouts into samples with advantages; runs in a thread."""


async def on_policy(
    stage: Stage,
    place: Workplace,
    tasks: Sequence[Task],
    config: OnPolicyConfig,
    fill: Fill,
    *,
    model_name: str,
    reference: PreTrainedModel | None = None,
) -> dict[str, Any]:
    """Do all steps that are left and return the last step's metrics. Raises `ValueError` without tasks."""
    row: dict[str, Any] = {}
    inference = config.draws.engine == "inference"
    draws = Draws(
        by_engine(place.engine) if inference else by_trainer(stage, config.token_budget), config.draws, stage.seed
    )
    try:
        with Progress(stage.name, config.steps, "steps", done=stage.step) as bar, stage.kept():
            await place.serve(stage.model, after=stage.version)
            bands = place.bands(stage)
            while stage.step < config.steps:
                rollouts, per_s = await explore(stage, place, tasks, config, bar, draws, bands)
                filled = await stage.work(lambda rollouts=rollouts: fill(rollouts))
                samples, measured = await with_old(stage, filled.samples, config, draws)
                if reference is not None:
                    samples = await stage.work(
                        lambda samples=samples: _with_reference(stage, samples, config, reference)
                    )
                for rollout, sample in zip(filled.rollouts, samples, strict=True):
                    to_tree(rollout.tree, sample)
                place.record(rollouts, stage=stage.name, step=stage.step + 1, model=model_name)
                row = await stage.advance(
                    lambda rng, samples=samples, owners=filled.rollouts: _parts(samples, owners, config, rng),
                    PolicyObjective(config),
                    token_budget=config.token_budget,
                    numbers={
                        **_outcomes(rollouts),
                        **(bands.shares(tasks, stage.step + 1) if bands else {}),
                        **filled.metrics,
                        **measured,
                        "sampled_tokens_per_s": per_s,
                    },
                    version=place.engine.version + 1,
                    store_offset=place.recorded,
                )
                await place.serve(stage.model)
                bar.update(1, **{name: row[name] for name in ("success", "kl") if row.get(name) is not None})
    finally:
        await draws.close()
    return row


def _with_reference(
    stage: Stage, samples: Sequence[Sample], config: OnPolicyConfig, reference: PreTrainedModel
) -> list[Sample]:
    scores = score_samples(reference, samples, config.token_budget, tree=stage.tree)
    return [replace(s, reference_logprob_T=score_T) for s, score_T in zip(samples, scores, strict=True)]


def _parts(
    samples: Sequence[Sample], owners: Sequence[Rollout], config: OnPolicyConfig, generator: np.random.Generator
) -> list[list[Sample]]:
    """Split the samples of a step into the minibatches of its epochs, shuffled anew in each.

    The samples of a task stay together: they share most of their tokens. Where minibatches are `stratified`, each has
    about as many groups of any length as the next.
    """
    group_S = np.array([owner.group for owner in owners], int)
    groups = np.unique(group_S)
    lengths: Counter[int] = Counter()
    for sample, owner in zip(samples, owners, strict=True):
        lengths[owner.group] += len(sample.token_ids_T)
    parts: list[list[Sample]] = []
    for _ in range(config.epochs):
        shuffled = generator.permutation(groups)
        for part in _split(shuffled, lengths if config.stratified else None, config.minibatches, generator):
            parts.append([samples[i] for i in np.flatnonzero(np.isin(group_S, part)).tolist()])
    return parts


def _split(
    groups: np.ndarray, lengths: Mapping[int, int] | None, minibatches: int, generator: np.random.Generator
) -> list[np.ndarray]:
    """Return the groups of each minibatch: by length one of each run of `minibatches` neighbours, who by chance."""
    if lengths is None:
        return np.array_split(groups, minibatches)
    ordered = sorted(groups.tolist(), key=lambda group: lengths[group])  # stable: of equals as they were shuffled
    parts: list[list[int]] = [[] for _ in range(minibatches)]
    for start in range(0, len(ordered), minibatches):
        run = ordered[start : start + minibatches]
        for group, place in zip(run, generator.permutation(minibatches), strict=False):
            parts[place].append(group)
    return [np.array(part, int) for part in parts]


def _outcomes(rollouts: Sequence[Rollout]) -> dict[str, Any]:
    """Return what the rollouts say about the policy; rollouts that nobody can trust are counted apart."""
    rewards = [r.reward for r in rollouts if r.reward is not None]
    return {
        "success": sum(reward >= PASS for reward in rewards) / len(rewards) if rewards else None,
        "reward": sum(rewards) / len(rewards) if rewards else None,
        "rollouts": len(rollouts),
        "excluded": len(rollouts) - len(rewards),
        "turns": sum(r.turns for r in rollouts) / max(len(rollouts), 1),
    }
