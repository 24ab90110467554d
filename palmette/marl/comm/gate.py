"""The selector: whom to tell, and when, in one gate per link, trained on labels of its own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from palmette.marl.comm.api import Sizes, between_others
from palmette.marl.comm.pairs import Pairs


class Gate(nn.Module):
    """sel([h_i, id_j]) for every link, of hidden states it sends no gradient into (T2MAC Eq. 4)."""

    def __init__(self, sizes: Sizes, *, threshold: float = 0.5, budget: int | None = None) -> None:
        """At most `budget` receivers a sender and step are told. Raises `ValueError` for more than there are."""
        super().__init__()
        if budget is not None and budget >= sizes.agents:
            raise ValueError(f"a budget of {budget} receivers, and there are {sizes.agents - 1} others")
        self._threshold, self._budget = threshold, budget
        self.score = Pairs(sizes, sizes.hidden, 1)

    def forward(self, hidden_MNH: Tensor) -> tuple[Tensor, Tensor]:
        """Return (logits_MNN, links_MNN): 1 where the probability is above the threshold and within the budget."""
        logits_MNN = self.score(hidden_MNH.detach()).squeeze(-1)
        links_MNN = between_others(hidden_MNH) * (torch.sigmoid(logits_MNN) > self._threshold)
        if self._budget is not None:
            ranked_MNN = logits_MNN.detach().masked_fill(links_MNN == 0, -torch.inf)
            best_MNB = ranked_MNN.topk(self._budget, -1).indices
            links_MNN = links_MNN * torch.zeros_like(links_MNN).scatter(-1, best_MNB, 1.0)
        return logits_MNN, links_MNN
