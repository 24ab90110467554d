"""The policy-gradient objective as a recipe configures it: ratio, clipping, gate, and distance to a reference."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from palmette.train.draws import DrawsConfig
from palmette.train.losses import Clip, Terms, gate_weights, kl_to_reference, policy_gradient, reverse_kl
from palmette.train.optim import OptimConfig
from palmette.train.pairs import Pairs
from palmette.train.samples import Totals
from palmette.trajectory.convert import Shared


class OnPolicyConfig(BaseModel):
    """What reinforcement learning and distillation share: how rollouts are drawn, and how they become a gradient."""

    model_config = ConfigDict(extra="forbid")

    steps: int = Field(default=12, ge=0, description="rollout-and-update steps")
    groups: int = Field(default=8, ge=1, description="tasks a step")
    samples: int = Field(default=8, ge=1, description="rollouts a task: the group that shares a baseline")
    branch_at: int | None = Field(
        default=None, ge=0, description="turns after which a group's rollouts part: one trunk, its sandbox forked"
    )
    resample: int = Field(
        default=0, ge=0, description="times that groups without signal are replaced by groups of other tasks"
    )
    temperature: float = Field(default=1.0, gt=0, description="of sampling; log-probs are always those at 1")
    epochs: int = Field(default=1, ge=1, description="passes over the rollouts of a step")
    minibatches: int = Field(default=1, ge=1, description="updates a pass; a task's rollouts stay together")
    stratified: bool = Field(default=False, description="minibatches are alike in the lengths of their groups")
    baseline: Literal["std", "mean", "leave_one_out", "none"] = Field(
        default="std", description="how a group's rewards become advantages: std (GRPO) | mean | leave_one_out | none"
    )
    advantage_scale: Literal["none", "entropy", "pass_rate"] = Field(
        default="none",
        description="more weight to rollouts of high policy entropy, or to groups of low pass rate (KAT-Dev-72B-Exp)",
    )
    negative: float = Field(
        default=1.0, ge=0, description="weight of advantages below 0; less than 1 keeps entropy from rising"
    )
    ratio: Literal["token", "turn", "sequence"] = Field(default="token", description="unit of the ratio and its clip")
    exponent: Literal["product", "geometric_mean"] = Field(
        default="geometric_mean", description="of a turn's or sequence's ratio: product (KAT) | geometric_mean (GSPO)"
    )
    clip_low: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="ratios below 1 - clip_low are cut; unset: 0.2 (DAPO), or 3e-4 for geometric means (GSPO)",
    )
    clip_high: float | None = Field(
        default=None, gt=0, description="ratios above 1 + clip_high are cut; unset: 0.28, or 4e-4 for geometric means"
    )
    clip_cap: float = Field(
        default=3.0,
        ge=0,
        description="the most a ratio counts where the advantage is negative (dual clip); 0: none",
    )
    mean: Literal["units", "sample"] = Field(
        default="units", description="average over all units of the step, or first over those of a sequence"
    )
    shared: Shared = Field(
        default="once", description="a sampled token that branches of one rollout share counts: once | each (branch)"
    )
    old_logprob: Literal["recorded", "recompute", "replay", "monte_carlo"] = Field(
        default="recorded",
        description="denominator of the ratio: the engine's own record | a training pass | one that replays the "
        "engine's choice of experts | the mean of several draws (MCLA)",
    )
    draws: DrawsConfig = Field(default_factory=DrawsConfig, description="of old_logprob = monte_carlo")
    gate: Literal["none", "tis", "icepop"] = Field(
        default="none", description="weight against the mismatch of trainer and engine"
    )
    gate_unit: Literal["token", "ratio"] = Field(
        default="token", description="what is weighed as one: a token, or the unit of the ratio by its geometric mean"
    )
    gate_against: Literal["recorded", "monte_carlo"] = Field(
        default="recorded", description="the engine's log-prob in the mismatch: its record, or the mean of draws"
    )
    reference_kl: float = Field(default=0.0, ge=0, description="weight of KL(policy, the stage's first weights)")
    token_budget: int = Field(default=4096, ge=1, description="padded tokens of a micro-batch")
    checkpoint_every: int = Field(default=2, ge=1, description="steps between checkpoints")
    optim: OptimConfig = Field(
        default_factory=lambda: OptimConfig(lr=1e-4, decay="constant"), description="how weights move"
    )

    @property
    def updates(self) -> int:
        """Number of optimiser updates of the whole stage."""
        return self.steps * self.epochs * self.minibatches

    @property
    def clip(self) -> Clip:
        """The clip range, which has another size for each kind of ratio."""
        mean = self.ratio != "token" and self.exponent == "geometric_mean"
        low, high = (3e-4, 4e-4) if mean else (0.2, 0.28)
        return Clip(low=self.clip_low or low, high=self.clip_high or high, cap=self.clip_cap or math.inf)

    @property
    def drawn(self) -> bool:
        """Whether anything asks for the mean of several draws."""
        return self.old_logprob == "monte_carlo" or (self.gate != "none" and self.gate_against == "monte_carlo")


@dataclass(frozen=True, slots=True)
class PolicyObjective:
    """The loss of some pairs as `config` says."""

    config: OnPolicyConfig

    @property
    def pointwise(self) -> bool:
        """Only token ratios look at one pair at a time."""
        return self.config.ratio == "token"  # and with it the gate's unit

    def __call__(self, logprob_M: Tensor, pairs: Pairs, totals: Totals, also_MK: Tensor | None = None) -> Terms:
        """Return the policy-gradient loss, with the distances to the reference and to teachers that have a weight."""
        config = self.config
        unit = config.ratio if config.gate_unit == "ratio" else "token"
        gate_M = gate_weights(pairs.mismatch_M, pairs, gate=config.gate, unit=unit)
        loss, metrics = policy_gradient(
            logprob_M,
            pairs,
            totals,
            ratio=config.ratio,
            exponent=config.exponent,
            clip=config.clip,
            mean=config.mean,
            gate_M=gate_M,
        )
        if gate_M is not None:
            metrics["gated"] = (gate_M == 0).sum() / max(totals.tokens, 1)
        if config.reference_kl:
            distance, more = kl_to_reference(logprob_M, pairs.reference_logprob_M, totals)
            loss, metrics = loss + config.reference_kl * distance, metrics | more
        if also_MK is not None:
            distance, more = reverse_kl(also_MK, pairs.top_teacher_MK, pairs.distil_M, totals)
            loss, metrics = loss + distance, metrics | more
        return loss, metrics
