"""The learner's arithmetic: mixers, returns, what each optimiser may touch, and the gate's loss."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from palmette.marl.collect import Collector, Seat
from palmette.marl.comm.api import Sizes
from palmette.marl.comm.names import METHODS, open_method
from palmette.marl.comm.t2mac_plus import T2macPlusConfig
from palmette.marl.envs.hallway import Hallway, HallwayConfig
from palmette.marl.envs.scout import Scout, ScoutConfig
from palmette.marl.episode import Buffer
from palmette.marl.learn import LearnConfig, lambda_returns, open_learner, priced_loss, selector_loss
from palmette.marl.live import Live
from palmette.marl.nets import Qmix, Vdn

SMALL = LearnConfig(hidden=16, parallel=8, batch=8)


def started(method="t2mac_plus", game=None, *, mixer="qmix", config=SMALL, seed=0, settings=None):
    """A learner, what plays more episodes with it, and a few random ones."""
    game = game or Scout(ScoutConfig(size=5, limit=6), batch=8, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    spec = game.spec
    sizes = Sizes(agents=spec.agents, actions=spec.actions, hidden=config.hidden, state=spec.state_size)
    learner = open_learner(spec, open_method(method, sizes, settings), mixer, config, generator)
    collector = Collector(game, ids=config.ids)

    def play(epsilon):
        return collector.play(Seat(agents=learner.agents, generator=generator, epsilon=epsilon)).episodes

    return learner, play, play(1.0).cut()


def short_episodes():
    return Hallway(HallwayConfig(lengths=(2, 3), slack=2), batch=8, seed=2)


def test_vdn_adds():
    chosen_XN, state_XS = torch.randn(6, 3), torch.randn(6, 4)
    assert torch.equal(Vdn(3, 4)(chosen_XN, state_XS), chosen_XN.sum(-1))


def test_qmix_rises_with_every_agent_and_depends_on_the_state():
    torch.manual_seed(0)
    mixer = Qmix(3, 4)
    chosen_XN = torch.randn(64, 3, requires_grad=True)
    state_XS = torch.randn(64, 4) * 3
    mixer(chosen_XN, state_XS).sum().backward()
    assert chosen_XN.grad is not None
    assert (chosen_XN.grad >= 0).all()
    assert (chosen_XN.grad > 0).float().mean() > 0.95
    assert not torch.equal(mixer(chosen_XN, state_XS), mixer(chosen_XN, state_XS + 1))


@pytest.mark.parametrize("td_lambda", [0.0, 0.6, 1.0])
def test_returns_are_those_of_the_definition(td_lambda):
    _, _, episodes = started()
    generator = torch.Generator().manual_seed(1)
    places = episodes.obs_EUNO.shape[1]
    value_EU = torch.randn(8, places, generator=generator)
    target_ET = lambda_returns(value_EU, episodes, gamma=0.9, td_lambda=td_lambda)
    for episode in range(8):
        length = int(episodes.live_ET[episode].sum())
        assert bool(episodes.ended_ET[episode, length - 1])
        rewards = episodes.reward_ET[episode].tolist()
        values = value_EU[episode].tolist()
        for start in range(length):
            # lambda-weighted n-step returns; the last one, which reaches the end, takes what weight is left
            total, weight = 0.0, 1.0
            for n in range(1, length - start + 1):
                step = sum(0.9**k * rewards[start + k] for k in range(n))
                last = start + n == length
                step += 0.0 if last else 0.9**n * values[start + n]
                total += (weight if last else weight * (1 - td_lambda)) * step
                weight *= td_lambda
            assert abs(float(target_ET[episode, start]) - total) < 1e-4


@pytest.mark.parametrize("mixer", ["qmix", "vdn"])
@pytest.mark.parametrize("method", METHODS)
def test_an_update_lowers_the_error_on_the_same_episodes(method, mixer):
    learner, _, episodes = started(method, mixer=mixer, config=SMALL.model_copy(update={"lr": 3e-3}))
    rows = [learner.update(episodes, open_all=True) for _ in range(40)]
    first, last = (sum(row["loss"] for row in part) / 5 for part in (rows[:5], rows[-5:]))
    assert last < 0.8 * first


def test_targets_are_copied_only_when_it_is_time():
    learner, _, episodes = started(config=SMALL.model_copy(update={"target_every": 3}))
    networks = learner.modules()

    def apart():
        online, target = (
            nn.utils.parameters_to_vector(networks[name].parameters()) for name in ("agents", "target_agents")
        )
        return float((online - target).abs().max().detach())

    seen = []
    for _ in range(6):
        learner.update(episodes)
        seen.append(apart() > 0)
    assert seen == [True, True, False, True, True, False]


@torch.no_grad()
def test_double_q_takes_the_online_choice_at_the_target_s_value():
    learner, _, episodes = started("none", mixer="vdn", config=SMALL.model_copy(update={"td_lambda": 0.0}))
    for parameter in learner.modules()["target_agents"].parameters():
        parameter.add_(torch.randn_like(parameter) * 0.3)
    live = Live.of(episodes.live_ET)
    _, target_R = learner._look(episodes, live, False)
    target_ET = live.spread(target_R, episodes.live_ET)
    inputs_EUNI = episodes.inputs(actions=6, ids_NK=torch.eye(episodes.obs_EUNO.shape[2]))
    for episode in range(3):
        for step in range(int(episodes.live_ET[episode].sum())):
            expected = float(episodes.reward_ET[episode, step])
            if not episodes.ended_ET[episode, step]:
                for agent in range(5):
                    values = []
                    for name in ("agents", "target_agents"):
                        network = learner.modules()[name]
                        hidden = torch.zeros(1, 1, 16)
                        for place in range(step + 2):  # the plain loop, one agent and one step at a time
                            fed = torch.relu(network.encode(inputs_EUNI[episode, place, agent]))[None, None]
                            _, hidden = network.memory(fed, hidden)
                        values.append(network.comm.head(hidden[0, 0]))
                    avail_A = episodes.avail_EUNA[episode, step + 1, agent]
                    expected += 0.99 * float(values[1][values[0].masked_fill(~avail_A, -torch.inf).argmax()])
            assert abs(float(target_ET[episode, step]) - expected) < 1e-4


def test_a_reward_counts_as_much_as_its_scale_says():
    rewards = torch.randn(8, 6)

    def loss(scale, factor):
        learner, _, episodes = started("none", config=SMALL.model_copy(update={"reward_scale": scale}))
        return learner.update(replace(episodes, reward_ET=factor * rewards))["loss"]

    assert loss(0.5, 2.0) == loss(1.0, 1.0) != loss(0.5, 1.0)


@pytest.mark.parametrize("method", ["none", "masia", "t2mac_plus"])
def test_what_lies_behind_an_episode_s_end_changes_nothing(method):
    (learner, _, episodes), (other, _, _) = (started(method, short_episodes()) for _ in range(2))
    dead_ET = ~episodes.live_ET
    assert bool(dead_ET.any())
    spoiled = {"action_ETN": episodes.action_ETN.masked_fill(dead_ET[..., None], 2)}
    for name in ("obs_EUNO", "state_EUS"):
        value = getattr(episodes, name).clone()
        value[:, :-1][dead_ET] = torch.nan
        value[:, -1] = torch.nan
        spoiled[name] = value
    assert learner.update(episodes) == other.update(replace(episodes, **spoiled))


def test_rows_are_what_whole_sequences_remember():
    learner, _, episodes = started("none", short_episodes())
    live = Live.of(episodes.live_ET)
    inputs_EUNI = episodes.inputs(actions=3, ids_NK=torch.eye(2))
    seen_EUNH = torch.relu(learner.agents.encode(inputs_EUNI))
    hidden_EUNH = torch.stack([learner.agents.memory(seen_EUNH[:, :, agent])[0] for agent in range(2)], 2)
    hidden_RNH = learner.agents.remember_rows(live.rows(inputs_EUNI), live.count_T)
    assert len(hidden_RNH) == episodes.steps < episodes.live_ET.numel()
    torch.testing.assert_close(hidden_RNH, live.rows(hidden_EUNH), rtol=1e-5, atol=1e-6)
    spread_ET = live.spread(live.rows(episodes.reward_ET), episodes.live_ET)
    assert torch.equal(spread_ET, episodes.reward_ET * episodes.live_ET)


def test_each_optimiser_keeps_to_its_own():
    learner, _, episodes = started("t2mac")
    values, selector = learner.agents.parts()
    assert not {id(each) for each in values} & {id(each) for each in selector}
    before = [each.clone() for each in selector]
    learner.selector_optimiser = None
    learner.update(episodes, open_all=True)
    assert all(torch.equal(old, new) for old, new in zip(before, selector, strict=True))


@pytest.mark.parametrize("method", ["t2mac", "t2mac_plus"])
def test_the_selector_moves(method):
    learner, _, episodes = started(method)
    _, selector = learner.agents.parts()
    before = [each.clone() for each in selector]
    row = learner.update(episodes)
    assert row["selector_loss"] > 0
    assert all(not torch.equal(old, new) for old, new in zip(before, selector, strict=True))


def test_what_nobody_says_is_learned_from_all_the_same():
    """Rehearsal is all that can move what is heard over closed links."""
    for rehearse in (True, False):
        settings = T2macPlusConfig(threshold=0.999, rehearse=rehearse)
        learner, _, episodes = started(settings=settings)
        heard = learner.agents.comm.features.heard.weight
        before = heard.detach().clone()
        learner.update(episodes)
        assert torch.equal(before, heard) != rehearse


def test_the_gate_s_loss_counts_links_between_others():
    logits = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(0))
    labels = (torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(1)) < 0.2).float()
    kept = [
        (float(logits[m, i, j]), float(labels[m, i, j])) for m in range(3) for i in range(4) for j in range(4) if i != j
    ]
    good = sum(label for _, label in kept)
    for balance in (1.0, 2.0, 100.0):
        weight = min(max((len(kept) - good) / good, 1.0), balance)
        total = 0.0
        for logit, label in kept:
            share = 1 / (1 + torch.exp(torch.tensor(-logit)))
            total -= float(weight * label * share.log() + (1 - label) * (1 - share).log())
        assert abs(float(selector_loss(logits, labels, balance=balance)) - total / len(kept)) < 1e-5


def test_a_priced_gate_opens_where_worth_is_expected_to_be_above_its_price():
    """Its loss is least at the logit log E[w]: many small worths or one great one, as long as their mean is above 1."""
    seldom = torch.tensor([0.0, 0.0, 0.0, 8.0])  # E[w] = 2
    always = torch.tensor([0.5, 0.5, 0.5, 0.5])
    for worth, expected in ((seldom, 2.0), (always, 0.5)):
        prices_MNN = worth[:, None, None].expand(4, 2, 2)
        logits = [torch.tensor(expected).log() + step for step in (-0.1, 0.0, 0.1)]
        below, least, above = (float(priced_loss(each.expand(4, 2, 2), prices_MNN)) for each in logits)
        assert least < min(below, above)


def test_a_gate_learns_what_its_labels_say():
    """Labels that depend on the sender: a selector without a gradient, as published, would stay at chance."""
    torch.manual_seed(0)
    sizes = Sizes(agents=3, actions=4, hidden=8, state=2)
    comm = open_method("t2mac", sizes)
    optimiser = torch.optim.Adam(comm.selector_parameters(), lr=1e-2)
    for step in range(150):
        hidden_MNH = torch.randn(64, 3, 8, generator=torch.Generator().manual_seed(step))
        logits_MNN, links_MNN = comm.gate(hidden_MNH)
        labels_MNN = (hidden_MNH[..., :1] > 0.5).float().expand(64, 3, 3) * torch.tensor([1.0, 1.0, 0.0])
        if step == 149:
            wrong = ((links_MNN != labels_MNN) * (1 - torch.eye(3))).sum() / (64 * 6)
            assert wrong < 0.1
        loss = selector_loss(logits_MNN, labels_MNN)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def test_what_the_learner_sees_is_what_was_played():
    """Hidden states of whole episodes in one call are those of step by step, in every copy."""
    game = Hallway(HallwayConfig(lengths=(2, 3), slack=2), batch=8, seed=2)
    learner, play, _ = started("full", game, config=SMALL.model_copy(update={"ids": "none"}))
    episodes = play(0.0)
    talk, _ = learner._look(episodes, Live.of(episodes.live_ET), False)
    greedy_ETN = torch.zeros_like(episodes.action_ETN)
    live = Live.of(episodes.live_ET)
    greedy_ETN[live.episode_R, live.step_R] = talk.q_MNA.argmax(-1)
    assert bool((greedy_ETN == episodes.action_ETN)[episodes.live_ET].all())


def test_the_buffer_keeps_the_latest():
    _, play, _ = started()
    buffer = Buffer(20)
    rewards = []
    for _ in range(4):
        episodes = play(1.0)
        rewards.append(episodes.state_EUS[:, 0])
        buffer.add(episodes)
    assert len(buffer) == 20
    kept = {tuple(row) for row in buffer.state_dict()["state_EUS"][:, 0].tolist()}
    assert kept == {tuple(row) for row in torch.cat(rewards)[-20:].tolist()}
    with pytest.raises(ValueError, match="empty"):
        Buffer(3).sample(1, torch.Generator())
