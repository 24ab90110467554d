"""Hallway's rules, and the best clock's win rate against playing every start."""

from fractions import Fraction
from itertools import product

import pytest
import torch
from pydantic import ValidationError

from palmette.marl.envs.hallway import FARTHER, NEARER, STAY, Hallway, HallwayConfig, clock_bar


def play(config, positions, *steps):
    """Return the frames after `steps` (actions of all agents) from given positions, in one copy."""
    game = Hallway(config, batch=1)
    frames = [game.place(torch.tensor([positions]))]
    frames += [game.step(torch.tensor([actions])) for actions in steps]
    return game, frames


def test_arriving_together_wins():
    _, frames = play(HallwayConfig(lengths=(4, 6), reward=10), [2, 1], [NEARER, STAY], [NEARER, NEARER])
    assert [float(frame.reward_B) for frame in frames] == [0, 0, 10]
    assert frames[-1].won_B
    assert frames[-1].terminated_B
    assert not frames[-1].truncated_B


def test_arriving_alone_loses():
    _, frames = play(HallwayConfig(lengths=(4, 6)), [2, 1], [NEARER, NEARER], [NEARER, STAY])
    assert [bool(frame.terminated_B) for frame in frames] == [False, True, True]
    assert not frames[1].won_B
    assert float(frames[2].reward_B) == 0


def test_corridors_end():
    game, _ = play(HallwayConfig(lengths=(2, 6)), [2, 3], [FARTHER, FARTHER])
    assert game.positions_BN.tolist() == [[2, 4]]


def test_the_limit_as_published_and_tight():
    game = Hallway(HallwayConfig(lengths=(4, 6, 10)), batch=1)
    assert game.spec.limit == 20
    _, frames = play(HallwayConfig(lengths=(4, 6, 10), slack=1), [1, 3, 2], *[[STAY] * 3] * 4)
    assert [bool(frame.truncated_B) for frame in frames] == [False] * 4 + [True]
    _, frames = play(HallwayConfig(lengths=(4, 6), slack=0), [1, 2], [STAY, NEARER], [NEARER, NEARER])
    assert frames[-1].won_B, "arriving on the last step counts"


GROUPS = {"lengths": (3, 3, 3, 3), "groups": (0, 0, 1, 1), "reward": 2.0}


def test_each_group_is_paid_once_and_frozen():
    steps = [NEARER, NEARER, STAY, STAY], [FARTHER, FARTHER, NEARER, NEARER]
    game, frames = play(HallwayConfig(**GROUPS), [1, 1, 1, 1], *steps)
    assert [float(frame.reward_B) for frame in frames] == [0, 2, 2]
    assert game.positions_BN.tolist() == [[0, 0, 0, 0]]
    assert frames[1].obs_BNO[0, :, -1].tolist() == [0, 0, 1, 1], "the last number says whether the group is active"
    assert [bool(frame.won_B) for frame in frames] == [False, False, True]


def test_two_groups_at_once_cost_half_a_reward_each():
    upstream, fixed = (HallwayConfig(**GROUPS, collision=how) for how in ("upstream", "fixed"))
    game, frames = play(upstream, [1, 1, 1, 1], [NEARER] * 4, [STAY] * 4)
    assert [float(frame.reward_B) for frame in frames] == [0, -2, 0]
    assert not frames[-1].ended_B, "upstream idles to the limit"
    assert game.positions_BN.tolist() == [[0, 0, 0, 0]]
    retry = [NEARER, NEARER, STAY, STAY], [STAY, STAY, NEARER, NEARER]
    game, frames = play(fixed, [1, 1, 1, 1], [NEARER] * 4, *retry)
    assert [float(frame.reward_B) for frame in frames] == [0, -2, 2, 2]
    assert frames[-1].won_B


def test_one_group_won_and_one_failed_idles_upstream_only():
    steps = [NEARER, NEARER, STAY, STAY], [STAY, STAY, NEARER, STAY]
    for how, over in (("upstream", False), ("fixed", True)):
        _, frames = play(HallwayConfig(**GROUPS, collision=how), [1, 1, 1, 2], *steps)
        assert bool(frames[-1].ended_B) is over
        assert not frames[-1].won_B


def test_all_groups_failed_is_the_end():
    _, frames = play(HallwayConfig(**GROUPS), [1, 2, 1, 2], [NEARER] * 4)
    assert frames[-1].terminated_B
    assert not frames[-1].won_B


PRINTED = {  # reference numbers, to three places
    (4, 6, 10): [0.183, 0.333, 0.487, None, 0.688],
    (2, 6, 10): [0.183, 0.333, 0.450, None, 0.650],
    (6, 6): [0.306, 0.556, 0.750, None, 0.972],
    (4, 6, 8, 10): [0.190, 0.352, 0.540, None, 0.767],
}


@pytest.mark.parametrize("lengths", PRINTED)
def test_the_bar_of_the_clock_as_printed(lengths):
    for slack, printed in enumerate(PRINTED[lengths]):
        bar = clock_bar(HallwayConfig(lengths=lengths, slack=slack))
        assert bar is not None
        assert printed is None or abs(float(bar) - printed) < 5.1e-4
    assert clock_bar(HallwayConfig(lengths=lengths)) == 1, "as published, a clock always wins"


@pytest.mark.parametrize(("lengths", "slack"), [((2, 3), 0), ((2, 3, 4), 1), ((3, 3), 2), ((4, 6), 0)])
def test_the_bar_is_what_clocks_win_in_the_game(lengths, slack):
    starts_BN = torch.tensor(list(product(*(range(1, length + 1) for length in lengths))))
    config = HallwayConfig(lengths=lengths, slack=slack)
    best = Fraction(0)
    for arrival in range(1, max(lengths) + slack + 1):
        game = Hallway(config, batch=len(starts_BN))
        frame = game.place(starts_BN)
        for step in range(arrival):
            frame = game.step((game.positions_BN >= arrival - step).long())  # wait as long as there is time, then walk
        best = max(best, Fraction(int(frame.won_B.sum()), len(starts_BN)))
    assert clock_bar(config) == best


def test_groups_have_no_clock_bar():
    assert clock_bar(HallwayConfig(map="masia_groups")) is None


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"map": "maisa"}, "no hallway map 'maisa'; did you mean 'masia'"),
        ({"lengths": (3,)}, "at least two corridors"),
        ({"lengths": (3, 4), "groups": (0, 0, 1)}, "each of the 2 agents a group"),
        ({"lengths": (3, 4), "groups": (0, 2)}, "numbered from 0 without a gap"),
        ({"groups": (0, 1)}, "groups go with lengths"),
        ({"slack": -1}, "slack"),
    ],
)
def test_odd_hallways_are_refused(wrong, said):
    with pytest.raises(ValidationError, match=said):
        HallwayConfig(**wrong)
