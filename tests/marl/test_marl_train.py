"""Recipes of kind marl, from a file to a finished run; stopping and going on; and what a user may get wrong."""

import asyncio
import signal
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from palmette.errors import UserError
from palmette.marl.cohort import Cohort
from palmette.marl.collect import Collector, Seat
from palmette.marl.comm.api import Sizes
from palmette.marl.comm.names import METHODS, open_method
from palmette.marl.envs.names import GAMES
from palmette.marl.envs.scout import Scout, ScoutConfig
from palmette.marl.learn import LearnConfig
from palmette.marl.nets import Agents
from palmette.marl.recipe import MarlRecipe
from palmette.marl.train import train_marl
from palmette.marl.training import Training
from palmette.run import RunDir
from palmette.train.pipeline import run_pipeline
from palmette.train.recipe import read_recipe

RECIPES = Path(__file__).resolve().parents[2] / "recipes" / "marl"
SMALL = {
    "kind": "marl",
    "steps": 400,
    "learn": {"hidden": 16, "parallel": 8, "batch": 8, "update_every": 20, "buffer": 70, "target_every": 5},
    "test": {"times": 2, "episodes": 16},
    "scout": {"size": 5, "limit": 6},
}


def small(**changes):
    return MarlRecipe.model_validate({**SMALL, **changes})


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_recipes_load_and_open(path, tmp_path):
    recipe = read_recipe(path, ["learn.parallel=2"])
    assert isinstance(recipe, MarlRecipe)
    run = RunDir.create(tmp_path / "run", recipe)
    assert read_recipe(run.config_path, ()) == recipe
    if recipe.game != "smax" or find_spec("jaxmarl"):
        Training(recipe, 0).advance()


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("game=hallwya", "no game 'hallwya'; did you mean 'hallway'"),
        ("method=t2amc", "no method 't2amc'; did you mean 't2mac'"),
        ("hallway.map=maisa", "no hallway map 'maisa'; did you mean 'masia'"),
        ("scout.hunter=2", "unknown key 'scout.hunter'; did you mean 'hunters'"),
        ("scout.hunters=0", "scout.hunters"),
        ("navigation.agents=1", "navigation.agents"),
        ("predators.predators=1.5", "predators.predators"),
        ("mixer=qplex", "mixer"),
    ],
)
def test_what_is_wrong_with_a_recipe_is_one_line(override, said):
    with pytest.raises(UserError, match=said) as caught:
        read_recipe(RECIPES / "scout.toml", [override])
    assert "\n" not in str(caught.value)


def test_what_a_game_cannot_give_is_one_line():
    with pytest.raises(UserError, match=r"t2mac_plus.budget is 5, but a sender has 4 others to tell; lower it"):
        Training(small(t2mac_plus={"budget": 5}), 0)
    with pytest.raises(UserError, match="this game cannot tell who has news"):
        Training(small(game="hallway", method="oracle"), 0).advance()
    with pytest.raises(UserError, match="pip install git"):
        Training(small(game="smac"), 0)


def test_a_reward_that_is_not_a_number_is_one_line():
    class Broken(Scout):
        def step(self, actions_BN):
            frame = super().step(actions_BN)
            frame.reward_B[0] = torch.nan if self._steps == 3 else 0.0
            return frame

    game = Broken(ScoutConfig(), batch=2)
    spec = game.spec
    sizes = Sizes(agents=spec.agents, actions=spec.actions, hidden=8, state=spec.state_size)
    agents = Agents(inputs=spec.obs_size + spec.actions, hidden=8, comm=open_method("none", sizes))
    with pytest.raises(UserError, match="the game scout gave a reward that is not a number at step 3"):
        Collector(game, ids="none").play(Seat(agents=agents, generator=torch.Generator(), epsilon=1.0))


