"""Recipes are read strictly, every mistake is one line, and what is written out reads back the same."""

from __future__ import annotations

import math
from enum import StrEnum
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from palmette.config import find_recipe, load_recipe
from palmette.errors import UserError
from palmette.toml import dump_toml, toml_value


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Stage(BaseModel):
    lr: float = Field(3e-3, gt=0, description="peak learning rate")
    steps: int = Field(10, gt=0)
    domains: list[str] = ["swe"]
    label: str = "x"
    where: Path = Path("here")
    loss: Literal["turn", "token"] = "turn"
    colour: Colour = Colour.RED
    betas: tuple[float, float] = (0.9, 0.95)
    limit: int | None = None


class Sample(BaseModel):
    seed: int = 0
    debug: bool = False
    sft: Stage = Stage()
    extra: Stage | None = None
    each: dict[str, Stage] = {}
    weights: dict[str, float] = {}
    phases: list[Stage] = []


class Strict(BaseModel):
    needed: int


@pytest.fixture
def recipe(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "demo.toml"
        path.write_text(text)
        return path

    return write


def error_of(path: Path, *overrides: str, model: type[BaseModel] = Sample) -> str:
    with pytest.raises(UserError) as caught:
        load_recipe(path, overrides, model)
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(f"{path.parent}/", "")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("seed=7", {"seed": 7}),
        ("sft.lr=1e-4", {"sft": {"lr": 1e-4}}),
        ("sft.domains=[swe, terminal]", {"sft": {"domains": ["swe", "terminal"]}}),
        ('sft.domains=["a b", "c"]', {"sft": {"domains": ["a b", "c"]}}),
        ("sft.label=007", {"sft": {"label": "007"}}),
        ("sft.label=two words = fine", {"sft": {"label": "two words = fine"}}),
        ('sft.label="quo\\"ted"', {"sft": {"label": 'quo"ted'}}),
        ("sft.where=/a/b", {"sft": {"where": Path("/a/b")}}),
        ("sft.loss=token", {"sft": {"loss": "token"}}),
        ("debug=true", {"debug": True}),
        ("each.a.steps=3", {"each": {"a": {"steps": 3}}}),
        ("weights.swe=0.5", {"weights": {"swe": 0.5}}),
    ],
)
def test_overrides(recipe, override, expected):
    loaded = load_recipe(recipe("seed = 1\n[sft]\nsteps = 5\n"), [override], Sample)
    base = {"seed": 1, "sft": {"steps": 5}}
    merged = {**base, **expected, "sft": {**base["sft"], **expected.get("sft", {})}}
    assert loaded == Sample.model_validate(merged)


def test_a_later_override_wins(recipe):
    assert load_recipe(recipe(""), ["seed=1", "seed=2"], Sample).seed == 2


def test_unknown_keys_name_the_place_and_the_right_key(recipe):
    assert error_of(recipe("seed=1\n\n[sft]\nlrr=2\n")) == "demo.toml:4: unknown key 'sft.lrr'; did you mean 'lr'?"
    assert error_of(recipe("[sfft]\nlr=2\n")) == "demo.toml:1: unknown key 'sfft'; did you mean 'sft'?"
    assert error_of(recipe(""), "steps=3") == "--set steps=3: unknown key 'steps'; did you mean 'sft.steps'?"
    assert error_of(recipe(""), "each.a.lrr=3") == "--set each.a.lrr=3: unknown key 'each.a.lrr'; did you mean 'lr'?"
    assert "known here: seed, debug, sft" in error_of(recipe("zzzzzz = 1"))
    assert "unknown key 'phases.1.lrr'" in error_of(recipe("[[phases]]\nlr=1\n[[phases]]\nlrr=1\n"))


