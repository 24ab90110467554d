"""A caller who follows rules, not a model: says what the scenario says, a piece at a time, and does what is asked.

They answer a question with the sentences of their scenario that have most words in common with it, agree to whatever is
proposed, use their own device when they are told to in words of its tools, and take leave when nothing is left to say.
They cannot bargain, lie, or judge. This file stands alone, because it is copied into tasks.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable

_LEAVE = r"\b(goodbye|good bye|have a (great|nice|good|wonderful) day|you are being transferred)\b"
_CONFIRM = (
    r"\b(confirm|proceed|go ahead|shall i|should i|would you like|do you want|do you agree|yes or no|is (this|that))\b"
)
_ASK = r"\?|\b(please (provide|tell|share|give|send)|could you|can you|may i|i need your)\b"
_WHO = r"\b(name|zip|email|user ?id|phone|identity|identif|verify|authenticate|account|date of birth|postcode)"
_STOP = set(
    "a an and are be can could do does for from have i in is it me my of on or please that the this to what which"
)
_VERBS = {
    "toggle": "toggle|turn|switch|enable|disable",
    "check": "check|look|see|tell|show|view",
    "run": "run|perform|do",
    "can": "can|check|try",
    "set": "set|change|switch",
    "reboot": "reboot|restart",
    "reseat": "reseat|re-seat|remove",
    "disconnect": "disconnect|turn off",
    "grant": "grant|allow|give",
}


def sentences(text: object) -> list[str]:
    """Return the sentences of a part of a scenario, as the caller would say them."""
    parts = re.split(r"(?<=[.!?])\s+|\n+", str(text or ""))
    return [own(part.strip()) for part in parts if part.strip()]


def own(text: str) -> str:
    """Return a text about "you" in the first person."""
    for pattern, said in (
        (r"\byou are\b|\byou're\b", "I am"),
        (r"\byou were\b", "I was"),
        (r"\byou've\b", "I have"),
        (r"\byou'd\b", "I would"),
        (r"\byourself\b", "myself"),
        (r"\byours\b", "mine"),
        (r"\byour\b", "my"),
        (r"\b(to|of|for|told|tell|give|from|with|help) you\b", r"\1 me"),
        (r"\byou\b", "I"),
    ):
        text = re.sub(pattern, said, text, flags=re.IGNORECASE)
    return text[:1].upper() + text[1:]


class Customer:
    """The caller of a scenario: its instructions as a text, or {"reason_for_call", "known_info", ...}."""

    def __init__(self, scenario: object) -> None:
        parts = scenario if isinstance(scenario, dict) else {"reason_for_call": scenario}
        self.opening = " ".join(sentences(parts.get("reason_for_call")))
        self._known = sentences(parts.get("known_info"))
        self._unknown = sentences(parts.get("unknown_info"))
        self._left = sentences(parts.get("task_instructions"))  # not told yet
        self._all = [*sentences(parts.get("reason_for_call")), *self._left]
        self._tools: list[dict] = []
        self._act: Callable[[str, dict], str] = lambda tool, arguments: ""
        self.over = False

    def meet(self, tools: list[dict], act: Callable[[str, dict], str]) -> None:
        """Get a device: the schemas of its tools, and what uses one."""
        self._tools, self._act = tools, act

    def hear(self, text: str) -> str:
        """Return what the caller answers; `over` afterwards means that they have hung up."""
        done = [told for sentence in re.split(r"(?<=[.!?])\s+|\n+", text) for told in self._do(sentence)]
        if done:
            return " ".join(done)
        said = text.lower()
        if re.search(_LEAVE, said):
            self.over = True
            return "Goodbye."
        if re.search(_WHO, said) and re.search(_ASK, said):
            wanted = [s for s in self._unknown if _words(s) & _words(said)]
            return " ".join([*self._known, *wanted]) or "I have nothing else."
        if re.search(_CONFIRM, said):
            return "Yes, please go ahead."
        if re.search(_ASK, said):
            return self._nearest(said)
        if self._left:
            return self._tell(self._left[0])
        self.over = True
        return "Thank you, that is all."

    def _nearest(self, said: str) -> str:
        among = [*self._all, *self._known, *self._unknown]
        best = max(among, key=lambda s: len(_words(s) & _words(said)), default="")
        if best and _words(best) & _words(said):
            return self._tell(best)
        return self._tell(self._left[0]) if self._left else "I do not know that."

    def _tell(self, sentence: str) -> str:
        if sentence in self._left:
            self._left.remove(sentence)
        return sentence

    def _do(self, sentence: str) -> list[str]:
        """Use the tool of the device that a sentence names most words of, and return what it shows."""
        said = re.sub(r"[_`()-]", " ", sentence.lower())
        named = [tool for tool in self._tools if _asks(tool["name"], said)]
        if not named:
            return []
        tool = max(named, key=lambda tool: len(tool["name"]))
        arguments = _arguments(tool, sentence)
        if arguments is None:
            return [f"What exactly should I choose for {tool['name'].replace('_', ' ')}?"]
        told = self._act(tool["name"], arguments)
        wanted = "on" if re.search(r"\b(on|enable)\b", said) else "off" if re.search(r"\b(off|disable)\b", said) else ""
        shown = re.search(r"\b(on|off)\b", told.lower())
        if tool["name"].startswith("toggle") and wanted and shown and shown[1] != wanted:
            told = self._act(tool["name"], arguments)  # it was as wanted before
        return [told]


def _asks(tool: str, said: str) -> bool:
    verb, *rest = tool.split("_")
    verbs = _VERBS.get(verb, verb)
    return bool(re.search(rf"\b({verbs})\b", said)) and all(re.search(rf"\b{word}s?\b", said) for word in rest)


def _arguments(tool: dict, sentence: str) -> dict | None:
    """Return what a sentence gives for the parameters, in quotes and in their order; None where that is not enough."""
    names = list(tool.get("parameters", {}).get("properties", {}))
    given = [next(filter(None, found)) for found in re.findall(r"\"([^\"]+)\"|'([^']+)'", sentence)]
    if any(name in tool.get("parameters", {}).get("required", names) for name in names[len(given) :]):
        return None
    return {name: _value(text) for name, text in itertools.zip_longest(names[: len(given)], given[: len(names)])}


def _value(text: str) -> object:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, dict | list | bool) else text


def _words(text: str) -> set[str]:
    return set(re.findall(r"[a-z0-9#]+", text.lower())) - _STOP
