"""Plain prompts with a checker: ``{"prompt", "answer"}`` or ``{"prompt", "checker", "solution"}``.

An `answer` is to be written to answer.txt; `match` is exact (the default), ignore_case, number (with `tolerance`) or
regex. A `checker` is a shell script, run in the work directory of a clean sandbox; it exits with 0 when the task is
done. `files` (path -> text) are there at the beginning; `solution` is a shell script that does the task, which only an
`answer` that is no regex may do without. `id`, `skills`, `tier`, `source` and `license` are kept.
"""

from __future__ import annotations

import shlex
from pathlib import PurePosixPath

from palmette.envs.api import Draft
from palmette.envs.checks import Check, judged
from palmette.envs.importers.rows import Row

_MATCHES = ("exact", "ignore_case", "number", "regex")
_CHECKER = """\
#!/bin/sh
mkdir -p /logs/verifier
cd /app || exit 1
if sh /tests/checker.sh; then reward=1; else reward=0; fi
echo $reward > /logs/verifier/reward.txt
"""


def from_prompt(row: Row) -> Draft:
    """Return the task of a row. Raises `RowRefused`."""
    prompt, answer = row.text("prompt"), row.data.get("answer")
    if (answer is None) == (row.data.get("checker") is None):
        raise row.refuse("needs either an answer or a checker")
    if answer is None:
        tests = {"test.sh": _CHECKER, "checker.sh": row.text("checker")}
        solution = row.text("solution")
    else:
        check = _check(row, answer)
        prompt = f"{prompt.rstrip()}\n\nWrite only the answer to answer.txt."
        tests = judged([("answer", [check])])
        given = row.text("solution") if check["match"] == "regex" else row.text("solution", "")
        solution = given or f"printf '%s\\n' {shlex.quote(check['text'])} > answer.txt\n"
    tier, skills = row.data.get("tier", 1), row.data.get("skills", [])
    if isinstance(tier, bool) or not isinstance(tier, int) or not isinstance(skills, list):
        raise row.refuse("tier must be a whole number and skills a list")
    return Draft(
        name=f"prompts/{row.data.get('id', f'{row.path.stem}-{row.number:05d}')}",
        domain="general",
        instruction=prompt,
        files={".keep": "", **_files(row)},
        test_files=tests,
        steps=(),
        solution=f"#!/bin/sh\nset -e\ncd /app\n{solution}\n",
        tier=tier,
        split="train",
        skills=tuple(map(str, skills)),
        provenance=f"imported from {row.path.name}:{row.number}",
        intent="",
        template="",
        source=row.text("source", row.path.stem),
        license=row.text("license", ""),
    )


def _check(row: Row, answer: object) -> Check:
    match = row.text("match", "exact")
    if match not in _MATCHES:
        raise row.refuse(f"match must be one of {', '.join(_MATCHES)}, not {match!r}")
    if isinstance(answer, bool) or not isinstance(answer, str | int | float) or not str(answer).strip():
        raise row.refuse("answer must be a text or a number that is not blank")
    if match == "number":
        try:
            float(answer)
        except ValueError:
            raise row.refuse(f"match is number, but the answer is {answer!r}") from None
    return {
        "kind": "text",
        "path": "answer.txt",
        "text": str(answer),
        "match": match,
        "tolerance": float(row.data.get("tolerance", 1e-9)),
    }


def _files(row: Row) -> dict[str, str]:
    files = row.table("files")
    for name, text in files.items():
        path = PurePosixPath(name)
        if not isinstance(text, str) or path.is_absolute() or ".." in path.parts or not path.parts:
            raise row.refuse(f"files: {name!r} must be a path below the work directory, and a text")
    return files
