"""The selector: whom to tell, and when, in one gate per link, trained on labels of its own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from palmette.marl.comm.api import Sizes, between_others
from palmette.marl.comm.pairs import Pairs


class Gate(nn.Module):
    """sel([h_i, id_j]) for every link, of hidden states it sends no gradient into (T2MAC Eq. 4).

    Where `notes` are kept, sel([h_i, id_j, what i last told j]).
    """

    def __init__(self, sizes: Sizes, *, threshold: float = 0.5, budget: int | None = None, notes: bool = False) -> None:
        """At most `budget` receivers a sender and step are told. Raises `ValueError` for more than there are."""
        super().__init__()
        if budget is not None and budget >= sizes.agents:
            raise ValueError(f"a budget of {budget} receivers, and there are {sizes.agents - 1} others")
        self._threshold, self._budget = threshold, budget
        self.score = Pairs(sizes, sizes.hidden, 1)
        self.told = nn.Linear(sizes.hidden, sizes.hidden, bias=False) if notes else None

    def note(self, message_MNH: Tensor) -> Tensor:
        """Return what a sender should remember of what it says, note_MNH: its part of this gate's first layer."""
        return message_MNH[..., :0] if self.told is None else self.told(message_MNH.detach())

    def forward(self, hidden_MNH: Tensor, told_MNNH: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return (logits_MNN, links_MNN): 1 where the probability is above the threshold and within the budget.

        `told_MNNH` are notes of what was last said to whom.
        """
        logits_MNN = self.score(hidden_MNH.detach(), told_MNNH).squeeze(-1)
        links_MNN = between_others(hidden_MNH) * (torch.sigmoid(logits_MNN) > self._threshold)
        if self._budget is not None:
            ranked_MNN = logits_MNN.detach().masked_fill(links_MNN == 0, -torch.inf)
            best_MNB = ranked_MNN.topk(self._budget, -1).indices
            links_MNN = links_MNN * torch.zeros_like(links_MNN).scatter(-1, best_MNB, 1.0)
        return logits_MNN, links_MNN
