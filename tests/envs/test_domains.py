"""Proves: drafts are reproducible, splits share no names, every goal and every bug is graded as it should be."""

import json
import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palmette.envs.api import Split
from palmette.envs.build import drafts
from palmette.envs.names import DOMAINS, domain
from palmette.envs.swe.functions import FUNCTIONS
from palmette.envs.words import split_of, word
from palmette.errors import UserError

# Names of files and folders that are not invented.
FIXED = {"init", "tests", "test", "keep", "server", "settings", "releases", "parts", "vendor"}
FIXED |= {"json", "jsonl", "html", "patch", "conf", "part"}
FIXED |= {"sample", "input", "output"}


@given(st.integers(), st.sampled_from(["train", "heldout"]))
def test_a_word_belongs_to_the_split_that_made_it(seed: int, split: Split) -> None:
    assert split_of(word(random.Random(seed), split)) == split


@given(st.integers())
def test_no_word_of_a_task_contains_another(seed: int) -> None:
    rng, taken = random.Random(seed), set[str]()
    words = [word(rng, "train", taken=taken) for _ in range(12)]
    assert not any(a in b for a in words for b in words if a is not b)


@pytest.mark.parametrize("name", DOMAINS)
def test_the_same_seed_gives_the_same_drafts_and_another_does_not(name: str) -> None:
    tiers = DOMAINS[name].tiers[:2]
    first = drafts(name, count=6, tiers=tiers, split="train", seed=3)
    assert first == drafts(name, count=6, tiers=tiers, split="train", seed=3)
    assert first != drafts(name, count=6, tiers=tiers, split="train", seed=4)
    assert [draft.tier for draft in first] == (list(tiers) * 6)[:6]


@pytest.mark.parametrize("name", DOMAINS)
def test_a_domain_does_not_run_dry(name: str) -> None:
    made = drafts(name, count=400, tiers=DOMAINS[name].tiers[:2][-1:], split="heldout", seed=1)
    assert len({(draft.instruction, *draft.files.values()) for draft in made}) == 400


@pytest.mark.parametrize("name", [name for name in DOMAINS if name != "search"])  # its names are pages, not files
def test_train_and_heldout_share_no_invented_name(name: str) -> None:
    def names(split: Split) -> set[str]:
        found = drafts(name, count=60, tiers=DOMAINS[name].tiers, split=split, seed=1)
        paths = [part for draft in found for path in draft.files for part in re.findall(r"[a-z]{4,}", path)]
        return set(paths) - FIXED

    train, heldout = names("train"), names("heldout")
    assert len(train) > 20
    assert not train & heldout


@pytest.mark.parametrize("name", DOMAINS)
def test_a_draft_ends_with_submit_and_asks_for_something(name: str) -> None:
    for draft in drafts(name, count=30, tiers=DOMAINS[name].tiers, split="heldout", seed=2):
        assert [step.tool for step in draft.steps].count("submit") == 1
        assert draft.steps[-1].tool == "submit"
        assert draft.instruction
        assert "test.sh" in draft.test_files


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.name)
def test_every_bug_of_a_function_changes_one_of_its_cases(function) -> None:
    names = ("x", "y", "z")[: function.params]

    def results(body: list[str]) -> list[str]:
        source = "\n".join([f"def f({', '.join(names)}):", *("    " + line for line in body)])
        scope: dict = {}
        exec(source.format(**dict(zip("abc", names, strict=False))), scope)
        out = []
        for case in function.cases:
            try:
                out.append(repr(scope["f"](*case)))
            except Exception as error:
                out.append(type(error).__name__)
        return out

    right = results(list(function.body))
    for good, bad in function.bugs:
        body = list(function.body)
        body[body.index(good)] = bad
        assert results(body) != right, (good, bad)


def test_an_edit_of_an_swe_task_is_unambiguous_and_gives_the_right_file() -> None:
    for draft in drafts("swe", count=60, tiers=(1, 2, 3), split="train", seed=5):
        files = {path: str(body) for path, body in draft.files.items()}
        for step in draft.steps:
            if step.tool == "edit":
                path, old, new = (step.arguments[key] for key in ("path", "old", "new"))
                assert files[path].count(old) == 1
                files[path] = files[path].replace(old, new)
            elif step.tool == "bash" and step.arguments["command"].startswith("cat "):
                assert step.observation == files[step.arguments["command"][4:]].strip()
        goals = [goal["name"] for goal in json.loads(draft.test_files["checks.json"])["goals"]]
        assert sum(goal.startswith("fail_to_pass ") for goal in goals) == (2 if draft.tier == 3 else 1)
        assert any(goal.startswith("pass_to_pass ") for goal in goals)


def test_an_unknown_domain_or_tier_is_one_line_with_a_way_out() -> None:
    with pytest.raises(UserError, match="did you mean 'terminal'"):
        domain("terminl")
    with pytest.raises(UserError, match=r"swe has no tier \[9\]"):
        drafts("swe", count=1, tiers=[9], split="train", seed=0)