@pytest.mark.parametrize(
    ("method", "game"),
    [(name, "scout") for name in METHODS] + [("t2mac", name) for name in GAMES if name not in ("smac", "smax")],
)
def test_every_method_and_every_game_trains(method, game):
    training = Training(small(method=method, game=game, learn={**SMALL["learn"], "update_every": 60}), 0)
    for _ in range(9):
        row = training.advance()
    assert training.learner.updates > 2
    assert all(value == value for value in row.values())
    measured = training.measure(8)
    assert 0 <= measured.comm_rate <= 1
    agents = training.spec.agents
    assert abs(measured.messages - measured.comm_rate * agents * (agents - 1)) < 1e-4


def test_the_rate_counts_live_steps_only():
    for method, rate in (("none", 0.0), ("full", 1.0), ("oracle", 2 / 20)):
        measured = Training(small(method=method), 0).measure()
        assert abs(measured.comm_rate - rate) < 1e-6


def test_what_was_counted_is_what_the_game_says():
    training = Training(small(), 3)
    played = training._collector.play(replace(training.seat, epsilon=1.0))
    assert played.episodes.steps == int(played.episodes.live_ET.sum())
    won_E = (played.episodes.reward_ET >= 5).any(1)
    assert abs(played.won - float(won_E.float().mean())) < 1e-6
    assert abs(played.mean_return - float(played.episodes.reward_ET.sum(1).mean())) < 1e-5
    assert bool((played.episodes.ended_ET.sum(1) == 1).all())


@pytest.mark.parametrize("method", ["t2mac_plus", "random", "maic"])
def test_a_state_goes_on_as_if_nothing_had_happened(method):
    recipe = small(method=method, steps=10_000)
    straight, first = Training(recipe, 1), Training(recipe, 1)
    for _ in range(12):
        torch.manual_seed(0)
        straight.advance()
    for _ in range(7):
        torch.manual_seed(0)
        first.advance()
    state = {name: value.clone() for name, value in first.state().items()}
    second = Training(recipe, 1)
    second.load_state(state)
    for _ in range(5):
        torch.manual_seed(0)
        second.advance()
    ours, theirs = straight.state(), second.state()
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if name != "seconds" and not torch.equal(ours[name], theirs[name])] == []


@pytest.mark.parametrize("method", ["t2mac_plus", "random", "maic"])
def test_a_seed_learns_the_same_whoever_trains_beside_it(method):
    recipe = small(
        method=method,
        game="hallway",  # episodes of many lengths: who is ready early waits without drawing
        hallway={"lengths": [2, 3], "slack": 1},
        learn={**SMALL["learn"], "buffer": 200, "update_every": 30},
        t2mac_plus={"gate": "random"},
        steps=240,
    )
    alone = [Training(recipe, seed) for seed in (3, 4, 5)]
    rows = []
    for training in alone:
        while not training.finished:
            row = training.advance()
        rows.append(row)
    cohort = Cohort([Training(recipe, seed) for seed in (3, 4, 5)])
    last = {}
    while cohort.unfinished:
        last |= cohort.advance()
    for training, its, row in zip(alone, cohort.trainings, rows, strict=True):
        assert last[training.seed] == row
        assert training.learner.updates > 4
        ours, theirs = training.state(), its.state()
        assert [name for name in ours if name != "seconds" and not torch.equal(ours[name], theirs[name])] == []
        assert training.measure() == its.measure()


def test_a_cohort_plays_one_game():
    with pytest.raises(ValueError, match="a cohort plays one game"):
        Cohort([Training(small(), 0), Training(small(game="hallway"), 1)])


def test_seeds_differ():
    one, other = (Training(small(), seed).learner.agents.state_dict() for seed in (0, 1))
    assert any(not torch.equal(one[name], other[name]) for name in one)


