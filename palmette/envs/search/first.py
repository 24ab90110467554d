"""Tier 1: six short pages, one question about one of them; find it, open it, copy the answer."""

from __future__ import annotations

import random
from dataclasses import dataclass

from palmette.envs.api import Split
from palmette.envs.words import word

# kind -> the facts of a page of that kind: attribute, sentence, question; {x} is the page, {v} the value
_FACTS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "person": (
        ("born", "{x} was born in {v}.", "where was {x} born"),
        ("lives", "{x} lives in {v}.", "where does {x} live"),
        ("work", "{x} works for {v}.", "who does {x} work for"),
        ("friend", "{x} has a friend called {v}.", "who is a friend of {x}"),
    ),
    "town": (
        ("river", "{x} lies on the river {v}.", "on which river does {x} lie"),
        ("mayor", "the mayor of {x} is {v}.", "who is the mayor of {x}"),
        ("region", "{x} is a town in {v}.", "in which region is {x}"),
    ),
    "firm": (
        ("founder", "{x} was founded by {v}.", "who founded {x}"),
        ("makes", "{x} makes {v}.", "what does {x} make"),
        ("seat", "{x} has its seat in {v}.", "where does {x} have its seat"),
    ),
}
_THINGS = ("boats", "bread", "clocks", "paper", "shoes", "soap", "tea", "tools", "toys", "wine")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookup:
    """A question with the pages around it: `page` holds the answer, `query` finds it."""

    question: str
    answer: str
    query: str
    page: str
    pages: tuple[dict[str, str], ...]


def lookup(rng: random.Random, split: Split) -> Lookup:
    """Return a question that one page answers; no two pages have a name or a value in common but the linked ones."""
    taken: set[str] = set()
    names = {kind: [word(rng, split, taken=taken) for _ in range(2)] for kind in _FACTS}
    facts: dict[str, list[tuple[str, str, str, str]]] = {}  # page -> (attribute, value, sentence, question)
    for kind, rows in _FACTS.items():
        for name in names[kind]:
            some = rng.sample(rows, 3)
            facts[name] = [_fact(rng, split, name, row, names, taken) for row in some]
    asked = rng.choice(list(facts))
    attribute, value, _, question = rng.choice(facts[asked])
    order = list(facts)
    rng.shuffle(order)
    pages = tuple({"address": f"/{n}", "title": n, "text": " ".join(f[2] for f in facts[n])} for n in order)
    query = f"{asked} {attribute}" if rng.random() < 0.5 else asked
    return Lookup(question=question, answer=value, query=query, page=f"/{asked}", pages=pages)


def _fact(
    rng: random.Random,
    split: Split,
    name: str,
    row: tuple[str, str, str],
    names: dict[str, list[str]],
    taken: set[str],
) -> tuple[str, str, str, str]:
    attribute, sentence, question = row
    if attribute == "makes":
        value = rng.choice(_THINGS)
    else:
        kind = {"born": "town", "lives": "town", "seat": "town", "work": "firm", "friend": "person"}.get(attribute, "")
        kind = {"mayor": "person", "founder": "person"}.get(attribute, kind)
        linked = [other for other in names.get(kind, ()) if other != name]
        value = rng.choice(linked) if linked and rng.random() < 0.5 else word(rng, split, taken=taken)
    return attribute, value, sentence.format(x=name, v=value), question.format(x=name)
