"""T2MAC+, ours: messages carry features as loud as their sender is sure; a link is worth what silence would cost.

Every ingredient is a switch. What it keeps of T2MAC: one gate per link for whom and when, with labels and an optimiser
of its own, and trust in what arrives by the sender's evidence. What it changes: evidence is a weight and not the
values, the gate is held open until messages mean something, and then opens where what the receiver is expected to lose
by silence is more than the price of a message. Receivers keep the last letter of each sender, and silence leaves them
with that one: nothing need be said twice. What a message would be worth can be told while its link stays closed, for
values with all links open are learned beside those that act.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn.functional import softplus

from palmette.evidence import uncertainty
from palmette.marl.comm.api import Scene, Sizes, Talk, best_actions, between_others, values_at
from palmette.marl.comm.features import Features
from palmette.marl.comm.gate import Gate
from palmette.marl.comm.letters import Forgotten, Mail, Send, sent_now
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
    keep: bool = Field(
        default=True, description="a receiver keeps the last message of each sender, who knows what it said"
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
    """Q_j = head([h_j, sum_i o_i V h_i / (1 + sum_i o_i)]), o_i = w_i / (1 - w_i), w_i how sure i is.

    The sums are over letters: for each sender the last one that it sent to j, with the V h_i and o_i of that step. With
    w = 1 - u, o is the evidence S / K, and a sender's share is the part of all belief that it brings to a cumulative
    fusion: silence counts as the vacuous opinion, and a team may grow without anybody becoming fainter.
    """

    def __init__(self, sizes: Sizes, config: T2macPlusConfig) -> None:
        super().__init__()
        self.config, self.balance = config, config.balance
        self.features = Features(sizes)
        self.sure = nn.Linear(sizes.hidden, 1 if config.confidence == "sigmoid" else sizes.actions)
        nn.init.constant_(self.sure.bias, 3.0)  # heard at first, so that messages can become useful
        self.gate = Gate(sizes, threshold=config.threshold, budget=config.budget, notes=config.keep)

    def forward(self, hidden_MNH: Tensor, scene: Scene) -> Talk:
        """Return values after a round over the links that the gate opens."""
        weight_MN = self.confidence(hidden_MNH)
        if scene.trust_MN is not None:
            weight_MN = weight_MN * scene.trust_MN
        letter_MNX = self._letters(hidden_MNH, weight_MN)
        held_open = scene.open_all or self.config.gate == "all"
        gated, logits_MNN = None, None
        if scene.learning or not held_open:
            gated, logits_MNN = self._send(hidden_MNH, letter_MNX.detach() if held_open else letter_MNX, scene)
        acts = self._tell_all(letter_MNX, scene) if held_open or gated is None else gated
        seen_MNH = self.features.seen(hidden_MNH)
        q_MNA = self.features.decide(seen_MNH + self._mean(acts.pooled_MNX))
        talk = Talk(q_MNA=q_MNA, links_MNN=acts.links_MNN, selector_MNN=logits_MNN)
        if not scene.learning:
            return talk
        every_MNN = between_others(hidden_MNH)
        if self.config.rehearse and not held_open:
            everything_MNX = sent_now(letter_MNX, every_MNN).pooled_MNX
            talk = replace(talk, all_open_MNA=self.features.decide(seen_MNH + self._mean(everything_MNX)))
        if self.config.label == "uncertainty":
            sure_MNN = weight_MN.detach()[..., None] * every_MNN
            return replace(talk, labels_MNN=(sure_MNN > self.config.least).float())
        # In a warm-up, letters are those that the gate would have sent: else none would ever be out of date.
        acts = gated if gated is not None and self.config.keep else acts
        if self.config.beside == "all":
            acts = replace(sent_now(letter_MNX, every_MNN), held=acts.held)
        regret_MNN = self._regret(seen_MNH, letter_MNX, acts, scene.avail_MNA)
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

    def _letters(self, hidden_MNH: Tensor, weight_MN: Tensor) -> Tensor:
        """Return what each agent would say, as the head takes it, letter_MNX: with shares o V h and o, else w V h."""
        if self.config.mix == "sum":
            return self.features.heard(self.features.messages(hidden_MNH, weight_MN))
        odds_MN1 = _odds(weight_MN)[..., None]
        return torch.cat([self.features.heard(self.features.value(hidden_MNH)) * odds_MN1, odds_MN1], -1)

    def _mean(self, pooled_XX: Tensor) -> Tensor:
        """Return heard_XH of a sum of letters: with shares a mean that silence takes part in, else the sum itself."""
        if self.config.mix == "sum":
            return pooled_XX
        return pooled_XX[..., :-1] / (1 + pooled_XX[..., -1:].clamp(min=0))  # a difference of sums may round below 0

    def _send(self, hidden_MNH: Tensor, letter_MNX: Tensor, scene: Scene) -> tuple[Mail, Tensor]:
        """Return (what the gate sends and what was there before, its logits_MNN)."""
        logits: list[Tensor] = []

        def send(rows: slice, told_XNNH: Tensor | None) -> Tensor:
            logits_XNN, links_XNN = self.gate(hidden_MNH[rows], told_XNNH)
            logits.append(logits_XNN)
            if self.config.gate == "random":
                return draw_links(hidden_MNH[rows], self.config.rate, scene.generator)
            return links_XNN

        mail = self._exchange(letter_MNX, send, scene)
        if scene.learning and mail.told is not None:  # the same once more, of all steps in one call
            return mail, self.gate(hidden_MNH, mail.told())[0]
        return mail, torch.cat(logits)

    def _tell_all(self, letter_MNX: Tensor, scene: Scene) -> Mail:
        """Return what is sent over open links; what was there before matters only where something may get lost."""
        every_MNN = between_others(letter_MNX)
        if scene.arrives_MNN is None:
            return sent_now(letter_MNX, every_MNN)
        return self._exchange(letter_MNX, lambda rows, _: every_MNN[rows], scene)

    def _exchange(self, letter_MNX: Tensor, send: Send, scene: Scene) -> Mail:
        letters = scene.letters if self.config.keep else Forgotten()
        return letters.exchange(letter_MNX, self.gate.note(self._mean(letter_MNX)), send, scene.arrives_MNN)

    @torch.no_grad()
    def _regret(self, seen_MNH: Tensor, letter_MNX: Tensor, mail: Mail, avail_MNA: Tensor) -> Tensor:
        """Return the regret_MNN of not sending a letter, beside all else that is in the `mail`.

        By how much the receiver's choice with the letter it has falls short of its choice with this one, both valued
        with this one. Nothing is asked of receivers who have no choice.
        """
        row_R, receiver_R = (avail_MNA.sum(-1) > 1).nonzero(as_tuple=True)
        links_RN, avail_R1A = mail.links_MNN[row_R, :, receiver_R], avail_MNA[row_R, receiver_R, None]
        seen_R1H, now_R1X = seen_MNH[row_R, receiver_R, None], mail.pooled_MNX[row_R, receiver_R, None]
        change_RNX = letter_MNX.index_select(0, row_R)
        if mail.held is not None:
            change_RNX.sub_(mail.held(row_R, receiver_R))
        # Had it been otherwise on one link: either that, or what is now, is with the letter, the other one without.
        other_RNX = change_RNX.mul_((1 - 2 * links_RN)[..., None]).add_(now_R1X)
        now_R1A = self.features.decide(seen_R1H + self._mean(now_R1X))
        other_RNA = self.features.decide(self._mean(other_RNX).add_(seen_R1H))
        sent_RN1 = links_RN[..., None] > 0
        with_RNA = torch.where(sent_RN1, now_R1A, other_RNA)
        chosen_RN = best_actions(torch.where(sent_RN1, other_RNA, now_R1A), avail_R1A)
        best_RN = best_actions(with_RNA, avail_R1A)
        regret_RN = values_at(with_RNA, best_RN) - values_at(with_RNA, chosen_RN)
        regret_MNN = torch.zeros_like(mail.links_MNN).transpose(1, 2).index_put((row_R, receiver_R), regret_RN)
        return regret_MNN.transpose(1, 2) * between_others(seen_MNH)


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
