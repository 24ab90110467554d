"""Scout: immobile scouts each watch a strip of the map, hunters must strike together, and one scout knows where.

At any moment exactly one scout sees the target, so who speaks to whom matters: most of a broadcast is silence. A hunter
sees the target only when it stands beside it. Won when all hunters strike within reach in the same step. Ours.
"""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from palmette.marl.envs.api import Frame, Spec, check_actions
from palmette.marl.envs.draws import Draws

STRIKE = 5
_OBS = 5


class ScoutConfig(BaseModel):
    """How many look, how many strike, and where."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scouts: int = Field(default=3, ge=1, description="watchers, each of one strip")
    hunters: int = Field(default=2, ge=1, description="strikers, all of whom are needed")
    size: int = Field(default=9, ge=3, description="width and height of the map")
    sight: int = Field(default=1, ge=0, description="cells within which a hunter sees and strikes")
    limit: int = Field(default=20, ge=1, description="steps of an episode")
    reward: float = Field(default=5.0, gt=0, description="of winning")
    sighting: float = Field(default=0.5, ge=0, description="of a hunter's first sight of the target")


class Scout:
    """B games of Scout. Agents are scouts, then hunters; actions are stay, four moves, strike (scouts only stay)."""

    def __init__(self, config: ScoutConfig, *, batch: int, seed: int = 0, device: str = "cpu") -> None:
        self.config, self.batch = config, batch
        self.draws = Draws(seed, device)
        self._strips_S = torch.arange(config.scouts, device=device)
        self._move_A2 = torch.tensor([[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1], [0, 0]], device=device)
        agents = config.scouts + config.hunters
        self.spec = Spec(
            name="scout",
            agents=agents,
            actions=6,
            obs_size=_OBS,
            state_size=2 * config.hunters + 2,
            limit=config.limit,
            score="won",
            roles=(0,) * config.scouts + (1,) * config.hunters,
        )
        self._avail_BNA = torch.ones(batch, agents, 6, dtype=torch.bool, device=device)
        self._avail_BNA[:, : config.scouts, 1:] = False
        self.reset()

    def reset(self) -> Frame:
        """Put hunters and target anywhere."""
        sides = torch.full((2 * self.config.hunters + 2,), self.config.size, device=self.draws.device)
        drawn_BP2 = self.draws.below(sides, self.batch).view(self.batch, -1, 2)
        return self.place(drawn_BP2[:, :-1], drawn_BP2[:, -1])

    def place(self, hunters_BH2: Tensor, target_B2: Tensor) -> Frame:
        """Start B episodes from given cells."""
        self._hunters_BH2, self._target_B2 = hunters_BH2.clone(), target_B2.clone()
        self._steps = 0
        self._won_B = torch.zeros(self.batch, dtype=torch.bool, device=hunters_BH2.device)
        self._truncated_B = torch.zeros_like(self._won_B)
        self._found_BH = torch.zeros(hunters_BH2.shape[:2], dtype=torch.bool, device=hunters_BH2.device)
        return self._frame(torch.zeros(self.batch, device=hunters_BH2.device))

    def step(self, actions_BN: Tensor) -> Frame:
        """Move the hunters; those beside the target may strike it."""
        check_actions(actions_BN, self.spec, self.batch)
        live_B = ~(self._won_B | self._truncated_B)
        hunting_BH = actions_BN[:, self.config.scouts :]
        moved_BH2 = (self._hunters_BH2 + self._move_A2[hunting_BH]).clamp(0, self.config.size - 1)
        self._hunters_BH2 = torch.where(live_B[:, None, None], moved_BH2, self._hunters_BH2)
        self._steps += 1
        near_BH = self._near_BH()
        won_B = ((hunting_BH == STRIKE) & near_BH).all(1) & live_B
        first_BH = near_BH & ~self._found_BH & live_B[:, None]
        self._found_BH |= first_BH
        self._won_B |= won_B
        if self._steps >= self.config.limit:
            self._truncated_B |= live_B & ~won_B
        return self._frame(self.config.reward * won_B + self.config.sighting * first_BH.sum(1))

    def _news_BNN(self) -> Tensor:
        """The links from the scout who sees the target to every hunter."""
        scouts, agents = self.config.scouts, self.spec.agents
        links_BNN = torch.zeros(self.batch, agents, agents, dtype=torch.bool, device=self.draws.device)
        links_BNN[:, :scouts, scouts:] = self._watched_BS()[..., None]
        return links_BNN

    def _near_BH(self) -> Tensor:
        return (self._hunters_BH2 - self._target_B2[:, None]).abs().amax(-1) <= self.config.sight

    def _watched_BS(self) -> Tensor:
        strip_B = self._target_B2[:, 0] * self.config.scouts // self.config.size
        return strip_B[:, None] == self._strips_S

    def _frame(self, reward_B: Tensor) -> Frame:
        size, scouts = self.config.size, self.config.scouts
        obs_BNO = torch.zeros(self.batch, self.spec.agents, _OBS, device=reward_B.device)
        watched_BS1 = self._watched_BS()[..., None].float()
        obs_BNO[:, :scouts, 2:3] = watched_BS1
        obs_BNO[:, :scouts, 3:] = watched_BS1 * self._target_B2[:, None] / size
        near_BH1 = self._near_BH()[..., None].float()
        obs_BNO[:, scouts:, :2] = self._hunters_BH2 / size
        obs_BNO[:, scouts:, 2:3] = near_BH1
        obs_BNO[:, scouts:, 3:] = near_BH1 * (self._target_B2[:, None] - self._hunters_BH2)
        return Frame(
            obs_BNO=obs_BNO,
            state_BS=torch.cat([self._hunters_BH2.flatten(1), self._target_B2], -1).float() / size,
            avail_BNA=self._avail_BNA,
            reward_B=reward_B.float(),
            terminated_B=self._won_B.clone(),
            truncated_B=self._truncated_B.clone(),
            won_B=self._won_B.clone(),
            news_BNN=self._news_BNN(),
        )
