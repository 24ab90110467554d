"""Decides about a dialogue: ``python3 -I -S /tests/settle.py`` replays what the service logged and compares the end.

The log is the service's own, taken out of its sandbox after the agent had stopped; the agent cannot write there. Beside
this file lie logged.py, desk.py, customer.py, the backend, and plan.json: {"backend", "state", "customer", "service",
"goal"}.
"""

from __future__ import annotations

import importlib
import json
import os
import sys

_MOST_EVENTS = 5000


def main() -> None:
    """Replay, compare and write the reward."""
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path.insert(0, here)
    with open(os.path.join(here, "plan.json"), encoding="utf-8") as file:
        plan = json.load(file)
    logged = importlib.import_module("logged")
    logged.decide(verdict(plan, logged.events(plan["service"]), importlib.import_module))


def verdict(plan: dict, log: list, module: object) -> str:
    """Return why a log does not reach the plan's goal, or nothing; `module` finds a module of a name."""
    if len(log) > _MOST_EVENTS:
        return f"{len(log)} events are too many"
    desk, backend = module("desk"), module(plan["backend"])  # type: ignore[operator]
    counter = desk.Desk(backend, plan["state"], module("customer").Customer(plan["customer"]))  # type: ignore[operator]
    counter.replay(log)
    return desk.fault(counter, plan["goal"])


if __name__ == "__main__":
    main()
