"""A network of every (sender, receiver) pair: two layers over [h_i, one-hot j]."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Pairs(nn.Module):
    """f([h_i, id_j]) for all i and j.

    The first layer is a sum of one part a sender and one a receiver, so no pair is ever written out before it.
    """

    def __init__(self, hidden: int, agents: int, outputs: int) -> None:
        super().__init__()
        self.sender = nn.Linear(hidden, hidden)
        self.receiver_NH = nn.Parameter(torch.randn(agents, hidden) / (hidden + agents) ** 0.5)
        self.out = nn.Linear(hidden, outputs)

    def inner(self, hidden_MNH: Tensor) -> Tensor:
        """Return the first layer's pairs_MNNH, sender before receiver."""
        return torch.relu(self.sender(hidden_MNH)[:, :, None] + self.receiver_NH)

    def forward(self, hidden_MNH: Tensor) -> Tensor:
        """Return what the network says of each pair, _MNNX."""
        return self.out(self.inner(hidden_MNH))
