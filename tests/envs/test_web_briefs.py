"""Proves: every family's reference does all that is asked, what does less is missed, and each perspective tells all."""

import json
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest

from palmette.envs.api import INTENTS
from palmette.envs.build import drafts
from palmette.envs.terminal.goals import Names
from palmette.envs.web.brief import Brief
from palmette.envs.web.briefs import BRIEFS, Maker
from palmette.envs.web.briefs.charts import columns
from palmette.envs.web.briefs.components import accordion, dialog
from palmette.envs.web.briefs.data import dashboard, table
from palmette.envs.web.briefs.forms import todo
from palmette.envs.web.briefs.games import crosses
from palmette.envs.web.judge import main as judge_main
from palmette.envs.web.judge.browser import MISSING, find_browser
from palmette.envs.web.plan import AXE, Plan

needs_browser = pytest.mark.skipif(not find_browser(), reason=MISSING)
MAKERS = [(make, split) for splits in BRIEFS.values() for split, makers in splits.items() for make in makers]
# One of each tier and split: `palmette tasks check` and benchmarks/envs.py have all.
SOME = [(makers[0], split) for splits in BRIEFS.values() for split, makers in splits.items()]
# family -> what is taken out of its reference, what stands there instead, and what the judge says then
LESS: list[tuple[Maker, str, str, str]] = [
    (columns, 'fetch("{file}").then(answer => answer.text())', 'Promise.resolve("{text}")', "other numbers"),
    (columns, "y: 340 - high, height: high", "y: 300 - high, height: high + 40", "a bar of"),
    (accordion, "show(each, each === button && open)", "if (each === button) show(each, open)", "2 elements"),
    (todo, 'localStorage.setItem("items", JSON.stringify(items))', "", "#list li span"),
    (dialog, "box.showModal()", "box.show()", "can still be clicked"),
    (table, "a[by] - b[by]", "String(a[by]).localeCompare(b[by])", "tbody td"),
    (dashboard, "draw(i + 1)", "draw(1)", "aria-pressed"),
    (crosses, "if (over || board[i] >= 0) return;", "if (over) return;", "Turn:"),
]


def made(make: Maker, split: str = "train", seed: int = 1) -> Brief:
    return make(Names(random.Random(seed), split))  # type: ignore[arg-type]


def judged(brief: Brief, files: dict[str, str], root: Path, monkeypatch: pytest.MonkeyPatch, axe: str | None) -> dict:
    """Return the report on a site of our own; the browser runs without a sandbox, and without axe-core if need be."""
    logs = root / "logs"
    logs.mkdir()
    monkeypatch.setattr(judge_main, "LOGS", str(logs))
    (root / "site").mkdir()
    for path, text in files.items():
        (root / "site" / path).write_text(text)
    goals = [replace(goal, steps=[step for step in goal.steps if axe or step != AXE]) for goal in brief.goals]
    plan = json.loads(Plan(goals=goals, needs=list(brief.reference)).files()["checks.json"])
    return judge_main.judge({**plan, "workdir": str(root / "site")}, axe or "")


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize(("make", "split"), SOME, ids=lambda each: getattr(each, "__name__", each))
def test_a_reference_does_all_that_is_asked(
    make: Maker, split: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, axe_or_none: str | None
) -> None:
    brief = made(make, split)
    report = judged(brief, {**brief.given, **brief.reference}, tmp_path, monkeypatch, axe_or_none)
    assert set(report["goals"].values()) == {"reached"}, report
    assert report["reward"] == 1.0


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize(("make", "old", "new", "says"), LESS, ids=[f"{each[0].__name__}-{each[3]}" for each in LESS])
def test_what_does_less_is_missed(
    make: Maker, old: str, new: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, axe_or_none: str | None
) -> None:
    brief = made(make)
    file, text = next(iter(brief.given.items()), ("", ""))
    fill = {"{file}": file, "{text}": text.replace("\n", "\\n")}
    for mark, value in fill.items():
        old, new = old.replace(mark, value), new.replace(mark, value)
    page = brief.reference["index.html"]
    assert page.count(old) == 1
    report = judged(brief, {**brief.given, "index.html": page.replace(old, new)}, tmp_path, monkeypatch, axe_or_none)
    assert report["reward"] == 0.0
    assert says in str(report["goals"]), report


@pytest.mark.parametrize(("make", "split"), MAKERS, ids=lambda each: getattr(each, "__name__", each))
def test_every_perspective_tells_every_name_and_text(make: Maker, split: str) -> None:
    brief = made(make, split)
    looks = [step for goal in brief.goals if not goal.instead for step in goal.steps]
    data = " ".join(brief.given.values())
    names = {name for step in looks for name in re.findall(r"[#.]([a-z]\w*)", step.get("selector", ""))}
    typed = " ".join(step["text"] for step in looks if step["do"] == "type")
    texts = {word for step in looks for key in ("text", "texts") for word in _words(step.get(key)) if word not in typed}
    assert len({brief.told(level) for level in INTENTS}) == len(INTENTS)
    for level in INTENTS:
        told = brief.told(level)
        assert {name for name in names if not re.search(rf"\b{name}\b", told)} == set(), level
        assert {text for text in texts - _COMMON if text not in told and text not in data} == set(), level


def _words(text: object) -> list[str]:
    return re.findall(r"[a-z]{4,}", str(text or ""))


_COMMON = {"left", "wins", "hank"}


@pytest.mark.parametrize("tier", BRIEFS)
def test_held_out_families_are_never_trained_on(tier: int) -> None:
    train = {draft.template for draft in drafts("web", count=24, tiers=[tier], split="train", seed=1)}
    heldout = {draft.template for draft in drafts("web", count=12, tiers=[tier], split="heldout", seed=1)}
    assert train
    assert heldout
    assert not train & heldout


def test_looks_are_part_of_the_reward_up_to_a_bar() -> None:
    rewards = judge_main.REWARDS
    assert [rewards["all"](share, 0.2) for share in (1.0, 0.9)] == [1.0, 0.0]
    assert rewards["share"](0.75, 0.2) == 0.75
    assert [rewards["all_times_looks"](1.0, looks) for looks in (0.5, 1.0, 1.3)] == [0.5, 1.0, 1.0]
    assert rewards["all_times_looks"](0.9, 1.0) == 0.0
