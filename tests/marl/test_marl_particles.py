"""Our particle games against the mpe2 package: the same state and actions give the same observations and rewards."""

import importlib

import numpy as np
import pytest
import torch

from palmette.marl.envs.api import random_actions
from palmette.marl.envs.navigation import Navigation, NavigationConfig
from palmette.marl.envs.predators import Predators, PredatorsConfig


def other(name, **options):
    """One environment of mpe2 and its inner world."""
    module = importlib.import_module(f"mpe2.{name}")
    env = module.parallel_env(continuous_actions=False, **options)
    env.reset(seed=0)
    return env, env.unwrapped


def put(world, positions_E2):
    for entity, position in zip(world.entities, positions_E2, strict=True):
        entity.state.p_pos = position.numpy().copy()
        entity.state.p_vel = np.zeros(2)


@pytest.mark.parametrize("agents", [2, 3, 6])
def test_navigation_equals_mpe2_over_full_episodes(agents):
    env, raw = other("simple_spread_v3", N=agents, max_cycles=25)
    game = Navigation(NavigationConfig(agents=agents), batch=1, seed=agents, dtype=torch.float64)
    generator = torch.Generator().manual_seed(agents)
    for _ in range(8):
        env.reset()
        frame = game.reset()
        put(raw.world, game._positions_BE2[0])
        seen = [raw.observe(agent) for agent in raw.possible_agents]
        np.testing.assert_allclose(frame.obs_BNO[0], np.stack(seen), atol=1e-6)
        for _ in range(25):
            actions_BN = random_actions(frame.avail_BNA, generator)
            names = raw.possible_agents
            obs, rewards, _, over, _ = env.step(dict(zip(names, actions_BN[0].tolist(), strict=True)))
            frame = game.step(actions_BN)
            np.testing.assert_allclose(frame.obs_BNO[0], np.stack([obs[name] for name in names]), atol=1e-6)
            np.testing.assert_allclose(game.rewards_BN[0], [rewards[name] for name in names], atol=1e-6)
            np.testing.assert_allclose(frame.reward_B[0], np.mean([rewards[name] for name in names]), atol=1e-6)
            assert bool(frame.truncated_B) == over[names[0]]


@pytest.mark.parametrize(("predators", "prey", "obstacles"), [(3, 1, 2), (2, 2, 0), (6, 2, 3)])
@pytest.mark.parametrize("policy", ["flee", "still"])
def test_predators_equal_mpe2_over_full_episodes(predators, prey, obstacles, policy):
    options = {"num_good": prey, "num_adversaries": predators, "num_obstacles": obstacles}
    env, raw = other("simple_tag_v3", max_cycles=25, **options)
    config = PredatorsConfig(predators=predators, prey=prey, obstacles=obstacles, prey_policy=policy)
    game = Predators(config, batch=1, seed=predators, dtype=torch.float64)
    generator = torch.Generator().manual_seed(predators)
    caught = 0.0
    for _ in range(8):
        env.reset()
        frame = game.reset()
        put(raw.world, game._positions_BE2[0])
        for _ in range(25):
            actions_BN = random_actions(frame.avail_BNA, generator)
            everybody = torch.cat([actions_BN, game.prey_actions_BP()], 1)[0].tolist()
            obs, rewards, _, _, _ = env.step(dict(zip(raw.possible_agents, everybody, strict=True)))
            frame = game.step(actions_BN)
            names = raw.possible_agents[:predators]
            np.testing.assert_allclose(frame.obs_BNO[0], np.stack([obs[name] for name in names]), atol=1e-6)
            np.testing.assert_allclose(frame.reward_B.expand(predators), [rewards[n] for n in names], atol=1e-6)
            caught += float(frame.reward_B)
    if predators == 6:
        assert caught > 0, "nobody was caught: the rewards have not been compared"


def test_float32_stays_near_float64():
    frames = {}
    for dtype in (torch.float32, torch.float64):
        game = Navigation(NavigationConfig(), batch=64, dtype=dtype)
        start_BE2 = torch.rand(64, 6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1
        frame = game.place(start_BE2)
        generator = torch.Generator().manual_seed(1)
        for _ in range(5):
            frame = game.step(random_actions(frame.avail_BNA, generator))
        frames[dtype] = frame.obs_BNO.double()
    assert (frames[torch.float32] - frames[torch.float64]).abs().max() < 1e-3


@pytest.mark.parametrize(("game", "config"), [(Navigation, NavigationConfig), (Predators, PredatorsConfig)])
def test_a_view_radius_hides_what_is_far_and_says_so(game, config):
    everything = game(config(), batch=256, seed=1)
    nearly = game(config(view_radius=0.7), batch=256, seed=1)
    boundless = game(config(view_radius=100.0), batch=256, seed=1)
    full_BNO, near_BNO = everything.reset().obs_BNO, nearly.reset().obs_BNO
    size = full_BNO.shape[-1]
    wide_BNO = boundless.reset().obs_BNO
    assert torch.equal(wide_BNO[..., :size], full_BNO)
    assert bool((wide_BNO[..., size:] == 1).all())
    flags = near_BNO.shape[-1] - size
    relative_BNF2 = full_BNO[..., 4 : 4 + 2 * flags].unflatten(-1, (flags, 2))
    near_BNF = relative_BNF2.norm(dim=-1) <= 0.7
    assert torch.equal(near_BNO[..., size:].bool(), near_BNF)
    shown_BNF2 = near_BNO[..., 4 : 4 + 2 * flags].unflatten(-1, (flags, 2))
    assert torch.equal(shown_BNF2, relative_BNF2 * near_BNF[..., None])
    assert 0.05 < near_BNF.float().mean() < 0.7


def test_prey_that_flees_is_caught_less():
    caught = {}
    for policy in ("flee", "random", "still"):
        game = Predators(PredatorsConfig(prey_policy=policy, limit=60), batch=256, seed=2)
        game.reset()
        total = 0.0
        for _ in range(60):
            relative_BN2 = game._positions_BE2[:, 3:4] - game._positions_BE2[:, :3]
            axis_BN = relative_BN2.abs().argmax(-1)
            ahead_BN = relative_BN2.gather(-1, axis_BN[..., None]).squeeze(-1) > 0
            total += float(game.step(1 + 2 * axis_BN + ahead_BN.long()).reward_B.mean())
        caught[policy] = total
    assert caught["flee"] < 0.6 * caught["random"]
    assert caught["flee"] < 0.6 * caught["still"]
