"""Reads and writes Harbor task directories (schema 1.4), natively.

What Harbor does not know (domain, tier, split, skills, provenance) stands in `[metadata]`, so that a Harbor user's
tasks load here and ours load there.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from palmette.envs.api import Complexity, Draft, Step, Task
from palmette.envs.tools import program_of, read_services, read_tools, tools_json
from palmette.errors import UserError
from palmette.run import write_atomic
from palmette.sandbox.dockerfile import read_dockerfile

_SCHEMA = "1.4"


def write_task(draft: Draft, directory: Path) -> Task:
    """Write a draft as a task directory, whole or not at all, and return it as loaded.

    Raises `UserError` when the directory exists already.
    """
    if directory.exists():
        raise UserError(f"{directory} exists already; remove it or choose another place for the task")
    directory.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        _write_files(draft, scratch)
        scratch.chmod(0o755)
        os.rename(scratch, directory)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    return load_task(directory)


def load_task(directory: Path) -> Task:
    """Load one task directory. Raises `UserError` naming the file, and the line where there is one, that is wrong."""
    path = directory / "task.toml"
    config = _read_toml(path)
    for needed in ("instruction.md", "tests/test.sh"):
        if not (directory / needed).is_file():
            raise UserError(f"{directory / needed} is missing; a task directory needs it")
    meta, verifier = _table(config, "metadata", directory), _table(config, "verifier", directory)
    agent, environment = _table(config, "agent", directory), _table(config, "environment", directory)
    services = read_services(directory)
    return Task(
        name=str(_table(config, "task", directory).get("name", directory.name)),
        path=directory,
        domain=str(meta.get("domain", "imported")),
        instruction=_instruction(directory / "instruction.md"),
        workdir=str(environment.get("workdir") or _image_workdir(directory / "environment" / "Dockerfile")),
        agent_timeout_s=_seconds(agent, 120.0, path),
        verifier_timeout_s=_seconds(verifier, 60.0, path),
        separate_verifier=verifier.get("environment_mode", "shared") == "separate",
        tier=_tier(meta, path),
        split="heldout" if meta.get("split") == "heldout" else "train",
        skills=tuple(map(str, meta.get("skills", ()))) if isinstance(meta.get("skills", []), list) else (),
        intent=str(meta.get("intent", "")),
        template=str(meta.get("template", "")),
        source=str(meta.get("source", "")),
        license=str(meta.get("license", "")),
        provenance=str(meta.get("provenance", "")),
        complexity=_complexity(meta, path),
        memory_mb=_room(environment, "memory_mb", path),
        storage_mb=_room(environment, "storage_mb", path),
        pids=_room(meta, "pids", path),
        evidence=tuple(map(str, meta.get("evidence", ()))) if isinstance(meta.get("evidence", []), list) else (),
        services=services,
        tools=read_tools(directory, services),
        shell=meta.get("shell") is not False,
        user=_user(meta, services, path),
        system=_instruction(directory / "system.md") if (directory / "system.md").is_file() else "",
    )


def load_tasks(directory: Path) -> list[Task]:
    """Load every task directory below `directory`, in name order. Raises `UserError` for none, and for a broken one."""
    tasks, broken = load_whole(directory)
    if broken:
        raise UserError(next(iter(broken.values())))
    return tasks


def load_whole(directory: Path) -> tuple[list[Task], dict[Path, str]]:
    """Return the tasks below `directory` that load, in name order, and why each of the others does not.

    Raises `UserError` when there is none at all.
    """
    if not directory.is_dir():
        raise UserError(f"{directory} is not a directory of tasks; build one with 'palmette tasks build'")
    tasks, broken = list[Task](), dict[Path, str]()
    for folder, inner, names in os.walk(directory):  # follows no link, so a cycle of links is no cycle here
        inner.sort()
        if "task.toml" in names:
            inner.clear()
            try:
                tasks.append(load_task(Path(folder)))
            except UserError as error:
                broken[Path(folder)] = str(error)
    if not tasks and not broken:
        raise UserError(f"{directory} holds no task.toml; build tasks with 'palmette tasks build'")
    return tasks, broken


def set_metadata(path: Path, values: Mapping[str, str | int | float]) -> None:
    """Give keys of `[metadata]` in a task.toml these values and leave every other line as it is. Written atomically."""
    lines = path.read_text(encoding="utf-8").splitlines()
    if "[metadata]" not in map(str.strip, lines):
        lines += ["", "[metadata]"]
    start = next(n for n, line in enumerate(lines) if line.strip() == "[metadata]") + 1
    end = next((n for n in range(start, len(lines)) if lines[n].lstrip().startswith("[")), len(lines))
    kept = [line for line in lines[start:end] if line.partition("=")[0].strip() not in values]
    given = [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    write_atomic(path, "\n".join([*lines[:start], *given, *kept, *lines[end:]]) + "\n")


def load_steps(task: Task) -> tuple[Step, ...]:
    """Return the reference steps of a task. Raises `UserError` when it has none (an imported task)."""
    path = task.path / "solution" / "steps.json"
    if not path.is_file():
        raise UserError(f"{path} is missing; only tasks with reference steps can be demonstrated")
    return tuple(Step(**step) for step in json.loads(path.read_text(encoding="utf-8")))


def _write_files(draft: Draft, root: Path) -> None:
    (root / "environment" / "files").mkdir(parents=True)
    (root / "task.toml").write_text(_task_toml(draft), encoding="utf-8")
    (root / "instruction.md").write_text(draft.instruction + "\n", encoding="utf-8")
    (root / "environment" / "Dockerfile").write_text(draft.dockerfile, encoding="utf-8")
    _write_tree(root / "environment" / "files", draft.files)
    _write_tree(root / "tests", draft.test_files)
    steps = [{"tool": s.tool, "arguments": s.arguments, "observation": s.observation} for s in draft.steps]
    _write_tree(root / "solution", {"solve.sh": draft.solution or _solve_script(draft)})
    if steps:
        _write_tree(root / "solution", {"steps.json": json.dumps(steps, indent=1) + "\n"})
    _write_tree(root / "phrasings", {f"{level}.md": text + "\n" for level, text in draft.phrasings.items()})
    for name, files in draft.services.items():
        _write_tree(root / "environment" / "services" / name, files)
    if draft.tools:
        _write_tree(root / "environment", {"tools.json": tools_json(draft.tools)})
    if draft.system:
        _write_tree(root, {"system.md": draft.system + "\n"})
    _write_tree(root, draft.kept)
    for path, mode in draft.modes.items():
        (root / "environment" / "files" / path).chmod(mode)
    for folder, script in draft.histories.items():
        _make_repository(root / "environment" / "files" / folder, script)
    if draft.git:
        _make_repository(root / "environment" / "files", _COMMIT_ALL)


def _write_tree(root: Path, files: Mapping[str, str | bytes]) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def _solve_script(draft: Draft) -> str:
    """Return the reference steps as a shell script; an edit is a literal replacement of one occurrence by Python."""
    lines = ["#!/bin/sh", "set -e", "cd /app"]
    for step in draft.steps:
        if step.tool == "bash":
            lines.append(step.arguments["command"])
        elif step.tool == "edit":
            lines.append("python3 -I -S -c " + " ".join(shlex.quote(a) for a in (_EDIT, *_edit_arguments(step))))
        elif step.tool != "submit":
            lines.append(f"{program_of(step.tool)} {shlex.quote(json.dumps(step.arguments))}")
    return "\n".join(lines) + "\n"


_EDIT = (
    "import sys; p, old, new = sys.argv[1:]; t = open(p).read(); assert t.count(old) == 1; "
    "open(p, 'w').write(t.replace(old, new))"
)


def _edit_arguments(step: Step) -> tuple[str, str, str]:
    return step.arguments["path"], step.arguments["old"], step.arguments["new"]


_COMMIT_ALL = "git init -q -b main --template= . && git add -A && git commit -q -m 'Initial import'"


def _make_repository(directory: Path, script: str) -> None:
    """Run a script of git commands in a directory, so that it makes the same commits on every machine."""
    directory.mkdir(parents=True, exist_ok=True)
    env = {
        "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_CONFIG_SYSTEM": "/dev/null",
        **{f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER") for what, value in _IDENTITY.items()},
    }
    done = subprocess.run(
        ["sh", "-e", "-c", script], cwd=directory, env=env, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise UserError(
            f"git could not make the repository of {directory}: {done.stderr.strip()[:200]}; is git installed?"
        )


_IDENTITY = {"NAME": "Palmette", "EMAIL": "tasks@palmette.invalid", "DATE": "2026-01-01T00:00:00+0000"}


def _task_toml(draft: Draft) -> str:
    skills = ", ".join(json.dumps(skill) for skill in draft.skills)
    extra = "".join(f"{key} = {json.dumps(value)}\n" for key, value in draft.metadata.items())
    if draft.evidence:
        extra += f"evidence = {json.dumps(list(draft.evidence))}\n"
    if draft.pids:
        extra += f"pids = {draft.pids}\n"
    if not draft.shell:
        extra += "shell = false\n"
    if draft.user:
        extra += f"user = {json.dumps(draft.user)}\n"
    if draft.steps:
        extra += f"reference_steps = {len(draft.steps)}\nreference_tokens = {_tokens(draft.steps)}\n"
    return f"""\
