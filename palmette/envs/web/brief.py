"""A brief: something to build, told from three perspectives, with what is there, what solves it, and what decides.

The perspectives of KAT-Coder-V2's WebCoding expert (user, design, implementation) stand for the three levels of intent:
what a user wants, what a designer draws, what an engineer specifies. Each says all that the judge looks for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from palmette.envs.web.plan import Goal

PERSPECTIVES = {"colloquial": "user", "request": "design", "specification": "implementation"}
_ALWAYS = (
    "It must also fit a phone of 390 pixels, with buttons large enough to hit (24 pixels, in games 44), be accessible "
    "(axe-core finds nothing against WCAG 2.2 A and AA, in whatever state; controls have names, the page says its "
    "language), cause no errors, and load nothing from elsewhere."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Brief:
    """One thing to build; `contract` are the names and texts that must be so, told in every perspective.

    `given` are files that are there, `reference` those that solve it, `pages` what is looked at as a design.
    """

    family: str
    user: str
    design: str
    implementation: str
    contract: Sequence[str]
    reference: Mapping[str, str]
    goals: Sequence[Goal]
    given: Mapping[str, str] = field(default_factory=dict)
    pages: Sequence[str] = ("index.html",)

    def told(self, level: str) -> str:
        """Return what is asked at a level of `envs.api.INTENTS`."""
        said = {"user": self.user, "design": self.design, "implementation": self.implementation}[PERSPECTIVES[level]]
        if level == "specification":
            return "\n".join([said, *(f"- {each}" for each in (*self.contract, _ALWAYS))])
        return " ".join([said, *self.contract, _ALWAYS])


def document(title: str, body: str, *, style: str = "", script: str = "", head: str = "") -> str:
    """Return a page of the references, with their common look."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n{head}<style>\n{STYLE}{style}</style>\n</head>\n<body>\n<main>\n{body}</main>\n"
        + (f"<script>\n{script}</script>\n" if script else "")
        + "</body>\n</html>\n"
    )


STYLE = """\
* { box-sizing: border-box; margin: 0; }
body { font: 18px/28px sans-serif; color: #1f2933; background: #f5f7fa; }
main { max-width: 880px; margin: 0 auto; padding: 64px 24px; }
h1 { font-size: 40px; line-height: 48px; margin-bottom: 24px; }
p { margin-bottom: 16px; }
button, input { font: inherit; min-height: 44px; padding: 8px 16px; border-radius: 8px; }
button { border: 0; background: #0b5cad; color: #fff; }
input { border: 1px solid #7b8794; background: #fff; color: inherit; }
@media (max-width: 600px) { main { padding: 32px 16px; } h1 { font-size: 32px; line-height: 40px; } }
"""
