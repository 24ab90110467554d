"""The tools of the built-in loop, against a real file system."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palmette.chat.message import ToolCall
from palmette.sandbox.api import Result, Sandbox, Spec, Status
from palmette.sandbox.fake import FakeHost
from palmette.scaffolds.loop import SYSTEM_PROMPT, TOOLS, act, observe
from palmette.scaffolds.tools import shorten


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    host = FakeHost()
    yield await host.start(Spec())
    await host.close()


def call(name: str, **arguments: object) -> ToolCall:
    return ToolCall(id="c0", name=name, arguments=arguments)


def result(stdout: bytes = b"", stderr: bytes = b"", code: int = 0, status: Status = Status.EXITED) -> Result:
    return Result(status=status, exit_code=code, stdout=stdout, stderr=stderr, truncated=False, wall_s=0.0)


def test_what_the_model_is_told_is_pinned() -> None:
    """Changing a word here changes what every shipped model was taught: it must be done knowingly."""
    assert SYSTEM_PROMPT == "You are an agent in a Linux shell. Solve the task with the tools, then submit."
    assert [(tool.name, tool.description, tool.parameters["required"]) for tool in TOOLS] == [
        ("bash", "run a shell command", ["command"]),
        ("edit", "replace old by new once in a file", ["path", "old", "new"]),
        ("submit", "finish the task", []),
    ]


@pytest.mark.parametrize(
    ("given_result", "told"),
    [
        (result(b"a\nb\n\n"), "a\nb"),
        (result(), "(no output)"),
        (result(b"\n"), "(no output)"),
        (result(b"out\n", b"err\n"), "out\nerr"),
        (result(b"out", b"", 3), "out\n[exit 3]"),
        (result(code=1), "(no output)\n[exit 1]"),
        (result(b"half", status=Status.TIMEOUT, code=137), "half\n[timeout]"),
        (result(status=Status.TIMEOUT, code=137), "[timeout]"),
        (result(status=Status.OOM, code=137), "[out of memory]"),
        (result(b"\xff"), "\N{REPLACEMENT CHARACTER}"),
    ],
)
def test_observe(given_result: Result, told: str) -> None:
    assert observe(given_result, 100) == told


@given(st.text(max_size=300), st.integers(1, 100))
@settings(deadline=None)
def test_shorten_keeps_head_and_tail_and_counts_what_is_gone(text: str, limit: int) -> None:
    short = shorten(text, limit)
    if len(text) <= limit:
        assert short == text
        return
    mark = f"\n[{len(text) - limit} characters cut]\n"
    head, tail = (limit + 1) // 2, limit // 2
    assert short == text[:head] + mark + (text[-tail:] if tail else "")


async def test_bash_runs_bash_in_the_work_directory(sandbox: Sandbox) -> None:
    assert await act(call("bash", command="echo {a,b} > x; cat x; exit 4"), sandbox) == "a b\n[exit 4]"
    assert await sandbox.read("x") == b"a b\n"


async def test_a_long_output_is_cut_to_the_limit(sandbox: Sandbox) -> None:
    told = await act(call("bash", command="seq 1 1000"), sandbox, limit=20)
    assert told == "1\n2\n3\n4\n5\n\n[3872 characters cut]\n8\n999\n1000"


async def test_edit_replaces_the_one_occurrence_and_keeps_the_mode(sandbox: Sandbox) -> None:
    await sandbox.write("run.sh", "#!/bin/sh\necho é a\n".encode(), mode=0o755)
    assert await act(call("edit", path="run.sh", old="é a", new="ü"), sandbox) == "ok"
    assert (await sandbox.read("run.sh")).decode() == "#!/bin/sh\necho ü\n"
    assert (await sandbox.exec(["./run.sh"])).stdout.decode() == "ü\n"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"path": "f", "old": "zz", "new": "y"}, "error: old text not found in f"),
        ({"path": "f", "old": "", "new": "y"}, "error: old text not found in f"),
        ({"path": "f", "old": "x", "new": "y"}, "error: old text occurs 2 times in f"),
        ({"path": "gone", "old": "x", "new": "y"}, "error: cannot read gone"),
        ({"path": "../../../etc/passwd", "old": "root", "new": "y"}, "error: cannot read ../../../etc/passwd"),
        ({"path": "d", "old": "x", "new": "y"}, "error: cannot read d"),
        ({"path": "f", "old": "x"}, "error: edit needs the argument new as a string"),
        ({"path": "f", "old": 1, "new": "y"}, "error: edit needs the argument old as a string"),
        ({"path": "f\0", "old": "x", "new": "y"}, "error: the argument path holds a null character"),
    ],
)
async def test_a_wrong_edit_is_told_and_changes_nothing(
    sandbox: Sandbox, arguments: dict[str, object], told: str
) -> None:
    await sandbox.write("f", b"x and x")
    await sandbox.write("d/inner", b"x")
    assert await act(call("edit", **arguments), sandbox) == told
    assert await sandbox.read("f") == b"x and x"


async def test_an_unknown_tool_is_told(sandbox: Sandbox) -> None:
    assert await act(call("rm"), sandbox) == "error: unknown tool rm; the tools are bash, edit, submit"


async def test_submit_does_nothing(sandbox: Sandbox) -> None:
    before = await sandbox.download()
    assert await act(call("submit"), sandbox) == "submitted"
    assert await sandbox.download() == before


async def test_a_command_that_hangs_is_ended(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("palmette.scaffolds.tools.COMMAND_TIMEOUT_S", 0.3)
    assert await act(call("bash", command="echo begun; sleep 30"), sandbox) == "begun\n[timeout]"
