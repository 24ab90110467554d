"""TarMAC (Das et al., arXiv 1810.11187): messages with signatures, receivers that attend to them. One round."""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from palmette.marl.comm.api import Plain, Scene, Sizes, Talk, between_others
from palmette.marl.comm.letters import received


class TarmacConfig(BaseModel):
    """Widths."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    signature: int = Field(default=16, ge=1, description="width of signatures and queries")
    value: int = Field(default=32, ge=1, description="width of messages")


class Tarmac(Plain):
    """c_j = sum_i softmax_i(q_j . k_i / sqrt(d)) v_i, over all i, oneself included; Q_j of [h_j, c_j]."""

    def __init__(self, sizes: Sizes, config: TarmacConfig) -> None:
        super().__init__()
        self.signature, self.query = (nn.Linear(sizes.hidden, config.signature) for _ in range(2))
        self.value = nn.Linear(sizes.hidden, config.value)
        self.head = nn.Sequential(
            nn.Linear(sizes.hidden + config.value, sizes.hidden), nn.ReLU(), nn.Linear(sizes.hidden, sizes.actions)
        )

    def forward(self, hidden_MNH: Tensor, scene: Scene) -> Talk:
        """Return values after everybody has told everybody, and each attended to some."""
        links_MNN = between_others(hidden_MNH)
        oneself_NN = torch.eye(hidden_MNH.shape[1], device=hidden_MNH.device)
        heard_MNN = received(links_MNN, scene.arrives_MNN) + oneself_NN
        signature_MND, query_MND = self.signature(hidden_MNH), self.query(hidden_MNH)
        score_MNN = signature_MND @ query_MND.transpose(1, 2) / signature_MND.shape[-1] ** 0.5
        share_MNN = torch.softmax(score_MNN.masked_fill(heard_MNN == 0, -1e9), 1)
        context_MNV = share_MNN.transpose(1, 2) @ self.value(hidden_MNH)
        return Talk(q_MNA=self.head(torch.cat([hidden_MNH, context_MNV], -1)), links_MNN=links_MNN)
