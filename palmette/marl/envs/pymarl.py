"""PyMARL's MultiAgentEnv, both ways: our games for its learners, and its environments for ours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from palmette.marl.envs.api import Frame, Game, Spec, check_actions
from palmette.marl.envs.draws import Draws


class PyMarlEnv:
    """One copy of a game with the methods that PyMARL, EPyMARL and their many forks call."""

    def __init__(self, game: Game) -> None:
        if game.batch != 1:
            raise ValueError(f"PyMARL steps one copy of a game, not {game.batch}: open it with batch=1")
        self.game = game
        self.n_agents, self.episode_limit = game.spec.agents, game.spec.limit
        self._frame = game.reset()

    def reset(self) -> tuple[list[np.ndarray], np.ndarray]:
        """Start an episode; return (observations, state)."""
        self._frame = self.game.reset()
        return self.get_obs(), self.get_state()

    def step(self, actions: Sequence[int]) -> tuple[float, bool, dict[str, Any]]:
        """Return (reward, whether the episode is over, info); reaching the limit is marked in the info."""
        self._frame = frame = self.game.step(torch.as_tensor([int(action) for action in actions])[None])
        info: dict[str, Any] = {"battle_won": bool(frame.won_B)}
        if frame.truncated_B:
            info["episode_limit"] = True
        return float(frame.reward_B), bool(frame.ended_B), info

    def get_obs(self) -> list[np.ndarray]:
        """Return each agent's observation."""
        return list(self._frame.obs_BNO[0].numpy())

    def get_obs_agent(self, agent_id: int) -> np.ndarray:
        """Return one agent's observation."""
        return self.get_obs()[agent_id]

    def get_obs_size(self) -> int:
        """Return the length of an observation."""
        return self.game.spec.obs_size

    def get_state(self) -> np.ndarray:
        """Return the state, for the mixer."""
        return self._frame.state_BS[0].numpy()

    def get_state_size(self) -> int:
        """Return the length of the state."""
        return self.game.spec.state_size

    def get_avail_actions(self) -> list[list[int]]:
        """Return 1 for each action that each agent may choose, else 0."""
        return self._frame.avail_BNA[0].int().tolist()

    def get_avail_agent_actions(self, agent_id: int) -> list[int]:
        """Return 1 for each action that one agent may choose, else 0."""
        return self.get_avail_actions()[agent_id]

    def get_total_actions(self) -> int:
        """Return how many actions there are."""
        return self.game.spec.actions

    def get_env_info(self) -> dict[str, int]:
        """Return the sizes that PyMARL builds its networks from."""
        spec = self.game.spec
        return {
            "state_shape": spec.state_size,
            "obs_shape": spec.obs_size,
            "n_actions": spec.actions,
            "n_agents": spec.agents,
            "episode_limit": spec.limit,
        }

    def get_stats(self) -> dict[str, float]:
        """Return nothing: what there is to know is in the info."""
        return {}

    def close(self) -> None:
        """Do nothing: our games hold no resources."""

    def render(self) -> None:
        """Do nothing."""

    def save_replay(self) -> None:
        """Do nothing."""


class FromPyMarl:
    """A game of ours made of PyMARL environments, stepped one after the other."""

    def __init__(
        self, name: str, make: Callable[[int], Any], *, batch: int, seed: int = 0, device: str = "cpu"
    ) -> None:
        """`make` opens one environment from a seed."""
        self.batch = batch
        self.draws = Draws(seed, device)
        self._envs = [make(seed + copy) for copy in range(batch)]
        info = self._envs[0].get_env_info()
        self.spec = Spec(
            name=name,
            agents=info["n_agents"],
            actions=info["n_actions"],
            obs_size=info["obs_shape"],
            state_size=info["state_shape"],
            limit=info["episode_limit"],
            score="won",
        )
        self._reset_flags()

    def reset(self) -> Frame:
        """Start an episode in every environment."""
        for env in self._envs:
            env.reset()
        self._reset_flags()
        return self._frame([0.0] * self.batch)

    def step(self, actions_BN: Tensor) -> Frame:
        """Step the environments whose episodes are not over."""
        check_actions(actions_BN, self.spec, self.batch)
        rewards = [0.0] * self.batch
        for copy, env in enumerate(self._envs):
            if self._terminated[copy] or self._truncated[copy]:
                continue
            rewards[copy], over, info = env.step(actions_BN[copy].tolist())
            self._won[copy] = bool(info.get("battle_won", False))
            self._truncated[copy] = over and bool(info.get("episode_limit", False))
            self._terminated[copy] = over and not self._truncated[copy]
        return self._frame(rewards)

    def close(self) -> None:
        """Close the environments."""
        for env in self._envs:
            env.close()

    def _reset_flags(self) -> None:
        self._terminated, self._truncated, self._won = ([False] * self.batch for _ in range(3))

    def _frame(self, rewards: list[float]) -> Frame:
        device = self.draws.device

        def tensor(rows: list[Any], dtype: torch.dtype) -> Tensor:
            return torch.as_tensor(np.asarray(rows), dtype=dtype, device=device)

        return Frame(
            obs_BNO=tensor([env.get_obs() for env in self._envs], torch.float32),
            state_BS=tensor([env.get_state() for env in self._envs], torch.float32),
            avail_BNA=tensor([env.get_avail_actions() for env in self._envs], torch.bool),
            reward_B=tensor(rewards, torch.float32),
            terminated_B=tensor(self._terminated, torch.bool),
            truncated_B=tensor(self._truncated, torch.bool),
            won_B=tensor(self._won, torch.bool),
        )
