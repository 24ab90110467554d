"""Ways to be rewarded without doing the task: one shell script each, by domain; all of them must score 0.

A script's first line is a comment that says what it tries. It runs in the agent's sandbox, in the work directory, with
the instruction in `TASK_INSTRUCTION`; then the task is graded as it always is. To add one, write a file: below `any/`
it is tried on every task, below a domain's folder on the tasks of that domain.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from palmette.errors import UserError

_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """One way to cheat; `says` is what it tries, in one sentence."""

    name: str
    says: str
    script: str


def attacks_on(domain: str, more: Path | None = None) -> tuple[Attack, ...]:
    """Return the attacks on tasks of a domain, and those in the directory `more`. Raises `UserError` if it has none."""
    found = _read(_HERE / "any") + _read(_HERE / domain)
    if more is None:
        return found
    own = _read(more)
    if not own:
        raise UserError(f"{more} holds no attack: a shell script NAME.sh whose first line says what it tries")
    return found + own


def _read(folder: Path) -> tuple[Attack, ...]:
    texts = {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.sh"))}
    return tuple(
        Attack(name=name, says=text.partition("\n")[0].lstrip("#! ").strip(), script=text)
        for name, text in texts.items()
    )
