"""Composes terminal tasks: tiers 1 to 4 are as many small goals, tiers 5 to 8 are jobs of real shell work.

Tier 5 is one job, tier 6 two among files that have nothing to do with them, tier 7 three, and tier 8 three and packing
what they make. Jobs of held-out tasks are of families that training never sees.
"""

from __future__ import annotations

import random

from palmette.envs.api import INTENTS, Draft, Split, Step
from palmette.envs.checks import Check, judged, text
from palmette.envs.terminal.goals import GOALS, Goal, Names
from palmette.envs.terminal.job import Job
from palmette.envs.terminal.jobs import FAMILIES

_JOBS = {5: 1, 6: 2, 7: 3, 8: 3}  # tier -> how many
_STRAY = {5: 0, 6: 2, 7: 4, 8: 4}  # tier -> files that are to be left alone


class Terminal:
    """Tasks of one to four goals, or of one to three jobs."""

    name = "terminal"
    tiers: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8)

    def draft(self, rng: random.Random, *, tier: int, split: Split, name: str) -> Draft:
        """Return a task of different goals or jobs over names of `split`."""
        names = Names(rng, split)
        if tier in _JOBS:
            return self._of_jobs(names, tier=tier, split=split, name=name)
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

    def _of_jobs(self, names: Names, *, tier: int, split: Split, name: str) -> Draft:
        jobs = [make(names) for make in names.rng.sample(FAMILIES[split], _JOBS[tier])]
        if tier == max(_JOBS):
            while not any(job.outputs for job in jobs):
                jobs = [make(names) for make in names.rng.sample(FAMILIES[split], _JOBS[tier])]
            jobs.append(_packing(names, {path: body for job in jobs for path, body in job.outputs.items()}))
        stray = {f"{names.word()}/{names.file()}": f"{names.word()}\n" for _ in range(_STRAY[tier])}
        untouched: list[Check] = [text(path, body) for path, body in stray.items()]
        phrasings = {level: _phrased([job.asked(level) for job in jobs]) for level in INTENTS}
        calls = [
            Step(tool="bash", arguments={"command": command}, observation=output or "(no output)")
            for job in jobs
            for command, output in job.commands
        ]
        goals = [(job.family, list(job.checks)) for job in jobs]
        return Draft(
            name=name,
            domain=self.name,
            instruction=phrasings["request"],
            phrasings=phrasings,
            files={".keep": "", **stray, **{path: body for job in jobs for path, body in job.files.items()}},
            modes={path: mode for job in jobs for path, mode in job.modes.items()},
            histories={folder: script for job in jobs for folder, script in job.histories.items()},
            test_files=judged([*goals, ("nothing else changed", untouched)]),
            steps=(*calls, Step(tool="submit", arguments={}, observation="submitted")),
            tier=tier,
            split=split,
            skills=tuple(job.family for job in jobs),
            template="terminal/" + "+".join(sorted(job.family for job in jobs)),
        )


def _packing(n: Names, files: dict[str, str]) -> Job:
    """Return the job of packing the files that the other jobs make."""
    out, listed = n.word() + ".tar.gz", " and ".join(sorted(files))
    return Job(
        family="packing",
        specification=f"When all of this is done, make the gzipped tar {out} of {listed}, under these paths.",
        request=f"Finally pack {listed} into {out}, under these paths.",
        colloquial=f"When you're done, tar up {listed} as {out}.",
        files={},
        commands=((f"tar -czf {out} {' '.join(sorted(files))}", ""),),
        checks=({"kind": "archive", "path": out, "files": files},),
    )


def _phrased(asked: list[str]) -> str:
    if len(asked) == 1:
        return asked[0]
    return "\n".join(f"{number}. {each}" for number, each in enumerate(asked, 1))


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
