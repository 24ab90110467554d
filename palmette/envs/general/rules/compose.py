"""Tasks to write a text that keeps many rules at once."""

from __future__ import annotations

import json
import random
from functools import cache
from pathlib import Path

from palmette.envs.api import Draft, Split, Step
from palmette.envs.general.rules.layouts import HELDOUT, LAYOUTS, Pen, seen
from palmette.envs.general.rules.rulebook import KINDS
from palmette.envs.general.rules.wording import Rule, asked

TIERS = (2, 3, 4, 5, 6)
_COUNT = {2: 3, 3: 5, 4: 7, 5: 10, 6: 13}  # tier -> rules, as far as the layout has them
_EASY = 3  # up to this tier, no exact counts of letters
_TERMS = (
    "A word is a run of letters, a sentence ends with . ! or ?, a paragraph is what blank lines part, a line has "
    "something on it, and case does not matter where a word or letter is named."
)


def draft(rng: random.Random, *, tier: int, split: Split, name: str) -> Draft:
    """Return a task with the tier's number of rules."""
    layout = rng.choice(list(LAYOUTS))
    text, rules = composed(rng, layout, _COUNT[tier], split, exact=tier > _EASY)
    pen = Pen(rng, split)
    path = f"{pen.name()}.txt"
    listed = "\n".join(f"{n}. {asked(rule)}" for n, rule in enumerate(rules, 1))
    command = f"cat > {path} <<'END'\n{text}\nEND"
    return Draft(
        name=name,
        domain="general",
        instruction=f"Write a text to {path}. What it is about is up to you, but it must keep these rules:\n"
        f"{listed}\n\n{_TERMS}",
        files={f"{pen.name()}/.keep": ""},
        test_files={
            "test.sh": "#!/bin/sh\nexec python3 -I -S /tests/rulebook.py\n",
            "rulebook.py": _rulebook(),
            "rules.json": json.dumps({"path": f"/app/{path}", "rules": rules}) + "\n",
        },
        steps=(
            Step(tool="bash", arguments={"command": command}, observation="(no output)"),
            Step(tool="submit", arguments={}, observation="submitted"),
        ),
        tier=tier,
        split=split,
        skills=("instruction following", layout, *sorted({rule["kind"] for rule in rules})),
        template=f"general/rules/{layout}",
        agent_timeout_s=600.0,
    )


def composed(
    rng: random.Random, layout: str, count: int, split: Split, *, exact: bool = True
) -> tuple[str, list[Rule]]:
    """Return a text of a layout and up to `count` rules that it keeps; held-out texts keep one that training never has.

    Without `exact` no letter is counted or forbidden.
    """
    letter = rng.choice(("", "j", "k", "z", "x", "q", "g")) if exact else ""
    pen = Pen(rng, split, letter)
    while True:
        text, shape = LAYOUTS[layout](pen)
        rules = [rule for rule in shape if split == "heldout" or rule["kind"] not in HELDOUT]
        if letter and letter not in text.lower():
            rules.append({"kind": "without_letter", "letter": letter})
        rng.shuffle(rules)
        rules.sort(key=lambda rule: rule["kind"] not in HELDOUT)
        other = [rule for rule in seen(text, layout, pen) if exact or rule["kind"] not in ("letters", "words")]
        rng.shuffle(other)
        chosen = _without_idle([*rules, *other])[:count]
        if chosen and all(KINDS[rule["kind"]](text, rule) for rule in chosen) and _can_fail(chosen):
            rng.shuffle(chosen)
            return text, chosen


def _can_fail(rules: list[Rule]) -> bool:
    """Say whether a text of no thought would not do."""
    return any(rule["kind"].startswith("json") or not KINDS[rule["kind"]]("guess", rule) for rule in rules)


def _without_idle(rules: list[Rule]) -> list[Rule]:
    """Leave out the range where the number itself is asked for."""
    kinds = {rule["kind"] for rule in rules}
    return [rule for rule in rules if not (rule["kind"] == "words_between" and "words" in kinds)]


@cache
def _rulebook() -> str:
    return (Path(__file__).parent / "rulebook.py").read_text(encoding="utf-8")
