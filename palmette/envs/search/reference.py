"""How a question is answered: the searches and pages of somebody who knows the path, made with the real engine."""

from __future__ import annotations

from collections.abc import Mapping

from palmette.envs.search.ask import Asked
from palmette.envs.search.pages import address_of
from palmette.envs.search.path import Hop
from palmette.envs.search.serve import Web
from palmette.envs.search.wording import GROUPS, said, search_words

Call = tuple[str, dict[str, str]]


def reference(web: Web, path: list[Hop], asked: Asked, lists: str, later: Mapping[str, str]) -> list[Call] | None:
    """Return the calls that lead to the answer; None when a page on the way is not found by what is known before it.

    `lists` is the address of the list of the question's group, "" where it has none; `later` names the entities whose
    own page is not the last word, with the address of the one that is.
    """
    calls: list[Call] = []
    for number, hop in enumerate(path):
        address = address_of(hop.entity.name)
        if not hop.forward:
            query = _finding(web, address, _queries(hop, path[number - 1] if number else None))
            if query is None:
                return None
            calls.append(("search", {"query": query}))
        if number < len(path) - 1 or not asked.group:  # of a group's anchor the list is what counts
            calls.append(("open", {"address": address}))
    looked_at = [path[-1].entity.name]
    if asked.group:
        looked_at = [member.name for member in asked.members]
        query = _finding(web, lists, [GROUPS[asked.group][0].format(v=path[-1].entity.name)])
        if query is None:
            return None
        calls += [("search", {"query": query}), ("open", {"address": lists})]
        calls += [("open", {"address": address_of(name)}) for name in looked_at]
    for name in looked_at:
        if name in later:
            query = _finding(web, later[name], [name, f"{name} register"])
            if query is None:
                return None
            calls += [("search", {"query": query}), ("open", {"address": later[name]})]
    return calls


def _finding(web: Web, address: str, queries: list[str]) -> str | None:
    return next((query for query in queries if f" {address} " in web.search(query)), None)


def _queries(hop: Hop, before: Hop | None) -> list[str]:
    """Return what could be typed to find the entity of a hop, the shortest first."""
    described = hop.description
    if described.name:
        return [described.name]
    values = " ".join(said(value) for value in described.plain.values())
    if before is not None:
        name = before.entity.name
        asked = [f"{name} {words}" for words in search_words(hop.entity.kind, hop.key)]
        return [name, *asked, *(f"{each} {values}" for each in asked if values)]
    wordings = [search_words(hop.entity.kind, key) for key in described.plain]
    spelled = [
        " ".join(
            f"{wording[n % len(wording)]} {value}" for wording, value in zip(wordings, values.split(), strict=False)
        )
        for n in range(2)
    ]
    return [values, f"{values} {hop.entity.kind}", *spelled]