def test_bad_values_name_the_key_what_was_given_and_what_is_wanted(recipe):
    assert error_of(recipe("[sft]\nlr='a'\n")) == 'demo.toml:2: sft.lr = "a": should be a valid number'
    assert error_of(recipe(""), "sft.steps=0") == "--set sft.steps=0: sft.steps = 0: should be greater than 0"
    assert error_of(recipe(""), "sft=3") == "--set sft=3: sft = 3: should be a section of keys"
    assert error_of(recipe("sft.loss='x'")) == "demo.toml:1: sft.loss = \"x\": should be 'turn' or 'token'"
    assert error_of(recipe("sft.lr=0\nsft.steps=0")).endswith("(and 1 more)")
    assert error_of(recipe(""), model=Strict) == "demo.toml: 'needed' is missing; add it"


def test_broken_files_and_overrides(recipe, tmp_path):
    assert error_of(recipe("[sft\n")).startswith("demo.toml: not valid TOML: ")
    assert error_of(recipe(""), "seed") == "--set seed: expected KEY=VALUE, such as --set train.steps=20"
    assert error_of(recipe(""), "seed.x=1") == "--set seed.x=1: 'seed' is a value, not a section"
    assert error_of(tmp_path / "dmo.toml") == "dmo.toml does not exist; did you mean demo.toml?"
    (tmp_path / "bin.toml").write_bytes(b"\xff\xfe")
    assert error_of(tmp_path / "bin.toml") == "bin.toml is not UTF-8 text; a recipe is a TOML file"


def test_find_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "mine.toml").write_text("")
    for name in ("mine", "mine.toml", "recipes/mine.toml", "recipes/mine"):
        assert find_recipe(name).resolve() == tmp_path / "recipes" / "mine.toml"
    with pytest.raises(UserError, match=r"did you mean recipes/mine\.toml"):
        find_recipe("mien.toml")
    with pytest.raises(UserError, match="is a directory"):
        find_recipe("recipes")


def test_written_recipe_explains_itself():
    lines = dump_toml(Sample(seed=4)).splitlines()
    assert "seed = 4  # default: 0" in lines
    assert "debug = false" in lines
    assert lines[lines.index("lr = 0.003") - 1] == "# peak learning rate"
    assert "# limit is not set" in lines


def test_a_default_is_that_of_the_place_and_not_of_the_type():
    class Outer(BaseModel):
        fast: Stage = Stage(lr=1.0)

    assert "lr = 1.0" in dump_toml(Outer()).splitlines()
    assert "lr = 0.003  # default: 1.0" in dump_toml(Outer(fast=Stage())).splitlines()


def test_a_none_that_cannot_be_written_is_refused():
    class Odd(BaseModel):
        limit: int | None = 3

    with pytest.raises(ValueError, match="no null"):
        dump_toml(Odd(limit=None))


TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
STAGES = st.builds(
    Stage,
    lr=st.floats(min_value=1e-300, allow_infinity=True),
    steps=st.integers(1, 2**63 - 1),
    domains=st.lists(TEXT, max_size=3),
    label=TEXT,
    loss=st.sampled_from(["turn", "token"]),
    colour=st.sampled_from(Colour),
    betas=st.tuples(st.floats(allow_nan=False), st.floats(allow_nan=False)),
    limit=st.none() | st.integers(-5, 5),
)


@settings(max_examples=60, deadline=None)
@given(
    st.builds(
        Sample,
        seed=st.integers(0, 9),
        sft=STAGES,
        extra=st.none() | STAGES,
        each=st.dictionaries(TEXT, STAGES, max_size=2),
        weights=st.dictionaries(TEXT, st.floats(allow_nan=False), max_size=2),
        phases=st.lists(STAGES, max_size=2),
    )
)
def test_what_is_written_reads_back_equal(tmp_path_factory, sample):
    path = tmp_path_factory.mktemp("toml") / "config.toml"
    path.write_text(dump_toml(sample), encoding="utf-8")
    assert load_recipe(path, (), Sample) == sample


def test_special_numbers():
    assert [toml_value(each) for each in (math.inf, -math.inf, 1e22, 1e-05, True)] == [
        "inf",
        "-inf",
        "1.0e+22",
        "1.0e-05",
        "true",
    ]
    with pytest.raises(ValueError, match="no TOML form"):
        toml_value(None)
