"""Quick learning checks: every way of communicating learns to tell what one agent knows, and gates whom to tell.

One agent of four knows one of four words; all others must name it. Who cannot talk gets no better than guessing.
"""

from functools import cache

import pytest
import torch

from palmette.marl.comm.api import Scene, Sizes
from palmette.marl.comm.names import METHODS, open_method
from palmette.marl.comm.random import RandomConfig
from palmette.marl.comm.t2mac_plus import T2macPlusConfig
from palmette.marl.learn import gate_loss

AGENTS, WORDS, ROWS, WORTH = 4, 4, 64, 4.0
SIZES = Sizes(agents=AGENTS, actions=WORDS, hidden=16, state=WORDS)
CONFIGS = {"random": RandomConfig(rate=0.5), "t2mac_plus": T2macPlusConfig(least=0.1)}


def situation(seed, open_all):
    """Hidden states in which one agent knows a word; who knows_M, the word_M; and the scene."""
    generator = torch.Generator().manual_seed(seed)
    knows_M = torch.randint(AGENTS, (ROWS,), generator=generator)
    word_M = torch.randint(WORDS, (ROWS,), generator=generator)
    hidden_MNH = torch.randn(ROWS, AGENTS, 16, generator=generator) * 0.3
    hidden_MNH[..., : WORDS + 1] = 0
    rows = torch.arange(ROWS)
    hidden_MNH[rows, knows_M, 0] = 1
    hidden_MNH[rows, knows_M, 1 + word_M] = 1
    is_news_MN = torch.nn.functional.one_hot(knows_M, AGENTS).bool()
    scene = Scene(
        avail_MNA=torch.ones(ROWS, AGENTS, WORDS, dtype=torch.bool),
        generator=generator,
        state_MS=torch.nn.functional.one_hot(word_M, WORDS).float(),
        news_MNN=is_news_MN[..., None] & ~torch.eye(AGENTS, dtype=torch.bool),
        open_all=open_all,
        learning=True,
    )
    return hidden_MNH, knows_M, word_M, scene


@cache
def taught(method, steps=600):
    """A method after some steps, the first two thirds of them with all links open."""
    torch.manual_seed(0)
    comm = open_method(method, SIZES, CONFIGS.get(method))
    selector = comm.selector_parameters()
    chosen = {id(each) for each in selector}
    values = torch.optim.Adam([each for each in comm.parameters() if id(each) not in chosen], lr=5e-3)
    gate = torch.optim.Adam(selector, lr=5e-3) if selector else None
    for step in range(steps):
        hidden_MNH, knows_M, word_M, scene = situation(step, step < 2 * steps // 3)
        talk = comm(hidden_MNH, scene)
        wanted_MNA = torch.nn.functional.one_hot(word_M, WORDS).float()[:, None] * WORTH
        hears_MN1 = 1 - torch.nn.functional.one_hot(knows_M, AGENTS).float()[..., None]
        loss = ((talk.q_MNA - wanted_MNA).square() * hears_MN1).mean()
        loss = loss if talk.loss_M is None else loss + talk.loss_M.mean()
        values.zero_grad()
        loss.backward()
        values.step()
        if gate is not None:
            gate.zero_grad()
            gate_loss(talk, balance=comm.balance).backward()
            gate.step()
    return comm


def named(method, *, open_all=False):
    """How often those who had to be told name the word, and the share of open links that carry news."""
    hidden_MNH, knows_M, word_M, scene = situation(10_000, open_all)
    comm = taught(method)
    with torch.no_grad():
        talk = comm(hidden_MNH, scene)
    hears_MN = torch.nn.functional.one_hot(knows_M, AGENTS) == 0
    right_MN = (talk.q_MNA.argmax(-1) == word_M[:, None]) & hears_MN
    return float(right_MN.sum() / hears_MN.sum()), talk.links_MNN, scene.news_MNN


def test_who_cannot_talk_guesses():
    assert named("none")[0] < 0.35


@pytest.mark.parametrize("method", [name for name in METHODS if name not in ("none", "random")])
def test_a_word_is_told(method):
    assert named(method, open_all=True)[0] > 0.9


def test_random_links_tell_about_as_often_as_they_are_open():
    share = named("random")[0]
    assert 0.5 < share < 0.75, "half of the links, and a guess on the others: 0.62"


@pytest.mark.parametrize("method", ["t2mac", "t2mac_plus"])
def test_a_gate_tells_what_is_news_and_little_else(method):
    right, links_MNN, news_MNN = named(method)
    assert right > 0.9
    assert float((links_MNN * news_MNN).sum() / news_MNN.sum()) > 0.8
    assert float(links_MNN.mean()) < 0.4 * float((1 - torch.eye(AGENTS)).mean())


def test_the_plus_gate_beats_random_links_at_its_rate():
    right, links_MNN, _ = named("t2mac_plus")
    rate = float(links_MNN.sum() / (ROWS * AGENTS * (AGENTS - 1)))
    comm = taught("t2mac_plus")
    hidden_MNH, knows_M, word_M, scene = situation(10_000, False)
    random = open_method("t2mac_plus", SIZES, T2macPlusConfig(gate="random", rate=rate))
    random.load_state_dict(comm.state_dict())
    with torch.no_grad():
        talk = random(hidden_MNH, scene)
    hears_MN = torch.nn.functional.one_hot(knows_M, AGENTS) == 0
    by_chance = float(((talk.q_MNA.argmax(-1) == word_M[:, None]) & hears_MN).sum() / hears_MN.sum())
    assert right > by_chance + 0.3
