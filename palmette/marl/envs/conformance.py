"""What every game must do, as runnable checks: each takes what opens the game from `batch` and `seed`.

    for check in CHECKS:
        check(lambda batch, seed: Hallway(config, batch=batch, seed=seed))

A check fails by AssertionError.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from palmette.marl.envs.api import Frame, Game, random_actions

Open = Callable[[int, int], Game]


def check_shapes_are_as_the_spec_says(make: Open) -> None:
    game = make(3, 0)
    spec = game.spec
    for frame in episode(game, seed=1):
        assert frame.obs_BNO.shape == (3, spec.agents, spec.obs_size)
        assert frame.state_BS.shape == (3, spec.state_size)
        assert frame.avail_BNA.shape == (3, spec.agents, spec.actions)
        assert frame.avail_BNA.dtype == torch.bool
        for flag_B in (frame.terminated_B, frame.truncated_B, frame.won_B):
            assert flag_B.shape == (3,)
            assert flag_B.dtype == torch.bool
        assert frame.reward_B.shape == (3,)
        assert frame.reward_B.is_floating_point()
        assert frame.obs_BNO.is_floating_point()
        if frame.news_BNN is not None:
            assert frame.news_BNN.shape == (3, spec.agents, spec.agents)
            assert not frame.news_BNN.diagonal(dim1=1, dim2=2).any(), "nobody has news for itself"


def check_numbers_are_finite(make: Open) -> None:
    for frame in episode(make(8, 3), seed=2):
        assert frame.obs_BNO.isfinite().all()
        assert frame.state_BS.isfinite().all()
        assert frame.reward_B.isfinite().all()


def check_somebody_may_always_act(make: Open) -> None:
    for frame in episode(make(4, 0), seed=3):
        assert frame.avail_BNA.any(-1).all()


def check_every_episode_ends_within_the_limit(make: Open) -> None:
    game = make(16, 5)
    frames = episode(game, seed=4, steps=game.spec.limit)
    assert not frames[0].ended_B.any()
    assert frames[-1].ended_B.all()
    for frame in frames:
        assert not (frame.terminated_B & frame.truncated_B).any(), "an episode ends in one way"
        assert not (frame.won_B & frame.truncated_B).any(), "who has won was not stopped by the limit"


def check_an_ended_episode_stays_as_it_is(make: Open) -> None:
    game = make(16, 6)
    frames = episode(game, seed=5, steps=game.spec.limit + 2)
    for before, after in itertools.pairwise(frames):
        over_B = before.ended_B
        assert not after.reward_B[over_B].any()
        for name in ("terminated_B", "truncated_B", "won_B", "state_BS", "obs_BNO"):
            assert torch.equal(getattr(after, name)[over_B], getattr(before, name)[over_B]), name


def check_the_seed_decides_everything(make: Open) -> None:
    for one, same in zip(episode(make(5, 7), seed=6), episode(make(5, 7), seed=6), strict=True):
        assert _equal(one, same)
    assert not torch.equal(make(5, 7).reset().state_BS, make(5, 8).reset().state_BS)


def check_draws_can_be_put_back(make: Open) -> None:
    game = make(5, 9)
    saved = game.draws.state_dict()
    first = [_copy(frame) for frame in episode(game, seed=7)]
    game.draws.load_state_dict(saved)
    assert all(_equal(one, again) for one, again in zip(first, episode(game, seed=7), strict=True))


def check_frames_are_not_overwritten(make: Open) -> None:
    game = make(4, 10)
    frame = game.reset()
    kept = _copy(frame)
    for _ in episode(game, seed=8):
        pass
    assert _equal(frame, kept)


def check_copies_do_not_touch_one_another(make: Open) -> None:
    frames = episode(make(32, 11), seed=9)
    assert len({tuple(row.tolist()) for row in frames[0].state_BS}) > 1, "all copies start alike"
    one, other = make(32, 11), make(32, 11)
    avail_BNA = one.reset().avail_BNA.long()
    other.reset()
    actions_BN = avail_BNA.argmax(-1)  # everybody's first action; in copy 0 of the other game everybody's last
    changed_BN = actions_BN.clone()
    changed_BN[0] = avail_BNA.shape[-1] - 1 - avail_BNA[0].flip(-1).argmax(-1)
    left, right = one.step(actions_BN), other.step(changed_BN)
    assert torch.equal(left.obs_BNO[1:], right.obs_BNO[1:])
    assert torch.equal(left.reward_B[1:], right.reward_B[1:])


def check_wrong_actions_are_refused(make: Open) -> None:
    game = make(2, 0)
    game.reset()
    good_BN = torch.zeros(2, game.spec.agents, dtype=torch.long)
    for wrong_BN in (good_BN[:1], good_BN[:, 1:], good_BN - 1, good_BN + game.spec.actions, good_BN.float()):
        try:
            game.step(wrong_BN)
        except ValueError:
            continue
        raise AssertionError(f"took actions {wrong_BN.tolist()}")


CHECKS: tuple[Callable[[Open], None], ...] = (
    check_shapes_are_as_the_spec_says,
    check_numbers_are_finite,
    check_somebody_may_always_act,
    check_every_episode_ends_within_the_limit,
    check_an_ended_episode_stays_as_it_is,
    check_the_seed_decides_everything,
    check_draws_can_be_put_back,
    check_frames_are_not_overwritten,
    check_copies_do_not_touch_one_another,
    check_wrong_actions_are_refused,
)


def episode(game: Game, *, seed: int, steps: int | None = None) -> list[Frame]:
    """Return the frames of a reset and `steps` (all, if not given) steps with random actions."""
    generator = torch.Generator().manual_seed(seed)
    frames = [game.reset()]
    for _ in range(game.spec.limit if steps is None else steps):
        frames.append(game.step(random_actions(frames[-1].avail_BNA, generator)))
    return frames


def _equal(one: Frame, other: Frame) -> bool:
    def same(left: Tensor | None, right: Tensor | None) -> bool:
        return left is right if left is None or right is None else torch.equal(left, right)

    return all(same(getattr(one, each.name), getattr(other, each.name)) for each in fields(Frame))


def _copy(frame: Frame) -> Frame:
    values = {each.name: getattr(frame, each.name) for each in fields(Frame)}
    copies: dict[str, Any] = {name: value.clone() for name, value in values.items() if value is not None}
    return replace(frame, **copies)
