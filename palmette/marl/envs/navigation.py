"""Cooperative navigation (MPE `simple_spread`): N agents cover N landmarks and keep out of each other's way.

Step for step equal to the `mpe2` package. With `view_radius` an agent sees only what is near, and communication has
something to add; mpe2 has no such option, and without it every agent sees everything.
"""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from palmette.marl.envs.api import Frame, Spec, check_actions
from palmette.marl.envs.draws import Draws
from palmette.marl.envs.particles import ACTIONS, Bodies, advance, distances, others_of, thrust


class NavigationConfig(BaseModel):
    """How many, how far they see, and how long."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    agents: int = Field(default=3, ge=2, description="agents, and as many landmarks")
    view_radius: float | None = Field(default=None, gt=0, description="how far an agent sees; none: everything")
    local_ratio: float = Field(default=0.5, ge=0, le=1, description="weight of an agent's own collisions")
    limit: int = Field(default=25, ge=1, description="steps of an episode")


class Navigation:
    """B games of cooperative navigation; the team's reward is the mean of the agents'."""

    def __init__(
        self,
        config: NavigationConfig,
        *,
        batch: int,
        seed: int = 0,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        count = config.agents
        self.config, self.batch, self.dtype = config, batch, dtype
        self.draws = Draws(seed, device)
        self.bodies = Bodies(
            size_E=torch.tensor([0.15] * count + [0.05] * count, dtype=dtype, device=device),
            solid_E=torch.tensor([True] * count + [False] * count, device=device),
            push_A=torch.full((count,), 5.0, dtype=dtype, device=device),
            top_speed_A=torch.full((count,), torch.inf, dtype=dtype, device=device),
        )
        self._others_NM = others_of(count, device)
        flags = 2 * count - 1 if config.view_radius is not None else 0
        self.spec = Spec(
            name="navigation",
            agents=count,
            actions=ACTIONS,
            obs_size=4 + 2 * count + 4 * (count - 1) + flags,
            state_size=6 * count,
            limit=config.limit,
            score="return",
        )
        self._avail_BNA = torch.ones(batch, count, ACTIONS, dtype=torch.bool, device=device)
        self._never_B = torch.zeros(batch, dtype=torch.bool, device=device)
        self.reset()

    def reset(self) -> Frame:
        """Put agents and landmarks anywhere in the square."""
        return self.place(self.draws.uniform(self.batch, 2 * self.config.agents, 2, low=-1, high=1, dtype=self.dtype))

    def place(self, positions_BE2: Tensor) -> Frame:
        """Start B episodes from given positions of agents, then landmarks, all at rest."""
        self._positions_BE2 = positions_BE2.to(self.dtype)
        self._velocities_BA2 = torch.zeros_like(self._positions_BE2[:, : self.config.agents])
        self._steps = 0
        self.rewards_BN = torch.zeros(self.batch, self.config.agents, dtype=self.dtype, device=positions_BE2.device)
        return self._frame()

    def step(self, actions_BN: Tensor) -> Frame:
        """Push every agent; after the limit nothing moves."""
        check_actions(actions_BN, self.spec, self.batch)
        if self._steps >= self.config.limit:
            self.rewards_BN = torch.zeros_like(self.rewards_BN)
            return self._frame()
        self._positions_BE2, self._velocities_BA2 = advance(
            self._positions_BE2, self._velocities_BA2, thrust(actions_BN, self.bodies), self.bodies
        )
        self._steps += 1
        self.rewards_BN = self._rewards_BN()
        return self._frame()

    def _rewards_BN(self) -> Tensor:
        """Minus the distance from each landmark to its nearest agent, mixed with minus each agent's own collisions."""
        count, ratio = self.config.agents, self.config.local_ratio
        agents_BN2, landmarks_BN2 = self._positions_BE2[:, :count], self._positions_BE2[:, count:]
        uncovered_B = distances(agents_BN2, landmarks_BN2).amin(1).sum(-1)
        touching_BNN = distances(agents_BN2, agents_BN2) < 2 * self.bodies.size_E[0]
        collisions_BN = touching_BNN.sum(-1) - 1  # one is with itself
        return -(1 - ratio) * uncovered_B[:, None] - ratio * collisions_BN.to(self.dtype)

    def _frame(self) -> Frame:
        count, batch = self.config.agents, self.batch
        positions_BN2, landmarks_BN2 = self._positions_BE2[:, :count], self._positions_BE2[:, count:]
        marks_BNL2 = landmarks_BN2[:, None] - positions_BN2[:, :, None]
        others_BNM2 = positions_BN2[:, self._others_NM] - positions_BN2[:, :, None]
        silence_BNC = torch.zeros(batch, count, 2 * (count - 1), dtype=self.dtype, device=positions_BN2.device)
        seen: list[Tensor] = []
        if self.config.view_radius is not None:
            radius = self.config.view_radius
            marks_seen_BNL = marks_BNL2.norm(dim=-1) <= radius
            others_seen_BNM = others_BNM2.norm(dim=-1) <= radius
            marks_BNL2 = marks_BNL2 * marks_seen_BNL[..., None]
            others_BNM2 = others_BNM2 * others_seen_BNM[..., None]
            seen = [marks_seen_BNL.to(self.dtype), others_seen_BNM.to(self.dtype)]
        parts = [self._velocities_BA2, positions_BN2, marks_BNL2.flatten(2), others_BNM2.flatten(2), silence_BNC]
        state_BS = torch.cat([self._positions_BE2.flatten(1), self._velocities_BA2.flatten(1)], -1)
        return Frame(
            obs_BNO=torch.cat(parts + seen, -1),
            state_BS=state_BS,
            avail_BNA=self._avail_BNA,
            reward_B=self.rewards_BN.mean(1),
            terminated_B=self._never_B,
            truncated_B=self._never_B | (self._steps >= self.config.limit),
            won_B=self._never_B,
        )
