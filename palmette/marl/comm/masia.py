"""MASIA-style aggregation (Guan et al., NeurIPS 2022): self-attention over all messages, and a state made of them.

Each agent receives everybody's message, aggregates them by self-attention into one vector from which the state must be
reconstructed, and focuses on the parts it needs. Published MASIA also predicts future vectors; this one does not.
"""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from palmette.marl.comm.api import Plain, Scene, Sizes, Talk, between_others
from palmette.marl.comm.letters import received


class MasiaConfig(BaseModel):
    """Widths, and the weight of the reconstruction."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    message: int = Field(default=32, ge=1, description="width of a message")
    summary: int = Field(default=16, ge=1, description="width of the vector made of all messages")
    reconstruction: float = Field(default=0.1, ge=0, description="weight of telling the state from it")


class Masia(Plain):
    """z = mean over senders of self-attention over messages; Q_j of [h_j, z * focus(h_j)]; decoder(z) ~ state."""

    def __init__(self, sizes: Sizes, config: MasiaConfig) -> None:
        super().__init__()
        self.weight = config.reconstruction
        self.message = nn.Linear(sizes.hidden, config.message)
        self.query, self.key, self.value = (nn.Linear(config.message, config.message) for _ in range(3))
        self.summary = nn.Linear(config.message, config.summary)
        self.focus = nn.Linear(sizes.hidden, config.summary)
        self.decoder = nn.Sequential(
            nn.Linear(config.summary, sizes.hidden), nn.ReLU(), nn.Linear(sizes.hidden, sizes.state)
        )
        self.head = nn.Sequential(
            nn.Linear(sizes.hidden + config.summary, sizes.hidden), nn.ReLU(), nn.Linear(sizes.hidden, sizes.actions)
        )

    def forward(self, hidden_MNH: Tensor, scene: Scene) -> Talk:
        """Return values after everybody has told everybody and put together what it heard."""
        links_MNN = between_others(hidden_MNH)
        arrived_MNN = received(links_MNN, scene.arrives_MNN) + torch.eye(hidden_MNH.shape[1], device=hidden_MNH.device)
        message_MNC = torch.relu(self.message(hidden_MNH))
        query_MNC, key_MNC, value_MNC = (part(message_MNC) for part in (self.query, self.key, self.value))
        score_MNN = query_MNC @ key_MNC.transpose(1, 2) / message_MNC.shape[-1] ** 0.5  # asks, is asked
        # What receiver j can attend to is what arrived at j: another set for each j, the same one if nothing is lost.
        score_MJNN = score_MNN[:, None].masked_fill(arrived_MNN.transpose(1, 2)[:, :, None] == 0, -1e9)
        mixed_MJNC = torch.softmax(score_MJNN, -1) @ value_MNC[:, None]
        asks_MJN = arrived_MNN.transpose(1, 2)
        pooled_MJC = (mixed_MJNC * asks_MJN[..., None]).sum(2) / asks_MJN.sum(2, keepdim=True)
        summary_MNZ = self.summary(torch.relu(pooled_MJC))
        focused_MNZ = summary_MNZ * torch.sigmoid(self.focus(hidden_MNH))
        loss_M = None
        if scene.learning and scene.state_MS is not None:
            wrong_MNS = self.decoder(summary_MNZ) - scene.state_MS[:, None]
            loss_M = self.weight * wrong_MNS.square().mean((1, 2))
        return Talk(q_MNA=self.head(torch.cat([hidden_MNH, focused_MNZ], -1)), links_MNN=links_MNN, loss_M=loss_M)
