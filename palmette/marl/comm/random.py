"""Random links at a given rate: what a gate that chooses whom to tell must beat at the same rate."""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from palmette.marl.comm.api import Plain, Scene, Sizes, Talk, between_others, received
from palmette.marl.comm.features import Features


class RandomConfig(BaseModel):
    """How many links."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rate: float = Field(default=0.2, ge=0, le=1, description="probability of each link at each step")


class RandomLinks(Plain):
    """Full communication's messages over links that open by chance, drawn anew at every step and every update."""

    def __init__(self, sizes: Sizes, config: RandomConfig) -> None:
        super().__init__()
        self.features, self._rate = Features(sizes), config.rate

    def forward(self, hidden_MNH: Tensor, scene: Scene) -> Talk:
        """Return values after a draw of links."""
        links_MNN = draw_links(hidden_MNH, self._rate, scene.generator)
        message_MNH = self.features.messages(hidden_MNH)
        return Talk(q_MNA=self.features(hidden_MNH, message_MNH, received(links_MNN, scene)), links_MNN=links_MNN)


def draw_links(hidden_MNH: Tensor, rate: float, generator: torch.Generator) -> Tensor:
    """Return links_MNN between others, each open with probability `rate`."""
    others_MNN = between_others(hidden_MNH)
    draws_MNN = torch.rand(others_MNN.shape, generator=generator, device=hidden_MNH.device)
    return others_MNN * (draws_MNN < rate)
