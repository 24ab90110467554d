"""Paths through a world: a description that leads over several entities to one, proven unique over the whole world."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from palmette.envs.search.graph import ATTRIBUTES, Description, Entity, World, plain

_TRIES = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """One entity of a path, what is said of it, and how one gets there.

    `key` is the attribute that joins it to the one before, `forward` whether it is that one's (whose page then links
    here) or its own (whose page then only mentions that one). The first hop has no key.
    """

    entity: Entity
    description: Description
    key: str = ""
    forward: bool = False


def find_path(world: World, rng: random.Random, *, hops: int, hidden: bool) -> list[Hop] | None:
    """Return a path of `hops` entities, each described through the one before; None when none was found.

    `hidden` keeps the name of the first out of its description. Every description fits just its entity.
    """
    for _ in range(_TRIES):
        entity = rng.choice(list(world.entities.values()))
        described = _without_name(world, rng, entity) if hidden else Description(kind=entity.kind, name=entity.name)
        path = [Hop(entity=entity, description=described)] if described else []
        while path and len(path) < hops:
            step = _next(world, rng, path)
            path = [*path, step] if step else []
        if path:
            return path
    return None


def _without_name(world: World, rng: random.Random, entity: Entity) -> Description | None:
    keys = [key for key, to in ATTRIBUTES[entity.kind].items() if not to]
    rng.shuffle(keys)
    described = Description(kind=entity.kind)
    for key in keys:
        described = replace(described, plain={**described.plain, key: plain(entity, key)})
        if len(world.solve(described)) == 1:
            return described
    return None


def _next(world: World, rng: random.Random, path: list[Hop]) -> Hop | None:
    here, seen = path[-1], {hop.entity.name for hop in path}
    options: list[tuple[Entity, str, bool]] = []
    for key, to in ATTRIBUTES[here.entity.kind].items():
        if to:
            options.append((world.entities[str(here.entity.facts[key])], key, True))
    for other in world.entities.values():
        options += [(other, key, False) for key, value in other.facts.items() if value == here.entity.name]
    options = [option for option in options if option[0].name not in seen]
    rng.shuffle(options)
    options.sort(key=lambda option: option[2])  # what has to be searched for first
    for target, key, forward in options[:6] if rng.random() < 0.7 else options[::-1][:6]:
        described = _through(world, rng, here, target, key, forward=forward)
        if described:
            return Hop(entity=target, description=described, key=key, forward=forward)
    return None


def _through(
    world: World, rng: random.Random, here: Hop, target: Entity, key: str, *, forward: bool
) -> Description | None:
    if forward:
        described = Description(kind=target.kind, led=((here.entity.kind, key, here.description),))
    else:
        described = Description(kind=target.kind, leads={key: here.description})
    more = [name for name, to in ATTRIBUTES[target.kind].items() if not to]
    rng.shuffle(more)
    while len(world.solve(described)) > 1 and more and not forward:
        name = more.pop()
        described = replace(described, plain={**described.plain, name: plain(target, name)})
    return described if world.solve(described) == [target] else None
