"""Composes tasks of web pages: tier 1 is one small change of a small page, tier 2 two or three of them."""

from __future__ import annotations

import random

from palmette.envs.api import Draft, Split, Step
from palmette.envs.terminal.goals import Names
from palmette.envs.web.changes import CHANGES, Change, Stub, make_stub, unchanged
from palmette.envs.web.plan import EVIDENCE, MEMORY_MB, PIDS, QUIET, STORAGE_MB, Goal, Plan, opened

_VERIFIER_S = 90.0


class Web:
    """Pages to change and pages to make, judged as a browser renders them."""

    name = "web"
    tiers: tuple[int, ...] = (1, 2)

    def draft(self, rng: random.Random, *, tier: int, split: Split, name: str) -> Draft:
        """Return a task over names of `split`."""
        names = Names(rng, split)
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
            verifier_timeout_s=_VERIFIER_S,
            memory_mb=MEMORY_MB,
            storage_mb=STORAGE_MB,
            pids=PIDS,
            evidence=EVIDENCE,
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
