"""The agents' recurrent network, one for all of them, and the two mixers of their values."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from palmette.marl.comm.api import Comm, Scene, Talk


class Agents(nn.Module):
    """h_i = GRU(MLP([o_i, last action, id])), then a round of communication makes values of the hidden states.

    What an agent hears changes its values, not its memory: so hidden states of whole episodes are one call.
    """

    def __init__(self, *, inputs: int, hidden: int, comm: Any) -> None:
        super().__init__()
        self.hidden = hidden
        self.encode = nn.Linear(inputs, hidden)
        self.memory = nn.GRU(hidden, hidden, batch_first=True)
        self.comm: Comm = comm

    def remember(self, inputs_BNI: Tensor, hidden_BNH: Tensor | None = None) -> Tensor:
        """Return hidden_BNH one step later; starts from nothing if not told otherwise."""
        batch, agents, _ = inputs_BNI.shape
        seen_XH = torch.relu(self.encode(inputs_BNI)).flatten(0, 1)
        before_XH = torch.zeros_like(seen_XH) if hidden_BNH is None else hidden_BNH.flatten(0, 1)
        return torch.gru_cell(seen_XH, before_XH, *self.memory.all_weights[0]).view(batch, agents, -1)

    def remember_rows(self, inputs_RNI: Tensor, count_T: Tensor) -> Tensor:
        """Return hidden_RNH of whole episodes from their beginnings, in rows as `palmette.marl.live.Live` has them."""
        seen_RNH = torch.relu(self.encode(inputs_RNI))
        hidden_XH = torch.zeros_like(seen_RNH[: int(count_T[0])]).flatten(0, 1)
        steps = []
        # Not torch's packed GRU: going back, it fills a tensor of all rows for every step.
        for seen_ENH in seen_RNH.split(count_T.tolist()):
            seen_XH = seen_ENH.flatten(0, 1)
            hidden_XH = torch.gru_cell(seen_XH, hidden_XH[: len(seen_XH)], *self.memory.all_weights[0])
            steps.append(hidden_XH)
        return torch.cat(steps).view_as(seen_RNH)

    def talk(self, hidden_MNH: Tensor, scene: Scene) -> Talk:
        """Return what a round of communication makes of hidden states."""
        return self.comm(hidden_MNH, scene)

    def parts(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Return (parameters of the values, parameters of the selector): they have optimisers of their own."""
        selector = self.comm.selector_parameters()
        chosen = {id(each) for each in selector}
        return [each for each in self.parameters() if id(each) not in chosen], selector


class Vdn(nn.Module):
    """Q_tot = sum of the agents' values (VDN, arXiv 1706.05296)."""

    def __init__(self, agents: int, state_size: int) -> None:
        super().__init__()

    def forward(self, chosen_XN: Tensor, state_XS: Tensor) -> Tensor:
        """Return the team's value_X."""
        return chosen_XN.sum(-1)


class Qmix(nn.Module):
    """Q_tot from a network whose weights the state makes, non-negative ones (QMIX, arXiv 1803.11485)."""

    def __init__(self, agents: int, state_size: int, width: int = 32, hyper: int = 64) -> None:
        super().__init__()
        self._shape = (agents, width)
        self.first = nn.Sequential(nn.Linear(state_size, hyper), nn.ReLU(), nn.Linear(hyper, agents * width))
        self.first_bias = nn.Linear(state_size, width)
        self.second = nn.Sequential(nn.Linear(state_size, hyper), nn.ReLU(), nn.Linear(hyper, width))
        self.value = nn.Sequential(nn.Linear(state_size, width), nn.ReLU(), nn.Linear(width, 1))

    def forward(self, chosen_XN: Tensor, state_XS: Tensor) -> Tensor:
        """Return the team's value_X, which rises with every agent's."""
        first_XNW = self.first(state_XS).abs().unflatten(-1, self._shape)
        mixed_XW = torch.nn.functional.elu(
            (chosen_XN[..., None, :] @ first_XNW).squeeze(-2) + self.first_bias(state_XS)
        )
        return (mixed_XW * self.second(state_XS).abs()).sum(-1) + self.value(state_XS).squeeze(-1)


MIXERS: dict[str, type[Vdn | Qmix]] = {"vdn": Vdn, "qmix": Qmix}
