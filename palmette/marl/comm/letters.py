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
# (R rows of the M, for each a receiver in it) -> what these had of each sender before, held_RNX
Held = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mail:
    """What a round of letters came to: sender before receiver."""

    links_MNN: Tensor  # 1 where one was sent, 0 where not
    pooled_MNX: Tensor  # for each receiver the sum of the latest letters that it now has
    held: Held | None = None  # None: nobody keeps any
    told: Callable[[], Tensor] | None = None  # notes of what was last said to whom before, told_MNNY


class Letters(Protocol):
    """The letter boxes of M games."""

    def exchange(self, letter_MNX: Tensor, note_MNY: Tensor, send: Send, arrives_MNN: Tensor | None = None) -> Mail:
        """Let N agents send the same letter to whom `send` says, and keep a note of it; it stays where it arrives."""
        ...


class Forgotten:
    """No letter boxes: what was said is gone with the step."""

    def exchange(self, letter_MNX: Tensor, note_MNY: Tensor, send: Send, arrives_MNN: Tensor | None = None) -> Mail:
        """See `Letters`."""
        return sent_now(letter_MNX, send(slice(len(letter_MNX)), None), arrives_MNN)


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
        told_MNNY = self._told_MNNY
        links_MNN = send(slice(rows), told_MNNY)
        arrived_MNN = received(links_MNN, arrives_MNN)
        known_MNN = arrived_MNN if self._acknowledged else links_MNN
        self._told_MNNY = torch.where(known_MNN[..., None] > 0, note_MNY[:, :, None], told_MNNY)
        self._held_MNNX = torch.where(arrived_MNN[..., None] > 0, letter_MNX[:, :, None], held_MNNX)
        return Mail(
            links_MNN=links_MNN,
            pooled_MNX=self._held_MNNX.sum(1),
            held=lambda row_R, receiver_R: held_MNNX[row_R, :, receiver_R],
            told=lambda: told_MNNY,
        )


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
        noted_ZY, said_ZX = _by_place(note_MNY), _by_place(letter_MNX)
        latest_ENN = place_MN1.new_zeros(self._count_T[0], agents, agents)  # the place of the letter held; 0: none
        before, links, begin = [], [], 0
        for count in self._count_T:
            step = slice(begin, begin + count)
            before.append(latest_ENN[:count])
            with torch.no_grad():  # going back, each step would fill a tensor of all notes
                links.append(send(step, _taken(noted_ZY, before[-1])))
            latest_ENN = torch.where(links[-1] > 0, place_MN1[step], before[-1])
            begin += count
        before_MNN, links_MNN = torch.cat(before), torch.cat(links)
        return Mail(
            links_MNN=links_MNN,
            pooled_MNX=_taken(said_ZX, torch.where(links_MNN > 0, place_MN1, before_MNN)).sum(1),
            held=lambda row_R, receiver_R: _taken(said_ZX.detach(), before_MNN[row_R, :, receiver_R]),
            told=lambda: _taken(noted_ZY, before_MNN),
        )


def sent_now(letter_MNX: Tensor, links_MNN: Tensor, arrives_MNN: Tensor | None = None) -> Mail:
    """Return the mail of a round of which nobody will keep anything, nor has kept anything before."""
    return Mail(links_MNN=links_MNN, pooled_MNX=received(links_MNN, arrives_MNN).transpose(1, 2) @ letter_MNX)


def received(links_MNN: Tensor, arrives_MNN: Tensor | None) -> Tensor:
    """Return the links_MNN whose messages arrive; None: all do."""
    return links_MNN if arrives_MNN is None else links_MNN * arrives_MNN


def _by_place(said_MNX: Tensor) -> Tensor:
    """Return said_ZX: nothing in place 0, then every sender's of every row."""
    return torch.cat([said_MNX.new_zeros(1, said_MNX.shape[-1]), said_MNX.flatten(0, 1)])


def _taken(said_ZX: Tensor, place_Y: Tensor) -> Tensor:
    """Return what lies in those places, of any shape; not by an index of two axes, which goes back much slower."""
    return said_ZX.index_select(0, place_Y.flatten()).view(*place_Y.shape, -1)
