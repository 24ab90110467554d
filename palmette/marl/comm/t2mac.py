"""T2MAC as the paper states it (arXiv 2401.10973): individual evidence, gated links, Dempster's rule, evidence as Q.

Not as its published code does it, whose selector gets no gradient, whose messages are not individual, and beside whose
evidence an ungated dense path runs (docs/papers.md).
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn.functional import softplus

from palmette.evidence import discount, fuse_links, log_evidence, uncertainty_reduction
from palmette.marl.comm.api import Scene, Sizes, Talk, between_others
from palmette.marl.comm.gate import Gate
from palmette.marl.comm.letters import received
from palmette.marl.comm.pairs import Pairs


class T2macConfig(BaseModel):
    """What the paper leaves open, with names; and when the gate begins to act."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reading: Literal["all", "received"] = Field(
        default="all", description="whether one's own opinion takes part in Dempster's rule, or is added to its result"
    )
    head: Literal["evidence", "log_evidence"] = Field(
        default="evidence", description="Q is the fused evidence (the paper), or scale * log1p(e / K) + bias (bounded)"
    )
    least: float = Field(default=0.05, description="a link is worth it if uncertainty falls by more than this")
    threshold: float = Field(default=0.5, gt=0, lt=1, description="probability above which a link opens")
    budget: int | None = Field(default=None, ge=1, description="most receivers a sender and step; none: no limit")
    warm_up: float = Field(default=0.0, ge=0, le=1, description="share of training with all links open")


class T2mac(nn.Module):
    """Q_j from own evidence e_j and the evidence e_ij that open links bring (Eq. 1-9)."""

    balance = 1.0

    def __init__(self, sizes: Sizes, config: T2macConfig) -> None:
        super().__init__()
        self.config = config
        self.own = nn.Linear(sizes.hidden, sizes.actions)
        self.send = Pairs(sizes, sizes.hidden, sizes.actions)
        self.gate = Gate(sizes, threshold=config.threshold, budget=config.budget)
        self.scale, self.bias = nn.Parameter(torch.ones(())), nn.Parameter(torch.zeros(()))

    def forward(self, hidden_MNH: Tensor, scene: Scene) -> Talk:
        """Return values of the fused evidence; gradients flow through open links only."""
        own_MNK = softplus(self.own(hidden_MNH))
        sent_MNNK = softplus(self.send(hidden_MNH) - 1)
        if scene.trust_MN is not None:
            sent_MNNK = discount(sent_MNNK, scene.trust_MN[..., None])
        logits_MNN, links_MNN = None, between_others(hidden_MNH)
        if scene.learning or not scene.open_all:
            logits_MNN, gated_MNN = self.gate(hidden_MNH)
            links_MNN = links_MNN if scene.open_all else gated_MNN
        fused_MNK = fuse_links(own_MNK, sent_MNNK, received(links_MNN, scene.arrives_MNN), self.config.reading)
        labels_MNN = None
        if scene.learning:
            fall_MNN = uncertainty_reduction(own_MNK[:, None], sent_MNNK).detach()
            labels_MNN = (fall_MNN > self.config.least).float()
        q_MNA = fused_MNK
        if self.config.head == "log_evidence":
            q_MNA = self.scale * log_evidence(fused_MNK) + self.bias
        return Talk(q_MNA=q_MNA, links_MNN=links_MNN, selector_MNN=logits_MNN, labels_MNN=labels_MNN)

    def selector_parameters(self) -> list[nn.Parameter]:
        """Return the gate's."""
        return list(self.gate.parameters())
