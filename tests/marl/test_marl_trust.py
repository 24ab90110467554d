"""Channels that lose, garble and lie, and trust that is earned by what hearing a sender was worth."""

import asyncio
import json
from dataclasses import replace

import pytest
import torch

from palmette.cli import main
from palmette.errors import UserError
from palmette.marl.channel import Channel
from palmette.marl.comm.api import Scene, Sizes
from palmette.marl.comm.names import METHODS, open_method
from palmette.marl.envs.names import open_game
from palmette.marl.envs.scout import ScoutConfig
from palmette.marl.nets import Agents
from palmette.marl.recipe import MarlRecipe
from palmette.marl.team import Team
from palmette.marl.train import train_marl
from palmette.marl.training import Training
from palmette.marl.trust import Reputation
from palmette.run import RunDir

SMALL = {
    "kind": "marl",
    "steps": 400,
    "learn": {"hidden": 16, "parallel": 8, "batch": 8, "update_every": 20, "buffer": 70, "target_every": 5},
    "test": {"times": 2, "episodes": 16},
    "scout": {"size": 5, "limit": 6},
}
TALKING = sorted(set(METHODS) - {"none", "random"})  # what random links carry depends on more draws


def scene_of(method, *, batch=12, agents=5, seed=0):
    """Return (agents with that method, hidden_BNH, a scene, the game's first frame)."""
    torch.manual_seed(seed)
    frame = open_game("scout", batch=batch, seed=seed).reset()
    sizes = Sizes(agents=agents, actions=6, hidden=16, state=frame.state_BS.shape[1])
    comm = open_method(method, sizes, getattr(MarlRecipe(), method, None))
    net = Agents(inputs=5, hidden=16, comm=comm).eval()
    scene = Scene(avail_MNA=frame.avail_BNA, generator=torch.Generator().manual_seed(seed), news_MNN=frame.news_BNN)
    return net, torch.randn(batch, agents, 16), scene, frame


@pytest.mark.parametrize("method", TALKING)
def test_a_clear_channel_changes_nothing(method):
    net, hidden, scene, frame = scene_of(method)
    plain = net.talk(hidden, scene)
    noisy = Channel(noise=1e-12).open(frame, scene.generator).talk(net, hidden, scene)  # the long way, to the same end
    torch.testing.assert_close(noisy.q_MNA, plain.q_MNA, atol=1e-5, rtol=1e-5)
    assert torch.equal(noisy.links_MNN, plain.links_MNN)


@pytest.mark.parametrize("method", TALKING)
def test_a_liar_decides_for_itself_as_before_and_others_hear_the_lie(method):
    net, hidden, scene, frame = scene_of(method)
    plain = net.talk(hidden, scene)
    line = Channel(liars=(1,)).open(frame, scene.generator)
    lied = line.talk(net, hidden, scene)
    told = hidden.clone()
    told[:, 1] = hidden[line._told_LB[0], 1]
    expected = net.talk(told, scene)
    others = [0, 2, 3, 4]
    torch.testing.assert_close(lied.q_MNA[:, 1], plain.q_MNA[:, 1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(lied.q_MNA[:, others], expected.q_MNA[:, others], atol=1e-5, rtol=1e-5)


def test_a_liar_is_sure_where_the_game_can_tell():
    frame = open_game("scout", batch=300, seed=1).reset()
    line = Channel(liars=(2,)).open(frame, torch.Generator().manual_seed(0))
    knows = frame.news_BNN[:, 2].any(-1)
    assert 0.1 < float(knows.float().mean()) < 0.9
    assert bool(knows[line._told_LB[0]].all())


def test_a_channel_loses_its_share_and_mutes_whole_senders():
    _, hidden, scene, frame = scene_of("full", batch=2000)
    line = Channel(loss=0.3).open(frame, scene.generator)
    assert abs(float(line._arrives(hidden).mean()) - 0.7) < 0.01
    hears = torch.ones(2000, 5)
    hears[:, 3] = 0
    arrives = Channel().open(frame, scene.generator, hears)._arrives(hidden)
    assert bool((arrives[:, 3] == 0).all())
    assert bool((arrives[:, :3] == 1).all())


def test_a_lost_message_is_still_one_that_was_sent():
    training = Training(MarlRecipe.model_validate({**SMALL, "method": "full"}), 0)
    assert training.measure(channel=Channel(loss=1.0)).comm_rate == 1.0


@pytest.mark.parametrize("method", ["t2mac", "t2mac_plus"])
def test_a_sender_without_trust_is_as_one_who_is_silent(method):
    net, hidden, scene, _ = scene_of(method)
    trust = torch.ones(12, 5)
    trust[:, 2] = 0
    distrusted = net.talk(hidden, replace(scene, trust_MN=trust))
    mute = torch.ones(12, 5, 5)
    mute[:, 2] = 0
    silent = net.talk(hidden, replace(scene, arrives_MNN=mute))
    torch.testing.assert_close(distrusted.q_MNA, silent.q_MNA)
    half = net.talk(hidden, replace(scene, trust_MN=torch.full((12, 5), 0.5)))
    assert not torch.allclose(half.q_MNA, silent.q_MNA)


def test_trust_follows_what_hearing_a_sender_was_worth():
    generator, reputation = torch.Generator().manual_seed(0), Reputation(3)
    assert bool((reputation.trust_N > 0.97).all())
    for _ in range(20):
        hears = reputation.draw(256, generator)
        chance = 0.5 + 0.3 * hears[:, 0] - 0.3 * hears[:, 1]  # one helps, one harms, one says nothing
        reputation.learn(hears, (torch.rand(256, generator=generator) < chance).float())
    trust = reputation.trust_N
    assert float(trust[0]) > 0.99
    assert float(trust[1]) < 0.01
    worth, error = reputation.worth()
    assert abs(float(worth[0]) - 0.3) < 4 * float(error[0])
    assert abs(float(worth[1]) + 0.3) < 4 * float(error[1])
    assert abs(float(worth[2])) < 4 * float(error[2])
    heard = reputation.draw(4000, generator).mean(0)
    assert abs(float(heard[1]) - 0.05) < 0.02  # it may still prove itself
    assert float(heard[0]) > 0.93


def test_trust_comes_back():
    generator, reputation = torch.Generator().manual_seed(1), Reputation(1)
    for gain, trusted in ((-0.5, False), (0.5, True)):
        for _ in range(120):
            hears = reputation.draw(256, generator)
            reputation.learn(hears, gain * hears[:, 0] + torch.randn(256, generator=generator))
        assert (float(reputation.trust_N[0]) > 0.5) is trusted


def test_a_team_plays_what_its_training_measured():
    training = Training(MarlRecipe.model_validate({**SMALL, "method": "t2mac_plus"}), 3)
    training.advance()
    team = Team(training.recipe, training.learner.agents.state_dict(), seed=3)
    training.env_steps = training.recipe.steps  # past the warm-up: a team's gate is its own
    assert team.test(episodes=16).measured == training.measure()
    for trusting in ("trials", "discount"):
        tested = team.test(episodes=16, trusting=trusting, practice=2, channel=Channel(liars=(0,)))
        assert tested.trust_N is not None
        assert tested.trust_N.shape == (5,)


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda team: team.test(episodes=4, channel=Channel(liars=(9,))), "agents 0 to 4"),
        (lambda team: team.test(episodes=4, trusting="discount"), "tarmac cannot discount"),
        (lambda team: Team(team.recipe, {}), "not of tarmac on scout"),
    ],
)
def test_what_a_team_cannot_do_is_said_in_one_line(ask, said):
    training = Training(MarlRecipe.model_validate({**SMALL, "method": "tarmac"}), 0)
    team = Team(training.recipe, training.learner.agents.state_dict())
    with pytest.raises(UserError, match=said):
        ask(team)


