"""Predator-prey (MPE `simple_tag`): slow predators, the agents, hunt faster prey among obstacles.

Step for step equal to the `mpe2` package, whose prey is played by a second learner; here a fixed policy of ours plays
it, so that the game is cooperative. With `view_radius` a predator sees only what is near.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from palmette.marl.envs.api import Frame, Spec, check_actions
from palmette.marl.envs.draws import Draws
from palmette.marl.envs.particles import ACTIONS, Bodies, advance, distances, others_of, thrust

_CATCH = 10.0


class PredatorsConfig(BaseModel):
    """How many of each, how far predators see, and how the prey plays."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    predators: int = Field(default=3, ge=2, description="agents")
    prey: int = Field(default=1, ge=1, description="hunted, by a fixed policy")
    obstacles: int = Field(default=2, ge=0, description="solid landmarks")
    view_radius: float | None = Field(default=None, gt=0, description="how far a predator sees; none: everything")
    prey_policy: Literal["flee", "random", "still"] = Field(default="flee", description="how the prey plays")
    limit: int = Field(default=25, ge=1, description="steps of an episode")


class Predators:
    """B games of predator-prey; every touch between a predator and a prey is worth 10 to the team."""

    def __init__(
        self,
        config: PredatorsConfig,
        *,
        batch: int,
        seed: int = 0,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        hunters, prey, obstacles = config.predators, config.prey, config.obstacles
        self.config, self.batch, self.dtype = config, batch, dtype
        self.draws = Draws(seed, device)

        def constants(hunter: float, hunted: float, obstacle: float | None = None) -> Tensor:
            still = [] if obstacle is None else [obstacle] * obstacles
            return torch.tensor([hunter] * hunters + [hunted] * prey + still, dtype=dtype, device=device)

        size_E = constants(0.075, 0.05, 0.2)
        self.bodies = Bodies(
            size_E=size_E,
            solid_E=torch.ones_like(size_E).bool(),
            push_A=constants(3.0, 4.0),
            top_speed_A=constants(1.0, 1.3),
        )
        self._others_NM = others_of(hunters + prey, device)[:hunters]
        flags = obstacles + hunters + prey - 1 if config.view_radius is not None else 0
        self.spec = Spec(
            name="predators",
            agents=hunters,
            actions=ACTIONS,
            obs_size=4 + 2 * obstacles + 2 * (hunters + prey - 1) + 2 * prey + flags,
            state_size=2 * (2 * (hunters + prey) + obstacles),
            limit=config.limit,
            score="return",
        )
        self._avail_BNA = torch.ones(batch, hunters, ACTIONS, dtype=torch.bool, device=device)
        self._never_B = torch.zeros(batch, dtype=torch.bool, device=device)
        self.reset()

    def reset(self) -> Frame:
        """Put agents anywhere in the square, and obstacles a little inside it."""
        agents = self.bodies.agents
        entities = len(self.bodies.size_E)
        positions_BE2 = self.draws.uniform(self.batch, entities, 2, low=-1, high=1, dtype=self.dtype)
        positions_BE2[:, agents:] *= 0.9
        return self.place(positions_BE2)

    def place(self, positions_BE2: Tensor) -> Frame:
        """Start B episodes from given positions of predators, prey and obstacles, all at rest."""
        self._positions_BE2 = positions_BE2.to(self.dtype)
        self._velocities_BA2 = torch.zeros_like(self._positions_BE2[:, : self.bodies.agents])
        self._steps = 0
        return self._frame(torch.zeros(self.batch, dtype=self.dtype, device=positions_BE2.device))

    def step(self, actions_BN: Tensor) -> Frame:
        """Push the predators, let the prey play; after the limit nothing moves."""
        check_actions(actions_BN, self.spec, self.batch)
        if self._steps >= self.config.limit:
            return self._frame(torch.zeros(self.batch, dtype=self.dtype, device=actions_BN.device))
        force_BA2 = thrust(torch.cat([actions_BN, self.prey_actions_BP()], 1), self.bodies)
        self._positions_BE2, self._velocities_BA2 = advance(
            self._positions_BE2, self._velocities_BA2, force_BA2, self.bodies
        )
        self._steps += 1
        return self._frame(_CATCH * self._touches_B())

    def prey_actions_BP(self) -> Tensor:
        """Return what the prey does next: flees from predators and walls along one axis, or as its policy says.

        A random prey draws anew at every call.
        """
        hunters, prey = self.config.predators, self.config.prey
        prey_BP2 = self._positions_BE2[:, hunters : hunters + prey]
        if self.config.prey_policy == "still":
            return torch.zeros(prey_BP2.shape[:2], dtype=torch.long, device=prey_BP2.device)
        if self.config.prey_policy == "random":
            return self.draws.below(torch.full((prey,), ACTIONS, device=prey_BP2.device), self.batch)
        away_BPN2 = prey_BP2[:, :, None] - self._positions_BE2[:, None, :hunters]
        fear_BP2 = (away_BPN2 / away_BPN2.square().sum(-1, keepdim=True).clamp(min=1e-2)).sum(2)
        walls_BP2 = -prey_BP2.sign() * (prey_BP2.abs() - 0.7).clamp(min=0) * 40
        urge_BP2 = fear_BP2 + walls_BP2
        axis_BP = urge_BP2.abs().argmax(-1)
        ahead_BP = urge_BP2.gather(-1, axis_BP[..., None]).squeeze(-1) > 0
        return 1 + 2 * axis_BP + ahead_BP.long()

    def _touches_B(self) -> Tensor:
        hunters, prey = self.config.predators, self.config.prey
        prey_BP2 = self._positions_BE2[:, hunters : hunters + prey]
        reach = self.bodies.size_E[0] + self.bodies.size_E[hunters]
        return (distances(self._positions_BE2[:, :hunters], prey_BP2) < reach).sum((1, 2)).to(self.dtype)

    def _frame(self, reward_B: Tensor) -> Frame:
        hunters, prey, agents = self.config.predators, self.config.prey, self.bodies.agents
        own_BN2 = self._positions_BE2[:, :hunters]
        rocks_BNL2 = self._positions_BE2[:, None, agents:] - own_BN2[:, :, None]
        others_BNM2 = self._positions_BE2[:, self._others_NM] - own_BN2[:, :, None]
        running_BNP2 = self._velocities_BA2[:, None, hunters:].expand(-1, hunters, -1, -1)
        seen: list[Tensor] = []
        if self.config.view_radius is not None:
            radius = self.config.view_radius
            rocks_seen_BNL = rocks_BNL2.norm(dim=-1) <= radius
            others_seen_BNM = others_BNM2.norm(dim=-1) <= radius
            rocks_BNL2 = rocks_BNL2 * rocks_seen_BNL[..., None]
            others_BNM2 = others_BNM2 * others_seen_BNM[..., None]
            running_BNP2 = running_BNP2 * others_seen_BNM[:, :, -prey:, None]  # the prey are the last of the others
            seen = [rocks_seen_BNL.to(self.dtype), others_seen_BNM.to(self.dtype)]
        parts = [self._velocities_BA2[:, :hunters], own_BN2, rocks_BNL2.flatten(2), others_BNM2.flatten(2)]
        parts += [running_BNP2.flatten(2), *seen]
        return Frame(
            obs_BNO=torch.cat(parts, -1),
            state_BS=torch.cat([self._positions_BE2.flatten(1), self._velocities_BA2.flatten(1)], -1),
            avail_BNA=self._avail_BNA,
            reward_B=reward_B,
            terminated_B=self._never_B,
            truncated_B=self._never_B | (self._steps >= self.config.limit),
            won_B=self._never_B,
        )
