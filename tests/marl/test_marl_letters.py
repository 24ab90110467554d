"""Letters: boxes at play and in learning hold the same, and what is held is heard until something newer comes."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palmette.marl.comm.api import Scene, Sizes
from palmette.marl.comm.letters import Boxes, Forgotten, Rounds
from palmette.marl.comm.names import open_method
from palmette.marl.comm.random import RandomConfig
from palmette.marl.comm.t2mac_plus import T2macPlusConfig
from palmette.marl.live import Live

SIZES = Sizes(agents=3, actions=4, hidden=8, state=2)


def live_of(lengths):
    return Live.of(torch.arange(max(lengths)) < torch.tensor(lengths)[:, None])


def scene(rows, **changes):
    avail_MNA = torch.ones(rows, 3, 4, dtype=torch.bool)
    return Scene(avail_MNA=avail_MNA, generator=torch.Generator().manual_seed(0), **changes)


def far_from(letter_MNX):
    """Send where what was told is far from what there is to say."""
    others_NN = 1 - torch.eye(3)

    def send(rows, told_XNNX):
        distance_XNN = (letter_MNX[rows][:, :, None] - told_XNNX).norm(dim=-1)
        return (distance_XNN > 1.5).float() * others_NN

    return send


def held(mail, row):
    """Return what each receiver of a row had of each sender before, held_NNX."""
    agents = mail.links_MNN.shape[-1]
    return mail.held(torch.full((agents,), row), torch.arange(agents)).transpose(0, 1)


@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=5), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_what_is_learned_from_is_what_was_held_at_play(lengths, seed):
    live = live_of(lengths)
    letter_RNX = torch.randn(sum(lengths), 3, 2, generator=torch.Generator().manual_seed(seed))
    mail = Rounds(live).exchange(letter_RNX, letter_RNX, far_from(letter_RNX))
    for episode, length in enumerate(lengths):
        boxes = Boxes()
        for step in range(length):
            row = ((live.episode_R == episode) & (live.step_R == step)).nonzero().item()
            here_1NX = letter_RNX[row][None]
            played = boxes.exchange(here_1NX, here_1NX, far_from(here_1NX))
            assert torch.equal(played.links_MNN[0], mail.links_MNN[row])
            assert torch.equal(held(played, 0), held(mail, row))
            assert torch.allclose(played.pooled_MNX[0], mail.pooled_MNX[row])


def test_a_letter_that_is_held_learns_what_it_should_have_said():
    letter_RNX = torch.randn(3, 3, 2, requires_grad=True)  # one episode
    always = [True, False, False]  # only its first step sends
    others_NN = 1 - torch.eye(3)
    mail = Rounds(live_of([3])).exchange(
        letter_RNX, letter_RNX.detach(), lambda rows, _: others_NN[None] * always[rows.start]
    )
    mail.pooled_MNX[2, 1].sum().backward()  # what the second agent knows in the end
    assert letter_RNX.grad[0].tolist() == [[1, 1], [0, 0], [1, 1]]
    assert not letter_RNX.grad[1:].any()


@pytest.mark.parametrize("acknowledged", [True, False])
def test_who_is_not_acknowledged_takes_it_to_have_arrived(acknowledged):
    boxes = Boxes(acknowledged=acknowledged)
    letters = torch.randn(3, 1, 3, 2)
    others_1NN = (1 - torch.eye(3))[None]
    lost_1NN = torch.ones(1, 3, 3)
    lost_1NN[:, 0, 1] = 0
    told = []

    def silent(_, told_1NNX):
        told.append(told_1NNX[0])
        return others_1NN * 0

    boxes.exchange(letters[0], letters[0], lambda *_: others_1NN)
    boxes.exchange(letters[1], letters[1], lambda *_: others_1NN, lost_1NN)
    mail = boxes.exchange(letters[2], letters[2], silent)
    assert torch.equal(held(mail, 0)[0, 1], letters[0][0, 0])
    assert torch.equal(told[0][0, 1], letters[0 if acknowledged else 1][0, 0])
    assert torch.equal(held(mail, 0)[0, 2], letters[1][0, 0])
    assert torch.equal(mail.pooled_MNX[0, 1], letters[0][0, 0] + letters[1][0, 2])


def test_nothing_is_learned_where_messages_are_lost():
    with pytest.raises(ValueError, match="channel that loses"):
        Rounds(live_of([1])).exchange(*torch.zeros(2, 1, 3, 2), lambda *_: torch.zeros(1, 3, 3), torch.zeros(1, 3, 3))


def test_who_forgets_has_only_what_is_said_now():
    letter_MNX = torch.randn(2, 3, 4)
    mail = Forgotten().exchange(letter_MNX, letter_MNX, lambda *_: torch.eye(3).roll(1, 0).expand(2, 3, 3))
    assert mail.held is None
    assert torch.equal(mail.pooled_MNX, letter_MNX.roll(-1, 1))


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("gate", ["learned", "all", None])
def test_a_message_is_remembered_until_the_next(gate, keep):
    torch.manual_seed(1)
    config = T2macPlusConfig(keep=keep, gate=gate) if gate else RandomConfig(rate=1.0, keep=keep)
    comm = open_method("t2mac_plus" if gate else "random", SIZES, config)
    all_MNN = torch.ones(5, 3, 3)
    silence_MNN = torch.zeros(5, 3, 3)
    first, second = (torch.randn(5, 3, 8) * 3 for _ in range(2))
    boxes = Boxes()
    said = comm(first, scene(5, letters=boxes, arrives_MNN=all_MNN)).links_MNN[:, 1].amax(-1) > 0
    later = comm(second, scene(5, letters=boxes, arrives_MNN=silence_MNN))
    alone = comm(second, scene(5, arrives_MNN=silence_MNN))
    assert bool(said.any())
    same_M = (later.q_MNA == alone.q_MNA).flatten(1).all(1)
    assert not bool(same_M[said].any()) if keep else bool(same_M.all())


@pytest.mark.parametrize("gate", ["learned", "all"])
def test_episodes_in_one_call_are_episodes_step_by_step(gate):
    torch.manual_seed(2)
    comm = open_method("t2mac_plus", SIZES, T2macPlusConfig(gate=gate))
    live = live_of([4, 4, 4])
    hidden_RNH = torch.randn(12, 3, 8) * 3
    learned = comm(hidden_RNH, scene(12, letters=Rounds(live), learning=True))
    boxes = Boxes()
    for step in range(4):
        rows = slice(3 * step, 3 * step + 3)
        played = comm(hidden_RNH[rows], replace(scene(3), letters=boxes))
        assert torch.equal(played.links_MNN, learned.links_MNN[rows])
        torch.testing.assert_close(played.q_MNA, learned.q_MNA[rows])
    assert (0 < learned.links_MNN.mean() < 0.6) == (gate == "learned")
