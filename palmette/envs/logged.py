"""What a verifier reads of a service's log, and how it gives the reward; needs no package: it is copied into tasks."""

from __future__ import annotations

import json
import os
import sys

REWARD = "/logs/verifier/reward.txt"


def state_of(service: str) -> str:
    """Return where the verifier finds what a service kept."""
    return os.path.join("/services", service)


def events(service: str) -> list:
    """Return what a service logged of the agent, nothing if it never was asked anything."""
    path = os.path.join(state_of(service), "log.jsonl")
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def decide(why: str) -> None:
    """Write the reward: nothing if there is a reason `why`, else all."""
    sys.stdout.write((why or "as it should be") + "\n")
    os.makedirs(os.path.dirname(REWARD), exist_ok=True)
    with open(REWARD, "w", encoding="utf-8") as file:
        file.write("0\n" if why else "1\n")
