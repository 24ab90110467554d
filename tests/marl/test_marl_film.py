"""The recorded episode of a team, and the page that shows it."""

import asyncio
import json

import pytest

from palmette.errors import UserError
from palmette.marl.envs.names import GAMES
from palmette.marl.film import film
from palmette.marl.recipe import MarlRecipe
from palmette.marl.train import train_marl
from palmette.marl.training import Training
from palmette.report.html import write_report
from palmette.run import RunDir

SMALL = {
    "kind": "marl",
    "steps": 400,
    "learn": {"hidden": 16, "parallel": 8, "batch": 8, "update_every": 20, "buffer": 70, "target_every": 5},
    "test": {"times": 2, "episodes": 16},
}


@pytest.mark.parametrize("game", sorted(set(GAMES) - {"smac", "smax"}))
@pytest.mark.parametrize("method", ["none", "full", "t2mac_plus"])
def test_a_film_shows_everybody_at_every_step(game, method):
    training = Training(MarlRecipe.model_validate({**SMALL, "game": game, "method": method}), 0)
    shown = film(training)
    agents = training.spec.agents
    assert len(shown["agents"]) == agents
    assert 1 <= len(shown["steps"]) <= training.spec.limit
    everybody = agents * (agents - 1)
    for step in shown["steps"]:
        assert len(step["places"]) == agents
        assert all(-0.2 <= value <= 1.2 for place in step["places"] + step["things"] for value in place)
        assert all(i != j and 0 <= sure <= 1 for i, j, sure in step["links"])
        assert len(step["links"]) == {"none": 0, "full": everybody}.get(method, len(step["links"]))
    assert film(training) == shown  # always the same one


def test_a_scout_s_film_is_where_the_game_was():
    training = Training(MarlRecipe.model_validate({**SMALL, "game": "scout", "method": "oracle"}), 0)
    shown = film(training)
    for step in shown["steps"]:
        (target,) = step["things"]
        told = {shown["agents"][i] for i, _, _ in step["links"]}
        assert told == {f"s{int(target[0] * 3) + 1}"}  # the oracle: the scout of the target's strip speaks


def test_the_page_of_a_team_shows_curves_seeds_and_episodes(tmp_path):
    recipe = MarlRecipe.model_validate({**SMALL, "game": "scout", "method": "full", "seeds": 2, "name": "team"})
    run = RunDir.create(tmp_path / "team", recipe)
    asyncio.run(train_marl(recipe, run))
    page = write_report(run.path).read_text(encoding="utf-8")
    assert "median and quartiles over 2 seeds" in page
    assert page.count('<div class="episode">') == 2
    steps = json.loads((run.path / "films" / "seed_0.json").read_text())["steps"]
    assert f"in {len(steps)} of {len(steps)} steps" in page  # full: everybody tells everybody, always
    assert "No rollouts" not in page.partition('<section id="details"')[0]  # below are the sources, this test too
    (run.path / "films" / "seed_0.json").write_text("{")
    with pytest.raises(UserError, match=r"seed_0.json: no readable episode"):
        write_report(run.path)
