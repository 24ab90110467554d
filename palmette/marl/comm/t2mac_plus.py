"""T2MAC+, ours: messages carry features as loud as their sender is sure; a link is worth what silence would cost.

Every ingredient is a switch. What it keeps of T2MAC: one gate per link for whom and when, with labels and an optimiser
of its own, and trust in what arrives by the sender's evidence. What it changes: evidence is a weight and not the
values, the gate is held open until messages mean something, and then opens where what the receiver is expected to lose
by silence is more than the price of a message.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn.functional import softplus

from palmette.evidence import uncertainty
from palmette.marl.comm.api import Scene, Sizes, Talk, best_actions, between_others, received
from palmette.marl.comm.features import Features
from palmette.marl.comm.gate import Gate
from palmette.marl.comm.random import draw_links


class T2macPlusConfig(BaseModel):
    """The switches; defaults are what measured best."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    confidence: Literal["sigmoid", "evidence", "none"] = Field(
        default="evidence", description="weight of a sender's message: a free sigmoid, 1 - u of its evidence, or 1"
    )
    mix: Literal["share", "sum"] = Field(
        default="share",
        description="what is heard: a sum over N - 1, or a mean in which each has its share of evidence",
    )
    gate: Literal["learned", "random", "all"] = Field(default="learned", description="what opens links; for ablation")
    rate: float = Field(default=0.2, ge=0, le=1, description="of links, with gate random")
    label: Literal["price", "regret", "uncertainty"] = Field(
        default="price",
        description="a link opens where its expected regret is above a price; as class, where the receiver's decision "
        "suffers without it; or where its sender is sure",
    )
    price: float = Field(
        default=0.02,
        gt=0,
        description="of a message, as a share of what the best action is worth above the worst",
    )
    least: float = Field(default=0.02, ge=0, description="as class: worth it above this regret, or this confidence")
    balance: float = Field(default=20.0, ge=1, description="as class: greatest weight of a worthwhile link in the loss")
    threshold: float = Field(default=0.5, gt=0, lt=1, description="probability above which a link opens")
    budget: int | None = Field(default=None, ge=1, description="most receivers a sender and step; none: no limit")
    warm_up: float = Field(default=0.6, ge=0, le=1, description="share of training with all links open")


