"""``palmette agents``: which command-line agents there are, and installing one."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from palmette.commands.interrupt import terminable
from palmette.errors import UserError, suggest
from palmette.progress import Progress
from palmette.scaffolds.agent import Agent
from palmette.scaffolds.install import install, installed
from palmette.scaffolds.roster import AGENTS

_MIB = 1 << 20


def list_agents(*, as_json: bool) -> None:
    """Print every agent: package, version, dialect, and where it is installed. Raises `UserError` for a wrong file."""
    rows = [_row(name, AGENTS[name]) for name in AGENTS]
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    table = Table("agent", "version", "dialect", "from", box=None, pad_edge=False)
    table.add_column("installed", overflow="fold")
    for row in rows:
        where = (row["installed"] or "no").replace(str(Path.home()), "~")
        origin = row["registry"] if row["registry"] != "none" else row["file"]
        table.add_row(*map(escape, (row["name"], row["version"] or "-", row["dialect"], origin, where)))
    wide_console().print(table)


def install_agent(name: str, *, file: Path | None, version: str, as_json: bool) -> None:
    """Install an agent, unless it is there already, and print where. Raises `UserError`."""
    agent = find_agent(name, file=file, version=version)
    began, known = time.monotonic(), installed(agent) is not None
    home = installed_with_progress(agent)
    size_mb = size_bytes(home) / _MIB if agent.registry != "none" else 0.0
    if as_json:
        took_s = round(time.monotonic() - began, 1)
        print(json.dumps(_row(agent.name, agent) | {"disk_mb": round(size_mb), "seconds": took_s}, indent=1))
        return
    version = f" {agent.version}" if agent.version else ""
    print(f"{agent.name}{version}: {'was installed already' if known else 'installed'}, {size_mb:,.0f} MiB in {home}")


def find_agent(name: str, *, file: Path | None, version: str = "") -> Agent:
    """Return the agent that is meant. Raises `UserError` for a name nobody has, and for none or two of them."""
    if bool(name) == bool(file):
        raise UserError("name an agent, or give --file my_agent.toml; 'palmette agents list' names those there are")
    key = str(file) if file else name
    if file and file.suffix != ".toml":
        raise UserError(f"--file {file}: an agent is described in a .toml file")
    if key not in AGENTS:
        plain = name.partition("@")[0]
        raise UserError(f"unknown agent '{plain}'{suggest(plain, AGENTS)}; known are {', '.join(AGENTS)}")
    if version and "@" in key:
        raise UserError(f"{key} --version {version}: one version, please")
    if version and file:
        raise UserError(f"--version {version}: say it in {file}")
    return AGENTS[f"{key}@{version}" if version else key]


def installed_with_progress(agent: Agent) -> Path:
    """Return where the agent is, installing it under a bar that counts the disk it takes. Raises `UserError`."""
    if there := installed(agent):
        return there
    with terminable(), Progress(f"agents/{agent.name}", unit="MiB") as bar:

        def grown(home: Path) -> None:
            bar.update(max(0, size_bytes(home) // _MIB - bar.done))

        home = install(agent, grown)
        grown(home)
    return home


def size_bytes(directory: Path) -> int:
    """Return the disk that a directory takes; what vanishes meanwhile counts nothing."""
    total, stack = 0, [directory]
    while stack:
        try:
            entries = list(stack.pop().iterdir())
        except OSError:
            continue
        for entry in entries:
            if entry.is_symlink():
                continue
            if entry.is_dir():
                stack.append(entry)
                continue
            try:
                total += entry.stat().st_blocks * 512
            except OSError:
                continue
    return total


def wide_console() -> Console:
    """Return a console that cuts nothing where standard output is not a terminal."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=1000)


def _row(name: str, agent: Agent) -> dict[str, Any]:
    home = installed(agent)
    return {
        "name": name,
        "version": agent.version,
        "dialect": agent.dialect,
        "registry": agent.registry,
        "packages": agent.pins,
        "installed": str(home) if home and agent.registry != "none" else None,
        "file": str(AGENTS.file(name)) if name in AGENTS else None,
    }
