"""Writes what a user would write who ran into a bug: what was called, what came, what was expected; no more."""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Sequence

from palmette.envs.swe.real.bugs import Bug, Evidence

_LONGEST = 600  # characters of a reproduction
_OPENINGS = (
    "{project} gives a wrong result here.",
    "I ran into this with {project} {version}.",
    "This used to work in {project} and does not any more.",
    "Found while using {project} {version}.",
)


def choose(bug: Bug) -> Evidence | None:
    """Return the piece of evidence that says it in the fewest words, None where all are too long to be told."""
    fit = [each for each in bug.evidence if len(each.before + each.subject + each.got + each.want) < _LONGEST]
    return min(
        fit, key=lambda each: (each.raises, len(each.before + each.subject + each.got + each.want)), default=None
    )


def phrasings(evidence: Evidence, *, project: str, version: str, path: str, rng: random.Random) -> dict[str, str]:
    """Return the issue at the three levels of detail; `path` is named where it is not empty."""
    subject = " ".join(evidence.subject.split()) if "\n" not in evidence.subject.strip() else evidence.subject.strip()
    came = f"fails with `{evidence.got}`" if evidence.raises else f"gives `{evidence.got}`"
    place = f" The fault is in `{path}`." if path else ""
    opening = rng.choice(_OPENINGS).format(project=project, version=version)
    code = "\n".join(filter(None, (evidence.before, subject)))
    shown = f"`{subject}`" if code == subject and "\n" not in subject else f"the last line of\n\n```\n{code}\n```\n\n"
    request = f"{opening} {shown[:1].upper()}{shown[1:]} {came}, expected `{evidence.want}`.{place}"
    specification = (
        f"# Wrong behaviour in {project}\n\nTo reproduce:\n\n```\n{code}\n```\n\n"
        f"Actual: it {came}.\n\nExpected: `{evidence.want}`.{place}\n\n"
        "Find the cause and correct it in the library itself, for all inputs and not only for this one. The tests that "
        "pass now must still pass; names and signatures stay as they are. Tests that you cannot see decide."
    )
    came = f"blows up with {evidence.got}" if evidence.raises else f"gives me {evidence.got}"
    colloquial = f"hey {project} is off: {subject} {came}, should be {evidence.want}. can you fix it?"
    if evidence.before:
        colloquial = f"hey {project} is off:\n\n{code}\n\n{came}, should be {evidence.want}. can you fix it?"
    if path:
        colloquial += f" it's in {path} i think"
    return {
        level: _tidy(text)
        for level, text in (
            ("specification", specification),
            ("request", request),
            ("colloquial", colloquial),
        )
    }


def leaks(texts: Collection[str], right: Sequence[str]) -> str:
    """Return the first of the right lines that one of the texts holds, "" if none does. White space does not count."""
    said = [re.sub(r"\s+", "", text) for text in texts]
    for line in right:
        bare = re.sub(r"\s+", "", line)
        if len(bare) >= 8 and any(bare in text for text in said):
            return line.strip()
    return ""


def _tidy(text: str) -> str:
    text = re.sub(r"0x[0-9a-f]{6,}", "0x...", text)
    return re.sub(r"\n\n +", "\n\n", re.sub(r" +\n", "\n", re.sub(r"\n{3,}", "\n\n", text))).strip()
