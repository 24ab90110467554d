"""Our games behind PettingZoo's parallel API."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from palmette.errors import UserError
from palmette.marl.envs.api import Frame, Game

Named = dict[str, Any]


def parallel_env(game: Game) -> Any:
    """Return one copy of a game as a PettingZoo `ParallelEnv`. Raises `UserError` where pettingzoo is not installed.

    Every agent gets the team's reward; infos hold the action mask. A seed given to ``reset`` restarts the game's draws.
    """
    try:
        from gymnasium.spaces import Box, Discrete
        from pettingzoo import ParallelEnv
    except ImportError:
        raise UserError("the PettingZoo adapter needs pettingzoo: pip install 'palmette[marl]'") from None
    if game.batch != 1:
        raise ValueError(f"PettingZoo steps one copy of a game, not {game.batch}: open it with batch=1")
    spec = game.spec

    class Adapter(ParallelEnv[str, np.ndarray, int]):
        metadata: Named = {"name": f"palmette_{spec.name}", "render_modes": []}  # noqa: RUF012

        def __init__(self) -> None:
            self.possible_agents = [f"agent_{n}" for n in range(spec.agents)]
            self.agents: list[str] = []
            self._state = np.zeros(spec.state_size, np.float32)
            self.render_mode = None
            self.observation_spaces = dict.fromkeys(self.possible_agents, Box(-np.inf, np.inf, (spec.obs_size,)))
            self.action_spaces: Any = {agent: Discrete(spec.actions) for agent in self.possible_agents}
            self.state_space = Box(-np.inf, np.inf, (spec.state_size,))

        def observation_space(self, agent: str) -> Any:
            return self.observation_spaces[agent]

        def action_space(self, agent: str) -> Any:
            return self.action_spaces[agent]

        def reset(self, seed: int | None = None, options: Named | None = None) -> tuple[Named, Named]:
            if seed is not None:
                game.draws.restart(seed)
            self.agents = list(self.possible_agents)
            frame = game.reset()
            return self._observations(frame), self._infos(frame)

        def step(self, actions: Named) -> tuple[Named, Named, Named, Named, Named]:
            chosen_BN = torch.tensor([[int(actions[agent]) for agent in self.possible_agents]])
            frame = game.step(chosen_BN)
            agents = self.agents
            if frame.ended_B:
                self.agents = []
            return (
                self._observations(frame),
                dict.fromkeys(agents, float(frame.reward_B)),
                dict.fromkeys(agents, bool(frame.terminated_B)),
                dict.fromkeys(agents, bool(frame.truncated_B)),
                self._infos(frame),
            )

        def state(self) -> np.ndarray:
            return self._state

        def _observations(self, frame: Frame) -> Named:
            self._state = frame.state_BS[0].float().numpy()
            return dict(zip(self.possible_agents, frame.obs_BNO[0].float().numpy(), strict=True))

        def _infos(self, frame: Frame) -> Named:
            masks = frame.avail_BNA[0].to(torch.int8).numpy()
            return {agent: {"action_mask": mask} for agent, mask in zip(self.possible_agents, masks, strict=True)}

    return Adapter()
