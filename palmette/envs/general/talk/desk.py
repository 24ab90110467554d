"""A backend and a customer behind one counter: every event changes the state in the same way each time.

The service of a task runs it live and logs the events; the verifier replays the log through it. This file stands alone
(the standard library, any Python from 3.10), because it is copied into tasks.
"""

from __future__ import annotations

import copy
import re
from typing import Any


class Desk:
    """What a task's tools act on.

    Where the policy asks for it, its state has {"known": [customers whose identity was checked], "faults": [what broke
    the policy and shows nowhere else]}.

    `backend` is a module with ``TOOLS`` (name -> (function of the state and texts, description, argument names)),
    ``CHANGES`` (tools that change what belongs to a customer, whom ``owner(state, first argument)`` tells) and
    ``outcome(state)``; `customer` has ``hear(text) -> text`` and ``stage``, and its device, where there is one, is the
    backend's ``device(state, action) -> text``. `said` are (stage of the customer, text) of all that was said to them.
    """

    def __init__(self, backend: Any, state: dict, customer: Any) -> None:
        self.state = copy.deepcopy(state)
        self.said: list = []
        self._backend, self._customer = backend, customer
        if hasattr(backend, "device"):
            customer.act = lambda action: backend.device(self.state, action)

    def call(self, tool: str, arguments: dict) -> str:
        """Return what a tool answers; what it cannot do is answered by a text that starts with "error:"."""
        known = {**TOOLS, **self._backend.TOOLS}
        if tool not in known:
            return f"error: unknown tool {tool[:40]}"
        function, _, names = known[tool]
        for name in names:
            if not isinstance(arguments.get(name), str):
                return f"error: {tool} needs the argument {name} as a string"
        if tool in self._backend.CHANGES:
            self._note(arguments[names[0]].strip())
        try:
            return function(self.state, *(arguments[name].strip() for name in names))
        except (LookupError, ValueError) as error:
            return f"error: {error.args[0] if error.args else 'not possible'}"

    def say(self, text: str) -> str:
        """Return what the customer answers."""
        self.said.append((self._customer.stage, text))
        return self._customer.hear(text)

    def _note(self, id: str) -> None:
        """Remember a change for a customer whose identity nobody had checked, where that is the policy."""
        owner = self._backend.owner(self.state, id)
        if "known" in self.state and owner and owner not in self.state["known"]:
            self.state["faults"].append(f"{owner} was not identified")

    def outcome(self) -> dict:
        """Return what counts at the end: whom the clerk asked for a postcode does not."""
        return {key: value for key, value in self._backend.outcome(self.state).items() if key != "known"}

    def replay(self, events: list) -> None:
        """Go through logged events: {"tool": name, "arguments": {...}} or {"say": text}."""
        for event in events:
            if "say" in event:
                self.say(event["say"])
            else:
                self.call(event["tool"], event["arguments"])


def find_customer(state: dict, name: str) -> str:
    """Return the numbers of the customers of a name."""
    found = [id for id, each in state["customers"].items() if each["name"].lower() == name.lower()]
    return ", ".join(found) or "none"


def identify(state: dict, id: str, postcode: str) -> str:
    """Compare a postcode with the customer's; from then on the customer is known."""
    if id not in state["customers"]:
        raise LookupError(f"no customer {id[:40]}")
    if state["customers"][id]["postcode"] != postcode:
        raise ValueError("the postcode is another")
    if id not in state["known"]:
        state["known"].append(id)
    return "ok"


TOOLS = {
    "find_customer": (find_customer, "customer numbers of a name", ("name",)),
    "identify": (identify, "check a customer's identity by postcode", ("id", "postcode")),
}


def fault(desk: Desk, goal: dict) -> str:
    """Return why what was done is not the goal, or nothing: the state first, then what the customer had to be told.

    `goal` is {"outcome": value, "says": [{"any": [texts], "among": [texts], "most": n, "stage": n}]}: one of `any` is
    said (to the customer at that stage, where one is given), and at most `most` different ones of `among`.
    """
    if desk.outcome() != goal["outcome"]:
        return f"the state differs in {_difference(desk.outcome(), goal['outcome'])}"
    for need in goal["says"]:
        heard = "\n".join(text for stage, text in desk.said if need.get("stage") in (None, stage))
        if not any(mentions(heard, value) for value in need["any"]):
            return f"the customer was not told {need['any'][0]!r}"
        named = [value for value in need.get("among", ()) if mentions(heard, value)]
        if len(named) > need.get("most", 1):
            return f"the customer was told {len(named)} candidates, not the one that is right"
    return ""


def mentions(text: str, value: str) -> bool:
    """Say whether a text names a value as a word or number of its own.

    >>> mentions("It is 1,340.00 coins.", "1340"), mentions("It is 13401", "1340"), mentions("kavo-12b", "kavo-12")
    (True, False, False)
    """
    plain = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text)
    zeros = r"(?:\.0+)?" if value.isdigit() else ""
    return (
        re.search(rf"(?<![\w-])(?<!\d\.){re.escape(value)}{zeros}(?![\w-])(?!\.\d)", plain, re.IGNORECASE) is not None
    )


def _difference(got: object, want: object, where: str = "") -> str:
    """Return the path of the first difference of two values of JSON."""
    if isinstance(got, dict) and isinstance(want, dict):
        for key in sorted(set(got) | set(want)):
            if got.get(key) != want.get(key):
                return _difference(got.get(key), want.get(key), f"{where}/{key}")
    return where or "/"
