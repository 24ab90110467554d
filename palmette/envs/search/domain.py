"""WebSearch: questions that a local web answers, by a real search engine; tier 1 is one search, one page, one word."""

from __future__ import annotations

import json
import random
import shlex
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from palmette.chat.message import Tool
from palmette.envs.api import Draft, ServiceTool, Split, Step
from palmette.envs.search.first import lookup
from palmette.envs.search.serve import RESULTS, Web
from palmette.envs.search.web import SHAPES, WORDS, quest

SERVICE = "web"
ANSWER_AT = f"/services/{SERVICE}/answer.txt"
ANSWER_FILE = "answer.txt"  # in the work directory, where a task has a shell
SYSTEM = "You answer questions with a search engine. Search, open pages, give the answer, then submit."
_HERE = Path(__file__).parent
_RESULTS, _WORDS = 3, 8  # of tier 1


class Search:
    """Questions about invented people, places, firms and works."""

    name = "search"
    tiers: tuple[int, ...] = (1, *SHAPES)

    def draft(self, rng: random.Random, *, tier: int, split: Split, name: str) -> Draft:
        """Return a question over names of `split`."""
        return _quest(rng, tier=tier, split=split, name=name) if tier in SHAPES else _lookup(rng, split, name)


def _lookup(rng: random.Random, split: Split, name: str) -> Draft:
    found = lookup(rng, split)
    calls: list[tuple[str, dict[str, str]]] = [
        ("search", {"query": found.query}),
        ("open", {"address": found.page}),
        ("answer", {"text": found.answer}),
    ]
    return draft_of(
        name=name,
        instruction=f"{found.question}? search the web and give the answer.",
        pages=found.pages,
        results=_RESULTS,
        words=_WORDS,
        calls=calls,
        expected={"kind": "text", "accept": [found.answer], "filler": [found.question]},
        tier=1,
        split=split,
        skills=("lookup",),
    )


def _quest(rng: random.Random, *, tier: int, split: Split, name: str) -> Draft:
    shape = SHAPES[tier]
    found = quest(rng, shape, split)
    answered = ("answer", {"text": found.asked.answer})
    if shape.shell:
        answered = ("bash", {"command": f"echo {shlex.quote(found.asked.answer)} > {ANSWER_FILE}"})
    how = f"write the answer to {ANSWER_FILE}." if shape.shell else "give the answer."
    skills = [found.asked.skill, f"{shape.hops} hops", "descriptions" * shape.hidden]
    skills += ["disagreement" * shape.disagree, "orders" * bool(shape.orders)]
    more = {"shell": True, "system": "", "tools": TOOLS[:2]} if shape.shell else {}
    return draft_of(
        name=name,
        instruction=f"{found.instruction} Search the web and {how}",
        pages=found.rows,
        results=RESULTS,
        words=WORDS,
        calls=[*found.calls, answered],
        expected=found.asked.expected
        | ({"traps": list(found.traps)} if found.traps else {})
        | ({"at": f"/app/{ANSWER_FILE}"} if shape.shell else {}),
        tier=tier,
        split=split,
        skills=tuple(filter(None, skills)),
        web=found.web,
        **more,
    )


def draft_of(
    *,
    name: str,
    instruction: str,
    pages: Sequence[Mapping[str, object]],
    results: int,
    words: int,
    calls: Sequence[tuple[str, dict[str, str]]],
    expected: Mapping[str, Any],
    tier: int,
    split: Split,
    skills: tuple[str, ...],
    web: Web | None = None,
    **more: Any,
) -> Draft:
    """Return a task over some pages whose reference makes `calls` of its tools; `more` are fields of the `Draft`.

    `web` is the engine over the pages, if it is there already.
    """
    web = web or Web(list(pages), results, words)
    plan = {"at": ANSWER_AT, **expected}
    steps = [Step(tool=tool, arguments=arguments, observation=_said(web, tool, arguments)) for tool, arguments in calls]
    packed = json.dumps({"results": results, "words": words, "pages": list(pages)}, ensure_ascii=False) + "\n"
    return Draft(
        name=name,
        domain=Search.name,
        instruction=instruction,
        files={".keep": ""},
        test_files={
            "test.sh": "#!/bin/sh\nexec python3 -I -S /tests/verify.py\n",
            "verify.py": _text("verify.py"),
            "expected.json": json.dumps(plan, ensure_ascii=False) + "\n",
        },
        steps=(*steps, Step(tool="submit", arguments={}, observation="submitted")),
        tier=tier,
        split=split,
        skills=skills,
        services={SERVICE: {"serve.py": _text("serve.py"), "pages.json": packed}},
        **{"shell": False, "system": SYSTEM, "tools": TOOLS, **more},
    )


def _said(web: Web, tool: str, arguments: Mapping[str, str]) -> str:
    if tool in ("answer", "bash"):
        return "noted" if tool == "answer" else "(no output)"
    return web.search(arguments["query"]) if tool == "search" else web.open(arguments["address"])


def _tool(name: str, description: str, argument: str) -> ServiceTool:
    parameters = {"type": "object", "properties": {argument: {"type": "string"}}, "required": [argument]}
    return ServiceTool(tool=Tool(name=name, description=description, parameters=parameters), service=SERVICE)


TOOLS = (
    _tool("search", "search the web", "query"),
    _tool("open", "open a page", "address"),
    _tool("answer", "give the answer", "text"),
)


@cache
def _text(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")
