"""One rollout of a command-line agent with a model that knows its part, to see what tree the agent leaves behind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from palmette.chat.template import Renderer
from palmette.engine.api import Engine, Sampling
from palmette.engine.scripted import ScriptedEngine
from palmette.engine.witness import Witness
from palmette.envs.api import Draft, Step, Task
from palmette.envs.grade import Grader
from palmette.envs.task import write_task
from palmette.errors import UserError
from palmette.gateway.app import Gateway
from palmette.gateway.session import Asked
from palmette.model.load import embedded_path
from palmette.rollout.attempt import Attempt
from palmette.rollout.exactness import Exactness, compare
from palmette.rollout.run import Rollout, concluded
from palmette.sandbox.api import Host
from palmette.scaffolds.cli_agents import CliAgent
from palmette.scaffolds.understudy import TEMPLATE, Understudy

INSTRUCTION = "Write the word palmette in capitals to answer.txt; mind {braces} and $HOME."
_SOLUTION = "echo palmette | tr a-z A-Z > answer.txt && cat answer.txt"
_TEST = """\
#!/bin/sh
if [ "$(cat /app/answer.txt)" = PALMETTE ]; then echo 1; else echo 0; fi > /logs/verifier/reward.txt
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """What came of it: the rollout, its requests in the order they came, and its tree beside the engine's account."""

    rollout: Rollout
    requests: tuple[Asked, ...]
    exactness: Exactness

    @property
    def calls(self) -> Counter[str]:
        """How often each tool was called."""
        said = (message.get("tool_calls", ()) for message in self.rollout.conversation if "leaf" in message)
        return Counter(call["name"] for calls in said for call in calls)


def write_rehearsal(directory: Path, instruction: str = INSTRUCTION) -> Task:
    """Write a task that takes one command, and return it. Raises `UserError` when the directory exists already."""
    step = Step(tool="bash", arguments={"command": _SOLUTION}, observation="PALMETTE")
    draft = Draft(
        name="palmette/rehearsal",
        domain="terminal",
        instruction=instruction,
        files={},
        test_files={"test.sh": _TEST},
        steps=(step, Step(tool="submit", arguments={}, observation="")),
        tier=1,
        split="train",
        skills=(),
    )
    return write_task(draft, directory)


def understood(agent: CliAgent, task: Task) -> tuple[Engine, Renderer]:
    """Return a scripted engine that solves the task as its reference solution does, and what renders its prompts.

    Raises `UserError` for a task without one.
    """
    solution = task.path / "solution" / "solve.sh"
    if not solution.is_file():
        raise UserError(f"{solution} is missing; it is what a scripted model runs, so try with --engine local")
    renderer = understudy_renderer()
    command = _command(solution.read_text(encoding="utf-8"))
    return ScriptedEngine(Understudy(agent.agent, [command], renderer)), renderer


def understudy_renderer() -> Renderer:
    """Return the embedded model's tokenizer with a template whose prompts an understudy can read."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(embedded_path()), local_files_only=True)
    tokenizer.chat_template = TEMPLATE
    return Renderer(tokenizer, embedded_path())


async def rehearse(
    agent: CliAgent,
    task: Task,
    engine: Engine,
    renderer: Renderer,
    host: Host,
    *,
    sampling: Sampling,
    on_answer: Callable[[], None] | None = None,
) -> Rehearsal:
    """Let the agent attempt the task once with the engine's model; closes everything but engine and host."""
    witness = Witness(engine, on_answer)
    gateway = Gateway(witness, renderer)
    await gateway.start()
    try:
        attempt = Attempt(task, agent, gateway)
        async with attempt:
            await attempt.start(host, sampling)
            offer = attempt.offer
            await attempt.work(lambda sandbox, endpoint: agent.run(task.instruction, sandbox, endpoint, offer=offer))
            await attempt.grade(Grader(host))
    finally:
        await gateway.close()
    return Rehearsal(
        rollout=concluded(attempt, group=0, sample=0, number=1),
        requests=tuple(attempt.session.requests) if attempt.session else (),
        exactness=compare(attempt.tree, witness.calls, attempt.turns),
    )


def _command(script: str) -> str:
    """Return a script as one command: of one line as it is, else for a shell of its own, which it may end."""
    lines = [line for line in script.splitlines() if line and not line.startswith(("#", "set -e", "cd /app"))]
    return lines[0] if len(lines) == 1 else f"sh -s <<'PALMETTE'\n{script.rstrip()}\nPALMETTE"
