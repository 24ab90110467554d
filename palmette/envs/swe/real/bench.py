"""Runs a project's tests in a sandbox without network: what is changed between runs is put there and taken back."""

from __future__ import annotations

import io
import json
import tarfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from palmette.envs.locked import Lock, toolchain_of
from palmette.envs.swe.real.project import VARIABLES, Language, Project, Result, Run, wanted
from palmette.sandbox.api import Host, Limits, Process, Sandbox, Spec, Streams

WORKDIR = "/app"
_LIMITS = Limits(memory_mb=1536, pids=128, disk_mb=256, inodes=65_536)
_TTL_S = 7200.0
_MOST_WARM = 600  # files that are compiled ahead; of more, a run needs but a part
RUN_S = 120.0  # the longest that one run of tests may take


class Bench:
    """A sandbox with a project in it; use it as a context. `overlay` replaces or adds files."""

    def __init__(
        self,
        host: Host,
        language: Language,
        project: Project,
        lock: Lock,
        files: Mapping[str, bytes],
        *,
        timeout_s: float = RUN_S,
    ) -> None:
        self._host, self._language, self._project, self._lock = host, language, project, lock
        self._files, self._timeout_s = dict(files), timeout_s
        self._sandbox: Sandbox | None = None
        self._runner: _Runner | None = None
        self._site: tuple[str, ...] = ()

    async def __aenter__(self) -> Self:
        tools = toolchain_of(self._lock, WORKDIR)
        self._site = tools.readonly[:1]
        spec = Spec(
            owner=f"swe/{self._project.name}",
            workdir=WORKDIR,
            env=tools.env,
            readonly=tools.readonly,
            limits=_LIMITS,
            ttl_s=_TTL_S,
        )
        self._sandbox = await self._host.start(spec)
        await self._sandbox.upload(packed(self._files), WORKDIR)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if self._sandbox:
            await self._sandbox.close()

    async def put(self, files: Mapping[str, str | None]) -> None:
        """Write files; None brings back what was there at the beginning, or removes what was not."""
        assert self._sandbox is not None
        for path, text in files.items():
            data = self._files.get(path) if text is None else text.encode()
            if data is None:
                await self._sandbox.exec(["rm", "-f", path])
            else:
                await self._sandbox.write(f"{WORKDIR}/{path}", data)

    async def run(self, *, cpu_s: float | None = None, **asked: Any) -> Run:
        """Run tests, for `cpu_s` of processor time at most; `asked` is as for `palmette.envs.swe.real.project.wanted`.

        Raises `SandboxError`.
        """
        given = wanted(self._project, self._lock, self._site, **asked) | {"fork": self._timeout_s, "cpu": cpu_s}
        began_s = time.monotonic()
        lines = await self._asked(given)
        run = read_run(lines, wall_s=time.monotonic() - began_s)
        if run.ended or run.errors:
            return run
        how = json.loads(lines[-1]).get("over") if lines and lines[-1].startswith('{"over"') else None
        why = {"late": "ran longer than it may", "spent": "worked longer than it may"}.get(
            how if isinstance(how, str) else "", "the tests ended their process"
        )
        return Run(results=run.results, errors={"": why}, ended=False, wall_s=run.wall_s)

    async def _asked(self, given: dict[str, Any]) -> list[str]:
        """Return the lines that answer; the runner stays, and is started anew when it is gone."""
        if self._runner is None:
            self._runner = await self._started()
        await self._runner.process.write(json.dumps(given).encode() + b"\n")
        lines: list[str] = []
        async for line in self._runner.lines:
            lines.append(line)
            if line.startswith('{"over"'):
                return lines
        self._runner = None
        return lines

    async def _started(self) -> _Runner:
        assert isinstance(self._sandbox, Streams), "benches need a host with streams"
        argv, program = self._language.command()
        path = toolchain_of(self._lock, WORKDIR).env["PATH"]
        process = await self._sandbox.open(
            ["env", "-i", f"PATH={path}", *VARIABLES, *(program if word == "@runner" else word for word in argv)],
            timeout_s=_TTL_S,
        )
        warm = [path for path in self._files if path in self._project.tests or _below(path, self._project.sources)]
        warm = warm if len(warm) <= _MOST_WARM else []
        await process.write(json.dumps({"warm": warm, "path": [*self._project.roots, *self._site]}).encode() + b"\n")
        return _Runner(process=process, lines=_lines(process))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Runner:
    process: Process
    lines: AsyncIterator[str]


async def _lines(process: Process) -> AsyncIterator[str]:
    """Yield the lines that a program writes."""
    rest = b""
    async for name, chunk in process.output():
        if name == "stdout":
            *whole, rest = (rest + chunk).split(b"\n")
            for line in whole:
                yield line.decode(errors="replace")


def _below(path: str, folders: Sequence[str]) -> bool:
    return any(path == folder or path.startswith(f"{folder}/") for folder in folders)


def read_run(lines: Sequence[str], *, wall_s: float = 0.0) -> Run:
    """Return what a runner's lines say; what is no line of its form is passed over."""
    results: dict[str, Result] = {}
    errors: dict[str, str] = {}
    open_places: tuple[int, ...] = ()
    ended, cpu_s = False, 0.0
    for line in lines:
        try:
            said = json.loads(line)
        except ValueError:
            continue
        if "t" in said:
            results[said["t"]] = Result(
                outcome=said["o"],
                digest=said["d"],
                values=said["v"],
                message=said.get("m", ""),
                calls=tuple(said.get("c", ())),
                seen=tuple((place, text, shown) for place, text, shown in said.get("s", ())),
                given=said.get("p", {}),
                cpu_s=said.get("u", 0.0),
            )
        elif "e" in said:
            errors[said["e"]] = said["m"]
        elif "open" in said:
            open_places = tuple(said["open"])
        elif "end" in said:
            ended, cpu_s = True, said.get("u", 0.0)
    return Run(results=results, errors=errors, open_places=open_places, ended=ended, wall_s=wall_s, cpu_s=cpu_s)


def read_tree(tree: Path) -> dict[str, bytes]:
    """Return the files of a directory by their paths below it; links and git's own are left out."""
    return {
        str(path.relative_to(tree)): path.read_bytes()
        for path in sorted(tree.rglob("*"))
        if path.is_file() and not path.is_symlink() and ".git" not in path.relative_to(tree).parts
    }


def packed(files: Mapping[str, bytes]) -> bytes:
    """Return files as a tar."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in sorted(files.items()):
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o755 if data[:2] == b"#!" else 0o644
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()
