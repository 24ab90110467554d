"""Composes tasks of web pages: tier 1 is one small change of a small page, tier 2 two or three of them.

Tier 3 is a component with behaviour, tier 4 a chart of given numbers or a deck of slides, tier 5 a site of several
pages, tier 6 a game, among files that are to stay as they are. From tier 3 on held-out tasks are of families that
training never sees; in tiers 5 and 6 the reward is also how the pages look, up to a bar.
"""

from __future__ import annotations

import random
from typing import Any

from palmette.envs.api import INTENTS, Draft, Split, Step
from palmette.envs.terminal.goals import Names
from palmette.envs.terminal.job import heredoc
from palmette.envs.web.briefs import BRIEFS
from palmette.envs.web.changes import CHANGES, Change, Stub, make_stub, unchanged
from palmette.envs.web.plan import EVIDENCE, MEMORY_MB, PIDS, QUIET, STORAGE_MB, Goal, Plan, opened

LOOKS_BAR = 0.85  # of the least overall score of a page; the references pass it at both sizes
_LOOKED = (5, 6)
_AGENT_S = 600.0
_ROOM: dict[str, Any] = {
    "verifier_timeout_s": 180.0,
    "memory_mb": MEMORY_MB,
    "storage_mb": STORAGE_MB,
    "pids": PIDS,
    "evidence": EVIDENCE,
}


class Web:
    """Pages to change and pages to make, judged as a browser renders them."""

    name = "web"
    tiers: tuple[int, ...] = (1, 2, 3, 4, 5, 6)

    def draft(self, rng: random.Random, *, tier: int, split: Split, name: str) -> Draft:
        """Return a task over names of `split`."""
        names = Names(rng, split)
        if tier in BRIEFS:
            return self._of_brief(names, tier=tier, split=split, name=name)
        return self._of_changes(names, tier=tier, split=split, name=name)

    def _of_changes(self, n: Names, *, tier: int, split: Split, name: str) -> Draft:
        stub, other = make_stub(n), make_stub(n)
        wanted = 1 if tier == 1 else n.rng.choice((2, 3))
        while True:
            changes = [make(n, stub) for make in n.rng.sample(CHANGES, wanted)]
            if _apart(changes):
                break
        touched = frozenset[str]().union(*(change.touches for change in changes))
        acts = [step for change in changes for step in change.steps]
        goal = Goal(name="the page", within_s=0.3, steps=[opened(stub.path), *unchanged(stub, touched), *acts, QUIET])
        plan = Plan(goals=[goal], needs=[stub.path], kept={other.path: other.text()}, given={stub.path: stub.text()})
        return Draft(
            name=name,
            domain=self.name,
            instruction=" ".join(change.sentence for change in changes),
            files={stub.path: stub.text(), other.path: other.text()},
            test_files=plan.files(),
            steps=_steps(stub, changes),
            tier=tier,
            split=split,
            skills=tuple(change.skill for change in changes),
            **_ROOM,
        )

    def _of_brief(self, n: Names, *, tier: int, split: Split, name: str) -> Draft:
        brief = n.rng.choice(BRIEFS[tier][split])(n)
        looked = tier in _LOOKED
        given = {**brief.given, **{f"{n.word()}/{n.word()}.md": f"{n.word()}\n" for _ in range(2)}}
        plan = Plan(
            goals=brief.goals,
            needs=list(brief.reference),
            kept=given,
            reward="all_times_looks" if looked else "all",
            looks=brief.pages if looked else (),
            looks_bar=LOOKS_BAR,
        )
        phrasings = {level: brief.told(level) for level in INTENTS}
        calls = [
            Step(tool="bash", arguments={"command": heredoc(path, text)}, observation="(no output)")
            for path, text in brief.reference.items()
        ]
        return Draft(
            name=name,
            domain=self.name,
            instruction=phrasings["request"],
            phrasings=phrasings,
            files=given,
            test_files=plan.files(),
            steps=(*calls, Step(tool="submit", arguments={}, observation="submitted")),
            tier=tier,
            split=split,
            skills=(brief.family,),
            template=f"web/{brief.family}",
            agent_timeout_s=_AGENT_S,
            **_ROOM,
        )


def _apart(changes: list[Change]) -> bool:
    """Say whether no two changes are about one line."""
    lines = [line for change in changes if (line := change.edit[0] if change.edit else change.line)]
    return len(lines) == len(set(lines))


def _steps(stub: Stub, changes: list[Change]) -> tuple[Step, ...]:
    """Return the reference: the page is read where a line of it is to be edited, as it is at that time."""
    text, steps = stub.text(), list[Step]()
    for change in changes:
        if change.edit and not any(
            step.arguments["command"].startswith("cat ") for step in steps if step.tool == "bash"
        ):
            read = {"command": f"cat {stub.path}"}
            steps.append(Step(tool="bash", arguments=read, observation=text.strip()))
        if change.edit:
            old, new = change.edit
            steps.append(Step(tool="edit", arguments={"path": stub.path, "old": old, "new": new}, observation="ok"))
            text = text.replace(old, new)
        else:
            steps.append(Step(tool="bash", arguments={"command": change.command}, observation="(no output)"))
            text = _after(text, change.command)
    return (*steps, Step(tool="submit", arguments={}, observation="submitted"))


def _after(text: str, command: str) -> str:
    """Return the page after a command of `changes`: a line appended by echo, or lines deleted by sed."""
    if command.startswith("echo '"):
        return text + command.removeprefix("echo '").partition("' >> ")[0] + "\n"
    gone = command.split("/")[1]
    return "".join(line for line in text.splitlines(keepends=True) if gone not in line)
