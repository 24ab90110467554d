"""Black-box agents: command-line programs as they come from their registry, driven by arguments and variables alone.

An agent is data (`palmette.scaffolds.agent.Agent`); `CliAgent` runs any of them inside the task's sandbox, with the
gateway as its only network.
"""

from __future__ import annotations

import orjson

from palmette.sandbox.api import PathRefused, Result, Sandbox, SandboxError, Status
from palmette.scaffolds.agent import Agent, filled, quoted
from palmette.scaffolds.api import NOTHING, Endpoint, Offer, Stop
from palmette.scaffolds.install import executable, install, readonly_paths

AGENT_HOME = "/tmp/agent"  # HOME of every agent: outside the work directory, so that it cannot litter the task


class CliAgent:
    """Runs one command-line agent per rollout, unchanged, inside the sandbox.

    Its sandbox must show `readonly` (`Spec.readonly`) and should allow `memory_mb` and `pids`. The agent's stdin is
    closed; it has `timeout_s` for everything.
    """

    inside = True  # requests leave from inside the sandbox

    def __init__(self, agent: Agent, *, timeout_s: float = 1800.0) -> None:
        self.agent = agent
        self.name = agent.name
        self.timeout_s = timeout_s
        self.memory_mb = agent.memory_mb
        self.pids = agent.pids

    @property
    def readonly(self) -> tuple[str, ...]:
        """Host directories the agent needs to see; installs it on first use. Raises `UserError`."""
        install(self.agent)
        return readonly_paths(self.agent)

    async def run(self, instruction: str, sandbox: Sandbox, endpoint: Endpoint, *, offer: Offer = NOTHING) -> Stop:
        """Let the agent work until it exits. Raises `SandboxError`, also when the agent cannot be started."""
        instruction = "\n\n".join(filter(None, (offer.system, instruction, offer.manual)))
        words = {
            "base_url": endpoint.base_url,
            "root_url": endpoint.base_url.removesuffix("/v1"),
            "api_key": endpoint.api_key,
            "model": endpoint.model,
            "task": f" {instruction}" if instruction.startswith("-") else instruction,  # else it is taken for an option
            "task_json": quoted(instruction),
            "home": AGENT_HOME,
            "workdir": await _made_home(sandbox),
            "bin": str(executable(self.agent)),
        }
        for path, text in self.agent.files.items():
            await sandbox.write(f"{AGENT_HOME}/{path}", filled(text, words).encode())
        result = await sandbox.exec(
            [filled(part, words) for part in self.agent.argv],
            env={"HOME": AGENT_HOME, **{name: filled(text, words) for name, text in self.agent.env.items()}},
            timeout_s=self.timeout_s,
        )
        if result.status is Status.TIMEOUT:
            return Stop.TIMEOUT
        return self._stop(await self._status(sandbox, filled(self.agent.status_file, words), result))

    async def aclose(self) -> None:
        """Nothing to close: every run ends with its sandbox."""

    async def _status(self, sandbox: Sandbox, status_file: str, result: Result) -> str:
        """Return the agent's word for how it ended, "" for none. Raises `SandboxError` when it did not start."""
        if result.exit_code in (126, 127):
            raise SandboxError(f"{self.name} did not start: {_last_line(result)}")
        if not self.agent.status_at:
            return str(result.exit_code)
        try:
            text = await sandbox.read(status_file) if status_file else result.stdout.strip().rpartition(b"\n")[2]
            status = orjson.loads(text)
            for key in self.agent.status_at:
                status = status[key]
        except PathRefused as error:
            if result.status is Status.OOM:
                return ""
            raise SandboxError(f"{self.name} did not start: {_last_line(result)}") from error
        except (orjson.JSONDecodeError, LookupError, TypeError):
            return ""
        return str(status)

    def _stop(self, status: str) -> Stop:
        """Return what a word of the agent means; an exit code alone says little (one may exit 1 with the task done)."""
        return self.agent.stops.get(status, Stop.GAVE_UP)


async def _made_home(sandbox: Sandbox) -> str:
    """Make the agent's HOME and return the work directory."""
    made = await sandbox.exec(["/bin/sh", "-c", 'mkdir -p "$0" && pwd', AGENT_HOME])
    if made.exit_code:
        raise SandboxError(f"{AGENT_HOME} could not be made: {_last_line(made)}")
    return made.stdout.decode().strip()


def _last_line(result: Result) -> str:
    lines = (result.stdout + result.stderr).decode(errors="replace").strip().splitlines()
    return f"exit {result.exit_code}: {lines[-1] if lines else 'no output'}"
