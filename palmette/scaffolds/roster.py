"""Command-line agents by name: ours, and those of the user in ``agents/`` of the current directory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from palmette.errors import UserError
from palmette.scaffolds.agent import Agent, read_agent

OURS = Path(__file__).with_name("agents")
YOURS = Path("agents")


class Roster(Mapping[str, Agent]):
    """Agents, read when asked for: ``AGENTS["codex"]``, ``AGENTS["codex@0.170.0"]``, ``AGENTS["my/own.toml"]``.

    Behind an "@" stands another version than the tested one. Iterating tells plain names. Getting one raises `KeyError`
    for a name that nobody has, and `UserError` for a file that is wrong.
    """

    def __getitem__(self, name: str) -> Agent:
        if name.endswith(".toml"):
            return read_agent(Path(name))
        plain, at, version = name.partition("@")
        agent = read_agent(self._files()[plain])
        return _other(agent, version) if at else agent

    def __iter__(self) -> Iterator[str]:
        return iter(self._files())

    def __len__(self) -> int:
        return len(self._files())

    def file(self, name: str) -> Path:
        """Return where the agent of a plain name is described. Raises `KeyError`."""
        return self._files()[name]

    def _files(self) -> dict[str, Path]:
        ours = {path.stem: path for path in sorted(OURS.glob("*.toml"))}
        yours = {path.stem: path for path in sorted(YOURS.glob("*.toml"))}
        if both := sorted(ours.keys() & yours.keys()):
            raise UserError(f"{yours[both[0]]}: there is an agent '{both[0]}' already; give the file another name")
        return ours | yours


def _other(agent: Agent, version: str) -> Agent:
    if not version or not any("{version}" in package for package in agent.packages):
        raise UserError(f"{agent.name}@{version}: it has no other versions (no package of it names {{version}})")
    return agent.model_copy(update={"version": version})


AGENTS = Roster()
