"""Adapters: PettingZoo's own test, PyMARL's names there and back, and SMAC's one line where StarCraft II is absent."""

import importlib
import re

import pytest
import torch
from pettingzoo.test import parallel_api_test

from palmette.errors import UserError
from palmette.marl.envs.api import random_actions
from palmette.marl.envs.conformance import episode
from palmette.marl.envs.hallway import Hallway, HallwayConfig
from palmette.marl.envs.names import GAMES, open_game
from palmette.marl.envs.navigation import Navigation, NavigationConfig
from palmette.marl.envs.pymarl import FromPyMarl, PyMarlEnv
from palmette.marl.envs.scout import Scout, ScoutConfig
from palmette.marl.envs.zoo import parallel_env

CORE = [name for name in GAMES if name not in ("smac", "smax")]


@pytest.mark.parametrize("name", CORE)
def test_pettingzoo_accepts_our_games(name):
    parallel_api_test(parallel_env(open_game(name, batch=1)), num_cycles=60)


def test_a_seeded_reset_repeats_the_episode():
    env = parallel_env(open_game("navigation", batch=1))
    first, _ = env.reset(seed=4)
    other, _ = env.reset(seed=5)
    again, _ = env.reset(seed=4)
    assert all((first[agent] == again[agent]).all() for agent in env.agents)
    assert any((first[agent] != other[agent]).any() for agent in env.agents)


@pytest.mark.parametrize(
    ("game", "config"), [(Hallway, HallwayConfig()), (Navigation, NavigationConfig()), (Scout, ScoutConfig())]
)
def test_pymarl_and_back_is_the_same_game(game, config):
    there = FromPyMarl("again", lambda seed: PyMarlEnv(game(config, batch=1, seed=seed)), batch=3, seed=5)
    direct = [game(config, batch=1, seed=5 + copy) for copy in range(3)]
    for each in direct:
        each.reset()  # the adapter starts an episode when it is made
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        frame, frames = there.reset(), [each.reset() for each in direct]
        for _ in range(there.spec.limit):
            for name in ("obs_BNO", "state_BS", "avail_BNA", "reward_B", "terminated_B", "truncated_B", "won_B"):
                assert torch.equal(getattr(frame, name), torch.cat([getattr(one, name) for one in frames])), name
            actions_BN = random_actions(frame.avail_BNA, generator)
            frame = there.step(actions_BN)
            frames = [each.step(actions_BN[copy : copy + 1]) for copy, each in enumerate(direct)]
        assert bool(frame.ended_B.all())
    assert there.spec.limit == direct[0].spec.limit


def test_pymarl_is_told_the_sizes_and_the_limit():
    env = PyMarlEnv(Hallway(HallwayConfig(lengths=(2, 3)), batch=1))
    assert env.get_env_info() == {"state_shape": 2, "obs_shape": 4, "n_actions": 3, "n_agents": 2, "episode_limit": 13}
    obs, state = env.reset()
    assert [each.shape for each in obs] == [(4,), (4,)]
    assert state.shape == (2,)
    for step in range(13):
        reward, over, info = env.step([0, 0])
        assert reward == 0
        assert over is (step == 12)
    assert info == {"battle_won": False, "episode_limit": True}


def test_adapters_take_one_copy():
    for adapt in (parallel_env, PyMarlEnv):
        with pytest.raises(ValueError, match="batch=1"):
            adapt(open_game("hallway", batch=2))


def test_smac_without_starcraft_says_what_to_install(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=re.escape("pip install git+https://github.com/oxwhirl/smac")) as caught:
        open_game("smac", batch=1)
    assert "\n" not in str(caught.value)


def test_smac_asks_for_the_game_itself_when_the_package_is_there(tmp_path, monkeypatch):
    files = {
        "smac/__init__.py": "",
        "smac/env/__init__.py": "class StarCraft2Env: pass",
        "smac/env/starcraft2/__init__.py": "",
        "smac/env/starcraft2/maps/__init__.py": "",
        "smac/env/starcraft2/maps/smac_maps.py": "def get_smac_map_registry(): return {'3m': {}, '2s3z': {}}",
    }
    for name, text in files.items():
        path = tmp_path / "site" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("SC2PATH", str(tmp_path / "game"))
    importlib.invalidate_caches()
    with pytest.raises(UserError, match="needs StarCraft II, and there is none in"):
        open_game("smac", batch=1)
    (tmp_path / "game" / "Versions").mkdir(parents=True)
    with pytest.raises(UserError, match="no SMAC map '2s3x'; did you mean '2s3z'"):
        open_game("smac", GAMES["smac"][0](map="2s3x"), batch=1)


def test_an_unknown_game_is_named():
    with pytest.raises(UserError, match="no game 'hallwya'; did you mean 'hallway'"):
        open_game("hallwya", batch=1)


def test_episodes_differ_from_one_another():
    frames = episode(open_game("scout", batch=4, seed=1), seed=0)
    assert len({tuple(row.tolist()) for row in frames[0].state_BS}) == 4
