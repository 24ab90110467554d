"""Black-box agents: command-line programs as they come from their registry, driven by arguments and variables alone.

An agent is data (`Agent`); `CliAgent` runs any of them inside the task's sandbox, with the gateway as its only network.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import orjson

from palmette.sandbox.api import PathRefused, Result, Sandbox, SandboxError, Status
from palmette.scaffolds.api import Endpoint, Stop
from palmette.scaffolds.install import executable, install, readonly_paths

AGENT_HOME = "/tmp/agent"  # HOME of every agent: outside the work directory, so that it cannot litter the task


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """One command-line agent. Templates may use {base_url}, {api_key}, {model}, {task}, {home} and {bin}.

    `packages` are exact pins, installed in this order into an environment of the agent's own. `status_at` is where the
    JSON `status_file` tells how the run ended, `stops` what those words mean here; any other is `Stop.GAVE_UP`.
    """

    name: str
    version: str
    registry: Literal["pypi", "npm"]
    packages: tuple[str, ...]
    dialect: Literal["openai_chat", "openai_responses", "anthropic", "gemini"]
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)  # path below HOME -> text
    status_file: str
    status_at: tuple[str, ...]
    stops: Mapping[str, Stop]


MINI_SWE_AGENT = Agent(
    name="mini-swe-agent",
    version="2.4.6",
    registry="pypi",
    packages=("mcp==2.3.0", "litellm==1.106.2", "mini-swe-agent==2.4.6"),  # LiteLLM refuses tools without mcp
    dialect="openai_chat",
    argv=(
        *("{bin}/python", "-I", "-B", "{bin}/mini"),  # -I: the task's PYTHONPATH is for its commands, not for the agent
        *("--task", "{task}", "--model", "openai/{model}", "--yolo", "--exit-immediately"),
        *("--cost-limit", "0", "--output", "{home}/trajectory.json"),
    ),
    env={
        "OPENAI_API_KEY": "{api_key}",
        "OPENAI_API_BASE": "{base_url}",
        "MSWEA_CONFIGURED": "true",
        "MSWEA_SILENT_STARTUP": "1",
        "MSWEA_COST_TRACKING": "ignore_errors",
        "MSWEA_GLOBAL_CONFIG_DIR": "{home}/config",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else it downloads a price list
    },
    status_file="{home}/trajectory.json",
    status_at=("info", "exit_status"),
    stops={
        "Submitted": Stop.SUBMITTED,
        "LimitsExceeded": Stop.TURN_LIMIT,
        "TimeExceeded": Stop.TIMEOUT,
        "ContextWindowExceededError": Stop.CONTEXT_EXHAUSTED,
        "RateLimitError": Stop.OVERLOADED,
        "InternalServerError": Stop.ENGINE_ERROR,
        "ServiceUnavailableError": Stop.ENGINE_ERROR,
        "APIConnectionError": Stop.ENGINE_ERROR,
        "APIError": Stop.ENGINE_ERROR,
        "Timeout": Stop.ENGINE_ERROR,
    },
)


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
        self.memory_mb = 1024
        self.pids = 128

    @property
    def readonly(self) -> tuple[str, ...]:
        """Host directories the agent needs to see; installs it on first use. Raises `UserError`."""
        install(self.agent)
        return readonly_paths(self.agent)

    async def run(self, instruction: str, sandbox: Sandbox, endpoint: Endpoint) -> Stop:
        """Let the agent work until it exits. Raises `SandboxError`, also when the agent cannot be started."""
        words = {
            "base_url": endpoint.base_url,
            "api_key": endpoint.api_key,
            "model": endpoint.model,
            "task": instruction,
            "home": AGENT_HOME,
            "bin": str(executable(self.agent)),
        }
        for path, text in self.agent.files.items():
            await sandbox.write(f"{AGENT_HOME}/{path}", _filled(text, words).encode())
        made = await sandbox.exec(["mkdir", "-p", AGENT_HOME])
        if made.exit_code:
            raise SandboxError(f"{AGENT_HOME} could not be made: {_last_line(made)}")
        result = await sandbox.exec(
            [_filled(part, words) for part in self.agent.argv],
            env={"HOME": AGENT_HOME, **{name: _filled(text, words) for name, text in self.agent.env.items()}},
            timeout_s=self.timeout_s,
        )
        if result.status is Status.TIMEOUT:
            return Stop.TIMEOUT
        return await self._ended(sandbox, _filled(self.agent.status_file, words), result)

    async def aclose(self) -> None:
        """Nothing to close: every run ends with its sandbox."""

    async def _ended(self, sandbox: Sandbox, status_file: str, result: Result) -> Stop:
        """Return how the agent says it ended; its exit code says nothing (an agent may exit 1 with the task done)."""
        try:
            status = orjson.loads(await sandbox.read(status_file))
            for key in self.agent.status_at:
                status = status[key]
        except PathRefused as error:
            if result.status is Status.OOM:
                return Stop.GAVE_UP
            raise SandboxError(f"{self.name} did not start: {_last_line(result)}") from error
        except (orjson.JSONDecodeError, LookupError, TypeError):
            return Stop.GAVE_UP
        return self.agent.stops.get(str(status), Stop.GAVE_UP)


def _filled(template: str, words: Mapping[str, str]) -> str:
    """Return the template with {word} replaced for the words that are known; other braces stay, as in JSON."""
    return re.sub(r"\{(\w+)\}", lambda match: words.get(match[1], match[0]), template)


def _last_line(result: Result) -> str:
    lines = (result.stdout + result.stderr).decode(errors="replace").strip().splitlines()
    return f"exit {result.exit_code}: {lines[-1] if lines else 'no output'}"
