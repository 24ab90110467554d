"""Runs the commands of a Dockerfile: one process per Dockerfile, whose filter of system calls they all inherit.

The process is `enter_image.py`, which puts up the walls; here are the bounds: memory, processes, time, output.
"""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from palmette.errors import UserError
from palmette.sandbox import enter_image, seccomp
from palmette.sandbox.api import Limits, StartFailed
from palmette.sandbox.build import fork_server
from palmette.sandbox.capture import Capture
from palmette.sandbox.group import Group, Groups

LIMITS = Limits(memory_mb=4096, pids=1024, output_bytes=1 << 16)  # of each command; the disk is not limited
TIMEOUT_S = 1800.0
_PACKET = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a command ended: `exit_code` as a shell would say, what it wrote, and the limit that ended it, if one did."""

    exit_code: int
    output: bytes
    limit: str = ""


class Builder:
    """Makes the builder's process with the first command; use it as a context. All methods block."""

    def __init__(self, limits: Limits = LIMITS, timeout_s: float = TIMEOUT_S) -> None:
        self._limits = limits
        self._timeout_s = timeout_s
        self._groups = Groups()
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._serial = 0
        self._weak = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def memory(self) -> bool:
        """Whether its memory and processes are limited: there are cgroups."""
        return self._groups.found.version > 0

    @property
    def weakness(self) -> str:
        """Why commands are run without a filter of system calls; "" when there is one, or before the first command."""
        return self._weak

    def run(self, root: Path, workdir: str, argv: Sequence[str], env: Mapping[str, str], *, network: bool) -> Ended:
        """Run a command as root of the files at `root`. Raises `UserError` where there can be no walls around it."""
        builder = self._launched()
        self._serial += 1
        group = self._groups.make(f"build-{self._serial}", self._limits)
        joins = group.joins.split(":") if group else []
        words = {"root": str(root), "workdir": workdir, "argv": list(argv), "env": dict(env)}
        request = json.dumps({**words, "network": network, "cgroups": joins}).encode()
        output, output_in = os.pipe()
        try:
            try:
                socket.send_fds(builder, [request], [output_in])
            finally:
                os.close(output_in)
            return self._ended(builder, output, group)
        finally:
            os.close(output)
            if group:
                group.discard()

    def close(self) -> None:
        """End the process, and a command that runs. Idempotent."""
        self._kill()
        self._groups.close()

    def _kill(self) -> None:
        if self._socket:
            self._socket.close()
        if self._process:
            self._process.kill()
            self._process.wait()

    def _ended(self, builder: socket.socket, output: int, group: Group | None) -> Ended:
        kept = Capture(self._limits.output_bytes)
        deadline = time.monotonic() + self._timeout_s
        streams = [output, builder.fileno()]
        while builder.fileno() in streams:
            ready, _, _ = select.select(streams, [], [], max(0.0, deadline - time.monotonic()))
            if output in ready:
                data = os.read(output, 1 << 16)
                kept.feed(data)
                if not data:
                    streams.remove(output)
            elif builder.fileno() in ready:
                streams.remove(builder.fileno())
            elif time.monotonic() >= deadline:
                self._kill()  # everything goes with it
                return Ended(exit_code=137, output=kept.value(), limit=f"{self._timeout_s:g} s")
        answer = builder.recv(64)
        code = int(answer) if answer else 137
        oom = code == 137 and group is not None and group.out_of_memory() > 0
        limit = f"{self._limits.memory_mb} MB of memory" if oom else ""
        return Ended(exit_code=code, output=kept.value(), limit=limit)

    def _launched(self) -> socket.socket:
        if self._socket:
            return self._socket
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _PACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", enter_image.__file__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={},
                start_new_session=True,
            )
        self._socket = ours
        ours.send(self._filter())
        if (answer := ours.recv(1 << 12)) != enter_image.READY:
            said = answer.decode(errors="replace") or "the builder's process died"
            raise UserError(f"RUN needs walls that cannot be put up here: {said}; be root, or import a finished image")
        return ours

    def _filter(self) -> bytes:
        """Return the program of the filter, one zero byte if there can be none."""
        try:
            if seccomp.usable():
                return subprocess.run([fork_server(), "filter"], stdout=subprocess.PIPE, check=True).stdout
            self._weak = "this kernel cannot install one"
        except (StartFailed, OSError, subprocess.SubprocessError) as error:
            self._weak = str(error)
        return b"\0"
