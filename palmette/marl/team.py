"""A trained team, tested: over channels that fail, among liars, and with trust that is earned while it plays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from palmette.errors import UserError
from palmette.marl.channel import Channel
from palmette.marl.collect import Collector, Played, Seat
from palmette.marl.envs.names import open_game
from palmette.marl.recipe import MarlRecipe
from palmette.marl.training import Measured, Training, measured
from palmette.marl.trust import Reputation

Trusting = Literal["blind", "trials", "discount"]
DISCOUNTING = ("t2mac", "t2mac_plus")  # methods in which trust scales what a message says


@dataclass(frozen=True, slots=True, kw_only=True)
class Tested:
    """A test, and whom the team trusted at its end."""

    measured: Measured
    trust_N: Tensor | None


class Team:
    """Agents that have been trained; playing changes nothing in them."""

    def __init__(self, recipe: MarlRecipe, weights: Mapping[str, Tensor], *, seed: int = 0) -> None:
        """Open the network; `recipe` may be of a larger game than it was trained on, if agents go by their roles.

        Raises `UserError` for weights of another network, or a game that cannot be opened.
        """
        self.recipe, self.seed = recipe, seed
        training = Training(recipe, seed)
        self._spec, self._agents = training.spec, training.learner.agents
        try:
            self._agents.load_state_dict(dict(weights))
        except RuntimeError as error:
            raise UserError(f"these weights are not of {recipe.method} on {recipe.game}: {error}") from None

    @property
    def score_name(self) -> str:
        """What a score is called."""
        return self._spec.score_name

    def test(
        self,
        *,
        episodes: int = 256,
        channel: Channel | None = None,
        trusting: Trusting = "blind",
        practice: int = 8,
    ) -> Tested:
        """Play `episodes` greedily, the same ones at every call.

        ``trials``: senders are muted by chance, as `Reputation` says; ``discount``: what they say is discounted by the
        trust that such trials have earned them. Both play `practice` batches of `episodes` before, for trust only.
        Raises `UserError` where the method cannot discount, or for a liar who is not there.
        """
        if trusting == "discount" and self.recipe.method not in DISCOUNTING:
            raise UserError(f"{self.recipe.method} cannot discount what a sender says; {', '.join(DISCOUNTING)} can")
        generator = torch.Generator().manual_seed(self.seed)
        if trusting == "blind":
            return self._tested(self._play(episodes, 0, generator, channel), None)
        reputation = Reputation(self._spec.agents)
        for batch in range(1, practice + 1):
            hears_BN = reputation.draw(episodes, generator)
            reputation.learn(hears_BN, self._returns(self._play(episodes, batch, generator, channel, hears_BN)))
        if trusting == "trials":
            played = self._play(episodes, 0, generator, channel, reputation.draw(episodes, generator))
        else:
            played = self._play(episodes, 0, generator, channel, trust_N=reputation.trust_N)
        return self._tested(played, reputation.trust_N)

    def _play(
        self,
        episodes: int,
        batch: int,
        generator: torch.Generator,
        channel: Channel | None,
        hears_BN: Tensor | None = None,
        trust_N: Tensor | None = None,
    ) -> Played:
        seed = 10_000 + self.seed + 1000 * batch  # batch 0 is what training measures itself on
        game = open_game(self.recipe.game, self.recipe.game_config, batch=episodes, seed=seed)
        seat = Seat(agents=self._agents, generator=generator)
        collector = Collector(game, ids=self.recipe.learn.ids)
        return collector.play(seat, channel=channel, hears_BN=hears_BN, trust_N=trust_N)

    def _returns(self, played: Played) -> Tensor:
        return played.won_E.float() if self._spec.score == "won" else played.episodes.reward_ET.sum(1)

    def _tested(self, played: Played, trust_N: Tensor | None) -> Tested:
        return Tested(measured=measured(played, self._spec), trust_N=trust_N)
