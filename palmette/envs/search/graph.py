"""A world of people, towns, firms, books and fairs, and descriptions of them that are solved over all of it."""

from __future__ import annotations

import datetime
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from palmette.envs.api import Split
from palmette.envs.words import word

Value = str | int | datetime.date  # a str is the name of another entity where the attribute leads to one

# kind -> attribute -> the kind it leads to, or "" for a plain value
ATTRIBUTES: dict[str, dict[str, str]] = {
    "person": {"born_in": "town", "lives_in": "town", "works_for": "firm", "profession": "", "birth": ""},
    "town": {"region": "", "river": "", "people": ""},
    "firm": {"founder": "person", "seat": "town", "founded": "", "makes": ""},
    "book": {"author": "person", "year": "", "subject": ""},
    "fair": {"held_in": "town", "winner": "person", "year": ""},
}
PROFESSIONS = ("baker", "carpenter", "doctor", "gardener", "lawyer", "painter", "pilot", "sailor", "singer", "tailor")
THINGS = ("boats", "bread", "clocks", "glass", "paper", "shoes", "soap", "tea", "tools", "toys")
SUBJECTS = ("birds", "bridges", "dance", "law", "maps", "music", "rain", "stars", "trade", "trees")
_SHARES = {"person": 0.46, "town": 0.16, "firm": 0.12, "book": 0.16, "fair": 0.1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entity:
    """Somebody or something, with all that is true of it."""

    name: str
    kind: str
    facts: Mapping[str, Value]


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What is said of an entity: its name, or plain values it has, what it leads to, and what leads to it.

    `leads` maps attributes to descriptions; `led` holds (kind, attribute, description) of others that lead to it.
    """

    kind: str
    name: str = ""
    plain: Mapping[str, Value] = field(default_factory=dict)
    leads: Mapping[str, Description] = field(default_factory=dict)
    led: tuple[tuple[str, str, Description], ...] = ()


class World:
    """Entities by name. Names are of one or two invented words; some people share their last one."""

    def __init__(self, entities: Sequence[Entity]) -> None:
        self.entities: dict[str, Entity] = {entity.name: entity for entity in entities}

    def of(self, kind: str) -> list[Entity]:
        """Return all entities of a kind."""
        return [entity for entity in self.entities.values() if entity.kind == kind]

    def solve(self, description: Description) -> list[Entity]:
        """Return every entity that fits: what a question means is decided here, over the whole world."""
        leads = {key: {e.name for e in self.solve(inner)} for key, inner in description.leads.items()}
        led = [
            {entity.facts[key] for entity in self.solve(inner) if entity.kind == kind}
            for kind, key, inner in description.led
        ]
        return [
            entity
            for entity in self.of(description.kind)
            if (not description.name or entity.name == description.name)
            and all(plain(entity, key) == value for key, value in description.plain.items())
            and all(entity.facts[key] in names for key, names in leads.items())
            and all(entity.name in names for names in led)
        ]

    def with_fact(self, name: str, key: str, value: Value) -> World:
        """Return the world in which one fact is another."""
        changed = dict(self.entities)
        old = changed[name]
        changed[name] = Entity(name=name, kind=old.kind, facts={**old.facts, key: value})
        return World(list(changed.values()))


def plain(entity: Entity, key: str) -> Value:
    """Return a plain value as descriptions have it: of a date of birth the year."""
    value = entity.facts[key]
    return value.year if isinstance(value, datetime.date) else value


def make_world(rng: random.Random, split: Split, size: int) -> World:
    """Return a world of about `size` entities whose names are of `split`."""
    seen: set[str] = set()

    def fresh() -> str:
        while (text := word(rng, split).title()) in seen:
            pass
        seen.add(text)
        return text

    counts = {kind: max(2, round(share * size)) for kind, share in _SHARES.items()}
    last = [fresh() for _ in range(max(2, counts["person"] // 2))]
    names = {
        "person": [f"{fresh()} {rng.choice(last)}" for _ in range(counts["person"])],
        "town": [fresh() for _ in range(counts["town"])],
        "firm": [f"{fresh()} {rng.choice(('Works', 'Brothers', 'House', 'Union'))}" for _ in range(counts["firm"])],
        "book": [
            f"The {rng.choice(('Garden', 'Winter', 'Road', 'Letter'))} of {fresh()}" for _ in range(counts["book"])
        ],
        "fair": [f"{fresh()} {rng.choice(('Fair', 'Prize', 'Games'))}" for _ in range(counts["fair"])],
    }
    regions, rivers = [fresh() for _ in range(3 + size // 60)], [fresh() for _ in range(3 + size // 30)]
    plains = {
        "profession": lambda: rng.choice(PROFESSIONS),
        "birth": lambda: datetime.date(rng.randint(1900, 1990), rng.randint(1, 12), rng.randint(1, 28)),
        "region": lambda: rng.choice(regions),
        "river": lambda: rng.choice(rivers),
        "people": lambda: rng.randint(11, 990) * 100 + rng.randint(1, 99),
        "founded": lambda: rng.randint(1850, 2005),
        "makes": lambda: rng.choice(THINGS),
        "year": lambda: rng.randint(1930, 2010),
        "subject": lambda: rng.choice(SUBJECTS),
    }
    return World(
        [
            Entity(
                name=name,
                kind=kind,
                facts={key: rng.choice(names[to]) if to else plains[key]() for key, to in ATTRIBUTES[kind].items()},
            )
            for kind, own in names.items()
            for name in own
        ]
    )