schema_version = "{_SCHEMA}"
artifacts = [{json.dumps(draft.workdir)}]

[task]
name = {json.dumps(draft.name)}
version = "1.0"

[metadata]
domain = {json.dumps(draft.domain)}
tier = {draft.tier}
split = {json.dumps(draft.split)}
skills = [{skills}]
intent = {json.dumps(draft.intent)}
template = {json.dumps(draft.template or f"{draft.domain}/{draft.tier}")}
source = {json.dumps(draft.source)}
provenance = {json.dumps(draft.provenance)}
license = {json.dumps(draft.license)}
{extra}
[agent]
timeout_sec = {draft.agent_timeout_s!r}

[verifier]
timeout_sec = {draft.verifier_timeout_s!r}
environment_mode = "separate"

[environment]
network_mode = "no-network"
workdir = {json.dumps(draft.workdir)}
""" + "".join(
        f"{key} = {value}\n"
        for key, value in (("memory_mb", draft.memory_mb), ("storage_mb", draft.storage_mb))
        if value
    )


def _image_workdir(dockerfile: Path) -> str:
    """Return the work directory that a Dockerfile names, "/app" where it names none."""
    try:
        workdir = read_dockerfile(dockerfile).workdir
    except UserError:  # whoever starts a sandbox for it is told what is wrong
        return "/app"
    return workdir if workdir != "/" else "/app"


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing; a task directory needs it") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid TOML: {error}") from None
    except RecursionError:
        raise UserError(f"{path} is nested too deeply to be read") from None


def _instruction(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise UserError(f"{path}:{line}: not UTF-8; save it as UTF-8") from None


def _seconds(table: dict[str, Any], default: float, path: Path) -> float:
    value = table.get("timeout_sec", default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e6:
        raise UserError(
            f"{_line_of(path, 'timeout_sec', value)}: timeout_sec must be a number of seconds, not {value!r}"
        )
    return float(value)


def _complexity(meta: dict[str, Any], path: Path) -> Complexity:
    numbers: dict[str, Any] = {}
    for key, name in (("reference_steps", "steps"), ("reference_tokens", "tokens"), ("pass_rate", "pass_rate")):
        value = meta.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise UserError(f"{_line_of(path, key, value)}: {key} must be a number, not {value!r}")
        numbers[name] = value
    return Complexity(**numbers, rated_by=str(meta.get("rated_by", "")))


def _tokens(steps: tuple[Step, ...]) -> int:
    """Return how many words and marks the reference's calls have: a measure that no tokenizer changes."""
    return sum(
        len(re.findall(r"\w+|[^\w\s]", str(text))) for step in steps for text in (step.tool, *step.arguments.values())
    )


