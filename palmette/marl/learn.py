"""Learning values for a team: QMIX or VDN with double Q, target networks and Q(lambda) returns; gates beside them."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from palmette.marl.comm.api import Scene, Talk, best_actions, values_at
from palmette.marl.comm.letters import Rounds
from palmette.marl.envs.api import Spec
from palmette.marl.episode import Episodes, Ids, identities, names_of
from palmette.marl.live import Live
from palmette.marl.nets import MIXERS, Agents

_REHEARSAL = 0.5  # weight, beside 1, of values that a method learns for links that stayed closed


class LearnConfig(BaseModel):
    """Hyper-parameters, the same for every method."""

    model_config = ConfigDict(extra="forbid")

    hidden: int = Field(default=64, ge=1, description="width of the agents' network")
    ids: Ids = Field(default="agents", description="what agents are told they are: each itself, its role, or nothing")
    lr: float = Field(default=7e-4, gt=0, description="Adam's, of values")
    selector_lr: float = Field(default=1e-3, gt=0, description="Adam's, of a gate")
    gamma: float = Field(default=0.99, gt=0, le=1, description="discount of a step")
    reward_scale: float = Field(default=1.0, gt=0, description="what learning multiplies rewards by; scores stay")
    td_lambda: float = Field(default=0.6, ge=0, le=1, description="of Q(lambda); 0 is one step")
    clip: float = Field(default=10.0, gt=0, description="greatest norm of a gradient")
    target_every: int = Field(default=100, ge=1, description="updates between copies to the target networks")
    batch: int = Field(default=32, ge=1, description="episodes an update")
    parallel: int = Field(default=32, ge=1, description="episodes played at once")
    update_every: int = Field(default=120, ge=1, description="environment steps an update, the same for every method")
    buffer: int = Field(default=5000, ge=1, description="episodes kept")
    epsilon_last: float = Field(default=0.05, ge=0, le=1, description="share of random actions in the end")
    epsilon_steps: int = Field(default=100_000, ge=1, description="environment steps until then, linearly from 1")


class Learner:
    """Networks, their targets and optimisers."""

    def __init__(self, agents: Agents, mixer: Any, spec: Spec, config: LearnConfig, generator: torch.Generator) -> None:
        self.agents, self.mixer, self.spec, self.config = agents, mixer, spec, config
        self._generator = generator
        self._ids_NK = identities(spec, config.ids)
        self._target_agents, self._target_mixer = copy.deepcopy(agents), copy.deepcopy(mixer)
        values, selector = agents.parts()
        self._values = [*values, *mixer.parameters()]
        self.optimiser = torch.optim.Adam(self._values, lr=config.lr, fused=True)
        self.selector_optimiser = torch.optim.Adam(selector, lr=config.selector_lr, fused=True) if selector else None
        self.updates = 0

    def update(self, episodes: Episodes, *, open_all: bool = False) -> dict[str, float]:
        """Do one step of each optimiser on some episodes, and return losses and rates."""
        live = Live.of(episodes.live_ET)
        talk, target_R = self._look(episodes, live, open_all)
        action_RN, state_RS = live.rows(episodes.action_ETN), live.rows(episodes.state_EUS)

        def td(q_RNA: Tensor) -> Tensor:
            return (self.mixer(values_at(q_RNA, action_RN), state_RS) - target_R).square().mean()

        loss = td(talk.q_MNA)
        row = {"loss": float(loss.detach())}
        if talk.all_open_MNA is not None:
            loss = loss + _REHEARSAL * td(talk.all_open_MNA)
        if talk.loss_M is not None:
            further = talk.loss_M.mean()
            row["further_loss"] = float(further.detach())
            loss = loss + further
        self.optimiser.zero_grad()
        loss.backward()
        row["grad_norm"] = float(torch.nn.utils.clip_grad_norm_(self._values, self.config.clip))
        self.optimiser.step()
        row |= self._update_selector(talk)
        self.updates += 1
        if self.updates % self.config.target_every == 0:
            self._target_agents.load_state_dict(self.agents.state_dict())
            self._target_mixer.load_state_dict(self.mixer.state_dict())
        return row

    def modules(self) -> dict[str, torch.nn.Module]:
        """Return all networks by name."""
        return {
            "agents": self.agents,
            "mixer": self.mixer,
            "target_agents": self._target_agents,
            "target_mixer": self._target_mixer,
        }

    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        """Return all optimisers by name."""
        found: dict[str, torch.optim.Optimizer] = {"values": self.optimiser}
        if self.selector_optimiser:
            found["selector"] = self.selector_optimiser
        return found

    def _look(self, episodes: Episodes, live: Live, open_all: bool) -> tuple[Talk, Tensor]:
        """Return (what the network makes of every live step, target_R); the rows of the talk are those of `live`."""
        inputs_RNI = live.rows(episodes.inputs(actions=self.spec.actions, ids_NK=self._ids_NK))
        scene = Scene(
            avail_MNA=live.rows(episodes.avail_EUNA),
            generator=self._generator,
            state_MS=live.rows(episodes.state_EUS),
            news_MNN=live.rows(episodes.news_EUNN) if episodes.news_EUNN.shape[-1] else None,
            letters=Rounds(live),
            open_all=open_all,
            learning=True,
        )
        talk = self.agents.talk(self.agents.remember_rows(inputs_RNI, live.count_T), scene)
        with torch.no_grad():
            hidden_RNH = self._target_agents.remember_rows(inputs_RNI, live.count_T)
            target = self._target_agents.talk(hidden_RNH, replace(scene, learning=False))
            greedy_RN = best_actions(talk.q_MNA, scene.avail_MNA)
            value_R = self._target_mixer(values_at(target.q_MNA, greedy_RN), scene.state_MS)
            value_EU = live.spread(value_R, episodes.state_EUS[..., 0])
            config = self.config
            scaled = replace(episodes, reward_ET=episodes.reward_ET * config.reward_scale)
            target_ET = lambda_returns(value_EU, scaled, gamma=config.gamma, td_lambda=config.td_lambda)
            return talk, live.rows(target_ET)

    def _update_selector(self, talk: Talk) -> dict[str, float]:
        if self.selector_optimiser is None or talk.labels_MNN is None:
            return {}
        loss = gate_loss(talk, balance=self.agents.comm.balance)
        self.selector_optimiser.zero_grad()
        loss.backward()
        self.selector_optimiser.step()
        return {"selector_loss": float(loss.detach()), "worthwhile": float(_between_others(talk.labels_MNN).mean())}


def gate_loss(talk: Talk, *, balance: float) -> Tensor:
    """Return the loss of the gate that said `talk`: by prices where they are known, else by labels.

    Raises `ValueError` for a talk without either.
    """
    if talk.selector_MNN is None or talk.labels_MNN is None:
        raise ValueError("a talk in which no gate could learn")
    if talk.prices_MNN is not None:
        return priced_loss(talk.selector_MNN, talk.prices_MNN)
    return selector_loss(talk.selector_MNN, talk.labels_MNN, balance=balance)


def selector_loss(logits_MNN: Tensor, labels_MNN: Tensor, *, balance: float = 1.0) -> Tensor:
    """Return the binary cross-entropy of a gate on links between others (T2MAC Eq. 4).

    Worthwhile links weigh as much as all others together, but at most `balance` times as much each.
    """
    logits_X, labels_X = _between_others(logits_MNN), _between_others(labels_MNN)
    good = labels_X.sum()
    weight = ((labels_X.numel() - good) / good.clamp(min=1.0)).clamp(1.0, balance)
    return binary_cross_entropy_with_logits(logits_X, labels_X, pos_weight=weight)


def priced_loss(logits_MNN: Tensor, prices_MNN: Tensor, *, most: float = 50.0) -> Tensor:
    """Return the loss of a gate that opens links between others whose worth is expected to be above their price.

    w log(1/p) + log(1/(1 - p)), w the worth in prices, is least at p = E[w] / (1 + E[w]): above 1/2 where E[w] > 1. A
    link counts for at most `most` prices, so that no single one decides a step.
    """
    logits_X, worth_X = _between_others(logits_MNN), _between_others(prices_MNN).clamp(max=most)
    return (worth_X * softplus(-logits_X) + softplus(logits_X)).mean()


def lambda_returns(value_EU: Tensor, episodes: Episodes, *, gamma: float, td_lambda: float) -> Tensor:
    """Return the target_ET of Q(lambda): R_t = r_t + gamma ((1 - lambda) V_{t+1} + lambda R_{t+1}), 0 after the end.

    The limit is part of a game's rules here: nothing is worth anything after it.
    """
    goes_on_ET = ~episodes.ended_ET
    targets: list[Tensor] = []
    following_E = value_EU[:, -1]
    for step in reversed(range(episodes.reward_ET.shape[1])):
        ahead_E = (1 - td_lambda) * value_EU[:, step + 1] + td_lambda * following_E
        following_E = episodes.reward_ET[:, step] + gamma * goes_on_ET[:, step] * ahead_E
        targets.append(following_E)
    return torch.stack(targets[::-1], 1)


def open_learner(spec: Spec, comm: Any, mixer: str, config: LearnConfig, generator: torch.Generator) -> Learner:
    """Return a learner with fresh networks; torch's own seed decides their weights."""
    inputs = spec.obs_size + spec.actions + max(names_of(spec, config.ids), default=-1) + 1
    agents = Agents(inputs=inputs, hidden=config.hidden, comm=comm)
    return Learner(agents, MIXERS[mixer](spec.agents, spec.state_size), spec, config, generator)


def _between_others(value_MNN: Tensor) -> Tensor:
    """Return the value_X of every link to another, in one row."""
    agents = value_MNN.shape[-1]
    return value_MNN[:, ~torch.eye(agents, dtype=torch.bool, device=value_MNN.device)].flatten()
