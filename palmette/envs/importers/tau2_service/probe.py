"""Tries the rows of a file in one go: ``python3 -S probe.py`` reads rows.json and prints what each comes to, as JSON.

rows.json: {"domain", "rows": [{"row", "scenario", "steps": [[tool, arguments], ...]}]}, the tool "say" for words to the
caller. Printed: {"policy", "tools", "rows": [{"told": [...], "end", "before"} or {"error"}]}.
"""

from __future__ import annotations

import copy
import importlib
import json
import sys
from typing import Any


def main() -> None:
    """Try all rows."""
    with open("rows.json", encoding="utf-8") as file:
        asked = json.load(file)
    environment = importlib.import_module("world").opened(asked["domain"])
    schemas = [tool.openai_schema["function"] for tool in environment.get_tools()]
    told = {"policy": environment.get_policy(), "tools": schemas, "rows": []}
    for each in asked["rows"]:
        try:
            told["rows"].append(tried(copy.deepcopy(environment), each))
        except Exception as error:  # whatever the clone's code makes of a row
            told["rows"].append({"error": f"{type(error).__name__}: {error}"})
    json.dump(told, sys.stdout)


def tried(environment: Any, each: dict) -> dict:
    """Return what the steps of a row are answered, and the end before and after them."""
    state = {"environment": environment, "row": each["row"]}
    desk, world, customer = map(importlib.import_module, ("desk", "world", "customer"))
    counter = desk.Desk(world, state, customer.Customer(each["scenario"]))
    before = counter.end
    told = [
        counter.say(arguments["text"]) if tool == "say" else counter.call(tool, arguments)
        for tool, arguments in each["steps"]
    ]
    return {"told": told, "before": before, "end": counter.end}


if __name__ == "__main__":
    main()
