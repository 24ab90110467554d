"""Recipes: what makes no sense is refused when it is read, in one line that says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from palmette.config import load_recipe
from palmette.errors import UserError
from palmette.toml import dump_toml
from palmette.train.base.recipe import BaseRecipe
from palmette.train.recipe import Recipe, read_recipe

WRONG = [
    ("rl.samples=1", "rl.samples|samples = 1"),
    ("distil.samples=1", "rl_weight = 0"),
    ('baselines=["by_domain"]', "distil.choose"),
    ('domains=["terminal", "swee"]', "did you mean 'swe'"),
    ('domains=["swe", "swe"]', "twice"),
    ("rl.draws.count=0", "draws.count must be at least 1"),
    ("rl.gate=icepo", "rl.gate"),
    ("sandbox=namespce", "did you mean 'namespace'"),
    ("scaffold=lop", "did you mean 'loop'"),
    ("tasks.swe.tiers=[99]", "no tier 99"),
    ("tasks.terminl.train=3", "did you mean 'terminal'"),
    ("distil.weight=0 and distil.rl_weight=0", "nothing would be learned"),
    ("rl.ratio=word", "rl.ratio"),
    ("rl.clip_lo=0.1", "clip_low"),
    ('agents.swe={"lop" = 1}', "did you mean 'loop'"),
    ('agents.terminl={"loop" = 1}', "did you mean 'terminal'"),
    ('agents.swe={"loop" = 0}', "share of loop must be more than 0"),
    ("curriculum.scaffold=true", "name two or more"),
    ("curriculum.band=[0.9, 0.1]", "least and the largest pass rate"),
    ('curriculum.intents=["request", "request"]', "names one twice"),
    ('curriculum.intents=["request", "casual"]', "intents"),
    ('rl.branch_at=1 and curriculum.intents=["request", "colloquial"]', "one trunk"),
    ("rl.branch_at=1 and scaffold=codex", "codex cannot: use loop"),
    ("eval.scaffolds=[codx]", "did you mean 'codex'"),
    ("eval.scaffold=codx", "did you mean 'codex'"),
    ("tasks.swe.heldout_tiers=[99]", "no tier 99"),
    ("sandbox.host=namespce", "did you mean 'namespace'"),
    ("sandbox.profile=rootles", "sandbox.profile"),
    ("sandbox.host=bubblewrap and sandbox.profile=root", "of host = namespace"),
    ("sandbox.host=fake and sandbox.network=[pypi.example]", "no allow-list"),
    ("sandbox.network=[none]", "none at all"),
    ('sandbox.network=["http://x"]', "is no"),
    ("sandbox.limits.memory_mb=3", "memory_mb"),
    ("sandbox.limits.memory=512", "memory_mb"),
    ("engine.kind=vllm", "needs url"),
    ("engine.kind=vllm and engine.url=http://gpu7:8000", "needs weights_dir"),
    ("engine.url=http://gpu7:8000", "set kind = vllm or sglang"),
    (
        "engine.kind=sglang and engine.url=http://x:1 and engine.weights_dir=w and noise.router_std=0.1",
        "noise is of the engine in this process",
    ),
]


@pytest.mark.parametrize(("overrides", "message"), WRONG)
def test_what_makes_no_sense_is_refused(tmp_path: Path, overrides: str, message: str) -> None:
    path = tmp_path / "r.toml"
    path.write_text("")
    with pytest.raises(UserError, match=message) as caught:
        load_recipe(path, overrides.split(" and "), Recipe)
    assert "\n" not in str(caught.value)


def test_defaults_resolve_and_read_back(tmp_path: Path) -> None:
    recipe = Recipe()
    assert set(recipe.tasks) == {"terminal", "swe"}
    path = tmp_path / "r.toml"
    path.write_text(dump_toml(recipe))
    assert load_recipe(path, [], Recipe) == recipe


def test_the_kind_of_a_recipe_names_its_model(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text('kind = "base"\nsteps = 3\n')
    assert isinstance(read_recipe(path, []), BaseRecipe)
    path.write_text("seed = 3\n")
    recipe = read_recipe(path, ["rl.steps=2"])
    assert isinstance(recipe, Recipe)
    assert recipe.rl.steps == 2


def test_a_sandbox_may_be_its_hosts_name_alone(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text('sandbox = "bubblewrap"\n')
    assert load_recipe(path, [], Recipe).sandbox.host == "bubblewrap"
    assert load_recipe(path, ["sandbox=fake"], Recipe).sandbox.host == "fake"
    path.write_text('[sandbox]\nprofile = "rootless"\nnetwork = ["*.example.org:443"]\nlimits.memory_mb = 700\n')
    recipe = load_recipe(path, [], Recipe)
    path.write_text(dump_toml(recipe))
    assert load_recipe(path, [], Recipe) == recipe
    assert (recipe.sandbox.limits.memory_mb, recipe.sandbox.profile) == (700, "rootless")
