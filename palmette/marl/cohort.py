"""Several seeds of one training, side by side: each learns what it would learn alone, and playing costs less.

Stepping a game and choosing actions cost much the same for 32 copies as for 32 a seed. Updates are done one network
after the other: they are bound by memory, and stacking networks only drives them out of the cache (docs/marl.md).
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from palmette.marl.collect import Collector
from palmette.marl.envs.names import open_game
from palmette.marl.training import Training

_ALONE = ("smac",)  # games whose copies do not draw from `Game.draws`


class Cohort:
    """Trainings of the same game and the same hyper-parameters; methods may differ in their sections."""

    def __init__(self, trainings: Sequence[Training]) -> None:
        """Raises `ValueError` for trainings that do not play the same game, as many copies of it."""
        self.trainings = list(trainings)
        games = {(each.recipe.game, each.recipe.game_config, each.recipe.learn.parallel) for each in trainings}
        if len(games) != 1:
            raise ValueError("a cohort plays one game")
        self._collectors: dict[int, Collector] = {}

    @property
    def unfinished(self) -> list[Training]:
        """Those that have steps to play."""
        return [each for each in self.trainings if not each.finished]

    def advance(self) -> dict[int, dict[str, float]]:
        """Let each unfinished training play and learn as `Training.advance` does; return the same of each, by seed."""
        left = self.unfinished
        recipe = left[0].recipe
        if len(left) == 1 or recipe.game in _ALONE:
            return {each.seed: each.advance() for each in left}
        start_s = time.process_time()
        collector = self._collector(len(left))
        collector.game.draws.share([each.game.draws for each in left])
        played = collector.play_together([each.seat for each in left])
        spent_s = time.process_time() - start_s
        rows = {}
        for training, its in zip(left, played, strict=True):
            training.seconds += spent_s / len(left)
            rows[training.seed] = training.learn(its)
        return rows

    def _collector(self, count: int) -> Collector:
        if count not in self._collectors:
            recipe = self.trainings[0].recipe
            game = open_game(recipe.game, recipe.game_config, batch=count * recipe.learn.parallel)
            self._collectors[count] = Collector(game, ids=recipe.learn.ids)
        return self._collectors[count]
