"""Unification: the student samples, and the task's teacher says token by token what it would have thought of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator

from palmette.chat.template import Renderer
from palmette.errors import UserError
from palmette.rollout.run import Rollout
from palmette.train.credit import group_credit
from palmette.train.drift import drift_weights, overlap
from palmette.train.losses import distillation_advantage
from palmette.train.onpolicy import Filled
from palmette.train.optim import OptimConfig
from palmette.train.policy import OnPolicyConfig
from palmette.train.rl import with_advantage
from palmette.train.samples import Sample, from_tree
from palmette.train.score import Sight, see
from palmette.train.trust import Trust, turn_logprobs

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class DistilConfig(OnPolicyConfig):
    """On-policy distillation from the experts, joined with the outcome advantage."""

    stratified: bool = Field(default=True, description="minibatches are alike in the lengths of their groups")
    weight: float = Field(default=1.0, ge=0, description="lambda: weight of the teacher's opinion")
    limit: float = Field(default=5.0, gt=0, description="bound on |log student - log teacher| of a token, in nats")
    rl_weight: float = Field(default=0.5, ge=0, description="weight of the outcome advantage; 0 needs no reward")
    form: Literal["policy", "top_k"] = Field(
        default="policy", description="advantage on the sampled tokens, or reverse KL over the student's likeliest ones"
    )
    top_k: int = Field(default=16, ge=1, description="likeliest tokens compared, for form = top_k and for drift")
    drift_weight: float = Field(
        default=0.0, ge=0, description="power of the share of top_k that teacher and student have in common, as weight"
    )
    drift_below: float = Field(default=0.0, ge=0, le=1, description="share in common below which a token has drifted")
    drift_run: int = Field(default=8, ge=1, description="drifted tokens in a row that end what a teacher says")
    choose: Literal["by_domain", "by_evidence"] = Field(
        default="by_domain", description="which teacher: that of the task's domain, or who finds the turns likeliest"
    )
    teachers: dict[str, str] = Field(
        default_factory=dict, description="domain -> model directory, instead of this run's own experts"
    )
    start: Literal["base", "average"] = Field(
        default="base", description="what the student starts from: the base, or the mean of the experts' weights"
    )
    optim: OptimConfig = Field(default_factory=lambda: OptimConfig(lr=3e-4), description="how weights move")
    cold_start: float = Field(
        default=1.0, ge=0, description="passes over the experts' own solved rollouts before the student samples"
    )

    @property
    def compares(self) -> bool:
        """Whether the likeliest tokens of teacher and student are needed."""
        return self.form == "top_k" or self.drift_weight > 0 or self.drift_below > 0

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
    rollouts: Sequence[Rollout],
    teachers: Mapping[str, PreTrainedModel],
    config: DistilConfig,
    *,
    student: PreTrainedModel | None = None,
    trust: Trust | None = None,
    tree: bool = True,
) -> Filled:
    """Give every sampled token the outcome's advantage and what a teacher thinks of it.

    ``form = policy``: A_t = rl_weight A_outcome - weight w_t (log pi_student - log pi_teacher). ``top_k``: the
    teacher's log-probs of the student's likeliest tokens, and the weight of their divergence in the loss. w_t is 1,
    less where teacher and student have drifted apart, and with `trust` (``choose = by_evidence``) less what stays
    uncertain about whose rollout it is. Each teacher scores all rollouts that it teaches, or with `trust` all, as a
    tree or batch by batch. `student` is needed where likeliest tokens are compared. Raises `ValueError` for a rollout
    of a domain without teacher.
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
    if config.compares:
        assert student is not None, "likeliest tokens are the student's"
        seen = see(student, samples, config.token_budget, tree=tree, top=config.top_k)
        samples = [replace(s, top_ids_TK=sight.top_ids_TK) for s, sight in zip(samples, seen, strict=True)]
    words = _by_evidence(samples, teachers, trust, config, tree) if trust else None
    words = words or _by_domain(samples, owners, teachers, config, tree)
    told = [_told(sample, word, config) for sample, word in zip(samples, words, strict=True)]
    metrics = {"silent_groups": credit.silent_share, **_numbers(told, words, owners, teachers, config)}
    return Filled(samples=told, rollouts=owners, metrics=metrics)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Word:
    """What the chosen teacher thinks of a sample, and how far it is believed."""

    teacher: str
    sight: Sight
    trust: float = 1.0


