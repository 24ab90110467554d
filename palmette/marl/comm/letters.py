"""Letters: what a receiver last had of each sender, so that what has been said need not be said again.

As in TMC (arXiv 2010.14391) receivers keep the last message of everybody; unlike there it never expires. Senders know
what they said last. Whether it arrived they know where the channel acknowledges, and else they take it to have arrived.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from palmette.marl.live import Live

# (which of the M rows, the notes of what was last said to whom in these, told_XNNY, if any are kept) -> links_XNN now
Send = Callable[[slice, Tensor | None], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mail:
    """What a round of letters came to: sender before receiver, 0 where there was none."""

    links_MNN: Tensor  # 1 where one was sent
    held_MNNX: Tensor | None = None  # the last one of before, as its receiver has it; None: nobody keeps any

    def pooled(self, letter_MNX: Tensor, arrives_MNN: Tensor | None = None) -> Tensor:
        """Return for each receiver the sum_MNX of the latest letters that it has."""
        arrived_MNN = self.links_MNN if arrives_MNN is None else self.links_MNN * arrives_MNN
        pooled_MNX = arrived_MNN.transpose(1, 2) @ letter_MNX
        if self.held_MNNX is None:
            return pooled_MNX
        return pooled_MNX + ((1 - arrived_MNN)[..., None] * self.held_MNNX).sum(1)


class Letters(Protocol):
    """The letter boxes of M games."""

    def exchange(self, letter_MNX: Tensor, note_MNY: Tensor, send: Send, arrives_MNN: Tensor | None = None) -> Mail:
        """Let N agents send the same letter to whom `send` says, and keep a note of it; it stays where it arrives."""
        ...


class Forgotten:
    """No letter boxes: what was said is gone with the step."""

    def exchange(self, letter_MNX: Tensor, note_MNY: Tensor, send: Send, arrives_MNN: Tensor | None = None) -> Mail:
        """See `Letters`."""
        return Mail(links_MNN=send(slice(len(letter_MNX)), None))


class Boxes:
    """Letter boxes at play: each call is the next step of the same M games."""

    def __init__(self, *, acknowledged: bool = False) -> None:
        self._acknowledged = acknowledged
        self._told_MNNY: Tensor | None = None
        self._held_MNNX: Tensor | None = None

    def exchange(self, letter_MNX: Tensor, note_MNY: Tensor, send: Send, arrives_MNN: Tensor | None = None) -> Mail:
        """See `Letters`."""
        rows, agents, _ = letter_MNX.shape
        if self._told_MNNY is None or self._held_MNNX is None:
            self._told_MNNY = note_MNY.new_zeros(rows, agents, agents, note_MNY.shape[-1])
            self._held_MNNX = letter_MNX.new_zeros(rows, agents, agents, letter_MNX.shape[-1])
        held_MNNX = self._held_MNNX
        links_MNN = send(slice(rows), self._told_MNNY)
        arrived_MNN = links_MNN if arrives_MNN is None else links_MNN * arrives_MNN
        known_MNN = arrived_MNN if self._acknowledged else links_MNN
        self._told_MNNY = torch.where(known_MNN[..., None] > 0, note_MNY[:, :, None], self._told_MNNY)
        self._held_MNNX = torch.where(arrived_MNN[..., None] > 0, letter_MNX[:, :, None], held_MNNX)
        return Mail(links_MNN=links_MNN, held_MNNX=held_MNNX)


class Rounds:
    """Letter boxes of episodes as they are learned from: all steps in one call, whose rows are those of a `Live`."""

    def __init__(self, live: Live) -> None:
        self._count_T = live.count_T.tolist()

    def exchange(self, letter_MNX: Tensor, note_MNY: Tensor, send: Send, arrives_MNN: Tensor | None = None) -> Mail:
        """See `Letters`; gradients reach what was said at earlier steps. Raises `ValueError` for a channel that fails.

        Whom to tell depends on what was told before, so this goes from step to step; what is held is then one gather.
        """
        if arrives_MNN is not None:
            raise ValueError("nothing is learned over a channel that loses messages")
        rows, agents, _ = letter_MNX.shape
        place_MN1 = torch.arange(1, rows * agents + 1, device=letter_MNX.device).view(rows, agents, 1)
        noted_ZY = _by_place(note_MNY)
        latest_ENN = place_MN1.new_zeros(self._count_T[0], agents, agents)  # the place of the letter held; 0: none
        before, links, begin = [], [], 0
        for count in self._count_T:
            step = slice(begin, begin + count)
            before.append(latest_ENN[:count])
            links.append(send(step, _taken(noted_ZY, before[-1])))
            latest_ENN = torch.where(links[-1] > 0, place_MN1[step], before[-1])
            begin += count
        return Mail(links_MNN=torch.cat(links), held_MNNX=_taken(_by_place(letter_MNX), torch.cat(before)))


def _by_place(said_MNX: Tensor) -> Tensor:
    """Return said_ZX: nothing in place 0, then every sender's of every row."""
    return torch.cat([said_MNX.new_zeros(1, said_MNX.shape[-1]), said_MNX.flatten(0, 1)])


def _taken(said_ZX: Tensor, place_XNN: Tensor) -> Tensor:
    """Return what lies in those places, _XNNX; not by an index of two axes, which goes back many times slower."""
    return said_ZX.index_select(0, place_XNN.flatten()).view(*place_XNN.shape, -1)
