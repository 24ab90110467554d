"""Oracle links: exactly those that carry news, where the game can tell. What the best gate could do."""

from __future__ import annotations

from torch import Tensor

from palmette.errors import UserError
from palmette.marl.comm.api import Plain, Scene, Sizes, Talk
from palmette.marl.comm.features import Features
from palmette.marl.comm.letters import received


class Oracle(Plain):
    """Full communication's messages over the links with news."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.features = Features(sizes)

    def forward(self, hidden_MNH: Tensor, scene: Scene) -> Talk:
        """Return values after those who know have told those who need it. Raises `UserError` if nobody can say who."""
        if scene.news_MNN is None:
            raise UserError("method oracle: this game cannot tell who has news for whom; choose another method")
        links_MNN = scene.news_MNN.to(hidden_MNH)
        heard_MNH = received(links_MNN, scene.arrives_MNN).transpose(1, 2) @ self.features.messages(hidden_MNH)
        return Talk(q_MNA=self.features(hidden_MNH, heard_MNH), links_MNN=links_MNN)
