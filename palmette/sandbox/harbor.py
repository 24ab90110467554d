"""Harbor's tasks without Docker: ``harbor run --env palmette.sandbox.harbor:Environment -p TASKS -a AGENT``

Harbor (the package `harbor`, written against 0.24) asks an environment to start, run commands, and move
files. Here each one is a sandbox of the host ``namespace``, or of another named with ``--ek host=NAME``; its
Dockerfile must be in the subset of `dockerfile.py`. There is one user, so a command for "root" runs as that user too,
and there is no network whatever the task asks for. The class exists where Harbor is installed: it is made when asked
for, so that this module imports everywhere.
"""

from __future__ import annotations

import asyncio
import io
import os
import tarfile
from functools import cache
from pathlib import Path
from typing import Any

from palmette.errors import UserError
from palmette.sandbox.api import Host, Limits, PathRefused, Sandbox, Spec, Status
from palmette.sandbox.dockerfile import Copy, Dockerfile, read_dockerfile
from palmette.sandbox.hosts import open_host
from palmette.sandbox.image_build import HOST, SCRATCH, image_below, packed
from palmette.sandbox.images import Images
from palmette.sandbox.layout import PATH

_LOGS = ("/logs/agent", "/logs/verifier", "/logs/artifacts")
_DAY_S = 24 * 3600.0
_MEMORY_MB, _DISK_MB, _PIDS, _INODES = 2048, 2048, 512, 200_000


def __getattr__(name: str) -> Any:
    if name == "Environment":
        return _environment()
    raise AttributeError(name)


