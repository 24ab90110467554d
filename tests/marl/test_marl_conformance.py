"""One conformance suite over every game, in several sizes."""

import pytest

from palmette.marl.envs.conformance import CHECKS
from palmette.marl.envs.hallway import PUBLISHED, Hallway, HallwayConfig
from palmette.marl.envs.navigation import Navigation, NavigationConfig
from palmette.marl.envs.predators import Predators, PredatorsConfig
from palmette.marl.envs.pymarl import FromPyMarl, PyMarlEnv
from palmette.marl.envs.scout import Scout, ScoutConfig

GAMES = {
    **{f"hallway/{name}": (Hallway, HallwayConfig(map=name)) for name in PUBLISHED},
    "hallway/tight": (Hallway, HallwayConfig(slack=0)),
    "hallway/scalar": (Hallway, HallwayConfig(lengths=(2, 3), one_hot=False)),
    "hallway/fixed": (Hallway, HallwayConfig(map="masia_groups", collision="fixed")),
    "navigation": (Navigation, NavigationConfig()),
    "navigation/near": (Navigation, NavigationConfig(agents=5, view_radius=0.6)),
    "predators": (Predators, PredatorsConfig()),
    "predators/near": (Predators, PredatorsConfig(predators=6, prey=2, obstacles=0, view_radius=0.8)),
    "predators/random": (Predators, PredatorsConfig(prey_policy="random")),
    "scout/3x2": (Scout, ScoutConfig()),
    "scout/5x3": (Scout, ScoutConfig(scouts=5, hunters=3, size=11)),
}


def through_pymarl(batch, seed):
    return FromPyMarl("scout", lambda copy: PyMarlEnv(Scout(ScoutConfig(), batch=1, seed=copy)), batch=batch, seed=seed)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
@pytest.mark.parametrize("name", GAMES)
def test_conformance(name, check):
    game, config = GAMES[name]
    check(lambda batch, seed: game(config, batch=batch, seed=seed))


NEEDS_DRAWS = {"check_draws_can_be_put_back"}  # PyMARL's environments keep theirs to themselves


@pytest.mark.parametrize("check", [check for check in CHECKS if check.__name__ not in NEEDS_DRAWS])
def test_conformance_through_pymarl(check):
    check(through_pymarl)
