"""A customer who follows rules: hidden wishes, things they know and do not know, changes of mind, a device to operate.

A customer is data: {"stages": [{"say", "until", "rules": [{"if", "unless", "say", "go", "times"}]}], "most": n,
"knows": [{"if", "say"}], "device": [{"if", "see", "do"}]}. They open with the first stage's `say`. Of what they hear,
device sentences come first; then the first rule of the stage whose pattern `if` is found (at most `times` times) is
answered, and may `go` to another stage, or leave; a question about something they know is answered; a request to
confirm is confirmed; a question about anything else is not known; anything else ends the stage, unless the device still
says something about `until`. Nothing is random, so a log can be replayed.

This file stands alone, because it is copied into tasks.
"""

from __future__ import annotations

import re
from collections.abc import Callable

GOODBYE, UNKNOWN, YES, WAITS = "Thank you, that is all. Goodbye.", "I do not know that.", "Yes, please.", "Okay."
LEAVES = -1  # where a rule goes to that ends the talk
_MORE = re.compile(
    r"\b(anything|something) else|\bhelp you with|\bfurther (help|assist)|\bother (questions?|requests?)"
)
_ASKS = re.compile(
    r"\?|\bplease (provide|tell|give|share|confirm|state|say|let me know)|\b(could|can|would) you|\bi( will)? need"
    r"|\blet me know|\bmay i (have|ask)"
)
_CONFIRM = re.compile(
    r"\b(shall|should) i\b|\bconfirm|\b(is|are) (that|this|it|these) (correct|right|ok|okay|fine|all right)|\bproceed"
    r"|\bgo ahead|\bwould you like|\bdo you (want|wish|agree|accept)|\bdo i have your|\b(yes|no)\)?\?|\bwould that"
)
_WAIT = re.compile(r"\b(one|a) moment|\bhold on|\blet me (check|look|see)|\bi('ll| will) (check|look|now|first)")
_ORDERED = re.compile(
    r"\b(turn|switch|set|toggle|enable|disable|activate|deactivate|restart|reboot|reset|reseat|re-?insert|remove|take"
    r"|put|pull|press|choose|select|change|unlock|enter|make sure|go to|open|run|power|allow|disconnect|connect)\b"
)


class Customer:
    """Hears what is said and answers; `act` operates the device and returns what is seen then."""

    def __init__(self, plan: dict, act: Callable[[str], str] | None = None) -> None:
        self.act = act
        self.stage = 0
        self.over = False
        self._plan = plan
        self._heard = 0
        self._used: dict = {}

    def hear(self, text: str) -> str:
        """Return the answer, empty once the customer has said goodbye."""
        if self.over:
            return ""
        self._heard += 1
        if self._heard > self._plan.get("most", 40):
            self.over = True
            return "I have no more time. Goodbye."
        told = text.lower()
        seen = self._operate(told)
        rule = self._rule(told)
        if rule is not None:
            if "go" not in rule:
                return " ".join([*seen, rule["say"]])
            if rule["go"] == LEAVES:
                self.over = True
                return " ".join([*seen, rule["say"] or GOODBYE])
            self.stage = rule["go"]
            return " ".join([*seen, rule["say"], self._opening()]).strip()
        asked = _question(told)
        known = [fact["say"] for fact in self._plan.get("knows", ()) if asked and re.search(fact["if"], asked)]
        if seen or known:
            return " ".join([*seen, *known])
        if _MORE.search(told):
            return self._next()
        if _CONFIRM.search(told):
            return YES
        if _WAIT.search(told):
            return WAITS
        return UNKNOWN if asked else self._next()

    def _rule(self, told: str) -> dict | None:
        """Return the first rule of this stage that fits and is not used up."""
        for number, rule in enumerate(self._plan["stages"][self.stage].get("rules", ())):
            key = (self.stage, number)
            fits = re.search(rule["if"], told) and not ("unless" in rule and re.search(rule["unless"], told))
            if fits and self._used.get(key, 0) < rule.get("times", 1):
                self._used[key] = self._used.get(key, 0) + 1
                return rule
        return None

    def _opening(self) -> str:
        return self._plan["stages"][self.stage]["say"]

    def _next(self) -> str:
        """Go on to the next stage that follows by itself, or say goodbye."""
        until = self._plan["stages"][self.stage].get("until")
        if until and self.act and (still := self.act(until)):
            return still
        if self.stage + 1 == len(self._plan["stages"]):
            self.over = True
            return GOODBYE
        self.stage += 1
        return self._opening()

    def _operate(self, told: str) -> list:
        """Do what sentences order on the device, look at what they ask about, and return what is seen."""
        seen: list = []
        for sentence in _sentences(told):
            for part in self._plan.get("device", ()):
                if self.act is None or not re.search(part["if"], sentence):
                    continue
                mine = re.match(r"\s*(i|we)\b", sentence)  # what the clerk does, or did
                polite = re.search(r"\b(can|could|would|will) you\b|\bplease\b|\btry\b", sentence)
                if "do" in part and not mine and _ORDERED.search(sentence) and ("?" not in sentence or polite):
                    seen.append(self.act(part["do"]))
                elif "see" in part and not mine:
                    seen.append(self.act(part["see"]))
        return list(dict.fromkeys(seen))


def _sentences(told: str) -> list:
    return re.split(r"(?<=[.!?;\n])\s+|\n| and then |, then ", told)


def _question(told: str) -> str:
    """Return the text from its first question on, offers of more help left out; "" where nothing is asked."""
    parts = [part for part in _sentences(told) if not _MORE.search(part)]
    first = next((number for number, part in enumerate(parts) if _ASKS.search(part)), len(parts))
    return " ".join(parts[first:])
