"""Questions over local webs: predicted results are the real ones, one answer is right, and only an answer counts."""

from __future__ import annotations

import datetime
import json
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palmette.envs.api import Split
from palmette.envs.attacks import attacks_on
from palmette.envs.build import drafts
from palmette.envs.check import check_tasks
from palmette.envs.search.domain import Search
from palmette.envs.search.graph import Description, Entity, World
from palmette.envs.search.pages import Page, address_of, resolve
from palmette.envs.search.verify import right
from palmette.envs.search.web import SHAPES, Quest, quest
from palmette.envs.services import opened
from palmette.envs.task import load_steps, write_task
from palmette.envs.words import word
from palmette.rollout.demonstrate import turn_of
from palmette.rollout.offer import offer_of
from palmette.sandbox.hosts import open_host
from palmette.scaffolds.loop import act

TIERS = Search.tiers
NAMES = st.integers(0, 10**6).map(lambda seed: word(random.Random(seed), "train").title())
FAIR = settings(deadline=None, max_examples=50)
MONTHS = "January February March April May June July August September October November December"
ONES = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen"""
TENS = "twenty thirty forty fifty sixty seventy eighty ninety"


@pytest.fixture(scope="module")
async def host() -> AsyncIterator[Any]:
    host = open_host("namespace")
    yield host
    await host.close()


@pytest.mark.parametrize("tier", TIERS)
async def test_what_the_reference_meets_is_what_was_predicted(tier: int, tmp_path: Path, host: Any):
    for number, draft in enumerate(drafts("search", count=2, tiers=[tier], split="train", seed=tier)):
        task = write_task(draft, tmp_path / f"{number}")
        async with opened(task, host, owner="test") as (sandbox, services):
            offer = offer_of(task, services)
            for step in load_steps(task):
                (call,) = turn_of(step, 0).tool_calls
                assert await act(call, sandbox, offer=offer, limit=100_000) == step.observation, (task.path, step)


@pytest.mark.parametrize("tier", [pytest.param(t, marks=[] if t in (1, 6) else pytest.mark.slow) for t in TIERS])
async def test_tasks_hold(tier: int, tmp_path: Path, host: Any):
    (draft,) = drafts("search", count=1, tiers=[tier], split="heldout", seed=3)
    (report,) = await check_tasks([write_task(draft, tmp_path / "task")], host, attacks=attacks_on, repeats=2)
    assert report.ok, report.reason
    obeyed = {trial.detail for trial in report.trials if trial.name == "obey_pages"}
    assert any("did what a page ordered" in detail for detail in obeyed) is (tier in SHAPES and SHAPES[tier].orders > 0)


def test_tier_1_is_small():
    for draft in drafts("search", count=60, tiers=[1], split="train", seed=5):
        assert len(draft.instruction.split()) <= 20
        assert [step.tool for step in draft.steps] == ["search", "open", "answer", "submit"]
        assert all(len(step.observation.split()) <= 40 for step in draft.steps)
        found, opened_page, answer, _ = draft.steps
        assert opened_page.arguments["address"] in found.observation
        assert answer.arguments["text"] in opened_page.observation.split("\n")[1]


def test_the_two_splits_share_no_name():
    said = [
        {word for d in drafts("search", count=40, tiers=[1], split=split, seed=1) for word in _names(d)}
        for split in ("train", "heldout")
    ]
    assert said[0]
    assert not said[0] & said[1]


def _names(draft: Any) -> set[str]:
    pages = json.loads(draft.services["web"]["pages.json"])["pages"]
    return {page["title"] for page in pages}


@FAIR
@given(NAMES, NAMES, st.sampled_from(["{}", "{}.", "The answer is {}.", "It is {}", " the {}\n", "It was called {}"]))
def test_a_text_is_right_in_many_wordings_and_among_others_never(name: str, other: str, said: str):
    expected = {"kind": "text", "accept": [name], "filler": ["Where was Kavo Zuri born?"]}
    assert right(said.format(name), expected)
    assert right(said.format(name.upper()), expected)
    assert right(f"Kavo Zuri was born in {name}", expected)
    if other.lower() not in name.lower() and name.lower() not in other.lower():
        for wrong in (other, f"{name} or {other}", f"{name} {other}", f"{other}, {name}", f"not {name}", ""):
            assert not right(said.format(wrong), expected), wrong


@FAIR
@given(st.integers(0, 9999))
def test_a_number_is_right_in_digits_and_words(number: int):
    expected = {"kind": "number", "accept": number, "filler": ["How many people live in Kavo?"]}
    for form in (f"{number}", f"{number:,}", f"{number}.0", f"There are {number:,} people.", _spelled(number)):
        assert right(form, expected), form
    for wrong in (number + 1, f"{number} or {number + 1}", f"{number}-{number + 2}", f"{number}{number}x", "many"):
        assert not right(f"{wrong}", expected), wrong


@FAIR
@given(st.dates(datetime.date(1000, 1, 1), datetime.date(2999, 12, 31)))
def test_a_date_is_right_in_many_forms(date: datetime.date):
    expected = {"kind": "date", "accept": date.isoformat(), "filler": ["When was Kavo founded?"]}
    month = MONTHS.split()[date.month - 1]
    for form in (
        date.isoformat(),
        f"{date.day} {month} {date.year}",
        f"{month} {date.day}, {date.year}",
        f"on the {date.day}th of {month} {date.year}",
        f"{month[:3]}. {date.day}, {date.year}",
        f"{date.day}.{date.month}.{date.year}",
        f"Kavo was founded on {date.isoformat()}.",
    ):
        assert right(form, expected), form
    other = date + datetime.timedelta(days=1)
    for wrong in (
        other.isoformat(),
        f"{date.isoformat()} or {other.isoformat()}",
        f"{date.year}",
        f"{month} {date.year}",
    ):
        assert not right(wrong, expected), wrong


@FAIR
@given(st.lists(NAMES, min_size=2, max_size=4, unique_by=lambda n: n.lower()), st.randoms(use_true_random=False), NAMES)
def test_a_set_is_right_in_any_order_and_whole_only(names: list[str], rng: random.Random, other: str):
    expected = {"kind": "set", "accept": [[name] for name in names], "filler": ["Which towns?"]}
    mixed = rng.sample(names, len(names))
    for form in (", ".join(mixed), "\n".join(mixed), f"They are {', '.join(mixed[:-1])} and {mixed[-1]}."):
        assert right(form, expected), form
    assert not right(", ".join(mixed[1:]), expected)
    assert not right(", ".join([*mixed, mixed[0]]), expected)
    if other.lower() not in {name.lower() for name in names}:
        assert not right(", ".join([*mixed, other]), expected)


def _spelled(number: int) -> str:
    ones, tens = ONES.split(), TENS.split()
    if number < 20:
        return ones[number]
    if number < 100:
        return tens[number // 10 - 2] + (f"-{ones[number % 10]}" if number % 10 else "")
    size, name = (1000, "thousand") if number >= 1000 else (100, "hundred")
    rest = f" and {_spelled(number % size)}" if number % size and size == 100 else ""
    rest = rest or (f" {_spelled(number % size)}" if number % size else "")
    return f"{_spelled(number // size)} {name}{rest}"


@pytest.mark.parametrize("tier", SHAPES)
@pytest.mark.parametrize("split", ["train", "heldout"])
def test_a_question_has_one_answer_and_the_pages_agree_with_it(tier: int, split: Split):
    for seed in range(4):
        found = quest(random.Random(seed), SHAPES[tier], split)
        held = resolve(found.pages)
        for name, key in held:  # the rule of the instruction gives the truth back from all pages
            assert held[name, key] == found.world.entities[name].facts[key], (name, key)
        for hop in found.path:
            assert found.world.solve(hop.description) == [hop.entity]
        assert len(found.world.solve(found.path[-1].description)) == 1
        if SHAPES[tier].disagree:
            assert _believing(found, lambda page: page.written.toordinal()) != found.asked.answer_in(found.world)
            assert _believing(found, lambda page: page.address == address_of(page.about)) != found.asked.answer_in(
                found.world
            )
        assert right(found.asked.answer, found.asked.expected)
        assert len(found.traps) == SHAPES[tier].orders


def _believing(found: Quest, weight: Callable[[Page], int]) -> object:
    """Answer the question for somebody who believes the page that weighs most, whatever its standing."""
    world = found.world
    for page in sorted(found.pages, key=weight):
        for key, value in page.claims.items():
            if world.entities[page.about].facts[key] != value:
                world = world.with_fact(page.about, key, value)
    return found.asked.answer_in(world)


@pytest.mark.parametrize("tier", SHAPES)
def test_the_reference_knows_no_address_that_it_has_not_met(tier: int):
    for draft in drafts("search", count=5, tiers=[tier], split="train", seed=9):
        met = ""
        for step in draft.steps:
            if step.tool == "open":
                assert step.arguments["address"] in met.split(), step.arguments
            met += f" {step.observation}"
        assert len(draft.steps) <= 12
        traps = json.loads(draft.test_files["expected.json"]).get("traps", ())
        assert not {step.arguments.get("address") for step in draft.steps} & set(traps)


def test_a_description_is_solved_over_the_whole_world():
    people = [
        Entity(name=n, kind="person", facts={"profession": p, "works_for": f, "birth": datetime.date(y, 1, 1)})
        for n, p, f, y in (("A", "baker", "F", 1950), ("B", "pilot", "F", 1960), ("C", "baker", "G", 1970))
    ]
    firms = [Entity(name=n, kind="firm", facts={"founder": p, "makes": "tea"}) for n, p in (("F", "C"), ("G", "A"))]
    world = World([*people, *firms])

    def names(description: Description) -> list[str]:
        return [entity.name for entity in world.solve(description)]

    assert names(Description(kind="person", plain={"profession": "baker"})) == ["A", "C"]
    assert names(Description(kind="person", plain={"profession": "baker", "birth": 1970})) == ["C"]
    staff = Description(kind="person", leads={"works_for": Description(kind="firm", name="F")})
    assert names(staff) == ["A", "B"]
    founder = Description(kind="person", led=(("firm", "founder", Description(kind="firm", name="G")),))
    assert names(founder) == ["A"]
    assert names(Description(kind="firm", leads={"founder": founder})) == ["G"]
    changed = world.with_fact("B", "works_for", "G")
    assert [entity.name for entity in changed.solve(staff)] == ["A"]
