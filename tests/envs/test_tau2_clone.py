"""Proves: a row of tau2's form runs on its authors' code out of a clone: gold actions score 1, nothing, too little, too
much and the untold score 0; the caller answers by rules; what cannot be decided is refused.

The clone is one of our own in the same shape, so that nothing has to be installed."""

import json
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from palmette.envs import clones
from palmette.envs.check import check_tasks
from palmette.envs.grade import Grader
from palmette.envs.importers.names import import_tasks
from palmette.envs.importers.tau2_service.customer import Customer, own
from palmette.envs.importers.tau2_service.settle import fault, fits
from palmette.envs.services import opened
from palmette.errors import UserError
from palmette.sandbox.hosts import open_host

CLONE = {
    "pyproject.toml": '[project]\nname = "tau2"\nrequires-python = ">=3.11"\ndependencies = []\n',
    "src/tau2/__init__.py": "raise ImportError('the package as a whole is not to be imported')\n",
    "src/tau2/domains/__init__.py": "",
    "src/tau2/domains/shop/__init__.py": "",
    "src/tau2/data_model/message.py": """
        class ToolCall:
            def __init__(self, id, name, arguments, requestor):
                self.name, self.arguments, self.requestor = name, arguments, requestor
        """,
    "src/tau2/data_model/tasks.py": """
        from types import SimpleNamespace


        class Task:
            @staticmethod
            def model_validate(row):
                if row["id"] == "odd":
                    raise ValueError("no such task")
                criteria = SimpleNamespace(env_assertions=row["evaluation_criteria"]["env_assertions"])
                return SimpleNamespace(evaluation_criteria=criteria, initial_state=None)
        """,
    "src/tau2/domains/shop/environment.py": """
        import json
        import os
        from types import SimpleNamespace


        def schema(name, *arguments):
            properties = {each: {"type": "string"} for each in arguments}
            parameters = {"type": "object", "properties": properties, "required": list(arguments)}
            return {"type": "function", "function": {"name": name, "description": name, "parameters": parameters}}


        class Kit:
            def __init__(self, db, **tools):
                self.db, self.kinds = db, tools

            def has_tool(self, name):
                return name in self.kinds

            def tool_type(self, name):
                return SimpleNamespace(value=self.kinds[name][0])

            def get_tools(self):
                return {n: SimpleNamespace(openai_schema=schema(n, *a)) for n, (_, *a) in self.kinds.items()}


        class Environment:
            def __init__(self):
                with open(os.path.join(os.environ["TAU2_DATA_DIR"], "tau2/domains/shop/db.json")) as file:
                    self.orders = json.load(file)
                self.phone = {"radio": "off"}
                self.tools = Kit(self.orders, get_order=("read", "id"), cancel=("write", "id"))
                self.user_tools = Kit(self.phone, toggle_radio=("write",))

            def get_policy(self):
                return "Cancel what is asked for."

            def get_tools(self):
                return list(self.tools.get_tools().values())

            def set_state(self, data, actions, history):
                assert not history

            def get_db_hash(self):
                return json.dumps(self.orders, sort_keys=True)

            def get_user_db_hash(self):
                return json.dumps(self.phone)

            def run_env_assertion(self, assertion, raise_assertion_error):
                return self.phone["radio"] == assertion["radio"]

            def get_response(self, call):
                if call.requestor == "user":
                    self.phone["radio"] = "on" if self.phone["radio"] == "off" else "off"
                    return SimpleNamespace(content=f"Radio is now {self.phone['radio'].upper()}")
                if call.name == "cancel":
                    self.orders[call.arguments["id"]]["state"] = "cancelled"
                return SimpleNamespace(content=json.dumps(self.orders[call.arguments["id"]]))


        def get_environment():
            return Environment()
        """,
    "data/tau2/domains/shop/db.json": '{"#1": {"state": "open", "price": 1250}, "#2": {"state": "open", "price": 3}}',
}
SCENARIO = {
    "reason_for_call": "You want to cancel your order #1. You wish to know its price.",
    "known_info": "You are Ana Roe.",
    "unknown_info": "You do not remember your email address.",
    "task_instructions": "If refused, you accept it.",
}
CANCEL = {"action_id": "1", "name": "cancel", "arguments": {"id": "#1"}}
RADIO = {"action_id": "2", "requestor": "user", "name": "toggle_radio", "arguments": {}}


def row(key: str, **criteria: Any) -> dict[str, Any]:
    return {"id": key, "user_scenario": {"instructions": SCENARIO}, "evaluation_criteria": criteria}


def clone_with(root: Path, *rows: object) -> Path:
    """Write a clone below `root` and return its file of tasks."""
    for name, text in CLONE.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(dedent(text))
    file = root / "data/tau2/domains/shop/tasks.json"
    file.write_text(json.dumps(rows))
    return file


