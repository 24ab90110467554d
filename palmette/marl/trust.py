"""Trust in each sender, from what hearing it was worth: not from how sure it sounds.

In every episode some senders are muted by chance. What a team gains by hearing one is then the difference of two means,
whatever the others said: a randomised trial, paid for with a few muted episodes. Who is worth less than silence loses
trust, and with it the right to be heard; a small share of trials goes on, so that trust can come back.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Reputation:
    """What N senders were worth so far, in returns of whole episodes."""

    def __init__(self, agents: int, *, trial: float = 0.05, prior: float = 2.0, memory: float = 50.0) -> None:
        """Mute nobody more rarely than in a share `trial` of episodes; trust begins at `prior` standard deviations.

        A batch counts half as much `memory` batches later. Raises `ValueError` for a share outside 0..0.5.
        """
        if not 0 < trial <= 0.5:
            raise ValueError(f"a trial of {trial}: a share of episodes above 0 and up to 0.5 is wanted")
        self._trial, self._prior, self._kept = trial, prior, 0.5 ** (1 / memory)
        self._weight_N = torch.zeros(agents, dtype=torch.float64)
        self._gain_N = torch.zeros_like(self._weight_N)  # weighted sum
        self._squares = self._episodes = 0.0  # of returns around their batch's mean

    @property
    def trust_N(self) -> Tensor:
        """The probability that hearing a sender is worth more than silence, 0..1."""
        worth_N, error_N = self.worth()
        score_N = torch.where(error_N > 0, worth_N / error_N.clamp(min=1e-12), torch.zeros_like(worth_N))
        return torch.special.ndtr(score_N + self._prior).float()

    def worth(self) -> tuple[Tensor, Tensor]:
        """Return (by how much hearing each sender raised the return, its standard error): shape _N, 0 if untried."""
        spread = (self._squares / self._episodes) ** 0.5 if self._episodes else 0.0
        tried_N = self._weight_N > 0
        weight_N = self._weight_N.clamp(min=1e-12)
        return self._gain_N / weight_N * tried_N, spread / weight_N.sqrt() * tried_N

    def draw(self, batch: int, generator: torch.Generator) -> Tensor:
        """Return hears_BN: 1 with the probability that a sender is worth it, never surer than a trial allows."""
        chance_N = self.trust_N.clamp(self._trial, 1 - self._trial)
        return (torch.rand(batch, len(chance_N), generator=generator) < chance_N).float()

    def learn(self, hears_BN: Tensor, return_B: Tensor) -> None:
        """Count B episodes in which these were heard, one draw's. Raises `ValueError` for a return that is no number.

        Heard and muted are compared within a batch only: between batches the others' chances have changed too.
        """
        if not bool(return_B.isfinite().all()):
            raise ValueError("a return that is not a number")
        return_B, heard_BN = return_B.double(), hears_BN.double()
        heard_N, muted_N = heard_BN.sum(0), (1 - heard_BN).sum(0)
        gain_N = return_B @ heard_BN / heard_N.clamp(min=1) - return_B @ (1 - heard_BN) / muted_N.clamp(min=1)
        weight_N = heard_N * muted_N / (heard_N + muted_N)  # spread^2 over the variance of the gain; 0: untried
        for total, new in ((self._weight_N, weight_N), (self._gain_N, weight_N * gain_N)):
            total.mul_(self._kept).add_(new)
        self._squares = self._squares * self._kept + float((return_B - return_B.mean()).square().sum())
        self._episodes = self._episodes * self._kept + len(return_B) - 1
