"""Random links at a given rate: what a gate that chooses whom to tell must beat at the same rate."""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from palmette.marl.comm.api import Plain, Scene, Sizes, Talk, between_others
from palmette.marl.comm.features import Features
from palmette.marl.comm.letters import Forgotten


class RandomConfig(BaseModel):
    """How many links."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rate: float = Field(default=0.2, ge=0, le=1, description="probability of each link at each step")
    keep: bool = Field(default=True, description="a receiver keeps the last message of each sender, as with t2mac_plus")


class RandomLinks(Plain):
    """Full communication's messages over links that open by chance, drawn anew at every step and every update."""

    def __init__(self, sizes: Sizes, config: RandomConfig) -> None:
        super().__init__()
        self.features, self._rate, self._keep = Features(sizes), config.rate, config.keep

    def forward(self, hidden_MNH: Tensor, scene: Scene) -> Talk:
        """Return values after a draw of links."""
        message_MNH = self.features.messages(hidden_MNH)
        letters = scene.letters if self._keep else Forgotten()
        mail = letters.exchange(
            message_MNH,
            message_MNH[..., :0],  # who draws takes no notes
            lambda rows, _: draw_links(hidden_MNH[rows], self._rate, scene.generator),
            scene.arrives_MNN,
        )
        q_MNA = self.features(hidden_MNH, mail.pooled_MNX)
        return Talk(q_MNA=q_MNA, links_MNN=mail.links_MNN)


def draw_links(hidden_MNH: Tensor, rate: float, generator: torch.Generator) -> Tensor:
    """Return links_MNN between others, each open with probability `rate`."""
    others_MNN = between_others(hidden_MNH)
    draws_MNN = torch.rand(others_MNN.shape, generator=generator, device=hidden_MNH.device)
    return others_MNN * (draws_MNN < rate)