class Trial:
    """What Harbor's base class asks for; mixed in before it by `_environment`.

    `host` names the sandbox host, `readonly` (paths with ":" between) what of this machine it shows beside the system,
    `network` lets the commands of a Dockerfile reach the network while its image is made.
    """

    environment_dir: Path
    session_id: str
    task_env_config: Any
    logger: Any
    _merge_env: Any
    _effective_memory_mb: int | None
    _effective_storage_mb: int | None
    _empty_dirs_command: Any
    _network_is_public: bool

    def __init__(self, *args: Any, host: str = "namespace", readonly: str = "", network: bool = False, **more: Any):
        self._host_name, self._shown, self._build_network = host, tuple(filter(None, readonly.split(":"))), network
        self._host: Host | None = None
        self._sandbox: Sandbox | None = None
        self._images = Images()
        super().__init__(*args, **more)

    @staticmethod
    def type() -> str:
        """Return the name of this kind of environment."""
        return "palmette"

    @property
    def capabilities(self) -> Any:
        """What can be enforced: no network at all, in particular."""
        from harbor.environments.capabilities import EnvironmentCapabilities  # pyright: ignore[reportMissingImports]

        return EnvironmentCapabilities(disable_internet=True)

    @classmethod
    def resource_capabilities(cls) -> Any:
        """Which limits hold: memory does, processors are shared."""
        from harbor.environments.capabilities import (  # pyright: ignore[reportMissingImports]
            EnvironmentResourceCapabilities,
        )

        return EnvironmentResourceCapabilities(memory_limit=True)

    def _validate_definition(self) -> None:
        """Nothing yet: what is raised while a trial is made ends the whole job, what `start` raises ends one trial."""

    async def start(self, force_build: bool) -> None:
        """Make the image if it is not there, start a sandbox of it, and copy what is to be copied."""
        try:
            dockerfile = self._dockerfile()
            image = await asyncio.to_thread(image_below, self._images, dockerfile, network=self._build_network)
            self._host = open_host(self._host_name)
        except UserError as error:
            raise _build_failed(str(error)) from None
        if self._network_is_public:
            self.logger.warning("the task allows a network; this environment has none")
        workdir = self.task_env_config.workdir or dockerfile.workdir
        self._sandbox = await self._host.start(
            Spec(
                owner=f"harbor/{self.session_id}",
                workdir=workdir if workdir != "/" else "/app",
                env={"PATH": PATH, **(image.env if image else {}), **dockerfile.env},
                root=str(image.root) if image else "",
                readonly=self._shown,
                limits=Limits(
                    memory_mb=self._effective_memory_mb or _MEMORY_MB,
                    disk_mb=self._effective_storage_mb or _DISK_MB,
                    pids=_PIDS,
                    inodes=_INODES,
                ),
                ttl_s=_DAY_S,
            )
        )
        for copy in dockerfile.copies:
            await self._put(copy)
        await self._sandbox.exec(["mkdir", "-p", *_LOGS])

    async def stop(self, delete: bool) -> None:
        """End the sandbox; there is nothing else that could be kept."""
        if self._host is not None:
            await self._host.close()
        self._host = self._sandbox = None
        self._images.close()

    async def exec(
        self,
        command: str,
        cwd: str | None = None,
        env: dict[str, str] | None = None,
        timeout_sec: int | None = None,
        user: str | int | None = None,
    ) -> Any:
        """Run a command in bash, or in sh where there is none. Raises `RuntimeError` when it takes too long."""
        from harbor.environments.base import ExecResult  # pyright: ignore[reportMissingImports]

        shell = 'if command -v bash >/dev/null; then exec bash -c "$0"; else exec sh -c "$0"; fi'
        result = await self._running().exec(
            ["/bin/sh", "-c", shell, command], env=self._merge_env(env), cwd=cwd, timeout_s=float(timeout_sec or _DAY_S)
        )
        if result.status is Status.TIMEOUT:
            raise RuntimeError(f"Command timed out after {timeout_sec} seconds")
        out, err = (stream.decode(errors="replace") for stream in (result.stdout, result.stderr))
        return ExecResult(stdout=out, stderr=err, return_code=result.exit_code)

    async def upload_file(self, source_path: Path | str, target_path: str) -> None:
        """Copy one file of this machine into the sandbox, with its mode."""
        data, mode = await asyncio.to_thread(_load, Path(source_path))
        await self._running().write(target_path, data, mode)

    async def upload_dir(self, source_dir: Path | str, target_dir: str) -> None:
        """Copy what is in a directory of this machine into one of the sandbox."""
        await self._running().upload(await asyncio.to_thread(packed, Path(source_dir)), target_dir)

    async def download_file(self, source_path: str, target_path: Path | str) -> None:
        """Copy one file of the sandbox to this machine."""
        data = await self._running().read(source_path)
        await asyncio.to_thread(_save, Path(target_path), data)

    async def download_dir(self, source_dir: str, target_dir: Path | str) -> None:
        """Copy what is in a directory of the sandbox into one of this machine; links that lead out are refused."""
        archive = await self._running().download(source_dir)
        await asyncio.to_thread(_unpack, archive, Path(target_dir))

    async def reset_dirs(self, *, remove_dirs: Any, create_dirs: Any, chmod_dirs: Any = None) -> Any:
        """Empty directories rather than replace them: those at the top of a sandbox belong to its root."""
        paths = list(dict.fromkeys([*remove_dirs, *create_dirs, *(chmod_dirs or ())]))
        return await self.exec(self._empty_dirs_command(paths, chmod=bool(chmod_dirs)))

    def _dockerfile(self) -> Dockerfile:
        """Return what to start from. Raises `UserError` for what is not understood or not here."""
        for name in ("docker-compose.yaml", "docker-compose.yml"):
            if (self.environment_dir / name).exists():
                raise UserError(f"{self.environment_dir / name}: compose files need Docker; use --env docker")
        name = self.task_env_config.docker_image
        if name and name not in (HOST, SCRATCH) and self._images.find(name) is None:
            raise UserError(
                f"docker_image {name}: no image of that name here; make one: "
                f"palmette sandbox images build SOURCE --name {name} (a directory, a tar, debootstrap:SUITE)"
            )
        path = self.environment_dir / "Dockerfile"
        return Dockerfile(path=path, base=name, steps=(), env={}, workdir="/") if name else read_dockerfile(path)

    async def _put(self, copy: Copy) -> None:
        if copy.source.is_dir():
            await self.upload_dir(copy.source, copy.target)
        else:
            await self.upload_file(copy.source, copy.target)

    def _running(self) -> Sandbox:
        if self._sandbox is None:
            raise RuntimeError("the environment is not started")
        return self._sandbox


@cache
def _environment() -> type:
    try:
        from harbor.environments.base import BaseEnvironment  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ImportError("palmette.sandbox.harbor:Environment is for Harbor: pip install harbor") from None
    return type("Environment", (Trial, BaseEnvironment), {"__doc__": Trial.__doc__, "__module__": __name__})


def _build_failed(text: str) -> Exception:
    from harbor.environments.base import SandboxBuildFailedError  # pyright: ignore[reportMissingImports]

    return SandboxBuildFailedError(text)


def _load(path: Path) -> tuple[bytes, int]:
    return path.read_bytes(), path.stat().st_mode & 0o777


def _save(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _unpack(archive: bytes, target: Path) -> None:
    os.makedirs(target, exist_ok=True)
    try:
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            tar.extractall(target, filter="data")
    except tarfile.FilterError as error:
        raise PathRefused(f"{target}: {error}") from None
