"""Tasks whose answer is a list of calls: what they have in common, whoever wrote them."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent
_SCRIPT = "#!/bin/sh\nexec python3 -I -S /tests/match_calls.py\n"
FORM = 'Write the calls to calls.json: a JSON array of objects {"name": ..., "arguments": {...}}, in order.'
NONE_FITS = "The array is empty where none of the functions fits."


def call_tests(calls: list[dict[str, Any]], *, ordered: bool, says: list[str] | None = None) -> dict[str, str]:
    """Return the files of `tests/` for calls with their accepted values, and for what the answer must say."""
    expected = {"calls": calls, "ordered": ordered, "says": says or []}
    return {
        "test.sh": _SCRIPT,
        "match_calls.py": _matcher(),
        "expected.json": json.dumps(expected, indent=1, ensure_ascii=False) + "\n",
    }


def call_solution(calls: list[dict[str, Any]], says: list[str] | None = None) -> str:
    """Return a script that writes these calls, with the first accepted value of every argument that is needed."""
    chosen = [
        {"name": c["name"], "arguments": {k: _one(v[0]) for k, v in c["arguments"].items() if "" not in v}}
        for c in calls
    ]
    lines = ["#!/bin/sh", "cd /app", "cat > calls.json <<'END_OF_CALLS'", json.dumps(chosen), "END_OF_CALLS"]
    if says:
        lines += ["cat > answer.txt <<'END_OF_ANSWER'", *says, "END_OF_ANSWER"]
    return "\n".join(lines) + "\n"


def _one(value: Any) -> Any:
    """Return an accepted value itself; the BFCL lists what is accepted inside of objects too, in lists as well."""
    if isinstance(value, dict):
        return {key: _one(inner[0]) if isinstance(inner, list) and inner else inner for key, inner in value.items()}
    return [_one(inner) for inner in value] if isinstance(value, list) else value


@cache
def _matcher() -> str:
    return (_HERE / "match_calls.py").read_text(encoding="utf-8")
