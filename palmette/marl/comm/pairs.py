"""A network of every (sender, receiver) pair: two layers over [h_i, what j is]."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from palmette.marl.comm.api import Sizes


class Pairs(nn.Module):
    """f([h_i, id_j]) for all i and j; id_j is what the others know j by, itself or its role (`Sizes.names`).

    The first layer is a sum of one part a sender and one a receiver, so no pair is ever written out before it.
    """

    def __init__(self, sizes: Sizes, hidden: int, outputs: int) -> None:
        super().__init__()
        self._names = list(sizes.names or range(sizes.agents))
        known = max(self._names) + 1
        self.sender = nn.Linear(hidden, hidden)
        self.receiver_KH = nn.Parameter(torch.randn(known, hidden) / (hidden + known) ** 0.5)
        self.out = nn.Linear(hidden, outputs)

    def inner(self, hidden_MNH: Tensor, more_MNNH: Tensor | None = None) -> Tensor:
        """Return the first layer's pairs_MNNH, sender before receiver; `more_MNNH` is added before its ReLU."""
        pairs_MNNH = self.sender(hidden_MNH)[:, :, None] + self.receiver_KH[self._names]
        return torch.relu_(pairs_MNNH if more_MNNH is None else pairs_MNNH + more_MNNH)

    def forward(self, hidden_MNH: Tensor, more_MNNH: Tensor | None = None) -> Tensor:
        """Return what the network says of each pair, _MNNX; see `inner`."""
        return self.out(self.inner(hidden_MNH, more_MNNH))
