"""Hallway: agents in corridors of their own must step on 0 together, and none sees another.

The rules are those of NDQ (TonghanWang/NDQ, `join1.py`) and, in groups, of MASIA (`joinn.py`). As published, a limit of
max(length) + 10 lets a clock win without a word: everybody arrives at step max(length). With `slack` the limit is the
farthest agent's distance + slack, which no clock knows; `clock_bar` is what the best clock then wins.
"""

from __future__ import annotations

from fractions import Fraction
from math import prod
from typing import Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from palmette.errors import suggest
from palmette.marl.envs.api import Frame, Spec, check_actions
from palmette.marl.envs.draws import Draws

STAY, NEARER, FARTHER = 0, 1, 2

PUBLISHED: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "ndq": ((6, 6), ()),
    "maic": ((2, 6, 10), ()),
    "masia": ((4, 6, 10), ()),
    "masia_groups": ((3, 5, 4, 6, 10), (0, 0, 1, 1, 1)),
    "m2i2": ((4, 6, 8, 10), ()),
    "m2i2_groups": ((3, 5, 7, 4, 6, 8, 10), (0, 0, 0, 1, 1, 1, 1)),
}


class HallwayConfig(BaseModel):
    """Corridors, groups and the limit; `map` names a published configuration, `lengths` and `groups` make another."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    map: str = Field(default="masia", description=f"a published configuration: {', '.join(PUBLISHED)}")
    lengths: tuple[int, ...] = Field(default=(), description="corridors instead of the map's; an agent each")
    groups: tuple[int, ...] = Field(default=(), description="each agent's group, with lengths; empty: one group")
    slack: int | None = Field(default=None, ge=0, description="steps to spare for the farthest agent; none: published")
    reward: float = Field(default=5.0, gt=0, description="of a group that arrives together")
    one_hot: bool = Field(default=True, description="positions as one-hot vectors (learns), or as a number (published)")
    collision: Literal["upstream", "fixed"] = Field(
        default="upstream", description="two groups arriving at once: spoils the episode (upstream), or is taken back"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if not self.lengths and self.map not in PUBLISHED:
            raise ValueError(
                f"no hallway map '{self.map}'{suggest(self.map, PUBLISHED)}; known: {', '.join(PUBLISHED)}"
            )
        if not self.lengths and self.groups:
            raise ValueError("groups go with lengths; a map has its own")
        lengths, groups = self.corridors
        if len(lengths) < 2 or min(lengths) < 1:
            raise ValueError("lengths names at least two corridors of length 1 or more")
        if groups and (len(groups) != len(lengths) or sorted(set(groups)) != list(range(max(groups) + 1))):
            raise ValueError(f"groups gives each of the {len(lengths)} agents a group, numbered from 0 without a gap")
        return self

    @property
    def corridors(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """(lengths, groups) as they are played."""
        return (self.lengths, self.groups) if self.lengths else PUBLISHED[self.map]


class Hallway:
    """B games of Hallway; see the module."""

    def __init__(self, config: HallwayConfig, *, batch: int, seed: int = 0, device: str = "cpu") -> None:
        lengths, groups = config.corridors
        self.config, self.batch = config, batch
        self._grouped = bool(groups)
        self.draws = Draws(seed, device)
        self._lengths_N = torch.tensor(lengths, device=device)
        group_N = torch.tensor(groups or (0,) * len(lengths), device=device)
        self._member_GN = group_N == torch.arange(int(group_N.max()) + 1, device=device)[:, None]
        self._group_N = group_N
        self._move_A = torch.tensor([0, -1, 1], device=device)
        self._one_hot = torch.eye(max(lengths) + 1, device=device)
        spare = 10 if config.slack is None else config.slack
        self.spec = Spec(
            name="hallway",
            agents=len(lengths),
            actions=3,
            obs_size=(max(lengths) + 1 if config.one_hot else 1) + self._grouped,
            state_size=len(lengths) + (len(self._member_GN) if self._grouped else 0),
            limit=max(lengths) + spare,
            score="won",
        )
        self._avail_BNA = torch.ones(batch, len(lengths), 3, dtype=torch.bool, device=device)
        self.reset()

    def reset(self) -> Frame:
        """Put every agent uniformly on 1 .. its corridor's length."""
        return self.place(1 + self.draws.below(self._lengths_N, self.batch))

    def place(self, positions_BN: Tensor) -> Frame:
        """Start B episodes from given positions, 1 .. each corridor's length."""
        device, groups = positions_BN.device, len(self._member_GN)
        self.positions_BN = positions_BN.clone()
        self._steps_B = torch.zeros(self.batch, dtype=torch.long, device=device)
        farthest_B = positions_BN.amax(1)
        slack = self.config.slack
        self._limit_B = torch.full_like(farthest_B, self.spec.limit) if slack is None else farthest_B + slack
        self._active_BG = torch.ones(self.batch, groups, dtype=torch.bool, device=device)
        self._won_BG = torch.zeros_like(self._active_BG)
        self._failed_BG = torch.zeros_like(self._active_BG)
        self._terminated_B = torch.zeros(self.batch, dtype=torch.bool, device=device)
        self._truncated_B = torch.zeros_like(self._terminated_B)
        return self._frame(torch.zeros(self.batch, device=device))

    def step(self, actions_BN: Tensor) -> Frame:
        """Move everybody at once: 0 stay, 1 nearer to 0, 2 away."""
        check_actions(actions_BN, self.spec, self.batch)
        live_B = ~(self._terminated_B | self._truncated_B)
        may_move_BN = self._active_BG[:, self._group_N] & live_B[:, None]
        before_BN = self.positions_BN
        moved_BN = (before_BN + self._move_A[actions_BN]).clamp(min=0).minimum(self._lengths_N)
        self.positions_BN = torch.where(may_move_BN, moved_BN, before_BN)
        self._steps_B += live_B

        home_BGN = (self.positions_BN == 0)[:, None] & self._member_GN
        counting_BG = self._active_BG & live_B[:, None]
        all_home_BG = (home_BGN | ~self._member_GN).all(-1) & counting_BG
        some_home_BG = home_BGN.any(-1) & counting_BG
        arrived_B = all_home_BG.sum(1)
        collided_B = arrived_B > 1
        reward_B = self.config.reward * torch.where(collided_B, -0.5, 1.0) * arrived_B
        self._settle(all_home_BG, some_home_BG, collided_B, before_BN)
        self._end(live_B)
        return self._frame(reward_B)

    def _settle(self, all_home_BG: Tensor, some_home_BG: Tensor, collided_B: Tensor, before_BN: Tensor) -> None:
        """Freeze the groups that arrived, whole (won) or in part (failed); a collision counts for nobody."""
        spoiled_BG = all_home_BG & collided_B[:, None]
        self._won_BG |= all_home_BG & ~spoiled_BG
        self._failed_BG |= some_home_BG & ~all_home_BG
        self._active_BG &= ~some_home_BG
        if self.config.collision == "fixed":  # what NDQ's code meant to do: back to where they were, and try again
            self._active_BG |= spoiled_BG
            back_BN = spoiled_BG[:, self._group_N]
            self.positions_BN = torch.where(back_BN, before_BN, self.positions_BN)

    def _end(self, live_B: Tensor) -> None:
        won_B, failed_B = self._won_BG.all(1), self._failed_BG.all(1)
        over_B = won_B | failed_B
        if self.config.collision == "fixed":
            over_B = over_B | ~self._active_BG.any(1)  # upstream idles to the limit when nobody can move any more
        self._terminated_B |= over_B & live_B
        self._truncated_B |= (self._steps_B >= self._limit_B) & live_B & ~over_B

    def _frame(self, reward_B: Tensor) -> Frame:
        positions_BN1 = self.positions_BN[..., None].float()
        seen = [self._one_hot[self.positions_BN] if self.config.one_hot else positions_BN1]
        state = [positions_BN1[..., 0] / self._lengths_N.max()]
        if self._grouped:
            active_BN = self._active_BG[:, self._group_N].float()
            seen.append(active_BN[..., None])
            state.append(self._active_BG.float())
        return Frame(
            obs_BNO=torch.cat(seen, -1),
            state_BS=torch.cat(state, -1),
            avail_BNA=self._avail_BNA,
            reward_B=reward_B,
            terminated_B=self._terminated_B.clone(),
            truncated_B=self._truncated_B.clone(),
            won_B=self._won_BG.all(1),
        )


def clock_bar(config: HallwayConfig) -> Fraction | None:
    """Return how often the best clock wins without communication, exactly; None for grouped games.

    A clock is a step T at which everybody arrives who can. It wins when nobody starts beyond T and T is within the
    limit; with F(k) = prod_i min(k, m_i) / m_i the probability that all start within k, that is F(T), and with slack
    F(T) - F(T - slack - 1).
    """
    lengths, groups = config.corridors
    if groups:
        return None

    def within(step: int) -> Fraction:
        return prod((Fraction(max(0, min(step, length)), length) for length in lengths), start=Fraction(1))

    if config.slack is None:
        return within(max(lengths) + 10)
    return max(within(step) - within(step - config.slack - 1) for step in range(1, max(lengths) + config.slack + 1))