async def test_a_recipe_becomes_a_finished_run(tmp_path):
    recipe = small(seeds=2, seed=4, method="full")
    run = RunDir.create(tmp_path / "run", recipe, seed=4)
    with run.attempt():
        await run_pipeline(recipe, run)
    assert run.stages() == ["train/seed_4", "train/seed_5", "result"]
    result = run.stage_summary("result")
    assert result["seeds"] == [4, 5]
    assert result["comm_rate"] == [1.0, 1.0]
    assert len(result["score"]) == 2
    rows = run.read_metrics("train/seed_4")
    assert rows[-1]["step"] >= 400
    assert {"success", "comm_rate", "env_steps_s", "loss", "epsilon"} <= rows[-1].keys()
    weights = load_file(run.path / "models" / "seed_4" / "agents.safetensors")
    assert set(weights) == set(Training(recipe, 4).learner.agents.state_dict())
    assert not list((run.path / "checkpoints").rglob("*.safetensors"))


async def test_an_interrupted_run_ends_like_one_that_was_not(tmp_path):
    recipe = small(steps=1200, test={"times": 6, "episodes": 8}, learn={**SMALL["learn"], "update_every": 60})
    ends = {}
    for name, stop in (("straight", False), ("stopped", True)):
        run = RunDir.create(tmp_path / name, recipe)
        torch.manual_seed(0)
        if stop:
            task = asyncio.create_task(train_marl(recipe, run))
            while not (tmp_path / name / "metrics.jsonl").exists():
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (run.path / "checkpoints" / "train" / "seed_0.safetensors").is_file()
        await train_marl(recipe, run)
        ends[name] = load_file(run.path / "models" / "seed_0" / "agents.safetensors")
        steps = [row["step"] for row in run.read_metrics("train/seed_0")]
        assert len(steps) == len(set(steps))
    assert [name for name in ends["straight"] if not torch.equal(ends["straight"][name], ends["stopped"][name])] == []


def test_a_killed_run_goes_on_from_its_last_checkpoint(tmp_path):
    """Killed without a word long after it, it ends as if nothing had been; what it measured twice counts once."""
    recipe = small(steps=1200, test={"times": 6, "episodes": 8}, learn={**SMALL["learn"], "update_every": 60})
    straight, killed = (RunDir.create(tmp_path / name, recipe) for name in ("straight", "killed"))
    asyncio.run(train_marl(recipe, straight))
    assert subprocess.run([sys.executable, "-c", _KILLED, str(killed.path)]).returncode == -signal.SIGKILL
    saved = load_file(killed.path / "checkpoints" / "train" / "seed_0.safetensors")
    before = [row["step"] for row in killed.read_metrics("train/seed_0")]
    assert 0 < saved["env_steps"] < before[0] < before[-1] < 1200
    asyncio.run(train_marl(recipe, killed))
    ends = [load_file(run.path / "models" / "seed_0" / "agents.safetensors") for run in (straight, killed)]
    assert [name for name in ends[0] if not torch.equal(ends[0][name], ends[1][name])] == []
    tests = [
        [(row["step"], row["success"], row["mean_return"]) for row in run.read_metrics("train/seed_0")]
        for run in (straight, killed)
    ]
    assert tests[0] == tests[1]


_KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from palmette.marl import train
from palmette.run import RunDir
from palmette.train.recipe import read_recipe

def save_once(trainings, run):
    global times
    times += 1
    if times == 1:
        save(trainings, run)
    elif times == 15:
        os.kill(os.getpid(), signal.SIGKILL)

times, save = 0, train._save
train._SAVE_EVERY_S, train._save = 0, save_once
run = RunDir.open(Path(sys.argv[1]))
asyncio.run(train.train_marl(read_recipe(run.config_path, []), run))
"""


def test_the_clock_s_bar_stands_beside_the_result(tmp_path):
    recipe = small(game="hallway", hallway={"lengths": [2, 3], "slack": 0})
    run = RunDir.create(tmp_path / "run", recipe)
    asyncio.run(train_marl(recipe, run))
    assert abs(run.stage_summary("result")["clock_bar"] - 1 / 2) < 1e-9


def test_hyper_parameters_are_the_same_for_every_method():
    assert {MarlRecipe(method=name).learn.model_dump_json() for name in METHODS} == {LearnConfig().model_dump_json()}
