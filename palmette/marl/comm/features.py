"""Messages that are features: the receiver's head sees its own hidden state and the sum of what reached it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from palmette.marl.comm.api import Sizes


class Features(nn.Module):
    """Q_j = head([h_j, what reached j of V h_i]); the head is linear in what was heard before its first ReLU."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.value = nn.Linear(sizes.hidden, sizes.hidden)
        self.seen = nn.Linear(sizes.hidden, sizes.hidden)
        self.heard = nn.Linear(sizes.hidden, sizes.hidden, bias=False)
        self.out = nn.Linear(sizes.hidden, sizes.actions)

    def messages(self, hidden_MNH: Tensor, weight_MN: Tensor | None = None) -> Tensor:
        """Return what each sender says, w_i V h_i / (N - 1), message_MNH, as loud as `weight_MN` says."""
        message_MNH = self.value(hidden_MNH) / max(hidden_MNH.shape[1] - 1, 1)
        return message_MNH if weight_MN is None else message_MNH * weight_MN[..., None]

    def forward(self, hidden_MNH: Tensor, heard_MNH: Tensor) -> Tensor:
        """Return q_MNA of what each agent saw and the messages that it heard, put together."""
        return self.decide(self.seen(hidden_MNH) + self.heard(heard_MNH))

    def decide(self, known_MXH: Tensor) -> Tensor:
        """Return q_MXA of the sum of what an agent `seen` and `heard`, which is overwritten."""
        return self.out(torch.relu_(known_MXH))
