"""MAIC (Yuan et al., AAAI 2022): each agent models its team-mates and sends each a bias on its values.

With the two information losses of the published code (mansicer/MAIC): the model of a team-mate must tell what that
team-mate does, and attention should be sparse. At test time links of little attention are cut.
"""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from palmette.marl.comm.api import Plain, Scene, Sizes, Talk, best_actions, between_others
from palmette.marl.comm.letters import received
from palmette.marl.comm.pairs import Pairs


class MaicConfig(BaseModel):
    """Widths and weights, by default those of the published code."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    latent: int = Field(default=8, ge=1, description="width of the model of a team-mate")
    attention: int = Field(default=32, ge=1, description="width of queries and keys")
    information: float = Field(default=0.001, ge=0, description="weight of telling what the team-mate does")
    entropy: float = Field(default=0.01, ge=0, description="weight of attention's entropy")
    variance_floor: float = Field(default=0.002, gt=0, description="least variance of a model")
    cut: float = Field(default=0.25, ge=0, le=1, description="at test time, links below cut / N of attention close")


class Maic(Plain):
    """Q_j = q(h_j) + sum_i alpha_ij m(h_i, z_ij), z_ij ~ N(mu, sigma)(h_i, j)."""

    def __init__(self, sizes: Sizes, config: MaicConfig) -> None:
        super().__init__()
        self.config = config
        hidden, latent = sizes.hidden, config.latent
        self.head = nn.Linear(hidden, sizes.actions)
        self.model = Pairs(sizes, hidden, 2 * latent)
        self.told = Pairs(sizes, hidden, hidden)
        self.told_action = nn.Linear(sizes.actions, hidden, bias=False)
        self.posterior = nn.Linear(hidden, 2 * latent)
        self.by_sender, self.by_model = nn.Linear(hidden, hidden), nn.Linear(latent, hidden, bias=False)
        self.message = nn.Linear(hidden, sizes.actions)
        self.query = nn.Linear(hidden, config.attention)
        self.key = nn.Linear(latent, config.attention)

    def forward(self, hidden_MNH: Tensor, scene: Scene) -> Talk:
        """Return values with everybody's bias on everybody's."""
        agents = hidden_MNH.shape[1]
        mates = self._normal(self.model(hidden_MNH))
        latent_MNNZ = mates.mean
        if scene.learning:  # a sample that carries gradients
            drawn_MNNZ = torch.randn(latent_MNNZ.shape, generator=scene.generator, device=latent_MNNZ.device)
            latent_MNNZ = mates.mean + mates.stddev * drawn_MNNZ
        bias_MNNA = self.message(torch.relu(self.by_sender(hidden_MNH)[:, :, None] + self.by_model(latent_MNNZ)))
        score_MNN = torch.einsum("mid,mijd->mij", self.query(hidden_MNH), self.key(latent_MNNZ))
        others_MNN = between_others(hidden_MNH)
        share_MNN = torch.softmax((score_MNN / self.config.attention**0.5).masked_fill(others_MNN == 0, -1e9), 1)
        links_MNN = others_MNN
        if not scene.learning:
            links_MNN = others_MNN * (share_MNN >= self.config.cut / agents)
        heard_MNN = share_MNN * received(links_MNN, scene.arrives_MNN)
        q_MNA = self.head(hidden_MNH) + (heard_MNN[..., None] * bias_MNNA).sum(1)
        loss_M = None
        if scene.learning:
            loss_M = self._losses(
                hidden_MNH.detach(), mates, share_MNN, others_MNN, best_actions(q_MNA, scene.avail_MNA)
            )
        return Talk(q_MNA=q_MNA, links_MNN=links_MNN, loss_M=loss_M)

    def _normal(self, parameters_MNNZ: Tensor) -> Normal:
        mean, spread = parameters_MNNZ.chunk(2, -1)
        return Normal(mean, spread.clamp(-10, 10).exp().clamp(min=self.config.variance_floor).sqrt())

    def _losses(
        self, hidden_MNH: Tensor, mates: Normal, share_MNN: Tensor, others_MNN: Tensor, acts_MN: Tensor
    ) -> Tensor:
        does_MNA = nn.functional.one_hot(acts_MN, self.head.out_features).to(hidden_MNH)
        told_MNNH = self.told(hidden_MNH) + self.told_action(does_MNA)[:, None]
        told = self._normal(self.posterior(torch.relu(told_MNNH)))
        links = others_MNN.sum((1, 2))
        information_M = (kl_divergence(mates, told).sum(-1) * others_MNN).sum((1, 2)) / links
        entropy_M = -(share_MNN.clamp(min=1e-9).log() * share_MNN).sum((1, 2)) / share_MNN.shape[1]
        return self.config.information * information_M + self.config.entropy * entropy_M
