"""Command-line agents as they come from npm, each in a real sandbox whose only network is the gateway."""

from __future__ import annotations

import os
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from palmette.engine.api import Sampling
from palmette.engine.scripted import ScriptedEngine
from palmette.errors import UserError
from palmette.gateway.app import Gateway
from palmette.registry import UNREACHABLE
from palmette.sandbox.api import Limits, Spec
from palmette.sandbox.namespace import NamespaceHost
from palmette.scaffolds.api import Endpoint, Stop
from palmette.scaffolds.cli_agents import CliAgent
from palmette.scaffolds.install import install, installed
from palmette.scaffolds.roster import AGENTS

TASK_END = "in capitals to answer.txt; mind {braces} and $HOME."
TASK = f"- Write the word palmette {TASK_END}"  # a dash, as of a list, is no option of the agent's
WRITE = "echo palmette | tr a-z A-Z"
ALWAYS = ("claude-code",)  # the others are tested where they are installed already, or where somebody asks for it
Turn = tuple[str, list[tuple[str, dict[str, Any]]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What a scripted model says to one agent, and what becomes of it."""

    turns: list[Turn]
    branches: int  # but for those of side requests
    litters: bool = False  # whether it writes files of its own into the work directory
    side: str = ""  # words of a side request's prompt, which is answered by "A title"


CASES: dict[str, Case] = {
    "claude-code": Case(
        turns=[
            ("I look around.", [("Bash", {"command": "pwd; ls -a", "description": "look"})]),
            ("", [("Write", {"file_path": "/app/answer.txt", "content": "palmette\n"}), ("Bash", {"command": "id"})]),
            ("", [("Edit", {"file_path": "/app/answer.txt", "old_string": "palmette", "new_string": "PALMETTE"})]),
            ("Done.", []),
        ],
        branches=1,  # although the Edit turn comes back with a default in front
    ),
    "codex": Case(
        turns=[
            ("I look around.", [("exec_command", {"cmd": "pwd; ls -a"})]),
            ("", [("exec_command", {"cmd": f"{WRITE} > answer.txt"}), ("exec_command", {"cmd": "id"})]),
            ("Done.", []),
        ],
        branches=1,
    ),
    "opencode": Case(
        turns=[
            ("I look around.", [("bash", {"command": "pwd; ls -a", "description": "look"})]),
            ("", [("bash", {"command": f"{WRITE} > answer.txt", "description": "write"}), ("bash", {"command": "id"})]),
            ("Done.", []),
        ],
        branches=1,
        side="You are a title generator",
    ),
    "kilo": Case(
        turns=[
            ("I look around.", [("bash", {"command": "pwd; ls -a", "description": "look"})]),
            ("", [("bash", {"command": f"{WRITE} > answer.txt", "description": "write"}), ("bash", {"command": "id"})]),
            ("Done.", []),
        ],
        branches=1,
        side="You are a title generator",  # its last request
    ),
    "openclaw": Case(
        turns=[
            ("I look around.", [("exec", {"command": "pwd; ls -a"})]),
            ("", [("exec", {"command": f"{WRITE} > answer.txt"}), ("exec", {"command": "id"})]),
            ("Done.", []),
        ],
        branches=3,  # the message at the tail is another one each time: a leaf a request
        litters=True,
    ),
    "gemini-cli": Case(
        turns=[
            ("I look around.", [("run_shell_command", {"command": "pwd; ls -a"})]),
            ("", [("write_file", {"file_path": "/app/answer.txt", "content": "palmette\n"})]),
            ("", [("run_shell_command", {"command": f"{WRITE} > answer.txt"}), ("read_file", {"file_path": "/app/x"})]),
            ("Done.", []),
        ],
        branches=1,
    ),
}


@pytest.fixture(params=list(CASES))
def agent(request: pytest.FixtureRequest) -> CliAgent:
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    wanted = request.param in ALWAYS or os.environ.get("PALMETTE_TEST_AGENTS")
    if not wanted and installed(AGENTS[request.param]) is None:
        pytest.skip(f"{request.param} is not installed; PALMETTE_TEST_AGENTS=1 installs it (hundreds of MiB)")
    try:
        install(AGENTS[request.param])
    except UserError as error:
        if UNREACHABLE in str(error):
            pytest.skip(str(error))
        raise
    return CliAgent(AGENTS[request.param], timeout_s=200)


@pytest.mark.slow
@pytest.mark.timeout(900)  # installing downloads hundreds of MiB
async def test_it_solves_a_task_and_every_token_is_recorded(
    agent: CliAgent, open_gateway: Callable[..., Awaitable[Gateway]], say: Callable[..., list[int]], renderer: Any
) -> None:
    case = CASES[agent.name]
    left = [say(text, *calls) for text, calls in case.turns]
    answered: list[tuple[tuple[int, ...], list[int]]] = []  # of the main requests: prompt and answer
    sides: list[tuple[int, ...]] = []

    def script(prompt: Any) -> list[int]:
        if case.side and case.side in renderer.decode(prompt):
            sides.append(tuple(prompt))
            return title
        answered.append((tuple(prompt), left.pop(0)))
        return answered[-1][1]

    title = say("A title")
    engine = ScriptedEngine(script)
    gateway = await open_gateway(engine)
    session = gateway.open_session(Sampling(max_tokens=2000))
    host = NamespaceHost()
    try:
        sandbox = await host.start(
            Spec(
                owner=f"test/{agent.name}",
                readonly=agent.readonly,
                limits=Limits(memory_mb=agent.memory_mb, pids=agent.pids),
                gateway=(gateway.host, gateway.port),
            )
        )
        assert sandbox.gateway_url is not None
        endpoint = Endpoint(base_url=sandbox.gateway_url + session.base_url, api_key=session.key)
        stop = await agent.run(TASK, sandbox, endpoint)
        assert stop is Stop.SUBMITTED
        assert (await sandbox.read("answer.txt")).strip() == b"PALMETTE"
        listed = await sandbox.exec(["ls", "-A"])
        assert case.litters or listed.stdout == b"answer.txt\n", "its own files stay out of the work directory"
    finally:
        await host.close()

    assert not left
    told = session.turns - len(answered)  # side requests; an agent may be gone before its last one is answered
    assert 0 <= told <= len(sides)
    calls = {(*prompt, *said) for prompt, said in [*answered, *((prompt, title) for prompt in sides)]}
    branches = {tuple(branch.token_ids.tolist()): branch for branch in session.tree.branches()}
    assert len(session.tree.branches()) == case.branches + told
    assert set(branches) <= calls, "nothing but what the engine was given and said"
    for prompt, said in answered:
        whole, span = (*prompt, *said), (len(prompt), len(prompt) + len(said))
        assert any(span in branch.turns for path, branch in branches.items() if path[: span[1]] == whole)
    assert session.sampled_tokens == sum(len(said) for _, said in answered) + told * len(title)
    assert TASK_END in renderer.decode(answered[-1][0]), "nothing in the task was taken for a template"
