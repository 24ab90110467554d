"""Proves: what a dialogue predicts is what happens, what was done and said decides, and nobody else's log does."""

import importlib
import random
from dataclasses import replace
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from palmette.envs.api import Draft, Split
from palmette.envs.build import build_tasks
from palmette.envs.check import check_tasks
from palmette.envs.general.talk import first, memory, phones, shop, trips
from palmette.envs.general.talk.customer import GOODBYE, UNKNOWN, WAITS, YES, Customer
from palmette.envs.general.talk.desk import mentions
from palmette.envs.general.talk.scene import SAY, Scene
from palmette.envs.general.talk.settle import verdict
from palmette.envs.grade import Grader
from palmette.envs.services import opened
from palmette.envs.task import load_steps, write_task
from palmette.sandbox.api import Host

SPLITS: tuple[Split, ...] = ("train", "heldout")
SCENES = {"shop": shop.scene, "trips": trips.scene, "phones": phones.scene, "memory": memory.scene}


def judged(draft: Draft, log: list[dict]) -> str:
    """Return what the verifier of a task says about a log."""
    import json

    plan = json.loads(draft.test_files["plan.json"])
    return verdict(plan, log, lambda name: importlib.import_module(f"palmette.envs.general.talk.{name}"))


def events(draft: Draft) -> list[dict]:
    """Return the log of the reference."""
    steps = [step for step in draft.steps if step.tool != "submit"]
    return [
        {"say": s.arguments["text"]} if s.tool == SAY else {"tool": s.tool, "arguments": s.arguments} for s in steps
    ]


async def test_what_is_observed_is_what_was_predicted(host: Host, tmp_path: Path) -> None:
    drafts = [
        kind(first.Counter(random.Random(n), SPLITS[n % 2])).draft(tier=1, split=SPLITS[n % 2], name=f"general/{n}")
        for n, kind in enumerate(first.KINDS)
    ]
    drafts += [
        scene(random.Random(1), "heldout", 4).draft(tier=4, split="heldout", name=f"general/{name}")
        for name, scene in SCENES.items()
    ]
    for draft in drafts:
        task = write_task(draft, tmp_path / draft.name)
        async with opened(task, host, owner="test") as (sandbox, services):
            for step in load_steps(task)[:-1]:
                told = await (
                    services.say(step.arguments["text"])
                    if step.tool == SAY
                    else services.call(step.tool, step.arguments)
                )
                assert told == step.observation, (draft.name, step)
            await services.detach()
            assert (await Grader(host).grade(task, sandbox, services)).reward == 1.0, draft.name


@settings(max_examples=40, deadline=None)
@given(st.integers(), st.sampled_from(SPLITS))
def test_leaving_out_a_change_or_an_answer_is_not_rewarded(seed: int, split: Split) -> None:
    draft = first.scene(random.Random(seed), split).draft(tier=1, split=split, name="general/x")
    log = events(draft)
    assert judged(draft, log) == ""
    for number, event in enumerate(log):
        if "say" in event or event["tool"] in ("cancel", "ship"):
            assert judged(draft, [*log[:number], *log[number + 1 :]]), event


@settings(max_examples=40, deadline=None)
@given(st.integers(), st.sampled_from(SPLITS))
def test_doing_more_or_saying_all_is_not_rewarded(seed: int, split: Split) -> None:
    counter = first.Counter(random.Random(seed), split)
    draft = first.pick(counter).draft(tier=1, split=split, name="general/x")
    log = events(draft)
    other = next(id for id in counter.ids if id not in log[1]["arguments"]["id"])
    assert "orders" in judged(draft, [*log, {"tool": "cancel", "arguments": {"id": other}}])
    assert judged(draft, [*log[:2], {"say": f"It is {' or '.join(counter.ids)}."}])
    assert judged(draft, [{"say": "Done."}] * 3)
    for kind in first.KINDS:
        draft = kind(first.Counter(random.Random(seed), split)).draft(tier=1, split=split, name="general/x")
        found = draft.steps[0].observation
        assert judged(draft, [events(draft)[0], {"say": found}, {"say": f"{found} It is cancelled, it is sent."}]), (
            found
        )


@settings(max_examples=25, deadline=None)
@given(st.integers(), st.sampled_from(SPLITS), st.sampled_from(sorted(SCENES)), st.integers(2, 6))
def test_a_scene_ends_well_and_every_change_and_answer_of_it_counts(
    seed: int, split: Split, family: str, tier: int
) -> None:
    scene = SCENES[family](random.Random(seed), split, min(tier, 5))
    draft = scene.draft(tier=tier, split=split, name="general/x")  # asserts that the reference does
    spoken = [step.observation for step in draft.steps if step.tool == SAY]
    assert spoken[-1].endswith(GOODBYE)
    log = events(draft)
    changes = importlib.import_module(f"palmette.envs.general.talk.{scene.backend}").CHANGES
    for number, event in enumerate(log):
        if event.get("tool") in changes:
            assert judged(draft, [*log[:number], *log[number + 1 :]]), event
    assert judged(draft, log[:-1])


