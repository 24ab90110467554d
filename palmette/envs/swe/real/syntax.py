"""Asks a Node.js of this machine about texts in JavaScript, which acorn parses there; nothing of the texts is run."""

from __future__ import annotations

import atexit
import json
import subprocess
from functools import cache, lru_cache
from pathlib import Path
from threading import Lock as Mutex
from typing import Any

from palmette.envs import npm
from palmette.envs.locked import Lock, installed
from palmette.envs.toolchain import own_python
from palmette.errors import UserError

_PROGRAM = Path(__file__).parent / "js" / "syntax.js"
_PARSER = (("acorn", "8.19.0"), ("acorn-walk", "8.3.5"))


@lru_cache(maxsize=4096)
def ask(what: str, text: str, more: str = "{}") -> Any:
    """Return what `js/syntax.js` finds in a text; `more` is JSON of what else it wants to know.

    Raises `SyntaxError` for a text that is no JavaScript, `UserError` where there is no Node.js.
    """
    answer = _parser().answer({"do": what, "text": text, **json.loads(more)})
    if "error" in answer:
        raise SyntaxError(answer["error"])
    return answer["found"]


class _Parser:
    """A process that parses, for a start takes longer than most texts; it ends with this one."""

    def __init__(self) -> None:
        packages, lock = npm.resolve(_PARSER)
        site = installed(Lock(python=own_python(), packages=packages, node=npm.node().version, npm=lock))
        self._one_at_a_time = Mutex()
        self._process = subprocess.Popen(
            [npm.node().program, "--stack-size=4000", str(_PROGRAM)],
            env={"NODE_PATH": str(site / "node_modules")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        atexit.register(self._end)

    def answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin
        assert self._process.stdout
        with self._one_at_a_time:
            self._process.stdin.write(json.dumps(asked) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        if not line:
            raise UserError("the parser for JavaScript has ended; is Node.js 20 or later in PATH?")
        return json.loads(line)

    def _end(self) -> None:
        with self._process:
            self._process.kill()


@cache
def _parser() -> _Parser:
    """Return the parser, which npm installs into the user's cache once."""
    return _Parser()
