"""What happens to messages while a trained network is tested: some are lost, some are garbled, and some are lies.

What a sender says is made from its hidden state. So a false message is made from a false one, while the agent itself
goes on deciding from its true one: no way of communicating needs to know.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from palmette.errors import UserError
from palmette.marl.comm.api import Scene, Talk
from palmette.marl.envs.api import Frame
from palmette.marl.nets import Agents


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """A channel, one for all links; every part of it is off unless asked for."""

    loss: float = 0.0  # probability that a message is lost
    noise: float = 0.0  # of what messages are made from: standard deviations of each hidden unit
    acknowledged: bool = False  # whether senders learn what was lost; of use to those who know what they told
    liars: tuple[int, ...] = ()  # agents that say what they would say in another copy of the game

    def __post_init__(self) -> None:
        """Raise `ValueError` for a probability outside 0..1 or negative noise."""
        if not 0 <= self.loss <= 1 or self.noise < 0:
            raise ValueError(f"a loss of {self.loss} and noise of {self.noise}: 0..1 and at least 0 are wanted")

    def open(self, frame: Frame, generator: torch.Generator, hears_BN: Tensor | None = None) -> Line:
        """Return the line for a batch of episodes that begins with `frame`; `hears_BN` 0 mutes a sender throughout."""
        return Line(self, frame, generator, hears_BN)


class Line:
    """A channel in use, for one batch of episodes. Raises `UserError` for a liar who is not there."""

    def __init__(self, channel: Channel, frame: Frame, generator: torch.Generator, hears_BN: Tensor | None) -> None:
        self._channel, self._generator, self._hears_BN = channel, generator, hears_BN
        batch, agents = frame.avail_BNA.shape[:2]
        if any(not 0 <= liar < agents for liar in channel.liars):
            raise UserError(f"liars {list(channel.liars)}: the game has agents 0 to {agents - 1}")
        self._told_LB = [self._elsewhere(frame, liar, batch) for liar in channel.liars]

    def talk(self, agents: Agents, hidden_BNH: Tensor, scene: Scene) -> Talk:
        """Return what a round of communication comes to over this line."""
        scene = replace(scene, arrives_MNN=self._arrives(hidden_BNH))
        if not self._told_LB and not self._channel.noise:
            return agents.talk(hidden_BNH, scene)
        return _each_hears(agents, hidden_BNH, self._false(hidden_BNH), scene)

    def _elsewhere(self, frame: Frame, liar: int, batch: int) -> Tensor:
        """Return for each copy another one, where the liar has news if the game can tell: that makes a sure liar."""
        device = frame.avail_BNA.device
        weight_B = torch.ones(batch, device=device)
        if frame.news_BNN is not None and bool(frame.news_BNN[:, liar].any()):
            weight_B = frame.news_BNN[:, liar].any(-1).float()
        return torch.multinomial(weight_B, batch, replacement=True, generator=self._generator)

    def _false(self, hidden_BNH: Tensor) -> Tensor:
        """Return the hidden_BNH that messages are made from."""
        false_BNH = hidden_BNH.clone()
        for liar, told_B in zip(self._channel.liars, self._told_LB, strict=True):
            false_BNH[:, liar] = hidden_BNH[told_B, liar]
        if self._channel.noise:
            drawn_BNH = torch.randn(hidden_BNH.shape, generator=self._generator, device=hidden_BNH.device)
            false_BNH += self._channel.noise * hidden_BNH.std(0, keepdim=True, correction=0) * drawn_BNH
        return false_BNH

    def _arrives(self, hidden_BNH: Tensor) -> Tensor | None:
        """Return 1 for each link_BNN that works this step, else 0; None if all do."""
        if not self._channel.loss and self._hears_BN is None:
            return None
        batch, agents = hidden_BNH.shape[:2]
        draws_BNN = torch.rand(batch, agents, agents, generator=self._generator, device=hidden_BNH.device)
        arrives_BNN = (draws_BNN >= self._channel.loss).to(hidden_BNH.dtype)
        return arrives_BNN if self._hears_BN is None else arrives_BNN * self._hears_BN[..., None]


def _each_hears(agents: Agents, hidden_BNH: Tensor, false_BNH: Tensor, scene: Scene) -> Talk:
    """Let each receiver hear what `false_BNH` says and decide from its own hidden state: N rounds in one call."""
    batch, count = hidden_BNH.shape[:2]
    eye_NN = torch.eye(count, dtype=torch.bool, device=hidden_BNH.device)
    rows_NBNH = torch.where(eye_NN[:, None, :, None], hidden_BNH, false_BNH)  # first axis: who listens

    def repeat(value_BX: Tensor | None) -> Tensor | None:
        return None if value_BX is None else value_BX.repeat(count, *[1] * (value_BX.ndim - 1))

    avail_MNA = repeat(scene.avail_MNA)
    assert avail_MNA is not None
    talk = agents.talk(
        rows_NBNH.flatten(0, 1),
        replace(
            scene,
            avail_MNA=avail_MNA,
            news_MNN=repeat(scene.news_MNN),
            arrives_MNN=repeat(scene.arrives_MNN),
            trust_MN=repeat(scene.trust_MN),
        ),
    )
    listens_N = torch.arange(count, device=hidden_BNH.device)
    q_BNA = talk.q_MNA.unflatten(0, (count, batch))[listens_N, :, listens_N].transpose(0, 1)
    links_BNN = talk.links_MNN.unflatten(0, (count, batch))[listens_N, :, :, listens_N].permute(1, 2, 0)
    return Talk(q_MNA=q_BNA, links_MNN=links_BNN)
