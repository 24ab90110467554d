"""Full communication: everybody sends to everybody, and each takes the mean or what it attends to."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from palmette.marl.comm.api import Plain, Scene, Sizes, Talk, between_others
from palmette.marl.comm.features import Features
from palmette.marl.comm.letters import received


class FullConfig(BaseModel):
    """How messages are put together."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    aggregate: Literal["mean", "attention"] = Field(
        default="mean", description="of what arrives: the mean (learns sooner here), or attention over senders"
    )


class Full(Plain):
    """All links open: the most that communication can give, at the most it can cost."""

    def __init__(self, sizes: Sizes, config: FullConfig) -> None:
        super().__init__()
        self.features = Features(sizes)
        self.query = self.key = None
        if config.aggregate == "attention":
            self.query, self.key = (nn.Linear(sizes.hidden, sizes.hidden) for _ in range(2))

    def forward(self, hidden_MNH: Tensor, scene: Scene) -> Talk:
        """Return values after everybody has told everybody."""
        links_MNN = between_others(hidden_MNH)
        heard_MNN = received(links_MNN, scene.arrives_MNN)
        if self.query is not None and self.key is not None:
            score_MNN = self.key(hidden_MNH) @ self.query(hidden_MNH).transpose(1, 2) / hidden_MNH.shape[-1] ** 0.5
            share_MNN = torch.softmax(score_MNN.masked_fill(heard_MNN == 0, -1e9), 1)
            heard_MNN = share_MNN * heard_MNN * (hidden_MNH.shape[1] - 1)  # a mean, like the other way
        heard_MNH = heard_MNN.transpose(1, 2) @ self.features.messages(hidden_MNH)
        return Talk(q_MNA=self.features(hidden_MNH, heard_MNH), links_MNN=links_MNN)
