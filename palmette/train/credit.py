"""Credit: from the rewards of a group of rollouts to the advantage of each, in plain numpy.

Only rollouts whose outcome counts in the baseline and whose reward is a number take part; all others get advantage 0
and are not trained on, so infrastructure failures change no gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from palmette.rollout.outcomes import RULES, Outcome

Baseline = Literal["std", "mean", "leave_one_out", "none"]
Scale = Literal["none", "entropy", "pass_rate"]


class Scored(Protocol):
    """What credit assignment needs to know of a rollout (`palmette.rollout.run.Rollout` is one)."""

    @property
    def group(self) -> int: ...

    @property
    def outcome(self) -> Outcome: ...

    @property
    def reward(self) -> float | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Credit:
    """Advantages of some rollouts; `trainable_R` marks those whose tokens may be trained on at all."""

    advantage_R: np.ndarray  # float64, one a rollout, 0 where nothing can be said
    trainable_R: np.ndarray  # bool
    silent_share: float  # share of groups without any signal (all rewards equal, or fewer than two to compare)


def group_credit(rollouts: Sequence[Scored], baseline: Baseline, *, negative: float = 1.0) -> Credit:
    """Return the outcome advantage of every rollout relative to its own group.

    Advantages below zero are multiplied by `negative`: 1 is the plain policy gradient; less reinforces success more
    than it punishes failure, which keeps entropy from rising (W-REINFORCE, arXiv 2506.01347).
    """
    advantage_R = np.zeros(len(rollouts))
    trusted_R = np.array([_trusted(r) for r in rollouts], bool)
    trainable_R = trusted_R & np.array([RULES[r.outcome].trainable for r in rollouts], bool)
    groups: dict[int, list[int]] = {}
    for index, rollout in enumerate(rollouts):
        groups.setdefault(rollout.group, []).append(index)
    silent = 0
    for members in groups.values():
        kept = [i for i in members if trusted_R[i]]
        advantage_R[kept] = advantages(np.array([rollouts[i].reward for i in kept], float), baseline)
        silent += not advantage_R[kept].any()
    advantage_R[advantage_R < 0] *= negative
    return Credit(
        advantage_R=advantage_R, trainable_R=trainable_R, silent_share=silent / len(groups) if groups else 0.0
    )


def advantages(reward_G: np.ndarray, baseline: Baseline) -> np.ndarray:
    """Return the advantages _G of the trusted rewards of one group.

    "std": (R - mean) / std (GRPO, arXiv 2402.03300); "mean": R - mean (Dr. GRPO, arXiv 2503.20783);
    "leave_one_out": R - mean of the others (RLOO, arXiv 2402.14740); "none": R itself. But for "none", a group of one
    and a group of equal rewards say nothing: all zero.
    """
    if baseline == "none":
        return reward_G.copy()
    if len(reward_G) < 2 or np.ptp(reward_G) == 0:
        return np.zeros(len(reward_G))
    centred_G = reward_G - reward_G.mean()
    if baseline == "std":
        return centred_G / reward_G.std()
    if baseline == "leave_one_out":
        return centred_G * (len(reward_G) / (len(reward_G) - 1))
    return centred_G


def scales(rollouts: Sequence[Scored], entropy_R: np.ndarray, scale: Scale) -> np.ndarray:
    """Return a factor for the advantage of every rollout, in favour of exploration (KAT-Dev-72B-Exp).

    Its two descriptions differ. "entropy" (press): the policy entropy of the rollout (nats a token) over the mean of
    all; "pass_rate" (model card, which amplifies groups that explore): 2 (1 - p), p being the mean reward of the
    rollout's group within [0, 1], so that a group half solved keeps its weight. Both forms are ours.
    """
    factor_R = np.ones(len(rollouts))
    if scale == "entropy" and len(rollouts) and entropy_R.mean() > 0:
        factor_R = entropy_R / entropy_R.mean()
    if scale == "pass_rate":
        rewards: dict[int, list[float]] = {}
        for rollout in rollouts:
            if _trusted(rollout) and rollout.reward is not None:
                rewards.setdefault(rollout.group, []).append(min(max(rollout.reward, 0.0), 1.0))
        factor_R = np.array([2 * (1 - np.mean(rewards.get(rollout.group, [0.5]))) for rollout in rollouts])
    return factor_R


def _trusted(rollout: Scored) -> bool:
    return RULES[rollout.outcome].counts_in_baseline and rollout.reward is not None
