"""What happens to messages on their way, while a trained network is tested."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from palmette.marl.envs.api import Frame


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """A channel that loses messages, each with probability `loss`."""

    loss: float

    def draw(self, frame: Frame, generator: torch.Generator) -> Tensor:
        """Return 1 for each link_BNN that works this step, else 0."""
        batch, agents = frame.avail_BNA.shape[:2]
        draws_BNN = torch.rand(batch, agents, agents, generator=generator, device=frame.obs_BNO.device)
        return (draws_BNN >= self.loss).float()