class T2macPlus(nn.Module):
    """Q_j = head([h_j, sum_i g_ij o_i V h_i / (1 + sum_i g_ij o_i)]), o_i = w_i / (1 - w_i), w_i how sure i is.

    With w = 1 - u, o is the evidence S / K, and a sender's share is the part of all belief that it brings to a
    cumulative fusion: silence counts as the vacuous opinion, and a team may grow without anybody becoming fainter.
    """

    def __init__(self, sizes: Sizes, config: T2macPlusConfig) -> None:
        super().__init__()
        self.config, self.balance = config, config.balance
        self.features = Features(sizes)
        self.sure = nn.Linear(sizes.hidden, 1 if config.confidence == "sigmoid" else sizes.actions)
        nn.init.constant_(self.sure.bias, 3.0)  # heard at first, so that messages can become useful
        self.gate = Gate(sizes, threshold=config.threshold, budget=config.budget)

    def forward(self, hidden_MNH: Tensor, scene: Scene) -> Talk:
        """Return values after a round over the links that the gate opens."""
        weight_MN = self.confidence(hidden_MNH)
        if scene.trust_MN is not None:
            weight_MN = weight_MN * scene.trust_MN
        odds_MN = None
        if self.config.mix == "share":
            odds_MN = _odds(weight_MN)
            message_MNH = self.features.weigh(hidden_MNH, odds_MN)
        else:
            message_MNH = self.features.messages(hidden_MNH, weight_MN)
        logits_MNN, links_MNN = None, between_others(hidden_MNH)
        held_open = scene.open_all or self.config.gate == "all"
        if scene.learning or not held_open:
            logits_MNN, gated_MNN = self.gate(hidden_MNH)
            links_MNN = links_MNN if held_open else gated_MNN
        if not held_open and self.config.gate == "random":
            links_MNN = draw_links(hidden_MNH, self.config.rate, scene.generator)
        q_MNA = self.features(hidden_MNH, message_MNH, received(links_MNN, scene), odds_MN)
        talk = Talk(q_MNA=q_MNA, links_MNN=links_MNN, selector_MNN=logits_MNN)
        if not scene.learning:
            return talk
        if self.config.label == "uncertainty":
            sure_MNN = weight_MN.detach()[..., None] * between_others(hidden_MNH)
            return replace(talk, labels_MNN=(sure_MNN > self.config.least).float())
        regret_MNN = self._regret(hidden_MNH, message_MNH, odds_MN, scene)
        if self.config.label == "regret":
            return replace(talk, labels_MNN=(regret_MNN > self.config.least).float())
        prices_MNN = regret_MNN / (self.config.price * _spread(q_MNA.detach(), scene))
        return replace(talk, labels_MNN=(prices_MNN > 1).float(), prices_MNN=prices_MNN)

    def confidence(self, hidden_MNH: Tensor) -> Tensor:
        """Return how sure each agent is of what it says, 0..1, shape _MN."""
        if self.config.confidence == "none":
            return torch.ones_like(hidden_MNH[..., 0])
        said_MNX = self.sure(hidden_MNH)
        if self.config.confidence == "sigmoid":
            return torch.sigmoid(said_MNX).squeeze(-1)
        return 1 - uncertainty(softplus(said_MNX))

    def selector_parameters(self) -> list[nn.Parameter]:
        """Return the gate's."""
        return list(self.gate.parameters())

    @torch.no_grad()
    def _regret(self, hidden_MNH: Tensor, message_MNH: Tensor, odds_MN: Tensor | None, scene: Scene) -> Tensor:
        """Return the regret_MNN of closing each link.

        By how much the receiver's choice without this one message falls short of its choice with all of them, both
        valued with all of them.
        """
        agents = hidden_MNH.shape[1]
        seen_MNH, said_MNH = self.features.seen(hidden_MNH), self.features.heard(message_MNH)
        heard_MNH = said_MNH.sum(1, keepdim=True) - said_MNH
        without_MNNH = heard_MNH[:, None] - said_MNH[:, :, None]  # sender, receiver
        if odds_MN is not None:
            all_MN = 1 + odds_MN.sum(1, keepdim=True) - odds_MN
            heard_MNH = heard_MNH / all_MN[..., None]
            without_MNNH /= (all_MN[:, None] - odds_MN[:, :, None]).clamp(min=1.0)[..., None]
        q_MNA = self.features.decide(seen_MNH, heard_MNH)
        without_MNNA = self.features.decide(seen_MNH[:, None], without_MNNH)
        chosen_MNN = best_actions(without_MNNA, scene.avail_MNA[:, None])
        best_MN = q_MNA.gather(-1, best_actions(q_MNA, scene.avail_MNA)[..., None]).squeeze(-1)
        q_MNNA = q_MNA[:, None].expand(-1, agents, -1, -1)
        regret_MNN = best_MN[:, None] - q_MNNA.gather(-1, chosen_MNN[..., None]).squeeze(-1)
        return regret_MNN * between_others(hidden_MNH)


def _spread(q_MNA: Tensor, scene: Scene) -> Tensor:
    """Return the mean over agents that have a choice of the best action's value less the worst's."""
    best_MN = q_MNA.masked_fill(~scene.avail_MNA, -torch.inf).amax(-1)
    worst_MN = q_MNA.masked_fill(~scene.avail_MNA, torch.inf).amin(-1)
    chooses_MN = scene.avail_MNA.sum(-1) > 1
    return ((best_MN - worst_MN) * chooses_MN).sum() / chooses_MN.sum().clamp(min=1) + 1e-12


def _odds(weight_MN: Tensor) -> Tensor:
    """Return w / (1 - w), which for w = 1 - u is S / K: evidence counted per alternative. At most 999."""
    known_MN = weight_MN.clamp(max=0.999)
    return known_MN / (1 - known_MN)
