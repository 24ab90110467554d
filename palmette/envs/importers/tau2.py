"""Task files of tau2-bench, as planning tasks: the request is told at once, the answer is the calls that fulfil it.

What is kept: the scenario, the gold actions of the assistant in their order, and what must be told to the user. What is
not: the simulated user, the tools that answer, and the comparison of data bases; for those the whole row stays beside
the task as source.json. The tools are those that the file's own actions use. A task without an action of the assistant
is refused, because doing nothing would be right.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from palmette.envs.api import Draft
from palmette.envs.importers.calls import FORM, call_solution, call_tests
from palmette.envs.importers.rows import Row, read_rows


def from_tau2(row: Row) -> Draft:
    """Return the task of a row. Raises `RowRefused`."""
    key = row_key(row)
    criteria = row.table("evaluation_criteria")
    actions = [a for a in criteria.get("actions") or [] if isinstance(a, dict) and _assistant(a)]
    if not actions:
        raise row.refuse("evaluation_criteria has no action of the assistant: doing nothing would be right")
    if any(not isinstance(a.get("name"), str) or not isinstance(a.get("arguments"), dict) for a in actions):
        raise row.refuse("every action needs a name and an object of arguments")
    calls = [{"name": a["name"], "arguments": {k: [v] for k, v in _compared(a).items()}} for a in actions]
    says = [str(said) for said in criteria.get("communicate_info") or []]
    answer = " Write what the user must be told to answer.txt." if says else ""
    return Draft(
        name=f"tau2/{row.path.parent.name}-{row.path.stem}-{key}",
        domain="general",
        instruction=f"{_scenario(row)}\n\nDecide which tools an assistant must call to fulfil this; their names and "
        f"arguments are in tools.json. {FORM}{answer}",
        files={"tools.json": json.dumps(_catalogue(row.path), indent=1) + "\n"},
        test_files=call_tests(calls, ordered=True, says=says),
        steps=(),
        solution=call_solution(calls, says),
        tier=min(len(calls), 4),
        split="train",
        skills=("tool use", "planning"),
        provenance=f"tau2-bench, imported from {row.path.name}:{row.number} as a planning task",
        intent="",
        template="tau2/" + row.path.parent.name,
        source="tau2/" + row.path.parent.name,
        license="MIT",
        kept={"source.json": json.dumps(row.data, indent=1, ensure_ascii=False) + "\n"},
    )


def row_key(row: Row) -> str:
    """Return the id of a row. Raises `RowRefused`."""
    key = row.data.get("id")
    if not isinstance(key, str | int) or str(key) == "":
        raise row.refuse("id is missing")
    return str(key)


def _assistant(action: dict[str, Any]) -> bool:
    return action.get("requestor", "assistant") == "assistant"


def _compared(action: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments that count: all of them, or those that `compare_args` names."""
    only = action.get("compare_args")
    return {k: v for k, v in action["arguments"].items() if only is None or k in only}


def _scenario(row: Row) -> str:
    scenario = row.table("user_scenario")
    told = scenario.get("instructions") or ""
    if isinstance(told, dict):
        names = ("reason_for_call", "known_info", "unknown_info", "task_instructions")
        told = "\n".join(f"{name.replace('_', ' ')}: {told[name]}" for name in names if told.get(name))
    if not isinstance(told, str) or not told.strip():
        raise row.refuse("user_scenario.instructions is missing")
    ticket = row.text("ticket", "") if row.data.get("ticket") else ""
    return "\n".join(part for part in (f"A user of {row.path.parent.name} calls:", told.strip(), ticket) if part)


@lru_cache(maxsize=64)
def _catalogue(path: Path) -> dict[str, list[str]]:
    """Return tool -> arguments, of all actions of a file."""
    found: dict[str, set[str]] = {}
    for row in read_rows(path):
        criteria = row.data.get("evaluation_criteria") if isinstance(row, Row) else None
        for action in (criteria or {}).get("actions") or []:
            if isinstance(action, dict) and _assistant(action) and isinstance(action.get("arguments"), dict):
                found.setdefault(str(action.get("name")), set()).update(action["arguments"])
    return {name: sorted(arguments) for name, arguments in sorted(found.items())}
