"""One training of one seed: playing, learning and measuring in turn, and its position as tensors."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from palmette.marl.collect import Collector, Played, Seat
from palmette.marl.comm.api import Sizes
from palmette.marl.comm.names import open_method
from palmette.marl.envs.api import Spec
from palmette.marl.envs.names import open_game
from palmette.marl.episode import Buffer, names_of
from palmette.marl.learn import Learner, open_learner
from palmette.marl.recipe import MarlRecipe

_FIRST_EPISODES = 64  # in the buffer before the first update


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A test without exploration."""

    score: float  # share of episodes won, or the mean return of a game without a winner
    mean_return: float
    comm_rate: float  # share of the N (N - 1) links that were open
    messages: float  # a step


def measured(played: Played, spec: Spec) -> Measured:
    """Return what a test came to."""
    return Measured(
        score=played.won if spec.score == "won" else played.mean_return,
        mean_return=played.mean_return,
        comm_rate=played.comm_rate,
        messages=played.messages,
    )


class Training:
    """Trains one network; all that is random comes from `seed`, and `state` is all there is to go on from."""

    def __init__(self, recipe: MarlRecipe, seed: int) -> None:
        """Open game and networks. Raises `UserError` for what the recipe asks of this game and cannot have."""
        self.recipe, self.seed = recipe, seed
        config = recipe.learn
        self._generator = torch.Generator().manual_seed(seed)
        self.game = open_game(recipe.game, recipe.game_config, batch=config.parallel, seed=seed)
        self.spec = spec = self.game.spec
        sizes = Sizes(
            agents=spec.agents,
            names=names_of(spec, config.ids) or (0,) * spec.agents,
            actions=spec.actions,
            hidden=config.hidden,
            state=spec.state_size,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            comm = open_method(recipe.method, sizes, recipe.method_config)
            self.learner: Learner = open_learner(spec, comm, recipe.mixer, config, self._generator)
        self._collector = Collector(self.game, ids=config.ids)
        self.buffer = Buffer(config.buffer)
        self.env_steps = 0
        self.seconds = 0.0  # of this process's time, measuring included
        self._row: dict[str, float] = {}

    @property
    def epsilon(self) -> float:
        """Share of random actions now."""
        last, steps = self.recipe.learn.epsilon_last, self.recipe.learn.epsilon_steps
        return max(last, 1 - (1 - last) * self.env_steps / steps)

    @property
    def open_all(self) -> bool:
        """Whether a gate that learns is still held open."""
        return self.env_steps < self.recipe.warm_steps

    @property
    def finished(self) -> bool:
        """Whether all steps were played."""
        return self.env_steps >= self.recipe.steps

    def advance(self) -> dict[str, float]:
        """Play a batch of episodes and do the updates that its steps are worth; return what is known now."""
        start_s = time.process_time()
        played = self._collector.play(self.seat)
        self.seconds += time.process_time() - start_s
        return self.learn(played)

    @property
    def seat(self) -> Seat:
        """The network as it plays now."""
        agents = self.learner.agents
        return Seat(agents=agents, generator=self._generator, epsilon=self.epsilon, open_all=self.open_all)

    def learn(self, played: Played) -> dict[str, float]:
        """Keep what `seat` has played and do the updates that its steps are worth; return what is known now."""
        start_s = time.process_time()
        config = self.recipe.learn
        self.buffer.add(played.episodes)
        self.env_steps += played.episodes.steps
        if len(self.buffer) >= min(_FIRST_EPISODES, self.buffer.capacity):
            while self.learner.updates * config.update_every < self.env_steps:
                batch = self.buffer.sample(config.batch, self._generator)
                self._row = self.learner.update(batch, open_all=self.open_all)
        self.seconds += time.process_time() - start_s
        return {**self._row, "epsilon": self.epsilon, "updates": self.learner.updates}

    def measure(self, episodes: int | None = None, **play: Any) -> Measured:
        """Play `episodes` (the recipe's number, if not given) greedily, always the same ones; trains nothing."""
        start_s = time.process_time()
        episodes = episodes or self.recipe.test.episodes
        game = open_game(self.recipe.game, self.recipe.game_config, batch=episodes, seed=10_000 + self.seed)
        generator = torch.Generator().manual_seed(self.seed)
        seat = Seat(agents=self.learner.agents, generator=generator, open_all=self.open_all)
        played = Collector(game, ids=self.recipe.learn.ids).play(seat, **play)
        self.seconds += time.process_time() - start_s
        return measured(played, self.spec)

    def weights(self) -> dict[str, Tensor]:
        """Return the agents' network, as `palmette.marl.team.Team` takes it."""
        return {name: value.contiguous() for name, value in self.learner.agents.state_dict().items()}

    def state(self) -> dict[str, Tensor]:
        """Return everything that goes on, by dotted name."""
        found = {
            "env_steps": torch.tensor(self.env_steps),
            "updates": torch.tensor(self.learner.updates),
            "seconds": torch.tensor(self.seconds, dtype=torch.float64),
            "generator": self._generator.get_state(),
            "torch": torch.get_rng_state(),
        }
        for name, module in self.learner.modules().items():
            found |= {f"{name}.{key}": value for key, value in module.state_dict().items()}
        for name, optimiser in self.learner.optimisers().items():
            for index, slots in optimiser.state_dict()["state"].items():
                found |= {f"{name}.{index}.{key}": value for key, value in slots.items()}
        found |= {f"game.{key}": value for key, value in self.game.draws.state_dict().items()}
        found |= {f"buffer.{key}": value for key, value in self.buffer.state_dict().items()}
        return {name: value.contiguous() for name, value in found.items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from a `state`."""
        self.env_steps, self.learner.updates = int(state["env_steps"]), int(state["updates"])
        self.seconds = float(state["seconds"])
        self._generator.set_state(state["generator"])
        torch.set_rng_state(state["torch"])
        for name, module in self.learner.modules().items():
            module.load_state_dict(_below(state, name))
        for name, optimiser in self.learner.optimisers().items():
            slots: dict[int, dict[str, Tensor]] = {}
            for key, value in _below(state, name).items():
                index, _, slot = key.partition(".")
                slots.setdefault(int(index), {})[slot] = value
            optimiser.load_state_dict({**optimiser.state_dict(), "state": slots})
        self.game.draws.load_state_dict(_below(state, "game"))
        self.buffer.load_state_dict(_below(state, "buffer"))


def _below(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key[len(name) + 1 :]: value for key, value in state.items() if key.startswith(f"{name}.")}
