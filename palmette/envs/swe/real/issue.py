"""Writes what a user would write who ran into a bug: what was called, what came, what was expected; no more."""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Sequence

from palmette.envs.swe.real.bugs import Bug, Evidence

_LONGEST = 600  # characters of a reproduction
_CUT = 300  # characters after which a value that is shown was cut off
_SHOWN = ("Here is what I run:", "To see it:", "This is all it takes:")
_OPENINGS = (
    "{project} gives a wrong result here.",
    "I ran into this with {project} {version}.",
    "This used to work in {project} and does not any more.",
    "Found while using {project} {version}.",
)


def choose(bug: Bug) -> Evidence | None:
    """Return the piece of evidence that says it best in the fewest words, None where all are too long to be told."""
    fit = [
        each
        for each in bug.evidence
        if len(each.before + each.subject + each.got + each.want) < _LONGEST
        and len(each.want) < _CUT
        and (each.raises or each.want != each.got)
    ]
    return min(
        fit,
        key=lambda each: (each.truth, each.raises, len(each.before + each.subject + each.got + each.want)),
        default=None,
    )


def phrasings(evidence: Evidence, *, project: str, version: str, path: str, rng: random.Random) -> dict[str, str]:
    """Return the issue at the three levels of detail; `path` is named where it is not empty."""
    subject = evidence.subject.strip()
    came, wanted = _came(evidence), f"`{evidence.want}`"
    if evidence.truth:
        wanted = f"it to be {evidence.want.lower()}"
    place = f" The fault is in `{path}`." if path else ""
    opening = rng.choice(_OPENINGS).format(project=project, version=version)
    code = "\n".join(filter(None, (evidence.before, subject)))
    alone = "\n" not in code
    shown = f"`{code}`" if alone else f"{rng.choice(_SHOWN)}\n\n```\n{code}\n```\n\nThe last line"
    request = f"{opening} {shown} {came}, expected {wanted}.{place}"
    specification = (
        f"# Wrong behaviour in {project}\n\nTo reproduce:\n\n```\n{code}\n```\n\n"
        f"Actual: it {came}.\n\nExpected: {wanted}.{place}\n\n"
        "Find the cause and correct it in the library itself, for all inputs and not only for this one. The tests that "
        "pass now must still pass; names and signatures stay as they are. Tests that you cannot see decide."
    )
    short = f"blows up with {evidence.got}" if evidence.raises else f"gives me {evidence.got}"
    if evidence.truth:
        short, should = came, f"should be {evidence.want.lower()}"
    else:
        should = f"should be {evidence.want}"
    around = f" {subject} " if alone else f"\n\n{code}\n\n"
    colloquial = f"hey {project} is off:{around}{short}, {should}. can you fix it?"
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


def _came(evidence: Evidence) -> str:
    if evidence.raises:
        return f"fails with `{evidence.got}`"
    return f"is {evidence.got.lower()}" if evidence.truth else f"gives `{evidence.got}`"


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
