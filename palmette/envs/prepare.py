"""Turns a task's `environment/` into a prepared sandbox.

The Dockerfile subset understood here is FROM (the host's own system stands in for any base), WORKDIR, COPY and ENV;
anything else is refused by name. Images proper come with the sandbox issue.
"""

from __future__ import annotations

import io
import shlex
import tarfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from palmette.envs.api import Task
from palmette.envs.toolchain import python_toolchain
from palmette.errors import UserError
from palmette.sandbox.api import Limits, Sandbox, Spec

_SLACK_S = 120.0  # starting, uploading and a queue for the verifier, on top of the two deadlines of the task
_LIMITS = Limits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What a Dockerfile of the subset says: copies of (source below environment/, absolute target), and variables."""

    copies: tuple[tuple[str, str], ...]
    env: dict[str, str]


def spec_for(task: Task, *, owner: str, gateway: tuple[str, int] | None = None, limits: Limits = _LIMITS) -> Spec:
    """Return what to start for a task: its work directory, Python with pytest, and time for grading too."""
    tools = python_toolchain()
    return Spec(
        owner=owner,
        workdir=task.workdir,
        env={**tools.env, **_recipe(task.path / "environment" / "Dockerfile").env},
        readonly=tools.readonly,
        limits=limits,
        ttl_s=task.agent_timeout_s + task.verifier_timeout_s + _SLACK_S,
        gateway=gateway,
    )


async def prepare(sandbox: Sandbox, task: Task) -> None:
    """Put the environment's files into a fresh sandbox. Raises `UserError` for a Dockerfile outside the subset."""
    environment = task.path / "environment"
    for source, target in _recipe(environment / "Dockerfile").copies:
        await sandbox.upload(tar_directory(environment / source), target)


@lru_cache(maxsize=4096)
def tar_directory(directory: Path) -> bytes:
    """Return a directory (or one file) of a task as a deterministic tar; remembered, for tasks do not change."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        paths = [directory] if directory.is_file() else sorted(directory.rglob("*"))
        for path in paths:
            name = path.name if directory.is_file() else str(path.relative_to(directory))
            tar.add(path, arcname=name, recursive=False, filter=_anonymous)
    return buffer.getvalue()


def _anonymous(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = info.mtime = 0
    info.uname = info.gname = ""
    return info


@lru_cache(maxsize=4096)
def _recipe(dockerfile: Path) -> Recipe:
    if not dockerfile.is_file():
        raise UserError(f"{dockerfile} is missing; a task's environment needs one")
    workdir, copies, env = "/", [], {}
    for number, line in enumerate(dockerfile.read_text(encoding="utf-8").splitlines(), 1):
        word, _, rest = line.strip().partition(" ")
        match word.upper():
            case "" | "FROM":
                continue
            case comment if comment.startswith("#"):
                continue
            case "WORKDIR":
                workdir = rest.strip()
            case "ENV":
                env.update({key: value for key, _, value in (pair.partition("=") for pair in shlex.split(rest))})
            case "COPY" if len(rest.split()) == 2:
                source, target = rest.split()
                copies.append((source, target if target.startswith("/") else f"{workdir}/{target}"))
            case _:
                raise UserError(
                    f"{dockerfile}:{number}: '{line.strip()}' is outside the subset FROM, WORKDIR, COPY, ENV"
                )
    return Recipe(copies=tuple(copies), env=env)
