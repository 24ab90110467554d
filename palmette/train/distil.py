"""Unification: the student samples, and the task's teacher says token by token what it would have thought of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator

from palmette.chat.template import Renderer
from palmette.errors import UserError
from palmette.rollout.run import Rollout
from palmette.train.credit import group_credit
from palmette.train.losses import distillation_advantage
from palmette.train.onpolicy import Filled
from palmette.train.optim import OptimConfig
from palmette.train.policy import OnPolicyConfig
from palmette.train.rl import with_advantage
from palmette.train.samples import Sample, from_tree
from palmette.train.score import score_samples

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class DistilConfig(OnPolicyConfig):
    """On-policy distillation from the experts, joined with the outcome advantage."""

    weight: float = Field(default=1.0, ge=0, description="lambda: weight of the teacher's opinion")
    limit: float = Field(default=5.0, gt=0, description="bound on |log student - log teacher| of a token, in nats")
    rl_weight: float = Field(default=0.5, ge=0, description="weight of the outcome advantage; 0 needs no reward")
    choose: Literal["by_domain"] = Field(default="by_domain", description="which teacher: that of the task's domain")
    teachers: dict[str, str] = Field(
        default_factory=dict, description="domain -> model directory, instead of this run's own experts"
    )
    optim: OptimConfig = Field(default_factory=lambda: OptimConfig(lr=3e-4), description="how weights move")
    cold_start: float = Field(
        default=1.0, ge=0, description="passes over the experts' own solved rollouts before the student samples"
    )

    @model_validator(mode="after")
    def _somebody_teaches(self) -> Self:
        if self.weight == 0 and self.rl_weight == 0:
            raise ValueError("weight and rl_weight are both 0: nothing would be learned")
        if self.samples == 1 and self.rl_weight > 0 and self.baseline != "none":
            raise ValueError(
                f"baseline = {self.baseline} compares the rollouts of a group, but samples = 1: "
                "set samples to 2 or more, or rl_weight = 0"
            )
        return self


def fill_distillation(
    rollouts: Sequence[Rollout], teachers: Mapping[str, PreTrainedModel], config: DistilConfig, *, tree: bool = True
) -> Filled:
    """Set A_t = rl_weight A_outcome - weight (log pi_student - log pi_teacher) on the student's own tokens.

    Each teacher scores all rollouts of its domain, as a tree or batch by batch. Raises `ValueError` for a rollout of a
    domain without teacher.
    """
    credit = group_credit(rollouts, config.baseline, negative=config.negative)
    samples: list[Sample] = []
    owners: list[Rollout] = []
    for rollout, advantage, trainable in zip(rollouts, credit.advantage_R, credit.trainable_R, strict=True):
        if trainable:
            made = [
                with_advantage(s, config.rl_weight * float(advantage))
                for s in from_tree(rollout.tree, shared=config.shared)
            ]
            samples += made
            owners += [rollout] * len(made)
    gaps: list[np.ndarray] = []
    for domain in sorted({owner.domain for owner in owners}):
        if domain not in teachers:
            raise ValueError(f"no teacher for domain '{domain}'")
        indices = [i for i, owner in enumerate(owners) if owner.domain == domain]
        scores = score_samples(teachers[domain], [samples[i] for i in indices], config.token_budget, tree=tree)
        for index, score_T in zip(indices, scores, strict=True):
            samples[index] = _joined(samples[index], score_T, config)
            gaps.append((samples[index].old_logprob_T - score_T)[samples[index].sampled_T])
    gap = np.concatenate(gaps) if gaps else np.zeros(1)
    metrics = {
        "silent_groups": credit.silent_share,
        "teacher_kl": float(gap.mean()),  # KL(student, teacher) a token, nats, on the student's own tokens
        "teacher_clipped": float((np.abs(gap) > config.limit).mean()),
    }
    return Filled(samples=samples, rollouts=owners, metrics=metrics)


def check_renderers(student: Renderer, teachers: Mapping[str, Path]) -> None:
    """Refuse teachers whose tokenizer or template differs from the student's: their scores would mean nothing.

    Raises `UserError` naming the teacher.
    """
    for domain, path in teachers.items():
        if Renderer.from_dir(path).hash != student.hash:
            raise UserError(
                f"the {domain} teacher {path} has another tokenizer or chat template than the student; "
                "distil between models that share both"
            )


def _joined(sample: Sample, teacher_logprob_T: np.ndarray, config: DistilConfig) -> Sample:
    distilled = distillation_advantage(
        torch.from_numpy(np.asarray(sample.old_logprob_T, np.float32)),
        torch.from_numpy(teacher_logprob_T),
        weight=config.weight,
        limit=config.limit,
    )
    advantage_T = sample.advantage_T + np.where(sample.sampled_T, distilled.numpy(), 0).astype(np.float32)
    return replace(sample, advantage_T=advantage_T, teacher_logprob_T=teacher_logprob_T)
