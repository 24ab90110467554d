"""T2MAC+, ours: messages carry features as loud as their sender is sure; a link is worth what silence would cost.

Every ingredient is a switch. What it keeps of T2MAC: one gate per link for whom and when, with labels and an optimiser
of its own, and trust in what arrives by the sender's evidence. What it changes: evidence is a weight and not the
values, the gate is held open until messages mean something, and then opens where what the receiver is expected to lose
by silence is more than the price of a message. What a message would be worth can be told while its link stays closed,
for values with all links open are learned beside those that act.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn.functional import softplus

from palmette.evidence import uncertainty
from palmette.marl.comm.api import Scene, Sizes, Talk, best_actions, between_others, received, values_at
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
        default=0.05,
        gt=0,
        description="of a message, as a share of what the best action is worth above the worst",
    )
    beside: Literal["open", "all"] = Field(
        default="open", description="regret of one message beside those that open links bring, or beside all others"
    )
    rehearse: bool = Field(default=True, description="also learn values with all links open, once the gate acts")
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
        logits_MNN = None
        every_MNN = links_MNN = between_others(hidden_MNH)
        held_open = scene.open_all or self.config.gate == "all"
        if scene.learning or not held_open:
            logits_MNN, gated_MNN = self.gate(hidden_MNH)
            links_MNN = every_MNN if held_open else gated_MNN
        if not held_open and self.config.gate == "random":
            links_MNN = draw_links(hidden_MNH, self.config.rate, scene.generator)
        q_MNA = self.features(hidden_MNH, message_MNH, received(links_MNN, scene), odds_MN)
        talk = Talk(q_MNA=q_MNA, links_MNN=links_MNN, selector_MNN=logits_MNN)
        if not scene.learning:
            return talk
        if self.config.rehearse and not held_open:
            talk = replace(talk, all_open_MNA=self.features(hidden_MNH, message_MNH, every_MNN, odds_MN))
        if self.config.label == "uncertainty":
            sure_MNN = weight_MN.detach()[..., None] * every_MNN
            return replace(talk, labels_MNN=(sure_MNN > self.config.least).float())
        heard_MNN = every_MNN if self.config.beside == "all" else links_MNN
        regret_MNN = self._regret(hidden_MNH, message_MNH, heard_MNN, odds_MN, scene.avail_MNA)
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
    def _regret(
        self, hidden_MNH: Tensor, message_MNH: Tensor, links_MNN: Tensor, odds_MN: Tensor | None, avail_MNA: Tensor
    ) -> Tensor:
        """Return the regret_MNN of not hearing a message, beside all that arrives over the other `links_MNN`.

        By how much the receiver's choice without this one message falls short of its choice with it, both valued with
        it.
        """
        seen_MNH, said_MNH = self.features.seen(hidden_MNH), self.features.heard(message_MNH)
        arrived_MNN = links_MNN.transpose(1, 2)  # receiver, sender
        heard_MNH = arrived_MNN @ said_MNH
        without_MNNH = heard_MNH[:, None] - links_MNN[..., None] * said_MNH[:, :, None]  # sender, receiver
        with_MNNH = without_MNNH + said_MNH[:, :, None]
        if odds_MN is not None:
            all_MN = 1 + (arrived_MNN @ odds_MN[..., None]).squeeze(-1)
            others_MNN = (all_MN[:, None] - links_MNN * odds_MN[..., None]).clamp(min=1.0)
            without_MNNH /= others_MNN[..., None]
            with_MNNH /= (others_MNN + odds_MN[..., None])[..., None]
        avail_MNNA = avail_MNA[:, None]
        chosen_MNN = best_actions(self.features.decide(seen_MNH[:, None], without_MNNH), avail_MNNA)
        with_MNNA = self.features.decide(seen_MNH[:, None], with_MNNH)
        best_MNN = best_actions(with_MNNA, avail_MNNA)
        regret_MNN = values_at(with_MNNA, best_MNN) - values_at(with_MNNA, chosen_MNN)
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
