"""The steps of a batch of episodes that were played, as rows: nothing is computed behind an episode's end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """R rows, step by step, within a step the longest episode first: each step is a slice."""

    episode_R: Tensor
    step_R: Tensor
    count_T: Tensor  # episodes that reach each step, never rising

    @classmethod
    def of(cls, live_ET: Tensor) -> Self:
        """Return the rows of episodes that are live from their first step to their last."""
        length_E = live_ET.sum(1)
        order_E = length_E.argsort(descending=True, stable=True)
        reaches_TE = length_E[order_E] > torch.arange(int(length_E.max()), device=live_ET.device)[:, None]
        step_R, rank_R = reaches_TE.nonzero(as_tuple=True)
        return cls(episode_R=order_E[rank_R], step_R=step_R, count_T=reaches_TE.sum(1).cpu())

    def rows(self, value_ET: Tensor) -> Tensor:
        """Return the rows_R of something that is there for every episode and step; further axes follow."""
        return value_ET[self.episode_R, self.step_R]

    def spread(self, value_R: Tensor, like_EU: Tensor) -> Tensor:
        """Return value_EU, the opposite of `rows`: 0 where nothing was played, shape and device as `like_EU`'s."""
        return value_R.new_zeros(like_EU.shape).index_put((self.episode_R, self.step_R), value_R)
