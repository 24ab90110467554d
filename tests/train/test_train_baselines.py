"""Proves: RL on the mixture has the rollouts that experts and student had together, and no step more."""

from pathlib import Path

import pytest

from palmette.config import load_recipe
from palmette.train.baselines import mixed_steps
from palmette.train.recipe import Recipe

RECIPE = Path(__file__).parents[2] / "recipes" / "specialise_then_unify.toml"


@pytest.mark.parametrize("stages", [["sft", "rl", "distil"], ["sft", "rl"]])
def test_the_mixture_has_as_many_rollouts_as_all_that_it_is_compared_with(stages: list[str]) -> None:
    recipe = load_recipe(RECIPE, [], Recipe).model_copy(update={"stages": stages})
    rl, distil = recipe.rl, recipe.distil
    others = len(recipe.domains) * rl.steps * rl.groups * rl.samples
    if "distil" in stages:
        others += distil.steps * distil.groups * distil.samples
    mixed = mixed_steps(recipe) * rl.groups * rl.samples
    assert others <= mixed < others + rl.groups * rl.samples
