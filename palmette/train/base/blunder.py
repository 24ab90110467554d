"""One step of a reference gone wrong, as somebody would get it wrong who has nearly understood the task.

A step that changes something, or answers, is left out, or one of its names is another: a wrong one that was seen on the
way, or one made up. A wrong line of code has another operator, function or number.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import replace

from palmette.envs.api import Split, Step
from palmette.envs.tools import SAY
from palmette.envs.words import word

_DONE = ("(no output)", "ok", "noted")  # what is said to a step that has changed something
_LEFT_OUT = 0.25  # share of the blunders
_MADE_UP = 0.3  # share of the wrong names that nobody has mentioned
_PLACES = ("id", "address", "path")  # arguments that name what is worked on: a wrong one would be answered otherwise
_WORDS = {"grep", "sort", "mkdir", "chmod", "html", "button", "page", "pages", "name", "before", "more", "made"}  # real
_INVENTED = re.compile(r"\b(?:[bdfgjklmnprstvz][aeiou]){2,3}[nrskl]?\b", re.IGNORECASE)
_NUMBER = re.compile(r"\b\d+\b")
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


def blunder(steps: tuple[Step, ...], rng: random.Random, split: Split) -> tuple[Step, ...]:
    """Return the steps with one of those that change something, or answer, left out or done wrongly."""
    candidates = [i for i, step in enumerate(steps) if step.observation in _DONE or step.tool == SAY]
    index = rng.choice(candidates)
    step = steps[index]
    if rng.random() < _LEFT_OUT:
        return steps[:index] + steps[index + 1 :]
    wrong = _wrong_arguments(step, [*steps[:index], *steps[index + 1 :]], rng, split)
    done = [replace(step, arguments=wrong)] if wrong else []  # nothing to get wrong in it: it is forgotten
    return (*steps[:index], *done, *steps[index + 1 :])


def _wrong_arguments(step: Step, others: Sequence[Step], rng: random.Random, split: Split) -> dict[str, object] | None:
    arguments = step.arguments
    if step.tool == "edit" and arguments["path"].endswith(".py"):
        return {**arguments, "new": _wrong_line(arguments["new"], arguments["old"], rng)}
    if step.tool == "bash":
        return {"command": _wrong_command(arguments["command"], rng, split)}
    told = [each.observation for each in others] + [str(value) for each in others for value in each.arguments.values()]
    told += [str(value) for name, value in arguments.items() if name in _PLACES]
    kept = str(arguments.get("old", ""))
    for name in rng.sample(sorted(arguments), len(arguments)):
        value = arguments[name]
        if name in (*_PLACES, "old") or not isinstance(value, str):
            continue
        if (wrong := _wrong_word(value, "\n".join(told), kept, rng, split)) is not None:
            return {**arguments, name: wrong}
    return None


def _wrong_word(text: str, told: str, kept: str, rng: random.Random, split: Split) -> str | None:
    """Replace an invented word or a number, which the text does not share with `kept`, by another of its kind."""
    for kind in rng.sample((_INVENTED, _INVENTED, _NUMBER), 3):
        known = {found for found in kind.findall(told) if found.lower() not in _WORDS}
        said = [match for match in kind.finditer(text) if match[0] not in kept and match[0].lower() not in _WORDS]
        if not said:
            continue
        match = rng.choice(said)
        mentioned = sorted(other for other in known if other.lower() != match[0].lower() and other not in text)
        if mentioned and rng.random() >= _MADE_UP:
            other = rng.choice(mentioned)
        else:
            other = word(rng, split) if kind is _INVENTED else str(int(match[0]) + rng.randint(1, 9))
        other = other.capitalize() if match[0][0].isupper() else other.lower()
        return text[: match.start()] + other + text[match.end() :]
    return None


def _wrong_command(command: str, rng: random.Random, split: Split) -> str:
    """Replace one of the names in a command by another invented name."""
    names = [match for match in re.finditer(r"[a-z]{4,}", command) if match.group() not in _WORDS]
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
