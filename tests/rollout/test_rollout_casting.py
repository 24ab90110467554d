"""Who drives which rollout and how it is told its task: shares hold at any time, groups have one verifier."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palmette.engine.api import Sampling
from palmette.envs.api import INTENTS
from palmette.envs.build import build_tasks
from palmette.envs.task import load_task
from palmette.rollout.casting import cast, told
from palmette.rollout.crew import Crew
from palmette.scaffolds.loop import ToolLoop


class _Named(ToolLoop):
    def __init__(self, name: str) -> None:
        super().__init__(max_turns=3)
        self.name = name


def crew_of(**shares: dict[str, float]) -> Crew:
    return Crew(shares, "loop", _Named)


@given(st.lists(st.floats(0.05, 10.0), min_size=1, max_size=5), st.integers(0, 300))
def test_shares_hold_after_any_number_of_rollouts(shares: list[float], count: int) -> None:
    crew = crew_of(swe={f"s{k}": share for k, share in enumerate(shares)})
    had = Counter(crew.scaffold("swe", number).name for number in range(count))
    for k, share in enumerate(shares):
        assert abs(had[f"s{k}"] - count * share / sum(shares)) < 2


def test_groups_of_every_tier_meet_every_scaffold_and_phrasing(tmp_path: Path) -> None:
    [task] = build_tasks("terminal", tmp_path, count=1, tiers=[5], split="train", seed=1)
    casting = cast(crew_of(all={"a": 2, "b": 1, "c": 1}), start=128, intents=INTENTS[:2])
    parts = [casting(task, group, 0) for group in range(512)]
    met = [(scaffold.name, part.intent) for part, scaffold in parts]
    assert Counter(name for name, _ in met[:64]) == {"a": 32, "b": 16, "c": 16}
    for tiers in range(1, 9):
        for tier in range(tiers):
            assert len(set(met[tier::tiers])) == 6, "tiers of a list of tasks take turns"


def test_domains_have_their_own_and_the_rest_has_all() -> None:
    crew = crew_of(swe={"codex": 1, "mini": 1}, all={"loop": 1, "terminus": 2})
    assert crew.names("swe") == ("codex", "mini")
    assert crew.names("terminal") == ("loop", "terminus")
    assert [crew.scaffold("swe", n).name for n in range(4)] == ["codex", "mini", "codex", "mini"]
    assert crew_of(swe={"codex": 1}).names("terminal") == ("loop",)
    assert crew.named("unseen").name == "unseen"
    with pytest.raises(ValueError, match="share of codex in swe"):
        crew_of(swe={"codex": 0})


def test_a_group_has_one_scaffold_or_all_and_hears_every_phrasing(tmp_path: Path) -> None:
    [task] = build_tasks("terminal", tmp_path, count=1, tiers=[5], split="train", seed=1)
    crew = crew_of(all={"a": 1, "b": 1})

    def seen(group: int, casting: Any, samples: int) -> list[tuple[str, str]]:
        parts = [casting(task, group, sample) for sample in range(samples)]
        assert {part.path for part, _ in parts} == {task.path}, "one verifier"
        return [(part.intent, scaffold.name) for part, scaffold in parts]

    plain = cast(crew, start=3, samples=4)
    groups = [seen(group, plain, 4) for group in range(64)]
    assert all(len(set(group)) == 1 for group in groups)
    assert {group[0] for group in groups} == {(task.intent, "a"), (task.intent, "b")}
    assert groups == [seen(3 + group, cast(crew, samples=4), 4) for group in range(64)]
    assert seen(0, cast(crew, samples=2, by="c"), 2) == [(task.intent, "c")] * 2
    crossed = seen(0, cast(crew, start=5, samples=6, intents=INTENTS, within=True), 6)
    assert Counter(crossed) == Counter({(level, name): 1 for level in INTENTS for name in "ab"})
    texts = {told(task, level).instruction for level in INTENTS}
    assert len(texts) == 3


def test_a_task_that_no_rewriting_keeps_whole_stays_as_it_is(tmp_path: Path) -> None:
    [task] = build_tasks("terminal", tmp_path, count=1, tiers=[1], split="train", seed=1)
    (task.path / "tests" / "more.txt").write_text("needs Expected.txt")
    (task.path / "instruction.md").write_text("see. Expected.txt")
    changed = load_task(task.path)
    assert told(changed, "colloquial") is changed, "its path would be written small"
    assert told(task, "nonsense") is task


async def test_rollouts_say_who_drove_them_and_how_they_were_told(open_bench: Any) -> None:
    crew = crew_of(all={"first": 1, "second": 1})
    async with open_bench() as bench:
        tasks = bench.tasks("right", "right", "right")[::2]
        casting = cast(crew, samples=2, within=True)

        def told_twice(task: Any, group: int, sample: int) -> Any:
            part, scaffold = casting(task, group, sample)
            return replace(part, intent=f"way {sample}"), scaffold

        found = await bench.pool().run(tasks, samples=2, sampling=Sampling(), casting=told_twice)
    await crew.aclose()
    assert [rollout.scaffold for rollout in found] == ["first", "second"] * 2
    assert [rollout.intent for rollout in found] == ["way 0", "way 1"] * 2
    assert [rollout.reward for rollout in found] == [1.0] * 4
