"""The three tools of the built-in loop, those that a task brings, and how their results are told to the model.

`act` is the one place where a call becomes an observation; demonstrations are rendered through it too, so what a model
is taught to expect is what it will see.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from dataclasses import replace

from palmette.chat.message import Tool, ToolCall
from palmette.sandbox.api import PathRefused, Result, Sandbox, Status
from palmette.scaffolds.api import NOTHING, Offer

OBSERVATION_CHARS = 2000
COMMAND_TIMEOUT_S = 20.0
SUBMIT = "submit"


def _tool(name: str, description: str, *arguments: str) -> Tool:
    properties = {argument: {"type": "string"} for argument in arguments}
    parameters = {"type": "object", "properties": properties, "required": list(arguments)}
    return Tool(name=name, description=description, parameters=parameters)


TOOLS: tuple[Tool, ...] = (
    _tool("bash", "run a shell command", "command"),
    _tool("edit", "replace old by new once in a file", "path", "old", "new"),
    _tool(SUBMIT, "finish the task"),
)


def toolset(offer: Offer) -> tuple[Tool, ...]:
    """Return the tools that a model is offered for a task: ours, and those that the task brings."""
    ours = TOOLS if offer.shell else tuple(tool for tool in TOOLS if tool.name == SUBMIT)
    return (*ours, *offer.tools)


async def act(call: ToolCall, sandbox: Sandbox, *, limit: int = OBSERVATION_CHARS, offer: Offer = NOTHING) -> str:
    """Execute one call and return the observation, of at most `limit` characters and a mark where it was cut.

    A call that makes no sense is answered by an observation that starts with "error:". Submitting does nothing here
    and is answered by "submitted". Raises `SandboxError` when the sandbox, or a service of the task, fails.
    """
    wrong = wrong_arguments(call, toolset(replace(offer, tools=())), offer.tools)
    if wrong:
        return wrong
    arguments = call.arguments
    if offer.call is not None and any(tool.name == call.name for tool in offer.tools):
        said = await offer.call(call.name, arguments)
        return shorten(said.rstrip("\n") or "(no output)", limit)
    if call.name == "bash":
        result = await sandbox.exec(["bash", "-c", arguments["command"]], timeout_s=COMMAND_TIMEOUT_S)
        return observe(result, limit)
    if call.name == "edit":
        return await _edit(sandbox, arguments["path"], arguments["old"], arguments["new"])
    return "submitted"


def wrong_arguments(call: ToolCall, ours: Sequence[Tool], theirs: Sequence[Tool] = ()) -> str:
    """Return what is wrong with a call of one of our tools or of those a task brings, "" for nothing.

    What the arguments of the task's tools are to be, their service knows.
    """
    tools = (*ours, *theirs)
    tool = next((tool for tool in tools if tool.name == call.name), None)
    if tool is None:
        return f"error: unknown tool {shorten(call.name, 40)}; the tools are {', '.join(tool.name for tool in tools)}"
    for name in tool.parameters.get("required", ()):
        value = call.arguments.get(name)
        if tool in theirs:
            if name not in call.arguments:
                return f"error: {call.name} needs the argument {name}"
            continue
        listed = tool.parameters["properties"][name].get("type") == "array"
        if not (_is_words(value) if listed else isinstance(value, str)):
            return f"error: {call.name} needs the argument {name} as a {'list of strings' if listed else 'string'}"
        if "\0" in "".join(value or ()):
            return f"error: the argument {name} holds a null character"
    return ""


def observe(result: Result, limit: int = OBSERVATION_CHARS) -> str:
    """Return what a command printed, without trailing newlines, and on a line of its own how it ended if not well.

    "(no output)" stands for nothing; "[exit 2]", "[timeout]" and "[out of memory]" are the endings.
    """
    text = (result.stdout + result.stderr).decode(errors="replace").rstrip("\n")
    if result.status is Status.TIMEOUT:
        ending = "[timeout]"
    elif result.status is Status.OOM:
        ending = "[out of memory]"
    else:
        ending = f"[exit {result.exit_code}]" if result.exit_code else ""
        text = text or "(no output)"
    return "\n".join(part for part in (shorten(text, limit), ending) if part)


def shorten(text: str, limit: int) -> str:
    """Return `text` with its middle cut out and marked where it is longer than `limit` characters."""
    if len(text) <= limit:
        return text
    head, tail = (limit + 1) // 2, limit // 2
    return f"{text[:head]}\n[{len(text) - head - tail} characters cut]\n{text[len(text) - tail :]}"


def _is_words(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(word, str) for word in value)


async def _edit(sandbox: Sandbox, path: str, old: str, new: str) -> str:
    try:
        data = await sandbox.read(path)
    except PathRefused:
        return f"error: cannot read {path}"
    found = data.count(old.encode()) if old else 0
    if found == 0:
        return f"error: old text not found in {path}"
    if found > 1:
        return f"error: old text occurs {found} times in {path}"
    try:
        mode = _mode(await sandbox.download(path))
        await sandbox.write(path, data.replace(old.encode(), new.encode(), 1), mode)
    except PathRefused:
        return f"error: cannot write {path}"
    return "ok"


def _mode(archive: bytes) -> int:
    """Return the permission bits of the one file in a tar archive, so that an edited script stays executable."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return tar.getmembers()[0].mode & 0o7777