def test_a_channel_that_cannot_be():
    for bad in ({"loss": 1.5}, {"noise": -1.0}):
        with pytest.raises(ValueError, match="wanted"):
            Channel(**bad)
    with pytest.raises(ValueError, match="not a number"):
        Reputation(1).learn(torch.ones(1, 1), torch.tensor([float("nan")]))


def test_a_team_is_evaluated_from_the_command_line(tmp_path, capsys):
    recipe = MarlRecipe.model_validate({**SMALL, "method": "t2mac_plus", "seeds": 2, "name": "team"})
    asyncio.run(train_marl(recipe, RunDir.create(tmp_path / "team", recipe)))
    capsys.readouterr()
    command = ["eval", "team", "--runs", str(tmp_path), "--episodes", "16", "--liar", "0"]
    command += ["--trust", "discount", "--json"]
    assert main(command) == 0
    told = json.loads(capsys.readouterr().out)
    assert [row["seed"] for row in told["seeds"]] == [0, 1]
    assert all(len(row["trust"]) == 5 and 0 <= row["score"] <= 1 for row in told["seeds"])
    assert main(["eval", "team", "--runs", str(tmp_path), "--liar", "5"]) == 2
    assert "agents 0 to 4" in capsys.readouterr().err


def test_agents_that_go_by_roles_play_in_a_larger_team():
    recipe = MarlRecipe.model_validate({**SMALL, "method": "t2mac_plus", "learn": {**SMALL["learn"], "ids": "roles"}})
    weights = Training(recipe, 0).learner.agents.state_dict()
    for scouts, hunters in ((4, 2), (3, 3), (5, 4)):
        larger = recipe.model_copy(update={"scout": ScoutConfig(size=5, limit=6, scouts=scouts, hunters=hunters)})
        assert 0 <= Team(larger, weights).test(episodes=8).measured.score <= 1


def test_agents_that_go_by_themselves_do_not():
    recipe = MarlRecipe.model_validate({**SMALL, "method": "t2mac_plus"})
    weights = Training(recipe, 0).learner.agents.state_dict()
    larger = recipe.model_copy(update={"scout": ScoutConfig(size=5, limit=6, scouts=4)})
    with pytest.raises(UserError, match="not of t2mac_plus on scout"):
        Team(larger, weights)


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"random"}))  # which draws anew
def test_by_roles_nobody_is_told_apart_from_its_like(method):
    """Swapping two scouts, what they saw and their links, swaps what the network says of them and nothing else."""
    torch.manual_seed(0)
    sizes = Sizes(agents=5, names=(0, 0, 0, 1, 1), actions=6, hidden=16, state=6)
    comm = open_method(method, sizes, getattr(MarlRecipe(), method, None)).eval()
    hidden, swapped = torch.randn(7, 5, 16), [1, 0, 2, 3, 4]
    frame = open_game("scout", batch=7).reset()

    def told(order):
        scene = Scene(
            avail_MNA=frame.avail_BNA,
            generator=torch.Generator().manual_seed(0),
            news_MNN=frame.news_BNN[:, order][:, :, order],
        )
        return comm(hidden[:, order], scene).q_MNA

    torch.testing.assert_close(told(swapped), told([0, 1, 2, 3, 4])[:, swapped], atol=1e-5, rtol=1e-5)
