"""Proves: every kind of rule holds and can be broken, solutions are right, and answers are found in two ways."""

import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palmette.envs.api import Split, Step
from palmette.envs.check import check_tasks
from palmette.envs.general.problems import code, maths
from palmette.envs.general.problems.kind import Kind
from palmette.envs.general.rules import compose
from palmette.envs.general.rules.layouts import HELDOUT, LAYOUTS, Pen, seen
from palmette.envs.general.rules.rulebook import KINDS, fault
from palmette.envs.general.rules.wording import SENTENCES, Rule, asked
from palmette.envs.task import write_task
from palmette.sandbox.api import Host

SPLITS: tuple[Split, ...] = ("train", "heldout")


def made(seed: int) -> list[tuple[str, list[Rule]]]:
    """Return a text of every layout with all rules it keeps."""
    rng = random.Random(seed)
    found = []
    for name, layout in LAYOUTS.items():
        pen = Pen(rng, "heldout", rng.choice(("", "z", "q")))
        text, shape = layout(pen)
        found.append((text, [*shape, *seen(text, name, pen)]))
    return found


@settings(max_examples=60, deadline=None)
@given(st.integers())
def test_a_text_keeps_the_rules_it_was_made_by_and_an_empty_one_none(seed: int) -> None:
    for text, rules in made(seed):
        assert fault(text, rules) == "", text
        assert fault(" \n", rules) == "there is no word"


def test_every_kind_is_made_and_is_broken_by_a_small_change() -> None:
    broken: dict[str, bool] = {}
    for seed in range(250):
        for text, rules in made(seed):
            for rule in rules:
                if not broken.get(rule["kind"]):
                    broken[rule["kind"]] = not all(_keeps(other, rule) for other in _spoilt(text, rule))
    assert {kind for kind, ok in broken.items() if not ok} == set()
    assert set(KINDS) - set(broken) == {"without_letter"}
    assert not KINDS["without_letter"]("a quiz", {"letter": "z"})
    assert set(SENTENCES) == set(KINDS)
    assert len(KINDS) >= 25


def _keeps(text: str, rule: Rule) -> bool:
    try:
        return KINDS[rule["kind"]](text, rule)
    except ValueError:
        return False


def _spoilt(text: str, rule: Rule) -> list[str]:
    """Return texts a little different."""
    word = str(rule.get("word", "zebra"))
    return [
        f"{text} {word}",
        f"Zz, 1 {text}",
        f"{text}\n\nAAA [zz] {word}.",
        f"{text}\n- extraordinarily Z zz 7, zz",
        text.replace("\n", " "),
        text.upper(),
        text.replace("|", "/"),
        text.replace(word, "other"),
        text.replace("\n", "\n\n"),
        f'"{text}"',
        "\n".join(reversed(text.split("\n"))),
        f"{text} {text}",
    ]


@settings(max_examples=40, deadline=None)
@given(st.integers(), st.sampled_from(sorted(LAYOUTS)), st.integers(1, 14))
def test_composed_rules_hold_together_and_some_kinds_are_held_out(seed: int, layout: str, count: int) -> None:
    for split in SPLITS:
        text, rules = compose.composed(random.Random(seed), layout, count, split)
        assert all(KINDS[rule["kind"]](text, rule) for rule in rules)
        assert 1 <= len(rules) <= count
        assert all(asked(rule) for rule in rules)
        if split == "train":
            assert not {rule["kind"] for rule in rules} & set(HELDOUT)


@pytest.mark.parametrize("kind", code.KINDS, ids=lambda kind: kind.name)
def test_a_solution_says_what_trying_everything_says(kind: Kind) -> None:
    rng = random.Random(kind.name)
    for _ in range(40):
        parameters = kind.parameters(rng)
        given_input = kind.make(rng, parameters, rng.randint(2, kind.small))
        assert str(kind.solve(given_input, parameters)) == str(kind.brute(given_input, parameters)), given_input


def test_there_are_enough_kinds_in_both_splits_for_every_tier() -> None:
    assert len(code.KINDS) >= 20
    for tier in code.TIERS:
        assert {kind.name in code.HELDOUT for kind in code.KINDS if kind.tier == tier} == {True, False}, tier
    for tier in maths.TIERS:
        assert {kind in maths.HELDOUT for kind, of in maths.KINDS.items() if of == tier} == {True, False}, tier


def test_the_reference_program_stands_alone() -> None:
    for kind in code.KINDS[::6]:
        rng = random.Random(1)
        parameters = kind.parameters(rng)
        given_input = kind.make(rng, parameters, kind.small)
        run = [sys.executable, "-I", "-S", "-c", kind.source(parameters)]
        done = subprocess.run(run, input=given_input, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == str(kind.brute(given_input, parameters))


@pytest.mark.parametrize("kind", maths.KINDS, ids=lambda kind: kind.__name__)
def test_both_ways_to_an_answer_agree(kind) -> None:
    assert all(kind(random.Random(seed)).agrees for seed in range(12))


async def test_a_slow_or_wrong_program_is_not_accepted_and_one_in_c_is(host: Host, tmp_path: Path) -> None:
    kind = next(kind for kind in code.KINDS if kind.name == "circle")
    draft = next(
        draft
        for seed in range(99)
        if (draft := code.draft(random.Random(seed), tier=3, split="heldout", name="general/x")).skills[1] == kind.name
    )
    program = draft.steps[0].arguments["command"].split()[2].removesuffix(".py")
    import re

    (k,) = re.findall(r"every (\d+)-th", draft.instruction)
    right = (
        '#include <stdio.h>\nint main(){long n,p=0;scanf("%ld",&n);'
        f'for(long s=2;s<=n;s++)p=(p+{k})%s;printf("%ld\\n",p+1);}}\n'
    )
    texts = {
        "right.c": right,
        "wrong.py": "print(1)\n",
        "slow.py": "import time\ntime.sleep(30)\n",
    }
    tasks = []
    for name, text in texts.items():
        ending = name.partition(".")[2]
        step = Step(tool="bash", arguments={"command": f"cat > {program}.{ending} <<'END'\n{text}END"}, observation="")
        tasks.append(write_task(replace(draft, steps=(step, draft.steps[-1])), tmp_path / name))
    reports = await check_tasks(tasks, host)
    assert [report.trials[-1].reward for report in reports] == [1.0, 0.0, 0.0], [r.reason for r in reports]
