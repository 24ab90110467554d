"""SMAX where jaxmarl is installed (not in CI), and one line of advice where it is not."""

import importlib.util

import pytest
import torch

from palmette.errors import UserError
from palmette.marl.envs import conformance
from palmette.marl.envs.api import random_actions
from palmette.marl.envs.names import open_game
from palmette.marl.envs.smax import Smax, SmaxConfig

HAS_JAXMARL = importlib.util.find_spec("jaxmarl") is not None
SOME = (  # every number of copies is compiled anew
    conformance.check_shapes_are_as_the_spec_says,
    conformance.check_every_episode_ends_within_the_limit,
    conformance.check_an_ended_episode_stays_as_it_is,
    conformance.check_the_seed_decides_everything,
    conformance.check_draws_can_be_put_back,
    conformance.check_wrong_actions_are_refused,
)
needs_jaxmarl = pytest.mark.skipif(not HAS_JAXMARL, reason="jaxmarl is not installed")


@pytest.mark.skipif(HAS_JAXMARL, reason="jaxmarl is installed")
def test_without_jaxmarl_it_says_what_to_install():
    with pytest.raises(UserError, match=r"pip install 'palmette\[smax\]'"):
        open_game("smax", batch=1)


@needs_jaxmarl
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("check", SOME, ids=lambda check: check.__name__.removeprefix("check_"))
def test_conformance(check):
    check(lambda batch, seed: Smax(SmaxConfig(map="3m", limit=30), batch=batch, seed=seed))


@needs_jaxmarl
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_battles_are_decided_and_short_sight_hides():
    seen, outcomes = {}, []
    for sight in (None, 1.0):
        game = Smax(SmaxConfig(map="3m", sight_range=sight, limit=30), batch=16, seed=0)
        frame = game.reset()
        seen[sight] = float((frame.obs_BNO != 0).float().mean())
        generator = torch.Generator().manual_seed(0)
        for _ in range(game.spec.limit):
            frame = game.step(random_actions(frame.avail_BNA, generator))
        assert bool(frame.ended_B.all())
        assert float(frame.terminated_B.float().mean()) > 0.05
        outcomes.append(frame.state_BS)
    assert seen[1.0] < 0.7 * seen[None]
    assert torch.equal(*outcomes), "the enemy sees as far as ever, and so does the same"


@needs_jaxmarl
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_state_stays_small_and_goes_on_moving():
    game = Smax(SmaxConfig(map="3m", limit=60), batch=16, seed=0)
    frame = game.reset()
    generator = torch.Generator().manual_seed(0)
    states = [frame.state_BS]
    for _ in range(game.spec.limit):
        frame = game.step(random_actions(frame.avail_BNA, generator))
        states.append(frame.state_BS)
    seen_USB = torch.stack(states)
    assert float(seen_USB.min()) >= 0
    assert float(seen_USB.max()) <= 1.5  # JaxMARL's own reaches 32, and -30 in cooldowns
    positions = seen_USB[:10, :, 1:3]
    assert float(positions.std(0).mean()) > 0.01


@needs_jaxmarl
def test_an_unknown_map_is_named():
    with pytest.raises(UserError, match="no SMAX map '2s3x'; did you mean '2s3z'"):
        open_game("smax", SmaxConfig(map="2s3x"), batch=1)
