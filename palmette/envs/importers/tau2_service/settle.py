"""Decides about a tau2 task: ``python3 -I -S /tests/settle.py`` compares what the service came to with the goal.

Both were written where the agent cannot write: the log and the end by the service in its own sandbox, the goal
(goal.json, beside this file and logged.py) on import, by the same code after the gold actions. This file needs no
package, because it is copied into tasks.
"""

from __future__ import annotations

import importlib
import json
import os
import sys


def main() -> None:
    """Compare and write the reward."""
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path.insert(0, here)
    logged = importlib.import_module("logged")
    with open(os.path.join(here, "goal.json"), encoding="utf-8") as file:
        goal = json.load(file)
    with open(os.path.join(logged.state_of(goal["service"]), "end.json"), encoding="utf-8") as file:
        end = json.load(file)
    logged.decide(fault(goal, end, logged.events(goal["service"])))


def fault(goal: dict, end: dict, log: list) -> str:
    """Return why an end is not the goal, or nothing.

    `goal` is {"db", "user_db" (digests, where they count), "assertions" (whether all must hold), "told" (texts),
    "actions" (calls that must have been made)}.
    """
    said = [event["say"].lower().replace(",", "") for event in log if "say" in event]
    if not any(text.strip() for text in said):
        return "nothing was said to the caller"
    for base in ("db", "user_db"):
        if base in goal and goal[base] != end[base]:
            return f"the data base ({base}) is not as the gold actions leave it"
    if goal["assertions"] and not all(end["assertions"]):
        return f"assertion {end['assertions'].index(False) + 1} does not hold"
    for text in goal["told"]:
        if not any(text.lower() in each for each in said):
            return f"the caller was not told {text!r}"
    made = {"assistant": [e for e in log if "tool" in e], "user": end["acts"]}
    for action in goal["actions"]:
        if not any(fits(action, call) for call in made[action["requestor"]]):
            return f"{action['name']} was not called as it should be"
    return ""


def fits(action: dict, call: dict) -> bool:
    """Say whether a call is the action, by the arguments that count: those named, else those of the call."""
    given, only = call["arguments"], action.get("compare_args")
    names = given if only is None else only
    wanted = {name: value for name, value in action["arguments"].items() if name in names}
    return call.get("tool", call.get("name")) == action["name"] and wanted == {
        name: value for name, value in given.items() if name in names
    }


if __name__ == "__main__":
    main()
