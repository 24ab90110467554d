"""Tools that a task brings: read from its directory, and made into small programs for agents that have only a shell."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from palmette.chat.message import Tool
from palmette.envs.api import Draft, ServiceTool, Task
from palmette.errors import UserError

PROGRAMS = "/tools"  # the directory of the programs in the agent's sandbox, first in its PATH
PORT = 8080  # where every service listens
SAY = "say"  # the program that talks to the task's user
_TAKEN = ("bash", "edit", "submit", SAY)
_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")


def address_of(services: Sequence[str], name: str) -> tuple[str, int]:
    """Return where a service answers, as seen from the agent's sandbox."""
    return f"127.77.1.{services.index(name) + 1}", PORT


def program_of(tool: str) -> str:
    """Return the path of the program that calls a tool of the task."""
    return f"{PROGRAMS}/{tool}"


def read_services(directory: Path) -> tuple[str, ...]:
    """Return the names of a task's side services, in order. Raises `UserError` for a name that will not do."""
    names = tuple(sorted(path.parent.name for path in (directory / "environment" / "services").glob("*/serve.py")))
    for name in names:
        if not _NAME.fullmatch(name):
            raise UserError(
                f"{directory / 'environment' / 'services' / name}: a service is named as in 'web' or 'db_2'"
            )
    return names


def read_tools(directory: Path, services: Sequence[str]) -> tuple[ServiceTool, ...]:
    """Return the tools of a task's environment/tools.json, none without that. Raises `UserError` for what is wrong."""
    path = directory / "environment" / "tools.json"
    if not path.is_file():
        return ()
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(rows, list):
        raise UserError(f"{path} must be a list of tools")
    found = tuple(_read_tool(row, f"{path}: tool {number}", services) for number, row in enumerate(rows, 1))
    names = [each.tool.name for each in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{path}: two tools are named '{twice[0]}'")
    return found


def tools_json(tools: Sequence[ServiceTool]) -> str:
    """Return tools as environment/tools.json has them."""
    rows = [
        {
            "name": each.tool.name,
            "description": each.tool.description,
            "parameters": each.tool.parameters,
            "service": each.service,
        }
        for each in tools
    ]
    return json.dumps(rows, indent=1) + "\n"


def manual(task: Task | Draft) -> str:
    """Return what an agent that has only a shell must be told about the task's tools; "" where it has none."""
    lines = [f"- {each.tool.name} {_usage(each.tool)}: {each.tool.description}" for each in task.tools]
    if task.user:
        lines.append(f"- {SAY} TEXT: says something to the user, and prints the answer")
    return "\n".join(["These commands are there besides:", *lines]) if lines else ""


@lru_cache(maxsize=256)
def programs(task: Task) -> bytes:
    """Return the tar of a program for each of the task's tools, to be unpacked at `PROGRAMS`."""
    texts = {each.tool.name: _program(task, each) for each in task.tools}
    if task.user:
        said = Tool(name=SAY, description="say something to the user", parameters=_SAYING)
        texts[SAY] = _program(task, ServiceTool(tool=said, service=task.user))
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, text in texts.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(text.encode()), 0o755
            tar.addfile(member, io.BytesIO(text.encode()))
    return out.getvalue()


_SAYING = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}

# The arguments are one JSON object, or --name value, or plain values in the order of the parameters.
_PROGRAM = """\
#!/usr/bin/env -S python3 -I -S
import json, socket, sys
ADDRESS, PATH, USAGE = {address!r}, {path!r}, {usage!r}
TYPES = {types!r}


def value(name, text):
    if TYPES.get(name, "string") == "string":
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def arguments(given):
    if len(given) == 1 and given[0].lstrip().startswith("{{"):
        return json.loads(given[0])
    found, left, rest = {{}}, list(TYPES), list(given)
    while rest:
        word = rest.pop(0)
        name, equals, text = word[2:].partition("=")
        if word.startswith("--") and name in TYPES:
            if not equals and not rest:
                sys.exit("usage: " + USAGE)
            found[name] = value(name, text if equals else rest.pop(0))
        else:
            name = next((name for name in left if name not in found), None)
            if name is None:
                sys.exit("usage: " + USAGE)
            found[name] = value(name, word)
    return found


if sys.argv[1:] in (["-h"], ["--help"]):
    sys.exit("usage: " + USAGE)
body = json.dumps(arguments(sys.argv[1:])).encode()
head = "POST %s HTTP/1.0\\r\\nHost: %s\\r\\nContent-Type: application/json\\r\\nContent-Length: %d\\r\\n\\r\\n"
with socket.create_connection(ADDRESS, timeout=60) as line:
    line.sendall((head % (PATH, ADDRESS[0], len(body))).encode() + body)
    answer = line.makefile("rb").read()
first, _, text = answer.partition(b"\\r\\n\\r\\n")
print(text.decode(errors="replace").rstrip("\\n"))
sys.exit(0 if first.split(None, 2)[1:2] and first.split(None, 2)[1] < b"400" else 1)
"""


def _program(task: Task, each: ServiceTool) -> str:
    properties: dict[str, Any] = each.tool.parameters.get("properties", {})
    return _PROGRAM.format(
        address=address_of(task.services, each.service),
        path=f"/{SAY}" if each.tool.name == SAY else f"/tools/{each.tool.name}",
        usage=f"{each.tool.name} {_usage(each.tool)}",
        types={name: schema.get("type", "") for name, schema in properties.items()},
    )


def _usage(tool: Tool) -> str:
    needed = tool.parameters.get("required", ())
    return " ".join(f"{n.upper()}" if n in needed else f"[--{n} ..]" for n in tool.parameters.get("properties", {}))


def _read_tool(row: object, where: str, services: Sequence[str]) -> ServiceTool:
    if not isinstance(row, dict):
        raise UserError(f"{where} must be an object with name, description, parameters and service")
    name, parameters, service = row.get("name"), row.get("parameters", {"type": "object"}), row.get("service")
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name in _TAKEN:
        raise UserError(f"{where}: a name has small letters, digits and '_', and is none of {', '.join(_TAKEN)}")
    properties = parameters.get("properties", {}) if isinstance(parameters, dict) else None
    if not isinstance(properties, dict) or not all(isinstance(each, dict) for each in properties.values()):
        raise UserError(f"{where} ({name}): parameters must be a JSON schema of type object")
    if not isinstance(service, str) or service not in services:
        raise UserError(f"{where} ({name}): there is no service '{service}' (environment/services/NAME/serve.py)")
    tool = Tool(name=name, description=str(row.get("description", "")), parameters=parameters)
    return ServiceTool(tool=tool, service=service)
