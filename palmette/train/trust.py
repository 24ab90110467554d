"""Which teacher to believe, from the evidence that each gives on the student's own tokens, turn by turn.

A teacher that finds a turn likelier than the others do speaks for itself. How much such a word is worth is calibrated
on turns whose teacher is known (what the experts sampled and solved while they learned); what many turns say is fused
as opinions by Dempster's reduced rule (`palmette.evidence`), so a rollout comes with one belief a teacher and with what
stays uncertain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from palmette.evidence import fuse_discounted, opinion
from palmette.train.samples import Sample

_TEMPERATURES = tuple(2.0**power for power in range(-1, 9))  # nats a turn
_STRENGTHS = (0.25, 0.5, 1.0, 2.0, 4.0)  # observations that a turn counts for


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """How to read the log-probs of several teachers J.

    `temperature` (nats) turns the difference of a turn's log-probs into shares, `strength` is how many observations a
    turn counts for, and `reliability_J` how far a turn that speaks for teacher j is to be trusted, 0 (as good as a
    guess) to 1 (always right).
    """

    temperature: float
    strength: float
    reliability_J: tuple[float, ...]

    def believe(self, turn_logprob_NJ: np.ndarray) -> tuple[np.ndarray, float]:
        """Return the belief in each teacher and the uncertainty, which sum to 1, of a rollout of N turns."""
        evidence_NJ, best_N = self._evidence(turn_logprob_NJ)
        trust_N = torch.tensor(self.reliability_J, dtype=torch.float64)[best_N]
        belief_J, uncertainty_1 = opinion(fuse_discounted(evidence_NJ, trust_N))
        return belief_J.numpy(), float(uncertainty_1)

    def _evidence(self, turn_logprob_NJ: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        scaled_NJ = torch.from_numpy(np.asarray(turn_logprob_NJ, np.float64)) / self.temperature
        share_NJ = scaled_NJ.softmax(-1)
        return self.strength * share_NJ.shape[-1] * share_NJ, share_NJ.argmax(-1)


def turn_logprobs(sample: Sample, logprob_TJ: np.ndarray) -> np.ndarray:
    """Return the log-prob _NJ of each turn of a sample under each teacher, in nats a turn."""
    return np.stack([logprob_TJ[start:end].sum(0) for start, end in sample.turns])


def calibrate(turns: Sequence[tuple[int, np.ndarray]]) -> Trust:
    """Fit a `Trust` to (index of the true teacher, its turn's log-probs _NJ): the least negative log-likelihood.

    Reliability is the share of turns rightly claimed, between 0 at guessing and 1. Raises `ValueError` without turns.
    """
    if not turns:
        raise ValueError("nothing to calibrate on")
    true_N = np.concatenate([np.full(len(rows), label) for label, rows in turns])
    all_NJ = np.concatenate([rows for _, rows in turns])
    size = all_NJ.shape[1]
    claimed_N = all_NJ.argmax(1)
    reliability = []
    for teacher in range(size):
        claims = claimed_N == teacher
        right = float((true_N[claims] == teacher).mean()) if claims.any() else 1 / size
        reliability.append(max((right - 1 / size) / (1 - 1 / size), 0.0) if size > 1 else 1.0)
    fits = [
        Trust(temperature=temperature, strength=strength, reliability_J=tuple(reliability))
        for temperature in _TEMPERATURES
        for strength in _STRENGTHS
    ]
    return min(fits, key=lambda trust: _surprise(trust, turns))


def _surprise(trust: Trust, turns: Sequence[tuple[int, np.ndarray]]) -> float:
    """Return the mean negative log of the probability of the true teacher, uncertainty shared equally."""
    total = 0.0
    for label, rows in turns:
        belief_J, uncertainty = trust.believe(rows)
        total -= float(np.log(belief_J[label] + uncertainty / len(belief_J) + 1e-12))
    return total / len(turns)
