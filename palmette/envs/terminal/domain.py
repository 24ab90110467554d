"""Composes goals into terminal tasks: tier t asks for t goals."""

from __future__ import annotations

import random

from palmette.envs.api import Draft, Split, Step
from palmette.envs.terminal.goals import GOALS, Goal, Names


class Terminal:
    """Tasks of one to four goals in one directory."""

    name = "terminal"
    tiers: tuple[int, ...] = (1, 2, 3, 4)

    def draft(self, rng: random.Random, *, tier: int, split: Split, name: str) -> Draft:
        """Return a task of `tier` different goals over names of `split`."""
        names = Names(rng, split)
        goals = [make(names) for make in rng.sample(GOALS, tier)]
        files = {path: text for goal in goals for path, text in goal.files.items()}
        files.setdefault(".keep", "")  # an environment is never empty
        return Draft(
            name=name,
            domain=self.name,
            instruction=" ".join(goal.sentence for goal in goals),
            files=files,
            test_files={"test.sh": _test_script(goals)},
            steps=_steps(goals),
            tier=tier,
            split=split,
            skills=tuple(goal.skill for goal in goals),
        )


def _steps(goals: list[Goal]) -> tuple[Step, ...]:
    calls = [
        Step(tool="bash", arguments={"command": command}, observation=output or "(no output)")
        for goal in goals
        for command, output in goal.commands
    ]
    return (*calls, Step(tool="submit", arguments={}, observation="submitted"))


def _test_script(goals: list[Goal]) -> str:
    """Return a script whose reward is 1 when every goal holds, else 0, with one line a goal in its log."""
    lines = ["#!/bin/sh", "cd /app || exit 1", "mkdir -p /logs/verifier", "reward=1"]
    for number, goal in enumerate(goals, 1):
        lines.append(f"if {goal.check}; then echo 'goal {number} {goal.skill}: reached'")
        lines.append(f"else reward=0; echo 'goal {number} {goal.skill}: missed'; fi")
    lines.append("echo $reward > /logs/verifier/reward.txt")
    return "\n".join(lines) + "\n"
