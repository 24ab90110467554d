"""The policy-gradient objective as a recipe configures it: ratio, clipping, gate, and distance to a reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from palmette.train.losses import Clip, Terms, gate_weights, kl_to_reference, policy_gradient
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
    temperature: float = Field(default=1.0, gt=0, description="of sampling; log-probs are always those at 1")
    epochs: int = Field(default=1, ge=1, description="passes over the rollouts of a step")
    minibatches: int = Field(default=1, ge=1, description="updates a pass; a task's rollouts stay together")
    baseline: Literal["std", "mean", "leave_one_out", "none"] = Field(
        default="std", description="how a group's rewards become advantages: std (GRPO) | mean | leave_one_out | none"
    )
    negative: float = Field(
        default=1.0, ge=0, description="weight of advantages below 0; less than 1 keeps entropy from rising"
    )
    ratio: Literal["token", "turn", "sequence"] = Field(default="token", description="unit of the ratio and its clip")
    exponent: Literal["product", "geometric_mean"] = Field(
        default="geometric_mean", description="of a turn's or sequence's ratio: product (KAT) | geometric_mean (GSPO)"
    )
    clip_low: float = Field(default=0.2, gt=0, le=1, description="ratios below 1 - clip_low are cut")
    clip_high: float = Field(default=0.28, gt=0, description="ratios above 1 + clip_high are cut")
    mean: Literal["units", "sample"] = Field(
        default="units", description="average over all units of the step, or first over those of a sequence"
    )
    shared: Shared = Field(
        default="once", description="a sampled token that branches of one rollout share counts: once | each (branch)"
    )
    old_logprob: Literal["recorded", "recompute"] = Field(
        default="recorded", description="denominator of the ratio: the engine's own record, or a training pass"
    )
    gate: Literal["none", "tis", "icepop"] = Field(
        default="none", description="weight against the mismatch of trainer and engine (needs old_logprob = recompute)"
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

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.gate != "none" and self.old_logprob == "recorded":
            raise ValueError(
                f"gate = {self.gate} compares the engine's log-probs with the trainer's: set old_logprob = recompute"
            )
        return self


@dataclass(frozen=True, slots=True)
class PolicyObjective:
    """The loss of some pairs as `config` says."""

    config: OnPolicyConfig

    @property
    def pointwise(self) -> bool:
        """Only token ratios look at one pair at a time."""
        return self.config.ratio == "token"

    def __call__(self, logprob_M: Tensor, pairs: Pairs, totals: Totals) -> Terms:
        """Return the policy-gradient loss, with the distance to the reference if it has a weight."""
        config = self.config
        loss, metrics = policy_gradient(
            logprob_M,
            pairs,
            totals,
            ratio=config.ratio,
            exponent=config.exponent,
            clip=Clip(low=config.clip_low, high=config.clip_high),
            mean=config.mean,
            gate_M=gate_weights(pairs.old_logprob_M, pairs.logprob_M, gate=config.gate),
        )
        if config.reference_kl:
            distance, more = kl_to_reference(logprob_M, pairs.reference_logprob_M, totals)
            loss, metrics = loss + config.reference_kl * distance, metrics | more
        return loss, metrics
