"""What a way of communicating is: hidden states in, action values out, and which links were used."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from palmette.marl.comm.letters import Forgotten, Letters


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What a network is built from: N agents, A actions, H hidden units, S numbers of state."""

    agents: int
    names: tuple[int, ...] = ()  # how the others know each agent, from 0 on; empty: each by itself
    actions: int
    hidden: int
    state: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What a round may use besides hidden states. M rows: one a copy of the game and a time step."""

    avail_MNA: Tensor  # bool
    generator: torch.Generator  # for gates that draw
    state_MS: Tensor | None = None  # while learning only; no agent sees it when it acts
    news_MNN: Tensor | None = None  # bool: which link carries news, where the game can tell
    arrives_MNN: Tensor | None = None  # 1 or 0: what the channel lets through; None: everything
    trust_MN: Tensor | None = None  # in each sender, 0..1, where trust discounts what it says; None: full trust
    letters: Letters = field(default_factory=Forgotten)  # what receivers had before, for methods that keep it
    open_all: bool = False  # a warm-up: a gate that learns is held open
    learning: bool = False  # also compute labels and further losses


@dataclass(frozen=True, slots=True, kw_only=True)
class Talk:
    """What a round of communication led to; links point from sender (second axis) to receiver (third)."""

    q_MNA: Tensor  # action values
    links_MNN: Tensor  # 1 where something was sent, also if the channel then lost it; the diagonal is 0
    selector_MNN: Tensor | None = None  # logits of a gate that is trained, no gradient into the hidden states
    labels_MNN: Tensor | None = None  # 0 or 1: which links were worth it; while learning only
    prices_MNN: Tensor | None = None  # how many times its price each link was worth, where that is known beside labels
    all_open_MNA: Tensor | None = None  # action values had every link been open, to be learned too; while learning only
    loss_M: Tensor | None = None  # the method's further losses, weighted; while learning only


class Comm(Protocol):
    """One way of communicating; a module whose parameters all belong to the agents."""

    balance: float  # the greatest weight of a worthwhile link in the selector's loss; 1 leaves classes as they are

    def __call__(self, hidden_MNH: Tensor, scene: Scene) -> Talk:
        """Let N agents talk once, in M rows at the same time."""
        ...

    def parameters(self) -> Iterable[nn.Parameter]:
        """Return all parameters."""
        ...

    def selector_parameters(self) -> list[nn.Parameter]:
        """Return those of the gate, which has a loss and an optimiser of its own; empty without one."""
        ...


class Plain(nn.Module):
    """A way of communicating without a gate that learns: the base of most of them."""

    balance = 1.0

    def selector_parameters(self) -> list[nn.Parameter]:
        """Return nothing."""
        return []


def between_others(like_MN: Tensor) -> Tensor:
    """Return links_MNN that are all open but those to oneself; M, N, kind and device as `like_MN`'s first two axes."""
    rows, agents = like_MN.shape[:2]
    return (1 - torch.eye(agents, device=like_MN.device, dtype=like_MN.dtype)).expand(rows, agents, agents)


def best_actions(q_MXA: Tensor, avail_MXA: Tensor) -> Tensor:
    """Return the available action_MX of the highest value; extra axes broadcast."""
    return q_MXA.masked_fill(~avail_MXA, -torch.inf).argmax(-1)


def values_at(q_XA: Tensor, action_X: Tensor) -> Tensor:
    """Return the value_X of each action_X."""
    return q_XA.gather(-1, action_X[..., None]).squeeze(-1)
