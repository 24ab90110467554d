"""Turns a task's `environment/` into a prepared sandbox.

What a Dockerfile copies and sets is done in every sandbox; what it runs is done once and kept as an image (see
`palmette.sandbox.image_build`). A base that is not known here stands for the machine's own system, unless something
is to be run in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import replace
from functools import cache, lru_cache
from pathlib import Path
from threading import Thread

from palmette.envs import clones
from palmette.envs.api import Task
from palmette.envs.brought import brought
from palmette.envs.locked import installed, lock_of, read_lock, toolchain_of
from palmette.envs.toolchain import Toolchain, python_toolchain
from palmette.envs.tools import PROGRAMS, address_of, programs
from palmette.errors import UserError
from palmette.sandbox.api import Limits, Sandbox, Spec
from palmette.sandbox.dockerfile import Copy, Dockerfile, read_dockerfile
from palmette.sandbox.image_build import image_below, packed
from palmette.sandbox.images import Image, Images, store
from palmette.sandbox.layout import PATH

_SLACK_S = 120.0  # starting, uploading and a queue for the verifier, on top of the two deadlines of the task
_LIMITS = Limits()


def spec_for(task: Task, *, owner: str, gateway: tuple[str, int] | None = None, limits: Limits = _LIMITS) -> Spec:
    """Return what to start for a task: its image or the machine's Python with pytest, and time for grading too.

    Makes the image if it is not there, which blocks (see `spec_when_made`); ``palmette sandbox images build`` makes it
    ahead, with a network if need be. Raises `UserError` for a Dockerfile outside the subset, or a command that fails.
    """
    path = task.path / "environment" / "Dockerfile"
    dockerfile, image = _read(path), _image(path, store())
    tools = _tools(path.parent, task.workdir) if image is None else None
    env = {**(tools.env if tools else {"PATH": PATH}), **(image.env if image else {}), **dockerfile.env}
    return Spec(
        owner=owner,
        workdir=task.workdir,
        env=env | _ways_to_services(task, env["PATH"]) if task.services else env,
        readonly=tools.readonly if tools else (),
        root=str(image.root) if image else "",
        limits=_with_room(limits, task),
        ttl_s=_lifetime_s(task),
        gateway=gateway,
    )


def service_spec(task: Task, name: str, *, owner: str, env: Mapping[str, str]) -> Spec:
    """Return what to start for a side service of a task: its tools, and as much time as the agent's.

    Blocks while pip installs what it names, the first time. Raises what `service_tools` does.
    """
    tools = service_tools(task.path / "environment" / "services" / name)
    return Spec(
        owner=owner, workdir="/service", env={**tools.env, **env}, readonly=tools.readonly, ttl_s=_lifetime_s(task)
    )


def service_tools(directory: Path) -> Toolchain:
    """Return what a service sees: the machine's Python, or what its python.json names, and files of a user's clone.

    Raises `UserError` where these cannot be had.
    """
    lock, clone = directory / "python.json", directory / clones.NOTE
    tools = toolchain_of(read_lock(lock), "/service") if lock.is_file() else python_toolchain()
    env = {"PATH": tools.env["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}
    if lock.is_file():
        env["PYTHONPATH"] = tools.env["PYTHONPATH"]
    if not clone.is_file():
        return Toolchain(readonly=tools.readonly, env=env)
    files = str(clones.kept(clone))
    return Toolchain(readonly=(*tools.readonly, files), env=env | {"CLONE": files})


def _with_room(limits: Limits, task: Task) -> Limits:
    return replace(
        limits,
        memory_mb=max(limits.memory_mb, task.memory_mb),
        disk_mb=max(limits.disk_mb, task.storage_mb),
        pids=max(limits.pids, task.pids),
    )


def _tools(environment: Path, workdir: str) -> Toolchain:
    """Return what a task sees besides the machine's system: the packages it names, else our Python and pytest."""
    lock = lock_of(environment)
    return toolchain_of(lock, workdir) if lock else python_toolchain()


async def spec_when_made(
    task: Task, *, owner: str, gateway: tuple[str, int] | None = None, limits: Limits = _LIMITS
) -> Spec:
    """Return what `spec_for` does, with the image made in a thread of its own: the rest of the process goes on.

    Raises what `spec_for` does.
    """
    await _made(task.path / "environment" / "Dockerfile", store())
    return spec_for(task, owner=owner, gateway=gateway, limits=limits)


