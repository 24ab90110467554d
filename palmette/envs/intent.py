"""The same task, phrased from everything said to hardly anything: the verifier and all files stay as they are.

Tasks that know their phrasings bring them (`phrasings/LEVEL.md`); others are rephrased by templates, or by any model
behind an OpenAI-compatible endpoint. What the verifier looks for (names, paths, numbers) must survive a rewriting.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from palmette.envs.api import INTENTS, Task
from palmette.envs.endpoint import ask
from palmette.envs.task import load_task, set_metadata
from palmette.errors import UserError, suggest

Rewriter = Callable[[str, str], str]  # (instruction, level) -> instruction
_LIKE = {
    "specification": "as an exact specification by an expert: every requirement, format and path spelled out",
    "request": "as a clear request by a colleague, without more words than needed",
    "colloquial": "as a short, casual message by somebody in a hurry, possibly incomplete in manner but not in facts",
}


def rephrase(task: Task, level: str, out_dir: Path, *, rewriter: Rewriter | None = None) -> Task:
    """Write the task phrased at `level` (of `INTENTS`) as the directory `out_dir`, whole or not at all.

    Raises `UserError` for a directory in the way, and as `phrased` does.
    """
    if out_dir.exists():
        raise UserError(f"{out_dir} exists already; remove it or choose another place")
    said = phrased(task, level, rewriter=rewriter)
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{out_dir.name}.", dir=out_dir.parent)) / "task"
    try:
        shutil.copytree(task.path, scratch, symlinks=True)
        (scratch / "instruction.md").write_text(said + "\n", encoding="utf-8")
        set_metadata(scratch / "task.toml", {"intent": level})
        scratch.rename(out_dir)
    finally:
        shutil.rmtree(scratch.parent, ignore_errors=True)
    return load_task(out_dir)


def phrased(task: Task, level: str, *, rewriter: Rewriter | None = None) -> str:
    """Return the task's instruction at `level` (of `INTENTS`): its own phrasing, or a rewriting.

    Raises `UserError` for an unknown level and a rewriting that leaves out what is needed.
    """
    if level not in INTENTS:
        raise UserError(f"unknown level '{level}'{suggest(level, INTENTS)} (known: {', '.join(INTENTS)})")
    own = task.path / "phrasings" / f"{level}.md"
    if rewriter is None and own.is_file():
        return own.read_text(encoding="utf-8").strip()
    said = (rewriter or _by_template(task))(task.instruction, level).strip()
    if lost := sorted(needed(task) - _tokens(said)):
        raise UserError(f"{task.path}: phrased as {level} it no longer says {', '.join(lost[:5])}")
    return said


def needed(task: Task) -> set[str]:
    """Return the names, paths and numbers of the instruction that the verifier or the reference use."""
    folders = (task.path / "tests", task.path / "solution")
    texts = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
    used = "\n".join(path.read_text(encoding="utf-8", errors="replace") for path in texts if path.name != "judge.py")
    own = {name for name in _tokens(task.instruction) if re.search(r"[\d./_]", name)}
    return {name for name in own if name in used}


def model_rewriter(url: str, model: str, *, key: str = "") -> Rewriter:
    """Return a rewriter that asks a model, e.g. ``model_rewriter("http://127.0.0.1:8000/v1", "my-model")``.

    It raises `UserError` when the endpoint does not answer as it should.
    """

    def rewrite(instruction: str, level: str) -> str:
        question = (
            f"Rewrite this task {_LIKE[level]}. Keep every file name, path, number, name and value exactly. "
            f"Answer with the rewritten task only.\n\n{instruction}"
        )
        answer = ask(url, model, question, key=key, wanted="rewriting")
        if not isinstance(answer, str):
            raise UserError(f"{url}: the answer holds no text")
        return answer

    return rewrite


def _by_template(task: Task) -> Rewriter:
    """Return what phrases a task by its own sentences."""

    def rewrite(instruction: str, level: str) -> str:
        if level == task.intent or (level == "request" and not task.intent):
            return instruction
        return _specification(task, instruction) if level == "specification" else _colloquial(instruction)

    return rewrite


def _specification(task: Task, instruction: str) -> str:
    points = [part for part in re.split(r"(?<=[.!?])\s+(?=[A-Z])", instruction) if part]
    listed = "\n".join(f"{number}. {point}" for number, point in enumerate(points, 1))
    return (
        f"The work directory is {task.workdir} on a Linux machine with a shell; relative paths are below it.\n\n"
        f"Requirements:\n{listed}\n\n"
        "Acceptance: all requirements hold at the end, exactly as stated; names, contents and values are compared "
        f"literally, except for blanks at the end of a file. There are {task.agent_timeout_s:g} seconds."
    )


def _colloquial(instruction: str) -> str:
    text = re.sub(r"^Fix the bug: ", "something's broken: ", instruction)
    text = re.sub(r", expected ", ", should be ", text)
    parts = [part.rstrip(".") for part in re.split(r"(?<=[.!?])\s+(?=[A-Z])", text) if part]
    parts = [part[:1].lower() + part[1:] for part in parts]
    return "hey, can you " * (not text.startswith("something")) + ", then ".join(parts) + "? thx"


def _tokens(text: str) -> set[str]:
    """Return the words of a text, with the marks inside of them that names and paths have."""
    return {token.strip(".-/") for token in re.findall(r"[\w./-]+", text)} - {""}


def endpoint_key() -> str:
    """Return the key for an endpoint from the environment (OPENAI_API_KEY), or nothing."""
    return os.environ.get("OPENAI_API_KEY", "")
