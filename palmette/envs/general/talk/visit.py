"""Writes a customer's visit wish by wish: what they say, what is right to do, and what they must be told."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from palmette.envs.api import Split
from palmette.envs.general.talk.scene import SAY, Scene, told
from palmette.envs.words import word

REFUSED = (
    r"\b(cannot|can't|can not|unable|not able|not possible|impossible|not allowed|sorry|unfortunately|not eligible"
    r"|not permitted|policy|won't|will not)\b"
)
CONFIRMS = r"\b(confirm|shall i|should i|proceed|go ahead|would you like|do you want|correct\?|right\?|are you sure)"
Act = tuple[str, ...]
Wish = TypeVar("Wish", bound=Callable[..., None])


def policy(whom: str, rules: Sequence[str]) -> str:
    """Return what the clerk of `whom` is told before the call."""
    listed = "\n".join(f"{n}. {rule}" for n, rule in enumerate(rules, 1))
    return (
        f"You serve a customer of {whom}. What you write goes to the customer; use the tools for the rest, and submit "
        f"when the customer has said goodbye.\n\nPolicy:\n{listed}"
    )


class Visit:
    """A visit under construction; `acts` and `stages` are in the order in which they will happen.

    The first wish is what the customer opens with. A wish ends with the clerk's report; the next one follows.
    """

    def __init__(self, rng: random.Random, split: Split) -> None:
        self.rng = rng
        self.split: Split = split
        self.taken: set[str] = set()
        self.acts: list[Act] = []
        self.stages: list[dict[str, Any]] = []
        self.knows: list[dict[str, str]] = []
        self.says: list[dict[str, Any]] = []
        self.skills: list[str] = []

    def name(self) -> str:
        """Return an unused name of a person or place."""
        return word(self.rng, self.split, taken=self.taken).capitalize()

    def number(self) -> str:
        """Return an unused number of an order, a booking or the like."""
        return f"{word(self.rng, self.split, taken=self.taken)}-{self.rng.randint(100, 999)}"

    def know(self, pattern: str, say: str) -> None:
        """Let the customer tell something to whoever asks for it."""
        self.knows.append({"if": pattern, "say": say})

    def introduces(self, name: str, postcode: str, thing: str = "") -> None:
        """Let the customer tell who they are, and that they know no number of a `thing` by heart."""
        self.know(r"\bname\b|who (are|am i)", f"My name is {name}.")
        self.know(r"postcode|post code|postal|\bzip\b|identi", f"My postcode is {postcode}.")
        if thing:
            lost = rf"\b{thing} (number|id|reference)|number of (the|your) {thing}|which {thing}\b"
            self.know(lost, "I do not have the number at hand.")

    def scene(
        self,
        backend: str,
        template: str,
        *,
        system: str,
        state: Mapping[str, Any],
        tools: Sequence[str],
        device: Sequence[dict[str, str]] = (),
        skills: Sequence[str] = (),
    ) -> Scene:
        """Return the visit as it is written now, with a backend in a `state`."""
        return Scene(
            backend=backend,
            skills=("dialogue", backend, *dict.fromkeys(self.skills), *skills),
            template=template,
            system=system,
            instruction=self.stages[0]["say"],
            state=state,
            tools=tools,
            acts=self.acts,
            customer=self.customer(device),
            says=self.says,
        )

    def some_of(self, wishes: Sequence[Wish], heldout: Sequence[Wish], count: int) -> list[Wish]:
        """Return that many of the wishes; held-out visits have one that training never has."""
        known = [wish for wish in wishes if self.split == "heldout" or wish not in heldout]
        some = self.rng.sample(known, min(count, len(known)))
        if self.split == "heldout" and not set(some) & set(heldout):
            some[0] = self.rng.choice(heldout)
        return some

    def wish(
        self, say: str, acts: Sequence[Act], report: str, *, skill: str, rules: Sequence[dict[str, Any]] = ()
    ) -> None:
        """Add a wish that is done, and reported."""
        self.stages.append({"say": say, "rules": list(rules)})
        self.acts += [*acts, (SAY, report)]
        self.skills.append(skill)

    def refused(self, say: str, push: str, acts: Sequence[Act], report: str, *, skill: str) -> None:
        """Add a wish that must be refused: the customer pushes once, then gives in."""
        here = len(self.stages)
        rules = [{"if": REFUSED, "say": push}, {"if": REFUSED, "say": "All right, then leave it.", "go": here + 1}]
        self.stages.append({"say": say, "rules": rules})
        self.acts += [*acts, (SAY, report), (SAY, f"I am sorry, it is not possible. {report}")]
        self.skills.append(skill)

    def changed(self, say: str, ask: str, later: str) -> None:
        """Add a wish that the customer takes back when asked to confirm; what they want instead comes next."""
        here = len(self.stages)
        self.stages.append(
            {"say": say, "rules": [{"if": CONFIRMS, "unless": r"name|postcode|identi", "say": later, "go": here + 1}]}
        )
        self.acts.append((SAY, ask))
        self.skills.append("change of mind")

    def question(self, say: str, answer: str, among: Sequence[str], report: str, *, most: int = 2) -> None:
        """Add a question; the answer counts if it is given there, without naming many others."""
        self.says.append(told(answer, among=among, most=most, stage=len(self.stages)))
        self.stages.append({"say": say, "rules": []})
        self.acts.append((SAY, report))
        self.skills.append("required information")

    def customer(self, device: Sequence[dict[str, str]] = ()) -> dict[str, Any]:
        """Return the customer as data."""
        return {"stages": self.stages, "knows": self.knows, "device": list(device), "most": 20 + 6 * len(self.stages)}
