"""Side services: started beside the agent's sandbox, reached by tools, judged by a state that nobody can forge."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from palmette.chat.message import Message, Tool, ToolCall
from palmette.envs.api import Draft, ServiceTool, Step, Task
from palmette.envs.attacks import Attack
from palmette.envs.check import check_tasks
from palmette.envs.grade import Grader
from palmette.envs.services import opened, start_services
from palmette.envs.task import load_steps, load_task, write_task
from palmette.errors import UserError
from palmette.rollout.demonstrate import turn_of
from palmette.rollout.offer import offer_of
from palmette.sandbox.api import SandboxError, SandboxLost
from palmette.sandbox.fake import FakeHost
from palmette.sandbox.hosts import open_host
from palmette.scaffolds.loop import act, toolset

SERVE = """
import http.server, json, os
STATE = os.environ["STATE"]
kept = {}
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer(200, "ready")
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path == "/tools/keep":
            kept[asked["key"]] = asked["value"]
            with open(STATE + "/kept.json", "w") as file:
                json.dump(kept, file, sort_keys=True)
            self.answer(200, f"kept {asked['key']}\\n")
        elif self.path == "/tools/look":
            self.answer(200 if asked["key"] in kept else 404, str(kept.get(asked["key"], "error: no such key")))
        elif self.path == "/tools/die":
            os._exit(3)
        elif self.path == "/tools/fail":
            self.answer(500, "a bug")
        elif asked["text"] == "bye":
            self.answer(204, "")
        else:
            self.answer(200, asked["text"].upper())
    def answer(self, status, text):
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""
TEST = """#!/bin/sh
if [ "$(cat /services/store/kept.json)" = '{"n": 7, "word": "ka vo"}' ] && [ ! -e /app/kept.json ]
then echo 1; else echo 0; fi > /logs/verifier/reward.txt
"""
ATTACKS = [
    Attack(name="forge", says="writes the state itself", script="mkdir -p /services/store; echo x > /services/store/k"),
    Attack(
        name="look",
        says="looks for the state and the service's files",
        script="""grep -rl 'ka vo' / --include=kept.json --include=serve.py 2>/dev/null > found
            for port in 1 22 80 3128 8081; do
                python3 -c "import socket; socket.create_connection(('127.77.1.1', $port))" && echo $port >> found
            done
            [ -s found ] && keep word 'ka vo' && keep n 7; rm found""",
    ),
]


def tool(name: str, **properties: str) -> ServiceTool:
    parameters = {
        "type": "object",
        "properties": {key: {"type": kind} for key, kind in properties.items()},
        "required": list(properties),
    }
    return ServiceTool(tool=Tool(name=name, description=f"{name} something", parameters=parameters), service="store")


def draft(**changes: Any) -> Draft:
    steps = (
        Step(tool="keep", arguments={"key": "word", "value": "ka vo"}, observation="kept word"),
        Step(tool="look", arguments={"key": "word"}, observation="ka vo"),
        Step(tool="say", arguments={"text": "it's kept"}, observation="IT'S KEPT"),
        Step(tool="bash", arguments={"command": "keep --value=7 --key n"}, observation="kept n"),
        Step(tool="submit", arguments={}, observation="submitted"),
    )
    plain = Draft(
        name="services/1",
        domain="general",
        instruction="Keep the word.",
        files={".keep": ""},
        test_files={"test.sh": TEST},
        steps=steps,
        tier=1,
        split="train",
        skills=(),
        services={"store": {"serve.py": SERVE}},
        tools=(tool("keep", key="string", value="string"), tool("look", key="string"), tool("die"), tool("fail")),
        user="store",
        system="You keep words.",
    )
    numbers = (tool("keep", key="string", value="number"), *plain.tools[1:])
    return replace(plain, tools=numbers, **changes)


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return write_task(draft(), tmp_path / "task")


@pytest.fixture(scope="module")
async def host() -> AsyncIterator[Any]:
    host = open_host("namespace")
    yield host
    await host.close()


def test_a_task_with_services_is_read_as_it_was_written(task: Task):
    assert task.services == ("store",)
    assert task.tools == draft().tools
    assert (task.user, task.system, task.shell) == ("store", "You keep words.", True)
    assert load_steps(task) == draft().steps
    offer = offer_of(task)
    assert [each.name for each in toolset(offer)] == ["bash", "edit", "submit", "keep", "look", "die", "fail"]
    assert "- keep KEY VALUE: keep something\n" in offer.manual
    assert "- say TEXT: " in offer.manual


def test_a_task_may_have_no_shell(tmp_path: Path):
    task = write_task(draft(shell=False), tmp_path / "task")
    assert [each.name for each in toolset(offer_of(task))] == ["submit", "keep", "look", "die", "fail"]


async def test_the_reference_goes_by_scripts_and_attacks_earn_nothing(task: Task, host: Any):
    (report,) = await check_tasks([task], host, attacks=lambda _: ATTACKS, repeats=2)
    assert report.ok, report.reason
    assert [trial.reward for trial in report.trials] == [0.0, 1.0, 1.0, 0.0, 0.0]