def _user(meta: dict[str, Any], services: tuple[str, ...], path: Path) -> str:
    value = meta.get("user", "")
    if value and value not in services:
        raise UserError(f"{_line_of(path, 'user', value)}: user must name a service of the task, not {value!r}")
    return str(value)


def _tier(meta: dict[str, Any], path: Path) -> int:
    value = meta.get("tier", 1)
    if isinstance(value, bool) or not isinstance(value, int):
        raise UserError(f"{_line_of(path, 'tier', value)}: tier must be a whole number, not {value!r}")
    return value


def _room(table: dict[str, Any], key: str, path: Path) -> int:
    value = table.get(key, 0)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise UserError(f"{_line_of(path, key, value)}: {key} must be a whole number, not {value!r}")
    return value


def _line_of(path: Path, key: str, value: object) -> str:
    """Return "path:line" of the first line that gives a key this value, as far as it can be told."""
    lines = path.read_text(encoding="utf-8").splitlines()
    given = [(n, line) for n, line in enumerate(lines, 1) if line.partition("=")[0].strip() == key]
    number = next((n for n, line in given if str(value) in line), given[0][0] if given else 1)
    return f"{path}:{number}"


def _table(config: dict[str, Any], name: str, directory: Path) -> dict[str, Any]:
    table = config.get(name, {})
    if not isinstance(table, dict):
        raise UserError(f"{directory / 'task.toml'}: [{name}] must be a table")
    return table