async def prepare(sandbox: Sandbox, task: Task) -> None:
    """Put the environment's files into a fresh sandbox, and programs that call the task's tools.

    Raises `UserError` for a Dockerfile outside the subset.
    """
    if task.tools or task.user:
        await sandbox.upload(programs(task), PROGRAMS)
    for copy in _read(task.path / "environment" / "Dockerfile").copies:
        await _put(sandbox, copy)


async def prepare_clean(sandbox: Sandbox, task: Task) -> None:
    """Put only what stands beside the work directory into a fresh sandbox, which is to get a work directory as it was.

    What the image brings in the work directory goes: what an agent has removed must not come back.
    """
    path = task.path / "environment" / "Dockerfile"
    for copy in _read(path).copies:
        if not f"{copy.target}/".startswith(f"{task.workdir}/"):
            await _put(sandbox, copy)
    await _made(path, store())
    if _image(path, store()):
        await sandbox.exec("rm -rf ./* ./.[!.]* ./..?*")


@lru_cache(maxsize=16)
def work_directory(task: Task) -> dict[str, tuple[bytes, bool]]:
    """Return the files that an agent finds in the work directory, by path below it: content, and if it is executable.

    Remembered for a few tasks. Raises `UserError` for a Dockerfile outside the subset.
    """
    path = task.path / "environment" / "Dockerfile"
    image = _image(path, store())
    placed = [(Path(image.root) / task.workdir.lstrip("/"), "")] if image else []
    for copy in _read(path).copies:
        target = f"{copy.target.rstrip('/')}/"
        if target.startswith(f"{task.workdir}/"):
            placed.append((copy.source, target.removeprefix(f"{task.workdir}/")))
    found: dict[str, tuple[bytes, bool]] = {}
    for source, below in placed:
        for file in sorted(source.rglob("*")) if source.is_dir() else [source]:
            if file.is_file() and not file.is_symlink():
                name = below + str(file.relative_to(source)) if source.is_dir() else below.rstrip("/")
                found[name] = file.read_bytes(), bool(file.stat().st_mode & 0o100)
    return found


def _lifetime_s(task: Task) -> float:
    return task.agent_timeout_s + task.verifier_timeout_s + _SLACK_S


def _ways_to_services(task: Task, path: str) -> dict[str, str]:
    """Return the variables that lead the agent's commands to the task's services."""
    urls = {name: "http://{}:{}".format(*address_of(task.services, name)) for name in task.services}
    return {"PATH": f"{PROGRAMS}:{path}"} | {f"SERVICE_{name.upper()}": url for name, url in urls.items()}


async def _put(sandbox: Sandbox, copy: Copy) -> None:
    if copy.source.is_dir():
        await sandbox.upload(tar_directory(copy.source), copy.target)
    else:
        await sandbox.write(copy.target, copy.source.read_bytes(), copy.source.stat().st_mode & 0o777)


@lru_cache(maxsize=4096)
def tar_directory(directory: Path) -> bytes:
    """Return a directory (or one file) of a task as a deterministic tar; remembered, for tasks do not change."""
    return packed(directory)


@lru_cache(maxsize=4096)
def _read(path: Path) -> Dockerfile:
    if not path.is_file():
        raise UserError(f"{path} is missing; a task's environment needs one")
    return read_dockerfile(path)


@lru_cache(maxsize=4096)
def _image(path: Path, directory: Path) -> Image | None:
    return image_below(_images(directory), _read(path))


_making: dict[tuple[Path, Path], Future[Image | None]] = {}  # images that are made, or have been, in this process


async def _made(path: Path, directory: Path) -> None:
    """Have the image made once, however many ask for it; after a failure the next one tries again."""
    future = _making.get((path, directory))
    if future is None or (future.done() and future.exception()):
        future = _making[path, directory] = Future()
        future.set_running_or_notify_cancel()  # whoever stops waiting does not stop it
        Thread(target=_make, args=(future, path, directory), daemon=True).start()  # it must not hold up an exit
    await asyncio.wrap_future(future)


def _make(future: Future[Image | None], path: Path, directory: Path) -> None:
    try:
        image = _image(path, directory)
        if image is None and (lock := lock_of(path.parent)):
            installed(lock)
        brought(path.parent.parent)  # a task that could not be graded is not begun
        future.set_result(image)
    except BaseException as error:
        future.set_exception(error)


@cache
def _images(directory: Path) -> Images:
    return Images(directory)  # holds the images of this process's tasks
