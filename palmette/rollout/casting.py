"""The plan of a group: how each of its samples is told the task, and which scaffold drives it. The verifier is one."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache

from palmette.envs.api import Task
from palmette.envs.intent import phrased
from palmette.errors import UserError
from palmette.rollout.crew import Crew
from palmette.scaffolds.api import Scaffold

Casting = Callable[[Task, int, int], tuple[Task, Scaffold]]
"""Takes a task, its group and a sample number; returns the task as that sample is told it, and who drives it."""

_BLOCK = 64


def cast(
    crew: Crew,
    *,
    start: int = 0,
    samples: int = 1,
    intents: Sequence[str] = (),
    within: bool = False,
    by: str | None = None,
) -> Casting:
    """Return the casting of groups that come after `start` others, of `samples` each.

    A group has one scaffold, by share, or all have the one that `by` names; `within` a group the samples take turns.
    With `intents` (of `palmette.envs.api.INTENTS`) the samples of a group are told the task in these ways in turn; each
    scaffold hears all of them where there are samples enough. From group to group turns are in no order: those of tiers
    in a list of tasks have one, and each tier is to meet every scaffold and every phrasing.
    """

    def casting(task: Task, group: int, sample: int) -> tuple[Task, Scaffold]:
        number = start + group
        taking_turns = number * samples + sample if within else _scattered(number, "scaffold")
        driver = crew.named(by) if by else crew.scaffold(task.domain, taking_turns)
        if not intents:
            return task, driver
        turn = sample // len(crew.names(task.domain)) if within else sample
        return told(task, intents[(_scattered(number, "intent") + turn) % len(intents)]), driver

    return casting


@lru_cache(maxsize=65_536)
def told(task: Task, level: str) -> Task:
    """Return the task in another phrasing; as it is, where none keeps what the verifier looks for."""
    try:
        return replace(task, instruction=phrased(task, level), intent=level)
    except UserError:
        return task


def _scattered(number: int, what: str) -> int:
    """Return `number`'s place after a shuffle of every 64: over these, shares stay what they are."""
    block, place = divmod(number, _BLOCK)
    return block * _BLOCK + _shuffle(block, what)[place]


@lru_cache(maxsize=1024)
def _shuffle(block: int, what: str) -> list[int]:
    return random.Random(f"{what} {block}").sample(range(_BLOCK), _BLOCK)
