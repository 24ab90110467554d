"""What a game is: B copies of it stepped at once, all of it in tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from palmette.marl.envs.draws import Draws


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """The shape of a game: N agents, their actions, and the sizes of what they and the learner see."""

    name: str
    agents: int
    actions: int
    obs_size: int
    state_size: int
    limit: int  # no episode is longer, in steps
    score: Literal["won", "return"]  # what an episode is judged by: won or lost, or the sum of its rewards
    roles: tuple[int, ...] = ()  # what each agent is, from 0 on; empty: all are the same

    @property
    def score_name(self) -> str:
        """What a score is called: a share of 1, or a number."""
        return "success" if self.score == "won" else "return"


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """What B copies of a game show after a reset or a step; O, S and A are the sizes in `Spec`.

    `terminated_B` and `truncated_B` stay true once an episode has ended; its rewards are 0 from then on and nothing in
    it moves. An ended agent may still choose any action that `avail_BNA` allows.
    """

    obs_BNO: Tensor
    state_BS: Tensor
    avail_BNA: Tensor  # bool
    reward_B: Tensor  # the team's reward of the last step
    terminated_B: Tensor  # bool: won or lost by the rules
    truncated_B: Tensor  # bool: the limit was reached
    won_B: Tensor  # bool: false throughout in games without a winner
    news_BNN: Tensor | None = None  # bool: which link sender -> receiver carries news now, where the game can tell

    @property
    def ended_B(self) -> Tensor:
        """Whether each episode is over."""
        return self.terminated_B | self.truncated_B


class Game(Protocol):
    """B copies of one game. The same seed and the same actions give the same frames."""

    spec: Spec
    batch: int
    draws: Draws  # everything random comes from here

    def reset(self) -> Frame:
        """Start B new episodes, drawn from `draws`."""
        ...

    def step(self, actions_BN: Tensor) -> Frame:
        """Let all agents act (int64). Raises `ValueError` for a wrong shape or an action that there is not."""
        ...


def check_actions(actions_BN: Tensor, spec: Spec, batch: int) -> None:
    """Raise `ValueError` unless `actions_BN` is a whole number below `spec.actions` for each agent of each copy."""
    if tuple(actions_BN.shape) != (batch, spec.agents):
        raise ValueError(f"{spec.name}: actions of shape {tuple(actions_BN.shape)}, not {(batch, spec.agents)}")
    if actions_BN.is_floating_point() or actions_BN.amin() < 0 or actions_BN.amax() >= spec.actions:
        raise ValueError(f"{spec.name}: actions must be whole numbers from 0 to {spec.actions - 1}")


def random_actions(avail_BNA: Tensor, generator: torch.Generator) -> Tensor:
    """Return an available action_BN for everybody, uniformly."""
    return torch.multinomial(avail_BNA.flatten(0, 1).float(), 1, generator=generator).view(avail_BNA.shape[:2])