def _by_domain(
    samples: Sequence[Sample],
    owners: Sequence[Rollout],
    teachers: Mapping[str, PreTrainedModel],
    config: DistilConfig,
    tree: bool,
) -> list[_Word]:
    words: dict[int, _Word] = {}
    for domain in sorted({owner.domain for owner in owners}):
        if domain not in teachers:
            raise ValueError(f"no teacher for domain '{domain}'")
        indices = [i for i, owner in enumerate(owners) if owner.domain == domain]
        sights = _ask(teachers[domain], [samples[i] for i in indices], config, tree)
        words |= {i: _Word(teacher=domain, sight=sight) for i, sight in zip(indices, sights, strict=True)}
    return [words[i] for i in range(len(samples))]


def _by_evidence(
    samples: Sequence[Sample],
    teachers: Mapping[str, PreTrainedModel],
    trust: Trust,
    config: DistilConfig,
    tree: bool,
) -> list[_Word]:
    """Every teacher scores everything; the one believed most speaks, as loud as it is certain that somebody knows."""
    names = sorted(teachers)
    sights = [_ask(teachers[name], samples, config, tree) for name in names]
    words: list[_Word] = []
    for sample, *own in zip(samples, *sights, strict=True):
        logprob_TJ = np.stack([sight.logprob_T for sight in own], 1)
        belief_J, uncertainty = trust.believe(turn_logprobs(sample, logprob_TJ))
        best = int(belief_J.argmax())
        words.append(_Word(teacher=names[best], sight=own[best], trust=1 - uncertainty))
    return words


def _ask(model: PreTrainedModel, samples: Sequence[Sample], config: DistilConfig, tree: bool) -> list[Sight]:
    top = config.top_k if config.drift_weight or config.drift_below else 0
    return see(model, samples, config.token_budget, tree=tree, top=top)


def _told(sample: Sample, word: _Word, config: DistilConfig) -> Sample:
    """Return the sample with what the teacher says of it."""
    rho_T = _overlap(sample, word)
    drift_T = drift_weights(
        rho_T, sample.sampled_T, power=config.drift_weight, below=config.drift_below, run=config.drift_run
    )
    weight_T = (config.weight * word.trust * drift_T).astype(np.float32)
    told = replace(sample, teacher_logprob_T=word.sight.logprob_T)
    if config.form == "top_k":
        return replace(told, top_teacher_TK=word.sight.also_TK, distil_T=weight_T)
    distilled = distillation_advantage(
        torch.from_numpy(np.asarray(sample.old_logprob_T, np.float32)),
        torch.from_numpy(word.sight.logprob_T),
        weight=1.0,
        limit=config.limit,
    )
    advantage_T = sample.advantage_T + np.where(sample.sampled_T, weight_T * distilled.numpy(), 0).astype(np.float32)
    return replace(told, advantage_T=advantage_T, top_ids_TK=None)


def _overlap(sample: Sample, word: _Word) -> np.ndarray:
    if sample.top_ids_TK is None or not word.sight.top_ids_TK.shape[1]:
        return np.ones(len(sample.token_ids_T))
    return overlap(sample.top_ids_TK, word.sight.top_ids_TK)


def _numbers(
    told: Sequence[Sample],
    words: Sequence[_Word],
    owners: Sequence[Rollout],
    teachers: Mapping[str, PreTrainedModel],
    config: DistilConfig,
) -> dict[str, float]:
    """Return what the log says of a step: how far apart, how often bounded, and who was believed where."""
    gaps = [(s.old_logprob_T - word.sight.logprob_T)[s.sampled_T] for s, word in zip(told, words, strict=True)]
    gap = np.concatenate([*gaps, np.zeros(0)])
    gap = gap if len(gap) else np.zeros(1)
    numbers = {
        "teacher_kl": float(gap.mean()),  # KL(student, teacher) a token, nats, on the student's own tokens
        "teacher_clipped": float((np.abs(gap) > config.limit).mean()),
    }
    if config.choose == "by_evidence":
        numbers["trust"] = float(np.mean([word.trust for word in words])) if words else 0.0
        for domain in sorted({owner.domain for owner in owners}):
            mine = [word.teacher for word, owner in zip(words, owners, strict=True) if owner.domain == domain]
            numbers |= {f"trusts/{domain}/{name}": mine.count(name) / len(mine) for name in sorted(teachers)}
    return numbers
