"""Plain processes of this user, as the fake host starts and ends them."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
from contextlib import suppress

from palmette.sandbox.api import Bounds, Result, Status, Usage


def reap(process: subprocess.Popen[bytes]) -> tuple[int, Usage]:
    """Return the exit code and what was used, of a process that has ended or is about to."""
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, Usage(cpu_s=used.ru_utime + used.ru_stime, peak_mb=used.ru_maxrss / 1024)


def signal_session(leader: int, number: int = signal.SIGKILL) -> None:
    """Send a signal to the process group of a session's leader, if it is still there."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, number)


def limit(bounds: Bounds | None) -> None:
    """Bind this very process to `bounds`."""
    if bounds is None:
        return
    limits = (
        (resource.RLIMIT_AS, bounds.memory_mb and bounds.memory_mb << 20),
        (resource.RLIMIT_CPU, bounds.cpu_s),
        (resource.RLIMIT_FSIZE, bounds.file_mb and bounds.file_mb << 20),
    )
    for what, value in limits:
        if value:
            resource.setrlimit(what, (value, value + 2 if what == resource.RLIMIT_CPU else value))


def not_started(program: str, error: OSError) -> Result:
    """Return how a command ended that could not begin, as a shell would say it."""
    code = 127 if isinstance(error, FileNotFoundError) else 126
    text = f"{program}: {error.strerror}\n".encode()
    return Result(status=Status.EXITED, exit_code=code, stdout=b"", stderr=text, truncated=False, wall_s=0.0)
