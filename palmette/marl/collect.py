"""Playing episodes: B copies of a game at once, from reset until the last of them is over."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from palmette.errors import UserError
from palmette.marl.channel import Channel
from palmette.marl.comm.api import Scene, Talk, best_actions
from palmette.marl.comm.letters import Boxes
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """One network at play, with a share of the game's copies; exploration and gates draw from `generator`."""

    agents: Agents
    generator: torch.Generator
    epsilon: float = 0.0  # probability that an agent acts at random
    open_all: bool = False


class Collector:
    """Plays a game with one network, or with several side by side, each on an equal share of the copies, in order."""

    def __init__(self, game: Game, *, ids: Ids) -> None:
        self.game = game
        self._ids_NK = identities(game.spec, ids)

    def play(
        self,
        seat: Seat,
        *,
        channel: Channel | None = None,
        hears_BN: Tensor | None = None,
        trust_N: Tensor | None = None,
        watch: Callable[[Frame, Talk], object] | None = None,
    ) -> Played:
        """Return one episode a copy; `watch` sees each step.

        `hears_BN` 0 mutes a sender for an episode, and `trust_N` discounts what each sender says. Raises `UserError`
        for a reward that is not a number.
        """
        (played,) = self._play([seat], channel or Channel(), hears_BN, trust_N, watch)
        return played

    def play_together(self, seats: Sequence[Seat]) -> list[Played]:
        """Return what each network would have played alone, for less work: the game moves for all of them at once."""
        return self._play(seats, Channel())

    @torch.no_grad()
    def _play(
        self,
        seats: Sequence[Seat],
        channel: Channel,
        hears_BN: Tensor | None = None,
        trust_N: Tensor | None = None,
        watch: Callable[[Frame, Talk], object] | None = None,
    ) -> list[Played]:
        game, spec = self.game, self.game.spec
        frames, actions = [game.reset()], []
        share = game.batch // len(seats)
        shares = [slice(index * share, (index + 1) * share) for index in range(len(seats))]
        lines = [
            channel.open(_part(frames[0], copies), seat.generator, hears_BN)
            for seat, copies in zip(seats, shares, strict=True)
        ]
        trust_BN = None if trust_N is None else trust_N.expand(share, -1)
        letters = [Boxes(acknowledged=channel.acknowledged) for _ in seats]
        hidden: list[Tensor | None] = [None] * len(seats)
        links: list[list[Tensor]] = [[] for _ in seats]
        last_BN = torch.full((game.batch, spec.agents), -1, device=frames[0].obs_BNO.device)
        for _ in range(spec.limit):
            frame = frames[-1]
            ended = frame.ended_B.unflatten(0, (len(seats), share)).all(1).tolist()
            inputs_B1NI = network_inputs(
                frame.obs_BNO[:, None], last_BN[:, None], actions=spec.actions, ids_NK=self._ids_NK
            )
            last_BN = torch.zeros_like(last_BN)
            for index, (seat, copies) in enumerate(zip(seats, shares, strict=True)):
                if ended[index]:
                    last_BN[copies] = frame.avail_BNA[copies].int().argmax(-1)  # counts for nothing, but must be there
                    continue
                hidden_BNH = seat.agents.remember(inputs_B1NI[copies, 0], hidden[index])
                mine = frame if len(seats) == 1 else _part(frame, copies)
                talk = lines[index].talk(seat.agents, hidden_BNH, _scene(mine, seat, trust_BN, letters[index]))
                if watch is not None:
                    watch(mine, talk)
                last_BN[copies] = _choose(talk.q_MNA, mine.avail_BNA, seat)
                hidden[index] = hidden_BNH
                links[index].append(talk.links_MNN.sum((1, 2)))
            actions.append(last_BN)
            frames.append(game.step(last_BN))
            if not frames[-1].reward_B.isfinite().all():
                raise UserError(f"the game {spec.name} gave a reward that is not a number at step {len(actions)}")
            if bool(frames[-1].ended_B.all()):
                break
        played = []
        for copies, sent in zip(shares, links, strict=True):
            its = [_part(frame, copies) for frame in frames[: len(sent) + 1]]
            played.append(self._played(its, [each[copies] for each in actions[: len(sent)]], sent))
        return played

    def _played(self, frames: list[Frame], actions: list[Tensor], links: list[Tensor]) -> Played:
        """Return what one seat played: its own frames until all of its episodes were over."""
        spec = self.game.spec
        live_BT = torch.stack([~frame.ended_B for frame in frames[:-1]], 1)
        over_BT = torch.stack([frame.ended_B for frame in frames[1:]], 1)
        reward_BT = torch.stack([frame.reward_B for frame in frames[1:]], 1).float() * live_BT
        sent = float((torch.stack(links, 1) * live_BT).sum() / live_BT.sum())
        first = frames[0]
        no_news_BNN = torch.zeros(len(live_BT), 0, 0, dtype=torch.bool, device=first.obs_BNO.device)
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


def _scene(frame: Frame, seat: Seat, trust_BN: Tensor | None, letters: Boxes) -> Scene:
    return Scene(
        avail_MNA=frame.avail_BNA,
        generator=seat.generator,
        news_MNN=frame.news_BNN,
        trust_MN=trust_BN,
        letters=letters,
        open_all=seat.open_all,
    )


def _choose(q_BNA: Tensor, avail_BNA: Tensor, seat: Seat) -> Tensor:
    greedy_BN = best_actions(q_BNA, avail_BNA)
    if seat.epsilon <= 0:
        return greedy_BN
    explores_BN = torch.rand(greedy_BN.shape, generator=seat.generator, device=greedy_BN.device) < seat.epsilon
    return torch.where(explores_BN, random_actions(avail_BNA, seat.generator), greedy_BN)


def _part(frame: Frame, copies: slice) -> Frame:
    """Return what some copies show."""
    shown = {each.name: getattr(frame, each.name) for each in fields(Frame)}
    part: dict[str, Any] = {name: None if value is None else value[copies] for name, value in shown.items()}
    return Frame(**part)


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
