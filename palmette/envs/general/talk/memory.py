"""Long talks without tools: somebody tells many things, takes some of them back, and asks in the end.

Tier 2 tells 4 times, tier 6 a hundred times. What is asked for has been said once, far away from the question, among
the same things about others; some of it was corrected later, or said only by reference to somebody else.
"""

from __future__ import annotations

import random

from palmette.envs.api import Split
from palmette.envs.general.talk.customer import LEAVES
from palmette.envs.general.talk.scene import SAY, Scene, told
from palmette.envs.words import word

_TELLS = {2: 4, 3: 10, 4: 24, 5: 48, 6: 96}  # tier -> messages before the questions
_ASKS = {2: 1, 3: 2, 4: 3, 5: 4, 6: 5}
_AGAIN, _LIKE = 0.25, 0.15  # shares of messages that correct one before, or refer to it
_SUBJECTS = {
    "train": {
        "city": ("{who} lives in {what}.", "{who} moved: now it is {what}.", "In which city does {who} live now?"),
        "boat": (
            "{who}'s boat is called {what}.",
            "{who}'s boat has a new name, {what}.",
            "What is {who}'s boat called now?",
        ),
        "horse": ("{who} rides {what}.", "{who} sold that horse and rides {what}.", "Which horse does {who} ride now?"),
    },
    "heldout": {
        "school": (
            "{who} teaches at {what}.",
            "{who} left and teaches at {what}.",
            "At which school does {who} teach now?",
        ),
        "band": (
            "{who} plays with {what}.",
            "{who} plays with {what} these days.",
            "Which band does {who} play with now?",
        ),
        "dish": ("{who} always orders {what}.", "I was wrong, {who} orders {what}.", "Which dish does {who} order?"),
    },
}
_CHAT = (
    "The weather was fine all week.",
    "I had to wait for the bus again.",
    "My tea has gone cold.",
    "The neighbours are painting their fence.",
    "I slept badly, it was too hot.",
    "There was a market in the square today.",
)


def scene(rng: random.Random, split: Split, tier: int) -> Scene:
    """Return a talk of a tier."""
    taken: set[str] = set()
    subjects = _SUBJECTS[split]
    people = [word(rng, split, taken=taken).capitalize() for _ in range(3 + tier)]
    facts: dict[tuple[str, str], str] = {}
    first: dict[tuple[str, str], str] = {}
    values: list[str] = []
    fixed: set[tuple[str, str]] = set()  # others refer to these, so they stay
    messages: list[str] = []
    for _ in range(_TELLS[tier]):
        messages.append(_message(rng, split, taken, people, facts, first, values, fixed))
    changed = [key for key in facts if facts[key] != first[key]]
    asked = rng.sample(list(facts), min(_ASKS[tier], len(facts)))
    if changed and not set(changed) & set(asked):
        asked[0] = rng.choice(changed)
    opening = "I will tell you a few things about people I know. Just say ok to each, until I ask you something."
    stages = [{"say": opening}, *({"say": message} for message in messages)]
    says = []
    for who, subject in asked:
        says.append(told(facts[who, subject], among=values, most=1, stage=len(stages)))
        stages.append({"say": subjects[subject][2].format(who=who)})
    plan = [{**stage, "rules": [_onward(number, len(stages))]} for number, stage in enumerate(stages)]
    answers = [f"{facts[key]}." for key in asked]
    return Scene(
        backend="listen",
        skills=("dialogue", "memory"),
        template=f"general/memory/{tier}",
        system="You talk with a user. Answer in a few words, and submit when the user has said goodbye.",
        instruction=opening,
        state={},
        tools=(),
        acts=[(SAY, "Ok."), *((SAY, "Ok.") for _ in messages), *((SAY, answer) for answer in answers)],
        customer={"stages": plan, "most": len(plan) + 5},
        says=says,
    )


def _onward(number: int, count: int) -> dict[str, object]:
    """Return the rule of going on whatever is said."""
    return {"if": "", "say": "", "go": number + 1 if number + 1 < count else LEAVES}


def _message(
    rng: random.Random,
    split: Split,
    taken: set[str],
    people: list[str],
    facts: dict[tuple[str, str], str],
    first: dict[tuple[str, str], str],
    values: list[str],
    fixed: set[tuple[str, str]],
) -> str:
    """Return a message that tells something new, corrects something, or refers to something, and keep what holds."""
    subjects, chance = _SUBJECTS[split], rng.random()
    chat = rng.choice(_CHAT) + " " if rng.random() < 0.5 else ""
    free = [(who, subject) for who in people for subject in subjects if (who, subject) not in facts]
    loose = [key for key in facts if key not in fixed]
    like = rng.choice(list(facts)) if facts and _AGAIN < chance < _AGAIN + _LIKE else ("", "")
    others = [who for who, subject in free if subject == like[1]]
    if others:
        who = rng.choice(others)
        facts[who, like[1]] = first[who, like[1]] = facts[like]
        fixed |= {like, (who, like[1])}
        return f"{chat}As for the {like[1]}, {who} has the same as {like[0]}."
    again = bool(loose) and (chance < _AGAIN or not free)
    if not again and not free:
        return rng.choice(_CHAT)
    key = rng.choice(loose if again else free)
    sentence = subjects[key[1]][1 if again else 0]
    what = word(rng, split, taken=taken).capitalize()
    values.append(what)
    facts[key] = what
    first.setdefault(key, what)
    return chat + sentence.format(who=key[0], what=what)
