"""Command-line agents in environments of their own, under the user's cache directory.

    $XDG_CACHE_HOME/palmette/agents/NAME-VERSION-TAG/    a virtual environment (PyPI) or a prefix (npm)

TAG is a digest of the pins (and of the interpreter, for PyPI), so a changed pin is another environment. An environment
counts as installed when its last file, `complete`, is there; anything less is made anew.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from palmette.errors import UserError

UNREACHABLE = "the package registry cannot be reached"
_COMPLETE = "complete"


class Installable(Protocol):
    """What of an agent matters here."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    @property
    def registry(self) -> str: ...

    @property
    def packages(self) -> tuple[str, ...]: ...


def installed(agent: Installable) -> Path | None:
    """Return the directory of the agent's environment, or None if it is not (wholly) there."""
    home = _home(agent)
    return home if (home / _COMPLETE).is_file() else None


def install(agent: Installable) -> Path:
    """Return the directory of the agent's environment, made on first use (minutes, and the registry is needed).

    Raises `UserError` when the registry cannot be reached or does not have a pin.
    """
    home = _home(agent)
    with _lock(home.with_name(home.name + ".lock")):
        if installed(agent) is None:
            shutil.rmtree(home, ignore_errors=True)
            _MAKE[agent.registry](agent, home)
            (home / _COMPLETE).write_text("\n".join(agent.packages) + "\n", encoding="utf-8")
    return home


def executable(agent: Installable) -> Path:
    """Return the directory of the agent's programs."""
    return _home(agent) / ("node_modules/.bin" if agent.registry == "npm" else "bin")


def readonly_paths(agent: Installable) -> tuple[str, ...]:
    """Return the host directories a sandbox must show for the agent to run: its environment and its Python."""
    if agent.registry == "npm":  # a Node that it needs is one of its packages
        return (str(_home(agent)),)
    python = str(Path(sys.base_prefix).resolve())
    system = python == "/usr" or python.startswith("/usr/")
    return (str(_home(agent)),) if system else (str(_home(agent)), python)


def _home(agent: Installable) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").resolve()
    python = (sys.version, sys.base_prefix) if agent.registry == "pypi" else ()
    pins = "\n".join([*agent.packages, *python])
    tag = hashlib.blake2b(pins.encode(), digest_size=4).hexdigest()
    return cache / "palmette" / "agents" / f"{agent.name}-{agent.version}-{tag}"


def _make_venv(agent: Installable, home: Path) -> None:
    base = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    _run(agent, [str(base), "-m", "venv", str(home)])
    pip = [str(home / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
    _run(agent, [*pip, *agent.packages])


def _make_prefix(agent: Installable, home: Path) -> None:
    home.mkdir(parents=True)
    npm = ["npm", "install", "--prefix", str(home), "--no-audit", "--no-fund", "--no-update-notifier"]
    node = [package for package in agent.packages if package.startswith("node@")]
    rest = [package for package in agent.packages if package not in node]
    env = os.environ | {"PATH": f"{executable(agent)}{os.pathsep}{os.environ.get('PATH', '')}"}
    for packages in filter(None, (node, rest)):  # what installs the rest may need that Node
        _run(agent, [*npm, "--loglevel=error", *packages], env)


_MAKE: dict[str, Callable[[Installable, Path], None]] = {"pypi": _make_venv, "npm": _make_prefix}


def _run(agent: Installable, argv: Sequence[str], env: Mapping[str, str] | None = None) -> None:
    try:
        done = subprocess.run(argv, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    except OSError as error:
        raise UserError(f"agent {agent.name} could not be installed: {argv[0]}: {error.strerror}") from error
    if done.returncode:
        raise UserError(f"agent {agent.name} {agent.version} could not be installed: {_reason(done)}")


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    """Say in one line why pip or npm failed; offline pip ends with "no matching distribution", which would mislead."""
    text = done.stdout + done.stderr
    if "connection broken by" in text:
        return f"{UNREACHABLE}; check the network, or pip's index setting"
    if any(code in text for code in ("ENOTFOUND", "ECONNREFUSED", "EAI_AGAIN", "ETIMEDOUT")):
        return f"{UNREACHABLE}; check the network, or npm's registry setting"
    lines = [line.strip() for line in text.splitlines() if "error" in line.lower() and "complete log" not in line]
    return lines[-1] if lines else f"exit {done.returncode}"


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
