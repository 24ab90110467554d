"""SMAX, JaxMARL's StarCraft-like micromanagement (arXiv 2311.10090), where the `jaxmarl` package is installed.

A game of its own: SMAX is never called SMAC. Allies are the agents, JaxMARL's heuristic plays the enemy. Stepped in one
compiled call for all copies; the first step of a game compiles for tens of seconds.
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from palmette.errors import UserError, suggest
from palmette.marl.envs.api import Frame, Spec, check_actions
from palmette.marl.envs.draws import Draws


class SmaxConfig(BaseModel):
    """Which map, and how far units see."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    map: str = Field(default="2s3z", description="a scenario of JaxMARL, such as 3m, 2s3z, 3s5z, 5m_vs_6m")
    sight_range: float | None = Field(
        default=None, gt=0, description="how far allies see, and not the enemy; none: as JaxMARL has it"
    )
    see_enemy_actions: bool = Field(default=True, description="whether a unit sees what the enemy is doing")
    limit: int = Field(default=100, ge=1, description="steps of an episode")


class Smax:
    """B games of SMAX."""

    def __init__(self, config: SmaxConfig, *, batch: int, seed: int = 0, device: str = "cpu") -> None:
        """Raises `UserError` where jaxmarl is not installed, or has no such map."""
        self._jax, self._env, self._start, self._step = _compiled(
            config.map, config.sight_range, config.see_enemy_actions, config.limit
        )
        self.batch = batch
        self.draws = Draws(seed, device)
        self.spec = Spec(
            name="smax",
            agents=self._env.num_agents,
            actions=int(self._env.action_space("ally_0").n),
            obs_size=int(self._env.obs_size),
            state_size=int(self._env.state_size),
            limit=config.limit,
            score="won",
        )
        self._state: Any = None
        self._over_B = np.zeros(batch, bool)

    def reset(self) -> Frame:
        """Start B battles."""
        self._over_B = np.zeros(self.batch, bool)
        obs, self._state = self._start(self._keys())
        return self._frame(obs, np.zeros(self.batch, np.float32))

    def step(self, actions_BN: Tensor) -> Frame:
        """Let the allies act; the enemy follows its heuristic."""
        check_actions(actions_BN, self.spec, self.batch)
        actions = {agent: actions_BN[:, n].cpu().numpy() for n, agent in enumerate(self._env.agents)}
        obs, self._state, reward_B, over_B = self._step(self._keys(), self._state, actions, self._over_B)
        self._over_B = np.asarray(over_B)
        return self._frame(obs, np.asarray(reward_B))

    def _keys(self) -> Any:
        sources = self.draws.sources
        drawn_S = self.draws.below(torch.tensor([2**31 - 1], device=self.draws.device), sources)[:, 0].tolist()
        keys = [self._jax.random.split(self._jax.random.PRNGKey(each), self.batch // sources) for each in drawn_S]
        return self._jax.numpy.concatenate(keys)

    def _frame(self, seen: dict[str, Any], reward_B: np.ndarray) -> Frame:
        def tensor(value: Any) -> Tensor:
            return torch.from_numpy(np.array(value)).to(self.draws.device)

        over_B = tensor(self._over_B)
        allies_B, enemies_B = tensor(seen["allies"]), tensor(seen["enemies"])
        decided_B = over_B & ~(allies_B & enemies_B)
        return Frame(
            obs_BNO=tensor(seen["obs"]).float(),
            state_BS=tensor(seen["state"]).float(),
            avail_BNA=tensor(seen["avail"]).bool(),
            reward_B=tensor(reward_B).float(),
            terminated_B=decided_B,
            truncated_B=over_B & ~decided_B,
            won_B=decided_B & ~enemies_B & allies_B,
        )


def _packages() -> tuple[Any, Any]:
    try:
        return importlib.import_module("jax"), importlib.import_module("jaxmarl")
    except ImportError:
        raise UserError("the game smax needs jaxmarl: pip install 'palmette[smax]'") from None


@cache
def _compiled(name: str, sight: float | None, see_enemy: bool, limit: int) -> tuple[Any, Any, Any, Any]:
    """Return (jax, environment, start, step): games of one configuration share what was compiled."""
    jax, package = _packages()
    known = list(package.environments.smax.smax_env.MAP_NAME_TO_SCENARIO)
    if name not in known:
        raise UserError(f"no SMAX map '{name}'{suggest(name, known)} (known: {', '.join(known)})")
    # JaxMARL compares the count before a step with its limit, and so plays one step more than it says.
    options: dict[str, Any] = {"see_enemy_actions": see_enemy, "max_steps": limit - 1}
    options["scenario"] = package.environments.smax.map_name_to_scenario(name)
    env = eyes = package.make("HeuristicEnemySMAX", **options)
    if sight is not None:  # another environment looks at the same state, for an enemy that sees little is easily beaten
        eyes = package.make("HeuristicEnemySMAX", unit_type_sight_ranges=jax.numpy.full(6, sight), **options)
    least_S, scale_S = _bounds_of_state(env)

    def look(state: Any) -> dict[str, Any]:
        seen, avail = eyes.get_obs(state), env.get_avail_actions(state)
        alive = state.state.unit_alive
        return {
            "obs": jax.numpy.stack([seen[agent] for agent in env.agents]),
            "avail": jax.numpy.stack([avail[agent] for agent in env.agents]),
            "state": jax.numpy.maximum(env.get_world_state(state), least_S) * scale_S,
            "allies": alive[: env.num_agents].any(),
            "enemies": alive[env.num_agents :].any(),
        }

    def settled(state: Any) -> Any:
        """Return the state with its kinds of numbers fixed: else the second step compiles once more."""
        return jax.tree.map(lambda leaf: jax.numpy.asarray(leaf).astype(jax.numpy.result_type(leaf)), state)

    def start(key: Any) -> Any:
        state = settled(env.reset(key)[1])
        return look(state), state

    def step(key: Any, state: Any, actions: Any, over: Any) -> Any:
        _, after, rewards, dones, _ = env.step_env(key, state, actions)
        after = settled(jax.tree.map(lambda new, old: jax.numpy.where(over, old, new), after, state))
        reward = jax.numpy.where(over, 0.0, rewards[env.agents[0]])
        return look(after), after, reward, over | dones["__all__"]

    return jax, env, jax.jit(jax.vmap(start)), jax.jit(jax.vmap(step))


def _bounds_of_state(env: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return (least_S, scale_S) that keep the state within 1 or so, as QMIX needs it.

    JaxMARL gives positions in units of length, up to 32, and a cooldown that goes on falling while a weapon is ready.
    """
    width = len(env.own_features)
    units = slice((env.num_allies + env.num_enemies) * width)  # each: health, x, y, cooldown, and what it is
    least_S, scale_S = np.full(env.state_size, -np.inf, np.float32), np.ones(env.state_size, np.float32)
    scale_S[units][1::width] = 1 / env.map_width
    scale_S[units][2::width] = 1 / env.map_height
    least_S[units][3::width] = 0
    return least_S, scale_S