async def test_rows_run_on_the_code_of_a_clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clones, "cache_dir", lambda *parts: tmp_path.joinpath("cache", *parts))
    told = {
        "actions": [CANCEL],
        "communicate_info": ["1250"],
        "reward_basis": ["DB", "NL_ASSERTION"],
        "nl_assertions": ["x"],
    }
    radio = {"actions": [RADIO], "env_assertions": [{"radio": "on"}], "reward_basis": ["ENV_ASSERTION", "ACTION"]}
    file = clone_with(
        tmp_path / "clone",
        row("cancel", **told),
        row("radio", **radio),
        row("odd", **told),
        row("deaf", **{**radio, "actions": []}),
        row("judged", actions=[], reward_basis=["NL_ASSERTION"]),
        {**row("late", **told), "initial_state": {"message_history": [{"role": "user", "content": "Hi"}]}},
    )
    imported = import_tasks("tau2", file, tmp_path / "out", clones=tmp_path / "clone")
    assert [why.partition(": ")[2][:40] for why in imported.refused] == [
        "tau2's own code refuses it: ValueError: ",
        "its own gold actions do not reach its go",
        "is judged by a model alone (NL_ASSERTION",
        "goes on from an earlier conversation (me",
    ]
    cancel, radio_on = imported.tasks
    assert cancel.instruction == "I want to cancel my order #1. I wish to know its price."
    assert "Cancel what is asked for." in cancel.system
    assert [each.tool.name for each in cancel.tools] == ["get_order", "cancel"]
    shipped = "".join(p.read_text() for p in (cancel.path / "environment").rglob("*") if p.is_file())
    assert "3}" not in shipped
    assert "1250" not in shipped
    (kept,) = (tmp_path / "cache").iterdir()
    assert not list(kept.rglob("tasks.json"))

    host = open_host("namespace")
    reports = await check_tasks(imported.tasks, host, concurrency=2)
    assert [report.reason for report in reports] == ["ok", "ok"]
    grader = Grader(host)
    tries = {
        "untold": [("cancel", {"id": "#1"}), ("say", "Done.")],
        "too little": [("get_order", {"id": "#1"}), ("say", "It was 1,250.")],
        "too much": [("cancel", {"id": "#1"}), ("cancel", {"id": "#2"}), ("say", "It was 1,250.")],
        "as asked": [("cancel", {"id": "#1"}), ("say", "It was 1,250.")],
    }
    rewards = {}
    for name, steps in tries.items():
        async with opened(cancel, host, owner="test") as (sandbox, services):
            for tool, given in steps:
                await (services.say(given) if tool == "say" else services.call(tool, given))  # type: ignore[arg-type]
            rewards[name] = (await grader.grade(cancel, sandbox, services)).reward
    assert rewards == {"untold": 0.0, "too little": 0.0, "too much": 0.0, "as asked": 1.0}
    async with opened(radio_on, host, owner="test") as (sandbox, services):
        assert await services.say("Please turn off the radio.") == "Radio is now OFF"
        assert "assertion 1" in (await grader.grade(radio_on, sandbox, services)).detail
        assert await services.say("Please turn the radio on.") == "Radio is now ON"
        assert (await grader.grade(radio_on, sandbox, services)).reward == 1.0
    await host.close()


def test_what_is_no_clone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no clone of tau2-bench"):
        import_tasks("tau2", tmp_path / "tasks.json", tmp_path / "out", clones=tmp_path)
    note = tmp_path / clones.NOTE
    note.write_text('{"key": "none", "of": "tau2-bench"}')
    with pytest.raises(UserError, match="import the tasks again with --clone"):
        clones.kept(note)


def test_the_caller_answers_what_is_asked_and_hangs_up_when_all_is_said() -> None:
    caller = Customer(SCENARIO)
    assert caller.hear("May I have your name and email address, please?").startswith("I am Ana Roe. I do not remember")
    assert caller.hear("Which order do you mean?") == "I want to cancel my order #1."
    assert caller.hear("I will cancel it. Shall I proceed?") == "Yes, please go ahead."
    assert caller.hear("I cannot do that.") == "If refused, I accept it."
    assert not caller.over
    caller.hear("It is done.")
    assert caller.over
    assert own("You are told that your bag follows you; tell you?") == "I am told that my bag follows I; tell me?"


GRANT = {"name": "grant_app_permission", "parameters": {"properties": {"app_name": {}, "permission": {}}}}


@pytest.mark.parametrize(
    ("asked", "done"),
    [
        ('Please allow the app permission: "messaging" "sms".', [{"app_name": "messaging", "permission": "sms"}]),
        ("Please grant the app permission.", []),
        ("Your permission is granted.", []),
    ],
)
def test_the_caller_uses_a_tool_only_when_told_to_and_how(asked: str, done: list[dict[str, str]]) -> None:
    caller, acts = Customer("Your phone is odd."), list[dict[str, str]]()
    caller.meet([GRANT], lambda _, arguments: acts.append(arguments) or "granted")
    caller.hear(asked)
    assert acts == done


def test_actions_are_compared_by_the_arguments_that_count() -> None:
    action = {"requestor": "assistant", "name": "pay", "arguments": {"id": 1, "note": "x"}}
    assert fits(action, {"tool": "pay", "arguments": {"id": 1, "note": "x"}})
    assert not fits(action, {"tool": "pay", "arguments": {"id": 2, "note": "x"}})
    assert fits({**action, "compare_args": ["id"]}, {"tool": "pay", "arguments": {"id": 1, "note": "y"}})
    goal = {"assertions": False, "told": [], "actions": [action]}
    log = [{"say": "Hello."}, {"tool": "pay", "arguments": {"id": 1, "note": "x"}}]
    assert fault(goal, {"acts": []}, log) == ""
    assert "pay was not called" in fault(goal, {"acts": []}, log[:1])
    assert "nothing was said" in fault(goal, {"acts": []}, log[1:])
