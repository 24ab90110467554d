"""Generated agent transcripts of mixed quality, as a base model would have met them.

Every transcript is a task of a domain with the reference steps, rendered as the built-in loop would show them. A
`sloppy` share of them goes wrong at exactly one step (a goal forgotten, a wrong name, a wrong edit), so that the base
has seen all of the work and is reliable at none of it: that is what specialising is for.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import replace

from palmette.chat.message import Message, ToolCall
from palmette.envs.api import Draft, Split, Step
from palmette.envs.names import domain
from palmette.envs.words import word
from palmette.scaffolds.loop import SYSTEM_PROMPT

_OPERATORS = ("+", "-", "*", "//", "%", "<", ">", "<=", ">=", "==")
_OTHER_CALLS = {
    "max": "min",
    "min": "max",
    "sum": "len",
    "len": "sum",
    "upper": "lower",
    "lower": "upper",
    "abs": "max",
}


def transcripts(
    domains: Sequence[str], tiers: Sequence[int], *, count: int, sloppy: float, split: Split, seed: str
) -> list[tuple[Message, ...]]:
    """Return `count` conversations, the domains in turn, a share `sloppy` of them with one wrong step."""
    rng = random.Random(f"corpus/{split}/{seed}")
    found: list[tuple[Message, ...]] = []
    for number in range(count):
        source = domain(domains[number % len(domains)])
        tier = rng.choice([tier for tier in tiers if tier in source.tiers])
        draft = source.draft(rng, tier=tier, split=split, name=f"corpus/{seed}/{number}")
        steps = blunder(draft.steps, rng, split) if rng.random() < sloppy else draft.steps
        found.append(conversation(draft, steps))
    return found


def conversation(draft: Draft, steps: Sequence[Step]) -> tuple[Message, ...]:
    """Return the conversation in which `steps` are the assistant's turns, one call each, up to the last call."""
    messages = [Message(role="system", content=SYSTEM_PROMPT), Message(role="user", content=draft.instruction)]
    for number, step in enumerate(steps):
        call = ToolCall(id=f"call{number}", name=step.tool, arguments=step.arguments)
        messages.append(Message(role="assistant", tool_calls=(call,)))
        messages.append(Message(role="tool", content=step.observation, tool_call_id=call.id))
    return tuple(messages[:-1])  # nothing is said after the last call: it submits


def blunder(steps: tuple[Step, ...], rng: random.Random, split: Split) -> tuple[Step, ...]:
    """Return the steps with one of those that change something left out or done wrongly."""
    candidates = [i for i, step in enumerate(steps) if step.observation in ("(no output)", "ok")]
    index = rng.choice(candidates)
    step = steps[index]
    if rng.random() < 0.25:
        return steps[:index] + steps[index + 1 :]
    if step.tool == "edit":
        wrong = {**step.arguments, "new": _wrong_line(step.arguments["new"], step.arguments["old"], rng)}
    else:
        wrong = {"command": _wrong_command(step.arguments["command"], rng, split)}
    return (*steps[:index], replace(step, arguments=wrong), *steps[index + 1 :])


def _wrong_command(command: str, rng: random.Random, split: Split) -> str:
    """Replace one of the names in a command by another invented name."""
    names = [
        match for match in re.finditer(r"[a-z]{4,}", command) if match.group() not in ("grep", "sort", "mkdir", "chmod")
    ]
    match = rng.choice(names)
    return command[: match.start()] + word(rng, split) + command[match.end() :]


def _wrong_line(right: str, old: str, rng: random.Random) -> str:
    """Change an operator, a called function or a number of the right line; never return it unchanged."""
    places = list(re.finditer(r"\*\*|//|<=|>=|==|[-+*%<>]|\b(?:max|min|sum|len|upper|lower|abs)\b|\d", right))
    rng.shuffle(places)
    for place in places:
        text = place.group()
        if text.isdigit():
            other = str(rng.choice([d for d in range(4) if str(d) != text]))
        elif text in _OTHER_CALLS:
            other = _OTHER_CALLS[text]
        else:
            other = rng.choice([o for o in _OPERATORS if o != text])
        line = right[: place.start()] + other + right[place.end() :]
        if line != right:
            return line
    return old  # nothing to change: the edit leaves the bug where it is
