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
    """One command-line agent. Templates may use {base_url}, {root_url}, {api_key}, {model}, {task}, {home} and {bin}.

    {base_url} ends in /v1, {root_url} is the same without. `packages` are exact pins, installed in this order into an
    environment of the agent's own. `status_at` is where the JSON `status_file`, or the last line of standard output
    if there is none, tells how the run ended; with neither it is the exit code. `stops` says what those words mean
    here; any other is `Stop.GAVE_UP`.
    """

    name: str
    version: str
    registry: Literal["pypi", "npm"]
    packages: tuple[str, ...]
    dialect: Literal["openai_chat", "openai_responses", "anthropic", "gemini"]
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)  # path below HOME -> text
    status_file: str = ""
    status_at: tuple[str, ...] = ()
    stops: Mapping[str, Stop]
    memory_mb: int = 1024
    pids: int = 128


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


CLAUDE_CODE = Agent(
    name="claude-code",
    version="2.1.330",
    registry="npm",
    packages=("@anthropic-ai/claude-code@2.1.330",),  # a program of its own, no Node needed
    dialect="anthropic",
    argv=(
        *("{bin}/claude", "--print", "{task}", "--output-format", "json", "--dangerously-skip-permissions"),
        *("--strict-mcp-config", "--setting-sources", ""),
    ),
    env={
        "ANTHROPIC_BASE_URL": "{root_url}",
        "ANTHROPIC_AUTH_TOKEN": "{api_key}",
        "ANTHROPIC_MODEL": "{model}",
        "ANTHROPIC_DEFAULT_HAIKU_MODEL": "{model}",
        "IS_SANDBOX": "1",  # it asks for no permissions, as root too
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_CODE_ATTRIBUTION_HEADER": "0",  # else a digest of the task stands before everything shared
        "DISABLE_AUTOUPDATER": "1",
    },
    status_at=("subtype",),
    stops={"success": Stop.SUBMITTED, "error_max_turns": Stop.TURN_LIMIT},
    memory_mb=2048,
    pids=256,
)
_NODE = "node@24.21.0"  # what the others run on, whatever the machine has
CODEX = Agent(
    name="codex",
    version="0.169.0",
    registry="npm",
    packages=(_NODE, "@openai/codex@0.169.0"),
    dialect="openai_responses",
    argv=(
        "{bin}/node",
        "{bin}/codex",
        "exec",
        "--dangerously-bypass-approvals-and-sandbox",
        "--skip-git-repo-check",
        "{task}",
    ),
    env={"PALMETTE_KEY": "{api_key}"},
    files={
        ".codex/config.toml": """\
model = "{model}"
model_provider = "palmette"
check_for_update_on_startup = false

[model_providers.palmette]
name = "palmette"
base_url = "{base_url}"
env_key = "PALMETTE_KEY"
wire_api = "responses"

[analytics]
enabled = false
"""
    },
    stops={"0": Stop.SUBMITTED},
    memory_mb=2048,
    pids=256,
)
_OPENCODE_JSON = """\
{"model": "palmette/{model}", "small_model": "palmette/{model}", "autoupdate": false, "share": "disabled",
 "provider": {"palmette": {"npm": "@ai-sdk/openai-compatible", "name": "palmette",
  "options": {"baseURL": "{base_url}", "apiKey": "{api_key}"},
  "models": {"{model}": {"name": "{model}", "tool_call": true, "limit": {"context": 200000, "output": 8192}}}}}}
"""
OPENCODE = Agent(
    name="opencode",
    version="1.18.33",
    registry="npm",
    packages=("opencode-ai@1.18.33",),  # a program of its own, no Node needed
    dialect="openai_chat",
    argv=("{bin}/opencode", "run", "--model", "palmette/{model}", "{task}"),
    env={"PALMETTE_KEY": "{api_key}", "OPENCODE_DISABLE_AUTOUPDATE": "1"},
    files={".config/opencode/opencode.json": _OPENCODE_JSON},
    stops={"0": Stop.SUBMITTED},
    memory_mb=3072,
    pids=256,
)
KILO = Agent(
    name="kilo",
    version="7.7.7",
    registry="npm",
    packages=(_NODE, "@kilocode/cli@7.7.7"),
    dialect="openai_chat",
    argv=("{bin}/node", "{bin}/kilo", "run", "--auto", "--model", "palmette/{model}", "{task}"),
    files={".config/kilo/opencode.json": _OPENCODE_JSON},
    stops={"0": Stop.SUBMITTED},
    memory_mb=3072,
    pids=256,
)
OPENCLAW = Agent(
    name="openclaw",
    version="2026.9.6",
    registry="npm",
    packages=(_NODE, "openclaw@2026.9.6"),
    dialect="openai_chat",
    argv=(
        *("{bin}/node", "{bin}/openclaw", "agent", "--local", "--session-id", "palmette", "--json"),
        *("--message", "{task}"),
    ),
    files={
        ".openclaw/openclaw.json": """\
{"models": {"mode": "merge", "providers": {"palmette": {"baseUrl": "{base_url}", "apiKey": "{api_key}",
  "api": "openai-completions", "models": [{"id": "{model}", "name": "{model}", "reasoning": false, "input": ["text"],
   "cost": {"input": 0, "output": 0, "cacheRead": 0, "cacheWrite": 0}, "contextWindow": 200000, "maxTokens": 8192}]}}},
 "agents": {"defaults": {"model": {"primary": "palmette/{model}"}, "workspace": "/app"}}}
"""
    },
    stops={"0": Stop.SUBMITTED},
    memory_mb=4096,
    pids=256,
)
GEMINI_CLI = Agent(
    name="gemini-cli",
    version="0.61.0",
    registry="npm",
    packages=(_NODE, "@google/gemini-cli@0.61.0"),
    dialect="gemini",
    argv=("{bin}/node", "{bin}/gemini", "--yolo", "--skip-trust", "-m", "gemini-2.5-pro", "-p", "{task}"),
    env={"GEMINI_API_KEY": "{api_key}", "GOOGLE_GEMINI_BASE_URL": "{root_url}"},
    files={
        ".gemini/settings.json": """\
{"security": {"auth": {"selectedType": "gemini-api-key"}}, "privacy": {"usageStatisticsEnabled": false},
 "general": {"enableAutoUpdate": false}}
"""
    },
    stops={"0": Stop.SUBMITTED},
    memory_mb=3072,
    pids=256,
)
AGENTS: dict[str, Agent] = {
    agent.name: agent for agent in (MINI_SWE_AGENT, CLAUDE_CODE, CODEX, OPENCODE, KILO, GEMINI_CLI, OPENCLAW)
}


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

    async def run(self, instruction: str, sandbox: Sandbox, endpoint: Endpoint) -> Stop:
        """Let the agent work until it exits. Raises `SandboxError`, also when the agent cannot be started."""
        words = {
            "base_url": endpoint.base_url,
            "root_url": endpoint.base_url.removesuffix("/v1"),
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
        return self._stop(await self._status(sandbox, _filled(self.agent.status_file, words), result))

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


def _filled(template: str, words: Mapping[str, str]) -> str:
    """Return the template with {word} replaced for the words that are known; other braces stay, as in JSON."""
    return re.sub(r"\{(\w+)\}", lambda match: words.get(match[1], match[0]), template)


def _last_line(result: Result) -> str:
    lines = (result.stdout + result.stderr).decode(errors="replace").strip().splitlines()
    return f"exit {result.exit_code}: {lines[-1] if lines else 'no output'}"
