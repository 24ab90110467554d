"""Demonstrations: shown by the scaffolds that will drive, told in the phrasings that will be heard, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from palmette.rollout.casting import told
from palmette.run import RunDir
from palmette.train.material import demonstrations, ready_tasks
from palmette.train.recipe import Recipe
from palmette.train.workplace import open_workplace

pytestmark = pytest.mark.slow


async def test_demonstrations_are_told_and_driven_as_they_will_be(tmp_path: Path) -> None:
    recipe = Recipe.model_validate(
        {
            "domains": ["terminal"],
            "tasks": {"terminal": {"train": 12, "heldout": 1, "tiers": [1]}},
            "agents": {"terminal": {"loop": 1, "loop:xml": 1}},
            "concurrency": 4,
        }
    )
    run = RunDir.create(tmp_path / "run", recipe, seed=0)
    async with open_workplace(recipe, run) as place:
        tasks = (await ready_tasks(recipe, run, place))[0]["terminal"]["train"]
        shown = await demonstrations(run, "terminal", tasks, place, ["specification", "colloquial"])
        again = await demonstrations(run, "terminal", tasks, place)
        texts = [place.renderer.decode(sample.token_ids_T.tolist()) for sample in shown]
    kept = zip(again, shown, strict=True)
    assert all(one.token_ids_T.tolist() == other.token_ids_T.tolist() for one, other in kept)
    levels = ["specification", "colloquial"]
    heard = [
        [level for level in levels if told(task, level).instruction.strip() in text]
        for task, text in zip(tasks, texts, strict=True)
    ]
    assert all(len(each) == 1 for each in heard)
    assert {each[0] for each in heard} == set(levels)
    by_xml = ["<parameter" in text for text in texts]
    assert any(by_xml)
    assert not all(by_xml)