async def test_the_reference_goes_by_calls(task: Task, host: Any):
    async with opened(task, host, owner="test") as (sandbox, services):
        offer = offer_of(task, services)
        for number, step in enumerate(load_steps(task)):
            turn = turn_of(step, number)
            if not turn.tool_calls:
                assert turn == Message(role="assistant", content="it's kept")
                assert offer.say
                assert await offer.say(turn.content) == step.observation
                assert await offer.say("bye") is None
                continue
            assert await act(turn.tool_calls[0], sandbox, offer=offer) == step.observation
        assert (await Grader(host).grade(task, sandbox, services)).reward == 1.0
        wrong = ToolCall(id="c", name="keep", arguments={"value": 1})
        assert await act(wrong, sandbox, offer=offer) == "error: keep needs the argument key"
        unknown = ToolCall(id="c", name="look", arguments={"key": "zz"})
        assert await act(unknown, sandbox, offer=offer) == "error: no such key"
        assert (await sandbox.exec("look zz")).exit_code == 1
        assert (await sandbox.exec("look a b")).stderr == b"usage: look KEY\n"
        assert (await sandbox.exec("say hello")).stdout == b"HELLO\n"
        asked = await sandbox.exec("curl -s $SERVICE_STORE/health || echo ready")  # where there is no curl
        assert asked.stdout.strip() == b"ready"
        other = ToolCall(id="c", name="keep", arguments={"key": "n", "value": 8})
        assert await act(other, sandbox, offer=offer) == "kept n"
        assert (await Grader(host).grade(task, sandbox, services)).reward == 0.0
        await services.detach()
        assert (await sandbox.exec("look word")).exit_code == 1
        assert await services.call("look", {"key": "word"}) == "ka vo"


async def test_the_agent_may_not_see_what_its_services_are(task: Task, host: Any):
    async with opened(task, host, owner="test") as (sandbox, services):
        assert (await sandbox.exec("ls /service /services")).exit_code == 2
        assert b"serve" not in (await sandbox.exec("ps -ef 2>/dev/null || cat /proc/[0-9]*/cmdline")).stdout
        await services.call("keep", {"key": "a", "value": 1})
        assert (await sandbox.exec("find / -name kept.json 2>/dev/null")).stdout == b""


async def test_what_a_service_does_wrong_is_no_reward(task: Task, host: Any):
    grader = Grader(host)
    async with opened(task, host, owner="test") as (sandbox, services):
        with pytest.raises(SandboxError, match=r"^service store answered /tools/fail with 500: a bug$"):
            await services.call("fail", {})
        with pytest.raises(SandboxError, match="service store"):
            await services.call("die", {})
        await asyncio.sleep(0.05)
        with pytest.raises(SandboxLost, match=r"service store ended \(exited 3\)"):
            await services.call("look", {"key": "a"})
        with pytest.raises(SandboxLost, match="ended"):
            await grader.grade(task, sandbox, services)


async def test_a_service_that_does_not_start_says_why(tmp_path: Path, host: Any):
    broken = draft(services={"store": {"serve.py": "import nothing_of_that_name\n"}})
    task = write_task(broken, tmp_path / "task")
    with pytest.raises(SandboxLost, match=r"^service store ended \(exited 1\): .*nothing_of_that_name"):
        await start_services(task, host, owner="test")
    assert await _live(host) == 0


async def test_a_host_without_walls_is_refused(task: Task):
    host = FakeHost()
    with pytest.raises(UserError, match=r"^services/1 has side services, which host 'fake' cannot run; use[^\n]*$"):
        await start_services(task, host, owner="test")
    await host.close()


async def test_nothing_is_left_when_the_start_is_called_off(task: Task, host: Any):
    for wait_s in (0.0, 0.01, 0.03):
        starting = asyncio.ensure_future(start_services(task, host, owner="test"))
        await asyncio.sleep(wait_s)
        starting.cancel()
        services = (await asyncio.gather(starting, return_exceptions=True))[0]
        if not isinstance(services, BaseException):
            await services.close()
        assert await _live(host) == 0


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("environment/tools.json", "{", r"tools.json is not valid JSON"),
        ("environment/tools.json", '{"a": 1}', r"must be a list of tools"),
        ("environment/tools.json", '[{"name": "bash", "service": "store"}]', r"tool 1: a name has .* none of bash"),
        ("environment/tools.json", '[{"name": "x", "service": "y"}]', r"tool 1 \(x\): there is no service 'y'"),
        ("environment/tools.json", '[{"name": "x", "service": "store", "parameters": 3}]', r"must be a JSON schema"),
        ("environment/services/St ore/serve.py", "", r"a service is named as in"),
    ],
)
def test_what_is_wrong_with_a_task_is_said(task: Task, name: str, text: str, says: str):
    (task.path / name).parent.mkdir(exist_ok=True)
    (task.path / name).write_text(text)
    with pytest.raises(UserError, match=says):
        load_task(task.path)


def test_two_tools_of_one_name_and_a_user_that_is_no_service(task: Task):
    path = task.path / "environment" / "tools.json"
    rows = json.loads(path.read_text())
    path.write_text(json.dumps([*rows, rows[0]]))
    with pytest.raises(UserError, match="two tools are named 'keep'"):
        load_task(task.path)
    path.write_text(json.dumps(rows))
    toml = task.path / "task.toml"
    toml.write_text(toml.read_text().replace('user = "store"', 'user = "nobody"'))
    with pytest.raises(UserError, match=r"task.toml:\d+: user must name a service of the task, not 'nobody'"):
        load_task(task.path)


async def _live(host: Any) -> int:
    await asyncio.sleep(0.05)
    return len(host._sandboxes)