def test_a_change_before_the_customer_is_identified_breaks_the_policy() -> None:
    scene = next(s for n in range(99) if "cancel" in (s := shop.scene(random.Random(n), "train", 2)).skills)
    draft = scene.draft(tier=2, split="train", name="general/x")
    log = events(draft)
    assert judged(draft, log) == ""
    without = [event for event in log if event.get("tool") != "identify"]
    assert "faults" in judged(draft, without)


def test_a_customer_answers_what_is_asked_and_no_more() -> None:
    data = {
        "stages": [
            {"say": "a", "rules": [{"if": "cannot", "say": "Please!"}, {"if": "cannot", "say": "Well.", "go": 1}]},
            {"say": "b"},
        ],
        "knows": [{"if": "postcode", "say": "12345."}],
    }
    customer = Customer(data)
    assert customer.hear("What is your postcode?") == "12345."
    assert customer.hear("What is your shoe size?") == UNKNOWN
    assert customer.hear("Shall I go ahead?") == YES
    assert customer.hear("I cannot do that.") == "Please!"
    assert customer.hear("I still cannot.") == "Well. b"
    assert customer.hear("It is done. Is there anything else?") == GOODBYE
    assert customer.hear("Hello?") == ""


def test_a_customer_understands_a_clerk_who_talks_a_lot() -> None:
    data = {
        "stages": [{"say": "a"}, {"say": "b"}],
        "knows": [
            {"if": "name", "say": "Kavo."},
            {"if": "postcode", "say": "12345."},
            {"if": "refund", "say": "Credit."},
        ],
    }
    customer = Customer(data)
    ask = "I can help with that! Could you please provide:\n- your full name\n- your postcode"
    assert customer.hear(ask) == "Kavo. 12345."
    assert customer.hear("Thank you, Kavo. Let me check your orders.") == WAITS
    assert customer.hear("I found it. Would you like me to cancel it?") == YES
    assert customer.hear("It is cancelled and the refund is on its way. Is there anything else I can help with?") == "b"
    assert customer.hear("What is your shoe size?") == UNKNOWN


def test_a_telephone_is_operated_by_orders_and_not_by_reports_or_questions() -> None:
    call = phones.scene(random.Random(1), "train", 2)
    done: list[str] = []
    customer = Customer(dict(call.customer), act=lambda action: done.append(action) or "seen")
    for text in (
        "I have turned airplane mode off for you.",
        "Is airplane mode on?",
        "Please check whether airplane mode is on.",
    ):
        customer.hear(text)
    assert "airplane=off" not in done
    customer.hear("Please do this:\n1. Turn off Airplane Mode\n2. Restart your phone\nWhat does the status bar say?")
    assert [action for action in done if action in ("airplane=off", "restart", "bar")] == [
        "airplane=off",
        "restart",
        "bar",
    ]


def test_a_value_is_mentioned_as_a_word_of_its_own() -> None:
    assert mentions("It costs 34 coins, not 1,340.", "34")
    assert mentions("In total 1,340.00.", "1340")
    assert not mentions("It costs 134 coins or 34.5.", "34")
    assert mentions("Order KAVO-12.", "kavo-12")
    assert not mentions("Order kavo-123.", "kavo-12")


async def test_a_log_that_the_agent_writes_is_nobody_s(host: Host, tmp_path: Path) -> None:
    draft = first.where(first.Counter(random.Random(3), "train")).draft(tier=1, split="train", name="general/x")
    log = str(events(draft)).replace("'", '"')
    solved = f"mkdir -p /services/desk; (printf '%s' '{log}' > /services/desk/log.jsonl) || true"
    task = write_task(replace(draft, solution=f"#!/bin/sh\n{solved}\n"), tmp_path / "x")
    (report,) = await check_tasks([task], host)
    assert report.reason.startswith("the reference scores 0")


async def test_tasks_of_every_tier_hold(host: Host, tmp_path: Path) -> None:
    tasks = build_tasks("general", tmp_path, count=5, tiers=[2, 3, 4, 5, 6], split="heldout", seed=4)
    reports = await check_tasks(tasks, host, concurrency=4)
    assert [(r.task.template, r.reason) for r in reports if not r.ok] == []


def test_the_files_of_a_task_stand_alone(tmp_path: Path) -> None:
    import subprocess
    import sys

    scene: Scene = first.scene(random.Random(1), "train")
    draft = scene.draft(tier=1, split="train", name="general/x")
    for name, text in draft.test_files.items():
        (tmp_path / name).write_text(str(text))
    command = [
        sys.executable,
        "-I",
        "-S",
        "-c",
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import desk, customer, settle, {scene.backend}",
    ]
    assert subprocess.run(command, check=False).returncode == 0
