"""Rows of the Berkeley Function Calling Leaderboard, one turn each: the calls are matched as its AST checker does.

The accepted values are looked for in the row (`ground_truth`), or in the file of the same name in `possible_answer/`
beside it; rows on irrelevance have none, and to make no call is right. Rows of several turns, of memory and of web
search run BFCL's own Python classes, and rows on relevance accept any call: they are refused.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from palmette.envs.api import Draft
from palmette.envs.importers.calls import FORM, NONE_FITS, call_solution, call_tests
from palmette.envs.importers.rows import Row, read_rows


def from_bfcl(row: Row) -> Draft:
    """Return the task of a row. Raises `RowRefused`."""
    name, turns, functions = row.text("id"), row.data.get("question"), row.data.get("function")
    if classes := row.data.get("involved_classes"):
        raise row.refuse(f"runs BFCL's own {', '.join(map(str, classes))}, which is not here; rows of one turn only")
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, list) for turn in turns):
        raise row.refuse("question must be a list of turns, each a list of messages")
    if len(turns) > 1:
        raise row.refuse(f"has {len(turns)} turns; rows of one turn only")
    kind = re.split(r"_?\d", name, maxsplit=1)[0]
    if kind.endswith("irrelevance"):
        functions, calls = functions or [], []
    elif kind.endswith("relevance"):
        raise row.refuse("asks only whether any call is made, so every call would be right")
    else:
        calls = _accepted(row, name)
    if not isinstance(functions, list) or (calls and not functions):
        raise row.refuse("function must be a list of schemas")
    form = f"Answer with calls of these functions (JSON schemas in functions.json). {FORM} {NONE_FITS}"
    said = "\n".join(f"{message.get('role', 'user')}: {message.get('content', '')}" for message in turns[0])
    return Draft(
        name=f"bfcl/{name}",
        domain="general",
        instruction=f"{said}\n\n{form}",
        files={"functions.json": json.dumps(functions, indent=1, ensure_ascii=False) + "\n"},
        test_files=call_tests(calls, ordered=False),
        steps=(),
        solution=call_solution(calls),
        tier=max(1, min(len(calls), 4)),
        split="train",
        skills=("function calls",),
        provenance=f"BFCL, imported from {row.path.name}:{row.number}; calls are written to a file",
        intent="",
        template=f"bfcl/{kind}",
        source=f"bfcl/{kind}",
        license="Apache-2.0",
    )


def _accepted(row: Row, name: str) -> list[dict[str, Any]]:
    truth = row.data.get("ground_truth")
    if truth is None:
        truth = _answers(row.path.parent / "possible_answer" / row.path.name).get(name)
    if not isinstance(truth, list) or not truth:
        raise row.refuse(f"no ground_truth, neither here nor for id {name} in possible_answer/{row.path.name}")
    calls = []
    for call in truth:
        if not isinstance(call, dict) or len(call) != 1:
            raise row.refuse("ground_truth must be a list of objects {function: {argument: [accepted values]}}")
        ((function, arguments),) = call.items()
        if not isinstance(arguments, dict) or not all(isinstance(v, list) for v in arguments.values()):
            raise row.refuse(f"ground_truth of {function}: every argument needs a list of accepted values")
        if nothing := [argument for argument, values in arguments.items() if not values]:
            raise row.refuse(f"ground_truth of {function} accepts no value of {nothing[0]}: nobody could be right")
        calls.append({"name": function, "arguments": arguments})
    return calls


@lru_cache(maxsize=64)
def _answers(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    return {r.data.get("id", ""): r.data.get("ground_truth") for r in read_rows(path) if isinstance(r, Row)}
