"""Whole episodes in tensors, and a buffer of the latest ones."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal, Self

import torch
from torch import Tensor

from palmette.marl.envs.api import Spec

Ids = Literal["agents", "roles", "none"]  # what an agent is told it is: itself, what it can do, or nothing
_FRAMES = ("obs_EUNO", "state_EUS", "avail_EUNA", "news_EUNN")


@dataclass(frozen=True, slots=True, kw_only=True)
class Episodes:
    """E episodes of at most T steps; what lies behind an episode's end is not `live_ET` and means nothing.

    Frames have T + 1 places, the last being what the last action led to.
    """

    obs_EUNO: Tensor  # U = T + 1
    state_EUS: Tensor
    avail_EUNA: Tensor  # bool
    news_EUNN: Tensor  # bool; last axes of length 0 where the game cannot tell
    action_ETN: Tensor
    reward_ET: Tensor
    ended_ET: Tensor  # bool: this step was the last
    live_ET: Tensor  # bool: this step was played

    @property
    def steps(self) -> int:
        """Steps played in all episodes."""
        return int(self.live_ET.sum())

    def cut(self) -> Self:
        """Return the same episodes without the places that none of them reached."""
        longest = max(int(self.live_ET.sum(1).max()), 1)
        return self._map(lambda name, value: value[:, : longest + (name in _FRAMES)])

    def take(self, index_X: Tensor) -> Self:
        """Return some of the episodes."""
        return self._map(lambda _, value: value[index_X])

    def inputs(self, *, actions: int, ids_NK: Tensor | None) -> Tensor:
        """Return what the network is fed, inputs_EUNI: observation, last action as one-hot, and id if asked for."""
        return network_inputs(self.obs_EUNO, _before(self.action_ETN), actions=actions, ids_NK=ids_NK)

    def _map(self, change: Any) -> Self:
        return type(self)(**{each.name: change(each.name, getattr(self, each.name)) for each in fields(self)})


class Buffer:
    """The latest episodes, oldest overwritten first."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.written = 0  # episodes ever added
        self._kept: dict[str, Tensor] = {}

    def __len__(self) -> int:
        return min(self.written, self.capacity)

    def add(self, episodes: Episodes) -> None:
        """Add episodes, all of the same length T as earlier ones."""
        values = {each.name: getattr(episodes, each.name) for each in fields(Episodes)}
        count = len(episodes.reward_ET)
        if not self._kept:
            self._kept = {
                name: torch.zeros(self.capacity, *value.shape[1:], dtype=value.dtype) for name, value in values.items()
            }
        place_E = (self.written + torch.arange(count)) % self.capacity
        for name, value in values.items():
            self._kept[name][place_E] = value
        self.written += count

    def sample(self, count: int, generator: torch.Generator) -> Episodes:
        """Return `count` episodes drawn with replacement. Raises `ValueError` on an empty buffer."""
        if not self.written:
            raise ValueError("the buffer is empty")
        index_E = torch.randint(len(self), (count,), generator=generator)
        return Episodes(**self._kept).take(index_E).cut()

    def state_dict(self) -> dict[str, Tensor]:
        """Return all that is kept."""
        kept = {name: value[: len(self)] for name, value in self._kept.items()}
        return {"written": torch.tensor(self.written), **kept}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Keep what a `state_dict` holds."""
        kept = {name: value for name, value in state.items() if name != "written"}
        self.written, self._kept = 0, {}
        if kept:
            self.add(Episodes(**kept))
        self.written = int(state["written"])


def names_of(spec: Spec, ids: Ids) -> tuple[int, ...]:
    """Return what each agent is told to be, 0..K-1: itself, or its role; empty where it is told nothing."""
    roles = spec.roles or (0,) * spec.agents
    return {"agents": tuple(range(spec.agents)), "roles": roles, "none": ()}[ids]


def identities(spec: Spec, ids: Ids) -> Tensor | None:
    """Return the same as one-hot rows ids_NK; None where agents are told nothing."""
    names = names_of(spec, ids)
    return torch.nn.functional.one_hot(torch.tensor(names)).float() if names else None


def network_inputs(obs_BTNO: Tensor, last_BTN: Tensor, *, actions: int, ids_NK: Tensor | None) -> Tensor:
    """Return inputs_BTNI of observations, last actions (-1: none yet) and `identities`, if agents have any."""
    told = (last_BTN[..., None] == torch.arange(actions, device=last_BTN.device)).float()
    parts = [obs_BTNO.float(), told]
    if ids_NK is not None:
        parts.append(ids_NK.to(obs_BTNO.device).expand(*obs_BTNO.shape[:2], *ids_NK.shape))
    return torch.cat(parts, -1)


def _before(action_ETN: Tensor) -> Tensor:
    """Return the action before each frame, _EUN, -1 before the first."""
    return torch.cat([torch.full_like(action_ETN[:, :1], -1), action_ETN], 1)
