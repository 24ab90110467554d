"""mini-swe-agent as it comes from PyPI, in a real sandbox whose only network is the gateway."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from palmette.chat.template import Renderer
from palmette.engine.api import Sampling
from palmette.engine.scripted import ScriptedEngine
from palmette.errors import UserError
from palmette.gateway.app import Gateway
from palmette.registry import UNREACHABLE
from palmette.sandbox.api import Limits, Spec
from palmette.sandbox.namespace import NamespaceHost
from palmette.scaffolds.api import Endpoint, Stop
from palmette.scaffolds.cli_agents import AGENT_HOME, CliAgent
from palmette.scaffolds.install import install, installed, readonly_paths
from palmette.scaffolds.roster import AGENTS

MINI_SWE_AGENT = AGENTS["mini-swe-agent"]
TASK = 'Write the word "palmette" in capitals to answer.txt; mind {braces} and $HOME.'


@pytest.fixture(scope="module")
def mini() -> CliAgent:
    try:
        install(MINI_SWE_AGENT)
    except UserError as error:
        if UNREACHABLE in str(error):
            pytest.skip(str(error))
        raise
    return CliAgent(MINI_SWE_AGENT, timeout_s=200)


@pytest.mark.slow
@pytest.mark.timeout(900)  # installing takes a minute on an idle machine, importing LiteLLM twenty seconds
async def test_it_solves_a_task_and_every_token_is_recorded(
    mini: CliAgent,
    open_gateway: Callable[..., Awaitable[Gateway]],
    say: Callable[..., list[int]],
    renderer: Renderer,
) -> None:
    turns = [
        say("I look around.", ("bash", {"command": "pwd; ls -a"}), ("bash", {"command": "echo $HOME >&2; exit 3"})),
        say("I forgot to call a tool."),
        say("", ("bash", {"command": "echo palmette | tr a-z A-Z > answer.txt && cat answer.txt"})),
        say("Done.", ("bash", {"command": "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"})),
    ]
    engine = ScriptedEngine(turns)
    gateway = await open_gateway(engine)
    session = gateway.open_session(Sampling(max_tokens=500))
    host = NamespaceHost()
    try:
        sandbox = await host.start(
            Spec(
                owner="test/mini",
                readonly=mini.readonly,
                limits=Limits(memory_mb=mini.memory_mb, pids=mini.pids),
                gateway=(gateway.host, gateway.port),
                env={"PYTHONPATH": "/nowhere"},
            )
        )
        assert sandbox.gateway_url is not None
        endpoint = Endpoint(base_url=sandbox.gateway_url + session.base_url, api_key=session.key)
        stop = await mini.run(TASK, sandbox, endpoint)
        assert stop is Stop.SUBMITTED
        assert await sandbox.read("answer.txt") == b"PALMETTE\n"
        listed = await sandbox.exec(["ls", "-A"])
        assert listed.stdout == b"answer.txt\n", "the agent's own files stay out of the work directory"
    finally:
        await host.close()

    assert (session.turns, session.failure) == (4, None)
    assert session.sampled_tokens == sum(len(turn) for turn in turns)
    # What was put before the engine and what it said, call by call, is on a path of the tree; nothing else is.
    recorded = {tuple(branch.token_ids.tolist()) for branch in session.tree.branches()}
    calls = [(*prompt, *turn) for prompt, turn in zip(engine.calls, turns, strict=True)]
    assert recorded == {calls[1], calls[3]}  # the turn without a call was dropped by the agent: a leaf of its own
    assert calls[2] == calls[3][: len(calls[2])]
    opened = len(engine.calls[1]) - len(renderer.encode("<|im_start|>assistant\n"))
    assert engine.calls[2][:opened] == engine.calls[1][:opened]  # ...and the next request extends the previous prompt
    assert engine.calls[1][: len(calls[0])] == calls[0]
    leaf_turns = {
        tuple(branch.token_ids.tolist()): [tuple(branch.token_ids[a:b].tolist()) for a, b in branch.turns]
        for branch in session.tree.branches()
    }
    assert leaf_turns[calls[1]] == [tuple(turns[0]), tuple(turns[1])]
    assert leaf_turns[calls[3]] == [tuple(turns[0]), tuple(turns[2]), tuple(turns[3])]
    last = renderer.decode(engine.calls[3])
    assert TASK in last
    assert f"{AGENT_HOME}\\n" in last, "HOME is the agent's own"
    assert "PALMETTE" in last


def test_its_environment_is_its_own(mini: CliAgent) -> None:
    home = installed(MINI_SWE_AGENT)
    assert home == install(MINI_SWE_AGENT)
    assert home is not None
    assert home not in Path(sys.prefix).parents
    assert (home / "complete").read_text().split() == list(MINI_SWE_AGENT.pins)
    assert readonly_paths(MINI_SWE_AGENT)[0] == str(home)
