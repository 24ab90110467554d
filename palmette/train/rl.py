"""Reinforcement learning in sandboxes: the verifier's rewards fill the arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Self

import numpy as np
from pydantic import model_validator

from palmette.rollout.run import Rollout
from palmette.train.credit import group_credit, scales
from palmette.train.onpolicy import Filled
from palmette.train.policy import OnPolicyConfig
from palmette.train.samples import Sample, from_tree


class RlConfig(OnPolicyConfig):
    """Policy gradient on the verifier's rewards."""

    @model_validator(mode="after")
    def _group_has_a_baseline(self) -> Self:
        if self.samples == 1 and self.baseline != "none":
            raise ValueError(
                f"baseline = {self.baseline} compares the rollouts of a group, but samples = 1: "
                "set samples to 2 or more, or baseline = none"
            )
        return self


def fill_outcomes(rollouts: Sequence[Rollout], config: OnPolicyConfig) -> Filled:
    """Give every token of a rollout the group-normalised advantage of its outcome.

    Rollouts without an advantage (a group of equal rewards, an infrastructure failure) are left out: they change no
    gradient, not even through the normalisation.
    """
    credit = group_credit(rollouts, config.baseline, negative=config.negative)
    entropy_R = np.array([_entropy(rollout) for rollout in rollouts])
    advantage_R = credit.advantage_R * scales(rollouts, entropy_R, config.advantage_scale)
    samples: list[Sample] = []
    owners: list[Rollout] = []
    for rollout, advantage, trainable in zip(rollouts, advantage_R, credit.trainable_R, strict=True):
        if trainable and advantage:
            branches = from_tree(rollout.tree, shared=config.shared)
            made = [with_advantage(sample, float(advantage)) for sample in branches]
            samples += made
            owners += [rollout] * len(made)
    return Filled(samples=samples, rollouts=owners, metrics={"silent_groups": credit.silent_share})


def with_advantage(sample: Sample, advantage: float) -> Sample:
    """Return the sample with `advantage` on every sampled token."""
    return replace(sample, advantage_T=np.where(sample.sampled_T, advantage, 0).astype(np.float32))


def _entropy(rollout: Rollout) -> float:
    """Return the policy entropy of a rollout in nats a token, as its own samples estimate it."""
    nodes = rollout.tree.nodes()
    logprob_T = np.concatenate([rollout.tree.node(n).logprob[rollout.tree.sampled(n)] for n in nodes] or [np.zeros(0)])
    return float(-logprob_T.mean()) if len(logprob_T) else 0.0
