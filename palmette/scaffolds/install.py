"""Command-line agents in environments of their own, under the user's cache directory.

    $XDG_CACHE_HOME/palmette/agents/NAME-VERSION-TAG/    a virtual environment (PyPI) or a prefix (npm)

TAG is a digest of the pins (and of the interpreter, for PyPI), so a changed pin is another environment. An environment
counts as installed when its last file, `complete`, is there; anything less is made anew, and what fails is removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from palmette.cache import cache_dir
from palmette.errors import UserError
from palmette.registry import why
from palmette.scaffolds.agent import Agent
from palmette.scaffolds.interpreter import interpreter

Watch = Callable[[Path], None]  # told the environment, about once a second, while it is made
_COMPLETE = "complete"
_LOOK_S = 1.0


def installed(agent: Agent) -> Path | None:
    """Return the directory of the agent's environment, or None if it is not (wholly) there."""
    home = _home(agent)
    there = home.is_dir() if agent.registry == "none" else (home / _COMPLETE).is_file()
    return home if there else None


def install(agent: Agent, watch: Watch | None = None) -> Path:
    """Return the directory of the agent's environment, made on first use (minutes, and the registry is needed).

    Leaves nothing behind when it fails. Raises `UserError` when the registry cannot be reached or does not have a pin,
    npm or a new enough Python is missing, or what was installed lacks the agent's program.
    """
    home = _home(agent)
    if agent.registry == "none":
        if not home.is_dir():
            raise UserError(f"agent {agent.name}: its directory {home} does not exist")
        return home
    if installed(agent):
        return home
    with _lock(home.with_name(home.name + ".lock")):
        if installed(agent) is None:  # nobody made it meanwhile
            shutil.rmtree(home, ignore_errors=True)
            try:
                _MAKE[agent.registry](agent, home, watch)
                _check_programs(agent)
                (home / _COMPLETE).write_text("\n".join(agent.pins) + "\n", encoding="utf-8")
            except BaseException:
                shutil.rmtree(home, ignore_errors=True)
                raise
    return home


def executable(agent: Agent) -> Path:
    """Return the directory of the agent's programs."""
    return _home(agent) / {"npm": "node_modules/.bin", "pypi": "bin", "none": ""}[agent.registry]


def readonly_paths(agent: Agent) -> tuple[str, ...]:
    """Return the host directories a sandbox must show for the agent to run: its environment and its Python."""
    home = _home(agent)
    if agent.registry == "none":
        return (str(home),) if agent.directory else ()
    if agent.registry == "npm":  # a Node that it needs is one of its packages
        return (str(home),)
    python = str((home / "bin" / "python").resolve().parents[1])
    system = python == "/usr" or python.startswith("/usr/")
    return (str(home),) if system else (str(home), python)


def _home(agent: Agent) -> Path:
    if agent.registry == "none":
        return Path(agent.directory or "/")
    python: tuple[str, ...] = ()
    if agent.registry == "pypi":  # one that needs a newer Python than ours is made with whatever is found then
        older = agent.python and sys.version_info < (3, int(agent.python.partition(".")[2]))
        python = ("python", agent.python) if older else (sys.version, sys.base_prefix)
    pins = "\n".join([*agent.pins, *python])
    tag = hashlib.blake2b(pins.encode(), digest_size=4).hexdigest()
    return cache_dir("agents").resolve() / f"{agent.name}-{agent.version}-{tag}"


def _make_venv(agent: Agent, home: Path, watch: Watch | None) -> None:
    try:
        base = interpreter(agent.python)
    except UserError as error:
        raise UserError(f"agent {agent.name} could not be installed: {error}") from None
    _run(agent, [str(base), "-m", "venv", str(home)], home, watch)
    pip = [str(home / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
    _run(agent, [*pip, *agent.pins], home, watch)


def _make_prefix(agent: Agent, home: Path, watch: Watch | None) -> None:
    home.mkdir(parents=True)
    npm = ["npm", "install", "--prefix", str(home), "--no-audit", "--no-fund", "--no-update-notifier"]
    node = [package for package in agent.pins if package.startswith("node@")]
    rest = [package for package in agent.pins if package not in node]
    env = os.environ | {"PATH": f"{executable(agent)}{os.pathsep}{os.environ.get('PATH', '')}"}
    for packages in filter(None, (node, rest)):  # what installs the rest may need that Node
        _run(agent, [*npm, "--loglevel=error", *packages], home, watch, env)


_MAKE: dict[str, Callable[[Agent, Path, Watch | None], None]] = {"pypi": _make_venv, "npm": _make_prefix}


def _check_programs(agent: Agent) -> None:
    """Raise `UserError` if a program that the agent is started with is not there, as when npm took another version."""
    for part in agent.argv:
        path = Path(part.replace("{bin}", str(executable(agent))))
        if part.startswith("{bin}/") and not path.exists():
            raise UserError(f"agent {agent.name} {agent.version} was installed without its program {path.name}")


def _run(
    agent: Agent, argv: Sequence[str], home: Path, watch: Watch | None, env: Mapping[str, str] | None = None
) -> None:
    try:
        process = subprocess.Popen(
            argv,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        hint = "; install Node.js, which brings it" if argv[0] == "npm" else ""
        raise UserError(f"agent {agent.name} could not be installed: {argv[0]}: {error.strerror}{hint}") from error
    try:
        while True:
            try:
                said, _ = process.communicate(timeout=_LOOK_S)
                break
            except subprocess.TimeoutExpired:
                if watch:
                    watch(home)
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    if process.returncode:
        reason = why(said, process.returncode)
        raise UserError(f"agent {agent.name} {agent.version} could not be installed: {reason}")


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold a lock file, which is there only while somebody holds it or waits for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with path.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not _is_at(file.fileno(), path):  # whoever had it before has removed it
                continue
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
