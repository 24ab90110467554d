"""What is asked about the end of a path: one fact of it, or something over all that lead to it."""

from __future__ import annotations

import datetime
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from palmette.envs.search.graph import ATTRIBUTES, PROFESSIONS, SUBJECTS, THINGS, Entity, Value, World
from palmette.envs.search.path import Hop
from palmette.envs.search.wording import GROUPS, described, question, said

_WORDS = {"profession": PROFESSIONS, "makes": THINGS, "subject": SUBJECTS}
_OLDEST = {"birth": (1900, 1990), "founded": (1850, 2005), "year": (1930, 2010)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A question, what counts as its answer, and which facts decide.

    `answer_in(world)` answers it in any world, so that one can see what a wrong fact would make of it; `deciding` are
    (entity, attribute). `members` are the entities that have to be looked at, and `group` names them in `GROUPS`.
    """

    text: str
    skill: str
    answer: str
    expected: dict[str, Any]
    deciding: tuple[tuple[str, str], ...]
    answer_in: Callable[[World], object]
    members: tuple[Entity, ...] = ()
    group: str = ""


def ask_fact(world: World, rng: random.Random, path: list[Hop]) -> Asked | None:
    """Ask for one fact of the last entity of a path."""
    end, seen = path[-1], {hop.entity.name for hop in path}
    told = {*end.description.plain, *end.description.leads}
    keys = [key for key in ATTRIBUTES[end.entity.kind] if key not in told and end.entity.facts[key] not in seen]
    if not keys:
        return None
    key = rng.choice(keys)

    def answer_in(other: World) -> frozenset[Value]:
        return frozenset(entity.facts[key] for entity in other.solve(end.description))

    if answer_in(world) != {end.entity.facts[key]}:
        return None
    text, value = question(end.description, key), end.entity.facts[key]
    return Asked(
        text=text,
        skill="fact",
        answer=said(value),
        expected=_expected(world, value, text),
        deciding=((end.entity.name, key),),
        answer_in=answer_in,
    )


def ask_group(world: World, rng: random.Random, path: list[Hop], *, most: int) -> Asked | None:
    """Ask over all of 3 to `most` entities that lead to the end of a path: how many, which, who first or last."""
    end = path[-1]
    kinds = [group for group in GROUPS if ATTRIBUTES[group.split(".")[0]][group.split(".")[1]] == end.entity.kind]
    rng.shuffle(kinds)
    for group in kinds:
        kind, _, key = group.partition(".")
        members = tuple(entity for entity in world.of(kind) if entity.facts[key] == end.entity.name)
        order = GROUPS[group][1]
        if 3 <= len(members) <= most and len({_year(entity.facts[order]) for entity in members}) == len(members):
            return _over(world, rng, path, group, members)
    return None


def _over(world: World, rng: random.Random, path: list[Hop], group: str, members: tuple[Entity, ...]) -> Asked:
    end, (kind, _, key) = path[-1], group.partition(".")
    those, order, before, superlative = GROUPS[group]
    years = sorted(_year(entity.facts[order]) for entity in members)
    cut = years[rng.randrange(1, len(years))]
    how, which = rng.choice(("count", "set", "extreme", "extreme")), rng.choice(("first", "last"))

    def picked(other: World) -> list[str]:
        anchors = {entity.name for entity in other.solve(end.description)}
        found = [entity for entity in other.of(kind) if entity.facts[key] in anchors]
        found.sort(key=lambda entity: _year(entity.facts[order]))
        if how == "extreme":
            return [found[0 if which == "first" else -1].name] if found else []
        return sorted(entity.name for entity in found if _year(entity.facts[order]) < cut)

    those, names = those.format(v=described(end.description)), picked(world)
    if how == "count":
        text = f"How many of the {those} {before.format(y=cut)}?"
        answer, expected = str(len(names)), _expected(world, len(names), text)
    elif how == "set":
        text = f"Which of the {those} {before.format(y=cut)}? Name all of them and no others."
        forms = [_forms(world, name) for name in names]
        answer, expected = ", ".join(names), {"kind": "set", "accept": forms, "filler": _filler(text)}
    else:
        text = f"Which of the {those} {superlative.format(which=which)}?"
        answer, expected = names[0], _expected(world, names[0], text)

    def answer_in(other: World) -> object:
        return len(picked(other)) if how == "count" else picked(other)

    return Asked(
        text=text,
        skill=how,
        answer=answer,
        expected=expected,
        deciding=tuple((entity.name, order) for entity in members),
        answer_in=answer_in,
        members=members,
        group=group,
    )


def wrong_value(world: World, rng: random.Random, name: str, key: str) -> Value:
    """Return another value that a fact could have."""
    entity = world.entities[name]
    to, old = ATTRIBUTES[entity.kind][key], entity.facts[key]
    while True:
        if to:
            value: Value = rng.choice(world.of(to)).name
        elif isinstance(old, datetime.date):
            value = datetime.date(rng.randint(*_OLDEST["birth"]), rng.randint(1, 12), rng.randint(1, 28))
        elif isinstance(old, int):
            value = rng.randint(*_OLDEST[key]) if key in _OLDEST else old + rng.randint(1, 5000)
        elif key in _WORDS:
            value = rng.choice(_WORDS[key])
        else:
            value = rng.choice(world.of(entity.kind)).facts[key]
        if value != old or (not to and len({e.facts[key] for e in world.of(entity.kind)}) == 1):
            return value


def _expected(world: World, value: Value, text: str) -> dict[str, Any]:
    if isinstance(value, datetime.date):
        return {"kind": "date", "accept": value.isoformat(), "filler": _filler(text)}
    if isinstance(value, int):
        return {"kind": "number", "accept": value, "filler": _filler(text)}
    return {"kind": "text", "accept": _forms(world, value), "filler": _filler(text)}


def _forms(world: World, name: str) -> list[str]:
    """Return a name and the one word of it that says as much, if there is one."""
    entity = world.entities.get(name)
    if entity is None or " " not in name:
        return [name]
    own = name.split()[-1] if entity.kind in ("person", "book") else name.split()[0]
    twins = [other for other in world.entities if own in other.split()]
    return [name, own] if len(twins) == 1 else [name]


def _filler(text: str) -> list[str]:
    """Return the words of a question that an answer may repeat: neither names nor what could be an answer."""
    candidates = {word for words in _WORDS.values() for word in words}
    words = [word.strip("?.,") for word in text.split()]
    return sorted({word for word in words if word.islower() and word not in candidates} | {words[0].lower()})


def _year(value: Value) -> int:
    assert not isinstance(value, str)
    return value.year if isinstance(value, datetime.date) else value
