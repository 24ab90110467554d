"""Playing episodes: B copies of a game at once, from reset until the last of them is over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from palmette.errors import UserError
from palmette.marl.channel import Channel
from palmette.marl.comm.api import Scene, Talk, best_actions
from palmette.marl.envs.api import Frame, Game, random_actions
from palmette.marl.episode import Episodes, Ids, identities, network_inputs
from palmette.marl.nets import Agents


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """Episodes, and what was counted while they were played."""

    episodes: Episodes
    won_E: Tensor  # bool
    won: float  # share of the episodes, 0..1
    mean_return: float  # mean over episodes of the sum of rewards
    comm_rate: float  # share of the N (N - 1) links that were open, over all live steps
    messages: float  # messages a live step of one game


class Collector:
    """Plays a game with a network; exploration and gates draw from `generator`."""

    def __init__(self, game: Game, generator: torch.Generator, *, ids: Ids) -> None:
        self.game, self._generator = game, generator
        self._ids_NK = identities(game.spec, ids)

    @torch.no_grad()
    def play(
        self,
        agents: Agents,
        *,
        epsilon: float,
        open_all: bool = False,
        channel: Channel | None = None,
        hears_BN: Tensor | None = None,
        trust_N: Tensor | None = None,
        watch: Callable[[Frame, Talk], object] | None = None,
    ) -> Played:
        """Return one episode a copy, each agent acting at random with probability `epsilon`; `watch` sees each step.

        `hears_BN` 0 mutes a sender for an episode, and `trust_N` discounts what each sender says. Raises `UserError`
        for a reward that is not a number.
        """
        game, spec = self.game, self.game.spec
        frames, actions, links = [game.reset()], [], []
        last_BN = torch.full((game.batch, spec.agents), -1, device=frames[0].obs_BNO.device)
        hidden_BNH = None
        live = []
        line = (channel or Channel()).open(frames[0], self._generator, hears_BN)
        trust_BN = None if trust_N is None else trust_N.expand(game.batch, -1)
        for _ in range(spec.limit):
            frame = frames[-1]
            live.append(~frame.ended_B)
            seen_B1NO, last_B1N = frame.obs_BNO[:, None], last_BN[:, None]
            inputs_B1NI = network_inputs(seen_B1NO, last_B1N, actions=spec.actions, ids_NK=self._ids_NK)
            hidden_B1NH, hidden_BNH = agents.remember(inputs_B1NI, hidden_BNH)
            talk = line.talk(agents, hidden_B1NH[:, 0], self._scene(frame, open_all, trust_BN))
            if watch is not None:
                watch(frame, talk)
            last_BN = self._choose(talk.q_MNA, frame.avail_BNA, epsilon)
            actions.append(last_BN)
            links.append(talk.links_MNN.sum((1, 2)))
            frames.append(game.step(last_BN))
            if not frames[-1].reward_B.isfinite().all():
                raise UserError(f"the game {spec.name} gave a reward that is not a number at step {len(actions)}")
            if bool(frames[-1].ended_B.all()):
                break
        return self._played(frames, actions, live, links)

    def _scene(self, frame: Frame, open_all: bool, trust_BN: Tensor | None) -> Scene:
        return Scene(
            avail_MNA=frame.avail_BNA,
            generator=self._generator,
            news_MNN=frame.news_BNN,
            trust_MN=trust_BN,
            open_all=open_all,
        )

    def _choose(self, q_BNA: Tensor, avail_BNA: Tensor, epsilon: float) -> Tensor:
        greedy_BN = best_actions(q_BNA, avail_BNA)
        if epsilon <= 0:
            return greedy_BN
        explores_BN = torch.rand(greedy_BN.shape, generator=self._generator, device=greedy_BN.device) < epsilon
        return torch.where(explores_BN, random_actions(avail_BNA, self._generator), greedy_BN)

    def _played(self, frames: list[Frame], actions: list[Tensor], live: list[Tensor], links: list[Tensor]) -> Played:
        spec = self.game.spec
        live_BT = torch.stack(live, 1)
        over_BT = torch.stack([frame.ended_B for frame in frames[1:]], 1)
        reward_BT = torch.stack([frame.reward_B for frame in frames[1:]], 1).float() * live_BT
        sent = float((torch.stack(links, 1) * live_BT).sum() / live_BT.sum())
        first = frames[0]
        no_news_BNN = torch.zeros(self.game.batch, 0, 0, dtype=torch.bool, device=first.obs_BNO.device)
        news = [no_news_BNN if frame.news_BNN is None else frame.news_BNN for frame in frames]
        pad = spec.limit - len(actions)
        return Played(
            episodes=Episodes(
                obs_EUNO=_stack([frame.obs_BNO.float() for frame in frames], pad),
                state_EUS=_stack([frame.state_BS.float() for frame in frames], pad),
                avail_EUNA=_stack([frame.avail_BNA for frame in frames], pad),
                news_EUNN=_stack(news, pad),
                action_ETN=_stack(actions, pad),
                reward_ET=_pad(reward_BT, pad),
                ended_ET=_pad(over_BT & live_BT, pad),
                live_ET=_pad(live_BT, pad),
            ),
            won_E=frames[-1].won_B,
            won=float(frames[-1].won_B.float().mean()),
            mean_return=float(reward_BT.sum(1).mean()),
            comm_rate=sent / (spec.agents * (spec.agents - 1)),
            messages=sent,
        )


def _stack(values: list[Tensor], pad: int) -> Tensor:
    return _pad(torch.stack(values, 1), pad)


def _pad(value_BT: Tensor, pad: int) -> Tensor:
    """Repeat the last place `pad` times: behind an episode's end nothing counts, but an action must be available."""
    if not pad:
        return value_BT
    last = value_BT[:, -1:]
    if last.ndim == 2:  # rewards and flags
        last = torch.zeros_like(last)
    return torch.cat([value_BT, last.expand(-1, pad, *last.shape[2:])], 1)
