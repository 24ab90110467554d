"""Decides about calls that were asked for: ``python3 -I -S /tests/match_calls.py`` reads /app/calls.json.

expected.json: {"calls": [{"name": ..., "arguments": {name: [accepted values]}}], "ordered": bool, "says": [texts]}. An
accepted "" means that the argument may be left out. This file stands alone, because it is copied into tasks.
"""

from __future__ import annotations

import json
import os
import sys

REWARD = "/logs/verifier/reward.txt"


def main() -> None:
    """Compare and write the reward."""
    with open("/tests/expected.json", encoding="utf-8") as file:
        expected = json.load(file)
    try:
        why = fault(expected, read("/app/calls.json"), read("/app/answer.txt") if expected.get("says") else "")
    except (OSError, ValueError, RecursionError) as error:
        why = f"{type(error).__name__}: {error}"
    sys.stdout.write((why or "as expected") + "\n")
    os.makedirs(os.path.dirname(REWARD), exist_ok=True)
    with open(REWARD, "w", encoding="utf-8") as file:
        file.write("0\n" if why else "1\n")


def read(path: str) -> str:
    """Return a file of a reasonable size, not behind a link."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), encoding="utf-8") as file:
        return file.read(1 << 20)


def fault(expected: dict, calls_text: str, answer: str) -> str:
    """Return why the calls (a JSON array of {name, arguments}) or the answer are not as expected, or nothing."""
    made = json.loads(calls_text)
    wanted = list(expected["calls"])
    if not isinstance(made, list) or len(made) != len(wanted):
        return f"{len(made) if isinstance(made, list) else 'no'} calls instead of {len(wanted)}"
    for number, call in enumerate(made, 1):
        among = wanted[:1] if expected.get("ordered") else wanted
        found = next((want for want in among if fits(call, want)), None)
        if found is None:
            return f"call {number} is not expected"
        wanted.remove(found)
    missing = [said for said in expected.get("says", ()) if said.lower() not in answer.lower()]
    return f"the answer does not say {missing[0]!r}" if missing else ""


def fits(call: object, want: dict) -> bool:
    """Say whether a call has the name, and for every argument a value that is accepted."""
    if not isinstance(call, dict) or call.get("name") != want["name"]:
        return False
    given = call.get("arguments", {})
    if not isinstance(given, dict) or not set(given) <= set(want["arguments"]):
        return False
    return all(
        any(alike(given[name], value) for value in values) if name in given else "" in values
        for name, values in want["arguments"].items()
    )


def alike(given: object, wanted: object) -> bool:
    """Say whether two JSON values are equal; in texts, case and the marks that the BFCL ignores do not count."""
    if isinstance(given, str) and isinstance(wanted, str):
        return plain(given) == plain(wanted)
    if isinstance(given, bool) or isinstance(wanted, bool):
        return given is wanted
    if isinstance(given, list) and isinstance(wanted, list):
        return len(given) == len(wanted) and all(map(alike, given, wanted))
    if isinstance(given, dict) and isinstance(wanted, dict):
        accepted = {key: value if isinstance(value, list) else [value] for key, value in wanted.items()}
        return fits({"name": "", "arguments": given}, {"name": "", "arguments": accepted})
    return given == wanted


def plain(text: str) -> str:
    """Return a text without the marks ,./-_*^ and blanks, in lower case (as `standardize_string` of the BFCL)."""
    return "".join(c for c in text if c not in " ,./-_*^").lower().replace("'", '"')


if __name__ == "__main__":
    main()
