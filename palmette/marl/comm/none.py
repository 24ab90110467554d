"""No communication: every agent acts on what it saw itself."""

from __future__ import annotations

from torch import Tensor, nn

from palmette.marl.comm.api import Plain, Scene, Sizes, Talk, between_others


class Silent(Plain):
    """QMIX or VDN as they are."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.head = nn.Linear(sizes.hidden, sizes.actions)

    def forward(self, hidden_MNH: Tensor, scene: Scene) -> Talk:
        """Return values of the hidden states alone."""
        return Talk(q_MNA=self.head(hidden_MNH), links_MNN=between_others(hidden_MNH) * 0)
